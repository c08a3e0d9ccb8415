#include "service/door.h"

#include "api/codec.h"
#include "api/kvstored.pb-c.h"
#include "base/clock.h"
#include "service/limits_reply.h"
#include "service/pb_call.h"
#include "service/workers.h"

#include <stdlib.h>
#include <string.h>

/* So much earlier than the caller's own deadline a wait ends, so that the answer, which names who
 * is missing, still arrives. */
#define ANSWER_TIME_NS (100 * KVS_MS)

static uint64_t wait_deadline(const kvs_call *call, uint64_t now_ns)
{
    uint64_t deadline_ns = kvs_call_deadline_ns(call);
    if (deadline_ns == 0) {
        return 0;
    }
    uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    uint64_t margin_ns = left_ns / 10 < ANSWER_TIME_NS ? left_ns / 10 : ANSWER_TIME_NS;
    return deadline_ns - margin_ns;
}

/* ------------------------------------------------------------------ Register */

static kvs_status register_worker(kvs_call *call, const Kvstored__V1__RegisterRequest *request,
                                  uint64_t now_ns, kvs_problem *problem)
{
    kvs_door *door = kvs_call_context(call);
    if (atomic_load_explicit(&door->draining, memory_order_acquire)) {
        return kvs_problem_set(problem, KVS_STOPPING, "no new workers: the server is stopping");
    }
    if (request->resume_session.len != 0 && request->resume_session.len != KVS_SESSION_ID_BYTES) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "resume_session has %zu bytes, not %d",
                               request->resume_session.len, KVS_SESSION_ID_BYTES);
    }
    kvs_store *store = NULL;
    KVS_TRY(kvs_store_find(door->engine, request->store, strlen(request->store), &store, problem));
    kvs_register wanted = {
        .type = request->type,
        .worker = request->name,
        .rank = request->wanted_case == KVSTORED__V1__REGISTER_REQUEST__WANTED_RANK
                    ? (int64_t)request->rank
                    : -1,
        .resume = kvs_binary(&request->resume_session),
        .epoch = request->epoch,
        .lowest_unacknowledged = request->lowest_unacknowledged,
    };
    kvs_session *session = NULL;
    kvs_session_info session_info;
    kvs_status status =
        kvs_session_register(store, &wanted, now_ns, &session, &session_info, problem);
    if (status == KVS_OK) {
        kvs_store_info info;
        kvs_store_describe(store, &info);
        Kvstored__V1__Limits limits;
        kvs_limits_fill(&info, &limits);
        Kvstored__V1__RegisterReply reply = KVSTORED__V1__REGISTER_REPLY__INIT;
        char type[KVS_NAME_BYTES_MAX + 1];
        (void)snprintf(type, sizeof(type), "%s", info.type);
        reply.session = (ProtobufCBinaryData){.len = KVS_SESSION_ID_BYTES, .data = session_info.id};
        reply.rank = session_info.rank;
        reply.num_workers = info.num_workers;
        reply.epoch = session_info.epoch;
        reply.membership = info.membership;
        reply.type = type;
        reply.limits = &limits;
        reply.resumed = session_info.resumed;
        reply.next_sequence = session_info.next_sequence;
        reply.policy = (Kvstored__V1__Policy)info.policy;
        kvs_pb_reply(call, &reply.base);
    }
    kvs_session_unref(session);
    kvs_store_unref(store);
    return status;
}

static void register_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    Kvstored__V1__RegisterRequest *request =
        kvs_pb_take(call, message, &kvstored__v1__register_request__descriptor);
    kvs_problem problem;
    if (request != NULL && register_worker(call, request, now_ns, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
    kvs_pb_free(request);
}

/* ------------------------------------------------------------------ Init */

typedef struct init_state {
    kvs_waiter waiter; /* first */
    kvs_call *call;
    kvs_store *store;
    kvs_session *session;
    kvs_init *init;
    kvs_codec_scratch scratch;
} init_state;

static kvs_status init_frame(init_state *state, const kvs_message *message, kvs_problem *problem)
{
    kvs_frame_view view;
    KVS_TRY(kvs_frame_decode(message->spans, message->span_count, &state->scratch, &view, problem));
    if (state->init == NULL) {
        KVS_TRY(kvs_door_find(kvs_call_context(state->call), view.store, view.store_bytes,
                              view.session, view.session_bytes, view.epoch, &state->store,
                              &state->session, problem));
        KVS_TRY(kvs_init_open(state->store, state->session, &state->init, problem));
    }
    if (view.durable || view.has_crc32c) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "%s is not built yet",
                               view.durable ? "durable" : "crc32c");
    }
    if (view.region != 0) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "values of Init lie in data");
    }
    size_t offset = 0;
    for (size_t i = 0; i < view.part_count; i++) {
        size_t bytes = (size_t)view.parts[i].payload_bytes;
        kvs_payload payload = kvs_payload_slice(&view.payload, offset, bytes);
        KVS_TRY(kvs_init_part(state->init, &view.parts[i], &payload, problem));
        offset += bytes;
    }
    return KVS_OK;
}

