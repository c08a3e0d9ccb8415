/* Rounds, orders, sequences, cuts and leases of a store, through the front door of the engine. */
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SYNC2 (&(fixture_options){.type = "dist_sync", .num_workers = 2, .part_elements = 4})

static const float zeros[10];
static const float ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const float twos[10] = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2};

static kvs_status status_of(const fixture_worker *worker, uint64_t sequence)
{
    const fixture_answer *answer = fixture_answer_of(worker, sequence);
    return answer == NULL ? KVS_STATUS_COUNT : answer->status;
}

static void assert_value(fixture_worker *worker, const char *key, const float *expected,
                         uint64_t elements)
{
    uint64_t sequence = fixture_pull(worker, key, worker->sequence - 1);
    assert_int_equal(status_of(worker, sequence), KVS_OK);
    assert_memory_equal(worker->value, expected, elements * sizeof(float));
}

static void push_of_the_last_worker_closes_the_round(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 10);
    uint64_t sa = fixture_push(a, "w", ones, 10, 0, false);
    assert_null(fixture_answer_of(a, sa));
    uint64_t sb = fixture_push(b, "w", twos, 10, 0, false);
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(status_of(a, sa + i), KVS_OK);
        assert_int_equal(status_of(b, sb + i), KVS_OK);
    }
    float expected[10];
    for (int i = 0; i < 10; i++) {
        expected[i] = 3;
    }
    assert_value(a, "w", expected, 10);
    assert_int_equal(a->version.count, 1);
    assert_int_equal(a->version.epoch, 7);
    assert_int_equal(a->credit_back, 40);
    fixture_close(&f);
}

static void sums_are_in_rank_order_whatever_arrives_first(void **state)
{
    const float terms[3] = {1e8f, 1.0f, -1e8f};
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    volatile float expected = terms[0] + terms[1];
    expected += terms[2];
    (void)state;
    for (int o = 0; o < 6; o++) {
        fixture f;
        fixture_open(&f, &(fixture_options){.type = "dist", .num_workers = 3, .part_elements = 4});
        fixture_worker *w[3] = {fixture_join(&f, 0), fixture_join(&f, 1), fixture_join(&f, 2)};
        fixture_init(&f, "w", zeros, 1);
        for (int i = 0; i < 3; i++) {
            (void)fixture_push(w[orders[o][i]], "w", &terms[orders[o][i]], 1, 0, false);
        }
        float got = expected;
        assert_value(w[0], "w", &got, 1);
        fixture_close(&f);
    }
}

static void a_pull_sees_the_round_of_the_push_before_it(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 10);
    (void)fixture_push(a, "w", ones, 10, 0, false);
    uint64_t pull = fixture_pull(a, "w", 3);
    assert_null(fixture_answer_of(a, pull));
    uint64_t other = fixture_pull(b, "w", 0); /* has pushed nothing: sees what is there */
    assert_int_equal(status_of(b, other), KVS_OK);
    assert_int_equal(b->version.count, 0);
    (void)fixture_push(b, "w", ones, 10, 0, false);
    assert_int_equal(status_of(a, pull), KVS_OK);
    assert_int_equal(a->version.count, 1);
    assert_memory_equal(a->value, twos, sizeof twos);
    fixture_close(&f);
}

static void a_worker_may_run_rounds_ahead_of_another(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 10);
    uint64_t first[3];
    uint64_t after = 0;
    for (int i = 0; i < 3; i++) {
        first[i] = fixture_push(a, "w", i == 2 ? twos : ones, 10, after, false);
        after = first[i] + 2;
    }
    assert_int_equal(a->credit_back,
                     40); /* the first was summed; the others wait and are charged */
    for (uint64_t i = 0; i < 3; i++) {
        (void)fixture_push(b, "w", zeros, 10, i * 3, false);
        assert_int_equal(status_of(a, first[i]), KVS_OK);
        assert_int_equal(i < 2 ? status_of(a, first[i + 1]) : KVS_STATUS_COUNT, KVS_STATUS_COUNT);
    }
    assert_value(b, "w", twos, 10);
    assert_int_equal(a->credit_back, 120);
    fixture_close(&f);
}

