/* The ids of pulls by rows, while they wait. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define ROWS 3000000u

static uint8_t packed[2500000 * 4];

/* A value of ROWS rows of one element, all zero. */
static void open_fixture(fixture *f, uint32_t workers)
{
    kvs_shape shape = {.rank = 1, .size = {ROWS}};
    uint8_t packed_shape[16];
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    kvs_payload nothing_yet = {0};
    fixture_wait done;
    fixture_open(f, &(fixture_options){.type = "dist_sync", .num_workers = workers});
    for (uint32_t i = 0; i < workers; i++) {
        fixture_join(f, i)->counts_only = true;
    }
    assert_int_equal(kvs_init_open(f->store, NULL, &init, &problem), KVS_OK);
    uint32_t shape_bytes = kvs_shape_pack(&shape, packed_shape);
    for (uint64_t at = 0; at < ROWS; at += KVS_PART_ELEMENTS) {
        uint64_t left = ROWS - at;
        kvs_part_header header = {.key = "e",
                                  .key_bytes = 1,
                                  .dtype = KVS_F32,
                                  .storage = KVS_ROW_SPARSE,
                                  .has_shape = true,
                                  .shape = packed_shape,
                                  .shape_bytes = shape_bytes,
                                  .element_offset = at,
                                  .element_count =
                                      left < KVS_PART_ELEMENTS ? left : KVS_PART_ELEMENTS};
        assert_int_equal(kvs_init_part(init, &header, &nothing_yet, &problem), KVS_OK);
    }
    fixture_wait_begin(&done, 0);
    kvs_init_commit(init, &done.waiter, f->now_ns);
    assert_int_equal(done.problem.status, KVS_OK);
    kvs_init_close(init);
}

static uint64_t in_use(const fixture *f)
{
    return atomic_load(&f->store->engine->budget.bytes);
}

/* Pulls that wait for a push of their session's keep their ids meanwhile: so many, and no more. */
static void row_ids_that_wait_are_bounded(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    uint64_t before = in_use(&f);
    kvs_pull_key pull = {.key = "e", .key_bytes = 1, .row_ids = packed};
    for (uint64_t row = 0; row < 2500000; row++) {
        pull.row_ids_bytes += kvs_varint_pack(row, packed + pull.row_ids_bytes);
    }
    for (uint64_t sequence = 2; sequence <= 3; sequence++) {
        pull.sequence = sequence;
        pull.after = 1; /* which has not come */
        fixture_pull_keys(a, &pull, 1);
    }
    assert_int_equal(fixture_status(a, 2), KVS_STATUS_COUNT);
    assert_int_equal(fixture_status(a, 3), KVS_TOO_MANY);
    assert_true(in_use(&f) >= before + 2500000 * sizeof(uint64_t));
    fixture_close_channel(a);
    assert_int_equal(a->session->row_ids, 0);
    assert_int_equal(in_use(&f), before);
    fixture_close(&f);
}

static void ids_in_any_order_are_kept_ascending_and_once(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    for (uint64_t sequence = 2; sequence < 12; sequence++) {
        kvs_pull_key pull = {
            .key = "e", .key_bytes = 1, .sequence = sequence, .after = 1, .row_ids = packed};
        static bool there[ROWS];
        memset(there, 0, sizeof there);
        uint64_t distinct = 0;
        uint32_t random = (uint32_t)sequence;
        uint64_t count = sequence == 2 ? 2 : 50000;
        for (uint64_t i = 0; i < count; i++) {
            random = random * 1664525u + 1013904223u;
            uint64_t id = (random >> 4) % (sequence % 2 == 0 ? ROWS : 40000u);
            pull.row_ids_bytes += kvs_varint_pack(id, packed + pull.row_ids_bytes);
            distinct += there[id] ? 0 : 1;
            there[id] = true;
        }
        fixture_pull_keys(a, &pull, 1);
        const kvs_op *op = a->session->deferred.last;
        assert_int_equal(op->sequence, sequence);
        assert_int_equal(op->row_id_count, distinct);
        for (uint64_t i = 0; i < distinct; i++) {
            assert_true(there[op->row_ids[i]] && (i == 0 || op->row_ids[i] > op->row_ids[i - 1]));
        }
    }
    fixture_close_channel(a);
    fixture_close(&f);
}

