/* A rule with one number a row: the number is of whole rows, however parts cut them. */
#include "engine/store.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/states_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define ROWS 7u
#define WIDTH 6u
#define ELEMENTS (ROWS * WIDTH)
#define RULE                                                                                       \
    "{\"name\": \"groupadagrad\", \"learning_rate\": 0.1, \"rescale_grad\": 0.5, "                 \
    "\"clip_gradient\": 0.4}"

/* Rows in several parts, in one and a bit, whole ones, all in one. */
static const uint64_t cuts[] = {1, 4, 5, 6, 7, 12, 42, 64};
#define CUTS (sizeof cuts / sizeof cuts[0])

static void fill(float *out, uint32_t seed)
{
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        out[i] = (float)((i * 37 + seed * 101) % 89) / 40.0f - 1.0f;
    }
}

typedef struct model {
    double w[ELEMENTS], h[ROWS];
} model;

static void model_init(model *m)
{
    float w[ELEMENTS];
    memset(m, 0, sizeof *m);
    fill(w, 0);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        m->w[i] = (double)w[i];
    }
}

static void model_update(model *m, const double *g)
{
    for (uint32_t row = 0; row < ROWS; row++) {
        double s[WIDTH];
        double square = 0;
        for (uint32_t i = 0; i < WIDTH; i++) {
            s[i] = fmin(fmax(0.5 * g[row * WIDTH + i], -0.4), 0.4);
            square += s[i] * s[i];
        }
        m->h[row] += square / WIDTH;
        for (uint32_t i = 0; i < WIDTH; i++) {
            m->w[row * WIDTH + i] -= 0.1 * s[i] / sqrt(m->h[row] + 1e-5);
        }
    }
}

static void check_value(fixture_worker *worker, const model *m)
{
    (void)fixture_pull(worker, "w", 0);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        if (fabs((double)worker->value[i] - m->w[i]) > 1e-5) {
            fail_msg("element %u is %.9g, not %.9g", i, (double)worker->value[i], m->w[i]);
        }
    }
}

static void open_store(fixture *f, const char *type, uint64_t part_elements, const char *rule)
{
    float w[ELEMENTS];
    kvs_shape shape = {.rank = 2, .size = {ROWS, WIDTH}};
    fixture_open(f, &(fixture_options){.type = type,
                                       .num_workers = 2,
                                       .part_elements = part_elements,
                                       .shards = 4,
                                       .policy = KVS_POLICY_FAIL});
    (void)fixture_join(f, 0);
    (void)fixture_join(f, 1);
    fill(w, 0);
    fixture_init_shape(f, "w", w, &shape);
    fixture_optimizer(f, rule);
}

/* One update of a synchronous store, two of an asynchronous one. */
static void push_round(fixture *f, model *m, uint32_t round, bool together)
{
    float g[2][ELEMENTS];
    double sum[ELEMENTS];
    for (uint32_t rank = 0; rank < 2; rank++) {
        fill(g[rank], 2 * round + rank + 1);
        (void)fixture_push(f->workers[rank], "w", g[rank], ELEMENTS, 0, rank == 1);
    }
    for (uint32_t rank = 0; rank < 2; rank++) {
        for (uint32_t i = 0; i < ELEMENTS; i++) {
            sum[i] = (double)g[rank][i] + (together ? (double)g[1][i] : 0);
        }
        model_update(m, sum);
        if (together) {
            break;
        }
    }
}

static void numbers_are_those_of_whole_rows(void **state)
{
    (void)state;
    for (size_t c = 0; c < 2 * CUTS; c++) {
        fixture f;
        model m;
        bool together = c % 2 == 0;
        open_store(&f, together ? "dist_sync" : "dist_async", cuts[c / 2], RULE);
        model_init(&m);
        for (uint32_t round = 0; round < 4; round++) {
            push_round(&f, &m, round, together);
            check_value(f.workers[0], &m);
        }
        fixture_close(&f);
    }
}

