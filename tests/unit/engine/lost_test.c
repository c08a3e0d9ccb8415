/* A backend that fails: what waits is refused, what is saved is not what it left behind, and no
 * room for a download is a refusal of that pull alone. */
#include "engine/backend_cpu.h"
#include "engine/cut.h"
#include "engine/states.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
static const float zeros[8];

/* The CPU's backend, but for what the test makes fail. */
static struct {
    kvs_backend *backend;
    kvs_backend_table table;
    const kvs_backend_table *cpu;
    bool loses;   /* the next sync */
    bool no_host; /* there is no room to download to, */
    int rooms;    /* but for so many */
} faulty;

static kvs_status faulty_sync(kvs_stream *stream)
{
    if (faulty.loses) {
        faulty.backend->lost = 1;
        return KVS_DEVICE_LOST;
    }
    return faulty.cpu->sync(stream);
}

static kvs_status faulty_alloc_host(kvs_backend *backend, kvs_memory *memory)
{
    if (faulty.no_host && faulty.rooms-- <= 0) {
        memory->host = NULL; /* as a device has it */
        return KVS_NO_MEMORY;
    }
    memory->host = memory->data;
    return faulty.cpu->alloc_host(backend, memory);
}

/* A store of two workers, and a key of two parts. */
static void open_faulty(fixture *f)
{
    kvs_problem problem;
    memset(&faulty, 0, sizeof faulty);
    assert_int_equal(kvs_backend_cpu_open(NULL, &faulty.backend, &problem), KVS_OK);
    faulty.cpu = faulty.backend->table;
    faulty.table = *faulty.cpu;
    faulty.table.sync = faulty_sync;
    faulty.table.alloc_host = faulty_alloc_host;
    faulty.backend->table = &faulty.table;
    fixture_open(f, &(fixture_options){.type = "dist_sync",
                                       .num_workers = 2,
                                       .part_elements = 4,
                                       .shards = 1,
                                       .backend = faulty.backend});
    (void)fixture_join(f, 0);
    (void)fixture_join(f, 1);
    fixture_init(f, "w", zeros, 8);
}

/* Rank 0 waits for its rounds; rank 1 ends that of the second part, and the device goes. */
static uint64_t lose(fixture *f)
{
    uint64_t first = fixture_push(f->workers[0], "w", ones, 8, 0, false);
    assert_int_equal(fixture_status(f->workers[0], first), KVS_STATUS_COUNT);
    faulty.loses = true;
    fixture_push_tail(f->workers[1], "w", ones, 8, 4, 2, 0);
    return first;
}

static void who_waits_for_a_lost_device_is_told(void **state)
{
    fixture f;
    (void)state;
    open_faulty(&f);
    assert_false(kvs_engine_lost(f.engine));
    uint64_t first = lose(&f);
    assert_true(kvs_engine_lost(f.engine));
    assert_int_equal(fixture_status(f.workers[1], 2), KVS_DEVICE_LOST);
    assert_int_equal(fixture_status(f.workers[0], first + 1), KVS_DEVICE_LOST);
    /* Its round had not closed, and never will. */
    assert_int_equal(fixture_status(f.workers[0], first), KVS_DEVICE_LOST);
    fixture_close(&f);
}

static void a_lost_device_refuses_all_that_comes(void **state)
{
    fixture f;
    (void)state;
    open_faulty(&f);
    (void)lose(&f);
    uint64_t pushed = fixture_push(f.workers[0], "w", ones, 8, 0, true);
    assert_int_equal(fixture_status(f.workers[0], pushed), KVS_DEVICE_LOST);
    uint64_t pulled = fixture_pull(f.workers[0], "w", 0);
    assert_int_equal(fixture_status(f.workers[0], pulled), KVS_DEVICE_LOST);
    assert_int_equal(f.workers[0]->values, 0);
    fixture_close(&f);
}

static void nothing_is_read_or_saved_from_a_lost_device(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_snapshot snapshot;
    kvs_capture *capture = NULL;
    (void)state;
    open_faulty(&f);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5}");
    (void)lose(&f);
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f.store, true, &capture, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_DEVICE_LOST);
    assert_null(capture);
    fixture_wait_begin(&wait, 0);
    kvs_store_read(f.store, "w", 1, &snapshot, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_DEVICE_LOST);
    fixture_close(&f);
}

static void a_save_that_the_loss_meets_is_refused(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_capture *capture = NULL;
    (void)state;
    open_faulty(&f);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5}");
    faulty.loses = true;
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f.store, true, &capture, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_DEVICE_LOST);
    assert_null(capture);
    fixture_close(&f);
}

static void no_room_for_a_download_refuses_that_pull_alone(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_snapshot snapshot;
    kvs_capture *capture = NULL;
    (void)state;
    open_faulty(&f);
    fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5,\"wd\":0}");
    faulty.no_host = true;
    uint64_t pulled = fixture_pull(f.workers[0], "w", 0);
    assert_int_equal(fixture_status(f.workers[0], pulled), KVS_NO_MEMORY);
    fixture_wait_begin(&wait, 0);
    kvs_store_read(f.store, "w", 1, &snapshot, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_NO_MEMORY);
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f.store, true, &capture, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_NO_MEMORY);
    assert_null(capture);
    /* There is room for the encoding, and none for what it is of. */
    const kvs_read_wish halves = {.codec = KVS_CODEC_F16};
    faulty.rooms = 1;
    fixture_wait_begin(&wait, 0);
    kvs_key_read(f.store, kvs_key_table_find(&f.store->keys, "w", 1), &halves, &snapshot,
                 &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_NO_MEMORY);
    faulty.no_host = false;
    uint64_t first = fixture_push(f.workers[0], "w", ones, 8, 0, false);
    (void)fixture_push(f.workers[1], "w", ones, 8, 0, true);
    assert_int_equal(fixture_status(f.workers[0], first), KVS_OK);
    const float expected[8] = {-2, -2, -2, -2, -2, -2, -2, -2};
    assert_memory_equal(f.workers[1]->value, expected, sizeof expected);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_waits_for_a_lost_device_is_told),
        cmocka_unit_test(a_lost_device_refuses_all_that_comes),
        cmocka_unit_test(nothing_is_read_or_saved_from_a_lost_device),
        cmocka_unit_test(a_save_that_the_loss_meets_is_refused),
        cmocka_unit_test(no_room_for_a_download_refuses_that_pull_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
