/* f16 and bf16 as bits, and f32: exact one way, rounded to nearest even the other.
 *
 * Integer arithmetic but for f16's subnormals, which one product or sum in f32 makes; nothing that
 * a machine, a vector width or a compiler could do differently. NaNs stay NaNs, with the payload
 * that fits; what is too large becomes an infinity, as IEEE 754 has it.
 *
 * Threads: any; pure functions. For C17, C++17 and CUDA.
 */
#ifndef KVS_BASE_HALF_H
#define KVS_BASE_HALF_H

#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define KVS_HALF static __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define KVS_HALF static inline __attribute__((always_inline, unused))
#else
#define KVS_HALF static inline
#endif

KVS_HALF uint32_t kvs_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

KVS_HALF float kvs_f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* f16: sign 1, exponent 5 with bias 15, fraction 10. */
KVS_HALF float kvs_f16_to_f32(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu;
    uint32_t normal = (magnitude << 13) + (112u << 23); /* the bias of f32 is 112 more */
    uint32_t special = (magnitude << 13) | (255u << 23);
    uint32_t small = kvs_f32_bits((float)(int32_t)magnitude * 0x1p-24f); /* exact */
    uint32_t bits = magnitude < 0x0400u ? small : normal;
    bits = magnitude >= 0x7c00u ? special : bits;
    return kvs_f32_of_bits(bits | (uint32_t)(half & 0x8000u) << 16);
}

KVS_HALF uint16_t kvs_f32_to_f16(float value)
{
    uint32_t bits = kvs_f32_bits(value);
    uint32_t magnitude = bits & 0x7fffffffu;
    /* To even: half a unit less one, and one more where the last bit kept is odd. */
    uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    /* Below 2^-14 the unit is 2^-24, as it is of f32 from 0.5 to 1: the sum rounds. */
    float shifted = kvs_f32_of_bits(magnitude < 0x38800000u ? magnitude : 0u) + 0.5f;
    uint32_t small = kvs_f32_bits(shifted) - kvs_f32_bits(0.5f);
    uint32_t half = magnitude < 0x38800000u ? small : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half; /* 65520 and more: infinity */
    half = magnitude > 0x7f800000u ? 0x7e00u | (magnitude >> 13 & 0x1ffu) : half;
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

/* bf16: the upper half of an f32. */
KVS_HALF float kvs_bf16_to_f32(uint16_t half)
{
    return kvs_f32_of_bits((uint32_t)half << 16);
}

KVS_HALF uint16_t kvs_f32_to_bf16(float value)
{
    uint32_t bits = kvs_f32_bits(value);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#endif
