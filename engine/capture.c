#include "engine/capture.h"

#include "engine/cut.h"

#include <stdlib.h>
#include <string.h>

kvs_status kvs_capture_make(kvs_store *store, kvs_optimizer *optimizer, bool values,
                            kvs_capture **out)
{
    kvs_capture *capture = calloc(1, sizeof *capture);
    if (capture == NULL) {
        return KVS_NO_MEMORY;
    }
    capture->store = kvs_store_take(store);
    capture->optimizer = kvs_optimizer_take(optimizer);
    capture->values = values;
    capture->key_count = atomic_load_explicit(&store->keys.count, memory_order_acquire);
    capture->first = calloc(capture->key_count + 1, sizeof *capture->first);
    for (uint64_t k = 0; capture->first != NULL && k < capture->key_count; k++) {
        capture->first[k] = capture->part_count;
        capture->part_count += kvs_key_table_at(&store->keys, k)->part_count;
    }
    capture->parts = calloc(capture->part_count + 1, sizeof *capture->parts);
    if (capture->first == NULL || capture->parts == NULL) {
        kvs_capture_close(capture);
        return KVS_NO_MEMORY;
    }
    *out = capture;
    return KVS_OK;
}

void kvs_capture_close(kvs_capture *capture)
{
    if (capture == NULL) {
        return;
    }
    for (uint64_t i = 0; capture->parts != NULL && i < capture->part_count; i++) {
        kvs_buffer_unref(capture->parts[i].value);
        kvs_buffer_unref(capture->parts[i].master);
        for (int s = 0; s < KVS_RULE_STATES_MAX; s++) {
            kvs_buffer_unref(capture->parts[i].states[s]);
        }
    }
    free(capture->parts);
    free(capture->first);
    kvs_optimizer_unref(capture->optimizer);
    kvs_store_unref(capture->store);
    free(capture);
}

uint32_t kvs_capture_states(const kvs_capture *capture, const kvs_key *key)
{
    return kvs_dtype_floating(key->dtype) ? kvs_optimizer_states(capture->optimizer) : 0;
}

bool kvs_capture_has_master(const kvs_capture *capture, const kvs_key *key)
{
    return (key->dtype == KVS_F16 || key->dtype == KVS_BF16) &&
           kvs_optimizer_multi_precision(capture->optimizer);
}

/* ------------------------------------------------------------------ at the version */

static kvs_status take_part(const kvs_capture *capture, kvs_captured_part *captured, kvs_part *part,
                            kvs_shard *shard)
{
    bool masters = kvs_capture_has_master(capture, part->key);
    captured->updates = part->updates;
    for (int s = 0; s < KVS_RULE_STATES_MAX; s++) {
        if (part->states[s] != NULL) {
            captured->states[s] = kvs_buffer_take(part->states[s]);
            KVS_TRY(kvs_batch_download(&shard->batch, part->states[s]));
        }
    }
    if (masters && part->master != NULL) {
        captured->master = kvs_buffer_take(part->master);
        KVS_TRY(kvs_batch_download(&shard->batch, part->master));
    }
    if (capture->values || (masters && part->master == NULL)) {
        captured->value = kvs_buffer_take(part->value);
        KVS_TRY(kvs_batch_download(&shard->batch, part->value));
    }
    return KVS_OK;
}

/* Exchanges the part's buffers for the captured ones. */
static void put_part(kvs_captured_part *captured, kvs_part *part, kvs_shard *shard)
{
    kvs_batch_touch(&shard->batch, part);
    part->updates = captured->updates;
    for (int s = 0; s < KVS_RULE_STATES_MAX; s++) {
        kvs_batch_release(&shard->batch, part->states[s]);
        part->states[s] = captured->states[s];
        captured->states[s] = NULL;
    }
    kvs_batch_release(&shard->batch, part->master);
    part->master = captured->master;
    captured->master = NULL;
    if (captured->value != NULL) {
        kvs_batch_release(&shard->batch, part->value);
        part->value = captured->value;
        captured->value = NULL;
        atomic_fetch_add_explicit(&part->version, 1, memory_order_relaxed);
    }
}

