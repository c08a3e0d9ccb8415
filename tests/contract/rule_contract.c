#include "tests/contract/backend_contract.h"
#include "tests/contract/rule_oracle.h"

#include "engine/optimizer.h"
#include "tests/support/optimizer_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UPDATES 3u
/* There are more rules than dtypes. */
#define CASES_FACTOR 3u
#define ELEMENTS_MAX 2000u
/* The place of a run in its key: above 32 bits. */
#define ELEMENT_FIRST UINT64_C(0x123456789)

/* Where the gradient of an update is: sum, last term, or both. */
typedef enum gradient_form {
    FORM_ACCUMULATOR,
    FORM_LAST_SPANS,
    FORM_LAST_MEMORY,
    FORM_BOTH_SPANS,
    FORM_BOTH_MEMORY,
    FORM_COUNT
} gradient_form;

typedef struct rule_case {
    kvs_oracle_rule rule;
    kvs_optimizer *optimizer;
    kvs_dtype dtype;
    size_t elements;
    gradient_form form;
    bool in_place; /* weight and target are the same memory */
    void *weight;
    void *sum[UPDATES];
    void *last[UPDATES];
    kvs_contract_pieces pieces[UPDATES];
} rule_case;

/* What a run leaves: every array with room for doubles. */
typedef struct rule_result {
    uint64_t weight[ELEMENTS_MAX];
    uint64_t state[KVS_RULE_STATES_MAX][ELEMENTS_MAX];
} rule_result;

static kvs_oracle_rule random_rule(kvs_contract *contract, const char *name, const char *rules)
{
    static const double rates[] = {0.1, 0.01};
    static const double momenta[] = {0, 0.9};
    static const double decays[] = {0, 0.01};
    static const double scales[] = {1, 0.5, 1.0 / 3};
    static const double clips[] = {0, 0.12, 1};
    return (kvs_oracle_rule){
        .name = name,
        .rules = rules,
        .learning_rate = rates[kvs_contract_random(contract, 2)],
        .momentum = momenta[kvs_contract_random(contract, 2)],
        .centered = strcmp(name, "rmsprop") == 0 && kvs_contract_random(contract, 2) == 0,
        .wd = decays[kvs_contract_random(contract, 2)],
        .rescale = scales[kvs_contract_random(contract, 3)],
        .clip = clips[kvs_contract_random(contract, 3)],
    };
}

static rule_case make_case(kvs_contract *contract, const kvs_oracle_rule *rule, kvs_dtype dtype,
                           uint32_t number, bool odd)
{
    char json[512];
    kvs_oracle_json(rule, json, sizeof json);
    uint64_t bound = kvs_contract_random(contract, 2) == 0 ? 70 : ELEMENTS_MAX;
    rule_case one = {
        .rule = *rule,
        .optimizer = parse(json),
        .dtype = dtype,
        .elements = (size_t)kvs_contract_random(contract, bound),
        .form = number % FORM_COUNT,
        .in_place = kvs_contract_random(contract, 2) == 0,
    };
    size_t bytes = one.elements * kvs_dtype_bytes(dtype);
    void (*fill)(kvs_contract *, kvs_dtype, void *, size_t) =
        odd ? kvs_contract_fill_odd : kvs_contract_fill;
    one.weight = malloc(bytes + 1);
    fill(contract, dtype, one.weight, one.elements);
    for (size_t i = 0; i < UPDATES; i++) {
        one.sum[i] = malloc(bytes + 1);
        one.last[i] = malloc(bytes + 1);
        fill(contract, dtype, one.sum[i], one.elements);
        fill(contract, dtype, one.last[i], one.elements);
        one.pieces[i] = kvs_contract_cut_bytes(contract, one.last[i], bytes,
                                               number / FORM_COUNT % KVS_CUT_COUNT);
    }
    return one;
}

static void free_case(rule_case *one)
{
    for (size_t i = 0; i < UPDATES; i++) {
        free(one->sum[i]);
        free(one->last[i]);
        kvs_contract_pieces_free(&one->pieces[i]);
    }
    free(one->weight);
    kvs_optimizer_unref(one->optimizer);
}

/* ------------------------------------------------------------------ a run on one side */

typedef struct rule_memory {
    kvs_memory weight[2]; /* the current one, and where the next goes when not in place */
    kvs_memory state[KVS_RULE_STATES_MAX];
} rule_memory;

