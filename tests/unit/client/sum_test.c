#include "client/sum.h"

#include <setjmp.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void values_are_added_left_to_right(void **state)
{
    (void)state;
    /* Of these only ((a + b) + c) is 1; any other order is 0 or 2. */
    float values[3][2] = {{1e8f, -0.0f}, {-1e8f, -0.0f}, {1, -0.0f}};
    const uint64_t shape = 2;
    kv_array arrays[3];
    const kv_array *list[3];
    for (int i = 0; i < 3; i++) {
        arrays[i] = (kv_array){values[i], KV_F32, 1, &shape};
        list[i] = &arrays[i];
    }
    kvs_group group = {.name = "w", .name_bytes = 1, .values = list, .value_count = 3};
    alignas(64) float target[16];
    kvs_sum sum;
    assert_int_equal(kvs_sum_init(&sum, NULL), KVS_OK);
    assert_int_equal(kvs_sum_group(&sum, &group, target, NULL), KVS_OK);
    assert_float_equal(target[0], 1, 0);
    list[1] = &arrays[2];
    list[2] = &arrays[1];
    assert_int_equal(kvs_sum_group(&sum, &group, target, NULL), KVS_OK);
    assert_float_equal(target[0], 0, 0);
    kvs_sum_deinit(&sum);
}

static void the_first_value_is_copied_to_the_bit(void **state)
{
    (void)state;
    uint32_t bits[] = {0x80000000u, 0x7fc12345u, 0xffffffffu};
    const uint64_t shape = 3;
    kv_array array = {bits, KV_F32, 1, &shape};
    const kv_array *list[] = {&array};
    kvs_group group = {.name = "w", .name_bytes = 1, .values = list, .value_count = 1};
    alignas(64) uint32_t target[16];
    kvs_sum sum;
    assert_int_equal(kvs_sum_init(&sum, NULL), KVS_OK);
    assert_int_equal(kvs_sum_group(&sum, &group, target, NULL), KVS_OK);
    assert_memory_equal(target, bits, sizeof bits);
    kvs_sum_deinit(&sum);
}

static void integers_are_summed_as_well(void **state)
{
    (void)state;
    int32_t values[2][3] = {{1, INT32_MAX, -5}, {2, 1, 5}};
    const uint64_t shape = 3;
    kv_array arrays[] = {{values[0], KV_I32, 1, &shape}, {values[1], KV_I32, 1, &shape}};
    const kv_array *list[] = {&arrays[0], &arrays[1]};
    kvs_group group = {.name = "n", .name_bytes = 1, .values = list, .value_count = 2};
    alignas(64) int32_t target[16];
    kvs_sum sum;
    assert_int_equal(kvs_sum_init(&sum, NULL), KVS_OK);
    assert_int_equal(kvs_sum_group(&sum, &group, target, NULL), KVS_OK);
    assert_int_equal(target[0], 3);
    assert_int_equal(target[1], INT32_MIN);
    assert_int_equal(target[2], 0);
    kvs_sum_deinit(&sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_added_left_to_right),
        cmocka_unit_test(the_first_value_is_copied_to_the_bit),
        cmocka_unit_test(integers_are_summed_as_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
