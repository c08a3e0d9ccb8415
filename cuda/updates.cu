#include "cuda/updates.cuh"

#include "base/check.h"
#include "cuda/update_kernel.cuh"

#include <string.h>

typedef kvs_cuda_update<float> update_f32;
typedef kvs_cuda_update<double> update_f64;

static_assert(KVS_CUDA_ROWS_MAX * sizeof(update_f32) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");
static_assert(KVS_CUDA_ROWS_MAX * sizeof(update_f64) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");

/* A rule's kernels. */
template <typename Real, typename Step, typename Places>
static cudaError_t launch_update(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                                 uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_update_kernel<Real, Step, Places>,
                              (const kvs_cuda_update<Real> *)rows, count, tiles);
}

/* By kvs_rule. */
#define ROW(real, places, kind, step)                                                              \
    {sizeof(kvs_cuda_update<real>), launch_update<real, kvs_cuda_##step##_##kind, places>},
#define DENSE_F32(name, step, states) ROW(float, kvs_cuda_dense, f32, step)
#define DENSE_F64(name, step, states) ROW(double, kvs_cuda_dense, f64, step)
#define SPARSE_F32(name, step, states) ROW(float, kvs_cuda_sparse, f32, step)
#define SPARSE_F64(name, step, states) ROW(double, kvs_cuda_sparse, f64, step)
static const kvs_cuda_row_kind dense_f32[] = {KVS_RULES(DENSE_F32)};
static const kvs_cuda_row_kind dense_f64[] = {KVS_RULES(DENSE_F64)};
static const kvs_cuda_row_kind sparse_f32[] = {KVS_RULES(SPARSE_F32)};
static const kvs_cuda_row_kind sparse_f64[] = {KVS_RULES(SPARSE_F64)};

template <typename Real, typename Step> static cudaError_t load_update(void)
{
    cudaFuncAttributes attributes;
    cudaError_t error =
        cudaFuncGetAttributes(&attributes, kvs_cuda_update_kernel<Real, Step, kvs_cuda_dense>);
    return error != cudaSuccess
               ? error
               : cudaFuncGetAttributes(&attributes,
                                       kvs_cuda_update_kernel<Real, Step, kvs_cuda_sparse>);
}

#define LOAD_F32(name, step, states) load_update<float, kvs_cuda_##step##_f32>,
#define LOAD_F64(name, step, states) load_update<double, kvs_cuda_##step##_f64>,
static cudaError_t (*const f32_loads[])(void) = {KVS_RULES(LOAD_F32)};
static cudaError_t (*const f64_loads[])(void) = {KVS_RULES(LOAD_F64)};

cudaError_t kvs_cuda_updates_load(void)
{
    cudaError_t error = cudaSuccess;
    for (int rule = 0; rule < KVS_RULE_COUNT && error == cudaSuccess; rule++) {
        error = f32_loads[rule]();
        error = error == cudaSuccess ? f64_loads[rule]() : error;
    }
    return error;
}

/* ------------------------------------------------------------------ rows of work */

static void round_numbers(const kvs_rule_scalars *from, kvs_numbers_f32 *to)
{
    *to = kvs_round_f32(from);
}

static void round_numbers(const kvs_rule_scalars *from, kvs_numbers_f64 *to)
{
    *to = kvs_round_f64(from);
}

static bool has_last(const kvs_apply_item *item)
{
    return item->last.memory != NULL || item->last.payload.bytes > 0;
}

static void check_update(const kvs_apply_item *item, size_t bytes)
{
    KVS_CHECK(bytes <= item->weight->bytes);
    KVS_CHECK(bytes <= item->target->bytes);
    for (unsigned i = 0; i < kvs_rule_states(item->scalars.rule); i++) {
        KVS_CHECK(item->state[i] != NULL);
        KVS_CHECK(bytes <= item->state[i]->bytes);
    }
    if (item->accumulator != NULL) {
        KVS_CHECK(bytes <= item->accumulator->bytes);
    }
    if (has_last(item)) {
        kvs_cuda_check_source(&item->last, bytes);
    } else {
        KVS_CHECK(bytes == 0 || item->accumulator != NULL);
    }
}

template <typename Real>
static void update_row(kvs_stream *stream, kvs_cuda_update<Real> *row, const kvs_apply_item *item,
                       size_t offset, const kvs_cuda_piece *last)
{
    memset((void *)row, 0, sizeof *row);
    round_numbers(&item->scalars, &row->numbers);
    row->element = item->scalars.element + offset / sizeof(Real);
    row->weight = (const Real *)((const uint8_t *)item->weight->data + offset);
    row->target = (Real *)((uint8_t *)item->target->data + offset);
    for (unsigned i = 0; i < kvs_rule_states(item->scalars.rule); i++) {
        row->state[i] = (Real *)((uint8_t *)item->state[i]->data + offset);
    }
    if (item->accumulator != NULL) {
        row->accumulator = (const Real *)((const uint8_t *)item->accumulator->data + offset);
    }
    row->last = (const Real *)last->data;
    row->bytes = last->bytes;
    row->first_tile = stream->tiles;
    kvs_cuda_add_tiles(stream, last->bytes);
}

kvs_status kvs_cuda_update_item(kvs_stream *stream, const kvs_apply_item *item)
{
    size_t bytes = (size_t)item->elements * kvs_dtype_bytes(item->dtype);
    bool wide = item->dtype == KVS_F64;
    int rule = item->scalars.rule;
    const kvs_cuda_row_kind *kind = wide ? &dense_f64[rule] : &dense_f32[rule];
    check_update(item, bytes);
    for (size_t offset = 0; offset < bytes;) {
        kvs_cuda_piece last = {NULL, bytes - offset};
        KVS_TRY(kvs_cuda_make_row(stream, kind));
        if (has_last(item)) {
            KVS_TRY(kvs_cuda_take_piece(stream, &item->last, offset, bytes - offset, &last));
        }
        if (wide) {
            update_row(stream, (update_f64 *)kvs_cuda_row_place(stream), item, offset, &last);
        } else {
            update_row(stream, (update_f32 *)kvs_cuda_row_place(stream), item, offset, &last);
        }
        offset += last.bytes;
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ rules on rows */

template <typename Real>
static void sparse_row(kvs_stream *stream, kvs_cuda_update<Real> *row, const kvs_apply_item *item,
                       const kvs_cuda_rows_piece *piece, const kvs_cuda_sparse_update *update,
                       const kvs_cuda_map *map)
{
    memset((void *)row, 0, sizeof *row);
    round_numbers(&item->scalars, &row->numbers);
    row->element = item->scalars.element;
    row->weight = (const Real *)update->weight;
    row->target = (Real *)update->weight;
    for (unsigned i = 0; i < kvs_rule_states(item->scalars.rule); i++) {
        row->state[i] = (Real *)item->state[i]->data;
    }
    row->accumulator = (const Real *)update->gradient;
    row->bytes = (uint64_t)piece->rows * piece->columns * sizeof(Real);
    row->first_tile = stream->tiles;
    row->map = *map;
    row->compact = update->compact;
    row->words = kvs_cuda_map_has_words(map, KVS_CUDA_WORD_BYTES / sizeof(Real));
    kvs_cuda_add_tiles(stream, row->bytes);
}

kvs_status kvs_cuda_update_piece(kvs_stream *stream, const kvs_apply_item *item,
                                 const kvs_cuda_rows_piece *piece,
                                 const kvs_cuda_sparse_update *update)
{
    bool wide = item->dtype == KVS_F64;
    int rule = item->scalars.rule;
    kvs_cuda_map map;
    KVS_TRY(kvs_cuda_make_row(stream, wide ? &sparse_f64[rule] : &sparse_f32[rule]));
    KVS_TRY(kvs_cuda_map_piece(stream, &item->rows, piece, &map));
    if (wide) {
        sparse_row(stream, (update_f64 *)kvs_cuda_row_place(stream), item, piece, update, &map);
    } else {
        sparse_row(stream, (update_f32 *)kvs_cuda_row_place(stream), item, piece, update, &map);
    }
    return KVS_OK;
}

void kvs_cuda_check_update_rows(const kvs_apply_item *item)
{
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    size_t state_bytes = item->dtype == KVS_F64 ? sizeof(double) : sizeof(float);
    uint64_t end = kvs_cuda_rows_end(&item->rows);
    KVS_CHECK(item->elements == (uint64_t)item->rows.count * item->rows.elements);
    KVS_CHECK(item->weight->data == item->target->data);
    KVS_CHECK(!has_last(item));
    KVS_CHECK(end * element_bytes <= item->target->bytes);
    for (unsigned i = 0; i < kvs_rule_states(item->scalars.rule); i++) {
        KVS_CHECK(item->state[i] != NULL);
        KVS_CHECK(end * state_bytes <= item->state[i]->bytes);
    }
    if (item->accumulator != NULL) {
        KVS_CHECK(item->elements * element_bytes <= item->accumulator->bytes);
    }
    if (item->master != NULL) {
        KVS_CHECK(end * state_bytes <= item->master->bytes);
    }
}

kvs_status kvs_cuda_update_rows(kvs_stream *stream, const kvs_apply_item *item)
{
    size_t element_bytes = kvs_dtype_bytes(item->dtype);
    kvs_cuda_rows_piece piece = {0, 0, 0, 0};
    kvs_cuda_check_update_rows(item);
    while (kvs_cuda_next_piece(&item->rows, KVS_CUDA_MAP_ROWS_MAX, KVS_CUDA_PIECE_ELEMENTS_MAX,
                               &piece)) {
        kvs_cuda_sparse_update update = {NULL, item->target->data, false};
        if (item->accumulator != NULL) {
            update.gradient = (const uint8_t *)item->accumulator->data +
                              kvs_cuda_piece_offset(&item->rows, &piece) * element_bytes;
        }
        KVS_TRY(kvs_cuda_update_piece(stream, item, &piece, &update));
    }
    return KVS_OK;
}
