#include "base/frame.h"

bool kvs_varint_next(const uint8_t *packed, uint32_t bytes, uint32_t *at, uint64_t *out)
{
    uint64_t value = 0;
    unsigned shift = 0;
    uint8_t byte;
    do {
        if (*at == bytes || shift > 63) {
            return false;
        }
        byte = packed[(*at)++];
        value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
    } while ((byte & 0x80) != 0);
    *out = value;
    return true;
}

uint32_t kvs_varint_pack(uint64_t value, uint8_t *out)
{
    uint32_t used = 0;
    while (value > 0x7f) {
        out[used++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    out[used++] = (uint8_t)value;
    return used;
}

bool kvs_part_header_shape(const kvs_part_header *header, kvs_shape *out)
{
    out->rank = 0;
    uint32_t at = 0;
    while (at < header->shape_bytes) {
        uint64_t size = 0;
        if (!kvs_varint_next(header->shape, header->shape_bytes, &at, &size) ||
            out->rank == KVS_DIMENSIONS_MAX) {
            return false;
        }
        out->size[out->rank++] = size;
    }
    return true;
}

uint32_t kvs_shape_pack(const kvs_shape *shape, uint8_t *out)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < shape->rank; i++) {
        used += kvs_varint_pack(shape->size[i], out + used);
    }
    return used;
}
