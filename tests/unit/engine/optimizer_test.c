#include "engine/optimizer.h"
#include "tests/support/optimizer_json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kvs_rule_scalars scalars(const kvs_optimizer *optimizer, const char *key, uint64_t t)
{
    kvs_rule_scalars out;
    kvs_optimizer_scalars(optimizer, kvs_optimizer_multipliers(optimizer, key, strlen(key)), t,
                          &out);
    return out;
}

static void near(double got, double expected)
{
    if (!(fabs(got - expected) <= 1e-12 * fmax(1, fabs(expected)))) {
        fail_msg("%.17g is not %.17g", got, expected);
    }
}

/* ------------------------------------------------------------------ parsing */

static void the_json_is_canonical(void **state)
{
    (void)state;
    kvs_optimizer *optimizer =
        parse("{\"rules\": \"1.9\", \"wd\": 1e-4, \"name\": \"sgd\", \"momentum\": 0.9, "
              "\"learning_rate\": 0.1, \"lr_scheduler\": {\"name\": \"factor\", \"step\": 100, "
              "\"factor\": 0.9}, \"lr_mult\": {\"z\": 3, \"fc.bias\": 2.0}, \"wd_mult\": {}, "
              "\"clip_gradient\": null, \"clip_norm\": null, \"multi_precision\": false, "
              "\"lazy_update\": true, "
              "\"rescale_grad\": 1.0}");
    assert_string_equal(
        kvs_optimizer_json(optimizer),
        "{\"name\": \"sgd\", \"learning_rate\": 0.1, \"momentum\": 0.9, \"wd\": 0.0001, "
        "\"rescale_grad\": 1, \"clip_gradient\": null, \"clip_norm\": null, \"multi_precision\": "
        "false, "
        "\"lazy_update\": true, \"lr_scheduler\": {\"name\": \"factor\", \"base_lr\": 0.1, "
        "\"step\": 100, \"factor\": 0.9, \"stop_factor_lr\": 1e-08, \"warmup_steps\": 0, "
        "\"warmup_begin_lr\": 0, \"warmup_mode\": \"linear\"}, "
        "\"lr_mult\": {\"fc.bias\": 2, \"z\": 3}, \"wd_mult\": {}, \"begin_num_update\": 0, "
        "\"rules\": \"1.9\"}");
    kvs_optimizer *again = parse(kvs_optimizer_json(optimizer));
    assert_true(kvs_optimizer_equal(optimizer, again));
    kvs_optimizer_unref(again);
    kvs_optimizer_unref(optimizer);
}

static void defaults_are_those_of_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        const char *learning_rate;
        const char *lazy;
    } all[] = {
        {"{\"name\": \"sgd\"}", "\"learning_rate\": 0.01,", "\"lazy_update\": true"},
        {"{\"name\": \"sgd\", \"rules\": \"2.0\"}", "\"learning_rate\": 0.1,",
         "\"lazy_update\": false"},
        {"{\"name\": \"adam\"}", "\"learning_rate\": 0.001,", "\"lazy_update\": true"},
        {"{\"name\": \"adam\", \"rules\": \"2.0\"}", "\"learning_rate\": 0.001,",
         "\"lazy_update\": false"},
        {"{\"name\": \"test\", \"rules\": \"2.0\"}", "\"learning_rate\": 0.01,", ""},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        kvs_optimizer *optimizer = parse(all[i].json);
        assert_non_null(strstr(kvs_optimizer_json(optimizer), all[i].learning_rate));
        assert_non_null(strstr(kvs_optimizer_json(optimizer), all[i].lazy));
        kvs_optimizer_unref(optimizer);
    }
}

static void names_are_read_in_any_case(void **state)
{
    (void)state;
    kvs_optimizer *optimizer = parse("{\"name\": \"SGD\"}");
    assert_string_equal(kvs_optimizer_name(optimizer), "sgd");
    kvs_optimizer_unref(optimizer);
}

static void unknown_names_are_refused_with_what_was_meant(void **state)
{
    (void)state;
    refused("{\"name\": \"adamx\"}", KVS_INVALID_FIELD,
            "/name is no optimizer of rules 1.9: \"adamx\", did you mean \"adam\"?");
    refused("{\"name\": \"gradient descent\"}", KVS_INVALID_FIELD,
            "/name is no optimizer of rules 1.9: \"gradient descent\"");
    refused("{\"name\": \"lbsgd\", \"rules\": \"2.0\"}", KVS_INVALID_FIELD,
            "/name is no optimizer of rules 2.0: \"lbsgd\", did you mean \"sgd\"?");
    refused("{}", KVS_INVALID_FIELD, "/name is missing");
    refused("{\"name\": 3}", KVS_INVALID_FIELD, "/name must be a string");
}

