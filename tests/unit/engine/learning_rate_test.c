#include "engine/learning_rate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A schedule read from JSON, with the tree that lends its steps. */
typedef struct schedule {
    json_t *tree;
    kvs_learning_rate rate;
} schedule;

static kvs_status read_schedule(const char *scheduler, double base, bool fixed, schedule *out,
                                kvs_problem *problem)
{
    char text[512];
    (void)snprintf(text, sizeof text, "{\"lr_scheduler\": %s}", scheduler);
    kvs_json_errors errors = {.problem = problem};
    kvs_json_fields fields;
    assert_int_equal(kvs_json_parse(text, strlen(text), sizeof text, &out->tree, NULL), KVS_OK);
    kvs_json_fields_init(&fields, NULL, "", out->tree, &errors);
    kvs_learning_rate_read(&fields, base, fixed, &out->rate);
    kvs_json_fields_end(&fields);
    return kvs_json_status(&errors);
}

static schedule schedule_of(const char *scheduler)
{
    schedule one;
    kvs_problem problem = {0};
    if (read_schedule(scheduler, 0.01, false, &one, &problem) != KVS_OK) {
        fail_msg("%s: %s", scheduler, problem.detail);
    }
    return one;
}

static void rate_is(const schedule *one, uint64_t n, double expected)
{
    double got = kvs_learning_rate_at(&one->rate, n);
    if (!(fabs(got - expected) <= 1e-12 * fmax(1, fabs(expected)))) {
        fail_msg("rate of update %llu is %.17g, not %.17g", (unsigned long long)n, got, expected);
    }
}

static void no_scheduler_is_a_constant_rate(void **state)
{
    (void)state;
    schedule one = schedule_of("null");
    rate_is(&one, 1, 0.01);
    rate_is(&one, UINT64_MAX, 0.01);
    json_decref(one.tree);
}

static void factor_multiplies_after_every_step(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"factor\", \"step\": 100, \"factor\": 0.5, "
                               "\"base_lr\": 0.8, \"stop_factor_lr\": 0.15}");
    rate_is(&one, 1, 0.8);
    rate_is(&one, 100, 0.8);
    rate_is(&one, 101, 0.4);
    rate_is(&one, 200, 0.4);
    rate_is(&one, 201, 0.2);
    rate_is(&one, 301, 0.15); /* the floor */
    rate_is(&one, UINT64_MAX, 0.15);
    json_decref(one.tree);
}

/* MXNet's scheduler as it stands in its documents: a loop that changes its own base. */
static double factor_by_loop(double base, uint64_t step, double factor, double stop, uint64_t n)
{
    uint64_t count = 0;
    while (n > count + step) {
        count += step;
        base *= factor;
        base = base < stop ? stop : base;
    }
    return base;
}

static void factor_equals_the_loop_that_it_stands_for(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"factor\", \"step\": 7, \"factor\": 0.97, "
                               "\"base_lr\": 0.3, \"stop_factor_lr\": 1e-3}");
    for (uint64_t n = 1; n < 3000; n++) {
        rate_is(&one, n, factor_by_loop(0.3, 7, 0.97, 1e-3, n));
    }
    json_decref(one.tree);
}

static void a_base_below_the_floor_is_lifted_by_the_first_step(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"factor\", \"step\": 2, \"factor\": 0.5, "
                               "\"base_lr\": 0.1, \"stop_factor_lr\": 0.4}");
    rate_is(&one, 2, 0.1);
    rate_is(&one, 3, 0.4);
    json_decref(one.tree);
}

static void multifactor_multiplies_after_each_listed_step(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"multifactor\", \"step\": [5, 10, 11], "
                               "\"factor\": 0.1, \"base_lr\": 1}");
    rate_is(&one, 5, 1);
    rate_is(&one, 6, 0.1);
    rate_is(&one, 10, 0.1);
    rate_is(&one, 11, 0.01);
    rate_is(&one, 12, 0.001);
    rate_is(&one, 1000000, 0.001);
    json_decref(one.tree);
}

