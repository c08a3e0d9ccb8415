/* What optimizers make of an update, as their JSON says it. */
#include "engine/optimizer.h"
#include "tests/support/optimizer_json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void near(double got, double expected)
{
    if (!(fabs(got - expected) <= 1e-12 * fmax(1, fabs(expected)))) {
        fail_msg("%.17g is not %.17g", got, expected);
    }
}

/* Of the numbers of one update. */
static kvs_rule_scalars numbers(const char *json, uint64_t t)
{
    kvs_optimizer *optimizer = parse(json);
    kvs_rule_scalars out;
    kvs_optimizer_scalars(optimizer, (kvs_multipliers){.lr = 1, .wd = 1}, t, &out);
    kvs_optimizer_unref(optimizer);
    return out;
}

static void numbers_choose_the_rule(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int rule;
    } all[] = {
        {"{\"name\": \"nag\"}", KVS_RULE_SGD},
        {"{\"name\": \"nag\", \"rules\": \"2.0\"}", KVS_RULE_NAG},
        {"{\"name\": \"signum\"}", KVS_RULE_SIGNUM},
        {"{\"name\": \"signum\", \"momentum\": 0}", KVS_RULE_SIGNSGD},
        {"{\"name\": \"rmsprop\"}", KVS_RULE_RMSPROP_19},
        {"{\"name\": \"rmsprop\", \"centered\": true, \"rules\": \"2.0\"}",
         KVS_RULE_RMSPROP_CENTERED_20},
        {"{\"name\": \"dcasgd\"}", KVS_RULE_DCASGD_19},
        {"{\"name\": \"dcasgd\", \"momentum\": 0.1, \"rules\": \"2.0\"}",
         KVS_RULE_DCASGD_MOMENTUM_20},
        {"{\"name\": \"adamw\"}", KVS_RULE_ADAMW},
        {"{\"name\": \"adamw\", \"rescale_grad\": 0}", KVS_RULE_KEEP},
        {"{\"name\": \"ftrl\", \"learning_rate\": 0}", KVS_RULE_KEEP},
        {"{\"name\": \"ftml\", \"learning_rate\": 0}", KVS_RULE_KEEP},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_int_equal(numbers(all[i].json, 1).rule, all[i].rule);
    }
}

static void signum_decays_by_itself(void **state)
{
    (void)state;
    near(numbers("{\"name\": \"signum\", \"wd\": 0.5, \"wd_lh\": 0.25}", 1).keep, 1 - 0.01 * 0.25);
    near(numbers("{\"name\": \"signum\", \"wd\": 0.5, \"momentum\": 0}", 1).keep, 1 - 0.01 * 0.5);
    near(numbers("{\"name\": \"signum\", \"wd\": 0.5, \"wd_lh\": 0.25, \"momentum\": 0, "
                 "\"rules\": \"2.0\"}",
                 1)
             .keep,
         1 - 0.01 * 0.75);
}

static void a_bias_is_corrected_unless_told_not_to(void **state)
{
    (void)state;
    near(numbers("{\"name\": \"adamw\"}", 1).lr, 0.001 * sqrt(0.001) / 0.1);
    near(numbers("{\"name\": \"adamw\", \"correct_bias\": false}", 1).lr, 0.001);
    near(numbers("{\"name\": \"adamax\"}", 2).lr, 0.002 / 0.19);
    near(numbers("{\"name\": \"ftml\", \"learning_rate\": 0.5}", 2).factor, (1 - 0.36) / 0.5);
}

/* Against the product written out, also where it is cut short. */
static void nadam_multiplies_the_momenta_since_counting_began(void **state)
{
    (void)state;
    static const uint64_t begins[] = {0, 7, 1000000};
    for (size_t i = 0; i < 3; i++) {
        char json[96];
        uint64_t begin = begins[i];
        (void)snprintf(json, sizeof json, "{\"name\": \"nadam\", \"begin_num_update\": %llu}",
                       (unsigned long long)begin);
        double product = 1;
        for (uint64_t t = 1; t < 1200; t++) {
            double now = 0.9 * (1 - 0.5 * pow(0.96, (double)(begin + t) * 0.004));
            double next = 0.9 * (1 - 0.5 * pow(0.96, (double)(begin + t + 1) * 0.004));
            product *= now;
            kvs_rule_scalars got = numbers(json, t);
            near(got.gradient_part, (1 - now) / (1 - product));
            near(got.mean_part, next / (1 - product * next));
        }
    }
    kvs_rule_scalars late = numbers("{\"name\": \"nadam\"}", UINT64_C(1) << 60);
    near(late.gradient_part, 0.1);
    near(late.mean_part, 0.9);
}

