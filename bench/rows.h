/* Rows of a value that has many: read and pushed through an embedded store and through a server,
 * beside the same rows copied one by one in this process.
 *
 * Threads: one. Errors: false, with a sentence on stderr.
 */
#ifndef KVS_BENCH_ROWS_H
#define KVS_BENCH_ROWS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct kvs_bench_rows_plan {
    const char *server; /* the program kvstored */
    uint64_t rows;      /* of the value, each of `width` f32 */
    uint32_t width;
    uint32_t ask; /* rows of one call, at random */
    uint32_t rounds;
    bool json;
} kvs_bench_rows_plan;

/* Measures and prints. */
bool kvs_bench_rows(const kvs_bench_rows_plan *plan);

#endif
