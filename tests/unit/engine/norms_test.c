/* Rules that need norms of whole values: however these are cut, whoever comes first. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ELEMENTS 41u
#define LAMB "{\"name\": \"lamb\", \"learning_rate\": 0.1, \"wd\": 0.01, \"rescale_grad\": 0.5}"

static void fill(float *out, uint32_t seed)
{
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        out[i] = (float)((i * 37 + seed * 101) % 89) / 40.0f - 1.0f;
    }
}

/* lamb in double, on the whole value. */
typedef struct lamb {
    double w[ELEMENTS], m[ELEMENTS], v[ELEMENTS];
    int t;
} lamb;

static void lamb_init(lamb *model, const float *w)
{
    memset(model, 0, sizeof *model);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        model->w[i] = (double)w[i];
    }
}

static void lamb_update(lamb *model, const double *g)
{
    double u[ELEMENTS];
    double weight = 0;
    double way = 0;
    model->t++;
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        double s = 0.5 * g[i];
        model->m[i] = 0.9 * model->m[i] + 0.1 * s;
        model->v[i] = 0.999 * model->v[i] + 0.001 * s * s;
        double mean = model->m[i] / (1 - pow(0.9, model->t));
        double square = model->v[i] / (1 - pow(0.999, model->t));
        u[i] = mean / (sqrt(square) + 1e-6) + 0.01 * model->w[i];
        weight += model->w[i] * model->w[i];
        way += u[i] * u[i];
    }
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        model->w[i] -= 0.1 * sqrt(weight) / sqrt(way) * u[i];
    }
}

static void check_value(fixture_worker *worker, const lamb *model)
{
    (void)fixture_pull(worker, "w", 0);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        if (fabs((double)worker->value[i] - model->w[i]) > 1e-5) {
            fail_msg("element %u is %.9g, not %.9g", i, (double)worker->value[i], model->w[i]);
        }
    }
}

static void open_store_with(fixture *f, const char *type, uint32_t workers, uint64_t part_elements,
                            bool manual, kvs_policy policy)
{
    float w[ELEMENTS];
    fixture_open(f, &(fixture_options){.type = type,
                                       .num_workers = workers,
                                       .part_elements = part_elements,
                                       .shards = 4,
                                       .policy = policy,
                                       .manual = manual});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
    fill(w, 0);
    fixture_init(f, "w", w, ELEMENTS);
    fixture_optimizer(f, LAMB);
    if (manual) {
        fixture_run_all(f);
    }
}

static void open_store(fixture *f, const char *type, uint32_t workers, uint64_t part_elements,
                       bool manual)
{
    open_store_with(f, type, workers, part_elements, manual, KVS_POLICY_FAIL);
}

static void norms_are_those_of_the_whole_however_it_is_cut(void **state)
{
    (void)state;
    static const uint64_t cuts[] = {1, 4, 7, 40, 41, 64};
    float first[sizeof cuts / sizeof cuts[0]][ELEMENTS];
    for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
        fixture f;
        lamb model;
        float g[2][ELEMENTS];
        float w[ELEMENTS];
        open_store(&f, "dist_sync", 2, cuts[c], false);
        fill(w, 0);
        lamb_init(&model, w);
        for (uint32_t round = 0; round < 4; round++) {
            double sum[ELEMENTS];
            for (uint32_t rank = 0; rank < 2; rank++) {
                fill(g[rank], 2 * round + rank + 1);
                (void)fixture_push(f.workers[rank], "w", g[rank], ELEMENTS, 0, rank == 1);
            }
            for (uint32_t i = 0; i < ELEMENTS; i++) {
                sum[i] = (double)g[0][i] + (double)g[1][i];
            }
            lamb_update(&model, sum);
            check_value(f.workers[0], &model);
        }
        memcpy(first[c], f.workers[0]->value, sizeof first[c]);
        fixture_close(&f);
    }
    for (size_t c = 1; c < sizeof cuts / sizeof cuts[0]; c++) {
        for (uint32_t i = 0; i < ELEMENTS; i++) { /* sums of squares in another order */
            assert_true(fabsf(first[c][i] - first[0][i]) < 1e-6f);
        }
    }
}

/* Both workers' pushes are under way at once, and shards take their turns in any order: the updates
 * are whole, one after the other in one order, which is that of the first part. */
