#include "api/kvstored.pb-c.h"
#include "base/clock.h"
#include "client/dist_state.h"

#include <stdlib.h>
#include <string.h>

/* How much longer than its caller a barrier's call lives, so that the server still knows it while
 * it is asked who is missing. */
#define BARRIER_EXTRA_NS (3 * KVS_SECOND)

/* ------------------------------------------------------------------ one message each way */

static void unary_received(void *context, const kvs_span *spans, size_t count)
{
    kvs_unary *unary = context;
    kvs_payload payload = {.spans = spans, .count = (uint32_t)count};
    for (size_t i = 0; i < count; i++) {
        payload.bytes += spans[i].bytes;
    }
    free(unary->reply);
    unary->reply = malloc(payload.bytes + 1);
    unary->reply_bytes = payload.bytes;
    unary->reply_status = unary->reply == NULL ? KVS_NO_MEMORY : KVS_OK;
    if (unary->reply != NULL) {
        kvs_payload_gather(&payload, unary->reply);
    }
}

static void unary_ended(void *context, const kvs_problem *problem)
{
    kvs_unary *unary = context;
    kvs_dist *dist = unary->dist;
    kvs_dist_lock(dist);
    unary->problem = *problem;
    if (problem->status == KVS_OK && unary->reply == NULL) {
        (void)kvs_problem_set(&unary->problem,
                              unary->reply_status != KVS_OK ? unary->reply_status : KVS_INTERNAL,
                              "the call was not answered");
    }
    unary->call = NULL;
    unary->finished = true;
    (void)pthread_cond_broadcast(&dist->changed);
    if (unary->done != NULL) {
        unary->done(unary);
    }
    kvs_dist_unlock(dist);
}

static const kvs_peer_events unary_events = {.received = unary_received, .ended = unary_ended};

void kvs_unary_start(kvs_unary *unary, kvs_dist *dist, const char *method,
                     const ProtobufCMessage *request, uint64_t deadline_ns)
{
    unary->dist = dist;
    size_t bytes = protobuf_c_message_get_packed_size(request);
    uint8_t *packed = malloc(bytes + 1);
    if (packed != NULL) {
        (void)protobuf_c_message_pack(request, packed);
        unary->call =
            kvs_peer_start(dist->peer, KVS_LANE_CONTROL, method, deadline_ns, &unary_events, unary);
    }
    if (unary->call == NULL) {
        free(packed);
        unary->finished = true;
        (void)kvs_problem_set(&unary->problem, KVS_NO_MEMORY, "no memory for a call");
        return;
    }
    kvs_peer_send(unary->call, packed, bytes, NULL, 0, true);
    free(packed);
}

void kvs_unary_deinit(kvs_unary *unary)
{
    free(unary->reply);
    unary->reply = NULL;
}

kvs_status kvs_dist_call(kvs_dist *dist, const char *method, const ProtobufCMessage *request,
                         uint64_t until_ns, kvs_repeat repeat, kvs_unary *unary,
                         kvs_problem *problem)
{
    kvs_dist_lock(dist);
    kvs_status status;
    do {
        kvs_unary_deinit(unary);
        *unary = (kvs_unary){0};
        kvs_unary_start(unary, dist, method, request, until_ns);
        while (!unary->finished) {
            (void)kvs_dist_wait(dist, UINT64_MAX);
        }
        status = unary->problem.status;
        if (status == KVS_UNAVAILABLE && repeat == KVS_REPEATABLE) {
            (void)kvs_dist_wait(dist, kvs_clock_now_ns() + 50 * KVS_MS);
        }
    } while (status == KVS_UNAVAILABLE && repeat == KVS_REPEATABLE &&
             kvs_clock_now_ns() < until_ns);
    *problem = unary->problem;
    kvs_dist_unlock(dist);
    return status;
}

/* Waits for the session and copies what a request says of it. */
static kvs_status copy_session(kvs_dist *dist, uint64_t until_ns, uint8_t *session, uint64_t *epoch,
                               kvs_problem *problem)
{
    kvs_dist_lock(dist);
    kvs_status status = kvs_dist_wait_up(dist, until_ns, problem);
    memcpy(session, dist->session, KVS_SESSION_BYTES);
    *epoch = dist->epoch;
    kvs_dist_unlock(dist);
    return status;
}

/* ------------------------------------------------------------------ the optimizer */

kvs_status kvs_dist_set_optimizer(kv_store *kv, const char *json, kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    Kvstored__V1__Optimizer optimizer = KVSTORED__V1__OPTIMIZER__INIT;
    Kvstored__V1__SetOptimizerRequest request = KVSTORED__V1__SET_OPTIMIZER_REQUEST__INIT;
    optimizer.json = (char *)(json == NULL ? "null" : json);
    request.store = dist->store;
    request.optimizer = &optimizer;
    kvs_unary unary = {0};
    kvs_status status = kvs_dist_call(dist, "/kvstored.v1.Admin/SetOptimizer", &request.base,
                                      kvs_clock_now_ns() + dist->request_timeout_ns, KVS_REPEATABLE,
                                      &unary, problem);
    kvs_unary_deinit(&unary);
    return status;
}

