#include "cuda/casts.cuh"

#include "base/check.h"
#include "base/half.h"
#include "cuda/words.cuh"
#include "engine/decode.h"

#include <string.h>

/* One launch does a table of rows; a thread takes GROUP elements at a time, which move in words of
 * 16 bytes as far as they have as many, or one element (one entry). Elementwise, the arithmetic of
 * engine/decode.h and base/half.h: the bits of the CPU. */
#define GROUP 8u

typedef enum kvs_cuda_cast_kind {
    KVS_CUDA_DECODE_2BIT,
    KVS_CUDA_DECODE_1BIT,
    KVS_CUDA_DECODE_F16,
    KVS_CUDA_DECODE_BF16,
    KVS_CUDA_DECODE_INT8,
    KVS_CUDA_DECODE_ENTRIES,
    KVS_CUDA_NARROW_F16,
    KVS_CUDA_NARROW_BF16
} kvs_cuda_cast_kind;

/* Decode: target (f32) := source, or target + source; several rows may be the terms of one sum, as
 * those of cuda/move_kernel.cuh. Narrow: target (halves) := source (f32). */
typedef struct kvs_cuda_cast {
    void *target;
    const void *source;
    uint64_t bytes;      /* 4 a unit: an element, or an entry */
    uint64_t first_tile; /* the tiles of all rows before this one */
    kvs_cuda_cast_kind kind;
    float threshold;
    uint32_t term;
    bool first;
    bool words; /* all of its terms lie at words: groups of elements can be read */
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
    const float *wide = static_cast<const float *>(row->source);
    switch (row->kind) {
    case KVS_CUDA_NARROW_F16:
        *half = kvs_f32_to_f16(wide[i]);
        return;
    case KVS_CUDA_NARROW_BF16:
        *half = kvs_f32_to_bf16(wide[i]);
        return;
    case KVS_CUDA_DECODE_ENTRIES:
        target += kvs_f32_bits(wide[2 * i]); /* judged at the door: no two are the same */
        *target = row->first ? wide[2 * i + 1] : *target + wide[2 * i + 1];
        return;
    default:
        break;
    }
    const kvs_cuda_cast *term = row - row->term;
    float value = kvs_cuda_decode(term, i);
    value = term->first ? value : target[to] + value;
    for (term++; term <= row; term++) {
        value += kvs_cuda_decode(term, i);
    }
    target[to] = value;
}

struct kvs_cuda_group {
    float at[GROUP];
};

/* Two words of f32. */
__device__ __forceinline__ void kvs_cuda_load_group(const void *from, uint64_t group,
                                                    kvs_cuda_group *out)
{
    for (unsigned half = 0; half < 2; half++) {
        const kvs_cuda_word<float> word = kvs_cuda_load<float>(from, 2 * group + half);
        for (unsigned i = 0; i < 4; i++) {
            out->at[4 * half + i] = word.at[i];
        }
    }
}

__device__ __forceinline__ void kvs_cuda_store_group(void *to, uint64_t group,
                                                     const kvs_cuda_group *from)
{
    for (unsigned half = 0; half < 2; half++) {
        kvs_cuda_word<float> word;
        for (unsigned i = 0; i < 4; i++) {
            word.at[i] = from->at[4 * half + i];
        }
        kvs_cuda_store(to, 2 * group + half, word);
    }
}

