/* Cuts under churn: reads, assignments and rules while rounds, ranks and stores come and go. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const float zeros[16];
static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const float twos[16] = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2};

typedef struct reading {
    fixture_wait wait;
    kvs_snapshot snapshot;
} reading;

static void begin_read(fixture *f, reading *r, uint64_t deadline_ns)
{
    fixture_wait_begin(&r->wait, deadline_ns);
    kvs_store_read(f->store, "w", 1, &r->snapshot, &r->wait.waiter, f->now_ns);
}

static void begin_assign(fixture *f, fixture_wait *wait, const float *values, uint64_t elements,
                         const kvs_version *match, kvs_version *version)
{
    kvs_shape shape = {.rank = 1, .size = {elements}};
    fixture_wait_begin(wait, 0);
    kvs_store_assign(f->store, "w", 1, KVS_F32, &shape, values, elements * sizeof(float), match,
                     version, &wait->waiter, f->now_ns);
}

static void begin_rule(fixture *f, fixture_wait *wait, const char *json)
{
    kvs_problem problem;
    kvs_optimizer *optimizer = NULL;
    assert_int_equal(kvs_optimizer_parse(json, strlen(json), &optimizer, &problem), KVS_OK);
    fixture_wait_begin(wait, 0);
    kvs_store_set_optimizer(f->store, optimizer, &wait->waiter, f->now_ns);
    kvs_optimizer_unref(optimizer);
}

static void open_sync(fixture *f, uint32_t workers)
{
    fixture_open(
        f, &(fixture_options){.type = "dist_sync", .num_workers = workers, .part_elements = 4});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
}

/* The rights of the shard of "w"'s first part and of the other one, of two. */
static void open_manual(fixture *f, kvs_policy policy, kvs_right **mine, kvs_right **other)
{
    fixture_open(f, &(fixture_options){.type = "dist_sync",
                                       .num_workers = 2,
                                       .part_elements = 4,
                                       .policy = policy,
                                       .shards = 2,
                                       .manual = true});
    (void)fixture_join(f, 0);
    (void)fixture_join(f, 1);
    fixture_run_all(f);
    fixture_init(f, "w", zeros, 4);
    uint32_t shard = kvs_shard_of("w", 1, 0, 2);
    *mine = &f->store->shards[shard]->right;
    *other = &f->store->shards[1 - shard]->right;
}

static void reads_and_assignments_of_unknown_keys_are_told(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_snapshot snapshot;
    kvs_shape shape = {.rank = 1, .size = {4}};
    char long_key[600];
    (void)state;
    open_sync(&f, 1);
    memset(long_key, 'k', sizeof long_key);
    fixture_wait_begin(&wait, 0);
    kvs_store_read(f.store, "nothing", 7, &snapshot, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_KEY_NOT_FOUND);
    kvs_store_read(f.store, long_key, sizeof long_key, &snapshot, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_KEY_NOT_FOUND);
    kvs_store_assign(f.store, "x", 1, KVS_F32, &shape, ones, 16, NULL, NULL, &wait.waiter,
                     f.now_ns);
    assert_int_equal(wait.problem.status, KVS_KEY_NOT_FOUND);
    fixture_init(&f, "w", zeros, 4);
    kvs_store_assign(f.store, "w", 1, KVS_F64, &shape, ones, 16, NULL, NULL, &wait.waiter,
                     f.now_ns);
    assert_int_equal(wait.problem.status, KVS_KEY_EXISTS);
    shape.rank = 0;
    kvs_store_assign(f.store, "w", 1, KVS_F32, &shape, ones, 16, NULL, NULL, &wait.waiter,
                     f.now_ns);
    assert_int_equal(wait.problem.status, KVS_KEY_EXISTS);
    begin_assign(&f, &wait, ones, 4, NULL, NULL);
    assert_int_equal(wait.problem.status, KVS_OK);
    shape = (kvs_shape){.rank = 1, .size = {4}};
    kvs_store_assign(f.store, "w", 1, KVS_F32, &shape, ones, 12, NULL, NULL, &wait.waiter,
                     f.now_ns);
    assert_int_equal(wait.problem.status, KVS_INVALID_TENSOR);
    fixture_close(&f);
}

