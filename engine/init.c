/* Init: values on their way in. Parts gather in keys that nobody sees; commit shows all or none. */
#include "base/check.h"
#include "engine/rows.h"
#include "engine/session.h"
#include "engine/store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef struct pending_key {
    kvs_key *key;    /* ours until commit; or the store's, when `existed` */
    bool existed;    /* equal to what the store has: nothing of it is taken */
    uint64_t filled; /* parts */
} pending_key;

struct kvs_init {
    kvs_store *store;     /* a reference */
    kvs_session *session; /* a reference; may be NULL */
    bool giver;           /* rank 0: its values count */
    pending_key *pending;
    size_t count, room;
    uint32_t *places;   /* by the hash of the name: a place in `pending` + 1; 2 * room of them */
    kvs_init_key *keys; /* the answer */
    kvs_init *next;     /* in the store's list of those that wait */
    kvs_waiter *waiter;
    uint64_t deadline_ns;
    char missing[KVS_KEY_BYTES_MAX + 1]; /* the key that is waited for */
};

kvs_status kvs_init_open(kvs_store *store, kvs_session *session, kvs_init **out,
                         kvs_problem *problem)
{
    kvs_init *init = calloc(1, sizeof *init);
    if (init == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "nothing was initialised");
    }
    init->store = kvs_store_take(store);
    init->session = session == NULL ? NULL : kvs_session_take(session);
    init->giver = session == NULL || session->rank == 0;
    *out = init;
    return KVS_OK;
}

void kvs_init_close(kvs_init *init)
{
    if (init == NULL) {
        return;
    }
    bool refused = false;
    for (size_t i = 0; i < init->count; i++) {
        if (!init->pending[i].existed) {
            kvs_key_free(init->pending[i].key);
            refused = true;
        }
    }
    for (uint32_t i = 0; refused && i < init->store->shard_count; i++) {
        kvs_pool_trim(init->store->shards[i]->pool);
    }
    free(init->pending);
    free(init->places);
    free(init->keys);
    kvs_session_unref(init->session);
    kvs_store_unref(init->store);
    free(init);
}

/* ------------------------------------------------------------------ parts */

static bool valid_utf8(const uint8_t *text, size_t bytes)
{
    for (size_t i = 0; i < bytes;) {
        uint8_t lead = text[i];
        size_t more = lead < 0x80                   ? 0
                      : lead >= 0xc2 && lead < 0xe0 ? 1
                      : lead >= 0xe0 && lead < 0xf0 ? 2
                      : lead >= 0xf0 && lead < 0xf5 ? 3
                                                    : SIZE_MAX;
        if (more >= bytes - i) {
            return false;
        }
        uint8_t second = more > 0 ? text[i + 1] : 0x80;
        /* No overlong forms, surrogates or numbers above U+10FFFF; no control characters. */
        if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
            (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f) || lead < 0x20 ||
            lead == 0x7f || (lead == 0xc2 && second < 0xa0)) {
            return false;
        }
        for (size_t k = 1; k <= more; k++) {
            if ((text[i + k] & 0xc0) != 0x80) {
                return false;
            }
        }
        i += more + 1;
    }
    return true;
}

/* The storage, and what it asks of the shape. */
static kvs_status judge_storage(const kvs_backend *backend, const kvs_part_header *header,
                                const kvs_shape *shape, kvs_problem *problem)
{
    if (header->storage == KVS_DENSE && header->row_ids_bytes == 0) {
        return KVS_OK;
    }
    if (header->storage != KVS_ROW_SPARSE) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "storage %d has no row ids; row_sparse has", (int)header->storage);
    }
    if (!backend->rows) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED,
                               "row_sparse values are not built yet on %s", backend->name);
    }
    uint64_t row_bytes = kvs_dtype_bytes(header->dtype);
    for (uint32_t i = 1; i < shape->rank; i++) {
        if (__builtin_mul_overflow(row_bytes, shape->size[i], &row_bytes)) {
            row_bytes = UINT64_MAX;
            break;
        }
    }
    if (shape->rank == 0 || row_bytes == 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "a row_sparse value has rows, and its rows elements");
    }
    if (row_bytes > KVS_PART_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a row has up to %" PRIu64 " bytes",
                               KVS_PART_BYTES_MAX);
    }
    return KVS_OK;
}

