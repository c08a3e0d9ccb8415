/* Sequences, credit and the window, with items made by hand and no network. */
#include "client/dist_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct test_bench {
    kvs_dist dist;
    kvs_request request;
    kvs_item items[4];
} test_bench;

/* Items of `parts` parts of 100 bytes, all of key "w". */
static test_bench *make_bench(kvs_flow flow, uint64_t parts, uint64_t inflight)
{
    test_bench *made = calloc(1, sizeof *made);
    assert_non_null(made);
    kvs_dist *dist = &made->dist;
    dist->limits.inflight_parts = inflight;
    dist->limits.credit_bytes = 1000;
    dist->credit = 1000;
    dist->flight.base = 1;
    dist->flight.next = 1;
    (void)pthread_cond_init(&dist->changed, NULL);
    assert_int_equal(kvs_flight_reserve(&dist->flight, inflight), KVS_OK);
    kvs_client_key *key = kvs_client_keys_find_or_add(&dist->keys, "w", 1);
    made->request = (kvs_request){
        .dist = dist, .kept = true, .open_items = 4, .live_items = 4, .item_count = 4};
    made->request.items = made->items;
    for (int i = 0; i < 4; i++) {
        made->items[i] = (kvs_item){.request = &made->request,
                                    .key = key,
                                    .flow = flow,
                                    .element_bytes = 4,
                                    .elements = 25 * parts,
                                    .part_elements = 25,
                                    .parts = flow == KVS_FLOW_PULL ? 1 : parts};
    }
    return made;
}

static void free_bench(test_bench *bench)
{
    free(bench->dist.flight.entries);
    kvs_client_keys_deinit(&bench->dist.keys);
    (void)pthread_cond_destroy(&bench->dist.changed);
    free(bench);
}

/* What the sender does with an entry, as far as the window goes. */
static void send_entry(kvs_dist *dist, uint64_t sequence)
{
    kvs_flight_entry *entry = kvs_flight_find(&dist->flight, sequence);
    uint64_t bytes = kvs_item_part_bytes(entry->item, entry->part);
    entry->sent = true;
    dist->credit = dist->credit > bytes ? dist->credit - bytes : 0;
    dist->unanswered_bytes += bytes;
}

static void sequences_count_parts_and_after_is_the_keys_last(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PUSH, 3, 100);
    for (uint64_t s = 1; s <= 3; s++) {
        assert_int_equal(kvs_flight_give(&made->dist, &made->items[0]), s);
    }
    assert_int_equal(made->items[0].after, 0);
    for (uint64_t s = 4; s <= 6; s++) {
        assert_int_equal(kvs_flight_give(&made->dist, &made->items[1]), s);
    }
    assert_int_equal(made->items[1].after, 3);
    assert_int_equal(made->items[1].key->last_sequence, 6);
    assert_int_equal(kvs_flight_find(&made->dist.flight, 5)->part, 1);
    free_bench(made);
}

static void an_item_is_finished_when_its_last_part_is_answered(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PUSH, 2, 100);
    (void)kvs_flight_give(&made->dist, &made->items[0]);
    send_entry(&made->dist, 1);
    kvs_flight_answer(&made->dist, 1);
    assert_false(made->items[0].finished); /* a part of it is still to be sent */
    (void)kvs_flight_give(&made->dist, &made->items[0]);
    send_entry(&made->dist, 2);
    kvs_flight_answer(&made->dist, 2);
    assert_true(made->items[0].finished);
    assert_int_equal(made->request.open_items, 3);
    assert_int_equal(made->dist.flight.base, 3);
    kvs_flight_answer(&made->dist, 2);  /* again: nothing */
    kvs_flight_answer(&made->dist, 77); /* never given: nothing */
    assert_int_equal(made->request.open_items, 3);
    free_bench(made);
}

static void the_window_is_full_until_its_lowest_is_answered(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PUSH, 4, 8);
    for (int i = 0; i < 8; i++) {
        assert_true(kvs_flight_has_room(&made->dist));
        send_entry(&made->dist, kvs_flight_give(&made->dist, &made->items[i / 4]));
    }
    assert_false(kvs_flight_has_room(&made->dist));
    kvs_flight_answer(&made->dist, 5);
    assert_false(kvs_flight_has_room(&made->dist));
    kvs_flight_answer(&made->dist, 1);
    assert_true(kvs_flight_has_room(&made->dist));
    assert_int_equal(made->dist.flight.base, 2);
    free_bench(made);
}

