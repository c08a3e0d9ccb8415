#include "client/group.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static float numbers[8];
static const uint64_t pair[] = {2};
static const uint64_t square[] = {2, 2};

static kv_array array_of(const uint64_t *shape, uint32_t rank)
{
    return (kv_array){numbers, KV_F32, rank, shape};
}

static void refused(const kvs_arguments *arguments, kvs_status status, const char *words)
{
    kvs_groups groups = {0};
    kvs_problem problem = {0};
    assert_int_equal(kvs_groups_make(arguments, &groups, &problem), status);
    assert_non_null(strstr(problem.detail, words));
    assert_null(groups.list);
}

static void keys_that_repeat_are_one_group_in_the_order_of_their_values(void **state)
{
    (void)state;
    kv_key keys[] = {{.name = "b"}, {.name = "a"}, {.name = "b"}, {.name = "c"}};
    kv_array values[6];
    size_t counts[] = {1, 2, 2, 1};
    for (int i = 0; i < 6; i++) {
        values[i] = array_of(pair, 1);
    }
    kvs_arguments arguments = {.keys = keys, .count = 4, .values = values, .value_counts = counts};
    kvs_groups groups;
    assert_int_equal(kvs_groups_make(&arguments, &groups, NULL), KVS_OK);
    assert_int_equal(groups.count, 3);
    assert_string_equal(groups.list[0].name, "b");
    assert_int_equal(groups.list[0].value_count, 3);
    assert_ptr_equal(groups.list[0].values[0], &values[0]);
    assert_ptr_equal(groups.list[0].values[1], &values[3]);
    assert_ptr_equal(groups.list[0].values[2], &values[4]);
    assert_string_equal(groups.list[1].name, "a");
    assert_ptr_equal(groups.list[1].values[1], &values[2]);
    assert_string_equal(groups.list[2].name, "c");
    assert_ptr_equal(groups.list[2].values[0], &values[5]);
    kvs_groups_deinit(&groups);
}

static void numbers_are_names_in_decimal(void **state)
{
    (void)state;
    kv_key keys[] = {{.number = 3}, {.number = INT64_MIN}, {.number = 3}};
    kv_array values[] = {array_of(pair, 1), array_of(pair, 1), array_of(pair, 1)};
    kvs_arguments arguments = {.keys = keys, .count = 3, .values = values};
    kvs_groups groups;
    assert_int_equal(kvs_groups_make(&arguments, &groups, NULL), KVS_OK);
    assert_int_equal(groups.count, 2);
    assert_string_equal(groups.list[0].name, "3");
    assert_int_equal(groups.list[0].value_count, 2);
    assert_string_equal(groups.list[1].name, "-9223372036854775808");
    kvs_groups_deinit(&groups);
}

static void values_are_the_outs_of_a_call_in_place(void **state)
{
    (void)state;
    kv_key key = {.name = "w"};
    kv_array values[] = {array_of(pair, 1), array_of(pair, 1)};
    size_t two = 2;
    kvs_arguments arguments = {
        .keys = &key, .count = 1, .values = values, .value_counts = &two, .in_place = true};
    kvs_groups groups;
    assert_int_equal(kvs_groups_make(&arguments, &groups, NULL), KVS_OK);
    assert_int_equal(groups.list[0].out_count, 2);
    assert_ptr_equal(groups.list[0].outs[1], &values[1]);
    kvs_groups_deinit(&groups);
}

