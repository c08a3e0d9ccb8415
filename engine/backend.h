/* Where numbers are added and rules are applied: one table of functions, on batches.
 *
 * Two implementations: engine/backend_cpu.h (plain C, compiled for three vector widths) and
 * cuda/backend_cuda.h. Every member is required. Both give the same bits.
 *
 * Threads: one stream belongs to the holder of one shard. alloc and free may be called from any
 *   thread. Items of one call touch different targets, or different rows of one, but for sums: the
 *   terms of one target stand together, and no source is a target. Calls on one stream take effect
 *   in order.
 * Memory: payloads are borrowed until the next sync of the stream; kvs_memory belongs to the
 * caller, who gives it back by free after a sync. Errors: KVS_NO_MEMORY changes nothing.
 * KVS_DEVICE_LOST: what the targets hold is undefined and every later call says the same.
 */
#ifndef KVS_ENGINE_BACKEND_H
#define KVS_ENGINE_BACKEND_H

#include "base/frame.h"
#include "base/status.h"
#include "engine/rules.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvs_backend kvs_backend;
typedef struct kvs_stream kvs_stream; /* an order of work; opaque to the engine */

/* Memory that the backend computes in. 64-byte aligned (256 on a device). */
typedef struct kvs_memory {
    void *data; /* where the backend computes; on a device not for the host to touch */
    void *host; /* after download: the same bytes for the host. CPU: equal to data */
    size_t bytes;
    uint64_t region; /* 0, or where other processes find host: in memory that the heap of the
                        backend shares */
    uint64_t region_offset;
} kvs_memory;

/* Where numbers come from: backend memory if that is set, else bytes on the host. Of an encoded
 * source payload.bytes is the length in either case. */
typedef struct kvs_source {
    const kvs_memory *memory;
    kvs_payload payload;
} kvs_source;

/* The rows of a matrix that an item is about, all of the same length; none when `elements` is 0.
 * The list is read during the call. */
typedef struct kvs_rows {
    const uint32_t *list;
    uint32_t count;
    uint32_t elements; /* of one row */
} kvs_rows;

/* In a list of rows to add to: this one is not there yet, and copied. */
#define KVS_ROW_FIRST 0x80000000u

/* target := the bytes of source, as they are. source.payload.bytes (or `bytes`) <= target->bytes */
typedef struct kvs_copy_item {
    kvs_memory *target;
    kvs_source source;
    size_t bytes;
    kvs_rows rows; /* if any: row i of target := row rows.list[i] of source.memory */
} kvs_copy_item;

/* first: target := source, else target := target + source, element by element, in the
 * accumulator's dtype (the key's own dtype; f16 and bf16 add in f32, rounded once). A copied
 * first term keeps -0.0 and NaN payloads. Neighbours of one target are its terms, added in order,
 * each sum rounded: a device passes over the target once. Integers wrap. With a codec the source is
 * what engine/codec.h calls an encoding of f32, already judged, and is decoded on its way. */
typedef struct kvs_accumulate_item {
    kvs_memory *target;
    kvs_source source;
    uint64_t elements;
    kvs_dtype dtype; /* of target and source; f32 with a codec */
    kvs_codec codec; /* of source */
    float threshold; /* of the codec */
    bool first;
    /* If any: row i of source is added to row rows.list[i] of target, in this order; with
     * KVS_ROW_FIRST it is copied there. elements is rows.count rows, `first` does not count. */
    kvs_rows rows;
} kvs_accumulate_item;

/* How an item without a list of rows lies among the rows of its value. A rule with a number a row
 * (kvs_rule_row_states) has one for each row that the item has elements of, in order; of a list of
 * rows, one for each row of the matrix. Its gradient is the accumulator: there is no last. */
typedef struct kvs_row_edges {
    uint64_t row_elements;
    uint64_t begun;    /* elements of the first row that lie before the item */
    double squares[2]; /* sums of the squares of G_n over all of the first row, of the last: read
                          where the item has not all of it (one row: the first) */
} kvs_row_edges;

/* target := rule(weight, g), states updated in place, where g = accumulator + last, or whichever
 * of the two is there (accumulator may be NULL; last.payload.bytes == 0 and last.memory == NULL
 * means none). weight and target may be the same memory.
 *
 * f16 and bf16: g is summed and rounded as accumulate does it, the rule computes in f32 on states
 * of f32, and target is the new weight rounded. With a master (f32; NULL: none) the weight is read
 * from it and written to it, and target is its rounding. */
typedef struct kvs_apply_item {
    kvs_rule_scalars scalars;
    const kvs_memory *weight;
    kvs_memory *target;
    kvs_memory *state[KVS_RULE_STATES_MAX]; /* as many as the rule has; zero at the first update */
    kvs_memory *master;                     /* f16 and bf16 only */
    const kvs_memory *accumulator;
    kvs_source last;
    uint64_t elements;
    kvs_dtype dtype; /* of the weight and the gradient: floating */
    /* If any: row i of the accumulator is the gradient of row rows.list[i] of weight and states, no
     * other row is touched, elements is rows.count rows, and there is no last. Without an
     * accumulator the gradient is zero. weight and target are the same memory. No row stands twice.
     */
    kvs_rows rows;
    kvs_row_edges edges; /* of a rule with a number a row, without a list of rows */
} kvs_apply_item;

