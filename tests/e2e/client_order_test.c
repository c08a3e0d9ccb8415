/* What the order of a store's own calls promises, under load and with little credit. */
#include "tests/e2e/client_store.h"

#include <kvstore/kvstore.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LETTERS 26
#define LETTER_ELEMENTS ((uint64_t)300000) /* two parts; 1.2 MB */
#define SMALL_KEYS 2000

static const char *program;

static kv_store *join(const kvs_test_server *server, const char *type, const kv_options *options)
{
    char error[256];
    kv_store *kv = NULL;
    if (kv_create(type, kvs_test_server_address(server), options, &kv, error, sizeof error) != 0) {
        fail_msg("%s", error);
    }
    return kv;
}

static void fill(float *to, uint64_t count, float value)
{
    for (uint64_t i = 0; i < count; i++) {
        to[i] = value;
    }
}

/* ------------------------------------------------------------------ own round */

static void pull_after_own_push_sees_that_push_ten_thousand_times(void **state)
{
    (void)state;
    kvs_test_server *server = kvs_test_server_open(program, NULL);
    kv_store *kv = join(server, "dist_sync", NULL);
    const uint64_t shape = 3;
    float value[3] = {0};
    float got[3] = {0};
    kv_key key = {.name = "w"};
    kv_array in = {value, KV_F32, 1, &shape};
    kv_array out = {got, KV_F32, 1, &shape};
    ok(kv, kv_init(kv, &key, &in, 1));
    for (int i = 1; i <= 10000; i++) {
        kv_handle *handle = NULL;
        fill(value, 3, (float)i);
        ok(kv, kv_push(kv, &key, &in, NULL, 1, 0, 0, NULL));
        ok(kv, kv_pull(kv, &key, &out, NULL, 1, 0, &handle));
        ok(kv, kv_handle_wait(kv, handle, KV_FOREVER));
        assert_float_equal(got[2], (float)i, 0);
    }
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

static void pulls_that_are_not_waited_for_see_the_pushes_before_them(void **state)
{
    (void)state;
    enum { ROUNDS = 500 };
    kvs_test_server *server = kvs_test_server_open(program, NULL);
    kv_store *kv = join(server, "dist_sync", NULL);
    const uint64_t shape = 5;
    static float got[ROUNDS][5];
    float value[5] = {0};
    kv_key key = {.name = "w"};
    kv_array in = {value, KV_F32, 1, &shape};
    ok(kv, kv_init(kv, &key, &in, 1));
    ok(kv, kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": -1.0}"));
    fill(value, 5, 1);
    for (int i = 0; i < ROUNDS; i++) {
        kv_array out = {got[i], KV_F32, 1, &shape};
        /* Higher and higher: priority must not change the order within a key. */
        ok(kv, kv_push(kv, &key, &in, NULL, 1, i, 0, NULL));
        ok(kv, kv_pull(kv, &key, &out, NULL, 1, 1000 - i, NULL));
    }
    ok(kv, kv_wait(kv, KV_FOREVER));
    for (int i = 0; i < ROUNDS; i++) {
        /* At least its own push; later ones may have come as well. */
        assert_true(got[i][4] >= (float)(i + 1));
        assert_true(got[i][4] <= (float)ROUNDS);
    }
    assert_float_equal(got[ROUNDS - 1][0], (float)ROUNDS, 0);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* ------------------------------------------------------------------ little credit */

typedef struct letters_worker {
    kv_store *kv;
    bool backwards;
    kv_status status;
    float sum;
} letters_worker;

static void letter_key(int letter, char *name, kv_key *key)
{
    name[0] = (char)('A' + letter);
    name[1] = '\0';
    *key = (kv_key){.name = name};
}

static void *push_letters(void *context)
{
    letters_worker *worker = context;
    float *value = malloc(LETTER_ELEMENTS * sizeof(float));
    float *got = calloc(LETTER_ELEMENTS, sizeof(float));
    kv_array in = {value, KV_F32, 1, &(const uint64_t){LETTER_ELEMENTS}};
    kv_array out = {got, KV_F32, 1, &(const uint64_t){LETTER_ELEMENTS}};
    char name[2];
    kv_key key;
    fill(value, LETTER_ELEMENTS, worker->backwards ? 2 : 1);
    for (int i = 0; i < LETTERS && worker->status == 0; i++) {
        letter_key(worker->backwards ? LETTERS - 1 - i : i, name, &key);
        worker->status = kv_push(worker->kv, &key, &in, NULL, 1, 0, KV_BORROW, NULL);
    }
    if (worker->status == 0) {
        worker->status = kv_pull(worker->kv, &key, &out, NULL, 1, 0, NULL);
    }
    if (worker->status == 0) {
        worker->status = kv_wait(worker->kv, KV_FOREVER);
    }
    worker->sum = got[LETTER_ELEMENTS - 1];
    free(value);
    free(got);
    return NULL;
}

static void *init_letters(void *context)
{
    letters_worker *worker = context;
    float *value = calloc(LETTER_ELEMENTS, sizeof(float));
    kv_array in = {value, KV_F32, 1, &(const uint64_t){LETTER_ELEMENTS}};
    char name[2];
    for (int i = 0; i < LETTERS && worker->status == 0; i++) {
        kv_key key;
        letter_key(i, name, &key);
        worker->status = kv_init(worker->kv, &key, &in, 1);
    }
    free(value);
    return NULL;
}

static void on_both(letters_worker *workers, void *(*run)(void *))
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, run, &workers[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        (void)pthread_join(threads[i], NULL);
        ok(workers[i].kv, workers[i].status);
    }
}

