/* The arithmetic of every rule, once, for C17, C++17 and CUDA.
 *
 * Elementwise, in f32 (f64 for f64 weights), with plain + - * / and square root, each rounded
 * once: every side is compiled without contraction (-ffp-contract=off, -fmad=false), so scalar
 * code, AVX2, AVX-512 and CUDA give the same bits. The steps themselves are in rule_steps.inc,
 * which this header includes once for each real type, and what rules with norms measure is in
 * rule_norms.inc; what sgld adds is in rule_noise.inc.
 *
 * A backend rounds the scalars once a batch (kvs_numbers_f32 n = kvs_round_f32(&scalars)) and
 * calls, for every element, the step of the rule's row in KVS_RULES.
 *
 * Threads: any; pure functions of their arguments. Memory: none.
 */
#ifndef KVS_ENGINE_RULES_H
#define KVS_ENGINE_RULES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* X(enumerator, step, states): one row a rule. `step` names kvs_step_<step>_f32 and _f64.
 * 19 and 20 are the lines of MXNet (1.9, 2.0) where their formulas differ. */
#define KVS_RULES(X)                                                                               \
    X(KEEP, keep, 0)                                                                               \
    X(SGD, sgd, 0)                                                                                 \
    X(SGD_MOMENTUM, sgd_momentum, 1)                                                               \
    X(NAG, nag, 1)                                                                                 \
    X(DILOCO, diloco, 1)                                                                           \
    X(LBSGD, lbsgd, 1)                                                                             \
    X(LBSGD_MOMENTUM, lbsgd_momentum, 2)                                                           \
    X(SIGNSGD, signsgd, 0)                                                                         \
    X(SIGNUM, signum, 1)                                                                           \
    X(LION, lion, 1)                                                                               \
    X(FTML_19, ftml_19, 3)                                                                         \
    X(FTML_20, ftml_20, 3)                                                                         \
    X(FTRL, ftrl, 2)                                                                               \
    X(ADAM_19, adam_19, 2)                                                                         \
    X(ADAM_20, adam_20, 2)                                                                         \
    X(ADAMW, adamw, 2)                                                                             \
    X(ADABELIEF, adabelief, 2)                                                                     \
    X(ADAMAX_19, adamax_19, 2)                                                                     \
    X(ADAMAX_20, adamax_20, 2)                                                                     \
    X(NADAM_19, nadam_19, 2)                                                                       \
    X(NADAM_20, nadam_20, 2)                                                                       \
    X(ADAGRAD_19, adagrad_19, 1)                                                                   \
    X(ADAGRAD_20, adagrad_20, 1)                                                                   \
    X(GROUPADAGRAD_19, groupadagrad_19, 0)                                                         \
    X(GROUPADAGRAD_20, groupadagrad_20, 0)                                                         \
    X(ADADELTA_19, adadelta_19, 2)                                                                 \
    X(ADADELTA_20, adadelta_20, 2)                                                                 \
    X(RMSPROP_19, rmsprop_19, 1)                                                                   \
    X(RMSPROP_20, rmsprop_20, 1)                                                                   \
    X(RMSPROP_CENTERED_19, rmsprop_centered_19, 3)                                                 \
    X(RMSPROP_CENTERED_20, rmsprop_centered_20, 3)                                                 \
    X(DCASGD_19, dcasgd_19, 1)                                                                     \
    X(DCASGD_20, dcasgd_20, 1)                                                                     \
    X(DCASGD_MOMENTUM_19, dcasgd_momentum_19, 2)                                                   \
    X(DCASGD_MOMENTUM_20, dcasgd_momentum_20, 2)                                                   \
    X(SGLD, sgld, 0)                                                                               \
    X(LAMB, lamb, 2)                                                                               \
    X(LANS, lans, 2)                                                                               \
    X(TEST_19, test_19, 1)                                                                         \
    X(TEST_20, test_20, 0)

/* State arrays of one rule, at most. */
#define KVS_RULE_STATES_MAX 3

/* X(enumerator, terms, sums, weight, states): what is squared and summed over a whole value before
 * a rule that needs norms can be applied. `terms` names kvs_terms_<terms>_f32 and _f64, which make
 * `sums` terms of an element and change nothing; they read the weight if `weight` is 1, and the
 * first `states` of the states. */
#define KVS_MEASURES(X)                                                                            \
    X(GRADIENT, gradient, 1, 0, 0)                                                                 \
    X(LARS, lars, 2, 1, 0)                                                                         \
    X(ROW, row, 1, 0, 0)                                                                           \
    X(LBSGD, lbsgd, 2, 1, 1)                                                                       \
    X(LAMB, lamb, 2, 1, 2)                                                                         \
    X(LANS, lans, 3, 1, 2)

/* Sums of one measure, at most. */
#define KVS_MEASURE_SUMS_MAX 3

typedef enum kvs_measure {
#define KVS_MEASURE_ENUM(name, terms, sums, weight, states) KVS_MEASURE_##name,
    KVS_MEASURES(KVS_MEASURE_ENUM)
#undef KVS_MEASURE_ENUM
        KVS_MEASURE_COUNT
} kvs_measure;

/* How a sum over a part is made, the same everywhere: in blocks of so many elements, of which
 * element i is added in f64 to lane i mod KVS_MEASURE_LANES; then ((0 + 1) + (2 + 3)) + ((4 + 5) +
 * (6 + 7)) of the lanes, and the blocks in order. */
#define KVS_MEASURE_BLOCK 4096u
#define KVS_MEASURE_LANES 8u

