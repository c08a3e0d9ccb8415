#include "base/clock.h"
#include "client/local_state.h"
#include "client/state_file.h"
#include "engine/states.h"

#include <stdlib.h>

static kvs_status capture(kvs_local *self, bool dump_optimizer, kvs_states **out,
                          kvs_problem *problem)
{
    kvs_capture *captured = NULL;
    kvs_local_waiter waiter;
    kvs_local_waiter_init(&waiter);
    kvs_store_capture(self->store, false, &captured, &waiter.waiter, kvs_clock_now_ns());
    KVS_TRY(kvs_local_wait(self, &waiter, problem));
    kvs_status status = kvs_states_open(captured, dump_optimizer, out, problem);
    if (status != KVS_OK) {
        kvs_capture_close(captured);
    }
    return status;
}

static kvs_status write_states(kvs_local *self, const kvs_states *states, kvs_state_file *file,
                               kvs_problem *problem)
{
    uint64_t total = kvs_states_bytes(states);
    for (uint64_t at = 0; at < total;) {
        kvs_span span = kvs_states_span(states, at);
        KVS_TRY(kvs_state_file_write(file, span.data, span.bytes, problem));
        at += span.bytes;
        kvs_client_progress(&self->base, at, total);
    }
    return kvs_state_file_commit(file, problem);
}

static kvs_status save(kvs_local *self, const char *path, bool dump_optimizer, kvs_problem *problem)
{
    kvs_states *states = NULL;
    kvs_state_file file;
    KVS_TRY(capture(self, dump_optimizer, &states, problem));
    kvs_status status = kvs_state_file_create(path, &file, problem);
    if (status == KVS_OK) {
        status = write_states(self, states, &file, problem);
        kvs_state_file_close(&file);
    }
    kvs_states_close(states);
    return status;
}

kvs_status kvs_local_save_states(kv_store *kv, const char *path, bool dump_optimizer,
                                 kvs_problem *problem)
{
    (void)pthread_mutex_lock(&kv->order);
    kvs_status status = save((kvs_local *)kv, path, dump_optimizer, problem);
    (void)pthread_mutex_unlock(&kv->order);
    return status;
}

static kvs_status read_states(kvs_local *self, kvs_states_load *load, kvs_state_file *file,
                              kvs_problem *problem)
{
    uint8_t *chunk = malloc(KVS_STATE_FILE_CHUNK);
    kvs_status status = chunk != NULL ? KVS_OK : KVS_NO_MEMORY;
    for (uint64_t at = 0; status == KVS_OK && at < file->bytes;) {
        uint64_t left = file->bytes - at;
        size_t bytes = left < KVS_STATE_FILE_CHUNK ? (size_t)left : KVS_STATE_FILE_CHUNK;
        status = kvs_state_file_read(file, chunk, bytes, problem);
        if (status == KVS_OK) {
            status = kvs_states_load_append(load, chunk, bytes, problem);
        }
        at += bytes;
        kvs_client_progress(&self->base, at, file->bytes);
    }
    free(chunk);
    return status;
}

static kvs_status load(kvs_local *self, const char *path, kvs_problem *problem)
{
    kvs_states_load *states = NULL;
    kvs_state_file file;
    kvs_states_load_info info;
    KVS_TRY(kvs_state_file_open(path, &file, problem));
    kvs_status status = kvs_states_load_open(self->store, &states, problem);
    if (status == KVS_OK) {
        status = read_states(self, states, &file, problem);
    }
    if (status == KVS_OK) {
        kvs_local_waiter waiter;
        kvs_local_waiter_init(&waiter);
        kvs_states_load_describe(states, &info);
        kvs_states_load_commit(states, &waiter.waiter, kvs_clock_now_ns());
        status = kvs_local_wait(self, &waiter, problem);
    }
    if (status == KVS_OK && info.sets_optimizer) {
        self->updater = NULL; /* the later of the two counts */
    }
    kvs_states_load_close(states);
    kvs_state_file_close(&file);
    return status;
}

kvs_status kvs_local_load_states(kv_store *kv, const char *path, kvs_problem *problem)
{
    (void)pthread_mutex_lock(&kv->order);
    kvs_status status = load((kvs_local *)kv, path, problem);
    (void)pthread_mutex_unlock(&kv->order);
    return status;
}
