#include "client/local.h"

#include "base/clock.h"
#include "client/local_state.h"
#include "client/view.h"
#include "engine/optimizer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The session is this process: its lease does not end. A hundred years. */
#define LEASE_NS (KVS_SECOND * 3600 * 24 * 365 * 100)

/* ------------------------------------------------------------------ waiting for the engine */

static void waiter_done(kvs_waiter *waiter, const kvs_problem *problem)
{
    kvs_local_waiter *self = (kvs_local_waiter *)waiter;
    self->problem = *problem;
    self->done = true;
}

void kvs_local_waiter_init(kvs_local_waiter *waiter)
{
    *waiter = (kvs_local_waiter){.waiter.done = waiter_done};
}

void kvs_local_move_on(kvs_local *local)
{
    const struct timespec moment = {.tv_nsec = 100000};
    kvs_engine_tick(local->engine, kvs_clock_now_ns());
    (void)nanosleep(&moment, NULL);
}

kvs_status kvs_local_wait(kvs_local *local, kvs_local_waiter *waiter, kvs_problem *problem)
{
    while (!waiter->done) {
        kvs_local_move_on(local);
    }
    if (waiter->problem.status != KVS_OK) {
        *problem = waiter->problem;
    }
    return waiter->problem.status;
}

/* ------------------------------------------------------------------ the table */

/* `list` is NULL for a dense value; else `data` holds its rows. */
static kvs_status init_group(kvs_init *init, const kvs_group *group, const kvs_row_list *list,
                             const uint8_t *data, kvs_problem *problem)
{
    const kv_array *value = group->values[0];
    kvs_shape shape;
    uint8_t packed[KVS_DIMENSIONS_MAX * 10];
    kvs_array_shape(value, &shape);
    kvs_part_header header = {
        .key = group->name,
        .key_bytes = group->name_bytes,
        .dtype = (kvs_dtype)value->dtype,
        .has_shape = true,
        .shape = packed,
        .shape_bytes = kvs_shape_pack(&shape, packed),
    };
    uint64_t elements = kvs_array_elements(value);
    size_t size = kvs_dtype_bytes(header.dtype);
    uint64_t offset = 0;
    do {
        uint64_t left = elements - offset;
        size_t data_offset = (size_t)offset * size;
        header.element_offset = offset;
        header.element_count = left < KVS_PART_ELEMENTS ? left : KVS_PART_ELEMENTS;
        header.payload_bytes = header.element_count * size;
        if (list != NULL) {
            uint64_t part = offset / list->part_elements;
            kvs_row_list_fill_header(list, part, size, &header);
            data_offset = kvs_row_list_offset(list, part, size);
        }
        kvs_span span = {data + data_offset, (size_t)header.payload_bytes};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        KVS_TRY(kvs_init_part(init, &header, &payload, problem));
        offset += header.element_count;
    } while (offset < elements);
    return KVS_OK;
}

static kvs_status init_rows(kvs_local *self, kvs_init *init, const kvs_group *group,
                            kvs_problem *problem)
{
    kvs_row_list list;
    kvs_block *block = NULL;
    const uint8_t *data = NULL;
    KVS_TRY(kvs_local_take_rows(self, group, &list, &block, &data, problem));
    kvs_status status = init_group(init, group, &list, data, problem);
    kvs_block_unref(block);
    kvs_row_list_deinit(&list);
    return status;
}

static kvs_status init_groups(kvs_local *self, const kvs_groups *groups, bool sparse,
                              kvs_problem *problem)
{
    kvs_init *init = NULL;
    for (size_t i = 0; i < groups->count; i++) {
        const kvs_group *group = &groups->list[i];
        kvs_key_info info;
        if (kvs_key_describe(self->store, group->name, group->name_bytes, &info, NULL) == KVS_OK) {
            return kvs_problem_set(problem, KVS_KEY_EXISTS,
                                   "key %.*s was initialised before, and an embedded store takes "
                                   "no second init of a key",
                                   (int)group->name_bytes, group->name);
        }
    }
    KVS_TRY(kvs_init_open(self->store, NULL, &init, problem));
    kvs_status status = KVS_OK;
    for (size_t i = 0; i < groups->count && status == KVS_OK; i++) {
        const kvs_group *group = &groups->list[i];
        status = sparse ? init_rows(self, init, group, problem)
                        : init_group(init, group, NULL, group->values[0]->data, problem);
    }
    if (status == KVS_OK) {
        kvs_local_waiter waiter;
        kvs_local_waiter_init(&waiter);
        kvs_init_commit(init, &waiter.waiter, kvs_clock_now_ns());
        status = kvs_local_wait(self, &waiter, problem);
    }
    kvs_init_close(init);
    return status;
}

