#include "client/dist.h"
#include "client/local.h"
#include "client/row_arrays.h"
#include "client/store.h"

#include <ctype.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the common part */

kvs_status kvs_client_init(kv_store *kv, const kvs_client_table *table, const char *type)
{
    kv->type = strdup(type);
    if (kv->type == NULL) {
        return KVS_NO_MEMORY;
    }
    for (char *c = kv->type; *c != '\0'; c++) {
        *c = (char)tolower((unsigned char)*c);
    }
    kv->table = table;
    (void)pthread_mutex_init(&kv->order, NULL);
    (void)pthread_mutex_init(&kv->errors_mutex, NULL);
    return KVS_OK;
}

void kvs_client_deinit(kv_store *kv)
{
    while (kv->errors != NULL) {
        kvs_last_error *error = kv->errors;
        kv->errors = error->next;
        free(error);
    }
    (void)pthread_mutex_destroy(&kv->errors_mutex);
    (void)pthread_mutex_destroy(&kv->order);
    free(kv->type);
}

void kvs_client_progress(kv_store *kv, uint64_t done_bytes, uint64_t total_bytes)
{
    if (kv->progress != NULL) {
        kv->progress(done_bytes, total_bytes, kv->progress_context);
    }
}

/* ------------------------------------------------------------------ opening, closing */

void kv_options_init(kv_options *options)
{
    *options = (kv_options){.rank = -1};
}

static kvs_status open_store(const char *type, const char *address, const kv_options *options,
                             kv_store **out, kvs_problem *problem)
{
    if (type == NULL || out == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "type and out are needed");
    }
    char lower[KVS_NAME_BYTES_MAX + 1];
    size_t bytes = strlen(type);
    if (bytes >= sizeof lower) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "a type has up to %u bytes",
                               KVS_NAME_BYTES_MAX);
    }
    for (size_t i = 0; i <= bytes; i++) {
        lower[i] = (char)tolower((unsigned char)type[i]);
    }
    if (strstr(lower, "dist") == NULL) {
        return kvs_local_open(lower, out, problem);
    }
    return kvs_dist_open(lower, address, options, out, problem);
}

kv_status kv_create(const char *type, const char *address, const kv_options *options,
                    kv_store **out, char *error, size_t error_bytes)
{
    kv_options defaults;
    kv_options_init(&defaults);
    kvs_problem problem = {0};
    if (out != NULL) {
        *out = NULL;
    }
    problem.status =
        open_store(type, address, options != NULL ? options : &defaults, out, &problem);
    if (error != NULL && error_bytes > 0) {
        error[0] = '\0';
        if (problem.status != KVS_OK) {
            kvs_client_write_problem(&problem, error, error_bytes);
        }
    }
    return (kv_status)problem.status;
}

kv_status kv_close(kv_store *kv)
{
    if (kv == NULL) {
        return KVS_OK;
    }
    kvs_problem problem = {0};
    kvs_status status = kv->table->close(kv, &problem);
    kvs_client_deinit(kv);
    free(kv);
    return (kv_status)status;
}

const char *kv_type(kv_store *kv)
{
    return kv->type;
}

uint32_t kv_rank(kv_store *kv)
{
    return kv->rank;
}

uint32_t kv_num_workers(kv_store *kv)
{
    return kv->num_workers;
}

/* ------------------------------------------------------------------ init, push, pull */

/* Holds the order. The first call fixes whether this store's keys are names or numbers. */
static kvs_status check_kind(kv_store *kv, const kv_key *keys, size_t count, kvs_problem *problem)
{
    if (count == 0) {
        return KVS_OK;
    }
    kvs_key_kind kind = keys[0].name != NULL ? KVS_KEYS_NAMES : KVS_KEYS_NUMBERS;
    if (kv->key_kind == KVS_KEYS_UNUSED) {
        kv->key_kind = kind;
    }
    if (kv->key_kind != kind) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "this store's keys are %s so far",
                               kind == KVS_KEYS_NAMES ? "numbers" : "names");
    }
    return KVS_OK;
}

