/* f16 and bf16: every sum rounded once, rules in f32 on states of f32, masters. */
#include "tests/contract/backend_contract.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ELEMENTS_MAX 5000u
#define UPDATES 3u

/* A rule with states of its own kind: what the suite for rules says of each in f32 holds here. */
static const kvs_rule_scalars scalars = {.rule = KVS_RULE_ADAM_19,
                                         .rescale = 0.5,
                                         .clip = INFINITY,
                                         .wd = 1e-3,
                                         .lr = 0.03,
                                         .beta1 = 0.9,
                                         .beta1_rest = 0.1,
                                         .beta2 = 0.99,
                                         .beta2_rest = 0.01,
                                         .epsilon = 1e-8};

static bool promised(const kvs_contract *contract, kvs_dtype dtype)
{
    return (contract->dtypes >> dtype & 1) != 0;
}

static uint16_t narrow(kvs_dtype dtype, float value)
{
    return dtype == KVS_F16 ? kvs_f32_to_f16(value) : kvs_f32_to_bf16(value);
}

static float widen(kvs_dtype dtype, uint16_t half)
{
    return dtype == KVS_F16 ? kvs_f16_to_f32(half) : kvs_bf16_to_f32(half);
}

/* ------------------------------------------------------------------ sums */

/* All f16 (or bf16) against one other: target := target + source, as one addition in f32. */
static void every_half_is_added_in_f32_and_rounded_once(void **state)
{
    enum { ALL = 1 << 16 };
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    uint16_t *all = malloc(ALL * sizeof *all);
    uint16_t *other = malloc(ALL * sizeof *other);
    uint16_t *got = malloc(ALL * sizeof *got);
    for (unsigned i = 0; i < 12; i++) {
        kvs_dtype dtype = i % 2 == 0 ? KVS_F16 : KVS_BF16;
        uint16_t one = (uint16_t)kvs_contract_random(contract, ALL);
        if (!promised(contract, dtype)) {
            continue;
        }
        for (uint32_t j = 0; j < ALL; j++) {
            all[j] = (uint16_t)j;
            other[j] = i < 6 ? one : (uint16_t)kvs_contract_random(contract, ALL);
        }
        kvs_memory target = kvs_contract_memory(side, all, ALL * sizeof *all);
        kvs_memory source = kvs_contract_memory(side, other, ALL * sizeof *other);
        kvs_accumulate_item item = {
            .target = &target, .source.memory = &source, .elements = ALL, .dtype = dtype};
        assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
        kvs_contract_read(side, &target, got);
        for (uint32_t j = 0; j < ALL; j++) {
            all[j] = narrow(dtype, widen(dtype, all[j]) + widen(dtype, other[j]));
        }
        kvs_contract_same(dtype, got, all, ALL);
        kvs_contract_free(side, &target);
        kvs_contract_free(side, &source);
    }
    free(all);
    free(other);
    free(got);
}

/* ------------------------------------------------------------------ rules */

typedef struct update_case {
    kvs_dtype dtype;
    size_t elements;
    bool master;
    bool with_sum[UPDATES]; /* the accumulator is there, the last contribution, or both */
    bool with_last[UPDATES];
    bool last_in_memory;
    uint16_t weight[ELEMENTS_MAX];
    float wide[ELEMENTS_MAX];
    uint16_t sum[UPDATES][ELEMENTS_MAX];
    uint16_t last[UPDATES][ELEMENTS_MAX];
    kvs_contract_pieces pieces[UPDATES];
} update_case;

typedef struct update_result {
    uint16_t weight[ELEMENTS_MAX];
    float master[ELEMENTS_MAX];
    float state[2][ELEMENTS_MAX];
} update_result;

static void make_update(kvs_contract *contract, update_case *one, kvs_dtype dtype, bool odd)
{
    void (*fill)(kvs_contract *, kvs_dtype, void *, size_t) =
        odd ? kvs_contract_fill_odd : kvs_contract_fill;
    one->dtype = dtype;
    one->elements = (size_t)kvs_contract_random(
        contract, kvs_contract_random(contract, 2) == 0 ? 70 : ELEMENTS_MAX);
    one->master = kvs_contract_random(contract, 2) == 0;
    one->last_in_memory = kvs_contract_random(contract, 3) == 0;
    fill(contract, dtype, one->weight, one->elements);
    for (size_t i = 0; i < one->elements; i++) {
        /* A master is near its weight, and more precise. */
        one->wide[i] = widen(dtype, one->weight[i]) * 1.0001f;
    }
    for (size_t i = 0; i < UPDATES; i++) {
        uint64_t which = kvs_contract_random(contract, 3);
        one->with_sum[i] = which != 0;
        one->with_last[i] = which != 1;
        fill(contract, dtype, one->sum[i], one->elements);
        fill(contract, dtype, one->last[i], one->elements);
        one->pieces[i] = kvs_contract_cut_bytes(contract, one->last[i], 2 * one->elements,
                                                kvs_contract_random(contract, KVS_CUT_COUNT));
    }
}

