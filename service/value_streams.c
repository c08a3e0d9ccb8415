#include "service/door.h"

#include "api/json_message.h"
#include "api/kvstored.pb-c.h"
#include "base/clock.h"
#include "service/pb_call.h"
#include "service/workers.h"

#include <string.h>

/* The streaming methods of Admin: values as files. */

#define CHUNK_BYTES ((size_t)KVS_MIB)

static void refuse_busy(kvs_call *call)
{
    kvs_problem problem;
    (void)kvs_problem_set(&problem, KVS_TOO_MANY, "too many admin calls are waiting");
    kvs_call_finish(call, &problem);
}

/* ------------------------------------------------------------------ GetValue */

/* First a job reads the value at a cut, then each chunk that has left sends the next. */
typedef struct get_state {
    kvs_job job; /* first */
    kvs_call *call;
    void *request; /* of the method's own type */
    kvs_admin_value *value;
    uint64_t offset;
} get_state;

static void send_chunk(get_state *state)
{
    const kvs_admin_value_info *info = kvs_admin_value_describe(state->value);
    Kvstored__V1__DataChunk chunk = KVSTORED__V1__DATA_CHUNK__INIT;
    Kvstored__V1__Version version = KVSTORED__V1__VERSION__INIT;
    char type[64];
    if (state->offset == 0) {
        (void)snprintf(type, sizeof(type), "%s", info->content_type);
        version.epoch = info->version.epoch;
        version.count = info->version.count;
        chunk.content_type = type;
        chunk.version = info->version.epoch != 0 ? &version : NULL;
        chunk.total_bytes = info->total_bytes;
    }
    if (state->offset < info->total_bytes) {
        kvs_span span = kvs_admin_value_span(state->value, state->offset);
        union { /* the generated struct lacks a const; packing does not write */
            const uint8_t *in;
            uint8_t *out;
        } bytes = {.in = span.data};
        chunk.data.data = bytes.out;
        chunk.data.len = span.bytes < CHUNK_BYTES ? span.bytes : CHUNK_BYTES;
    }
    state->offset += chunk.data.len;
    bool last = state->offset >= info->total_bytes;
    kvs_pb_send(state->call, &chunk.base);
    if (last) {
        kvs_call_finish(state->call, NULL);
    }
}

/* The value is there, or not. */
static void begin_chunks(get_state *state, kvs_status status, const kvs_problem *problem)
{
    if (status == KVS_OK) {
        send_chunk(state);
    } else {
        kvs_call_finish(state->call, problem);
    }
    kvs_call_unref(state->call);
}

static void run_get(kvs_job *job)
{
    get_state *state = (get_state *)(void *)job;
    kvs_door *door = kvs_call_context(state->call);
    const Kvstored__V1__GetValueRequest *request = state->request;
    kvs_problem problem;
    kvs_value_format format;
    kvs_status status = kvs_value_format_parse(request->format, KVS_VALUE_RAW, &format, &problem);
    if (status == KVS_OK) {
        status = kvs_admin_get_value(door->admin, request->store, request->key, format,
                                     &state->value, &problem);
    }
    begin_chunks(state, status, &problem);
}

static void run_save(kvs_job *job)
{
    get_state *state = (get_state *)(void *)job;
    kvs_door *door = kvs_call_context(state->call);
    const Kvstored__V1__SaveOptimizerStatesRequest *request = state->request;
    kvs_problem problem;
    kvs_status status =
        kvs_admin_get_states(door->admin, request->store, request->dump_optimizer != 0,
                             request->weights != 0, &state->value, &problem);
    begin_chunks(state, status, &problem);
}

static void post_get(kvs_call *call, kvs_message *message,
                     const ProtobufCMessageDescriptor *descriptor, void (*run)(kvs_job *job))
{
    get_state *state = kvs_call_state(call);
    kvs_door *door = kvs_call_context(call);
    state->request = kvs_pb_take(call, message, descriptor);
    if (state->request == NULL) {
        return;
    }
    state->call = kvs_call_take(call);
    state->job.run = run;
    if (!kvs_workers_post(door->workers, &state->job)) {
        kvs_call_unref(call);
        refuse_busy(call);
    }
}

static void get_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    post_get(call, message, &kvstored__v1__get_value_request__descriptor, run_get);
}

static void save_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    post_get(call, message, &kvstored__v1__save_optimizer_states_request__descriptor, run_save);
}

static void get_sent(kvs_call *call, uint64_t cookie, uint64_t now_ns)
{
    (void)cookie;
    (void)now_ns;
    get_state *state = kvs_call_state(call);
    if (state->offset < kvs_admin_value_describe(state->value)->total_bytes) {
        send_chunk(state);
    }
}