static void repeated_parts_are_applied_once_and_acked_again(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f,
                 &(fixture_options){.type = "dist_async", .num_workers = 2, .part_elements = 4});
    fixture_worker *a = fixture_join(&f, -1);
    fixture_init(&f, "w", zeros, 10);
    fixture_optimizer(&f, "{\"name\": \"sgd\", \"learning_rate\": 1.0, \"wd\": 0}");
    uint64_t s = fixture_push(a, "w", ones, 10, 0, false);
    fixture_push_at(a, "w", ones, 10, s, 0, false);
    assert_true(fixture_answer_of(a, s)->duplicate);
    float expected[10];
    for (int i = 0; i < 10; i++) {
        expected[i] = -1;
    }
    assert_value(a, "w", expected, 10);
    assert_int_equal(a->version.count, 1);
    assert_int_equal(a->credit_back, 80);
    /* A repeated push-and-pull brings the value again. */
    uint64_t values = a->values;
    fixture_push_at(a, "w", ones, 10, s, 0, true);
    assert_int_equal(a->values, values + 3);
    fixture_close(&f);
}

static void sequences_may_come_in_any_order_within_the_window(void **state)
{
    fixture f;
    (void)state;
    fixture_open(
        &f, &(fixture_options){
                .type = "dist_async", .num_workers = 1, .part_elements = 4, .inflight_parts = 16});
    fixture_worker *a = fixture_join(&f, -1);
    fixture_init(&f, "w", zeros, 4);
    fixture_optimizer(&f, "{\"name\": \"test\"}"); /* w += g */
    fixture_push_at(a, "w", twos, 4, 3, 2, false);
    assert_null(fixture_answer_of(a, 3)); /* waits for 1 and 2 to have arrived */
    fixture_push_at(a, "w", ones, 4, 17, 0, false);
    assert_int_equal(status_of(a, 17), KVS_SEQ_GAP);
    fixture_push_at(a, "w", ones, 4, 2, 1, false);
    assert_null(fixture_answer_of(a, 2));
    fixture_push_at(a, "w", ones, 4, 1, 0, false);
    assert_int_equal(status_of(a, 1), KVS_OK);
    assert_int_equal(status_of(a, 2), KVS_OK);
    assert_int_equal(status_of(a, 3), KVS_OK);
    a->sequence = 4;
    const float expected[4] = {4, 4, 4, 4};
    assert_value(a, "w", expected, 4);
    fixture_close(&f);
}

static void more_than_the_credit_is_refused_and_may_be_sent_again(void **state)
{
    fixture f;
    (void)state;
    fixture_open(
        &f, &(fixture_options){
                .type = "dist_sync", .num_workers = 2, .part_elements = 4, .credit_bytes = 40});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 10);
    fixture_push_at(b, "w", ones, 10, 1, 0, false); /* 40 bytes, all of it, held for rank 0 */
    assert_int_equal(status_of(b, 3), KVS_STATUS_COUNT);
    assert_int_equal(b->credit_back, 0);
    fixture_push_at(b, "w", ones, 10, 4, 3, false);
    assert_int_equal(status_of(b, 4), KVS_OVER_CREDIT);
    (void)a;
    fixture_close(&f);
}

static void an_asynchronous_store_wants_an_optimizer(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f,
                 &(fixture_options){.type = "dist_async", .num_workers = 1, .part_elements = 4});
    fixture_worker *a = fixture_join(&f, -1);
    fixture_init(&f, "w", zeros, 4);
    uint64_t s = fixture_push(a, "w", ones, 4, 0, false);
    assert_int_equal(status_of(a, s), KVS_OPTIMIZER_NOT_SET);
    assert_value(a, "w", zeros, 4);
    fixture_close(&f);
}

static void a_lost_lease_fails_the_round_and_names_the_rank(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    (void)fixture_join(&f, 1);
    fixture_init(&f, "w", ones, 10);
    uint64_t s = fixture_push(a, "w", ones, 10, 0, false);
    fixture_tick(&f, 5 * KVS_SECOND);
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
    fixture_tick(&f, 6 * KVS_SECOND);
    assert_int_equal(status_of(a, s), KVS_ROUND_FAILED);
    assert_non_null(strstr(fixture_answer_of(a, s)->detail, "rank 1"));
    /* Later rounds fail at once, the value stays, and versions of all parts meet. */
    uint64_t again = fixture_push(a, "w", ones, 10, s + 2, false);
    assert_int_equal(status_of(a, again), KVS_ROUND_FAILED);
    assert_value(a, "w", ones, 10);
    assert_int_equal(a->version.count, 2);
    /* A newcomer takes the rank and rounds go on. */
    fixture_worker *c = fixture_join(&f, 1);
    uint64_t sa = fixture_push(a, "w", ones, 10, again + 2, false);
    (void)fixture_push(c, "w", ones, 10, 0, false);
    assert_int_equal(status_of(a, sa), KVS_OK);
    assert_value(c, "w", twos, 10);
    fixture_close(&f);
}