static void arrays_that_do_not_fit_are_refused_by_name(void **state)
{
    (void)state;
    kv_key keys[] = {{.name = "w"}, {.name = "w"}};
    kv_array values[] = {array_of(pair, 1), array_of(square, 2)};
    kvs_arguments arguments = {.keys = keys, .count = 2, .values = values};
    refused(&arguments, KVS_INVALID_TENSOR, "key w");
    values[1] = array_of(pair, 1);
    values[1].dtype = KV_F64;
    refused(&arguments, KVS_INVALID_TENSOR, "differ");
    values[1].dtype = (kv_dtype)77;
    refused(&arguments, KVS_INVALID_TENSOR, "dtype");
    values[1] = (kv_array){NULL, KV_F32, 1, pair};
    refused(&arguments, KVS_INVALID_TENSOR, "memory");
    uint64_t deep[33] = {0};
    values[1] = array_of(deep, 33);
    refused(&arguments, KVS_INVALID_TENSOR, "33 dimensions");
    const uint64_t huge[] = {UINT64_MAX, UINT64_MAX};
    values[1] = array_of(huge, 2);
    refused(&arguments, KVS_INVALID_TENSOR, "too many elements");
    values[1] = array_of(NULL, 1);
    refused(&arguments, KVS_INVALID_TENSOR, "dimensions");
}

static void an_out_is_as_large_as_its_value(void **state)
{
    (void)state;
    kv_key key = {.name = "w"};
    kv_array value = array_of(square, 2);
    kv_array out = array_of(pair, 1);
    kvs_arguments arguments = {.keys = &key, .count = 1, .values = &value, .outs = &out};
    refused(&arguments, KVS_INVALID_TENSOR, "out differs");
}

static void keys_that_cannot_be_are_refused(void **state)
{
    (void)state;
    char longest[KVS_KEY_BYTES_MAX + 2];
    memset(longest, 'k', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    kv_key keys[] = {{.name = longest}, {.number = 1}};
    kv_array values[] = {array_of(pair, 1), array_of(pair, 1)};
    size_t counts[] = {1, 0};
    kvs_arguments arguments = {.keys = keys, .count = 1, .values = values};
    refused(&arguments, KVS_INVALID_FIELD, "256 bytes");
    keys[0].name = "";
    refused(&arguments, KVS_INVALID_FIELD, "256 bytes");
    keys[0].name = "one";
    arguments.count = 2;
    refused(&arguments, KVS_INVALID_FIELD, "not both");
    keys[1].name = "two";
    arguments.value_counts = counts;
    refused(&arguments, KVS_INVALID_FIELD, "key two has no array");
}

static void scalars_and_empty_values_are_values(void **state)
{
    (void)state;
    const uint64_t none[] = {3, 0};
    kv_key keys[] = {{.name = "scalar"}, {.name = "empty"}};
    kv_array values[] = {array_of(NULL, 0), {NULL, KV_F64, 2, none}};
    kvs_arguments arguments = {.keys = keys, .count = 2, .values = values};
    kvs_groups groups;
    assert_int_equal(kvs_groups_make(&arguments, &groups, NULL), KVS_OK);
    assert_int_equal(kvs_array_elements(&values[0]), 1);
    assert_int_equal(kvs_array_bytes(&values[0]), 4);
    assert_int_equal(kvs_array_bytes(&values[1]), 0);
    kvs_groups_deinit(&groups);
}

static void arrays_overlap_when_they_share_a_byte(void **state)
{
    (void)state;
    kv_array a = {numbers, KV_F32, 1, pair};
    kv_array b = {numbers + 1, KV_F32, 1, pair};
    kv_array c = {numbers + 2, KV_F32, 1, pair};
    assert_true(kvs_array_overlaps(&a, &a));
    assert_true(kvs_array_overlaps(&a, &b));
    assert_true(kvs_array_overlaps(&b, &a));
    assert_false(kvs_array_overlaps(&a, &c));
    assert_false(kvs_array_overlaps(&c, &a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_that_repeat_are_one_group_in_the_order_of_their_values),
        cmocka_unit_test(numbers_are_names_in_decimal),
        cmocka_unit_test(values_are_the_outs_of_a_call_in_place),
        cmocka_unit_test(arrays_that_do_not_fit_are_refused_by_name),
        cmocka_unit_test(an_out_is_as_large_as_its_value),
        cmocka_unit_test(keys_that_cannot_be_are_refused),
        cmocka_unit_test(scalars_and_empty_values_are_values),
        cmocka_unit_test(arrays_overlap_when_they_share_a_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
