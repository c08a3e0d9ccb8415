/* Requests read and replies written by the methods of the admin plane. */
#include "service/admin_methods.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ requests */

const char *kvs_request_text(kvs_admin_request *request, const char *name, size_t bytes_max)
{
    const char *text = "";
    (void)kvs_json_text(&request->fields, name, bytes_max, &text);
    return text;
}

/* All of `text` as a decimal number, without sign or blanks. */
static bool read_decimal(const char *text, uint64_t *out)
{
    char *end;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0') {
        return false;
    }
    *out = number;
    return true;
}

uint64_t kvs_request_number(kvs_admin_request *request, const char *name, uint64_t max,
                            uint64_t fallback)
{
    const json_t *value = kvs_json_find(&request->fields, name);
    uint64_t number = 0;
    if (value == NULL) {
        return fallback;
    }
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        number = (uint64_t)json_integer_value(value);
    } else if (!json_is_string(value) || !read_decimal(json_string_value(value), &number)) {
        kvs_json_fail(&request->fields, name, "must be a number from 0 to %" PRIu64, max);
        return fallback;
    }
    if (number > max) {
        kvs_json_fail(&request->fields, name, "must be at most %" PRIu64, max);
        return fallback;
    }
    return number == 0 ? fallback : number;
}

kvs_status kvs_request_end(kvs_admin_request *request)
{
    kvs_json_fields_end(&request->fields);
    return kvs_json_status(&request->errors);
}

kvs_status kvs_request_store(kvs_admin_request *request, kvs_store **out)
{
    const char *name = kvs_request_text(request, "store", KVS_NAME_BYTES_MAX);
    KVS_TRY(kvs_request_end(request));
    return kvs_store_find(request->admin->options.engine, name, strlen(name), out,
                          request->problem);
}

kvs_status kvs_admin_reply(json_t *value, json_t **out, kvs_problem *problem)
{
    if (value == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the reply");
    }
    *out = value;
    return KVS_OK;
}

/* ------------------------------------------------------------------ replies */

kvs_json_object kvs_json_object_open(void)
{
    kvs_json_object object = {.json = json_object(), .failed = false};
    object.failed = object.json == NULL;
    return object;
}

void kvs_json_add(kvs_json_object *object, const char *name, json_t *value)
{
    if (object->failed) {
        json_decref(value);
    } else if (json_object_set_new(object->json, name, value) != 0) {
        object->failed = true;
    }
}

void kvs_json_add_text_bytes(kvs_json_object *object, const char *name, const char *text,
                             size_t bytes)
{
    json_t *value = json_stringn(text, bytes);
    if (value == NULL) {
        /* Not UTF-8, if memory is there: say so without losing the rest. */
        value = json_string("?");
    }
    kvs_json_add(object, name, value);
}

void kvs_json_add_text(kvs_json_object *object, const char *name, const char *text)
{
    kvs_json_add_text_bytes(object, name, text, strlen(text));
}

void kvs_json_add_u32(kvs_json_object *object, const char *name, uint32_t number)
{
    kvs_json_add(object, name, json_integer((json_int_t)number));
}

static json_t *u64_json(uint64_t number)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRIu64, number);
    return json_string(text);
}

void kvs_json_add_u64(kvs_json_object *object, const char *name, uint64_t number)
{
    kvs_json_add(object, name, u64_json(number));
}

void kvs_json_add_ranks(kvs_json_object *object, const char *name, const uint32_t *ranks,
                        size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count && array != NULL; i++) {
        if (json_array_append_new(array, json_integer((json_int_t)ranks[i])) != 0) {
            json_decref(array);
            array = NULL;
        }
    }
    kvs_json_add(object, name, array);
}

void kvs_json_add_version(kvs_json_object *object, const char *name, kvs_version version)
{
    kvs_json_object pair = kvs_json_object_open();
    kvs_json_add_u64(&pair, "epoch", version.epoch);
    kvs_json_add_u64(&pair, "count", version.count);
    kvs_json_add(object, name, kvs_json_object_close(&pair));
}

json_t *kvs_json_object_close(kvs_json_object *object)
{
    if (object->failed) {
        json_decref(object->json);
        object->json = NULL;
    }
    return object->json;
}

json_t *kvs_admin_key_json(const kvs_key_info *info)
{
    kvs_json_object key = kvs_json_object_open();
    json_t *shape = json_array();
    for (uint32_t i = 0; i < info->shape.rank && shape != NULL; i++) {
        if (json_array_append_new(shape, u64_json(info->shape.size[i])) != 0) {
            json_decref(shape);
            shape = NULL;
        }
    }
    kvs_json_add_text_bytes(&key, "key", info->name, info->name_bytes);
    kvs_json_add_text(&key, "dtype", kvs_dtype_name(info->dtype));
    kvs_json_add_text(&key, "storage", info->storage == KVS_ROW_SPARSE ? "row_sparse" : "dense");
    kvs_json_add(&key, "shape", shape);
    kvs_json_add_u64(&key, "bytes", info->elements * kvs_dtype_bytes(info->dtype));
    kvs_json_add_u64(&key, "part_elements", info->part_elements);
    kvs_json_add_u64(&key, "parts", info->parts);
    kvs_json_add_version(&key, "version", info->version);
    return kvs_json_object_close(&key);
}
