#include "client/row_list.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Room for the bits of a place. */
#define ROWS_MAX ((uint64_t)KVS_ROW_FIRST)

void kvs_row_list_deinit(kvs_row_list *list)
{
    free(list->ids);
    free(list->places);
    free(list->starts);
    free(list->packed_starts);
    free(list->packed);
    *list = (kvs_row_list){0};
}

/* ------------------------------------------------------------------ ids of any kind */

/* A number of no sign that is no whole one gives UINT64_MAX, which is no row. */
static uint64_t whole_of(double number)
{
    return number >= 0 && number < 0x1p63 && number == floor(number) ? (uint64_t)number
                                                                     : UINT64_MAX;
}

static uint64_t id_at(const void *ids, kv_dtype dtype, uint64_t i)
{
    switch (dtype) {
    case KV_U8:
        return ((const uint8_t *)ids)[i];
    case KV_I8:
        return (uint64_t)((const int8_t *)ids)[i];
    case KV_I32:
        return (uint64_t)((const int32_t *)ids)[i];
    case KV_I64:
        return (uint64_t)((const int64_t *)ids)[i];
    case KV_F32:
        return whole_of((double)((const float *)ids)[i]);
    case KV_F64:
        return whole_of(((const double *)ids)[i]);
    default:
        return UINT64_MAX;
    }
}

/* A row, and where in the call it stands. */
typedef struct entry {
    uint64_t id;
    uint32_t position;
} entry;

/* Stable, by one byte of the id at a time; bytes that are the same in all are passed over. Gives
 * the array that holds the result. */
static entry *sort(entry *entries, entry *spare, size_t count)
{
    for (unsigned shift = 0; shift < 64; shift += 8) {
        size_t ends[257] = {0};
        for (size_t i = 0; i < count; i++) {
            ends[(entries[i].id >> shift & 0xff) + 1]++;
        }
        if (ends[(entries[0].id >> shift & 0xff) + 1] == count) {
            continue;
        }
        for (size_t i = 1; i < 257; i++) {
            ends[i] += ends[i - 1];
        }
        for (size_t i = 0; i < count; i++) {
            spare[ends[entries[i].id >> shift & 0xff]++] = entries[i];
        }
        entry *sorted = spare;
        spare = entries;
        entries = sorted;
    }
    return entries;
}

static void take_sorted(kvs_row_list *list, const entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bool first = list->count == 0 || list->ids[list->count - 1] != entries[i].id;
        if (first) {
            list->ids[list->count++] = entries[i].id;
        }
        list->places[entries[i].position] =
            (uint32_t)(list->count - 1) | (first ? KVS_ROW_FIRST : 0);
    }
}

static kvs_status bad_id(const kvs_group *group, const kvs_row_list *list, uint64_t id,
                         kvs_problem *problem)
{
    return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                           "key %.*s: row %" PRId64 " is not one of its %" PRIu64 " rows",
                           (int)group->name_bytes, group->name, (int64_t)id, list->rows);
}

/* Takes entries that are in order of the call. */
static kvs_status take_entries(kvs_row_list *list, const kvs_group *group, entry *entries,
                               size_t count, kvs_problem *problem)
{
    bool ascending = true;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].id >= list->rows) {
            return bad_id(group, list, entries[i].id, problem);
        }
        ascending = ascending && (i == 0 || entries[i].id > entries[i - 1].id);
    }
    list->ids = malloc((count + 1) * sizeof *list->ids);
    list->places = malloc((count + 1) * sizeof *list->places);
    entry *spare = ascending ? NULL : malloc((count + 1) * sizeof *spare);
    if (list->ids == NULL || list->places == NULL || (spare == NULL && !ascending)) {
        free(spare);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the rows");
    }
    take_sorted(list, ascending ? entries : sort(entries, spare, count), count);
    free(spare);
    return KVS_OK;
}

static void describe_value(kvs_row_list *list, const kv_array *value)
{
    *list = (kvs_row_list){.row_elements = 1};
    for (uint32_t i = 1; i < value->rank; i++) {
        list->row_elements *= value->shape[i];
    }
    list->rows = value->rank == 0 ? 0 : value->shape[0];
}

/* ------------------------------------------------------------------ making one */

static const kv_row_sparse *rows_of(const kv_array *array)
{
    return ((const kvs_row_argument *)array->data)->rows;
}