static void pushes_of_an_asynchronous_store_are_whole(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 200; seed++) {
        fixture f;
        float g[2][ELEMENTS];
        float w[ELEMENTS];
        uint32_t random = seed * 2654435761u;
        open_store(&f, "dist_async", 2, 4, true);
        fill(w, 0);
        for (uint32_t rank = 0; rank < 2; rank++) {
            fill(g[rank], rank + 1);
            (void)fixture_push(f.workers[rank], "w", g[rank], ELEMENTS, 0, false);
        }
        while (f.ready_count > 0) {
            random = random * 1664525u + 1013904223u;
            fixture_run(&f, f.ready[(random >> 16) % f.ready_count]);
        }
        (void)fixture_pull(f.workers[0], "w", 0);
        fixture_run_all(&f);
        bool fits[2] = {true, true};
        for (uint32_t order = 0; order < 2; order++) {
            lamb model;
            lamb_init(&model, w);
            for (uint32_t turn = 0; turn < 2; turn++) {
                double one[ELEMENTS];
                for (uint32_t i = 0; i < ELEMENTS; i++) {
                    one[i] = (double)g[turn ^ order][i];
                }
                lamb_update(&model, one);
            }
            for (uint32_t i = 0; i < ELEMENTS; i++) {
                fits[order] =
                    fits[order] && fabs((double)f.workers[0]->value[i] - model.w[i]) <= 1e-5;
            }
        }
        if (!fits[0] && !fits[1]) {
            fail_msg("seed %u: neither order of two whole updates gives this value", seed);
        }
        fixture_close(&f);
    }
}

/* Rank 1 goes after the first of its parts: no part of the round counts, whose norm nobody knows.
 */
static void a_torn_push_fails_the_round_of_all_parts(void **state)
{
    (void)state;
    fixture f;
    float g[ELEMENTS];
    float w[ELEMENTS];
    lamb model;
    open_store(&f, "dist_sync", 2, 16, false);
    fill(w, 0);
    fill(g, 1);
    lamb_init(&model, w);
    uint64_t sequence = fixture_push(f.workers[0], "w", g, ELEMENTS, 0, false);
    fixture_push_at(f.workers[1], "w", g, 16, 1, 0, false);
    kvs_session_leave(f.workers[1]->session, f.now_ns);
    for (uint64_t part = 0; part < 3; part++) {
        assert_int_equal(fixture_status(f.workers[0], sequence + part), KVS_ROUND_FAILED);
    }
    check_value(f.workers[0], &model);
    fixture_worker *again = fixture_join(&f, 1);
    (void)fixture_push(f.workers[0], "w", g, ELEMENTS, 0, false);
    (void)fixture_push(again, "w", g, ELEMENTS, 0, false);
    double sum[ELEMENTS];
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        sum[i] = 2 * (double)g[i];
    }
    lamb_update(&model, sum);
    check_value(again, &model);
    fixture_close(&f);
}

/* In an asynchronous store it is the torn push alone that fails. */
static void a_torn_push_of_an_asynchronous_store_leaves_nothing(void **state)
{
    (void)state;
    fixture f;
    float g[ELEMENTS];
    float w[ELEMENTS];
    double one[ELEMENTS];
    lamb model;
    open_store(&f, "dist_async", 2, 16, false);
    fill(w, 0);
    fill(g, 1);
    lamb_init(&model, w);
    fixture_push_at(f.workers[1], "w", g, 16, 1, 0, false);
    uint64_t sequence = fixture_push(f.workers[0], "w", g, ELEMENTS, 0, false);
    assert_int_equal(fixture_status(f.workers[0], sequence), KVS_STATUS_COUNT);
    kvs_session_leave(f.workers[1]->session, f.now_ns);
    assert_int_equal(fixture_status(f.workers[0], sequence), KVS_OK);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        one[i] = (double)g[i];
    }
    lamb_update(&model, one);
    check_value(f.workers[0], &model);
    fixture_close(&f);
}

/* A worker that gives a part of a key and lives on is left out when the round's deadline is over.
 */
static void a_push_that_never_gets_whole_ends_its_session(void **state)
{
    (void)state;
    fixture f;
    float g[ELEMENTS];
    open_store(&f, "dist_async", 2, 16, false);
    fill(g, 1);
    fixture_push_at(f.workers[1], "w", g, 16, 1, 0, false);
    uint64_t sequence = fixture_push(f.workers[0], "w", g, ELEMENTS, 0, false);
    for (int i = 0; i < 400 && fixture_status(f.workers[0], sequence) == KVS_STATUS_COUNT; i++) {
        assert_int_equal(kvs_session_heartbeat(f.workers[0]->session, f.now_ns), KVS_OK);
        if (kvs_session_heartbeat(f.workers[1]->session, f.now_ns) != KVS_OK) {
            break;
        }
        fixture_tick(&f, UINT64_C(1000000000));
    }
    assert_int_equal(fixture_status(f.workers[0], sequence), KVS_OK);
    fixture_close(&f);
}

/* So it is in a synchronous store, where the other parts have no open round: whoever gives a part
 * alone, and waits for its answer, gets one. */
