#include "engine/state_tensors.h"

#include "engine/key.h"
#include "engine/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for "::" and the longest name. */
#define SUFFIX_BYTES_MAX 40u

static bool steps_differ(const kvs_capture *capture, uint64_t k, const kvs_key *key)
{
    const kvs_captured_part *parts = &capture->parts[capture->first[k]];
    for (uint64_t i = 1; i < key->part_count; i++) {
        if (parts[i].updates != parts[0].updates) {
            return true;
        }
    }
    return false;
}

static void add(kvs_state_tensors *out, char **at, const kvs_key *key, const char *suffix,
                kvs_safetensor tensor)
{
    int suffix_bytes = 0;
    memcpy(*at, key->name, key->name_bytes);
    if (suffix != NULL) {
        suffix_bytes = snprintf(*at + key->name_bytes, SUFFIX_BYTES_MAX, "::%s", suffix);
    }
    tensor.name = *at;
    tensor.name_bytes = key->name_bytes + (uint32_t)suffix_bytes;
    out->list[out->count++] = tensor;
    *at += tensor.name_bytes;
}

kvs_status kvs_state_tensors_make(const kvs_capture *capture, kvs_state_tensors *out)
{
    kvs_state_tensors tensors = {.count = 0};
    size_t most = 0;
    size_t bytes = 1;
    for (uint64_t k = 0; k < capture->key_count; k++) {
        const kvs_key *key = kvs_key_table_at(&capture->store->keys, k);
        size_t here = 3 + kvs_capture_states(capture, key);
        most += here;
        bytes += here * (key->name_bytes + SUFFIX_BYTES_MAX);
    }
    tensors.list = calloc(most + 1, sizeof *tensors.list);
    tensors.names = malloc(bytes);
    if (tensors.list == NULL || tensors.names == NULL) {
        kvs_state_tensors_deinit(&tensors);
        return KVS_NO_MEMORY;
    }
    char *at = tensors.names;
    for (uint64_t k = 0; k < capture->key_count; k++) {
        const kvs_key *key = kvs_key_table_at(&capture->store->keys, k);
        kvs_safetensor tensor = {.dtype = key->dtype,
                                 .rank = key->shape.rank,
                                 .sizes = key->shape.size,
                                 .tag = k << 8 | KVS_TENSOR_VALUE};
        if (capture->values) {
            add(&tensors, &at, key, NULL, tensor);
        }
        if (!kvs_dtype_floating(key->dtype)) {
            continue; /* integers have no rule */
        }
        bool half = key->dtype == KVS_F16 || key->dtype == KVS_BF16;
        tensor.dtype = half ? KVS_F32 : key->dtype;
        if (kvs_capture_has_master(capture, key)) {
            tensor.tag = k << 8 | KVS_TENSOR_MASTER;
            add(&tensors, &at, key, "master", tensor);
        }
        if (kvs_optimizer_by_row(capture->optimizer) && tensor.rank > 1) {
            tensor.rank = 1;
        }
        for (uint32_t s = 0; s < kvs_capture_states(capture, key); s++) {
            tensor.tag = k << 8 | (KVS_TENSOR_STATE + s);
            add(&tensors, &at, key, kvs_rule_state_name(kvs_optimizer_rule(capture->optimizer), s),
                tensor);
        }
        tensor.dtype = KVS_I64;
        tensor.rank = steps_differ(capture, k, key) ? 1 : 0;
        tensor.sizes = &key->part_count;
        tensor.tag = k << 8 | KVS_TENSOR_STEP;
        add(&tensors, &at, key, "step", tensor);
    }
    if (tensors.count > 0) {
        qsort(tensors.list, tensors.count, sizeof *tensors.list, kvs_safetensor_compare);
    }
    *out = tensors;
    return KVS_OK;
}

void kvs_state_tensors_deinit(kvs_state_tensors *tensors)
{
    free(tensors->list);
    free(tensors->names);
    memset(tensors, 0, sizeof *tensors);
}

kvs_key *kvs_state_tensors_key(const kvs_capture *capture, const kvs_safetensor *tensor)
{
    return kvs_key_table_at(&capture->store->keys, (size_t)(tensor->tag >> 8));
}

/* Numbers of rows: each lies with the part where its row begins. `row` is below the count of rows.
 */
static void place_row(const kvs_key *key, uint64_t row, uint64_t *index, uint64_t *in_part,
                      uint64_t *left)
{
    uint64_t elements = kvs_key_row_elements(key);
    *index = row * elements / key->part_elements;
    uint64_t end = ((*index + 1) * key->part_elements + elements - 1) / elements;
    uint64_t rows = key->elements / elements;
    *in_part = row - kvs_key_rows_of(key, *index).first;
    *left = (end < rows ? end : rows) - row;
}

kvs_state_place kvs_state_tensors_place(const kvs_capture *capture, const kvs_safetensor *tensor,
                                        uint64_t at)
{
    const kvs_key *key = kvs_state_tensors_key(capture, tensor);
    uint64_t element_bytes = kvs_dtype_bytes(tensor->dtype);
    uint64_t what = tensor->tag & 255;
    uint64_t unit = at / element_bytes;
    uint64_t within = at % element_bytes;
    kvs_state_place place;
    if (what >= KVS_TENSOR_STATE && kvs_optimizer_by_row(capture->optimizer)) {
        place_row(key, unit, &place.index, &place.offset, &place.left);
    } else {
        uint64_t units = what == KVS_TENSOR_STEP ? 1 : key->part_elements;
        place.index = unit / units;
        place.offset = unit % units;
        place.left = units - place.offset;
    }
    uint64_t in_tensor = (tensor->end - tensor->begin - at + within) / element_bytes;
    place.left = place.left < in_tensor ? place.left : in_tensor;
    place.left = place.left * element_bytes - within;
    place.offset = place.offset * element_bytes + within;
    place.part = &capture->parts[capture->first[tensor->tag >> 8] + place.index];
    return place;
}

kvs_buffer **kvs_state_tensors_buffer(kvs_captured_part *part, const kvs_safetensor *tensor)
{
    uint64_t what = tensor->tag & 255;
    if (what == KVS_TENSOR_VALUE) {
        return &part->value;
    }
    return what == KVS_TENSOR_MASTER ? &part->master : &part->states[what - KVS_TENSOR_STATE];
}
