#include "engine/rows.h"

#include "base/check.h"
#include "engine/encoded.h"
#include "engine/round.h"
#include "engine/session.h"
#include "engine/store.h"
#include "engine/update.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ what a header brings */

/* The value's number of the part's first row. */
static uint64_t first_row(const kvs_part *part)
{
    return part->index * (part->key->part_elements / part->key->row_elements);
}

/* All rows of the part, as a dense value has them. */
static bool brings_all(const kvs_part *part, const kvs_part_header *header)
{
    return header->storage == KVS_DENSE ||
           (header->row_ids_bytes == 0 && header->payload_bytes == kvs_part_bytes(part));
}

kvs_status kvs_rows_judge(const kvs_part *part, const kvs_part_header *header, kvs_problem *problem)
{
    uint64_t first = first_row(part);
    uint64_t rows = kvs_part_rows(part);
    uint64_t count = brings_all(part, header) ? rows : 0;
    uint32_t at = 0;
    if (header->storage == KVS_DENSE && header->row_ids_bytes > 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "a dense part has no row ids");
    }
    while (at < header->row_ids_bytes) {
        uint64_t id = 0;
        if (!kvs_varint_next(header->row_ids, header->row_ids_bytes, &at, &id)) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the row ids cannot be read");
        }
        if (id < first || id - first >= rows) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                   "row %" PRIu64 " is not one of the part's rows %" PRIu64
                                   " to %" PRIu64,
                                   id, first, first + rows - 1);
        }
        count++;
    }
    if (header->payload_bytes != count * kvs_part_row_bytes(part)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "%" PRIu64 " rows take %" PRIu64 " bytes, not %" PRIu64, count,
                               count * (uint64_t)kvs_part_row_bytes(part), header->payload_bytes);
    }
    return KVS_OK;
}

uint32_t kvs_rows_count(const kvs_part *part, const kvs_part_header *header)
{
    return (uint32_t)(header->payload_bytes / kvs_part_row_bytes(part));
}

void kvs_rows_read(const kvs_part *part, const kvs_part_header *header, uint32_t *list,
                   bool *ascending)
{
    uint64_t first = first_row(part);
    uint32_t count = kvs_rows_count(part, header);
    bool all = brings_all(part, header);
    uint32_t at = 0;
    *ascending = true;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t id = first + i;
        if (!all) {
            KVS_CHECK(kvs_varint_next(header->row_ids, header->row_ids_bytes, &at, &id));
        }
        list[i] = (uint32_t)(id - first);
        *ascending = *ascending && (i == 0 || list[i] > list[i - 1]);
    }
}

/* ------------------------------------------------------------------ room */

/* A place for each row of the part. */
static kvs_status reserve_places(kvs_shard *shard, const kvs_part *part)
{
    uint64_t rows = kvs_part_rows(part);
    if (rows <= shard->row_places_room) {
        return KVS_OK;
    }
    void *places = NULL;
    KVS_TRY(kvs_pool_alloc(shard->pool, rows * sizeof *shard->row_places, &places));
    memset(places, 0, rows * sizeof *shard->row_places);
    kvs_budget_free(shard->row_places);
    shard->row_places = places;
    shard->row_places_room = rows;
    return KVS_OK;
}

static kvs_status reserve_list(kvs_shard *shard, kvs_part *part, uint32_t rows)
{
    kvs_row_set *set = &part->row_set;
    if (rows <= set->room) {
        return KVS_OK;
    }
    uint32_t room = 2 * set->room > rows ? 2 * set->room : rows;
    kvs_batch_touch(&shard->batch, part); /* a launch that is to come may read the list */
    void *list = NULL;
    KVS_TRY(kvs_pool_alloc(shard->pool, room * sizeof *set->list, &list));
    if (set->count > 0) {
        memcpy(list, set->list, set->count * sizeof *set->list);
    }
    kvs_budget_free(set->list);
    set->list = list;
    set->room = room;
    return KVS_OK;
}

static kvs_status reserve_accumulator(kvs_shard *shard, kvs_part *part, uint32_t rows)
{
    size_t bytes = rows * kvs_part_row_bytes(part);
    kvs_buffer *old = part->accumulator;
    kvs_buffer *larger = NULL;
    if (old != NULL && bytes <= old->memory.bytes) {
        return KVS_OK;
    }
    KVS_TRY(kvs_pool_take(shard->pool, bytes, &larger));
    if (part->row_set.count > 0) {
        kvs_batch_touch(&shard->batch, part);
        kvs_batch_copy_buffer(&shard->batch, part, larger, old,
                              part->row_set.count * kvs_part_row_bytes(part));
    }
    kvs_batch_release(&shard->batch, old);
    part->accumulator = larger;
    return KVS_OK;
}

/* ------------------------------------------------------------------ sums */

