/* The arithmetic of every rule, once, for C17, C++17 and CUDA.
 *
 * Elementwise, in f32 (f64 for f64 weights), with plain + - * / and square root, each rounded
 * once: every side is compiled without contraction (-ffp-contract=off, -fmad=false), so scalar
 * code, AVX2, AVX-512 and CUDA give the same bits. The steps themselves are in rule_steps.inc,
 * which this header includes once for each real type.
 *
 * A backend rounds the scalars once a batch (kvs_numbers_f32 n = kvs_round_f32(&scalars)) and
 * calls, for every element, the step of the rule's row in KVS_RULES.
 *
 * Threads: any; pure functions of their arguments. Memory: none.
 */
#ifndef KVS_ENGINE_RULES_H
#define KVS_ENGINE_RULES_H

#include <math.h>

/* X(enumerator, step, states): one row a rule. `step` names kvs_step_<step>_f32 and _f64.
 * 19 and 20 are the lines of MXNet (1.9, 2.0) where their formulas differ. */
#define KVS_RULES(X)                                                                               \
    X(SGD, sgd, 0)                                                                                 \
    X(SGD_MOMENTUM, sgd_momentum, 1)                                                               \
    X(ADAM_19, adam_19, 2)                                                                         \
    X(ADAM_20, adam_20, 2)                                                                         \
    X(TEST_19, test_19, 1)                                                                         \
    X(TEST_20, test_20, 0)

/* State arrays of one rule, at most. */
#define KVS_RULE_STATES_MAX 2

typedef enum kvs_rule {
#define KVS_RULE_ENUM(name, step, states) KVS_RULE_##name,
    KVS_RULES(KVS_RULE_ENUM)
#undef KVS_RULE_ENUM
        KVS_RULE_COUNT
} kvs_rule;

/* The numbers of one rule for one update, computed on the host in double. Plain data; what a rule
 * does not read is 0. */
typedef struct kvs_rule_scalars {
    int rule;       /* kvs_rule */
    double rescale; /* rescale_grad */
    double clip;    /* bound of the rescaled gradient; INFINITY: none */
    double wd;      /* weight decay, multiplier included */
    double lr;      /* step size: schedule, multiplier and bias corrections included */
    double momentum;
    double beta1;
    double beta1_rest; /* 1 - beta1 */
    double beta2;
    double beta2_rest; /* 1 - beta2 */
    double epsilon;
} kvs_rule_scalars;

#if defined(__CUDACC__)
#define KVS_HOST_DEVICE static __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define KVS_HOST_DEVICE static inline __attribute__((always_inline, unused))
#else
#define KVS_HOST_DEVICE static inline
#endif

/* How many state arrays a rule has; all start at zero. 0 for a number that is no rule. */
KVS_HOST_DEVICE unsigned kvs_rule_states(int rule)
{
    unsigned states = 0;
#define KVS_RULE_STATES(name, step, count) states = rule == KVS_RULE_##name ? (count) : states;
    KVS_RULES(KVS_RULE_STATES)
#undef KVS_RULE_STATES
    return states;
}

#define KVS_REAL float
#define KVS_REAL_NAME(name) name##_f32
#define KVS_REAL_SQRT sqrtf
#include "engine/rule_steps.inc"
#undef KVS_REAL
#undef KVS_REAL_NAME
#undef KVS_REAL_SQRT

#define KVS_REAL double
#define KVS_REAL_NAME(name) name##_f64
#define KVS_REAL_SQRT sqrt
#include "engine/rule_steps.inc"
#undef KVS_REAL
#undef KVS_REAL_NAME
#undef KVS_REAL_SQRT

#endif
