/* Words for numbers in memory: dtype, shape, and bytes that lie in pieces.
 *
 * Threads: any; plain data. Layout of every tensor: row-major, little-endian, no strides.
 */
#ifndef KVS_BASE_TENSOR_H
#define KVS_BASE_TENSOR_H

#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Numbers as in kvstored.proto. */
typedef enum kvs_dtype {
    KVS_DTYPE_NONE = 0,
    KVS_F32 = 1,
    KVS_F64 = 2,
    KVS_F16 = 3,
    KVS_BF16 = 4,
    KVS_U8 = 5,
    KVS_I8 = 6,
    KVS_I32 = 7,
    KVS_I64 = 8,
    KVS_DTYPE_COUNT
} kvs_dtype;

/* Bytes of one element: 1 to 8; 0 for a number that is no dtype. */
size_t kvs_dtype_bytes(kvs_dtype dtype);

/* Is it one that optimizers work on? */
bool kvs_dtype_floating(kvs_dtype dtype);

/* "f32", or "none" for a number that is no dtype. */
const char *kvs_dtype_name(kvs_dtype dtype);

/* The dtype of that name, or KVS_DTYPE_NONE. */
kvs_dtype kvs_dtype_parse(const char *name);

/* Rank 0 is a scalar of one element. Dimensions may be 0. */
typedef struct kvs_shape {
    uint32_t rank;
    uint64_t size[KVS_DIMENSIONS_MAX];
} kvs_shape;

/* The number of elements, or false when it is above KVS_ELEMENTS_MAX. */
bool kvs_shape_elements(const kvs_shape *shape, uint64_t *elements);

bool kvs_shape_equal(const kvs_shape *a, const kvs_shape *b);

/* Borrowed bytes. They may start at any address. */
typedef struct kvs_span {
    const uint8_t *data;
    size_t bytes;
} kvs_span;

/* `bytes` bytes that start `skip` bytes into the first of `count` spans. An element may lie
 * across two spans (or more, when spans are short). Borrows the array and the bytes. */
typedef struct kvs_payload {
    const kvs_span *spans;
    uint32_t count;
    size_t skip;
    size_t bytes;
} kvs_payload;

/* The bytes from `offset` on. Needs offset + bytes <= payload->bytes. */
kvs_payload kvs_payload_slice(const kvs_payload *payload, size_t offset, size_t bytes);

/* Copies all bytes to `out`, which holds payload->bytes. */
void kvs_payload_gather(const kvs_payload *payload, void *out);

/* Calls for each run of whole elements in turn. Elements that straddle spans are handed over as
 * runs of one, from a buffer that is valid during the call only. */
typedef void kvs_run_function(void *context, size_t first_element, const uint8_t *data,
                              size_t elements);
void kvs_payload_runs(const kvs_payload *payload, size_t element_bytes, kvs_run_function *run,
                      void *context);

#ifdef __cplusplus
}
#endif

#endif
