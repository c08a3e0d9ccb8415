#include "api/kvstored.pb-c.h"
#include "base/clock.h"
#include "client/dist_state.h"

#include <stdlib.h>
#include <string.h>

#define REGISTER_DEADLINE_NS (10 * KVS_SECOND)
#define BACKOFF_FIRST_NS (20 * KVS_MS)
#define BACKOFF_MAX_NS (1000 * KVS_MS)
/* Large enough for any SessionRequest: names are bounded. */
#define SESSION_REQUEST_BYTES 512u

/* ------------------------------------------------------------------ limits */

void kvs_dist_set_limits(kvs_dist *dist, const Kvstored__V1__Limits *limits)
{
    kvs_dist_limits *own = &dist->limits;
    if (limits == NULL) {
        return;
    }
    own->part_elements = limits->part_elements != 0 ? limits->part_elements : own->part_elements;
    own->frame_payload_bytes =
        limits->frame_payload_bytes != 0 ? limits->frame_payload_bytes : own->frame_payload_bytes;
    own->lease_ns = limits->lease_ms != 0 ? limits->lease_ms * KVS_MS : own->lease_ns;
    if (limits->barrier_deadline_ms != 0) {
        own->barrier_ns = limits->barrier_deadline_ms * KVS_MS;
    }
    if (limits->inflight_parts > own->inflight_parts &&
        kvs_flight_reserve(&dist->flight, limits->inflight_parts) == KVS_OK) {
        own->inflight_parts = limits->inflight_parts;
    }
    uint64_t credit = limits->credit_bytes;
    if (dist->credit_wanted != 0 && (credit == 0 || dist->credit_wanted < credit)) {
        credit = dist->credit_wanted;
    }
    if (credit != 0 && credit != own->credit_bytes) {
        uint64_t used = own->credit_bytes - dist->credit;
        own->credit_bytes = credit;
        dist->credit = used < credit ? credit - used : 0;
    }
}

/* ------------------------------------------------------------------ the end of a session */

/* Pulls that were under way ask again in the next session. */
static bool queue_again(kvs_dist *dist)
{
    for (kvs_request *request = dist->open.first; request != NULL; request = request->next) {
        for (size_t i = 0; i < request->item_count; i++) {
            kvs_item *item = &request->items[i];
            if (item->finished || item->parts_sent < item->parts) {
                continue; /* or is still queued */
            }
            item->parts_sent = 0;
            item->received = 0;
            if (kvs_item_queue(dist, item) != KVS_OK) {
                return false;
            }
        }
    }
    return true;
}

static void fail_all(kvs_dist *dist, const kvs_problem *problem)
{
    kvs_request *next = NULL;
    for (kvs_request *request = dist->open.first; request != NULL; request = next) {
        next = request->next;
        if (!request->draining) {
            kvs_request_fail(request, problem);
        }
    }
}

/* The session is over. What was sent of it is not repeated in another: whoever pushed is told, and
 * all that came after it. What has not been sent at all goes on in the next session. */
static void end_session(kvs_dist *dist, const kvs_problem *problem)
{
    bool pushes = kvs_dist_has_pushes(dist);
    dist->has_session = false;
    dist->phase = KVS_DIST_DOWN;
    dist->problem = *problem;
    dist->abandon = false;
    kvs_flight_reset(dist, true);
    if (pushes || !queue_again(dist)) {
        fail_all(dist, problem);
    }
    if (dist->open.first != NULL && !dist->closing) {
        kvs_dist_connect(dist);
    }
    (void)pthread_cond_broadcast(&dist->changed);
}

/* Everybody who waits is told. A session that is kept is resumed by the next call, behind all that
 * was under way. */
static void give_up(kvs_dist *dist, const kvs_problem *problem, bool keep_session)
{
    dist->has_session = dist->has_session && keep_session;
    dist->phase = KVS_DIST_DOWN;
    dist->problem = *problem;
    dist->abandon = false;
    kvs_flight_reset(dist, !dist->has_session);
    fail_all(dist, problem);
    (void)pthread_cond_broadcast(&dist->changed);
}