static void get_deinit(kvs_call *call)
{
    get_state *state = kvs_call_state(call);
    kvs_admin_value_close(state->value);
    kvs_pb_free(state->request);
}

/* ------------------------------------------------------------------ PutValue */

/* One chunk at a time: its slot is given back by the job that has stored it, so the end of the
 * stream is seen only after the last one. */
typedef struct put_state {
    kvs_job job; /* first */
    kvs_subscriber subscriber;
    _Atomic uint64_t silent_ns; /* since when the peer has been waited for; 0: it is not */
    kvs_call *call;
    kvs_message *message; /* NULL: the end */
    kvs_admin_upload *upload;
    kvs_admin_load *load; /* LoadOptimizerStates: instead */
} put_state;

static kvs_status open_upload(put_state *state, const Kvstored__V1__PutValueChunk *chunk,
                              kvs_problem *problem)
{
    kvs_door *door = kvs_call_context(state->call);
    if (chunk->n_shape > KVS_DIMENSIONS_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "a shape has at most %u dimensions",
                               KVS_DIMENSIONS_MAX);
    }
    kvs_admin_put put = {.store = chunk->store,
                         .key = chunk->key,
                         .dtype = (kvs_dtype)chunk->dtype,
                         .has_shape =
                             chunk->n_shape > 0 || chunk->dtype != KVSTORED__V1__DTYPE__DTYPE_NONE,
                         .if_match = chunk->if_match};
    put.shape.rank = (uint32_t)chunk->n_shape;
    for (size_t i = 0; i < chunk->n_shape; i++) {
        put.shape.size[i] = chunk->shape[i];
    }
    KVS_TRY(kvs_value_format_parse(chunk->format, KVS_VALUE_DEFAULT, &put.format, problem));
    return kvs_admin_upload_open(door->admin, &put, UINT64_MAX, &state->upload, problem);
}

static kvs_status store_chunk(put_state *state, kvs_problem *problem)
{
    ProtobufCMessage *unpacked = NULL;
    KVS_TRY(kvs_pb_unpack(state->message, &kvstored__v1__put_value_chunk__descriptor,
                          KVS_MESSAGE_BYTES_MAX, &unpacked, problem));
    const Kvstored__V1__PutValueChunk *chunk = (const Kvstored__V1__PutValueChunk *)unpacked;
    kvs_status status = KVS_OK;
    if (state->upload == NULL) {
        status = open_upload(state, chunk, problem);
    }
    if (status == KVS_OK && chunk->data.len > 0) {
        status = kvs_admin_upload_append(state->upload, chunk->data.data, chunk->data.len, problem);
    }
    kvs_pb_free(unpacked);
    return status;
}

static kvs_status finish_upload(put_state *state, kvs_problem *problem)
{
    json_t *json = NULL;
    if (state->upload == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME, "the call brought no chunk");
    }
    KVS_TRY(kvs_admin_upload_finish(state->upload, &json, NULL, problem));
    ProtobufCMessage *reply = NULL;
    kvs_status status =
        kvs_json_message_parse(&kvstored__v1__key__descriptor, json, &reply, problem);
    if (status == KVS_OK) {
        kvs_pb_reply(state->call, reply);
    }
    kvs_pb_free(reply);
    json_decref(json);
    return status;
}

static kvs_status load_chunk(put_state *state, kvs_problem *problem)
{
    kvs_door *door = kvs_call_context(state->call);
    ProtobufCMessage *unpacked = NULL;
    KVS_TRY(kvs_pb_unpack(state->message, &kvstored__v1__data_chunk__descriptor,
                          KVS_MESSAGE_BYTES_MAX, &unpacked, problem));
    const Kvstored__V1__DataChunk *chunk = (const Kvstored__V1__DataChunk *)unpacked;
    kvs_status status = KVS_OK;
    if (state->load == NULL) {
        status = kvs_admin_load_open(door->admin, chunk->store, &state->load, problem);
    }
    if (status == KVS_OK) {
        status = kvs_admin_load_append(state->load, chunk->data.data, chunk->data.len, problem);
    }
    kvs_pb_free(unpacked);
    return status;
}