static kvs_status check_values(const kvs_row_list *list, const kvs_group *group, uint64_t *total,
                               kvs_problem *problem)
{
    if (group->values[0]->rank == 0 || list->row_elements == 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "key %.*s: a row_sparse value has rows, and its rows elements",
                               (int)group->name_bytes, group->name);
    }
    if (list->row_elements * kvs_dtype_bytes((kvs_dtype)group->values[0]->dtype) >
        KVS_PART_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_TOO_LARGE,
                               "key %.*s: a row has up to %" PRIu64 " bytes",
                               (int)group->name_bytes, group->name, KVS_PART_BYTES_MAX);
    }
    *total = 0;
    for (size_t i = 0; i < group->value_count; i++) {
        const kv_row_sparse *value = rows_of(group->values[i]);
        *total += value->count < ROWS_MAX ? value->count : ROWS_MAX;
        if (*total >= ROWS_MAX) {
            return kvs_problem_set(problem, KVS_TOO_MANY, "a call gives less than 2^31 rows");
        }
        if ((value->count > 0 && value->data == NULL) ||
            (value->ids == NULL && value->count != 0 && value->count != list->rows)) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                   "key %.*s: rows need data, and ids unless they are all",
                                   (int)group->name_bytes, group->name);
        }
    }
    return KVS_OK;
}

kvs_status kvs_row_list_of_values(kvs_row_list *list, const kvs_group *group, kvs_problem *problem)
{
    uint64_t total = 0;
    describe_value(list, group->values[0]);
    KVS_TRY(check_values(list, group, &total, problem));
    const kv_row_sparse *only = rows_of(group->values[0]);
    if (group->value_count == 1 && only->ids == NULL && only->count == list->rows) {
        list->whole = true;
        list->count = list->rows;
        return KVS_OK;
    }
    entry *entries = malloc((total + 1) * sizeof *entries);
    if (entries == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the rows");
    }
    uint32_t position = 0;
    for (size_t v = 0; v < group->value_count; v++) {
        const kv_row_sparse *value = rows_of(group->values[v]);
        for (uint64_t i = 0; i < value->count; i++, position++) {
            uint64_t id = value->ids == NULL ? i : id_at(value->ids, value->id_dtype, i);
            entries[position] = (entry){id, position};
        }
    }
    kvs_status status = take_entries(list, group, entries, position, problem);
    free(entries);
    if (status != KVS_OK) {
        kvs_row_list_deinit(list);
    }
    return status;
}

kvs_status kvs_row_list_of_ids(kvs_row_list *list, const kvs_group *group, const kv_array *value,
                               const kv_array *wanted, kvs_problem *problem)
{
    uint64_t count = kvs_array_elements(wanted);
    describe_value(list, value);
    if (count >= ROWS_MAX) {
        return kvs_problem_set(problem, KVS_TOO_MANY, "a call asks for less than 2^31 rows");
    }
    entry *entries = malloc((count + 1) * sizeof *entries);
    if (entries == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the rows");
    }
    for (uint64_t i = 0; i < count; i++) {
        entries[i] = (entry){id_at(wanted->data, wanted->dtype, i), (uint32_t)i};
    }
    kvs_status status = take_entries(list, group, entries, count, problem);
    free(entries);
    if (status != KVS_OK) {
        kvs_row_list_deinit(list);
    }
    return status;
}

/* ------------------------------------------------------------------ cutting */

static uint64_t packed_bytes(const kvs_row_list *list)
{
    uint8_t packed[KVS_VARINT_BYTES_MAX];
    return list->count * kvs_varint_pack(list->rows, packed);
}

kvs_status kvs_row_list_pack(kvs_row_list *list, uint64_t first, uint64_t count)
{
    list->parts = 1;
    list->packed = malloc(packed_bytes(list) + KVS_VARINT_BYTES_MAX);
    list->packed_starts = calloc(2, sizeof *list->packed_starts);
    if (list->packed == NULL || list->packed_starts == NULL) {
        return KVS_NO_MEMORY;
    }
    for (uint64_t i = first; i < first + count; i++) {
        list->packed_starts[1] +=
            kvs_varint_pack(list->ids[i], list->packed + list->packed_starts[1]);
    }
    return KVS_OK;
}

kvs_status kvs_row_list_cut(kvs_row_list *list, uint64_t part_elements)
{
    uint64_t part_rows = part_elements / list->row_elements;
    part_rows = part_rows == 0 ? 1 : part_rows;
    list->part_elements = part_rows * list->row_elements;
    list->parts = list->rows == 0 ? 1 : (list->rows + part_rows - 1) / part_rows;
    if (list->whole) {
        return KVS_OK;
    }
    list->starts = malloc((list->parts + 1) * sizeof *list->starts);
    list->packed_starts = malloc((list->parts + 1) * sizeof *list->packed_starts);
    list->packed = malloc(packed_bytes(list) + KVS_VARINT_BYTES_MAX);
    if (list->starts == NULL || list->packed_starts == NULL || list->packed == NULL) {
        return KVS_NO_MEMORY;
    }
    uint64_t row = 0;
    uint64_t used = 0;
    for (uint64_t part = 0; part < list->parts; part++) {
        list->starts[part] = row;
        list->packed_starts[part] = used;
        for (; row < list->count && list->ids[row] < (part + 1) * part_rows; row++) {
            used += kvs_varint_pack(list->ids[row], list->packed + used);
        }
    }
    list->starts[list->parts] = row;
    list->packed_starts[list->parts] = used;
    return KVS_OK;
}

