#include "cuda/casts.cuh"

#include "base/check.h"
#include "base/half.h"
#include "cuda/map.cuh"
#include "cuda/updates.cuh"
#include "engine/decode.h"

#include <string.h>

/* One launch does a table of rows; a thread takes one element (one entry) at a time. Elementwise,
 * the arithmetic of engine/decode.h and base/half.h: the bits of the CPU. */
typedef enum kvs_cuda_cast_kind {
    KVS_CUDA_DECODE_2BIT,
    KVS_CUDA_DECODE_1BIT,
    KVS_CUDA_DECODE_F16,
    KVS_CUDA_DECODE_BF16,
    KVS_CUDA_DECODE_INT8,
    KVS_CUDA_DECODE_ENTRIES,
    KVS_CUDA_ADD_F16,
    KVS_CUDA_ADD_BF16,
    KVS_CUDA_NARROW_F16,
    KVS_CUDA_NARROW_BF16
} kvs_cuda_cast_kind;

/* Decode: target (f32) := source, or target + source. Add: target := target + source, halves, each
 * sum in f32 and rounded once. Narrow: target (halves) := source (f32). */
typedef struct kvs_cuda_cast {
    void *target;
    const void *source;
    uint64_t bytes;      /* 4 a unit: an element, or an entry */
    uint64_t first_tile; /* the tiles of all rows before this one */
    kvs_cuda_cast_kind kind;
    float threshold;
    bool first;
    /* Unit i of the source, of the target or of both is where the map says; halves and f32 only. */
    bool source_mapped;
    bool target_mapped;
    kvs_cuda_map map;
} kvs_cuda_cast;

static_assert(KVS_CUDA_ROWS_MAX * sizeof(kvs_cuda_cast) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* ------------------------------------------------------------------ the kernel */

__device__ __forceinline__ float kvs_cuda_decode(const kvs_cuda_cast *row, uint64_t i)
{
    const uint8_t *bytes = static_cast<const uint8_t *>(row->source);
    const uint16_t *halves = static_cast<const uint16_t *>(row->source);
    const float *scales = static_cast<const float *>(row->source);
    const uint64_t blocks = (row->bytes / 4 + KVS_INT8_BLOCK - 1) / KVS_INT8_BLOCK;
    switch (row->kind) {
    case KVS_CUDA_DECODE_2BIT:
        return kvs_decode_2bit(bytes[i / 4], (unsigned)(i % 4), row->threshold);
    case KVS_CUDA_DECODE_1BIT:
        return kvs_decode_1bit(bytes[i / 8], (unsigned)(i % 8));
    case KVS_CUDA_DECODE_F16:
        return kvs_f16_to_f32(halves[i]);
    case KVS_CUDA_DECODE_BF16:
        return kvs_bf16_to_f32(halves[i]);
    default:
        return kvs_decode_int8((signed char)bytes[blocks * sizeof(float) + i],
                               scales[i / KVS_INT8_BLOCK]);
    }
}

__device__ __forceinline__ void kvs_cuda_cast_unit(const kvs_cuda_cast *row, uint64_t unit)
{
    const uint64_t place = row->map.list != nullptr ? kvs_cuda_place(row->map, unit, 1) : unit;
    const uint64_t i = row->source_mapped ? place : unit;
    const uint64_t to = row->target_mapped ? place : unit;
    float *target = static_cast<float *>(row->target);
    uint16_t *half = static_cast<uint16_t *>(row->target) + to;
    const uint16_t *more = static_cast<const uint16_t *>(row->source) + i;
    const float *wide = static_cast<const float *>(row->source);
    float value;
    switch (row->kind) {
    case KVS_CUDA_ADD_F16:
        *half = kvs_f32_to_f16(kvs_f16_to_f32(*half) + kvs_f16_to_f32(*more));
        return;
    case KVS_CUDA_ADD_BF16:
        *half = kvs_f32_to_bf16(kvs_bf16_to_f32(*half) + kvs_bf16_to_f32(*more));
        return;
    case KVS_CUDA_NARROW_F16:
        *half = kvs_f32_to_f16(wide[i]);
        return;
    case KVS_CUDA_NARROW_BF16:
        *half = kvs_f32_to_bf16(wide[i]);
        return;
    default:
        break;
    }
    if (row->kind == KVS_CUDA_DECODE_ENTRIES) {
        value = wide[2 * i + 1];
        target += kvs_f32_bits(wide[2 * i]); /* judged at the door: no two are the same */
    } else {
        value = kvs_cuda_decode(row, i);
        target += to;
    }
    *target = row->first ? value : *target + value;
}

__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_cast_kernel(const kvs_cuda_cast *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_cast *row = kvs_cuda_find_row(rows, count, tile);
        const kvs_cuda_range range = kvs_cuda_tile_range(row, tile);
        for (uint64_t i = range.begin / 4 + threadIdx.x; i < range.end / 4; i += blockDim.x) {
            kvs_cuda_cast_unit(row, i);
        }
    }
}

