#include "client/group.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ arrays */

uint64_t kvs_array_elements(const kv_array *array)
{
    kvs_shape shape;
    uint64_t elements = 0;
    kvs_array_shape(array, &shape);
    return kvs_shape_elements(&shape, &elements) ? elements : 0;
}

size_t kvs_array_bytes(const kv_array *array)
{
    return (size_t)kvs_array_elements(array) * kvs_dtype_bytes((kvs_dtype)array->dtype);
}

void kvs_array_shape(const kv_array *array, kvs_shape *out)
{
    out->rank = array->rank;
    for (uint32_t i = 0; i < array->rank; i++) {
        out->size[i] = array->shape[i];
    }
}

bool kvs_array_overlaps(const kv_array *a, const kv_array *b)
{
    uintptr_t a_first = (uintptr_t)a->data;
    uintptr_t b_first = (uintptr_t)b->data;
    return a_first < b_first + kvs_array_bytes(b) && b_first < a_first + kvs_array_bytes(a);
}

static kvs_status check_array(const kvs_group *group, const kv_array *array, const char *what,
                              kvs_problem *problem)
{
    if (kvs_dtype_bytes((kvs_dtype)array->dtype) == 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %.*s: a %s has no known dtype",
                               (int)group->name_bytes, group->name, what);
    }
    if (array->rank > KVS_DIMENSIONS_MAX || (array->rank > 0 && array->shape == NULL)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "key %.*s: a %s has %" PRIu32 " dimensions; at most %u are possible",
                               (int)group->name_bytes, group->name, what, array->rank,
                               KVS_DIMENSIONS_MAX);
    }
    kvs_shape shape;
    uint64_t elements = 0;
    kvs_array_shape(array, &shape);
    if (!kvs_shape_elements(&shape, &elements)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %.*s: a %s has too many elements",
                               (int)group->name_bytes, group->name, what);
    }
    if (array->data == NULL && elements > 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %.*s: a %s has no memory",
                               (int)group->name_bytes, group->name, what);
    }
    return KVS_OK;
}

/* All of one list: known, of one dtype and shape. */
static kvs_status check_list(const kvs_group *group, const kv_array *const *list, size_t count,
                             const char *what, kvs_problem *problem)
{
    kvs_shape first = {0};
    for (size_t i = 0; i < count; i++) {
        KVS_TRY(check_array(group, list[i], what, problem));
        kvs_shape shape;
        kvs_array_shape(list[i], &shape);
        if (i == 0) {
            first = shape;
        } else if (!kvs_shape_equal(&shape, &first) || list[i]->dtype != list[0]->dtype) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                   "key %.*s: its %ss differ in shape or dtype",
                                   (int)group->name_bytes, group->name, what);
        }
    }
    return KVS_OK;
}

static kvs_status check_group(const kvs_group *group, kvs_problem *problem)
{
    KVS_TRY(check_list(group, group->values, group->value_count, "value", problem));
    KVS_TRY(check_list(group, group->outs, group->out_count, "out", problem));
    if (group->value_count > 0 && group->out_count > 0 &&
        (group->values[0]->dtype != group->outs[0]->dtype ||
         kvs_array_elements(group->values[0]) != kvs_array_elements(group->outs[0]))) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "key %.*s: its out differs from its value in size or dtype",
                               (int)group->name_bytes, group->name);
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ keys */

/* Finds which group a key belongs to: by open addressing over the groups made so far. */
typedef struct key_places {
    uint32_t *slots; /* group + 1; 0: free */
    size_t mask;
} key_places;

static uint64_t hash_name(const char *name, size_t bytes)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ (uint8_t)name[i]) * 1099511628211u;
    }
    return hash ^ (hash >> 32);
}

/* The slot of the name: of its group, or the free one where it belongs. */
static uint32_t *place_of(const key_places *places, const kvs_groups *groups, const char *name,
                          uint32_t bytes)
{
    size_t i = hash_name(name, bytes) & places->mask;
    while (places->slots[i] != 0) {
        const kvs_group *group = &groups->list[places->slots[i] - 1];
        if (group->name_bytes == bytes && memcmp(group->name, name, bytes) == 0) {
            break;
        }
        i = (i + 1) & places->mask;
    }
    return &places->slots[i];
}

kvs_status kvs_group_name(const kv_key *key, kvs_group *out, kvs_problem *problem)
{
    out->key = *key;
    if (key->name == NULL) {
        out->name_bytes =
            (uint32_t)snprintf(out->decimal, sizeof out->decimal, "%" PRId64, key->number);
        out->name = out->decimal;
        return KVS_OK;
    }
    size_t bytes = strnlen(key->name, KVS_KEY_BYTES_MAX + 1);
    if (bytes == 0 || bytes > KVS_KEY_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "a key has 1 to %u bytes",
                               KVS_KEY_BYTES_MAX);
    }
    out->name = key->name;
    out->name_bytes = (uint32_t)bytes;
    return KVS_OK;
}

/* ------------------------------------------------------------------ making */

