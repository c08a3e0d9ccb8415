/* Encoded gradients of f32, decoded on their way into a sum. */
#include "tests/contract/backend_contract.h"

#include "base/half.h"
#include "engine/codec.h"

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ELEMENTS_MAX 3000u
#define THRESHOLD 0.37f

typedef struct codec_case {
    kvs_codec codec;
    size_t elements;
    uint8_t encoded[8 * ELEMENTS_MAX];
    size_t bytes;
    float sum[ELEMENTS_MAX]; /* what the target holds before */
    kvs_contract_pieces pieces;
} codec_case;

static uint8_t random_byte(kvs_contract *contract)
{
    return (uint8_t)kvs_contract_random(contract, 256);
}

/* Ascending indices, about every third. */
static size_t fill_entries(kvs_contract *contract, codec_case *one, bool odd)
{
    size_t used = 0;
    for (uint32_t i = 0; i < one->elements; i++) {
        float value;
        if (kvs_contract_random(contract, 3) == 0) {
            (odd ? kvs_contract_fill_odd : kvs_contract_fill)(contract, KVS_F32, &value, 1);
            memcpy(one->encoded + used, &i, sizeof i);
            memcpy(one->encoded + used + sizeof i, &value, sizeof value);
            used += 8;
        }
    }
    return used;
}

static size_t random_elements(kvs_contract *contract)
{
    return (size_t)kvs_contract_random(contract,
                                       kvs_contract_random(contract, 2) == 0 ? 70 : ELEMENTS_MAX);
}

/* Of one->elements. */
static void make_codec(kvs_contract *contract, codec_case *one, kvs_codec codec,
                       kvs_contract_cut cut, bool odd)
{
    one->codec = codec;
    one->bytes = (size_t)kvs_codec_bytes(codec, one->elements);
    for (size_t i = 0; i < one->bytes; i++) {
        one->encoded[i] = random_byte(contract); /* any byte is some element */
    }
    if (codec == KVS_CODEC_INT8) {
        size_t scales = (one->elements + 255) / 256;
        (odd ? kvs_contract_fill_odd : kvs_contract_fill)(contract, KVS_F32, one->encoded, scales);
    } else if (codec == KVS_CODEC_ENTRIES) {
        one->bytes = fill_entries(contract, one, odd);
    }
    (odd ? kvs_contract_fill_odd : kvs_contract_fill)(contract, KVS_F32, one->sum, one->elements);
    one->pieces = kvs_contract_cut_bytes(contract, one->encoded, one->bytes, cut);
}

static void run_codec(kvs_contract_side *side, const codec_case *one, bool first, bool from_memory,
                      float *out)
{
    kvs_memory target = kvs_contract_memory(side, one->sum, one->elements * sizeof(float));
    kvs_memory held = kvs_contract_memory(side, one->encoded, one->bytes);
    kvs_accumulate_item item = {.target = &target,
                                .source = {.payload = one->pieces.payload},
                                .elements = one->elements,
                                .dtype = KVS_F32,
                                .codec = one->codec,
                                .threshold = THRESHOLD,
                                .first = first};
    item.source.memory = from_memory ? &held : NULL;
    assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
    kvs_contract_read(side, &target, out);
    kvs_contract_free(side, &target);
    kvs_contract_free(side, &held);
}

/* An oracle that reads one element at a time. False: the element is not there. */
static bool element_of(const codec_case *one, size_t i, float *out)
{
    const uint8_t *bytes = one->encoded;
    uint16_t half;
    float scale;
    switch (one->codec) {
    case KVS_CODEC_2BIT: {
        static const float values[] = {0, 0, -THRESHOLD, THRESHOLD};
        *out = values[bytes[i / 4] >> (6 - i % 4 * 2) & 3];
        return true;
    }
    case KVS_CODEC_1BIT:
        *out = (bytes[i / 8] & (0x80 >> i % 8)) != 0 ? 1 : -1;
        return true;
    case KVS_CODEC_F16:
    case KVS_CODEC_BF16:
        memcpy(&half, bytes + 2 * i, sizeof half);
        *out = one->codec == KVS_CODEC_F16 ? kvs_f16_to_f32(half) : kvs_bf16_to_f32(half);
        return true;
    case KVS_CODEC_INT8:
        memcpy(&scale, bytes + i / 256 * 4, sizeof scale);
        *out = (float)(int8_t)bytes[(one->elements + 255) / 256 * 4 + i] * scale;
        return true;
    default:
        for (size_t at = 0; at < one->bytes; at += 8) {
            uint32_t index;
            memcpy(&index, bytes + at, sizeof index);
            if (index == i) {
                memcpy(out, bytes + at + 4, sizeof *out);
                return true;
            }
        }
        return false;
    }
}

