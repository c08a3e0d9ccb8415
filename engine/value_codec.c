/* Values of pulls, encoded and decoded: see engine/codec.h. */
#include "base/half.h"
#include "engine/codec.h"
#include "engine/decode.h"

#include <string.h>

/* A row of 1000 elements and more. */
#define STRADDLING_BYTES 1024u

bool kvs_codec_of_values(kvs_codec codec)
{
    return codec == KVS_CODEC_F16 || codec == KVS_CODEC_BF16 || codec == KVS_CODEC_INT8;
}

uint64_t kvs_codec_value_bytes(kvs_codec codec, uint64_t runs, uint64_t elements)
{
    return runs * kvs_codec_bytes(codec, elements);
}

/* ------------------------------------------------------------------ writing */

static void write_halves(kvs_codec codec, const float *value, size_t elements, uint8_t *out)
{
    for (size_t i = 0; i < elements; i++) {
        uint16_t half =
            codec == KVS_CODEC_BF16 ? kvs_f32_to_bf16(value[i]) : kvs_f32_to_f16(value[i]);
        memcpy(out + i * sizeof half, &half, sizeof half);
    }
}

static float write_block(const float *value, size_t elements, uint8_t *steps)
{
    uint32_t largest = 0;
    for (size_t i = 0; i < elements; i++) {
        uint32_t magnitude = kvs_encode_magnitude(value[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    float scale = kvs_encode_int8_scale(largest);
    for (size_t i = 0; i < elements; i++) {
        steps[i] = (uint8_t)kvs_encode_int8(value[i], scale);
    }
    return scale;
}

static void write_int8(const float *value, size_t elements, uint8_t *out)
{
    size_t blocks = (elements + KVS_INT8_BLOCK - 1) / KVS_INT8_BLOCK;
    uint8_t *steps = out + blocks * sizeof(float);
    for (size_t block = 0; block < blocks; block++) {
        size_t first = block * KVS_INT8_BLOCK;
        size_t left = elements - first;
        float scale = write_block(value + first, left < KVS_INT8_BLOCK ? left : KVS_INT8_BLOCK,
                                  steps + first);
        memcpy(out + block * sizeof scale, &scale, sizeof scale);
    }
}

void kvs_codec_write_value(kvs_codec codec, const float *value, uint64_t runs, uint64_t elements,
                           uint8_t *out)
{
    if (codec != KVS_CODEC_INT8) {
        write_halves(codec, value, (size_t)(runs * elements), out);
        return;
    }
    for (uint64_t run = 0; run < runs; run++) {
        for (uint64_t done = 0; done < elements;) {
            uint64_t left = elements - done;
            uint64_t count = left < KVS_PART_ELEMENTS ? left : KVS_PART_ELEMENTS;
            write_int8(value, (size_t)count, out);
            value += count;
            out += kvs_codec_bytes(codec, count);
            done += count;
        }
    }
}

/* ------------------------------------------------------------------ reading */

/* What lies in one piece. */
static void read_int8(const uint8_t *data, size_t elements, float *target)
{
    size_t blocks = (elements + KVS_INT8_BLOCK - 1) / KVS_INT8_BLOCK;
    const uint8_t *steps = data + blocks * sizeof(float);
    for (size_t first = 0; first < elements; first += KVS_INT8_BLOCK) {
        size_t left = elements - first;
        size_t count = left < KVS_INT8_BLOCK ? left : KVS_INT8_BLOCK;
        float scale;
        memcpy(&scale, data + first / KVS_INT8_BLOCK * sizeof scale, sizeof scale);
        for (size_t i = 0; i < count; i++) {
            target[first + i] = kvs_decode_int8((signed char)steps[first + i], scale);
        }
    }
}

/* As many as are encoded at a time; the short ones that straddle spans are put together first. */
static void read_piece(const kvs_payload *piece, size_t elements, float *target)
{
    uint8_t together[STRADDLING_BYTES];
    if (piece->spans->bytes - piece->skip >= piece->bytes) {
        read_int8((const uint8_t *)piece->spans->data + piece->skip, elements, target);
    } else if (piece->bytes <= sizeof together) {
        kvs_payload_gather(piece, together);
        read_int8(together, elements, target);
    } else {
        kvs_codec_decode(KVS_CODEC_INT8, 0, piece, target, elements, true);
    }
}

void kvs_codec_read_value(kvs_codec codec, const kvs_payload *payload, uint64_t runs,
                          uint64_t elements, float *target)
{
    kvs_payload rest = *payload;
    if (codec != KVS_CODEC_INT8) {
        kvs_codec_decode(codec, 0, payload, target, runs * elements, true);
        return;
    }
    for (uint64_t run = 0; run < runs; run++) {
        for (uint64_t done = 0; done < elements;) {
            uint64_t left = elements - done;
            uint64_t count = left < KVS_PART_ELEMENTS ? left : KVS_PART_ELEMENTS;
            size_t bytes = (size_t)kvs_codec_bytes(codec, count);
            kvs_payload piece = kvs_payload_slice(&rest, 0, bytes);
            read_piece(&piece, (size_t)count, target);
            rest = kvs_payload_slice(&rest, bytes, rest.bytes - bytes);
            target += count;
            done += count;
        }
    }
}
