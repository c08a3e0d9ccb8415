/* Words of 16 bytes, in which kernels read and write; what is left of the last goes element by
 * element. All pointers are aligned to 16 bytes. */
#ifndef KVS_CUDA_WORDS_CUH
#define KVS_CUDA_WORDS_CUH

#include "cuda/tiles.cuh"

/* Before a loop whose body is long enough: unrolled it would only take registers. */
#if defined(__CUDACC__)
#define KVS_CUDA_ROLLED _Pragma("unroll 1")
#else
#define KVS_CUDA_ROLLED
#endif

/* A word of 16 bytes, as elements. */
template <typename T> struct alignas(16) kvs_cuda_word {
    T at[16 / sizeof(T)];
};

template <typename T>
__device__ __forceinline__ kvs_cuda_word<T> kvs_cuda_load(const void *from, uint64_t word)
{
    return static_cast<const kvs_cuda_word<T> *>(from)[word];
}

template <typename T>
__device__ __forceinline__ void kvs_cuda_store(void *to, uint64_t word, kvs_cuda_word<T> value)
{
    static_cast<kvs_cuda_word<T> *>(to)[word] = value;
}

/* Calls body.word(i) for each whole word of the range and body.element(i) for each element that
 * is left, spread over the threads of the block. */
template <typename T, typename Body>
__device__ __forceinline__ void kvs_cuda_each(kvs_cuda_range range, const Body &body)
{
    uint64_t words_end = range.end / sizeof(kvs_cuda_word<T>);
    for (uint64_t i = range.begin / sizeof(kvs_cuda_word<T>) + threadIdx.x; i < words_end;
         i += blockDim.x) {
        body.word(i);
    }
    uint64_t rest = words_end * (sizeof(kvs_cuda_word<T>) / sizeof(T)) + threadIdx.x;
    if (rest < range.end / sizeof(T)) {
        body.element(rest);
    }
}

/* The same without words. */
template <typename T, typename Body>
__device__ __forceinline__ void kvs_cuda_each_element(kvs_cuda_range range, const Body &body)
{
    for (uint64_t i = range.begin / sizeof(T) + threadIdx.x; i < range.end / sizeof(T);
         i += blockDim.x) {
        body.element(i);
    }
}

#endif
