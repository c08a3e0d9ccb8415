/* A seeded source of numbers, and messages cut into pieces at random places.
 *
 * Every piece is an allocation of its own, so that a read one byte past it is seen by a sanitizer.
 * Threads: one. Memory: spans_free gives everything back.
 */
#ifndef KVS_TESTS_UNIT_API_SPANS_H
#define KVS_TESTS_UNIT_API_SPANS_H

#include "base/tensor.h"

typedef struct kvs_seed {
    uint64_t state;
} kvs_seed;

uint64_t kvs_seed_next(kvs_seed *seed);
/* 0 to below - 1. */
uint64_t kvs_seed_below(kvs_seed *seed, uint64_t below);
bool kvs_seed_chance(kvs_seed *seed, unsigned in);
/* As often small as large: the numbers that varints care about. */
uint64_t kvs_seed_number(kvs_seed *seed);

typedef struct kvs_spans {
    kvs_span *spans;
    size_t count;
} kvs_spans;

/* In up to `pieces_max` pieces, some of them empty. */
kvs_spans kvs_spans_cut(const uint8_t *bytes, size_t count, size_t pieces_max, kvs_seed *seed);
void kvs_spans_free(kvs_spans *spans);

#endif
