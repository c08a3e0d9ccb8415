/* What is measured of a backend: each of its verbs on many parts at once, as a shard's tick has
 * them, with nothing of the engine around it.
 *
 * All memory is the backend's own, but for `push`, whose gradients lie in pageable memory as the
 * network leaves them. An engine on the CPU works with as many threads as there are processors,
 * each with a stream of its own and its share of the parts.
 *
 * Threads: one; the others are inside. Memory: each run gives all of it back.
 * Errors: what the backend said; KVS_UNIMPLEMENTED: it has no such items.
 */
#ifndef KVS_BENCH_GPU_CASES_H
#define KVS_BENCH_GPU_CASES_H

#include "engine/backend.h"

typedef enum kvs_gpu_verb {
    KVS_GPU_COPY,
    KVS_GPU_ZERO,
    KVS_GPU_SUM,
    KVS_GPU_ENCODE, /* a value for those who pull it in fewer bytes */
    KVS_GPU_RULE,
    KVS_GPU_RULE_OF_TWO, /* the gradient is the sum so far and one more */
    KVS_GPU_PUSH,        /* sums what comes over the link */
    KVS_GPU_PULL         /* downloads */
} kvs_gpu_verb;

typedef struct kvs_gpu_case {
    const char *name;
    kvs_gpu_verb verb;
    kvs_dtype dtype;
    kvs_codec codec; /* of what is summed */
    uint32_t terms;  /* that one call adds to each sum; 0: one */
    int rule;
} kvs_gpu_case;

typedef struct kvs_gpu_plan {
    kvs_backend *backend;
    uint32_t threads;
    uint32_t parts;   /* of KVS_PART_ELEMENTS each */
    uint32_t repeats; /* of one measurement, with one wait at the end */
    uint32_t rounds;
} kvs_gpu_plan;

#define KVS_GPU_ROUNDS_MAX 101u

/* Seconds of one call over all parts, a number a round. */
typedef struct kvs_gpu_times {
    uint32_t count;
    double seconds[KVS_GPU_ROUNDS_MAX];
} kvs_gpu_times;

extern const kvs_gpu_case kvs_gpu_cases[];
extern const uint32_t kvs_gpu_cases_count;

/* Bytes of an element that must be read or written where the backend computes; of PUSH and PULL
 * those that go over the link. */
double kvs_gpu_case_bytes(const kvs_gpu_case *which);

kvs_status kvs_gpu_case_run(const kvs_gpu_case *which, const kvs_gpu_plan *plan,
                            kvs_gpu_times *out) KVS_MUST_CHECK;

#endif
