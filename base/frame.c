#include "base/frame.h"

bool kvs_part_header_shape(const kvs_part_header *header, kvs_shape *out)
{
    out->rank = 0;
    uint32_t at = 0;
    while (at < header->shape_bytes) {
        uint64_t size = 0;
        unsigned shift = 0;
        uint8_t byte;
        do {
            if (at == header->shape_bytes || shift > 63) {
                return false;
            }
            byte = header->shape[at++];
            size |= (uint64_t)(byte & 0x7f) << shift;
            shift += 7;
        } while ((byte & 0x80) != 0);
        if (out->rank == KVS_DIMENSIONS_MAX) {
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
        uint64_t size = shape->size[i];
        while (size > 0x7f) {
            out[used++] = (uint8_t)(size | 0x80);
            size >>= 7;
        }
        out[used++] = (uint8_t)size;
    }
    return used;
}
