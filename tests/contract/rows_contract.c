/* Items of rows: each does by row what the dense item does to the whole. */
#include "tests/contract/backend_contract.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 40u
#define WIDTH_MAX 70u

static const kvs_dtype all_dtypes[] = {KVS_F32, KVS_F64, KVS_F16, KVS_BF16,
                                       KVS_U8,  KVS_I8,  KVS_I32, KVS_I64};

/* A matrix and a list of its rows. */
typedef struct rows_case {
    kvs_dtype dtype;
    uint32_t rows, width, count;
    uint32_t *list;
    size_t row_bytes;
    uint8_t *matrix;
    uint8_t *given; /* `count` rows */
} rows_case;

static kvs_rows named(const rows_case *c)
{
    return (kvs_rows){.list = c->list, .count = c->count, .elements = c->width};
}

/* Rows may stand twice, unless `once`. */
static rows_case sized_case(kvs_contract *contract, kvs_dtype dtype, uint32_t rows, uint32_t width,
                            uint32_t count, bool once)
{
    rows_case c = {.dtype = dtype, .rows = rows, .width = width, .count = count};
    c.row_bytes = c.width * kvs_dtype_bytes(dtype);
    uint32_t *order = calloc(rows, sizeof *order);
    c.list = calloc(count + 1, sizeof *c.list);
    c.matrix = malloc(c.rows * c.row_bytes);
    c.given = malloc(c.count * c.row_bytes + 1);
    assert_non_null(order);
    assert_non_null(c.list);
    assert_non_null(c.matrix);
    assert_non_null(c.given);
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t other = (uint32_t)kvs_contract_random(contract, i + 1);
        order[i] = order[other];
        order[other] = i;
    }
    for (uint32_t i = 0; i < c.count; i++) {
        c.list[i] = once ? order[i] : (uint32_t)kvs_contract_random(contract, c.rows);
    }
    kvs_contract_fill(contract, dtype, c.matrix, (size_t)c.rows * c.width);
    kvs_contract_fill(contract, dtype, c.given, (size_t)c.count * c.width);
    free(order);
    return c;
}

static rows_case make_case(kvs_contract *contract, kvs_dtype dtype, bool once)
{
    uint32_t rows = 1 + (uint32_t)kvs_contract_random(contract, ROWS_MAX);
    uint32_t width = 1 + (uint32_t)kvs_contract_random(contract, WIDTH_MAX);
    uint32_t count = (uint32_t)kvs_contract_random(contract, (once ? 1 : 2) * rows + 1);
    return sized_case(contract, dtype, rows, width, count, once);
}

static void free_case(rows_case *c)
{
    free(c->list);
    free(c->matrix);
    free(c->given);
}

/* The backend under test; skips the test if it takes no rows. */
static kvs_contract_side *takes_rows(kvs_contract *contract)
{
    if (!contract->side[0].backend->rows) {
        skip();
    }
    return &contract->side[0];
}

/* ------------------------------------------------------------------ copies */

static void a_copy_of_rows_gathers_them(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = takes_rows(contract);
    for (uint32_t i = 0; i <= contract->cases; i++) {
        rows_case c = i > 0 ? make_case(contract, all_dtypes[i % 8], false)
                            : sized_case(contract, KVS_F32, 500, 4, 30001, false);
        kvs_memory source = kvs_contract_memory(side, c.matrix, c.rows * c.row_bytes);
        kvs_memory target = kvs_contract_memory(side, NULL, c.count * c.row_bytes + 1);
        kvs_copy_item item = {.target = &target,
                              .source = {.memory = &source},
                              .bytes = c.count * c.row_bytes,
                              .rows = named(&c)};
        uint8_t *got = malloc(target.bytes);
        assert_int_equal(side->backend->table->copy(side->stream, &item, 1), KVS_OK);
        kvs_contract_read(side, &target, got);
        for (uint32_t r = 0; r < c.count; r++) {
            assert_memory_equal(got + r * c.row_bytes, c.matrix + c.list[r] * c.row_bytes,
                                c.row_bytes);
        }
        free(got);
        kvs_contract_free(side, &source);
        kvs_contract_free(side, &target);
        free_case(&c);
    }
}

