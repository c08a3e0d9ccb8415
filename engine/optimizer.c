#include "engine/optimizer.h"

#include "base/check.h"
#include "base/json.h"
#include "base/limits.h"
#include "engine/learning_rate.h"

#include <ctype.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Of the JSON text: room for multipliers of some ten thousand keys. */
#define TEXT_BYTES_MAX (1 * KVS_MIB)

typedef enum line { LINE_19, LINE_20 } line;
static const char *const line_names[] = {"1.9", "2.0"};

typedef enum family { FAMILY_SGD, FAMILY_ADAM, FAMILY_TEST, FAMILY_LATER } family;

/* Every name that MXNet registers, and in which lines. */
static const struct {
    const char *name;
    family family;
    bool in[2];
} names[] = {
    {"sgd", FAMILY_SGD, {true, true}},
    {"adam", FAMILY_ADAM, {true, true}},
    {"test", FAMILY_TEST, {true, true}},
    {"adabelief", FAMILY_LATER, {false, true}},
    {"adadelta", FAMILY_LATER, {true, true}},
    {"adagrad", FAMILY_LATER, {true, true}},
    {"adamax", FAMILY_LATER, {true, true}},
    {"adamw", FAMILY_LATER, {false, true}},
    {"ccsgd", FAMILY_LATER, {true, false}},
    {"dcasgd", FAMILY_LATER, {true, true}},
    {"ftml", FAMILY_LATER, {true, true}},
    {"ftrl", FAMILY_LATER, {true, true}},
    {"groupadagrad", FAMILY_LATER, {true, true}},
    {"lamb", FAMILY_LATER, {true, true}},
    {"lans", FAMILY_LATER, {false, true}},
    {"lars", FAMILY_LATER, {true, true}},
    {"lbsgd", FAMILY_LATER, {true, false}},
    {"nadam", FAMILY_LATER, {true, true}},
    {"nag", FAMILY_LATER, {true, true}},
    {"rmsprop", FAMILY_LATER, {true, true}},
    {"sgld", FAMILY_LATER, {true, true}},
    {"signum", FAMILY_LATER, {true, true}},
};
#define NAMES (sizeof names / sizeof names[0])
#define NAME_BYTES_MAX 32u

/* What differs between the lines before anybody says otherwise. */
static const struct {
    double learning_rate;
    bool lazy_update;
} defaults[][2] = {
    [FAMILY_SGD] = {{0.01, true}, {0.1, false}},
    [FAMILY_ADAM] = {{0.001, true}, {0.001, false}},
    [FAMILY_TEST] = {{0.01, false}, {0.01, false}},
};

/* lr_mult or wd_mult: by name, in bytewise order. Names are borrowed from the tree. */
typedef struct multiplier {
    const char *key;
    double value;
} multiplier;

typedef struct multiplier_map {
    multiplier *entries;
    size_t count;
} multiplier_map;

struct kvs_optimizer {
    _Atomic uint32_t references;
    json_t *tree; /* what was parsed; lends the names of keys and the steps of schedules */
    char *json;   /* canonical */
    const char *name;
    family family;
    line line;
    int rule; /* kvs_rule */
    kvs_learning_rate rate;
    double momentum;
    double beta1;
    double beta2;
    double epsilon;
    double wd;
    double rescale;
    double clip; /* INFINITY: none */
    bool lazy_update;
    bool multi_precision;
    uint64_t begin_num_update;
    multiplier_map lr_mult;
    multiplier_map wd_mult;
};

/* ------------------------------------------------------------------ reading */

static void fail_name(kvs_json_fields *fields, line rules, const char *given, const char *lower)
{
    const char *words[NAMES];
    size_t count = 0;
    for (size_t i = 0; i < NAMES; i++) {
        if (names[i].in[rules]) {
            words[count++] = names[i].name;
        }
    }
    const char *near = kvs_json_nearest(lower, words, count);
    if (near != NULL) {
        kvs_json_fail(fields, "name", "is no optimizer of rules %s: \"%s\", did you mean \"%s\"?",
                      line_names[rules], given, near);
    } else {
        kvs_json_fail(fields, "name", "is no optimizer of rules %s: \"%s\"", line_names[rules],
                      given);
    }
}

