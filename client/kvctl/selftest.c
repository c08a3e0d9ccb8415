/* kvctl selftest: push and pull end to end through both planes, in a store of its own. */
#include "base/limits.h"
#include "client/kvctl/http.h"

#include <kvstore/kvstore.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Two parts and a bit, so that cutting and joining is tried. */
#define LARGE_ELEMENTS ((uint64_t)(2 * KVS_PART_ELEMENTS + 1000))
#define SMALL_ELEMENTS ((uint64_t)3)

/* One run. */
typedef struct selftest {
    const kvs_ctl *ctl;
    char store[64];
    kv_store *kv;
    float *sent;
    float *received;
    bool json;
    json_t *results;
} selftest;

/* One line a step; gives `good`. */
static bool tell(selftest *t, const char *step, bool good, const char *why)
{
    if (t->json) {
        (void)json_array_append_new(
            t->results, json_pack("{s:s, s:b, s:s}", "step", step, "ok", good, "detail", why));
    } else {
        (void)printf("%-4s %s%s%s\n", good ? "ok" : "FAIL", step, *why != '\0' ? ": " : "", why);
    }
    return good;
}

static bool tell_status(selftest *t, const char *step, kv_status status)
{
    char why[320] = "";
    if (status != 0) {
        (void)snprintf(why, sizeof why, "%s: %s", kv_status_reason(status), kv_last_error(t->kv));
    }
    return tell(t, step, status == 0, why);
}

static bool tell_values(selftest *t, const char *step, uint64_t elements, float scale)
{
    char why[128] = "";
    for (uint64_t i = 0; i < elements; i++) {
        if (t->received[i] != scale * t->sent[i]) {
            (void)snprintf(why, sizeof why, "element %" PRIu64 " is %g, not %g", i,
                           (double)t->received[i], (double)(scale * t->sent[i]));
            return tell(t, step, false, why);
        }
    }
    return tell(t, step, true, why);
}

static bool create_store(selftest *t)
{
    char body[256];
    kvs_http_reply reply = {0};
    (void)snprintf(body, sizeof body,
                   "{\"name\": \"%s\", \"type\": \"dist_sync\", \"num_workers\": 1}", t->store);
    const kvs_http_request request = {.method = "POST",
                                      .path = "/v1/stores",
                                      .content_type = "application/json",
                                      .body = body,
                                      .body_bytes = strlen(body)};
    const kvs_exit code = kvs_http_call(t->ctl, &request, &reply);
    kvs_http_reply_deinit(&reply);
    return tell(t, "a store of its own is created over REST", code == KVS_EXIT_DONE, "");
}

static bool join(selftest *t)
{
    kv_options options;
    char error[256] = "";
    kv_options_init(&options);
    options.store = t->store;
    options.worker = "kvctl selftest";
    options.connect_timeout_ms = (uint64_t)t->ctl->timeout_seconds * 1000;
    options.request_timeout_ms = (uint64_t)t->ctl->timeout_seconds * 1000;
    const kv_status status =
        kv_create("dist_sync", t->ctl->grpc_endpoint, &options, &t->kv, error, sizeof error);
    return tell(t, "a worker registers over gRPC", status == 0, error);
}

/* Pushes `sent`, with what the store then must hold: `scale` times it. */
static bool push_and_pull(selftest *t, const char *name, uint64_t elements)
{
    const kv_key key = {.name = name};
    const kv_array sent = {t->sent, KV_F32, 1, &elements};
    const kv_array received = {t->received, KV_F32, 1, &elements};
    char step[96];
    (void)snprintf(step, sizeof step, "%" PRIu64 " elements are pushed", elements);
    kv_status status = kv_push(t->kv, &key, &sent, NULL, 1, 0, 0, NULL);
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    if (!tell_status(t, step, status)) {
        return false;
    }
    memset(t->received, 0, elements * sizeof(float));
    status = kv_pull(t->kv, &key, &received, NULL, 1, 0, NULL);
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    return status == 0 ? tell_values(t, "and come back the same", elements, 1)
                       : tell_status(t, "and come back", status);
}