static kvs_status init_keys(kv_store *kv, const kvs_arguments *arguments, bool sparse,
                            kvs_problem *problem)
{
    kvs_groups groups = {0};
    KVS_TRY(kvs_groups_make(arguments, &groups, problem));
    kvs_status status = KVS_OK;
    for (size_t i = 0; i < groups.count && status == KVS_OK; i++) {
        if (groups.list[i].value_count > 1) {
            status = kvs_problem_set(problem, KVS_INVALID_FIELD, "key %.*s stands twice",
                                     (int)groups.list[i].name_bytes, groups.list[i].name);
        }
    }
    if (status == KVS_OK) {
        (void)pthread_mutex_lock(&kv->order);
        status = check_kind(kv, arguments->keys, arguments->count, problem);
        (void)pthread_mutex_unlock(&kv->order);
    }
    if (status == KVS_OK && groups.count > 0) {
        status = kv->table->init(kv, &groups, sparse, problem);
    }
    kvs_groups_deinit(&groups);
    return status;
}

static kvs_status check_values(const kvs_arguments *arguments, kvs_problem *problem)
{
    if (arguments->count > 0 && arguments->values == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "there are no values");
    }
    return KVS_OK;
}

kv_status kv_init(kv_store *kv, const kv_key *keys, const kv_array *values, size_t count)
{
    kvs_problem problem = {0};
    kvs_arguments arguments = {.keys = keys, .values = values, .count = count};
    kvs_status status = check_values(&arguments, &problem);
    if (status == KVS_OK) {
        status = init_keys(kv, &arguments, false, &problem);
    }
    return kvs_client_finish(kv, status, &problem);
}

static kvs_status run_transfer(kv_store *kv, const kvs_arguments *arguments, kvs_transfer *transfer,
                               kv_handle **handle, kvs_problem *problem)
{
    kvs_groups groups = {0};
    KVS_TRY(kvs_groups_make(arguments, &groups, problem));
    transfer->groups = &groups;
    (void)pthread_mutex_lock(&kv->order);
    kvs_status status = check_kind(kv, arguments->keys, arguments->count, problem);
    if (status == KVS_OK) {
        status = kv->table->transfer(kv, transfer, handle, problem);
    }
    (void)pthread_mutex_unlock(&kv->order);
    kvs_groups_deinit(&groups);
    return status;
}