/* MXNet's registry does not tell upper from lower case. */
static bool read_name(kvs_json_fields *fields, kvs_optimizer *optimizer, bool *later)
{
    const char *given;
    char lower[NAME_BYTES_MAX + 1];
    if (!kvs_json_required(fields, "name") ||
        !kvs_json_text(fields, "name", NAME_BYTES_MAX, &given)) {
        return false;
    }
    size_t bytes = strlen(given);
    for (size_t i = 0; i <= bytes; i++) {
        lower[i] = (char)tolower((unsigned char)given[i]);
    }
    for (size_t i = 0; i < NAMES; i++) {
        if (names[i].in[optimizer->line] && strcmp(names[i].name, lower) == 0) {
            optimizer->name = names[i].name;
            optimizer->family = names[i].family;
            *later = names[i].family == FAMILY_LATER;
            return true;
        }
    }
    fail_name(fields, optimizer->line, given, lower);
    return false;
}

/* A number that f32 can hold. */
static bool read_number(kvs_json_fields *fields, const char *name, double *out)
{
    return kvs_json_double(fields, name, -FLT_MAX, FLT_MAX, out);
}

/* 1 would divide by 0 in the bias correction. */
static void read_beta(kvs_json_fields *fields, const char *name, double *out)
{
    double beta;
    if (!read_number(fields, name, &beta)) {
        return;
    }
    if (!(beta >= 0 && beta < 1)) {
        kvs_json_fail(fields, name, "must be at least 0 and below 1");
        return;
    }
    *out = beta;
}

static void read_rule(kvs_json_fields *fields, kvs_optimizer *optimizer)
{
    bool old = optimizer->line == LINE_19;
    switch (optimizer->family) {
    case FAMILY_SGD:
        (void)read_number(fields, "momentum", &optimizer->momentum);
        (void)kvs_json_bool(fields, "lazy_update", &optimizer->lazy_update);
        optimizer->rule = optimizer->momentum == 0 ? KVS_RULE_SGD : KVS_RULE_SGD_MOMENTUM;
        break;
    case FAMILY_ADAM:
        read_beta(fields, "beta1", &optimizer->beta1);
        read_beta(fields, "beta2", &optimizer->beta2);
        (void)kvs_json_double(fields, "epsilon", 0, FLT_MAX, &optimizer->epsilon);
        (void)kvs_json_bool(fields, "lazy_update", &optimizer->lazy_update);
        optimizer->rule = old ? KVS_RULE_ADAM_19 : KVS_RULE_ADAM_20;
        break;
    default:
        optimizer->rule = old ? KVS_RULE_TEST_19 : KVS_RULE_TEST_20;
        break;
    }
}

static void read_rate(kvs_json_fields *fields, kvs_optimizer *optimizer)
{
    double base = defaults[optimizer->family][optimizer->line].learning_rate;
    bool fixed = false;
    if (!kvs_json_null(fields, "learning_rate")) {
        fixed = read_number(fields, "learning_rate", &base);
    }
    kvs_learning_rate_read(fields, base, fixed, &optimizer->rate);
}

static int compare_multipliers(const void *a, const void *b)
{
    return strcmp(((const multiplier *)a)->key, ((const multiplier *)b)->key);
}

/* By the name of the key alone. MXNet's rule that drops the decay of names that do not end in
 * _weight or _gamma holds only with idx2name, which a store does not have. */
static kvs_status read_multipliers(kvs_json_fields *fields, const char *name, multiplier_map *out)
{
    const json_t *value = kvs_json_find(fields, name);
    if (value == NULL || json_object_size(value) == 0) {
        (void)kvs_json_child(fields, name, JSON_OBJECT);
        return KVS_OK;
    }
    kvs_json_fields map;
    kvs_json_fields_init(&map, fields, name, value, fields->errors);
    out->entries = calloc(json_object_size(value), sizeof *out->entries);
    if (out->entries == NULL) {
        return KVS_NO_MEMORY;
    }
    const char *key;
    json_t *number;
    /* The cast: jansson's iterator takes no const; nothing is changed. */
    json_object_foreach ((json_t *)value, key, number) {
        double factor = json_number_value(number);
        if (!json_is_number(number) || !(fabs(factor) <= FLT_MAX)) {
            kvs_json_fail(&map, key, "must be a number");
        }
        out->entries[out->count++] = (multiplier){key, factor};
    }
    qsort(out->entries, out->count, sizeof *out->entries, compare_multipliers);
    return KVS_OK;
}

static kvs_status read_common(kvs_json_fields *fields, kvs_optimizer *optimizer)
{
    int64_t begin = 0;
    (void)read_number(fields, "wd", &optimizer->wd);
    (void)read_number(fields, "rescale_grad", &optimizer->rescale);
    if (!kvs_json_null(fields, "clip_gradient") &&
        read_number(fields, "clip_gradient", &optimizer->clip) && optimizer->clip <= 0) {
        optimizer->clip = INFINITY; /* off, as in MXNet's kernels */
    }
    (void)kvs_json_bool(fields, "multi_precision", &optimizer->multi_precision);
    (void)kvs_json_integer(fields, "begin_num_update", 0, INT64_MAX / 2, &begin);
    optimizer->begin_num_update = (uint64_t)begin;
    KVS_TRY(read_multipliers(fields, "lr_mult", &optimizer->lr_mult));
    return read_multipliers(fields, "wd_mult", &optimizer->wd_mult);
}