/* ------------------------------------------------------------------ sums */

/* Row by row, with dense items of the CPU's baseline. */
static void add_by_row(kvs_contract *contract, const rows_case *c, const bool *first, uint8_t *out)
{
    kvs_contract_side *side = &contract->side[1];
    memcpy(out, c->matrix, c->rows * c->row_bytes);
    for (uint32_t i = 0; i < c->count; i++) {
        uint8_t *row = out + c->list[i] * c->row_bytes;
        kvs_memory target = kvs_contract_memory(side, row, c->row_bytes);
        kvs_memory term = kvs_contract_memory(side, c->given + i * c->row_bytes, c->row_bytes);
        kvs_accumulate_item item = {.target = &target,
                                    .source = {.memory = &term},
                                    .elements = c->width,
                                    .dtype = c->dtype,
                                    .first = first[i]};
        assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
        kvs_contract_read(side, &target, row);
        kvs_contract_free(side, &target);
        kvs_contract_free(side, &term);
    }
}

static void a_sum_of_rows_is_that_of_each_row(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = takes_rows(contract);
    for (uint32_t i = 0; i < contract->cases; i++) {
        rows_case c = make_case(contract, all_dtypes[i % 8], false);
        bool first[2 * ROWS_MAX];
        uint8_t *expected = malloc(c.rows * c.row_bytes);
        uint8_t *got = malloc(c.rows * c.row_bytes);
        for (uint32_t r = 0; r < c.count; r++) {
            first[r] = kvs_contract_random(contract, 3) == 0;
        }
        add_by_row(contract, &c, first, expected);
        for (uint32_t r = 0; r < c.count; r++) {
            c.list[r] |= first[r] ? KVS_ROW_FIRST : 0;
        }
        kvs_memory target = kvs_contract_memory(side, c.matrix, c.rows * c.row_bytes);
        kvs_contract_pieces pieces =
            kvs_contract_cut_bytes(contract, c.given, c.count * c.row_bytes,
                                   (kvs_contract_cut)kvs_contract_random(contract, KVS_CUT_COUNT));
        kvs_accumulate_item item = {.target = &target,
                                    .source = {.payload = pieces.payload},
                                    .elements = (uint64_t)c.count * c.width,
                                    .dtype = c.dtype,
                                    .rows = named(&c)};
        assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
        kvs_contract_read(side, &target, got);
        kvs_contract_same(c.dtype, got, expected, (size_t)c.rows * c.width);
        kvs_contract_pieces_free(&pieces);
        kvs_contract_free(side, &target);
        free(expected);
        free(got);
        free_case(&c);
    }
}

/* More than a backend takes at once: long lists, and rows as long as there are. */
static const struct {
    kvs_dtype dtype;
    uint32_t rows, width, count;
} large[] = {
    {KVS_F32, 20001, 2, 30011},     {KVS_U8, 70001, 1, 40009}, {KVS_BF16, 300, 1000, 700},
    {KVS_F32, 3, (1 << 18) + 7, 5}, {KVS_F64, 2, 1 << 18, 3},  {KVS_F16, 2, (1 << 19) + 1, 2},
};

static void sum_on(kvs_contract_side *side, const rows_case *c, bool held, uint8_t *out)
{
    kvs_span span = {c->given, c->count * c->row_bytes};
    kvs_memory target = kvs_contract_memory(side, c->matrix, c->rows * c->row_bytes);
    kvs_memory given = kvs_contract_memory(side, c->given, span.bytes);
    kvs_accumulate_item item = {
        .target = &target,
        .source = {.payload = {.spans = &span, .count = 1, .bytes = span.bytes}},
        .elements = (uint64_t)c->count * c->width,
        .dtype = c->dtype,
        .rows = named(c)};
    item.source.memory = held ? &given : NULL;
    assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
    kvs_contract_read(side, &target, out);
    kvs_contract_free(side, &target);
    kvs_contract_free(side, &given);
}