/* ------------------------------------------------------------------ the session's stream */

static void session_received(void *context, const kvs_span *spans, size_t count)
{
    kvs_dist *dist = context;
    uint8_t bytes[SESSION_REQUEST_BYTES];
    kvs_payload payload = {.spans = spans, .count = (uint32_t)count};
    for (size_t i = 0; i < count; i++) {
        payload.bytes += spans[i].bytes;
    }
    if (payload.bytes > sizeof bytes) {
        return;
    }
    kvs_payload_gather(&payload, bytes);
    Kvstored__V1__SessionReply *reply =
        kvstored__v1__session_reply__unpack(NULL, payload.bytes, bytes);
    if (reply == NULL) {
        return;
    }
    kvs_dist_lock(dist);
    dist->membership = reply->membership;
    dist->live_workers = reply->live_workers;
    kvs_dist_set_limits(dist, reply->limits);
    kvs_dist_pump(dist);
    kvs_dist_unlock(dist);
    kvstored__v1__session_reply__free_unpacked(reply, NULL);
}

static void session_sent(void *context)
{
    kvs_dist *dist = context;
    kvs_dist_lock(dist);
    dist->session_sending = false;
    (void)pthread_cond_broadcast(&dist->changed);
    kvs_dist_unlock(dist);
}

static void session_ended(void *context, const kvs_problem *problem)
{
    kvs_dist *dist = context;
    kvs_dist_lock(dist);
    dist->session_call = NULL;
    dist->session_sending = false;
    kvs_problem told = *problem;
    if (told.status == KVS_OK) {
        (void)kvs_problem_set(&told, KVS_UNAVAILABLE, "the server has ended the session's stream");
    }
    kvs_dist_broken(dist, &told);
    (void)pthread_cond_broadcast(&dist->changed);
    kvs_dist_unlock(dist);
}

static const kvs_peer_events session_events = {
    .received = session_received,
    .sent = session_sent,
    .ended = session_ended,
};

static void send_session(kvs_dist *dist, bool leave)
{
    Kvstored__V1__SessionRequest request = KVSTORED__V1__SESSION_REQUEST__INIT;
    uint8_t bytes[SESSION_REQUEST_BYTES];
    request.store = dist->store;
    request.session.data = dist->session;
    request.session.len = KVS_SESSION_BYTES;
    request.epoch = dist->epoch;
    request.leave = leave;
    if (kvstored__v1__session_request__get_packed_size(&request) > sizeof bytes) {
        return;
    }
    size_t used = kvstored__v1__session_request__pack(&request, bytes);
    dist->session_sending = true;
    kvs_peer_send(dist->session_call, bytes, used, NULL, 0, leave);
}

static void heartbeat(kvs_dist *dist, uint64_t now_ns)
{
    if (dist->session_call == NULL) {
        dist->session_call = kvs_peer_start(
            dist->peer, KVS_LANE_CONTROL, "/kvstored.v1.KVStore/Session", 0, &session_events, dist);
        if (dist->session_call == NULL) {
            return;
        }
    }
    if (!dist->session_sending) {
        send_session(dist, false);
    }
    dist->heartbeat_ns = now_ns + dist->limits.lease_ns / 3;
}

void kvs_dist_leave(kvs_dist *dist)
{
    if (dist->phase != KVS_DIST_UP || dist->session_call == NULL) {
        return;
    }
    uint64_t until = kvs_clock_now_ns() + KVS_SECOND;
    while (dist->session_sending && dist->session_call != NULL && kvs_dist_wait(dist, until)) {
    }
    dist->leaving = true;
    if (dist->session_call != NULL && !dist->session_sending) {
        send_session(dist, true);
    }
    until = kvs_clock_now_ns() + KVS_SECOND;
    while (dist->session_call != NULL && kvs_dist_wait(dist, until)) {
    }
}

