#include "cuda/row_rules.cuh"

#include "base/check.h"
#include "cuda/elements.cuh"
#include "cuda/update_kernel.cuh"

#include <string.h>

/* Threads of one row: the lanes in which its squares are added. */
#define ROW_THREADS KVS_MEASURE_LANES
/* Bytes of a row's tiles that one row of a matrix counts as. */
#define ROW_BYTES (KVS_CUDA_TILE_BYTES * ROW_THREADS / KVS_CUDA_BLOCK_THREADS)

/* `count` rows of a matrix, or what an item has of them: the next number of each from the sum of
 * the squares of G_n over it, and by that the step of its elements. */
template <typename Real> struct kvs_cuda_row_rule {
    typename kvs_cuda_arithmetic<Real>::numbers numbers;
    const void *weight;
    void *target;
    float *master; /* or null; else the weight is read there */
    Real *number;
    const void *accumulator;
    const uint32_t *list; /* on the device: the rows of weight and number; null: all in order */
    uint64_t elements;    /* of the accumulator from here on */
    uint64_t row_elements;
    uint64_t begun;    /* without a list: elements of row 0 that lie before */
    uint64_t blocks;   /* KVS_MEASURE_BLOCK of a row that is whole */
    double squares[2]; /* of the first row, of the last, where they are not whole */
    uint64_t bytes;    /* ROW_BYTES a row */
    uint64_t first_tile;
    uint32_t count;
    kvs_dtype dtype;
};

typedef kvs_cuda_row_rule<float> rule_f32;
typedef kvs_cuda_row_rule<double> rule_f64;

static_assert(KVS_CUDA_ROWS_MAX * sizeof(rule_f64) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* ------------------------------------------------------------------ the kernels */

__device__ __forceinline__ double kvs_cuda_row_term(const kvs_numbers_f32 *numbers, float g)
{
    float term;
    kvs_terms_row_f32(numbers, 0, g, nullptr, &term);
    return static_cast<double>(term);
}

__device__ __forceinline__ double kvs_cuda_row_term(const kvs_numbers_f64 *numbers, double g)
{
    double term;
    kvs_terms_row_f64(numbers, 0, g, nullptr, &term);
    return term;
}

__device__ __forceinline__ float kvs_cuda_row_next(float before, double squares, uint64_t elements)
{
    return kvs_row_state_f32(before, squares, elements);
}

__device__ __forceinline__ double kvs_cuda_row_next(double before, double squares,
                                                    uint64_t elements)
{
    return kvs_row_state_f64(before, squares, elements);
}

/* The elements of a row in the accumulator. */
struct kvs_cuda_row_range {
    uint64_t begin;
    uint64_t end;
};

template <typename Real>
__device__ __forceinline__ kvs_cuda_row_range
kvs_cuda_elements_of(const kvs_cuda_row_rule<Real> *of, uint64_t row)
{
    if (row >= of->count) {
        return kvs_cuda_row_range{0, 0};
    }
    const uint64_t begin = row == 0 ? 0 : row * of->row_elements - of->begun;
    const uint64_t end = (row + 1) * of->row_elements - of->begun;
    return kvs_cuda_row_range{begin, end < of->elements ? end : of->elements};
}

/* The sum of a whole row's squares, the same in all of its threads; every thread of the warp comes
 * to the shuffles. */
template <typename Real>
__device__ __forceinline__ double kvs_cuda_row_squares(const kvs_cuda_row_rule<Real> *of,
                                                       kvs_cuda_row_range range, unsigned lane)
{
    double sum = 0;
    for (uint64_t block = 0; block < of->blocks; block++) {
        const uint64_t begin = range.begin + block * KVS_MEASURE_BLOCK;
        const uint64_t end =
            begin + KVS_MEASURE_BLOCK < range.end ? begin + KVS_MEASURE_BLOCK : range.end;
        double square = 0;
        for (uint64_t i = begin + lane; i < end; i += ROW_THREADS) {
            const Real g = kvs_cuda_read(of->accumulator, i, of->dtype, Real());
            const double term = kvs_cuda_row_term(&of->numbers, g);
            square += term * term;
        }
        for (int with = 1; with < (int)ROW_THREADS; with *= 2) {
            square += __shfl_xor_sync(0xffffffffu, square, with);
        }
        sum += square;
    }
    return sum;
}

template <typename Real, typename Step>
__device__ __forceinline__ void kvs_cuda_row_step(const kvs_cuda_row_rule<Real> *of, uint64_t row,
                                                  unsigned lane)
{
    typename kvs_cuda_arithmetic<Real>::numbers numbers = of->numbers;
    const kvs_cuda_row_range range = kvs_cuda_elements_of(of, row);
    const bool whole = range.end - range.begin == of->row_elements;
    double squares = kvs_cuda_row_squares(of, range, lane);
    if (!whole) {
        squares = of->squares[row > 0 ? 1 : 0];
    }
    uint64_t place = 0; /* of the row in weight and number */
    if (range.begin < range.end) {
        place = of->list == nullptr ? row : of->list[row];
        numbers.factor = kvs_cuda_row_next(of->number[place], squares, of->row_elements);
    }
    __syncwarp(); /* all threads of the row have read its number */
    if (lane == 0 && range.begin < range.end) {
        of->number[place] = numbers.factor;
    }
    const uint64_t moved = of->list == nullptr ? 0 : place * of->row_elements - range.begin;
    for (uint64_t i = range.begin + lane; i < range.end; i += ROW_THREADS) {
        const uint64_t at = i + moved;
        const Real g = kvs_cuda_read(of->accumulator, i, of->dtype, Real());
        const Real w = of->master != nullptr ? static_cast<Real>(of->master[at])
                                             : kvs_cuda_read(of->weight, at, of->dtype, Real());
        const Real next = Step::step(&numbers, w, g, nullptr, 0);
        if (of->master != nullptr) {
            of->master[at] = static_cast<float>(next);
        }
        kvs_cuda_write(of->target, at, of->dtype, next);
    }
}

/* Formula: kvs_row_state and the rule's step. The squares are added in f64 in the order of
 * kvs_measure_item: deterministic. */
template <typename Real, typename Step>
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS, sizeof(Real) == 4 ? 3 : 2)
    kvs_cuda_row_rule_kernel(const kvs_cuda_row_rule<Real> *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_row_rule<Real> *of = kvs_cuda_find_row(rows, count, tile);
        const uint64_t row = (tile - of->first_tile) * (KVS_CUDA_BLOCK_THREADS / ROW_THREADS) +
                             threadIdx.x / ROW_THREADS;
        kvs_cuda_row_step<Real, Step>(of, row, threadIdx.x % ROW_THREADS);
    }
}

