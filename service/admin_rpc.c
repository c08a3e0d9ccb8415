#include "service/door.h"

#include "api/json_message.h"
#include "api/kvstored.pb-c.h"
#include "service/pb_call.h"
#include "service/workers.h"

#include <stddef.h>

/* Barriers that may wait at once by way of Admin: each holds a worker thread, and the others must
 * still find one. */
#define BARRIERS_MAX 8u

/* A unary method of Admin: the operation of that name, with JSON in between. */
typedef struct admin_method {
    kvs_method method; /* first */
    const char *name;
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *reply;
    bool waits;
} admin_method;

typedef struct admin_state {
    kvs_job job; /* first */
    kvs_call *call;
    ProtobufCMessage *request;
    _Atomic bool closed; /* answered, or its caller has hung up */
} admin_state;

static _Atomic uint32_t barriers_waiting;

static bool has_hung_up(void *state)
{
    return atomic_load_explicit(&((admin_state *)state)->closed, memory_order_relaxed);
}

static void admin_closed(kvs_call *call, uint64_t now_ns)
{
    admin_state *state = kvs_call_state(call);
    (void)now_ns;
    atomic_store_explicit(&state->closed, true, memory_order_relaxed);
}

static kvs_status answer(kvs_call *call, const ProtobufCMessage *request, kvs_problem *problem)
{
    const admin_method *method = (const admin_method *)(const void *)kvs_call_method(call);
    kvs_door *door = kvs_call_context(call);
    const kvs_caller caller = {.gone = has_hung_up, .context = kvs_call_state(call)};
    json_t *json = NULL;
    json_t *reply = NULL;
    ProtobufCMessage *message = NULL;
    kvs_status status = kvs_json_message_print(request, &json, problem);
    if (status == KVS_OK) {
        status = kvs_admin_call(door->admin, &caller, method->name, json, &reply, problem);
    }
    if (status == KVS_OK) {
        status = kvs_json_message_parse(method->reply, reply, &message, problem);
    }
    if (status == KVS_OK) {
        kvs_pb_reply(call, message);
    }
    kvs_pb_free(message);
    json_decref(json);
    json_decref(reply);
    return status;
}

static void run_admin(kvs_job *job)
{
    admin_state *state = (admin_state *)(void *)job;
    kvs_call *call = state->call;
    const admin_method *method = (const admin_method *)(const void *)kvs_call_method(call);
    kvs_problem problem;
    if (answer(call, state->request, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
    if (method->waits) {
        atomic_fetch_sub_explicit(&barriers_waiting, 1, memory_order_relaxed);
    }
    kvs_call_unref(call);
}

static bool post(kvs_call *call, const admin_method *method)
{
    admin_state *state = kvs_call_state(call);
    kvs_door *door = kvs_call_context(call);
    if (method->waits &&
        atomic_fetch_add_explicit(&barriers_waiting, 1, memory_order_relaxed) >= BARRIERS_MAX) {
        atomic_fetch_sub_explicit(&barriers_waiting, 1, memory_order_relaxed);
        return false;
    }
    state->call = kvs_call_take(call);
    state->job.run = run_admin;
    if (kvs_workers_post(door->workers, &state->job)) {
        return true;
    }
    kvs_call_unref(call);
    if (method->waits) {
        atomic_fetch_sub_explicit(&barriers_waiting, 1, memory_order_relaxed);
    }
    return false;
}

static void admin_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    admin_state *state = kvs_call_state(call);
    const admin_method *method = (const admin_method *)(const void *)kvs_call_method(call);
    state->request = kvs_pb_take(call, message, method->request);
    if (state->request != NULL && !post(call, method)) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_TOO_MANY, "too many admin calls are waiting");
        kvs_call_finish(call, &problem);
    }
}

static void admin_deinit(kvs_call *call)
{
    admin_state *state = kvs_call_state(call);
    kvs_pb_free(state->request);
}

#define ADMIN(variable, name_, request_, reply_, waits_)                                           \
    static const admin_method variable = {.method = {.path = "/kvstored.v1.Admin/" name_,          \
                                                     .slots = 1,                                   \
                                                     .state_bytes = sizeof(admin_state),           \
                                                     .received = admin_received,                   \
                                                     .closed = admin_closed,                       \
                                                     .deinit = admin_deinit},                      \
                                          .name = name_,                                           \
                                          .request = &kvstored__v1__##request_##__descriptor,      \
                                          .reply = &kvstored__v1__##reply_##__descriptor,          \
                                          .waits = waits_}

ADMIN(get_version, "GetVersion", get_version_request, server_version, false);
ADMIN(list_stores, "ListStores", list_stores_request, list_stores_reply, false);
ADMIN(create_store, "CreateStore", create_store_request, store, false);
ADMIN(get_store, "GetStore", get_store_request, store, false);
ADMIN(delete_store, "DeleteStore", delete_store_request, delete_store_reply, false);
ADMIN(get_type, "GetType", get_type_request, get_type_reply, false);
ADMIN(get_num_workers, "GetNumWorkers", get_num_workers_request, get_num_workers_reply, false);
ADMIN(get_rank, "GetRank", get_rank_request, get_rank_reply, false);
ADMIN(list_workers, "ListWorkers", list_workers_request, list_workers_reply, false);
ADMIN(list_keys, "ListKeys", list_keys_request, list_keys_reply, false);
ADMIN(get_key, "GetKey", get_key_request, key, false);
ADMIN(get_optimizer, "GetOptimizer", get_optimizer_request, optimizer, false);
ADMIN(set_optimizer, "SetOptimizer", set_optimizer_request, optimizer, false);
ADMIN(get_compression, "GetCompression", get_compression_request, compression, false);
ADMIN(set_compression, "SetCompression", set_compression_request, compression, false);
ADMIN(list_barriers, "ListBarriers", list_barriers_request, list_barriers_reply, false);
ADMIN(enter_barrier, "EnterBarrier", enter_barrier_request, barrier_reply, true);
ADMIN(send_command, "SendCommand", admin_command_request, send_command_reply, false);
ADMIN(list_rounds, "ListRounds", list_rounds_request, list_rounds_reply, false);
ADMIN(list_checkpoints, "ListCheckpoints", list_checkpoints_request, list_checkpoints_reply, false);
ADMIN(create_checkpoint, "CreateCheckpoint", create_checkpoint_request, checkpoint, false);
ADMIN(get_statistics, "GetStatistics", get_statistics_request, statistics, false);

const kvs_method *const kvs_admin_methods[] = {&get_version.method,
                                               &list_stores.method,
                                               &create_store.method,
                                               &get_store.method,
                                               &delete_store.method,
                                               &get_type.method,
                                               &get_num_workers.method,
                                               &get_rank.method,
                                               &list_workers.method,
                                               &list_keys.method,
                                               &get_key.method,
                                               &get_optimizer.method,
                                               &set_optimizer.method,
                                               &get_compression.method,
                                               &set_compression.method,
                                               &list_barriers.method,
                                               &enter_barrier.method,
                                               &send_command.method,
                                               &list_rounds.method,
                                               &list_checkpoints.method,
                                               &create_checkpoint.method,
                                               &get_statistics.method,
                                               NULL};