/* ------------------------------------------------------------------ registering */

static void wait_and_retry(kvs_dist *dist, const kvs_problem *problem)
{
    dist->phase = KVS_DIST_WAITING;
    dist->problem = *problem;
    dist->retry_ns = kvs_clock_now_ns() + dist->backoff_ns;
    uint64_t next = dist->backoff_ns == 0 ? BACKOFF_FIRST_NS : 2 * dist->backoff_ns;
    dist->backoff_ns = next < BACKOFF_MAX_NS ? next : BACKOFF_MAX_NS;
    (void)pthread_cond_broadcast(&dist->changed);
}

static bool is_registered(kvs_dist *dist, const Kvstored__V1__RegisterReply *reply)
{
    if (reply->session.len != KVS_SESSION_BYTES) {
        return false;
    }
    memcpy(dist->session, reply->session.data, KVS_SESSION_BYTES);
    dist->epoch = reply->epoch;
    dist->membership = reply->membership;
    dist->base.rank = reply->rank;
    dist->base.num_workers = reply->num_workers;
    dist->live_workers = reply->num_workers;
    kvs_dist_set_limits(dist, reply->limits);
    /* After FENCED the same rank is asked for: the share of the data goes with it. */
    dist->rank_wanted = reply->rank;
    return true;
}

static void come_up(kvs_dist *dist)
{
    if (dist->has_session) {
        dist->statistics.reconnects++;
    }
    dist->has_session = true;
    dist->phase = KVS_DIST_UP;
    kvs_shared_begin(dist->shared, dist->session, KVS_SESSION_BYTES, dist->epoch);
    kvs_flight_unsend(dist);
    heartbeat(dist, kvs_clock_now_ns());
    kvs_dist_pump(dist);
    (void)pthread_cond_broadcast(&dist->changed);
}

static bool is_worth_a_retry(kvs_status status)
{
    return status == KVS_UNAVAILABLE || status == KVS_STOPPING || status == KVS_DEADLINE ||
           status == KVS_CANCELLED;
}

static void register_done(kvs_unary *unary)
{
    kvs_dist *dist = unary->dist;
    kvs_problem problem = unary->problem;
    Kvstored__V1__RegisterReply *reply = NULL;
    dist->registering = NULL;
    if (problem.status == KVS_OK) {
        reply = kvstored__v1__register_reply__unpack(NULL, unary->reply_bytes, unary->reply);
    }
    if (dist->leaving) {
        dist->phase = KVS_DIST_DOWN;
    } else if (reply != NULL && is_registered(dist, reply)) {
        come_up(dist);
    } else if (problem.status == KVS_OK) {
        (void)kvs_problem_set(&problem, KVS_INTERNAL, "Register was answered with no session");
        give_up(dist, &problem, false);
    } else if (is_worth_a_retry(problem.status)) {
        wait_and_retry(dist, &problem);
    } else if (dist->has_session &&
               (problem.status == KVS_FENCED || problem.status == KVS_NOT_REGISTERED)) {
        problem.status = KVS_FENCED;
        end_session(dist, &problem);
    } else {
        give_up(dist, &problem, false);
    }
    if (reply != NULL) {
        kvstored__v1__register_reply__free_unpacked(reply, NULL);
    }
    kvs_unary_deinit(unary);
    free(unary);
}