static kvs_status judge_key(const kvs_backend *backend, const kvs_part_header *header,
                            kvs_shape *shape, uint64_t *elements, kvs_problem *problem)
{
    if (header->key_bytes == 0 || header->key_bytes > KVS_KEY_BYTES_MAX ||
        !valid_utf8((const uint8_t *)header->key, header->key_bytes)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "a key is 1 to %u bytes of UTF-8 without control characters",
                               KVS_KEY_BYTES_MAX);
    }
    if (header->codec != KVS_CODEC_NONE) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "values of init are not compressed");
    }
    if (kvs_dtype_bytes(header->dtype) == 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "%d is no dtype", (int)header->dtype);
    }
    if ((backend->dtypes >> header->dtype & 1) == 0) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "dtype %s is not built yet on %s",
                               kvs_dtype_name(header->dtype), backend->name);
    }
    if (!kvs_part_header_shape(header, shape)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "a shape has up to %u dimensions",
                               KVS_DIMENSIONS_MAX);
    }
    if (!kvs_shape_elements(shape, elements)) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a value has up to %" PRIu64 " elements",
                               KVS_ELEMENTS_MAX);
    }
    return judge_storage(backend, header, shape, problem);
}

/* Where in init->places the key is, or will be. There are some, and half of them are free. */
static size_t find_place(const kvs_init *init, const char *key, uint32_t key_bytes)
{
    size_t mask = 2 * init->room - 1;
    for (size_t at = kvs_key_hash(key, key_bytes) & mask;; at = (at + 1) & mask) {
        if (init->places[at] == 0) {
            return at;
        }
        const kvs_key *there = init->pending[init->places[at] - 1].key;
        if (there->name_bytes == key_bytes && memcmp(there->name, key, key_bytes) == 0) {
            return at;
        }
    }
}

static pending_key *find_pending(kvs_init *init, const char *key, uint32_t key_bytes)
{
    if (init->count == 0) {
        return NULL;
    }
    pending_key *last = &init->pending[init->count - 1]; /* parts of a key come one after another */
    if (last->key->name_bytes == key_bytes && memcmp(last->key->name, key, key_bytes) == 0) {
        return last;
    }
    size_t place = init->places[find_place(init, key, key_bytes)];
    return place == 0 ? NULL : &init->pending[place - 1];
}

/* Room for one more; `room` is a power of two. */
static kvs_status grow(kvs_init *init)
{
    if (init->count < init->room) {
        return KVS_OK;
    }
    size_t room = init->room == 0 ? 16 : 2 * init->room;
    uint32_t *places = calloc(2 * room, sizeof *places);
    pending_key *more = places == NULL ? NULL : realloc(init->pending, room * sizeof *more);
    if (more == NULL) {
        free(places);
        return KVS_NO_MEMORY;
    }
    free(init->places);
    init->places = places;
    init->pending = more;
    init->room = room;
    for (uint32_t i = 0; i < init->count; i++) {
        const kvs_key *key = init->pending[i].key;
        places[find_place(init, key->name, key->name_bytes)] = i + 1;
    }
    return KVS_OK;
}

static bool same(const kvs_key *key, const kvs_part_header *header, const kvs_shape *shape)
{
    return key->dtype == header->dtype && key->storage == header->storage &&
           kvs_shape_equal(&key->shape, shape);
}

static bool same_key(const kvs_key *a, const kvs_key *b)
{
    return a->dtype == b->dtype && a->storage == b->storage &&
           kvs_shape_equal(&a->shape, &b->shape);
}

static kvs_status make_key(const kvs_store *store, const kvs_part_header *header,
                           const kvs_shape *shape, kvs_key **out)
{
    KVS_TRY(kvs_key_make(header->key, header->key_bytes, header->dtype, header->storage, shape,
                         store->engine->part_elements, store->num_workers, out));
    kvs_status status = store->kind == KVS_ASYNC ? kvs_key_count_turns(*out) : KVS_OK;
    if (status != KVS_OK) {
        kvs_key_free(*out);
    }
    return status;
}

