/* Barriers: everybody, deadlines, lost leases, deletion. */
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

typedef struct entry {
    fixture_wait wait;
    kvs_barrier_result result;
} entry;

static void enter(fixture *f, entry *e, uint32_t rank, const char *name, uint64_t deadline_ns)
{
    fixture_wait_begin(&e->wait, deadline_ns);
    e->result = (kvs_barrier_result){.generation = 99, .arrival_index = 99};
    kvs_barrier_enter(f->store, rank, name, &e->result, &e->wait.waiter, f->now_ns);
}

static void open_with(fixture *f, uint32_t workers)
{
    fixture_open(
        f, &(fixture_options){.type = "dist_sync", .num_workers = workers, .part_elements = 4});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
}

static void the_last_to_arrive_lets_everybody_go(void **state)
{
    fixture f;
    entry e[3];
    (void)state;
    open_with(&f, 3);
    for (uint64_t generation = 0; generation < 3; generation++) {
        for (uint32_t i = 0; i < 3; i++) {
            uint32_t rank = (i + (uint32_t)generation) % 3;
            assert_true(i == 0 || e[(i - 1 + generation) % 3].wait.calls == 0);
            enter(&f, &e[rank], rank, "", 0);
            assert_int_equal(e[rank].result.arrival_index, i);
        }
        for (int i = 0; i < 3; i++) {
            assert_int_equal(e[i].wait.calls, 1);
            assert_int_equal(e[i].wait.problem.status, KVS_OK);
            assert_int_equal(e[i].result.generation, generation);
        }
    }
    fixture_close(&f);
}

static void barriers_of_different_names_do_not_meet(void **state)
{
    fixture f;
    entry e[4];
    kvs_barrier_info info[4];
    (void)state;
    open_with(&f, 2);
    enter(&f, &e[0], 0, "a", 0);
    enter(&f, &e[1], 1, "b", 0);
    assert_int_equal(e[0].wait.calls + e[1].wait.calls, 0);
    assert_int_equal(kvs_barrier_list(f.store, 4, info), 2);
    enter(&f, &e[2], 1, "a", 0);
    assert_int_equal(e[0].wait.calls, 1);
    assert_int_equal(e[1].wait.calls, 0);
    assert_int_equal(kvs_barrier_list(f.store, 4, info), 1);
    assert_string_equal(info[0].name, "b");
    assert_int_equal(info[0].missing_count, 1);
    assert_int_equal(info[0].missing[0], 0);
    enter(&f, &e[3], 0, "b", 0);
    assert_int_equal(e[1].wait.calls, 1);
    assert_int_equal(kvs_barrier_list(f.store, 4, info), 0);
    fixture_close(&f);
}

static void the_deadline_names_the_missing_ranks(void **state)
{
    fixture f;
    entry e[4];
    (void)state;
    open_with(&f, 4);
    enter(&f, &e[0], 0, "", f.now_ns + 2 * KVS_SECOND);
    enter(&f, &e[2], 2, "", f.now_ns + 4 * KVS_SECOND);
    fixture_tick(&f, KVS_SECOND);
    assert_int_equal(e[0].wait.calls, 0);
    fixture_tick(&f, KVS_SECOND);
    assert_int_equal(e[0].wait.calls, 1);
    assert_int_equal(e[0].wait.problem.status, KVS_DEADLINE);
    assert_non_null(strstr(e[0].wait.problem.detail, " 1 3"));
    assert_null(strstr(e[0].wait.problem.detail, "2"));
    assert_int_equal(e[2].wait.calls, 0); /* each has a deadline of its own */
    /* Who was told may come again, and is one of them again. */
    enter(&f, &e[0], 0, "", 0);
    enter(&f, &e[1], 1, "", 0);
    enter(&f, &e[3], 3, "", 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(e[i].wait.calls, 1);
        assert_int_equal(e[i].wait.problem.status, KVS_OK);
    }
    fixture_close(&f);
}

static void the_stores_own_deadline_is_the_latest(void **state)
{
    fixture f;
    entry e;
    (void)state;
    open_with(&f, 2);
    enter(&f, &e, 0, "x", f.now_ns + 10000 * KVS_SECOND);
    for (int i = 0; i < 120 && e.wait.calls == 0; i++) {
        (void)!kvs_session_heartbeat(f.workers[0]->session, f.now_ns);
        (void)!kvs_session_heartbeat(f.workers[1]->session, f.now_ns);
        assert_true(i < 121);
        fixture_tick(&f, 5 * KVS_SECOND);
    }
    assert_int_equal(e.wait.calls, 1);
    assert_int_equal(e.wait.problem.status, KVS_DEADLINE);
    assert_int_equal(f.now_ns, KVS_SECOND + KVS_BARRIER_DEADLINE_NS);
    fixture_close(&f);
}

static void a_lost_lease_breaks_it(void **state)
{
    fixture f;
    entry e[3];
    (void)state;
    open_with(&f, 3);
    enter(&f, &e[0], 0, "", 0);
    enter(&f, &e[1], 1, "named", 0);
    fixture_tick(&f, 6 * KVS_SECOND);
    assert_int_equal(kvs_session_heartbeat(f.workers[0]->session, f.now_ns), KVS_OK);
    assert_int_equal(kvs_session_heartbeat(f.workers[1]->session, f.now_ns), KVS_OK);
    assert_int_equal(e[0].wait.calls, 0);
    fixture_tick(&f, 6 * KVS_SECOND);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(e[i].wait.calls, 1);
        assert_int_equal(e[i].wait.problem.status, KVS_BARRIER_BROKEN);
        assert_non_null(strstr(e[i].wait.problem.detail, "rank 2"));
    }
    fixture_tick(&f, KVS_SECOND); /* told once */
    assert_int_equal(e[0].wait.calls, 1);
    fixture_close(&f);
}

