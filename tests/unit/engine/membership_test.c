/* Ranks, sessions and leases: who may come, who must go, who may come again. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
static const float zeros[8];

static void open_with(fixture *f, uint32_t workers, kvs_policy policy)
{
    fixture_open(
        f, &(fixture_options){
               .type = "dist_sync", .num_workers = workers, .part_elements = 4, .policy = policy});
}

static kvs_status try_register(fixture *f, const kvs_register *request)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_session *session = NULL;
    kvs_session_info info;
    kvs_status status =
        kvs_session_register(f->store, request, f->now_ns, &session, &info, &problem);
    assert_int_equal(problem.status, status);
    assert_true(status == KVS_OK || session == NULL);
    kvs_session_unref(session);
    return status;
}

static void ranks_are_given_in_order_first_those_that_nobody_had(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 3, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, -1);
    fixture_worker *b = fixture_join(&f, 2);
    assert_int_equal(a->info.rank, 0);
    kvs_session_leave(a->session, f.now_ns);
    assert_int_equal(fixture_join(&f, -1)->info.rank, 1); /* 0 was somebody's */
    assert_int_equal(fixture_join(&f, -1)->info.rank, 0);
    assert_int_equal(kvs_session_rank(b->session), 2);
    assert_int_equal(try_register(&f, &(kvs_register){.type = "", .worker = "", .rank = -1}),
                     KVS_STORE_FULL);
    fixture_close(&f);
}

static void what_cannot_be_registered_is_told_why(void **state)
{
    fixture f;
    char long_name[KVS_NAME_BYTES_MAX + 2];
    uint8_t unknown[KVS_SESSION_ID_BYTES] = {1, 2, 3};
    (void)state;
    open_with(&f, 2, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    memset(long_name, 'a', sizeof long_name);
    long_name[KVS_NAME_BYTES_MAX + 1] = '\0';
    const struct {
        kvs_register request;
        kvs_status status;
    } rows[] = {
        {{.type = "", .worker = "", .rank = 0}, KVS_RANK_TAKEN},
        {{.type = "", .worker = "", .rank = 2}, KVS_INVALID_FIELD},
        {{.type = "", .worker = "", .rank = INT64_MAX}, KVS_INVALID_FIELD},
        {{.type = "dist_async", .worker = "", .rank = -1}, KVS_STORE_TYPE_MISMATCH},
        {{.type = "local", .worker = "", .rank = -1}, KVS_STORE_TYPE_MISMATCH},
        {{.type = "", .worker = long_name, .rank = -1}, KVS_INVALID_FIELD},
        {{.type = "", .worker = "", .rank = -1, .resume = unknown, .epoch = 7}, KVS_NOT_REGISTERED},
        {{.type = "", .worker = "", .rank = -1, .resume = a->info.id, .epoch = 6}, KVS_FENCED},
        {{.type = "", .worker = "", .rank = -1, .resume = unknown, .epoch = 6}, KVS_FENCED},
        {{.type = "dist_device_sync", .worker = "", .rank = 1}, KVS_OK},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (try_register(&f, &rows[i].request) != rows[i].status) {
            fail_msg("row %zu", i);
        }
    }
    fixture_close(&f);
}

static void a_resumed_session_is_the_same_one(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, -1);
    fixture_init(&f, "w", zeros, 4);
    uint64_t s = fixture_push(a, "w", ones, 4, 0, false);
    assert_int_equal(fixture_status(a, s), KVS_OK);
    fixture_resume(a, 2); /* checks that it is the same */
    uint64_t next = fixture_push(a, "w", ones, 4, s, false);
    assert_int_equal(fixture_status(a, next), KVS_OK);
    fixture_close(&f);
}

static void the_window_moves_to_the_lowest_that_a_resuming_client_has_no_answer_to(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, -1);
    fixture_init(&f, "w", zeros, 4);
    fixture_push_at(a, "w", ones, 4, 9, 8, false);
    assert_int_equal(fixture_status(a, 9), KVS_STATUS_COUNT); /* 1 to 8 have not come */
    fixture_resume(a, 9);
    assert_int_equal(fixture_status(a, 9), KVS_OK);
    fixture_push_at(a, "w", ones, 4, 3, 0, false); /* counts as ended */
    assert_int_equal(fixture_status(a, 3), KVS_OK);
    assert_true(fixture_answer_of(a, 3)->duplicate);
    fixture_close(&f);
}

static void an_absurd_lowest_sequence_hurts_only_its_session(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 2, KVS_POLICY_SHRINK);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 4);
    fixture_resume(a, UINT64_MAX);
    fixture_push_at(a, "w", ones, 4, 1, 0, false);
    fixture_push_at(a, "w", ones, 4, UINT64_MAX, 0, false);
    fixture_push_at(a, "w", ones, 4, UINT64_MAX - 1, UINT64_MAX - 2, false);
    kvs_session_leave(a->session, f.now_ns);
    uint64_t s = fixture_push(b, "w", ones, 4, 0, false);
    assert_int_equal(fixture_status(b, s), KVS_OK);
    fixture_close(&f);
}

