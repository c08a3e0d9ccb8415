#include "tests/contract/rule_oracle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BETA1 0.9
#define BETA2 0.999
#define EPSILON 1e-8

void kvs_oracle_json(const kvs_oracle_rule *rule, char *out, size_t out_bytes)
{
    char momentum[64] = "";
    char clip[64] = "null";
    if (strcmp(rule->name, "sgd") == 0) {
        (void)snprintf(momentum, sizeof momentum, ", \"momentum\": %.17g", rule->momentum);
    }
    if (rule->clip > 0) {
        (void)snprintf(clip, sizeof clip, "%.17g", rule->clip);
    }
    (void)snprintf(out, out_bytes,
                   "{\"name\": \"%s\", \"rules\": \"%s\", \"learning_rate\": %.17g%s, "
                   "\"wd\": %.17g, \"rescale_grad\": %.17g, \"clip_gradient\": %s}",
                   rule->name, rule->rules, rule->learning_rate, momentum, rule->wd, rule->rescale,
                   clip);
}

void kvs_oracle_init(kvs_oracle *oracle, const kvs_oracle_rule *rule, const double *w,
                     size_t elements)
{
    *oracle = (kvs_oracle){.rule = *rule, .elements = elements};
    oracle->w = calloc(elements + 1, sizeof(double));
    oracle->a = calloc(elements + 1, sizeof(double));
    oracle->b = calloc(elements + 1, sizeof(double));
    oracle->largest = calloc(elements + 1, sizeof(double));
    if (elements > 0) {
        memcpy(oracle->w, w, elements * sizeof(double));
    }
}

void kvs_oracle_deinit(kvs_oracle *oracle)
{
    free(oracle->w);
    free(oracle->a);
    free(oracle->b);
    free(oracle->largest);
}

static double clip(const kvs_oracle_rule *rule, double x)
{
    return rule->clip > 0 ? fmax(-rule->clip, fmin(rule->clip, x)) : x;
}

static void update_sgd(kvs_oracle *oracle, size_t i, double g)
{
    const kvs_oracle_rule *rule = &oracle->rule;
    double prepared = clip(rule, rule->rescale * g) + rule->wd * oracle->w[i];
    oracle->a[i] = rule->momentum * oracle->a[i] - rule->learning_rate * prepared;
    oracle->w[i] += oracle->a[i];
}

static void update_adam(kvs_oracle *oracle, size_t i, double g)
{
    const kvs_oracle_rule *rule = &oracle->rule;
    double decay = rule->wd * oracle->w[i];
    double prepared = strcmp(rule->rules, "1.9") == 0 ? clip(rule, rule->rescale * g + decay)
                                                      : clip(rule, rule->rescale * g) + decay;
    double t = (double)oracle->t;
    double rate = rule->learning_rate * sqrt(1 - pow(BETA2, t)) / (1 - pow(BETA1, t));
    oracle->a[i] = BETA1 * oracle->a[i] + (1 - BETA1) * prepared;
    oracle->b[i] = BETA2 * oracle->b[i] + (1 - BETA2) * prepared * prepared;
    oracle->w[i] -= rate * oracle->a[i] / (sqrt(oracle->b[i]) + EPSILON);
    oracle->largest[i] = fmax(oracle->largest[i], fabs(prepared));
}

static void update_test(kvs_oracle *oracle, size_t i, double g)
{
    const kvs_oracle_rule *rule = &oracle->rule;
    if (strcmp(rule->rules, "1.9") == 0) {
        oracle->w[i] += rule->rescale * g;
        oracle->a[i] = oracle->w[i];
    } else {
        oracle->w[i] -= rule->learning_rate * (rule->rescale * g + rule->wd * oracle->w[i]);
    }
}

void kvs_oracle_update(kvs_oracle *oracle, const double *g)
{
    oracle->t++;
    for (size_t i = 0; i < oracle->elements; i++) {
        if (strcmp(oracle->rule.name, "sgd") == 0) {
            update_sgd(oracle, i, g[i]);
        } else if (strcmp(oracle->rule.name, "adam") == 0) {
            update_adam(oracle, i, g[i]);
        } else {
            update_test(oracle, i, g[i]);
        }
    }
}

double kvs_oracle_tolerance(const kvs_oracle *oracle, size_t i, double unit)
{
    double tolerance = 64 * unit * (1 + fabs(oracle->w[i]));
    if (strcmp(oracle->rule.name, "adam") == 0) {
        /* The step is about lr whatever G's size, so G's absolute error counts relative to G. */
        double relative = 16 * unit / fmax(oracle->largest[i], 16 * unit);
        tolerance += 8 * oracle->rule.learning_rate * relative;
    }
    return tolerance;
}
