/* The inner loops of the CPU backend: one source, compiled once for each vector width.
 *
 * kernels_cpu.c is built as baseline (what the compiler's target guarantees), AVX2 and AVX-512;
 * each build fills one table under its own name. All of them give the same bits: the loops are
 * elementwise, without contraction and without reordering.
 *
 * Threads: any; the tables are constant. Memory: borrows its arguments during the call.
 */
#ifndef KVS_ENGINE_KERNELS_CPU_H
#define KVS_ENGINE_KERNELS_CPU_H

#include "base/tensor.h"
#include "engine/rules.h"

/* A run of elements to which a rule is applied. target, weight and states are aligned for their
 * type and may be the same as each other element by element; last may lie at any address. */
typedef struct kvs_cpu_run {
    const kvs_rule_scalars *scalars;
    const void *weight;
    void *target;
    void *state[KVS_RULE_STATES_MAX];
    const void *accumulator; /* one of the two may be NULL */
    const void *last;
    size_t elements;
    uint64_t element; /* the first one's place in its key */
} kvs_cpu_run;

typedef void kvs_cpu_apply_function(const kvs_cpu_run *run);

/* Adds the squares of a measure's terms to the lanes of a block: lane i mod KVS_MEASURE_LANES of
 * element i. Reads weight, state and accumulator of the run; its first element has lane 0. */
typedef struct kvs_cpu_lanes {
    double of[KVS_MEASURE_SUMS_MAX][KVS_MEASURE_LANES];
} kvs_cpu_lanes;
typedef void kvs_cpu_measure_function(const kvs_cpu_run *run, kvs_cpu_lanes *lanes);

/* target := target + source; source may lie at any address. Integers wrap; f16 and bf16 are added
 * in f32 and rounded. */
typedef void kvs_cpu_add_function(void *target, const void *source, size_t elements);

/* target := source in another type: f32 from or to f16 or bf16; source may lie at any address. */
typedef void kvs_cpu_cast_function(void *target, const void *source, size_t elements);

typedef struct kvs_cpu_kernels {
    const char *name;                               /* "baseline", "avx2", "avx512" */
    kvs_cpu_add_function *add[KVS_DTYPE_COUNT];     /* NULL: not built */
    kvs_cpu_cast_function *widen[KVS_DTYPE_COUNT];  /* to f32; f16 and bf16 have it */
    kvs_cpu_cast_function *narrow[KVS_DTYPE_COUNT]; /* from f32 */
    kvs_cpu_apply_function *apply_f32[KVS_RULE_COUNT];
    kvs_cpu_apply_function *apply_f64[KVS_RULE_COUNT];
    kvs_cpu_measure_function *measure_f32[KVS_MEASURE_COUNT];
    kvs_cpu_measure_function *measure_f64[KVS_MEASURE_COUNT];
} kvs_cpu_kernels;

extern const kvs_cpu_kernels kvs_cpu_kernels_baseline;
#if defined(__x86_64__)
extern const kvs_cpu_kernels kvs_cpu_kernels_avx2;
extern const kvs_cpu_kernels kvs_cpu_kernels_avx512;
#endif

#endif
