/* Rules with a number a row: whole rows, rows that an item has a piece of, and rows by a list. */
#include "tests/contract/backend_contract.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WIDTH_MAX 9000u /* more than two blocks of squares, with a tail */
#define ROWS_MAX 40u

static const kvs_rule_scalars scalars = {.rescale = 0.5, .clip = 0.6, .lr = 0.1, .epsilon = 1e-3};

typedef struct row_case {
    int rule;
    kvs_dtype dtype;
    bool master;
    bool in_place;
    uint32_t width;    /* of a row */
    uint32_t rows;     /* of the matrix, whole or not */
    uint32_t begun;    /* of the first, before the item; 0 with a list */
    uint32_t elements; /* of the item; with a list: of the matrix */
    uint32_t *list;    /* NULL: the item has all rows, in order */
    uint32_t count;    /* of the list */
    double squares[2];
    void *weight;   /* as dtype */
    void *gradient; /* as dtype */
    void *state;    /* a number a row, of f64 or f32 */
    void *wide;     /* the master */
} row_case;

static kvs_dtype wide_dtype(const row_case *one)
{
    return one->dtype == KVS_F64 ? KVS_F64 : KVS_F32;
}

/* Each row of the matrix once at most, in any order. */
static void choose_list(kvs_contract *contract, row_case *one)
{
    one->list = malloc((one->rows + 1) * sizeof one->list[0]);
    for (uint32_t i = 0; i < one->rows; i++) {
        uint32_t with = (uint32_t)kvs_contract_random(contract, i + 1);
        one->list[i] = one->list[with];
        one->list[with] = i;
    }
    one->count = (uint32_t)kvs_contract_random(contract, one->rows + 1);
}

static row_case make_case(kvs_contract *contract, uint32_t number)
{
    static const kvs_dtype dtypes[] = {KVS_F32, KVS_F64, KVS_F16, KVS_BF16};
    bool wide_row = kvs_contract_random(contract, 8) == 0;
    row_case one = {
        .rule = number % 2 == 0 ? KVS_RULE_GROUPADAGRAD_19 : KVS_RULE_GROUPADAGRAD_20,
        .dtype = dtypes[kvs_contract_random(contract, 4)],
        .in_place = kvs_contract_random(contract, 2) == 0,
        .width = 1 + (uint32_t)kvs_contract_random(contract, wide_row ? WIDTH_MAX : 70),
        .rows = 1 + (uint32_t)kvs_contract_random(contract, wide_row ? 4 : ROWS_MAX),
        .squares = {0.75, 1.5},
    };
    if ((contract->dtypes >> one.dtype & 1) == 0) {
        one.dtype = KVS_F32;
    }
    one.master = (one.dtype == KVS_F16 || one.dtype == KVS_BF16) && number / 2 % 2 == 0;
    one.elements = one.rows * one.width;
    if (number / 4 % 3 == 0) {
        choose_list(contract, &one);
    } else if (number / 4 % 3 == 1) {
        uint32_t cut = (uint32_t)kvs_contract_random(contract, one.width);
        one.begun = (uint32_t)kvs_contract_random(contract, one.width);
        one.elements -= one.begun;
        one.elements -= cut < one.elements ? cut : 0;
    }
    one.weight = calloc(one.elements + 1, sizeof(double));
    one.gradient = calloc(one.elements + 1, sizeof(double));
    one.wide = calloc(one.elements + 1, sizeof(double));
    one.state = calloc(one.rows + 1, sizeof(double));
    kvs_contract_fill(contract, one.dtype, one.weight, one.elements);
    kvs_contract_fill(contract, one.dtype, one.gradient, one.elements);
    kvs_contract_fill(contract, KVS_F32, one.wide, one.elements);
    for (uint32_t i = 0; i < one.rows; i++) {
        double number_of_row = (double)kvs_contract_random(contract, 1000) / 256;
        if (one.dtype == KVS_F64) {
            ((double *)one.state)[i] = number_of_row;
        } else {
            ((float *)one.state)[i] = (float)number_of_row;
        }
    }
    return one;
}

static void free_case(row_case *one)
{
    free(one->weight);
    free(one->gradient);
    free(one->wide);
    free(one->state);
    free(one->list);
}

typedef struct row_result {
    void *weight, *wide, *state;
} row_result;

