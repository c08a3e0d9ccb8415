#include "engine/codec.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ELEMENTS 1000u

static kvs_encoding parsed(const char *json)
{
    kvs_encoding encoding;
    kvs_problem problem = {0};
    kvs_status status = kvs_encoding_parse(json, &encoding, &problem);
    if (status != KVS_OK) {
        fail_msg("%s: %s", json, problem.detail);
    }
    return encoding;
}

static void refused(const char *json, const char *detail)
{
    kvs_encoding encoding;
    kvs_problem problem = {0};
    assert_int_not_equal(kvs_encoding_parse(json, &encoding, &problem), KVS_OK);
    if (strstr(problem.detail, detail) == NULL) {
        fail_msg("%s: %s", json, problem.detail);
    }
}

static kvs_payload payload_of(kvs_span *span, const void *data, size_t bytes)
{
    *span = (kvs_span){data, bytes};
    return (kvs_payload){.spans = span, .count = 1, .bytes = bytes};
}

static kvs_status judge(kvs_codec codec, uint64_t elements, const void *data, size_t bytes)
{
    kvs_span span;
    kvs_payload payload = payload_of(&span, data, bytes);
    return kvs_codec_judge(codec, 0.5f, elements, &payload, NULL);
}

/* Encodes, checks that the server would take it, and decodes. The bytes used. */
static size_t pass(const kvs_encoding *encoding, const float *gradient, float *residual,
                   uint64_t elements, uint8_t *bytes, float *decoded)
{
    kvs_span span;
    size_t used = kvs_encoding_write(encoding, gradient, residual, elements, 7, bytes);
    kvs_payload payload = payload_of(&span, bytes, used);
    assert_true(used <= kvs_encoding_bytes(encoding, elements));
    assert_int_equal(
        kvs_codec_judge(encoding->codec, encoding->threshold, elements, &payload, NULL), KVS_OK);
    kvs_codec_decode(encoding->codec, encoding->threshold, &payload, decoded, elements, true);
    return used;
}

static uint64_t state_of_random = 1;

static float random_float(void)
{
    state_of_random = state_of_random * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (float)((double)(state_of_random >> 40) / (1 << 23) - 1);
}

/* ------------------------------------------------------------------ MXNet's two */

static void assert_near(const float *got, const float *expected, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_float_equal(got[i], expected[i], 2e-6);
    }
}

static void two_bits_are_mxnets(void **state)
{
    (void)state;
    const float gradient[17] = {0.5f, -0.5f, 0.49f, -0.49f, 1.25f, -1.25f, 0, 0.3f, 0.7f,
                                0,    -0.7f, 0.2f,  -0.2f,  0.5f,  -0.5f,  0, 0.6f};
    const uint8_t first[8] = {0xe0, 0xe0, 0xc8, 0x38, 0xc0};
    const float left[17] = {0, 0,     0.49f, -0.49f, 0.75f, -0.75f, 0, 0.3f, 0.2f,
                            0, -0.2f, 0.2f,  -0.2f,  0,     0,      0, 0.1f};
    const uint8_t second[8] = {0xee, 0xe3, 0xc8, 0x38, 0xc0};
    const float left_again[17] = {0, 0,     0.48f, -0.48f, 1.5f, -1.5f, 0, 0.1f, 0.4f,
                                  0, -0.4f, 0.4f,  -0.4f,  0,    0,     0, 0.2f};
    kvs_encoding encoding = parsed("{\"type\": \"2bit\", \"threshold\": 0.5}");
    float residual[17] = {0};
    float decoded[17];
    uint8_t bytes[8];
    assert_int_equal(pass(&encoding, gradient, residual, 17, bytes, decoded), 8);
    assert_memory_equal(bytes, first, 8);
    assert_near(residual, left, 17);
    assert_true(decoded[0] == 0.5f && decoded[1] == -0.5f && decoded[2] == 0);
    assert_true(decoded[16] == 0.5f);
    assert_int_equal(pass(&encoding, gradient, residual, 17, bytes, decoded), 8);
    assert_memory_equal(bytes, second, 8);
    assert_near(residual, left_again, 17);
}

