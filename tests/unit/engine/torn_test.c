/* Workers that go in the middle of a key: its parts meet all the same. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const float zeros[8];
static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
static const float twos[8] = {2, 2, 2, 2, 2, 2, 2, 2};

typedef struct reading {
    fixture_wait wait;
    kvs_snapshot snapshot;
} reading;

/* A cut of "w" at once, or the test fails. */
static void check_readable(fixture *f, uint64_t count)
{
    reading r;
    fixture_wait_begin(&r.wait, 0);
    kvs_store_read(f->store, "w", 1, &r.snapshot, &r.wait.waiter, f->now_ns);
    assert_int_equal(r.wait.calls, 1);
    assert_int_equal(r.wait.problem.status, KVS_OK);
    assert_int_equal(r.snapshot.info.version.count, count);
    kvs_snapshot_deinit(&r.snapshot);
}

static void open_policy(fixture *f, uint32_t workers, kvs_policy policy)
{
    fixture_open(
        f, &(fixture_options){
               .type = "dist_sync", .num_workers = workers, .part_elements = 4, .policy = policy});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
    fixture_init(f, "w", zeros, 8);
}

static void the_only_worker_may_go_in_the_middle_of_a_key(void **state)
{
    (void)state;
    for (int policy = KVS_POLICY_FAIL; policy <= KVS_POLICY_WAIT; policy++) {
        fixture f;
        open_policy(&f, 1, (kvs_policy)policy);
        (void)fixture_push(f.workers[0], "w", ones, 8, 0, false);
        fixture_push_at(f.workers[0], "w", ones, 4, 3, 2, false); /* half of the second */
        kvs_session_leave(f.workers[0]->session, f.now_ns);
        check_readable(&f, 2);
        fixture_worker *again = fixture_join(&f, 0);
        assert_int_equal(fixture_status(again, fixture_push(again, "w", twos, 8, 0, false)),
                         KVS_OK);
        check_readable(&f, 3);
        fixture_close(&f);
    }
}

/* Rank 0 goes after the first part of its first push and comes back; both push twos and ones. */
static void tear_and_come_back(fixture *f, kvs_policy policy, fixture_worker **a)
{
    open_policy(f, 2, policy);
    fixture_push_at(f->workers[0], "w", ones, 4, 1, 0, false);
    kvs_session_leave(f->workers[0]->session, f->now_ns);
    *a = fixture_join(f, 0);
    (void)fixture_push(*a, "w", twos, 8, 0, false);
    (void)fixture_push(f->workers[1], "w", ones, 8, 0, false);
    check_readable(f, 1);
    /* Neither part of the new push is in the round of the torn one. */
    assert_int_equal(fixture_status(*a, 1), KVS_STATUS_COUNT);
    assert_int_equal(fixture_status(*a, 2), KVS_STATUS_COUNT);
}

static void whoever_comes_back_pushes_to_one_round_of_all_parts(void **state)
{
    (void)state;
    for (int policy = KVS_POLICY_SHRINK; policy <= KVS_POLICY_WAIT; policy++) {
        fixture f;
        fixture_worker *a;
        tear_and_come_back(&f, (kvs_policy)policy, &a);
        fixture_worker *b = f.workers[1];
        assert_int_equal(fixture_status(b, 1), KVS_OK);
        /* Whoever waits has all contributions in a round or none; whoever shrinks goes on. */
        assert_int_equal(fixture_status(b, 2),
                         policy == KVS_POLICY_WAIT ? KVS_ROUND_FAILED : KVS_OK);
        (void)fixture_push(b, "w", ones, 8, 2, false);
        for (uint64_t sequence = 1; sequence <= 2; sequence++) {
            assert_int_equal(fixture_status(a, sequence), KVS_OK);
            assert_int_equal(fixture_status(b, sequence + 2), KVS_OK);
        }
        check_readable(&f, 2);
        (void)fixture_pull(b, "w", 4);
        for (int i = 0; i < 8; i++) {
            assert_true(b->value[i] == 3.0f);
        }
        fixture_close(&f);
    }
}

static void a_failing_store_names_the_rank_at_the_parts_that_it_did_not_reach(void **state)
{
    fixture f;
    (void)state;
    open_policy(&f, 2, KVS_POLICY_FAIL);
    fixture_worker *b = f.workers[1];
    fixture_push_at(f.workers[0], "w", ones, 4, 1, 0, false);
    kvs_session_leave(f.workers[0]->session, f.now_ns);
    (void)fixture_push(b, "w", ones, 8, 0, false);
    assert_int_equal(fixture_status(b, 1), KVS_OK); /* it had both contributions */
    assert_int_equal(fixture_status(b, 2), KVS_ROUND_FAILED);
    assert_non_null(strstr(fixture_answer_of(b, 2)->detail, "missing rank 0"));
    check_readable(&f, 1);
    fixture_worker *a = fixture_join(&f, 0);
    (void)fixture_push(b, "w", ones, 8, 2, false);
    (void)fixture_push(a, "w", twos, 8, 0, false);
    check_readable(&f, 2);
    fixture_close(&f);
}

static void all_turns_that_a_rank_owes_are_made_up_for(void **state)
{
    fixture f;
    (void)state;
    open_policy(&f, 3, KVS_POLICY_SHRINK);
    for (uint64_t round = 1; round <= 3; round++) { /* three rounds of the first part alone */
        for (int i = 0; i < 3; i++) {
            fixture_push_at(f.workers[i], "w", ones, 4, round, round - 1, false);
        }
    }
    kvs_session_leave(f.workers[1]->session, f.now_ns);
    fixture_worker *again = fixture_join(&f, 1);
    (void)fixture_push(again, "w", twos, 8, 0, false);
    for (uint64_t round = 1; round <= 3; round++) {
        for (int i = 0; i < 3; i += 2) {
            fixture_push_tail(f.workers[i], "w", ones, 8, 4, round + 3, round + 2);
        }
    }
    check_readable(&f, 3);
    assert_int_equal(fixture_status(again, 2), KVS_STATUS_COUNT);
    for (int i = 0; i < 3; i += 2) {
        fixture_push_at(f.workers[i], "w", ones, 8, 7, 6, false);
    }
    check_readable(&f, 4);
    assert_int_equal(fixture_status(again, 2), KVS_OK);
    fixture_close(&f);
}

/* More parts than the session has ops. */
static void a_torn_push_of_an_asynchronous_store_counts_in_every_part(void **state)
{
    enum { PARTS = 5000 };
    static float values[4 * PARTS];
    fixture f;
    (void)state;
    fixture_open(
        &f, &(fixture_options){
                .type = "dist_async", .num_workers = 1, .part_elements = 4, .inflight_parts = 8});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_init(&f, "w", values, 4 * PARTS);
    fixture_optimizer(&f, "{\"name\":\"test\"}");
    for (uint64_t push = 1; push <= 3; push++) {
        fixture_push_at(a, "w", ones, 4, push, push - 1, false);
    }
    kvs_session_leave(a->session, f.now_ns);
    check_readable(&f, 3);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_only_worker_may_go_in_the_middle_of_a_key),
        cmocka_unit_test(whoever_comes_back_pushes_to_one_round_of_all_parts),
        cmocka_unit_test(a_failing_store_names_the_rank_at_the_parts_that_it_did_not_reach),
        cmocka_unit_test(all_turns_that_a_rank_owes_are_made_up_for),
        cmocka_unit_test(a_torn_push_of_an_asynchronous_store_counts_in_every_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
