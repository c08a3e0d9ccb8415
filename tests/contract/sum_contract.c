#include "tests/contract/backend_contract.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Terms of one sum, at most; each of at most ELEMENTS_MAX elements. */
#define TERMS_MAX 5u
#define ELEMENTS_MAX 3000u

static const kvs_dtype added[] = {KVS_F32, KVS_F64, KVS_U8,  KVS_I8,
                                  KVS_I32, KVS_I64, KVS_F16, KVS_BF16};
#define ADDED (sizeof added / sizeof added[0])

static bool promised(const kvs_contract *contract, kvs_dtype dtype)
{
    return (contract->dtypes >> dtype & 1) != 0;
}

/* One sum: terms as plain arrays and as the payloads in which they arrive. */
typedef struct sum_case {
    kvs_dtype dtype;
    size_t elements;
    size_t terms;
    void *term[TERMS_MAX];
    kvs_contract_pieces pieces[TERMS_MAX];
} sum_case;

static sum_case make_case(kvs_contract *contract, kvs_dtype dtype, kvs_contract_cut cut, bool odd)
{
    sum_case sum = {.dtype = dtype};
    /* Half of them about the length of a vector, where the tails are. */
    uint64_t bound = kvs_contract_random(contract, 2) == 0 ? 70 : ELEMENTS_MAX;
    sum.elements = (size_t)kvs_contract_random(contract, bound);
    sum.terms = 1 + (size_t)kvs_contract_random(contract, TERMS_MAX);
    size_t bytes = sum.elements * kvs_dtype_bytes(dtype);
    for (size_t i = 0; i < sum.terms; i++) {
        sum.term[i] = malloc(bytes + 1);
        if (odd) {
            kvs_contract_fill_odd(contract, dtype, sum.term[i], sum.elements);
        } else {
            kvs_contract_fill(contract, dtype, sum.term[i], sum.elements);
        }
        sum.pieces[i] = kvs_contract_cut_bytes(contract, sum.term[i], bytes, cut);
    }
    return sum;
}

static void free_case(sum_case *sum)
{
    for (size_t i = 0; i < sum->terms; i++) {
        free(sum->term[i]);
        kvs_contract_pieces_free(&sum->pieces[i]);
    }
}

/* Sums on a side, from spans or from memory; `out` receives the result. */
static void run_case(kvs_contract_side *side, const sum_case *sum, bool from_memory, void *out)
{
    const kvs_backend_table *table = side->backend->table;
    size_t bytes = sum->elements * kvs_dtype_bytes(sum->dtype);
    kvs_memory target = kvs_contract_memory(side, NULL, bytes);
    kvs_memory held[TERMS_MAX];
    for (size_t i = 0; i < sum->terms; i++) {
        kvs_accumulate_item item = {
            .target = &target,
            .source = {.payload = sum->pieces[i].payload},
            .elements = sum->elements,
            .dtype = sum->dtype,
            .first = i == 0,
        };
        if (from_memory) {
            held[i] = kvs_contract_memory(side, sum->term[i], bytes);
            item.source = (kvs_source){.memory = &held[i]};
        }
        assert_int_equal(table->accumulate(side->stream, &item, 1), KVS_OK);
    }
    kvs_contract_read(side, &target, out);
    for (size_t i = 0; from_memory && i < sum->terms; i++) {
        kvs_contract_free(side, &held[i]);
    }
    kvs_contract_free(side, &target);
}

/* ------------------------------------------------------------------ the oracle */

static uint64_t integer_at(kvs_dtype dtype, const void *data, size_t index)
{
    size_t bytes = kvs_dtype_bytes(dtype);
    uint64_t value = 0;
    memcpy(&value, (const uint8_t *)data + index * bytes, bytes); /* little-endian */
    return value;
}

/* Of the sum of at most TERMS_MAX numbers up to 2: a rounding of half a unit each. */
static double tolerance_of(kvs_dtype dtype)
{
    switch (dtype) {
    case KVS_F64:
        return 1e-14;
    case KVS_F16:
        return TERMS_MAX * TERMS_MAX * 0x1p-11;
    case KVS_BF16:
        return TERMS_MAX * TERMS_MAX * 0x1p-8;
    default:
        return 1e-5;
    }
}

