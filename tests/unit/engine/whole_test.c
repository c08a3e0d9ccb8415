/* Pushes that are whole or not at all, whatever of their memory is missing: those of a local store,
 * and those of a rule that needs norms. */
#include "engine/store.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/failing_alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PART 4u
#define FEW 10u              /* elements: three parts */
#define MANY (4u * 70u - 2u) /* seventy parts, more than a session has ops for at first */
#define BUFFER 64u           /* bytes of the smallest */

static const char *const rules[] = {
    NULL,
    "{\"name\": \"sgd\", \"learning_rate\": 0.5}",
    "{\"name\": \"sgd\", \"learning_rate\": 0.5, \"momentum\": 0.5}",
    "{\"name\": \"adam\"}",
    "{\"name\": \"lars\", \"momentum\": 0.9, \"wd\": 0.01}",
    "{\"name\": \"lamb\", \"wd\": 0.01}",
    "{\"name\": \"sgd\", \"learning_rate\": 0.5, \"clip_norm\": 0.25}",
};

#define RULES (sizeof rules / sizeof rules[0])

/* What anybody can see of the key, all of whose parts are at one version. */
typedef struct seen {
    uint64_t version;
    float value[MANY];
} seen;

static void fill(float *out, uint32_t seed)
{
    for (uint32_t i = 0; i < MANY; i++) {
        out[i] = (float)((i * 37 + seed * 101) % 89) / 40.0f - 1.0f;
    }
}

static void read_key(fixture *f, kvs_snapshot *out)
{
    fixture_wait wait;
    fixture_wait_begin(&wait, 0);
    kvs_store_read(f->store, "w", 1, out, &wait.waiter, f->now_ns);
    fixture_run_all(f);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_OK);
}

static void look(fixture *f, seen *out)
{
    kvs_snapshot snapshot;
    memset(out, 0, sizeof *out);
    read_key(f, &snapshot);
    out->version = snapshot.info.version.count;
    for (size_t i = 0; i < snapshot.parts; i++) {
        uint64_t left = snapshot.info.elements - i * PART;
        memcpy(out->value + i * PART, snapshot.data[i], 4 * (left < PART ? left : PART));
    }
    kvs_snapshot_deinit(&snapshot);
}

static void open_store(fixture *f, const char *type, uint32_t workers, uint32_t elements,
                       const char *rule)
{
    float w[MANY];
    fill(w, 0);
    bool local = strcmp(type, "local") == 0;
    fixture_open(f, &(fixture_options){.type = type,
                                       .num_workers = workers,
                                       .part_elements = PART,
                                       .shards = local ? 1 : 2,
                                       .manual = true});
    for (uint32_t i = 0; i < workers; i++) {
        fixture_join(f, i)->whole = local;
    }
    fixture_run_all(f);
    fixture_init(f, "w", w, elements);
    if (rule != NULL) {
        fixture_optimizer(f, rule);
    }
}

static uint64_t push(fixture_worker *worker, uint32_t elements, uint32_t seed)
{
    float g[MANY];
    fill(g, seed);
    return fixture_push(worker, "w", g, elements, worker->sequence - 1, false);
}

/* The first bad answer of the parts; all of them have one. */
static kvs_status answer(fixture_worker *worker, uint64_t first, uint64_t parts)
{
    kvs_status status = KVS_OK;
    for (uint64_t i = 0; i < parts; i++) {
        kvs_status one = fixture_status(worker, first + i);
        assert_int_not_equal(one, KVS_STATUS_COUNT);
        status = status == KVS_OK ? one : status;
    }
    return status;
}

/* No part has taken the push. */
static void check_refused(fixture_worker *worker, uint64_t first, uint64_t parts)
{
    for (uint64_t i = 0; i < parts; i++) {
        assert_int_not_equal(fixture_status(worker, first + i), KVS_OK);
    }
}

/* How a store ends that has had all the memory that it wanted: pushes 1, 2 ... `pushes`. */
static void run_rich(const char *rule, uint32_t elements, uint32_t pushes, seen *out)
{
    fixture f;
    open_store(&f, "local", 1, elements, rule);
    for (uint32_t i = 1; i <= pushes; i++) {
        uint64_t s = push(f.workers[0], elements, i);
        fixture_run_all(&f);
        assert_int_equal(answer(f.workers[0], s, (elements + PART - 1) / PART), KVS_OK);
    }
    look(&f, out);
    fixture_close(&f);
}

/* One try: `warm` pushes, then one with room for so many bytes, while somebody reads the value if
 * `read`. True when it was refused. */
static bool try_room(const char *rule, uint32_t warm, bool read, uint64_t room)
{
    fixture f;
    seen before, after, rich;
    kvs_snapshot held;
    open_store(&f, "local", 1, FEW, rule);
    for (uint32_t i = 1; i <= warm; i++) {
        (void)push(f.workers[0], FEW, i);
        fixture_run_all(&f);
    }
    look(&f, &before);
    if (read) {
        read_key(&f, &held);
    }
    kvs_budget *budget = &f.engine->budget;
    uint64_t s = push(f.workers[0], FEW, warm + 1);
    budget->bytes_max = atomic_load_explicit(&budget->bytes, memory_order_relaxed) + room;
    fixture_run_all(&f);
    budget->bytes_max = 0;
    kvs_status status = answer(f.workers[0], s, 3);
    look(&f, &after);
    if (status != KVS_OK) {
        assert_int_equal(status, KVS_OVER_BUDGET);
        check_refused(f.workers[0], s, 3);
        assert_memory_equal(after.value, before.value, sizeof before.value);
        assert_int_equal(after.version, warm + 1); /* all parts have had their turn */
        s = push(f.workers[0], FEW, warm + 1);
        fixture_run_all(&f);
        assert_int_equal(answer(f.workers[0], s, 3), KVS_OK);
        look(&f, &after);
    }
    run_rich(rule, FEW, warm + 1, &rich);
    assert_memory_equal(after.value, rich.value, sizeof rich.value);
    if (read) {
        kvs_snapshot_deinit(&held);
    }
    fixture_close(&f);
    return status != KVS_OK;
}

