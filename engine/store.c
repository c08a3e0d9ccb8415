#include "engine/store.h"

#include "base/check.h"
#include "engine/session.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

kvs_kind kvs_kind_of(const char *type)
{
    /* MXNet's KVStore::Create: substrings of the lower-cased name; anything else is local. */
    if (strcasestr(type, "dist") == NULL) {
        return KVS_LOCAL;
    }
    return strcasestr(type, "_async") != NULL ? KVS_ASYNC : KVS_SYNC;
}

bool kvs_name_valid(const char *name, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (!isalnum((unsigned char)name[i]) && (i == 0 || strchr("._-", name[i]) == NULL)) {
            return false;
        }
    }
    return bytes > 0 && bytes <= KVS_NAME_BYTES_MAX;
}

void kvs_waiter_finish(kvs_waiter *waiter, uint64_t now_ns, kvs_status status, const char *format,
                       ...)
{
    kvs_problem problem;
    va_list arguments;
    va_start(arguments, format);
    (void)kvs_problem_set_list(&problem, status, format, arguments);
    va_end(arguments);
    waiter->done_ns = now_ns;
    waiter->done(waiter, &problem);
}

/* ------------------------------------------------------------------ life */

static void free_store(kvs_store *store)
{
    kvs_key_table_deinit(&store->keys);
    for (uint32_t i = 0; i < store->shard_count; i++) {
        kvs_shard_close(store->shards[i]);
    }
    kvs_optimizer_unref(store->optimizer);
    pthread_mutex_destroy(&store->mutex);
    free(store->members);
    free((void *)store->late_ranks);
    free(store->name);
    free(store->type);
    free(store);
}

kvs_store *kvs_store_take(kvs_store *store)
{
    atomic_fetch_add_explicit(&store->references, 1, memory_order_relaxed);
    return store;
}

void kvs_store_unref(kvs_store *store)
{
    if (store != NULL &&
        atomic_fetch_sub_explicit(&store->references, 1, memory_order_acq_rel) == 1) {
        free_store(store);
    }
}

static kvs_status make(kvs_engine *engine, const kvs_store_options *options, const char *name,
                       kvs_store **out)
{
    kvs_store *store = calloc(1, sizeof *store);
    if (store == NULL) {
        return KVS_NO_MEMORY;
    }
    (void)pthread_mutex_init(&store->mutex, NULL);
    atomic_init(&store->references, 1);
    store->engine = engine;
    store->name = strdup(name);
    store->type = strdup(options->type);
    for (char *c = store->type; c != NULL && *c != '\0'; c++) {
        *c = (char)tolower((unsigned char)*c);
    }
    store->kind = kvs_kind_of(options->type);
    store->policy = options->policy;
    store->num_workers = store->kind == KVS_LOCAL ? 1 : options->num_workers;
    store->round_deadline_ns =
        options->round_deadline_ns != 0 ? options->round_deadline_ns : KVS_ROUND_DEADLINE_NS;
    store->lease_ns = options->lease_ns != 0 ? options->lease_ns : KVS_LEASE_NS;
    store->barrier_deadline_ns =
        options->barrier_deadline_ns != 0 ? options->barrier_deadline_ns : KVS_BARRIER_DEADLINE_NS;
    atomic_init(&store->inflight_parts, engine->inflight_parts);
    store->members = calloc(store->num_workers, sizeof *store->members);
    store->late_ranks = calloc((store->num_workers + 63) / 64, sizeof *store->late_ranks);
    kvs_status status = KVS_NO_MEMORY;
    if (store->name != NULL && store->type != NULL && store->members != NULL &&
        store->late_ranks != NULL) {
        status = KVS_OK;
    }
    for (uint32_t i = 0; status == KVS_OK && i < engine->shards; i++) {
        status = kvs_shard_open(store, i, &store->shards[i]);
        store->shard_count += status == KVS_OK ? 1u : 0u;
    }
    if (status != KVS_OK) {
        free_store(store);
        return status;
    }
    *out = store;
    return KVS_OK;
}