/* ------------------------------------------------------------------ sums */

kvs_status kvs_row_list_sum(const kvs_row_list *list, kvs_sum *sum, const kvs_group *group,
                            void *target, kvs_problem *problem)
{
    kvs_dtype dtype = (kvs_dtype)group->values[0]->dtype;
    size_t row_bytes = (size_t)list->row_elements * kvs_dtype_bytes(dtype);
    kvs_memory memory = {.data = target, .host = target, .bytes = (size_t)list->count * row_bytes};
    const uint32_t *places = list->places;
    for (size_t i = 0; i < group->value_count; i++) {
        const kv_row_sparse *value = rows_of(group->values[i]);
        size_t bytes = (size_t)value->count * row_bytes;
        if (bytes == 0) {
            continue;
        }
        if (list->whole) {
            memcpy(target, value->data, bytes);
            continue;
        }
        kvs_span span = {value->data, bytes};
        kvs_accumulate_item item = {
            .target = &memory,
            .source = {.payload = {.spans = &span, .count = 1, .bytes = bytes}},
            .elements = value->count * list->row_elements,
            .dtype = dtype,
            .rows = {.list = places,
                     .count = (uint32_t)value->count,
                     .elements = (uint32_t)list->row_elements}};
        places += value->count;
        if (sum->backend->table->accumulate(sum->stream, &item, 1) != KVS_OK ||
            sum->backend->table->sync(sum->stream) != KVS_OK) {
            return kvs_problem_set(problem, KVS_UNIMPLEMENTED,
                                   "key %.*s: rows of %s cannot be summed", (int)group->name_bytes,
                                   group->name, kvs_dtype_name(dtype));
        }
    }
    return KVS_OK;
}

kvs_status kvs_row_list_describe(const kvs_row_list *list, const kvs_group *group,
                                 kv_row_sparse *out, kvs_problem *problem)
{
    if (list->count > 0 && (out->data == NULL || out->ids == NULL || out->id_dtype != KV_I64)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "key %.*s: an out has room for rows and for ids of I64",
                               (int)group->name_bytes, group->name);
    }
    out->count = list->count;
    for (uint64_t i = 0; i < list->count; i++) {
        ((int64_t *)out->ids)[i] = (int64_t)list->ids[i];
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ one part */

bool kvs_row_list_is_empty(const kvs_row_list *list, uint64_t part)
{
    return !list->whole && list->starts[part + 1] == list->starts[part];
}

size_t kvs_row_list_offset(const kvs_row_list *list, uint64_t part, size_t element_bytes)
{
    if (list->whole) {
        return (size_t)(part * list->part_elements) * element_bytes;
    }
    return (size_t)(list->starts[part] * list->row_elements) * element_bytes;
}

void kvs_row_list_fill_header(const kvs_row_list *list, uint64_t part, size_t element_bytes,
                              kvs_part_header *header)
{
    uint64_t left = list->rows * list->row_elements - part * list->part_elements;
    header->storage = KVS_ROW_SPARSE;
    header->element_offset = part * list->part_elements;
    header->element_count = left < list->part_elements ? left : list->part_elements;
    if (list->whole) {
        header->payload_bytes = header->element_count * element_bytes;
        return;
    }
    header->payload_bytes =
        (list->starts[part + 1] - list->starts[part]) * list->row_elements * element_bytes;
    header->row_ids = list->packed + list->packed_starts[part];
    header->row_ids_bytes = (uint32_t)(list->packed_starts[part + 1] - list->packed_starts[part]);
}

/* The place of the first id that is not below `id`. */
static uint64_t lower_bound(const uint64_t *ids, uint64_t count, uint64_t id)
{
    uint64_t low = 0;
    uint64_t high = count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (ids[middle] < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

kvs_status kvs_row_list_find(const kvs_row_list *list, const kvs_part_header *header,
                             uint64_t *first, uint64_t *rows, kvs_problem *problem)
{
    const uint64_t *ids = list->ids;
    uint64_t count = list->count;
    kvs_shape shape;
    if (header->has_shape && kvs_part_header_shape(header, &shape) && shape.rank > 0 &&
        shape.size[0] != list->rows) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the value has %" PRIu64 " rows, its out %" PRIu64, shape.size[0],
                               list->rows);
    }
    uint32_t at = 0;
    uint64_t found = 0;
    uint64_t place = 0;
    while (at < header->row_ids_bytes) {
        uint64_t id = 0;
        bool read = kvs_varint_next(header->row_ids, header->row_ids_bytes, &at, &id);
        if (read && found == 0) {
            place = lower_bound(ids, count, id);
        }
        if (!read || place + found >= count || ids[place + found] != id) {
            return kvs_problem_set(problem, KVS_INTERNAL, "rows came that were not asked for");
        }
        found++;
    }
    *first = place;
    *rows = found;
    return KVS_OK;
}
