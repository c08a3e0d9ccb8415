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
    float a = 7;
    float b = 7;
    assert_true(kvs_step_sgd_f32(&n, 4, 2, &a, &b) == 4 - 0.5f * (0.5f * 2 + 0.25f * 4));
    assert_true(a == 7);
    assert_true(b == 7);
}

static void momentum_keeps_half_of_the_last_step(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_SGD_MOMENTUM);
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float m = 0;
    float b = 0;
    float w = kvs_step_sgd_momentum_f32(&n, 4, 2, &m, &b);
    assert_true(m == -1);
    assert_true(w == 3);
    w = kvs_step_sgd_momentum_f32(&n, w, 2, &m, &b);
    assert_true(m == -0.5f - 0.5f * (1 + 0.75f));
    assert_true(w == 3 + m);
}

static void adam_clips_the_decay_only_in_1_9(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_ADAM_19);
    scalars.clip = 1;
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float m[2] = {0, 0};
    float v[2] = {0, 0};
    /* s g = 2, clipped to 1; lambda w = 1. G is 1 in 1.9, 2 in 2.0. */
    (void)kvs_step_adam_19_f32(&n, 4, 4, &m[0], &v[0]);
    (void)kvs_step_adam_20_f32(&n, 4, 4, &m[1], &v[1]);
    assert_true(m[0] == 0.5f);
    assert_true(v[0] == 0.25f);
    assert_true(m[1] == 1);
    assert_true(v[1] == 1);
}

static void adam_divides_by_the_root_and_epsilon(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_ADAM_20);
    scalars.wd = 0;
    scalars.epsilon = 0.5;
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float m = 0;
    float v = 0;
    /* G = 2, m = 1, v = 1: 4 - .5 * 1 / (1 + .5) */
    assert_true(kvs_step_adam_20_f32(&n, 4, 4, &m, &v) == 4 - 0.5f / 1.5f);
}

static void test_adds_in_1_9_and_steps_down_in_2_0(void **state)
{
    (void)state;
    kvs_rule_scalars scalars = simple(KVS_RULE_TEST_19);
    kvs_numbers_f32 n = kvs_round_f32(&scalars);
    float a = 0;
    float b = 0;
    assert_true(kvs_step_test_19_f32(&n, 4, 2, &a, &b) == 5);
    assert_true(a == 5);
    assert_true(kvs_step_test_20_f32(&n, 4, 2, &a, &b) == 4 - 0.5f * (1 + 1));
    assert_true(a == 5);
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
    float a = 0;
    float b = 0;
    assert_true(kvs_step_sgd_f32(&n, w, g, &a, &b) == -1 + 0x1p-11f);
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
        cmocka_unit_test(an_infinite_clip_changes_nothing),
        cmocka_unit_test(scalars_are_rounded_once),
        cmocka_unit_test(products_are_rounded_before_they_are_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
