/* What goes first: queues of keys and the heap over them, with items made by hand. */
#include "client/dist_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define ITEMS 6

typedef struct test_bench {
    kvs_dist dist;
    kvs_request requests[ITEMS];
    kvs_item items[ITEMS];
} test_bench;

static test_bench *make_bench(void)
{
    test_bench *made = calloc(1, sizeof *made);
    assert_non_null(made);
    return made;
}

static void free_bench(test_bench *bench)
{
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        free(bench->dist.streams[flow].ready.list);
    }
    kvs_client_keys_deinit(&bench->dist.keys);
    free(bench);
}

static kvs_item *queue(test_bench *bench, int i, const char *key, kvs_flow flow, int priority)
{
    kvs_item *item = &bench->items[i];
    bench->requests[i].priority = priority;
    *item = (kvs_item){.request = &bench->requests[i],
                       .key = kvs_client_keys_find_or_add(&bench->dist.keys, key, 1),
                       .flow = flow,
                       .parts = 1};
    assert_int_equal(kvs_item_queue(&bench->dist, item), KVS_OK);
    return item;
}

/* The next of a flow, which then leaves its queue as if it had been sent. */
static const kvs_item *next(test_bench *bench, kvs_flow flow)
{
    const kvs_item_heap *ready = &bench->dist.streams[flow].ready;
    if (ready->count == 0) {
        return NULL;
    }
    kvs_item *item = ready->list[0];
    kvs_item_unqueue(&bench->dist, item);
    return item;
}

static void higher_priority_goes_first_and_equal_ones_as_they_came(void **state)
{
    (void)state;
    test_bench *bench = make_bench();
    const kvs_item *a = queue(bench, 0, "a", KVS_FLOW_PUSH, 0);
    const kvs_item *b = queue(bench, 1, "b", KVS_FLOW_PUSH, -3);
    const kvs_item *c = queue(bench, 2, "c", KVS_FLOW_PUSH, 7);
    const kvs_item *d = queue(bench, 3, "d", KVS_FLOW_PUSH, 0);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), c);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), a);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), d);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), b);
    assert_null(next(bench, KVS_FLOW_PUSH));
    free_bench(bench);
}

static void priority_does_not_change_the_order_within_a_key(void **state)
{
    (void)state;
    test_bench *bench = make_bench();
    const kvs_item *push = queue(bench, 0, "w", KVS_FLOW_PUSH, 0);
    const kvs_item *pull = queue(bench, 1, "w", KVS_FLOW_PULL, 9);
    const kvs_item *again = queue(bench, 2, "w", KVS_FLOW_PUSH, 9);
    const kvs_item *other = queue(bench, 3, "v", KVS_FLOW_PUSH, 5);
    assert_null(next(bench, KVS_FLOW_PULL));
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), other);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), push);
    assert_null(next(bench, KVS_FLOW_PUSH));
    assert_ptr_equal(next(bench, KVS_FLOW_PULL), pull);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), again);
    free_bench(bench);
}

/* The same, sent. */
static const kvs_item *send_next(test_bench *bench, kvs_flow flow)
{
    kvs_item *item = bench->dist.streams[flow].ready.list[0];
    item->parts_sent = 1;
    kvs_item_unqueue(&bench->dist, item);
    return item;
}

static void a_later_push_of_a_key_goes_after_the_first_of_all_others(void **state)
{
    (void)state;
    test_bench *bench = make_bench();
    const kvs_item *a = queue(bench, 0, "a", KVS_FLOW_PUSH, 9);
    const kvs_item *later_a = queue(bench, 1, "a", KVS_FLOW_PUSH, 9);
    const kvs_item *pull = queue(bench, 2, "a", KVS_FLOW_PULL, 0);
    const kvs_item *b = queue(bench, 3, "b", KVS_FLOW_PUSH, 0);
    const kvs_item *later_b = queue(bench, 4, "b", KVS_FLOW_PUSH, 20);
    const kvs_item *c = queue(bench, 5, "c", KVS_FLOW_PUSH, 5);
    assert_ptr_equal(send_next(bench, KVS_FLOW_PUSH), a);
    assert_ptr_equal(send_next(bench, KVS_FLOW_PUSH), c);
    assert_ptr_equal(send_next(bench, KVS_FLOW_PUSH), b);
    assert_ptr_equal(send_next(bench, KVS_FLOW_PUSH), later_b);
    assert_ptr_equal(send_next(bench, KVS_FLOW_PUSH), later_a);
    assert_ptr_equal(send_next(bench, KVS_FLOW_PULL), pull);
    free_bench(bench);
}

static void an_item_leaves_its_queue_from_any_place(void **state)
{
    (void)state;
    test_bench *bench = make_bench();
    kvs_item *items[ITEMS];
    for (int i = 0; i < ITEMS; i++) {
        items[i] = queue(bench, i, "w", KVS_FLOW_PUSH, 0);
    }
    kvs_item_unqueue(&bench->dist, items[ITEMS - 1]);
    kvs_item_unqueue(&bench->dist, items[2]);
    kvs_item_unqueue(&bench->dist, items[0]);
    assert_ptr_equal(items[1]->key->last, items[ITEMS - 2]);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), items[1]);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), items[3]);
    assert_ptr_equal(next(bench, KVS_FLOW_PUSH), items[4]);
    assert_null(next(bench, KVS_FLOW_PUSH));
    assert_null(items[0]->key->first);
    assert_null(items[0]->key->last);
    free_bench(bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(higher_priority_goes_first_and_equal_ones_as_they_came),
        cmocka_unit_test(priority_does_not_change_the_order_within_a_key),
        cmocka_unit_test(a_later_push_of_a_key_goes_after_the_first_of_all_others),
        cmocka_unit_test(an_item_leaves_its_queue_from_any_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