/* The file has each number once, and knows nothing of parts. */
static void states_go_from_any_cut_to_any_other(void **state)
{
    (void)state;
    for (size_t c = 0; c < CUTS * CUTS; c++) {
        fixture first;
        fixture second;
        model m;
        states_file saved = {NULL, 0};
        states_file again = {NULL, 0};
        kvs_problem problem;
        open_store(&first, "dist_sync", cuts[c / CUTS], RULE);
        open_store(&second, "dist_sync", cuts[c % CUTS], RULE);
        model_init(&m);
        for (uint32_t round = 0; round < 3; round++) {
            push_round(&first, &m, round, true);
        }
        assert_int_equal(states_file_save(&first, true, true, &saved), KVS_OK);
        static const char tensor[] = "\"w::sum\":{\"dtype\":\"F32\",\"shape\":[7]";
        assert_non_null(memmem(saved.bytes, saved.count, tensor, sizeof tensor - 1));
        assert_int_equal(states_file_load(&second, &saved, 5, &problem), KVS_OK);
        assert_int_equal(states_file_save(&second, true, true, &again), KVS_OK);
        assert_int_equal(again.count, saved.count);
        assert_memory_equal(again.bytes, saved.bytes, saved.count);
        push_round(&second, &m, 3, true);
        check_value(second.workers[0], &m);
        states_file_deinit(&saved);
        states_file_deinit(&again);
        fixture_close(&first);
        fixture_close(&second);
    }
}

/* What was saved before the first update is zeros, and a rule with other states drops them. */
static void states_begin_as_zeros(void **state)
{
    fixture f;
    model m;
    states_file saved = {NULL, 0};
    kvs_problem problem;
    (void)state;
    open_store(&f, "dist_sync", 4, RULE);
    model_init(&m);
    assert_int_equal(states_file_save(&f, true, false, &saved), KVS_OK);
    push_round(&f, &m, 0, true);
    assert_int_equal(states_file_load(&f, &saved, saved.count, &problem), KVS_OK);
    model_init(&m);
    push_round(&f, &m, 1, true);
    check_value(f.workers[0], &m);
    fixture_optimizer(&f, "{\"name\": \"sgd\", \"learning_rate\": 0}");
    fixture_optimizer(&f, RULE);
    memset(m.h, 0, sizeof m.h);
    push_round(&f, &m, 2, true);
    check_value(f.workers[0], &m);
    states_file_deinit(&saved);
    fixture_close(&f);
}

/* The norm of the whole value is taken first; what is left of the gradient makes the numbers. */
static void a_gradient_is_clipped_by_its_norm_first(void **state)
{
    fixture f;
    model m;
    float g[2][ELEMENTS];
    double sum[ELEMENTS];
    double square = 0;
    (void)state;
    open_store(&f, "dist_sync", 4,
               "{\"name\": \"groupadagrad\", \"learning_rate\": 0.1, \"rescale_grad\": 0.5, "
               "\"clip_gradient\": 0.4, \"clip_norm\": 1.25}");
    model_init(&m);
    for (uint32_t rank = 0; rank < 2; rank++) {
        fill(g[rank], rank + 1);
        (void)fixture_push(f.workers[rank], "w", g[rank], ELEMENTS, 0, rank == 1);
    }
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        sum[i] = (double)g[0][i] + (double)g[1][i];
        square += 0.25 * sum[i] * sum[i];
    }
    assert_true(sqrt(square) > 1.25);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        sum[i] *= 1.25 / (sqrt(square) + 1e-8);
    }
    model_update(&m, sum);
    check_value(f.workers[0], &m);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_of_whole_rows),
        cmocka_unit_test(states_go_from_any_cut_to_any_other),
        cmocka_unit_test(states_begin_as_zeros),
        cmocka_unit_test(a_gradient_is_clipped_by_its_norm_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
