#include "cuda/halves.cuh"

#include "base/check.h"
#include "cuda/casts.cuh"
#include "cuda/updates.cuh"

#include <string.h>

/* Pieces of a group, at most: a table of rows each step. */
#define GROUP_PIECES_MAX 128u
/* Elements of a group: what the scratch holds of f32. */
#define GROUP_ELEMENTS_MAX ((size_t)KVS_PART_ELEMENTS)
/* A piece starts at a word of the scratch, of halves as of f32. */
#define PLACE_ELEMENTS ((size_t)8)

/* Elements of an item, and their place in the scratch. */
typedef struct half_piece {
    const kvs_apply_item *item;
    size_t first;
    size_t elements;
    size_t place;
} half_piece;

typedef struct half_group {
    half_piece pieces[GROUP_PIECES_MAX];
    uint32_t count;
    size_t filled;
} half_group;

bool kvs_cuda_is_half(kvs_dtype dtype)
{
    return dtype == KVS_F16 || dtype == KVS_BF16;
}

static bool has_last(const kvs_apply_item *item)
{
    return item->last.memory != NULL || item->last.payload.bytes > 0;
}

static void check_item(const kvs_apply_item *item)
{
    size_t bytes = (size_t)item->elements * sizeof(uint16_t);
    KVS_CHECK(bytes <= item->weight->bytes);
    KVS_CHECK(bytes <= item->target->bytes);
    if (item->accumulator != NULL) {
        KVS_CHECK(bytes <= item->accumulator->bytes);
    }
    if (has_last(item)) {
        kvs_cuda_check_source(&item->last, bytes);
    }
    KVS_CHECK(item->accumulator != NULL || has_last(item));
}

/* What of `memory` belongs to elements from `first` on. */
static kvs_memory part_of(const kvs_memory *memory, size_t first, size_t element_bytes)
{
    size_t skip = first * element_bytes;
    KVS_CHECK(skip <= memory->bytes);
    kvs_memory part = {(uint8_t *)memory->data + skip, NULL, memory->bytes - skip, 0, 0};
    return part;
}

static kvs_memory halves_of(const kvs_stream *stream, const half_piece *piece)
{
    return part_of(&stream->scratch.encoded, piece->place, sizeof(uint16_t));
}

static kvs_memory wide_weight(const kvs_stream *stream, const half_piece *piece)
{
    const kvs_memory *master = piece->item->master;
    return master != NULL ? part_of(master, piece->first, sizeof(float))
                          : part_of(&stream->scratch.weight, piece->place, sizeof(float));
}

/* ------------------------------------------------------------------ steps of a piece */

/* The halves to which the last term is added, or which it is, in the scratch. */
static kvs_status copy_sum(kvs_stream *stream, const half_piece *piece)
{
    const kvs_apply_item *item = piece->item;
    size_t bytes = piece->elements * sizeof(uint16_t);
    kvs_memory target = halves_of(stream, piece);
    kvs_memory from;
    kvs_source source = {&from, {NULL, 0, 0, 0}};
    if (!has_last(item)) {
        return KVS_OK; /* read where it is */
    }
    if (item->accumulator != NULL) {
        from = part_of(item->accumulator, piece->first, sizeof(uint16_t));
    } else if (item->last.memory != NULL) {
        from = part_of(item->last.memory, piece->first, sizeof(uint16_t));
    } else {
        source.memory = NULL;
        source.payload =
            kvs_payload_slice(&item->last.payload, piece->first * sizeof(uint16_t), bytes);
    }
    return kvs_cuda_copy_rows(stream, &target, &source, bytes);
}

static kvs_status add_last(kvs_stream *stream, const half_piece *piece)
{
    const kvs_apply_item *item = piece->item;
    size_t bytes = piece->elements * sizeof(uint16_t);
    kvs_memory target = halves_of(stream, piece);
    kvs_memory from;
    kvs_source source = {&from, {NULL, 0, 0, 0}};
    if (!has_last(item) || item->accumulator == NULL) {
        return KVS_OK;
    }
    if (item->last.memory != NULL) {
        from = part_of(item->last.memory, piece->first, sizeof(uint16_t));
    } else {
        source.memory = NULL;
        source.payload =
            kvs_payload_slice(&item->last.payload, piece->first * sizeof(uint16_t), bytes);
    }
    return kvs_cuda_sum_rows(stream, item->dtype, &target, &source, bytes);
}

static kvs_status widen(kvs_stream *stream, const half_piece *piece)
{
    const kvs_apply_item *item = piece->item;
    kvs_memory gradient = part_of(&stream->scratch.gradient, piece->place, sizeof(float));
    kvs_memory weight = wide_weight(stream, piece);
    kvs_memory sum = has_last(item) ? halves_of(stream, piece)
                                    : part_of(item->accumulator, piece->first, sizeof(uint16_t));
    kvs_cuda_half_cast cast;
    memset((void *)&cast, 0, sizeof cast);
    cast.dtype = item->dtype;
    cast.target = gradient.data;
    cast.source = sum.data;
    cast.units = piece->elements;
    KVS_TRY(kvs_cuda_cast_halves(stream, &cast));
    if (item->master != NULL) {
        return KVS_OK;
    }
    cast.target = weight.data;
    cast.source = (const uint16_t *)item->weight->data + piece->first;
    return kvs_cuda_cast_halves(stream, &cast);
}