static void one_bit_is_mxnets(void **state)
{
    (void)state;
    const float gradient[9] = {2, -2, 0, 0.5f, -0.5f, 1e-9f, 0.1f, -0.1f, 3};
    const uint8_t first[4] = {0x96, 0x80};
    const float left[9] = {1, -1, 1, -0.5f, 0.5f, -1, -0.9f, 0.9f, 2};
    const uint8_t second[4] = {0xa1, 0x80};
    const float left_again[9] = {2, -2, 0, 1, 1, 0, 0.2f, -0.2f, 4};
    kvs_encoding encoding = parsed("{\"type\": \"1bit\", \"threshold\": 0}");
    float residual[9] = {0};
    float decoded[9];
    uint8_t bytes[4];
    assert_int_equal(pass(&encoding, gradient, residual, 9, bytes, decoded), 4);
    assert_memory_equal(bytes, first, 4);
    assert_near(residual, left, 9);
    assert_true(decoded[0] == 1 && decoded[1] == -1 && decoded[8] == 1);
    assert_int_equal(pass(&encoding, gradient, residual, 9, bytes, decoded), 4);
    assert_memory_equal(bytes, second, 4);
    assert_near(residual, left_again, 9);
}

/* Only f32 with round to nearest even, and >= as the test, gives a residual of exactly 0. */
static void two_bits_fire_exactly_at_the_threshold(void **state)
{
    static const float pushes[][5] = {
        {0.4f, 0.1f}, {0.2f, 0.3f}, {0.4f, 0.2f, -0.1f}, {0.25f, 0.25f}};
    kvs_encoding encoding = parsed("{\"type\": \"2bit\"}");
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        float residual = 0;
        float sent = 0;
        for (size_t j = 0; j < 3; j++) {
            uint8_t bytes[4];
            float decoded;
            (void)pass(&encoding, &pushes[i][j], &residual, 1, bytes, &decoded);
            sent += decoded;
        }
        assert_true(sent == 0.5f);
        assert_true(i == 2 || residual == 0);
    }
}

static void bits_take_a_sixteenth_and_a_thirty_second(void **state)
{
    (void)state;
    assert_int_equal(kvs_codec_bytes(KVS_CODEC_2BIT, 1 << 18), (1 << 20) / 16);
    assert_int_equal(kvs_codec_bytes(KVS_CODEC_1BIT, 1 << 18), (1 << 20) / 32);
    assert_int_equal(kvs_codec_bytes(KVS_CODEC_2BIT, 17), 8);
    assert_int_equal(kvs_codec_bytes(KVS_CODEC_1BIT, 33), 8);
    assert_int_equal(kvs_codec_bytes(KVS_CODEC_2BIT, 0), 0);
    assert_true(kvs_codec_bytes(KVS_CODEC_INT8, 1 << 18) * 39 <= (1 << 20) * 10);
}

/* ------------------------------------------------------------------ what all have */

/* What was pushed is what was sent and what is left, element by element. */
static void nothing_is_lost_by_an_encoding_with_a_residual(void **state)
{
    static const char *const types[] = {
        "{\"type\": \"2bit\", \"threshold\": 0.3}", "{\"type\": \"1bit\", \"threshold\": 0}",
        "{\"type\": \"int8\"}", "{\"type\": \"topk\", \"ratio\": 0.05}",
        "{\"type\": \"randomk\", \"ratio\": 0.05}"};
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        kvs_encoding encoding = parsed(types[i]);
        float residual[ELEMENTS] = {0};
        double pushed[ELEMENTS] = {0};
        double sent[ELEMENTS] = {0};
        uint8_t bytes[8 * ELEMENTS];
        for (int step = 0; step < 50; step++) {
            float gradient[ELEMENTS];
            float decoded[ELEMENTS];
            for (size_t j = 0; j < ELEMENTS; j++) {
                gradient[j] = random_float();
                pushed[j] += (double)gradient[j];
            }
            (void)pass(&encoding, gradient, residual, ELEMENTS, bytes, decoded);
            for (size_t j = 0; j < ELEMENTS; j++) {
                sent[j] += (double)decoded[j];
            }
        }
        for (size_t j = 0; j < ELEMENTS; j++) {
            assert_float_equal((float)(sent[j] + (double)residual[j]), (float)pushed[j], 1e-3);
        }
    }
}

/* Each minimises (w - 3)^2 / 2 to where plain gradient descent ends. A threshold below the first
 * gradients would let the residual run far ahead. */
