/* What one turn launches together: the terms of a sum that have waited for each other, and nothing
 * that must come after them. */
#include "engine/backend_cpu.h"
#include "engine/batch.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define WORKERS 4u
#define CALLS_MAX 64u

static const float zeros[4];

/* The CPU's backend, with its sums counted. */
static struct {
    kvs_backend *backend;
    kvs_backend_table table;
    const kvs_backend_table *cpu;
    size_t calls;
    size_t items[CALLS_MAX];
} counted;

static kvs_status counted_accumulate(kvs_stream *stream, const kvs_accumulate_item *items,
                                     size_t count)
{
    assert_true(counted.calls < CALLS_MAX);
    counted.items[counted.calls++] = count;
    return counted.cpu->accumulate(stream, items, count);
}

static void open_counted(fixture *f)
{
    kvs_problem problem;
    memset(&counted, 0, sizeof counted);
    assert_int_equal(kvs_backend_cpu_open(NULL, &counted.backend, &problem), KVS_OK);
    counted.cpu = counted.backend->table;
    counted.table = *counted.cpu;
    counted.table.accumulate = counted_accumulate;
    counted.backend->table = &counted.table;
    fixture_open(f, &(fixture_options){.type = "dist_sync",
                                       .num_workers = WORKERS,
                                       .shards = 1,
                                       .backend = counted.backend});
    for (int64_t i = 0; i < WORKERS; i++) {
        (void)fixture_join(f, i);
    }
    fixture_init(f, "w", zeros, 4);
}

static void push(fixture *f, uint32_t rank, float value)
{
    const float values[4] = {value, 2 * value, 3 * value, 4 * value};
    (void)fixture_push(f->workers[rank], "w", values, 4, 0, false);
}

static void assert_value(fixture *f, float value)
{
    (void)fixture_pull(f->workers[0], "w", 0);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(f->workers[0]->value[i] == (float)(i + 1) * value);
    }
}

static void terms_that_have_waited_are_launched_together(void **state)
{
    fixture f;
    (void)state;
    open_counted(&f);
    /* (1e8 - 1e8) + 1 + 2 in rank order; any other order has other bits. */
    push(&f, 3, 2);
    push(&f, 2, 1);
    push(&f, 1, -1e8f);
    assert_int_equal(counted.calls, 0);
    push(&f, 0, 1e8f);
    assert_int_equal(counted.calls, 1);
    assert_int_equal(counted.items[0], WORKERS);
    assert_value(&f, 3);
    fixture_close(&f);
}

/* The last of a round is the rule's own: it is read with the sum. */
static void a_rule_follows_the_terms_of_its_round(void **state)
{
    fixture f;
    (void)state;
    open_counted(&f);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1}");
    for (unsigned round = 1; round <= 3; round++) {
        push(&f, 3, 4);
        push(&f, 1, 2);
        push(&f, 2, 3);
        push(&f, 0, 1);
        assert_int_equal(counted.calls, round);
        assert_int_equal(counted.items[round - 1], WORKERS - 1);
        assert_value(&f, -10 * (float)round);
    }
    fixture_close(&f);
}

/* In one turn: the round of all, and of the next what rank 0 has brought already. */
static void the_next_round_is_launched_after_this(void **state)
{
    fixture f;
    (void)state;
    open_counted(&f);
    push(&f, 0, 1);
    push(&f, 0, 10);
    push(&f, 2, 3);
    push(&f, 3, 4);
    assert_int_equal(counted.calls, 1);
    push(&f, 1, 2);
    assert_int_equal(counted.calls, 3);
    assert_int_equal(counted.items[1], 3);
    assert_int_equal(counted.items[2], 1);
    assert_value(&f, 10);
    push(&f, 1, 20);
    push(&f, 2, 30);
    push(&f, 3, 40);
    assert_value(&f, 100);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(terms_that_have_waited_are_launched_together),
        cmocka_unit_test(a_rule_follows_the_terms_of_its_round),
        cmocka_unit_test(the_next_round_is_launched_after_this),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