static void a_lost_lease_shrinks_the_round(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 3,
                                        .part_elements = 4,
                                        .policy = KVS_POLICY_SHRINK});
    fixture_worker *w[3] = {fixture_join(&f, 0), fixture_join(&f, 1), fixture_join(&f, 2)};
    fixture_init(&f, "w", zeros, 10);
    uint64_t s2 = fixture_push(w[2], "w", ones, 10, 0, false); /* held: 0 and 1 come first */
    fixture_tick(&f, 5 * KVS_SECOND);
    for (int i = 0; i < 3; i += 2) {
        assert_int_equal(kvs_session_heartbeat(w[i]->session, f.now_ns), KVS_OK);
    }
    fixture_tick(&f, 6 * KVS_SECOND);
    uint64_t s0 = fixture_push(w[0], "w", ones, 10, 0, false);
    assert_int_equal(status_of(w[0], s0), KVS_OK);
    assert_int_equal(status_of(w[2], s2), KVS_OK);
    assert_value(w[0], "w", twos, 10);
    uint64_t late = fixture_push(w[1], "w", ones, 10, 0, false);
    assert_int_equal(status_of(w[1], late), KVS_FENCED);
    fixture_close(&f);
}

static void a_slow_rank_is_left_out_at_the_deadline(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 2,
                                        .part_elements = 4,
                                        .policy = KVS_POLICY_SHRINK});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 10);
    uint64_t s = fixture_push(a, "w", ones, 10, 0, false);
    for (int i = 0; i < 13; i++) {
        assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
        assert_int_equal(kvs_session_heartbeat(b->session, f.now_ns), i < 13 ? KVS_OK : KVS_FENCED);
        fixture_tick(&f, 5 * KVS_SECOND);
    }
    fixture_tick(&f, 1);
    assert_int_equal(status_of(a, s), KVS_OK);
    assert_int_equal(kvs_session_heartbeat(b->session, f.now_ns), KVS_FENCED);
    fixture_close(&f);
}

/* ------------------------------------------------------------------ cuts */

typedef struct waited {
    kvs_waiter waiter;
    int calls;
    kvs_status status;
} waited;

static void told(kvs_waiter *waiter, const kvs_problem *problem)
{
    ((waited *)waiter)->calls++;
    ((waited *)waiter)->status = problem->status;
}

static void a_read_waits_for_the_parts_that_lag(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 8);
    /* Rank 0 gives both parts, rank 1 only the first: part 0 is at 1, part 1 at 0. */
    (void)fixture_push(a, "w", ones, 8, 0, false);
    fixture_push_at(b, "w", ones, 4, 1, 0, false);
    kvs_snapshot snapshot;
    waited wait = {.waiter.done = told};
    kvs_store_read(f.store, "w", 1, &snapshot, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 0);
    /* The first part goes on meanwhile; the snapshot keeps its bytes. */
    (void)fixture_push(a, "w", zeros, 8, 2, false);
    fixture_push_at(b, "w", zeros, 4, 2, 1, false);
    assert_int_equal(wait.calls, 0);
    fixture_push_tail(b, "w", ones, 8, 4, 3, 0);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.status, KVS_OK);
    assert_int_equal(snapshot.info.version.count, 1);
    assert_int_equal(snapshot.parts, 2);
    assert_memory_equal(snapshot.data[0], twos, 16);
    assert_memory_equal(snapshot.data[1], twos, 16);
    kvs_snapshot_deinit(&snapshot);
    fixture_close(&f);
}

static void an_assignment_is_one_update_of_every_part(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_init(&f, "w", zeros, 10);
    kvs_shape shape = {.rank = 1, .size = {10}};
    kvs_version version = {0, 0};
    waited wait = {.waiter.done = told};
    kvs_store_assign(f.store, "w", 1, KVS_F32, &shape, twos, sizeof twos, NULL, &version,
                     &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.status, KVS_OK);
    assert_int_equal(version.count, 1);
    assert_value(a, "w", twos, 10);
    const kvs_version old = {7, 0};
    kvs_store_assign(f.store, "w", 1, KVS_F32, &shape, ones, sizeof ones, &old, &version,
                     &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 2);
    assert_int_equal(wait.status, KVS_ETAG_MISMATCH);
    assert_value(a, "w", twos, 10);
    fixture_close(&f);
}

