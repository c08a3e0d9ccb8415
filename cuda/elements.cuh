/* Elements of any floating dtype in the type of the arithmetic, and numbers of a rule in it.
 *
 * Halves are read as f32 and rounded once when they are written.
 */
#ifndef KVS_CUDA_ELEMENTS_CUH
#define KVS_CUDA_ELEMENTS_CUH

#include "base/half.h"
#include "base/tensor.h"
#include "engine/rules.h"

#include <cuda_runtime.h>

__device__ __forceinline__ float kvs_cuda_read(const void *from, uint64_t i, kvs_dtype dtype, float)
{
    if (dtype == KVS_F16) {
        return kvs_f16_to_f32(static_cast<const uint16_t *>(from)[i]);
    }
    return dtype == KVS_BF16 ? kvs_bf16_to_f32(static_cast<const uint16_t *>(from)[i])
                             : static_cast<const float *>(from)[i];
}

__device__ __forceinline__ double kvs_cuda_read(const void *from, uint64_t i, kvs_dtype, double)
{
    return static_cast<const double *>(from)[i];
}

__device__ __forceinline__ void kvs_cuda_write(void *to, uint64_t i, kvs_dtype dtype, float value)
{
    if (dtype == KVS_F16) {
        static_cast<uint16_t *>(to)[i] = kvs_f32_to_f16(value);
    } else if (dtype == KVS_BF16) {
        static_cast<uint16_t *>(to)[i] = kvs_f32_to_bf16(value);
    } else {
        static_cast<float *>(to)[i] = value;
    }
}

__device__ __forceinline__ void kvs_cuda_write(void *to, uint64_t i, kvs_dtype, double value)
{
    static_cast<double *>(to)[i] = value;
}

__host__ __device__ __forceinline__ void kvs_cuda_round(const kvs_rule_scalars *from,
                                                        kvs_numbers_f32 *to)
{
    *to = kvs_round_f32(from);
}

__host__ __device__ __forceinline__ void kvs_cuda_round(const kvs_rule_scalars *from,
                                                        kvs_numbers_f64 *to)
{
    *to = kvs_round_f64(from);
}

#endif