typedef enum kvs_rule {
#define KVS_RULE_ENUM(name, step, states) KVS_RULE_##name,
    KVS_RULES(KVS_RULE_ENUM)
#undef KVS_RULE_ENUM
        KVS_RULE_COUNT
} kvs_rule;

/* The numbers of a rule: X(name). One place, for they are doubles on the host and are
 * rounded once to the type of the arithmetic. What a rule does not read may be anything.
 *   rescale      rescale_grad
 *   clip, bound  largest absolute value of a gradient, of a new weight; INFINITY: none
 *   wd           weight decay, multiplier included
 *   lr           step size: schedule and multiplier, and bias corrections where a rule says so
 *   momentum     and momentum_rest = 1 - momentum; likewise both betas
 *   correction2  1 - beta2^t; factor is 1 - beta1^t where a rule divides by both
 *   keep         what is left of a weight that decays by itself
 *   mean_part, gradient_part  weights of two summands, norms included where a rule has them
 *   factor       of a denominator; of a rule with a number a row, that number
 *   lambda, beta what the formula calls so
 *   first        1 at a part's first update by the rule, else 0
 *   due          1 where a gradient that is gathered is also used, else 0
 *   noise        standard deviation */
#define KVS_RULE_NUMBERS(X)                                                                        \
    X(rescale)                                                                                     \
    X(clip)                                                                                        \
    X(bound)                                                                                       \
    X(wd)                                                                                          \
    X(lr)                                                                                          \
    X(momentum)                                                                                    \
    X(momentum_rest)                                                                               \
    X(beta1)                                                                                       \
    X(beta1_rest)                                                                                  \
    X(beta2)                                                                                       \
    X(beta2_rest)                                                                                  \
    X(correction2)                                                                                 \
    X(epsilon)                                                                                     \
    X(keep)                                                                                        \
    X(mean_part)                                                                                   \
    X(gradient_part)                                                                               \
    X(factor)                                                                                      \
    X(lambda)                                                                                      \
    X(beta)                                                                                        \
    X(first)                                                                                       \
    X(due)                                                                                         \
    X(noise)

/* The numbers of one rule for one update, computed on the host in double. Plain data. */
typedef struct kvs_rule_scalars {
    int rule; /* kvs_rule */
#define KVS_RULE_DOUBLE(name) double name;
    KVS_RULE_NUMBERS(KVS_RULE_DOUBLE)
#undef KVS_RULE_DOUBLE
    uint64_t seed;    /* of noise: the rule's and the key's */
    uint64_t count;   /* of noise: the key's updates, this one included */
    uint64_t element; /* the first element's place in its key */
} kvs_rule_scalars;

#if defined(__CUDACC__)
#define KVS_HOST_DEVICE static __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define KVS_HOST_DEVICE static inline __attribute__((always_inline, unused))
#else
#define KVS_HOST_DEVICE static inline
#endif
#if defined(__GNUC__)
#define KVS_UNUSED __attribute__((unused))
#else
#define KVS_UNUSED
#endif

/* How many state arrays a rule has; all start at zero. 0 for a number that is no rule. A switch, of
 * which compilers make a table: a row_sparse value asks for every row. */
KVS_HOST_DEVICE unsigned kvs_rule_states(int rule)
{
    switch (rule) {
#define KVS_RULE_STATES(name, step, count)                                                         \
    case KVS_RULE_##name:                                                                          \
        return (count);
        KVS_RULES(KVS_RULE_STATES)
#undef KVS_RULE_STATES
    default:
        return 0;
    }
}

/* How many states of one number a row a rule has beside those; they start at zero, too, and are
 * state[0] and up of an apply item. A backend takes such a rule row by row: kvs_row_state makes the
 * number from the row's gradient, and the step reads it as `factor`. */
KVS_HOST_DEVICE unsigned kvs_rule_row_states(int rule)
{
    return rule == KVS_RULE_GROUPADAGRAD_19 || rule == KVS_RULE_GROUPADAGRAD_20 ? 1 : 0;
}

/* What a measure has: so many sums, and what it reads: the weight (1) or not, the first states. */
typedef struct kvs_measure_form {
    unsigned sums, weight, states;
} kvs_measure_form;

KVS_HOST_DEVICE kvs_measure_form kvs_measure_form_of(int measure)
{
    kvs_measure_form form = {0, 0, 0};
#define KVS_MEASURE_FORM(name, terms, sums, weight, states)                                        \
    if (measure == KVS_MEASURE_##name) {                                                           \
        kvs_measure_form is = {sums, weight, states};                                              \
        form = is;                                                                                 \
    }
    KVS_MEASURES(KVS_MEASURE_FORM)
#undef KVS_MEASURE_FORM
    return form;
}

/* The sum of a block from its lanes. */
KVS_HOST_DEVICE double kvs_measure_block(const double *lanes)
{
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

#include "engine/rule_noise.inc"

#define KVS_REAL float
#define KVS_REAL_NAME(name) name##_f32
#define KVS_REAL_SQRT sqrtf
#define KVS_REAL_ABS fabsf
#include "engine/rule_steps.inc"

#include "engine/rule_norms.inc"
#undef KVS_REAL
#undef KVS_REAL_NAME
#undef KVS_REAL_SQRT
#undef KVS_REAL_ABS

#define KVS_REAL double
#define KVS_REAL_NAME(name) name##_f64
#define KVS_REAL_SQRT sqrt
#define KVS_REAL_ABS fabs
#include "engine/rule_steps.inc"

#include "engine/rule_norms.inc"
#undef KVS_REAL
#undef KVS_REAL_NAME
#undef KVS_REAL_SQRT
#undef KVS_REAL_ABS

#endif
