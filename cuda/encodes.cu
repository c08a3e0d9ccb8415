#include "cuda/encodes.cuh"

#include "base/check.h"
#include "cuda/casts.cuh"
#include "cuda/words.cuh"
#include "engine/decode.h"

#include <string.h>

#define WARP 32u
/* A warp encodes one block of KVS_INT8_BLOCK elements; a tile has one for each of its warps. */
#define BLOCK_BYTES (KVS_CUDA_TILE_BYTES / (KVS_CUDA_BLOCK_THREADS / WARP))
/* Of a block, by each thread: two groups of four that lie beside each other. */
#define GROUP 4u
#define GROUPS (KVS_INT8_BLOCK / WARP / GROUP)

static_assert(GROUPS * GROUP * WARP == KVS_INT8_BLOCK, "a warp has a block");

/* Runs of elements, each encoded for itself: the scales of its blocks, then a step an element. */
typedef struct kvs_cuda_encode {
    uint8_t *target;
    const float *source;
    uint64_t elements;  /* of a run */
    uint64_t blocks;    /* of a run */
    uint64_t run_bytes; /* of its encoding */
    uint64_t all_blocks;
    uint64_t bytes; /* BLOCK_BYTES a block */
    uint64_t first_tile;
} kvs_cuda_encode;

static_assert(KVS_CUDA_ROWS_MAX * sizeof(kvs_cuda_encode) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* ------------------------------------------------------------------ the kernel */

/* What one thread has of a block: elements GROUP * (WARP * group + lane) and on. */
struct kvs_cuda_share {
    float at[GROUPS][GROUP];
};

/* `words`: the block is full, and lies at such an address. Behind the end are zeros, which are
 * nobody's largest. */
__device__ __forceinline__ void kvs_cuda_read_share(const float *block, uint64_t elements,
                                                    bool words, unsigned lane, kvs_cuda_share *out)
{
    for (unsigned g = 0; g < GROUPS; g++) {
        const unsigned first = WARP * g + lane;
        if (words) {
            const kvs_cuda_word<float> word = kvs_cuda_load<float>(block, first);
            for (unsigned i = 0; i < GROUP; i++) {
                out->at[g][i] = word.at[i];
            }
            continue;
        }
        for (unsigned i = 0; i < GROUP; i++) {
            const unsigned place = GROUP * first + i;
            out->at[g][i] = place < elements ? block[place] : 0.0f;
        }
    }
}

__device__ __forceinline__ float kvs_cuda_scale_of(const kvs_cuda_share *share)
{
    uint32_t largest = 0;
    for (unsigned g = 0; g < GROUPS; g++) {
        for (unsigned i = 0; i < GROUP; i++) {
            const uint32_t magnitude = kvs_encode_magnitude(share->at[g][i]);
            largest = magnitude > largest ? magnitude : largest;
        }
    }
    for (int with = 1; with < (int)WARP; with *= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, largest, with);
        largest = other > largest ? other : largest;
    }
    return kvs_encode_int8_scale(largest);
}

__device__ __forceinline__ void kvs_cuda_write_share(uint8_t *steps, uint64_t elements, bool whole,
                                                     unsigned lane, const kvs_cuda_share *share,
                                                     float scale)
{
    for (unsigned g = 0; g < GROUPS; g++) {
        const unsigned first = WARP * g + lane;
        uint32_t four = 0;
        for (unsigned i = 0; i < GROUP; i++) {
            const uint8_t step = (uint8_t)kvs_encode_int8(share->at[g][i], scale);
            four |= (uint32_t)step << (8 * i); /* little-endian, as every card is */
            if (!whole && GROUP * first + i < elements) {
                steps[GROUP * first + i] = step;
            }
        }
        if (whole) {
            reinterpret_cast<uint32_t *>(steps)[first] = four;
        }
    }
}

/* Formula: engine/decode.h, whose bits are those of the CPU: the largest of a block does not depend
 * on the order. Reads 16 bytes at a time where a run begins at such an address, 4 bytes an element,
 * and writes 1 and 4 / 256 of them, 4 at a time where their place allows it. */
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_encode_kernel(const kvs_cuda_encode *rows, uint32_t count, uint64_t tiles)
{
    const unsigned lane = threadIdx.x % WARP;
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_encode *row = kvs_cuda_find_row(rows, count, tile);
        const uint64_t block =
            (tile - row->first_tile) * (KVS_CUDA_BLOCK_THREADS / WARP) + threadIdx.x / WARP;
        if (block >= row->all_blocks) {
            continue; /* the whole warp */
        }
        const uint64_t run = block / row->blocks;
        const uint64_t of_run = block - run * row->blocks;
        const uint64_t first = of_run * KVS_INT8_BLOCK;
        const uint64_t left = row->elements - first;
        const uint64_t elements = left < KVS_INT8_BLOCK ? left : KVS_INT8_BLOCK;
        uint8_t *out = row->target + run * row->run_bytes;
        const bool full = elements == KVS_INT8_BLOCK;
        kvs_cuda_share share;
        kvs_cuda_read_share(row->source + run * row->elements + first, elements,
                            full && run * row->elements % GROUP == 0, lane, &share);
        const float scale = kvs_cuda_scale_of(&share);
        if (lane < sizeof scale) { /* a run may begin at any address */
            out[of_run * sizeof scale + lane] = (uint8_t)(kvs_f32_bits(scale) >> (8 * lane));
        }
        kvs_cuda_write_share(out + row->blocks * sizeof scale + first, elements,
                             full && run * row->run_bytes % GROUP == 0, lane, &share, scale);
    }
}

