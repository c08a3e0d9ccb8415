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

/* A rule's kernel. */
template <typename Real, typename Step>
static cudaError_t launch_update(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                                 uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_update_kernel<Real, Step>,
                              (const kvs_cuda_update<Real> *)rows, count, tiles);
}

/* By kvs_rule. */
#define ROW_F32(name, step, states)                                                                \
    {sizeof(update_f32), launch_update<float, kvs_cuda_##step##_f32>},
#define ROW_F64(name, step, states)                                                                \
    {sizeof(update_f64), launch_update<double, kvs_cuda_##step##_f64>},
static const kvs_cuda_row_kind f32_rows[] = {KVS_RULES(ROW_F32)};
static const kvs_cuda_row_kind f64_rows[] = {KVS_RULES(ROW_F64)};

template <typename Real, typename Step> static cudaError_t load_update(void)
{
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kvs_cuda_update_kernel<Real, Step>);
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
    const kvs_cuda_row_kind *kind = wide ? &f64_rows[rule] : &f32_rows[rule];
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
