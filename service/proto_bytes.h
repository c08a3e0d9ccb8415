/* Fields of small protobuf messages, read and written one by one: for health, reflection and
 * error details, whose few messages need no generated code.
 *
 * Threads: any. Memory: what is read borrows the message. Nothing is read or written outside.
 */
#ifndef KVS_SERVICE_PROTO_BYTES_H
#define KVS_SERVICE_PROTO_BYTES_H

#include "base/tensor.h"

/* A field: `number`, and either `value` (varint, fixed) or `bytes` (length-delimited). */
typedef struct kvs_proto_field {
    uint32_t number;
    uint32_t wire;
    uint64_t value;
    kvs_span bytes;
} kvs_proto_field;

/* Takes the next field off `rest`. False at the end, or where the bytes are no field. */
bool kvs_proto_next(kvs_span *rest, kvs_proto_field *out);

/* The last field of that number that holds bytes. False: there is none; `out` is then empty. */
bool kvs_proto_find(kvs_span message, uint32_t number, kvs_span *out);

/* Bytes on their way out. Grows up to nothing: what does not fit only counts in `used`. */
typedef struct kvs_proto_writer {
    uint8_t *bytes;
    size_t size;
    size_t used;
} kvs_proto_writer;

void kvs_proto_write_number(kvs_proto_writer *writer, uint32_t number, uint64_t value);
void kvs_proto_write_bytes(kvs_proto_writer *writer, uint32_t number, const void *bytes,
                           size_t count);
/* The tag and length of a field whose `count` bytes the caller writes next. */
void kvs_proto_write_open(kvs_proto_writer *writer, uint32_t number, size_t count);

/* Bytes of a length-delimited field of that number (below 16 * 128) with its tag and length. */
size_t kvs_proto_size(uint32_t number, size_t count);

#endif
