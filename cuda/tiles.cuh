/* How the rows of a launch are cut into tiles, and a tile finds its row. */
#ifndef KVS_CUDA_TILES_CUH
#define KVS_CUDA_TILES_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#define KVS_CUDA_TILE_BYTES 16384u
#define KVS_CUDA_BLOCK_THREADS 256

/* The row of a tile: the last whose first tile is not behind it. */
template <typename Row>
__device__ __forceinline__ const Row *kvs_cuda_find_row(const Row *rows, uint32_t count,
                                                        uint64_t tile)
{
    uint32_t low = 0;
    uint32_t high = count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (rows[middle].first_tile <= tile) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &rows[low];
}

/* The bytes of a row that one tile covers. */
struct kvs_cuda_range {
    uint64_t begin; /* a multiple of a word */
    uint64_t end;
};

template <typename Row>
__device__ __forceinline__ kvs_cuda_range kvs_cuda_tile_range(const Row *row, uint64_t tile)
{
    uint64_t begin = (tile - row->first_tile) * KVS_CUDA_TILE_BYTES;
    uint64_t end = begin + KVS_CUDA_TILE_BYTES;
    return kvs_cuda_range{begin, end < row->bytes ? end : row->bytes};
}

#endif
