/* The forms that a value has as a file: raw bytes, .npy, or safetensors of one tensor, which has
 * the key's name. A form is a head, then the elements, row after row, little-endian.
 *
 * Threads: any; pure functions.
 */
#ifndef KVS_SERVICE_VALUE_FORM_H
#define KVS_SERVICE_VALUE_FORM_H

#include "service/admin.h"

/* What a head says of the value behind it. */
typedef struct kvs_value_form {
    size_t head_bytes;
    kvs_dtype dtype;
    kvs_shape shape;
} kvs_value_form;

/* Writes a head: *out by malloc, or NULL and no bytes for raw. KVS_NOT_ACCEPTABLE: the format has
 * no such dtype; KVS_INVALID_FIELD: no such name; KVS_NO_MEMORY. */
kvs_status kvs_value_form_print(kvs_value_format format, const kvs_key_info *info, uint8_t **out,
                                size_t *out_bytes, kvs_problem *problem) KVS_MUST_CHECK;

/* Reads the head of a value of `key` from the first `bytes` of a file. *complete is false when more
 * are needed, and then nothing else is filled. KVS_INVALID_TENSOR, KVS_INVALID_FRAME, ... */
kvs_status kvs_value_form_read(kvs_value_format format, const char *key, const uint8_t *data,
                               size_t bytes, bool *complete, kvs_value_form *out,
                               kvs_problem *problem) KVS_MUST_CHECK;

#endif