/* The place of a key in this init, made at its first part. */
static kvs_status get_pending(kvs_init *init, const kvs_part_header *header, const kvs_shape *shape,
                              uint64_t elements, pending_key **out, kvs_problem *problem)
{
    pending_key *pending = find_pending(init, header->key, header->key_bytes);
    if (pending != NULL) {
        if (!same(pending->key, header, shape)) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                   "\"%s\" comes with two shapes, dtypes or storages",
                                   pending->key->name);
        }
        *out = pending;
        return KVS_OK;
    }
    kvs_store *store = init->store;
    kvs_key *there = kvs_key_table_find(&store->keys, header->key, header->key_bytes);
    if (there != NULL && (!same(there, header, shape) || store->kind == KVS_LOCAL)) {
        return kvs_problem_set(problem, KVS_KEY_EXISTS, "\"%s\" has been initialised", there->name);
    }
    if (grow(init) != KVS_OK) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "nothing was initialised");
    }
    kvs_key *key = there;
    const kvs_budget *budget = &store->engine->budget;
    uint64_t bytes = elements * kvs_dtype_bytes(header->dtype);
    if (there == NULL && bytes > budget->bytes_max) { /* before its parts are made */
        return kvs_problem_set(problem, KVS_OVER_BUDGET, "%" PRIu64 " bytes are more than %" PRIu64,
                               bytes, budget->bytes_max);
    }
    if (there == NULL && make_key(store, header, shape, &key) != KVS_OK) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "nothing was initialised");
    }
    init->places[find_place(init, header->key, header->key_bytes)] = (uint32_t)init->count + 1;
    pending = &init->pending[init->count++];
    *pending = (pending_key){.key = key, .existed = there != NULL};
    for (uint64_t i = 0; there == NULL && i < key->part_count; i++) {
        uint32_t shard = kvs_shard_of(key->name, key->name_bytes, i, store->shard_count);
        key->parts[i].shard = store->shards[shard];
    }
    *out = pending;
    return KVS_OK;
}

static kvs_status judge_place(const kvs_key *key, const kvs_part_header *header,
                              const kvs_payload *payload, kvs_part **out, kvs_problem *problem)
{
    uint64_t index = header->element_offset / key->part_elements;
    if (header->element_offset % key->part_elements != 0 || index >= key->part_count) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "offset %" PRIu64
                               " is not the start of a part of \"%s\", whose parts "
                               "have %" PRIu64 " elements",
                               header->element_offset, key->name, key->part_elements);
    }
    kvs_part *part = &key->parts[index];
    bool sparse = key->storage == KVS_ROW_SPARSE;
    if (header->element_count != part->elements ||
        (!sparse && payload->bytes != kvs_part_bytes(part))) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "part %" PRIu64 " of \"%s\" has %" PRIu64
                               " elements in %zu bytes, not %" PRIu64 " in %zu",
                               index, key->name, part->elements, kvs_part_bytes(part),
                               header->element_count, payload->bytes);
    }
    if (part->value != NULL) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "part %" PRIu64 " of \"%s\" comes twice", index, key->name);
    }
    if (sparse) {
        KVS_TRY(kvs_rows_judge(part, header, problem));
    }
    *out = part;
    return KVS_OK;
}

static kvs_status copy_value(kvs_backend *backend, kvs_stream *stream, kvs_buffer *buffer,
                             const kvs_payload *payload)
{
    kvs_copy_item item = {
        .target = &buffer->memory, .source.payload = *payload, .bytes = payload->bytes};
    return backend->table->copy(stream, &item, 1);
}

/* Rows that stand twice are added up, rows that do not come are zero. */
static kvs_status add_rows(kvs_backend *backend, kvs_stream *stream, kvs_buffer *buffer,
                           const kvs_part *part, const kvs_part_header *header,
                           const kvs_payload *payload)
{
    kvs_memory *memory = &buffer->memory;
    bool ascending;
    uint32_t count = kvs_rows_count(part, header);
    KVS_TRY(backend->table->zero(stream, &memory, 1));
    if (count == 0) {
        return KVS_OK;
    }
    uint32_t *list = malloc(count * sizeof *list);
    if (list == NULL) {
        return KVS_NO_MEMORY;
    }
    kvs_rows_read(part, header, list, &ascending);
    for (uint32_t i = 0; ascending && i < count; i++) {
        list[i] |= KVS_ROW_FIRST; /* as it is, with the sign of a zero */
    }
    kvs_accumulate_item item = {
        .target = memory,
        .source.payload = *payload,
        .elements = count * part->key->row_elements,
        .dtype = part->key->dtype,
        .rows = {.list = list, .count = count, .elements = (uint32_t)part->key->row_elements}};
    kvs_status status = backend->table->accumulate(stream, &item, 1);
    free(list);
    return status;
}

