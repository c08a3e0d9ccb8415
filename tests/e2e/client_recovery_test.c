/* What becomes of calls when the way to the server, the server or another worker goes away. */
#include "base/clock.h"
#include "base/limits.h"
#include "tests/e2e/client_proxy.h"
#include "tests/e2e/client_store.h"

#include <kvstore/kvstore.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNTING "{\"name\": \"sgd\", \"learning_rate\": -1.0}"
#define LARGE ((uint64_t)600000) /* three parts */

static const char *program;

typedef struct test_fixture {
    kvs_test_server *server;
    kvs_test_proxy *proxy; /* of the first worker */
    kv_store *kv;          /* goes through the proxy */
} test_fixture;

static kv_store *join(const char *address, int64_t rank, uint64_t request_timeout_ms)
{
    char error[256];
    kv_store *kv = NULL;
    kv_options options;
    kv_options_init(&options);
    options.rank = rank;
    options.request_timeout_ms = request_timeout_ms;
    if (kv_create("dist_sync", address, &options, &kv, error, sizeof error) != 0) {
        fail_msg("%s", error);
    }
    return kv;
}

static test_fixture begin(const char *const *arguments, uint64_t request_timeout_ms)
{
    test_fixture made = {.server = kvs_test_server_open(program, arguments)};
    made.proxy = kvs_test_proxy_open(kvs_test_server_port(made.server));
    made.kv = join(kvs_test_proxy_address(made.proxy), 0, request_timeout_ms);
    return made;
}

static void end(test_fixture *fixture)
{
    (void)kv_close(fixture->kv);
    kvs_test_proxy_close(fixture->proxy);
    (void)kvs_test_server_close(fixture->server);
}

static void refused(kv_store *kv, kv_status status, const char *reason, const char *words)
{
    assert_string_equal(kv_status_reason(status), reason);
    if (strstr(kv_last_error(kv), words) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", words, kv_last_error(kv));
    }
}

/* A value and a place to pull it to. */
typedef struct test_tensor {
    kv_key key;
    uint64_t elements;
    float *in;
    float *out;
} test_tensor;

static test_tensor make_tensor(const char *name, uint64_t elements)
{
    test_tensor made = {{.name = name},
                        elements,
                        malloc(elements * sizeof(float)),
                        calloc(elements, sizeof(float))};
    for (uint64_t i = 0; i < elements; i++) {
        made.in[i] = 0;
    }
    return made;
}

static void set_tensor(test_tensor *tensor, float value)
{
    for (uint64_t i = 0; i < tensor->elements; i++) {
        tensor->in[i] = value;
    }
}

static void free_tensor(test_tensor *tensor)
{
    free(tensor->in);
    free(tensor->out);
}

static kv_array in_of(test_tensor *tensor)
{
    return (kv_array){tensor->in, KV_F32, 1, &tensor->elements};
}

static kv_array out_of(test_tensor *tensor)
{
    return (kv_array){tensor->out, KV_F32, 1, &tensor->elements};
}

static void init_tensor(kv_store *kv, test_tensor *tensor)
{
    kv_array in = in_of(tensor);
    ok(kv, kv_init(kv, &tensor->key, &in, 1));
}

static kv_status push_tensor(kv_store *kv, test_tensor *tensor, unsigned flags, kv_handle **handle)
{
    kv_array in = in_of(tensor);
    return kv_push(kv, &tensor->key, &in, NULL, 1, 0, flags, handle);
}

