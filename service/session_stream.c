#include "service/door.h"

#include "api/kvstored.pb-c.h"
#include "service/limits_reply.h"
#include "service/pb_call.h"

#include <string.h>

/* Replies that a peer may leave unread before its heartbeats are no longer taken. */
#define REPLIES_MAX 4u

/* The Session stream: heartbeats up; epoch, membership and drain down. */
typedef struct session_state {
    kvs_subscriber subscriber; /* first */
    pthread_mutex_t lock;      /* polling thread and ticking thread: what was told, and when */
    kvs_store *store;
    kvs_session *session;
    uint64_t membership;
    bool drain;
    kvs_message *held;
} session_state;

/* Lock held. */
static void tell(session_state *state, const kvs_store_info *info, bool drain)
{
    kvs_call *call = state->subscriber.call;
    kvs_door *door = kvs_call_context(call);
    Kvstored__V1__Limits limits;
    kvs_limits_fill(info, &limits);
    Kvstored__V1__SessionReply reply = KVSTORED__V1__SESSION_REPLY__INIT;
    reply.epoch = kvs_engine_epoch(door->engine);
    reply.membership = info->membership;
    reply.num_workers = info->num_workers;
    reply.live_workers = info->live_workers;
    reply.lease_ms = info->lease_ns / KVS_MS;
    reply.drain = drain;
    reply.limits = &limits;
    state->membership = info->membership;
    state->drain = drain;
    kvs_pb_send(call, &reply.base);
}

static bool draining(kvs_call *call)
{
    kvs_door *door = kvs_call_context(call);
    return atomic_load_explicit(&door->draining, memory_order_acquire);
}

static void session_look(kvs_subscriber *subscriber, uint64_t now_ns)
{
    (void)now_ns;
    session_state *state = (session_state *)(void *)subscriber;
    bool drain = draining(subscriber->call);
    kvs_store_info info;
    kvs_store_describe(state->store, &info);
    pthread_mutex_lock(&state->lock);
    if ((info.membership != state->membership || drain != state->drain) &&
        kvs_call_queued(subscriber->call) < REPLIES_MAX) {
        tell(state, &info, drain);
    }
    pthread_mutex_unlock(&state->lock);
}

static kvs_status beat(session_state *state, const Kvstored__V1__SessionRequest *request,
                       uint64_t now_ns, kvs_problem *problem)
{
    kvs_call *call = state->subscriber.call;
    kvs_session *session = NULL;
    kvs_store *store = NULL;
    KVS_TRY(kvs_door_find(kvs_call_context(call), request->store, strlen(request->store),
                          kvs_binary(&request->session), request->session.len, request->epoch,
                          &store, &session, problem));
    bool same = state->session == NULL || state->session == session;
    if (state->session == NULL) {
        state->session = session;
        state->store = store;
    } else {
        kvs_session_unref(session);
        kvs_store_unref(store);
    }
    if (!same) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "the stream is bound to another session");
    }
    if (request->leave) {
        kvs_session_leave(state->session, now_ns);
    } else if (kvs_session_heartbeat(state->session, now_ns) != KVS_OK) {
        return kvs_problem_set(problem, KVS_FENCED, "the session has ended");
    }
    kvs_store_info info;
    kvs_store_describe(state->store, &info);
    pthread_mutex_lock(&state->lock);
    tell(state, &info, draining(call));
    pthread_mutex_unlock(&state->lock);
    if (request->leave) {
        kvs_call_finish(call, NULL);
    } else {
        kvs_door_subscribe(kvs_call_context(call), &state->subscriber);
    }
    return KVS_OK;
}

static void session_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    session_state *state = kvs_call_state(call);
    Kvstored__V1__SessionRequest *request =
        kvs_pb_take(call, message, &kvstored__v1__session_request__descriptor);
    kvs_problem problem;
    if (request != NULL && beat(state, request, now_ns, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
    }
    kvs_pb_free(request);
    if (kvs_call_queued(call) < REPLIES_MAX) {
        kvs_message_release(call, message);
    } else {
        state->held = message;
    }
}

static void session_sent(kvs_call *call, uint64_t cookie, uint64_t now_ns)
{
    (void)cookie;
    (void)now_ns;
    session_state *state = kvs_call_state(call);
    if (state->held != NULL && kvs_call_queued(call) < REPLIES_MAX) {
        kvs_message *message = state->held;
        state->held = NULL;
        kvs_message_release(call, message);
    }
}

static void session_opened(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    session_state *state = kvs_call_state(call);
    pthread_mutex_init(&state->lock, NULL);
    state->subscriber.call = call;
    state->subscriber.look = session_look;
}

static void session_closed(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    session_state *state = kvs_call_state(call);
    kvs_door_unsubscribe(kvs_call_context(call), &state->subscriber);
}

static void session_deinit(kvs_call *call)
{
    session_state *state = kvs_call_state(call);
    if (state->subscriber.call != NULL) {
        pthread_mutex_destroy(&state->lock);
    }
    kvs_session_unref(state->session);
    kvs_store_unref(state->store);
}

static const kvs_method session_method = {.path = "/kvstored.v1.KVStore/Session",
                                          .slots = 1,
                                          .streaming = true,
                                          .lasting = true,
                                          .state_bytes = sizeof(session_state),
                                          .opened = session_opened,
                                          .received = session_received,
                                          .sent = session_sent,
                                          .closed = session_closed,
                                          .deinit = session_deinit};

const kvs_method *const kvs_session_methods[] = {&session_method, NULL};
