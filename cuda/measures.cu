#include "cuda/measures.cuh"

#include "base/check.h"
#include "cuda/elements.cuh"

#include <string.h>

/* Bytes of a row's tiles that one block of elements counts as: eight threads do it. */
#define BLOCK_BYTES (KVS_CUDA_TILE_BYTES * KVS_MEASURE_LANES / KVS_CUDA_BLOCK_THREADS)

/* partial[k * blocks + b] := the sum of squares of the k-th term over block b. */
template <typename Real> struct kvs_cuda_measure {
    kvs_rule_scalars scalars;
    const void *weight; /* of halves unless there is a master */
    const Real *state[KVS_RULE_STATES_MAX];
    const void *accumulator;
    double *partial;
    uint64_t elements;
    uint64_t blocks;
    uint64_t bytes; /* BLOCK_BYTES a block */
    uint64_t first_tile;
    kvs_dtype weight_dtype;
    kvs_dtype dtype;
};

typedef kvs_cuda_measure<float> measure_f32;
typedef kvs_cuda_measure<double> measure_f64;
static_assert(KVS_CUDA_ROWS_MAX * sizeof(measure_f64) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* ------------------------------------------------------------------ the kernels */

/* One lane of one block: Terms is a row of KVS_MEASURES, as a type. */
template <typename Real, typename Terms>
__device__ __forceinline__ void kvs_cuda_measure_lane(const kvs_cuda_measure<Real> *row,
                                                      uint64_t block, unsigned lane, double *sums)
{
    const uint64_t begin = block * KVS_MEASURE_BLOCK;
    const uint64_t left = row->elements - begin;
    const uint64_t end = begin + (left < KVS_MEASURE_BLOCK ? left : KVS_MEASURE_BLOCK);
    typename Terms::numbers numbers;
    kvs_cuda_round(&row->scalars, &numbers);
    for (uint64_t i = begin + lane; i < end; i += KVS_MEASURE_LANES) {
        Real state[KVS_RULE_STATES_MAX] = {};
        Real term[KVS_MEASURE_SUMS_MAX] = {};
        for (int j = 0; j < Terms::states; j++) {
            state[j] = row->state[j][i];
        }
        const Real weight =
            Terms::weighs ? kvs_cuda_read(row->weight, i, row->weight_dtype, Real()) : Real();
        Terms::terms(&numbers, weight, kvs_cuda_read(row->accumulator, i, row->dtype, Real()),
                     state, term);
        for (int k = 0; k < Terms::sums; k++) {
            sums[k] += static_cast<double>(term[k]) * static_cast<double>(term[k]);
        }
    }
}

/* Formula: kvs_measure_item's. f64 sums of a fixed shape: eight neighbouring threads are the lanes
 * of a block of elements, and add each other's sums pairwise. Deterministic. Every thread of a warp
 * comes to the shuffles, with zeros where there is no block left. */
template <typename Real, typename Terms>
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS)
    kvs_cuda_measure_kernel(const kvs_cuda_measure<Real> *rows, uint32_t count, uint64_t tiles)
{
    const unsigned lane = threadIdx.x % KVS_MEASURE_LANES;
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_measure<Real> *row = kvs_cuda_find_row(rows, count, tile);
        const uint64_t block =
            (tile - row->first_tile) * (KVS_CUDA_BLOCK_THREADS / KVS_MEASURE_LANES) +
            threadIdx.x / KVS_MEASURE_LANES;
        double sums[KVS_MEASURE_SUMS_MAX] = {};
        if (block < row->blocks) {
            kvs_cuda_measure_lane<Real, Terms>(row, block, lane, sums);
        }
        for (int k = 0; k < Terms::sums; k++) {
            for (int with = 1; with < (int)KVS_MEASURE_LANES; with *= 2) {
                sums[k] += __shfl_xor_sync(0xffffffffu, sums[k], with);
            }
            if (block < row->blocks && lane == 0) {
                row->partial[static_cast<uint64_t>(k) * row->blocks + block] = sums[k];
            }
        }
    }
}