static void a_worker_that_leaves_breaks_it(void **state)
{
    fixture f;
    entry e;
    (void)state;
    open_with(&f, 2);
    enter(&f, &e, 0, "", 0);
    kvs_session_leave(f.workers[1]->session, f.now_ns);
    assert_int_equal(e.wait.problem.status, KVS_BARRIER_BROKEN);
    fixture_close(&f);
}

static void a_rank_counts_once(void **state)
{
    fixture f;
    entry e[2];
    (void)state;
    open_with(&f, 2);
    enter(&f, &e[0], 0, "", 0);
    enter(&f, &e[1], 0, "", 0);
    assert_int_equal(e[1].wait.problem.status, KVS_INVALID_FIELD);
    assert_int_equal(e[0].wait.calls, 0);
    enter(&f, &e[1], 1, "", 0);
    assert_int_equal(e[0].wait.problem.status, KVS_OK);
    fixture_close(&f);
}

static void bad_names_and_ranks_are_refused(void **state)
{
    static const char *const names[] = {".x", "a b", "a/b", "-", "\xc3\xa9"};
    fixture f;
    entry e;
    char long_name[KVS_NAME_BYTES_MAX + 2];
    (void)state;
    open_with(&f, 2);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        enter(&f, &e, 0, names[i], 0);
        assert_int_equal(e.wait.problem.status, KVS_INVALID_FIELD);
    }
    memset(long_name, 'a', sizeof long_name);
    long_name[KVS_NAME_BYTES_MAX + 1] = '\0';
    enter(&f, &e, 0, long_name, 0);
    assert_int_equal(e.wait.problem.status, KVS_INVALID_FIELD);
    enter(&f, &e, 2, "", 0);
    assert_int_equal(e.wait.problem.status, KVS_INVALID_FIELD);
    fixture_close(&f);
}

static void deletion_tells_everybody_and_lets_nobody_in(void **state)
{
    fixture f;
    entry e[2];
    (void)state;
    open_with(&f, 2);
    enter(&f, &e[0], 0, "n", 0);
    assert_int_equal(kvs_store_delete(f.engine, "", f.now_ns, NULL), KVS_OK);
    assert_int_equal(e[0].wait.problem.status, KVS_STORE_DELETED);
    enter(&f, &e[1], 1, "n", 0);
    assert_int_equal(e[1].wait.problem.status, KVS_STORE_DELETED);
    fixture_close(&f);
}

static void a_local_store_waits_for_nobody(void **state)
{
    fixture f;
    entry e;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "local", .num_workers = 1, .part_elements = 4});
    enter(&f, &e, 0, "", 0);
    assert_int_equal(e.wait.problem.status, KVS_OK);
    fixture_close(&f);
}

static void whoever_leaves_may_enter_again(void **state)
{
    fixture f;
    entry e[4];
    kvs_barrier_info info[4];
    (void)state;
    open_with(&f, 2);
    enter(&f, &e[0], 0, "a", 0);
    kvs_barrier_leave(f.store, &e[1].wait.waiter, f.now_ns); /* is at no barrier */
    assert_int_equal(e[0].wait.calls, 0);
    kvs_barrier_leave(f.store, &e[0].wait.waiter, f.now_ns);
    assert_int_equal(e[0].wait.calls, 1);
    assert_int_equal(e[0].wait.problem.status, KVS_CANCELLED);
    assert_int_equal(kvs_barrier_list(f.store, 4, info), 0);
    enter(&f, &e[1], 1, "a", 0);
    assert_int_equal(e[1].wait.calls, 0);
    enter(&f, &e[2], 0, "a", 0);
    assert_int_equal(e[1].wait.problem.status, KVS_OK);
    assert_int_equal(e[2].wait.problem.status, KVS_OK);
    kvs_barrier_leave(f.store, &e[2].wait.waiter, f.now_ns); /* too late */
    assert_int_equal(e[2].wait.calls, 1);
    fixture_close(&f);
}

static void a_rank_that_goes_from_a_barrier_that_shrinks_may_enter_again(void **state)
{
    fixture f;
    entry e[3];
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 2,
                                        .part_elements = 4,
                                        .policy = KVS_POLICY_SHRINK});
    fixture_worker *a = fixture_join(&f, 0);
    (void)fixture_join(&f, 1);
    enter(&f, &e[0], 0, "", 0);
    kvs_session_leave(a->session, f.now_ns);
    assert_int_equal(e[0].wait.calls, 1);
    assert_int_equal(e[0].wait.problem.status, KVS_FENCED);
    (void)fixture_join(&f, 0);
    enter(&f, &e[1], 0, "", 0);
    assert_int_equal(e[1].wait.calls, 0);
    enter(&f, &e[2], 1, "", 0);
    assert_int_equal(e[1].wait.problem.status, KVS_OK);
    assert_int_equal(e[2].wait.problem.status, KVS_OK);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whoever_leaves_may_enter_again),
        cmocka_unit_test(a_rank_that_goes_from_a_barrier_that_shrinks_may_enter_again),
        cmocka_unit_test(the_last_to_arrive_lets_everybody_go),
        cmocka_unit_test(barriers_of_different_names_do_not_meet),
        cmocka_unit_test(the_deadline_names_the_missing_ranks),
        cmocka_unit_test(the_stores_own_deadline_is_the_latest),
        cmocka_unit_test(a_lost_lease_breaks_it),
        cmocka_unit_test(a_worker_that_leaves_breaks_it),
        cmocka_unit_test(a_rank_counts_once),
        cmocka_unit_test(bad_names_and_ranks_are_refused),
        cmocka_unit_test(deletion_tells_everybody_and_lets_nobody_in),
        cmocka_unit_test(a_local_store_waits_for_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