static cudaError_t launch_encodes(const cudaLaunchConfig_t *config, const void *rows,
                                  uint32_t count, uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_encode_kernel, (const kvs_cuda_encode *)rows, count,
                              tiles);
}

static const kvs_cuda_row_kind encode_rows = {sizeof(kvs_cuda_encode), launch_encodes};

cudaError_t kvs_cuda_encodes_load(void)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kvs_cuda_encode_kernel);
}

/* ------------------------------------------------------------------ rows of work */

static uint64_t blocks_of(uint64_t elements)
{
    return (elements + KVS_INT8_BLOCK - 1) / KVS_INT8_BLOCK;
}

static uint64_t bytes_of(uint64_t elements)
{
    return blocks_of(elements) * sizeof(float) + elements;
}

static kvs_status encode_runs(kvs_stream *stream, uint8_t *target, const float *source,
                              uint64_t runs, uint64_t elements)
{
    KVS_TRY(kvs_cuda_make_row(stream, &encode_rows));
    kvs_cuda_encode *row = (kvs_cuda_encode *)kvs_cuda_row_place(stream);
    row->target = target;
    row->source = source;
    row->elements = elements;
    row->blocks = blocks_of(elements);
    row->run_bytes = bytes_of(elements);
    row->all_blocks = runs * row->blocks;
    row->bytes = row->all_blocks * BLOCK_BYTES;
    row->first_tile = stream->tiles;
    kvs_cuda_add_tiles(stream, row->bytes);
    return KVS_OK;
}

/* Of a long run KVS_PART_ELEMENTS at a time, as engine/codec.h has it. */
static kvs_status encode_int8(kvs_stream *stream, const kvs_encode_item *item)
{
    uint8_t *target = (uint8_t *)item->target->data;
    const float *source = (const float *)item->source->data;
    if (item->elements <= KVS_PART_ELEMENTS) {
        KVS_CHECK(item->runs * bytes_of(item->elements) <= item->target->bytes);
        return encode_runs(stream, target, source, item->runs, item->elements);
    }
    const uint8_t *end = target + item->target->bytes;
    for (uint64_t run = 0; run < item->runs; run++) {
        for (uint64_t done = 0; done < item->elements;) {
            const uint64_t left = item->elements - done;
            const uint64_t here = left < KVS_PART_ELEMENTS ? left : KVS_PART_ELEMENTS;
            KVS_CHECK(bytes_of(here) <= (uint64_t)(end - target));
            KVS_TRY(encode_runs(stream, target, source, 1, here));
            target += bytes_of(here);
            source += here;
            done += here;
        }
    }
    return KVS_OK;
}

static kvs_status encode_halves(kvs_stream *stream, const kvs_encode_item *item)
{
    kvs_cuda_half_cast cast;
    memset((void *)&cast, 0, sizeof cast);
    cast.dtype = item->codec == KVS_CODEC_BF16 ? KVS_BF16 : KVS_F16;
    cast.narrow = true;
    cast.target = item->target->data;
    cast.source = item->source->data;
    cast.units = item->runs * item->elements;
    KVS_CHECK(cast.units * sizeof(uint16_t) <= item->target->bytes);
    return kvs_cuda_cast_halves(stream, &cast);
}

static bool is_of_values(kvs_codec codec)
{
    return codec == KVS_CODEC_F16 || codec == KVS_CODEC_BF16 || codec == KVS_CODEC_INT8;
}

kvs_status kvs_cuda_stream_encode(kvs_stream *stream, const kvs_encode_item *items, size_t count)
{
    KVS_TRY(kvs_cuda_enter(stream->device));
    for (size_t i = 0; i < count; i++) {
        if (!is_of_values(items[i].codec)) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        const uint64_t elements = items[i].runs * items[i].elements;
        KVS_CHECK(elements * sizeof(float) <= items[i].source->bytes);
        if (elements > 0) {
            KVS_TRY(items[i].codec == KVS_CODEC_INT8 ? encode_int8(stream, &items[i])
                                                     : encode_halves(stream, &items[i]));
        }
    }
    return kvs_cuda_launch(stream);
}
