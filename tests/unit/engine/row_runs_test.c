/* Headers that stand for several parts without rows: each part has its sequence and its turn. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/row_value.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static float rows[PART_ROWS][WIDTH] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}};

/* Row 9 (part 2) alone: a run, a part with rows, a run. The sequence of the first part. */
static uint64_t send_row(fixture_worker *worker, uint64_t sequence)
{
    static const uint8_t id = 9;
    kvs_part_header headers[3] = {header_of(0, sequence), header_of(2, sequence + 2),
                                  header_of(3, sequence + 3)};
    headers[0].empty_parts = 2;
    headers[1].row_ids = &id;
    headers[1].row_ids_bytes = 1;
    headers[1].payload_bytes = sizeof rows[0];
    headers[2].empty_parts = 3;
    fixture_push_parts(worker, headers, 3, rows, sizeof rows[0], false);
    return sequence;
}

/* Nothing anywhere. */
static uint64_t send_nothing(fixture_worker *worker, uint64_t sequence)
{
    kvs_part_header header = header_of(0, sequence);
    header.empty_parts = PARTS;
    fixture_push_parts(worker, &header, 1, NULL, 0, false);
    return sequence;
}

static void assert_statuses(const fixture_worker *worker, uint64_t first, kvs_status status)
{
    for (uint64_t part = 0; part < PARTS; part++) {
        assert_int_equal(fixture_status(worker, first + part), status);
    }
}

static void assert_row(fixture_worker *worker, uint64_t row, float first)
{
    (void)fixture_pull(worker, "e", 0);
    for (uint64_t i = 0; i < ROWS; i++) {
        assert_true(worker->value[i * WIDTH] == (i == row ? first : 0));
    }
}

static void each_part_of_a_run_has_its_turn_and_its_ack(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 2);
    fixture_worker *a = f.workers[0];
    fixture_worker *b = f.workers[1];
    uint64_t first = send_row(a, 1);
    assert_statuses(a, first, KVS_STATUS_COUNT); /* the other rank's turn is still to come */
    uint64_t other = send_nothing(b, 1);
    assert_statuses(a, first, KVS_OK);
    assert_statuses(b, other, KVS_OK);
    kvs_key *key = kvs_key_table_find(&f.store->keys, "e", 1);
    for (uint64_t part = 0; part < PARTS; part++) {
        assert_int_equal(atomic_load(&key->parts[part].version), 1);
    }
    a->sequence = 1 + PARTS;
    assert_row(a, 9, 1);
    assert_int_equal(a->credit_back, sizeof rows[0]);
    fixture_close(&f);
}

/* A run that comes again, whole or overlapping, counts once for every part of it. */
static void a_run_that_is_repeated_counts_once(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_optimizer(&f, "{\"name\": \"sgd\", \"learning_rate\": 1}");
    (void)send_row(a, 1);
    (void)send_row(a, 1);
    kvs_part_header again = header_of(3, 4);
    again.empty_parts = 2;
    fixture_push_parts(a, &again, 1, NULL, 0, false);
    kvs_key *key = kvs_key_table_find(&f.store->keys, "e", 1);
    for (uint64_t part = 0; part < PARTS; part++) {
        assert_int_equal(atomic_load(&key->parts[part].version), 1);
    }
    kvs_store_statistics counted;
    kvs_store_count(f.store, &counted);
    assert_int_equal(counted.duplicates, PARTS + 2);
    assert_true(fixture_answer_of(a, 4)->duplicate);
    fixture_close(&f);
}

/* A rank that has gone in the middle of a run. */
static void a_run_may_be_cut(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 2);
    fixture_worker *a = f.workers[0];
    kvs_part_header header = header_of(0, 1);
    header.empty_parts = 3;
    fixture_push_parts(a, &header, 1, NULL, 0, false);
    kvs_session_leave(a->session, f.now_ns);
    (void)send_row(f.workers[1], 1);
    kvs_key *key = kvs_key_table_find(&f.store->keys, "e", 1);
    for (uint64_t part = 0; part < PARTS; part++) {
        assert_int_equal(atomic_load(&key->parts[part].version), 1);
    }
    fixture_close(&f);
}