static void ids_that_find_no_room_are_refused(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    uint64_t before = in_use(&f);
    kvs_pull_key pull = {.key = "e", .key_bytes = 1, .sequence = 1, .row_ids = packed};
    for (uint64_t row = 1000; row-- > 0;) {
        pull.row_ids_bytes += kvs_varint_pack(row, packed + pull.row_ids_bytes);
    }
    f.store->engine->budget.bytes_max = before + 12000; /* for them, and not to sort them */
    fixture_pull_keys(a, &pull, 1);
    assert_int_equal(fixture_status(a, 1), KVS_OVER_BUDGET);
    assert_int_equal(in_use(&f), before);
    f.store->engine->budget.bytes_max = 0;
    pull.sequence = 2;
    fixture_pull_keys(a, &pull, 1);
    assert_int_equal(fixture_status(a, 2), KVS_OK);
    fixture_close(&f);
}

/* What a reader has no room ahead for takes none here either. */
static void rows_are_listed_when_there_is_room_for_them(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1);
    fixture_worker *a = f.workers[0];
    a->slow = true;
    kvs_pull_key pull = {.key = "e", .key_bytes = 1, .sequence = 1, .row_ids = packed};
    for (uint64_t row = 0; row < 2000000; row++) {
        pull.row_ids_bytes += kvs_varint_pack(row, packed + pull.row_ids_bytes);
    }
    fixture_pull_keys(a, &pull, 1);
    uint64_t values = a->values;
    assert_in_range(values, 1, KVS_PULL_BYTES_AHEAD / (KVS_PART_ELEMENTS * sizeof(float)));
    f.store->engine->budget.bytes_max = 1; /* not one more list */
    fixture_sent(a, 0);
    assert_int_equal(a->values, values);
    assert_int_equal(fixture_status(a, 1), KVS_STATUS_COUNT);
    f.store->engine->budget.bytes_max = 0;
    while (a->unsent > 0) {
        fixture_sent(a, a->unsent);
    }
    assert_int_equal(fixture_status(a, 1), KVS_OK);
    fixture_close(&f);
}

/* The list of a push that waits for a lower rank, and what is kept of a round. */
static void lists_of_pushed_rows_stand_in_the_budget(void **state)
{
    static float data[1000];
    fixture f;
    (void)state;
    open_fixture(&f, 2);
    fixture_worker *b = f.workers[1];
    kvs_part_header header = {.key = "e",
                              .key_bytes = 1,
                              .dtype = KVS_F32,
                              .storage = KVS_ROW_SPARSE,
                              .element_count = KVS_PART_ELEMENTS,
                              .sequence = 1,
                              .row_ids = packed,
                              .payload_bytes = sizeof data};
    for (uint64_t row = 0; row < 1000; row++) {
        header.row_ids_bytes += kvs_varint_pack(row, packed + header.row_ids_bytes);
    }
    uint64_t before = in_use(&f);
    f.store->engine->budget.bytes_max = before + 3000; /* not for the list */
    fixture_push_parts(b, &header, 1, data, sizeof data, false);
    assert_int_equal(fixture_status(b, 1), KVS_OVER_BUDGET);
    assert_int_equal(b->credit_back, sizeof data);
    assert_int_equal(in_use(&f), before);
    f.store->engine->budget.bytes_max = 0;
    kvs_part_header nothing = header;
    nothing.row_ids_bytes = 0;
    nothing.payload_bytes = 0;
    fixture_push_parts(f.workers[0], &nothing, 1, NULL, 0, false);
    assert_int_equal(fixture_status(f.workers[0], 1), KVS_ROUND_FAILED); /* b's turn was empty */
    header.sequence = 2;
    fixture_push_parts(b, &header, 1, data, sizeof data, false); /* of the next round */
    /* The list, the bytes that wait, a place for each row of the part. */
    assert_true(in_use(&f) >= before + 1000 * sizeof(uint32_t) + sizeof data +
                                  KVS_PART_ELEMENTS * sizeof(uint32_t));
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_ids_that_wait_are_bounded),
        cmocka_unit_test(ids_in_any_order_are_kept_ascending_and_once),
        cmocka_unit_test(ids_that_find_no_room_are_refused),
        cmocka_unit_test(rows_are_listed_when_there_is_room_for_them),
        cmocka_unit_test(lists_of_pushed_rows_stand_in_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
