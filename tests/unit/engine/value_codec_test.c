/* Values of pulls as bytes: what is written, against the gradients' encodings and by hand. */
#include "base/half.h"
#include "engine/codec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT 1000

static kvs_payload payload_of(const kvs_span *span)
{
    return (kvs_payload){.spans = span, .count = 1, .bytes = span->bytes};
}

/* Numbers of all magnitudes. */
static void fill(float *values, size_t count)
{
    uint32_t state = 12345;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = ldexpf((float)(int32_t)state, (int)(state >> 8 & 63) - 60);
    }
}

static void what_is_written_is_what_a_gradient_without_residual_is(void **state)
{
    static const kvs_codec codecs[] = {KVS_CODEC_F16, KVS_CODEC_BF16, KVS_CODEC_INT8};
    (void)state;
    float values[COUNT];
    fill(values, COUNT);
    values[256] = 0;
    memset(&values[512], 0, 256 * sizeof values[0]); /* a block of zeros */
    for (size_t i = 768; i < COUNT; i++) {
        values[i] = ldexpf(values[i], -120); /* a subnormal scale */
    }
    for (size_t c = 0; c < 3; c++) {
        float residual[COUNT] = {0};
        uint8_t by_gradient[COUNT * 2];
        uint8_t by_value[COUNT * 2];
        kvs_encoding encoding = {.codec = codecs[c]};
        size_t bytes = kvs_encoding_write(&encoding, values, residual, COUNT, 0, by_gradient);
        assert_true(bytes == kvs_codec_value_bytes(codecs[c], 1, COUNT));
        kvs_codec_write_value(codecs[c], values, 1, COUNT, by_value);
        assert_memory_equal(by_value, by_gradient, bytes);
    }
}

static void a_step_is_the_nearest_of_127_to_each_side(void **state)
{
    static const float values[6] = {127, -127, 0.5f, 1.5f, -2.5f, 100.4f};
    static const int8_t steps[6] = {127, -127, 0, 2, -2, 100};
    uint8_t out[10];
    float scale;
    (void)state;
    kvs_codec_write_value(KVS_CODEC_INT8, values, 1, 6, out);
    memcpy(&scale, out, sizeof scale);
    assert_true(scale == 1);
    assert_memory_equal(out + 4, steps, 6);
}

static void what_is_not_finite_makes_its_block_nan(void **state)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    (void)state;
    for (size_t b = 0; b < 3; b++) {
        float values[512];
        float got[512];
        uint8_t out[8 + 512];
        fill(values, 512);
        values[300] = bad[b];
        kvs_codec_write_value(KVS_CODEC_INT8, values, 1, 512, out);
        kvs_span span = {out, sizeof out};
        kvs_payload payload = payload_of(&span);
        kvs_codec_read_value(KVS_CODEC_INT8, &payload, 1, 512, got);
        for (size_t i = 0; i < 512; i++) {
            assert_true(isnan(got[i]) ? i >= 256 : i < 256);
        }
    }
}

/* Rows of three: what comes of one is the same whoever stands beside it. */
static void each_run_is_encoded_for_itself(void **state)
{
    float rows[4][3] = {{1, 2, 3}, {1000, -2000, 3000}, {0, 0, 0}, {1e-3f, 2e-3f, -3e-3f}};
    float got[4][3];
    uint8_t all[4 * 7];
    uint8_t alone[7];
    (void)state;
    assert_int_equal(kvs_codec_value_bytes(KVS_CODEC_INT8, 4, 3), sizeof all);
    kvs_codec_write_value(KVS_CODEC_INT8, rows[0], 4, 3, all);
    for (size_t i = 0; i < 4; i++) {
        kvs_codec_write_value(KVS_CODEC_INT8, rows[i], 1, 3, alone);
        assert_memory_equal(all + i * sizeof alone, alone, sizeof alone);
    }
    /* In spans that cut scales and steps. */
    kvs_span spans[3] = {{all, 6}, {all + 6, 3}, {all + 9, sizeof all - 9}};
    kvs_payload payload = {.spans = spans, .count = 3, .bytes = sizeof all};
    kvs_codec_read_value(KVS_CODEC_INT8, &payload, 4, 3, got[0]);
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 3; j++) {
            assert_true(fabsf(got[i][j] - rows[i][j]) <= fabsf(rows[i][2]) / 254 * 1.001f);
        }
    }
}