static void large_sums_of_rows_are_those_of_the_cpu(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = takes_rows(contract);
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        rows_case c = sized_case(contract, large[i].dtype, large[i].rows, large[i].width,
                                 large[i].count, false);
        uint8_t *got = malloc(c.rows * c.row_bytes);
        uint8_t *expected = malloc(c.rows * c.row_bytes);
        for (uint32_t r = 0; r < c.count; r++) {
            c.list[r] |= kvs_contract_random(contract, 3) == 0 ? KVS_ROW_FIRST : 0;
        }
        sum_on(&contract->side[1], &c, false, expected);
        sum_on(side, &c, false, got);
        kvs_contract_same(c.dtype, got, expected, (size_t)c.rows * c.width);
        sum_on(side, &c, true, got);
        kvs_contract_same(c.dtype, got, expected, (size_t)c.rows * c.width);
        free(got);
        free(expected);
        free_case(&c);
    }
}

/* ------------------------------------------------------------------ rules */

/* Weight, states, master and gradient of one update on one side. */
typedef struct update {
    kvs_contract_side *side;
    kvs_memory weight, state[KVS_RULE_STATES_MAX], master, gradient;
    kvs_apply_item item;
} update;

static kvs_rule_scalars scalars_of(int rule)
{
    return (kvs_rule_scalars){.rule = rule,
                              .rescale = 0.5,
                              .clip = 1.5,
                              .wd = 0.01,
                              .lr = 0.1,
                              .momentum = 0.9,
                              .beta1 = 0.9,
                              .beta1_rest = 0.1,
                              .beta2 = 0.999,
                              .beta2_rest = 0.001,
                              .epsilon = 1e-8};
}

static update make_update(kvs_contract_side *side, const rows_case *c, int rule, const void *states,
                          bool master)
{
    size_t elements = (size_t)c->rows * c->width;
    bool half = c->dtype == KVS_F16 || c->dtype == KVS_BF16;
    size_t state_bytes = elements * (c->dtype == KVS_F64 ? sizeof(double) : sizeof(float));
    update u = {.side = side};
    u.weight = kvs_contract_memory(side, c->matrix, c->rows * c->row_bytes);
    u.master = kvs_contract_memory(side, states, state_bytes);
    for (unsigned i = 0; i < kvs_rule_states(rule); i++) {
        u.state[i] = kvs_contract_memory(side, states, state_bytes);
    }
    u.item = (kvs_apply_item){.scalars = scalars_of(rule), .elements = elements, .dtype = c->dtype};
    u.item.master = master && half ? &u.master : NULL;
    return u;
}

/* The item points into the update, which has to stay where it is. */
static void run_update(update *u)
{
    u->item.weight = &u->weight;
    u->item.target = &u->weight;
    u->item.master = u->item.master == NULL ? NULL : &u->master;
    for (unsigned i = 0; i < kvs_rule_states(u->item.scalars.rule); i++) {
        u->item.state[i] = &u->state[i];
    }
    assert_int_equal(u->side->backend->table->apply(u->side->stream, &u->item, 1), KVS_OK);
}

static void free_update(update *u)
{
    kvs_contract_free(u->side, &u->weight);
    kvs_contract_free(u->side, &u->master);
    kvs_contract_free(u->side, &u->gradient);
    for (unsigned i = 0; i < kvs_rule_states(u->item.scalars.rule); i++) {
        kvs_contract_free(u->side, &u->state[i]);
    }
}

/* Rows of the list have the bytes of `whole`, the others those of `before`. */
static void check_rows(kvs_contract_side *side, kvs_memory *got, kvs_contract_side *other,
                       kvs_memory *whole, const void *before, kvs_dtype dtype, const rows_case *c)
{
    size_t row_bytes = c->width * kvs_dtype_bytes(dtype);
    uint8_t *is = malloc(c->rows * row_bytes);
    uint8_t *full = malloc(c->rows * row_bytes);
    bool *touched = calloc(c->rows, sizeof *touched);
    assert_non_null(touched);
    kvs_contract_read(side, got, is);
    kvs_contract_read(other, whole, full);
    for (uint32_t i = 0; i < c->count; i++) {
        touched[c->list[i]] = true;
    }
    for (uint32_t r = 0; r < c->rows; r++) {
        const uint8_t *expected = touched[r] ? full : before;
        kvs_contract_same(dtype, is + r * row_bytes, expected + r * row_bytes, c->width);
    }
    free(touched);
    free(is);
    free(full);
}