static void the_window_grows_with_what_is_in_it(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PUSH, 900, 1024);
    for (int i = 0; i < 900; i++) {
        (void)kvs_flight_give(&made->dist, &made->items[0]);
    }
    assert_int_equal(kvs_flight_reserve(&made->dist.flight, 5000), KVS_OK);
    for (uint64_t s = 1; s <= 900; s++) {
        assert_int_equal(kvs_flight_find(&made->dist.flight, s)->part, s - 1);
    }
    free_bench(made);
}

static void credit_is_what_is_left_or_what_answers_prove(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PUSH, 20, 100);
    kvs_dist *dist = &made->dist;
    assert_true(kvs_dist_has_credit(dist, 5000)); /* alone: above the limit is possible */
    for (int i = 0; i < 10; i++) {
        assert_true(kvs_dist_has_credit(dist, 100));
        send_entry(dist, kvs_flight_give(dist, &made->items[0]));
    }
    assert_false(kvs_dist_has_credit(dist, 100));
    /* The credit message is lost, but an answer says the same. */
    kvs_flight_answer(dist, 4);
    assert_true(kvs_dist_has_credit(dist, 100));
    assert_false(kvs_dist_has_credit(dist, 200));
    free_bench(made);
}

static void after_a_break_all_that_is_not_answered_is_to_be_sent(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PUSH, 5, 100);
    kvs_dist *dist = &made->dist;
    for (uint64_t s = 1; s <= 5; s++) {
        send_entry(dist, kvs_flight_give(dist, &made->items[0]));
    }
    dist->streams[KVS_FLOW_PUSH].resend = 6;
    kvs_flight_answer(dist, 1);
    kvs_flight_answer(dist, 3);
    kvs_flight_unsend(dist);
    assert_int_equal(dist->streams[KVS_FLOW_PUSH].resend, 2);
    assert_int_equal(dist->unanswered_bytes, 0);
    assert_int_equal(dist->credit, 1000);
    assert_false(kvs_flight_find(&dist->flight, 2)->sent);
    assert_null(kvs_flight_find(&dist->flight, 3));
    send_entry(dist, 2);
    send_entry(dist, 4);
    dist->streams[KVS_FLOW_PUSH].resend = 5;
    kvs_flight_unsend_one(dist, 4);
    assert_int_equal(dist->streams[KVS_FLOW_PUSH].resend, 4);
    assert_int_equal(dist->unanswered_bytes, 100);
    free_bench(made);
}

static void a_pull_that_is_asked_again_is_answered_from_its_start(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PULL, 5, 100);
    kvs_dist *dist = &made->dist;
    uint64_t sequence = kvs_flight_give(dist, &made->items[0]);
    send_entry(dist, sequence);
    assert_int_equal(dist->unanswered_bytes, 0);
    made->items[0].received = 50;
    kvs_flight_unsend(dist);
    assert_int_equal(made->items[0].received, 0);
    free_bench(made);
}

static void a_new_session_counts_from_one(void **state)
{
    (void)state;
    test_bench *made = make_bench(KVS_FLOW_PUSH, 5, 100);
    kvs_dist *dist = &made->dist;
    for (int i = 0; i < 5; i++) {
        send_entry(dist, kvs_flight_give(dist, &made->items[0]));
    }
    kvs_flight_reset(dist, false);
    assert_int_equal(dist->flight.base, 6);
    assert_int_equal(made->items[0].unanswered, 0);
    assert_false(made->items[0].finished);
    assert_int_equal(made->items[0].key->last_sequence, 5);
    kvs_flight_reset(dist, true);
    assert_int_equal(dist->flight.base, 1);
    assert_int_equal(made->items[0].key->last_sequence, 0);
    free_bench(made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_count_parts_and_after_is_the_keys_last),
        cmocka_unit_test(an_item_is_finished_when_its_last_part_is_answered),
        cmocka_unit_test(the_window_is_full_until_its_lowest_is_answered),
        cmocka_unit_test(the_window_grows_with_what_is_in_it),
        cmocka_unit_test(credit_is_what_is_left_or_what_answers_prove),
        cmocka_unit_test(after_a_break_all_that_is_not_answered_is_to_be_sent),
        cmocka_unit_test(a_pull_that_is_asked_again_is_answered_from_its_start),
        cmocka_unit_test(a_new_session_counts_from_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
