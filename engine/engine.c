#include "engine/engine.h"

#include "base/check.h"
#include "base/log.h"
#include "engine/session.h"
#include "engine/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static void system_random(void *out, size_t bytes)
{
    uint8_t *at = out;
    while (bytes > 0) {
        ssize_t got = getrandom(at, bytes, 0);
        KVS_CHECK(got > 0 || errno == EINTR);
        if (got > 0) {
            at += got;
            bytes -= (size_t)got;
        }
    }
}

kvs_status kvs_engine_open(const kvs_engine_options *options, kvs_engine **out)
{
    if (options->shards == 0 || options->shards > KVS_SHARDS_MAX || options->backend == NULL) {
        return KVS_INVALID_FIELD;
    }
    kvs_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        return KVS_NO_MEMORY;
    }
    (void)pthread_mutex_init(&engine->mutex, NULL);
    engine->backend = options->backend;
    engine->scheduler = options->scheduler;
    engine->profile = options->profile;
    engine->random = options->random != NULL ? options->random : system_random;
    engine->shards = options->shards;
    engine->epoch = options->epoch;
    engine->credit_bytes =
        options->credit_bytes != 0 ? options->credit_bytes : KVS_CREDIT_BYTES_DEFAULT;
    engine->part_elements =
        options->part_elements != 0 ? options->part_elements : KVS_PART_ELEMENTS;
    engine->inflight_parts =
        options->inflight_parts != 0 ? options->inflight_parts : KVS_INFLIGHT_PARTS_MIN;
    engine->budget.bytes_max = options->memory_bytes_max;
    if (engine->budget.bytes_max == 0) {
        engine->budget.bytes_max =
            (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    }
    *out = engine;
    return KVS_OK;
}

void kvs_engine_close(kvs_engine *engine)
{
    if (engine == NULL) {
        return;
    }
    while (engine->stores_first != NULL) {
        char name[KVS_NAME_BYTES_MAX + 1];
        (void)kvs_log_text(name, sizeof name, engine->stores_first->name,
                           strlen(engine->stores_first->name));
        if (kvs_store_delete(engine, name, 0, NULL) != KVS_OK) {
            break; /* no memory for a farewell: the process is about to end */
        }
    }
    pthread_mutex_destroy(&engine->mutex);
    free(engine);
}

void kvs_engine_tick(kvs_engine *engine, uint64_t now_ns)
{
    kvs_store *stores[64];
    size_t skip = 0;
    size_t count;
    do {
        count = kvs_store_list(engine, skip, 64, stores);
        for (size_t i = 0; i < count; i++) {
            kvs_store *store = stores[i];
            kvs_members_tick(store, now_ns);
            kvs_barriers_tick(store, now_ns);
            kvs_init_tick(store, now_ns);
            kvs_cuts_tick(store, now_ns);
            for (uint32_t s = 0; s < store->shard_count; s++) {
                kvs_shard_post_timer(store->shards[s], now_ns);
            }
            kvs_store_unref(store);
        }
        skip += count;
    } while (count == 64);
}

void kvs_engine_drain(kvs_engine *engine)
{
    /* Relaxed: the next tick of any thread sees it, and nothing is read on the strength of it. */
    atomic_store_explicit(&engine->draining, true, memory_order_relaxed);
}

uint64_t kvs_engine_epoch(const kvs_engine *engine)
{
    return engine->epoch;
}

const char *kvs_engine_backend_name(const kvs_engine *engine)
{
    return engine->backend->name;
}

bool kvs_engine_lost(const kvs_engine *engine)
{
    /* Relaxed: nothing is read on the strength of it. */
    return __atomic_load_n(&engine->backend->lost, __ATOMIC_RELAXED) != 0;
}