static void a_lease_ends_after_its_time_and_the_session_with_it(void **state)
{
    fixture f;
    kvs_worker_info info[2];
    kvs_store_statistics statistics;
    (void)state;
    open_with(&f, 2, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_init(&f, "w", zeros, 4);
    fixture_tick(&f, KVS_LEASE_NS);
    assert_int_equal(kvs_worker_list(f.store, f.now_ns, 2, info), 1);
    assert_string_equal(info[0].state, "live");
    assert_int_equal(info[0].idle_ns, KVS_LEASE_NS);
    fixture_tick(&f, 1);
    assert_int_equal(kvs_worker_list(f.store, f.now_ns, 2, info), 1);
    assert_string_equal(info[0].state, "lost");
    kvs_store_count(f.store, &statistics);
    assert_int_equal(statistics.leases_lost, 1);
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_FENCED);
    uint64_t s = fixture_push(a, "w", ones, 4, 0, false);
    assert_int_equal(fixture_status(a, s), KVS_FENCED);
    uint64_t p = fixture_pull(a, "w", 0);
    assert_int_equal(fixture_status(a, p), KVS_FENCED);
    assert_int_equal(
        try_register(&f,
                     &(kvs_register){
                         .type = "", .worker = "", .rank = -1, .resume = a->info.id, .epoch = 7}),
        KVS_FENCED);
    kvs_session *found = NULL;
    kvs_problem problem;
    assert_int_equal(kvs_session_find(f.store, a->info.id, sizeof a->info.id, 7, &found, &problem),
                     KVS_FENCED);
    fixture_close(&f);
}

static void every_sign_of_life_moves_the_lease_on(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_init(&f, "w", zeros, 4);
    for (int i = 0; i < 9; i++) {
        fixture_tick(&f, 8 * KVS_SECOND);
        if (i % 3 == 0) {
            assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
        } else if (i % 3 == 1) {
            (void)fixture_pull(a, "w", 0);
        } else {
            (void)fixture_push(a, "w", ones, 4, 0, false);
        }
    }
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
    fixture_close(&f);
}

static void a_lease_never_moves_back(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    /* A turn that began earlier ends later. */
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns + 9 * KVS_SECOND), KVS_OK);
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
    fixture_tick(&f, 11 * KVS_SECOND);
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
    fixture_close(&f);
}

static void answers_to_two_sessions_of_one_rank_may_meet_in_one_turn(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 1,
                                        .part_elements = 4,
                                        .shards = 1,
                                        .manual = true});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_run_all(&f);
    fixture_init(&f, "w", zeros, 4);
    kvs_right *shard = &f.store->shards[0]->right;
    (void)fixture_pull(a, "w", 0);
    fixture_run(&f, &a->session->right); /* its pull is in the shard's inbox */
    kvs_session_leave(a->session, f.now_ns);
    fixture_worker *b = fixture_join(&f, 0);
    uint64_t s = fixture_push(b, "w", ones, 4, 0, false);
    fixture_run(&f, &b->session->right); /* and the push of the rank's next session */
    uint64_t p = fixture_pull(b, "w", 0);
    fixture_run(&f, &b->session->right);
    fixture_run(&f, shard);
    fixture_run_all(&f);
    assert_int_equal(fixture_status(b, s), KVS_OK);
    assert_int_equal(fixture_status(b, p), KVS_OK);
    fixture_close(&f);
}

static void pulls_that_wait_end_with_their_session(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 2, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 8);
    kvs_pull_key pull = {.key = "w", .key_bytes = 1, .sequence = 1, .min_version = {7, 1000}};
    fixture_pull_keys(a, &pull, 1);
    fixture_pull_keys(b, &pull, 1);
    kvs_session_leave(a->session, f.now_ns);
    assert_int_equal(fixture_status(a, 1), KVS_FENCED);
    assert_int_equal(a->session->ops_live, 0);
    assert_int_equal(fixture_status(b, 1), KVS_STATUS_COUNT); /* nobody else's */
    fixture_close(&f);
}

static void the_end_refuses_all_that_waits_at_the_door(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 2, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    (void)fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 4);
    fixture_push_at(a, "w", ones, 4, 1, 0, false);
    kvs_pull_key pull = {.key = "w", .key_bytes = 1, .sequence = 2, .after = 1, .snapshot = true};
    fixture_pull_keys(a, &pull, 1);
    fixture_push_at(a, "w", ones, 4, 3, 2, false);
    kvs_session_leave(a->session, f.now_ns);
    assert_int_equal(fixture_status(a, 2), KVS_FENCED);
    assert_int_equal(fixture_status(a, 3), KVS_FENCED);
    assert_int_equal(f.frames_made, f.frames_done);
    fixture_close(&f);
}

