/* Rows that are wider than a part of a dense value: a part is then one row, and its f32 states take
 * twice the bytes of its f16 elements. */
#include "engine/states.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MASTERS "{\"name\":\"sgd\",\"learning_rate\":0.5,\"momentum\":0.9,\"multi_precision\":true}"

/* The widest row that is allowed. */
#define WIDTH (KVS_PART_BYTES_MAX / 2)

static void give_row(fixture *f, const uint16_t *row)
{
    kvs_problem problem;
    kvs_init *init = NULL;
    fixture_wait wait;
    uint8_t packed[16];
    kvs_shape shape = {.rank = 2, .size = {1, WIDTH}};
    kvs_span span = {.data = (const uint8_t *)row, .bytes = KVS_PART_BYTES_MAX};
    kvs_payload payload = {.spans = &span, .count = 1, .bytes = KVS_PART_BYTES_MAX};
    kvs_part_header header = {.key = "h",
                              .key_bytes = 1,
                              .dtype = KVS_F16,
                              .storage = KVS_ROW_SPARSE,
                              .has_shape = true,
                              .shape = packed,
                              .shape_bytes = kvs_shape_pack(&shape, packed),
                              .element_count = WIDTH,
                              .payload_bytes = KVS_PART_BYTES_MAX};
    assert_int_equal(kvs_init_open(f->store, NULL, &init, &problem), KVS_OK);
    assert_int_equal(kvs_init_part(init, &header, &payload, &problem), KVS_OK);
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f->now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    kvs_init_close(init);
}

static void push_row(fixture *f, const uint16_t *row)
{
    static const uint8_t first = 0;
    fixture_worker *worker = f->workers[0];
    kvs_part_header header = {.key = "h",
                              .key_bytes = 1,
                              .dtype = KVS_F16,
                              .storage = KVS_ROW_SPARSE,
                              .element_count = WIDTH,
                              .sequence = worker->sequence,
                              .payload_bytes = KVS_PART_BYTES_MAX,
                              .row_ids = &first,
                              .row_ids_bytes = 1};
    fixture_push_parts(worker, &header, 1, row, KVS_PART_BYTES_MAX, false);
    assert_int_equal(fixture_status(worker, worker->sequence++), KVS_OK);
}

static void open_store(fixture *f, const uint16_t *row)
{
    fixture_open(f, &(fixture_options){.type = "dist_sync", .num_workers = 1});
    (void)fixture_join(f, 0);
    give_row(f, row);
    fixture_optimizer(f, MASTERS);
}

static uint16_t *make_row(uint16_t value)
{
    uint16_t *row = malloc(KVS_PART_BYTES_MAX);
    assert_non_null(row);
    for (size_t i = 0; i < WIDTH; i++) {
        row[i] = value;
    }
    return row;
}

static kvs_states *save(fixture *f)
{
    fixture_wait wait;
    kvs_problem problem;
    kvs_capture *capture = NULL;
    kvs_states *states = NULL;
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f->store, false, &capture, &wait.waiter, f->now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    assert_int_equal(kvs_states_open(capture, false, &states, &problem), KVS_OK);
    return states;
}

static void a_wide_row_has_a_master(void **state)
{
    fixture f;
    uint16_t *row = make_row(0x3c00); /* 1 */
    (void)state;
    open_store(&f, row);
    push_row(&f, row);
    const kvs_key *key = kvs_key_table_find(&f.store->keys, "h", 1);
    const uint16_t *value = key->parts[0].value->memory.host;
    const float *master = key->parts[0].master->memory.host;
    assert_true(master[0] == 0.5F && master[WIDTH - 1] == 0.5F);
    assert_int_equal(value[WIDTH - 1], 0x3800); /* 0.5 */
    fixture_close(&f);
    free(row);
}

static void states_of_a_wide_row_are_loaded(void **state)
{
    fixture from;
    fixture to;
    kvs_problem problem;
    kvs_states_load *load = NULL;
    fixture_wait wait;
    uint16_t *row = make_row(0x3c00);
    (void)state;
    open_store(&from, row);
    open_store(&to, row);
    push_row(&from, row);
    kvs_states *states = save(&from);
    assert_int_equal(kvs_states_load_open(to.store, &load, &problem), KVS_OK);
    for (uint64_t at = 0; at < kvs_states_bytes(states);) {
        kvs_span span = kvs_states_span(states, at);
        assert_int_equal(kvs_states_load_append(load, span.data, span.bytes, &problem), KVS_OK);
        at += span.bytes;
    }
    fixture_wait_begin(&wait, 0);
    kvs_states_load_commit(load, &wait.waiter, to.now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    kvs_states_load_close(load);
    kvs_states *again = save(&to);
    assert_int_equal(kvs_states_hash(again), kvs_states_hash(states));
    kvs_states_close(again);
    kvs_states_close(states);
    fixture_close(&from);
    fixture_close(&to);
    free(row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wide_row_has_a_master),
        cmocka_unit_test(states_of_a_wide_row_are_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
