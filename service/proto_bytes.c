#include "service/proto_bytes.h"

#include <string.h>

#define WIRE_VARINT 0u
#define WIRE_FIXED64 1u
#define WIRE_BYTES 2u
#define WIRE_FIXED32 5u

static bool read_varint(kvs_span *rest, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && rest->bytes > 0; shift += 7) {
        uint8_t byte = *rest->data;
        rest->data++;
        rest->bytes--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool skip(kvs_span *rest, uint64_t count, kvs_span *out)
{
    if (count > rest->bytes) {
        return false;
    }
    *out = (kvs_span){.data = rest->data, .bytes = (size_t)count};
    rest->data += count;
    rest->bytes -= (size_t)count;
    return true;
}

bool kvs_proto_next(kvs_span *rest, kvs_proto_field *out)
{
    uint64_t tag;
    if (!read_varint(rest, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX >> 3) {
        return false;
    }
    *out = (kvs_proto_field){.number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7)};
    uint64_t count;
    switch (out->wire) {
    case WIRE_VARINT:
        return read_varint(rest, &out->value);
    case WIRE_FIXED64:
        return skip(rest, 8, &out->bytes);
    case WIRE_BYTES:
        return read_varint(rest, &count) && skip(rest, count, &out->bytes);
    case WIRE_FIXED32:
        return skip(rest, 4, &out->bytes);
    default:
        return false;
    }
}

bool kvs_proto_find(kvs_span message, uint32_t number, kvs_span *out)
{
    bool found = false;
    *out = (kvs_span){.data = message.data, .bytes = 0};
    kvs_proto_field field;
    while (kvs_proto_next(&message, &field)) {
        if (field.number == number && field.wire == WIRE_BYTES) {
            *out = field.bytes;
            found = true;
        }
    }
    return found;
}

static void put(kvs_proto_writer *writer, const void *bytes, size_t count)
{
    if (count > 0 && writer->used <= writer->size && count <= writer->size - writer->used) {
        memcpy(writer->bytes + writer->used, bytes, count);
    }
    writer->used += count;
}

static void put_varint(kvs_proto_writer *writer, uint64_t value)
{
    do {
        uint8_t byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put(writer, &byte, 1);
        value >>= 7;
    } while (value != 0);
}

static size_t varint_size(uint64_t value)
{
    size_t size = 1;
    while (value > 0x7f) {
        value >>= 7;
        size++;
    }
    return size;
}

void kvs_proto_write_number(kvs_proto_writer *writer, uint32_t number, uint64_t value)
{
    put_varint(writer, (uint64_t)number << 3 | WIRE_VARINT);
    put_varint(writer, value);
}

void kvs_proto_write_open(kvs_proto_writer *writer, uint32_t number, size_t count)
{
    put_varint(writer, (uint64_t)number << 3 | WIRE_BYTES);
    put_varint(writer, count);
}

void kvs_proto_write_bytes(kvs_proto_writer *writer, uint32_t number, const void *bytes,
                           size_t count)
{
    kvs_proto_write_open(writer, number, count);
    put(writer, bytes, count);
}

size_t kvs_proto_size(uint32_t number, size_t count)
{
    return varint_size((uint64_t)number << 3) + varint_size(count) + count;
}