static void a_rule_with_states_may_come_while_a_round_is_open(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 2);
    fixture_init(&f, "w", zeros, 4);
    uint64_t s = fixture_push(f.workers[0], "w", ones, 4, 0, false);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5,\"wd\":0}");
    (void)fixture_push(f.workers[1], "w", ones, 4, 0, true);
    assert_int_equal(fixture_status(f.workers[0], s), KVS_OK);
    const float expected[4] = {-2, -2, -2, -2};
    assert_memory_equal(f.workers[1]->value, expected, sizeof expected);
    /* And go while one is. */
    s = fixture_push(f.workers[0], "w", ones, 4, s, false);
    fixture_wait wait;
    fixture_wait_begin(&wait, 0);
    kvs_store_set_optimizer(f.store, NULL, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    (void)fixture_push(f.workers[1], "w", ones, 4, 1, true);
    assert_int_equal(fixture_status(f.workers[0], s), KVS_OK);
    assert_memory_equal(f.workers[1]->value, twos, 16);
    fixture_close(&f);
}

static void the_same_rule_with_other_numbers_keeps_the_states(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 4);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5,\"wd\":0}");
    (void)fixture_push(a, "w", ones, 4, 0, true); /* m = -1, w = -1 */
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":2,\"momentum\":0.5,\"wd\":0}");
    (void)fixture_push(a, "w", ones, 4, 1, true); /* m = -0.5 - 2, w = -3.5 */
    assert_true(a->value[3] == -3.5f);
    fixture_optimizer(&f, "{\"name\":\"test\"}");
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5,\"wd\":0}");
    (void)fixture_push(a, "w", ones, 4, 2, true); /* m was dropped */
    assert_true(a->value[3] == -4.5f);
    fixture_close(&f);
}

static void a_lagging_part_takes_the_rules_in_their_order(void **state)
{
    fixture f;
    fixture_wait wait;
    (void)state;
    open_sync(&f, 2);
    fixture_worker *a = f.workers[0];
    fixture_worker *b = f.workers[1];
    fixture_init(&f, "w", zeros, 8);
    fixture_optimizer(&f, "{\"name\":\"test\"}");
    (void)fixture_push(a, "w", ones, 8, 0, false);
    fixture_push_at(b, "w", ones, 4, 1, 0, false); /* the first part is one ahead */
    begin_rule(&f, &wait, "{\"name\":\"test\",\"rescale_grad\":10}");
    begin_rule(&f, &wait, "{\"name\":\"test\",\"rescale_grad\":100}");
    (void)fixture_push(a, "w", ones, 8, 2, false);
    fixture_push_tail(b, "w", ones, 8, 4, 2, 0); /* the second part: rule 1, then it gets 100 */
    fixture_push_at(b, "w", ones, 8, 3, 2, false);
    b->sequence = 5;
    (void)fixture_pull(b, "w", 4);
    for (int i = 0; i < 8; i++) {
        assert_true(b->value[i] == 202.0f);
    }
    fixture_close(&f);
}