/* What the rule measures before an update whose gradient is `sum`, made part of its numbers. */
static void measure_update(kvs_contract_side *side, const rule_case *one, kvs_apply_item *item,
                           const kvs_memory *sum)
{
    kvs_measure measures[KVS_MEASURES_MAX];
    kvs_multipliers multipliers = kvs_optimizer_multipliers(one->optimizer, "w", 1);
    unsigned count = kvs_optimizer_measures(one->optimizer, multipliers, measures);
    for (unsigned i = 0; i < count; i++) {
        double squares[KVS_MEASURE_SUMS_MAX];
        kvs_measure_item measure = {.scalars = item->scalars,
                                    .measure = measures[i],
                                    .weight = item->weight,
                                    .accumulator = sum,
                                    .sums = squares,
                                    .elements = one->elements,
                                    .dtype = one->dtype};
        for (size_t j = 0; j < KVS_RULE_STATES_MAX; j++) {
            measure.state[j] = item->state[j];
        }
        if (side->backend->table->measure(side->stream, &measure, 1) == KVS_UNIMPLEMENTED) {
            skip();
        }
        assert_int_equal(side->backend->table->sync(side->stream), KVS_OK);
        kvs_optimizer_scale(one->optimizer, i, squares, &item->scalars);
    }
}

static void apply_update(kvs_contract_side *side, const rule_case *one, rule_memory *memory,
                         size_t update)
{
    size_t bytes = one->elements * kvs_dtype_bytes(one->dtype);
    bool has_sum = one->form == FORM_ACCUMULATOR || one->form >= FORM_BOTH_SPANS;
    bool from_spans = one->form == FORM_LAST_SPANS || one->form == FORM_BOTH_SPANS;
    kvs_memory sum = kvs_contract_memory(side, one->sum[update], bytes);
    kvs_memory last = kvs_contract_memory(side, one->last[update], bytes);
    kvs_apply_item item = {
        .weight = &memory->weight[one->in_place ? 0 : update % 2],
        .target = &memory->weight[one->in_place ? 0 : (update + 1) % 2],
        .accumulator = has_sum ? &sum : NULL,
        .elements = one->elements,
        .dtype = one->dtype,
    };
    for (size_t i = 0; i < KVS_RULE_STATES_MAX; i++) {
        item.state[i] = &memory->state[i];
    }
    if (from_spans) {
        item.last.payload = one->pieces[update].payload;
    } else if (one->form != FORM_ACCUMULATOR) {
        item.last.memory = &last;
    }
    kvs_multipliers multipliers = kvs_optimizer_multipliers(one->optimizer, "w", 1);
    kvs_optimizer_scalars(one->optimizer, multipliers, update + 1, &item.scalars);
    item.scalars.element = ELEMENT_FIRST;
    measure_update(side, one, &item, &sum);
    assert_int_equal(side->backend->table->apply(side->stream, &item, 1), KVS_OK);
    kvs_contract_free(side, &sum);
    kvs_contract_free(side, &last);
}

static void run_case(kvs_contract_side *side, const rule_case *one, rule_result *out)
{
    size_t bytes = one->elements * kvs_dtype_bytes(one->dtype);
    rule_memory memory = {
        .weight = {kvs_contract_memory(side, one->weight, bytes),
                   kvs_contract_memory(side, NULL, bytes)},
    };
    for (size_t i = 0; i < KVS_RULE_STATES_MAX; i++) {
        memory.state[i] = kvs_contract_memory(side, NULL, bytes);
    }
    for (size_t i = 0; i < UPDATES; i++) {
        apply_update(side, one, &memory, i);
    }
    kvs_contract_read(side, &memory.weight[one->in_place ? 0 : UPDATES % 2], out->weight);
    for (size_t i = 0; i < KVS_RULE_STATES_MAX; i++) {
        kvs_contract_read(side, &memory.state[i], out->state[i]);
        kvs_contract_free(side, &memory.state[i]);
    }
    kvs_contract_free(side, &memory.weight[0]);
    kvs_contract_free(side, &memory.weight[1]);
}

static void check_bits(const rule_case *one, const rule_result *a, const rule_result *b)
{
    kvs_contract_same(one->dtype, a->weight, b->weight, one->elements);
    for (size_t i = 0; i < KVS_RULE_STATES_MAX; i++) {
        kvs_contract_same(one->dtype, a->state[i], b->state[i], one->elements);
    }
}

