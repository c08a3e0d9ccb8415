#include "engine/family.h"

#include "base/check.h"
#include "engine/scalars.h"

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
    WHOLE,  /* an integer that a double holds */
    FROM_0, /* an integer from 0 up, of 31 bits */
    FROM_1,
    FLOOR,   /* 0 or more; null and 0: none */
    STRATEGY /* a word of warmup_names */
} parameter_kind;

static const char *const warmup_names[KVS_WARMUP_COUNT] = {"linear", "power2", "sqrt", "lars"};

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

/* LAZY_ALWAYS and LAZY_NEVER: there is no lazy_update to say otherwise. */
typedef enum lazy { LAZY_NEVER, LAZY_ALWAYS, LAZY_NO, LAZY_YES } lazy;

struct kvs_family {
    const char *name;
    bool in[KVS_LINE_COUNT];
    double learning_rate[KVS_LINE_COUNT];
    lazy lazy[KVS_LINE_COUNT];
    kvs_rule rule[KVS_LINE_COUNT];
    /* Instead, if the number `by` is not 0; KVS_RULE_KEEP: the rule is always the same. */
    kvs_rule other[KVS_LINE_COUNT];
    kvs_hyper by;
    kvs_scalars_function *scalars; /* NULL: it has nothing to add */
    unsigned measure_count;
    kvs_measure measures[KVS_FAMILY_MEASURES_MAX];
    kvs_scale_function *scale; /* of measures */
    bool lags;
    bool no_decay; /* wd has to be 0 */
    parameter parameters[PARAMETERS_MAX];
};

/* ------------------------------------------------------------------ the table */

#define BOTH true, true
#define ONLY_19 true, false
#define ONLY_20 false, true
#define TWICE(value) value, value
#define RULES_OF(name) KVS_RULE_##name##_19, KVS_RULE_##name##_20

#define MOMENTUM "momentum", KVS_HYPER_MOMENTUM, ANY
#define BETA1 "beta1", KVS_HYPER_BETA1, BELOW
#define BETA2 "beta2", KVS_HYPER_BETA2, BELOW
#define EPSILON "epsilon", KVS_HYPER_EPSILON, COUNTS
#define CORRECT_BIAS "correct_bias", KVS_HYPER_CORRECT_BIAS, TRUTH
#define LOWER_BOUND "lower_bound", KVS_HYPER_LOWER_BOUND, FLOOR
#define UPPER_BOUND "upper_bound", KVS_HYPER_UPPER_BOUND, BOUND

/* In the order of the alphabet. Names, defaults and lines are MXNet's; adamw in 1.9, diloco and
 * lion are ours. */