static void check_codec(const codec_case *one, bool first, const float *got)
{
    static float expected[ELEMENTS_MAX];
    for (size_t i = 0; i < one->elements; i++) {
        float value = 0;
        bool there = element_of(one, i, &value);
        expected[i] = first ? value : there ? one->sum[i] + value : one->sum[i];
    }
    kvs_contract_same(KVS_F32, got, expected, one->elements);
}

static void every_codec_is_decoded_into_the_sum(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static codec_case one;
    static float got[ELEMENTS_MAX];
    for (uint32_t i = 0; i < contract->cases; i++) {
        kvs_codec codec = (kvs_codec)(1 + i % (KVS_CODEC_COUNT - 1));
        bool first = kvs_contract_random(contract, 2) == 0;
        one.elements = random_elements(contract);
        make_codec(contract, &one, codec, i / KVS_CODEC_COUNT % KVS_CUT_COUNT, i % 5 == 0);
        for (int side = 0; side < 2; side++) {
            run_codec(&contract->side[side], &one, first, false, got);
            check_codec(&one, first, got);
            run_codec(&contract->side[side], &one, first, true, got);
            check_codec(&one, first, got);
        }
        kvs_contract_pieces_free(&one.pieces);
    }
}

#define TERMS 5u

/* All terms in one call, or a call each; those that `from_memory` has a bit for from memory. */
static void run_terms(kvs_contract_side *side, const codec_case *terms, bool together,
                      unsigned from_memory, float *out)
{
    kvs_memory target = kvs_contract_memory(side, terms->sum, terms->elements * sizeof(float));
    kvs_memory held[TERMS];
    kvs_accumulate_item items[TERMS];
    for (size_t i = 0; i < TERMS; i++) {
        held[i] = kvs_contract_memory(side, terms[i].encoded, terms[i].bytes);
        items[i] = (kvs_accumulate_item){.target = &target,
                                         .source = {.payload = terms[i].pieces.payload},
                                         .elements = terms[i].elements,
                                         .dtype = KVS_F32,
                                         .codec = terms[i].codec,
                                         .threshold = THRESHOLD * (float)(i + 1),
                                         .first = i == 0 && (from_memory & 1) == 0};
        items[i].source.memory = (from_memory >> i & 1) != 0 ? &held[i] : NULL;
    }
    for (size_t i = 0; i < TERMS; i += together ? TERMS : 1) {
        assert_int_equal(
            side->backend->table->accumulate(side->stream, &items[i], together ? TERMS : 1),
            KVS_OK);
    }
    kvs_contract_read(side, &target, out);
    kvs_contract_free(side, &target);
    for (size_t i = 0; i < TERMS; i++) {
        kvs_contract_free(side, &held[i]);
    }
}

static void terms_of_several_codecs_in_one_call_give_the_bits_of_a_call_each(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static codec_case terms[TERMS];
    static float got[2][ELEMENTS_MAX];
    for (uint32_t i = 0; i < contract->cases; i++) {
        size_t elements = random_elements(contract);
        unsigned from_memory = (unsigned)kvs_contract_random(contract, 1u << TERMS);
        for (size_t t = 0; t < TERMS; t++) {
            /* A call has terms of all codecs, or but of 2bit and 1bit. */
            uint64_t codecs = i % 2 == 0 ? KVS_CODEC_COUNT - 1 : 2;
            kvs_codec codec = (kvs_codec)(1 + kvs_contract_random(contract, codecs));
            terms[t].elements = elements;
            make_codec(contract, &terms[t], codec, (i + t) % KVS_CUT_COUNT, i % 5 == 0);
        }
        run_terms(&contract->side[0], terms, true, from_memory, got[0]);
        run_terms(&contract->side[1], terms, false, from_memory, got[1]);
        kvs_contract_same(KVS_F32, got[0], got[1], elements);
        for (size_t t = 0; t < TERMS; t++) {
            kvs_contract_pieces_free(&terms[t].pieces);
        }
    }
}