static void a_rule_without_decay_takes_none(void **state)
{
    (void)state;
    refused("{\"name\": \"groupadagrad\", \"wd\": 0.01}", KVS_INVALID_FIELD,
            "/wd must be 0: the rule has no decay");
    kvs_optimizer_unref(parse("{\"name\": \"groupadagrad\", \"wd\": 0}"));
}

static void every_bad_field_is_named(void **state)
{
    (void)state;
    refused("{\"name\": \"adam\", \"learning_rate\": \"x\", \"beta1\": 1, \"beta2\": -0.1, "
            "\"epsilon\": -1, \"lr_mult\": {\"fc/w\": null}}",
            KVS_INVALID_FIELD,
            "/beta1 must be at least 0 and below 1; /beta2 must be at least 0 and below 1; "
            "/epsilon must be between 0 and 3.40282e+38; /learning_rate must be a number; "
            "/lr_mult/fc~1w must be a number");
    refused("{\"name\": \"sgd\", \"momentun\": 0.9, \"rules\": \"1.8\"}", KVS_INVALID_FIELD,
            "/rules is unknown: \"1.8\", did you mean \"1.9\"?; "
            "/momentun is unknown, did you mean \"momentum\"?");
    refused("{\"name\": \"adam\", \"momentum\": 0.9}", KVS_INVALID_FIELD, "/momentum is unknown");
    refused("{\"name\": \"sgd\", \"wd\": 1e300}", KVS_INVALID_FIELD,
            "/wd must be between -3.40282e+38 and 3.40282e+38");
    refused("{\"name\": \"sgd\", \"wd_mult\": []}", KVS_INVALID_FIELD,
            "/wd_mult must be an object");
    refused("{\"name\": \"sgd\", \"wd_mult\": null}", KVS_INVALID_FIELD,
            "/wd_mult must be an object");
    refused("{\"name\": \"sgd\", \"begin_num_update\": -1}", KVS_INVALID_FIELD,
            "/begin_num_update must be between 0 and 4611686018427387903");
    refused("{\"name\": \"adagrad\", \"rules\": \"2.0\", \"eps\": 1}", KVS_INVALID_FIELD,
            "/eps is unknown");
    refused("{\"name\": \"rmsprop\", \"gamma1\": 1.5, \"clip_weights\": true, \"centered\": 1}",
            KVS_INVALID_FIELD,
            "/gamma1 must be at least 0 and at most 1; /centered must be true or false; "
            "/clip_weights must be a number");
    refused("{\"name\": \"signum\", \"momentum\": 0, \"wd_lh\": 0.1}", KVS_INVALID_FIELD,
            "/wd_lh needs a momentum in rules 1.9");
    refused("{\"name\": \"sgld\", \"seed\": -1}", KVS_INVALID_FIELD,
            "/seed must be between 0 and 9007199254740992");
    refused("{\"name\": \"adam\", \"lazy_updates\": true}", KVS_INVALID_FIELD,
            "/lazy_updates is unknown, did you mean \"lazy_update\"?");
    refused("{\"name\": \"nag\", \"lazy_update\": true}", KVS_INVALID_FIELD,
            "/lazy_update is unknown");
    refused("[]", KVS_INVALID_FIELD, "the document must be an object");
}

static void text_that_is_no_json_is_refused(void **state)
{
    (void)state;
    kvs_optimizer *optimizer = NULL;
    kvs_problem problem = {0};
    assert_int_equal(kvs_optimizer_parse("{\"name\"", 7, &optimizer, &problem), KVS_INVALID_FRAME);
    assert_int_equal(kvs_optimizer_parse("", 0, &optimizer, NULL), KVS_INVALID_FRAME);
    size_t bytes = (1 << 20) + 1;
    char *blanks = malloc(bytes);
    memset(blanks, ' ', bytes);
    assert_int_equal(kvs_optimizer_parse(blanks, bytes, &optimizer, &problem), KVS_TOO_LARGE);
    free(blanks);
    assert_null(optimizer);
}

/* ------------------------------------------------------------------ scalars */