/* sums[k] := the sum of the squares, in f64, of the k-th term of a kvs_measure over all elements,
 * in the order that engine/rules.h fixes (KVS_MEASURE_BLOCK). The terms are those of weight, state
 * and g = accumulator, f16 and bf16 as in an apply item; what a measure does not read may be NULL.
 * Nothing but sums is written. */
typedef struct kvs_measure_item {
    kvs_rule_scalars scalars;
    int measure; /* kvs_measure */
    const kvs_memory *weight;
    const kvs_memory *state[KVS_RULE_STATES_MAX];
    const kvs_memory *master;
    const kvs_memory *accumulator;
    double *sums;   /* on the host: kvs_measure_sums of them, which hold once sync has returned */
    uint64_t first; /* the place in all of them where the elements begin */
    uint64_t elements;
    kvs_dtype dtype;
} kvs_measure_item;

/* target := source as kvs_codec_write_value encodes it: `runs` of `elements` elements of f32, one
 * after the other. */
typedef struct kvs_encode_item {
    kvs_memory *target;
    const kvs_memory *source;
    kvs_codec codec; /* of values */
    uint64_t runs;
    uint64_t elements; /* of a run */
} kvs_encode_item;

/* Bytes that a scan looks at together. */
#define KVS_SCAN_BLOCK_BYTES ((size_t)2048)

/* changed[i] := 1 where block i of a and b differs in any bit, else 0; the last block may be
 * shorter. What a value has become since a version of it that is kept. */
typedef struct kvs_scan_item {
    const kvs_memory *a;
    const kvs_memory *b;
    size_t bytes;
    uint8_t *changed; /* on the host: one a block, which hold once sync has returned */
} kvs_scan_item;

typedef struct kvs_backend_table {
    kvs_status (*open_stream)(kvs_backend *backend, kvs_stream **out) KVS_MUST_CHECK;
    void (*close_stream)(kvs_backend *backend, kvs_stream *stream);
    kvs_status (*alloc)(kvs_backend *backend, size_t bytes, kvs_memory *out) KVS_MUST_CHECK;
    void (*free)(kvs_backend *backend, kvs_memory *memory); /* wipes it first; accepts data NULL */
    kvs_status (*zero)(kvs_stream *stream, kvs_memory *const *targets, size_t count) KVS_MUST_CHECK;
    kvs_status (*copy)(kvs_stream *stream, const kvs_copy_item *items, size_t count) KVS_MUST_CHECK;
    kvs_status (*accumulate)(kvs_stream *stream, const kvs_accumulate_item *items,
                             size_t count) KVS_MUST_CHECK;
    kvs_status (*apply)(kvs_stream *stream, const kvs_apply_item *items,
                        size_t count) KVS_MUST_CHECK;
    kvs_status (*measure)(kvs_stream *stream, const kvs_measure_item *items,
                          size_t count) KVS_MUST_CHECK;
    kvs_status (*scan)(kvs_stream *stream, const kvs_scan_item *items, size_t count) KVS_MUST_CHECK;
    kvs_status (*encode)(kvs_stream *stream, const kvs_encode_item *items,
                         size_t count) KVS_MUST_CHECK;
    /* Makes room for a download: memory->host is set. KVS_NO_MEMORY changes nothing. */
    kvs_status (*alloc_host)(kvs_backend *backend, kvs_memory *memory) KVS_MUST_CHECK;
    /* Makes memory->host hold the bytes of memory->data, once sync has returned. Where alloc_host
     * was called before, KVS_NO_MEMORY does not come. */
    kvs_status (*download)(kvs_stream *stream, kvs_memory *const *memories,
                           size_t count) KVS_MUST_CHECK;
    /* Waits for all work of the stream: the one wait of a tick. */
    kvs_status (*sync)(kvs_stream *stream) KVS_MUST_CHECK;
    /* Where the shard of that number computes: this backend, or one that it has for another device.
     * Memory and streams of the one are nothing to the other. */
    kvs_backend *(*place)(kvs_backend *backend, uint32_t shard);
    void (*close)(kvs_backend *backend); /* after every stream is closed and memory is free */
} kvs_backend_table;

/* The first member of every backend's own struct. */
struct kvs_backend {
    const kvs_backend_table *table;
    const char *name; /* "cpu avx2", "cuda H100": for logs and GET /version */
    uint32_t dtypes;  /* bits 1 << kvs_dtype: what it sums; rules apply to the floating ones */
    bool rows;        /* takes items of rows: row_sparse values */
    int lost;         /* atomic; once set it stays: every call says KVS_DEVICE_LOST */
};

#ifdef __cplusplus
}
#endif
#endif
