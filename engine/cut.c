/* Cuts: one version of every part of a key, fixed at one moment, at which something is done.
 *
 * A marker goes to every shard. Each reports the versions of its parts and lets pushes wait until
 * the decision, which is the marker's way round and no more; rounds, contributions that have
 * arrived, pulls and sends go on. The highest version reported is the cut's: parts that are there
 * are captured (or assigned, or given the new rule) at once, the others when they get there.
 * Cuts of one store decide one after the other, so that two of them meet every part in one order.
 *
 * A worker that goes in the middle of a key of a synchronous store has had its turn in a round of
 * some parts and not of others. Its cut compares turns instead of versions, and gives the parts
 * that lag empty ones: so the versions meet, and the rank's next session pushes to one round.
 */
#include "engine/cut.h"

#include "base/check.h"
#include "engine/round.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static kvs_key *key_at(const kvs_cut *cut, uint64_t index)
{
    return cut->key != NULL ? cut->key : kvs_key_table_at(&cut->store->keys, index);
}

void kvs_cut_free(kvs_cut *cut)
{
    uint64_t parts = cut->key == NULL ? 0 : cut->key->part_count;
    for (uint64_t i = 0; cut->buffers != NULL && i < parts; i++) {
        kvs_buffer_unref(cut->buffers[i]);
    }
    for (uint64_t i = 0; cut->bindings != NULL && i < cut->key_count; i++) {
        kvs_binding_unref(cut->bindings[i]);
    }
    kvs_optimizer_unref(cut->optimizer);
    kvs_capture_close(cut->capture);
    kvs_read_deinit(cut);
    free(cut->buffers);
    free(cut->bindings);
    free((void *)cut->versions);
    free(cut->actions);
    free(cut->report);
    free(cut->decide);
    free(cut);
}

/* ------------------------------------------------------------------ the end */

static void unlist(kvs_cut *cut)
{
    kvs_store *store = cut->store;
    pthread_mutex_lock(&store->mutex);
    kvs_cut **at = &store->cuts;
    while (*at != cut) {
        at = &(*at)->list_next;
    }
    *at = cut->list_next;
    pthread_mutex_unlock(&store->mutex);
}

static void tell(kvs_cut *cut, kvs_status status, const char *detail, uint64_t now_ns)
{
    kvs_waiter *waiter = atomic_exchange_explicit(&cut->waiter, NULL, memory_order_acq_rel);
    if (waiter == NULL) {
        return;
    }
    if (cut->kind == CUT_READ && status == KVS_OK) {
        kvs_read_fill(cut);
    } else if (cut->kind == CUT_READ) {
        kvs_read_drop(cut);
    }
    if (cut->kind == CUT_CAPTURE && status == KVS_OK) {
        *cut->captured = cut->capture;
        cut->capture = NULL;
    }
    if (cut->kind == CUT_ASSIGN && status == KVS_OK && cut->assigned != NULL) {
        cut->assigned->epoch = cut->store->engine->epoch;
        cut->assigned->count = atomic_load_explicit(&cut->versions[0], memory_order_relaxed) + 1;
    }
    kvs_waiter_finish(waiter, now_ns, status, "%s", detail);
}

static void finish_one(kvs_cut *cut, uint64_t now_ns)
{
    if (atomic_fetch_sub_explicit(&cut->remaining, 1, memory_order_acq_rel) != 1) {
        return;
    }
    kvs_store *store = cut->store;
    kvs_status status = (kvs_status)atomic_load_explicit(&cut->status, memory_order_relaxed);
    tell(cut, status, status == KVS_ETAG_MISMATCH ? "the value has another version by now" : "",
         now_ns);
    unlist(cut);
    kvs_cut_free(cut);
    kvs_store_unref(store);
}

void kvs_cut_note(kvs_cut *cut, kvs_status status)
{
    if (status != KVS_OK) {
        atomic_store_explicit(&cut->status, (int)status, memory_order_relaxed);
    }
}

void kvs_cut_acted(kvs_action *action, kvs_status computed, uint64_t now_ns)
{
    kvs_cut *cut = action->cut;
    kvs_status status = action->status != KVS_OK ? action->status : computed;
    kvs_cut_note(cut, status);
    finish_one(cut, now_ns);
}

/* ------------------------------------------------------------------ at the version */