static void assert_pulled(kv_store *kv, test_tensor *tensor, float expected)
{
    kv_array out = out_of(tensor);
    ok(kv, kv_pull(kv, &tensor->key, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    for (uint64_t i = 0; i < tensor->elements; i++) {
        assert_float_equal(tensor->out[i], expected, 0);
    }
}

/* ------------------------------------------------------------------ the way breaks */

typedef struct test_cutter {
    kvs_test_proxy *proxy;
    atomic_bool stop;
} test_cutter;

static void *cut_again_and_again(void *context)
{
    test_cutter *self = context;
    unsigned waits[] = {15000, 40000, 5000, 90000, 25000};
    for (unsigned i = 0; !atomic_load(&self->stop); i++) {
        (void)usleep(waits[i % 5]);
        /* Every other time the last answers are lost on top of it. */
        kvs_test_proxy_lose_replies(self->proxy, i % 2 == 0);
        (void)usleep(3000);
        kvs_test_proxy_cut(self->proxy);
        kvs_test_proxy_lose_replies(self->proxy, false);
    }
    return NULL;
}

static void cuts_lose_and_double_nothing(void **state)
{
    (void)state;
    enum { PUSHES = 240 };
    test_fixture here = begin(NULL, 0);
    test_tensor large = make_tensor("large", LARGE);
    test_tensor small = make_tensor("small", 10);
    pthread_t thread;
    test_cutter cutter = {.proxy = here.proxy};
    init_tensor(here.kv, &large);
    init_tensor(here.kv, &small);
    ok(here.kv, kv_set_optimizer(here.kv, COUNTING));
    set_tensor(&large, 1);
    set_tensor(&small, 1);
    assert_int_equal(pthread_create(&thread, NULL, cut_again_and_again, &cutter), 0);
    for (int i = 0; i < PUSHES; i++) {
        ok(here.kv, push_tensor(here.kv, &small, 0, NULL));
        if (i % 4 == 0) {
            ok(here.kv, push_tensor(here.kv, &large, i % 8 == 0 ? KV_BORROW : 0, NULL));
            ok(here.kv, kv_wait(here.kv, KV_FOREVER));
        }
    }
    atomic_store(&cutter.stop, true);
    (void)pthread_join(thread, NULL);
    assert_pulled(here.kv, &small, PUSHES);
    assert_pulled(here.kv, &large, PUSHES / 4);
    kv_statistics statistics;
    kv_count(here.kv, &statistics);
    assert_true(statistics.reconnects > 0);
    assert_true(statistics.replayed_parts > 0);
    free_tensor(&large);
    free_tensor(&small);
    end(&here);
}

static void a_push_whose_ack_was_lost_counts_once(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 0);
    test_tensor w = make_tensor("w", LARGE);
    init_tensor(here.kv, &w);
    ok(here.kv, kv_set_optimizer(here.kv, COUNTING));
    set_tensor(&w, 1);
    for (int i = 0; i < 5; i++) {
        kvs_test_proxy_lose_replies(here.proxy, true);
        ok(here.kv, push_tensor(here.kv, &w, 0, NULL));
        (void)usleep(50000);
        kvs_test_proxy_cut(here.proxy);
        kvs_test_proxy_lose_replies(here.proxy, false);
        ok(here.kv, kv_wait(here.kv, KV_FOREVER));
    }
    assert_pulled(here.kv, &w, 5);
    free_tensor(&w);
    end(&here);
}

static void a_pushpull_whose_answer_was_lost_gives_the_value(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 0);
    test_tensor w = make_tensor("w", LARGE);
    init_tensor(here.kv, &w);
    ok(here.kv, kv_set_optimizer(here.kv, COUNTING));
    for (int i = 1; i <= 5; i++) {
        kv_handle *handle = NULL;
        kv_array value = in_of(&w);
        set_tensor(&w, 1);
        kvs_test_proxy_lose_replies(here.proxy, true);
        ok(here.kv, kv_pushpull(here.kv, &w.key, &value, NULL, NULL, NULL, 1, 0, 0, &handle));
        (void)usleep(50000);
        kvs_test_proxy_cut(here.proxy);
        kvs_test_proxy_lose_replies(here.proxy, false);
        ok(here.kv, kv_handle_wait(here.kv, handle, KV_FOREVER));
        for (uint64_t e = 0; e < w.elements; e++) {
            assert_float_equal(w.in[e], i, 0);
        }
    }
    free_tensor(&w);
    end(&here);
}

static void calls_wait_for_a_server_that_comes_back(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 0);
    test_tensor w = make_tensor("w", 100);
    init_tensor(here.kv, &w);
    set_tensor(&w, 7);
    kvs_test_proxy_refuse(here.proxy, true);
    kvs_test_proxy_cut(here.proxy);
    ok(here.kv, push_tensor(here.kv, &w, 0, NULL));
    kv_status early = kv_wait(here.kv, 300);
    refused(here.kv, early, "DEADLINE", "cannot be reached");
    kvs_test_proxy_refuse(here.proxy, false);
    assert_pulled(here.kv, &w, 7);
    /* So do calls that are not part of a stream. */
    kvs_test_proxy_cut(here.proxy);
    ok(here.kv, kv_set_optimizer(here.kv, COUNTING));
    free_tensor(&w);
    end(&here);
}