static row_result run(kvs_contract_side *side, const row_case *one)
{
    size_t element_bytes = kvs_dtype_bytes(one->dtype);
    size_t wide_bytes = kvs_dtype_bytes(wide_dtype(one));
    size_t bytes = one->elements * element_bytes;
    uint32_t given = one->list == NULL ? one->elements : one->count * one->width;
    kvs_memory weight = kvs_contract_memory(side, one->weight, bytes);
    kvs_memory other = kvs_contract_memory(side, NULL, bytes);
    kvs_memory gradient = kvs_contract_memory(side, one->gradient, given * element_bytes);
    kvs_memory wide = kvs_contract_memory(side, one->wide, one->elements * sizeof(float));
    kvs_memory state = kvs_contract_memory(side, one->state, one->rows * wide_bytes);
    bool in_place = one->in_place || one->list != NULL;
    kvs_apply_item item = {.scalars = scalars,
                           .weight = &weight,
                           .target = in_place ? &weight : &other,
                           .state = {&state},
                           .master = one->master ? &wide : NULL,
                           .accumulator = &gradient,
                           .elements = given,
                           .dtype = one->dtype};
    item.scalars.rule = one->rule;
    if (one->list != NULL) {
        item.rows = (kvs_rows){.list = one->list, .count = one->count, .elements = one->width};
    } else {
        item.edges = (kvs_row_edges){.row_elements = one->width, .begun = one->begun};
        memcpy(item.edges.squares, one->squares, sizeof one->squares);
    }
    kvs_status status = side->backend->table->apply(side->stream, &item, 1);
    if (status == KVS_UNIMPLEMENTED) {
        skip();
    }
    assert_int_equal(status, KVS_OK);
    row_result result = {malloc(bytes + 1), malloc(one->elements * sizeof(float) + 1),
                         malloc(one->rows * wide_bytes)};
    kvs_contract_read(side, in_place ? &weight : &other, result.weight);
    kvs_contract_read(side, &wide, result.wide);
    kvs_contract_read(side, &state, result.state);
    kvs_memory *memories[] = {&weight, &other, &gradient, &wide, &state};
    for (size_t i = 0; i < sizeof memories / sizeof memories[0]; i++) {
        kvs_contract_free(side, memories[i]);
    }
    return result;
}

static void free_result(row_result *result)
{
    free(result->weight);
    free(result->wide);
    free(result->state);
}

static double prepared(const row_case *one, size_t i)
{
    double g = scalars.rescale * kvs_contract_number(one->dtype, one->gradient, i);
    return fmin(fmax(g, -scalars.clip), scalars.clip);
}

static void check_near(const row_case *one, const char *what, size_t i, double got, double wanted,
                       double unit)
{
    if (!(fabs(got - wanted) <= unit * (1 + fabs(wanted)))) {
        fail_msg("rule %d of %s, %s %zu: %.9g is not %.9g", one->rule, kvs_dtype_name(one->dtype),
                 what, i, got, wanted);
    }
}

/* Row `row`, whose elements in the gradient are [begin, end), and begin at `at` in the weight. */
static void check_row(const row_case *one, const row_result *got, size_t row, size_t begin,
                      size_t end, size_t at)
{
    double squares = 0;
    for (size_t i = begin; i < end; i++) {
        squares += prepared(one, i) * prepared(one, i);
    }
    if (end - begin < one->width) {
        squares = one->squares[row > 0 ? 1 : 0];
    }
    kvs_dtype wide = wide_dtype(one);
    double unit = one->dtype == KVS_F16 ? 2e-3 : one->dtype == KVS_BF16 ? 2e-2 : 4e-6;
    double number = kvs_contract_number(wide, one->state, row) + squares / one->width;
    check_near(one, "row", row, kvs_contract_number(wide, got->state, row), number, 4e-6);
    double root = one->rule == KVS_RULE_GROUPADAGRAD_19 ? sqrt(number + scalars.epsilon)
                                                        : sqrt(number) + scalars.epsilon;
    for (size_t i = begin; i < end; i++, at++) {
        double weight = one->master ? kvs_contract_number(KVS_F32, one->wide, at)
                                    : kvs_contract_number(one->dtype, one->weight, at);
        double next = weight - scalars.lr * prepared(one, i) / root;
        check_near(one, "element", at, kvs_contract_number(one->dtype, got->weight, at), next,
                   unit);
        if (one->master) {
            check_near(one, "master", at, kvs_contract_number(KVS_F32, got->wide, at), next, 4e-6);
        }
    }
}

