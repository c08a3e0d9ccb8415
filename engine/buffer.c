#include "engine/buffer.h"

#include "base/check.h"

#include <stdlib.h>

/* Sizes in steps of a quarter: 64, 80, 96, 112, 128, 160 ... so at most a fifth is lost. */
static uint32_t class_of(size_t bytes)
{
    size_t units = (bytes + 15) / 16;
    if (units < 4) {
        units = 4;
    }
    unsigned top = 63u - (unsigned)__builtin_clzll((unsigned long long)units);
    size_t step = (size_t)1 << (top - 2);
    size_t quarters = (units + step - 1) / step; /* 4 to 8 */
    return (uint32_t)((top - 2) * 4 + quarters - 4);
}

static size_t class_bytes(uint32_t size_class)
{
    return (size_t)(size_class % 4 + 4) << (size_class / 4 + 4);
}

/* ------------------------------------------------------------------ memory that is no buffer */

bool kvs_budget_charge(kvs_budget *budget, uint64_t bytes)
{
    uint64_t used = atomic_fetch_add_explicit(&budget->bytes, bytes, memory_order_relaxed);
    if (budget->bytes_max == 0 || used + bytes <= budget->bytes_max) {
        return true;
    }
    kvs_budget_give_back(budget, bytes);
    return false;
}

void kvs_budget_give_back(kvs_budget *budget, uint64_t bytes)
{
    atomic_fetch_sub_explicit(&budget->bytes, bytes, memory_order_relaxed);
}

/* What lies in front of it; as long as the strictest alignment. */
typedef struct budget_head {
    _Alignas(16) kvs_budget *budget;
    size_t bytes; /* with this */
} budget_head;

kvs_status kvs_budget_alloc(kvs_budget *budget, size_t bytes, void **out)
{
    size_t all = bytes + sizeof(budget_head);
    if (!kvs_budget_charge(budget, all)) {
        return KVS_OVER_BUDGET;
    }
    budget_head *head = malloc(all);
    if (head == NULL) {
        kvs_budget_give_back(budget, all);
        return KVS_NO_MEMORY;
    }
    *head = (budget_head){.budget = budget, .bytes = all};
    *out = head + 1;
    return KVS_OK;
}

void kvs_budget_free(void *memory)
{
    if (memory != NULL) {
        budget_head *head = (budget_head *)memory - 1;
        kvs_budget_give_back(head->budget, head->bytes);
        free(head);
    }
}

/* ------------------------------------------------------------------ pools */

kvs_pool *kvs_pool_open(kvs_backend *backend, kvs_budget *budget)
{
    kvs_pool *pool = calloc(1, sizeof *pool);
    if (pool != NULL) {
        pool->backend = backend;
        pool->budget = budget;
        atomic_init(&pool->users, 1);
    }
    return pool;
}

static void free_list(kvs_pool *pool, kvs_buffer *buffer)
{
    while (buffer != NULL) {
        kvs_buffer *next = buffer->next;
        size_t bytes = class_bytes(buffer->size_class);
        pool->backend->table->free(pool->backend, &buffer->memory);
        kvs_budget_give_back(pool->budget, bytes);
        atomic_fetch_sub_explicit(&pool->bytes, bytes, memory_order_relaxed);
        free(buffer);
        buffer = next;
    }
}

static void leave(kvs_pool *pool)
{
    /* Acquire and release: whoever frees sees what all the others did. */
    if (atomic_fetch_sub_explicit(&pool->users, 1, memory_order_acq_rel) != 1) {
        return;
    }
    free_list(pool, atomic_load_explicit(&pool->returned, memory_order_relaxed));
    for (size_t i = 0; i < KVS_SIZE_CLASSES; i++) {
        free_list(pool, pool->free[i]);
    }
    free(pool);
}

void kvs_pool_close(kvs_pool *pool)
{
    if (pool != NULL) {
        leave(pool);
    }
}

void kvs_pool_trim(kvs_pool *pool)
{
    free_list(pool, atomic_exchange_explicit(&pool->returned, NULL, memory_order_acquire));
}

kvs_status kvs_pool_alloc(kvs_pool *pool, size_t bytes, void **out)
{
    kvs_status status = kvs_budget_alloc(pool->budget, bytes, out);
    if (status == KVS_OVER_BUDGET) {
        kvs_pool_trim(pool);
        status = kvs_budget_alloc(pool->budget, bytes, out);
    }
    return status;
}

