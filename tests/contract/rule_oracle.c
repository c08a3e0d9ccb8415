#include "tests/contract/rule_oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef double update_function(kvs_oracle *o, size_t i, double g);

static bool old(const kvs_oracle *o)
{
    return strcmp(o->rule.rules, "1.9") == 0;
}

static double clip(const kvs_oracle *o, double x)
{
    double bound = o->rule.clip;
    return bound > 0 ? fmax(-bound, fmin(bound, x)) : x;
}

/* The gradient without decay, with decay behind the clip, with decay inside of it. */
static double plain(const kvs_oracle *o, double g)
{
    return clip(o, o->rule.rescale * g);
}

static double outside(const kvs_oracle *o, size_t i, double g)
{
    return plain(o, g) + o->rule.wd * o->w[i];
}

static double inside(const kvs_oracle *o, size_t i, double g)
{
    return clip(o, o->rule.rescale * g + o->rule.wd * o->w[i]);
}

/* Inside in 1.9, outside in 2.0: most rules. */
static double by_line(const kvs_oracle *o, size_t i, double g)
{
    return old(o) ? inside(o, i, g) : outside(o, i, g);
}

/* An argument as small as the rounding errors of its terms may have either sign. */
static double sign(kvs_oracle *o, size_t i, double x)
{
    o->jump[i] += fabs(x) < 64 * o->unit ? 2 * o->rule.learning_rate : 0;
    return (x > 0) - (x < 0);
}

/* The new value of a running mean in state k. */
static double mean(kvs_oracle *o, size_t k, size_t i, double beta, double x)
{
    return o->state[k][i] = beta * o->state[k][i] + (1 - beta) * x;
}

static double left(const kvs_oracle *o, double beta)
{
    return 1 - pow(beta, (double)o->t);
}

/* ------------------------------------------------------------------ each rule: the new weight */

static double sgd(kvs_oracle *o, size_t i, double g)
{
    double *m = &o->state[0][i];
    *m = o->rule.momentum * *m - o->rule.learning_rate * outside(o, i, g);
    return o->w[i] + *m;
}

static double nag(kvs_oracle *o, size_t i, double g)
{
    double step = -o->rule.learning_rate * outside(o, i, g);
    o->state[0][i] = o->rule.momentum * o->state[0][i] + step;
    return o->w[i] + o->rule.momentum * o->state[0][i] + step;
}

static double diloco(kvs_oracle *o, size_t i, double g)
{
    double d = outside(o, i, g);
    o->state[0][i] = o->rule.momentum * o->state[0][i] + d;
    return o->w[i] - o->rule.learning_rate * (d + o->rule.momentum * o->state[0][i]);
}

/* Batches of two, and a ramp of four gradients from 1 to 2. */
static double lbsgd(kvs_oracle *o, size_t i, double g)
{
    o->state[0][i] += g;
    if (o->t % 2 != 0) {
        return o->w[i];
    }
    double rate = o->rule.learning_rate * (1 + fmin(1, (double)o->t / 4));
    double step = rate * outside(o, i, o->state[0][i] / 2);
    o->state[0][i] = 0;
    o->state[1][i] = o->rule.momentum * o->state[1][i] - step;
    return o->w[i] + o->state[1][i];
}

static double signum(kvs_oracle *o, size_t i, double g)
{
    double mu = o->rule.momentum;
    double rate = o->rule.learning_rate;
    if (mu == 0) {
        return (1 - rate * o->rule.wd) * o->w[i] - rate * sign(o, i, g);
    }
    o->state[0][i] = mu * o->state[0][i] - (1 - mu) * outside(o, i, g);
    return o->w[i] + rate * sign(o, i, o->state[0][i]);
}

static double lion(kvs_oracle *o, size_t i, double g)
{
    double d = plain(o, g);
    double way = sign(o, i, 0.9 * o->state[0][i] + 0.1 * d);
    (void)mean(o, 0, i, 0.99, d);
    return o->w[i] - o->rule.learning_rate * (way + o->rule.wd * o->w[i]);
}

static double ftml(kvs_oracle *o, size_t i, double g)
{
    double d = by_line(o, i, g);
    double v = mean(o, 1, i, 0.999, d * d);
    double next = left(o, 0.6) / o->rule.learning_rate * (sqrt(v / left(o, 0.999)) + 1e-8);
    double z = 0.6 * o->state[2][i] + 0.4 * d - (next - 0.6 * o->state[0][i]) * o->w[i];
    o->state[0][i] = next;
    o->state[2][i] = z;
    return -z / next;
}