/* ------------------------------------------------------------------ against the oracle */

static double float_at(kvs_dtype dtype, const void *data, size_t index)
{
    return dtype == KVS_F32 ? (double)((const float *)data)[index] : ((const double *)data)[index];
}

/* The rule reads the sum as the dtype holds it. */
static double gradient_at(const rule_case *one, size_t update, size_t i)
{
    double sum = float_at(one->dtype, one->sum[update], i);
    double last = float_at(one->dtype, one->last[update], i);
    if (one->form == FORM_ACCUMULATOR) {
        return sum;
    }
    if (one->form == FORM_LAST_SPANS || one->form == FORM_LAST_MEMORY) {
        return last;
    }
    return one->dtype == KVS_F32 ? (double)(float)(sum + last) : sum + last;
}

/* The oracle's weights in `out`; `nudge` moves the gradients up and the first weights down by so
 * much of themselves. */
static void ask_oracle(const rule_case *one, double unit, double nudge, double *out, double *jump)
{
    double numbers[ELEMENTS_MAX];
    kvs_oracle oracle;
    for (size_t i = 0; i < one->elements; i++) {
        numbers[i] = float_at(one->dtype, one->weight, i) * (1 - nudge);
    }
    kvs_oracle_init(&oracle, &one->rule, numbers, one->elements, unit);
    for (size_t update = 0; update < UPDATES; update++) {
        for (size_t i = 0; i < one->elements; i++) {
            numbers[i] = gradient_at(one, update, i) * (1 + nudge);
        }
        kvs_oracle_update(&oracle, numbers);
    }
    for (size_t i = 0; i < one->elements; i++) {
        out[i] = oracle.w[i];
        jump[i] = oracle.jump[i];
    }
    kvs_oracle_deinit(&oracle);
}

/* Some rounding errors of the size of the weight, and what the formula makes of errors of its
 * input: where terms cancel, a rule that divides by the size of the gradient multiplies them. */
static void check_oracle(const rule_case *one, const rule_result *got)
{
    double unit = one->dtype == KVS_F32 ? 6e-8 : 1e-14;
    double exact[ELEMENTS_MAX];
    double nudged[ELEMENTS_MAX];
    double jump[ELEMENTS_MAX];
    ask_oracle(one, unit, 8 * unit, nudged, jump);
    ask_oracle(one, unit, 0, exact, jump);
    for (size_t i = 0; i < one->elements; i++) {
        double weight = float_at(one->dtype, got->weight, i);
        double tolerance =
            64 * unit * (1 + fabs(exact[i])) + 4 * fabs(nudged[i] - exact[i]) + jump[i];
        if (!(fabs(weight - exact[i]) <= tolerance)) {
            fail_msg("%s of rules %s, element %zu: %.9g is not %.9g", one->rule.name,
                     one->rule.rules, i, weight, exact[i]);
        }
    }
}

static bool promised(const kvs_contract *contract, kvs_dtype dtype)
{
    return (contract->dtypes >> dtype & 1) != 0;
}

/* Each rule of each line in turn. */
static const char *choose_rule(uint32_t number, const char **rules)
{
    size_t count = 0;
    while (kvs_oracle_name(count) != NULL) {
        count++;
    }
    const char *name = kvs_oracle_name(number % count);
    bool old = number / count % 2 == 0 ? kvs_oracle_in_19(name) : !kvs_oracle_in_20(name);
    *rules = old ? "1.9" : "2.0";
    return name;
}

static void run_cases(kvs_contract *contract, bool odd)
{
    static rule_result got[2];
    for (uint32_t i = 0; i < contract->cases * CASES_FACTOR; i++) {
        const char *rules;
        kvs_dtype dtype = kvs_contract_random(contract, 4) == 0 ? KVS_F64 : KVS_F32;
        const char *name = choose_rule(i, &rules);
        kvs_oracle_rule rule = random_rule(contract, name, rules);
        if (!promised(contract, dtype)) {
            continue;
        }
        rule_case one =
            make_case(contract, &rule, dtype, (uint32_t)kvs_contract_random(contract, 1000), odd);
        run_case(&contract->side[0], &one, &got[0]);
        run_case(&contract->side[1], &one, &got[1]);
        check_bits(&one, &got[0], &got[1]);
        if (!odd) {
            check_oracle(&one, &got[0]);
        }
        free_case(&one);
    }
}

static void every_rule_is_right_and_bit_equal(void **state)
{
    run_cases(kvs_contract_of(state), false);
}

