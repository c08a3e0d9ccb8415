/* Optimizer states as files: saved at a cut, loaded whole or not at all. */
#include "service/admin_methods.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ saving */

typedef struct capture_wait {
    kvs_wait wait;
    kvs_capture *capture;
} capture_wait;

static void release_capture(kvs_wait *wait)
{
    kvs_capture_close(((capture_wait *)wait)->capture);
}

static kvs_status capture(kvs_admin *admin, kvs_store *store, bool values, kvs_capture **out,
                          kvs_problem *problem)
{
    kvs_wait *wait = NULL;
    uint64_t now_ns = kvs_clock_now_ns();
    KVS_TRY(kvs_wait_open(admin, store, sizeof(capture_wait), now_ns + KVS_CUT_DEADLINE_NS, &wait,
                          problem));
    capture_wait *mine = (capture_wait *)wait;
    wait->release = release_capture;
    kvs_store_capture(store, values, &mine->capture, kvs_wait_begin(wait), now_ns);
    kvs_status status = kvs_wait_for(wait, problem);
    if (status == KVS_OK) {
        *out = mine->capture;
        mine->capture = NULL;
    }
    kvs_wait_close(wait);
    return status;
}

kvs_status kvs_admin_get_states(kvs_admin *admin, const char *store, bool dump_optimizer,
                                bool values, kvs_admin_value **out, kvs_problem *problem)
{
    kvs_store *found = NULL;
    kvs_capture *captured = NULL;
    kvs_states *states = NULL;
    KVS_TRY(kvs_admin_find_store(admin, store, &found, problem));
    kvs_status status = capture(admin, found, values, &captured, problem);
    kvs_store_unref(found);
    KVS_TRY(status);
    status = kvs_states_open(captured, dump_optimizer, &states, problem);
    if (status != KVS_OK) {
        kvs_capture_close(captured);
        return status;
    }
    kvs_admin_value *value = kvs_admin_states_value(states);
    if (value == NULL) {
        kvs_states_close(states);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the reply");
    }
    *out = value;
    return KVS_OK;
}

/* ------------------------------------------------------------------ loading */

struct kvs_admin_load {
    kvs_admin *admin;
    kvs_store *store; /* a reference */
    kvs_states_load *states;
};

kvs_status kvs_admin_load_open(kvs_admin *admin, const char *store, kvs_admin_load **out,
                               kvs_problem *problem)
{
    kvs_admin_load *load = calloc(1, sizeof *load);
    if (load == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the states");
    }
    load->admin = admin;
    kvs_status status = kvs_admin_find_store(admin, store, &load->store, problem);
    if (status == KVS_OK) {
        status = kvs_states_load_open(load->store, &load->states, problem);
    }
    if (status != KVS_OK) {
        kvs_admin_load_close(load);
        return status;
    }
    *out = load;
    return KVS_OK;
}

kvs_status kvs_admin_load_append(kvs_admin_load *load, const void *data, size_t bytes,
                                 kvs_problem *problem)
{
    return kvs_states_load_append(load->states, data, bytes, problem);
}

static kvs_status commit(kvs_admin_load *load, kvs_problem *problem)
{
    kvs_wait *wait = NULL;
    uint64_t now_ns = kvs_clock_now_ns();
    KVS_TRY(kvs_wait_open(load->admin, load->store, sizeof *wait, now_ns + KVS_CUT_DEADLINE_NS,
                          &wait, problem));
    kvs_states_load_commit(load->states, kvs_wait_begin(wait), now_ns);
    kvs_status status = kvs_wait_for(wait, problem);
    kvs_wait_close(wait);
    return status;
}

kvs_status kvs_admin_load_finish(kvs_admin_load *load, json_t **reply, kvs_problem *problem)
{
    kvs_states_load_info info;
    kvs_states_load_describe(load->states, &info);
    if (info.sets_optimizer) {
        (void)pthread_mutex_lock(&load->admin->optimizer_mutex);
    }
    kvs_status status = commit(load, problem);
    if (info.sets_optimizer) {
        (void)pthread_mutex_unlock(&load->admin->optimizer_mutex);
    }
    KVS_TRY(status);
    kvs_json_object object = kvs_json_object_open();
    kvs_json_add(&object, "skipped", json_array());
    kvs_json_add_u64(&object, "tensors", info.tensors);
    kvs_json_add_u64(&object, "bytes", info.bytes);
    kvs_json_add(&object, "optimizer_set", json_boolean(info.sets_optimizer));
    return kvs_admin_reply(kvs_json_object_close(&object), reply, problem);
}

/* A tensor as a JSON pointer (RFC 6901) into the file's header, or NULL: no memory. */
static json_t *pointer_to(const char *tensor)
{
    char *text = malloc(2 * strlen(tensor) + 2);
    if (text == NULL) {
        return NULL;
    }
    size_t bytes = 0;
    text[bytes++] = '/';
    for (const char *at = tensor; *at != '\0'; at++) {
        bool escaped = *at == '~' || *at == '/';
        text[bytes++] = escaped ? '~' : *at;
        if (escaped) {
            text[bytes++] = *at == '~' ? '0' : '1';
        }
    }
    json_t *json = json_stringn(text, bytes);
    free(text);
    return json;
}

json_t *kvs_admin_load_misfits(const kvs_admin_load *load)
{
    const kvs_states_misfit *misfits;
    size_t count = kvs_states_load_misfits(load->states, &misfits);
    json_t *list = count > 0 ? json_array() : NULL;
    for (size_t i = 0; i < count && list != NULL; i++) {
        kvs_json_object object = kvs_json_object_open();
        kvs_json_add(&object, "pointer",
                     pointer_to(misfits[i].tensor != NULL ? misfits[i].tensor : ""));
        kvs_json_add_text(&object, "detail", misfits[i].why);
        if (json_array_append_new(list, kvs_json_object_close(&object)) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

void kvs_admin_load_close(kvs_admin_load *load)
{
    if (load != NULL) {
        kvs_states_load_close(load->states);
        kvs_store_unref(load->store);
        free(load);
    }
}