static void run_update(kvs_contract_side *side, const update_case *one, update_result *out)
{
    size_t bytes = one->elements * sizeof(uint16_t);
    kvs_memory weight = kvs_contract_memory(side, one->weight, bytes);
    kvs_memory master = kvs_contract_memory(side, one->wide, 2 * bytes);
    kvs_memory states[2] = {kvs_contract_memory(side, NULL, 2 * bytes),
                            kvs_contract_memory(side, NULL, 2 * bytes)};
    for (size_t i = 0; i < UPDATES; i++) {
        kvs_memory sum = kvs_contract_memory(side, one->sum[i], bytes);
        kvs_memory last = kvs_contract_memory(side, one->last[i], bytes);
        kvs_apply_item item = {.scalars = scalars,
                               .weight = &weight,
                               .target = &weight,
                               .state = {&states[0], &states[1]},
                               .master = one->master ? &master : NULL,
                               .accumulator = one->with_sum[i] ? &sum : NULL,
                               .elements = one->elements,
                               .dtype = one->dtype};
        if (one->with_last[i] && one->last_in_memory) {
            item.last.memory = &last;
        } else if (one->with_last[i]) {
            item.last.payload = one->pieces[i].payload;
        }
        assert_int_equal(side->backend->table->apply(side->stream, &item, 1), KVS_OK);
        kvs_contract_free(side, &sum);
        kvs_contract_free(side, &last);
    }
    kvs_contract_read(side, &weight, out->weight);
    kvs_contract_read(side, &master, out->master);
    kvs_contract_read(side, &states[0], out->state[0]);
    kvs_contract_read(side, &states[1], out->state[1]);
    kvs_contract_free(side, &weight);
    kvs_contract_free(side, &master);
    kvs_contract_free(side, &states[0]);
    kvs_contract_free(side, &states[1]);
}

/* The same in f32, element by element, as the contract says it. */
static void expect(const update_case *one, update_result *out)
{
    const kvs_numbers_f32 numbers = kvs_round_f32(&scalars);
    for (size_t i = 0; i < one->elements; i++) {
        float state[2] = {0, 0};
        float weight = one->master ? one->wide[i] : widen(one->dtype, one->weight[i]);
        for (size_t j = 0; j < UPDATES; j++) {
            float g = widen(one->dtype, one->with_sum[j] ? one->sum[j][i] : one->last[j][i]);
            if (one->with_sum[j] && one->with_last[j]) {
                g = g + widen(one->dtype, one->last[j][i]);
                g = widen(one->dtype, narrow(one->dtype, g));
            }
            weight = kvs_step_adam_19_f32(&numbers, weight, g, state, i);
            if (!one->master) {
                weight = widen(one->dtype, narrow(one->dtype, weight));
            }
        }
        out->weight[i] = narrow(one->dtype, weight);
        out->master[i] = one->master ? weight : one->wide[i];
        out->state[0][i] = state[0];
        out->state[1][i] = state[1];
    }
}

static void rules_on_halves_compute_in_f32_and_round_once(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static update_case one;
    static update_result got[2];
    static update_result expected;
    for (uint32_t i = 0; i < contract->cases; i++) {
        kvs_dtype dtype = i % 2 == 0 ? KVS_F16 : KVS_BF16;
        if (!promised(contract, dtype)) {
            continue;
        }
        make_update(contract, &one, dtype, i % 4 == 3);
        run_update(&contract->side[0], &one, &got[0]);
        run_update(&contract->side[1], &one, &got[1]);
        expect(&one, &expected);
        for (int side = 0; side < 2; side++) {
            kvs_contract_same(dtype, got[side].weight, expected.weight, one.elements);
            kvs_contract_same(KVS_F32, got[side].master, expected.master, one.elements);
            kvs_contract_same(KVS_F32, got[side].state[0], expected.state[0], one.elements);
            kvs_contract_same(KVS_F32, got[side].state[1], expected.state[1], one.elements);
        }
        for (size_t j = 0; j < UPDATES; j++) {
            kvs_contract_pieces_free(&one.pieces[j]);
        }
    }
}