static void every_rule_is_bit_equal_on_odd_floats(void **state)
{
    run_cases(kvs_contract_of(state), true);
}

/* ------------------------------------------------------------------ known numbers */

/* w0 = [1, -2, .5]; three updates with g = [.1 t, -.3, .2]; lr .1 (adadelta of 2.0: 1), wd .01,
 * rescale .5, clip .12. The values were computed in float64 from the formulas. */
#define OLD(name) "\"name\": \"" name "\", \"learning_rate\": 0.1"
#define NEW(name) OLD(name) ", \"rules\": \"2.0\""
typedef struct vector {
    const char *fields;
    double weight[3];
} vector;

static const vector vectors[] = {
    {OLD("sgd"), {.970023, -1.958042, .4685315}},
    {NEW("sgd"), {.970023, -1.958042, .4685315}},
    {OLD("ccsgd"), {.970023, -1.958042, .4685315}},
    {OLD("sgd") ", \"momentum\": 0.9", {.9498738, -1.9215272, .4411454}},
    {NEW("sgd") ", \"momentum\": 0.9", {.9498738, -1.9215272, .4411454}},
    {OLD("nag") ", \"momentum\": 0.9", {.9249575, -1.8875086, .4156315}},
    {NEW("nag"), {.9249575, -1.8875086, .4156315}},
    {OLD("diloco"), {.9249575, -1.8875086, .4156315}}, /* equals nag while the rate stays */
    {OLD("adam"), {.7039127, -1.7000006, .2000966}},
    {NEW("adam"), {.7041704, -1.7000715, .2000966}},
    {OLD("adagrad"), {.7346868, -1.7658314, .2703272}},
    {NEW("adagrad"), {.7406589, -1.7721435, .2723415}},
    {OLD("rmsprop"), {.1762272, -1.2622636, -.2298714}},
    {NEW("rmsprop"), {.1726341, -1.2681197, -.2298735}},
    {OLD("rmsprop") ", \"centered\": true", {-.7521622, -.3873656, -1.0949538}},
    {NEW("rmsprop") ", \"centered\": true", {-.7527524, -.4004783, -1.0949538}},
    {OLD("adadelta"), {.9342531, -1.9103091, .4549075}},
    {"\"name\": \"adadelta\", \"rules\": \"2.0\"", {.9885047, -1.9902962, .4902986}},
    {OLD("ftrl"), {.0225783, -.1823207, .0181526}},
    {NEW("ftrl"), {.0225783, -.1823207, .0181526}},
    {OLD("signum"), {.7, -1.7, .2}},
    {OLD("ftml"), {.7612429, -1.7864796, .2871465}},
    {NEW("ftml"), {.7591705, -1.7869788, .2871465}},
    {OLD("adamax"), {.739283, -1.7, .2012211}},
    {NEW("adamax"), {.7421727, -1.7008411, .2012212}},
    {OLD("nadam"), {.7144805, -1.7427647, .2436332}},
    {NEW("nadam"), {.7121213, -1.7434146, .2436332}},
    {OLD("dcasgd") ", \"momentum\": 0.9", {.9498752, -1.9215302, .441147}},
    {NEW("dcasgd") ", \"momentum\": 0.9", {.9498754, -1.9215313, .4411471}},
    {NEW("adamw"), {.7053061, -1.6986174, .1997595}},
    {NEW("adabelief"), {.6879976, -1.6651811, .1698916}},
    {OLD("test"), {1.3, -2.45, .8}},
    {NEW("test"), {.967022994, -1.949050983, .4685314895}},
};

/* Whose norms are those of the three elements. */
static const vector vectors_with_norms[] = {
    {OLD("lamb"), {.6416726, -1.6311959, .1366202}},
    {NEW("lamb"), {.6416726, -1.6311959, .1366202}},
    {NEW("lans"), {.637048, -1.6334544, .1388448}},
    {NEW("lars") ", \"momentum\": 0.9", {.9994979, -1.9991954, .4993966}},
    {OLD("lars") ", \"momentum\": 0.9", {.9994979, -1.9991954, .4993966}},
};

