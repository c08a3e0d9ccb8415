#include "engine/rules.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Numbers that are exact in f32, so that results can be compared with ==. */
static kvs_rule_scalars simple(int rule)
{
    return (kvs_rule_scalars){
        .rule = rule,
        .rescale = 0.5,
        .clip = INFINITY,
        .wd = 0.25,
        .lr = 0.5,
        .momentum = 0.5,
        .beta1 = 0.5,
        .beta1_rest = 0.5,
        .beta2 = 0.75,
        .beta2_rest = 0.25,
    };
}

static void states_of_every_rule_are_known(void **state)
{
    (void)state;
    assert_int_equal(kvs_rule_states(KVS_RULE_SGD), 0);
    assert_int_equal(kvs_rule_states(KVS_RULE_SGD_MOMENTUM), 1);
    assert_int_equal(kvs_rule_states(KVS_RULE_ADAM_19), 2);
    assert_int_equal(kvs_rule_states(KVS_RULE_ADAM_20), 2);
    assert_int_equal(kvs_rule_states(KVS_RULE_TEST_19), 1);
    assert_int_equal(kvs_rule_states(KVS_RULE_TEST_20), 0);
    assert_int_equal(kvs_rule_states(KVS_RULE_COUNT), 0);
}

static void sgd_steps_against_the_gradient_and_the_decay(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_SGD);
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    assert_true(kvs_step_sgd_f32(&n, 4, 2, NULL, 0) == 4 - 0.5f * (0.5f * 2 + 0.25f * 4));
}

static void momentum_keeps_half_of_the_last_step(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_SGD_MOMENTUM);
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float m = 0;
    float w = kvs_step_sgd_momentum_f32(&n, 4, 2, &m, 0);
    assert_true(m == -1);
    assert_true(w == 3);
    w = kvs_step_sgd_momentum_f32(&n, w, 2, &m, 0);
    assert_true(m == -0.5f - 0.5f * (1 + 0.75f));
    assert_true(w == 3 + m);
}

static void adam_clips_the_decay_only_in_1_9(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_ADAM_19);
    scalars.clip = 1;
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float old[2] = {0, 0};
    float new[2] = {0, 0};
    /* s g = 2, clipped to 1; lambda w = 1. G is 1 in 1.9, 2 in 2.0. */
    (void)kvs_step_adam_19_f32(&n, 4, 4, old, 0);
    (void)kvs_step_adam_20_f32(&n, 4, 4, new, 0);
    assert_true(old[0] == 0.5f);
    assert_true(old[1] == 0.25f);
    assert_true(new[0] == 1);
    assert_true(new[1] == 1);
}

static void adam_divides_by_the_root_and_epsilon(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_ADAM_20);
    scalars.wd = 0;
    scalars.epsilon = 0.5;
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float mean[2] = {0, 0};
    /* G = 2, m = 1, v = 1: 4 - .5 * 1 / (1 + .5) */
    assert_true(kvs_step_adam_20_f32(&n, 4, 4, mean, 0) == 4 - 0.5f / 1.5f);
}

static void test_adds_in_1_9_and_steps_down_in_2_0(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_TEST_19);
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float copy = 0;
    assert_true(kvs_step_test_19_f32(&n, 4, 2, &copy, 0) == 5);
    assert_true(copy == 5);
    assert_true(kvs_step_test_20_f32(&n, 4, 2, NULL, 0) == 4 - 0.5f * (1 + 1));
}

static void nothing_moves_where_a_rule_would_divide_by_nothing(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_ADAMAX_19);
    scalars.wd = 0;
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float means[3] = {0, 0, 0};
    assert_true(kvs_step_adamax_19_f32(&n, 4, 0, means, 0) == 4);
    assert_true(kvs_step_keep_f32(&n, 4, NAN, NULL, 0) == 4);
    /* v - a^2 is below 0 by a rounding: the root is that of epsilon. */
    scalars.beta1_rest = scalars.beta2_rest = 0;
    scalars.beta1 = scalars.beta2 = 1;
    scalars.momentum = 0;
    scalars.epsilon = 0.25;
    scalars.bound = INFINITY;
    n = kvs_round_f32(&scalars);
    means[0] = 1 - 0x1p-24f;
    means[1] = 1;
    assert_true(kvs_step_rmsprop_centered_20_f32(&n, 4, 2, means, 0) == 3);
}

static void new_weights_are_clipped_where_asked(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_RMSPROP_20);
    scalars.wd = 0;
    scalars.bound = 2;
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float means[3] = {0, 0, 0};
    assert_true(kvs_step_rmsprop_20_f32(&n, 9, 1, means, 0) == 2);
    assert_true(kvs_step_rmsprop_19_f32(&n, -9, 1, means, 0) == -2);
}