static kvs_status make(kvs_pool *pool, uint32_t size_class, kvs_buffer **out)
{
    size_t bytes = class_bytes(size_class);
    if (!kvs_budget_charge(pool->budget, bytes)) {
        return KVS_OVER_BUDGET;
    }
    kvs_buffer *buffer = calloc(1, sizeof *buffer);
    kvs_status status = buffer == NULL
                            ? KVS_NO_MEMORY
                            : pool->backend->table->alloc(pool->backend, bytes, &buffer->memory);
    if (status != KVS_OK) {
        free(buffer);
        kvs_budget_give_back(pool->budget, bytes);
        return status;
    }
    buffer->pool = pool;
    buffer->size_class = size_class;
    atomic_init(&buffer->references, 1);
    atomic_fetch_add_explicit(&pool->users, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->bytes, bytes, memory_order_relaxed);
    *out = buffer;
    return KVS_OK;
}

/* All that has been given back. Acquire: its last readers are done with it. */
static kvs_buffer *take_returned(kvs_pool *pool)
{
    return atomic_exchange_explicit(&pool->returned, NULL, memory_order_acquire);
}

/* Pushes the list first..last, linked by next, to what has been given back. */
static void give_back(kvs_pool *pool, kvs_buffer *first, kvs_buffer *last)
{
    kvs_buffer *head = atomic_load_explicit(&pool->returned, memory_order_relaxed);
    do {
        last->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&pool->returned, &head, first,
                                                    memory_order_release, memory_order_relaxed));
}

/* One reference to a buffer that nobody has. */
static kvs_buffer *reuse(kvs_pool *pool, kvs_buffer *buffer)
{
    buffer->downloaded = false;
    atomic_store_explicit(&buffer->references, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&pool->users, 1, memory_order_relaxed);
    return buffer;
}

kvs_status kvs_pool_make(kvs_pool *pool, size_t bytes, kvs_buffer **out)
{
    uint32_t size_class = class_of(bytes);
    KVS_CHECK(size_class < KVS_SIZE_CLASSES);
    kvs_buffer *list = take_returned(pool);
    kvs_buffer **at = &list;
    while (*at != NULL && (*at)->size_class != size_class) {
        at = &(*at)->next;
    }
    kvs_buffer *found = *at;
    if (found != NULL) {
        *at = found->next;
    }
    kvs_status status = KVS_OK;
    if (found == NULL) {
        status = make(pool, size_class, &found);
        if (status != KVS_OK && list != NULL) {
            free_list(pool, list);
            list = NULL;
            status = make(pool, size_class, &found);
        }
    } else {
        (void)reuse(pool, found);
    }
    if (list != NULL) {
        kvs_buffer *last = list;
        while (last->next != NULL) {
            last = last->next;
        }
        give_back(pool, list, last);
    }
    if (status == KVS_OK) {
        *out = found;
    }
    return status;
}

/* No room: what the pool keeps for later goes. Holder. */
static kvs_status make_room(kvs_pool *pool, uint32_t size_class, kvs_buffer **out)
{
    free_list(pool, take_returned(pool));
    for (size_t i = 0; i < KVS_SIZE_CLASSES; i++) {
        free_list(pool, pool->free[i]);
        pool->free[i] = NULL;
    }
    return make(pool, size_class, out);
}

kvs_status kvs_pool_take(kvs_pool *pool, size_t bytes, kvs_buffer **out)
{
    uint32_t size_class = class_of(bytes);
    KVS_CHECK(size_class < KVS_SIZE_CLASSES);
    if (pool->free[size_class] == NULL) {
        kvs_buffer *back = take_returned(pool);
        while (back != NULL) {
            kvs_buffer *next = back->next;
            back->next = pool->free[back->size_class];
            pool->free[back->size_class] = back;
            back = next;
        }
    }
    kvs_buffer *buffer = pool->free[size_class];
    if (buffer == NULL) {
        kvs_status status = make(pool, size_class, out);
        return status == KVS_OK ? status : make_room(pool, size_class, out);
    }
    pool->free[size_class] = buffer->next;
    *out = reuse(pool, buffer);
    return KVS_OK;
}

kvs_buffer *kvs_buffer_take(kvs_buffer *buffer)
{
    atomic_fetch_add_explicit(&buffer->references, 1, memory_order_relaxed);
    return buffer;
}

void kvs_buffer_unref(kvs_buffer *buffer)
{
    if (buffer == NULL) {
        return;
    }
    /* Release: this reader is done; acquire: the one who gives it back sees all of that. */
    if (atomic_fetch_sub_explicit(&buffer->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    kvs_pool *pool = buffer->pool;
    give_back(pool, buffer, buffer);
    leave(pool);
}

bool kvs_buffer_own(const kvs_buffer *buffer)
{
    /* Acquire: the last other reader is done before we write. */
    return atomic_load_explicit(&buffer->references, memory_order_acquire) == 1;
}
