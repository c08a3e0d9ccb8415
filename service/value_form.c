#include "service/value_form.h"

#include "base/safetensors.h"
#include "service/npy.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *word;
    const char *media_type;
    kvs_value_format format;
} formats[] = {
    {"npy", "application/x-npy", KVS_VALUE_NPY},
    {"raw", "application/octet-stream", KVS_VALUE_RAW},
    {"safetensors", KVS_STATES_MEDIA_TYPE, KVS_VALUE_SAFETENSORS},
};

#define FORMATS (sizeof formats / sizeof formats[0])

kvs_status kvs_value_format_parse(const char *text, kvs_value_format fallback,
                                  kvs_value_format *out, kvs_problem *problem)
{
    if (text[0] == '\0') {
        *out = fallback;
        return KVS_OK;
    }
    for (size_t i = 0; i < FORMATS; i++) {
        if (strcmp(text, formats[i].word) == 0) {
            *out = formats[i].format;
            return KVS_OK;
        }
    }
    return kvs_problem_set(problem, KVS_INVALID_FIELD,
                           "the format is npy, raw or safetensors, not \"%.40s\"", text);
}

const char *kvs_value_format_media_type(kvs_value_format format)
{
    for (size_t i = 0; i < FORMATS; i++) {
        if (formats[i].format == format) {
            return formats[i].media_type;
        }
    }
    return kvs_value_format_media_type(KVS_VALUE_RAW);
}

/* ------------------------------------------------------------------ writing */

static kvs_status print_npy(const kvs_key_info *info, uint8_t **out, size_t *out_bytes,
                            kvs_problem *problem)
{
    if (info->dtype == KVS_BF16) {
        return kvs_problem_set(problem, KVS_NOT_ACCEPTABLE,
                               "numpy has no bf16: read the value with ?format=safetensors or raw");
    }
    uint8_t *head = malloc(KVS_NPY_HEAD_BYTES_MAX);
    if (head == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the reply");
    }
    *out_bytes = kvs_npy_print(info->dtype, &info->shape, head);
    *out = head;
    return KVS_OK;
}

static kvs_safetensors_note note(const char *name, const char *text)
{
    return (kvs_safetensors_note){.name = name,
                                  .name_bytes = (uint32_t)strlen(name),
                                  .text = text,
                                  .text_bytes = (uint32_t)strlen(text)};
}

static kvs_status print_safetensors(const kvs_key_info *info, uint8_t **out, size_t *out_bytes,
                                    kvs_problem *problem)
{
    uint64_t data_bytes = 0;
    kvs_safetensor tensor = {.name = info->name,
                             .name_bytes = info->name_bytes,
                             .dtype = info->dtype,
                             .rank = info->shape.rank,
                             .sizes = info->shape.size};
    kvs_safetensors_note notes[] = {note("format", "pt"), note("kvstored.format", "1"),
                                    note("kvstored.kind", "weights")};
    return kvs_safetensors_print(&tensor, 1, notes, sizeof notes / sizeof notes[0], out, out_bytes,
                                 &data_bytes, problem);
}

kvs_status kvs_value_form_print(kvs_value_format format, const kvs_key_info *info, uint8_t **out,
                                size_t *out_bytes, kvs_problem *problem)
{
    *out = NULL;
    *out_bytes = 0;
    if (format == KVS_VALUE_NPY) {
        return print_npy(info, out, out_bytes, problem);
    }
    if (format == KVS_VALUE_SAFETENSORS) {
        return print_safetensors(info, out, out_bytes, problem);
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ reading */

static kvs_status read_npy(const uint8_t *data, size_t bytes, bool *complete, kvs_value_form *out,
                           kvs_problem *problem)
{
    kvs_npy npy;
    KVS_TRY(kvs_npy_parse(data, bytes, complete, &npy, problem));
    if (*complete) {
        *out = (kvs_value_form){npy.head_bytes, npy.dtype, npy.shape};
    }
    return KVS_OK;
}

/* The only tensor of a file, which has the key's name. */
static kvs_status take_tensor(const kvs_safetensors *file, const char *key, kvs_value_form *out,
                              kvs_problem *problem)
{
    const kvs_safetensor *tensor = file->tensors;
    if (file->count != 1) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the file has %zu tensors; a value is one", file->count);
    }
    if (tensor->name_bytes != strlen(key) || memcmp(tensor->name, key, tensor->name_bytes) != 0) {
        return kvs_problem_set(
            problem, KVS_INVALID_TENSOR, "the file's tensor is \"%.*s\", not \"%.80s\"",
            (int)(tensor->name_bytes < 80 ? tensor->name_bytes : 80), tensor->name, key);
    }
    out->dtype = tensor->dtype;
    out->shape.rank = tensor->rank;
    for (uint32_t i = 0; i < tensor->rank; i++) {
        out->shape.size[i] = tensor->sizes[i];
    }
    return KVS_OK;
}

static kvs_status read_safetensors(const char *key, const uint8_t *data, size_t bytes,
                                   bool *complete, kvs_value_form *out, kvs_problem *problem)
{
    size_t length = 0;
    if (bytes < KVS_SAFETENSORS_LENGTH_BYTES) {
        return KVS_OK;
    }
    KVS_TRY(kvs_safetensors_length(data, &length, problem));
    if (bytes - KVS_SAFETENSORS_LENGTH_BYTES < length) {
        return KVS_OK;
    }
    char *header = malloc(length); /* reading changes it */
    if (header == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the header");
    }
    memcpy(header, data + KVS_SAFETENSORS_LENGTH_BYTES, length);
    kvs_safetensors file = {.count = 0};
    kvs_value_form form = {.head_bytes = KVS_SAFETENSORS_LENGTH_BYTES + length};
    kvs_status status = kvs_safetensors_parse(header, length, &file, problem);
    if (status == KVS_OK) {
        status = take_tensor(&file, key, &form, problem);
        kvs_safetensors_deinit(&file);
    }
    free(header);
    if (status == KVS_OK) {
        *complete = true;
        *out = form;
    }
    return status;
}

kvs_status kvs_value_form_read(kvs_value_format format, const char *key, const uint8_t *data,
                               size_t bytes, bool *complete, kvs_value_form *out,
                               kvs_problem *problem)
{
    *complete = false;
    return format == KVS_VALUE_SAFETENSORS
               ? read_safetensors(key, data, bytes, complete, out, problem)
               : read_npy(data, bytes, complete, out, problem);
}
