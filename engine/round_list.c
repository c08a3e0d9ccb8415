/* The open rounds of a store, for people: asked of every shard. */
#include "engine/store.h"

#include <stdlib.h>
#include <string.h>

typedef struct listing {
    kvs_rounds *out;
    kvs_waiter *waiter;
    pthread_mutex_t mutex; /* the shards write one after the other */
} listing;

static void describe(const kvs_shard *shard, const kvs_part *part, uint64_t now_ns,
                     kvs_round_info *out)
{
    memset(out, 0, sizeof *out);
    out->key = part->key->name;
    out->key_bytes = part->key->name_bytes;
    out->part = part->index;
    out->version =
        (kvs_version){.epoch = shard->store->engine->epoch,
                      .count = atomic_load_explicit(&part->version, memory_order_relaxed) + 1};
    out->age_ns = now_ns > part->round.opened_ns ? now_ns - part->round.opened_ns : 0;
    for (uint32_t rank = 0; rank < shard->schedule.num_workers; rank++) {
        if (kvs_round_has(&part->round, rank)) {
            if (out->arrived_count < 64) {
                out->arrived[out->arrived_count] = rank;
            }
            out->arrived_count++;
        }
    }
    out->missing_count = kvs_schedule_missing(&shard->schedule, &part->round, out->missing, 64);
}

static void run(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns)
{
    listing *list = visit->context;
    pthread_mutex_lock(&list->mutex);
    bool rounds = shard->store->kind == KVS_SYNC; /* other stores list parts that wait for norms */
    for (kvs_part *part = shard->open_first; rounds && part != NULL; part = part->open_next) {
        list->out->open++;
        if (list->out->count < list->out->max) {
            describe(shard, part, now_ns, &list->out->rounds[list->out->count++]);
        }
    }
    pthread_mutex_unlock(&list->mutex);
}

static void done(kvs_visit *visit, uint64_t now_ns)
{
    listing *list = visit->context;
    kvs_waiter *waiter = list->waiter;
    pthread_mutex_destroy(&list->mutex);
    free(list);
    kvs_waiter_finish(waiter, now_ns, KVS_OK, "%s", "");
}

void kvs_store_rounds(kvs_store *store, kvs_rounds *out, kvs_waiter *waiter, uint64_t now_ns)
{
    listing *list = calloc(1, sizeof *list);
    kvs_visit *visit = list == NULL ? NULL : kvs_visit_make(store, run, done, list);
    out->count = 0;
    out->open = 0;
    if (visit == NULL) {
        free(list);
        kvs_waiter_finish(waiter, now_ns, KVS_NO_MEMORY, "%s", "");
        return;
    }
    list->out = out;
    list->waiter = waiter;
    (void)pthread_mutex_init(&list->mutex, NULL);
    kvs_visit_post(visit, now_ns);
}