static const kvs_family families[] = {
    {
        .name = "adabelief",
        .in = {ONLY_20},
        .learning_rate = {TWICE(.001)},
        .rule = {TWICE(KVS_RULE_ADABELIEF)},
        .scalars = kvs_scalars_corrected,
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
        .scalars = kvs_scalars_rho,
        .parameters = {{"rho", KVS_HYPER_RHO, UNIT, {.9, .9}}, {EPSILON, {1e-5, 1e-6}}},
    },
    {
        .name = "adagrad",
        .in = {BOTH},
        .learning_rate = {TWICE(.01)},
        .lazy = {TWICE(LAZY_ALWAYS)},
        .rule = {RULES_OF(ADAGRAD)},
        .scalars = kvs_scalars_rho,
        .parameters = {{"eps", KVS_HYPER_EPSILON, COUNTS, {1e-7, NONE}}, {EPSILON, {NONE, 1e-6}}},
    },
    {
        .name = "adam",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .lazy = {LAZY_YES, LAZY_NO},
        .rule = {RULES_OF(ADAM)},
        .scalars = kvs_scalars_adam,
        .parameters = {{BETA1, {.9, .9}}, {BETA2, {.999, .999}}, {EPSILON, {1e-8, 1e-8}}},
    },
    {
        .name = "adamax",
        .in = {BOTH},
        .learning_rate = {TWICE(.002)},
        .rule = {RULES_OF(ADAMAX)},
        .scalars = kvs_scalars_adamax,
        .parameters = {{BETA1, {.9, .9}}, {BETA2, {.999, .999}}},
    },
    {
        .name = "adamw",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .rule = {TWICE(KVS_RULE_ADAMW)},
        .scalars = kvs_scalars_corrected,
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
        .scalars = kvs_scalars_momentum,
        .parameters = {{MOMENTUM, {0, 0}}},
    },
    {
        .name = "dcasgd",
        .in = {BOTH},
        .learning_rate = {.01, .1},
        .rule = {RULES_OF(DCASGD)},
        .other = {RULES_OF(DCASGD_MOMENTUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = kvs_scalars_momentum,
        .parameters = {{MOMENTUM, {0, 0}}, {"lamda", KVS_HYPER_LAMBDA, ANY, {.04, .04}}},
    },
    {
        .name = "diloco",
        .in = {BOTH},
        .learning_rate = {TWICE(.7)},
        .rule = {TWICE(KVS_RULE_DILOCO)},
        .scalars = kvs_scalars_momentum,
        .parameters = {{MOMENTUM, {.9, .9}}},
    },
    {
        .name = "ftml",
        .in = {BOTH},
        .learning_rate = {.01, .0025},
        .rule = {RULES_OF(FTML)},
        .scalars = kvs_scalars_ftml,
        .parameters = {{BETA1, {.6, .6}}, {BETA2, {.999, .999}}, {EPSILON, {1e-8, 1e-8}}},
    },
    {
        .name = "ftrl",
        .in = {BOTH},
        .learning_rate = {TWICE(.1)},
        .lazy = {TWICE(LAZY_ALWAYS)},
        .rule = {TWICE(KVS_RULE_FTRL)},
        .scalars = kvs_scalars_ftrl,
        .parameters = {{"lamda1", KVS_HYPER_LAMBDA, COUNTS, {.01, .01}},
                       {"beta", KVS_HYPER_BETA, COUNTS, {1, 1}}},
    },
    {
        .name = "groupadagrad",
        .in = {BOTH},
        .learning_rate = {TWICE(.01)},
        .lazy = {TWICE(LAZY_ALWAYS)},
        .rule = {RULES_OF(GROUPADAGRAD)},
        .scalars = kvs_scalars_rho,
        .measure_count = 1,
        .measures = {KVS_MEASURE_ROW},
        .no_decay = true,
        .parameters = {{"eps", KVS_HYPER_EPSILON, COUNTS, {1e-5, NONE}}, {EPSILON, {NONE, 1e-6}}},
    },
    {
        .name = "lamb",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .rule = {TWICE(KVS_RULE_LAMB)},
        .scalars = kvs_scalars_lamb,
        .measure_count = 1,
        .measures = {KVS_MEASURE_LAMB},
        .scale = kvs_scale_lamb,
        .parameters = {{BETA1, {.9, .9}},
                       {BETA2, {.999, .999}},
                       {EPSILON, {1e-6, 1e-6}},
                       {LOWER_BOUND, {0, 0}},
                       {UPPER_BOUND, {INFINITY, INFINITY}},
                       {"bias_correction", KVS_HYPER_CORRECT_BIAS, TRUTH, {1, 1}}},
    },
    {
        .name = "lans",
        .in = {ONLY_20},
        .learning_rate = {TWICE(.001)},
        .rule = {TWICE(KVS_RULE_LANS)},
        .scalars = kvs_scalars_lans,
        .measure_count = 2,
        .measures = {KVS_MEASURE_GRADIENT, KVS_MEASURE_LANS},
        .scale = kvs_scale_lans,
        .parameters = {{BETA1, {.9, .9}},
                       {BETA2, {.999, .999}},
                       {EPSILON, {1e-6, 1e-6}},
                       {LOWER_BOUND, {0, 0}},
                       {UPPER_BOUND, {INFINITY, INFINITY}}},
    },
    {
        .name = "lars",
        .in = {BOTH},
        .learning_rate = {.01, .1},
        .rule = {TWICE(KVS_RULE_SGD)},
        .other = {TWICE(KVS_RULE_SGD_MOMENTUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = kvs_scalars_momentum,
        .measure_count = 1,
        .measures = {KVS_MEASURE_LARS},
        .scale = kvs_scale_lars,
        .parameters = {{MOMENTUM, {0, 0}},
                       {"eta", KVS_HYPER_ETA, COUNTS, {.001, .001}},
                       {"eps", KVS_HYPER_EPSILON, COUNTS, {0, NONE}},
                       {EPSILON, {NONE, 1e-8}},
                       {"momentum_correction", KVS_HYPER_MOMENTUM_CORRECTION, TRUTH, {1, NONE}}},
    },
    {
        .name = "lbsgd",
        .in = {ONLY_19},
        .learning_rate = {TWICE(.01)},
        .rule = {TWICE(KVS_RULE_LBSGD)},
        .other = {TWICE(KVS_RULE_LBSGD_MOMENTUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = kvs_scalars_lbsgd,
        .measure_count = 1, /* of the ramp "lars" alone */
        .measures = {KVS_MEASURE_LBSGD},
        .scale = kvs_scale_lbsgd,
        .lags = true,
        .parameters = {{MOMENTUM, {0, 0}},
                       {"warmup_strategy", KVS_HYPER_WARMUP_STRATEGY, STRATEGY, {0, 0}},
                       {"warmup_epochs", KVS_HYPER_WARMUP_EPOCHS, FROM_0, {5, 5}},
                       {"batch_scale", KVS_HYPER_BATCH_SCALE, FROM_1, {1, 1}},
                       {"updates_per_epoch", KVS_HYPER_UPDATES_PER_EPOCH, FROM_1, {32, 32}},
                       {"begin_epoch", KVS_HYPER_BEGIN_EPOCH, FROM_0, {0, 0}},
                       {"num_epochs", KVS_HYPER_NUM_EPOCHS, FROM_0, {60, 60}}},
    },
    {
        .name = "lion",
        .in = {BOTH},
        .learning_rate = {TWICE(.0001)},
        .rule = {TWICE(KVS_RULE_LION)},
        .scalars = kvs_scalars_beta,
        .parameters = {{BETA1, {.9, .9}}, {BETA2, {.99, .99}}},
    },
    {
        .name = "nadam",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .rule = {RULES_OF(NADAM)},
        .scalars = kvs_scalars_nadam,
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
        .scalars = kvs_scalars_momentum,
        .parameters = {{MOMENTUM, {0, .9}}},
    },
    {
        .name = "rmsprop",
        .in = {BOTH},
        .learning_rate = {TWICE(.001)},
        .rule = {RULES_OF(RMSPROP)},
        .other = {RULES_OF(RMSPROP_CENTERED)},
        .by = KVS_HYPER_CENTERED,
        .scalars = kvs_scalars_rho,
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
        .scalars = kvs_scalars_momentum,
        .parameters = {{MOMENTUM, {0, 0}}},
    },
    {
        .name = "sgld",
        .in = {BOTH},
        .learning_rate = {.01, .1},
        .rule = {TWICE(KVS_RULE_SGLD)},
        .scalars = kvs_scalars_sgld,
        .parameters = {{"seed", KVS_HYPER_SEED, WHOLE, {0, 0}}},
    },
    {
        .name = "signum",
        .in = {BOTH},
        .learning_rate = {TWICE(.01)},
        .rule = {TWICE(KVS_RULE_SIGNSGD)},
        .other = {TWICE(KVS_RULE_SIGNUM)},
        .by = KVS_HYPER_MOMENTUM,
        .scalars = kvs_scalars_signum,
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

bool kvs_family_decays(const kvs_family *family)
{
    return !family->no_decay;
}

bool kvs_family_lags(const kvs_family *family)
{
    return family->lags;
}

double kvs_family_learning_rate(const kvs_family *family, kvs_line line)
{
    return family->learning_rate[line];
}

bool kvs_family_lazy(const kvs_family *family, kvs_line line, bool *out)
{
    lazy kind = family->lazy[line];
    *out = kind == LAZY_YES || kind == LAZY_ALWAYS;
    return kind == LAZY_YES || kind == LAZY_NO;
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
    size_t word;
    switch (given->kind) {
    case COUNTS:
        (void)kvs_json_double(fields, given->name, 0, FLT_MAX, out);
        break;
    case FLOOR:
        if (!kvs_json_null(fields, given->name)) {
            (void)kvs_json_double(fields, given->name, 0, FLT_MAX, out);
        }
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
    case FROM_0:
    case FROM_1:
        if (kvs_json_integer(fields, given->name, given->kind == FROM_1 ? 1 : 0,
                             given->kind == WHOLE ? WHOLE_MAX : INT32_MAX, &whole)) {
            *out = (double)whole;
        }
        break;
    case STRATEGY:
        if (kvs_json_choice(fields, given->name, warmup_names, KVS_WARMUP_COUNT, &word)) {
            *out = (double)word;
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
        } else if (one->kind == STRATEGY) {
            (void)fprintf(to, "\"%s\": \"%s\"", one->name, warmup_names[(size_t)value]);
        } else if (isinf(value) || (one->kind == FLOOR && value == 0)) {
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

/* ------------------------------------------------------------------ norms */

unsigned kvs_family_measures(const kvs_family *family, const double hyper[KVS_HYPER_COUNT],
                             bool plain, kvs_measure out[KVS_FAMILY_MEASURES_MAX])
{
    bool other_ramp = family->measures[0] == KVS_MEASURE_LBSGD &&
                      hyper[KVS_HYPER_WARMUP_STRATEGY] != KVS_WARMUP_LARS;
    unsigned count = plain || other_ramp ? 0 : family->measure_count;
    for (unsigned i = 0; i < count; i++) {
        out[i] = family->measures[i];
    }
    return count;
}

void kvs_family_scale(const kvs_family *family, const double hyper[KVS_HYPER_COUNT], unsigned stage,
                      const double *squares, kvs_rule_scalars *out)
{
    if (family->scale != NULL) {
        family->scale(hyper, stage, squares, out);
    }
}

bool kvs_family_plain(const kvs_family *family, const char *key, size_t key_bytes)
{
    static const char *const ends[] = {"gamma", "beta", "bias"};
    bool plain = false;
    for (size_t i = 0; family->scale == kvs_scale_lars && i < sizeof ends / sizeof ends[0]; i++) {
        size_t bytes = strlen(ends[i]);
        plain =
            plain || (bytes <= key_bytes && memcmp(key + key_bytes - bytes, ends[i], bytes) == 0);
    }
    return plain;
}
