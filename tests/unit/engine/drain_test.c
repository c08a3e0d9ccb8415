/* A server that stops: what waits for a rank without a session is refused, the rest goes on. */
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PARTS 3u

static const float zeros[10];
static const float ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* Two ranks; the second has never come, or has left: as `left` says, or is there: `live`. */
static void open_store(fixture *f, kvs_policy policy, const char *rule, bool live, bool left)
{
    fixture_open(f,
                 &(fixture_options){
                     .type = "dist_sync", .num_workers = 2, .policy = policy, .part_elements = 4});
    (void)fixture_join(f, 0);
    if (live || left) {
        (void)fixture_join(f, 1);
    }
    fixture_init(f, "w", zeros, 10);
    if (rule != NULL) {
        fixture_optimizer(f, rule);
    }
    if (left) {
        kvs_session_leave(f->workers[1]->session, f->now_ns);
    }
}

static void drain(fixture *f)
{
    kvs_engine_drain(f->engine);
    fixture_tick(f, 100 * KVS_MS);
}

static void check(fixture_worker *worker, uint64_t first, kvs_status status)
{
    for (uint64_t i = 0; i < PARTS; i++) {
        assert_int_equal(fixture_status(worker, first + i), status);
        if (status == KVS_STOPPING) {
            assert_non_null(strstr(fixture_answer_of(worker, first + i)->detail, "missing rank 1"));
        }
    }
}

static void a_round_that_cannot_close_is_refused_and_names_the_rank(void **state)
{
    static const char *const rules[] = {NULL, "{\"name\": \"sgd\"}", "{\"name\": \"lars\"}"};
    (void)state;
    for (size_t r = 0; r < sizeof rules / sizeof rules[0]; r++) {
        for (int policy = KVS_POLICY_FAIL; policy <= KVS_POLICY_WAIT; policy++) {
            for (int left = 0; left < (policy == KVS_POLICY_WAIT ? 2 : 1); left++) {
                fixture f;
                open_store(&f, (kvs_policy)policy, rules[r], false, left != 0);
                fixture_worker *worker = f.workers[0];
                uint64_t first = fixture_push(worker, "w", ones, 10, 0, false);
                uint64_t next = fixture_push(worker, "w", ones, 10, first + PARTS - 1, false);
                kvs_pull_key later = {.key = "w",
                                      .key_bytes = 1,
                                      .sequence = worker->sequence++,
                                      .min_version = {.epoch = 7, .count = 9}};
                fixture_pull_keys(worker, &later, 1);
                fixture_tick(&f, KVS_SECOND);
                check(worker, first, KVS_STATUS_COUNT); /* nobody has said that it stops */
                assert_int_equal(fixture_status(worker, later.sequence), KVS_STATUS_COUNT);
                drain(&f);
                fixture_tick(&f, 100 * KVS_MS);
                check(worker, first, KVS_STOPPING);
                check(worker, next, KVS_STOPPING);
                assert_int_equal(fixture_status(worker, later.sequence), KVS_STOPPING);
                next = fixture_push(worker, "w", ones, 10, next + PARTS - 1, false);
                fixture_tick(&f, 100 * KVS_MS); /* what still comes */
                check(worker, next, KVS_STOPPING);
                fixture_close(&f);
            }
        }
    }
}

static void a_round_of_ranks_that_are_there_goes_on(void **state)
{
    fixture f;
    (void)state;
    open_store(&f, KVS_POLICY_WAIT, NULL, true, false);
    uint64_t first = fixture_push(f.workers[0], "w", ones, 10, 0, false);
    uint64_t pull = fixture_pull(f.workers[0], "w", first + PARTS - 1);
    drain(&f);
    fixture_tick(&f, KVS_SECOND);
    check(f.workers[0], first, KVS_STATUS_COUNT);
    assert_int_equal(fixture_status(f.workers[0], pull), KVS_STATUS_COUNT);
    check(f.workers[1], fixture_push(f.workers[1], "w", ones, 10, 0, false), KVS_OK);
    check(f.workers[0], first, KVS_OK);
    assert_int_equal(fixture_status(f.workers[0], pull), KVS_OK);
    assert_float_equal(f.workers[0]->value[9], 2.0f, 0.0f);
    fixture_close(&f);
}

/* Its push counts; only the round after it cannot close. */
static void a_round_whose_missing_rank_has_pushed_goes_on(void **state)
{
    fixture f;
    (void)state;
    open_store(&f, KVS_POLICY_WAIT, NULL, true, false);
    (void)fixture_push(f.workers[1], "w", ones, 10, 0, false);
    kvs_session_leave(f.workers[1]->session, f.now_ns);
    drain(&f);
    uint64_t first = fixture_push(f.workers[0], "w", ones, 10, 0, false);
    check(f.workers[0], first, KVS_OK);
    first = fixture_push(f.workers[0], "w", ones, 10, first + PARTS - 1, false);
    fixture_tick(&f, 100 * KVS_MS);
    check(f.workers[0], first, KVS_STOPPING);
    fixture_close(&f);
}

static void a_barrier_and_an_init_without_a_rank_end(void **state)
{
    (void)state;
    for (int there = 0; there < 2; there++) {
        fixture f;
        fixture_wait entered, given;
        kvs_barrier_result result;
        kvs_init *init = NULL;
        kvs_problem problem;
        uint8_t packed[16];
        kvs_shape shape = {.rank = 1, .size = {4}};
        kvs_part_header header = {.key = "k",
                                  .key_bytes = 1,
                                  .dtype = KVS_F32,
                                  .has_shape = true,
                                  .shape = packed,
                                  .shape_bytes = kvs_shape_pack(&shape, packed),
                                  .element_count = 4};
        kvs_payload none = {0};
        fixture_open(&f, &(fixture_options){.type = "dist_sync", .num_workers = 2});
        fixture_worker *worker = fixture_join(&f, 1);
        if (there != 0) {
            (void)fixture_join(&f, 0);
        }
        fixture_wait_begin(&entered, 0);
        kvs_barrier_enter(f.store, 1, "", &result, &entered.waiter, f.now_ns);
        assert_int_equal(kvs_init_open(f.store, worker->session, &init, &problem), KVS_OK);
        assert_int_equal(kvs_init_part(init, &header, &none, &problem), KVS_OK);
        fixture_wait_begin(&given, 0);
        kvs_init_commit(init, &given.waiter, f.now_ns);
        drain(&f);
        assert_int_equal(entered.calls, 1 - there);
        assert_int_equal(given.calls, 1 - there);
        if (there == 0) {
            assert_int_equal(entered.problem.status, KVS_STOPPING);
            assert_non_null(strstr(entered.problem.detail, "missing ranks: 0"));
            assert_int_equal(given.problem.status, KVS_STOPPING);
            assert_non_null(strstr(given.problem.detail, "rank 0 has not initialised \"k\""));
        } else {
            assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, &problem), KVS_OK);
        }
        kvs_init_close(init);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_round_that_cannot_close_is_refused_and_names_the_rank),
        cmocka_unit_test(a_round_of_ranks_that_are_there_goes_on),
        cmocka_unit_test(a_round_whose_missing_rank_has_pushed_goes_on),
        cmocka_unit_test(a_barrier_and_an_init_without_a_rank_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