static kvs_status local_init(kv_store *kv, kvs_groups *groups, bool sparse, kvs_problem *problem)
{
    (void)pthread_mutex_lock(&kv->order);
    kvs_status status = init_groups((kvs_local *)kv, groups, sparse, problem);
    (void)pthread_mutex_unlock(&kv->order);
    return status;
}

static kvs_status local_wait_handle(kv_store *kv, kv_handle *handle, uint64_t timeout_ms,
                                    kvs_problem *problem)
{
    (void)kv;
    (void)timeout_ms;
    (void)problem;
    free(handle);
    return KVS_OK;
}

static bool local_is_done(kv_store *kv, const kv_handle *handle)
{
    (void)kv;
    return handle->done;
}

static kvs_status local_wait_all(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem)
{
    (void)kv;
    (void)timeout_ms;
    (void)problem;
    return KVS_OK;
}

/* Takes the reference of `optimizer`. */
static kvs_status put_optimizer(kvs_local *self, kvs_optimizer *optimizer, kvs_problem *problem)
{
    kvs_local_waiter waiter;
    kvs_local_waiter_init(&waiter);
    kvs_store_set_optimizer(self->store, optimizer, &waiter.waiter, kvs_clock_now_ns());
    kvs_optimizer_unref(optimizer);
    return kvs_local_wait(self, &waiter, problem);
}

static kvs_status local_set_optimizer(kv_store *kv, const char *json, kvs_problem *problem)
{
    kvs_local *self = (kvs_local *)kv;
    kvs_optimizer *optimizer = NULL;
    if (json != NULL) {
        KVS_TRY(kvs_optimizer_parse(json, strlen(json), &optimizer, problem));
    }
    (void)pthread_mutex_lock(&kv->order);
    kvs_status status = put_optimizer(self, optimizer, problem);
    if (status == KVS_OK && json != NULL) {
        self->updater = NULL; /* the later of the two counts */
    }
    (void)pthread_mutex_unlock(&kv->order);
    return status;
}

static kvs_status local_get_optimizer(kv_store *kv, char **json, kvs_problem *problem)
{
    kvs_optimizer *optimizer = kvs_store_optimizer(((kvs_local *)kv)->store);
    *json = strdup(optimizer == NULL ? "" : kvs_optimizer_json(optimizer));
    kvs_optimizer_unref(optimizer);
    return *json == NULL ? kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the text")
                         : KVS_OK;
}

/* As in MXNet, whose local reducer has none. */
static kvs_status local_set_compression(kv_store *kv, const char *json, kvs_problem *problem)
{
    if (strstr(kv->type, "device") == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "a store of type %s does not compress; one of type device does",
                               kv->type);
    }
    kvs_compression *compression = &((kvs_local *)kv)->compression;
    const kvs_compression before = *compression;
    KVS_TRY(kvs_compression_set(compression, json, problem));
    if (compression->pull != KVS_CODEC_NONE) {
        *compression = before; /* a call that fails changes nothing */
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "an embedded store's values do not travel: leave pull out");
    }
    return KVS_OK;
}

static kvs_status local_set_updater(kv_store *kv, kv_updater *updater, void *context,
                                    kvs_problem *problem)
{
    kvs_local *self = (kvs_local *)kv;
    if (updater != NULL) {
        KVS_TRY(put_optimizer(self, NULL, problem));
    }
    self->updater = updater;
    self->updater_context = context;
    return KVS_OK;
}

static kvs_status local_barrier(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem)
{
    (void)kv;
    (void)timeout_ms;
    (void)problem;
    return KVS_OK;
}

static kvs_status local_send_command(kv_store *kv, int head, const char *body, kvs_problem *problem)
{
    (void)kv;
    (void)head;
    (void)body;
    (void)problem;
    return KVS_OK;
}

static void local_count(kv_store *kv, kv_statistics *out)
{
    (void)pthread_mutex_lock(&kv->order);
    *out = ((kvs_local *)kv)->statistics;
    (void)pthread_mutex_unlock(&kv->order);
}