static void a_quadratic_converges_with_every_encoding(void **state)
{
    static const char *const types[] = {"{\"type\": \"2bit\", \"threshold\": 3}",
                                        "{\"type\": \"int8\"}",
                                        "{\"type\": \"topk\", \"ratio\": 0.1}",
                                        "{\"type\": \"randomk\", \"ratio\": 0.1}",
                                        "{\"type\": \"fp16\"}",
                                        "{\"type\": \"bf16\"}"};
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        kvs_encoding encoding = parsed(types[i]);
        float weight[ELEMENTS] = {0};
        float residual[ELEMENTS] = {0};
        uint8_t bytes[8 * ELEMENTS];
        for (uint64_t step = 0; step < 2000; step++) {
            float gradient[ELEMENTS];
            float decoded[ELEMENTS];
            kvs_span span;
            for (size_t j = 0; j < ELEMENTS; j++) {
                gradient[j] = weight[j] - 3;
            }
            size_t used = kvs_encoding_write(&encoding, gradient, residual, ELEMENTS, step, bytes);
            kvs_payload payload = payload_of(&span, bytes, used);
            kvs_codec_decode(encoding.codec, encoding.threshold, &payload, decoded, ELEMENTS, true);
            for (size_t j = 0; j < ELEMENTS; j++) {
                weight[j] -= 0.02f * decoded[j];
            }
        }
        for (size_t j = 0; j < ELEMENTS; j++) {
            if (!(fabsf(weight[j] - 3) < 0.1f)) {
                fail_msg("%s: element %zu ends at %g", types[i], j, (double)weight[j]);
            }
        }
    }
}

static void int8_is_within_half_a_step_and_shows_what_is_not_finite(void **state)
{
    kvs_encoding encoding = parsed("{\"type\": \"int8\"}");
    float gradient[ELEMENTS];
    float residual[ELEMENTS] = {0};
    float decoded[ELEMENTS];
    uint8_t bytes[2 * ELEMENTS];
    (void)state;
    for (size_t i = 0; i < ELEMENTS; i++) {
        gradient[i] = random_float() * (i < 256 ? 1e-3f : 1e3f);
    }
    gradient[600] = INFINITY;
    assert_int_equal(pass(&encoding, gradient, residual, ELEMENTS, bytes, decoded), 1016);
    for (size_t i = 0; i < ELEMENTS; i++) {
        if (i / 256 == 2) {
            assert_true(isnan(decoded[i]) && residual[i] == 0);
        } else {
            assert_float_equal(decoded[i], gradient[i], (i < 256 ? 1e-3 : 1e3) / 253);
        }
    }
    memset(gradient, 0, sizeof gradient);
    memset(residual, 0, sizeof residual);
    (void)pass(&encoding, gradient, residual, ELEMENTS, bytes, decoded);
    for (size_t i = 0; i < ELEMENTS; i++) {
        assert_true(decoded[i] == 0);
    }
}

static void topk_sends_the_largest_and_of_equals_the_first(void **state)
{
    kvs_encoding encoding = parsed("{\"type\": \"topk\", \"ratio\": 0.3}");
    const float gradient[10] = {1, -5, 2, 2, 0, -2, NAN, 2, 0.5f, -1};
    float residual[10] = {0};
    float decoded[10];
    uint8_t bytes[80];
    (void)state;
    assert_int_equal(pass(&encoding, gradient, residual, 10, bytes, decoded), 24);
    assert_true(decoded[1] == -5 && decoded[2] == 2 && isnan(decoded[6]));
    assert_true(decoded[3] == 0 && residual[3] == 2 && residual[1] == 0 && residual[6] == 0);
    /* At least one, however small the part. */
    assert_int_equal(pass(&encoding, gradient, residual, 1, bytes, decoded), 8);
}

static void randomk_sends_as_many_elements_each_as_often(void **state)
{
    kvs_encoding encoding = parsed("{\"type\": \"randomk\", \"ratio\": 0.1}");
    static uint32_t sent[100];
    float gradient[100];
    (void)state;
    for (size_t i = 0; i < 100; i++) {
        gradient[i] = 1;
    }
    for (uint64_t draw = 0; draw < 10000; draw++) {
        float residual[100] = {0};
        uint8_t bytes[800];
        assert_int_equal(kvs_encoding_write(&encoding, gradient, residual, 100, draw, bytes), 80);
        for (size_t i = 0; i < 10; i++) {
            uint32_t index;
            memcpy(&index, bytes + 8 * i, sizeof index);
            sent[index]++;
        }
    }
    for (size_t i = 0; i < 100; i++) {
        assert_in_range(sent[i], 850, 1150); /* five deviations of 30 */
    }
}

/* ------------------------------------------------------------------ bytes from anywhere */

