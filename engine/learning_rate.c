#include "engine/learning_rate.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>

#define PI 3.14159265358979323846

static const char *const kind_names[KVS_RATE_COUNT] = {
    [KVS_RATE_CONSTANT] = "constant",       [KVS_RATE_FACTOR] = "factor",
    [KVS_RATE_MULTIFACTOR] = "multifactor", [KVS_RATE_POLY] = "poly",
    [KVS_RATE_COSINE] = "cosine",
};

/* ------------------------------------------------------------------ reading */

/* A count from 1 (or 0) up. */
static bool read_count(kvs_json_fields *fields, const char *name, int64_t min, uint64_t *out)
{
    int64_t number;
    if (!kvs_json_integer(fields, name, min, INT64_MAX, &number)) {
        return false;
    }
    *out = (uint64_t)number;
    return true;
}

static void read_steps(kvs_json_fields *fields, kvs_learning_rate *out)
{
    if (!kvs_json_required(fields, "step")) {
        return;
    }
    const json_t *steps = kvs_json_child(fields, "step", JSON_ARRAY);
    if (steps == NULL) {
        return;
    }
    size_t count = json_array_size(steps);
    if (count == 0 || count > KVS_LEARNING_RATE_STEPS_MAX) {
        kvs_json_fail(fields, "step", "must have 1 to %u entries", KVS_LEARNING_RATE_STEPS_MAX);
        return;
    }
    json_int_t before = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *step = json_array_get(steps, i);
        if (!json_is_integer(step) || json_integer_value(step) <= before) {
            kvs_json_fail(fields, "step", "must be growing integers from 1 up");
            return;
        }
        before = json_integer_value(step);
    }
    out->steps = steps;
}

static void read_span(kvs_json_fields *fields, kvs_learning_rate *out)
{
    if (kvs_json_required(fields, "max_update") &&
        read_count(fields, "max_update", 1, &out->max_update) &&
        out->max_update <= out->warmup_steps) {
        kvs_json_fail(fields, "max_update", "must be above warmup_steps");
    }
    (void)kvs_json_double(fields, "final_lr", -FLT_MAX, FLT_MAX, &out->final);
}

static void read_kind(kvs_json_fields *fields, kvs_learning_rate *out)
{
    switch (out->kind) {
    case KVS_RATE_FACTOR:
        if (kvs_json_required(fields, "step")) {
            (void)read_count(fields, "step", 1, &out->step);
        }
        (void)kvs_json_double(fields, "factor", 0, 1, &out->factor);
        (void)kvs_json_double(fields, "stop_factor_lr", -FLT_MAX, FLT_MAX, &out->stop);
        break;
    case KVS_RATE_MULTIFACTOR:
        read_steps(fields, out);
        (void)kvs_json_double(fields, "factor", 0, 1, &out->factor);
        break;
    case KVS_RATE_POLY:
        read_span(fields, out);
        (void)kvs_json_double(fields, "pwr", 0, FLT_MAX, &out->power);
        break;
    case KVS_RATE_COSINE:
        read_span(fields, out);
        break;
    default:
        break;
    }
}

static void read_warmup(kvs_json_fields *fields, kvs_learning_rate *out)
{
    static const char *const modes[] = {"linear", "constant"};
    size_t mode = 0;
    (void)read_count(fields, "warmup_steps", 0, &out->warmup_steps);
    (void)kvs_json_double(fields, "warmup_begin_lr", -FLT_MAX, FLT_MAX, &out->warmup_begin);
    (void)kvs_json_choice(fields, "warmup_mode", modes, 2, &mode);
    out->warmup_constant = mode == 1;
}

void kvs_learning_rate_read(kvs_json_fields *parent, double base, bool fixed,
                            kvs_learning_rate *out)
{
    *out = (kvs_learning_rate){
        .kind = KVS_RATE_CONSTANT,
        .base = base,
        .factor = 1,
        .step = 1,
        .stop = 1e-8,
        .max_update = 1,
        .power = 2,
    };
    const json_t *value = kvs_json_find(parent, "lr_scheduler");
    if (value == NULL || json_is_null(value)) {
        return;
    }
    kvs_json_fields fields;
    size_t kind = 0;
    double own = base;
    kvs_json_fields_init(&fields, parent, "lr_scheduler", value, parent->errors);
    /* The first name, constant, is the absence of a scheduler. */
    if (!kvs_json_required(&fields, "name") ||
        !kvs_json_choice(&fields, "name", kind_names + 1, KVS_RATE_COUNT - 1, &kind)) {
        return; /* whose fields these are is not known */
    }
    out->kind = (kvs_rate_kind)(kind + 1);
    if (kvs_json_double(&fields, "base_lr", -FLT_MAX, FLT_MAX, &own) && !fixed) {
        out->base = own;
    }
    read_warmup(&fields, out);
    read_kind(&fields, out);
    kvs_json_fields_end(&fields);
}