static void a_local_push_with_room_for_some_of_its_parts_changes_none(void **state)
{
    (void)state;
    for (size_t r = 0; r < RULES; r++) {
        for (int read = 0; read < 2; read++) {
            for (uint32_t warm = 0; warm < 2; warm++) {
                uint64_t rooms = 0;
                while (try_room(rules[r], warm, read != 0, rooms * BUFFER)) {
                    rooms++;
                    assert_true(rooms < 100);
                }
                /* A sum or states are taken once, a copy of what a rule changes and somebody reads
                 * each time: then there was room for one part of three. */
                bool takes = (warm == 0 && r != 1) || (read != 0 && r != 0);
                assert_true(takes ? rooms >= 3 : rooms == 0);
            }
        }
    }
}

/* The n-th allocation of a push fails, and all after it if it goes on. True when there was one. */
static bool try_allocation(const char *rule, uint64_t n, bool goes_on)
{
    fixture f;
    seen before, after, rich;
    uint64_t parts = (MANY + PART - 1) / PART;
    open_store(&f, "local", 1, MANY, rule);
    look(&f, &before);
    fixture_worker *worker = f.workers[0];
    uint64_t s = push(worker, MANY, 1);
    failing_alloc_begin(n, goes_on);
    fixture_run_all(&f);
    bool failed = failing_alloc_end();
    kvs_status status = answer(worker, s, parts);
    look(&f, &after);
    if (status != KVS_OK) {
        assert_true(failed);
        check_refused(worker, s, parts);
        assert_memory_equal(after.value, before.value, sizeof before.value);
        fixture_resume(worker, worker->sequence); /* those that the door refused are given up */
        fixture_run_all(&f);
        s = push(worker, MANY, 1);
        fixture_run_all(&f);
        assert_int_equal(answer(worker, s, parts), KVS_OK);
        look(&f, &after);
    }
    run_rich(rule, MANY, 1, &rich);
    assert_memory_equal(after.value, rich.value, sizeof rich.value);
    fixture_close(&f);
    return failed;
}

static void a_local_push_whose_allocation_fails_changes_nothing(void **state)
{
    (void)state;
    for (size_t r = 0; r < RULES; r++) {
        for (int goes_on = 0; goes_on < 2; goes_on++) {
            uint64_t n = 1;
            while (try_allocation(rules[r], n, goes_on != 0)) {
                n += n < 4 ? 1 : 7; /* the door's are the first; the shard's are of a kind */
            }
            assert_true(n > 2);
        }
    }
}

/* Two workers push at once, the second from the last part on; what the door has turned away comes
 * again, as a client does it. */
static bool try_workers(const char *rule, uint64_t n, bool goes_on)
{
    fixture f;
    seen after;
    float g[MANY];
    uint64_t first[2];
    open_store(&f, "dist_async", 2, FEW, rule);
    for (uint32_t i = 0; i < 2; i++) {
        first[i] = push(f.workers[i], FEW, i + 1);
    }
    failing_alloc_begin(n, goes_on);
    fixture_run_all(&f);
    bool failed = failing_alloc_end();
    for (uint32_t i = 0; i < 2; i++) {
        fill(g, i + 1);
        for (uint64_t p = 0; p < 3; p++) {
            if (fixture_status(f.workers[i], first[i] + p) == KVS_OVER_CREDIT) {
                uint32_t end = p == 2 ? FEW : (uint32_t)(p + 1) * PART;
                fixture_push_tail(f.workers[i], "w", g, end, p * PART, first[i] + p, 0);
                fixture_run_all(&f);
            }
        }
    }
    for (uint32_t i = 0; i < 2; i++) {
        kvs_status status = answer(f.workers[i], first[i], 3);
        if (status != KVS_OK) {
            assert_true(failed);
            check_refused(f.workers[i], first[i], 3);
        }
    }
    look(&f, &after); /* the parts meet */
    assert_int_equal(after.version, 2);
    for (uint32_t i = 0; i < 2; i++) {
        first[i] = push(f.workers[i], FEW, i + 3);
        fixture_run_all(&f);
        assert_int_equal(answer(f.workers[i], first[i], 3), KVS_OK);
    }
    look(&f, &after);
    assert_int_equal(after.version, 4);
    fixture_close(&f);
    return failed;
}

static void a_key_with_norms_does_not_wait_for_a_part_without_memory(void **state)
{
    (void)state;
    for (size_t r = 4; r < RULES; r++) {
        for (int goes_on = 0; goes_on < 2; goes_on++) {
            uint64_t n = 1;
            while (try_workers(rules[r], n, goes_on != 0)) {
                n++;
            }
            assert_true(n > 4);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_local_push_with_room_for_some_of_its_parts_changes_none),
        cmocka_unit_test(a_local_push_whose_allocation_fails_changes_nothing),
        cmocka_unit_test(a_key_with_norms_does_not_wait_for_a_part_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
