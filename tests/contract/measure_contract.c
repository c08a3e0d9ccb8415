/* Sums of squares over a part: in the one order that is fixed, of terms that an oracle knows. */
#include "tests/contract/backend_contract.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* More than two blocks, with a tail. */
#define ELEMENTS_MAX 9500u
#define ARRAYS 4u /* weight, gradient and two states */

static const kvs_rule_scalars scalars = {.rule = KVS_RULE_LAMB,
                                         .rescale = 0.5,
                                         .clip = 0.6,
                                         .wd = 0.01,
                                         .lr = 0.1,
                                         .beta1 = 0.9,
                                         .beta1_rest = 0.1,
                                         .beta2 = 0.99,
                                         .beta2_rest = 0.01,
                                         .epsilon = 1e-6,
                                         .factor = 0.271,
                                         .correction2 = 0.0297};

typedef struct measure_case {
    int measure;
    kvs_dtype dtype;
    bool has_master;
    uint64_t first; /* so many lie before them */
    uint64_t elements;
    void *of[ARRAYS]; /* weight (f32 for a master), gradient, states */
} measure_case;

static bool is_half(kvs_dtype dtype)
{
    return dtype == KVS_F16 || dtype == KVS_BF16;
}

static kvs_dtype dtype_of(const measure_case *one, unsigned array)
{
    bool wide = array > 1 || (array == 0 && one->has_master);
    return wide && is_half(one->dtype) ? KVS_F32 : one->dtype;
}

/* What the terms are, in double. */
static void terms_of(const measure_case *one, size_t i, double *out)
{
    double of[ARRAYS];
    for (unsigned a = 0; a < ARRAYS; a++) {
        of[a] = kvs_contract_number(dtype_of(one, a), one->of[a], i);
    }
    double gradient = scalars.rescale * of[1];
    double clipped = fmin(fmax(gradient, -scalars.clip), scalars.clip);
    double mean = scalars.beta1 * of[2] + scalars.beta1_rest * clipped;
    double square = scalars.beta2 * of[3] + scalars.beta2_rest * clipped * clipped;
    double root = sqrt(square / scalars.correction2) + scalars.epsilon;
    double way = mean / scalars.factor / root + scalars.wd * of[0];
    switch (one->measure) {
    case KVS_MEASURE_GRADIENT:
        out[0] = gradient;
        break;
    case KVS_MEASURE_ROW:
        out[0] = clipped;
        break;
    case KVS_MEASURE_LARS:
        out[0] = of[0];
        out[1] = gradient;
        break;
    case KVS_MEASURE_LBSGD:
        out[0] = of[0];
        out[1] = (of[2] + of[1]) / scalars.factor;
        break;
    default:
        out[0] = of[0];
        out[1] = way;
        out[2] = clipped / root + scalars.wd * of[0];
        break;
    }
}

static void run(kvs_contract_side *side, const measure_case *one, double *sums)
{
    kvs_memory memory[ARRAYS];
    for (unsigned a = 0; a < ARRAYS; a++) {
        memory[a] = kvs_contract_memory(
            side, one->of[a], (one->first + one->elements) * kvs_dtype_bytes(dtype_of(one, a)));
    }
    kvs_measure_item item = {.scalars = scalars,
                             .measure = one->measure,
                             .accumulator = &memory[1],
                             .sums = sums,
                             .first = one->first,
                             .elements = one->elements,
                             .dtype = one->dtype};
    if (kvs_measure_form_of(one->measure).weight != 0) {
        *(one->has_master ? &item.master : &item.weight) = &memory[0];
    }
    for (unsigned i = 0; i < kvs_measure_form_of(one->measure).states; i++) {
        item.state[i] = &memory[2 + i];
    }
    kvs_status status = side->backend->table->measure(side->stream, &item, 1);
    if (status == KVS_UNIMPLEMENTED) {
        skip();
    }
    assert_int_equal(status, KVS_OK);
    assert_int_equal(side->backend->table->sync(side->stream), KVS_OK);
    for (unsigned a = 0; a < ARRAYS; a++) {
        kvs_contract_free(side, &memory[a]);
    }
}