/* The known answers that come with the generator's paper. */
static void random_bits_are_those_of_philox(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, low, high;
        uint32_t words[4];
    } all[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {UINT64_C(0x299f31d0a4093822),
         UINT64_C(0x85a308d3243f6a88),
         UINT64_C(0x0370734413198a2e),
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        kvs_noise_words words = kvs_noise_bits(all[i].seed, all[i].low, all[i].high);
        assert_memory_equal(words.at, all[i].words, sizeof words.at);
    }
}

static void logarithm_and_cosine_are_near_those_of_libm(void **state)
{
    (void)state;
    for (int i = 1; i <= 100000; i++) {
        double u = i / 100000.0;
        double x = i % 2 == 0 ? u : ldexp(u, -(i % 53));
        assert_true(fabs(kvs_noise_log(x) - log(x)) <= 4e-16 * fmax(1, -log(x)));
        assert_true(fabs(kvs_noise_cos(u) - cos(2 * 3.14159265358979323846 * u)) <= 2e-15);
    }
    assert_true(kvs_noise_log(1) == 0);
}

/* Mean, variance and the shares within one and two deviations, of 10^6 samples: within five
 * standard errors. */
static void noise_is_normal(void **state)
{
    (void)state;
    enum { SAMPLES = 1000000 };
    double sum = 0;
    double squares = 0;
    double fourths = 0;
    uint32_t within[2] = {0, 0};
    for (uint64_t i = 0; i < SAMPLES; i++) {
        double x = kvs_noise_normal(7, i % 1000, i / 1000);
        sum += x;
        squares += x * x;
        fourths += x * x * x * x;
        within[0] += fabs(x) < 1 ? 1u : 0u;
        within[1] += fabs(x) < 2 ? 1u : 0u;
    }
    assert_true(fabs(sum / SAMPLES) < 5e-3);
    assert_true(fabs(squares / SAMPLES - 1) < 5 * 1.42e-3);
    assert_true(fabs(fourths / SAMPLES - 3) < 5 * 9.8e-3);
    assert_true(fabs(within[0] / (double)SAMPLES - 0.682689) < 5 * 4.7e-4);
    assert_true(fabs(within[1] / (double)SAMPLES - 0.954500) < 5 * 2.1e-4);
}

static void an_infinite_clip_changes_nothing(void **state)
{
    (void)state;
    static const float numbers[] = {0.0f, -0.0f, 1e-45f, -3e38f, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        float got = kvs_clip_f32(numbers[i], INFINITY);
        assert_memory_equal(&got, &numbers[i], sizeof got);
    }
    assert_true(isnan(kvs_clip_f32(NAN, INFINITY)));
    assert_true(isnan(kvs_clip_f32(NAN, 1)));
    assert_true(kvs_clip_f32(3, 2) == 2);
    assert_true(kvs_clip_f32(-3, 2) == -2);
}

static void scalars_are_rounded_once(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_ADAM_19);
    scalars.beta2_rest = 1 - 0.999; /* not (float)1 - (float)0.999 */
    assert_true(kvs_round_f32(&scalars).beta2_rest == (float)(1 - 0.999));
    assert_true(kvs_round_f64(&scalars).beta2_rest == 1 - 0.999);
}

static void products_are_rounded_before_they_are_added(void **state)
{
    (void)state;
    /* (1 + e)^2 - 1 is 2 e after the product's rounding, 2 e + e^2 when fused. e = 2^-12. */
    kvs_rule_scalars scalars = {.rescale = 1 + 0x1p-12, .clip = INFINITY, .wd = 1, .lr = -1};
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    volatile float g = 1 + 0x1p-12f;
    volatile float w = -1;
    assert_true(kvs_step_sgd_f32(&n, w, g, NULL, 0) == -1 + 0x1p-11f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_of_every_rule_are_known),
        cmocka_unit_test(sgd_steps_against_the_gradient_and_the_decay),
        cmocka_unit_test(momentum_keeps_half_of_the_last_step),
        cmocka_unit_test(adam_clips_the_decay_only_in_1_9),
        cmocka_unit_test(adam_divides_by_the_root_and_epsilon),
        cmocka_unit_test(test_adds_in_1_9_and_steps_down_in_2_0),
        cmocka_unit_test(nothing_moves_where_a_rule_would_divide_by_nothing),
        cmocka_unit_test(new_weights_are_clipped_where_asked),
        cmocka_unit_test(random_bits_are_those_of_philox),
        cmocka_unit_test(logarithm_and_cosine_are_near_those_of_libm),
        cmocka_unit_test(noise_is_normal),
        cmocka_unit_test(an_infinite_clip_changes_nothing),
        cmocka_unit_test(scalars_are_rounded_once),
        cmocka_unit_test(products_are_rounded_before_they_are_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