#define TERMS(real, kind, name, count, reads_weight, reads_states)                                 \
    struct kvs_cuda_##name##_##kind {                                                              \
        typedef kvs_numbers_##kind numbers;                                                        \
        static const int sums = count;                                                             \
        static const bool weighs = reads_weight != 0;                                              \
        static const int states = reads_states;                                                    \
        static __device__ __forceinline__ void terms(const numbers *n, real w, real g,             \
                                                     const real *state, real *out)                 \
        {                                                                                          \
            kvs_terms_##name##_##kind(n, w, g, state, out);                                        \
        }                                                                                          \
    };
#define BOTH_TERMS(enumerator, name, count, reads_weight, reads_states)                            \
    TERMS(float, f32, name, count, reads_weight, reads_states)                                     \
    TERMS(double, f64, name, count, reads_weight, reads_states)
KVS_MEASURES(BOTH_TERMS)

template <typename Real, typename Terms>
static cudaError_t launch_measure(const cudaLaunchConfig_t *config, const void *rows,
                                  uint32_t count, uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_measure_kernel<Real, Terms>,
                              (const kvs_cuda_measure<Real> *)rows, count, tiles);
}

template <typename Real, typename Terms> static cudaError_t load_measure(void)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kvs_cuda_measure_kernel<Real, Terms>);
}