static void check_update(kvs_contract *contract, const rows_case *c, int rule, bool with_gradient,
                         bool master)
{
    kvs_dtype state_dtype = c->dtype == KVS_F64 ? KVS_F64 : KVS_F32;
    size_t elements = (size_t)c->rows * c->width;
    uint8_t *states = malloc(elements * sizeof(double));
    uint8_t *gradient = calloc(c->rows, c->row_bytes);
    kvs_contract_fill(contract, state_dtype, states, elements);
    for (size_t i = 0; i < elements; i++) { /* a sum of squares is not negative */
        if (state_dtype == KVS_F64) {
            ((double *)(void *)states)[i] = fabs(((double *)(void *)states)[i]);
        } else {
            ((float *)(void *)states)[i] = fabsf(((float *)(void *)states)[i]);
        }
    }
    for (uint32_t i = 0; with_gradient && i < c->count; i++) {
        memcpy(gradient + c->list[i] * c->row_bytes, c->given + i * c->row_bytes, c->row_bytes);
    }
    update rows = make_update(&contract->side[0], c, rule, states, master);
    update whole = make_update(&contract->side[1], c, rule, states, master);
    whole.gradient = kvs_contract_memory(whole.side, gradient, c->rows * c->row_bytes);
    whole.item.accumulator = &whole.gradient;
    if (with_gradient) {
        rows.gradient = kvs_contract_memory(rows.side, c->given, c->count * c->row_bytes);
        rows.item.accumulator = &rows.gradient;
    }
    rows.item.rows = named(c);
    rows.item.elements = (uint64_t)c->count * c->width;
    run_update(&rows);
    run_update(&whole);
    check_rows(rows.side, &rows.weight, whole.side, &whole.weight, c->matrix, c->dtype, c);
    for (unsigned i = 0; i < kvs_rule_states(rule); i++) {
        check_rows(rows.side, &rows.state[i], whole.side, &whole.state[i], states, state_dtype, c);
    }
    if (rows.item.master != NULL) {
        check_rows(rows.side, &rows.master, whole.side, &whole.master, states, KVS_F32, c);
    }
    free_update(&rows);
    free_update(&whole);
    free(states);
    free(gradient);
}

static void a_rule_on_rows_does_to_them_what_it_does_to_all(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    (void)takes_rows(contract);
    for (uint32_t i = 0; i < contract->cases; i++) {
        kvs_dtype dtype = all_dtypes[i % 4];
        rows_case c = make_case(contract, dtype, true);
        int rule = (int)kvs_contract_random(contract, KVS_RULE_COUNT);
        if (kvs_rule_row_states(rule) > 0) { /* row_rule_contract.c */
            rule = KVS_RULE_SGD;
        }
        check_update(contract, &c, rule, kvs_contract_random(contract, 3) > 0,
                     kvs_contract_random(contract, 2) == 0);
        free_case(&c);
    }
}

static void rules_on_many_or_long_rows_do_the_same(void **state)
{
    static const struct {
        kvs_dtype dtype;
        uint32_t rows, width, count;
    } cases[] = {{KVS_F32, 17000, 3, 16500},
                 {KVS_F16, 20000, 4, 17000},
                 {KVS_BF16, 2, (1 << 18) + 5, 1},
                 {KVS_F64, 3, 100000, 2}};
    kvs_contract *contract = kvs_contract_of(state);
    (void)takes_rows(contract);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rows_case c = sized_case(contract, cases[i].dtype, cases[i].rows, cases[i].width,
                                 cases[i].count, true);
        check_update(contract, &c, KVS_RULE_ADAM_19, true, i % 2 == 0);
        free_case(&c);
    }
}

kvs_contract_tests kvs_contract_rows_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_of_rows_gathers_them),
        cmocka_unit_test(a_sum_of_rows_is_that_of_each_row),
        cmocka_unit_test(large_sums_of_rows_are_those_of_the_cpu),
        cmocka_unit_test(a_rule_on_rows_does_to_them_what_it_does_to_all),
        cmocka_unit_test(rules_on_many_or_long_rows_do_the_same),
    };
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
