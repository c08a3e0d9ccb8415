/* Every allocation of every operation of the engine fails once, and from there on: nothing crashes,
 * hangs or leaks, what was refused has changed nothing, and the next try succeeds. */
#include "engine/store.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/failing_alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const float zeros[10];
static const float ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

typedef struct world {
    fixture f;
    fixture_worker *a, *b;
    kvs_optimizer *optimizer;
    kvs_snapshot held; /* pins the value, so that an update needs a new buffer */
} world;

/* What anybody can see of a store. */
typedef struct seen {
    uint64_t keys, parts, live, version;
    char optimizer[512];
    float value[10];
} seen;

static void look(world *w, seen *out)
{
    kvs_store_info info;
    kvs_snapshot snapshot;
    fixture_wait wait;
    kvs_optimizer *optimizer = kvs_store_optimizer(w->f.store);
    memset(out, 0, sizeof *out);
    kvs_store_describe(w->f.store, &info);
    out->keys = info.keys;
    out->parts = info.parts;
    out->live = info.live_workers;
    (void)snprintf(out->optimizer, sizeof out->optimizer, "%s",
                   optimizer == NULL ? "" : kvs_optimizer_json(optimizer));
    kvs_optimizer_unref(optimizer);
    fixture_wait_begin(&wait, 0);
    kvs_store_read(w->f.store, "w", 1, &snapshot, &wait.waiter, w->f.now_ns);
    fixture_run_all(&w->f);
    assert_int_equal(wait.calls, 1);
    if (wait.problem.status == KVS_OK) {
        out->version = snapshot.info.version.count;
        for (size_t i = 0; i < snapshot.parts; i++) {
            memcpy(out->value + 4 * i, snapshot.data[i], i < 2 ? 16 : 8);
        }
        kvs_snapshot_deinit(&snapshot);
    }
}

/* What the waiter was told, once all has run. */
static kvs_status waited(world *w, fixture_wait *wait)
{
    fixture_run_all(&w->f);
    assert_int_equal(wait->calls, 1); /* whatever happened, it was told */
    return wait->problem.status;
}

typedef struct operation {
    const char *name;
    void (*prepare)(world *w); /* with memory, before each try; may be NULL */
    kvs_status (*run)(world *w, uint64_t n, bool goes_on, bool *failed);
    bool bare;     /* before any key, optimizer or worker */
    bool advances; /* a refusal may cost a version, but no byte */
} operation;

static kvs_status ended(kvs_status status, bool *failed)
{
    *failed = failing_alloc_end();
    return status;
}

/* ------------------------------------------------------------------ operations */

static kvs_status open_engine(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_engine *engine = NULL;
    kvs_engine_options options = {.backend = w->f.backend, .shards = 2, .epoch = 1};
    failing_alloc_begin(n, goes_on);
    kvs_status status = ended(kvs_engine_open(&options, &engine), failed);
    kvs_engine_close(engine);
    return status;
}

static kvs_status create_store(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_problem problem;
    kvs_store *store = NULL;
    kvs_store_options options = {.name = "other", .type = "dist_sync", .num_workers = 3};
    failing_alloc_begin(n, goes_on);
    kvs_status status = ended(kvs_store_create(w->f.engine, &options, &store, &problem), failed);
    assert_true(status == KVS_OK || store == NULL);
    kvs_store_unref(store);
    return status;
}

static kvs_status delete_store(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_problem problem;
    kvs_store *store = NULL;
    kvs_store_options options = {.name = "other", .type = "dist_sync", .num_workers = 3};
    assert_int_equal(kvs_store_create(w->f.engine, &options, &store, &problem), KVS_OK);
    failing_alloc_begin(n, goes_on);
    kvs_status status = kvs_store_delete(w->f.engine, "other", w->f.now_ns, &problem);
    fixture_run_all(&w->f);
    kvs_store_unref(store); /* whoever runs turns by hand keeps the store meanwhile */
    return ended(status, failed);
}

static kvs_status register_worker(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_problem problem;
    kvs_session *session = NULL;
    kvs_session_info info;
    kvs_register request = {.type = "", .worker = "w", .rank = -1};
    failing_alloc_begin(n, goes_on);
    kvs_status status =
        kvs_session_register(w->f.store, &request, w->f.now_ns, &session, &info, &problem);
    fixture_run_all(&w->f);
    (void)ended(status, failed);
    assert_true(status == KVS_OK || session == NULL);
    if (status == KVS_OK) {
        kvs_session_leave(session, w->f.now_ns);
        fixture_run_all(&w->f);
    }
    kvs_session_unref(session);
    return status;
}

