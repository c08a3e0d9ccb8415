/* What one encoded element stands for, and what it is encoded as, once, for C17, C++17 and CUDA:
 * see engine/codec.h.
 *
 * Threads: any; pure functions.
 */
#ifndef KVS_ENGINE_DECODE_H
#define KVS_ENGINE_DECODE_H

#include "base/half.h"
#include "engine/rules.h"

/* Elements that share a scale in KVS_CODEC_INT8: 4 bytes in 260. */
#define KVS_INT8_BLOCK 256u

/* Element `place` (0 to 3) of a byte: 11 is the threshold, 10 its negative, all else nothing. */
KVS_HOST_DEVICE float kvs_decode_2bit(unsigned byte, unsigned place, float threshold)
{
    unsigned code = byte >> (6 - 2 * place) & 3u;
    float negative = code == 2 ? -threshold : 0.0f;
    return code == 3 ? threshold : negative;
}

/* Element `place` (0 to 7) of a byte. The step is 1 whatever the threshold, as MXNet has it. */
KVS_HOST_DEVICE float kvs_decode_1bit(unsigned byte, unsigned place)
{
    return (byte >> (7 - place) & 1u) != 0 ? 1.0f : -1.0f;
}

KVS_HOST_DEVICE float kvs_decode_int8(signed char step, float scale)
{
    return (float)step * scale;
}

/* A number as its magnitude: they are in the order of their bits, NaNs above all others. */
KVS_HOST_DEVICE uint32_t kvs_encode_magnitude(float value)
{
    return kvs_f32_bits(value) & 0x7fffffffu;
}

/* Of a block whose largest magnitude that is: it has 127 steps. NaN where one is not finite. */
KVS_HOST_DEVICE float kvs_encode_int8_scale(uint32_t largest)
{
    return largest > 0x7f7fffffu ? kvs_f32_of_bits(0x7fc00000u) : kvs_f32_of_bits(largest) / 127.0f;
}

/* Ties go to the even step: a number below 2^22 in magnitude loses its fraction to the sum. A block
 * of zeros, or of a scale that is NaN, has steps of 0. */
KVS_HOST_DEVICE signed char kvs_encode_int8(float value, float scale)
{
    const float rounding = 0x1.8p23f;
    float ratio = value / scale;
    ratio = ratio > 127.0f ? 127.0f : ratio; /* a subnormal scale has few digits */
    ratio = ratio < -127.0f ? -127.0f : ratio;
    ratio = scale > 0 ? ratio : 0.0f;
    return (signed char)(int)(ratio + rounding - rounding);
}

#endif