kv_status kv_push(kv_store *kv, const kv_key *keys, const kv_array *values,
                  const size_t *value_counts, size_t count, int priority, unsigned flags,
                  kv_handle **handle)
{
    kvs_problem problem = {0};
    kvs_arguments arguments = {
        .keys = keys, .count = count, .values = values, .value_counts = value_counts};
    kvs_transfer transfer = {
        .push = true, .priority = priority, .borrow = (flags & KV_BORROW) != 0};
    kvs_status status = check_values(&arguments, &problem);
    if (status == KVS_OK) {
        status = run_transfer(kv, &arguments, &transfer, handle, &problem);
    }
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_pull(kv_store *kv, const kv_key *keys, const kv_array *outs, const size_t *out_counts,
                  size_t count, int priority, kv_handle **handle)
{
    kvs_problem problem = {0};
    kvs_arguments arguments = {
        .keys = keys, .count = count, .outs = outs, .out_counts = out_counts};
    kvs_transfer transfer = {.pull = true, .priority = priority};
    kvs_status status;
    if (count > 0 && outs == NULL) {
        status = kvs_problem_set(&problem, KVS_INVALID_FIELD, "there are no outs");
    } else {
        status = run_transfer(kv, &arguments, &transfer, handle, &problem);
    }
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_pushpull(kv_store *kv, const kv_key *keys, const kv_array *values,
                      const size_t *value_counts, const kv_array *outs, const size_t *out_counts,
                      size_t count, int priority, unsigned flags, kv_handle **handle)
{
    kvs_problem problem = {0};
    kvs_arguments arguments = {.keys = keys,
                               .count = count,
                               .values = values,
                               .value_counts = value_counts,
                               .outs = outs,
                               .out_counts = out_counts,
                               .in_place = outs == NULL};
    kvs_transfer transfer = {
        .push = true, .pull = true, .priority = priority, .borrow = (flags & KV_BORROW) != 0};
    kvs_status status = check_values(&arguments, &problem);
    if (status == KVS_OK) {
        status = run_transfer(kv, &arguments, &transfer, handle, &problem);
    }
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_broadcast(kv_store *kv, const kv_key *keys, const kv_array *values,
                       const kv_array *outs, const size_t *out_counts, size_t count)
{
    kv_status status = kv_init(kv, keys, values, count);
    if (status != KVS_OK) {
        return status;
    }
    kv_handle *handle = NULL;
    status = kv_pull(kv, keys, outs, out_counts, count, 0, &handle);
    return status != KVS_OK ? status : kv_handle_wait(kv, handle, KV_FOREVER);
}

/* ------------------------------------------------------------------ rows */

kv_status kv_init_row_sparse(kv_store *kv, const kv_key *keys, const kv_row_sparse *values,
                             size_t count)
{
    kvs_problem problem = {0};
    kvs_row_arrays rows = {0};
    kvs_status status = kvs_row_arrays_make(values, count, NULL, 0, &rows, &problem);
    if (status == KVS_OK) {
        kvs_arguments arguments = {.keys = keys, .values = rows.arrays, .count = count};
        status = init_keys(kv, &arguments, true, &problem);
    }
    kvs_row_arrays_deinit(&rows);
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_push_row_sparse(kv_store *kv, const kv_key *keys, const kv_row_sparse *values,
                             const size_t *value_counts, size_t count, int priority,
                             kv_handle **handle)
{
    kvs_problem problem = {0};
    kvs_row_arrays rows = {0};
    kvs_status status = kvs_row_arrays_make(values, kvs_row_arrays_count(value_counts, count), NULL,
                                            0, &rows, &problem);
    if (status == KVS_OK) {
        kvs_arguments arguments = {
            .keys = keys, .count = count, .values = rows.arrays, .value_counts = value_counts};
        kvs_transfer transfer = {.push = true, .sparse = true, .priority = priority};
        status = run_transfer(kv, &arguments, &transfer, handle, &problem);
    }
    kvs_row_arrays_deinit(&rows);
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_row_sparse_pull(kv_store *kv, const kv_key *keys, kv_row_sparse *outs,
                             const size_t *out_counts, const kv_array *row_ids,
                             size_t row_ids_count, size_t count, int priority, kv_handle **handle)
{
    kvs_problem problem = {0};
    kvs_row_arrays rows = {0};
    size_t total = kvs_row_arrays_count(out_counts, count);
    kvs_status status = kvs_row_ids_check(row_ids, row_ids_count, total, &problem);
    if (status == KVS_OK) {
        status = kvs_row_arrays_make(outs, total, row_ids, row_ids_count, &rows, &problem);
    }
    if (status == KVS_OK) {
        kvs_arguments arguments = {
            .keys = keys, .count = count, .outs = rows.arrays, .out_counts = out_counts};
        kvs_transfer transfer = {.pull = true, .sparse = true, .priority = priority};
        status = run_transfer(kv, &arguments, &transfer, handle, &problem);
    }
    kvs_row_arrays_deinit(&rows);
    return kvs_client_finish(kv, status, &problem);
}

/* ------------------------------------------------------------------ waiting */

kv_status kv_handle_wait(kv_store *kv, kv_handle *handle, uint64_t timeout_ms)
{
    kvs_problem problem = {0};
    if (handle == NULL) {
        return kvs_client_finish(
            kv, kvs_problem_set(&problem, KVS_INVALID_FIELD, "there is no handle"), &problem);
    }
    return kvs_client_finish(kv, kv->table->wait_handle(kv, handle, timeout_ms, &problem),
                             &problem);
}

kv_status kv_handle_poll(kv_store *kv, kv_handle **handle, uint64_t timeout_ms)
{
    kv_status status = kv_handle_wait(kv, *handle, timeout_ms);
    if (*handle != NULL && status == (kv_status)KVS_DEADLINE && timeout_ms != KV_FOREVER) {
        if (kv_handle_is_done(kv, *handle) == 0) {
            return status;
        }
        status = kv_handle_wait(kv, *handle, KV_FOREVER); /* it ended by its own deadline */
    }
    *handle = NULL;
    return status;
}

int kv_handle_is_done(kv_store *kv, kv_handle *handle)
{
    return handle == NULL || kv->table->is_done(kv, handle) ? 1 : 0;
}

kv_status kv_wait(kv_store *kv, uint64_t timeout_ms)
{
    kvs_problem problem = {0};
    return kvs_client_finish(kv, kv->table->wait_all(kv, timeout_ms, &problem), &problem);
}

/* ------------------------------------------------------------------ the rest */

kv_status kv_set_optimizer(kv_store *kv, const char *json)
{
    kvs_problem problem = {0};
    return kvs_client_finish(kv, kv->table->set_optimizer(kv, json, &problem), &problem);
}

kv_status kv_get_optimizer(kv_store *kv, char **json)
{
    kvs_problem problem = {0};
    *json = NULL;
    return kvs_client_finish(kv, kv->table->get_optimizer(kv, json, &problem), &problem);
}

void kv_set_progress(kv_store *kv, kv_progress *progress, void *context)
{
    kv->progress = progress;
    kv->progress_context = context;
}

/* What was pushed before comes before. */
static kvs_status settle(kv_store *kv, const char *path, kvs_problem *problem)
{
    if (path == NULL || path[0] == '\0') {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "there is no path");
    }
    return kv->table->wait_all(kv, KV_FOREVER, problem);
}

kv_status kv_save_optimizer_states(kv_store *kv, const char *path, int dump_optimizer)
{
    kvs_problem problem = {0};
    kvs_status status = settle(kv, path, &problem);
    if (status == KVS_OK) {
        status = kv->table->save_states(kv, path, dump_optimizer != 0, &problem);
    }
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_load_optimizer_states(kv_store *kv, const char *path)
{
    kvs_problem problem = {0};
    kvs_status status = settle(kv, path, &problem);
    if (status == KVS_OK) {
        status = kv->table->load_states(kv, path, &problem);
    }
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_view_open(kv_store *kv, const kv_key *key, kv_view **out)
{
    kvs_problem problem = {0};
    kvs_group group = {.name = NULL};
    *out = NULL;
    kvs_status status = kvs_group_name(key, &group, &problem);
    if (status == KVS_OK) {
        status = kv->table->wait_all(kv, KV_FOREVER, &problem);
    }
    if (status == KVS_OK) {
        status = kv->table->view(kv, group.name, group.name_bytes, out, &problem);
    }
    return kvs_client_finish(kv, status, &problem);
}

void kv_free(void *memory)
{
    free(memory);
}

kv_status kv_set_updater(kv_store *kv, kv_updater *updater, void *context)
{
    kvs_problem problem = {0};
    (void)pthread_mutex_lock(&kv->order);
    kvs_status status = kv->table->set_updater(kv, updater, context, &problem);
    (void)pthread_mutex_unlock(&kv->order);
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_set_gradient_compression(kv_store *kv, const char *json)
{
    kvs_problem problem = {0};
    (void)pthread_mutex_lock(&kv->order);
    kvs_status status = kv->table->set_compression(kv, json, &problem);
    (void)pthread_mutex_unlock(&kv->order);
    return kvs_client_finish(kv, status, &problem);
}

kv_status kv_barrier(kv_store *kv, uint64_t timeout_ms)
{
    kvs_problem problem = {0};
    return kvs_client_finish(kv, kv->table->barrier(kv, timeout_ms, &problem), &problem);
}

kv_status kv_send_command(kv_store *kv, int head, const char *body)
{
    kvs_problem problem = {0};
    return kvs_client_finish(
        kv, kv->table->send_command(kv, head, body == NULL ? "" : body, &problem), &problem);
}

kv_status kv_is_capable(kv_store *kv, const char *capability, int *out)
{
    kvs_problem problem = {0};
    if (capability == NULL || strcmp(capability, "optimizer") != 0) {
        return kvs_client_finish(kv,
                                 kvs_problem_set(&problem, KVS_INVALID_FIELD,
                                                 "the only capability known is \"optimizer\""),
                                 &problem);
    }
    *out = 1;
    return kvs_client_finish(kv, KVS_OK, &problem);
}

void kv_count(kv_store *kv, kv_statistics *out)
{
    *out = (kv_statistics){0};
    kv->table->count(kv, out);
}

void kv_tune_malloc(void)
{
#if defined(__GLIBC__)
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
    (void)mallopt(M_TRIM_THRESHOLD, 2000 << 20);
    (void)mallopt(M_TOP_PAD, 64 << 20);
#endif
}
