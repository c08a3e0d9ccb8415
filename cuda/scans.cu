#include "cuda/scans.cuh"

#include "base/check.h"
#include "cuda/measures.cuh"
#include "cuda/words.cuh"

#include <string.h>

#define WARP_THREADS 32u

static_assert(KVS_SCAN_BLOCK_BYTES * (KVS_CUDA_BLOCK_THREADS / WARP_THREADS) == KVS_CUDA_TILE_BYTES,
              "a warp for each block of a tile");

/* partial[b] := 1 where block b differs, else 0. */
typedef struct kvs_cuda_scan {
    const void *a;
    const void *b;
    double *partial;
    uint64_t bytes;
    uint64_t first_tile;
} kvs_cuda_scan;

static_assert(KVS_CUDA_ROWS_MAX * sizeof(kvs_cuda_scan) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* ------------------------------------------------------------------ the kernel */

/* What this thread finds of [begin, end): 0, or not. Words, then what is left of the last. */
__device__ __forceinline__ uint32_t kvs_cuda_differs(const kvs_cuda_scan *row, uint64_t begin,
                                                     uint64_t end, unsigned lane)
{
    uint32_t found = 0;
    const uint64_t words_end = end / KVS_CUDA_WORD_BYTES;
    for (uint64_t i = begin / KVS_CUDA_WORD_BYTES + lane; i < words_end; i += WARP_THREADS) {
        const kvs_cuda_word<uint32_t> a = kvs_cuda_load<uint32_t>(row->a, i);
        const kvs_cuda_word<uint32_t> b = kvs_cuda_load<uint32_t>(row->b, i);
        for (unsigned k = 0; k < KVS_CUDA_WORD_BYTES / sizeof(uint32_t); k++) {
            found |= a.at[k] ^ b.at[k];
        }
    }
    const uint64_t rest = words_end * KVS_CUDA_WORD_BYTES + lane;
    if (rest < end && rest >= begin) {
        found |= static_cast<uint32_t>(static_cast<const uint8_t *>(row->a)[rest] ^
                                       static_cast<const uint8_t *>(row->b)[rest]);
    }
    return found;
}

/* Every thread of a warp comes to the shuffles, with nothing where there is no block left. */
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_scan_kernel(const kvs_cuda_scan *rows, uint32_t count, uint64_t tiles)
{
    const unsigned lane = threadIdx.x % WARP_THREADS;
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_scan *row = kvs_cuda_find_row(rows, count, tile);
        const uint64_t block = (tile - row->first_tile) * (KVS_CUDA_BLOCK_THREADS / WARP_THREADS) +
                               threadIdx.x / WARP_THREADS;
        const uint64_t begin = block * KVS_SCAN_BLOCK_BYTES;
        const uint64_t end = begin + KVS_SCAN_BLOCK_BYTES;
        uint32_t found = 0;
        if (begin < row->bytes) {
            found = kvs_cuda_differs(row, begin, end < row->bytes ? end : row->bytes, lane);
        }
        for (int with = 1; with < (int)WARP_THREADS; with *= 2) {
            found |= __shfl_xor_sync(0xffffffffu, found, with);
        }
        if (begin < row->bytes && lane == 0) {
            row->partial[block] = found != 0 ? 1 : 0;
        }
    }
}

static cudaError_t launch_scans(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                                uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_scan_kernel, (const kvs_cuda_scan *)rows, count,
                              tiles);
}

static const kvs_cuda_row_kind scan_rows = {sizeof(kvs_cuda_scan), launch_scans};

cudaError_t kvs_cuda_scans_load(void)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kvs_cuda_scan_kernel);
}

/* ------------------------------------------------------------------ rows of work */

/* `bytes` from `first` on: whole blocks, but for the last. */
static kvs_status add_piece(kvs_stream *stream, const kvs_scan_item *item, size_t first,
                            size_t bytes, uint32_t *from)
{
    kvs_cuda_measured measured;
    memset((void *)&measured, 0, sizeof measured);
    measured.blocks = (uint32_t)((bytes + KVS_SCAN_BLOCK_BYTES - 1) / KVS_SCAN_BLOCK_BYTES);
    measured.changed = item->changed + first / KVS_SCAN_BLOCK_BYTES;
    KVS_TRY(kvs_cuda_measures_room(stream, measured.blocks, from));
    measured.place = stream->partials;
    KVS_TRY(kvs_cuda_make_row(stream, &scan_rows));
    kvs_cuda_scan *row = (kvs_cuda_scan *)kvs_cuda_row_place(stream);
    row->a = (const uint8_t *)item->a->data + first;
    row->b = (const uint8_t *)item->b->data + first;
    row->partial = stream->partial + measured.place;
    row->bytes = bytes;
    row->first_tile = stream->tiles;
    kvs_cuda_add_tiles(stream, bytes);
    stream->measured[stream->measured_count++] = measured;
    stream->partials += measured.blocks;
    return KVS_OK;
}

kvs_status kvs_cuda_stream_scan(kvs_stream *stream, const kvs_scan_item *items, size_t count)
{
    const size_t piece = KVS_CUDA_PARTIALS_MAX * KVS_SCAN_BLOCK_BYTES;
    uint32_t from = stream->partials;
    KVS_TRY(kvs_cuda_enter(stream->device));
    for (size_t i = 0; i < count; i++) {
        KVS_CHECK(items[i].bytes <= items[i].a->bytes);
        KVS_CHECK(items[i].bytes <= items[i].b->bytes);
        for (size_t first = 0; first < items[i].bytes; first += piece) {
            size_t left = items[i].bytes - first;
            KVS_TRY(add_piece(stream, &items[i], first, left < piece ? left : piece, &from));
        }
    }
    return kvs_cuda_measures_send(stream, from);
}
