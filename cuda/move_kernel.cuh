/* The kernel of copies and sums, and the tables of work that it reads.
 *
 * One launch does a whole table. The bytes of every row are cut into tiles; blocks take tiles by
 * striding over the grid and find the row of a tile by bisection, so many small rows and one large
 * row load the card alike. All pointers are aligned to 16 bytes and are read and written in words
 * of 16 bytes; what is left of the last word goes element by element.
 *
 * Elementwise, in the type of the elements, each operation rounded once (-fmad=false): the bits
 * do not depend on tiles, blocks or order. Rows of one table have different targets.
 */
#ifndef KVS_CUDA_MOVE_KERNEL_CUH
#define KVS_CUDA_MOVE_KERNEL_CUH

#include "cuda/words.cuh"

typedef enum kvs_cuda_move_kind {
    KVS_CUDA_ZERO,
    KVS_CUDA_COPY,
    KVS_CUDA_ADD_F32,
    KVS_CUDA_ADD_F64,
    KVS_CUDA_ADD_8,
    KVS_CUDA_ADD_32,
    KVS_CUDA_ADD_64
} kvs_cuda_move_kind;

/* target := 0, source, or target + source. */
typedef struct kvs_cuda_move {
    void *target;
    const void *source;
    uint64_t bytes;
    uint64_t first_tile; /* the tiles of all rows before this one */
    kvs_cuda_move_kind kind;
} kvs_cuda_move;

struct kvs_cuda_zero_body {
    void *target;

    __device__ void word(uint64_t i) const
    {
        kvs_cuda_store(target, i, kvs_cuda_word<uint32_t>{{0, 0, 0, 0}});
    }
    __device__ void element(uint64_t i) const
    {
        static_cast<uint8_t *>(target)[i] = 0;
    }
};

struct kvs_cuda_copy_body {
    void *target;
    const void *source;

    __device__ void word(uint64_t i) const
    {
        kvs_cuda_store(target, i, kvs_cuda_load<uint32_t>(source, i));
    }
    __device__ void element(uint64_t i) const
    {
        static_cast<uint8_t *>(target)[i] = static_cast<const uint8_t *>(source)[i];
    }
};

/* Integers come as unsigned ones, which wrap. */
template <typename T> struct kvs_cuda_add_body {
    void *target;
    const void *source;

    __device__ void word(uint64_t i) const
    {
        kvs_cuda_word<T> sum = kvs_cuda_load<T>(target, i);
        const kvs_cuda_word<T> more = kvs_cuda_load<T>(source, i);
        for (unsigned lane = 0; lane < sizeof sum.at / sizeof sum.at[0]; lane++) {
            sum.at[lane] = static_cast<T>(sum.at[lane] + more.at[lane]);
        }
        kvs_cuda_store(target, i, sum);
    }
    __device__ void element(uint64_t i) const
    {
        T *to = static_cast<T *>(target) + i;
        *to = static_cast<T>(*to + static_cast<const T *>(source)[i]);
    }
};

/* Copies, zeroes and sums: a row each. Reads and writes 16 bytes at a time; 12 bytes an element
 * of an f32 sum. */
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_move_kernel(const kvs_cuda_move *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_move *row = kvs_cuda_find_row(rows, count, tile);
        const kvs_cuda_range range = kvs_cuda_tile_range(row, tile);
        void *target = row->target;
        const void *source = row->source;
        switch (row->kind) {
        case KVS_CUDA_ZERO:
            kvs_cuda_each<uint8_t>(range, kvs_cuda_zero_body{target});
            break;
        case KVS_CUDA_COPY:
            kvs_cuda_each<uint8_t>(range, kvs_cuda_copy_body{target, source});
            break;
        case KVS_CUDA_ADD_F32:
            kvs_cuda_each<float>(range, kvs_cuda_add_body<float>{target, source});
            break;
        case KVS_CUDA_ADD_F64:
            kvs_cuda_each<double>(range, kvs_cuda_add_body<double>{target, source});
            break;
        case KVS_CUDA_ADD_8:
            kvs_cuda_each<uint8_t>(range, kvs_cuda_add_body<uint8_t>{target, source});
            break;
        case KVS_CUDA_ADD_32:
            kvs_cuda_each<uint32_t>(range, kvs_cuda_add_body<uint32_t>{target, source});
            break;
        case KVS_CUDA_ADD_64:
            kvs_cuda_each<uint64_t>(range, kvs_cuda_add_body<uint64_t>{target, source});
            break;
        }
    }
}

#endif
