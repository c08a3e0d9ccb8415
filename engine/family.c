#include "engine/family.h"

#include "base/check.h"
#include "engine/learning_rate.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

const char *const kvs_line_names[KVS_LINE_COUNT] = {"1.9", "2.0"};

/* What a number may be. */
typedef enum parameter_kind {
    ANY,    /* what f32 can hold */
    COUNTS, /* 0 or more */
    UNIT,   /* [0, 1] */
    BELOW,  /* [0, 1): 1 would divide by 0 in a bias correction */
    BOUND,  /* null, 0 or less: none, as INFINITY */
    TRUTH,
    WHOLE /* an integer that a double holds */
} parameter_kind;

/* Of a default: the line does not have the parameter. */
#define NONE (-DBL_MAX)
#define WHOLE_MAX (INT64_C(1) << 53)

typedef struct parameter {
    const char *name; /* NULL: the end */
    kvs_hyper hyper;
    parameter_kind kind;
    double normal[KVS_LINE_COUNT]; /* unless said */
} parameter;

#define PARAMETERS_MAX 8u

typedef enum lazy { LAZY_NONE, LAZY_NO, LAZY_YES } lazy;

/* Computes what a family adds to the scalars; `t` is the update's number. */
typedef void scalars_function(const double *hyper, uint64_t begin, uint64_t t,
                              kvs_rule_scalars *out);

struct kvs_family {
    const char *name;
    const char *missing; /* why it is not built, or NULL */
    bool in[KVS_LINE_COUNT];
    double learning_rate[KVS_LINE_COUNT];
    lazy lazy[KVS_LINE_COUNT];
    kvs_rule rule[KVS_LINE_COUNT];
    /* Instead, if the number `by` is not 0; KVS_RULE_KEEP: the rule is always the same. */
    kvs_rule other[KVS_LINE_COUNT];
    kvs_hyper by;
    scalars_function *scalars; /* NULL: it has nothing to add */
    parameter parameters[PARAMETERS_MAX];
};

/* ------------------------------------------------------------------ the scalars of families */

static void momentum_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    (void)t;
    out->momentum = hyper[KVS_HYPER_MOMENTUM];
    out->momentum_rest = 1 - out->momentum;
    out->lambda = hyper[KVS_HYPER_LAMBDA];
}

/* Without momentum all of the decay is in `keep`: that of 1.9 is wd, to which 2.0 adds wd_lh, which
 * is 0 in 1.9. */
static void signum_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    momentum_scalars(hyper, begin, t, out);
    double decay = hyper[KVS_HYPER_WD_LH] + (out->rule == KVS_RULE_SIGNSGD ? out->wd : 0);
    out->keep = 1 - out->lr * decay;
}

static void beta_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    out->beta1 = hyper[KVS_HYPER_BETA1];
    out->beta1_rest = 1 - out->beta1;
    out->beta2 = hyper[KVS_HYPER_BETA2];
    out->beta2_rest = 1 - out->beta2;
    out->epsilon = hyper[KVS_HYPER_EPSILON];
    out->correction2 = 1 - kvs_power(out->beta2, t);
}

static void adam_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    beta_scalars(hyper, begin, t, out);
    out->lr = out->lr * sqrt(out->correction2) / (1 - kvs_power(out->beta1, t));
}

/* MXNet 2.0 skips an update that is scaled by 0. */
static void corrected_scalars(const double *hyper, uint64_t begin, uint64_t t,
                              kvs_rule_scalars *out)
{
    if (hyper[KVS_HYPER_CORRECT_BIAS] != 0) {
        adam_scalars(hyper, begin, t, out);
    } else {
        beta_scalars(hyper, begin, t, out);
    }
    if (out->rule == KVS_RULE_ADAMW && out->rescale == 0) {
        out->rule = KVS_RULE_KEEP;
    }
}

static void adamax_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    beta_scalars(hyper, begin, t, out);
    out->epsilon = 1e-8;
    out->lr = out->lr / (1 - kvs_power(out->beta1, t));
}

