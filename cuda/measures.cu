#include "cuda/measures.cuh"

#include "base/check.h"
#include "cuda/elements.cuh"
#include "cuda/words.cuh"

#include <string.h>

/* Lanes of one thread: elements that lie beside each other, a word of f32. */
#define QUAD 4u
/* So many threads do a block of elements. */
#define BLOCK_THREADS (KVS_MEASURE_LANES / QUAD)
/* Bytes of a row's tiles that it counts as. */
#define BLOCK_BYTES (KVS_CUDA_TILE_BYTES * BLOCK_THREADS / KVS_CUDA_BLOCK_THREADS)

static_assert(KVS_MEASURE_LANES == 2 * QUAD, "two threads add up the lanes of a block");

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
    bool words; /* all that is read lies at words: an item may begin anywhere */
};

typedef kvs_cuda_measure<float> measure_f32;
typedef kvs_cuda_measure<double> measure_f64;
static_assert(KVS_CUDA_ROWS_MAX * sizeof(measure_f64) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* ------------------------------------------------------------------ the kernels */

template <typename Real> struct kvs_cuda_quad {
    Real at[QUAD];
};

struct alignas(8) kvs_cuda_halves {
    uint16_t at[QUAD];
};

__device__ __forceinline__ void kvs_cuda_read_quad(const void *from, uint64_t quad, kvs_dtype dtype,
                                                   kvs_cuda_quad<float> *out)
{
    if (dtype == KVS_F32) {
        const kvs_cuda_word<float> word = kvs_cuda_load<float>(from, quad);
        for (unsigned i = 0; i < QUAD; i++) {
            out->at[i] = word.at[i];
        }
        return;
    }
    const kvs_cuda_halves halves = static_cast<const kvs_cuda_halves *>(from)[quad];
    for (unsigned i = 0; i < QUAD; i++) {
        out->at[i] =
            dtype == KVS_F16 ? kvs_f16_to_f32(halves.at[i]) : kvs_bf16_to_f32(halves.at[i]);
    }
}

__device__ __forceinline__ void kvs_cuda_read_quad(const void *from, uint64_t quad, kvs_dtype,
                                                   kvs_cuda_quad<double> *out)
{
    for (unsigned half = 0; half < 2; half++) {
        const kvs_cuda_word<double> word = kvs_cuda_load<double>(from, 2 * quad + half);
        out->at[2 * half] = word.at[0];
        out->at[2 * half + 1] = word.at[1];
    }
}

/* Sums of a thread, by lane. */
struct kvs_cuda_lanes {
    double of[KVS_MEASURE_SUMS_MAX][QUAD];
};

/* What the measure reads of `count` elements, of which the first has the first lane. */
template <typename Real> struct kvs_cuda_operands {
    kvs_cuda_quad<Real> weight;
    kvs_cuda_quad<Real> gradient;
    kvs_cuda_quad<Real> state[KVS_RULE_STATES_MAX];
};

/* Quads in words where they lie so; the last elements of a value one by one. */
template <typename Real, typename Terms>
__device__ __forceinline__ void kvs_cuda_read_operands(const kvs_cuda_measure<Real> *row,
                                                       uint64_t first, unsigned count,
                                                       kvs_cuda_operands<Real> *out)
{
    const kvs_dtype wide = sizeof(Real) == sizeof(double) ? KVS_F64 : KVS_F32;
    if (row->words && count == QUAD) {
        if (Terms::weighs) {
            kvs_cuda_read_quad(row->weight, first / QUAD, row->weight_dtype, &out->weight);
        }
        kvs_cuda_read_quad(row->accumulator, first / QUAD, row->dtype, &out->gradient);
        for (int j = 0; j < Terms::states; j++) {
            kvs_cuda_read_quad(row->state[j], first / QUAD, wide, &out->state[j]);
        }
        return;
    }
    for (unsigned i = 0; i < QUAD; i++) {
        if (i < count) {
            const uint64_t at = first + i;
            if (Terms::weighs) {
                out->weight.at[i] = kvs_cuda_read(row->weight, at, row->weight_dtype, Real());
            }
            out->gradient.at[i] = kvs_cuda_read(row->accumulator, at, row->dtype, Real());
            for (int j = 0; j < Terms::states; j++) {
                out->state[j].at[i] = row->state[j][at];
            }
        }
    }
}

/* A thread's lanes of one block: Terms is a row of KVS_MEASURES, as a type. */
template <typename Real, typename Terms>
__device__ __forceinline__ void kvs_cuda_measure_lanes(const kvs_cuda_measure<Real> *row,
                                                       uint64_t block, unsigned half,
                                                       kvs_cuda_lanes *sums)
{
    const uint64_t begin = block * KVS_MEASURE_BLOCK;
    const uint64_t left = row->elements - begin;
    const uint64_t end = begin + (left < KVS_MEASURE_BLOCK ? left : KVS_MEASURE_BLOCK);
    typename Terms::numbers numbers;
    kvs_cuda_round(&row->scalars, &numbers);
    KVS_CUDA_ROLLED
    for (uint64_t i = begin + half * QUAD; i < end; i += KVS_MEASURE_LANES) {
        const unsigned count = end - i < QUAD ? static_cast<unsigned>(end - i) : QUAD;
        kvs_cuda_operands<Real> operands = {};
        kvs_cuda_read_operands<Real, Terms>(row, i, count, &operands);
        for (unsigned lane = 0; lane < QUAD; lane++) {
            Real state[KVS_RULE_STATES_MAX] = {};
            Real term[KVS_MEASURE_SUMS_MAX] = {};
            for (int j = 0; j < Terms::states; j++) {
                state[j] = operands.state[j].at[lane];
            }
            Terms::terms(&numbers, operands.weight.at[lane], operands.gradient.at[lane], state,
                         term);
            for (int k = 0; k < Terms::sums && lane < count; k++) {
                sums->of[k][lane] += static_cast<double>(term[k]) * static_cast<double>(term[k]);
            }
        }
    }
}

/* Formula: kvs_measure_item's. f64 sums of a fixed shape: two neighbouring threads have four lanes
 * each of a block of elements, and add them pairwise. Deterministic. Every thread of a warp comes
 * to the shuffles, with zeros where there is no block left. Reads 16 bytes at a time, of halves 8.
 * The bounds leave the registers that nothing is spilled for. */
template <typename Real, typename Terms>
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS,
                                  sizeof(Real) == 4 && Terms::sums < 3 ? 3 : 2)
    kvs_cuda_measure_kernel(const kvs_cuda_measure<Real> *rows, uint32_t count, uint64_t tiles)
{
    const unsigned half = threadIdx.x % BLOCK_THREADS;
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_measure<Real> *row = kvs_cuda_find_row(rows, count, tile);
        const uint64_t block = (tile - row->first_tile) * (KVS_CUDA_BLOCK_THREADS / BLOCK_THREADS) +
                               threadIdx.x / BLOCK_THREADS;
        kvs_cuda_lanes sums = {};
        if (block < row->blocks) {
            kvs_cuda_measure_lanes<Real, Terms>(row, block, half, &sums);
        }
        for (int k = 0; k < Terms::sums; k++) {
            double sum = (sums.of[k][0] + sums.of[k][1]) + (sums.of[k][2] + sums.of[k][3]);
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            if (block < row->blocks && half == 0) {
                row->partial[static_cast<uint64_t>(k) * row->blocks + block] = sum;
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

static bool at_word(const void *at)
{
    return (uintptr_t)at % KVS_CUDA_WORD_BYTES == 0;
}

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
    row->words = at_word(row->weight) && at_word(row->accumulator);
    for (unsigned i = 0; i < KVS_RULE_STATES_MAX; i++) {
        row->words = row->words && at_word(row->state[i]);
    }
    row->partial = stream->partial + measured->place;
    row->elements = elements;
    row->blocks = measured->blocks;
    row->bytes = row->blocks * BLOCK_BYTES;
    row->first_tile = stream->tiles;
    kvs_cuda_add_tiles(stream, row->bytes);
}

kvs_status kvs_cuda_measures_send(kvs_stream *stream, uint32_t from)
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
        for (uint32_t b = 0; measured->changed != NULL && b < measured->blocks; b++) {
            measured->changed[b] = partial[b] != 0;
        }
        for (unsigned k = 0; k < measured->count; k++) {
            for (uint32_t b = 0; b < measured->blocks; b++) {
                measured->sums[k] += partial[k * measured->blocks + b];
            }
        }
    }
    stream->measured_count = 0;
    stream->partials = 0;
}

kvs_status kvs_cuda_measures_room(kvs_stream *stream, uint32_t partials, uint32_t *from)
{
    if (stream->measured_count == KVS_CUDA_MEASURED_MAX ||
        stream->partials + partials > KVS_CUDA_PARTIALS_MAX) {
        KVS_TRY(kvs_cuda_measures_send(stream, *from));
        KVS_TRY(kvs_cuda_stream_sync(stream));
        *from = 0;
    }
    return KVS_OK;
}

/* One piece of an item. */
static kvs_status add_piece(kvs_stream *stream, const kvs_measure_item *item, uint64_t first,
                            uint64_t elements, uint32_t *from)
{
    kvs_cuda_measured measured;
    measured.sums = item->sums;
    measured.changed = NULL;
    measured.count = kvs_measure_form_of(item->measure).sums;
    measured.blocks = (uint32_t)((elements + KVS_MEASURE_BLOCK - 1) / KVS_MEASURE_BLOCK);
    KVS_TRY(kvs_cuda_measures_room(stream, measured.count * measured.blocks, from));
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
    return kvs_cuda_measures_send(stream, from);
}
