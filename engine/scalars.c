#include "engine/scalars.h"

#include "engine/learning_rate.h"

#include <math.h>
#include <stdbool.h>

void kvs_scalars_momentum(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    (void)t;
    out->momentum = hyper[KVS_HYPER_MOMENTUM];
    out->momentum_rest = 1 - out->momentum;
    out->lambda = hyper[KVS_HYPER_LAMBDA];
}

/* Without momentum all of the decay is in `keep`: that of 1.9 is wd, to which 2.0 adds wd_lh, which
 * is 0 in 1.9. */
void kvs_scalars_signum(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    kvs_scalars_momentum(hyper, begin, t, out);
    double decay = hyper[KVS_HYPER_WD_LH] + (out->rule == KVS_RULE_SIGNSGD ? out->wd : 0);
    out->keep = 1 - out->lr * decay;
}

/* The ramp of lbsgd after n gradients: from 1 to batch_scale. */
static double warmup_of(const double *hyper, uint64_t n)
{
    double scale = hyper[KVS_HYPER_BATCH_SCALE];
    double last = hyper[KVS_HYPER_WARMUP_EPOCHS] * hyper[KVS_HYPER_UPDATES_PER_EPOCH];
    double way = (double)n / last;
    if ((double)n >= last) {
        return scale;
    }
    if (last <= 1) {
        return 1;
    }
    if (hyper[KVS_HYPER_WARMUP_STRATEGY] == KVS_WARMUP_POWER2) {
        way = way * way;
    } else if (hyper[KVS_HYPER_WARMUP_STRATEGY] == KVS_WARMUP_SQRT) {
        way = sqrt(way);
    }
    return 1 + (scale - 1) * way;
}

void kvs_scalars_lbsgd(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    uint64_t before =
        (uint64_t)hyper[KVS_HYPER_BEGIN_EPOCH] * (uint64_t)hyper[KVS_HYPER_UPDATES_PER_EPOCH];
    uint64_t n = before + t - begin;
    kvs_scalars_momentum(hyper, begin, t, out);
    out->factor = hyper[KVS_HYPER_BATCH_SCALE];
    out->due = n % (uint64_t)hyper[KVS_HYPER_BATCH_SCALE] == 0 ? 1 : 0;
    if (hyper[KVS_HYPER_WARMUP_STRATEGY] != KVS_WARMUP_LARS) { /* else kvs_scale_lbsgd */
        out->lr = out->lr * warmup_of(hyper, n);
    }
}

void kvs_scalars_beta(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    out->beta1 = hyper[KVS_HYPER_BETA1];
    out->beta1_rest = 1 - out->beta1;
    out->beta2 = hyper[KVS_HYPER_BETA2];
    out->beta2_rest = 1 - out->beta2;
    out->epsilon = hyper[KVS_HYPER_EPSILON];
    out->correction2 = 1 - kvs_power(out->beta2, t);
}

void kvs_scalars_adam(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    kvs_scalars_beta(hyper, begin, t, out);
    out->lr = out->lr * sqrt(out->correction2) / (1 - kvs_power(out->beta1, t));
}

/* MXNet 2.0 skips an update that is scaled by 0. */
void kvs_scalars_corrected(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    if (hyper[KVS_HYPER_CORRECT_BIAS] != 0) {
        kvs_scalars_adam(hyper, begin, t, out);
    } else {
        kvs_scalars_beta(hyper, begin, t, out);
    }
    if (out->rule == KVS_RULE_ADAMW && out->rescale == 0) {
        out->rule = KVS_RULE_KEEP;
    }
}

void kvs_scalars_adamax(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    kvs_scalars_beta(hyper, begin, t, out);
    out->epsilon = 1e-8;
    out->lr = out->lr / (1 - kvs_power(out->beta1, t));
}

/* The momentum of update n is beta1 (1 - 0.96^(n decay) / 2). MXNet keeps one product of momenta
 * for all keys; here it is the key's own. Below 2^-60 the product is lost beside 1, so what follows
 * need not be multiplied; and once 0.96^(n decay) is lost beside 1, all momenta are beta1. So there
 * are some 400 factors at beta1 = 0.9 and never more than a few thousand, whatever t. */
void kvs_scalars_nadam(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    kvs_scalars_beta(hyper, begin, t, out);
    double step = pow(0.96, hyper[KVS_HYPER_SCHEDULE_DECAY]);
    double power = kvs_power(step, begin + 1);
    double product = 1;
    for (uint64_t n = begin + 1; n <= t && product > 0x1p-60; n++) {
        if (power < 0x1p-60) {
            product *= kvs_power(out->beta1, t - n + 1);
            break;
        }
        product *= out->beta1 * (1 - 0.5 * power);
        power *= step;
    }
    double last = kvs_power(step, t);
    double momentum = out->beta1 * (1 - 0.5 * last);
    double next = out->beta1 * (1 - 0.5 * last * step);
    out->gradient_part = (1 - momentum) / (1 - product);
    out->mean_part = next / (1 - product * next);
}