static void a_request_ends_at_its_timeout_and_says_why(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 700);
    test_tensor w = make_tensor("w", 100);
    init_tensor(here.kv, &w);
    kvs_test_proxy_refuse(here.proxy, true);
    kvs_test_proxy_cut(here.proxy);
    kv_handle *handle = NULL;
    ok(here.kv, push_tensor(here.kv, &w, KV_BORROW, &handle));
    uint64_t before = kvs_clock_now_ns();
    kv_status status = kv_handle_wait(here.kv, handle, KV_FOREVER);
    refused(here.kv, status, "DEADLINE", "cannot be reached");
    assert_in_range((kvs_clock_now_ns() - before) / KVS_MS, 500, 2000);
    free_tensor(&w);
    end(&here);
}

static void borrowed_memory_is_the_callers_again_after_a_timeout(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 700);
    test_tensor w = make_tensor("w", LARGE);
    init_tensor(here.kv, &w);
    ok(here.kv, kv_set_optimizer(here.kv, COUNTING));
    set_tensor(&w, 1);
    kvs_test_proxy_lose_requests(here.proxy, true);
    kv_handle *handle = NULL;
    ok(here.kv, push_tensor(here.kv, &w, KV_BORROW, &handle));
    refused(here.kv, kv_handle_wait(here.kv, handle, KV_FOREVER), "DEADLINE", "w");
    set_tensor(&w, 1000);
    kvs_test_proxy_lose_requests(here.proxy, false);
    kvs_test_proxy_cut(here.proxy);
    /* The push was under way: it is sent again, with the bytes that it had. */
    assert_pulled(here.kv, &w, 1);
    free_tensor(&w);
    end(&here);
}

/* ------------------------------------------------------------------ the server goes */

static void pushes_in_flight_are_fenced_when_the_session_is_gone(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 0);
    test_tensor w = make_tensor("w", 100);
    init_tensor(here.kv, &w);
    kv_handle *handle = NULL;
    kvs_test_proxy_lose_replies(here.proxy, true);
    ok(here.kv, push_tensor(here.kv, &w, 0, &handle));
    (void)usleep(100000);
    kvs_test_server_kill(here.server);
    kvs_test_proxy_lose_replies(here.proxy, false);
    kvs_test_server_restart(here.server);
    refused(here.kv, kv_handle_wait(here.kv, handle, KV_FOREVER), "FENCED", "");
    /* Later calls have a new session; what the server has lost is the caller's to give again. */
    set_tensor(&w, 4);
    init_tensor(here.kv, &w);
    assert_pulled(here.kv, &w, 4);
    ok(here.kv, push_tensor(here.kv, &w, 0, NULL));
    assert_pulled(here.kv, &w, 4);
    assert_int_equal(kv_rank(here.kv), 0);
    free_tensor(&w);
    end(&here);
}

static void pulls_in_flight_ask_again_in_a_new_session(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 0);
    test_tensor w = make_tensor("w", 100);
    init_tensor(here.kv, &w);
    kvs_test_server_kill(here.server);
    kv_handle *handle = NULL;
    kv_array out = out_of(&w);
    ok(here.kv, kv_pull(here.kv, &w.key, &out, NULL, 1, 0, &handle));
    kvs_test_server_restart(here.server);
    refused(here.kv, kv_handle_wait(here.kv, handle, KV_FOREVER), "KEY_NOT_FOUND", "w");
    free_tensor(&w);
    end(&here);
}

static void create_gives_up_on_a_server_that_is_not_there(void **state)
{
    (void)state;
    char error[256];
    kv_store *kv = NULL;
    kv_options options;
    kv_options_init(&options);
    options.connect_timeout_ms = 300;
    uint64_t before = kvs_clock_now_ns();
    kv_status status = kv_create("dist_sync", "127.0.0.1:1", &options, &kv, error, sizeof error);
    assert_string_equal(kv_status_reason(status), "UNAVAILABLE");
    assert_null(kv);
    assert_true(kvs_clock_now_ns() - before < 3 * KVS_SECOND);
}