static size_t put_entry(uint8_t *out, size_t used, uint32_t index, float value)
{
    memcpy(out + used, &index, sizeof index);
    memcpy(out + used + sizeof index, &value, sizeof value);
    return used + 8;
}

static void what_cannot_be_decoded_is_refused(void **state)
{
    uint8_t bytes[200] = {0};
    (void)state;
    for (int codec = KVS_CODEC_2BIT; codec < KVS_CODEC_ENTRIES; codec++) {
        size_t exact = (size_t)kvs_codec_bytes((kvs_codec)codec, 33);
        assert_int_equal(judge((kvs_codec)codec, 33, bytes, exact), KVS_OK);
        assert_int_equal(judge((kvs_codec)codec, 33, bytes, exact - 1), KVS_INVALID_TENSOR);
        assert_int_equal(judge((kvs_codec)codec, 33, bytes, exact + 1), KVS_INVALID_TENSOR);
        assert_int_equal(judge((kvs_codec)codec, 33, bytes, 0), KVS_INVALID_TENSOR);
    }
    assert_int_equal(judge(KVS_CODEC_NONE, 33, bytes, 132), KVS_INVALID_TENSOR);
    assert_int_equal(judge(KVS_CODEC_COUNT, 33, bytes, 132), KVS_INVALID_TENSOR);
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 0), KVS_OK);
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 8), KVS_OK); /* index 0 */
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 7), KVS_INVALID_TENSOR);
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 16), KVS_INVALID_TENSOR); /* twice */
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 0, bytes, 8), KVS_INVALID_TENSOR);
    (void)put_entry(bytes, put_entry(bytes, 0, 5, 1), 4, 1);
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 16), KVS_INVALID_TENSOR);
    (void)put_entry(bytes, 0, 33, 1);
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 8), KVS_INVALID_TENSOR);
    (void)put_entry(bytes, 0, UINT32_MAX, 1);
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 8), KVS_INVALID_TENSOR);
    (void)put_entry(bytes, put_entry(bytes, 0, 31, 1), 32, 1);
    assert_int_equal(judge(KVS_CODEC_ENTRIES, 33, bytes, 16), KVS_OK);
}

static void what_is_asked_for_is_read_as_mxnet_reads_it(void **state)
{
    (void)state;
    assert_true(parsed("{\"type\": \"2bit\"}").threshold == 0.5f);
    assert_true(parsed("{\"type\": \"1bit\", \"threshold\": -2}").threshold == -2);
    assert_true(parsed("{\"type\": \"2bit\", \"threshold\": \"0.25\"}").threshold == 0.25f);
    /* Six decimals, as MXNet prints it for its servers, would make 0 of this. */
    assert_true(parsed("{\"type\": \"2bit\", \"threshold\": 1e-7}").threshold == 1e-7f);
    assert_true(parsed("{\"type\": \"topk\", \"other\": 1}").ratio == 0.01);
    assert_string_equal(kvs_encoding_name(&(kvs_encoding){.codec = KVS_CODEC_ENTRIES}), "topk");
    refused("{\"threshold\": 0.5}", "type");
    refused("{\"type\": \"3bit\"}", "type");
    refused("{\"type\": \"2bit\", \"threshold\": 0}", "/threshold");
    refused("{\"type\": \"2bit\", \"threshold\": -1}", "/threshold");
    refused("{\"type\": \"2bit\", \"threshold\": \"x\"}", "/threshold");
    refused("{\"type\": \"2bit\", \"threshold\": 1e-300}", "/threshold"); /* 0 in f32 */
    refused("{\"type\": \"topk\", \"ratio\": 0}", "/ratio");
    refused("{\"type\": \"topk\", \"ratio\": 1.5}", "/ratio");
    refused("2bit", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_bits_are_mxnets),
        cmocka_unit_test(one_bit_is_mxnets),
        cmocka_unit_test(two_bits_fire_exactly_at_the_threshold),
        cmocka_unit_test(bits_take_a_sixteenth_and_a_thirty_second),
        cmocka_unit_test(nothing_is_lost_by_an_encoding_with_a_residual),
        cmocka_unit_test(a_quadratic_converges_with_every_encoding),
        cmocka_unit_test(int8_is_within_half_a_step_and_shows_what_is_not_finite),
        cmocka_unit_test(topk_sends_the_largest_and_of_equals_the_first),
        cmocka_unit_test(randomk_sends_as_many_elements_each_as_often),
        cmocka_unit_test(what_cannot_be_decoded_is_refused),
        cmocka_unit_test(what_is_asked_for_is_read_as_mxnet_reads_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
