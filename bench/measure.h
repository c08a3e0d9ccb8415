/* What is measured, in which order, and the numbers of every round.
 *
 * In each round every case runs once, the bare stream and kvstored one after the other, so that a
 * machine that drifts drifts under both.
 *
 * Threads: one. Memory: results are plain data.
 * Errors: false, with a sentence on stderr.
 */
#ifndef KVS_BENCH_MEASURE_H
#define KVS_BENCH_MEASURE_H

#include "bench/party.h"

#define KVS_BENCH_ROUNDS_MAX 101u
#define KVS_BENCH_ROWS_MAX 16u

/* One number a round, and the processor time that went with it. */
typedef struct kvs_bench_series {
    uint32_t count;
    double rate[KVS_BENCH_ROUNDS_MAX];       /* of the row's unit */
    double client_cpu[KVS_BENCH_ROUNDS_MAX]; /* seconds for a GB, or microseconds for a key */
    double server_cpu[KVS_BENCH_ROUNDS_MAX];
    double median_us[KVS_BENCH_ROUNDS_MAX]; /* of one operation; 0 where none is waited for */
} kvs_bench_series;

typedef struct kvs_bench_row {
    const char *name;
    uint32_t workers; /* 0: a limit of the machine, with `bare` only */
    bool shared;      /* by memory of the server's; `bare` is what the machine does with it */
    bool small;       /* keys of small_bytes: thousands a second; else GB a second */
    kvs_bench_verb verb;
    kvs_bench_series bare;
    kvs_bench_series ours;
} kvs_bench_row;

typedef struct kvs_bench_plan {
    kvs_bench_sizes sizes;
    uint32_t rounds;
    const char *server; /* the program kvstored; NULL: only the limits and the bare stream */
    bool verbose;       /* says on stderr what runs */
} kvs_bench_plan;

typedef struct kvs_bench_results {
    double load; /* of the machine before anything was measured: tasks of the last minute */
    uint32_t rows_count;
    kvs_bench_row rows[KVS_BENCH_ROWS_MAX];
} kvs_bench_results;

bool kvs_bench_measure(const kvs_bench_plan *plan, kvs_bench_results *out);

#endif