static void begin_register(kvs_dist *dist)
{
    kvs_unary *unary = calloc(1, sizeof *unary);
    if (unary == NULL) {
        dist->phase = KVS_DIST_WAITING;
        dist->retry_ns = kvs_clock_now_ns() + BACKOFF_MAX_NS;
        return;
    }
    Kvstored__V1__RegisterRequest request = KVSTORED__V1__REGISTER_REQUEST__INIT;
    request.store = dist->store;
    request.type = dist->base.type;
    request.name = dist->worker;
    if (dist->has_session) {
        request.resume_session.data = dist->session;
        request.resume_session.len = KVS_SESSION_BYTES;
        request.epoch = dist->epoch;
        request.lowest_unacknowledged = dist->flight.base;
    }
    if (dist->rank_wanted >= 0) {
        request.wanted_case = KVSTORED__V1__REGISTER_REQUEST__WANTED_RANK;
        request.rank = (uint32_t)dist->rank_wanted;
    }
    dist->phase = KVS_DIST_REGISTERING;
    dist->registering = unary;
    unary->done = register_done;
    kvs_unary_start(unary, dist, "/kvstored.v1.KVStore/Register", &request.base,
                    kvs_clock_now_ns() + REGISTER_DEADLINE_NS);
    if (unary->finished) {
        dist->registering = NULL;
        dist->phase = KVS_DIST_WAITING;
        dist->retry_ns = kvs_clock_now_ns() + BACKOFF_MAX_NS;
        kvs_unary_deinit(unary);
        free(unary);
    }
}

void kvs_dist_connect(kvs_dist *dist)
{
    if (dist->phase == KVS_DIST_DOWN && dist->registering == NULL && !dist->leaving) {
        begin_register(dist);
    }
}

kvs_status kvs_dist_wait_up(kvs_dist *dist, uint64_t until_ns, kvs_problem *problem)
{
    kvs_dist_connect(dist);
    while (dist->phase != KVS_DIST_UP) {
        if (dist->phase == KVS_DIST_DOWN) {
            *problem = dist->problem;
            return problem->status;
        }
        if (!kvs_dist_wait(dist, until_ns) && dist->phase != KVS_DIST_UP) {
            return kvs_problem_set(problem, KVS_UNAVAILABLE, "%s", dist->problem.detail);
        }
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ breaks */

/* Ours is the fault, or the store is gone: sending the same again would end the same way. */
static bool is_final(kvs_status status)
{
    return status == KVS_INVALID_FRAME || status == KVS_INVALID_FIELD ||
           status == KVS_UNIMPLEMENTED || status == KVS_TOO_LARGE || status == KVS_STORE_DELETED ||
           status == KVS_STORE_NOT_FOUND || status == KVS_INTERNAL;
}

static void cancel_streams(kvs_dist *dist)
{
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        if (dist->streams[flow].call != NULL) {
            kvs_peer_cancel(dist->streams[flow].call);
        }
    }
    if (dist->session_call != NULL) {
        kvs_peer_cancel(dist->session_call);
    }
}

static bool has_streams(const kvs_dist *dist)
{
    bool any = dist->session_call != NULL;
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        any = any || dist->streams[flow].call != NULL;
    }
    return any;
}

void kvs_dist_broken(kvs_dist *dist, const kvs_problem *problem)
{
    if (dist->phase != KVS_DIST_UP || dist->leaving) {
        return;
    }
    cancel_streams(dist);
    wait_and_retry(dist, problem);
    if (is_final(problem->status)) {
        dist->abandon = true;
    }
}

void kvs_dist_tick_session(kvs_dist *dist, uint64_t now_ns)
{
    if (dist->leaving) {
        return;
    }
    if (dist->abandon && dist->registering == NULL && !has_streams(dist)) {
        kvs_problem problem = dist->problem;
        if (problem.status == KVS_OK) {
            (void)kvs_problem_set(&problem, KVS_FENCED, "the session was given up");
        }
        give_up(dist, &problem, true);
        return;
    }
    if (dist->phase == KVS_DIST_WAITING && now_ns >= dist->retry_ns && !has_streams(dist)) {
        begin_register(dist);
    }
    if (dist->phase == KVS_DIST_UP && now_ns >= dist->heartbeat_ns) {
        heartbeat(dist, now_ns);
    }
    kvs_dist_pump(dist);
}