/* Copies a part's first value into memory of its own. */
static kvs_status fill(kvs_part *part, const kvs_part_header *header, const kvs_payload *payload)
{
    kvs_backend *backend = part->shard->pool->backend;
    kvs_stream *stream = NULL;
    kvs_buffer *buffer = NULL;
    KVS_TRY(kvs_pool_make(part->shard->pool, kvs_part_bytes(part), &buffer));
    kvs_status status = backend->table->open_stream(backend, &stream);
    if (status == KVS_OK) {
        status = part->key->storage == KVS_ROW_SPARSE
                     ? add_rows(backend, stream, buffer, part, header, payload)
                     : copy_value(backend, stream, buffer, payload);
        if (status == KVS_OK) {
            status = backend->table->sync(stream);
        }
        backend->table->close_stream(backend, stream);
    }
    if (status != KVS_OK) {
        kvs_buffer_unref(buffer);
        return status;
    }
    part->value = buffer;
    return KVS_OK;
}

kvs_status kvs_init_part(kvs_init *init, const kvs_part_header *header, const kvs_payload *payload,
                         kvs_problem *problem)
{
    kvs_shape shape;
    uint64_t elements = 0;
    pending_key *pending = NULL;
    kvs_part *part = NULL;
    KVS_TRY(judge_key(init->store->engine->backend, header, &shape, &elements, problem));
    KVS_TRY(get_pending(init, header, &shape, elements, &pending, problem));
    if (!init->giver || pending->existed) {
        return KVS_OK;
    }
    KVS_TRY(judge_place(pending->key, header, payload, &part, problem));
    kvs_status status = fill(part, header, payload);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "nothing was initialised");
    }
    pending->filled++;
    return KVS_OK;
}

/* ------------------------------------------------------------------ commit */

static kvs_status bind_all(kvs_init *init)
{
    kvs_optimizer *optimizer = init->store->optimizer;
    for (size_t i = 0; optimizer != NULL && i < init->count; i++) {
        kvs_key *key = init->pending[i].key;
        if (init->pending[i].existed || !kvs_dtype_floating(key->dtype)) {
            continue;
        }
        kvs_binding *binding = kvs_binding_make(optimizer, key);
        if (binding == NULL) {
            return KVS_NO_MEMORY;
        }
        for (uint64_t p = 0; p < key->part_count; p++) {
            kvs_binding_unref(key->parts[p].binding);
            key->parts[p].binding = kvs_binding_take(binding);
        }
        kvs_binding_unref(binding);
    }
    return KVS_OK;
}

/* Mutex. Another init may have made some of the keys meanwhile. */
static kvs_status review(kvs_init *init, uint64_t *parts, kvs_problem *problem)
{
    for (size_t i = 0; i < init->count; i++) {
        pending_key *pending = &init->pending[i];
        kvs_key *key = pending->key;
        if (pending->existed) {
            continue;
        }
        if (pending->filled != key->part_count) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                   "%" PRIu64 " of %" PRIu64 " parts of \"%s\" have come",
                                   pending->filled, key->part_count, key->name);
        }
        kvs_key *there = kvs_key_table_find(&init->store->keys, key->name, key->name_bytes);
        if (there != NULL && !same_key(there, key)) {
            return kvs_problem_set(problem, KVS_KEY_EXISTS, "\"%s\" has been initialised",
                                   key->name);
        }
        if (there != NULL) {
            kvs_key_free(key);
            pending->key = there;
            pending->existed = true;
        } else {
            *parts += key->part_count;
        }
    }
    return KVS_OK;
}

static void raise_inflight(kvs_store *store)
{
    uint64_t parts = atomic_load_explicit(&store->parts, memory_order_relaxed);
    if (parts > atomic_load_explicit(&store->inflight_parts, memory_order_relaxed)) {
        atomic_store_explicit(&store->inflight_parts, parts, memory_order_relaxed);
    }
}

/* Mutex. Shows all keys or none. */
static kvs_status show(kvs_init *init, kvs_problem *problem)
{
    kvs_store *store = init->store;
    uint64_t parts = 0;
    KVS_TRY(review(init, &parts, problem));
    uint64_t keys = atomic_load_explicit(&store->keys.count, memory_order_relaxed) + init->count;
    if (keys > KVS_KEYS_MAX) {
        return kvs_problem_set(problem, KVS_TOO_MANY, "a store has up to %" PRIu64 " keys",
                               KVS_KEYS_MAX);
    }
    kvs_status status = bind_all(init);
    if (status == KVS_OK) {
        status = kvs_key_table_reserve(&store->keys, init->count);
    }
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "nothing was initialised");
    }
    atomic_fetch_add_explicit(&store->parts, parts, memory_order_relaxed);
    raise_inflight(store);
    for (size_t i = 0; i < init->count; i++) {
        init->keys[i].existed = init->pending[i].existed;
        if (!init->pending[i].existed) {
            kvs_key_table_insert(&store->keys, init->pending[i].key);
            init->pending[i].existed = true; /* the store's from now on */
        }
        kvs_key_fill_info(store, init->pending[i].key, &init->keys[i].info);
    }
    kvs_store_changed(store);
    return KVS_OK;
}