static kvs_store *find(kvs_engine *engine, const char *name, size_t bytes)
{
    for (kvs_store *store = engine->stores_first; store != NULL; store = store->next) {
        if (strlen(store->name) == bytes && memcmp(store->name, name, bytes) == 0) {
            return store;
        }
    }
    return NULL;
}

static bool equal(const kvs_store *store, const kvs_store_options *options)
{
    return strcasecmp(store->type, options->type) == 0 &&
           (store->kind == KVS_LOCAL || store->num_workers == options->num_workers) &&
           store->policy == options->policy &&
           (options->round_deadline_ns == 0 ||
            options->round_deadline_ns == store->round_deadline_ns) &&
           (options->lease_ns == 0 || options->lease_ns == store->lease_ns) &&
           (options->barrier_deadline_ns == 0 ||
            options->barrier_deadline_ns == store->barrier_deadline_ns);
}

kvs_status kvs_store_create(kvs_engine *engine, const kvs_store_options *options, kvs_store **out,
                            kvs_problem *problem)
{
    const char *name =
        options->name == NULL || options->name[0] == '\0' ? "default" : options->name;
    if (!kvs_name_valid(name, strlen(name))) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "/name: letters, digits, '.', '_' and '-', up to %u, a letter or "
                               "digit first",
                               KVS_NAME_BYTES_MAX);
    }
    if (options->type == NULL || strlen(options->type) > KVS_NAME_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "/type: one of MXNet's store types");
    }
    if (kvs_kind_of(options->type) != KVS_LOCAL &&
        (options->num_workers == 0 || options->num_workers > KVS_WORKERS_MAX)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "/num_workers: 1 to %u",
                               KVS_WORKERS_MAX);
    }
    pthread_mutex_lock(&engine->mutex);
    kvs_status status = KVS_OK;
    kvs_store *store = find(engine, name, strlen(name));
    if (store != NULL && !equal(store, options)) {
        status = kvs_problem_set(problem, KVS_STORE_EXISTS, "\"%s\" is %s with %u workers", name,
                                 store->type, store->num_workers);
    } else if (store == NULL && engine->store_count == KVS_STORES_MAX) {
        status = kvs_problem_set(problem, KVS_TOO_MANY, "there are %u stores", KVS_STORES_MAX);
    } else if (store == NULL) {
        status = make(engine, options, name, &store);
        if (status == KVS_OK) {
            if (engine->stores_last != NULL) {
                engine->stores_last->next = store;
            } else {
                engine->stores_first = store;
            }
            engine->stores_last = store;
            engine->store_count++;
        } else {
            (void)kvs_problem_set(problem, status, "the store was not created: %s",
                                  kvs_status_find(status)->title);
        }
    }
    if (status == KVS_OK) {
        *out = kvs_store_take(store);
    }
    pthread_mutex_unlock(&engine->mutex);
    return status;
}

kvs_status kvs_store_find(kvs_engine *engine, const char *name, size_t name_bytes, kvs_store **out,
                          kvs_problem *problem)
{
    if (name_bytes == 0) {
        name = "default";
        name_bytes = strlen(name);
    }
    pthread_mutex_lock(&engine->mutex);
    kvs_store *store = find(engine, name, name_bytes);
    if (store != NULL) {
        *out = kvs_store_take(store);
    }
    pthread_mutex_unlock(&engine->mutex);
    if (store == NULL) {
        return kvs_problem_set(
            problem, KVS_STORE_NOT_FOUND, "there is no store \"%.*s\"",
            (int)(name_bytes < KVS_NAME_BYTES_MAX ? name_bytes : KVS_NAME_BYTES_MAX), name);
    }
    return KVS_OK;
}

size_t kvs_store_list(kvs_engine *engine, size_t skip, size_t max, kvs_store **out)
{
    size_t count = 0;
    pthread_mutex_lock(&engine->mutex);
    for (kvs_store *store = engine->stores_first; store != NULL && count < max;
         store = store->next) {
        if (skip > 0) {
            skip--;
        } else {
            out[count++] = kvs_store_take(store);
        }
    }
    pthread_mutex_unlock(&engine->mutex);
    return count;
}