/* A word of halves, 8 steps, 2 bytes of 2bit, a byte of 1bit. */
__device__ __forceinline__ void kvs_cuda_decode_group(const kvs_cuda_cast *row, uint64_t group,
                                                      kvs_cuda_group *out)
{
    const uint64_t blocks = (row->bytes / 4 + KVS_INT8_BLOCK - 1) / KVS_INT8_BLOCK;
    if (row->kind == KVS_CUDA_DECODE_F16 || row->kind == KVS_CUDA_DECODE_BF16) {
        const kvs_cuda_word<uint16_t> halves = kvs_cuda_load<uint16_t>(row->source, group);
        const bool brain = row->kind == KVS_CUDA_DECODE_BF16;
        for (unsigned i = 0; i < GROUP; i++) {
            out->at[i] = brain ? kvs_bf16_to_f32(halves.at[i]) : kvs_f16_to_f32(halves.at[i]);
        }
    } else if (row->kind == KVS_CUDA_DECODE_INT8) {
        const float scale = static_cast<const float *>(row->source)[group * GROUP / KVS_INT8_BLOCK];
        const uint32_t *steps = static_cast<const uint32_t *>(row->source) + blocks + 2 * group;
        for (unsigned i = 0; i < GROUP; i++) {
            out->at[i] = kvs_decode_int8((signed char)(steps[i / 4] >> (8 * (i % 4))), scale);
        }
    } else if (row->kind == KVS_CUDA_DECODE_2BIT) {
        const unsigned bytes = static_cast<const uint16_t *>(row->source)[group];
        for (unsigned i = 0; i < GROUP; i++) {
            out->at[i] = kvs_decode_2bit(bytes >> (8 * (i / 4)), i % 4, row->threshold);
        }
    } else {
        const unsigned byte = static_cast<const uint8_t *>(row->source)[group];
        for (unsigned i = 0; i < GROUP; i++) {
            out->at[i] = kvs_decode_1bit(byte, i);
        }
    }
}

__device__ __forceinline__ void kvs_cuda_narrow_group(const kvs_cuda_cast *row, uint64_t group)
{
    kvs_cuda_group wide;
    kvs_cuda_word<uint16_t> halves;
    kvs_cuda_load_group(row->source, group, &wide);
    for (unsigned i = 0; i < GROUP; i++) {
        halves.at[i] = row->kind == KVS_CUDA_NARROW_BF16 ? kvs_f32_to_bf16(wide.at[i])
                                                         : kvs_f32_to_f16(wide.at[i]);
    }
    kvs_cuda_store(row->target, group, halves);
}

__device__ __forceinline__ void kvs_cuda_cast_group(const kvs_cuda_cast *row, uint64_t group)
{
    if (row->kind == KVS_CUDA_NARROW_F16 || row->kind == KVS_CUDA_NARROW_BF16) {
        kvs_cuda_narrow_group(row, group);
        return;
    }
    const kvs_cuda_cast *term = row - row->term;
    kvs_cuda_group sum = {};
    if (!term->first) {
        kvs_cuda_load_group(row->target, group, &sum);
    }
    bool copied = term->first;
    KVS_CUDA_ROLLED
    do {
        kvs_cuda_group value;
        kvs_cuda_decode_group(term, group, &value);
        for (unsigned i = 0; i < GROUP; i++) {
            sum.at[i] = copied ? value.at[i] : sum.at[i] + value.at[i];
        }
        copied = false;
    } while (term++ != row);
    kvs_cuda_store_group(row->target, group, &sum);
}