static size_t count_at(const kv_array *arrays, const size_t *counts, size_t i)
{
    if (arrays == NULL) {
        return 0;
    }
    return counts == NULL ? 1 : counts[i];
}

/* Which group each key of the call is in, and how many arrays each group has. */
static kvs_status collect_keys(const kvs_arguments *arguments, kvs_groups *groups,
                               const key_places *places, uint32_t *group_of, kvs_problem *problem)
{
    for (size_t i = 0; i < arguments->count; i++) {
        kvs_group *group = &groups->list[groups->count];
        *group = (kvs_group){0};
        KVS_TRY(kvs_group_name(&arguments->keys[i], group, problem));
        if ((arguments->keys[i].name == NULL) != (arguments->keys[0].name == NULL)) {
            return kvs_problem_set(problem, KVS_INVALID_FIELD,
                                   "keys are names or numbers, not both: %s", group->name);
        }
        uint32_t *slot = place_of(places, groups, group->name, group->name_bytes);
        if (*slot == 0) {
            groups->count++;
            *slot = (uint32_t)groups->count;
        }
        group_of[i] = *slot - 1;
        group = &groups->list[group_of[i]];
        group->value_count += count_at(arguments->values, arguments->value_counts, i);
        group->out_count += count_at(arguments->outs, arguments->out_counts, i);
    }
    return KVS_OK;
}

/* Gives each group its place in `arrays`, then puts the arrays there in the caller's order. */
static kvs_status collect_arrays(const kvs_arguments *arguments, kvs_groups *groups,
                                 const uint32_t *group_of)
{
    size_t total = 0;
    for (size_t i = 0; i < groups->count; i++) {
        total += groups->list[i].value_count + groups->list[i].out_count;
    }
    groups->arrays = calloc(total + 1, sizeof(const kv_array *));
    if (groups->arrays == NULL) {
        return KVS_NO_MEMORY;
    }
    const kv_array **next = groups->arrays;
    for (size_t i = 0; i < groups->count; i++) {
        kvs_group *group = &groups->list[i];
        group->values = next;
        next += group->value_count;
        group->outs = next;
        next += group->out_count;
        group->value_count = 0;
        group->out_count = 0;
    }
    const kv_array *value = arguments->values;
    const kv_array *out = arguments->outs;
    for (size_t i = 0; i < arguments->count; i++) {
        kvs_group *group = &groups->list[group_of[i]];
        for (size_t n = count_at(value, arguments->value_counts, i); n > 0; n--) {
            group->values[group->value_count++] = value++;
        }
        for (size_t n = count_at(out, arguments->out_counts, i); n > 0; n--) {
            group->outs[group->out_count++] = out++;
        }
    }
    return KVS_OK;
}

static kvs_status make_groups(const kvs_arguments *arguments, kvs_groups *groups, uint32_t *slots,
                              size_t mask, uint32_t *group_of, kvs_problem *problem)
{
    key_places places = {slots, mask};
    KVS_TRY(collect_keys(arguments, groups, &places, group_of, problem));
    kvs_status status = collect_arrays(arguments, groups, group_of);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "no memory for the call");
    }
    for (size_t i = 0; i < groups->count; i++) {
        kvs_group *group = &groups->list[i];
        if ((arguments->values != NULL && group->value_count == 0) ||
            (arguments->outs != NULL && group->out_count == 0)) {
            return kvs_problem_set(problem, KVS_INVALID_FIELD, "key %.*s has no array",
                                   (int)group->name_bytes, group->name);
        }
        if (arguments->in_place) {
            group->outs = group->values;
            group->out_count = group->value_count;
        }
        KVS_TRY(check_group(group, problem));
    }
    return KVS_OK;
}

kvs_status kvs_groups_make(const kvs_arguments *arguments, kvs_groups *out, kvs_problem *problem)
{
    if (arguments->count > 0 && arguments->keys == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "there are no keys");
    }
    if (arguments->count > KVS_KEYS_MAX) {
        return kvs_problem_set(problem, KVS_TOO_MANY, "a call takes up to %" PRIu64 " keys",
                               KVS_KEYS_MAX);
    }
    size_t slot_count = 4;
    while (slot_count < 2 * arguments->count) {
        slot_count *= 2;
    }
    kvs_groups groups = {.list = calloc(arguments->count + 1, sizeof *groups.list)};
    uint32_t *slots = calloc(slot_count, sizeof *slots);
    uint32_t *group_of = calloc(arguments->count + 1, sizeof *group_of);
    kvs_status status;
    if (groups.list == NULL || slots == NULL || group_of == NULL) {
        status = kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the call");
    } else {
        status = make_groups(arguments, &groups, slots, slot_count - 1, group_of, problem);
    }
    free(slots);
    free(group_of);
    if (status != KVS_OK) {
        kvs_groups_deinit(&groups);
        return status;
    }
    *out = groups;
    return KVS_OK;
}

void kvs_groups_deinit(kvs_groups *groups)
{
    free(groups->list);
    free(groups->arrays);
    *groups = (kvs_groups){0};
}
