/* Push and pull in ten lines: in this process, or at a server.
 *
 *     push_pull                        the embedded store
 *     push_pull 127.0.0.1:9400         the store "default" of a running kvstored
 */
#include <kvstore/kvstore.h>
#include <stdio.h>

static int fail(const char *what, const char *why)
{
    (void)fprintf(stderr, "push_pull: %s: %s\n", what, why);
    return 1;
}

int main(int argc, char **argv)
{
    char error[256];
    kv_store *kv = NULL;
    const char *address = argc > 1 ? argv[1] : NULL;
    if (kv_create(address ? "dist_sync" : "local", address, NULL, &kv, error, sizeof error) != 0) {
        return fail("create", error);
    }

    const uint64_t shape[] = {2, 3};
    float ones[6] = {1, 1, 1, 1, 1, 1};
    float weights[6] = {0};
    kv_key key = {.name = "w"};
    kv_array gradient = {ones, KV_F32, 2, shape};
    kv_array out = {weights, KV_F32, 2, shape};

    kv_init(kv, &key, &gradient, 1);
    kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": 0.5}");
    kv_push(kv, &key, &gradient, NULL, 1, 0, 0, NULL);
    kv_pull(kv, &key, &out, NULL, 1, 0, NULL);
    if (kv_wait(kv, KV_FOREVER) != 0) {
        int code = fail("wait", kv_last_error(kv));
        kv_close(kv);
        return code;
    }
    (void)printf("%s: w is now %g everywhere\n", kv_type(kv), (double)weights[5]);
    return kv_close(kv);
}