/* A part as large as they come, of each codec: the scratch of a device has room for it. */
static void the_largest_part_of_every_codec_is_decoded(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    size_t elements = (size_t)KVS_PART_ELEMENTS;
    float *got[2] = {malloc(elements * sizeof(float)), malloc(elements * sizeof(float))};
    uint8_t *encoded = malloc(8 * elements);
    for (int codec = 1; codec < KVS_CODEC_COUNT; codec++) {
        size_t bytes = (size_t)kvs_codec_bytes((kvs_codec)codec, elements);
        for (uint32_t i = 0; i < elements; i++) {
            float value = (float)i;
            memcpy(encoded + 8 * (size_t)i, &i, sizeof i);
            memcpy(encoded + 8 * (size_t)i + 4, &value, sizeof value);
        }
        for (int s = 0; s < 2; s++) {
            kvs_contract_side *side = &contract->side[s];
            kvs_memory target = kvs_contract_memory(side, NULL, elements * sizeof(float));
            kvs_span span = {encoded, bytes};
            kvs_accumulate_item item = {
                .target = &target,
                .source = {.payload = {.spans = &span, .count = 1, .bytes = bytes}},
                .elements = elements,
                .dtype = KVS_F32,
                .codec = (kvs_codec)codec,
                .threshold = 1};
            assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
            kvs_contract_read(side, &target, got[s]);
            kvs_contract_free(side, &target);
        }
        kvs_contract_same(KVS_F32, got[0], got[1], elements);
    }
    free(got[0]);
    free(got[1]);
    free(encoded);
}

/* One batch: each item has what it was given, though all pass through the same room. */
static void one_batch_decodes_many_targets(void **state)
{
    enum { TARGETS = 20 };
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    kvs_memory target[TARGETS];
    kvs_accumulate_item item[TARGETS];
    uint8_t encoded[TARGETS][4];
    kvs_span span[TARGETS];
    for (size_t i = 0; i < TARGETS; i++) {
        memset(encoded[i], i % 2 == 0 ? 0xff : 0xaa, sizeof encoded[i]);
        span[i] = (kvs_span){encoded[i], 4};
        target[i] = kvs_contract_memory(side, NULL, 16 * sizeof(float));
        item[i] = (kvs_accumulate_item){
            .target = &target[i],
            .source = {.payload = {.spans = &span[i], .count = 1, .bytes = 4}},
            .elements = 16,
            .dtype = KVS_F32,
            .codec = KVS_CODEC_2BIT,
            .threshold = (float)(i + 1)};
    }
    assert_int_equal(side->backend->table->accumulate(side->stream, item, TARGETS), KVS_OK);
    for (size_t i = 0; i < TARGETS; i++) {
        float got[16];
        kvs_contract_read(side, &target[i], got);
        for (size_t j = 0; j < 16; j++) {
            assert_true(got[j] == (i % 2 == 0 ? 1.0f : -1.0f) * (float)(i + 1));
        }
        kvs_contract_free(side, &target[i]);
    }
}

/* ------------------------------------------------------------------ values that are encoded */

static const kvs_codec of_values[] = {KVS_CODEC_F16, KVS_CODEC_BF16, KVS_CODEC_INT8};

static void run_encode(kvs_contract_side *side, const kvs_encode_item *how, const float *values,
                       uint8_t *out)
{
    size_t bytes = (size_t)kvs_codec_value_bytes(how->codec, how->runs, how->elements);
    kvs_memory source =
        kvs_contract_memory(side, values, (size_t)(how->runs * how->elements) * sizeof *values);
    kvs_memory target = kvs_contract_memory(side, NULL, bytes);
    kvs_encode_item item = *how;
    item.target = &target;
    item.source = &source;
    assert_int_equal(side->backend->table->encode(side->stream, &item, 1), KVS_OK);
    kvs_contract_read(side, &target, out);
    kvs_contract_free(side, &target);
    kvs_contract_free(side, &source);
}

/* NaNs included: what they become does not depend on who encodes. */
static void values_are_encoded_to_the_same_bytes(void **state)
{
    enum { RUNS = 9 };
    kvs_contract *contract = kvs_contract_of(state);
    static float values[RUNS * ELEMENTS_MAX];
    static uint8_t expected[RUNS * ELEMENTS_MAX * 2];
    static uint8_t got[RUNS * ELEMENTS_MAX * 2];
    for (uint32_t i = 0; i < contract->cases; i++) {
        kvs_encode_item how = {.codec = of_values[i % 3],
                               .runs = 1 + kvs_contract_random(contract, RUNS),
                               .elements = random_elements(contract)};
        size_t bytes = (size_t)kvs_codec_value_bytes(how.codec, how.runs, how.elements);
        (i % 4 == 0 ? kvs_contract_fill_odd : kvs_contract_fill)(contract, KVS_F32, values,
                                                                 (size_t)(how.runs * how.elements));
        kvs_codec_write_value(how.codec, values, how.runs, how.elements, expected);
        for (size_t s = 0; s < 2; s++) {
            memset(got, 0xa5, bytes);
            run_encode(&contract->side[s], &how, values, got);
            assert_memory_equal(got, expected, bytes);
        }
    }
}

