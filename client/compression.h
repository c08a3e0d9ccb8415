/* The gradient compression of a store: what was asked for, and what it has left out of each key.
 *
 * A value is encoded part by part, each with the residual that its elements had before: one a key,
 * or one a key and device where every device value is encoded for itself. Residuals are in this
 * process alone: what a push that fails has taken from them is lost with it.
 *
 * Threads: under the store's order. Memory: owns the residuals; blocks belong to the caller.
 * Errors: as said.
 */
#ifndef KVS_CLIENT_COMPRESSION_H
#define KVS_CLIENT_COMPRESSION_H

#include "client/block.h"
#include "client/group.h"
#include "client/keys.h"
#include "engine/codec.h"

typedef struct kvs_compression {
    bool on; /* pushes are encoded */
    kvs_encoding encoding;
    kvs_codec pull;       /* what values are pulled as */
    kvs_client_keys keys; /* a name, then the device's number */
    uint64_t draws;       /* of random encodings, so far */
} kvs_compression;

void kvs_compression_deinit(kvs_compression *compression);

/* The JSON of kv_set_gradient_compression: what it does not say stays as it is. Residuals do, as in
 * MXNet. */
kvs_status kvs_compression_set(kvs_compression *compression, const char *json,
                               kvs_problem *problem) KVS_MUST_CHECK;

/* A value as it travels. */
typedef struct kvs_encoded {
    kvs_block *block;     /* a reference */
    const uint64_t *ends; /* in the block: where each part ends in data */
    const uint8_t *data;  /* in the block */
} kvs_encoded;

/* Encodes elements of f32, cut into parts. A value of another size than the one before begins
 * without a residual. KVS_INVALID_TENSOR: it is not of f32. KVS_NO_MEMORY: parts before the one
 * that there was none for may have changed their residual. */
kvs_status kvs_compression_write(kvs_compression *compression, kvs_block_pool *pool,
                                 const kvs_group *group, uint32_t device, const float *values,
                                 uint64_t part_elements, kvs_encoded *out,
                                 kvs_problem *problem) KVS_MUST_CHECK;

/* The group's values, each encoded as its device's, decoded and summed in order: what MXNet's
 * device stores do. target: as large as one value. */
kvs_status kvs_compression_sum(kvs_compression *compression, kvs_block_pool *pool,
                               const kvs_group *group, float *target,
                               kvs_problem *problem) KVS_MUST_CHECK;

#endif
