/* Rows of one version: what a cut captures while parts are at different ones. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/row_value.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const float ones[PART_ROWS][WIDTH] = {{1, 1}, {1, 1}, {1, 1}, {1, 1}};

/* All rows of a part are set to one. */
static void push_part(fixture_worker *worker, uint64_t part, uint64_t sequence)
{
    kvs_part_header header = header_of(part, sequence);
    header.payload_bytes = header.element_count * sizeof(float);
    fixture_push_parts(worker, &header, 1, ones, header.payload_bytes, false);
}

static uint64_t pull_rows(fixture_worker *worker, uint64_t sequence, const uint64_t *ids,
                          size_t count, kvs_codec codec)
{
    static uint8_t packed[64];
    kvs_pull_key pull = {.key = "e",
                         .key_bytes = 1,
                         .sequence = sequence,
                         .row_ids = packed,
                         .snapshot = true,
                         .codec = codec};
    for (size_t i = 0; i < count; i++) {
        pull.row_ids_bytes += kvs_varint_pack(ids[i], packed + pull.row_ids_bytes);
    }
    worker->rows = 0;
    worker->values = 0;
    memset(worker->value, 0, sizeof worker->value);
    fixture_pull_keys(worker, &pull, 1);
    return sequence;
}

static const uint64_t wanted[] = {21, 1, 13, 2, 1}; /* of parts 0, 3 and 5 */
#define WANTED (sizeof wanted / sizeof wanted[0])

static void rows_of_a_snapshot_come_once_and_in_order(void **state)
{
    static const kvs_codec codecs[] = {KVS_CODEC_NONE, KVS_CODEC_F16, KVS_CODEC_BF16,
                                       KVS_CODEC_INT8};
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    for (size_t c = 0; c < 4; c++) {
        uint64_t sequence = pull_rows(a, 1 + c, wanted, WANTED, codecs[c]);
        assert_int_equal(fixture_status(a, sequence), KVS_OK);
        assert_int_equal(a->values, 3);
        assert_int_equal(a->rows, 4);
        for (uint64_t row = 0; row < ROWS; row++) {
            bool there = row == 1 || row == 2 || row == 13 || row == 21;
            assert_true(a->value[row * WIDTH] == (there ? (float)(row + 1) : 0));
        }
    }
    fixture_close(&f);
}

/* Part 0 is a version ahead: the others are waited for, and part 0's rows are of that version. */
static void all_parts_are_of_one_version(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 2);
    fixture_worker *a = f.workers[0];
    fixture_worker *b = f.workers[1];
    push_part(a, 0, 1);
    push_part(b, 0, 1);
    uint64_t sequence = pull_rows(b, 2, wanted, WANTED, KVS_CODEC_NONE);
    assert_int_equal(fixture_status(b, sequence), KVS_STATUS_COUNT);
    push_part(a, 0, 2); /* and goes on to the next one: its rows have been copied */
    push_part(b, 0, 3);
    for (uint64_t part = 1; part < PARTS; part++) {
        push_part(a, part, 2 + part);
        push_part(b, part, 3 + part);
    }
    assert_int_equal(fixture_status(b, sequence), KVS_OK);
    assert_int_equal(b->rows, 4);
    assert_int_equal(b->version.count, 1);
    assert_true(b->value[1 * WIDTH] ==
                2); /* one round without a rule: 1 + 1, not the first value */
    assert_true(b->value[13 * WIDTH] == 2);
    assert_true(b->value[21 * WIDTH] == 2);
    fixture_close(&f);
}

static void what_finds_no_room_is_refused_and_leaves_nothing(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    kvs_budget *budget = &f.store->engine->budget;
    uint64_t held = atomic_load(&budget->bytes);
    for (uint64_t room = 0; room < 800; room += 16) {
        budget->bytes_max = held + room;
        kvs_status status =
            fixture_status(a, pull_rows(a, 1 + room / 16, wanted, WANTED, KVS_CODEC_BF16));
        assert_true(status == KVS_OVER_BUDGET || (room > 300 && status == KVS_OK));
    }
    budget->bytes_max = 0;
    assert_int_equal(fixture_status(a, pull_rows(a, 100, wanted, WANTED, KVS_CODEC_BF16)), KVS_OK);
    assert_int_equal(a->session->row_ids, 0);
    fixture_close(&f);
}

/* The reader goes, or the store, while a part is still behind. */
static void a_snapshot_may_be_given_up(void **state)
{
    (void)state;
    for (int late = 0; late < 2; late++) {
        fixture f;
        open_fixture(&f, 2);
        fixture_worker *a = f.workers[0];
        fixture_worker *b = f.workers[1];
        push_part(a, 0, 1);
        push_part(b, 0, 1);
        uint64_t sequence = pull_rows(b, 2, wanted, WANTED, KVS_CODEC_INT8);
        if (late == 0) {
            fixture_close_channel(b);
        } else {
            kvs_problem problem;
            assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, &problem), KVS_OK);
            kvs_status status = fixture_status(b, sequence);
            assert_true(status == KVS_STORE_DELETED || status == KVS_FENCED);
        }
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_a_snapshot_come_once_and_in_order),
        cmocka_unit_test(all_parts_are_of_one_version),
        cmocka_unit_test(what_finds_no_room_is_refused_and_leaves_nothing),
        cmocka_unit_test(a_snapshot_may_be_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
