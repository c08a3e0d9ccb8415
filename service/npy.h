/* The head of a .npy file: numpy's format, versions 1.0, 2.0 and 3.0.
 *
 * Little-endian, C order, and the dtypes of base/tensor.h but bf16, which numpy does not have:
 * kvs_npy_print is not for it.
 *
 * Threads: any; pure functions.
 */
#ifndef KVS_SERVICE_NPY_H
#define KVS_SERVICE_NPY_H

#include "base/status.h"
#include "base/tensor.h"

typedef struct kvs_npy {
    kvs_dtype dtype;
    kvs_shape shape;
    size_t head_bytes;      /* the payload begins here */
    uint64_t payload_bytes; /* that the head promises */
} kvs_npy;

/* 32 dimensions of 20 digits fit. */
#define KVS_NPY_HEAD_BYTES_MAX 1024u
/* Of a head from outside: numpy itself refuses to read more than 10000. */
#define KVS_NPY_HEAD_BYTES_READ_MAX 16384u

/* Do the bytes, of which there are at least one, begin like a .npy file? */
bool kvs_npy_begins(const uint8_t *data, size_t bytes);

/* Reads a head from the first `bytes` of a file. *complete is false when more are needed, and then
 * nothing else is filled. Errors: KVS_INVALID_TENSOR. */
kvs_status kvs_npy_parse(const uint8_t *data, size_t bytes, bool *complete, kvs_npy *out,
                         kvs_problem *problem) KVS_MUST_CHECK;

/* Writes a head of version 1.0; its length, a multiple of 64. */
size_t kvs_npy_print(kvs_dtype dtype, const kvs_shape *shape, uint8_t out[KVS_NPY_HEAD_BYTES_MAX]);

#endif
