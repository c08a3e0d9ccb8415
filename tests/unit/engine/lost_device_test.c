/* A device that is lost: whoever waits is told so, at once; nobody is told that it was done. */
#include "engine/states.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/failing_backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define RULE "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5,\"wd\":0}"
#define OTHER_RULE "{\"name\":\"adam\"}"

static const float zeros[8];
static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};

typedef struct world {
    fixture f;
    kvs_backend *backend;
    fixture_wait read, assign, rule, capture;
    kvs_snapshot snapshot;
    kvs_version version;
    kvs_capture *captured;
} world;

static void open_world(world *w, kvs_policy policy)
{
    memset(w, 0, sizeof *w);
    w->backend = failing_backend_open();
    fixture_open(&w->f, &(fixture_options){.type = "dist_sync",
                                           .num_workers = 2,
                                           .part_elements = 4,
                                           .policy = policy,
                                           .backend = w->backend});
    (void)fixture_join(&w->f, 0);
    (void)fixture_join(&w->f, 1);
    fixture_init(&w->f, "w", zeros, 8);
    fixture_optimizer(&w->f, RULE);
}

static void close_world(world *w)
{
    kvs_capture_close(w->captured);
    kvs_snapshot_deinit(&w->snapshot);
    fixture_close(&w->f);
}

static void begin_read(world *w)
{
    fixture_wait_begin(&w->read, 0);
    kvs_store_read(w->f.store, "w", 1, &w->snapshot, &w->read.waiter, w->f.now_ns);
}

static void begin_assign(world *w)
{
    kvs_shape shape = {.rank = 1, .size = {8}};
    fixture_wait_begin(&w->assign, 0);
    kvs_store_assign(w->f.store, "w", 1, KVS_F32, &shape, ones, sizeof ones, NULL, &w->version,
                     &w->assign.waiter, w->f.now_ns);
}

static void begin_rule(world *w)
{
    kvs_optimizer *optimizer = NULL;
    assert_int_equal(kvs_optimizer_parse(OTHER_RULE, strlen(OTHER_RULE), &optimizer, NULL), KVS_OK);
    fixture_wait_begin(&w->rule, 0);
    kvs_store_set_optimizer(w->f.store, optimizer, &w->rule.waiter, w->f.now_ns);
    kvs_optimizer_unref(optimizer);
}

static void begin_capture(world *w)
{
    fixture_wait_begin(&w->capture, 0);
    kvs_store_capture(w->f.store, true, &w->captured, &w->capture.waiter, w->f.now_ns);
}

static void told_of_the_device(const fixture_wait *wait)
{
    assert_int_equal(wait->calls, 1);
    assert_int_equal(wait->problem.status, KVS_DEVICE_LOST);
}

static void a_cut_that_meets_the_loss_is_told(void **state)
{
    world w;
    (void)state;
    for (uint64_t calls = 0; calls < 2; calls++) { /* the download, or the wait */
        open_world(&w, KVS_POLICY_FAIL);
        failing_backend_lose(calls);
        begin_read(&w);
        told_of_the_device(&w.read);
        assert_int_equal(w.snapshot.parts, 0);
        close_world(&w);
        open_world(&w, KVS_POLICY_FAIL);
        failing_backend_lose(calls);
        begin_assign(&w);
        told_of_the_device(&w.assign);
        assert_int_equal(w.version.epoch, 0);
        close_world(&w);
        open_world(&w, KVS_POLICY_FAIL);
        failing_backend_lose(calls);
        begin_capture(&w);
        told_of_the_device(&w.capture);
        assert_null(w.captured);
        close_world(&w);
    }
}

static void every_cut_after_the_loss_is_told(void **state)
{
    world w;
    (void)state;
    open_world(&w, KVS_POLICY_FAIL);
    failing_backend_lose(0);
    for (int i = 0; i < 2; i++) { /* both shards meet it */
        (void)fixture_push(w.f.workers[i], "w", ones, 8, 0, false);
        assert_int_equal(fixture_status(w.f.workers[i], 1), KVS_DEVICE_LOST);
        assert_int_equal(fixture_status(w.f.workers[i], 2), KVS_DEVICE_LOST);
    }
    begin_read(&w);
    told_of_the_device(&w.read);
    begin_assign(&w);
    told_of_the_device(&w.assign);
    begin_rule(&w);
    told_of_the_device(&w.rule);
    begin_capture(&w);
    told_of_the_device(&w.capture);
    uint64_t s = fixture_pull(w.f.workers[0], "w", 0);
    assert_int_equal(fixture_status(w.f.workers[0], s), KVS_DEVICE_LOST);
    close_world(&w);
}

/* Part 0 is a version ahead of part 1, for which the cuts wait when the device is lost. */
static void what_waits_for_a_version_is_told_when_the_device_is_lost(void **state)
{
    world w;
    (void)state;
    open_world(&w, KVS_POLICY_WAIT);
    fixture_push_at(w.f.workers[0], "w", ones, 4, 1, 0, false);
    fixture_push_at(w.f.workers[1], "w", ones, 4, 1, 0, false);
    fixture_push_tail(w.f.workers[0], "w", ones, 8, 4, 2, 0); /* waits for rank 1's */
    begin_read(&w);
    begin_assign(&w);
    begin_capture(&w);
    assert_int_equal(w.read.calls + w.assign.calls + w.capture.calls, 0);
    kvs_pull_key pull = {.key = "w", .key_bytes = 1, .sequence = 3, .min_version = {7, 9}};
    fixture_pull_keys(w.f.workers[0], &pull, 1);
    failing_backend_lose(0);
    fixture_push_tail(w.f.workers[1], "w", ones, 8, 4, 2, 0);
    assert_int_equal(fixture_status(w.f.workers[0], 2), KVS_DEVICE_LOST);
    assert_int_equal(fixture_status(w.f.workers[1], 2), KVS_DEVICE_LOST);
    told_of_the_device(&w.read);
    told_of_the_device(&w.assign);
    told_of_the_device(&w.capture);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_that_meets_the_loss_is_told),
        cmocka_unit_test(every_cut_after_the_loss_is_told),
        cmocka_unit_test(what_waits_for_a_version_is_told_when_the_device_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