static void a_newcomer_is_not_left_out_for_what_its_rank_missed(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 2, KVS_POLICY_SHRINK);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 4);
    (void)fixture_push(a, "w", ones, 4, 0, false);
    for (int i = 0; i < 12; i++) { /* the last finds rank 1 late */
        assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
        assert_int_equal(kvs_session_heartbeat(b->session, f.now_ns), KVS_OK);
        fixture_tick(&f, 5 * KVS_SECOND + 1);
    }
    kvs_session_leave(b->session, f.now_ns);
    fixture_worker *c = fixture_join(&f, 1);
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
    fixture_tick(&f, 1);
    assert_int_equal(kvs_session_heartbeat(c->session, f.now_ns), KVS_OK);
    fixture_close(&f);
}

static void a_failed_round_names_who_failed_it_even_when_that_one_is_back(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 3, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_worker *c = fixture_join(&f, 2);
    fixture_init(&f, "w", zeros, 4);
    uint64_t s = fixture_push(a, "w", ones, 4, 0, false);
    kvs_session_leave(c->session, f.now_ns);
    assert_non_null(strstr(fixture_answer_of(a, s)->detail, "missing rank 2 "));
    (void)fixture_join(&f, 2);
    s = fixture_push(b, "w", ones, 4, 0, false);
    assert_int_equal(fixture_status(b, s), KVS_ROUND_FAILED);
    assert_non_null(strstr(fixture_answer_of(b, s)->detail, "missing rank 2 "));
    fixture_close(&f);
}

static void a_rank_that_never_came_is_left_out_too(void **state)
{
    fixture f;
    kvs_worker_info info[2];
    (void)state;
    open_with(&f, 2, KVS_POLICY_SHRINK);
    fixture_worker *a = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 4);
    uint64_t s = fixture_push(a, "w", ones, 4, 0, false);
    for (int i = 0; i < 14 && fixture_status(a, s) != KVS_OK; i++) {
        assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_OK);
        fixture_tick(&f, 5 * KVS_SECOND);
    }
    assert_int_equal(fixture_status(a, s), KVS_OK);
    assert_int_equal(kvs_worker_list(f.store, f.now_ns, 2, info), 2);
    assert_string_equal(info[0].state, "out");
    fixture_worker *b = fixture_join(&f, 0); /* it may come yet */
    (void)fixture_push(b, "w", ones, 4, 0, false);
    uint64_t s2 = fixture_push(a, "w", ones, 4, s, false);
    assert_int_equal(fixture_status(a, s2), KVS_OK);
    fixture_close(&f);
}

typedef struct last_reference {
    kvs_task task;
    kvs_session *session;
} last_reference;

static void give_back(kvs_task *task, uint64_t now_ns)
{
    (void)now_ns;
    kvs_session_unref(((last_reference *)task)->session);
}

static void a_turn_outlives_the_last_reference(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    last_reference last = {{.run = give_back}, a->session};
    kvs_session_leave(a->session, f.now_ns);
    a->session = NULL;
    kvs_session_post(last.session, &last.task, f.now_ns);
    fixture_close(&f);
}

static void deletion_ends_every_session(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 2, KVS_POLICY_FAIL);
    fixture_worker *a = fixture_join(&f, 0);
    assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, NULL), KVS_OK);
    assert_int_equal(kvs_session_heartbeat(a->session, f.now_ns), KVS_FENCED);
    assert_int_equal(try_register(&f, &(kvs_register){.type = "", .worker = "", .rank = 1}),
                     KVS_STORE_DELETED);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_given_in_order_first_those_that_nobody_had),
        cmocka_unit_test(what_cannot_be_registered_is_told_why),
        cmocka_unit_test(a_resumed_session_is_the_same_one),
        cmocka_unit_test(the_window_moves_to_the_lowest_that_a_resuming_client_has_no_answer_to),
        cmocka_unit_test(an_absurd_lowest_sequence_hurts_only_its_session),
        cmocka_unit_test(a_lease_ends_after_its_time_and_the_session_with_it),
        cmocka_unit_test(every_sign_of_life_moves_the_lease_on),
        cmocka_unit_test(a_lease_never_moves_back),
        cmocka_unit_test(answers_to_two_sessions_of_one_rank_may_meet_in_one_turn),
        cmocka_unit_test(pulls_that_wait_end_with_their_session),
        cmocka_unit_test(the_end_refuses_all_that_waits_at_the_door),
        cmocka_unit_test(a_newcomer_is_not_left_out_for_what_its_rank_missed),
        cmocka_unit_test(a_failed_round_names_who_failed_it_even_when_that_one_is_back),
        cmocka_unit_test(a_rank_that_never_came_is_left_out_too),
        cmocka_unit_test(a_turn_outlives_the_last_reference),
        cmocka_unit_test(deletion_ends_every_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