static void workers_that_push_in_opposite_orders_finish(void **state)
{
    (void)state;
    const char *arguments[] = {"--num-workers", "2", "--credit", "4MiB", NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_options options;
    kv_options_init(&options);
    letters_worker workers[2] = {{.backwards = false}, {.backwards = true}};
    for (int i = 0; i < 2; i++) {
        options.rank = i;
        options.credit_bytes = i == 0 ? 0 : 2 << 20; /* the model has 31 MB */
        workers[i].kv = join(server, "dist_sync", &options);
    }
    on_both(workers, init_letters);
    on_both(workers, push_letters);
    assert_float_equal(workers[0].sum, 3, 0);
    assert_float_equal(workers[1].sum, 3, 0);
    assert_int_equal(kv_close(workers[0].kv), 0);
    assert_int_equal(kv_close(workers[1].kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* Three rounds at once, the first workers' keys and the last ones' in opposite priorities. */
static void *push_ahead(void *context)
{
    letters_worker *worker = context;
    float *value = malloc(LETTER_ELEMENTS * sizeof(float));
    float *got = calloc(LETTER_ELEMENTS, sizeof(float));
    kv_array in = {value, KV_F32, 1, &(const uint64_t){LETTER_ELEMENTS}};
    kv_array out = {got, KV_F32, 1, &(const uint64_t){LETTER_ELEMENTS}};
    char name[2];
    kv_key key;
    fill(value, LETTER_ELEMENTS, worker->backwards ? 2 : 1);
    for (int i = 0; i < 3 * LETTERS && worker->status == 0; i++) {
        int letter = i % LETTERS;
        int priority = worker->backwards ? letter : -letter;
        letter_key(letter, name, &key);
        worker->status = kv_push(worker->kv, &key, &in, NULL, 1, priority, KV_BORROW, NULL);
    }
    if (worker->status == 0) {
        worker->status = kv_pull(worker->kv, &key, &out, NULL, 1, 0, NULL);
    }
    if (worker->status == 0) {
        worker->status = kv_wait(worker->kv, KV_FOREVER);
    }
    worker->sum = got[LETTER_ELEMENTS - 1];
    free(value);
    free(got);
    return NULL;
}

static void rounds_ahead_leave_the_credit_to_those_before_them(void **state)
{
    (void)state;
    const char *arguments[] = {"--num-workers", "2", "--round-deadline", "20s", NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_options options;
    kv_options_init(&options);
    options.credit_bytes = 2 << 20;
    letters_worker workers[2] = {{.backwards = false}, {.backwards = true}};
    for (int i = 0; i < 2; i++) {
        options.rank = i;
        workers[i].kv = join(server, "dist_sync", &options);
    }
    on_both(workers, init_letters);
    on_both(workers, push_ahead);
    assert_float_equal(workers[0].sum, 3, 0);
    assert_float_equal(workers[1].sum, 3, 0);
    assert_int_equal(kv_close(workers[0].kv), 0);
    assert_int_equal(kv_close(workers[1].kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* ------------------------------------------------------------------ many keys */

static void a_list_of_many_small_keys_takes_few_frames(void **state)
{
    (void)state;
    enum { ELEMENTS = 16 };
    kvs_test_server *server = kvs_test_server_open(program, NULL);
    kv_store *kv = join(server, "dist_sync", NULL);
    static kv_key keys[SMALL_KEYS];
    static kv_array values[SMALL_KEYS], outs[SMALL_KEYS];
    static float in[SMALL_KEYS][ELEMENTS], out[SMALL_KEYS][ELEMENTS];
    const uint64_t shape[2] = {4, 4};
    for (int i = 0; i < SMALL_KEYS; i++) {
        keys[i] = (kv_key){.number = i};
        values[i] = (kv_array){in[i], KV_F32, 2, shape};
        outs[i] = (kv_array){out[i], KV_F32, 2, shape};
        fill(in[i], ELEMENTS, (float)i);
    }
    ok(kv, kv_init(kv, keys, values, SMALL_KEYS));
    kv_statistics before, after;
    kv_count(kv, &before);
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < SMALL_KEYS; i++) {
            fill(in[i], ELEMENTS, (float)(i + round));
        }
        ok(kv, kv_push(kv, keys, values, NULL, SMALL_KEYS, 0, round == 2 ? KV_BORROW : 0, NULL));
        ok(kv, kv_pull(kv, keys, outs, NULL, SMALL_KEYS, 0, NULL));
        ok(kv, kv_wait(kv, KV_FOREVER));
        for (int i = 0; i < SMALL_KEYS; i++) {
            assert_float_equal(out[i][ELEMENTS - 1], (float)(i + round), 0);
        }
    }
    kv_count(kv, &after);
    assert_int_equal(after.parts_pushed - before.parts_pushed, 3 * SMALL_KEYS);
    assert_in_range(after.messages_sent - before.messages_sent, 3, 60);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

static void values_of_any_size_come_back_whole(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0, 1, 7, 4096, 262143, 262144, 262145, 1000003};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    kvs_test_server *server = kvs_test_server_open(program, NULL);
    kv_store *kv = join(server, "dist_sync", NULL);
    kv_key keys[COUNT];
    kv_array values[COUNT], outs[COUNT];
    for (int i = 0; i < COUNT; i++) {
        float *in = malloc((sizes[i] + 1) * sizeof(float));
        for (uint64_t e = 0; e < sizes[i]; e++) {
            in[e] = (float)(e % 1000) + (float)i;
        }
        keys[i] = (kv_key){.number = i};
        values[i] = (kv_array){in, KV_F32, 1, &sizes[i]};
        outs[i] = (kv_array){calloc(sizes[i] + 1, sizeof(float)), KV_F32, 1, &sizes[i]};
    }
    ok(kv, kv_init(kv, keys, values, COUNT));
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1) {
            for (int i = 0; i < COUNT; i++) {
                fill(outs[i].data, sizes[i], -1);
                fill(values[i].data, sizes[i], (float)(10 + i));
            }
            ok(kv, kv_pushpull(kv, keys, values, NULL, outs, NULL, COUNT, 0, KV_BORROW, NULL));
        } else {
            ok(kv, kv_pull(kv, keys, outs, NULL, COUNT, 0, NULL));
        }
        ok(kv, kv_wait(kv, KV_FOREVER));
        for (int i = 0; i < COUNT; i++) {
            assert_memory_equal(outs[i].data, values[i].data, sizes[i] * sizeof(float));
        }
    }
    for (int i = 0; i < COUNT; i++) {
        free(values[i].data);
        free(outs[i].data);
    }
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* ------------------------------------------------------------------ threads */

typedef struct pushing_thread {
    kv_store *kv;
    int64_t key;
    kv_status status;
} pushing_thread;

static void *push_one_hundred_times(void *context)
{
    pushing_thread *self = context;
    const uint64_t shape = 100;
    float ones[100];
    float got[100];
    fill(ones, 100, 1);
    kv_array in = {ones, KV_F32, 1, &shape};
    kv_array out = {got, KV_F32, 1, &shape};
    kv_key keys[2] = {{.number = self->key}, {.number = 99}};
    kv_array both[2] = {in, in};
    for (int i = 0; i < 100 && self->status == 0; i++) {
        kv_handle *handle = NULL;
        self->status = kv_push(self->kv, keys, both, NULL, 2, i % 3, 0, NULL);
        if (self->status == 0) {
            self->status = kv_pull(self->kv, keys, &out, NULL, 1, 0, &handle);
        }
        if (self->status == 0) {
            self->status = kv_handle_wait(self->kv, handle, KV_FOREVER);
        }
        if (self->status == 0 && got[0] != (float)(i + 1)) {
            self->status = -1;
        }
    }
    return NULL;
}

static void threads_that_share_a_store_do_not_disturb_each_other(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    kvs_test_server *server = kvs_test_server_open(program, NULL);
    kv_store *kv = join(server, "dist_sync", NULL);
    const uint64_t shape = 100;
    float zeros[100] = {0};
    float got[100];
    pthread_t threads[THREADS];
    pushing_thread pushing[THREADS];
    kv_array in = {zeros, KV_F32, 1, &shape};
    kv_array out = {got, KV_F32, 1, &shape};
    kv_key shared = {.number = 99};
    ok(kv, kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": -1.0}"));
    ok(kv, kv_init(kv, &shared, &in, 1));
    for (int i = 0; i < THREADS; i++) {
        kv_key key = {.number = i};
        ok(kv, kv_init(kv, &key, &in, 1));
        pushing[i] = (pushing_thread){.kv = kv, .key = i};
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, push_one_hundred_times, &pushing[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_int_equal(pushing[i].status, 0);
    }
    ok(kv, kv_pull(kv, &shared, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_float_equal(got[7], 100 * THREADS, 0);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* ------------------------------------------------------------------ other stores */

static void an_asynchronous_store_needs_an_optimizer(void **state)
{
    (void)state;
    const char *arguments[] = {"--store-type", "dist_async", NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_store *kv = join(server, "dist_async", NULL);
    const uint64_t shape = 3;
    float ones[3] = {1, 1, 1};
    float got[3] = {0};
    kv_key key = {.name = "w"};
    kv_array in = {ones, KV_F32, 1, &shape};
    kv_array out = {got, KV_F32, 1, &shape};
    ok(kv, kv_init(kv, &key, &in, 1));
    ok(kv, kv_push(kv, &key, &in, NULL, 1, 0, 0, NULL));
    assert_string_equal(kv_status_reason(kv_wait(kv, KV_FOREVER)), "OPTIMIZER_NOT_SET");
    ok(kv, kv_wait(kv, KV_FOREVER)); /* a failure is told once */
    ok(kv, kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": 0.25}"));
    ok(kv, kv_push(kv, &key, &in, NULL, 1, 0, 0, NULL));
    ok(kv, kv_pull(kv, &key, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_float_equal(got[1], 0.75f, 0);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

static void a_unix_socket_is_an_address_as_well(void **state)
{
    (void)state;
    char path[64];
    char address[80];
    char error[256];
    (void)snprintf(path, sizeof path, "/tmp/kvs-client-test-%ld.sock", (long)getpid());
    (void)snprintf(address, sizeof address, "unix:%s", path);
    const char *arguments[] = {"--unix-socket", path, NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_store *kv = NULL;
    assert_int_equal(kv_create("dist_sync", address, NULL, &kv, error, sizeof error), 0);
    const uint64_t shape = 2;
    float twos[2] = {2, 2};
    float got[2] = {0};
    kv_key key = {.name = "w"};
    kv_array in = {twos, KV_F32, 1, &shape};
    kv_array out = {got, KV_F32, 1, &shape};
    ok(kv, kv_broadcast(kv, &key, &in, &out, NULL, 1));
    assert_float_equal(got[1], 2, 0);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pull_after_own_push_sees_that_push_ten_thousand_times),
        cmocka_unit_test(pulls_that_are_not_waited_for_see_the_pushes_before_them),
        cmocka_unit_test(workers_that_push_in_opposite_orders_finish),
        cmocka_unit_test(rounds_ahead_leave_the_credit_to_those_before_them),
        cmocka_unit_test(a_list_of_many_small_keys_takes_few_frames),
        cmocka_unit_test(values_of_any_size_come_back_whole),
        cmocka_unit_test(threads_that_share_a_store_do_not_disturb_each_other),
        cmocka_unit_test(an_asynchronous_store_needs_an_optimizer),
        cmocka_unit_test(a_unix_socket_is_an_address_as_well),
    };
    if (argc < 2) {
        print_error("usage: %s KVSTORED\n", argv[0]);
        return 2;
    }
    program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