/* Turns the list into places among `set`, which takes what is new. Needs room in both. */
static void place_rows(kvs_shard *shard, kvs_row_set *set, uint32_t *list, uint32_t count)
{
    uint32_t *places = shard->row_places;
    for (uint32_t i = 0; i < set->count; i++) {
        places[set->list[i]] = i + 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t row = list[i];
        if (places[row] == 0) {
            set->list[set->count] = row;
            places[row] = ++set->count;
            list[i] = (set->count - 1) | KVS_ROW_FIRST;
        } else {
            list[i] = places[row] - 1;
        }
    }
    for (uint32_t i = 0; i < set->count; i++) {
        places[set->list[i]] = 0;
    }
}

/* A rank's contribution is the sum of what it brings for a row, in the order in which it brings it:
 * made here, so that its rows stand once. */
static kvs_status fold(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    kvs_row_set set = {.room = op->row_count};
    kvs_buffer *sum = NULL;
    void *list = NULL;
    KVS_TRY(kvs_pool_alloc(shard->pool, op->row_count * sizeof *set.list, &list));
    set.list = list;
    kvs_status status = kvs_pool_take(shard->pool, op->row_count * kvs_part_row_bytes(part), &sum);
    if (status != KVS_OK) {
        kvs_budget_free(set.list);
        return status;
    }
    kvs_source source = kvs_op_source(op);
    place_rows(shard, &set, op->rows, op->row_count);
    kvs_batch_touch(&shard->batch, part);
    kvs_batch_accumulate_rows(&shard->batch, part, sum, &source, op->rows, op->row_count);
    kvs_batch_touch(&shard->batch, part); /* launched: the list may go */
    kvs_budget_free(op->rows);
    op->rows = set.list;
    op->row_count = set.count;
    op->ascending = true;
    kvs_round_keep_sum(shard, op, sum);
    return KVS_OK;
}

kvs_status kvs_rows_reserve(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    kvs_row_set *set = &part->row_set;
    uint32_t rows = kvs_part_rows(part);
    if (op->row_count == 0) {
        return KVS_OK;
    }
    KVS_TRY(reserve_places(shard, part));
    if (!op->ascending) {
        KVS_TRY(fold(shard, part, op));
    }
    uint32_t reserved = op->row_count < rows - set->reserved ? set->reserved + op->row_count : rows;
    KVS_TRY(reserve_list(shard, part, reserved));
    KVS_TRY(reserve_accumulator(shard, part, reserved));
    set->reserved = reserved;
    return KVS_OK;
}

void kvs_rows_add(kvs_shard *shard, kvs_part *part, kvs_op *op, const kvs_source *source)
{
    if (op->row_count == 0) {
        return;
    }
    place_rows(shard, &part->row_set, op->rows, op->row_count);
    kvs_batch_touch(&shard->batch, part);
    kvs_batch_accumulate_rows(&shard->batch, part, part->accumulator, source, op->rows,
                              op->row_count);
}

kvs_status kvs_rows_complete(kvs_shard *shard, kvs_part *part)
{
    kvs_row_set *set = &part->row_set;
    uint32_t rows = kvs_part_rows(part);
    kvs_buffer *whole = NULL;
    KVS_TRY(reserve_places(shard, part));
    KVS_TRY(reserve_list(shard, part, rows));
    KVS_TRY(kvs_pool_take(shard->pool, kvs_part_bytes(part), &whole));
    kvs_batch_touch(&shard->batch, part);
    kvs_batch_zero(&shard->batch, whole);
    for (uint32_t i = 0; i < set->count; i++) {
        set->list[i] |= KVS_ROW_FIRST;
    }
    if (set->count > 0) {
        kvs_source sum = {.memory = &part->accumulator->memory};
        kvs_batch_accumulate_rows(&shard->batch, part, whole, &sum, set->list, set->count);
    }
    kvs_batch_release(&shard->batch, part->accumulator);
    part->accumulator = whole;
    kvs_batch_touch(&shard->batch, part); /* launched: the list may change */
    for (uint32_t row = 0; row < rows; row++) {
        set->list[row] = row;
    }
    set->count = set->reserved = rows;
    return KVS_OK;
}

void kvs_rows_reset(kvs_shard *shard, kvs_part *part)
{
    kvs_batch_release(&shard->batch, part->accumulator);
    part->accumulator = NULL;
    part->row_set.count = 0;
    part->row_set.reserved = 0;
}

/* ------------------------------------------------------------------ updates */

/* The value's bytes, to be changed in place: a copy if somebody reads them. */
static kvs_status own_value(kvs_shard *shard, kvs_part *part)
{
    kvs_buffer *copy = NULL;
    if (kvs_buffer_own(part->value)) {
        return KVS_OK;
    }
    KVS_TRY(kvs_pool_take(shard->pool, kvs_part_bytes(part), &copy));
    kvs_batch_touch(&shard->batch, part);
    kvs_batch_copy_buffer(&shard->batch, part, copy, part->value, kvs_part_bytes(part));
    kvs_batch_release(&shard->batch, part->value);
    part->value = copy;
    return KVS_OK;
}

/* Puts the rows that are not in the set behind those that are; how many. */
static uint32_t list_others(kvs_shard *shard, kvs_part *part)
{
    kvs_row_set *set = &part->row_set;
    uint32_t *places = shard->row_places;
    uint32_t others = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        places[set->list[i]] = 1;
    }
    for (uint32_t row = 0; row < kvs_part_rows(part); row++) {
        if (places[row] == 0) {
            set->list[set->count + others++] = row;
        }
        places[row] = 0;
    }
    return others;
}