/* A row of more elements than a part of several rows has. */
static void a_long_run_comes_back(void **state)
{
    uint64_t elements = KVS_PART_ELEMENTS + 1000;
    float *values = calloc(elements, sizeof *values);
    float *got = calloc(elements, sizeof *got);
    size_t bytes = (size_t)kvs_codec_value_bytes(KVS_CODEC_INT8, 1, elements);
    uint8_t *out = malloc(bytes);
    (void)state;
    assert_true(values != NULL && got != NULL && out != NULL);
    for (uint64_t i = 0; i < elements; i++) {
        values[i] = (float)(i % 255) - 127;
    }
    kvs_codec_write_value(KVS_CODEC_INT8, values, 1, elements, out);
    kvs_span spans[2] = {{out, 5000}, {out + 5000, bytes - 5000}};
    kvs_payload payload = {.spans = spans, .count = 2, .bytes = bytes};
    kvs_codec_read_value(KVS_CODEC_INT8, &payload, 1, elements, got);
    for (uint64_t i = 0; i < elements; i++) {
        if (fabsf(got[i] - values[i]) > 0.51f) {
            fail_msg("element %zu: %g, not %g", (size_t)i, (double)got[i], (double)values[i]);
        }
    }
    free(values);
    free(got);
    free(out);
}

static void of_values_are_those_that_need_no_residual(void **state)
{
    (void)state;
    for (int codec = -1; codec <= (int)KVS_CODEC_COUNT; codec++) {
        bool known = codec == KVS_CODEC_F16 || codec == KVS_CODEC_BF16 || codec == KVS_CODEC_INT8;
        assert_int_equal(kvs_codec_of_values((kvs_codec)codec), known);
    }
}

static void the_json_tells_of_pulls_and_pushes(void **state)
{
    static const struct {
        const char *json;
        kvs_status status;
        kvs_codec codec;
        bool has_pull;
        kvs_codec pull;
    } rows[] = {
        {"{\"type\": \"2bit\"}", KVS_OK, KVS_CODEC_2BIT, false, KVS_CODEC_NONE},
        {"{\"type\": \"2bit\", \"pull\": \"int8\"}", KVS_OK, KVS_CODEC_2BIT, true, KVS_CODEC_INT8},
        {"{\"pull\": \"bf16\"}", KVS_OK, KVS_CODEC_NONE, true, KVS_CODEC_BF16},
        {"{\"type\": \"\", \"pull\": \"fp16\"}", KVS_OK, KVS_CODEC_NONE, true, KVS_CODEC_F16},
        {"{\"pull\": \"none\"}", KVS_OK, KVS_CODEC_NONE, true, KVS_CODEC_NONE},
        {"{\"pull\": \"2bit\"}", KVS_INVALID_FIELD, KVS_CODEC_NONE, false, KVS_CODEC_NONE},
        {"{\"pull\": \"topk\"}", KVS_INVALID_FIELD, KVS_CODEC_NONE, false, KVS_CODEC_NONE},
        {"{\"pull\": 8}", KVS_INVALID_FIELD, KVS_CODEC_NONE, false, KVS_CODEC_NONE},
        {"{\"type\": \"\"}", KVS_INVALID_FIELD, KVS_CODEC_NONE, false, KVS_CODEC_NONE},
        {"{}", KVS_INVALID_FIELD, KVS_CODEC_NONE, false, KVS_CODEC_NONE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        kvs_encoding got = {0};
        kvs_problem problem = {.status = KVS_OK};
        if (kvs_encoding_parse(rows[i].json, &got, &problem) != rows[i].status) {
            fail_msg("%s: %s", rows[i].json, problem.detail);
        }
        assert_int_equal(got.codec, rows[i].codec);
        assert_int_equal(got.has_pull, rows[i].has_pull);
        assert_int_equal(got.pull, rows[i].pull);
    }
    kvs_problem problem = {.status = KVS_OK};
    kvs_encoding got;
    assert_int_equal(kvs_encoding_parse("{\"pull\": \"1bit\"}", &got, &problem), KVS_INVALID_FIELD);
    assert_non_null(strstr(problem.detail, "pulled as fp16, bf16, int8 or none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_what_a_gradient_without_residual_is),
        cmocka_unit_test(a_step_is_the_nearest_of_127_to_each_side),
        cmocka_unit_test(what_is_not_finite_makes_its_block_nan),
        cmocka_unit_test(each_run_is_encoded_for_itself),
        cmocka_unit_test(a_long_run_comes_back),
        cmocka_unit_test(of_values_are_those_that_need_no_residual),
        cmocka_unit_test(the_json_tells_of_pulls_and_pushes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
