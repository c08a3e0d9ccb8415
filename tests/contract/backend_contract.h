/* What every backend must do, as one suite: a backend gets it by a row and a main of five lines.
 *
 * Every case runs on the backend of the row and on the CPU's baseline. Numbers are compared with
 * an oracle in double, within a tolerance, and between the two backends bit for bit (any NaN
 * equals any other: hardware does not agree on their payloads).
 *
 * Threads: one. Memory: a contract owns both backends while the suite runs.
 */
#ifndef KVS_TESTS_CONTRACT_BACKEND_CONTRACT_H
#define KVS_TESTS_CONTRACT_BACKEND_CONTRACT_H

#include "engine/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One backend under test. */
typedef struct kvs_contract_row {
    const char *name;
    kvs_status (*open)(kvs_backend **out, kvs_problem *problem);
    uint32_t dtypes; /* 1 << kvs_dtype of those that it adds; rules: the floating ones */
    uint32_t cases;  /* random cases of each kind; 0: 300 */
} kvs_contract_row;

/* Runs the suite; what main returns. A backend that does not open is a failure: a main that may
 * lack its machine looks first and returns 77. KVS_SEED=n repeats a run. */
int kvs_contract_main(const kvs_contract_row *row);

/* ------------------------------------------------------------------ for the suite's own files */

/* One backend and a stream of it. */
typedef struct kvs_contract_side {
    kvs_backend *backend;
    kvs_stream *stream;
} kvs_contract_side;

typedef struct kvs_contract {
    kvs_contract_side side[2]; /* the one under test, the CPU's baseline */
    uint32_t dtypes;
    uint32_t cases;
    uint64_t random; /* state of the generator */
} kvs_contract;

/* The contract of the running suite. */
kvs_contract *kvs_contract_of(void **state);

/* A number in [0, bound). */
uint64_t kvs_contract_random(kvs_contract *contract, uint64_t bound);

/* Memory of a side that holds `bytes` bytes of `from`, or zeros when it is NULL. */
kvs_memory kvs_contract_memory(kvs_contract_side *side, const void *from, size_t bytes);

/* Waits for the side and copies the bytes of its memory to `out`. */
void kvs_contract_read(kvs_contract_side *side, kvs_memory *memory, void *out);
void kvs_contract_free(kvs_contract_side *side, kvs_memory *memory);

/* How bytes arrive. */
typedef enum kvs_contract_cut {
    KVS_CUT_WHOLE, /* one span */
    KVS_CUT_BYTES, /* one byte a span */
    KVS_CUT_SHORT, /* spans of 0 to 9 bytes: elements straddle two and three */
    KVS_CUT_LONG,  /* some spans of any length */
    KVS_CUT_COUNT
} kvs_contract_cut;

/* A payload whose every span is a block of its own that ends with the span, at any alignment, so
 * that a sanitizer sees any byte read before or behind. */
typedef struct kvs_contract_pieces {
    kvs_payload payload;
    kvs_span *spans;
    void **blocks;
} kvs_contract_pieces;

kvs_contract_pieces kvs_contract_cut_bytes(kvs_contract *contract, const void *from, size_t bytes,
                                           kvs_contract_cut cut);
void kvs_contract_pieces_free(kvs_contract_pieces *pieces);

/* Elements in the range where the oracle's tolerance holds: floats in [-2, 2], any integers. */
void kvs_contract_fill(kvs_contract *contract, kvs_dtype dtype, void *out, size_t elements);

/* Floats as they also come: zeros of both signs, denormals, the largest, infinities, NaNs. */
void kvs_contract_fill_odd(kvs_contract *contract, kvs_dtype dtype, void *out, size_t elements);

/* A number of a floating dtype. */
double kvs_contract_number(kvs_dtype dtype, const void *data, size_t index);

/* Fails unless all elements have the same bits; any two NaNs are the same. */
void kvs_contract_same(kvs_dtype dtype, const void *a, const void *b, size_t elements);

/* The tests of each file. */
typedef struct kvs_contract_tests {
    const struct CMUnitTest *tests;
    size_t count;
} kvs_contract_tests;
kvs_contract_tests kvs_contract_memory_tests(void);
kvs_contract_tests kvs_contract_sum_tests(void);
kvs_contract_tests kvs_contract_rule_tests(void);
kvs_contract_tests kvs_contract_half_tests(void);
kvs_contract_tests kvs_contract_codec_tests(void);
kvs_contract_tests kvs_contract_rows_tests(void);
kvs_contract_tests kvs_contract_row_rule_tests(void);
kvs_contract_tests kvs_contract_measure_tests(void);
kvs_contract_tests kvs_contract_scan_tests(void);

#ifdef __cplusplus
}
#endif
#endif
