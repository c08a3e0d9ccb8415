/* Every allocation of a save and a load of states, and of pushes and pulls of rows, fails once, and
 * from there on: what was refused has changed nothing, all is answered, the next try succeeds. */
#include "engine/states.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/failing_alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RULE "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5}"

/* Rows of key "e", two a part. */
#define ROWS 4
#define WIDTH 2
#define ELEMENTS (ROWS * WIDTH)

static const float ones[ELEMENTS] = {1, 1, 1, 1, 1, 1, 1, 1};
static const uint8_t ids[ROWS] = {0, 1, 2, 3};

typedef struct world {
    fixture f;
    fixture_worker *a;
    uint8_t *file;
    size_t file_bytes;
} world;

static void give_rows(fixture *f)
{
    kvs_problem problem;
    kvs_init *init = NULL;
    fixture_wait wait;
    uint8_t packed[16];
    kvs_shape shape = {.rank = 2, .size = {ROWS, WIDTH}};
    kvs_payload nothing = {0};
    assert_int_equal(kvs_init_open(f->store, NULL, &init, &problem), KVS_OK);
    for (uint64_t part = 0; part < 2; part++) {
        kvs_part_header header = {.key = "e",
                                  .key_bytes = 1,
                                  .dtype = KVS_F32,
                                  .storage = KVS_ROW_SPARSE,
                                  .has_shape = true,
                                  .shape = packed,
                                  .shape_bytes = kvs_shape_pack(&shape, packed),
                                  .element_offset = part * 4,
                                  .element_count = 4};
        assert_int_equal(kvs_init_part(init, &header, &nothing, &problem), KVS_OK);
    }
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f->now_ns);
    fixture_run_all(f);
    assert_int_equal(wait.problem.status, KVS_OK);
    kvs_init_close(init);
}

/* Two rows of each part, the second one first: so they are folded. */
static void send_rows(world *w)
{
    static const uint8_t descending[ROWS] = {1, 0, 3, 2};
    kvs_part_header headers[2];
    for (uint64_t part = 0; part < 2; part++) {
        headers[part] = (kvs_part_header){.key = "e",
                                          .key_bytes = 1,
                                          .dtype = KVS_F32,
                                          .storage = KVS_ROW_SPARSE,
                                          .element_offset = part * 4,
                                          .element_count = 4,
                                          .sequence = w->a->sequence++,
                                          .payload_bytes = 4 * sizeof(float),
                                          .row_ids = descending + 2 * part,
                                          .row_ids_bytes = 2};
    }
    fixture_push_parts(w->a, headers, 2, ones, sizeof ones, false);
}

/* ------------------------------------------------------------------ operations */

/* Reads all of it into the world's file, unless it has one. */
static kvs_status save(world *w, uint64_t n, bool goes_on, bool *failed)
{
    fixture_wait wait;
    kvs_problem problem;
    kvs_capture *capture = NULL;
    kvs_states *states = NULL;
    failing_alloc_begin(n, goes_on);
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(w->f.store, true, &capture, &wait.waiter, w->f.now_ns);
    fixture_run_all(&w->f);
    kvs_status status = wait.problem.status;
    if (status == KVS_OK) {
        status = kvs_states_open(capture, true, &states, &problem);
    }
    *failed = failing_alloc_end();
    assert_int_equal(wait.calls, 1);
    if (status != KVS_OK) {
        kvs_capture_close(capture);
        return status;
    }
    if (w->file == NULL) {
        w->file_bytes = (size_t)kvs_states_bytes(states);
        w->file = malloc(w->file_bytes);
        assert_non_null(w->file);
        for (size_t at = 0; at < w->file_bytes;) {
            kvs_span span = kvs_states_span(states, at);
            memcpy(w->file + at, span.data, span.bytes);
            at += span.bytes;
        }
    }
    kvs_states_close(states);
    return KVS_OK;
}