kvs_status kvs_dist_get_optimizer(kv_store *kv, char **json, kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    Kvstored__V1__GetOptimizerRequest request = KVSTORED__V1__GET_OPTIMIZER_REQUEST__INIT;
    request.store = dist->store;
    kvs_unary unary = {0};
    kvs_status status = kvs_dist_call(dist, "/kvstored.v1.Admin/GetOptimizer", &request.base,
                                      kvs_clock_now_ns() + dist->request_timeout_ns, KVS_REPEATABLE,
                                      &unary, problem);
    if (status == KVS_OK) {
        Kvstored__V1__Optimizer *reply =
            kvstored__v1__optimizer__unpack(NULL, unary.reply_bytes, unary.reply);
        *json = reply != NULL ? strdup(reply->json) : NULL;
        if (*json == NULL) {
            status = kvs_problem_set(problem, KVS_INTERNAL, "the optimizer cannot be read");
        }
        if (reply != NULL) {
            kvstored__v1__optimizer__free_unpacked(reply, NULL);
        }
    }
    kvs_unary_deinit(&unary);
    return status;
}

kvs_status kvs_dist_tell_compression(kvs_dist *dist, kvs_problem *problem)
{
    const kvs_encoding *encoding = &dist->compression.encoding;
    const kvs_encoding pulls = {.pull = dist->compression.pull};
    Kvstored__V1__Compression compression = KVSTORED__V1__COMPRESSION__INIT;
    Kvstored__V1__SetCompressionRequest request = KVSTORED__V1__SET_COMPRESSION_REQUEST__INIT;
    compression.type = (char *)kvs_encoding_name(encoding);
    compression.step_case = KVSTORED__V1__COMPRESSION__STEP_THRESHOLD;
    compression.threshold = (double)encoding->threshold;
    compression.ratio = encoding->ratio;
    compression.pull =
        (char *)(pulls.pull == KVS_CODEC_NONE ? "none" : kvs_encoding_pull_name(&pulls));
    request.store = dist->store;
    request.compression = &compression;
    kvs_unary unary = {0};
    kvs_status status = kvs_dist_call(dist, "/kvstored.v1.Admin/SetCompression", &request.base,
                                      kvs_clock_now_ns() + dist->request_timeout_ns, KVS_REPEATABLE,
                                      &unary, problem);
    kvs_unary_deinit(&unary);
    return status;
}

/* ------------------------------------------------------------------ barrier, command */

/* Waits for a barrier's call until `until_ns`, then asks who is missing and lets go. */
static kvs_status wait_barrier(kvs_dist *dist, kvs_unary *unary, uint64_t until_ns,
                               kvs_problem *problem)
{
    kvs_problem words = {.status = KVS_OK};
    kvs_dist_lock(dist);
    while (!unary->finished && kvs_dist_wait(dist, until_ns)) {
    }
    if (!unary->finished) {
        kvs_dist_unlock(dist);
        (void)kvs_problem_set(&words, KVS_DEADLINE, "not all ranks have come");
        kvs_dist_name_barrier(dist, &words);
        kvs_dist_lock(dist);
    }
    if (unary->call != NULL) {
        kvs_peer_cancel(unary->call);
    }
    while (!unary->finished) {
        (void)kvs_dist_wait(dist, UINT64_MAX);
    }
    bool late = unary->problem.status != KVS_OK && words.status != KVS_OK;
    *problem = late ? words : unary->problem;
    kvs_dist_unlock(dist);
    return problem->status;
}

kvs_status kvs_dist_barrier(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    uint8_t session[KVS_SESSION_BYTES];
    kvs_dist_lock(dist);
    uint64_t longest_ms = dist->limits.barrier_ns / KVS_MS;
    kvs_dist_unlock(dist);
    /* The store's own deadline is the server's to tell. */
    uint64_t until =
        kvs_dist_until(timeout_ms != 0 && timeout_ms < longest_ms ? timeout_ms : longest_ms + 1000);
    Kvstored__V1__BarrierRequest request = KVSTORED__V1__BARRIER_REQUEST__INIT;
    KVS_TRY(copy_session(dist, until, session, &request.epoch, problem));
    request.store = dist->store;
    request.session.data = session;
    request.session.len = KVS_SESSION_BYTES;
    kvs_unary unary = {0};
    /* Once: it may have ended for all, and entering again would wait for the next one. */
    kvs_dist_lock(dist);
    kvs_unary_start(&unary, dist, "/kvstored.v1.KVStore/Barrier", &request.base,
                    until + BARRIER_EXTRA_NS);
    kvs_dist_unlock(dist);
    kvs_status status = wait_barrier(dist, &unary, until, problem);
    kvs_unary_deinit(&unary);
    return status;
}

kvs_status kvs_dist_send_command(kv_store *kv, int head, const char *body, kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    uint8_t session[KVS_SESSION_BYTES];
    uint64_t until = kvs_clock_now_ns() + dist->request_timeout_ns;
    Kvstored__V1__SendCommandRequest request = KVSTORED__V1__SEND_COMMAND_REQUEST__INIT;
    KVS_TRY(copy_session(dist, until, session, &request.epoch, problem));
    request.store = dist->store;
    request.session.data = session;
    request.session.len = KVS_SESSION_BYTES;
    request.head = head;
    request.body = (char *)body;
    kvs_unary unary = {0};
    kvs_status status = kvs_dist_call(dist, "/kvstored.v1.KVStore/SendCommand", &request.base,
                                      until, KVS_ONCE, &unary, problem);
    kvs_unary_deinit(&unary);
    return status;
}