static void what_is_no_run_is_refused_for_each_of_its_parts(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    uint64_t sequence = 1;
    for (int kind = 0; kind < 6; kind++) {
        static const uint8_t id = 0;
        kvs_part_header header = header_of(0, sequence);
        header.empty_parts = 3;
        size_t bytes = 0;
        kvs_status expected = KVS_INVALID_FIELD;
        kvs_status first = KVS_INVALID_FIELD;
        switch (kind) {
        case 0:
            header.payload_bytes = bytes = sizeof rows[0];
            break;
        case 1:
            header.row_ids = &id;
            header.row_ids_bytes = 1;
            break;
        case 2:
            header.storage = KVS_DENSE;
            break;
        case 3:
            header.codec = KVS_CODEC_BF16;
            break;
        case 4:
            header.key = "x";
            expected = first = KVS_KEY_NOT_FOUND;
            break;
        default: /* beyond the last part */
            header.element_offset = (PARTS - 1) * (uint64_t)PART_ROWS * WIDTH;
            header.element_count = 2 * WIDTH;
            expected = KVS_INVALID_TENSOR;
            first = KVS_OK;
            break;
        }
        uint64_t credit = a->credit_back;
        fixture_push_parts(a, &header, 1, rows, bytes, false);
        assert_int_equal(fixture_status(a, sequence), first);
        assert_int_equal(fixture_status(a, sequence + 1), expected);
        assert_int_equal(fixture_status(a, sequence + 2), expected);
        assert_int_equal(a->credit_back - credit, bytes);
        sequence += 3;
    }
    assert_int_equal(a->session->window.low, sequence); /* all of them are used */
    fixture_close(&f);
}

static void a_run_beyond_the_window_is_a_gap(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    kvs_part_header header = header_of(0, UINT64_MAX - 1);
    header.empty_parts = 3; /* the numbers pass 0 */
    fixture_push_parts(a, &header, 1, NULL, 0, false);
    assert_int_equal(fixture_status(a, UINT64_MAX - 1), KVS_SEQ_GAP);
    assert_int_equal(fixture_status(a, UINT64_MAX), KVS_SEQ_GAP);
    assert_int_equal(a->session->window.low, 1);
    fixture_close(&f);
}

#define MANY 2000u

/* Of parts that lie with five shards, each of which answers its own. */
static void the_parts_of_a_frame_are_acked_as_one_range(void **state)
{
    kvs_shape shape = {.rank = 1, .size = {MANY}};
    kvs_problem problem = {.status = KVS_OK};
    kvs_payload nothing = {0};
    kvs_init *init = NULL;
    kvs_part_header header = {.key = "e",
                              .key_bytes = 1,
                              .dtype = KVS_F32,
                              .storage = KVS_ROW_SPARSE,
                              .has_shape = true,
                              .shape = packed_shape,
                              .shape_bytes = kvs_shape_pack(&shape, packed_shape),
                              .element_count = 1};
    fixture_wait done;
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){
                         .type = "dist_sync", .num_workers = 1, .part_elements = 1, .shards = 5});
    fixture_worker *a = fixture_join(&f, 0);
    assert_int_equal(kvs_init_open(f.store, NULL, &init, &problem), KVS_OK);
    for (; header.element_offset < MANY; header.element_offset++) {
        assert_int_equal(kvs_init_part(init, &header, &nothing, &problem), KVS_OK);
    }
    fixture_wait_begin(&done, 0);
    kvs_init_commit(init, &done.waiter, f.now_ns);
    assert_int_equal(done.problem.status, KVS_OK);
    kvs_init_close(init);
    header.element_offset = 0;
    header.has_shape = false;
    header.sequence = 1;
    header.empty_parts = MANY;
    fixture_push_parts(a, &header, 1, NULL, 0, false);
    assert_int_equal(a->ack_ranges, 1);
    for (uint64_t part = 0; part < MANY; part++) {
        assert_int_equal(a->answers[part].sequence, part + 1);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_part_of_a_run_has_its_turn_and_its_ack),
        cmocka_unit_test(a_run_that_is_repeated_counts_once),
        cmocka_unit_test(a_run_may_be_cut),
        cmocka_unit_test(what_is_no_run_is_refused_for_each_of_its_parts),
        cmocka_unit_test(a_run_beyond_the_window_is_a_gap),
        cmocka_unit_test(the_parts_of_a_frame_are_acked_as_one_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