/* Fills the optimizer from its tree. */
static kvs_status read_all(kvs_optimizer *optimizer, kvs_problem *problem)
{
    kvs_json_errors errors = {.problem = problem};
    kvs_json_fields fields;
    size_t chosen = LINE_19;
    bool later = false;
    kvs_json_fields_init(&fields, NULL, "", optimizer->tree, &errors);
    (void)kvs_json_choice(&fields, "rules", line_names, 2, &chosen);
    optimizer->line = (line)chosen;
    if (!read_name(&fields, optimizer, &later)) {
        return kvs_json_status(&errors); /* whose fields these are is not known */
    }
    if (later) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED,
                               "/name: \"%s\" is not built yet; sgd, adam and test are",
                               optimizer->name);
    }
    optimizer->lazy_update = defaults[optimizer->family][optimizer->line].lazy_update;
    read_rule(&fields, optimizer);
    read_rate(&fields, optimizer);
    if (read_common(&fields, optimizer) != KVS_OK) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the optimizer");
    }
    kvs_json_fields_end(&fields);
    return kvs_json_status(&errors);
}

/* ------------------------------------------------------------------ writing */

static void write_double(FILE *to, const char *name, double value)
{
    (void)fputs(", ", to);
    kvs_json_put_double(to, name, value);
}

static void write_multipliers(FILE *to, const char *name, const multiplier_map *map)
{
    (void)fprintf(to, ", \"%s\": {", name);
    for (size_t i = 0; i < map->count; i++) {
        (void)fputs(i > 0 ? ", " : "", to);
        kvs_json_put_double(to, map->entries[i].key, map->entries[i].value);
    }
    (void)fputs("}", to);
}

static void write_all(const kvs_optimizer *optimizer, FILE *to)
{
    (void)fprintf(to, "{\"name\": \"%s\"", optimizer->name);
    write_double(to, "learning_rate", optimizer->rate.base);
    if (optimizer->family == FAMILY_SGD) {
        write_double(to, "momentum", optimizer->momentum);
    } else if (optimizer->family == FAMILY_ADAM) {
        write_double(to, "beta1", optimizer->beta1);
        write_double(to, "beta2", optimizer->beta2);
        write_double(to, "epsilon", optimizer->epsilon);
    }
    write_double(to, "wd", optimizer->wd);
    write_double(to, "rescale_grad", optimizer->rescale);
    if (isinf(optimizer->clip)) {
        (void)fputs(", \"clip_gradient\": null", to);
    } else {
        write_double(to, "clip_gradient", optimizer->clip);
    }
    (void)fprintf(to, ", \"multi_precision\": %s", optimizer->multi_precision ? "true" : "false");
    if (optimizer->family != FAMILY_TEST) {
        (void)fprintf(to, ", \"lazy_update\": %s", optimizer->lazy_update ? "true" : "false");
    }
    (void)fputs(", \"lr_scheduler\": ", to);
    kvs_learning_rate_write(&optimizer->rate, to);
    write_multipliers(to, "lr_mult", &optimizer->lr_mult);
    write_multipliers(to, "wd_mult", &optimizer->wd_mult);
    (void)fprintf(to, ", \"begin_num_update\": %" PRIu64 ", \"rules\": \"%s\"}",
                  optimizer->begin_num_update, line_names[optimizer->line]);
}

static kvs_status write_json(kvs_optimizer *optimizer)
{
    size_t bytes;
    FILE *to = open_memstream(&optimizer->json, &bytes);
    if (to == NULL) {
        return KVS_NO_MEMORY;
    }
    write_all(optimizer, to);
    bool failed = ferror(to) != 0;
    failed = fclose(to) != 0 || failed;
    return failed ? KVS_NO_MEMORY : KVS_OK;
}

/* ------------------------------------------------------------------ life */

static void free_optimizer(kvs_optimizer *optimizer)
{
    free(optimizer->lr_mult.entries);
    free(optimizer->wd_mult.entries);
    free(optimizer->json);
    json_decref(optimizer->tree);
    free(optimizer);
}