static void check_sum(const sum_case *sum, const void *got)
{
    bool floats = kvs_dtype_floating(sum->dtype);
    double tolerance = tolerance_of(sum->dtype);
    size_t bits = 8 * kvs_dtype_bytes(sum->dtype);
    uint64_t mask = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
    for (size_t i = 0; i < sum->elements; i++) {
        double total = 0;
        uint64_t wrapped = 0;
        for (size_t j = 0; j < sum->terms; j++) {
            total += floats ? kvs_contract_number(sum->dtype, sum->term[j], i) : 0;
            wrapped += floats ? 0 : integer_at(sum->dtype, sum->term[j], i);
        }
        if (floats) {
            assert_true(fabs(kvs_contract_number(sum->dtype, got, i) - total) <= tolerance);
        } else {
            assert_int_equal(integer_at(sum->dtype, got, i), wrapped & mask);
        }
    }
}

/* ------------------------------------------------------------------ tests */

static void sums_of_every_dtype_and_cut_are_right_and_bit_equal(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static uint64_t got[2][ELEMENTS_MAX]; /* room for the widest dtype */
    for (uint32_t i = 0; i < contract->cases; i++) {
        kvs_dtype dtype = added[i % ADDED];
        if (!promised(contract, dtype)) {
            continue;
        }
        sum_case sum = make_case(contract, dtype, i / ADDED % KVS_CUT_COUNT, false);
        run_case(&contract->side[0], &sum, false, got[0]);
        run_case(&contract->side[1], &sum, false, got[1]);
        check_sum(&sum, got[0]);
        kvs_contract_same(dtype, got[0], got[1], sum.elements);
        free_case(&sum);
    }
}

static void sums_of_odd_floats_are_bit_equal(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static uint64_t got[2][ELEMENTS_MAX];
    for (uint32_t i = 0; i < contract->cases; i++) {
        static const kvs_dtype floats[] = {KVS_F32, KVS_F64, KVS_F16, KVS_BF16};
        kvs_dtype dtype = floats[i % 4];
        if (!promised(contract, dtype)) {
            continue;
        }
        sum_case sum = make_case(contract, dtype, i / 4 % KVS_CUT_COUNT, true);
        run_case(&contract->side[0], &sum, false, got[0]);
        run_case(&contract->side[1], &sum, false, got[1]);
        kvs_contract_same(dtype, got[0], got[1], sum.elements);
        free_case(&sum);
    }
}

static void terms_from_memory_give_the_bits_of_terms_from_spans(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static uint64_t got[2][ELEMENTS_MAX];
    for (uint32_t i = 0; i < contract->cases; i++) {
        kvs_dtype dtype = added[i % ADDED];
        if (!promised(contract, dtype)) {
            continue;
        }
        sum_case sum = make_case(contract, dtype, i / ADDED % KVS_CUT_COUNT, false);
        run_case(&contract->side[0], &sum, false, got[0]);
        run_case(&contract->side[0], &sum, true, got[1]);
        kvs_contract_same(dtype, got[0], got[1], sum.elements);
        free_case(&sum);
    }
}

static void first_term_is_copied_bit_for_bit(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    /* -0.0, a signalling NaN, a quiet NaN with a payload, the smallest denormal. */
    const uint32_t odd[] = {0x80000000, 0x7f800001, 0xffc12345, 0x00000001, 0x80000001};
    for (kvs_contract_cut cut = 0; cut < KVS_CUT_COUNT; cut++) {
        sum_case sum = {.dtype = KVS_F32, .elements = 5, .terms = 1};
        uint32_t got[5];
        sum.term[0] = malloc(sizeof odd);
        memcpy(sum.term[0], odd, sizeof odd);
        sum.pieces[0] = kvs_contract_cut_bytes(contract, odd, sizeof odd, cut);
        run_case(&contract->side[0], &sum, false, got);
        assert_memory_equal(got, odd, sizeof odd);
        run_case(&contract->side[0], &sum, true, got);
        assert_memory_equal(got, odd, sizeof odd);
        free_case(&sum);
    }
}