static double ftrl(kvs_oracle *o, size_t i, double g)
{
    double d = plain(o, g);
    double rate = o->rule.learning_rate;
    double n = o->state[1][i];
    double z = o->state[0][i] + d - (sqrt(n + d * d) - sqrt(n)) / rate * o->w[i];
    o->state[0][i] = z;
    o->state[1][i] = n + d * d;
    if (fabs(z) <= 0.01) {
        return 0;
    }
    return (copysign(0.01, z) - z) / ((1 + sqrt(n + d * d)) / rate + o->rule.wd);
}

static double adam(kvs_oracle *o, size_t i, double g)
{
    double d = by_line(o, i, g);
    double rate = o->rule.learning_rate * sqrt(left(o, 0.999)) / left(o, 0.9);
    double m = mean(o, 0, i, 0.9, d);
    return o->w[i] - rate * m / (sqrt(mean(o, 1, i, 0.999, d * d)) + 1e-8);
}

static double adamw(kvs_oracle *o, size_t i, double g)
{
    double d = plain(o, g);
    double rate = o->rule.learning_rate * sqrt(left(o, 0.999)) / left(o, 0.9);
    double m = mean(o, 0, i, 0.9, d);
    double v = mean(o, 1, i, 0.999, d * d);
    return o->w[i] - rate * (m / (sqrt(v) + 1e-6) + o->rule.wd * o->w[i]);
}

static double adabelief(kvs_oracle *o, size_t i, double g)
{
    double d = inside(o, i, g);
    double rate = o->rule.learning_rate * sqrt(left(o, 0.999)) / left(o, 0.9);
    double m = mean(o, 0, i, 0.9, d);
    double q = mean(o, 1, i, 0.999, (d - m) * (d - m)) + 1e-6;
    o->state[1][i] = q;
    return o->w[i] - rate * m / (sqrt(q) + 1e-6);
}

static double adamax(kvs_oracle *o, size_t i, double g)
{
    double d = by_line(o, i, g);
    double m = mean(o, 0, i, 0.9, d);
    double u = fmax(0.999 * o->state[1][i], fabs(d));
    o->state[1][i] = u;
    return o->w[i] - o->rule.learning_rate / left(o, 0.9) * m / (old(o) ? u : u + 1e-8);
}

static double nadam(kvs_oracle *o, size_t i, double g)
{
    double d = by_line(o, i, g);
    double momentum = 0;
    double next = 0.9 * (1 - 0.5 * pow(0.96, 0.004));
    double product = 1;
    for (uint64_t n = 1; n <= o->t; n++) {
        momentum = next;
        product *= momentum;
        next = 0.9 * (1 - 0.5 * pow(0.96, (double)(n + 1) * 0.004));
    }
    double m = mean(o, 0, i, 0.9, d) / (1 - product * next);
    double v = mean(o, 1, i, 0.999, d * d) / left(o, 0.999);
    double ahead = (1 - momentum) * d / (1 - product) + next * m;
    return o->w[i] - o->rule.learning_rate * ahead / (sqrt(v) + 1e-8);
}

static double adagrad(kvs_oracle *o, size_t i, double g)
{
    double d = old(o) ? plain(o, g) : outside(o, i, g);
    double h = o->state[0][i] += d * d;
    if (old(o)) {
        return o->w[i] - o->rule.learning_rate * (d / sqrt(h + 1e-7) + o->rule.wd * o->w[i]);
    }
    return o->w[i] - o->rule.learning_rate * d / (sqrt(h) + 1e-6);
}

static double adadelta(kvs_oracle *o, size_t i, double g)
{
    double d = old(o) ? plain(o, g) : outside(o, i, g);
    double epsilon = old(o) ? 1e-5 : 1e-6;
    double a = mean(o, 0, i, 0.9, d * d);
    double step = sqrt((o->state[1][i] + epsilon) / (a + epsilon)) * d;
    (void)mean(o, 1, i, 0.9, step * step);
    return old(o) ? o->w[i] * (1 - o->rule.wd) - step : o->w[i] - o->rule.learning_rate * step;
}

static double rmsprop(kvs_oracle *o, size_t i, double g)
{
    double d = by_line(o, i, g);
    double n = mean(o, 0, i, 0.9, d * d);
    double rate = o->rule.learning_rate;
    if (o->rule.centered) {
        double a = mean(o, 1, i, 0.9, d);
        double step = rate * d / sqrt(n - a * a + 1e-8);
        o->state[2][i] = o->rule.momentum * o->state[2][i] - step;
        return o->w[i] + o->state[2][i];
    }
    return o->w[i] - rate * d / (old(o) ? sqrt(n + 1e-8) : sqrt(n) + 1e-8);
}