static void poly_falls_to_its_final_rate_and_stays(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"poly\", \"max_update\": 100, \"base_lr\": 1, "
                               "\"final_lr\": 0.2}");
    rate_is(&one, 0, 1);
    rate_is(&one, 50, 0.2 + 0.8 * 0.25);
    rate_is(&one, 75, 0.2 + 0.8 * 0.0625);
    rate_is(&one, 100, 0.2);
    rate_is(&one, 101, 0.2);
    rate_is(&one, UINT64_MAX, 0.2);
    json_decref(one.tree);
    one = schedule_of("{\"name\": \"poly\", \"max_update\": 10, \"base_lr\": 1, \"pwr\": 1}");
    rate_is(&one, 3, 0.7);
    json_decref(one.tree);
}

static void cosine_falls_to_its_final_rate_and_stays(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"cosine\", \"max_update\": 100, \"base_lr\": 1, "
                               "\"final_lr\": 0.5}");
    rate_is(&one, 0, 1);
    rate_is(&one, 50, 0.75);
    rate_is(&one, 100, 0.5);
    rate_is(&one, 500, 0.5);
    json_decref(one.tree);
}

static void warm_up_climbs_to_the_base_rate(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"cosine\", \"max_update\": 30, \"base_lr\": 1, "
                               "\"warmup_steps\": 10, \"warmup_begin_lr\": 0.5}");
    rate_is(&one, 1, 0.55);
    rate_is(&one, 9, 0.95);
    rate_is(&one, 10, 1); /* the schedule's own first */
    rate_is(&one, 20, 0.5);
    rate_is(&one, 30, 0);
    json_decref(one.tree);
}

static void constant_warm_up_stays_at_its_begin(void **state)
{
    (void)state;
    schedule one = schedule_of("{\"name\": \"factor\", \"step\": 100, \"base_lr\": 1, "
                               "\"warmup_steps\": 10, \"warmup_begin_lr\": 0.25, "
                               "\"warmup_mode\": \"constant\"}");
    rate_is(&one, 1, 0.25);
    rate_is(&one, 9, 0.25);
    rate_is(&one, 10, 1);
    json_decref(one.tree);
}

static void a_fixed_base_replaces_the_scheduler_s_own(void **state)
{
    (void)state;
    schedule one;
    assert_int_equal(read_schedule("{\"name\": \"poly\", \"max_update\": 4, \"base_lr\": 7}", 0.5,
                                   true, &one, NULL),
                     KVS_OK);
    rate_is(&one, 0, 0.5);
    rate_is(&one, 2, 0.125);
    json_decref(one.tree);
}

static void wrong_schedules_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *scheduler;
        const char *detail;
    } bad[] = {
        {"3", "/lr_scheduler must be an object"},
        {"{}", "/lr_scheduler/name is missing"},
        {"{\"name\": \"cosin\"}",
         "/lr_scheduler/name is unknown: \"cosin\", did you mean \"cosine\"?"},
        {"{\"name\": \"factor\"}", "/lr_scheduler/step is missing"},
        {"{\"name\": \"factor\", \"step\": 0}",
         "/lr_scheduler/step must be between 1 and 9223372036854775807"},
        {"{\"name\": \"factor\", \"step\": 1, \"factor\": 1.5}",
         "/lr_scheduler/factor must be between 0 and 1"},
        {"{\"name\": \"multifactor\", \"step\": []}",
         "/lr_scheduler/step must have 1 to 4096 entries"},
        {"{\"name\": \"multifactor\", \"step\": [3, 3]}",
         "/lr_scheduler/step must be growing integers from 1 up"},
        {"{\"name\": \"multifactor\", \"step\": [0]}",
         "/lr_scheduler/step must be growing integers from 1 up"},
        {"{\"name\": \"multifactor\", \"step\": 5}", "/lr_scheduler/step must be an array"},
        {"{\"name\": \"poly\"}", "/lr_scheduler/max_update is missing"},
        {"{\"name\": \"poly\", \"max_update\": 5, \"warmup_steps\": 5}",
         "/lr_scheduler/max_update must be above warmup_steps"},
        {"{\"name\": \"cosine\", \"max_update\": 5, \"pwr\": 2}", "/lr_scheduler/pwr is unknown"},
        {"{\"name\": \"cosine\", \"max_update\": 5, \"warmup_mode\": \"x\"}",
         "/lr_scheduler/warmup_mode must be one of linear, constant"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        schedule one;
        kvs_problem problem = {0};
        assert_int_equal(read_schedule(bad[i].scheduler, 0.01, false, &one, &problem),
                         KVS_INVALID_FIELD);
        assert_string_equal(problem.detail, bad[i].detail);
        json_decref(one.tree);
    }
}