/* The momentum of update n is beta1 (1 - 0.96^(n decay) / 2). MXNet keeps one product of momenta
 * for all keys; here it is the key's own. Below 2^-60 the product is lost beside 1, so what follows
 * need not be multiplied: some 400 factors at beta1 = 0.9, whatever t. */
static void nadam_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    beta_scalars(hyper, begin, t, out);
    double step = pow(0.96, hyper[KVS_HYPER_SCHEDULE_DECAY]);
    double power = kvs_power(step, begin + 1);
    double product = 1;
    for (uint64_t n = begin + 1; n <= t && product > 0x1p-60; n++) {
        product *= out->beta1 * (1 - 0.5 * power);
        power *= step;
    }
    double last = kvs_power(step, t);
    double momentum = out->beta1 * (1 - 0.5 * last);
    double next = out->beta1 * (1 - 0.5 * last * step);
    out->gradient_part = (1 - momentum) / (1 - product);
    out->mean_part = next / (1 - product * next);
}

static void rho_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    momentum_scalars(hyper, begin, t, out);
    out->beta1 = out->beta2 = hyper[KVS_HYPER_RHO];
    out->beta1_rest = out->beta2_rest = 1 - hyper[KVS_HYPER_RHO];
    out->epsilon = hyper[KVS_HYPER_EPSILON];
    out->bound = hyper[KVS_HYPER_CLIP_WEIGHTS];
}

/* The formulas of ftrl and ftml divide by the rate: with one of 0 nothing moves. */
static void keep_at_rate_zero(kvs_rule_scalars *out)
{
    if (out->lr == 0) {
        out->rule = KVS_RULE_KEEP;
    }
}

static void ftrl_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    (void)t;
    out->lambda = hyper[KVS_HYPER_LAMBDA];
    out->beta = hyper[KVS_HYPER_BETA];
    keep_at_rate_zero(out);
}

static void ftml_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    beta_scalars(hyper, begin, t, out);
    out->factor = (1 - kvs_power(out->beta1, t)) / out->lr;
    keep_at_rate_zero(out);
}

static void sgld_scalars(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    out->seed = (uint64_t)hyper[KVS_HYPER_SEED];
    out->count = t;
    out->noise = out->lr > 0 ? sqrt(out->lr) : 0;
    out->lr = out->lr / 2;
}

/* ------------------------------------------------------------------ the table */

#define BOTH true, true
#define ONLY_19 true, false
#define ONLY_20 false, true
#define TWICE(value) value, value
#define RULES_OF(name) KVS_RULE_##name##_19, KVS_RULE_##name##_20
#define NORMS "its norms over whole values are"

#define MOMENTUM "momentum", KVS_HYPER_MOMENTUM, ANY
#define BETA1 "beta1", KVS_HYPER_BETA1, BELOW
#define BETA2 "beta2", KVS_HYPER_BETA2, BELOW
#define EPSILON "epsilon", KVS_HYPER_EPSILON, COUNTS
#define CORRECT_BIAS "correct_bias", KVS_HYPER_CORRECT_BIAS, TRUTH

/* In the order of the alphabet. Names, defaults and lines are MXNet's; adamw in 1.9, diloco and
 * lion are ours. */