/* Where the momenta come to nearly 1, which leaves no end to wait for. */
static void nadam_takes_no_longer_late_than_early(void **state)
{
    (void)state;
    double product = 1;
    for (uint64_t t = 1; t <= 5000; t++) {
        product *= 0.9999 * (1 - 0.5 * pow(0.96, (double)t));
    }
    kvs_rule_scalars got =
        numbers("{\"name\": \"nadam\", \"beta1\": 0.9999, \"schedule_decay\": 1}", 5000);
    near(got.gradient_part, (1 - 0.9999) / (1 - product));
    near(got.mean_part, 0.9999 / (1 - product * 0.9999));
    kvs_rule_scalars late =
        numbers("{\"name\": \"nadam\", \"beta1\": 0.9999999999999999, \"schedule_decay\": 1}",
                UINT64_C(1) << 60);
    near(late.gradient_part, 1 - 0.9999999999999999);
    near(late.mean_part, 0.9999999999999999);
}

static void sgld_halves_the_rate_and_adds_its_root(void **state)
{
    (void)state;
    kvs_rule_scalars got = numbers("{\"name\": \"sgld\", \"learning_rate\": 0.25, \"seed\": 9}", 3);
    near(got.lr, 0.125);
    near(got.noise, 0.5);
    assert_int_equal(got.seed, 9);
    assert_int_equal(got.count, 3);
    near(numbers("{\"name\": \"sgld\", \"learning_rate\": -1}", 1).noise, 0);
}

static void a_first_update_is_told(void **state)
{
    (void)state;
    near(numbers("{\"name\": \"dcasgd\", \"begin_num_update\": 5}", 1).first, 1);
    near(numbers("{\"name\": \"dcasgd\", \"begin_num_update\": 5}", 2).first, 0);
}

/* Eight gradients, batches of two, a ramp of four from 1 to 2: of the count before each. */
static void lbsgd_uses_what_it_gathers_at_a_growing_rate(void **state)
{
    (void)state;
    static const struct {
        const char *strategy;
        double way[4]; /* of the ramp, at gradient 1 to 4 */
    } all[] = {{"linear", {.25, .5, .75, 1}},
               {"power2", {.0625, .25, .5625, 1}},
               {"sqrt", {.5, 0.70710678118654752, 0.86602540378443865, 1}}};
    for (size_t i = 0; i < 3; i++) {
        char json[256];
        (void)snprintf(json, sizeof json,
                       "{\"name\": \"lbsgd\", \"learning_rate\": 8, \"batch_scale\": 2, "
                       "\"warmup_epochs\": 2, \"updates_per_epoch\": 2, \"warmup_strategy\": "
                       "\"%s\", \"lr_scheduler\": {\"name\": \"factor\", \"step\": 4, "
                       "\"factor\": 0.5}}",
                       all[i].strategy);
        for (uint64_t t = 1; t <= 8; t++) {
            kvs_rule_scalars got = numbers(json, t);
            near(got.due, t % 2 == 0 ? 1 : 0);
            near(got.factor, 2);
            /* The schedule's first step is behind n = 4, so for the gradient after that, 6. */
            near(got.lr, (t <= 5 ? 8 : 4) * (1 + (t < 4 ? all[i].way[t - 1] : 1)));
        }
    }
    near(numbers("{\"name\": \"lbsgd\", \"begin_epoch\": 1, \"batch_scale\": 3, "
                 "\"updates_per_epoch\": 2}",
                 1)
             .due,
         1);
    /* The ramp "lars" comes from norms: the rate is as it is, until they are known. */
    near(numbers("{\"name\": \"lbsgd\", \"warmup_strategy\": \"lars\", \"learning_rate\": 0.5, "
                 "\"batch_scale\": 3}",
                 9)
             .lr,
         0.5);
    refused("{\"name\": \"lbsgd\", \"warmup_strategy\": \"power\", \"batch_scale\": 0}",
            KVS_INVALID_FIELD,
            "/warmup_strategy is unknown: \"power\", did you mean \"power2\"?; "
            "/batch_scale must be between 1 and 2147483647");
}

/* What norms make of the numbers: the sums of squares are those of 3 and 4, and of others. */
static kvs_rule_scalars scaled(const char *json, unsigned stages, const double *squares)
{
    kvs_optimizer *optimizer = parse(json);
    kvs_measure measures[KVS_MEASURES_MAX];
    kvs_rule_scalars out;
    kvs_optimizer_scalars(optimizer, (kvs_multipliers){.lr = 1, .wd = 1}, 1, &out);
    assert_int_equal(
        kvs_optimizer_measures(optimizer, (kvs_multipliers){.lr = 1, .wd = 1}, measures), stages);
    for (unsigned i = 0; i < stages; i++) {
        kvs_optimizer_scale(optimizer, i, squares + (size_t)i * KVS_MEASURE_SUMS_MAX, &out);
    }
    kvs_optimizer_unref(optimizer);
    return out;
}