/* Whatever they share on their way. */
static void one_batch_updates_many_halves(void **state)
{
    enum { TARGETS = 200, ELEMENTS = 9 };
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    kvs_memory weight[TARGETS];
    kvs_memory sum[TARGETS];
    kvs_apply_item item[TARGETS];
    uint16_t last[TARGETS][ELEMENTS];
    kvs_span span[TARGETS];
    for (size_t i = 0; i < TARGETS; i++) {
        uint16_t start[ELEMENTS];
        for (size_t j = 0; j < ELEMENTS; j++) {
            start[j] = kvs_f32_to_f16((float)i);
            last[i][j] = kvs_f32_to_f16((float)j);
        }
        span[i] = (kvs_span){(const uint8_t *)last[i], sizeof last[i]};
        weight[i] = kvs_contract_memory(side, start, sizeof start);
        sum[i] = kvs_contract_memory(side, last[i], sizeof last[i]);
        item[i] = (kvs_apply_item){
            .scalars = {.rule = KVS_RULE_SGD, .rescale = 1, .clip = INFINITY, .lr = -1},
            .weight = &weight[i],
            .target = &weight[i],
            .accumulator = i % 3 != 0 ? &sum[i] : NULL,
            .elements = ELEMENTS,
            .dtype = KVS_F16};
        if (i % 3 != 1) {
            item[i].last.payload =
                (kvs_payload){.spans = &span[i], .count = 1, .bytes = span[i].bytes};
        }
    }
    assert_int_equal(side->backend->table->apply(side->stream, item, TARGETS), KVS_OK);
    for (size_t i = 0; i < TARGETS; i++) {
        uint16_t got[ELEMENTS];
        kvs_contract_read(side, &weight[i], got);
        for (size_t j = 0; j < ELEMENTS; j++) {
            size_t terms = i % 3 == 2 ? 2 : 1;
            assert_true(kvs_f16_to_f32(got[j]) == (float)(i + terms * j));
        }
        kvs_contract_free(side, &weight[i]);
        kvs_contract_free(side, &sum[i]);
    }
}

/* More than a backend may hold beside the values; sgld draws by an element's place in the key. */
static void apply_large(kvs_contract_side *side, const uint16_t *weight, const uint16_t *last,
                        size_t elements, uint16_t *out)
{
    size_t bytes = elements * sizeof *weight;
    kvs_span span = {(const uint8_t *)last, bytes};
    kvs_memory target = kvs_contract_memory(side, weight, bytes);
    kvs_memory sum = kvs_contract_memory(side, weight, bytes);
    kvs_memory momentum = kvs_contract_memory(side, NULL, 2 * bytes);
    kvs_apply_item item = {
        .scalars = scalars,
        .weight = &target,
        .target = &target,
        .state = {&momentum},
        .accumulator = &sum,
        .last.payload = {.spans = &span, .count = 1, .bytes = bytes},
        .elements = elements,
        .dtype = KVS_BF16,
    };
    item.scalars.rule = KVS_RULE_SGD_MOMENTUM;
    assert_int_equal(side->backend->table->apply(side->stream, &item, 1), KVS_OK);
    item.scalars.rule = KVS_RULE_SGLD;
    item.scalars.noise = 0.5;
    assert_int_equal(side->backend->table->apply(side->stream, &item, 1), KVS_OK);
    kvs_contract_read(side, &target, out);
    kvs_contract_free(side, &target);
    kvs_contract_free(side, &sum);
    kvs_contract_free(side, &momentum);
}

static void halves_of_any_number_are_updated(void **state)
{
    const size_t elements = KVS_PART_ELEMENTS + 4099;
    kvs_contract *contract = kvs_contract_of(state);
    uint16_t *weight = malloc(elements * sizeof *weight);
    uint16_t *last = malloc(elements * sizeof *last);
    uint16_t *got = malloc(elements * sizeof *got);
    uint16_t *expected = malloc(elements * sizeof *expected);
    kvs_contract_fill(contract, KVS_BF16, weight, elements);
    kvs_contract_fill(contract, KVS_BF16, last, elements);
    apply_large(&contract->side[0], weight, last, elements, got);
    apply_large(&contract->side[1], weight, last, elements, expected);
    kvs_contract_same(KVS_BF16, got, expected, elements);
    free(weight);
    free(last);
    free(got);
    free(expected);
}

kvs_contract_tests kvs_contract_half_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_is_added_in_f32_and_rounded_once),
        cmocka_unit_test(rules_on_halves_compute_in_f32_and_round_once),
        cmocka_unit_test(one_batch_updates_many_halves),
        cmocka_unit_test(halves_of_any_number_are_updated),
    };
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
