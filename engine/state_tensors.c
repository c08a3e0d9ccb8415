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

kvs_captured_part *kvs_state_tensors_part(const kvs_capture *capture, const kvs_safetensor *tensor,
                                          uint64_t at, uint64_t *in_part)
{
    const kvs_key *key = kvs_state_tensors_key(capture, tensor);
    uint64_t bytes = sizeof(int64_t);
    if ((tensor->tag & 255) != KVS_TENSOR_STEP) {
        bytes = key->part_elements * kvs_dtype_bytes(tensor->dtype);
    }
    *in_part = at % bytes;
    return &capture->parts[capture->first[tensor->tag >> 8] + at / bytes];
}

kvs_buffer **kvs_state_tensors_buffer(kvs_captured_part *part, const kvs_safetensor *tensor)
{
    uint64_t what = tensor->tag & 255;
    if (what == KVS_TENSOR_VALUE) {
        return &part->value;
    }
    return what == KVS_TENSOR_MASTER ? &part->master : &part->states[what - KVS_TENSOR_STATE];
}