static void no_round_mixes_two_rules(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 8);
    fixture_optimizer(&f, "{\"name\": \"test\"}"); /* w += g */
    (void)fixture_push(a, "w", ones, 8, 0, false);
    fixture_push_at(b, "w", ones, 4, 1, 0, false); /* part 0 is updated, part 1 is not */
    fixture_optimizer(&f, "{\"name\": \"test\", \"rescale_grad\": 10}");
    fixture_push_tail(b, "w", ones, 8, 4, 2, 0); /* round 1 of part 1: still the first rule */
    b->sequence = 3;
    assert_value(b, "w", twos, 8);
    (void)fixture_push(a, "w", ones, 8, 2, false);
    (void)fixture_push(b, "w", ones, 8, 2, false);
    const float expected[8] = {22, 22, 22, 22, 22, 22, 22, 22};
    assert_value(a, "w", expected, 8);
    fixture_close(&f);
}

static void a_push_cut_by_the_end_of_its_session_counts_for_all_parts(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f,
                 &(fixture_options){.type = "dist_async", .num_workers = 2, .part_elements = 4});
    fixture_worker *a = fixture_join(&f, -1);
    fixture_worker *b = fixture_join(&f, -1);
    fixture_init(&f, "w", zeros, 10);
    fixture_optimizer(&f, "{\"name\": \"test\"}"); /* w += g */
    fixture_push_at(a, "w", ones, 4, 1, 0, false); /* the first of three parts */
    kvs_snapshot snapshot;
    waited wait = {.waiter.done = told};
    kvs_store_read(f.store, "w", 1, &snapshot, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 0);
    kvs_session_leave(a->session, f.now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.status, KVS_OK);
    assert_int_equal(snapshot.info.version.count, 1);
    assert_memory_equal(snapshot.data[0], ones, 16);
    assert_memory_equal(snapshot.data[1], zeros, 16);
    kvs_snapshot_deinit(&snapshot);
    uint64_t s = fixture_push(b, "w", ones, 10, 0, false);
    assert_int_equal(status_of(b, s), KVS_OK);
    kvs_store_read(f.store, "w", 1, &snapshot, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 2);
    assert_int_equal(snapshot.info.version.count, 2);
    kvs_snapshot_deinit(&snapshot);
    fixture_close(&f);
}

static void deletion_answers_everything(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, SYNC2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 10);
    uint64_t s = fixture_push(a, "w", ones, 10, 0, false);
    uint64_t p = fixture_pull(a, "w", s + 2);
    uint64_t later = fixture_push(b, "w", ones, 10, 0, false);
    (void)later;
    uint64_t more = fixture_push(a, "w", ones, 10, s + 2, false);
    kvs_problem problem;
    assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, &problem), KVS_OK);
    assert_int_equal(status_of(a, more), KVS_STORE_DELETED);
    assert_int_equal(status_of(a, p), KVS_OK);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(push_of_the_last_worker_closes_the_round),
        cmocka_unit_test(sums_are_in_rank_order_whatever_arrives_first),
        cmocka_unit_test(a_pull_sees_the_round_of_the_push_before_it),
        cmocka_unit_test(a_worker_may_run_rounds_ahead_of_another),
        cmocka_unit_test(repeated_parts_are_applied_once_and_acked_again),
        cmocka_unit_test(sequences_may_come_in_any_order_within_the_window),
        cmocka_unit_test(more_than_the_credit_is_refused_and_may_be_sent_again),
        cmocka_unit_test(an_asynchronous_store_wants_an_optimizer),
        cmocka_unit_test(a_lost_lease_fails_the_round_and_names_the_rank),
        cmocka_unit_test(a_lost_lease_shrinks_the_round),
        cmocka_unit_test(a_slow_rank_is_left_out_at_the_deadline),
        cmocka_unit_test(a_read_waits_for_the_parts_that_lag),
        cmocka_unit_test(an_assignment_is_one_update_of_every_part),
        cmocka_unit_test(no_round_mixes_two_rules),
        cmocka_unit_test(a_push_cut_by_the_end_of_its_session_counts_for_all_parts),
        cmocka_unit_test(deletion_answers_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