static void terms_are_added_in_the_order_of_the_calls(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    /* (1e8 + -1e8) + 1 is 1; 1e8 + (-1e8 + 1) is 0 in f32. */
    const float terms[3] = {1e8f, -1e8f, 1.0f};
    sum_case sum = {.dtype = KVS_F32, .elements = 1, .terms = 3};
    float got = 0;
    for (size_t i = 0; i < 3; i++) {
        sum.term[i] = malloc(sizeof(float));
        memcpy(sum.term[i], &terms[i], sizeof(float));
        sum.pieces[i] = kvs_contract_cut_bytes(contract, &terms[i], 4, KVS_CUT_WHOLE);
    }
    run_case(&contract->side[0], &sum, false, &got);
    assert_true(got == 1.0f);
    free_case(&sum);
}

/* Three targets in one call, each of several terms: from spans and from memory, and the second of
 * them added to what the target holds. */
static void run_together(kvs_contract_side *side, const sum_case sums[3], unsigned from_memory,
                         uint64_t out[3][ELEMENTS_MAX])
{
    kvs_memory target[3];
    kvs_memory held[3 * TERMS_MAX];
    kvs_accumulate_item items[3 * TERMS_MAX];
    size_t count = 0;
    for (size_t s = 0; s < 3; s++) {
        size_t bytes = sums[s].elements * kvs_dtype_bytes(sums[s].dtype);
        target[s] = kvs_contract_memory(side, s == 1 ? sums[s].term[0] : NULL, bytes);
        for (size_t i = s == 1 ? 1 : 0; i < sums[s].terms; i++) {
            held[count] = kvs_contract_memory(side, sums[s].term[i], bytes);
            items[count] = (kvs_accumulate_item){.target = &target[s],
                                                 .source = {.payload = sums[s].pieces[i].payload},
                                                 .elements = sums[s].elements,
                                                 .dtype = sums[s].dtype,
                                                 .first = i == 0};
            if ((from_memory >> i & 1) != 0) {
                items[count].source = (kvs_source){.memory = &held[count]};
            }
            count++;
        }
    }
    assert_int_equal(side->backend->table->accumulate(side->stream, items, count), KVS_OK);
    for (size_t s = 0; s < 3; s++) {
        kvs_contract_read(side, &target[s], out[s]);
        kvs_contract_free(side, &target[s]);
    }
    for (size_t i = 0; i < count; i++) {
        kvs_contract_free(side, &held[i]);
    }
}

static void terms_of_one_call_give_the_bits_of_a_call_each(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static uint64_t together[3][ELEMENTS_MAX];
    static uint64_t alone[ELEMENTS_MAX];
    for (uint32_t i = 0; i < contract->cases; i++) {
        kvs_dtype dtype = added[i % ADDED];
        if (!promised(contract, dtype)) {
            continue;
        }
        sum_case sums[3];
        for (size_t s = 0; s < 3; s++) {
            sums[s] = make_case(contract, dtype, i / ADDED % KVS_CUT_COUNT, i % 3 == 0);
        }
        run_together(&contract->side[0], sums, (unsigned)kvs_contract_random(contract, 32),
                     together);
        for (size_t s = 0; s < 3; s++) {
            run_case(&contract->side[1], &sums[s], false, alone);
            kvs_contract_same(dtype, together[s], alone, sums[s].elements);
            free_case(&sums[s]);
        }
    }
}

/* Longer than what a device stages at once, and than a block that stays in a cache. */
static void terms_of_the_largest_parts_are_added_in_one_call(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static const kvs_dtype dtypes[] = {KVS_F32, KVS_F64, KVS_BF16};
    for (size_t d = 0; d < 3; d++) {
        kvs_dtype dtype = dtypes[d];
        size_t elements = (size_t)KVS_PART_ELEMENTS - d;
        size_t bytes = elements * kvs_dtype_bytes(dtype);
        void *term[3] = {malloc(bytes), malloc(bytes), malloc(bytes)};
        void *got[2] = {malloc(bytes), malloc(bytes)};
        kvs_span span[3];
        for (size_t i = 0; i < 3; i++) {
            kvs_contract_fill(contract, dtype, term[i], elements);
            span[i] = (kvs_span){term[i], bytes};
        }
        for (size_t s = 0; s < 2; s++) {
            kvs_contract_side *side = &contract->side[s];
            kvs_memory target = kvs_contract_memory(side, NULL, bytes);
            kvs_memory held = kvs_contract_memory(side, term[1], bytes);
            kvs_accumulate_item items[3];
            for (size_t i = 0; i < 3; i++) {
                items[i] = (kvs_accumulate_item){
                    .target = &target,
                    .source = {.payload = {.spans = &span[i], .count = 1, .bytes = bytes}},
                    .elements = elements,
                    .dtype = dtype,
                    .first = i == 0};
            }
            items[1].source = (kvs_source){.memory = &held};
            for (size_t i = 0; i < 3; i += s == 0 ? 3 : 1) {
                assert_int_equal(
                    side->backend->table->accumulate(side->stream, &items[i], s == 0 ? 3 : 1),
                    KVS_OK);
            }
            kvs_contract_read(side, &target, got[s]);
            kvs_contract_free(side, &target);
            kvs_contract_free(side, &held);
        }
        kvs_contract_same(dtype, got[0], got[1], elements);
        for (size_t i = 0; i < 3; i++) {
            free(term[i]);
        }
        free(got[0]);
        free(got[1]);
    }
}

