/* A backend of several devices: everything of a shard is where the shard is. */
#include "engine/backend_cpu.h"
#include "engine/states.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { DEVICES = 2, SHARDS = 4, ELEMENTS = 64 };

/* Two CPU backends behind one table; the second is where odd shards compute. */
static kvs_backend *device[DEVICES];
static kvs_backend_table table;
static const kvs_backend_table *cpu;
static unsigned allocations[DEVICES], streams[DEVICES];

static unsigned number_of(const kvs_backend *backend)
{
    return backend == device[0] ? 0 : 1;
}

static kvs_status count_alloc(kvs_backend *backend, size_t bytes, kvs_memory *out)
{
    allocations[number_of(backend)]++;
    return cpu->alloc(backend, bytes, out);
}

static kvs_status count_stream(kvs_backend *backend, kvs_stream **out)
{
    streams[number_of(backend)]++;
    return cpu->open_stream(backend, out);
}

static kvs_backend *place(kvs_backend *backend, uint32_t shard)
{
    assert_ptr_equal(backend, device[0]);
    return device[shard % DEVICES];
}

static void close_both(kvs_backend *backend)
{
    assert_ptr_equal(backend, device[0]);
    cpu->close(device[1]);
    cpu->close(device[0]);
}

static void open_placed(fixture *f)
{
    kvs_problem problem;
    memset(allocations, 0, sizeof allocations);
    memset(streams, 0, sizeof streams);
    for (size_t i = 0; i < DEVICES; i++) {
        assert_int_equal(kvs_backend_cpu_open(NULL, &device[i], &problem), KVS_OK);
        cpu = device[i]->table;
        table = *cpu;
        table.alloc = count_alloc;
        table.open_stream = count_stream;
        table.place = place;
        table.close = close_both;
        device[i]->table = &table;
    }
    fixture_open(f, &(fixture_options){.type = "dist_sync",
                                       .num_workers = 1,
                                       .part_elements = 4,
                                       .shards = SHARDS,
                                       .backend = device[0]});
    (void)fixture_join(f, 0);
}

static void shards_have_their_streams_and_values_on_their_devices(void **state)
{
    static const float zeros[ELEMENTS];
    fixture f;
    unsigned odd = 0;
    (void)state;
    open_placed(&f);
    assert_int_equal(streams[0], SHARDS / DEVICES);
    assert_int_equal(streams[1], SHARDS / DEVICES);
    fixture_init(&f, "w", zeros, ELEMENTS);
    for (uint64_t part = 0; part < ELEMENTS / 4; part++) {
        odd += kvs_shard_of("w", 1, part, SHARDS) % 2;
    }
    assert_true(odd > 0 && odd < ELEMENTS / 4);
    assert_int_equal(allocations[1], odd);
    assert_int_equal(allocations[0], ELEMENTS / 4 - odd);
    fixture_close(&f);
}

static void states_are_loaded_to_the_device_of_their_part(void **state)
{
    static const float ones[ELEMENTS] = {1, 1, 1, 1, 1, 1, 1, 1};
    fixture f;
    fixture_wait wait;
    kvs_problem problem;
    kvs_capture *capture = NULL;
    kvs_states *states = NULL;
    kvs_states_load *load = NULL;
    (void)state;
    open_placed(&f);
    fixture_init(&f, "w", ones, ELEMENTS);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5,\"wd\":0}");
    (void)fixture_push(f.workers[0], "w", ones, ELEMENTS, 0, false);
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f.store, false, &capture, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    assert_int_equal(kvs_states_open(capture, false, &states, &problem), KVS_OK);
    const unsigned before[DEVICES] = {allocations[0], allocations[1]};
    const unsigned opened[DEVICES] = {streams[0], streams[1]};
    assert_int_equal(kvs_states_load_open(f.store, &load, &problem), KVS_OK);
    for (uint64_t at = 0; at < kvs_states_bytes(states);) {
        kvs_span span = kvs_states_span(states, at);
        assert_int_equal(kvs_states_load_append(load, span.data, span.bytes, &problem), KVS_OK);
        at += span.bytes;
    }
    for (size_t i = 0; i < DEVICES; i++) {
        assert_true(allocations[i] > before[i]);
        assert_true(streams[i] > opened[i]);
    }
    fixture_wait_begin(&wait, 0);
    kvs_states_load_commit(load, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    kvs_states_load_close(load);
    kvs_states_close(states);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_have_their_streams_and_values_on_their_devices),
        cmocka_unit_test(states_are_loaded_to_the_device_of_their_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
