/* An optimizer as data: a name, numbers, a schedule. Never anything that runs.
 *
 * Parsed once from JSON (contract: "The optimizer as data"), immutable afterwards, counted.
 * Names, defaults and formulas: MXNet's, of the 1.9 or the 2.0 line as "rules" says.
 *
 * Threads: any (immutable; the count is atomic).
 * Memory: parse gives one reference; take adds one, unref gives one back.
 */
#ifndef KVS_ENGINE_OPTIMIZER_H
#define KVS_ENGINE_OPTIMIZER_H

#include "base/status.h"
#include "engine/rules.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvs_optimizer kvs_optimizer;

/* Reads JSON text. Errors: KVS_INVALID_FIELD; the detail names each bad field as a JSON pointer,
 * and for an unknown one what may have been meant. KVS_INVALID_FRAME for text that is no JSON,
 * KVS_TOO_LARGE, KVS_NO_MEMORY. KVS_UNIMPLEMENTED for a rule that is not built yet. */
kvs_status kvs_optimizer_parse(const char *json, size_t json_bytes, kvs_optimizer **out,
                               kvs_problem *problem) KVS_MUST_CHECK;

kvs_optimizer *kvs_optimizer_take(kvs_optimizer *optimizer);
void kvs_optimizer_unref(kvs_optimizer *optimizer); /* accepts NULL */

/* The canonical JSON text: every field with its value, in a fixed order. Borrowed. */
const char *kvs_optimizer_json(const kvs_optimizer *optimizer);

const char *kvs_optimizer_name(const kvs_optimizer *optimizer); /* "sgd" */

/* The arithmetic: kvs_rule of engine/rules.h. */
int kvs_optimizer_rule(const kvs_optimizer *optimizer);

bool kvs_optimizer_equal(const kvs_optimizer *a, const kvs_optimizer *b);

/* True when states of `a` keep their meaning under `b`: the same rule, the same state arrays. */
bool kvs_optimizer_keeps_states(const kvs_optimizer *a, const kvs_optimizer *b);

/* Does it keep a master of f32 for weights of f16 and bf16? */
bool kvs_optimizer_multi_precision(const kvs_optimizer *optimizer);

/* How many state arrays the rule keeps: 0 to KVS_RULE_STATES_MAX. All start at zero. */
uint32_t kvs_optimizer_states(const kvs_optimizer *optimizer);
/* Are they of one number a row, not of the weight's length? */
bool kvs_optimizer_by_row(const kvs_optimizer *optimizer);

/* What the state arrays of a kvs_rule are called, in torch's words where torch has the rule:
 * "exp_avg". NULL for a state that the rule does not have. */
const char *kvs_rule_state_name(int rule, unsigned state);

/* True when an update of a row_sparse value touches the rows of its gradient only: lazy_update, and
 * rules that MXNet always applies so. Else rows without a gradient are updated by a zero one. */
bool kvs_optimizer_is_lazy(const kvs_optimizer *optimizer);

/* lr_mult and wd_mult of a key, looked up once when the key meets the optimizer. */
typedef struct kvs_multipliers {
    double lr;
    double wd;
    bool plain; /* the key is updated without the rule's own norms */
} kvs_multipliers;
kvs_multipliers kvs_optimizer_multipliers(const kvs_optimizer *optimizer, const char *key,
                                          size_t key_bytes);

/* The numbers of the rule for update `t` of a key (the first is 1): schedule, bias corrections and
 * multipliers, computed in double on the host and rounded to f32 once. Allocates nothing. */
void kvs_optimizer_scalars(const kvs_optimizer *optimizer, kvs_multipliers multipliers, uint64_t t,
                           kvs_rule_scalars *out);

/* What is to be measured over the whole value before an update of the key, in this order: how
 * many, at most KVS_MEASURES_MAX; 0: nothing. */
#define KVS_MEASURES_MAX 3u
unsigned kvs_optimizer_measures(const kvs_optimizer *optimizer, kvs_multipliers multipliers,
                                kvs_measure out[KVS_MEASURES_MAX]);
/* Adds to the numbers what the sums of squares of measure `stage` (from 0) make of them; those of
 * the stages before it are there already. */
void kvs_optimizer_scale(const kvs_optimizer *optimizer, unsigned stage, const double *squares,
                         kvs_rule_scalars *out);

#endif