static double dcasgd(kvs_oracle *o, size_t i, double g)
{
    double d = old(o) ? plain(o, g) : outside(o, i, g);
    double before = o->t == 1 ? o->w[i] : o->state[0][i];
    double decay = old(o) ? o->rule.wd * o->w[i] : 0;
    double step = o->rule.learning_rate * (d + decay + 0.04 * d * d * (o->w[i] - before));
    o->state[0][i] = o->w[i];
    o->state[1][i] = o->rule.momentum * o->state[1][i] - step;
    return o->w[i] + o->state[1][i];
}

static double test(kvs_oracle *o, size_t i, double g)
{
    double d = o->rule.rescale * g;
    return old(o) ? o->w[i] + d : o->w[i] - o->rule.learning_rate * (d + o->rule.wd * o->w[i]);
}

/* ------------------------------------------------------------------ the table */

static const struct {
    const char *name;
    update_function *update;
    const char *momentum[2]; /* how each line calls it; NULL: it has none */
} rules[] = {
    {"adabelief", adabelief, {NULL, NULL}},
    {"adadelta", adadelta, {NULL, NULL}},
    {"adagrad", adagrad, {NULL, NULL}},
    {"adam", adam, {NULL, NULL}},
    {"adamax", adamax, {NULL, NULL}},
    {"adamw", adamw, {NULL, NULL}},
    {"dcasgd", dcasgd, {"momentum", "momentum"}},
    {"diloco", diloco, {"momentum", "momentum"}},
    {"ftml", ftml, {NULL, NULL}},
    {"ftrl", ftrl, {NULL, NULL}},
    {"lbsgd", lbsgd, {"momentum", "momentum"}},
    {"lion", lion, {NULL, NULL}},
    {"nadam", nadam, {NULL, NULL}},
    {"nag", nag, {"momentum", "momentum"}},
    {"rmsprop", rmsprop, {"gamma2", "momentum"}},
    {"sgd", sgd, {"momentum", "momentum"}},
    {"signum", signum, {"momentum", "momentum"}},
    {"test", test, {NULL, NULL}},
};
#define RULES (sizeof rules / sizeof rules[0])

static size_t find(const char *name)
{
    size_t i = 0;
    while (strcmp(rules[i].name, name) != 0) {
        i++;
    }
    return i;
}

const char *kvs_oracle_name(size_t i)
{
    return i < RULES ? rules[i].name : NULL;
}

bool kvs_oracle_in_19(const char *name)
{
    return strcmp(name, "adabelief") != 0;
}

bool kvs_oracle_in_20(const char *name)
{
    return strcmp(name, "lbsgd") != 0;
}

void kvs_oracle_json(const kvs_oracle_rule *rule, char *out, size_t out_bytes)
{
    char momentum[64] = "";
    char clipped[64] = "null";
    const char *called = rules[find(rule->name)].momentum[strcmp(rule->rules, "1.9") == 0 ? 0 : 1];
    if (called != NULL) {
        (void)snprintf(momentum, sizeof momentum, ", \"%s\": %.17g", called, rule->momentum);
    }
    if (rule->clip > 0) {
        (void)snprintf(clipped, sizeof clipped, "%.17g", rule->clip);
    }
    const char *more = rule->centered ? ", \"centered\": true" : "";
    if (strcmp(rule->name, "lbsgd") == 0) {
        more = ", \"batch_scale\": 2, \"warmup_epochs\": 2, \"updates_per_epoch\": 2";
    }
    (void)snprintf(out, out_bytes,
                   "{\"name\": \"%s\", \"rules\": \"%s\", \"learning_rate\": %.17g%s%s, "
                   "\"wd\": %.17g, \"rescale_grad\": %.17g, \"clip_gradient\": %s}",
                   rule->name, rule->rules, rule->learning_rate, momentum, more, rule->wd,
                   rule->rescale, clipped);
}

void kvs_oracle_init(kvs_oracle *oracle, const kvs_oracle_rule *rule, const double *w,
                     size_t elements, double unit)
{
    *oracle = (kvs_oracle){.rule = *rule, .elements = elements, .unit = unit};
    oracle->w = calloc(elements + 1, sizeof(double));
    oracle->jump = calloc(elements + 1, sizeof(double));
    for (size_t i = 0; i < KVS_ORACLE_STATES; i++) {
        oracle->state[i] = calloc(elements + 1, sizeof(double));
    }
    if (elements > 0) {
        memcpy(oracle->w, w, elements * sizeof(double));
    }
}

void kvs_oracle_deinit(kvs_oracle *oracle)
{
    free(oracle->w);
    free(oracle->jump);
    for (size_t i = 0; i < KVS_ORACLE_STATES; i++) {
        free(oracle->state[i]);
    }
}

void kvs_oracle_update(kvs_oracle *oracle, const double *g)
{
    update_function *update = rules[find(oracle->rule.name)].update;
    oracle->t++;
    for (size_t i = 0; i < oracle->elements; i++) {
        oracle->w[i] = update(oracle, i, g[i]);
    }
}
