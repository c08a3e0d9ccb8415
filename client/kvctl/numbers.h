/* Values as people write them: numbers in a text, row by row.
 *
 * Threads: any. Memory: read allocates, the caller frees.
 */
#ifndef KVS_CLIENT_KVCTL_NUMBERS_H
#define KVS_CLIENT_KVCTL_NUMBERS_H

#include "base/status.h"
#include "base/tensor.h"

#include <stdio.h>

/* One element at `data`, as the shortest text that reads back as the same number; 16-bit floats
 * as the f32 they stand for. `out` holds 40 bytes. */
void kvs_number_print(kvs_dtype dtype, const uint8_t *data, char *out);

/* Prints a value to `file`, one row of the last dimension a line. */
void kvs_numbers_print(FILE *file, kvs_dtype dtype, const kvs_shape *shape, const uint8_t *data);

/* Reads numbers that are set apart by white space or commas. KVS_INVALID_TENSOR names the first
 * word that is none of the dtype. 16-bit floats: KVS_UNIMPLEMENTED. */
kvs_status kvs_numbers_read(FILE *file, kvs_dtype dtype, uint8_t **out, uint64_t *elements,
                            kvs_problem *problem) KVS_MUST_CHECK;

/* "2,3" or "2x3"; "" is a scalar. */
bool kvs_shape_parse(const char *text, kvs_shape *out);

#endif
