/* The optimizers by name, as a store describes them. */
#include "engine/optimizer.h"
#include "tests/support/optimizer_json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The numbers of every optimizer of each line, as it is described unless anything is said. */
static void every_optimizer_has_mxnet_s_defaults(void **state)
{
    (void)state;
    static const struct {
        const char *name, *rules, *numbers;
    } all[] = {
        {"adabelief", "2.0",
         "\"learning_rate\": 0.001, \"beta1\": 0.9, \"beta2\": 0.999, \"epsilon\": 1e-06, "
         "\"correct_bias\": true"},
        {"adadelta", "1.9", "\"learning_rate\": 0.01, \"rho\": 0.9, \"epsilon\": 1e-05"},
        {"adadelta", "2.0", "\"learning_rate\": 1, \"rho\": 0.9, \"epsilon\": 1e-06"},
        {"adagrad", "1.9", "\"learning_rate\": 0.01, \"eps\": 1e-07"},
        {"adagrad", "2.0", "\"learning_rate\": 0.01, \"epsilon\": 1e-06"},
        {"adam", "1.9",
         "\"learning_rate\": 0.001, \"beta1\": 0.9, \"beta2\": 0.999, \"epsilon\": 1e-08"},
        {"adamax", "1.9", "\"learning_rate\": 0.002, \"beta1\": 0.9, \"beta2\": 0.999"},
        {"adamw", "1.9",
         "\"learning_rate\": 0.001, \"beta1\": 0.9, \"beta2\": 0.999, \"epsilon\": 1e-06, "
         "\"correct_bias\": true"},
        {"ccsgd", "1.9", "\"learning_rate\": 0.01, \"momentum\": 0"},
        {"dcasgd", "1.9", "\"learning_rate\": 0.01, \"momentum\": 0, \"lamda\": 0.04"},
        {"dcasgd", "2.0", "\"learning_rate\": 0.1, \"momentum\": 0, \"lamda\": 0.04"},
        {"diloco", "1.9", "\"learning_rate\": 0.7, \"momentum\": 0.9"},
        {"ftml", "1.9",
         "\"learning_rate\": 0.01, \"beta1\": 0.6, \"beta2\": 0.999, \"epsilon\": 1e-08"},
        {"ftml", "2.0",
         "\"learning_rate\": 0.0025, \"beta1\": 0.6, \"beta2\": 0.999, \"epsilon\": 1e-08"},
        {"ftrl", "1.9", "\"learning_rate\": 0.1, \"lamda1\": 0.01, \"beta\": 1"},
        {"lbsgd", "1.9",
         "\"learning_rate\": 0.01, \"momentum\": 0, \"warmup_strategy\": \"linear\", "
         "\"warmup_epochs\": 5, \"batch_scale\": 1, \"updates_per_epoch\": 32, "
         "\"begin_epoch\": 0, \"num_epochs\": 60"},
        {"lion", "1.9", "\"learning_rate\": 0.0001, \"beta1\": 0.9, \"beta2\": 0.99"},
        {"nadam", "2.0",
         "\"learning_rate\": 0.001, \"beta1\": 0.9, \"beta2\": 0.999, \"epsilon\": 1e-08, "
         "\"schedule_decay\": 0.004"},
        {"nag", "1.9", "\"learning_rate\": 0.01, \"momentum\": 0"},
        {"nag", "2.0", "\"learning_rate\": 0.1, \"momentum\": 0.9"},
        {"rmsprop", "1.9",
         "\"learning_rate\": 0.001, \"gamma1\": 0.9, \"gamma2\": 0.9, \"epsilon\": 1e-08, "
         "\"centered\": false, \"clip_weights\": null"},
        {"rmsprop", "2.0",
         "\"learning_rate\": 0.001, \"rho\": 0.9, \"momentum\": 0.9, \"epsilon\": 1e-08, "
         "\"centered\": false, \"clip_weights\": null"},
        {"sgd", "2.0", "\"learning_rate\": 0.1, \"momentum\": 0"},
        {"sgld", "1.9", "\"learning_rate\": 0.01, \"seed\": 0"},
        {"sgld", "2.0", "\"learning_rate\": 0.1, \"seed\": 0"},
        {"signum", "1.9", "\"learning_rate\": 0.01, \"momentum\": 0.9, \"wd_lh\": 0"},
        {"test", "1.9", "\"learning_rate\": 0.01"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char text[256];
        (void)snprintf(text, sizeof text, "{\"name\": \"%s\", \"rules\": \"%s\"}", all[i].name,
                       all[i].rules);
        kvs_optimizer *optimizer = parse(text);
        (void)snprintf(text, sizeof text, "{\"name\": \"%s\", %s, \"wd\": 0, ", all[i].name,
                       all[i].numbers);
        const char *json = kvs_optimizer_json(optimizer);
        if (strncmp(json, text, strlen(text)) != 0) {
            fail_msg("%s does not begin with %s", json, text);
        }
        kvs_optimizer *again = parse(json);
        assert_true(kvs_optimizer_equal(optimizer, again));
        kvs_optimizer_unref(again);
        kvs_optimizer_unref(optimizer);
    }
}

static void every_state_has_a_name(void **state)
{
    (void)state;
    for (int rule = 0; rule < KVS_RULE_COUNT; rule++) {
        for (unsigned i = 0; i < KVS_RULE_STATES_MAX + 1; i++) {
            const char *name = kvs_rule_state_name(rule, i);
            assert_true((name != NULL) == (i < kvs_rule_states(rule) + kvs_rule_row_states(rule)));
            for (unsigned j = 0; name != NULL && j < i; j++) {
                assert_string_not_equal(name, kvs_rule_state_name(rule, j));
            }
        }
    }
    assert_null(kvs_rule_state_name(KVS_RULE_COUNT, 0));
    kvs_optimizer *optimizer = parse("{\"name\": \"adam\"}");
    assert_string_equal(kvs_rule_state_name(kvs_optimizer_rule(optimizer), 1), "exp_avg_sq");
    kvs_optimizer_unref(optimizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_optimizer_has_mxnet_s_defaults),
        cmocka_unit_test(every_state_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
