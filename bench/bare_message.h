/* One message of the bare stream: a header of 16 bytes, then f32 of a tensor.
 *
 * Threads: the one of its stream. Memory: a made message borrows the tensor until it was sent.
 */
#ifndef KVS_BENCH_BARE_MESSAGE_H
#define KVS_BENCH_BARE_MESSAGE_H

#include <grpc/byte_buffer.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum kvs_bare_kind {
    KVS_BARE_ADD = 1, /* is added to the tensor */
    KVS_BARE_ECHO,    /* is added, and the sum of the same place comes back */
    KVS_BARE_PING,    /* is added, and a header comes back */
    KVS_BARE_FETCH    /* offset: bytes wanted in all; bytes: of each message */
} kvs_bare_kind;

typedef struct kvs_bare_header {
    uint64_t offset; /* in bytes of the tensor */
    uint32_t bytes;
    uint32_t kind;
} kvs_bare_header;

/* With the payload tensor[offset, offset + bytes), or without when tensor is NULL. */
grpc_byte_buffer *kvs_bare_message_make(const kvs_bare_header *header, const float *tensor);

/* Reads the header and, when tensor is not NULL, adds the payload to it or copies it into it.
 * False when the message does not fit the tensor. Frees the message. */
bool kvs_bare_message_read(grpc_byte_buffer *message, float *tensor, uint64_t tensor_bytes,
                           bool add, kvs_bare_header *out);

#endif