static void give_rule(kvs_shard *shard, kvs_part *part, kvs_binding *binding)
{
    if (part->binding != NULL && binding != NULL &&
        kvs_optimizer_equal(part->binding->optimizer, binding->optimizer)) {
        return; /* what the part measures by it goes on */
    }
    bool keeps = part->binding != NULL && binding != NULL &&
                 kvs_optimizer_keeps_states(part->binding->optimizer, binding->optimizer);
    kvs_batch_touch(&shard->batch, part);
    for (int i = 0; !keeps && i < KVS_RULE_STATES_MAX; i++) {
        kvs_batch_release(&shard->batch, part->states[i]);
        part->states[i] = NULL;
    }
    if (!keeps) {
        part->updates = 0;
        kvs_batch_release(&shard->batch, part->master);
        part->master = NULL;
    }
    kvs_part_bind(shard, part, binding);
}

void kvs_cut_act(kvs_action *action, kvs_shard *shard)
{
    kvs_cut *cut = action->cut;
    kvs_part *part = action->part;
    if (cut->kind == CUT_CAPTURE || cut->kind == CUT_RESTORE) {
        kvs_capture_act(action, shard);
        return;
    }
    if (cut->kind == CUT_RULE) {
        give_rule(shard, part, cut->bindings == NULL ? NULL : cut->bindings[action->key]);
        return;
    }
    if (cut->kind == CUT_READ) {
        kvs_read_act(cut, part, shard);
        return;
    }
    kvs_buffer *target = cut->buffers[part->index];
    cut->buffers[part->index] = NULL;
    kvs_batch_touch(&shard->batch, part);
    if (cut->bindings != NULL) { /* its norms are measured anew */
        kvs_part_bind(shard, part, cut->bindings[0]);
    }
    kvs_batch_release(&shard->batch, part->value);
    part->value = target;
    kvs_batch_release(&shard->batch, part->master); /* it begins anew as the value */
    part->master = NULL;
    atomic_fetch_add_explicit(&part->version, 1, memory_order_relaxed);
}

/* ------------------------------------------------------------------ marker and decision */

static uint64_t count_of(const kvs_cut *cut, const kvs_part *part)
{
    return cut->kind == CUT_LEAVE ? kvs_round_turns(part, cut->rank)
                                  : atomic_load_explicit(&part->version, memory_order_relaxed);
}

static void run_report(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns)
{
    kvs_cut *cut = visit->context;
    (void)now_ns;
    kvs_shard_freeze(shard);
    if (shard->batch.failed != KVS_OK) {
        atomic_store_explicit(&cut->status, (int)shard->batch.failed, memory_order_relaxed);
    }
    for (uint64_t k = 0; k < cut->key_count; k++) {
        kvs_key *key = key_at(cut, k);
        uint64_t highest = atomic_load_explicit(&cut->versions[k], memory_order_relaxed);
        for (uint64_t i = 0; i < key->part_count; i++) {
            uint64_t count = key->parts[i].shard == shard ? count_of(cut, &key->parts[i]) : 0;
            while (count > highest && !atomic_compare_exchange_weak_explicit(
                                          &cut->versions[k], &highest, count, memory_order_relaxed,
                                          memory_order_relaxed)) {
            }
        }
    }
}

static void run_leave(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns)
{
    kvs_cut *cut = visit->context;
    bool goes_on = !shard->closing && shard->batch.failed == KVS_OK;
    for (uint64_t k = 0; goes_on && k < cut->key_count; k++) {
        kvs_key *key = key_at(cut, k);
        uint64_t highest = atomic_load_explicit(&cut->versions[k], memory_order_relaxed);
        for (uint64_t i = 0; i < key->part_count; i++) {
            kvs_part *part = &key->parts[i];
            uint64_t count = part->shard == shard ? count_of(cut, part) : highest;
            for (; count < highest; count++) {
                kvs_round_give_up(shard, part, cut->rank, now_ns);
            }
        }
    }
    kvs_shard_thaw(shard, now_ns);
}

static void run_decide(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns)
{
    kvs_cut *cut = visit->context;
    kvs_action *action = cut->actions;
    kvs_status status = shard->closing ? KVS_STORE_DELETED : shard->batch.failed;
    if (shard->batch.failed != KVS_OK && cut->acts) { /* a rule is told before its actions are */
        atomic_store_explicit(&cut->status, (int)shard->batch.failed, memory_order_relaxed);
    }
    for (uint64_t k = 0; cut->acts && k < cut->key_count; k++) {
        kvs_key *key = key_at(cut, k);
        uint64_t count = atomic_load_explicit(&cut->versions[k], memory_order_relaxed);
        for (uint64_t i = 0; i < key->part_count; i++, action++) {
            if (key->parts[i].shard != shard) {
                continue;
            }
            *action = (kvs_action){
                .count = count, .cut = cut, .part = &key->parts[i], .key = k, .status = status};
            if (status != KVS_OK) {
                action->next = shard->acted;
                shard->acted = action;
            } else {
                kvs_part_act(shard, &key->parts[i], action);
            }
        }
    }
    kvs_shard_thaw(shard, now_ns);
}