static kvs_status update(kvs_stream *stream, const half_piece *piece)
{
    kvs_apply_item wide = *piece->item;
    kvs_memory weight = wide_weight(stream, piece);
    kvs_memory gradient = part_of(&stream->scratch.gradient, piece->place, sizeof(float));
    kvs_memory state[KVS_RULE_STATES_MAX];
    for (unsigned i = 0; i < kvs_rule_states(wide.scalars.rule); i++) {
        KVS_CHECK(wide.state[i] != NULL);
        state[i] = part_of(wide.state[i], piece->first, sizeof(float));
        wide.state[i] = &state[i];
    }
    wide.scalars.element += piece->first;
    wide.weight = &weight;
    wide.target = &weight;
    wide.master = NULL;
    wide.accumulator = &gradient;
    memset((void *)&wide.last, 0, sizeof wide.last);
    wide.elements = piece->elements;
    wide.dtype = KVS_F32;
    return kvs_cuda_update_item(stream, &wide);
}

static kvs_status narrow(kvs_stream *stream, const half_piece *piece)
{
    kvs_memory weight = wide_weight(stream, piece);
    kvs_cuda_half_cast cast;
    memset((void *)&cast, 0, sizeof cast);
    cast.dtype = piece->item->dtype;
    cast.narrow = true;
    cast.target = (uint16_t *)piece->item->target->data + piece->first;
    cast.source = weight.data;
    cast.units = piece->elements;
    return kvs_cuda_cast_halves(stream, &cast);
}

/* ------------------------------------------------------------------ groups */

/* A step's rows read what the step before has written, so it is launched first. */
static kvs_status run_group(kvs_stream *stream, half_group *group)
{
    static kvs_status (*const steps[])(kvs_stream *, const half_piece *) = {copy_sum, add_last,
                                                                            widen, update, narrow};
    for (unsigned step = 0; step < sizeof steps / sizeof steps[0]; step++) {
        KVS_TRY(kvs_cuda_launch(stream));
        for (uint32_t i = 0; i < group->count; i++) {
            KVS_TRY(steps[step](stream, &group->pieces[i]));
        }
    }
    group->count = 0;
    group->filled = 0;
    return KVS_OK;
}

kvs_status kvs_cuda_update_halves(kvs_stream *stream, const kvs_apply_item *items, size_t count)
{
    half_group group;
    group.count = 0;
    group.filled = 0;
    for (size_t i = 0; i < count; i++) {
        size_t elements = (size_t)items[i].elements;
        bool by_row = items[i].rows.elements > 0 ||
                      kvs_rule_row_states(items[i].scalars.rule) > 0; /* done already */
        if (!kvs_cuda_is_half(items[i].dtype) || by_row || elements == 0) {
            continue;
        }
        check_item(&items[i]);
        for (size_t first = 0; first < elements;) {
            size_t left = elements - first;
            size_t room = GROUP_ELEMENTS_MAX - group.filled;
            if (group.count == GROUP_PIECES_MAX || (room < left && group.count > 0)) {
                KVS_TRY(run_group(stream, &group));
                continue;
            }
            size_t taken = left < room ? left : room;
            half_piece piece = {&items[i], first, taken, group.filled};
            group.pieces[group.count++] = piece;
            group.filled += (taken + PLACE_ELEMENTS - 1) / PLACE_ELEMENTS * PLACE_ELEMENTS;
            first += taken;
        }
    }
    return run_group(stream, &group);
}

/* ------------------------------------------------------------------ rows */

/* The gradient and, without a master, the weight of a piece as f32, in the scratch. */
static kvs_status widen_rows(kvs_stream *stream, const kvs_apply_item *item,
                             const kvs_cuda_rows_piece *piece)
{
    kvs_cuda_half_cast cast;
    memset((void *)&cast, 0, sizeof cast);
    cast.dtype = item->dtype;
    cast.units = (uint64_t)piece->rows * piece->columns;
    if (item->accumulator != NULL) {
        cast.target = stream->scratch.gradient.data;
        cast.source =
            (const uint16_t *)item->accumulator->data + kvs_cuda_piece_offset(&item->rows, piece);
        KVS_TRY(kvs_cuda_cast_halves(stream, &cast));
    }
    if (item->master != NULL) {
        return KVS_OK;
    }
    cast.target = stream->scratch.weight.data;
    cast.source = item->weight->data;
    cast.rows = &item->rows;
    cast.piece = piece;
    cast.source_mapped = true;
    return kvs_cuda_cast_halves(stream, &cast);
}

static kvs_status narrow_rows(kvs_stream *stream, const kvs_apply_item *item,
                              const kvs_cuda_rows_piece *piece, const kvs_memory *weight)
{
    kvs_cuda_half_cast cast;
    memset((void *)&cast, 0, sizeof cast);
    cast.dtype = item->dtype;
    cast.narrow = true;
    cast.target = item->target->data;
    cast.source = weight->data;
    cast.units = (uint64_t)piece->rows * piece->columns;
    cast.rows = &item->rows;
    cast.piece = piece;
    cast.source_mapped = item->master != NULL;
    cast.target_mapped = true;
    return kvs_cuda_cast_halves(stream, &cast);
}

kvs_status kvs_cuda_update_half_rows(kvs_stream *stream, const kvs_apply_item *item)
{
    bool compact = item->master == NULL;
    const kvs_memory *weight = compact ? &stream->scratch.weight : item->master;
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
        KVS_TRY(kvs_cuda_launch(stream)); /* what was there reads the scratch */
        KVS_TRY(widen_rows(stream, item, &piece));
        KVS_TRY(kvs_cuda_update_piece(stream, &wide, &piece, &update));
        KVS_TRY(narrow_rows(stream, item, &piece, weight));
    }
    return KVS_OK;
}