static void numbers_of_sgd_are_taken_over(void **state)
{
    (void)state;
    kvs_optimizer *optimizer =
        parse("{\"name\": \"sgd\", \"learning_rate\": 0.5, \"momentum\": 0.9, \"wd\": 0.01, "
              "\"rescale_grad\": 0.25, \"clip_gradient\": 2}");
    kvs_rule_scalars got = scalars(optimizer, "w", 1);
    assert_int_equal(got.rule, KVS_RULE_SGD_MOMENTUM);
    assert_int_equal(kvs_optimizer_states(optimizer), 1);
    near(got.lr, 0.5);
    near(got.momentum, 0.9);
    near(got.wd, 0.01);
    near(got.rescale, 0.25);
    near(got.clip, 2);
    kvs_optimizer_unref(optimizer);
}

static void a_clip_of_nothing_zero_or_less_is_off(void **state)
{
    (void)state;
    static const char *const off[] = {
        "{\"name\": \"sgd\"}",
        "{\"name\": \"sgd\", \"clip_gradient\": null}",
        "{\"name\": \"sgd\", \"clip_gradient\": 0}",
        "{\"name\": \"sgd\", \"clip_gradient\": -1}",
    };
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) {
        kvs_optimizer *optimizer = parse(off[i]);
        assert_true(isinf(scalars(optimizer, "w", 1).clip));
        assert_int_equal(scalars(optimizer, "w", 1).rule, KVS_RULE_SGD);
        kvs_optimizer_unref(optimizer);
    }
}

static void adam_corrects_its_bias_by_the_key_s_own_count(void **state)
{
    (void)state;
    kvs_optimizer *optimizer = parse("{\"name\": \"adam\", \"learning_rate\": 0.1}");
    for (uint64_t t = 1; t < 100000; t += 1 + t / 3) {
        double n = (double)t;
        near(scalars(optimizer, "w", t).lr, 0.1 * sqrt(1 - pow(0.999, n)) / (1 - pow(0.9, n)));
    }
    near(scalars(optimizer, "w", UINT64_C(1) << 60).lr, 0.1);
    near(scalars(optimizer, "w", 1).beta1_rest, 0.1);
    near(scalars(optimizer, "w", 1).beta2_rest, 0.001);
    near(scalars(optimizer, "w", 1).epsilon, 1e-8);
    kvs_optimizer_unref(optimizer);
}

static void counting_begins_at_begin_num_update(void **state)
{
    (void)state;
    kvs_optimizer *fresh = parse("{\"name\": \"adam\"}");
    kvs_optimizer *later = parse("{\"name\": \"adam\", \"begin_num_update\": 10}");
    assert_true(scalars(later, "w", 1).lr == scalars(fresh, "w", 11).lr);
    kvs_optimizer_unref(fresh);
    kvs_optimizer_unref(later);
}

static void schedules_move_the_rate(void **state)
{
    (void)state;
    kvs_optimizer *optimizer =
        parse("{\"name\": \"sgd\", \"learning_rate\": 1, \"lr_scheduler\": {\"name\": \"factor\", "
              "\"step\": 2, \"factor\": 0.5, \"base_lr\": 8}, \"lr_mult\": {\"w\": 3}}");
    near(scalars(optimizer, "w", 2).lr, 3);
    near(scalars(optimizer, "w", 3).lr, 1.5);
    near(scalars(optimizer, "v", 3).lr, 0.5);
    kvs_optimizer_unref(optimizer);
    /* Without a learning_rate the scheduler's own base counts, not the rule's default. */
    optimizer = parse("{\"name\": \"adam\", \"rules\": \"2.0\", \"lr_scheduler\": {\"name\": "
                      "\"factor\", \"step\": 9, \"base_lr\": 8}}");
    near(scalars(optimizer, "w", 1).lr, 8 * sqrt(0.001) / 0.1);
    kvs_optimizer_unref(optimizer);
}

static void multipliers_are_found_by_the_whole_key(void **state)
{
    (void)state;
    kvs_optimizer *optimizer =
        parse("{\"name\": \"sgd\", \"wd\": 1, \"lr_mult\": {\"a\": 2, \"ab\": 3, \"7\": 4}, "
              "\"wd_mult\": {\"fc_bias\": 0, \"\": 5}}");
    static const struct {
        const char *key;
        double lr;
        double wd;
    } all[] = {{"a", 2, 1}, {"ab", 3, 1}, {"abc", 1, 1},    {"7", 4, 1},
               {"b", 1, 1}, {"", 1, 5},   {"fc_bias", 1, 0}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        kvs_multipliers got = kvs_optimizer_multipliers(optimizer, all[i].key, strlen(all[i].key));
        assert_true(got.lr == all[i].lr);
        assert_true(got.wd == all[i].wd);
    }
    /* Keys are not terminated. */
    assert_true(kvs_optimizer_multipliers(optimizer, "abc", 2).lr == 3);
    near(scalars(optimizer, "fc_bias", 1).wd, 0);
    kvs_optimizer_unref(optimizer);
}