static void a_cut_names_the_version_of_its_bytes_when_a_rank_goes_meanwhile(void **state)
{
    fixture f;
    kvs_right *mine, *other;
    reading r;
    (void)state;
    open_manual(&f, KVS_POLICY_SHRINK, &mine, &other);
    (void)fixture_push(f.workers[0], "w", ones, 4, 0, false);
    fixture_run_all(&f);
    begin_read(&f, &r, 0);
    fixture_run(&f, mine); /* has reported version 0 */
    kvs_session_leave(f.workers[1]->session, f.now_ns);
    fixture_run(&f, mine); /* could close the round now */
    fixture_run_all(&f);
    assert_int_equal(r.wait.problem.status, KVS_OK);
    assert_int_equal(r.snapshot.info.version.count, 0);
    assert_memory_equal(r.snapshot.data[0], zeros, 16);
    kvs_snapshot_deinit(&r.snapshot);
    /* The round did close, after the decision. */
    assert_int_equal(fixture_status(f.workers[0], 1), KVS_OK);
    begin_read(&f, &r, 0);
    fixture_run_all(&f);
    assert_int_equal(r.snapshot.info.version.count, 1);
    assert_memory_equal(r.snapshot.data[0], ones, 16);
    kvs_snapshot_deinit(&r.snapshot);
    fixture_close(&f);
}

static void a_cut_names_the_version_of_its_bytes_when_a_deadline_passes_meanwhile(void **state)
{
    fixture f;
    kvs_right *mine, *other;
    reading r;
    (void)state;
    open_manual(&f, KVS_POLICY_FAIL, &mine, &other);
    (void)fixture_push(f.workers[0], "w", ones, 4, 0, false);
    fixture_run_all(&f);
    f.now_ns += KVS_ROUND_DEADLINE_NS;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kvs_session_heartbeat(f.workers[i]->session, f.now_ns), KVS_OK);
    }
    begin_read(&f, &r, 0);
    fixture_run(&f, mine);
    fixture_tick(&f, KVS_MS);
    fixture_run(&f, mine); /* the deadline, within the freeze */
    assert_int_equal(fixture_status(f.workers[0], 1), KVS_STATUS_COUNT);
    fixture_run_all(&f);
    assert_int_equal(r.wait.problem.status, KVS_OK);
    assert_int_equal(r.snapshot.info.version.count, 0);
    kvs_snapshot_deinit(&r.snapshot);
    fixture_tick(&f, KVS_MS); /* and after it */
    fixture_run_all(&f);
    assert_int_equal(fixture_status(f.workers[0], 1), KVS_ROUND_FAILED);
    fixture_close(&f);
}

static void a_frozen_push_of_a_rank_that_goes_is_refused(void **state)
{
    fixture f;
    kvs_right *mine, *other;
    reading r;
    (void)state;
    open_manual(&f, KVS_POLICY_SHRINK, &mine, &other);
    fixture_worker *a = f.workers[0];
    fixture_worker *b = f.workers[1];
    begin_read(&f, &r, 0);
    fixture_run(&f, mine);
    uint64_t s = fixture_push(a, "w", ones, 4, 0, false);
    fixture_run(&f, &a->session->right);
    fixture_run(&f, mine); /* waits for the decision */
    kvs_session_leave(a->session, f.now_ns);
    fixture_run_all(&f);
    assert_int_equal(r.wait.problem.status, KVS_OK);
    kvs_snapshot_deinit(&r.snapshot);
    assert_int_equal(fixture_status(a, s), KVS_FENCED);
    s = fixture_push(b, "w", twos, 4, 0, true);
    fixture_run_all(&f);
    assert_int_equal(fixture_status(b, s), KVS_OK); /* nobody is waited for */
    assert_memory_equal(b->value, twos, 16);
    fixture_close(&f);
}

static void pushes_and_pulls_keep_their_order_through_a_freeze(void **state)
{
    fixture f;
    kvs_right *mine, *other;
    reading r;
    (void)state;
    open_manual(&f, KVS_POLICY_FAIL, &mine, &other);
    fixture_worker *a = f.workers[0];
    begin_read(&f, &r, 0);
    fixture_run(&f, mine);
    uint64_t s = fixture_push(a, "w", ones, 4, 0, false);
    uint64_t p = fixture_pull(a, "w", s);
    uint64_t plain = fixture_pull(a, "w", 0);
    fixture_run(&f, &a->session->right);
    fixture_run(&f, mine);
    if (f.ready_count > 0 && f.ready[f.ready_count - 1] == &a->session->right) {
        fixture_run(&f, &a->session->right);
    }
    assert_int_equal(fixture_status(a, plain), KVS_OK); /* reads need not wait */
    assert_int_equal(fixture_status(a, p), KVS_STATUS_COUNT);
    fixture_run_all(&f);
    kvs_snapshot_deinit(&r.snapshot);
    assert_int_equal(fixture_status(a, p), KVS_STATUS_COUNT);
    (void)fixture_push(f.workers[1], "w", ones, 4, 0, false);
    fixture_run_all(&f);
    assert_int_equal(fixture_status(a, p), KVS_OK);
    assert_memory_equal(a->value, twos, 16);
    fixture_close(&f);
}