static kvs_status finish_load(put_state *state, kvs_problem *problem)
{
    json_t *json = NULL;
    ProtobufCMessage *reply = NULL;
    if (state->load == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME, "the call brought no chunk");
    }
    KVS_TRY(kvs_admin_load_finish(state->load, &json, problem));
    kvs_status status = kvs_json_message_parse(
        &kvstored__v1__load_optimizer_states_reply__descriptor, json, &reply, problem);
    if (status == KVS_OK) {
        kvs_pb_reply(state->call, reply);
    }
    kvs_pb_free(reply);
    json_decref(json);
    return status;
}

static const kvs_method load_method;

/* One chunk of either method, or its end. */
static kvs_status take_chunk(put_state *state, kvs_problem *problem)
{
    if (kvs_call_method(state->call) == &load_method) {
        return state->message != NULL ? load_chunk(state, problem) : finish_load(state, problem);
    }
    return state->message != NULL ? store_chunk(state, problem) : finish_upload(state, problem);
}

static void run_put(kvs_job *job)
{
    put_state *state = (put_state *)(void *)job;
    kvs_call *call = state->call;
    kvs_message *message = state->message;
    kvs_problem problem;
    kvs_status status = take_chunk(state, &problem);
    if (status != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
    if (message != NULL) {
        atomic_store_explicit(&state->silent_ns, kvs_clock_now_ns(), memory_order_relaxed);
        kvs_message_release(call, message);
    }
    kvs_call_unref(call);
}

static void post_put(kvs_call *call, kvs_message *message)
{
    put_state *state = kvs_call_state(call);
    kvs_door *door = kvs_call_context(call);
    atomic_store_explicit(&state->silent_ns, 0, memory_order_relaxed);
    state->call = kvs_call_take(call);
    state->message = message;
    state->job.run = run_put;
    if (!kvs_workers_post(door->workers, &state->job)) {
        kvs_call_unref(call);
        refuse_busy(call);
    }
}

/* Whoever brings nothing more does not keep what has come. */
static void put_look(kvs_subscriber *subscriber, uint64_t now_ns)
{
    put_state *state = kvs_call_state(subscriber->call);
    const kvs_door *door = kvs_call_context(subscriber->call);
    uint64_t since_ns = atomic_load_explicit(&state->silent_ns, memory_order_relaxed);
    if (since_ns != 0 && now_ns > since_ns && now_ns - since_ns > door->silence_ns) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_DEADLINE, "nothing has come for %llu ms",
                              (unsigned long long)((now_ns - since_ns) / KVS_MS));
        kvs_call_finish(subscriber->call, &problem);
    }
}

static void put_opened(kvs_call *call, uint64_t now_ns)
{
    put_state *state = kvs_call_state(call);
    atomic_store_explicit(&state->silent_ns, now_ns, memory_order_relaxed);
    state->subscriber.call = call;
    state->subscriber.look = put_look;
    kvs_door_subscribe(kvs_call_context(call), &state->subscriber);
}

static void put_closed(kvs_call *call, uint64_t now_ns)
{
    put_state *state = kvs_call_state(call);
    (void)now_ns;
    kvs_door_unsubscribe(kvs_call_context(call), &state->subscriber);
}

static void put_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    post_put(call, message);
}

static void put_ended(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    post_put(call, NULL);
}

static void put_deinit(kvs_call *call)
{
    put_state *state = kvs_call_state(call);
    kvs_admin_upload_close(state->upload);
    kvs_admin_load_close(state->load);
}

static const kvs_method get_method = {.path = "/kvstored.v1.Admin/GetValue",
                                      .slots = 1,
                                      .state_bytes = sizeof(get_state),
                                      .received = get_received,
                                      .sent = get_sent,
                                      .deinit = get_deinit};

static const kvs_method put_method = {.path = "/kvstored.v1.Admin/PutValue",
                                      .slots = 1,
                                      .state_bytes = sizeof(put_state),
                                      .opened = put_opened,
                                      .received = put_received,
                                      .ended = put_ended,
                                      .closed = put_closed,
                                      .deinit = put_deinit};

static const kvs_method save_method = {.path = "/kvstored.v1.Admin/SaveOptimizerStates",
                                       .slots = 1,
                                       .state_bytes = sizeof(get_state),
                                       .received = save_received,
                                       .sent = get_sent,
                                       .deinit = get_deinit};

static const kvs_method load_method = {.path = "/kvstored.v1.Admin/LoadOptimizerStates",
                                       .slots = 1,
                                       .state_bytes = sizeof(put_state),
                                       .opened = put_opened,
                                       .received = put_received,
                                       .ended = put_ended,
                                       .closed = put_closed,
                                       .deinit = put_deinit};

const kvs_method *const kvs_value_methods[] = {&get_method, &put_method, &save_method, &load_method,
                                               NULL};