/* Every shard knows the decision: the next cut may decide. */
static void decided(kvs_visit *visit, uint64_t now_ns)
{
    kvs_cut *cut = visit->context;
    kvs_store *store = kvs_store_take(cut->store);
    if (cut->kind == CUT_RULE) {
        /* Lagging parts take the rule when they get there; there is nothing to wait for. */
        tell(cut, (kvs_status)atomic_load_explicit(&cut->status, memory_order_relaxed), "", now_ns);
    }
    finish_one(cut, now_ns);
    pthread_mutex_lock(&store->mutex);
    kvs_cut *next = store->cut_first;
    store->cutting = next != NULL;
    if (next != NULL) {
        store->cut_first = next->next;
    }
    pthread_mutex_unlock(&store->mutex);
    if (next != NULL) {
        kvs_cut_start(next, now_ns);
    }
    kvs_store_unref(store);
}

static void reported(kvs_visit *visit, uint64_t now_ns)
{
    kvs_cut *cut = visit->context;
    uint64_t count = atomic_load_explicit(&cut->versions[0], memory_order_relaxed);
    uint64_t parts = 0;
    if (cut->has_match &&
        (cut->match.epoch != cut->store->engine->epoch || cut->match.count != count)) {
        atomic_store_explicit(&cut->status, KVS_ETAG_MISMATCH, memory_order_relaxed);
    }
    /* A device that is lost reaches no version. */
    cut->acts = cut->kind != CUT_LEAVE &&
                atomic_load_explicit(&cut->status, memory_order_relaxed) == (int)KVS_OK;
    if (cut->acts) {
        for (uint64_t k = 0; k < cut->key_count; k++) {
            parts += key_at(cut, k)->part_count;
        }
    }
    atomic_store_explicit(&cut->remaining, parts + 1, memory_order_relaxed);
    kvs_visit *decide = cut->decide;
    cut->decide = NULL;
    kvs_visit_post(decide, now_ns);
}

void kvs_cut_start(kvs_cut *cut, uint64_t now_ns)
{
    kvs_visit *report = cut->report;
    cut->report = NULL;
    kvs_visit_post(report, now_ns);
}

/* Takes a reference to the store. */
bool kvs_cut_enqueue(kvs_cut *cut)
{
    kvs_store *store = kvs_store_take(cut->store);
    bool now = !store->cutting;
    cut->list_next = store->cuts;
    store->cuts = cut;
    store->cutting = true;
    if (!now) {
        if (store->cut_first == NULL) {
            store->cut_first = cut;
        } else {
            store->cut_last->next = cut;
        }
        store->cut_last = cut;
    }
    return now;
}