static measure_case make_case(kvs_contract *contract, uint32_t number)
{
    static const kvs_dtype dtypes[] = {KVS_F32, KVS_F64, KVS_F16, KVS_BF16};
    measure_case one = {.measure = (int)(number % KVS_MEASURE_COUNT),
                        .dtype = dtypes[kvs_contract_random(contract, 4)],
                        .elements = kvs_contract_random(
                            contract, kvs_contract_random(contract, 2) == 0 ? 40 : ELEMENTS_MAX)};
    if ((contract->dtypes >> one.dtype & 1) == 0) {
        one.dtype = KVS_F32;
    }
    one.first = kvs_contract_random(contract, 2) == 0 ? 0 : kvs_contract_random(contract, 5000);
    one.elements =
        one.elements > ELEMENTS_MAX - one.first ? ELEMENTS_MAX - one.first : one.elements;
    one.has_master = is_half(one.dtype) && kvs_contract_random(contract, 2) == 0;
    for (unsigned a = 0; a < ARRAYS; a++) {
        one.of[a] = calloc(ELEMENTS_MAX, sizeof(double));
        kvs_contract_fill(contract, dtype_of(&one, a), one.of[a], one.first + one.elements);
    }
    for (uint64_t i = 0; i < one.first + one.elements;
         i++) { /* the second state is a mean of squares */
        if (one.dtype == KVS_F64) {
            ((double *)one.of[3])[i] = fabs(((double *)one.of[3])[i]);
        } else {
            ((float *)one.of[3])[i] = fabsf(((float *)one.of[3])[i]);
        }
    }
    return one;
}

static void free_case(measure_case *one)
{
    for (unsigned a = 0; a < ARRAYS; a++) {
        free(one->of[a]);
    }
}

static void sums_are_those_of_the_oracle_and_have_one_set_of_bits(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    for (uint32_t i = 0; i < contract->cases; i++) {
        measure_case one = make_case(contract, i);
        double got[2][KVS_MEASURE_SUMS_MAX] = {{NAN, NAN, NAN}, {NAN, NAN, NAN}};
        double wanted[KVS_MEASURE_SUMS_MAX] = {0};
        run(&contract->side[0], &one, got[0]);
        run(&contract->side[1], &one, got[1]);
        for (size_t j = 0; j < one.elements; j++) {
            double terms[KVS_MEASURE_SUMS_MAX] = {0};
            terms_of(&one, (size_t)one.first + j, terms);
            for (unsigned k = 0; k < KVS_MEASURE_SUMS_MAX; k++) {
                wanted[k] += terms[k] * terms[k];
            }
        }
        for (unsigned k = 0; k < KVS_MEASURE_SUMS_MAX; k++) {
            bool there = k < kvs_measure_form_of(one.measure).sums;
            if (there ? fabs(got[0][k] - wanted[k]) > 1e-5 * wanted[k] : !isnan(got[0][k])) {
                fail_msg("measure %d of %s, %zu elements: sum %u is %.17g, not %.17g", one.measure,
                         kvs_dtype_name(one.dtype), (size_t)one.elements, k, got[0][k], wanted[k]);
            }
        }
        assert_memory_equal(got[0], got[1], kvs_measure_form_of(one.measure).sums * sizeof(double));
        free_case(&one);
    }
}

/* The order itself, written down once more: nothing else gives these bits. */
static void squares_are_added_in_eight_lanes_of_blocks(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    for (uint32_t i = 0; i < 20; i++) {
        measure_case one = make_case(contract, i * KVS_MEASURE_COUNT); /* of the gradient */
        double got[KVS_MEASURE_SUMS_MAX];
        double wanted = 0;
        run(&contract->side[0], &one, got);
        for (uint64_t first = 0; first < one.elements; first += 4096) {
            double lanes[8] = {0};
            for (uint64_t j = first; j < first + 4096 && j < one.elements; j++) {
                double term = kvs_contract_number(one.dtype, one.of[1], one.first + j) * 0.5;
                lanes[j % 8] += term * term;
            }
            for (unsigned width = 1; width < 8; width *= 2) {
                for (unsigned l = 0; l < 8; l += 2 * width) {
                    lanes[l] += lanes[l + width];
                }
            }
            wanted += lanes[0];
        }
        assert_memory_equal(&got[0], &wanted, sizeof wanted);
        free_case(&one);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(sums_are_those_of_the_oracle_and_have_one_set_of_bits),
    cmocka_unit_test(squares_are_added_in_eight_lanes_of_blocks),
};

kvs_contract_tests kvs_contract_measure_tests(void)
{
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