static void create_is_refused_in_the_servers_words(void **state)
{
    (void)state;
    test_fixture here = begin(NULL, 0);
    const char *address = kvs_test_server_address(here.server);
    char error[256];
    kv_store *kv = NULL;
    kv_options options;
    kv_options_init(&options);
    options.store = "other";
    kv_status status = kv_create("dist_sync", address, &options, &kv, error, sizeof error);
    assert_string_equal(kv_status_reason(status), "STORE_NOT_FOUND");
    assert_non_null(strstr(error, "other"));
    status = kv_create("dist_async", address, NULL, &kv, error, sizeof error);
    assert_string_equal(kv_status_reason(status), "STORE_TYPE_MISMATCH");
    status = kv_create("dist_sync", address, NULL, &kv, error, sizeof error);
    assert_string_equal(kv_status_reason(status), "STORE_FULL");
    end(&here);
}

/* ------------------------------------------------------------------ another worker goes */

static const char *const two_workers[] = {"--num-workers", "2", "--lease", "1s", NULL};

typedef struct initialising {
    kv_store *kv;
    test_tensor *tensor;
    kv_status status;
} initialising;

static void *init_in_a_thread(void *context)
{
    initialising *self = context;
    kv_array in = in_of(self->tensor);
    self->status = kv_init(self->kv, &self->tensor->key, &in, 1);
    return NULL;
}

/* Rank 1 begins, rank 0 follows. */
static void init_both(kv_store *first, kv_store *second, test_tensor *tensor)
{
    pthread_t thread;
    initialising other = {.kv = second, .tensor = tensor};
    assert_int_equal(pthread_create(&thread, NULL, init_in_a_thread, &other), 0);
    init_tensor(first, tensor);
    (void)pthread_join(thread, NULL);
    ok(second, other.status);
}

static void a_dead_rank_is_named(void **state)
{
    (void)state;
    test_fixture here = begin(two_workers, 0);
    kv_store *other = join(kvs_test_server_address(here.server), 1, 0);
    test_tensor w = make_tensor("w", LARGE);
    init_both(here.kv, other, &w);
    ok(other, push_tensor(other, &w, 0, NULL));
    /* Rank 0 goes without a word, and is not let in again. */
    kvs_test_proxy_refuse(here.proxy, true);
    kvs_test_proxy_cut(here.proxy);
    uint64_t before = kvs_clock_now_ns();
    refused(other, kv_wait(other, KV_FOREVER), "ROUND_FAILED", "rank 0");
    assert_true(kvs_clock_now_ns() - before < 2 * KVS_SECOND + 500 * KVS_MS);
    assert_pulled(other, &w, 0); /* the state is kept */
    (void)kv_close(other);
    free_tensor(&w);
    end(&here);
}

static void a_worker_that_lost_its_lease_registers_again_with_its_rank(void **state)
{
    (void)state;
    const char *arguments[] = {"--lease", "1s", NULL};
    test_fixture here = begin(arguments, 0);
    test_tensor w = make_tensor("w", 10);
    init_tensor(here.kv, &w);
    set_tensor(&w, 3);
    kvs_test_proxy_refuse(here.proxy, true);
    kvs_test_proxy_cut(here.proxy);
    (void)usleep(2000000);
    /* Nothing was under way: nobody need be told. */
    kvs_test_proxy_refuse(here.proxy, false);
    ok(here.kv, push_tensor(here.kv, &w, 0, NULL));
    assert_pulled(here.kv, &w, 3);
    assert_int_equal(kv_rank(here.kv), 0);
    free_tensor(&w);
    end(&here);
}

static void an_idle_worker_keeps_its_lease(void **state)
{
    (void)state;
    test_fixture here = begin(two_workers, 0);
    test_tensor w = make_tensor("w", 10);
    init_tensor(here.kv, &w);
    (void)usleep(2500000);
    kv_statistics statistics;
    kv_count(here.kv, &statistics);
    assert_int_equal(statistics.reconnects, 0);
    kv_array out = out_of(&w);
    ok(here.kv, kv_pull(here.kv, &w.key, &out, NULL, 1, 0, NULL));
    ok(here.kv, kv_wait(here.kv, KV_FOREVER));
    free_tensor(&w);
    end(&here);
}

static void a_barrier_names_who_is_missing(void **state)
{
    (void)state;
    test_fixture here = begin(two_workers, 0);
    refused(here.kv, kv_barrier(here.kv, 400), "DEADLINE", "waits for rank 1");
    end(&here);
}