static void cuts_decide_one_after_the_other(void **state)
{
    fixture f;
    kvs_right *mine, *other;
    reading before, after;
    fixture_wait assign;
    kvs_version version = {0, 0};
    (void)state;
    open_manual(&f, KVS_POLICY_FAIL, &mine, &other);
    begin_read(&f, &before, 0);
    begin_assign(&f, &assign, twos, 4, NULL, &version);
    begin_read(&f, &after, 0);
    fixture_run_all(&f);
    assert_memory_equal(before.snapshot.data[0], zeros, 16);
    assert_int_equal(assign.problem.status, KVS_OK);
    assert_int_equal(version.count, 1);
    assert_int_equal(version.epoch, 7);
    assert_memory_equal(after.snapshot.data[0], twos, 16);
    assert_int_equal(after.snapshot.info.version.count, 1);
    kvs_snapshot_deinit(&before.snapshot);
    kvs_snapshot_deinit(&after.snapshot);
    fixture_close(&f);
}

static void of_two_assignments_to_one_version_one_wins(void **state)
{
    fixture f;
    fixture_wait wait[2];
    const kvs_version zero = {7, 0};
    const kvs_version old_epoch = {6, 0};
    kvs_version version = {0, 0};
    (void)state;
    open_sync(&f, 1);
    fixture_init(&f, "w", zeros, 8);
    begin_assign(&f, &wait[0], ones, 8, &zero, &version);
    begin_assign(&f, &wait[1], twos, 8, &zero, &version);
    assert_int_equal(wait[0].problem.status, KVS_OK);
    assert_int_equal(wait[1].problem.status, KVS_ETAG_MISMATCH);
    assert_int_equal(version.count, 1);
    const kvs_version one = {6, 1};
    begin_assign(&f, &wait[1], twos, 8, &one, &version);
    assert_int_equal(wait[1].problem.status, KVS_ETAG_MISMATCH);
    begin_assign(&f, &wait[1], twos, 8, &old_epoch, &version);
    assert_int_equal(wait[1].problem.status, KVS_ETAG_MISMATCH);
    (void)fixture_pull(f.workers[0], "w", 0);
    assert_memory_equal(f.workers[0]->value, ones, 32);
    fixture_close(&f);
}

static void a_read_ends_at_its_deadline_and_gives_nothing(void **state)
{
    fixture f;
    reading r;
    (void)state;
    open_sync(&f, 2);
    fixture_init(&f, "w", zeros, 8);
    (void)fixture_push(f.workers[0], "w", ones, 8, 0, false);
    fixture_push_at(f.workers[1], "w", ones, 4, 1, 0, false); /* the second part lags */
    begin_read(&f, &r, f.now_ns + 2 * KVS_SECOND);
    fixture_tick(&f, 2 * KVS_SECOND - 1);
    assert_int_equal(r.wait.calls, 0);
    fixture_tick(&f, 1);
    assert_int_equal(r.wait.calls, 1);
    assert_int_equal(r.wait.problem.status, KVS_DEADLINE);
    assert_null(r.snapshot.buffers);
    fixture_push_tail(f.workers[1], "w", ones, 8, 4, 2, 0); /* nobody listens any more */
    assert_int_equal(r.wait.calls, 1);
    fixture_close(&f);
}