static cudaError_t launch_casts(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                                uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_cast_kernel, (const kvs_cuda_cast *)rows, count,
                              tiles);
}

static const kvs_cuda_row_kind cast_rows = {sizeof(kvs_cuda_cast), launch_casts};

cudaError_t kvs_cuda_casts_load(void)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kvs_cuda_cast_kernel);
}

/* ------------------------------------------------------------------ encoded gradients */

static kvs_status cast_row(kvs_stream *stream, kvs_cuda_cast_kind kind, const kvs_memory *target,
                           const void *source, uint64_t units, kvs_cuda_cast **out)
{
    KVS_TRY(kvs_cuda_make_row(stream, &cast_rows));
    kvs_cuda_cast *row = (kvs_cuda_cast *)kvs_cuda_row_place(stream);
    memset((void *)row, 0, sizeof *row);
    row->target = target->data;
    row->source = source;
    row->bytes = units * 4;
    row->first_tile = stream->tiles;
    row->kind = kind;
    row->first = true;
    kvs_cuda_add_tiles(stream, row->bytes);
    if (out != NULL) {
        *out = row;
    }
    return KVS_OK;
}

static kvs_cuda_cast_kind decoding_of(kvs_codec codec)
{
    switch (codec) {
    case KVS_CODEC_2BIT:
        return KVS_CUDA_DECODE_2BIT;
    case KVS_CODEC_1BIT:
        return KVS_CUDA_DECODE_1BIT;
    case KVS_CODEC_F16:
        return KVS_CUDA_DECODE_F16;
    case KVS_CODEC_BF16:
        return KVS_CUDA_DECODE_BF16;
    case KVS_CODEC_INT8:
        return KVS_CUDA_DECODE_INT8;
    default:
        return KVS_CUDA_DECODE_ENTRIES;
    }
}