/* ------------------------------------------------------------------ writing */

static void write_count(FILE *to, const char *name, uint64_t value)
{
    (void)fprintf(to, ", \"%s\": %" PRIu64, name, value);
}

static void write_double(FILE *to, const char *name, double value)
{
    (void)fputs(", ", to);
    kvs_json_put_double(to, name, value);
}

void kvs_learning_rate_write(const kvs_learning_rate *rate, FILE *to)
{
    if (rate->kind == KVS_RATE_CONSTANT) {
        (void)fputs("null", to);
        return;
    }
    (void)fprintf(to, "{\"name\": \"%s\"", kind_names[rate->kind]);
    write_double(to, "base_lr", rate->base);
    if (rate->kind == KVS_RATE_FACTOR) {
        write_count(to, "step", rate->step);
        write_double(to, "factor", rate->factor);
        write_double(to, "stop_factor_lr", rate->stop);
    } else if (rate->kind == KVS_RATE_MULTIFACTOR) {
        (void)fputs(", \"step\": [", to);
        for (size_t i = 0; i < json_array_size(rate->steps); i++) {
            (void)fprintf(to, "%s%" JSON_INTEGER_FORMAT, i > 0 ? ", " : "",
                          json_integer_value(json_array_get(rate->steps, i)));
        }
        (void)fputs("]", to);
        write_double(to, "factor", rate->factor);
    } else {
        write_count(to, "max_update", rate->max_update);
        if (rate->kind == KVS_RATE_POLY) {
            write_double(to, "pwr", rate->power);
        }
        write_double(to, "final_lr", rate->final);
    }
    write_count(to, "warmup_steps", rate->warmup_steps);
    write_double(to, "warmup_begin_lr", rate->warmup_begin);
    (void)fprintf(to, ", \"warmup_mode\": \"%s\"}", rate->warmup_constant ? "constant" : "linear");
}

/* ------------------------------------------------------------------ the rate */

double kvs_power(double x, uint64_t n)
{
    double result = 1;
    for (; n > 0; n >>= 1) {
        if ((n & 1) != 0) {
            result *= x;
        }
        x *= x;
    }
    return result;
}

/* base * factor^k as MXNet gets there step by step: never below stop once a step was taken. */
static double after_factors(const kvs_learning_rate *rate, uint64_t k)
{
    double value = rate->base * kvs_power(rate->factor, k);
    if (rate->kind == KVS_RATE_FACTOR && k > 0 && value < rate->stop) {
        value = rate->stop;
    }
    return value;
}

static uint64_t steps_below(const json_t *steps, uint64_t n)
{
    size_t count = json_array_size(steps);
    size_t below = 0;
    while (below < count && n > (uint64_t)json_integer_value(json_array_get(steps, below))) {
        below++;
    }
    return below;
}

/* How far n is on the way from the end of the warm-up to max_update: 0 to 1. */
static double progress(const kvs_learning_rate *rate, uint64_t n)
{
    uint64_t at = n < rate->max_update ? n : rate->max_update;
    return (double)(at - rate->warmup_steps) / (double)(rate->max_update - rate->warmup_steps);
}

double kvs_learning_rate_at(const kvs_learning_rate *rate, uint64_t n)
{
    if (rate->kind == KVS_RATE_CONSTANT) {
        return rate->base;
    }
    if (n < rate->warmup_steps) {
        double climb = (rate->base - rate->warmup_begin) * (double)n / (double)rate->warmup_steps;
        return rate->warmup_begin + (rate->warmup_constant ? 0 : climb);
    }
    double span = rate->base - rate->final;
    switch (rate->kind) {
    case KVS_RATE_FACTOR:
        return after_factors(rate, n == 0 ? 0 : (n - 1) / rate->step);
    case KVS_RATE_MULTIFACTOR:
        return after_factors(rate, steps_below(rate->steps, n));
    case KVS_RATE_POLY:
        return rate->final + span * pow(1 - progress(rate, n), rate->power);
    default:
        return rate->final + span * (1 + cos(PI * progress(rate, n))) / 2;
    }
}
