/* The sum that a parameter server cannot avoid, as fast as this machine does it. */
#ifndef KVS_BENCH_ADD_H
#define KVS_BENCH_ADD_H

#include <stddef.h>
#include <stdint.h>

/* target[i] += the i-th f32 at `source`, which may start at any address. */
void kvs_bench_add(float *target, const uint8_t *source, size_t elements);

#endif