static kvs_status init_keys(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    fixture_wait wait;
    uint8_t packed[16];
    kvs_shape shape = {.rank = 1, .size = {10}};
    kvs_part_header header = {.dtype = KVS_F32,
                              .has_shape = true,
                              .shape = packed,
                              .shape_bytes = kvs_shape_pack(&shape, packed),
                              .key_bytes = 2};
    char names[20][3];
    fixture_wait_begin(&wait, 0);
    failing_alloc_begin(n, goes_on);
    kvs_status status = kvs_init_open(w->f.store, NULL, &init, &problem);
    for (int i = 0; i < 60 && status == KVS_OK; i++) {
        names[i / 3][0] = 'k';
        names[i / 3][1] = (char)('a' + i / 3);
        header.key = names[i / 3];
        header.element_offset = (uint64_t)(i % 3) * 4;
        header.element_count = i % 3 == 2 ? 2 : 4;
        kvs_span span = {(const uint8_t *)ones, (size_t)header.element_count * 4};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        status = kvs_init_part(init, &header, &payload, &problem);
    }
    if (status == KVS_OK) {
        kvs_init_commit(init, &wait.waiter, w->f.now_ns);
        status = waited(w, &wait);
    }
    (void)ended(status, failed);
    kvs_init_close(init);
    return status;
}

static kvs_status set_optimizer(world *w, uint64_t n, bool goes_on, bool *failed)
{
    fixture_wait wait;
    fixture_wait_begin(&wait, 0);
    failing_alloc_begin(n, goes_on);
    kvs_store_set_optimizer(w->f.store, w->optimizer, &wait.waiter, w->f.now_ns);
    return ended(waited(w, &wait), failed);
}

static kvs_status read_value(world *w, uint64_t n, bool goes_on, bool *failed)
{
    fixture_wait wait;
    kvs_snapshot snapshot;
    fixture_wait_begin(&wait, 0);
    failing_alloc_begin(n, goes_on);
    kvs_store_read(w->f.store, "w", 1, &snapshot, &wait.waiter, w->f.now_ns);
    kvs_status status = ended(waited(w, &wait), failed);
    if (status == KVS_OK) {
        kvs_snapshot_deinit(&snapshot);
    }
    return status;
}

static kvs_status assign_value(world *w, uint64_t n, bool goes_on, bool *failed)
{
    fixture_wait wait;
    kvs_version version;
    kvs_shape shape = {.rank = 1, .size = {10}};
    fixture_wait_begin(&wait, 0);
    failing_alloc_begin(n, goes_on);
    kvs_store_assign(w->f.store, "w", 1, KVS_F32, &shape, ones, sizeof ones, NULL, &version,
                     &wait.waiter, w->f.now_ns);
    return ended(waited(w, &wait), failed);
}

static kvs_status list_rounds(world *w, uint64_t n, bool goes_on, bool *failed)
{
    fixture_wait wait;
    kvs_round_info info;
    kvs_rounds rounds = {.max = 1, .rounds = &info};
    fixture_wait_begin(&wait, 0);
    failing_alloc_begin(n, goes_on);
    kvs_store_rounds(w->f.store, &rounds, &wait.waiter, w->f.now_ns);
    return ended(waited(w, &wait), failed);
}

static kvs_status enter_barrier(world *w, uint64_t n, bool goes_on, bool *failed)
{
    fixture_wait wait[2];
    kvs_barrier_result result[2];
    for (uint32_t i = 0; i < 2; i++) {
        fixture_wait_begin(&wait[i], 0);
    }
    failing_alloc_begin(n, goes_on);
    for (uint32_t i = 0; i < 2; i++) {
        kvs_barrier_enter(w->f.store, i, "b", &result[i], &wait[i].waiter, w->f.now_ns);
    }
    fixture_run_all(&w->f);
    (void)ended(KVS_OK, failed);
    for (uint32_t i = 0; i < 2; i++) {
        if (wait[i].calls == 0) { /* the other was refused: it comes again */
            kvs_barrier_result again;
            fixture_wait other;
            fixture_wait_begin(&other, 0);
            kvs_barrier_enter(w->f.store, 1 - i, "b", &again, &other.waiter, w->f.now_ns);
            assert_int_equal(wait[i].problem.status, KVS_OK);
            assert_int_equal(other.problem.status, KVS_OK);
        }
        assert_int_equal(wait[i].calls, 1);
    }
    return wait[0].problem.status != KVS_OK ? wait[0].problem.status : wait[1].problem.status;
}

