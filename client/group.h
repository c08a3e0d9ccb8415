/* The arguments of a call, in order: one group a key, with all of its device values and outs.
 *
 * A key that stands twice in a call becomes one group, at its first place, with the values of both.
 *
 * Threads: plain data. Memory: a group borrows names and arrays from the caller.
 * Errors: KVS_INVALID_FIELD and KVS_INVALID_TENSOR name the key.
 */
#ifndef KVS_CLIENT_GROUP_H
#define KVS_CLIENT_GROUP_H

#include "base/status.h"
#include "base/tensor.h"

#include <kvstore/kvstore.h>

/* Room for any int64_t in decimal, with its end. */
#define KVS_NUMBER_BYTES 24

typedef struct kvs_group {
    kv_key key;       /* as the caller wrote it */
    const char *name; /* the caller's, or `decimal` */
    uint32_t name_bytes;
    char decimal[KVS_NUMBER_BYTES];
    const kv_array **values; /* of one dtype and shape */
    size_t value_count;
    const kv_array **outs; /* of one dtype and as many elements */
    size_t out_count;
} kvs_group;

typedef struct kvs_groups {
    kvs_group *list;
    size_t count;
    const kv_array **arrays; /* what the groups point into */
} kvs_groups;

typedef struct kvs_arguments {
    const kv_key *keys;
    size_t count;
    const kv_array *values; /* NULL: none */
    const size_t *value_counts;
    const kv_array *outs; /* NULL: none */
    const size_t *out_counts;
    bool in_place; /* the values are the outs as well */
} kvs_arguments;

kvs_status kvs_groups_make(const kvs_arguments *arguments, kvs_groups *out,
                           kvs_problem *problem) KVS_MUST_CHECK;
void kvs_groups_deinit(kvs_groups *groups);

/* Name and bytes of out from the key. */
kvs_status kvs_group_name(const kv_key *key, kvs_group *out, kvs_problem *problem) KVS_MUST_CHECK;

uint64_t kvs_array_elements(const kv_array *array);
size_t kvs_array_bytes(const kv_array *array);
void kvs_array_shape(const kv_array *array, kvs_shape *out);
/* True when the bytes of the two meet. */
bool kvs_array_overlaps(const kv_array *a, const kv_array *b);

#endif