template <typename Real, typename Step>
static cudaError_t launch_rule(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                               uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_row_rule_kernel<Real, Step>,
                              (const kvs_cuda_row_rule<Real> *)rows, count, tiles);
}

template <typename Real, typename Step> static cudaError_t load_rule(void)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kvs_cuda_row_rule_kernel<Real, Step>);
}

/* By the line of MXNet: that of 1.9, then that of 2.0. */
static const kvs_cuda_row_kind kinds_f32[] = {
    {sizeof(rule_f32), launch_rule<float, kvs_cuda_groupadagrad_19_f32>},
    {sizeof(rule_f32), launch_rule<float, kvs_cuda_groupadagrad_20_f32>}};
static const kvs_cuda_row_kind kinds_f64[] = {
    {sizeof(rule_f64), launch_rule<double, kvs_cuda_groupadagrad_19_f64>},
    {sizeof(rule_f64), launch_rule<double, kvs_cuda_groupadagrad_20_f64>}};
static cudaError_t (*const loads[])(void) = {load_rule<float, kvs_cuda_groupadagrad_19_f32>,
                                             load_rule<float, kvs_cuda_groupadagrad_20_f32>,
                                             load_rule<double, kvs_cuda_groupadagrad_19_f64>,
                                             load_rule<double, kvs_cuda_groupadagrad_20_f64>};

cudaError_t kvs_cuda_row_rules_load(void)
{
    cudaError_t error = cudaSuccess;
    for (unsigned i = 0; i < sizeof loads / sizeof loads[0] && error == cudaSuccess; i++) {
        error = loads[i]();
    }
    return error;
}

/* ------------------------------------------------------------------ rows of work */

/* Of an item without a list. */
static uint64_t count_rows(const kvs_apply_item *item)
{
    const kvs_row_edges *edges = &item->edges;
    return (edges->begun + item->elements + edges->row_elements - 1) / edges->row_elements;
}