static kvs_status leave(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_store_info before, after;
    kvs_store_describe(w->f.store, &before);
    failing_alloc_begin(n, goes_on);
    kvs_session_leave(w->b->session, w->f.now_ns);
    fixture_run_all(&w->f);
    (void)ended(KVS_OK, failed);
    kvs_store_describe(w->f.store, &after);
    return after.live_workers < before.live_workers ? KVS_OK : KVS_NO_MEMORY;
}

/* The answer to a sequence; the first bad one of three. */
static kvs_status answer_of(fixture_worker *worker, uint64_t first, int count)
{
    for (int i = 0; i < count; i++) {
        kvs_status status = fixture_status(worker, first + (uint64_t)i);
        if (status != KVS_OK) {
            return status;
        }
    }
    return KVS_OK;
}

/* A whole round of both, the higher rank first, with the parts that were turned away sent again. */
static kvs_status push_round(world *w, uint64_t n, bool goes_on, bool *failed)
{
    fixture_worker *both[2] = {w->b, w->a};
    kvs_status status = KVS_OK;
    uint64_t first = w->a->sequence;
    for (int i = 0; i < 2; i++) {
        (void)fixture_push(both[i], "w", ones, 10, 0, true);
    }
    failing_alloc_begin(n, goes_on);
    fixture_run_all(&w->f);
    (void)ended(KVS_OK, failed);
    for (int i = 0; i < 2; i++) {
        for (uint64_t p = 0; p < 3; p++) {
            kvs_status answer = fixture_status(both[i], first + p);
            if (answer == KVS_STATUS_COUNT) {
                continue; /* waits for a part of the other that was refused */
            }
            status = status == KVS_OK ? answer : status;
            if (answer == KVS_OVER_CREDIT) { /* has not used its sequence */
                fixture_push_tail(both[i], "w", ones, p == 2 ? 10 : 4 * p + 4, 4 * p, first + p, 0);
            } else if (answer != KVS_OK) { /* it has had its turn, and the round has failed */
                assert_true(answer == KVS_NO_MEMORY || answer == KVS_ROUND_FAILED);
            }
        }
    }
    uint64_t last = w->a->sequence > w->b->sequence ? w->a->sequence : w->b->sequence;
    fixture_run_all(&w->f);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(both[i]->credit_back, both[i]->bytes_pushed);
        both[i]->sequence = last;
        fixture_resume(both[i], last);
    }
    fixture_run_all(&w->f);
    assert_int_equal(answer_of(w->a, first, 0), KVS_OK);
    return status;
}

static kvs_status pull_value(world *w, uint64_t n, bool goes_on, bool *failed)
{
    uint64_t s = fixture_pull(w->a, "w", 0);
    failing_alloc_begin(n, goes_on);
    fixture_run_all(&w->f);
    (void)ended(KVS_OK, failed);
    kvs_status status = fixture_status(w->a, s);
    if (status == KVS_TOO_MANY) { /* has not used its sequence */
        w->a->sequence = s;
    }
    return status;
}

static kvs_status pull_snapshot(world *w, uint64_t n, bool goes_on, bool *failed)
{
    kvs_pull_key pull = {
        .key = "w", .key_bytes = 1, .sequence = w->a->sequence++, .snapshot = true};
    fixture_pull_keys(w->a, &pull, 1);
    failing_alloc_begin(n, goes_on);
    fixture_run_all(&w->f);
    (void)ended(KVS_OK, failed);
    kvs_status status = fixture_status(w->a, pull.sequence);
    if (status == KVS_TOO_MANY) {
        w->a->sequence = pull.sequence;
    }
    return status;
}

/* ------------------------------------------------------------------ the worlds */