#define RATE "\"learning_rate\": 0.5"
static void norms_scale_the_rate(void **state)
{
    (void)state;
    const double pair[3] = {9, 16, 0};
    const double nothing[3] = {0, 16, 0};
    const double both[2][3] = {{4, 0, 0}, {9, 16, 36}};
    near(scaled("{\"name\": \"lars\", \"eta\": 0.1, \"wd\": 0.5, \"eps\": 0.5, " RATE "}", 1, pair)
             .lr,
         0.5 * 0.1 * 3 / (4 + 0.5 * 3 + 0.5));
    near(scaled("{\"name\": \"lars\", " RATE "}", 1, nothing).lr, 0.5);
    near(scaled("{\"name\": \"lamb\", " RATE "}", 1, pair).lr, 0.5 * 3 / 4);
    near(scaled("{\"name\": \"lamb\", " RATE "}", 1, nothing).lr, 0.5);
    near(scaled("{\"name\": \"lamb\", \"upper_bound\": 2, " RATE "}", 1, pair).lr, 0.5 * 2 / 4);
    near(scaled("{\"name\": \"lamb\", \"lower_bound\": 8, " RATE "}", 1, pair).lr, 0.5 * 8 / 4);
    near(scaled("{\"name\": \"sgd\", \"clip_norm\": 1, " RATE "}", 1, pair).rescale,
         1 / (3 + 1e-8));
    near(scaled("{\"name\": \"sgd\", \"clip_norm\": 5, " RATE "}", 1, pair).rescale, 1);
    (void)scaled("{\"name\": \"sgd\", \"clip_norm\": 0}", 0, pair);
    kvs_rule_scalars lans = scaled(
        "{\"name\": \"lans\", \"rules\": \"2.0\", \"rescale_grad\": 3, " RATE "}", 2, both[0]);
    near(lans.rescale, 1.5);
    near(lans.mean_part, 0.5 * 0.9 * 3 / 4);
    near(lans.gradient_part, 0.5 * 0.1 * 3 / 6);
    const double warm[3] = {9, 16, 0};
    const double steep[3] = {1, 1e-12, 0};
    near(
        scaled("{\"name\": \"lbsgd\", \"warmup_strategy\": \"lars\", \"wd\": 1, " RATE "}", 1, warm)
            .lr,
        0.5 * sqrt(9.0 / 25));
    near(scaled("{\"name\": \"lbsgd\", \"warmup_strategy\": \"lars\", " RATE "}", 1, steep).lr, 50);
}

static void lars_leaves_some_keys_out(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        unsigned measures;
    } all[] = {{"fc1_weight", 1}, {"fc1_bias", 0}, {"bn.gamma", 0},
               {"beta", 0},       {"bias_", 1},    {"", 1}};
    kvs_optimizer *optimizer = parse("{\"name\": \"lars\"}");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        kvs_measure measures[KVS_MEASURES_MAX];
        kvs_multipliers multipliers =
            kvs_optimizer_multipliers(optimizer, all[i].key, strlen(all[i].key));
        assert_int_equal(kvs_optimizer_measures(optimizer, multipliers, measures), all[i].measures);
    }
    kvs_optimizer_unref(optimizer);
}

static void lars_of_1_9_corrects_its_momentum(void **state)
{
    (void)state;
#define HALVES                                                                                     \
    "\"momentum\": 0.8, \"lr_scheduler\": {\"name\": \"factor\", \"step\": 2, \"factor\": 0.5}"
    near(numbers("{\"name\": \"lars\", " HALVES "}", 1).momentum, 0.8);
    near(numbers("{\"name\": \"lars\", " HALVES "}", 3).momentum, 0.4);
    near(numbers("{\"name\": \"lars\", " HALVES "}", 4).momentum, 0.8);
    near(numbers("{\"name\": \"lars\", \"momentum_correction\": false, " HALVES "}", 3).momentum,
         0.8);
    near(numbers("{\"name\": \"lars\", \"rules\": \"2.0\", " HALVES "}", 3).momentum, 0.8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_choose_the_rule),
        cmocka_unit_test(signum_decays_by_itself),
        cmocka_unit_test(norms_scale_the_rate),
        cmocka_unit_test(lars_leaves_some_keys_out),
        cmocka_unit_test(lars_of_1_9_corrects_its_momentum),
        cmocka_unit_test(a_bias_is_corrected_unless_told_not_to),
        cmocka_unit_test(nadam_multiplies_the_momenta_since_counting_began),
        cmocka_unit_test(nadam_takes_no_longer_late_than_early),
        cmocka_unit_test(sgld_halves_the_rate_and_adds_its_root),
        cmocka_unit_test(a_first_update_is_told),
        cmocka_unit_test(lbsgd_uses_what_it_gathers_at_a_growing_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