static void an_assignment_past_its_deadline_still_takes_place(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_version version = {0, 0};
    (void)state;
    open_sync(&f, 2);
    fixture_worker *b = f.workers[1];
    fixture_init(&f, "w", zeros, 8);
    (void)fixture_push(f.workers[0], "w", ones, 8, 0, false);
    fixture_push_at(b, "w", ones, 4, 1, 0, false);
    kvs_shape shape = {.rank = 1, .size = {8}};
    fixture_wait_begin(&wait, f.now_ns + KVS_SECOND);
    kvs_store_assign(f.store, "w", 1, KVS_F32, &shape, ones, 32, NULL, &version, &wait.waiter,
                     f.now_ns);
    fixture_tick(&f, KVS_SECOND);
    assert_int_equal(wait.problem.status, KVS_DEADLINE);
    fixture_push_tail(b, "w", ones, 8, 4, 2, 0);
    b->sequence = 3;
    (void)fixture_pull(b, "w", 2);
    assert_memory_equal(b->value, ones, 32); /* whole, though late */
    assert_int_equal(version.count, 0);
    fixture_close(&f);
}

static void a_failed_round_lets_the_parts_meet(void **state)
{
    fixture f;
    reading r;
    (void)state;
    open_sync(&f, 2);
    fixture_init(&f, "w", zeros, 8);
    (void)fixture_push(f.workers[0], "w", ones, 8, 0, false);
    fixture_push_at(f.workers[1], "w", ones, 4, 1, 0, false);
    begin_read(&f, &r, 0);
    kvs_session_leave(f.workers[1]->session, f.now_ns); /* the second part's round fails */
    assert_int_equal(r.wait.calls, 1);
    assert_int_equal(r.wait.problem.status, KVS_OK);
    assert_int_equal(r.snapshot.info.version.count, 1);
    assert_memory_equal(r.snapshot.data[0], twos, 16);
    assert_memory_equal(r.snapshot.data[1], zeros, 16);
    kvs_snapshot_deinit(&r.snapshot);
    fixture_close(&f);
}

static void deletion_ends_cuts_that_wait_and_those_that_come(void **state)
{
    fixture f;
    kvs_right *mine, *other;
    reading reported, queued, late;
    fixture_wait rule;
    (void)state;
    open_manual(&f, KVS_POLICY_FAIL, &mine, &other);
    begin_read(&f, &reported, 0);
    begin_read(&f, &queued, 0);
    begin_rule(&f, &rule, "{\"name\":\"test\"}");
    fixture_run(&f, mine);
    assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, NULL), KVS_OK);
    begin_read(&f, &late, 0);
    fixture_run_all(&f);
    assert_int_equal(reported.wait.problem.status, KVS_STORE_DELETED);
    assert_int_equal(queued.wait.problem.status, KVS_STORE_DELETED);
    assert_int_equal(late.wait.problem.status, KVS_STORE_DELETED);
    assert_int_equal(rule.calls, 1);
    fixture_close(&f);
}

static void a_cut_whose_shards_close_one_by_one_ends(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_snapshot snapshot;
    char key[2] = "a";
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 1,
                                        .part_elements = 4,
                                        .shards = 2,
                                        .manual = true});
    while (kvs_shard_of(key, 1, 0, 2) != 0 || kvs_shard_of(key, 1, 1, 2) != 1) {
        key[0]++;
    }
    fixture_init(&f, key, zeros, 8);
    fixture_wait_begin(&wait, 0);
    kvs_store_read(f.store, key, 1, &snapshot, &wait.waiter, f.now_ns);
    fixture_run(&f, &f.store->shards[0]->right); /* has reported */
    assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, NULL), KVS_OK);
    fixture_run(&f, &f.store->shards[0]->right); /* is closed */
    fixture_run(&f, &f.store->shards[1]->right); /* reports, is closed, drops its part */
    fixture_run_all(&f);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_STORE_DELETED);
    fixture_close(&f);
}