/* By kvs_measure. */
#define ROW_F32(enumerator, name, count, weight, states)                                           \
    {sizeof(measure_f32), launch_measure<float, kvs_cuda_##name##_f32>},
#define ROW_F64(enumerator, name, count, weight, states)                                           \
    {sizeof(measure_f64), launch_measure<double, kvs_cuda_##name##_f64>},
#define LOAD_F32(enumerator, name, count, weight, states)                                          \
    load_measure<float, kvs_cuda_##name##_f32>,
#define LOAD_F64(enumerator, name, count, weight, states)                                          \
    load_measure<double, kvs_cuda_##name##_f64>,
static const kvs_cuda_row_kind f32_rows[] = {KVS_MEASURES(ROW_F32)};
static const kvs_cuda_row_kind f64_rows[] = {KVS_MEASURES(ROW_F64)};
static cudaError_t (*const loads[])(void) = {KVS_MEASURES(LOAD_F32) KVS_MEASURES(LOAD_F64)};

cudaError_t kvs_cuda_measures_load(void)
{
    cudaError_t error = cudaSuccess;
    for (unsigned i = 0; i < sizeof loads / sizeof loads[0] && error == cudaSuccess; i++) {
        error = loads[i]();
    }
    return error;
}

/* ------------------------------------------------------------------ rows of work */

static const void *part_of(const kvs_memory *memory, uint64_t first, uint64_t end, kvs_dtype dtype)
{
    size_t bytes = kvs_dtype_bytes(dtype);
    if (memory == NULL) {
        return NULL;
    }
    KVS_CHECK(end * bytes <= memory->bytes);
    return (const uint8_t *)memory->data + first * bytes;
}

/* `elements` of all that the item's memory has from `first` on: whole blocks, but for the last. */
template <typename Real>
static void measure_row(kvs_stream *stream, kvs_cuda_measure<Real> *row,
                        const kvs_measure_item *item, uint64_t first, uint64_t elements,
                        const kvs_cuda_measured *measured)
{
    kvs_dtype wide = item->dtype == KVS_F64 ? KVS_F64 : KVS_F32;
    uint64_t end = first + elements;
    memset((void *)row, 0, sizeof *row);
    row->scalars = item->scalars;
    row->weight_dtype = item->master != NULL ? KVS_F32 : item->dtype;
    row->weight =
        part_of(item->master != NULL ? item->master : item->weight, first, end, row->weight_dtype);
    for (unsigned i = 0; i < kvs_measure_form_of(item->measure).states; i++) {
        row->state[i] = (const Real *)part_of(item->state[i], first, end, wide);
    }
    row->dtype = item->dtype;
    row->accumulator = part_of(item->accumulator, first, end, item->dtype);
    row->partial = stream->partial + measured->place;
    row->elements = elements;
    row->blocks = measured->blocks;
    row->bytes = row->blocks * BLOCK_BYTES;
    row->first_tile = stream->tiles;
    kvs_cuda_add_tiles(stream, row->bytes);
}

/* Sends what is measured down, to be there once the stream has been waited for. */
static kvs_status send_down(kvs_stream *stream, uint32_t from)
{
    size_t bytes = (stream->partials - from) * sizeof(double);
    KVS_TRY(kvs_cuda_launch(stream));
    if (bytes == 0) {
        return KVS_OK;
    }
    KVS_CUDA_TRY(stream->device, cudaEventRecord(stream->computed, stream->compute));
    KVS_CUDA_TRY(stream->device, cudaStreamWaitEvent(stream->down, stream->computed, 0));
    KVS_CUDA_TRY(stream->device,
                 cudaMemcpyAsync(stream->partial_host + from, stream->partial + from, bytes,
                                 cudaMemcpyDeviceToHost, stream->down));
    KVS_CUDA_TRY(stream->device, cudaEventRecord(stream->downloaded, stream->down));
    stream->downloading = true;
    return KVS_OK;
}

void kvs_cuda_measures_add(kvs_stream *stream)
{
    for (uint32_t i = 0; i < stream->measured_count; i++) {
        const kvs_cuda_measured *measured = &stream->measured[i];
        const double *partial = stream->partial_host + measured->place;
        for (unsigned k = 0; k < measured->count; k++) {
            for (uint32_t b = 0; b < measured->blocks; b++) {
                measured->sums[k] += partial[k * measured->blocks + b];
            }
        }
    }
    stream->measured_count = 0;
    stream->partials = 0;
}

/* One piece of an item; waits when there is no room for its sums. */
static kvs_status add_piece(kvs_stream *stream, const kvs_measure_item *item, uint64_t first,
                            uint64_t elements, uint32_t *from)
{
    kvs_cuda_measured measured;
    measured.sums = item->sums;
    measured.count = kvs_measure_form_of(item->measure).sums;
    measured.blocks = (uint32_t)((elements + KVS_MEASURE_BLOCK - 1) / KVS_MEASURE_BLOCK);
    if (stream->measured_count == KVS_CUDA_MEASURED_MAX ||
        stream->partials + measured.count * measured.blocks > KVS_CUDA_PARTIALS_MAX) {
        KVS_TRY(send_down(stream, *from));
        KVS_TRY(kvs_cuda_stream_sync(stream));
        *from = 0;
    }
    measured.place = stream->partials;
    if (item->dtype == KVS_F64) {
        KVS_TRY(kvs_cuda_make_row(stream, &f64_rows[item->measure]));
        measure_row(stream, (measure_f64 *)kvs_cuda_row_place(stream), item, item->first + first,
                    elements, &measured);
    } else {
        KVS_TRY(kvs_cuda_make_row(stream, &f32_rows[item->measure]));
        measure_row(stream, (measure_f32 *)kvs_cuda_row_place(stream), item, item->first + first,
                    elements, &measured);
    }
    stream->measured[stream->measured_count++] = measured;
    stream->partials += measured.count * measured.blocks;
    return KVS_OK;
}

kvs_status kvs_cuda_stream_measure(kvs_stream *stream, const kvs_measure_item *items, size_t count)
{
    const uint64_t piece = KVS_CUDA_PARTIALS_MAX / KVS_MEASURE_SUMS_MAX * KVS_MEASURE_BLOCK;
    uint32_t from = stream->partials;
    KVS_TRY(kvs_cuda_enter(stream->device));
    for (size_t i = 0; i < count; i++) {
        KVS_CHECK((unsigned)items[i].measure < KVS_MEASURE_COUNT);
        if (!kvs_dtype_floating(items[i].dtype)) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        for (unsigned k = 0; k < kvs_measure_form_of(items[i].measure).sums; k++) {
            items[i].sums[k] = 0;
        }
        for (uint64_t first = 0; first < items[i].elements; first += piece) {
            uint64_t left = items[i].elements - first;
            KVS_TRY(add_piece(stream, &items[i], first, left < piece ? left : piece, &from));
        }
    }
    return send_down(stream, from);
}