static void check_vectors(kvs_contract_side *side, const vector *vectors_of, size_t count)
{
    static const float start[3] = {1.0f, -2.0f, 0.5f};
    static rule_result got;
    for (size_t i = 0; i < count; i++) {
        char json[256];
        (void)snprintf(json, sizeof json,
                       "{%s, \"wd\": 0.01, \"rescale_grad\": 0.5, "
                       "\"clip_gradient\": 0.12}",
                       vectors_of[i].fields);
        float gradient[UPDATES][3];
        rule_case one = {.optimizer = parse(json),
                         .dtype = KVS_F32,
                         .elements = 3,
                         .form = FORM_ACCUMULATOR,
                         .in_place = true};
        one.weight = malloc(sizeof start);
        memcpy(one.weight, start, sizeof start);
        for (size_t t = 0; t < UPDATES; t++) {
            gradient[t][0] = 0.1f * (float)(t + 1);
            gradient[t][1] = -0.3f;
            gradient[t][2] = 0.2f;
            one.sum[t] = malloc(sizeof gradient[t]);
            one.last[t] = calloc(1, sizeof gradient[t]);
            memcpy(one.sum[t], gradient[t], sizeof gradient[t]);
        }
        run_case(side, &one, &got);
        for (size_t j = 0; j < 3; j++) {
            double weight = float_at(KVS_F32, got.weight, j);
            double wanted = vectors_of[i].weight[j];
            if (fabs(weight - wanted) > 1e-5 * fabs(wanted)) {
                fail_msg("%s: %.8g is not %.8g", json, weight, wanted);
            }
        }
        free_case(&one);
    }
}

static void known_numbers_come_out(void **state)
{
    check_vectors(&kvs_contract_of(state)->side[0], vectors, sizeof vectors / sizeof vectors[0]);
}

static void known_numbers_of_rules_with_norms_come_out(void **state)
{
    check_vectors(&kvs_contract_of(state)->side[0], vectors_with_norms,
                  sizeof vectors_with_norms / sizeof vectors_with_norms[0]);
}

static void test_rule_of_1_9_keeps_a_copy_of_the_weight(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static rule_result got;
    kvs_oracle_rule rule = {.name = "test", .rules = "1.9", .learning_rate = 1, .rescale = 2};
    rule_case one = make_case(contract, &rule, KVS_F32, 0, false);
    run_case(&contract->side[0], &one, &got);
    assert_memory_equal(got.weight, got.state[0], one.elements * sizeof(float));
    free_case(&one);
}

/* sgld has noise of its own, which no oracle knows; its bits must agree all the same. */
static void noise_has_the_same_bits_however_it_is_cut(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static rule_result got[2];
    for (uint32_t i = 0; i < 60; i++) {
        kvs_oracle_rule rule = {.name = "sgd", .rules = "1.9", .learning_rate = 1, .rescale = 1};
        kvs_dtype dtype = i % 4 == 0 && promised(contract, KVS_F64) ? KVS_F64 : KVS_F32;
        rule_case one = make_case(contract, &rule, dtype, i, false);
        kvs_optimizer_unref(one.optimizer);
        one.optimizer = parse("{\"name\": \"sgld\", \"seed\": 9007199254740992, "
                              "\"learning_rate\": 0.1}");
        run_case(&contract->side[0], &one, &got[0]);
        run_case(&contract->side[1], &one, &got[1]);
        check_bits(&one, &got[0], &got[1]);
        free_case(&one);
    }
}

/* Rows that are updated by themselves get the noise of their places. */
static void noise_of_a_row_is_that_of_its_place(void **state)
{
    enum { ROWS = 6, ROW = 70 };
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    static const uint32_t list[] = {1, 2, 4};
    static const float zeros[ROWS * ROW];
    float whole[ROWS * ROW];
    float parts[ROWS * ROW];
    kvs_optimizer *optimizer = parse("{\"name\": \"sgld\"}");
    if (!side->backend->rows) {
        kvs_optimizer_unref(optimizer);
        skip();
    }
    for (int by_rows = 0; by_rows < 2; by_rows++) {
        kvs_memory weight = kvs_contract_memory(side, zeros, sizeof zeros);
        kvs_memory sum = kvs_contract_memory(side, zeros, sizeof zeros);
        kvs_apply_item item = {.weight = &weight,
                               .target = &weight,
                               .accumulator = &sum,
                               .elements = ROWS * ROW,
                               .dtype = KVS_F32};
        kvs_optimizer_scalars(optimizer, (kvs_multipliers){.lr = 1, .wd = 1}, 1, &item.scalars);
        item.scalars.element = ELEMENT_FIRST;
        if (by_rows == 1) {
            item.rows = (kvs_rows){.list = list, .count = 3, .elements = ROW};
            item.elements = 3 * ROW;
        }
        assert_int_equal(side->backend->table->apply(side->stream, &item, 1), KVS_OK);
        kvs_contract_read(side, &weight, by_rows == 1 ? parts : whole);
        kvs_contract_free(side, &weight);
        kvs_contract_free(side, &sum);
    }
    for (size_t i = 0; i < ROWS * ROW; i++) {
        bool listed = i / ROW == 1 || i / ROW == 2 || i / ROW == 4;
        assert_true(whole[i] != 0);
        assert_true(parts[i] == (listed ? whole[i] : 0));
    }
    kvs_optimizer_unref(optimizer);
}