static void a_round_that_waits_names_who_is_missing(void **state)
{
    (void)state;
    const char *arguments[] = {"--num-workers",   "2",  "--policy", "wait",
                               "--drain-timeout", "1s", NULL};
    test_fixture here = begin(arguments, 1200);
    kv_store *other = join(kvs_test_server_address(here.server), 1, 0);
    test_tensor w = make_tensor("w", LARGE);
    init_both(here.kv, other, &w);
    kv_handle *handle = NULL;
    ok(here.kv, push_tensor(here.kv, &w, KV_BORROW, &handle));
    /* The caller's own deadline leaves the handle; the request's ends it. */
    kv_status early = kv_handle_wait(here.kv, handle, 600);
    refused(here.kv, early, "DEADLINE", "key w waits for rank 1");
    assert_int_equal(kv_handle_is_done(here.kv, handle), 0);
    /* Ended by the request's timeout in a wait that has one too: the handle is still there. */
    refused(here.kv, kv_handle_wait(here.kv, handle, 60000), "DEADLINE", "waits for rank 1");
    assert_int_equal(kv_handle_is_done(here.kv, handle), 1);
    refused(here.kv, kv_handle_wait(here.kv, handle, KV_FOREVER), "DEADLINE", "waits for rank 1");
    /* A poll tells the two apart: what is over is freed and gone. */
    ok(here.kv, push_tensor(here.kv, &w, KV_BORROW, &handle));
    refused(here.kv, kv_handle_poll(here.kv, &handle, 100), "DEADLINE", "key w is not answered");
    assert_non_null(handle);
    refused(here.kv, kv_handle_poll(here.kv, &handle, 60000), "DEADLINE", "waits for rank 1");
    assert_null(handle);
    (void)kv_close(other);
    free_tensor(&w);
    end(&here);
}

static void init_of_another_rank_names_what_rank_0_has_not_given(void **state)
{
    (void)state;
    test_fixture here = begin(two_workers, 0);
    kv_store *other = join(kvs_test_server_address(here.server), 1, 1500);
    test_tensor w = make_tensor("weights", 10);
    kv_array in = in_of(&w);
    refused(other, kv_init(other, &w.key, &in, 1), "DEADLINE", "weights");
    (void)kv_close(other);
    free_tensor(&w);
    end(&here);
}

static void a_worker_that_leaves_frees_its_rank(void **state)
{
    (void)state;
    test_fixture here = begin(two_workers, 0);
    const char *address = kvs_test_server_address(here.server);
    for (int i = 0; i < 3; i++) {
        kv_store *other = join(address, 1, 0);
        assert_int_equal(kv_rank(other), 1);
        assert_int_equal(kv_num_workers(other), 2);
        assert_int_equal(kv_close(other), 0);
    }
    end(&here);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_lose_and_double_nothing),
        cmocka_unit_test(a_push_whose_ack_was_lost_counts_once),
        cmocka_unit_test(a_pushpull_whose_answer_was_lost_gives_the_value),
        cmocka_unit_test(calls_wait_for_a_server_that_comes_back),
        cmocka_unit_test(a_request_ends_at_its_timeout_and_says_why),
        cmocka_unit_test(borrowed_memory_is_the_callers_again_after_a_timeout),
        cmocka_unit_test(pushes_in_flight_are_fenced_when_the_session_is_gone),
        cmocka_unit_test(pulls_in_flight_ask_again_in_a_new_session),
        cmocka_unit_test(create_gives_up_on_a_server_that_is_not_there),
        cmocka_unit_test(create_is_refused_in_the_servers_words),
        cmocka_unit_test(a_dead_rank_is_named),
        cmocka_unit_test(a_worker_that_lost_its_lease_registers_again_with_its_rank),
        cmocka_unit_test(an_idle_worker_keeps_its_lease),
        cmocka_unit_test(a_barrier_names_who_is_missing),
        cmocka_unit_test(a_round_that_waits_names_who_is_missing),
        cmocka_unit_test(init_of_another_rank_names_what_rank_0_has_not_given),
        cmocka_unit_test(a_worker_that_leaves_frees_its_rank),
    };
    if (argc < 2) {
        print_error("usage: %s KVSTORED\n", argv[0]);
        return 2;
    }
    program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