static void init_opened(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    init_state *state = kvs_call_state(call);
    state->call = call;
}

static void init_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    kvs_problem problem;
    if (init_frame(kvs_call_state(call), message, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
    kvs_message_release(call, message);
}

static kvs_status init_reply(init_state *state)
{
    const kvs_init_key *keys;
    size_t count = kvs_init_keys(state->init, &keys);
    Kvstored__V1__InitKey *rows = calloc(count + 1, sizeof(*rows));
    Kvstored__V1__InitKey **pointers = calloc(count + 1, sizeof(Kvstored__V1__InitKey *));
    Kvstored__V1__Version *versions = calloc(count + 1, sizeof(*versions));
    char(*names)[KVS_KEY_BYTES_MAX + 1] = calloc(count + 1, sizeof(*names));
    kvs_status status = KVS_NO_MEMORY;
    if (rows != NULL && pointers != NULL && versions != NULL && names != NULL) {
        for (size_t i = 0; i < count; i++) {
            const kvs_key_info *info = &keys[i].info;
            memcpy(names[i], info->name, info->name_bytes);
            kvstored__v1__version__init(&versions[i]);
            versions[i].epoch = info->version.epoch;
            versions[i].count = info->version.count;
            kvstored__v1__init_key__init(&rows[i]);
            rows[i].key = names[i];
            rows[i].existed = keys[i].existed;
            rows[i].part_elements = info->part_elements;
            rows[i].parts = info->parts;
            rows[i].version = &versions[i];
            pointers[i] = &rows[i];
        }
        kvs_store_info info;
        kvs_store_describe(state->store, &info);
        Kvstored__V1__Limits limits;
        kvs_limits_fill(&info, &limits);
        Kvstored__V1__InitReply reply = KVSTORED__V1__INIT_REPLY__INIT;
        reply.n_keys = count;
        reply.keys = pointers;
        reply.limits = &limits;
        kvs_pb_reply(state->call, &reply.base);
        status = KVS_OK;
    }
    free(rows);
    free(pointers);
    free(versions);
    free(names);
    return status;
}

static void init_done(kvs_waiter *waiter, const kvs_problem *problem)
{
    init_state *state = (init_state *)(void *)waiter;
    kvs_problem refusal = *problem;
    if (refusal.status == KVS_OK && init_reply(state) != KVS_OK) {
        (void)kvs_problem_set(&refusal, KVS_NO_MEMORY, "no memory for an answer");
    }
    if (refusal.status != KVS_OK) {
        kvs_call_finish(state->call, &refusal);
    }
    kvs_call_unref(state->call);
}

static void init_ended(kvs_call *call, uint64_t now_ns)
{
    init_state *state = kvs_call_state(call);
    if (state->init == NULL) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_INVALID_FRAME, "the call brought no frame");
        kvs_call_finish(call, &problem);
        return;
    }
    (void)kvs_call_take(call);
    state->waiter.deadline_ns = wait_deadline(call, now_ns);
    state->waiter.done = init_done;
    kvs_init_commit(state->init, &state->waiter, now_ns);
}

static void init_deinit(kvs_call *call)
{
    init_state *state = kvs_call_state(call);
    kvs_init_close(state->init);
    kvs_codec_scratch_deinit(&state->scratch);
    kvs_session_unref(state->session);
    kvs_store_unref(state->store);
}

/* ------------------------------------------------------------------ Barrier */

typedef struct barrier_state {
    kvs_waiter waiter; /* first */
    kvs_call *call;
    kvs_store *store;
    kvs_barrier_result result;
    _Atomic bool answered;
} barrier_state;

static void barrier_done(kvs_waiter *waiter, const kvs_problem *problem)
{
    barrier_state *state = (barrier_state *)(void *)waiter;
    atomic_store_explicit(&state->answered, true, memory_order_relaxed);
    if (problem->status == KVS_OK) {
        Kvstored__V1__BarrierReply reply = KVSTORED__V1__BARRIER_REPLY__INIT;
        reply.generation = state->result.generation;
        reply.arrival_index = state->result.arrival_index;
        kvs_pb_reply(state->call, &reply.base);
    } else {
        kvs_call_finish(state->call, problem);
    }
    kvs_call_unref(state->call);
}

