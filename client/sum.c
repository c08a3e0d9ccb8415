#include "client/sum.h"

#include "engine/backend_cpu.h"

#include <string.h>

kvs_status kvs_sum_init(kvs_sum *sum, kvs_problem *problem)
{
    *sum = (kvs_sum){0};
    KVS_TRY(kvs_backend_cpu_open(NULL, &sum->backend, problem));
    kvs_status status = sum->backend->table->open_stream(sum->backend, &sum->stream);
    if (status != KVS_OK) {
        sum->backend->table->close(sum->backend);
        *sum = (kvs_sum){0};
        return kvs_problem_set(problem, status, "the CPU backend gives no stream");
    }
    return KVS_OK;
}

void kvs_sum_deinit(kvs_sum *sum)
{
    if (sum->backend != NULL) {
        sum->backend->table->close_stream(sum->backend, sum->stream);
        sum->backend->table->close(sum->backend);
    }
    *sum = (kvs_sum){0};
}

static kvs_status add(kvs_sum *sum, kvs_memory *target, const kv_array *value, bool first)
{
    kvs_span span = {value->data, target->bytes};
    kvs_accumulate_item item = {
        .target = target,
        .source = {.payload = {.spans = &span, .count = 1, .bytes = span.bytes}},
        .elements = kvs_array_elements(value),
        .dtype = (kvs_dtype)value->dtype,
        .first = first,
    };
    KVS_TRY(sum->backend->table->accumulate(sum->stream, &item, 1));
    return sum->backend->table->sync(sum->stream);
}

kvs_status kvs_sum_group(kvs_sum *sum, const kvs_group *group, void *target, kvs_problem *problem)
{
    size_t bytes = kvs_array_bytes(group->values[0]);
    if (bytes == 0) {
        return KVS_OK;
    }
    if (group->value_count == 1) {
        memcpy(target, group->values[0]->data, bytes);
        return KVS_OK;
    }
    kvs_memory memory = {.data = target, .host = target, .bytes = bytes};
    for (size_t i = 0; i < group->value_count; i++) {
        kvs_status status = add(sum, &memory, group->values[i], i == 0);
        if (status != KVS_OK) {
            return kvs_problem_set(problem, status, "key %.*s: values of %s cannot be summed",
                                   (int)group->name_bytes, group->name,
                                   kvs_dtype_name((kvs_dtype)group->values[0]->dtype));
        }
    }
    return KVS_OK;
}