/* A copy: the engine's parts do not lie one after another. */
static kvs_status copy_view(kv_view *view, const kvs_snapshot *from, kvs_problem *problem)
{
    const kvs_key_info *info = &from->info;
    KVS_TRY(kvs_view_shape(view, info->dtype, &info->shape, problem));
    view->version = info->version;
    for (size_t i = 0; i < from->parts; i++) {
        uint64_t first = i * info->part_elements;
        uint64_t left = info->elements - first;
        uint64_t count = left < info->part_elements ? left : info->part_elements;
        kvs_span span = {from->data[i], (size_t)count * kvs_dtype_bytes(info->dtype)};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        KVS_TRY(kvs_view_copy(view, first, &payload, problem));
    }
    kvs_view_seal(view);
    return KVS_OK;
}

static kvs_status local_view(kv_store *kv, const char *name, size_t name_bytes, kv_view **out,
                             kvs_problem *problem)
{
    kvs_local *self = (kvs_local *)kv;
    kvs_snapshot snapshot;
    kvs_local_waiter waiter;
    kvs_local_waiter_init(&waiter);
    (void)pthread_mutex_lock(&kv->order);
    kvs_store_read(self->store, name, name_bytes, &snapshot, &waiter.waiter, kvs_clock_now_ns());
    kvs_status status = kvs_local_wait(self, &waiter, problem);
    (void)pthread_mutex_unlock(&kv->order);
    if (status != KVS_OK) {
        return status;
    }
    kv_view *view = kvs_view_make();
    status = view == NULL ? kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a view")
                          : copy_view(view, &snapshot, problem);
    kvs_snapshot_deinit(&snapshot);
    if (status != KVS_OK) {
        kv_view_free(view);
        return status;
    }
    *out = view;
    return KVS_OK;
}

/* ------------------------------------------------------------------ opening, closing */

static void close_parts(kvs_local *self)
{
    if (self->session != NULL) {
        kvs_session_leave(self->session, kvs_clock_now_ns());
        kvs_session_unref(self->session);
    }
    kvs_store_unref(self->store);
    if (self->engine != NULL) {
        kvs_engine_close(self->engine);
    }
    kvs_sum_deinit(&self->sum);
    kvs_client_keys_deinit(&self->keys);
    kvs_compression_deinit(&self->compression);
    kvs_block_pool_deinit(&self->pool);
    free(self->headers);
}

static kvs_status local_close(kv_store *kv, kvs_problem *problem)
{
    (void)problem;
    close_parts((kvs_local *)kv);
    return KVS_OK;
}

static const kvs_client_table local_table = {
    .init = local_init,
    .transfer = kvs_local_transfer,
    .wait_handle = local_wait_handle,
    .is_done = local_is_done,
    .wait_all = local_wait_all,
    .set_optimizer = local_set_optimizer,
    .get_optimizer = local_get_optimizer,
    .set_updater = local_set_updater,
    .set_compression = local_set_compression,
    .barrier = local_barrier,
    .send_command = local_send_command,
    .save_states = kvs_local_save_states,
    .load_states = kvs_local_load_states,
    .count = local_count,
    .view = local_view,
    .close = local_close,
};

static kvs_status open_engine(kvs_local *self, kvs_problem *problem)
{
    KVS_TRY(kvs_sum_init(&self->sum, problem));
    /* What is pushed is in this process already: there is no credit to bound. */
    kvs_engine_options options = {.backend = self->sum.backend,
                                  .shards = 1,
                                  .epoch = KVS_LOCAL_EPOCH,
                                  .credit_bytes = UINT64_MAX};
    kvs_status status = kvs_engine_open(&options, &self->engine);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "the engine does not open");
    }
    kvs_store_options store = {.type = "local", .num_workers = 1, .lease_ns = LEASE_NS};
    store.name = "default";
    KVS_TRY(kvs_store_create(self->engine, &store, &self->store, problem));
    kvs_register request = {.type = "", .worker = "local", .rank = 0};
    kvs_session_info info;
    KVS_TRY(kvs_session_register(self->store, &request, kvs_clock_now_ns(), &self->session, &info,
                                 problem));
    memcpy(self->session_id, info.id, sizeof self->session_id);
    return KVS_OK;
}

kvs_status kvs_local_open(const char *type, kv_store **out, kvs_problem *problem)
{
    kvs_local *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a store");
    }
    kvs_status status = kvs_client_init(&self->base, &local_table, type);
    if (status != KVS_OK) {
        free(self);
        return kvs_problem_set(problem, status, "no memory for a store");
    }
    self->base.num_workers = 1;
    self->next_sequence = 1;
    kvs_local_channel_init(self);
    kvs_block_pool_init(&self->pool, NULL);
    status = open_engine(self, problem);
    if (status != KVS_OK) {
        close_parts(self);
        kvs_client_deinit(&self->base);
        free(self);
        return status;
    }
    *out = &self->base;
    return KVS_OK;
}
