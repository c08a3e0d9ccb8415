/* Counted bytes of values on their way to the server: pooled copies, or a caller's own memory.
 *
 * Threads: any; a block's bytes belong to whoever made it until it is sent.
 * Memory: make gives one reference. The bytes of a borrowed block belong to the caller, who may
 *   have them back when kvs_block_shared says false.
 * Errors: make gives NULL when there is no memory.
 */
#ifndef KVS_CLIENT_BLOCK_H
#define KVS_CLIENT_BLOCK_H

#include "client/shared.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVS_BLOCK_CLASSES 48

typedef struct kvs_block {
    struct kvs_block *next; /* in the pool */
    struct kvs_block_pool *pool;
    _Atomic uint32_t references;
    uint32_t size_class;
    bool borrowed;
    bool shared;   /* with the server: kept by the pool while that knows it */
    uint8_t *data; /* 64-byte aligned unless borrowed */
} kvs_block;

typedef struct kvs_block_pool {
    pthread_mutex_t mutex; /* held for a few instructions; nothing is called under it */
    kvs_block *free[KVS_BLOCK_CLASSES];
    size_t free_bytes;  /* that are not shared */
    kvs_shared *shared; /* where large blocks lie, while there is room; or NULL */
} kvs_block_pool;

/* `shared` is borrowed until deinit; NULL: blocks lie in memory of this process alone. */
void kvs_block_pool_init(kvs_block_pool *pool, kvs_shared *shared);
/* After every block was given back. */
void kvs_block_pool_deinit(kvs_block_pool *pool);

/* At least `bytes` bytes, not zeroed. */
kvs_block *kvs_block_make(kvs_block_pool *pool, size_t bytes);
/* Only counts who still reads the caller's memory. */
kvs_block *kvs_block_borrow(kvs_block_pool *pool);

kvs_block *kvs_block_take(kvs_block *block);
void kvs_block_unref(kvs_block *block); /* accepts NULL; neither blocks nor calls back */
/* kvs_block_unref for a kvs_piece. */
void kvs_block_release(void *block);

/* True while somebody else has a reference. */
bool kvs_block_shared(const kvs_block *block);

#endif