static void decay_counts_for_every_name(void **state)
{
    (void)state;
    /* No idx2name here: a bias decays unless wd_mult says otherwise. */
    kvs_optimizer *optimizer = parse("{\"name\": \"sgd\", \"wd\": 0.5}");
    near(scalars(optimizer, "fc_bias", 1).wd, 0.5);
    kvs_optimizer_unref(optimizer);
}

/* ------------------------------------------------------------------ comparing */

static bool keeps(const char *a, const char *b)
{
    kvs_optimizer *one = parse(a);
    kvs_optimizer *other = parse(b);
    bool answer = kvs_optimizer_keeps_states(one, other);
    assert_false(kvs_optimizer_equal(one, other));
    kvs_optimizer_unref(one);
    kvs_optimizer_unref(other);
    return answer;
}

static void states_are_kept_by_the_same_rule_alone(void **state)
{
    (void)state;
    assert_true(keeps("{\"name\": \"sgd\", \"momentum\": 0.9}",
                      "{\"name\": \"sgd\", \"momentum\": 0.5, \"wd\": 1}"));
    assert_true(keeps("{\"name\": \"adam\"}", "{\"name\": \"adam\", \"rules\": \"2.0\"}"));
    assert_false(keeps("{\"name\": \"sgd\", \"momentum\": 0.9}", "{\"name\": \"adam\"}"));
    assert_false(keeps("{\"name\": \"sgd\", \"momentum\": 0.9}", "{\"name\": \"sgd\"}"));
    assert_false(keeps("{\"name\": \"sgd\", \"momentum\": 0.9}", "{\"name\": \"test\"}"));
}

static void equal_is_by_value_not_by_text(void **state)
{
    (void)state;
    kvs_optimizer *one =
        parse("{\"name\": \"sgd\", \"wd\": 0.5, \"lr_mult\": {\"a\": 1, \"b\": 2}}");
    kvs_optimizer *other =
        parse(" {\"lr_mult\": {\"b\": 2.0, \"a\": 1e0}, \"wd\": 5e-1, \"name\": \"Sgd\", "
              "\"momentum\": 0, \"clip_gradient\": 0}");
    assert_true(kvs_optimizer_equal(one, other));
    kvs_optimizer_unref(one);
    kvs_optimizer_unref(other);
}

static void a_reference_keeps_it_alive(void **state)
{
    (void)state;
    kvs_optimizer *optimizer = parse("{\"name\": \"test\"}");
    assert_ptr_equal(kvs_optimizer_take(optimizer), optimizer);
    kvs_optimizer_unref(optimizer);
    assert_string_equal(kvs_optimizer_name(optimizer), "test");
    kvs_optimizer_unref(optimizer);
    kvs_optimizer_unref(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_json_is_canonical),
        cmocka_unit_test(defaults_are_those_of_the_line),
        cmocka_unit_test(names_are_read_in_any_case),
        cmocka_unit_test(unknown_names_are_refused_with_what_was_meant),
        cmocka_unit_test(a_rule_without_decay_takes_none),
        cmocka_unit_test(every_bad_field_is_named),
        cmocka_unit_test(text_that_is_no_json_is_refused),
        cmocka_unit_test(numbers_of_sgd_are_taken_over),
        cmocka_unit_test(a_clip_of_nothing_zero_or_less_is_off),
        cmocka_unit_test(adam_corrects_its_bias_by_the_key_s_own_count),
        cmocka_unit_test(counting_begins_at_begin_num_update),
        cmocka_unit_test(schedules_move_the_rate),
        cmocka_unit_test(multipliers_are_found_by_the_whole_key),
        cmocka_unit_test(decay_counts_for_every_name),
        cmocka_unit_test(states_are_kept_by_the_same_rule_alone),
        cmocka_unit_test(equal_is_by_value_not_by_text),
        cmocka_unit_test(a_reference_keeps_it_alive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
