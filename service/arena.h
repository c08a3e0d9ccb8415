/* Memory for the values of stores, which workers on this machine may map to read: a heap of the CPU
 * backend, in a few large regions (base/region.h) that this server alone can write.
 *
 * Threads: any. Memory: grows by what is asked for; what is freed is wiped, and given out again
 *   for pieces of the same size. Errors: NULL, the caller does without.
 */
#ifndef KVS_SERVICE_ARENA_H
#define KVS_SERVICE_ARENA_H

#include "base/status.h"

#include <stddef.h>

typedef struct kvs_arena kvs_arena;

kvs_status kvs_arena_open(kvs_arena **out) KVS_MUST_CHECK;
void kvs_arena_close(kvs_arena *arena); /* everything is freed; accepts NULL */

/* As kvs_cpu_heap has them; `arena` is the context. Numbers of regions have their highest bit set.
 */
void *kvs_arena_alloc(void *arena, size_t bytes, uint64_t *region, uint64_t *region_offset);
void kvs_arena_free(void *arena, void *data, size_t bytes);

/* A descriptor of a region, the caller's, and its bytes; -1: no such region, or no descriptor. */
int kvs_arena_descriptor(kvs_arena *arena, uint64_t region, size_t *bytes);

#endif