/* The rule "test" adds what is pushed: what was 1 x is then 2 x. */
static bool try_optimizer(selftest *t, const char *name, uint64_t elements)
{
    const kv_key key = {.name = name};
    const kv_array sent = {t->sent, KV_F32, 1, &elements};
    const kv_array received = {t->received, KV_F32, 1, &elements};
    if (!tell_status(t, "an optimizer is set",
                     kv_set_optimizer(t->kv, "{\"name\": \"test\", \"rescale_grad\": 1.0}"))) {
        return false;
    }
    memset(t->received, 0, elements * sizeof(float));
    kv_status status = kv_pushpull(t->kv, &key, &sent, NULL, &received, NULL, 1, 0, 0, NULL);
    if (status == 0) {
        status = kv_wait(t->kv, KV_FOREVER);
    }
    return status == 0 ? tell_values(t, "pushpull gives what it made", elements, 2)
                       : tell_status(t, "pushpull", status);
}

static bool read_by_rest(selftest *t, const char *name, uint64_t elements)
{
    kvs_ctl ctl = *t->ctl;
    char path[KVS_HTTP_PATH_BYTES];
    kvs_http_reply reply = {0};
    ctl.store = t->store;
    kvs_exit code = kvs_http_path(&ctl, path, "/keys/{}/value?format=raw", name);
    if (code == KVS_EXIT_DONE) {
        const kvs_http_request request = {.method = "GET", .path = path, .accept = "*/*"};
        code = kvs_http_call(&ctl, &request, &reply);
    }
    const bool whole = code == KVS_EXIT_DONE && reply.body_bytes == elements * sizeof(float);
    if (whole) {
        memcpy(t->received, reply.body, reply.body_bytes);
    }
    kvs_http_reply_deinit(&reply);
    return whole ? tell_values(t, "REST reads the same bytes", elements, 2)
                 : tell(t, "REST reads the value", false, "it is not whole");
}

static bool run_steps(selftest *t)
{
    const kv_key keys[] = {{.name = "large"}, {.name = "small"}};
    const uint64_t large = LARGE_ELEMENTS;
    const uint64_t small = SMALL_ELEMENTS;
    const kv_array zeros[] = {{t->received, KV_F32, 1, &large}, {t->received, KV_F32, 1, &small}};
    memset(t->received, 0, large * sizeof(float));
    return join(t) && tell_status(t, "two keys are made", kv_init(t->kv, keys, zeros, 2)) &&
           push_and_pull(t, "large", large) && push_and_pull(t, "small", small) &&
           try_optimizer(t, "large", large) && read_by_rest(t, "large", large);
}

static bool delete_store(selftest *t)
{
    char path[128];
    kvs_http_reply reply = {0};
    (void)snprintf(path, sizeof path, "/v1/stores/%s", t->store);
    const kvs_http_request request = {.method = "DELETE", .path = path};
    const kvs_exit code = kvs_http_call(t->ctl, &request, &reply);
    kvs_http_reply_deinit(&reply);
    return tell(t, "the store is deleted", code == KVS_EXIT_DONE, "");
}

kvs_exit kvs_ctl_selftest(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    (void)words;
    kvs_exit code = KVS_EXIT_DONE;
    selftest t = {.ctl = ctl, .json = kvs_ctl_wants_json(ctl, &code), .results = json_array()};
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)snprintf(t.store, sizeof t.store, "selftest-%ld-%lx", (long)getpid(),
                   (unsigned long)now.tv_nsec);
    t.sent = malloc(LARGE_ELEMENTS * sizeof(float));
    t.received = malloc(LARGE_ELEMENTS * sizeof(float));
    if (code == KVS_EXIT_DONE && (t.sent == NULL || t.received == NULL)) {
        code = kvs_ctl_fail(KVS_EXIT_LOCAL, "Free some memory.", "no memory");
    }
    for (uint64_t i = 0; code == KVS_EXIT_DONE && i < LARGE_ELEMENTS; i++) {
        t.sent[i] = 0.5f + (float)(i % 1021);
    }
    if (code == KVS_EXIT_DONE) {
        bool good = create_store(&t);
        if (good) {
            good = run_steps(&t);
            (void)kv_close(t.kv);
            good = delete_store(&t) && good;
        }
        code = good ? KVS_EXIT_DONE : KVS_EXIT_REFUSED;
        if (!good) {
            (void)kvs_ctl_fail(code, "Name both addresses: --endpoint and --grpc-endpoint.",
                               "the selftest failed");
        }
    }
    if (t.json) {
        (void)kvs_ctl_print_json(t.results);
    }
    free(t.sent);
    free(t.received);
    json_decref(t.results);
    return code;
}
