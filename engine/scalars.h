/* What the numbers of an optimizer make of one update: bias corrections and the like, in double.
 *
 * Threads: any; pure functions. Memory: allocates nothing.
 */
#ifndef KVS_ENGINE_SCALARS_H
#define KVS_ENGINE_SCALARS_H

#include "engine/rules.h"

#include <stdint.h>

/* The numbers that some family has; a truth is 0 or 1. */
typedef enum kvs_hyper {
    KVS_HYPER_MOMENTUM,
    KVS_HYPER_BETA1,
    KVS_HYPER_BETA2,
    KVS_HYPER_EPSILON,
    KVS_HYPER_RHO,
    KVS_HYPER_WD_LH,
    KVS_HYPER_LAMBDA,
    KVS_HYPER_BETA,
    KVS_HYPER_SCHEDULE_DECAY,
    KVS_HYPER_CLIP_WEIGHTS,
    KVS_HYPER_CENTERED,
    KVS_HYPER_CORRECT_BIAS,
    KVS_HYPER_SEED,
    KVS_HYPER_WARMUP_STRATEGY, /* a kvs_warmup */
    KVS_HYPER_WARMUP_EPOCHS,
    KVS_HYPER_BATCH_SCALE,
    KVS_HYPER_UPDATES_PER_EPOCH,
    KVS_HYPER_BEGIN_EPOCH,
    KVS_HYPER_NUM_EPOCHS,
    KVS_HYPER_ETA,
    KVS_HYPER_MOMENTUM_CORRECTION,
    KVS_HYPER_LOWER_BOUND,
    KVS_HYPER_UPPER_BOUND,
    KVS_HYPER_COUNT
} kvs_hyper;

/* The ramps of lbsgd's warm-up. */
typedef enum kvs_warmup {
    KVS_WARMUP_LINEAR,
    KVS_WARMUP_POWER2,
    KVS_WARMUP_SQRT,
    KVS_WARMUP_LARS,
    KVS_WARMUP_COUNT
} kvs_warmup;

/* Adds what a family of rules needs for update `t` of a key, whose count began at `begin`. In
 * `out`, rule, rescale, clip, wd and lr (schedule and multiplier included) are there already. */
typedef void kvs_scalars_function(const double *hyper, uint64_t begin, uint64_t t,
                                  kvs_rule_scalars *out);

/* Adds what the sums of squares of a family's `stage`-th measure (from 0) make of the numbers:
 * before the first of them lr and rescale are as if there were no norms. */
typedef void kvs_scale_function(const double *hyper, unsigned stage, const double *squares,
                                kvs_rule_scalars *out);

kvs_scale_function kvs_scale_lars;
kvs_scale_function kvs_scale_lbsgd;
kvs_scale_function kvs_scale_lamb;
kvs_scale_function kvs_scale_lans;

/* A clip by norm: rescale becomes so much smaller that |s g| is `most` at most. */
void kvs_scale_clip(double most, const double *squares, kvs_rule_scalars *out);

kvs_scalars_function kvs_scalars_momentum;
kvs_scalars_function kvs_scalars_signum;
kvs_scalars_function kvs_scalars_lbsgd;
kvs_scalars_function kvs_scalars_adam;
kvs_scalars_function kvs_scalars_corrected;
kvs_scalars_function kvs_scalars_lamb;
kvs_scalars_function kvs_scalars_lans;
kvs_scalars_function kvs_scalars_adamax;
kvs_scalars_function kvs_scalars_nadam;
kvs_scalars_function kvs_scalars_rho;
kvs_scalars_function kvs_scalars_ftrl;
kvs_scalars_function kvs_scalars_ftml;
kvs_scalars_function kvs_scalars_sgld;
kvs_scalars_function kvs_scalars_beta;

#endif