static const kvs_family families[] = {
    {
        .name = "adabelief",
        .in = {ONLY_20},
        .learning_rate = {TWICE(.001)},
        .rule = {TWICE(KVS_RULE_ADABELIEF)},
        .scalars = corrected_scalars,
        .parameters = {{BETA1, {.9, .9}},
                       {BETA2, {.999, .999}},
                       {EPSILON, {1e-6, 1e-6}},
                       {CORRECT_BIAS, {1, 1}}},
    },
    {
        .name = "adadelta",
        .in = {BOTH},
        .learning_rate = {.01, 1},
        .rule = {RULES_OF(ADADELTA)},
        .scalars = rho_scalars,
        .parameters = {{"rho", KVS_HYPER_RHO, UNIT, {.9, .9}}, {EPSILON, {1e-5, 1e-6}}},
    },
    {
        .name = "adagrad",
        .in = {BOTH},
        .learning_rate = {TWICE(.01)},
        .rule = {RULES_OF(ADAGRAD)},
        .scalars = rho_scalars,
        .parameters = {{"eps", KVS_HYPER_EPSILON, COUNTS, {1e-7, NONE}}, {EPSILON, {NONE, 1e-6}}},
    },
    {
        .name = "adam",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .lazy = {LAZY_YES, LAZY_NO},
        .rule = {RULES_OF(ADAM)},
        .scalars = adam_scalars,
        .parameters = {{BETA1, {.9, .9}}, {BETA2, {.999, .999}}, {EPSILON, {1e-8, 1e-8}}},
    },
    {
        .name = "adamax",
        .in = {BOTH},
        .learning_rate = {TWICE(.002)},
        .rule = {RULES_OF(ADAMAX)},
        .scalars = adamax_scalars,
        .parameters = {{BETA1, {.9, .9}}, {BETA2, {.999, .999}}},
    },
    {
        .name = "adamw",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .rule = {TWICE(KVS_RULE_ADAMW)},
        .scalars = corrected_scalars,
        .parameters = {{BETA1, {.9, .9}},
                       {BETA2, {.999, .999}},
                       {EPSILON, {1e-6, 1e-6}},
                       {CORRECT_BIAS, {1, 1}}},
    },
    {
        .name = "ccsgd",
        .in = {ONLY_19},
        .learning_rate = {TWICE(.01)},
        .lazy = {TWICE(LAZY_YES)},
        .rule = {TWICE(KVS_RULE_SGD)},
        .other = {TWICE(KVS_RULE_SGD_MOMENTUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = momentum_scalars,
        .parameters = {{MOMENTUM, {0, 0}}},
    },
    {
        .name = "dcasgd",
        .in = {BOTH},
        .learning_rate = {.01, .1},
        .rule = {RULES_OF(DCASGD)},
        .other = {RULES_OF(DCASGD_MOMENTUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = momentum_scalars,
        .parameters = {{MOMENTUM, {0, 0}}, {"lamda", KVS_HYPER_LAMBDA, ANY, {.04, .04}}},
    },
    {
        .name = "diloco",
        .in = {BOTH},
        .learning_rate = {TWICE(.7)},
        .rule = {TWICE(KVS_RULE_DILOCO)},
        .scalars = momentum_scalars,
        .parameters = {{MOMENTUM, {.9, .9}}},
    },
    {
        .name = "ftml",
        .in = {BOTH},
        .learning_rate = {.01, .0025},
        .rule = {RULES_OF(FTML)},
        .scalars = ftml_scalars,
        .parameters = {{BETA1, {.6, .6}}, {BETA2, {.999, .999}}, {EPSILON, {1e-8, 1e-8}}},
    },
    {
        .name = "ftrl",
        .in = {BOTH},
        .learning_rate = {TWICE(.1)},
        .rule = {TWICE(KVS_RULE_FTRL)},
        .scalars = ftrl_scalars,
        .parameters = {{"lamda1", KVS_HYPER_LAMBDA, COUNTS, {.01, .01}},
                       {"beta", KVS_HYPER_BETA, COUNTS, {1, 1}}},
    },
    {.name = "groupadagrad", .missing = "its one number a row is", .in = {BOTH}},
    {.name = "lamb", .missing = NORMS, .in = {BOTH}},
    {.name = "lans", .missing = NORMS, .in = {ONLY_20}},
    {.name = "lars", .missing = NORMS, .in = {BOTH}},
    {.name = "lbsgd", .missing = "updates that wait for several gradients are", .in = {ONLY_19}},
    {
        .name = "lion",
        .in = {BOTH},
        .learning_rate = {TWICE(.0001)},
        .rule = {TWICE(KVS_RULE_LION)},
        .scalars = beta_scalars,
        .parameters = {{BETA1, {.9, .9}}, {BETA2, {.99, .99}}},
    },
    {
        .name = "nadam",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .rule = {RULES_OF(NADAM)},
        .scalars = nadam_scalars,
        .parameters = {{BETA1, {.9, .9}},
                       {BETA2, {.999, .999}},
                       {EPSILON, {1e-8, 1e-8}},
                       {"schedule_decay", KVS_HYPER_SCHEDULE_DECAY, COUNTS, {.004, .004}}},
    },
    {
        .name = "nag",
        .in = {BOTH},
        .learning_rate = {.01, .1},
        .rule = {TWICE(KVS_RULE_SGD)},
        .other = {TWICE(KVS_RULE_NAG)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = momentum_scalars,
        .parameters = {{MOMENTUM, {0, .9}}},
    },
    {
        .name = "rmsprop",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .rule = {RULES_OF(RMSPROP)},
        .other = {RULES_OF(RMSPROP_CENTERED)},
        .by = KVS_HYPER_CENTERED,
        .scalars = rho_scalars,
        .parameters = {{"gamma1", KVS_HYPER_RHO, UNIT, {.9, NONE}},
                       {"rho", KVS_HYPER_RHO, UNIT, {NONE, .9}},
                       {"gamma2", KVS_HYPER_MOMENTUM, ANY, {.9, NONE}},
                       {MOMENTUM, {NONE, .9}},
                       {EPSILON, {1e-8, 1e-8}},
                       {"centered", KVS_HYPER_CENTERED, TRUTH, {0, 0}},
                       {"clip_weights", KVS_HYPER_CLIP_WEIGHTS, BOUND, {INFINITY, INFINITY}}},
    },
    {
        .name = "sgd",
        .in = {BOTH},
        .learning_rate = {.01, .1},
        .lazy = {LAZY_YES, LAZY_NO},
        .rule = {TWICE(KVS_RULE_SGD)},
        .other = {TWICE(KVS_RULE_SGD_MOMENTUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = momentum_scalars,
        .parameters = {{MOMENTUM, {0, 0}}},
    },
    {
        .name = "sgld",
        .in = {BOTH},
        .learning_rate = {.01, .1},
        .rule = {TWICE(KVS_RULE_SGLD)},
        .scalars = sgld_scalars,
        .parameters = {{"seed", KVS_HYPER_SEED, WHOLE, {0, 0}}},
    },
    {
        .name = "signum",
        .in = {BOTH},
        .learning_rate = {TWICE(.01)},
        .rule = {TWICE(KVS_RULE_SIGNSGD)},
        .other = {TWICE(KVS_RULE_SIGNUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = signum_scalars,
        .parameters = {{MOMENTUM, {.9, .9}}, {"wd_lh", KVS_HYPER_WD_LH, ANY, {0, 0}}},
    },
    {
        .name = "test",
        .in = {BOTH},
        .learning_rate = {TWICE(.01)},
        .rule = {RULES_OF(TEST)},
    },
};
#define FAMILIES (sizeof families / sizeof families[0])
static_assert(FAMILIES <= KVS_FAMILIES_MAX, "all names fit a list");

/* ------------------------------------------------------------------ finding one */

const kvs_family *kvs_family_find(const char *name, kvs_line line)
{
    for (size_t i = 0; i < FAMILIES; i++) {
        if (families[i].in[line] && strcmp(families[i].name, name) == 0) {
            return &families[i];
        }
    }
    return NULL;
}

size_t kvs_family_names(kvs_line line, const char *out[KVS_FAMILIES_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < FAMILIES; i++) {
        if (families[i].in[line]) {
            out[count++] = families[i].name;
        }
    }
    return count;
}

const char *kvs_family_name(const kvs_family *family)
{
    return family->name;
}

const char *kvs_family_missing(const kvs_family *family)
{
    return family->missing;
}

double kvs_family_learning_rate(const kvs_family *family, kvs_line line)
{
    return family->learning_rate[line];
}

bool kvs_family_lazy(const kvs_family *family, kvs_line line, bool *out)
{
    *out = family->lazy[line] == LAZY_YES;
    return family->lazy[line] != LAZY_NONE;
}

/* ------------------------------------------------------------------ reading and writing */

static void read_bounded(kvs_json_fields *fields, const parameter *given, double *out)
{
    double value;
    if (!kvs_json_double(fields, given->name, -FLT_MAX, FLT_MAX, &value)) {
        return;
    }
    if (given->kind == UNIT && !(value >= 0 && value <= 1)) {
        kvs_json_fail(fields, given->name, "must be at least 0 and at most 1");
    } else if (given->kind == BELOW && !(value >= 0 && value < 1)) {
        kvs_json_fail(fields, given->name, "must be at least 0 and below 1");
    } else {
        *out = value;
    }
}

static void read_parameter(kvs_json_fields *fields, const parameter *given, double *out)
{
    int64_t whole;
    bool truth;
    switch (given->kind) {
    case COUNTS:
        (void)kvs_json_double(fields, given->name, 0, FLT_MAX, out);
        break;
    case BOUND:
        if (!kvs_json_null(fields, given->name)) {
            read_bounded(fields, given, out);
        }
        *out = *out <= 0 ? INFINITY : *out;
        break;
    case TRUTH:
        if (kvs_json_bool(fields, given->name, &truth)) {
            *out = truth ? 1 : 0;
        }
        break;
    case WHOLE:
        if (kvs_json_integer(fields, given->name, 0, WHOLE_MAX, &whole)) {
            *out = (double)whole;
        }
        break;
    default:
        read_bounded(fields, given, out);
        break;
    }
}

void kvs_family_read(const kvs_family *family, kvs_line line, kvs_json_fields *fields,
                     double hyper[KVS_HYPER_COUNT])
{
    for (size_t i = 0; i < KVS_HYPER_COUNT; i++) {
        hyper[i] = 0;
    }
    for (const parameter *one = family->parameters; one->name != NULL; one++) {
        if (one->normal[line] != NONE) {
            hyper[one->hyper] = one->normal[line];
            read_parameter(fields, one, &hyper[one->hyper]);
        }
    }
    if (kvs_family_rule(family, line, hyper) == KVS_RULE_SIGNSGD && line == KVS_LINE_19 &&
        hyper[KVS_HYPER_WD_LH] != 0) {
        kvs_json_fail(fields, "wd_lh", "needs a momentum in rules 1.9");
    }
}

void kvs_family_write(const kvs_family *family, kvs_line line, const double hyper[KVS_HYPER_COUNT],
                      FILE *to)
{
    for (const parameter *one = family->parameters; one->name != NULL; one++) {
        double value = hyper[one->hyper];
        if (one->normal[line] == NONE) {
            continue;
        }
        (void)fputs(", ", to);
        if (one->kind == TRUTH) {
            (void)fprintf(to, "\"%s\": %s", one->name, value != 0 ? "true" : "false");
        } else if (isinf(value)) {
            (void)fprintf(to, "\"%s\": null", one->name);
        } else {
            kvs_json_put_double(to, one->name, value);
        }
    }
}

/* ------------------------------------------------------------------ an update */

int kvs_family_rule(const kvs_family *family, kvs_line line, const double hyper[KVS_HYPER_COUNT])
{
    bool other = family->other[line] != KVS_RULE_KEEP && hyper[family->by] != 0;
    return other ? (int)family->other[line] : (int)family->rule[line];
}

void kvs_family_scalars(const kvs_family *family, const double hyper[KVS_HYPER_COUNT],
                        uint64_t begin, uint64_t count, kvs_rule_scalars *out)
{
    KVS_CHECK(count > begin);
    if (family->scalars != NULL) {
        family->scalars(hyper, begin, count, out);
    }
}