static void open_world(world *w, bool bare, bool with_rule)
{
    static const char rule[] = "{\"name\":\"sgd\",\"learning_rate\":1,\"momentum\":0.5,\"wd\":0}";
    static const char next[] = "{\"name\":\"adam\"}";
    kvs_problem problem;
    memset(w, 0, sizeof *w);
    fixture_open(&w->f, &(fixture_options){.type = "dist_sync",
                                           .num_workers = bare ? 3 : 2,
                                           .part_elements = 4,
                                           .manual = true});
    assert_int_equal(kvs_optimizer_parse(next, strlen(next), &w->optimizer, &problem), KVS_OK);
    w->a = fixture_join(&w->f, 0);
    w->b = fixture_join(&w->f, 1);
    fixture_run_all(&w->f);
    fixture_init(&w->f, "w", zeros, 10);
    if (with_rule) {
        fixture_optimizer(&w->f, rule);
    }
    fixture_wait wait;
    fixture_wait_begin(&wait, 0);
    kvs_store_read(w->f.store, "w", 1, &w->held, &wait.waiter, w->f.now_ns);
    fixture_run_all(&w->f);
    assert_int_equal(wait.problem.status, KVS_OK);
}

static void close_world(world *w)
{
    kvs_snapshot_deinit(&w->held);
    kvs_optimizer_unref(w->optimizer);
    fixture_close(&w->f);
}

static const operation operations[] = {
    {.name = "open engine", .run = open_engine},
    {.name = "create store", .run = create_store},
    {.name = "delete store", .run = delete_store},
    {.name = "register", .run = register_worker, .bare = true},
    {.name = "init", .run = init_keys},
    {.name = "set optimizer", .run = set_optimizer},
    {.name = "read", .run = read_value},
    {.name = "assign", .run = assign_value},
    {.name = "rounds", .run = list_rounds},
    {.name = "barrier", .run = enter_barrier},
    {.name = "leave", .run = leave},
    {.name = "push", .run = push_round, .advances = true},
    {.name = "pull", .run = pull_value},
    {.name = "snapshot", .run = pull_snapshot},
};

/* The n-th allocation fails (and all after it). True when it was reached. */
static bool once(const operation *o, uint64_t n, bool goes_on, bool with_rule)
{
    world w;
    seen before, after;
    bool failed = false;
    bool again = false;
    open_world(&w, o->bare, with_rule);
    look(&w, &before);
    kvs_status status = o->run(&w, n, goes_on, &failed);
    if (status != KVS_OK) {
        if (!failed || (status != KVS_NO_MEMORY && status != KVS_OVER_CREDIT &&
                        status != KVS_TOO_MANY && (status != KVS_ROUND_FAILED || !o->advances))) {
            fail_msg("%s: %s at allocation %llu", o->name, kvs_status_find(status)->reason,
                     (unsigned long long)n);
        }
        look(&w, &after);
        if (o->advances) {
            /* Each part had its round, with both contributions or with none. */
            assert_int_equal(after.version, 1);
            for (int i = 0; i < 10; i++) {
                float sum = with_rule ? -2.0f : 2.0f;
                assert_true(after.value[i] == sum || after.value[i] == 0.0f);
            }
        } else if (memcmp(&before, &after, sizeof before) != 0) {
            fail_msg("%s: allocation %llu failed and the state has changed", o->name,
                     (unsigned long long)n);
        }
        status = o->run(&w, 0, false, &again);
        if (status != KVS_OK) {
            fail_msg("%s: %s again after allocation %llu", o->name, kvs_status_find(status)->reason,
                     (unsigned long long)n);
        }
    }
    close_world(&w);
    return failed;
}

static void torture(bool with_rule)
{
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        uint64_t counts[2];
        for (int goes_on = 0; goes_on < 2; goes_on++) {
            uint64_t n = 1;
            while (once(&operations[i], n, goes_on != 0, with_rule)) {
                n++;
                assert_true(n < 2000);
            }
            counts[goes_on] = n - 1;
        }
        print_message("%-14s %llu allocations\n", operations[i].name,
                      (unsigned long long)counts[0]);
        assert_true(counts[0] > 0); /* else nothing was tried */
    }
}

static void a_store_without_an_optimizer_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(false);
}

static void a_store_with_an_optimizer_survives_every_failed_allocation(void **state)
{
    (void)state;
    torture(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_without_an_optimizer_survives_every_failed_allocation),
        cmocka_unit_test(a_store_with_an_optimizer_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