static void assignments_without_end_take_no_memory_without_end(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_store_statistics early, late;
    (void)state;
    open_sync(&f, 1);
    fixture_init(&f, "w", zeros, 10);
    for (int i = 0; i < 100; i++) {
        begin_assign(&f, &wait, i % 2 == 0 ? ones : twos, 10, NULL, NULL);
        assert_int_equal(wait.problem.status, KVS_OK);
        (void)fixture_pull(f.workers[0], "w", 0);
        assert_memory_equal(f.workers[0]->value, i % 2 == 0 ? ones : twos, 40);
        kvs_store_count(f.store, i < 3 ? &early : &late);
    }
    assert_int_equal(early.store_bytes, late.store_bytes);
    fixture_close(&f);
}

static void a_reader_keeps_its_bytes_after_the_store_is_gone(void **state)
{
    fixture f;
    reading r;
    (void)state;
    open_sync(&f, 1);
    fixture_init(&f, "w", ones, 10);
    begin_read(&f, &r, 0);
    (void)fixture_push(f.workers[0], "w", twos, 10, 0, false);
    assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, NULL), KVS_OK);
    for (int i = 0; i < 3; i++) {
        assert_memory_equal(r.snapshot.data[i], ones, i < 2 ? 16 : 8);
    }
    kvs_snapshot_deinit(&r.snapshot);
    fixture_close(&f);
}

static void rounds_are_listed_with_who_is_missing(void **state)
{
    fixture f;
    kvs_round_info info[2];
    kvs_rounds rounds = {.max = 2, .rounds = info};
    fixture_wait wait;
    (void)state;
    open_sync(&f, 3);
    fixture_init(&f, "w", zeros, 12);
    (void)fixture_push(f.workers[1], "w", ones, 12, 0, false);
    f.now_ns += KVS_SECOND;
    fixture_wait_begin(&wait, 0);
    kvs_store_rounds(f.store, &rounds, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(rounds.open, 3);
    assert_int_equal(rounds.count, 2);
    assert_int_equal(info[0].arrived_count, 1);
    assert_int_equal(info[0].arrived[0], 1);
    assert_int_equal(info[0].missing_count, 2);
    assert_int_equal(info[0].missing[1], 2);
    assert_int_equal(info[0].age_ns, KVS_SECOND);
    assert_int_equal(info[0].version.count, 1);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_assignments_of_unknown_keys_are_told),
        cmocka_unit_test(a_rule_with_states_may_come_while_a_round_is_open),
        cmocka_unit_test(the_same_rule_with_other_numbers_keeps_the_states),
        cmocka_unit_test(a_lagging_part_takes_the_rules_in_their_order),
        cmocka_unit_test(a_cut_names_the_version_of_its_bytes_when_a_rank_goes_meanwhile),
        cmocka_unit_test(a_cut_names_the_version_of_its_bytes_when_a_deadline_passes_meanwhile),
        cmocka_unit_test(a_frozen_push_of_a_rank_that_goes_is_refused),
        cmocka_unit_test(pushes_and_pulls_keep_their_order_through_a_freeze),
        cmocka_unit_test(cuts_decide_one_after_the_other),
        cmocka_unit_test(of_two_assignments_to_one_version_one_wins),
        cmocka_unit_test(a_read_ends_at_its_deadline_and_gives_nothing),
        cmocka_unit_test(an_assignment_past_its_deadline_still_takes_place),
        cmocka_unit_test(a_failed_round_lets_the_parts_meet),
        cmocka_unit_test(deletion_ends_cuts_that_wait_and_those_that_come),
        cmocka_unit_test(a_cut_whose_shards_close_one_by_one_ends),
        cmocka_unit_test(assignments_without_end_take_no_memory_without_end),
        cmocka_unit_test(a_reader_keeps_its_bytes_after_the_store_is_gone),
        cmocka_unit_test(rounds_are_listed_with_who_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