static void a_written_schedule_reads_back_the_same(void **state)
{
    (void)state;
    static const char *const all[] = {
        "null",
        "{\"name\": \"factor\", \"step\": 100, \"factor\": 0.9, \"warmup_steps\": 3}",
        "{\"name\": \"multifactor\", \"step\": [1, 20, 300], \"factor\": 0.5}",
        "{\"name\": \"poly\", \"max_update\": 50, \"pwr\": 1.5, \"final_lr\": 0.001}",
        "{\"name\": \"cosine\", \"max_update\": 50, \"warmup_mode\": \"constant\"}",
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char *text[2] = {NULL, NULL};
        schedule one = schedule_of(all[i]);
        schedule again = {0};
        for (size_t j = 0; j < 2; j++) {
            size_t bytes = 0;
            FILE *to = open_memstream(&text[j], &bytes);
            kvs_learning_rate_write(j == 0 ? &one.rate : &again.rate, to);
            (void)fclose(to);
            if (j == 0) {
                again = schedule_of(text[0]);
            }
        }
        assert_string_equal(text[0], text[1]);
        for (uint64_t n = 1; n < 400; n++) {
            rate_is(&again, n, kvs_learning_rate_at(&one.rate, n));
        }
        free(text[0]);
        free(text[1]);
        json_decref(one.tree);
        json_decref(again.tree);
    }
}

static void powers_are_near_those_of_libm(void **state)
{
    (void)state;
    static const double bases[] = {0, 0.5, 0.9, 0.999, 0.999999, 1};
    for (size_t i = 0; i < sizeof bases / sizeof bases[0]; i++) {
        for (uint64_t n = 0; n < 5000; n += 1 + n / 7) {
            assert_true(fabs(kvs_power(bases[i], n) - pow(bases[i], (double)n)) <= 1e-13);
        }
    }
    assert_true(kvs_power(0.999, UINT64_MAX) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_scheduler_is_a_constant_rate),
        cmocka_unit_test(factor_multiplies_after_every_step),
        cmocka_unit_test(factor_equals_the_loop_that_it_stands_for),
        cmocka_unit_test(a_base_below_the_floor_is_lifted_by_the_first_step),
        cmocka_unit_test(multifactor_multiplies_after_each_listed_step),
        cmocka_unit_test(poly_falls_to_its_final_rate_and_stays),
        cmocka_unit_test(cosine_falls_to_its_final_rate_and_stays),
        cmocka_unit_test(warm_up_climbs_to_the_base_rate),
        cmocka_unit_test(constant_warm_up_stays_at_its_begin),
        cmocka_unit_test(a_fixed_base_replaces_the_scheduler_s_own),
        cmocka_unit_test(wrong_schedules_are_refused_by_name),
        cmocka_unit_test(a_written_schedule_reads_back_the_same),
        cmocka_unit_test(powers_are_near_those_of_libm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
