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

#define KVS_ORACLE_STATES 3u

/* Numbers that a rule does not have are not looked at; those not named here are MXNet's. */
typedef struct kvs_oracle_rule {
    const char *name;  /* "sgd", "adam", "test" */
    const char *rules; /* "1.9", "2.0" */
    double learning_rate;
    double momentum;
    double wd;
    double rescale;
    double clip;   /* 0: none */
    bool centered; /* rmsprop */
} kvs_oracle_rule;

/* The i-th rule that the oracle knows, or NULL behind the last. sgld is not among them: its noise
 * is no formula of MXNet's. */
const char *kvs_oracle_name(size_t i);
bool kvs_oracle_in_19(const char *name); /* the line has it */
bool kvs_oracle_in_20(const char *name);

/* The rule as the JSON that a store gets. */
void kvs_oracle_json(const kvs_oracle_rule *rule, char *out, size_t out_bytes);

typedef struct kvs_oracle {
    kvs_oracle_rule rule;
    size_t elements;
    uint64_t t;
    double *w;
    double *state[KVS_ORACLE_STATES];
    double *jump; /* how far a sign that could as well be the other one has moved w */
    double unit;
} kvs_oracle;

/* Starts from the weights `w`; states are zero. `unit`: the rounding unit of what is tested. */
void kvs_oracle_init(kvs_oracle *oracle, const kvs_oracle_rule *rule, const double *w,
                     size_t elements, double unit);
void kvs_oracle_deinit(kvs_oracle *oracle);

/* One update with the summed gradients g. */
void kvs_oracle_update(kvs_oracle *oracle, const double *g);

#endif
