/* The ids of pulls by rows, while they wait. */
#include "engine/session.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Pulls that wait for a push of their session's keep their ids meanwhile: so many, and no more. */
static void row_ids_that_wait_are_bounded(void **state)
{
    static uint8_t packed[2500000 * 4];
    static const uint32_t rows = 3000000;
    kvs_shape shape = {.rank = 1, .size = {rows}};
    uint8_t packed_shape[16];
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync", .num_workers = 1});
    fixture_worker *a = fixture_join(&f, 0);
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    kvs_payload nothing_yet = {0};
    fixture_wait done;
    assert_int_equal(kvs_init_open(f.store, NULL, &init, &problem), KVS_OK);
    uint32_t shape_bytes = kvs_shape_pack(&shape, packed_shape);
    for (uint64_t at = 0; at < rows; at += KVS_PART_ELEMENTS) {
        uint64_t left = rows - at;
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
    kvs_init_commit(init, &done.waiter, f.now_ns);
    kvs_init_close(init);
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
    fixture_close_channel(a);
    assert_int_equal(a->session->row_ids, 0);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_ids_that_wait_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