/* A whole part, and a row that is longer than parts are. */
static void the_largest_values_are_encoded(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    const uint64_t lengths[] = {KVS_PART_ELEMENTS, KVS_PART_ELEMENTS + 1000};
    size_t most = (size_t)lengths[1];
    float *values = malloc(most * sizeof *values);
    uint8_t *out[2] = {malloc(2 * most), malloc(2 * most)};
    kvs_contract_fill(contract, KVS_F32, values, most);
    for (size_t i = 0; i < 6; i++) {
        kvs_encode_item how = {.codec = of_values[i % 3], .runs = 1, .elements = lengths[i / 3]};
        kvs_codec_write_value(how.codec, values, 1, how.elements, out[1]);
        run_encode(&contract->side[0], &how, values, out[0]);
        assert_memory_equal(out[0], out[1],
                            (size_t)kvs_codec_value_bytes(how.codec, 1, how.elements));
    }
    free(values);
    free(out[0]);
    free(out[1]);
}

/* In one call, of what was computed before it. */
static void one_batch_encodes_many_values(void **state)
{
    enum { VALUES = 12, LENGTH = 300 };
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    const kvs_backend_table *table = side->backend->table;
    static float values[VALUES][LENGTH];
    kvs_memory source[VALUES];
    kvs_memory target[VALUES];
    kvs_encode_item items[VALUES];
    kvs_accumulate_item doubled[VALUES];
    kvs_span span[VALUES];
    for (size_t i = 0; i < VALUES; i++) {
        kvs_contract_fill(contract, KVS_F32, values[i], LENGTH);
        source[i] = kvs_contract_memory(side, values[i], sizeof values[i]);
        target[i] = kvs_contract_memory(side, NULL, 2 * LENGTH);
        span[i] = (kvs_span){(const uint8_t *)values[i], sizeof values[i]};
        doubled[i] = (kvs_accumulate_item){
            .target = &source[i],
            .source = {.payload = {.spans = &span[i], .count = 1, .bytes = sizeof values[i]}},
            .elements = LENGTH,
            .dtype = KVS_F32};
        items[i] = (kvs_encode_item){.target = &target[i],
                                     .source = &source[i],
                                     .codec = of_values[i % 3],
                                     .runs = 1,
                                     .elements = LENGTH};
    }
    assert_int_equal(table->accumulate(side->stream, doubled, VALUES), KVS_OK);
    assert_int_equal(table->encode(side->stream, items, VALUES), KVS_OK);
    for (size_t i = 0; i < VALUES; i++) {
        uint8_t got[2 * LENGTH];
        uint8_t expected[2 * LENGTH];
        float twice[LENGTH];
        for (size_t j = 0; j < LENGTH; j++) {
            twice[j] = values[i][j] + values[i][j];
        }
        kvs_codec_write_value(items[i].codec, twice, 1, LENGTH, expected);
        kvs_contract_read(side, &target[i], got);
        assert_memory_equal(got, expected,
                            (size_t)kvs_codec_value_bytes(items[i].codec, 1, LENGTH));
        kvs_contract_free(side, &source[i]);
        kvs_contract_free(side, &target[i]);
    }
}

static void values_are_not_encoded_as_gradients_are(void **state)
{
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    kvs_memory memory = kvs_contract_memory(side, NULL, 64);
    kvs_encode_item items[2] = {
        {.target = &memory, .source = &memory, .codec = KVS_CODEC_BF16, .runs = 1},
        {.target = &memory, .source = &memory, .codec = KVS_CODEC_2BIT, .runs = 1}};
    assert_int_equal(side->backend->table->encode(side->stream, items, 2), KVS_UNIMPLEMENTED);
    assert_int_equal(side->backend->table->encode(side->stream, items, 1), KVS_OK);
    kvs_contract_free(side, &memory);
}

kvs_contract_tests kvs_contract_codec_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_codec_is_decoded_into_the_sum),
        cmocka_unit_test(terms_of_several_codecs_in_one_call_give_the_bits_of_a_call_each),
        cmocka_unit_test(the_largest_part_of_every_codec_is_decoded),
        cmocka_unit_test(one_batch_decodes_many_targets),
        cmocka_unit_test(values_are_encoded_to_the_same_bytes),
        cmocka_unit_test(the_largest_values_are_encoded),
        cmocka_unit_test(one_batch_encodes_many_values),
        cmocka_unit_test(values_are_not_encoded_as_gradients_are),
    };
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