static void check_oracle(const row_case *one, const row_result *got)
{
    size_t width = one->width;
    if (one->list != NULL) {
        for (uint32_t i = 0; i < one->count; i++) {
            check_row(one, got, one->list[i], i * width, (i + 1) * width, one->list[i] * width);
        }
        return;
    }
    for (size_t row = 0, begin = 0; begin < one->elements; row++) {
        size_t end = (row + 1) * width - one->begun;
        end = end < one->elements ? end : one->elements;
        check_row(one, got, row, begin, end, begin);
        begin = end;
    }
}

/* What the list does not name stays as it was. */
static void check_others(const row_case *one, const row_result *got)
{
    bool named[ROWS_MAX + 1] = {false};
    size_t row_bytes = one->width * kvs_dtype_bytes(one->dtype);
    size_t number_bytes = kvs_dtype_bytes(wide_dtype(one));
    for (uint32_t i = 0; one->list != NULL && i < one->count; i++) {
        named[one->list[i]] = true;
    }
    for (uint32_t row = 0; one->list != NULL && row < one->rows; row++) {
        if (!named[row]) {
            assert_memory_equal((char *)got->weight + row * row_bytes,
                                (char *)one->weight + row * row_bytes, row_bytes);
            assert_memory_equal((char *)got->state + row * number_bytes,
                                (char *)one->state + row * number_bytes, number_bytes);
        }
    }
}

static void numbers_of_rows_are_those_of_the_oracle_and_have_one_set_of_bits(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    for (uint32_t i = 0; i < 2 * contract->cases; i++) {
        row_case one = make_case(contract, i);
        row_result got = run(&contract->side[0], &one);
        row_result baseline = run(&contract->side[1], &one);
        check_oracle(&one, &got);
        check_others(&one, &got);
        kvs_contract_same(one.dtype, got.weight, baseline.weight, one.elements);
        kvs_contract_same(KVS_F32, got.wide, baseline.wide, one.elements);
        kvs_contract_same(wide_dtype(&one), got.state, baseline.state, one.rows);
        free_result(&got);
        free_result(&baseline);
        free_case(&one);
    }
}

/* A value cut anywhere has the bits of the whole, if each piece is told of the rows it cuts. */
static void a_cut_row_has_the_number_that_it_is_told(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    float gradient[100];
    float weight[100] = {0};
    kvs_contract_fill(contract, KVS_F32, gradient, 100);
    for (uint32_t cut = 1; cut < 100; cut++) {
        uint32_t starts[2] = {0, cut};
        uint32_t counts[2] = {cut, 100 - cut};
        float got[2][100];
        float number[2];
        for (int i = 0; i < 2; i++) {
            kvs_memory g = kvs_contract_memory(side, gradient + starts[i], counts[i] * 4);
            kvs_memory w = kvs_contract_memory(side, weight, counts[i] * 4);
            kvs_memory h = kvs_contract_memory(side, NULL, 4);
            kvs_apply_item item = {.scalars = scalars,
                                   .weight = &w,
                                   .target = &w,
                                   .state = {&h},
                                   .accumulator = &g,
                                   .elements = counts[i],
                                   .dtype = KVS_F32,
                                   .edges = {100, starts[i], {25, NAN}}};
            item.scalars.rule = KVS_RULE_GROUPADAGRAD_19;
            assert_int_equal(side->backend->table->apply(side->stream, &item, 1), KVS_OK);
            kvs_contract_read(side, &w, got[i]);
            kvs_contract_read(side, &h, &number[i]);
            kvs_contract_free(side, &g);
            kvs_contract_free(side, &w);
            kvs_contract_free(side, &h);
        }
        assert_true(number[0] == 0.25F && number[1] == 0.25F);
        double last = 0.1 * fmin(fmax(0.5 * (double)gradient[99], -0.6), 0.6) / sqrt(0.251);
        assert_true(fabs((double)got[1][99 - cut] + last) < 1e-6);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(numbers_of_rows_are_those_of_the_oracle_and_have_one_set_of_bits),
    cmocka_unit_test(a_cut_row_has_the_number_that_it_is_told),
};

kvs_contract_tests kvs_contract_row_rule_tests(void)
{
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