void kvs_capture_act(kvs_action *action, kvs_shard *shard)
{
    kvs_cut *cut = action->cut;
    kvs_part *part = action->part;
    kvs_captured_part *captured =
        &cut->capture->parts[cut->capture->first[action->key] + part->index];
    if (cut->kind == CUT_CAPTURE) {
        kvs_cut_note(cut, take_part(cut->capture, captured, part, shard));
        return;
    }
    if (cut->bindings != NULL) {
        kvs_batch_touch(&shard->batch, part);
        kvs_part_bind(shard, part, cut->bindings[action->key]);
    }
    put_part(captured, part, shard);
}

/* ------------------------------------------------------------------ the cuts */

void kvs_store_capture(kvs_store *store, bool values, kvs_capture **out, kvs_waiter *waiter,
                       uint64_t now_ns)
{
    kvs_capture *capture = NULL;
    kvs_cut *cut = NULL;
    kvs_status status = KVS_OPTIMIZER_NOT_SET;
    bool now = false;
    *out = NULL;
    /* The mutex from the count of keys to the cut's place: whatever rule is set later acts after
     * it. */
    pthread_mutex_lock(&store->mutex);
    if (store->optimizer != NULL) {
        status = kvs_capture_make(store, store->optimizer, values, &capture);
    }
    if (status == KVS_OK) {
        cut = kvs_cut_make(store, CUT_CAPTURE, NULL, capture->key_count, waiter, now_ns);
        status = cut == NULL ? KVS_NO_MEMORY : KVS_OK;
    }
    if (status == KVS_OK) {
        cut->capture = capture;
        cut->captured = out;
        now = kvs_cut_enqueue(cut);
    }
    pthread_mutex_unlock(&store->mutex);
    if (status != KVS_OK) {
        kvs_capture_close(capture);
        kvs_waiter_finish(waiter, now_ns, status, "%s",
                          status == KVS_OPTIMIZER_NOT_SET ? "there are no states" : "");
    } else if (now) {
        kvs_cut_start(cut, now_ns);
    }
}

/* Mutex. Is the store still what the capture was made for? */
static bool still_fits(kvs_store *store, const kvs_capture *capture, bool replaces)
{
    if (atomic_load_explicit(&store->keys.count, memory_order_acquire) != capture->key_count) {
        return false;
    }
    return replaces || (store->optimizer != NULL &&
                        kvs_optimizer_keeps_states(store->optimizer, capture->optimizer));
}

void kvs_store_restore(kvs_capture *capture, bool replaces, kvs_waiter *waiter, uint64_t now_ns)
{
    kvs_store *store = kvs_store_take(capture->store);
    kvs_cut *cut = NULL;
    kvs_status status = KVS_OK;
    bool now = false;
    pthread_mutex_lock(&store->mutex);
    if (!still_fits(store, capture, replaces)) {
        status = KVS_STATES_MISMATCH;
    } else {
        cut = kvs_cut_make(store, CUT_RESTORE, NULL, capture->key_count, waiter, now_ns);
        status = cut == NULL ? KVS_NO_MEMORY : KVS_OK;
    }
    if (status == KVS_OK &&
        !(replaces ? kvs_cut_bind(cut, capture->optimizer) : kvs_cut_bind_anew(cut))) {
        kvs_cut_free(cut);
        status = KVS_NO_MEMORY;
    }
    if (status == KVS_OK) {
        cut->capture = capture;
        if (replaces) {
            kvs_optimizer_unref(store->optimizer);
            store->optimizer = kvs_optimizer_take(capture->optimizer);
            kvs_store_changed(store);
        }
        now = kvs_cut_enqueue(cut);
    }
    pthread_mutex_unlock(&store->mutex);
    if (status != KVS_OK) {
        kvs_capture_close(capture);
        kvs_waiter_finish(waiter, now_ns, status, "%s",
                          status == KVS_STATES_MISMATCH
                              ? "keys have come or the optimizer has changed meanwhile"
                              : "");
    } else if (now) {
        kvs_cut_start(cut, now_ns);
    }
    kvs_store_unref(store);
}
