/* What one encoded element stands for, once, for C17, C++17 and CUDA: see engine/codec.h.
 *
 * Threads: any; pure functions.
 */
#ifndef KVS_ENGINE_DECODE_H
#define KVS_ENGINE_DECODE_H

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

#endif
