/* The arguments of a call of rows as arrays that stand for them, so that it is grouped and checked
 * like any other call.
 *
 * Threads: plain data. Memory: owns the arrays, borrows what they stand for.
 * Errors: KVS_INVALID_FIELD, KVS_INVALID_TENSOR, KVS_NO_MEMORY.
 */
#ifndef KVS_CLIENT_ROW_ARRAYS_H
#define KVS_CLIENT_ROW_ARRAYS_H

#include "client/row_list.h"

typedef struct kvs_row_arrays {
    kv_array *arrays; /* the data of each is one of the arguments */
    kvs_row_argument *arguments;
} kvs_row_arrays;

/* `wanted` (of 0, 1 or `count`) are the ids of a pull. */
kvs_status kvs_row_arrays_make(const kv_row_sparse *values, size_t count, const kv_array *wanted,
                               size_t wanted_count, kvs_row_arrays *out,
                               kvs_problem *problem) KVS_MUST_CHECK;
void kvs_row_arrays_deinit(kvs_row_arrays *rows);

/* How many values a call of `count` keys has. */
size_t kvs_row_arrays_count(const size_t *counts, size_t count);

/* Is every list of ids one that can be read, and are there as many as outs, or one for all? */
kvs_status kvs_row_ids_check(const kv_array *row_ids, size_t row_ids_count, size_t outs,
                             kvs_problem *problem) KVS_MUST_CHECK;

#endif
