#include "client/block.h"

#include <stdlib.h>
#include <sys/mman.h>

/* Freed beyond this: enough for a model that is pushed again and again, not a leak. */
#define KEEP_BYTES_MAX ((size_t)512 << 20)
/* From here on blocks lie on huge pages: fresh small pages are slower than the network. */
#define HUGE_BYTES ((size_t)2 << 20)
/* From here on a block is shared with the server: smaller ones go as data, many in a frame. */
#define SHARED_BYTES_MIN ((size_t)64 << 10)

void kvs_block_pool_init(kvs_block_pool *pool, kvs_shared *shared)
{
    *pool = (kvs_block_pool){.shared = shared};
    (void)pthread_mutex_init(&pool->mutex, NULL);
}

static size_t class_bytes(uint32_t size_class)
{
    return (size_t)64 << size_class;
}

static void free_block(kvs_block *block)
{
    if (block->shared) {
        kvs_shared_free(block->pool->shared, block->data, class_bytes(block->size_class));
    } else {
        free(block->data);
    }
    free(block);
}

void kvs_block_pool_deinit(kvs_block_pool *pool)
{
    for (int i = 0; i < KVS_BLOCK_CLASSES; i++) {
        while (pool->free[i] != NULL) {
            kvs_block *block = pool->free[i];
            pool->free[i] = block->next;
            free_block(block);
        }
    }
    (void)pthread_mutex_destroy(&pool->mutex);
}

static kvs_block *take_kept(kvs_block_pool *pool, uint32_t size_class)
{
    (void)pthread_mutex_lock(&pool->mutex);
    kvs_block *block = pool->free[size_class];
    if (block != NULL) {
        pool->free[size_class] = block->next;
        pool->free_bytes -= block->shared ? 0 : class_bytes(size_class);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    return block;
}

/* Shared with a server that knows it no more, as it is another one now or another session. */
static bool is_forgotten(const kvs_block *block)
{
    uint64_t region;
    uint64_t offset;
    return block->shared && !kvs_shared_find(block->pool->shared, block->data, 1, &region, &offset);
}

static kvs_block *take_free(kvs_block_pool *pool, uint32_t size_class)
{
    for (;;) {
        kvs_block *block = take_kept(pool, size_class);
        if (block == NULL || !is_forgotten(block)) {
            return block;
        }
        free_block(block);
    }
}

static bool alloc_data(kvs_block *block, size_t size)
{
    if (size >= SHARED_BYTES_MIN) {
        block->data = kvs_shared_alloc(block->pool->shared, size);
        block->shared = block->data != NULL;
    }
    if (block->data == NULL) {
        block->data = aligned_alloc(size < HUGE_BYTES ? 64 : HUGE_BYTES, size);
        if (block->data != NULL && size >= HUGE_BYTES) {
            (void)madvise(block->data, size, MADV_HUGEPAGE);
        }
    }
    return block->data != NULL;
}

kvs_block *kvs_block_make(kvs_block_pool *pool, size_t bytes)
{
    uint32_t size_class = 0;
    while (size_class < KVS_BLOCK_CLASSES && class_bytes(size_class) < bytes) {
        size_class++;
    }
    if (size_class == KVS_BLOCK_CLASSES) {
        return NULL;
    }
    kvs_block *block = take_free(pool, size_class);
    if (block == NULL) {
        block = calloc(1, sizeof *block);
        if (block == NULL) {
            return NULL;
        }
        block->pool = pool;
        block->size_class = size_class;
        if (!alloc_data(block, class_bytes(size_class))) {
            free(block);
            return NULL;
        }
    }
    atomic_init(&block->references, 1);
    return block;
}

kvs_block *kvs_block_borrow(kvs_block_pool *pool)
{
    kvs_block *block = calloc(1, sizeof *block);
    if (block != NULL) {
        block->pool = pool;
        block->borrowed = true;
        atomic_init(&block->references, 1);
    }
    return block;
}

kvs_block *kvs_block_take(kvs_block *block)
{
    atomic_fetch_add_explicit(&block->references, 1, memory_order_relaxed);
    return block;
}

void kvs_block_unref(kvs_block *block)
{
    /* Acquire and release: the last one sees that all others have read. */
    if (block == NULL ||
        atomic_fetch_sub_explicit(&block->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    if (block->borrowed) {
        free(block);
        return;
    }
    kvs_block_pool *pool = block->pool;
    size_t bytes = block->shared ? 0 : class_bytes(block->size_class);
    (void)pthread_mutex_lock(&pool->mutex);
    bool keep = pool->free_bytes + bytes <= KEEP_BYTES_MAX;
    if (keep) {
        block->next = pool->free[block->size_class];
        pool->free[block->size_class] = block;
        pool->free_bytes += bytes;
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    if (!keep) {
        free_block(block);
    }
}

void kvs_block_release(void *block)
{
    kvs_block_unref(block);
}

bool kvs_block_shared(const kvs_block *block)
{
    return atomic_load_explicit(&block->references, memory_order_acquire) > 1;
}