static kvs_status load(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_problem problem;
    kvs_states_load *loading = NULL;
    failing_alloc_begin(n, goes_on);
    kvs_status status = kvs_states_load_open(w->f.store, &loading, &problem);
    for (size_t at = 0; status == KVS_OK && at < w->file_bytes; at++) {
        status = kvs_states_load_append(loading, w->file + at, 1, &problem);
    }
    if (status == KVS_OK) {
        fixture_wait wait;
        fixture_wait_begin(&wait, 0);
        kvs_states_load_commit(loading, &wait.waiter, w->f.now_ns);
        fixture_run_all(&w->f);
        assert_int_equal(wait.calls, 1);
        status = wait.problem.status;
    }
    *failed = failing_alloc_end();
    kvs_states_load_close(loading);
    return status;
}

static kvs_status push_rows(world *w, uint64_t n, bool goes_on, bool *failed)
{
    uint64_t first = w->a->sequence;
    send_rows(w);
    failing_alloc_begin(n, goes_on);
    fixture_run_all(&w->f);
    *failed = failing_alloc_end();
    kvs_status status[2] = {fixture_status(w->a, first), fixture_status(w->a, first + 1)};
    for (int i = 0; i < 2; i++) {
        if (status[i] == KVS_OVER_CREDIT) { /* has not used its sequence */
            fixture_resume(w->a, first + 2);
        }
    }
    fixture_run_all(&w->f);
    assert_int_equal(w->a->credit_back, w->a->bytes_pushed);
    return status[0] != KVS_OK ? status[0] : status[1];
}

static kvs_status pull_rows(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_pull_key pull = {.key = "e",
                         .key_bytes = 1,
                         .sequence = w->a->sequence,
                         .row_ids = ids,
                         .row_ids_bytes = ROWS};
    fixture_pull_keys(w->a, &pull, 1);
    failing_alloc_begin(n, goes_on);
    fixture_run_all(&w->f);
    *failed = failing_alloc_end();
    kvs_status status = fixture_status(w->a, pull.sequence);
    w->a->sequence += status == KVS_TOO_MANY ? 0 : 1; /* has not used its sequence */
    return status;
}

/* ------------------------------------------------------------------ the worlds */

static void open_world(world *w)
{
    bool failed = false;
    memset(w, 0, sizeof *w);
    fixture_open(&w->f,
                 &(fixture_options){
                     .type = "dist_async", .num_workers = 1, .part_elements = 4, .manual = true});
    w->a = fixture_join(&w->f, 0);
    fixture_run_all(&w->f);
    give_rows(&w->f);
    fixture_init(&w->f, "w", ones, ELEMENTS);
    fixture_optimizer(&w->f, RULE);
    assert_int_equal(push_rows(w, 0, false, &failed), KVS_OK);
    assert_int_equal(save(w, 0, false, &failed), KVS_OK);
}

static void close_world(world *w)
{
    free(w->file);
    fixture_close(&w->f);
}

typedef kvs_status operation(world *w, uint64_t n, bool goes_on, bool *failed);

/* The n-th allocation fails (and all after it). True when it was reached. */
static bool once(operation *run, uint64_t n, bool goes_on)
{
    world w;
    bool failed = false;
    bool again = false;
    open_world(&w);
    kvs_status status = run(&w, n, goes_on, &failed);
    if (status != KVS_OK) {
        if (!failed ||
            (status != KVS_NO_MEMORY && status != KVS_OVER_CREDIT && status != KVS_TOO_MANY)) {
            fail_msg("%d at allocation %llu", (int)status, (unsigned long long)n);
        }
        assert_int_equal(run(&w, 0, false, &again), KVS_OK);
    }
    close_world(&w);
    return failed;
}

static void torture(operation *run)
{
    for (int goes_on = 0; goes_on < 2; goes_on++) {
        uint64_t n = 1;
        while (once(run, n, goes_on != 0)) {
            n++;
            assert_true(n < 2000);
        }
        assert_true(n > 1); /* else nothing was tried */
    }
}

static void a_save_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(save);
}

static void a_load_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(load);
}

static void a_push_of_rows_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(push_rows);
}

static void a_pull_of_rows_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(pull_rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_save_survives_every_failed_allocation),
        cmocka_unit_test(a_load_survives_every_failed_allocation),
        cmocka_unit_test(a_push_of_rows_survives_every_failed_allocation),
        cmocka_unit_test(a_pull_of_rows_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
