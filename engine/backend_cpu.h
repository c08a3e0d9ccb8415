/* The CPU backend: plain C, at the widest vectors that the machine has.
 *
 * Every call has taken effect when it returns; sync waits for nothing. dtypes: f32, f64, f16 and
 * bf16 with rules, u8, i8, i32 and i64 with sums alone; every codec into f32. A batch that is
 * refused (KVS_UNIMPLEMENTED) has changed nothing.
 *
 * Threads and memory: as in engine/backend.h. Pieces of 2 MiB and more lie on huge pages.
 */
#ifndef KVS_ENGINE_BACKEND_CPU_H
#define KVS_ENGINE_BACKEND_CPU_H

#include "engine/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where large pieces of memory come from, instead of this process alone. */
typedef struct kvs_cpu_heap {
    /* Zeros, page-aligned; NULL: there is none, and the process's own is taken. Any thread. */
    void *(*alloc)(void *context, size_t bytes, uint64_t *region, uint64_t *region_offset);
    void (*free)(void *context, void *data, size_t bytes); /* wipes it */
    void *context;
} kvs_cpu_heap;

/* `heap` (may be NULL) is borrowed until the backend is closed; otherwise as kvs_backend_cpu_open.
 */
kvs_status kvs_backend_cpu_open_on(const kvs_cpu_heap *heap, const char *width, kvs_backend **out,
                                   kvs_problem *problem) KVS_MUST_CHECK;

/* `width` is "baseline", "avx2" or "avx512"; NULL or "": what the environment's KVSTORED_CPU says,
 * else the widest that this machine runs. KVS_INVALID_FIELD for a width that is unknown or not to
 * be had here; KVS_NO_MEMORY. */
kvs_status kvs_backend_cpu_open(const char *width, kvs_backend **out,
                                kvs_problem *problem) KVS_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