/* ------------------------------------------------------------------ deletion */

static void run_refuse_all(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns)
{
    (void)visit;
    kvs_shard_refuse_all(shard, now_ns);
}

kvs_status kvs_store_delete(kvs_engine *engine, const char *name, uint64_t now_ns,
                            kvs_problem *problem)
{
    if (name[0] == '\0') {
        name = "default";
    }
    kvs_store *previous = NULL;
    pthread_mutex_lock(&engine->mutex);
    kvs_store *store = engine->stores_first;
    while (store != NULL && strcmp(store->name, name) != 0) {
        previous = store;
        store = store->next;
    }
    kvs_visit *visit = store == NULL ? NULL : kvs_visit_make(store, run_refuse_all, NULL, NULL);
    if (visit != NULL) {
        if (previous != NULL) {
            previous->next = store->next;
        } else {
            engine->stores_first = store->next;
        }
        if (engine->stores_last == store) {
            engine->stores_last = previous;
        }
        engine->store_count--;
        atomic_store_explicit(&store->deleted, true, memory_order_release);
    }
    pthread_mutex_unlock(&engine->mutex);
    if (store == NULL) {
        return kvs_problem_set(problem, KVS_STORE_NOT_FOUND, "there is no store \"%s\"", name);
    }
    if (visit == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "the store is still there");
    }
    kvs_members_close(store, now_ns);
    kvs_barriers_close(store, now_ns);
    kvs_init_tick(store, UINT64_MAX);
    kvs_visit_post(visit, now_ns);
    kvs_store_unref(store);
    return KVS_OK;
}

/* ------------------------------------------------------------------ what is known */

void kvs_store_describe(kvs_store *store, kvs_store_info *out)
{
    *out = (kvs_store_info){
        .name = store->name,
        .type = store->type,
        .kind = store->kind,
        .policy = store->policy,
        .num_workers = store->num_workers,
        .shards = store->shard_count,
        .keys = atomic_load_explicit(&store->keys.count, memory_order_acquire),
        .parts = atomic_load_explicit(&store->parts, memory_order_relaxed),
        .membership = atomic_load_explicit(&store->membership, memory_order_relaxed),
        .round_deadline_ns = store->round_deadline_ns,
        .lease_ns = store->lease_ns,
        .barrier_deadline_ns = store->barrier_deadline_ns,
        .credit_bytes = store->engine->credit_bytes,
        .inflight_parts = atomic_load_explicit(&store->inflight_parts, memory_order_relaxed)};
    for (uint32_t i = 0; i < store->shard_count; i++) {
        out->bytes += atomic_load_explicit(&store->shards[i]->pool->bytes, memory_order_relaxed);
    }
    pthread_mutex_lock(&store->mutex);
    for (uint32_t rank = 0; rank < store->num_workers; rank++) {
        out->live_workers += store->members[rank].session != NULL ? 1u : 0u;
    }
    pthread_mutex_unlock(&store->mutex);
}

void kvs_store_count(kvs_store *store, kvs_store_statistics *out)
{
    *out = (kvs_store_statistics){
        .duplicates = atomic_load_explicit(&store->duplicates, memory_order_relaxed),
        .refused = atomic_load_explicit(&store->refused, memory_order_relaxed),
        .leases_lost = atomic_load_explicit(&store->leases_lost, memory_order_relaxed)};
    for (uint32_t i = 0; i < store->shard_count; i++) {
        kvs_shard *shard = store->shards[i];
        out->parts_pushed += atomic_load_explicit(&shard->parts_pushed, memory_order_relaxed);
        out->bytes_pushed += atomic_load_explicit(&shard->bytes_pushed, memory_order_relaxed);
        out->parts_pulled += atomic_load_explicit(&shard->parts_pulled, memory_order_relaxed);
        out->bytes_pulled += atomic_load_explicit(&shard->bytes_pulled, memory_order_relaxed);
        out->rounds_closed += atomic_load_explicit(&shard->rounds_closed, memory_order_relaxed);
        out->rounds_failed += atomic_load_explicit(&shard->rounds_failed, memory_order_relaxed);
        out->held_bytes += atomic_load_explicit(&shard->held_bytes, memory_order_relaxed);
        out->store_bytes += atomic_load_explicit(&shard->pool->bytes, memory_order_relaxed);
    }
}