/* The encoded bytes go to the device as they came, and are decoded there. */
kvs_status kvs_cuda_decode_item(kvs_stream *stream, const kvs_accumulate_item *item)
{
    size_t bytes = item->source.payload.bytes;
    const kvs_memory *from = item->source.memory;
    bool entries = item->codec == KVS_CODEC_ENTRIES;
    KVS_CHECK(item->elements * sizeof(float) <= item->target->bytes);
    if (item->first && entries && item->elements > 0) {
        KVS_TRY(kvs_cuda_zero_row(stream, item->target, (size_t)item->elements * sizeof(float)));
    }
    if (from == NULL) {
        from = &stream->scratch.encoded;
        KVS_TRY(kvs_cuda_copy_rows(stream, from, &item->source, bytes));
    }
    KVS_CHECK(bytes <= from->bytes);
    uint64_t units = entries ? bytes / 8 : item->elements;
    if (units > 0) {
        kvs_cuda_cast *row = NULL;
        KVS_TRY(cast_row(stream, decoding_of(item->codec), item->target, from->data, units, &row));
        row->threshold = item->threshold;
        row->first = item->first;
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ rules on halves */

kvs_status kvs_cuda_add_halves(kvs_stream *stream, kvs_dtype dtype, const kvs_memory *target,
                               const kvs_source *source, size_t bytes)
{
    KVS_CHECK(bytes <= target->bytes);
    kvs_cuda_check_source(source, bytes);
    for (size_t offset = 0; offset < bytes;) {
        kvs_cuda_piece from;
        kvs_memory to = {(uint8_t *)target->data + offset, NULL, bytes - offset};
        KVS_TRY(kvs_cuda_make_row(stream, &cast_rows));
        KVS_TRY(kvs_cuda_take_piece(stream, source, offset, bytes - offset, &from));
        KVS_TRY(cast_row(stream, dtype == KVS_BF16 ? KVS_CUDA_ADD_BF16 : KVS_CUDA_ADD_F16, &to,
                         from.data, from.bytes / sizeof(uint16_t), NULL));
        offset += from.bytes;
    }
    return KVS_OK;
}

static bool has_last(const kvs_apply_item *item)
{
    return item->last.memory != NULL || item->last.payload.bytes > 0;
}

/* What the f32 of update_half cannot see. */
static void check_halves(const kvs_apply_item *item, size_t bytes)
{
    KVS_CHECK(bytes <= item->weight->bytes);
    KVS_CHECK(bytes <= item->target->bytes);
    if (item->accumulator != NULL) {
        KVS_CHECK(bytes <= item->accumulator->bytes);
    }
    KVS_CHECK(item->accumulator != NULL || has_last(item));
}

/* g as accumulate would have summed it, and as f32 in the scratch. */
static kvs_status widen_gradient(kvs_stream *stream, const kvs_apply_item *item, size_t bytes)
{
    bool brain = item->dtype == KVS_BF16;
    const kvs_memory *sum = item->accumulator;
    kvs_source before = {item->accumulator, {NULL, 0, 0, 0}};
    if (has_last(item)) {
        sum = &stream->scratch.encoded;
        if (item->accumulator != NULL) {
            KVS_TRY(kvs_cuda_copy_rows(stream, sum, &before, bytes));
            KVS_TRY(kvs_cuda_add_halves(stream, item->dtype, sum, &item->last, bytes));
        } else {
            KVS_TRY(kvs_cuda_copy_rows(stream, sum, &item->last, bytes));
        }
    }
    /* What was there reads the scratch that is written below, or writes what is read. */
    KVS_TRY(kvs_cuda_launch(stream));
    return cast_row(stream, brain ? KVS_CUDA_DECODE_BF16 : KVS_CUDA_DECODE_F16,
                    &stream->scratch.gradient, sum->data, item->elements, NULL);
}

/* f16 and bf16: the rule on f32 in the scratch, or on the master. A launch a step. */
kvs_status kvs_cuda_update_half(kvs_stream *stream, const kvs_apply_item *item)
{
    bool brain = item->dtype == KVS_BF16;
    size_t bytes = (size_t)item->elements * sizeof(uint16_t);
    kvs_apply_item wide = *item;
    check_halves(item, bytes);
    KVS_TRY(widen_gradient(stream, item, bytes));
    wide.target = item->master;
    if (item->master == NULL) {
        wide.target = &stream->scratch.weight;
        KVS_TRY(cast_row(stream, brain ? KVS_CUDA_DECODE_BF16 : KVS_CUDA_DECODE_F16, wide.target,
                         item->weight->data, item->elements, NULL));
    }
    wide.weight = wide.target;
    wide.accumulator = &stream->scratch.gradient;
    memset((void *)&wide.last, 0, sizeof wide.last);
    wide.dtype = KVS_F32;
    KVS_TRY(kvs_cuda_update_item(stream, &wide));
    return cast_row(stream, brain ? KVS_CUDA_NARROW_BF16 : KVS_CUDA_NARROW_F16, item->target,
                    wide.target->data, item->elements, NULL);
}

/* ------------------------------------------------------------------ rules on rows of halves */

/* A row of casts from or to mapped places. */
static kvs_status mapped_row(kvs_stream *stream, kvs_cuda_cast_kind kind, const kvs_memory *target,
                             const void *source, const kvs_rows *rows,
                             const kvs_cuda_rows_piece *piece, kvs_cuda_cast **out)
{
    kvs_cuda_map map;
    KVS_TRY(kvs_cuda_make_row(stream, &cast_rows));
    KVS_TRY(kvs_cuda_map_piece(stream, rows, piece, &map));
    KVS_TRY(cast_row(stream, kind, target, source, (uint64_t)piece->rows * piece->columns, out));
    (*out)->map = map;
    return KVS_OK;
}

/* The gradient and, without a master, the weight of a piece as f32, in the scratch. */
static kvs_status widen_piece(kvs_stream *stream, const kvs_apply_item *item,
                              const kvs_cuda_rows_piece *piece)
{
    kvs_cuda_cast_kind widen = item->dtype == KVS_BF16 ? KVS_CUDA_DECODE_BF16 : KVS_CUDA_DECODE_F16;
    uint64_t units = (uint64_t)piece->rows * piece->columns;
    kvs_cuda_cast *row = NULL;
    if (item->accumulator != NULL) {
        const uint16_t *from = (const uint16_t *)item->accumulator->data;
        KVS_TRY(cast_row(stream, widen, &stream->scratch.gradient,
                         from + kvs_cuda_piece_offset(&item->rows, piece), units, NULL));
    }
    if (item->master == NULL) {
        KVS_TRY(mapped_row(stream, widen, &stream->scratch.weight, item->weight->data, &item->rows,
                           piece, &row));
        row->source_mapped = true;
    }
    return KVS_OK;
}

kvs_status kvs_cuda_update_half_rows(kvs_stream *stream, const kvs_apply_item *item)
{
    bool compact = item->master == NULL;
    kvs_memory *weight = compact ? &stream->scratch.weight : item->master;
    kvs_cuda_sparse_update update = {NULL, weight->data, compact};
    kvs_cuda_rows_piece piece = {0, 0, 0, 0};
    kvs_apply_item wide = *item;
    wide.dtype = KVS_F32;
    kvs_cuda_check_update_rows(item);
    if (item->accumulator != NULL) {
        update.gradient = stream->scratch.gradient.data;
    }
    while (kvs_cuda_next_piece(&item->rows, KVS_CUDA_MAP_ROWS_MAX, (uint32_t)KVS_PART_ELEMENTS,
                               &piece)) {
        kvs_cuda_cast *row = NULL;
        KVS_TRY(kvs_cuda_launch(stream)); /* what was there reads the scratch */
        KVS_TRY(widen_piece(stream, item, &piece));
        KVS_TRY(kvs_cuda_update_piece(stream, &wide, &piece, &update));
        KVS_TRY(mapped_row(stream,
                           item->dtype == KVS_BF16 ? KVS_CUDA_NARROW_BF16 : KVS_CUDA_NARROW_F16,
                           item->target, weight->data, &item->rows, &piece, &row));
        row->source_mapped = !compact;
        row->target_mapped = true;
    }
    return KVS_OK;
}