static void one_batch_applies_different_rules(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    static const char *const jsons[] = {
        "{\"name\": \"sgd\", \"learning_rate\": 1}",
        "{\"name\": \"test\", \"rescale_grad\": 3}",
        "{\"name\": \"sgd\", \"learning_rate\": 0.5, \"momentum\": 0.5}",
    };
    const float expected[] = {1 - 2, 1 + 3 * 2, 1 - 0.5f * 2};
    const float one = 1;
    const float two = 2;
    kvs_memory weight[3], states[3], sum[3];
    kvs_apply_item item[3];
    for (size_t i = 0; i < 3; i++) {
        kvs_optimizer *optimizer = parse(jsons[i]);
        weight[i] = kvs_contract_memory(side, &one, sizeof one);
        states[i] = kvs_contract_memory(side, NULL, sizeof one);
        sum[i] = kvs_contract_memory(side, &two, sizeof two);
        item[i] = (kvs_apply_item){.weight = &weight[i],
                                   .target = &weight[i],
                                   .state = {&states[i]},
                                   .accumulator = &sum[i],
                                   .elements = 1,
                                   .dtype = KVS_F32};
        kvs_optimizer_scalars(optimizer, (kvs_multipliers){.lr = 1, .wd = 1}, 1, &item[i].scalars);
        kvs_optimizer_unref(optimizer);
    }
    assert_int_equal(side->backend->table->apply(side->stream, item, 3), KVS_OK);
    for (size_t i = 0; i < 3; i++) {
        float got = 0;
        kvs_contract_read(side, &weight[i], &got);
        assert_true(got == expected[i]);
        kvs_contract_free(side, &weight[i]);
        kvs_contract_free(side, &states[i]);
        kvs_contract_free(side, &sum[i]);
    }
}

static void a_rule_for_another_dtype_is_refused_and_changes_nothing(void **state)
{
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    const float before = 1;
    float got = 0;
    kvs_memory weight[2] = {kvs_contract_memory(side, &before, sizeof before),
                            kvs_contract_memory(side, &before, sizeof before)};
    kvs_memory sum = kvs_contract_memory(side, &before, sizeof before);
    kvs_apply_item item[2];
    for (size_t i = 0; i < 2; i++) {
        item[i] = (kvs_apply_item){.weight = &weight[i],
                                   .target = &weight[i],
                                   .accumulator = &sum,
                                   .elements = 1,
                                   .dtype = i == 0 ? KVS_F32 : KVS_I32,
                                   .scalars = {.rule = KVS_RULE_SGD, .rescale = 1, .lr = 1}};
    }
    assert_int_equal(side->backend->table->apply(side->stream, item, 2), KVS_UNIMPLEMENTED);
    kvs_contract_read(side, &weight[0], &got);
    assert_true(got == before);
    kvs_contract_free(side, &weight[0]);
    kvs_contract_free(side, &weight[1]);
    kvs_contract_free(side, &sum);
}

kvs_contract_tests kvs_contract_rule_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule_is_right_and_bit_equal),
        cmocka_unit_test(every_rule_is_bit_equal_on_odd_floats),
        cmocka_unit_test(known_numbers_come_out),
        cmocka_unit_test(known_numbers_of_rules_with_norms_come_out),
        cmocka_unit_test(test_rule_of_1_9_keeps_a_copy_of_the_weight),
        cmocka_unit_test(noise_has_the_same_bits_however_it_is_cut),
        cmocka_unit_test(noise_of_a_row_is_that_of_its_place),
        cmocka_unit_test(one_batch_applies_different_rules),
        cmocka_unit_test(a_rule_for_another_dtype_is_refused_and_changes_nothing),
    };
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
