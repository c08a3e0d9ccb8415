#include "bench/add.h"

#include <string.h>

/* An f32 at any address. */
typedef float loose __attribute__((aligned(1), may_alias));

__attribute__((always_inline)) static inline void
add_body(float *restrict target, const uint8_t *restrict source, size_t elements)
{
    const loose *terms = (const loose *)source;
    for (size_t i = 0; i < elements; i++) {
        target[i] += terms[i];
    }
}

static void add_plain(float *target, const uint8_t *source, size_t elements)
{
    add_body(target, source, elements);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void add_avx2(float *target, const uint8_t *source,
                                                     size_t elements)
{
    add_body(target, source, elements);
}

__attribute__((target("avx512f,avx512vl"))) static void
add_avx512(float *target, const uint8_t *source, size_t elements)
{
    add_body(target, source, elements);
}
#endif

void kvs_bench_add(float *target, const uint8_t *source, size_t elements)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
        add_avx512(target, source, elements);
        return;
    }
    if (__builtin_cpu_supports("avx2")) {
        add_avx2(target, source, elements);
        return;
    }
#endif
    add_plain(target, source, elements);
}
