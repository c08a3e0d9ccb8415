/* What a frame says of one part, as views into the message that carries it.
 *
 * Decoded by api/, judged by the engine, encoded by api/ again: one struct for the whole way.
 * Threads: whoever holds the message. Memory: borrows key, shape and row ids from the message.
 */
#ifndef KVS_BASE_FRAME_H
#define KVS_BASE_FRAME_H

#include "base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers as in kvstored.proto. */
typedef enum kvs_storage { KVS_DENSE = 0, KVS_ROW_SPARSE = 1 } kvs_storage;
typedef enum kvs_codec {
    KVS_CODEC_NONE = 0,
    KVS_CODEC_2BIT = 1,
    KVS_CODEC_1BIT = 2,
    KVS_CODEC_F16 = 3,
    KVS_CODEC_BF16 = 4,
    KVS_CODEC_INT8 = 5,
    KVS_CODEC_ENTRIES = 6,
    KVS_CODEC_COUNT
} kvs_codec;

/* How many updates something has had, within one epoch. Compared epoch first. */
typedef struct kvs_version {
    uint64_t epoch;
    uint64_t count;
} kvs_version;

typedef struct kvs_part_header {
    const char *key; /* not terminated */
    uint32_t key_bytes;
    kvs_dtype dtype;
    kvs_storage storage;
    kvs_codec codec;
    bool has_shape;          /* false: the shape is the key's */
    uint32_t shape_bytes;    /* of packed varints */
    const uint8_t *shape;    /* read by kvs_part_header_shape */
    uint64_t element_offset; /* in elements of the value, row-major */
    uint64_t element_count;
    uint64_t sequence; /* 0: not sequenced (init, plain reads) */
    uint64_t after;    /* highest sequence the session gave to this key before; 0: none */
    int32_t priority;  /* reorders between keys only; higher first */
    bool has_weight;   /* of the contribution in a mean; not built yet */
    double weight;
    float threshold;        /* of KVS_CODEC_2BIT; else 0 */
    uint64_t payload_bytes; /* of this part in the frame's data */
    kvs_version version;    /* of the value carried; replies only */
    uint32_t row_ids_bytes; /* of packed varints, of the value's rows; row_sparse only */
    const uint8_t *row_ids;
    uint64_t region_offset; /* of a frame in a region */
    uint64_t empty_parts;   /* > 0: it stands for so many parts that bring no rows; pushes only */
} kvs_part_header;

/* Reads the packed shape. False when it has more than KVS_DIMENSIONS_MAX dimensions or is cut. */
bool kvs_part_header_shape(const kvs_part_header *header, kvs_shape *out);

/* Writes a shape as packed varints to `out` (KVS_DIMENSIONS_MAX * 10 bytes hold any); the length.
 */
uint32_t kvs_shape_pack(const kvs_shape *shape, uint8_t *out);

/* A number as a varint to `out`, which has room for KVS_VARINT_BYTES_MAX; its length. */
#define KVS_VARINT_BYTES_MAX 10u
uint32_t kvs_varint_pack(uint64_t value, uint8_t *out);

/* Reads the varint at `*at` of `bytes` bytes and moves on. False when it is cut or too long. */
bool kvs_varint_next(const uint8_t *packed, uint32_t bytes, uint32_t *at, uint64_t *out);

#ifdef __cplusplus
}
#endif

#endif