/* Have all keys come? A key of another shape is KVS_KEY_EXISTS. */
static kvs_status look(kvs_init *init, bool *all, kvs_problem *problem)
{
    *all = true;
    for (size_t i = 0; i < init->count; i++) {
        kvs_key *key = init->pending[i].key;
        kvs_key *there = kvs_key_table_find(&init->store->keys, key->name, key->name_bytes);
        if (there == NULL) {
            *all = false;
            memcpy(init->missing, key->name, key->name_bytes + 1);
            return KVS_OK;
        }
        if (!same_key(there, key)) {
            return kvs_problem_set(problem, KVS_KEY_EXISTS,
                                   "rank 0 has given \"%s\" another shape or dtype", key->name);
        }
        init->keys[i].existed = init->pending[i].existed;
        kvs_key_fill_info(init->store, there, &init->keys[i].info);
    }
    return KVS_OK;
}

void kvs_init_commit(kvs_init *init, kvs_waiter *waiter, uint64_t now_ns)
{
    kvs_store *store = kvs_store_take(init->store);
    kvs_problem problem = {.status = KVS_OK};
    kvs_status status = KVS_OK;
    bool all = true;
    init->keys = calloc(init->count + 1, sizeof *init->keys);
    pthread_mutex_lock(&store->mutex);
    if (init->keys == NULL) {
        status = kvs_problem_set(&problem, KVS_NO_MEMORY, "nothing was initialised");
    } else if (atomic_load_explicit(&store->deleted, memory_order_acquire)) {
        status = kvs_problem_set(&problem, KVS_STORE_DELETED, "\"%s\" is gone", store->name);
    } else if (init->giver) {
        status = show(init, &problem);
    } else {
        status = look(init, &all, &problem);
        if (status == KVS_OK && !all) {
            uint64_t latest = now_ns + store->barrier_deadline_ns;
            init->waiter = waiter;
            init->deadline_ns = waiter->deadline_ns != 0 && waiter->deadline_ns < latest
                                    ? waiter->deadline_ns
                                    : latest;
            init->next = store->inits;
            store->inits = init;
        }
    }
    bool giver = init->giver;
    pthread_mutex_unlock(&store->mutex);
    if (status != KVS_OK || all) {
        kvs_waiter_finish(waiter, now_ns, status, "%s", problem.detail);
    }
    if (giver && status == KVS_OK) {
        kvs_init_tick(store, now_ns); /* the other ranks wait for these keys */
    }
    kvs_store_unref(store);
}

void kvs_init_tick(kvs_store *store, uint64_t now_ns)
{
    for (;;) {
        kvs_problem problem = {.status = KVS_OK};
        kvs_status status = KVS_OK;
        bool gone = atomic_load_explicit(&store->deleted, memory_order_acquire);
        pthread_mutex_lock(&store->mutex);
        bool stops = atomic_load_explicit(&store->engine->draining, memory_order_relaxed) &&
                     store->members[0].session == NULL;
        kvs_init **at = &store->inits;
        for (; *at != NULL; at = &(*at)->next) {
            bool all = false;
            status = look(*at, &all, &problem);
            if (gone) {
                status =
                    kvs_problem_set(&problem, KVS_STORE_DELETED, "\"%s\" is gone", store->name);
            } else if (!all && status == KVS_OK && (stops || now_ns >= (*at)->deadline_ns)) {
                status = kvs_problem_set(&problem, stops ? KVS_STOPPING : KVS_DEADLINE,
                                         "rank 0 has not initialised \"%.200s\"", (*at)->missing);
            }
            if (all || status != KVS_OK) {
                break;
            }
        }
        kvs_init *init = *at;
        if (init != NULL) {
            *at = init->next;
        }
        pthread_mutex_unlock(&store->mutex);
        if (init == NULL) {
            return;
        }
        kvs_waiter_finish(init->waiter, now_ns, status, "%s", problem.detail);
    }
}

size_t kvs_init_keys(const kvs_init *init, const kvs_init_key **out)
{
    *out = init->keys;
    return init->count;
}
