#include "base/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void shapes_pack_and_read_back(void **state)
{
    (void)state;
    kvs_shape shapes[] = {
        {.rank = 0},
        {.rank = 1, .size = {0}},
        {.rank = 3, .size = {1, 127, 128}},
        {.rank = 2, .size = {UINT64_MAX, UINT64_C(1) << 40}},
        {.rank = KVS_DIMENSIONS_MAX},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        uint8_t packed[KVS_DIMENSIONS_MAX * 10];
        kvs_part_header header = {.has_shape = true, .shape = packed};
        kvs_shape back;
        header.shape_bytes = kvs_shape_pack(&shapes[i], packed);
        assert_true(kvs_part_header_shape(&header, &back));
        assert_true(kvs_shape_equal(&shapes[i], &back));
    }
}

static bool reads(const uint8_t *packed, size_t bytes)
{
    kvs_part_header header = {.shape = packed, .shape_bytes = (uint32_t)bytes};
    kvs_shape shape;
    return kvs_part_header_shape(&header, &shape);
}

static void too_many_dimensions_are_refused(void **state)
{
    (void)state;
    uint8_t ones[KVS_DIMENSIONS_MAX + 1];
    memset(ones, 1, sizeof ones);
    assert_true(reads(ones, KVS_DIMENSIONS_MAX));
    assert_false(reads(ones, KVS_DIMENSIONS_MAX + 1));
}

static void a_cut_or_endless_number_is_refused(void **state)
{
    (void)state;
    const uint8_t cut[] = {1, 0x80};
    uint8_t endless[11];
    memset(endless, 0xff, sizeof endless);
    endless[10] = 1;
    assert_false(reads(cut, sizeof cut));
    assert_false(reads(endless, sizeof endless));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_pack_and_read_back),
        cmocka_unit_test(too_many_dimensions_are_refused),
        cmocka_unit_test(a_cut_or_endless_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