__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_cast_kernel(const kvs_cuda_cast *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_cast *row = kvs_cuda_find_row(rows, count, tile);
        const kvs_cuda_range range = kvs_cuda_tile_range(row, tile);
        const uint64_t end = range.end / 4;
        uint64_t unit = range.begin / 4;
        if (row->words) {
            for (uint64_t i = unit / GROUP + threadIdx.x; i < end / GROUP; i += blockDim.x) {
                kvs_cuda_cast_group(row, i);
            }
            unit = end / GROUP * GROUP;
        }
        for (uint64_t i = unit + threadIdx.x; i < end; i += blockDim.x) {
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

static bool at_word(const void *at)
{
    return (uintptr_t)at % KVS_CUDA_WORD_BYTES == 0;
}

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
    row->words = kind != KVS_CUDA_DECODE_ENTRIES && at_word(target->data) && at_word(source);
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

/* Where the encoded bytes are on the device: they go up as they came. Those that fit a slot are
 * decoded from there, so that one launch decodes many items. */
static kvs_status stage_encoded(kvs_stream *stream, const kvs_accumulate_item *item,
                                const void **out)
{
    size_t bytes = item->source.payload.bytes;
    const kvs_memory *from = item->source.memory;
    if (from == NULL && bytes <= KVS_CUDA_PAYLOAD_BYTES) {
        KVS_TRY(kvs_cuda_make_row(stream, &cast_rows));
        KVS_TRY(kvs_cuda_make_room(stream, bytes));
        return kvs_cuda_ring_stage(&stream->ring, &item->source.payload, 0, bytes, out);
    }
    if (from == NULL) {
        from = &stream->scratch.encoded;
        KVS_TRY(kvs_cuda_copy_rows(stream, from, &item->source, bytes));
    }
    KVS_CHECK(bytes <= from->bytes);
    *out = from->data;
    return KVS_OK;
}

/* As of cuda/stream.cu: one more term of the row before. */
static bool decode_term(kvs_stream *stream, const kvs_accumulate_item *item, kvs_status *status)
{
    size_t bytes = item->source.payload.bytes;
    const void *from = NULL;
    const kvs_cuda_cast *before =
        (const kvs_cuda_cast *)kvs_cuda_row_before(stream, &cast_rows, &item->source, bytes);
    if (before == NULL || before->target != item->target->data ||
        before->bytes != item->elements * 4 || before->kind == KVS_CUDA_DECODE_ENTRIES) {
        return false;
    }
    *status = stage_encoded(stream, item, &from);
    kvs_cuda_cast *row = (kvs_cuda_cast *)kvs_cuda_row_place(stream);
    *row = *before;
    row->source = from;
    row->kind = decoding_of(item->codec);
    row->threshold = item->threshold;
    row->first = false;
    row->words = before->words && at_word(from);
    row->term++;
    kvs_cuda_add_term(stream);
    return true;
}

kvs_status kvs_cuda_decode_item(kvs_stream *stream, const kvs_accumulate_item *item, bool follows)
{
    bool entries = item->codec == KVS_CODEC_ENTRIES;
    kvs_status status = KVS_OK;
    KVS_CHECK(item->elements * sizeof(float) <= item->target->bytes);
    if (follows && !item->first && !entries && item->elements > 0 &&
        decode_term(stream, item, &status)) {
        return status;
    }
    if (follows) {
        KVS_TRY(kvs_cuda_launch(stream));
    }
    if (item->first && entries && item->elements > 0) {
        KVS_TRY(kvs_cuda_zero_row(stream, item->target, (size_t)item->elements * sizeof(float)));
    }
    uint64_t units = entries ? item->source.payload.bytes / 8 : item->elements;
    if (units > 0) {
        const void *from = NULL;
        kvs_cuda_cast *row = NULL;
        KVS_TRY(stage_encoded(stream, item, &from));
        KVS_TRY(cast_row(stream, decoding_of(item->codec), item->target, from, units, &row));
        row->threshold = item->threshold;
        row->first = item->first;
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ halves */

kvs_status kvs_cuda_cast_halves(kvs_stream *stream, const kvs_cuda_half_cast *cast)
{
    bool brain = cast->dtype == KVS_BF16;
    kvs_cuda_cast_kind narrow = brain ? KVS_CUDA_NARROW_BF16 : KVS_CUDA_NARROW_F16;
    kvs_cuda_cast_kind widen = brain ? KVS_CUDA_DECODE_BF16 : KVS_CUDA_DECODE_F16;
    const kvs_memory target = {cast->target, NULL, 0, 0, 0};
    kvs_cuda_map map = {NULL, 0, 0, 0};
    kvs_cuda_cast *row = NULL;
    KVS_TRY(kvs_cuda_make_row(stream, &cast_rows));
    if (cast->source_mapped || cast->target_mapped) {
        KVS_TRY(kvs_cuda_map_piece(stream, cast->rows, cast->piece, &map));
    }
    KVS_TRY(
        cast_row(stream, cast->narrow ? narrow : widen, &target, cast->source, cast->units, &row));
    row->map = map;
    row->words = row->words && map.list == NULL;
    row->source_mapped = cast->source_mapped;
    row->target_mapped = cast->target_mapped;
    return KVS_OK;
}
