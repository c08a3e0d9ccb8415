#include "bench/bare_message.h"

#include "bench/add.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <string.h>

static void keep_tensor(void *tensor)
{
    (void)tensor;
}

grpc_byte_buffer *kvs_bare_message_make(const kvs_bare_header *header, const float *tensor)
{
    grpc_slice slices[2];
    slices[0] = grpc_slice_from_copied_buffer((const char *)header, sizeof *header);
    size_t count = 1;
    if (tensor != NULL) {
        slices[1] = grpc_slice_new_with_user_data((uint8_t *)tensor + header->offset, header->bytes,
                                                  keep_tensor, NULL);
        count = 2;
    }
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(slices, count);
    for (size_t i = 0; i < count; i++) {
        grpc_slice_unref(slices[i]);
    }
    return message;
}

/* Where the next byte of a payload goes; an element may straddle two slices. */
typedef struct landing {
    float *tensor;
    bool add;
    uint8_t carry[sizeof(float)];
    size_t carried;
} landing;

static void land_elements(landing *to, const uint8_t *data, size_t elements)
{
    if (to->add) {
        kvs_bench_add(to->tensor, data, elements);
    } else {
        memcpy(to->tensor, data, elements * sizeof(float));
    }
    to->tensor += elements;
}

static void land(landing *to, const uint8_t *data, size_t bytes)
{
    while (to->carried > 0 && bytes > 0) {
        to->carry[to->carried++] = *data++;
        bytes--;
        if (to->carried == sizeof(float)) {
            to->carried = 0;
            land_elements(to, to->carry, 1);
        }
    }
    const size_t whole = bytes / sizeof(float);
    land_elements(to, data, whole);
    for (size_t i = whole * sizeof(float); i < bytes; i++) {
        to->carry[to->carried++] = data[i];
    }
}

/* A payload that does not fit the tensor is no message of this stream. */
static bool aim(landing *to, const kvs_bare_header *header, float *tensor, uint64_t tensor_bytes)
{
    if (header->kind == KVS_BARE_FETCH || tensor == NULL) {
        return true;
    }
    to->tensor = tensor + header->offset / sizeof(float);
    return header->bytes <= tensor_bytes && header->offset <= tensor_bytes - header->bytes;
}

bool kvs_bare_message_read(grpc_byte_buffer *message, float *tensor, uint64_t tensor_bytes,
                           bool add, kvs_bare_header *out)
{
    grpc_byte_buffer_reader reader;
    grpc_slice *slice = NULL;
    kvs_bare_header header = {0};
    size_t head = 0;
    landing to = {.add = add};
    bool good = grpc_byte_buffer_reader_init(&reader, message) != 0;
    while (good && grpc_byte_buffer_reader_peek(&reader, &slice) != 0) {
        const uint8_t *data = GRPC_SLICE_START_PTR(*slice);
        size_t bytes = GRPC_SLICE_LENGTH(*slice);
        const size_t missing = sizeof header - head;
        const size_t taken = bytes < missing ? bytes : missing;
        memcpy((uint8_t *)&header + head, data, taken);
        head += taken;
        if (taken > 0 && head == sizeof header) {
            good = aim(&to, &header, tensor, tensor_bytes);
        }
        if (good && to.tensor != NULL) {
            land(&to, data + taken, bytes - taken);
        }
    }
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(message);
    *out = header;
    return good && head == sizeof header;
}