void kvs_store_changed(kvs_store *store)
{
    for (kvs_watcher *watcher = store->watchers; watcher != NULL; watcher = watcher->next) {
        watcher->changed(watcher);
    }
}

void kvs_store_watch(kvs_store *store, kvs_watcher *watcher)
{
    pthread_mutex_lock(&store->mutex);
    watcher->next = store->watchers;
    store->watchers = watcher;
    pthread_mutex_unlock(&store->mutex);
}

void kvs_store_unwatch(kvs_store *store, kvs_watcher *watcher)
{
    pthread_mutex_lock(&store->mutex);
    kvs_watcher **at = &store->watchers;
    while (*at != NULL && *at != watcher) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        *at = watcher->next;
    }
    pthread_mutex_unlock(&store->mutex);
}

void kvs_key_fill_info(const kvs_store *store, const kvs_key *key, kvs_key_info *out)
{
    *out =
        (kvs_key_info){.name = key->name,
                       .name_bytes = key->name_bytes,
                       .dtype = key->dtype,
                       .storage = key->storage,
                       .shape = key->shape,
                       .elements = key->elements,
                       .part_elements = key->part_elements,
                       .parts = key->part_count,
                       .version = {.epoch = store->engine->epoch, .count = kvs_key_version(key)}};
}

kvs_status kvs_key_describe(kvs_store *store, const char *key, size_t key_bytes, kvs_key_info *out,
                            kvs_problem *problem)
{
    kvs_key *found =
        key_bytes > KVS_KEY_BYTES_MAX ? NULL : kvs_key_table_find(&store->keys, key, key_bytes);
    if (found == NULL) {
        return kvs_problem_set(problem, KVS_KEY_NOT_FOUND, "the store has no key \"%.*s\"",
                               (int)(key_bytes < 200 ? key_bytes : 200), key);
    }
    kvs_key_fill_info(store, found, out);
    return KVS_OK;
}

static int by_name(const void *a, const void *b)
{
    const kvs_key *x = *(const kvs_key *const *)a;
    const kvs_key *y = *(const kvs_key *const *)b;
    return strcmp(x->name, y->name);
}

size_t kvs_key_list(kvs_store *store, const char *prefix, const char *after, size_t max,
                    kvs_key_info *out)
{
    uint64_t count = atomic_load_explicit(&store->keys.count, memory_order_acquire);
    const kvs_key **found = malloc((count + 1) * sizeof(kvs_key *));
    size_t matches = 0;
    for (uint64_t i = 0; found != NULL && i < count; i++) {
        const kvs_key *key = kvs_key_table_at(&store->keys, i);
        if (strncmp(key->name, prefix, strlen(prefix)) == 0 && strcmp(key->name, after) > 0) {
            found[matches++] = key;
        }
    }
    if (matches > 0) {
        qsort(found, matches, sizeof(kvs_key *), by_name);
    }
    matches = matches < max ? matches : max;
    for (size_t i = 0; i < matches; i++) {
        kvs_key_fill_info(store, found[i], &out[i]);
    }
    free(found);
    return matches;
}

void kvs_store_set_compression(kvs_store *store, const kvs_encoding *encoding)
{
    pthread_mutex_lock(&store->mutex);
    store->compression = *encoding;
    pthread_mutex_unlock(&store->mutex);
}

void kvs_store_compression(kvs_store *store, kvs_encoding *out)
{
    pthread_mutex_lock(&store->mutex);
    *out = store->compression;
    pthread_mutex_unlock(&store->mutex);
}
