/* Visits: something done by the holder of each shard of a store. */
#include "engine/session.h"
#include "engine/store.h"

#include <stddef.h>
#include <stdlib.h>

typedef __typeof__(((kvs_visit *)NULL)->stops[0]) visit_stop;

static void run_stop(kvs_task *task, uint64_t now_ns)
{
    visit_stop *stop = (visit_stop *)((char *)task - offsetof(visit_stop, task));
    kvs_visit *visit = stop->visit;
    kvs_shard *shard = stop->shard;
    shard->now_ns = now_ns;
    visit->run(visit, shard, now_ns);
    /* Release what this stop did; acquire what the others have. */
    if (atomic_fetch_sub_explicit(&visit->remaining, 1, memory_order_acq_rel) != 1) {
        return;
    }
    kvs_store *store = visit->store;
    if (visit->done != NULL) {
        visit->done(visit, now_ns);
    }
    free(visit);
    kvs_store_unref(store);
}

kvs_visit *kvs_visit_make(kvs_store *store,
                          void (*run)(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns),
                          void (*done)(kvs_visit *visit, uint64_t now_ns), void *context)
{
    kvs_visit *visit = calloc(1, sizeof *visit + store->shard_count * sizeof visit->stops[0]);
    if (visit == NULL) {
        return NULL;
    }
    visit->run = run;
    visit->done = done;
    visit->context = context;
    visit->store = store; /* the reference is taken by post */
    visit->count = store->shard_count;
    atomic_init(&visit->remaining, visit->count);
    for (uint32_t i = 0; i < visit->count; i++) {
        visit->stops[i].task.run = run_stop;
        visit->stops[i].visit = visit;
        visit->stops[i].shard = store->shards[i];
    }
    return visit;
}

void kvs_visit_post(kvs_visit *visit, uint64_t now_ns)
{
    kvs_store *store = kvs_store_take(visit->store); /* the visit's, given back by its last stop */
    (void)kvs_store_take(store);                     /* ours, while we post */
    kvs_session *ended = visit->ended;
    uint32_t count = visit->count;
    for (uint32_t i = 0; i < count; i++) {
        /* The visit may be freed by its last stop, which is not before the last post. */
        kvs_right_post(&visit->stops[i].shard->right, &visit->stops[i].task, now_ns);
    }
    if (ended != NULL) {
        kvs_session_post_end(ended, now_ns);
        kvs_session_unref(ended);
    }
    kvs_store_unref(store);
}
