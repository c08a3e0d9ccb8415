#include "base/json.h"
#include "base/profile.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The trace, as a tree. */
static json_t *print(kvs_profile *profile, size_t *spans)
{
    char *text = NULL;
    size_t bytes = 0;
    json_t *tree = NULL;
    FILE *to = open_memstream(&text, &bytes);
    assert_non_null(to);
    *spans = kvs_profile_print(profile, to);
    (void)fclose(to);
    assert_int_equal(kvs_json_parse(text, bytes, SIZE_MAX, &tree, NULL), KVS_OK);
    free(text);
    assert_int_equal(json_array_size(json_object_get(tree, "traceEvents")), *spans);
    return tree;
}

static void off_records_nothing_and_reads_no_clock(void **state)
{
    kvs_profile *profile;
    size_t spans;
    (void)state;
    assert_int_equal(kvs_profile_open(8, &profile), KVS_OK);
    assert_int_equal(kvs_profile_begin(profile), 0);
    assert_int_equal(kvs_profile_begin(NULL), 0);
    kvs_profile_end(profile, KVS_STAGE_DOOR, kvs_profile_begin(profile), 0, 1, 2);
    kvs_profile_end(NULL, KVS_STAGE_DOOR, 0, 0, 1, 2);
    json_decref(print(profile, &spans));
    assert_int_equal(spans, 0);
    kvs_profile_close(profile);
}

static void a_span_tells_stage_time_rank_parts_and_bytes(void **state)
{
    kvs_profile *profile;
    size_t spans;
    (void)state;
    assert_int_equal(kvs_profile_open(8, &profile), KVS_OK);
    kvs_profile_switch(profile, true);
    uint64_t begun_ns = kvs_profile_begin(profile);
    assert_true(begun_ns != 0);
    kvs_profile_end(profile, KVS_STAGE_DECODE, begun_ns, 3, 5, 700);
    kvs_profile_end(profile, KVS_STAGE_SHARD, begun_ns, KVS_PROFILE_NO_RANK, 1, 2);
    json_t *tree = print(profile, &spans);
    assert_int_equal(spans, 2);
    json_t *first = json_array_get(json_object_get(tree, "traceEvents"), 0);
    json_t *arguments = json_object_get(first, "args");
    assert_string_equal(json_string_value(json_object_get(first, "name")), "decode");
    assert_string_equal(json_string_value(json_object_get(first, "ph")), "X");
    assert_float_equal(json_real_value(json_object_get(first, "ts")), (double)begun_ns / 1000, 1);
    assert_true(json_real_value(json_object_get(first, "dur")) >= 0);
    assert_int_equal(json_integer_value(json_object_get(arguments, "rank")), 3);
    assert_int_equal(json_integer_value(json_object_get(arguments, "parts")), 5);
    assert_int_equal(json_integer_value(json_object_get(arguments, "bytes")), 700);
    json_t *second = json_array_get(json_object_get(tree, "traceEvents"), 1);
    assert_null(json_object_get(json_object_get(second, "args"), "rank"));
    json_decref(tree);
    kvs_profile_close(profile);
}

static void the_ring_keeps_the_newest_and_forgets_when_told(void **state)
{
    kvs_profile *profile;
    size_t spans;
    (void)state;
    assert_int_equal(kvs_profile_open(4, &profile), KVS_OK);
    kvs_profile_switch(profile, true);
    for (uint32_t i = 0; i < 11; i++) {
        kvs_profile_end(profile, KVS_STAGE_ACK, 1, i, 0, 0);
    }
    json_t *tree = print(profile, &spans);
    assert_int_equal(spans, 4);
    json_t *first = json_array_get(json_object_get(tree, "traceEvents"), 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(first, "args"), "rank")),
                     7);
    json_decref(tree);
    kvs_profile_clear(profile);
    kvs_profile_end(profile, KVS_STAGE_ACK, 1, 11, 0, 0);
    json_decref(print(profile, &spans));
    assert_int_equal(spans, 1);
    kvs_profile_close(profile);
}

static void *record(void *context)
{
    for (uint32_t i = 0; i < 20000; i++) {
        /* Every number is the same, so that a mixed span would show. */
        kvs_profile_record(context, KVS_STAGE_SHARD, 1, i, i, i);
    }
    return NULL;
}

static void what_is_overwritten_while_it_is_printed_is_left_out(void **state)
{
    kvs_profile *profile;
    pthread_t threads[3];
    size_t spans;
    (void)state;
    assert_int_equal(kvs_profile_open(16, &profile), KVS_OK);
    kvs_profile_switch(profile, true);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, record, profile), 0);
    }
    for (int i = 0; i < 50; i++) {
        json_t *tree = print(profile, &spans);
        size_t index;
        json_t *event;
        json_array_foreach (json_object_get(tree, "traceEvents"), index, event) {
            const json_t *arguments = json_object_get(event, "args");
            json_int_t parts = json_integer_value(json_object_get(arguments, "parts"));
            assert_int_equal(json_integer_value(json_object_get(arguments, "bytes")), parts);
            assert_int_equal(json_integer_value(json_object_get(arguments, "rank")), parts);
        }
        json_decref(tree);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    kvs_profile_close(profile);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off_records_nothing_and_reads_no_clock),
        cmocka_unit_test(a_span_tells_stage_time_rank_parts_and_bytes),
        cmocka_unit_test(the_ring_keeps_the_newest_and_forgets_when_told),
        cmocka_unit_test(what_is_overwritten_while_it_is_printed_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
