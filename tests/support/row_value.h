/* A row_sparse value "e" of several parts, in a synchronous store that shrinks: for tests of rows.
 */
#ifndef KVS_TESTS_SUPPORT_ROW_VALUE_H
#define KVS_TESTS_SUPPORT_ROW_VALUE_H

#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Parts of four rows, the last of two. */
#define ROWS 22
#define WIDTH 2
#define PART_ROWS 4
#define PARTS 6

/* As headers have it, once there is a fixture. */
static uint8_t packed_shape[16];
static uint32_t packed_shape_bytes;

static inline kvs_part_header header_of(uint64_t part, uint64_t sequence)
{
    uint64_t left = ROWS - part * PART_ROWS;
    return (kvs_part_header){.key = "e",
                             .key_bytes = 1,
                             .dtype = KVS_F32,
                             .storage = KVS_ROW_SPARSE,
                             .element_offset = part * PART_ROWS * WIDTH,
                             .element_count = (left < PART_ROWS ? left : PART_ROWS) * WIDTH,
                             .sequence = sequence};
}

/* Row i holds i + 1. */
static inline void open_fixture(fixture *f, uint32_t workers)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    kvs_shape shape = {.rank = 2, .size = {ROWS, WIDTH}};
    float value[ROWS][WIDTH];
    fixture_wait done;
    fixture_open(f, &(fixture_options){.type = "dist_sync",
                                       .num_workers = workers,
                                       .policy = KVS_POLICY_SHRINK,
                                       .part_elements = (uint64_t)PART_ROWS * WIDTH});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
    for (int i = 0; i < ROWS * WIDTH; i++) {
        value[i / WIDTH][i % WIDTH] = (float)(i / WIDTH + 1);
    }
    packed_shape_bytes = kvs_shape_pack(&shape, packed_shape);
    assert_int_equal(kvs_init_open(f->store, NULL, &init, &problem), KVS_OK);
    for (uint64_t part = 0; part < PARTS; part++) {
        kvs_part_header header = header_of(part, 0);
        header.has_shape = true;
        header.shape = packed_shape;
        header.shape_bytes = packed_shape_bytes;
        header.payload_bytes = header.element_count * sizeof(float);
        kvs_span span = {(const uint8_t *)value[part * PART_ROWS], header.payload_bytes};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        assert_int_equal(kvs_init_part(init, &header, &payload, &problem), KVS_OK);
    }
    fixture_wait_begin(&done, 0);
    kvs_init_commit(init, &done.waiter, f->now_ns);
    assert_int_equal(done.problem.status, KVS_OK);
    kvs_init_close(init);
}

#endif