kvs_status kvs_optimizer_parse(const char *json, size_t json_bytes, kvs_optimizer **out,
                               kvs_problem *problem)
{
    json_t *tree = NULL;
    KVS_TRY(kvs_json_parse(json, json_bytes, TEXT_BYTES_MAX, &tree, problem));
    kvs_optimizer *optimizer = calloc(1, sizeof *optimizer);
    if (optimizer == NULL) {
        json_decref(tree);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the optimizer");
    }
    atomic_init(&optimizer->references, 1);
    optimizer->tree = tree;
    optimizer->beta1 = 0.9;
    optimizer->beta2 = 0.999;
    optimizer->epsilon = 1e-8;
    optimizer->rescale = 1;
    optimizer->clip = INFINITY;
    kvs_status status = read_all(optimizer, problem);
    if (status == KVS_OK && write_json(optimizer) != KVS_OK) {
        status = kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the optimizer");
    }
    if (status != KVS_OK) {
        free_optimizer(optimizer);
        return status;
    }
    *out = optimizer;
    return KVS_OK;
}

kvs_optimizer *kvs_optimizer_take(kvs_optimizer *optimizer)
{
    /* Relaxed: whoever takes has a reference already. */
    (void)atomic_fetch_add_explicit(&optimizer->references, 1, memory_order_relaxed);
    return optimizer;
}

void kvs_optimizer_unref(kvs_optimizer *optimizer)
{
    /* Release, then acquire by the last: every reader is done before the bytes go. */
    if (optimizer != NULL &&
        atomic_fetch_sub_explicit(&optimizer->references, 1, memory_order_acq_rel) == 1) {
        free_optimizer(optimizer);
    }
}

/* ------------------------------------------------------------------ reading it */

const char *kvs_optimizer_json(const kvs_optimizer *optimizer)
{
    return optimizer->json;
}

const char *kvs_optimizer_name(const kvs_optimizer *optimizer)
{
    return optimizer->name;
}

int kvs_optimizer_rule(const kvs_optimizer *optimizer)
{
    return optimizer->rule;
}

bool kvs_optimizer_equal(const kvs_optimizer *a, const kvs_optimizer *b)
{
    return strcmp(a->json, b->json) == 0;
}

bool kvs_optimizer_keeps_states(const kvs_optimizer *a, const kvs_optimizer *b)
{
    return a->family == b->family && kvs_rule_states(a->rule) == kvs_rule_states(b->rule);
}

bool kvs_optimizer_multi_precision(const kvs_optimizer *optimizer)
{
    return optimizer->multi_precision;
}

uint32_t kvs_optimizer_states(const kvs_optimizer *optimizer)
{
    return kvs_rule_states(optimizer->rule);
}

static double multiplier_of(const multiplier_map *map, const char *key, size_t key_bytes)
{
    size_t low = 0;
    size_t high = map->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *other = map->entries[middle].key;
        size_t other_bytes = strlen(other);
        size_t both = key_bytes < other_bytes ? key_bytes : other_bytes;
        int order = memcmp(key, other, both);
        if (order == 0 && key_bytes == other_bytes) {
            return map->entries[middle].value;
        }
        if (order < 0 || (order == 0 && key_bytes < other_bytes)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return 1;
}

kvs_multipliers kvs_optimizer_multipliers(const kvs_optimizer *optimizer, const char *key,
                                          size_t key_bytes)
{
    return (kvs_multipliers){
        .lr = multiplier_of(&optimizer->lr_mult, key, key_bytes),
        .wd = multiplier_of(&optimizer->wd_mult, key, key_bytes),
    };
}

void kvs_optimizer_scalars(const kvs_optimizer *optimizer, kvs_multipliers multipliers, uint64_t t,
                           kvs_rule_scalars *out)
{
    uint64_t count = optimizer->begin_num_update + t;
    double lr = kvs_learning_rate_at(&optimizer->rate, count) * multipliers.lr;
    *out = (kvs_rule_scalars){
        .rule = optimizer->rule,
        .rescale = optimizer->rescale,
        .clip = optimizer->clip,
        .wd = optimizer->wd * multipliers.wd,
        .lr = lr,
        .momentum = optimizer->momentum,
    };
    if (optimizer->family == FAMILY_ADAM) {
        KVS_CHECK(count > 0);
        double correction1 = 1 - kvs_power(optimizer->beta1, count);
        double correction2 = 1 - kvs_power(optimizer->beta2, count);
        out->lr = lr * sqrt(correction2) / correction1;
        out->beta1 = optimizer->beta1;
        out->beta1_rest = 1 - optimizer->beta1;
        out->beta2 = optimizer->beta2;
        out->beta2_rest = 1 - optimizer->beta2;
        out->epsilon = optimizer->epsilon;
    }
}
