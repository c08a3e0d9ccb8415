#include "client/row_arrays.h"

#include <stdlib.h>

size_t kvs_row_arrays_count(const size_t *counts, size_t count)
{
    size_t total = counts == NULL ? count : 0;
    for (size_t i = 0; counts != NULL && i < count; i++) {
        total += counts[i];
    }
    return total;
}

void kvs_row_arrays_deinit(kvs_row_arrays *rows)
{
    free(rows->arrays);
    free(rows->arguments);
}

kvs_status kvs_row_arrays_make(const kv_row_sparse *values, size_t count, const kv_array *wanted,
                               size_t wanted_count, kvs_row_arrays *out, kvs_problem *problem)
{
    if (count > 0 && values == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "there are no values");
    }
    out->arrays = calloc(count + 1, sizeof *out->arrays);
    out->arguments = calloc(count + 1, sizeof *out->arguments);
    if (out->arrays == NULL || out->arguments == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the call");
    }
    for (size_t i = 0; i < count; i++) {
        out->arguments[i].rows = (kv_row_sparse *)&values[i];
        if (wanted_count > 0) {
            out->arguments[i].wanted = &wanted[wanted_count == 1 ? 0 : i];
        }
        out->arrays[i] = (kv_array){.data = &out->arguments[i],
                                    .dtype = values[i].dtype,
                                    .rank = values[i].rank,
                                    .shape = values[i].shape};
    }
    return KVS_OK;
}

kvs_status kvs_row_ids_check(const kv_array *row_ids, size_t row_ids_count, size_t outs,
                             kvs_problem *problem)
{
    if (row_ids == NULL || (row_ids_count != 1 && row_ids_count != outs)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "there is one list of row ids for all outs, or one for each");
    }
    for (size_t i = 0; i < row_ids_count; i++) {
        kvs_shape shape;
        uint64_t elements = 0;
        bool shaped = row_ids[i].rank <= KVS_DIMENSIONS_MAX &&
                      (row_ids[i].rank == 0 || row_ids[i].shape != NULL);
        if (shaped) {
            kvs_array_shape(&row_ids[i], &shape);
        }
        if (!shaped || !kvs_shape_elements(&shape, &elements) ||
            (elements > 0 && row_ids[i].data == NULL)) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR, "a list of row ids is no array");
        }
    }
    return KVS_OK;
}
