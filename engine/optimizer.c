#include "engine/optimizer.h"

#include "base/check.h"
#include "base/json.h"
#include "base/limits.h"
#include "engine/family.h"
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

#define NAME_BYTES_MAX 32u

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
    const kvs_family *family;
    kvs_line line;
    int rule; /* kvs_rule */
    kvs_learning_rate rate;
    double hyper[KVS_HYPER_COUNT];
    double wd;
    double rescale;
    double clip;      /* INFINITY: none */
    double clip_norm; /* INFINITY: none */
    bool has_lazy, lazy_update;
    bool multi_precision;
    uint64_t begin_num_update;
    multiplier_map lr_mult;
    multiplier_map wd_mult;
};

/* ------------------------------------------------------------------ reading */

static void fail_name(kvs_json_fields *fields, kvs_line line, const char *given, const char *lower)
{
    const char *words[KVS_FAMILIES_MAX];
    size_t count = kvs_family_names(line, words);
    const char *near = kvs_json_nearest(lower, words, count);
    if (near != NULL) {
        kvs_json_fail(fields, "name", "is no optimizer of rules %s: \"%s\", did you mean \"%s\"?",
                      kvs_line_names[line], given, near);
    } else {
        kvs_json_fail(fields, "name", "is no optimizer of rules %s: \"%s\"", kvs_line_names[line],
                      given);
    }
}

/* MXNet's registry does not tell upper from lower case. */
static bool read_name(kvs_json_fields *fields, kvs_optimizer *optimizer)
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
    optimizer->family = kvs_family_find(lower, optimizer->line);
    if (optimizer->family == NULL) {
        fail_name(fields, optimizer->line, given, lower);
    }
    return optimizer->family != NULL;
}

/* A number that f32 can hold. */
static bool read_number(kvs_json_fields *fields, const char *name, double *out)
{
    return kvs_json_double(fields, name, -FLT_MAX, FLT_MAX, out);
}

static void read_rule(kvs_json_fields *fields, kvs_optimizer *optimizer)
{
    kvs_line line = optimizer->line;
    kvs_family_read(optimizer->family, line, fields, optimizer->hyper);
    optimizer->rule = kvs_family_rule(optimizer->family, line, optimizer->hyper);
    optimizer->has_lazy = kvs_family_lazy(optimizer->family, line, &optimizer->lazy_update);
    if (optimizer->has_lazy) {
        (void)kvs_json_bool(fields, "lazy_update", &optimizer->lazy_update);
    }
}

