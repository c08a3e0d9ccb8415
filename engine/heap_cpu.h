/* Memory of the CPU backend: of a heap that was given, or of this process alone.
 *
 * Threads: any. Memory and errors: as alloc and free of engine/backend.h.
 */
#ifndef KVS_ENGINE_HEAP_CPU_H
#define KVS_ENGINE_HEAP_CPU_H

#include "engine/backend_cpu.h"

/* `heap` may be NULL. */
kvs_status kvs_heap_cpu_alloc(const kvs_cpu_heap *heap, size_t bytes,
                              kvs_memory *out) KVS_MUST_CHECK;
void kvs_heap_cpu_free(const kvs_cpu_heap *heap, kvs_memory *memory); /* wipes it */

#endif
