#include "base/tensor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void dtypes_have_names_and_sizes(void **state)
{
    (void)state;
    assert_int_equal(kvs_dtype_bytes(KVS_F32), 4);
    assert_int_equal(kvs_dtype_bytes(KVS_BF16), 2);
    assert_int_equal(kvs_dtype_bytes(KVS_I64), 8);
    assert_int_equal(kvs_dtype_bytes(KVS_DTYPE_NONE), 0);
    assert_int_equal(kvs_dtype_bytes((kvs_dtype)99), 0);
    for (int i = 1; i < KVS_DTYPE_COUNT; i++) {
        assert_int_equal(kvs_dtype_parse(kvs_dtype_name((kvs_dtype)i)), i);
        assert_true(kvs_dtype_bytes((kvs_dtype)i) > 0);
    }
    assert_int_equal(kvs_dtype_parse("f31"), KVS_DTYPE_NONE);
    assert_string_equal(kvs_dtype_name((kvs_dtype)99), "none");
}

static void elements_of_a_shape_are_its_product(void **state)
{
    (void)state;
    uint64_t elements = 9;
    kvs_shape scalar = {.rank = 0};
    assert_true(kvs_shape_elements(&scalar, &elements));
    assert_int_equal(elements, 1);
    kvs_shape cube = {.rank = 3, .size = {2, 3, 4}};
    assert_true(kvs_shape_elements(&cube, &elements));
    assert_int_equal(elements, 24);
    kvs_shape empty = {.rank = 2, .size = {0, 5}};
    assert_true(kvs_shape_elements(&empty, &elements));
    assert_int_equal(elements, 0);
}

static void elements_above_the_limit_are_refused(void **state)
{
    (void)state;
    uint64_t elements;
    kvs_shape most = {.rank = 2, .size = {KVS_ELEMENTS_MAX, 1}};
    assert_true(kvs_shape_elements(&most, &elements));
    assert_int_equal(elements, KVS_ELEMENTS_MAX);
    kvs_shape more = {.rank = 2, .size = {KVS_ELEMENTS_MAX, 2}};
    assert_false(kvs_shape_elements(&more, &elements));
    kvs_shape wraps = {.rank = 2, .size = {UINT64_C(1) << 32, UINT64_C(1) << 32}};
    assert_false(kvs_shape_elements(&wraps, &elements));
    kvs_shape hidden = {.rank = 3, .size = {0, UINT64_MAX, UINT64_MAX}};
    assert_false(kvs_shape_elements(&hidden, &elements));
}

static void shapes_are_equal_in_rank_and_sizes(void **state)
{
    (void)state;
    kvs_shape a = {.rank = 2, .size = {2, 3, 7}};
    kvs_shape b = {.rank = 2, .size = {2, 3, 8}}; /* what is behind the rank does not count */
    kvs_shape c = {.rank = 2, .size = {3, 2}};
    kvs_shape d = {.rank = 3, .size = {2, 3, 1}};
    assert_true(kvs_shape_equal(&a, &b));
    assert_false(kvs_shape_equal(&a, &c));
    assert_false(kvs_shape_equal(&a, &d));
}

/* ------------------------------------------------------------------ payloads */

static const uint8_t bytes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* 16 bytes as spans of 3, 0, 1, 5 and 7. */
static const kvs_span pieces[] = {
    {bytes, 3}, {bytes + 3, 0}, {bytes + 3, 1}, {bytes + 4, 5}, {bytes + 9, 7}};

static void gather_copies_what_the_payload_covers(void **state)
{
    (void)state;
    for (size_t skip = 0; skip <= 3; skip++) {
        for (size_t length = 0; length + skip <= sizeof bytes; length++) {
            kvs_payload payload = {pieces, 5, skip, length};
            uint8_t out[sizeof bytes + 1];
            memset(out, 0xee, sizeof out);
            kvs_payload_gather(&payload, out);
            assert_memory_equal(out, bytes + skip, length);
            assert_int_equal(out[length], 0xee);
        }
    }
}

static void a_slice_is_the_bytes_from_its_offset(void **state)
{
    (void)state;
    kvs_payload payload = {pieces, 5, 1, 15};
    for (size_t offset = 0; offset <= 15; offset++) {
        for (size_t length = 0; offset + length <= 15; length++) {
            uint8_t out[sizeof bytes];
            kvs_payload part = kvs_payload_slice(&payload, offset, length);
            kvs_payload_gather(&part, out);
            assert_memory_equal(out, bytes + 1 + offset, length);
        }
    }
}

typedef struct seen {
    uint8_t data[16];
    size_t element_bytes;
    size_t elements;
    size_t calls;
} seen;

static void see(void *context, size_t first_element, const uint8_t *data, size_t elements)
{
    seen *to = context;
    assert_int_equal(first_element, to->elements); /* in order, none left out */
    memcpy(to->data + first_element * to->element_bytes, data, elements * to->element_bytes);
    to->elements += elements;
    to->calls++;
}

static void runs_hand_over_every_element_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 4, 8};
    for (size_t i = 0; i < 4; i++) {
        for (size_t skip = 0; skip <= 3; skip++) {
            size_t elements = (sizeof bytes - skip) / sizes[i];
            kvs_payload payload = {pieces, 5, skip, elements * sizes[i]};
            seen out = {.element_bytes = sizes[i]};
            kvs_payload_runs(&payload, sizes[i], see, &out);
            assert_int_equal(out.elements, elements);
            assert_memory_equal(out.data, bytes + skip, elements * sizes[i]);
        }
    }
}

static void one_span_is_one_run(void **state)
{
    (void)state;
    kvs_span whole = {bytes, 16};
    kvs_payload payload = {&whole, 1, 0, 16};
    seen out = {.element_bytes = 4};
    kvs_payload_runs(&payload, 4, see, &out);
    assert_int_equal(out.calls, 1);
}

static void an_element_may_lie_in_more_than_two_spans(void **state)
{
    (void)state;
    kvs_span single[16];
    for (size_t i = 0; i < 16; i++) {
        single[i] = (kvs_span){bytes + i, 1};
    }
    kvs_payload payload = {single, 16, 0, 16};
    seen out = {.element_bytes = 8};
    kvs_payload_runs(&payload, 8, see, &out);
    assert_int_equal(out.elements, 2);
    assert_memory_equal(out.data, bytes, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtypes_have_names_and_sizes),
        cmocka_unit_test(elements_of_a_shape_are_its_product),
        cmocka_unit_test(elements_above_the_limit_are_refused),
        cmocka_unit_test(shapes_are_equal_in_rank_and_sizes),
        cmocka_unit_test(gather_copies_what_the_payload_covers),
        cmocka_unit_test(a_slice_is_the_bytes_from_its_offset),
        cmocka_unit_test(runs_hand_over_every_element_once),
        cmocka_unit_test(one_span_is_one_run),
        cmocka_unit_test(an_element_may_lie_in_more_than_two_spans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
