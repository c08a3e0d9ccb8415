/* The formulas of the rules in double, written apart from engine/rules.h: the oracle of the suite.
 *
 * Source: MXNet's optimizers of the 1.9 and 2.0 lines, as their documents and kernels state them.
 * Threads: any. Memory: an oracle owns its arrays.
 */
#ifndef KVS_TESTS_CONTRACT_RULE_ORACLE_H
#define KVS_TESTS_CONTRACT_RULE_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvs_oracle_rule {
    const char *name;  /* "sgd", "adam", "test" */
    const char *rules; /* "1.9", "2.0" */
    double learning_rate;
    double momentum; /* sgd */
    double wd;
    double rescale;
    double clip; /* 0: none */
} kvs_oracle_rule;

/* The rule as the JSON that a store gets. */
void kvs_oracle_json(const kvs_oracle_rule *rule, char *out, size_t out_bytes);

typedef struct kvs_oracle {
    kvs_oracle_rule rule;
    size_t elements;
    uint64_t t;
    double *w;
    double *a;
    double *b;
    double *largest; /* |G| so far: how well conditioned m / sqrt(v) is */
} kvs_oracle;

/* Starts from the weights `w`; states are zero. */
void kvs_oracle_init(kvs_oracle *oracle, const kvs_oracle_rule *rule, const double *w,
                     size_t elements);
void kvs_oracle_deinit(kvs_oracle *oracle);

/* One update with the summed gradients g. */
void kvs_oracle_update(kvs_oracle *oracle, const double *g);

/* How far element i of arithmetic with this rounding unit may be off. */
double kvs_oracle_tolerance(const kvs_oracle *oracle, size_t i, double unit);

#endif