static kvs_status enter(kvs_call *call, const Kvstored__V1__BarrierRequest *request,
                        uint64_t now_ns, kvs_problem *problem)
{
    barrier_state *state = kvs_call_state(call);
    if (kvs_call_deadline_ns(call) == 0) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "a barrier needs a deadline");
    }
    kvs_session *session = NULL;
    KVS_TRY(kvs_door_find(kvs_call_context(call), request->store, strlen(request->store),
                          kvs_binary(&request->session), request->session.len, request->epoch,
                          &state->store, &session, problem));
    uint32_t rank = kvs_session_rank(session);
    kvs_session_unref(session);
    state->call = kvs_call_take(call);
    state->waiter.deadline_ns = wait_deadline(call, now_ns);
    state->waiter.done = barrier_done;
    kvs_barrier_enter(state->store, rank, request->name, &state->result, &state->waiter, now_ns);
    return KVS_OK;
}

static void barrier_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    Kvstored__V1__BarrierRequest *request =
        kvs_pb_take(call, message, &kvstored__v1__barrier_request__descriptor);
    kvs_problem problem;
    if (request != NULL && enter(call, request, now_ns, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
    kvs_pb_free(request);
}

/* Whoever has hung up is not there any more. */
static void barrier_closed(kvs_call *call, uint64_t now_ns)
{
    barrier_state *state = kvs_call_state(call);
    if (state->call != NULL && !atomic_load_explicit(&state->answered, memory_order_relaxed)) {
        kvs_barrier_leave(state->store, &state->waiter, now_ns);
    }
}

static void barrier_deinit(kvs_call *call)
{
    barrier_state *state = kvs_call_state(call);
    kvs_store_unref(state->store);
}

/* ------------------------------------------------------------------ SendCommand */

typedef struct command_state {
    kvs_job job; /* first */
    kvs_call *call;
    Kvstored__V1__SendCommandRequest *request;
} command_state;

static void run_command(kvs_job *job)
{
    command_state *state = (command_state *)(void *)job;
    kvs_call *call = state->call;
    kvs_door *door = kvs_call_context(call);
    const Kvstored__V1__SendCommandRequest *request = state->request;
    kvs_problem problem;
    json_t *reply = NULL;
    json_t *json = json_pack("{s:s, s:i, s:s}", "store", request->store, "head", (int)request->head,
                             "body", request->body);
    if (json == NULL) {
        (void)kvs_problem_set(&problem, KVS_INVALID_FIELD, "/body: must be UTF-8");
        kvs_call_finish(call, &problem);
    } else if (kvs_admin_call(door->admin, NULL, "SendCommand", json, &reply, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    } else {
        Kvstored__V1__SendCommandReply done = KVSTORED__V1__SEND_COMMAND_REPLY__INIT;
        kvs_pb_reply(call, &done.base);
    }
    json_decref(json);
    json_decref(reply);
    kvs_call_unref(call);
}

static kvs_status post_command(kvs_call *call, kvs_problem *problem)
{
    command_state *state = kvs_call_state(call);
    kvs_door *door = kvs_call_context(call);
    const Kvstored__V1__SendCommandRequest *request = state->request;
    kvs_session *session = NULL;
    KVS_TRY(kvs_door_find(door, request->store, strlen(request->store),
                          kvs_binary(&request->session), request->session.len, request->epoch, NULL,
                          &session, problem));
    kvs_session_unref(session);
    state->call = kvs_call_take(call);
    state->job.run = run_command;
    if (!kvs_workers_post(door->workers, &state->job)) {
        kvs_call_unref(call);
        return kvs_problem_set(problem, KVS_TOO_MANY, "too many admin calls are waiting");
    }
    return KVS_OK;
}

static void command_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    command_state *state = kvs_call_state(call);
    state->request = kvs_pb_take(call, message, &kvstored__v1__send_command_request__descriptor);
    kvs_problem problem;
    if (state->request != NULL && post_command(call, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
}

static void command_deinit(kvs_call *call)
{
    command_state *state = kvs_call_state(call);
    kvs_pb_free(state->request);
}

static const kvs_method register_method = {
    .path = "/kvstored.v1.KVStore/Register", .slots = 1, .received = register_received};

static const kvs_method init_method = {.path = "/kvstored.v1.KVStore/Init",
                                       .slots = 2,
                                       .state_bytes = sizeof(init_state),
                                       .opened = init_opened,
                                       .received = init_received,
                                       .ended = init_ended,
                                       .deinit = init_deinit};

static const kvs_method barrier_method = {.path = "/kvstored.v1.KVStore/Barrier",
                                          .slots = 1,
                                          .lasting = true,
                                          .state_bytes = sizeof(barrier_state),
                                          .received = barrier_received,
                                          .closed = barrier_closed,
                                          .deinit = barrier_deinit};

static const kvs_method command_method = {.path = "/kvstored.v1.KVStore/SendCommand",
                                          .slots = 1,
                                          .state_bytes = sizeof(command_state),
                                          .received = command_received,
                                          .deinit = command_deinit};

const kvs_method *const kvs_control_methods[] = {&register_method, &init_method, &barrier_method,
                                                 &command_method, NULL};
