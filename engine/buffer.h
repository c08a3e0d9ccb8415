/* Counted bytes of one version of one part, and the pool of a shard that they come from.
 *
 * Threads: take by the shard's holder; make and unref by any. A buffer whose last reference goes
 *   is pushed to the pool's stack of returned ones, which take and make empty: no lock, and no
 *   ABA, since nobody pops a single one.
 * Memory: a pool lives until its owner and all of its buffers have let go of it.
 * Errors: KVS_OVER_BUDGET, KVS_NO_MEMORY, KVS_DEVICE_LOST change nothing.
 */
#ifndef KVS_ENGINE_BUFFER_H
#define KVS_ENGINE_BUFFER_H

#include "engine/engine.h"

#define KVS_SIZE_CLASSES 80

/* What several pools may use together. */
typedef struct kvs_budget {
    _Atomic uint64_t bytes;
    uint64_t bytes_max; /* 0: no bound */
} kvs_budget;

/* Charges memory that is of no pool. False: there is no room for it. Any thread. */
bool kvs_budget_charge(kvs_budget *budget, uint64_t bytes) KVS_MUST_CHECK;
void kvs_budget_give_back(kvs_budget *budget, uint64_t bytes);
/* Memory of the host that is no buffer, but stands in the budget: lists of rows. Any thread.
 * KVS_OVER_BUDGET, KVS_NO_MEMORY */
kvs_status kvs_budget_alloc(kvs_budget *budget, size_t bytes, void **out) KVS_MUST_CHECK;
void kvs_budget_free(void *memory); /* accepts NULL */

typedef struct kvs_pool {
    kvs_backend *backend;
    kvs_budget *budget;
    kvs_buffer *free[KVS_SIZE_CLASSES];
    _Atomic(kvs_buffer *) returned;
    _Atomic uint64_t users; /* the owner, and each buffer with references */
    _Atomic uint64_t bytes; /* of all its buffers */
} kvs_pool;

struct kvs_buffer {
    _Atomic uint32_t references;
    uint32_t size_class;
    kvs_pool *pool;
    kvs_buffer *next;  /* the pool's */
    kvs_memory memory; /* memory.bytes is the room, not the length of what it holds */
    bool downloaded;   /* memory.host holds the same bytes; the holder's */
};

kvs_pool *kvs_pool_open(kvs_backend *backend, kvs_budget *budget); /* NULL: no memory */
void kvs_pool_close(kvs_pool *pool);                               /* the owner lets go */

/* One reference to a buffer with room for `bytes`. Holder. What it holds is undefined. */
kvs_status kvs_pool_take(kvs_pool *pool, size_t bytes, kvs_buffer **out) KVS_MUST_CHECK;
/* The same from any thread, of what has been given back or by a new allocation. */
kvs_status kvs_pool_make(kvs_pool *pool, size_t bytes, kvs_buffer **out) KVS_MUST_CHECK;

/* Frees what has come back and is not in use: after an init that was refused, so that its bytes do
 * not stand in the budget of those that follow. Any thread. */
void kvs_pool_trim(kvs_pool *pool);

/* kvs_budget_alloc in the pool's budget, if need be in place of what has come back. Any thread. */
kvs_status kvs_pool_alloc(kvs_pool *pool, size_t bytes, void **out) KVS_MUST_CHECK;

kvs_buffer *kvs_buffer_take(kvs_buffer *buffer);

/* True when the caller's reference is the only one, so that it may write. */
bool kvs_buffer_own(const kvs_buffer *buffer);

#endif