static void a_push_that_misses_parts_ends_at_the_deadline(void **state)
{
    (void)state;
    static const kvs_policy policies[] = {KVS_POLICY_FAIL, KVS_POLICY_SHRINK};
    float g[ELEMENTS];
    fill(g, 1);
    for (size_t i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        fixture f;
        open_store_with(&f, "dist_sync", 1, 16, false, policies[i]);
        fixture_push_at(f.workers[0], "w", g, 16, 1, 0, false);
        for (int s = 0; s < 400 && fixture_status(f.workers[0], 1) == KVS_STATUS_COUNT; s++) {
            (void)!kvs_session_heartbeat(f.workers[0]->session, f.now_ns);
            fixture_tick(&f, UINT64_C(1000000000));
        }
        assert_int_equal(fixture_status(f.workers[0], 1), KVS_ROUND_FAILED);
        assert_int_equal(fixture_answer_of(f.workers[0], 1)->detail[0], 'm'); /* "missing ranks" */
        fixture_close(&f);
    }
}

/* A value that is assigned while a round waits for its norms has a norm of its own. */
static void what_is_assigned_meanwhile_is_measured_anew(void **state)
{
    (void)state;
    for (int sync = 0; sync < 2; sync++) {
        fixture f;
        float g[ELEMENTS];
        float w[ELEMENTS];
        lamb model;
        open_store(&f, sync ? "dist_sync" : "dist_async", 1, 16, false);
        fill(g, 1);
        fixture_push_at(f.workers[0], "w", g, 16, 1, 0, false); /* the first part waits */
        fixture_wait wait;
        kvs_shape shape = {.rank = 1, .size = {ELEMENTS}};
        fill(w, 9);
        fixture_wait_begin(&wait, 0);
        kvs_store_assign(f.store, "w", 1, KVS_F32, &shape, w, sizeof w, NULL, NULL, &wait.waiter,
                         f.now_ns);
        assert_int_equal(wait.calls, 1);
        assert_int_equal(wait.problem.status, KVS_OK);
        fixture_push_tail(f.workers[0], "w", g, ELEMENTS, 16, 2, 0);
        double one[ELEMENTS];
        for (uint32_t i = 0; i < ELEMENTS; i++) {
            one[i] = (double)g[i];
        }
        lamb_init(&model, w);
        lamb_update(&model, one);
        check_value(f.workers[0], &model);
        fixture_close(&f);
    }
}

/* So has a round during which the rule goes to one without norms. */
static void a_rule_without_norms_ends_the_wait(void **state)
{
    (void)state;
    for (int sync = 0; sync < 2; sync++) {
        fixture f;
        float g[ELEMENTS];
        float w[ELEMENTS];
        open_store(&f, sync ? "dist_sync" : "dist_async", 1, 16, false);
        fill(g, 1);
        fill(w, 0);
        fixture_push_at(f.workers[0], "w", g, 16, 1, 0, false);
        assert_int_equal(fixture_status(f.workers[0], 1), KVS_STATUS_COUNT);
        /* With a state that the other rule did not have: its first step is that of sgd. */
        fixture_optimizer(&f, "{\"name\": \"nag\", \"learning_rate\": 0.5, \"wd\": 0, "
                              "\"momentum\": 1}");
        assert_int_equal(fixture_status(f.workers[0], 1), KVS_OK);
        fixture_push_tail(f.workers[0], "w", g, ELEMENTS, 16, 2, 0);
        (void)fixture_pull(f.workers[0], "w", 0);
        for (uint32_t i = 0; i < ELEMENTS; i++) {
            assert_true(f.workers[0]->value[i] == w[i] - g[i]);
        }
        fixture_close(&f);
    }
}

static void a_gradient_is_clipped_by_the_norm_of_the_whole(void **state)
{
    (void)state;
    fixture f;
    float g[ELEMENTS];
    float w[ELEMENTS];
    double square = 0;
    open_store(&f, "dist_sync", 1, 4, false);
    fixture_optimizer(&f,
                      "{\"name\": \"sgd\", \"learning_rate\": 1, \"wd\": 0, \"clip_norm\": 0.5}");
    fill(g, 1);
    fill(w, 0);
    (void)fixture_push(f.workers[0], "w", g, ELEMENTS, 0, false);
    (void)fixture_pull(f.workers[0], "w", 0);
    for (uint32_t i = 0; i < ELEMENTS; i++) {
        double step = (double)(w[i] - f.workers[0]->value[i]);
        square += step * step;
    }
    assert_true(fabs(sqrt(square) - 0.5) < 1e-6);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_are_those_of_the_whole_however_it_is_cut),
        cmocka_unit_test(pushes_of_an_asynchronous_store_are_whole),
        cmocka_unit_test(a_torn_push_fails_the_round_of_all_parts),
        cmocka_unit_test(a_torn_push_of_an_asynchronous_store_leaves_nothing),
        cmocka_unit_test(a_push_that_never_gets_whole_ends_its_session),
        cmocka_unit_test(a_push_that_misses_parts_ends_at_the_deadline),
        cmocka_unit_test(what_is_assigned_meanwhile_is_measured_anew),
        cmocka_unit_test(a_rule_without_norms_ends_the_wait),
        cmocka_unit_test(a_gradient_is_clipped_by_the_norm_of_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
