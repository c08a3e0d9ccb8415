#include "client/compression.h"

#include <stdlib.h>
#include <string.h>

#define DEVICE_BYTES sizeof(uint32_t)

static void free_residual(kvs_client_key *key)
{
    free(key->residual);
    key->residual = NULL;
}

void kvs_compression_deinit(kvs_compression *compression)
{
    kvs_client_keys_each(&compression->keys, free_residual);
    kvs_client_keys_deinit(&compression->keys);
    *compression = (kvs_compression){0};
}

kvs_status kvs_compression_set(kvs_compression *compression, const char *json, kvs_problem *problem)
{
    if (json == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "compression cannot be taken back: MXNet's has no way to");
    }
    kvs_encoding told = {0};
    KVS_TRY(kvs_encoding_parse(json, &told, problem));
    if (told.has_pull) {
        compression->pull = told.pull;
    }
    if (told.codec != KVS_CODEC_NONE) {
        compression->encoding = told;
        compression->on = true;
    }
    return KVS_OK;
}

/* The residual of a device's value of a key: zeros at first, and where it is of another size, since
 * the store, not this list, knows which one is right. */
static kvs_status find_residual(kvs_compression *compression, const kvs_group *group,
                                uint32_t device, float **out, kvs_problem *problem)
{
    uint64_t elements = kvs_array_elements(group->values[0]);
    char name[KVS_KEY_BYTES_MAX + DEVICE_BYTES];
    if (group->name_bytes > KVS_KEY_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "a key has up to %u bytes",
                               KVS_KEY_BYTES_MAX);
    }
    memcpy(name, group->name, group->name_bytes);
    memcpy(name + group->name_bytes, &device, DEVICE_BYTES);
    kvs_client_key *key =
        kvs_client_keys_find_or_add(&compression->keys, name, group->name_bytes + DEVICE_BYTES);
    if (key != NULL && key->residual_elements != elements) {
        free_residual(key);
    }
    if (key != NULL && key->residual == NULL) {
        key->residual = calloc((size_t)elements + 1, sizeof *key->residual);
        key->residual_elements = elements;
    }
    if (key == NULL || key->residual == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a residual");
    }
    *out = key->residual;
    return KVS_OK;
}

static kvs_status check_dtype(const kvs_group *group, kvs_problem *problem)
{
    kvs_dtype dtype = (kvs_dtype)group->values[0]->dtype;
    if (dtype != KVS_F32) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "key %.*s is %s; gradients of f32 alone are compressed",
                               (int)group->name_bytes, group->name, kvs_dtype_name(dtype));
    }
    return KVS_OK;
}

kvs_status kvs_compression_write(kvs_compression *compression, kvs_block_pool *pool,
                                 const kvs_group *group, uint32_t device, const float *values,
                                 uint64_t part_elements, kvs_encoded *out, kvs_problem *problem)
{
    const kvs_encoding *encoding = &compression->encoding;
    uint64_t elements = kvs_array_elements(group->values[0]);
    uint64_t parts = elements == 0 ? 1 : (elements + part_elements - 1) / part_elements;
    float *residual = NULL;
    KVS_TRY(check_dtype(group, problem));
    if (kvs_encoding_keeps_residual(encoding)) {
        KVS_TRY(find_residual(compression, group, device, &residual, problem));
    }
    uint64_t part_bytes =
        kvs_encoding_bytes(encoding, elements < part_elements ? elements : part_elements);
    kvs_block *block = kvs_block_make(pool, (size_t)(parts * (sizeof(uint64_t) + part_bytes)));
    if (block == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for an encoded value");
    }
    uint64_t *ends = (uint64_t *)(void *)block->data; /* blocks are aligned to 64 bytes */
    uint8_t *data = block->data + parts * sizeof *ends;
    size_t used = 0;
    for (uint64_t part = 0; part < parts; part++) {
        uint64_t first = part * part_elements;
        uint64_t left = elements - first;
        uint64_t count = left < part_elements ? left : part_elements;
        size_t bytes =
            kvs_encoding_write(encoding, values + first, residual == NULL ? NULL : residual + first,
                               count, compression->draws++, data + used);
        if (bytes == 0 && count > 0) {
            kvs_block_unref(block);
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory to choose what is sent");
        }
        used += bytes;
        ends[part] = used;
    }
    *out = (kvs_encoded){.block = block, .ends = ends, .data = data};
    return KVS_OK;
}

static void decode(const kvs_encoding *encoding, const kvs_encoded *from, uint64_t elements,
                   float *target, bool first_value)
{
    uint64_t offset = 0;
    for (uint64_t part = 0; offset < elements; part++) {
        uint64_t left = elements - offset;
        uint64_t count = left < KVS_PART_ELEMENTS ? left : KVS_PART_ELEMENTS;
        uint64_t begin = part == 0 ? 0 : from->ends[part - 1];
        kvs_span span = {from->data + begin, (size_t)(from->ends[part] - begin)};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        kvs_codec_decode(encoding->codec, encoding->threshold, &payload, target + offset, count,
                         first_value);
        offset += count;
    }
}

kvs_status kvs_compression_sum(kvs_compression *compression, kvs_block_pool *pool,
                               const kvs_group *group, float *target, kvs_problem *problem)
{
    for (size_t i = 0; i < group->value_count; i++) {
        kvs_encoded encoded = {0};
        KVS_TRY(kvs_compression_write(compression, pool, group, (uint32_t)i, group->values[i]->data,
                                      KVS_PART_ELEMENTS, &encoded, problem));
        decode(&compression->encoding, &encoded, kvs_array_elements(group->values[i]), target,
               i == 0);
        kvs_block_unref(encoded.block);
    }
    return KVS_OK;
}