static void check_item(const kvs_apply_item *item, uint64_t elements, uint64_t rows)
{
    bool wide = item->dtype == KVS_F64;
    size_t bytes = kvs_dtype_bytes(item->dtype);
    KVS_CHECK(elements * bytes <= item->weight->bytes);
    KVS_CHECK(elements * bytes <= item->target->bytes);
    KVS_CHECK(item->elements * bytes <= item->accumulator->bytes);
    KVS_CHECK(item->state[0] != NULL);
    KVS_CHECK(rows * (wide ? sizeof(double) : sizeof(float)) <= item->state[0]->bytes);
    KVS_CHECK(item->last.memory == NULL && item->last.payload.bytes == 0);
    if (item->master != NULL) {
        KVS_CHECK(elements * sizeof(float) <= item->master->bytes);
    }
}

/* All but the table's own and what is different with a list. */
template <typename Real>
static kvs_cuda_row_rule<Real> *add_row(kvs_stream *stream, const kvs_apply_item *item,
                                        uint64_t count, uint64_t row_elements)
{
    kvs_cuda_row_rule<Real> *row = (kvs_cuda_row_rule<Real> *)kvs_cuda_row_place(stream);
    memset((void *)row, 0, sizeof *row);
    kvs_cuda_round(&item->scalars, &row->numbers);
    row->weight = item->weight->data;
    row->target = item->target->data;
    row->master = item->master == NULL ? NULL : (float *)item->master->data;
    row->number = (Real *)item->state[0]->data;
    row->accumulator = item->accumulator->data;
    row->elements = item->elements;
    row->row_elements = row_elements;
    row->blocks = row_elements > item->elements
                      ? 0 /* none is whole */
                      : (row_elements + KVS_MEASURE_BLOCK - 1) / KVS_MEASURE_BLOCK;
    row->count = (uint32_t)count;
    row->dtype = item->dtype;
    row->bytes = count * ROW_BYTES;
    row->first_tile = stream->tiles;
    kvs_cuda_add_tiles(stream, row->bytes);
    return row;
}

template <typename Real> static void add_slice(kvs_stream *stream, const kvs_apply_item *item)
{
    kvs_cuda_row_rule<Real> *row =
        add_row<Real>(stream, item, count_rows(item), item->edges.row_elements);
    row->begun = item->edges.begun;
    memcpy(row->squares, item->edges.squares, sizeof row->squares);
}

template <typename Real>
static void add_list(kvs_stream *stream, const kvs_apply_item *item,
                     const kvs_cuda_rows_piece *piece, const uint32_t *list)
{
    uint64_t offset = kvs_cuda_piece_offset(&item->rows, piece);
    kvs_cuda_row_rule<Real> *row = add_row<Real>(stream, item, piece->rows, item->rows.elements);
    row->list = list;
    row->elements = (uint64_t)piece->rows * item->rows.elements;
    row->accumulator = (const uint8_t *)row->accumulator + offset * kvs_dtype_bytes(item->dtype);
}

kvs_status kvs_cuda_row_rule_item(kvs_stream *stream, const kvs_apply_item *item)
{
    bool wide = item->dtype == KVS_F64;
    unsigned line = item->scalars.rule == KVS_RULE_GROUPADAGRAD_20 ? 1 : 0;
    const kvs_cuda_row_kind *kind = wide ? &kinds_f64[line] : &kinds_f32[line];
    kvs_cuda_rows_piece piece = {0, 0, 0, 0};
    if (item->accumulator == NULL) {
        return KVS_OK; /* no gradient: neither the numbers nor the weight change */
    }
    if (item->rows.elements == 0) {
        KVS_CHECK(item->edges.begun < item->edges.row_elements);
        check_item(item, item->elements, count_rows(item));
        KVS_TRY(kvs_cuda_make_row(stream, kind));
        (wide ? add_slice<double> : add_slice<float>)(stream, item);
        return KVS_OK;
    }
    uint64_t end = kvs_cuda_rows_end(&item->rows);
    check_item(item, end, end / item->rows.elements);
    while (kvs_cuda_next_piece(&item->rows, KVS_CUDA_MAP_ROWS_MAX, KVS_CUDA_PIECE_ELEMENTS_MAX,
                               &piece)) {
        kvs_cuda_map map;
        KVS_TRY(kvs_cuda_make_row(stream, kind));
        KVS_TRY(kvs_cuda_map_piece(stream, &item->rows, &piece, &map));
        (wide ? add_list<double> : add_list<float>)(stream, item, &piece, map.list);
    }
    return KVS_OK;
}