kvs_status kvs_cut_submit(kvs_cut *cut, uint64_t now_ns)
{
    kvs_store *store = cut->store;
    pthread_mutex_lock(&store->mutex);
    bool bound = cut->kind != CUT_ASSIGN || kvs_cut_bind_anew(cut);
    bool now = bound && kvs_cut_enqueue(cut);
    pthread_mutex_unlock(&store->mutex);
    if (!bound) {
        kvs_cut_free(cut);
        return KVS_NO_MEMORY;
    }
    if (now) {
        kvs_cut_start(cut, now_ns);
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ making one */

kvs_cut *kvs_cut_make(kvs_store *store, kvs_cut_kind kind, kvs_key *key, uint64_t key_count,
                      kvs_waiter *waiter, uint64_t now_ns)
{
    kvs_cut *cut = calloc(1, sizeof *cut);
    if (cut == NULL) {
        return NULL;
    }
    cut->kind = kind;
    cut->store = store;
    cut->key = key;
    cut->key_count = key_count;
    cut->deadline_ns = waiter != NULL && waiter->deadline_ns != 0 ? waiter->deadline_ns
                                                                  : now_ns + KVS_CUT_DEADLINE_NS;
    atomic_init(&cut->waiter, waiter);
    uint64_t parts = 0;
    for (uint64_t k = 0; kind != CUT_LEAVE && k < key_count; k++) {
        parts += key_at(cut, k)->part_count;
    }
    cut->versions = calloc(key_count + 1, sizeof *cut->versions);
    cut->actions = calloc(parts + 1, sizeof *cut->actions);
    cut->report = kvs_visit_make(store, run_report, reported, cut);
    cut->decide = kvs_visit_make(store, kind == CUT_LEAVE ? run_leave : run_decide, decided, cut);
    if (cut->versions == NULL || cut->actions == NULL || cut->report == NULL ||
        cut->decide == NULL) {
        kvs_cut_free(cut);
        return NULL;
    }
    return cut;
}

kvs_key *kvs_cut_find(kvs_store *store, const char *key, size_t key_bytes, kvs_waiter *waiter,
                      uint64_t now_ns)
{
    kvs_key *found =
        key_bytes > KVS_KEY_BYTES_MAX ? NULL : kvs_key_table_find(&store->keys, key, key_bytes);
    if (found == NULL) {
        kvs_waiter_finish(waiter, now_ns, KVS_KEY_NOT_FOUND, "the store has no key \"%.*s\"",
                          (int)(key_bytes < 200 ? key_bytes : 200), key);
    }
    return found;
}

/* Copies the value into the buffers that it will be. */
static kvs_status stage(kvs_cut *cut, const void *data, size_t bytes)
{
    kvs_key *key = cut->key;
    kvs_backend *backend = cut->store->engine->backend;
    kvs_span span = {.data = data, .bytes = bytes};
    kvs_stream *stream = NULL;
    cut->buffers = calloc(key->part_count, sizeof *cut->buffers);
    kvs_status status = cut->buffers == NULL ? KVS_NO_MEMORY : KVS_OK;
    if (status == KVS_OK) {
        status = backend->table->open_stream(backend, &stream);
    }
    for (uint64_t i = 0; status == KVS_OK && i < key->part_count; i++) {
        const kvs_part *part = &key->parts[i];
        status = kvs_pool_make(part->shard->pool, kvs_part_bytes(part), &cut->buffers[i]);
        if (status != KVS_OK || bytes == 0) {
            continue;
        }
        kvs_payload payload = {.spans = &span,
                               .count = 1,
                               .skip =
                                   (size_t)(i * key->part_elements) * kvs_dtype_bytes(key->dtype),
                               .bytes = kvs_part_bytes(part)};
        kvs_copy_item item = {
            .target = &cut->buffers[i]->memory, .source.payload = payload, .bytes = payload.bytes};
        status = backend->table->copy(stream, &item, 1);
        if (status == KVS_OK) {
            status = backend->table->sync(stream);
        }
    }
    if (stream != NULL) {
        backend->table->close_stream(backend, stream);
    }
    return status;
}

void kvs_store_assign(kvs_store *store, const char *key, size_t key_bytes, kvs_dtype dtype,
                      const kvs_shape *shape, const void *data, size_t bytes,
                      const kvs_version *if_match, kvs_version *version, kvs_waiter *waiter,
                      uint64_t now_ns)
{
    kvs_key *found = kvs_cut_find(store, key, key_bytes, waiter, now_ns);
    if (found == NULL) {
        return;
    }
    if (found->dtype != dtype || !kvs_shape_equal(&found->shape, shape)) {
        kvs_waiter_finish(waiter, now_ns, KVS_KEY_EXISTS, "the key is %s with %u dimensions",
                          kvs_dtype_name(found->dtype), found->shape.rank);
        return;
    }
    if (bytes != found->elements * kvs_dtype_bytes(dtype)) {
        kvs_waiter_finish(waiter, now_ns, KVS_INVALID_TENSOR, "the value takes %" PRIu64 " bytes",
                          found->elements * kvs_dtype_bytes(dtype));
        return;
    }
    kvs_cut *cut = kvs_cut_make(store, CUT_ASSIGN, found, 1, waiter, now_ns);
    kvs_status status = cut == NULL ? KVS_NO_MEMORY : stage(cut, data, bytes);
    if (status != KVS_OK) {
        if (cut != NULL) {
            kvs_cut_free(cut);
        }
        kvs_waiter_finish(waiter, now_ns, status, "%s", "");
        return;
    }
    cut->assigned = version;
    if (if_match != NULL) {
        cut->has_match = true;
        cut->match = *if_match;
    }
    if (kvs_cut_submit(cut, now_ns) != KVS_OK) {
        kvs_waiter_finish(waiter, now_ns, KVS_NO_MEMORY, "%s", "");
    }
}

bool kvs_cut_bind(kvs_cut *cut, kvs_optimizer *optimizer)
{
    cut->optimizer = kvs_optimizer_take(optimizer);
    cut->bindings = calloc(cut->key_count + 1, sizeof(kvs_binding *));
    if (cut->bindings == NULL) {
        return false;
    }
    for (uint64_t k = 0; k < cut->key_count; k++) {
        kvs_key *key = key_at(cut, k);
        if (!kvs_dtype_floating(key->dtype)) {
            continue; /* integers are summed, whatever the rule of the store */
        }
        cut->bindings[k] = kvs_binding_make(optimizer, key);
        if (cut->bindings[k] == NULL) {
            return false;
        }
    }
    return true;
}

bool kvs_cut_bind_anew(kvs_cut *cut)
{
    kvs_optimizer *optimizer = cut->store->optimizer;
    kvs_measure measures[KVS_MEASURES_MAX];
    bool norms =
        optimizer != NULL && kvs_optimizer_measures(optimizer, (kvs_multipliers){0}, measures) > 0;
    return !norms || kvs_cut_bind(cut, optimizer);
}

/* Mutex. A cut that gives every key its rule, or NULL: no memory. */
static kvs_cut *make_rule(kvs_store *store, kvs_optimizer *optimizer, kvs_waiter *waiter,
                          uint64_t now_ns)
{
    uint64_t keys = atomic_load_explicit(&store->keys.count, memory_order_acquire);
    kvs_cut *cut = kvs_cut_make(store, CUT_RULE, NULL, keys, waiter, now_ns);
    if (cut != NULL && optimizer != NULL && !kvs_cut_bind(cut, optimizer)) {
        kvs_cut_free(cut);
        return NULL;
    }
    return cut;
}

void kvs_store_set_optimizer(kvs_store *store, kvs_optimizer *optimizer, kvs_waiter *waiter,
                             uint64_t now_ns)
{
    pthread_mutex_lock(&store->mutex);
    bool equal = optimizer == NULL || store->optimizer == NULL
                     ? optimizer == store->optimizer
                     : kvs_optimizer_equal(optimizer, store->optimizer);
    /* An equal one still waits its turn if another is on its way. */
    if (equal && !store->cutting) {
        pthread_mutex_unlock(&store->mutex);
        kvs_waiter_finish(waiter, now_ns, KVS_OK, "%s", "");
        return;
    }
    kvs_cut *cut = make_rule(store, optimizer, waiter, now_ns);
    if (cut == NULL) {
        pthread_mutex_unlock(&store->mutex);
        kvs_waiter_finish(waiter, now_ns, KVS_NO_MEMORY, "%s", "");
        return;
    }
    /* From here on: keys that come later start with it. */
    kvs_optimizer_unref(store->optimizer);
    store->optimizer = optimizer == NULL ? NULL : kvs_optimizer_take(optimizer);
    kvs_store_changed(store);
    bool now = kvs_cut_enqueue(cut);
    pthread_mutex_unlock(&store->mutex);
    if (now) {
        kvs_cut_start(cut, now_ns);
    }
}

void kvs_cut_leave(kvs_store *store, uint32_t rank, uint64_t now_ns)
{
    uint64_t keys = atomic_load_explicit(&store->keys.count, memory_order_acquire);
    if (store->kind != KVS_SYNC || keys == 0) {
        return; /* an asynchronous store has no turns: its sessions keep a tally */
    }
    kvs_cut *cut = kvs_cut_make(store, CUT_LEAVE, NULL, keys, NULL, now_ns);
    if (cut == NULL) {
        return; /* no memory: a cut of a key that it has torn ends at its deadline */
    }
    cut->rank = rank;
    (void)!kvs_cut_submit(cut, now_ns); /* it is always taken */
}

kvs_optimizer *kvs_store_optimizer(kvs_store *store)
{
    pthread_mutex_lock(&store->mutex);
    kvs_optimizer *optimizer =
        store->optimizer == NULL ? NULL : kvs_optimizer_take(store->optimizer);
    pthread_mutex_unlock(&store->mutex);
    return optimizer;
}

void kvs_cuts_tick(kvs_store *store, uint64_t now_ns)
{
    for (;;) {
        kvs_waiter *late = NULL;
        kvs_cut *cut;
        pthread_mutex_lock(&store->mutex);
        for (cut = store->cuts; cut != NULL && late == NULL; cut = cut->list_next) {
            if (now_ns >= cut->deadline_ns) {
                late = atomic_exchange_explicit(&cut->waiter, NULL, memory_order_acq_rel);
                if (late != NULL && cut->kind == CUT_READ) {
                    kvs_read_drop(cut);
                }
            }
        }
        pthread_mutex_unlock(&store->mutex);
        if (late == NULL) {
            return;
        }
        kvs_waiter_finish(late, now_ns, KVS_DEADLINE,
                          "a part has not reached the version; an assignment still takes place "
                          "when it does");
    }
}