static void read_rate(kvs_json_fields *fields, kvs_optimizer *optimizer)
{
    double base = kvs_family_learning_rate(optimizer->family, optimizer->line);
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
    if (read_number(fields, "wd", &optimizer->wd) && optimizer->wd != 0 &&
        !kvs_family_decays(optimizer->family)) {
        kvs_json_fail(fields, "wd", "must be 0: the rule has no decay");
    }
    (void)read_number(fields, "rescale_grad", &optimizer->rescale);
    if (!kvs_json_null(fields, "clip_gradient") &&
        read_number(fields, "clip_gradient", &optimizer->clip) && optimizer->clip <= 0) {
        optimizer->clip = INFINITY; /* off, as in MXNet's kernels */
    }
    if (!kvs_json_null(fields, "clip_norm") &&
        read_number(fields, "clip_norm", &optimizer->clip_norm) && optimizer->clip_norm <= 0) {
        optimizer->clip_norm = INFINITY;
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
    size_t chosen = KVS_LINE_19;
    kvs_json_fields_init(&fields, NULL, "", optimizer->tree, &errors);
    (void)kvs_json_choice(&fields, "rules", kvs_line_names, KVS_LINE_COUNT, &chosen);
    optimizer->line = (kvs_line)chosen;
    if (!read_name(&fields, optimizer)) {
        return kvs_json_status(&errors); /* whose fields these are is not known */
    }
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

/* null for a bound that is none. */
static void write_bound(FILE *to, const char *name, double value)
{
    if (isinf(value)) {
        (void)fprintf(to, ", \"%s\": null", name);
    } else {
        write_double(to, name, value);
    }
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
    (void)fprintf(to, "{\"name\": \"%s\"", kvs_family_name(optimizer->family));
    write_double(to, "learning_rate", optimizer->rate.base);
    kvs_family_write(optimizer->family, optimizer->line, optimizer->hyper, to);
    write_double(to, "wd", optimizer->wd);
    write_double(to, "rescale_grad", optimizer->rescale);
    write_bound(to, "clip_gradient", optimizer->clip);
    write_bound(to, "clip_norm", optimizer->clip_norm);
    (void)fprintf(to, ", \"multi_precision\": %s", optimizer->multi_precision ? "true" : "false");
    if (optimizer->has_lazy) {
        (void)fprintf(to, ", \"lazy_update\": %s", optimizer->lazy_update ? "true" : "false");
    }
    (void)fputs(", \"lr_scheduler\": ", to);
    kvs_learning_rate_write(&optimizer->rate, to);
    write_multipliers(to, "lr_mult", &optimizer->lr_mult);
    write_multipliers(to, "wd_mult", &optimizer->wd_mult);
    (void)fprintf(to, ", \"begin_num_update\": %" PRIu64 ", \"rules\": \"%s\"}",
                  optimizer->begin_num_update, kvs_line_names[optimizer->line]);
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
    optimizer->rescale = 1;
    optimizer->clip = INFINITY;
    optimizer->clip_norm = INFINITY;
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
    return kvs_family_name(optimizer->family);
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
    return a->family == b->family && kvs_optimizer_states(a) == kvs_optimizer_states(b);
}

bool kvs_optimizer_multi_precision(const kvs_optimizer *optimizer)
{
    return optimizer->multi_precision;
}

uint32_t kvs_optimizer_states(const kvs_optimizer *optimizer)
{
    return kvs_rule_states(optimizer->rule) + kvs_rule_row_states(optimizer->rule);
}

bool kvs_optimizer_by_row(const kvs_optimizer *optimizer)
{
    return kvs_rule_row_states(optimizer->rule) > 0;
}

bool kvs_optimizer_is_lazy(const kvs_optimizer *optimizer)
{
    return optimizer->lazy_update;
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
        .plain = kvs_family_plain(optimizer->family, key, key_bytes),
    };
}

/* lars of 1.9 keeps what its momentum holds at the rate of the update: by lr_now / lr_before. */
static void correct_momentum(const kvs_optimizer *optimizer, uint64_t asked, kvs_rule_scalars *out)
{
    double now = kvs_learning_rate_at(&optimizer->rate, asked);
    double before = kvs_learning_rate_at(&optimizer->rate, asked - 1);
    if (before != 0) {
        out->momentum *= now / before;
    }
}

void kvs_optimizer_scalars(const kvs_optimizer *optimizer, kvs_multipliers multipliers, uint64_t t,
                           kvs_rule_scalars *out)
{
    uint64_t count = optimizer->begin_num_update + t;
    uint64_t asked = kvs_family_lags(optimizer->family) ? count - 1 : count;
    double lr = kvs_learning_rate_at(&optimizer->rate, asked) * multipliers.lr;
    *out = (kvs_rule_scalars){
        .rule = optimizer->rule,
        .rescale = optimizer->rescale,
        .clip = optimizer->clip,
        .wd = optimizer->wd * multipliers.wd,
        .lr = lr,
        .first = t == 1 ? 1 : 0,
    };
    kvs_family_scalars(optimizer->family, optimizer->hyper, optimizer->begin_num_update, count,
                       out);
    if (optimizer->hyper[KVS_HYPER_MOMENTUM_CORRECTION] != 0 && t > 1) {
        correct_momentum(optimizer, asked, out);
    }
}

static bool clips_norms(const kvs_optimizer *optimizer)
{
    return !isinf(optimizer->clip_norm);
}

unsigned kvs_optimizer_measures(const kvs_optimizer *optimizer, kvs_multipliers multipliers,
                                kvs_measure out[KVS_MEASURES_MAX])
{
    unsigned count = 0;
    if (clips_norms(optimizer)) {
        out[count++] = KVS_MEASURE_GRADIENT;
    }
    count +=
        kvs_family_measures(optimizer->family, optimizer->hyper, multipliers.plain, out + count);
    return count;
}

void kvs_optimizer_scale(const kvs_optimizer *optimizer, unsigned stage, const double *squares,
                         kvs_rule_scalars *out)
{
    if (!clips_norms(optimizer)) {
        kvs_family_scale(optimizer->family, optimizer->hyper, stage, squares, out);
    } else if (stage == 0) {
        kvs_scale_clip(optimizer->clip_norm, squares, out);
    } else {
        kvs_family_scale(optimizer->family, optimizer->hyper, stage - 1, squares, out);
    }
}

/* ------------------------------------------------------------------ states */

const char *kvs_rule_state_name(int rule, unsigned state)
{
    /* torch's words where torch has the rule. */
    static const char *const names[KVS_RULE_COUNT][KVS_RULE_STATES_MAX] = {
        [KVS_RULE_SGD_MOMENTUM] = {"momentum_buffer"},
        [KVS_RULE_NAG] = {"momentum_buffer"},
        [KVS_RULE_DILOCO] = {"momentum_buffer"},
        [KVS_RULE_LBSGD] = {"gradient_sum"},
        [KVS_RULE_LBSGD_MOMENTUM] = {"gradient_sum", "momentum_buffer"},
        [KVS_RULE_SIGNUM] = {"momentum_buffer"},
        [KVS_RULE_LION] = {"exp_avg"},
        [KVS_RULE_FTML_19] = {"d", "exp_avg_sq", "z"},
        [KVS_RULE_FTML_20] = {"d", "exp_avg_sq", "z"},
        [KVS_RULE_FTRL] = {"z", "sum"},
        [KVS_RULE_ADAM_19] = {"exp_avg", "exp_avg_sq"},
        [KVS_RULE_ADAM_20] = {"exp_avg", "exp_avg_sq"},
        [KVS_RULE_ADAMW] = {"exp_avg", "exp_avg_sq"},
        [KVS_RULE_LAMB] = {"exp_avg", "exp_avg_sq"},
        [KVS_RULE_LANS] = {"exp_avg", "exp_avg_sq"},
        [KVS_RULE_ADABELIEF] = {"exp_avg", "exp_avg_var"},
        [KVS_RULE_ADAMAX_19] = {"exp_avg", "exp_inf"},
        [KVS_RULE_ADAMAX_20] = {"exp_avg", "exp_inf"},
        [KVS_RULE_NADAM_19] = {"exp_avg", "exp_avg_sq"},
        [KVS_RULE_NADAM_20] = {"exp_avg", "exp_avg_sq"},
        [KVS_RULE_ADAGRAD_19] = {"sum"},
        [KVS_RULE_ADAGRAD_20] = {"sum"},
        [KVS_RULE_GROUPADAGRAD_19] = {"sum"},
        [KVS_RULE_GROUPADAGRAD_20] = {"sum"},
        [KVS_RULE_ADADELTA_19] = {"square_avg", "acc_delta"},
        [KVS_RULE_ADADELTA_20] = {"square_avg", "acc_delta"},
        [KVS_RULE_RMSPROP_19] = {"square_avg"},
        [KVS_RULE_RMSPROP_20] = {"square_avg"},
        [KVS_RULE_RMSPROP_CENTERED_19] = {"square_avg", "grad_avg", "momentum_buffer"},
        [KVS_RULE_RMSPROP_CENTERED_20] = {"square_avg", "grad_avg", "momentum_buffer"},
        [KVS_RULE_DCASGD_19] = {"previous_weight"},
        [KVS_RULE_DCASGD_20] = {"previous_weight"},
        [KVS_RULE_DCASGD_MOMENTUM_19] = {"previous_weight", "momentum_buffer"},
        [KVS_RULE_DCASGD_MOMENTUM_20] = {"previous_weight", "momentum_buffer"},
        [KVS_RULE_TEST_19] = {"weight"},
    };
    return state < kvs_rule_states(rule) + kvs_rule_row_states(rule) ? names[rule][state] : NULL;
}