static void one_batch_sums_many_targets(void **state)
{
    enum { TARGETS = 40 };
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    kvs_memory target[TARGETS];
    kvs_accumulate_item item[TARGETS];
    kvs_contract_pieces pieces[TARGETS];
    float got[TARGETS];
    for (size_t i = 0; i < TARGETS; i++) {
        float term[TARGETS];
        size_t elements = 1 + i;
        for (size_t j = 0; j < elements; j++) {
            term[j] = (float)(100 * i + j);
        }
        target[i] = kvs_contract_memory(side, term, elements * sizeof(float));
        pieces[i] =
            kvs_contract_cut_bytes(contract, term, elements * sizeof(float), i % KVS_CUT_COUNT);
        item[i] = (kvs_accumulate_item){
            .target = &target[i],
            .source = {.payload = pieces[i].payload},
            .elements = elements,
            .dtype = KVS_F32,
        };
    }
    assert_int_equal(side->backend->table->accumulate(side->stream, item, TARGETS), KVS_OK);
    for (size_t i = 0; i < TARGETS; i++) {
        kvs_contract_read(side, &target[i], got);
        for (size_t j = 0; j <= i; j++) {
            assert_true(got[j] == 2 * (float)(100 * i + j));
        }
        kvs_contract_free(side, &target[i]);
        kvs_contract_pieces_free(&pieces[i]);
    }
}

static void what_is_not_built_is_refused_and_changes_nothing(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    const float before[2] = {1, 2};
    float got[2];
    kvs_span span = {.data = (const uint8_t *)before, .bytes = sizeof before};
    kvs_memory a = kvs_contract_memory(side, before, sizeof before);
    kvs_memory b = kvs_contract_memory(side, before, sizeof before);
    kvs_source source = {.payload = {.spans = &span, .count = 1, .bytes = sizeof before}};
    kvs_accumulate_item item[2] = {
        {.target = &a, .source = source, .elements = 2, .dtype = KVS_F32},
        {.target = &b, .source = source, .elements = 1, .dtype = KVS_F64},
    };
    item[1].codec = KVS_CODEC_2BIT; /* codecs are of f32 */
    assert_int_equal(side->backend->table->accumulate(side->stream, item, 2), KVS_UNIMPLEMENTED);
    item[1].dtype = KVS_F32;
    item[1].elements = 2;
    item[1].codec = KVS_CODEC_COUNT;
    assert_int_equal(side->backend->table->accumulate(side->stream, item, 2), KVS_UNIMPLEMENTED);
    kvs_contract_read(side, &a, got);
    assert_memory_equal(got, before, sizeof before);
    kvs_contract_free(side, &a);
    kvs_contract_free(side, &b);
}

kvs_contract_tests kvs_contract_sum_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_of_every_dtype_and_cut_are_right_and_bit_equal),
        cmocka_unit_test(sums_of_odd_floats_are_bit_equal),
        cmocka_unit_test(terms_from_memory_give_the_bits_of_terms_from_spans),
        cmocka_unit_test(first_term_is_copied_bit_for_bit),
        cmocka_unit_test(terms_are_added_in_the_order_of_the_calls),
        cmocka_unit_test(terms_of_one_call_give_the_bits_of_a_call_each),
        cmocka_unit_test(terms_of_the_largest_parts_are_added_in_one_call),
        cmocka_unit_test(one_batch_sums_many_targets),
        cmocka_unit_test(what_is_not_built_is_refused_and_changes_nothing),
    };
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