kvs_status kvs_rows_prepare(kvs_shard *shard, kvs_part *part, uint32_t rows)
{
    bool lazy = part->binding != NULL && kvs_optimizer_is_lazy(part->binding->optimizer);
    if (lazy && rows == 0) {
        return KVS_OK;
    }
    if (part->binding != NULL && !lazy) {
        KVS_TRY(reserve_places(shard, part));
        KVS_TRY(reserve_list(shard, part, kvs_part_rows(part)));
    }
    KVS_TRY(kvs_update_take_states(shard, part)); /* of no rule: a master goes */
    return own_value(shard, part);
}

static kvs_status apply_rule(kvs_shard *shard, kvs_part *part)
{
    kvs_row_set *set = &part->row_set;
    bool lazy = kvs_optimizer_is_lazy(part->binding->optimizer);
    KVS_TRY(kvs_rows_prepare(shard, part, set->count));
    part->updates++;
    if (lazy && set->count == 0) {
        return KVS_OK;
    }
    if (set->count > 0) {
        kvs_batch_touch(&shard->batch, part);
        kvs_batch_apply_rows(&shard->batch, part, part->accumulator, set->list, set->count);
    }
    uint32_t others = lazy ? 0 : list_others(shard, part);
    if (others > 0) {
        kvs_batch_touch(&shard->batch, part);
        kvs_batch_apply_rows(&shard->batch, part, NULL, set->list + set->count, others);
    }
    return KVS_OK;
}

static kvs_status replace(kvs_shard *shard, kvs_part *part)
{
    kvs_row_set *set = &part->row_set;
    kvs_buffer *target = part->value;
    KVS_TRY(kvs_update_take_states(shard, part)); /* of no rule: a master goes */
    if (!kvs_buffer_own(target)) {
        KVS_TRY(kvs_pool_take(shard->pool, kvs_part_bytes(part), &target));
    }
    kvs_batch_touch(&shard->batch, part);
    target->downloaded = false;
    kvs_batch_zero(&shard->batch, target);
    for (uint32_t i = 0; i < set->count; i++) {
        set->list[i] |= KVS_ROW_FIRST;
    }
    if (set->count > 0) {
        kvs_source sum = {.memory = &part->accumulator->memory};
        kvs_batch_accumulate_rows(&shard->batch, part, target, &sum, set->list, set->count);
    }
    if (target != part->value) {
        kvs_batch_release(&shard->batch, part->value);
        part->value = target;
    }
    return KVS_OK;
}

kvs_status kvs_rows_update(kvs_shard *shard, kvs_part *part)
{
    return part->binding != NULL ? apply_rule(shard, part) : replace(shard, part);
}

/* ------------------------------------------------------------------ reads */

/* Of the varints of so many rows of the key. */
static size_t id_bytes_max(const kvs_key *key, uint32_t rows)
{
    uint8_t packed[KVS_VARINT_BYTES_MAX];
    return rows * (size_t)kvs_varint_pack(key->elements, packed);
}

kvs_status kvs_rows_gather(kvs_shard *shard, kvs_part *part, const kvs_rows_wish *wish,
                           kvs_buffer **out)
{
    bool encoded = wish->codec != KVS_CODEC_NONE;
    size_t bytes = wish->count * kvs_part_row_bytes(part);
    size_t id_bytes = id_bytes_max(part->key, wish->count);
    kvs_buffer *rows = NULL;
    KVS_TRY(kvs_pool_take(shard->pool, bytes + (encoded ? 0 : id_bytes), &rows));
    kvs_batch_touch(&shard->batch, part);
    kvs_batch_copy_rows(&shard->batch, part, rows, part->value, wish->list, wish->count);
    kvs_status status =
        encoded ? kvs_encoded_take_rows(shard, part, wish->codec, rows, wish->count, id_bytes, out)
                : kvs_batch_download(&shard->batch, rows);
    if (encoded || status != KVS_OK) {
        kvs_batch_release(&shard->batch, rows);
        return status;
    }
    *out = rows;
    return KVS_OK;
}

kvs_status kvs_rows_capture(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    kvs_rows_wish wish = {.list = op->rows, .count = op->row_count, .codec = op->value_codec};
    return kvs_rows_gather(shard, part, &wish, &op->value);
}

void kvs_rows_fill_header(const kvs_op *op, kvs_part_header *header)
{
    size_t bytes = kvs_op_value_bytes(op);
    uint8_t *ids = (uint8_t *)op->value->memory.host + bytes;
    uint64_t first = first_row(op->part);
    uint32_t used = 0;
    for (uint32_t i = 0; i < op->row_count; i++) {
        used += kvs_varint_pack(first + op->rows[i], ids + used);
    }
    header->storage = KVS_ROW_SPARSE;
    header->payload_bytes = bytes;
    header->row_ids = ids;
    header->row_ids_bytes = used;
}
