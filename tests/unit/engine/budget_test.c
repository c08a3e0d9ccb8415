/* The memory budget: what is charged to it, and what a push that finds no room leaves behind. */
#include "engine/states.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const float zeros[8];
static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
static const float twos[8] = {2, 2, 2, 2, 2, 2, 2, 2};

static uint64_t used(const fixture *f)
{
    return atomic_load_explicit(&f->engine->budget.bytes, memory_order_relaxed);
}

/* From now on there is room for `more` bytes. */
static void allow(fixture *f, uint64_t more)
{
    f->engine->budget.bytes_max = used(f) + more;
}

/* The version of "w", all of whose parts have it. */
static uint64_t version_of(fixture *f)
{
    fixture_wait wait;
    kvs_snapshot snapshot;
    fixture_wait_begin(&wait, 0);
    kvs_store_read(f->store, "w", 1, &snapshot, &wait.waiter, f->now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_OK);
    uint64_t count = snapshot.info.version.count;
    kvs_snapshot_deinit(&snapshot);
    return count;
}

/* Two workers; rank `poor` has room for the first part of its push of ones, not for the second. */
static void open_poor(fixture *f, kvs_policy policy, uint32_t poor)
{
    fixture_open(f, &(fixture_options){.type = "dist_sync",
                                       .num_workers = 2,
                                       .part_elements = 4,
                                       .policy = policy,
                                       .shards = 1});
    (void)fixture_join(f, 0);
    (void)fixture_join(f, 1);
    fixture_init(f, "w", zeros, 8);
    fixture_push_at(f->workers[poor], "w", ones, 4, 1, 0, false);
    allow(f, 0);
    fixture_push_tail(f->workers[poor], "w", ones, 8, 4, 2, 0);
    allow(f, 1 << 20);
    f->workers[poor]->sequence = 3;
}

static void push_both(fixture *f, uint64_t expected)
{
    for (int i = 0; i < 2; i++) {
        (void)fixture_push(f->workers[i], "w", twos, 8, f->workers[i]->sequence - 1, false);
    }
    for (int i = 0; i < 2; i++) {
        for (uint64_t back = 1; back <= 2; back++) {
            assert_int_equal(fixture_status(f->workers[i], f->workers[i]->sequence - back), KVS_OK);
        }
    }
    assert_int_equal(version_of(f), expected);
}

static void a_push_without_room_has_had_its_turn_and_fails_the_round(void **state)
{
    (void)state;
    for (uint32_t poor = 0; poor < 2; poor++) {
        for (int policy = KVS_POLICY_FAIL; policy <= KVS_POLICY_WAIT; policy += 2) {
            fixture f;
            open_poor(&f, (kvs_policy)policy, poor);
            fixture_worker *rich = f.workers[1 - poor];
            assert_int_equal(fixture_status(f.workers[poor], 2), KVS_OVER_BUDGET);
            uint64_t s = fixture_push(rich, "w", ones, 8, 0, false);
            assert_int_equal(fixture_status(rich, s), KVS_OK);
            assert_int_equal(fixture_status(rich, s + 1), KVS_ROUND_FAILED);
            assert_non_null(strstr(fixture_answer_of(rich, s + 1)->detail,
                                   poor == 0 ? "missing rank 0 " : "missing rank 1 "));
            assert_int_equal(version_of(&f), 1);
            push_both(&f, 2);
            fixture_close(&f);
        }
    }
}

static void a_round_that_shrinks_goes_on_without_the_push_that_had_no_room(void **state)
{
    (void)state;
    for (uint32_t poor = 0; poor < 2; poor++) {
        fixture f;
        open_poor(&f, KVS_POLICY_SHRINK, poor);
        fixture_worker *rich = f.workers[1 - poor];
        uint64_t s = fixture_push(rich, "w", ones, 8, 0, true);
        assert_int_equal(fixture_status(f.workers[poor], 2), KVS_OVER_BUDGET);
        assert_int_equal(fixture_status(rich, s), KVS_OK);
        assert_int_equal(fixture_status(rich, s + 1), KVS_OK);
        const float expected[8] = {2, 2, 2, 2, 1, 1, 1, 1};
        assert_memory_equal(rich->value, expected, sizeof expected);
        assert_int_equal(version_of(&f), 1);
        push_both(&f, 2);
        fixture_close(&f);
    }
}

/* A rank that runs ahead: its next push waits as a copy, for which there is no room. */
static void a_later_push_without_room_has_its_turn_when_it_comes(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){
                         .type = "dist_sync", .num_workers = 2, .part_elements = 4, .shards = 1});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 4);
    uint64_t first = fixture_push(a, "w", ones, 4, 0, false);
    allow(&f, 0);
    uint64_t second = fixture_push(a, "w", ones, 4, first, false);
    allow(&f, 1 << 20);
    uint64_t s = fixture_push(b, "w", ones, 4, 0, false);
    assert_int_equal(fixture_status(a, first), KVS_OK);
    assert_int_equal(fixture_status(b, s), KVS_OK);
    s = fixture_push(b, "w", ones, 4, s, false);
    assert_int_equal(fixture_status(a, second), KVS_OVER_BUDGET);
    assert_int_equal(fixture_status(b, s), KVS_ROUND_FAILED);
    assert_int_equal(version_of(&f), 2);
    assert_int_equal(a->credit_back, 32);
    fixture_close(&f);
}

static const uint16_t halves[2] = {0x3f80, 0xc000};

static kvs_status open_states(fixture *f, kvs_states **out)
{
    fixture_wait wait;
    kvs_problem problem;
    kvs_capture *capture = NULL;
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f->store, false, &capture, &wait.waiter, f->now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    kvs_status status = kvs_states_open(capture, false, out, &problem);
    if (status != KVS_OK) {
        kvs_capture_close(capture);
    }
    return status;
}

static void masters_that_a_save_makes_are_charged(void **state)
{
    fixture f;
    kvs_states *states = NULL;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync", .num_workers = 1, .part_elements = 4});
    fixture_init_halves(&f, halves);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"momentum\":0.9,\"multi_precision\":true}");
    uint64_t before = used(&f);
    allow(&f, 2 * sizeof(float) - 1);
    assert_int_equal(open_states(&f, &states), KVS_OVER_BUDGET);
    assert_int_equal(used(&f), before);
    allow(&f, 2 * sizeof(float));
    assert_int_equal(open_states(&f, &states), KVS_OK);
    assert_int_equal(used(&f), before + 2 * sizeof(float));
    kvs_states_close(states);
    assert_int_equal(used(&f), before);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_push_without_room_has_had_its_turn_and_fails_the_round),
        cmocka_unit_test(a_round_that_shrinks_goes_on_without_the_push_that_had_no_room),
        cmocka_unit_test(a_later_push_without_room_has_its_turn_when_it_comes),
        cmocka_unit_test(masters_that_a_save_makes_are_charged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