void kvs_scalars_rho(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    kvs_scalars_momentum(hyper, begin, t, out);
    out->beta1 = out->beta2 = hyper[KVS_HYPER_RHO];
    out->beta1_rest = out->beta2_rest = 1 - hyper[KVS_HYPER_RHO];
    out->epsilon = hyper[KVS_HYPER_EPSILON];
    out->bound = hyper[KVS_HYPER_CLIP_WEIGHTS];
}

/* The formulas of ftrl and ftml divide by the rate: with one of 0 nothing moves. */
static void keep_at_rate_zero(kvs_rule_scalars *out)
{
    if (out->lr == 0) {
        out->rule = KVS_RULE_KEEP;
    }
}

void kvs_scalars_ftrl(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    (void)t;
    out->lambda = hyper[KVS_HYPER_LAMBDA];
    out->beta = hyper[KVS_HYPER_BETA];
    keep_at_rate_zero(out);
}

void kvs_scalars_ftml(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    kvs_scalars_beta(hyper, begin, t, out);
    out->factor = (1 - kvs_power(out->beta1, t)) / out->lr;
    keep_at_rate_zero(out);
}

void kvs_scalars_sgld(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    (void)begin;
    out->seed = (uint64_t)hyper[KVS_HYPER_SEED];
    out->count = t;
    out->noise = out->lr > 0 ? sqrt(out->lr) : 0;
    out->lr = out->lr / 2;
}

/* ------------------------------------------------------------------ norms */

void kvs_scale_clip(double most, const double *squares, kvs_rule_scalars *out)
{
    double scale = most / (sqrt(squares[0]) + 1e-8);
    out->rescale *= scale < 1 ? scale : 1;
}

void kvs_scale_lars(const double *hyper, unsigned stage, const double *squares,
                    kvs_rule_scalars *out)
{
    (void)stage;
    double weight = sqrt(squares[0]);
    double gradient = sqrt(squares[1]);
    if (weight > 0 && gradient > 0) {
        double whole = gradient + out->wd * weight + hyper[KVS_HYPER_EPSILON];
        out->lr *= hyper[KVS_HYPER_ETA] * weight / whole;
    }
}

void kvs_scale_lbsgd(const double *hyper, unsigned stage, const double *squares,
                     kvs_rule_scalars *out)
{
    (void)hyper;
    (void)stage;
    double ratio = sqrt(squares[0] / (squares[1] + out->wd * squares[0] + 1e-18));
    out->lr *= fmin(fmax(ratio, .01), 100);
}

void kvs_scalars_lamb(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    bool corrected = hyper[KVS_HYPER_CORRECT_BIAS] != 0;
    kvs_scalars_beta(hyper, begin, t, out);
    out->factor = corrected ? 1 - kvs_power(out->beta1, t) : 1;
    out->correction2 = corrected ? out->correction2 : 1;
}

void kvs_scalars_lans(const double *hyper, uint64_t begin, uint64_t t, kvs_rule_scalars *out)
{
    kvs_scalars_beta(hyper, begin, t, out);
    out->factor = 1 - kvs_power(out->beta1, t);
}

/* What is left of a way of norm `way` when it is made as long as the weight: 1 if either is 0. */
static double trust(const double *hyper, double weight, double way)
{
    weight = fmax(weight, hyper[KVS_HYPER_LOWER_BOUND]);
    weight = fmin(weight, hyper[KVS_HYPER_UPPER_BOUND]);
    return weight == 0 || way == 0 ? 1 : weight / way;
}

void kvs_scale_lamb(const double *hyper, unsigned stage, const double *squares,
                    kvs_rule_scalars *out)
{
    (void)stage;
    out->lr *= trust(hyper, sqrt(squares[0]), sqrt(squares[1]));
}

void kvs_scale_lans(const double *hyper, unsigned stage, const double *squares,
                    kvs_rule_scalars *out)
{
    if (stage == 0) {
        out->rescale /= squares[0] > 0 ? sqrt(squares[0]) : 1;
        return;
    }
    double weight = sqrt(squares[0]);
    out->mean_part = out->lr * out->beta1 * trust(hyper, weight, sqrt(squares[1]));
    out->gradient_part = out->lr * out->beta1_rest * trust(hyper, weight, sqrt(squares[2]));
}
