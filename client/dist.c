#include "client/dist.h"

#include "base/clock.h"
#include "client/dist_state.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS ((uint64_t)30000)
#define REQUEST_TIMEOUT_MS ((uint64_t)120000)
/* How late a retry, a heartbeat or a deadline may be. */
#define TICK_NS (50 * KVS_MS)
#define TICK_DRAINING_NS KVS_MS

/* ------------------------------------------------------------------ the mutex */

void kvs_dist_lock(kvs_dist *dist)
{
    (void)pthread_mutex_lock(&dist->mutex);
}

void kvs_dist_unlock(kvs_dist *dist)
{
    (void)pthread_mutex_unlock(&dist->mutex);
}

bool kvs_dist_wait(kvs_dist *dist, uint64_t until_ns)
{
    if (until_ns == UINT64_MAX) {
        (void)pthread_cond_wait(&dist->changed, &dist->mutex);
        return true;
    }
    if (kvs_clock_now_ns() >= until_ns) {
        return false;
    }
    struct timespec until = {.tv_sec = (time_t)(until_ns / KVS_SECOND),
                             .tv_nsec = (long)(until_ns % KVS_SECOND)};
    (void)pthread_cond_timedwait(&dist->changed, &dist->mutex, &until);
    return true;
}

uint64_t kvs_dist_until(uint64_t timeout_ms)
{
    uint64_t now = kvs_clock_now_ns();
    return timeout_ms >= (UINT64_MAX - now) / KVS_MS ? UINT64_MAX : now + timeout_ms * KVS_MS;
}

/* ------------------------------------------------------------------ the I/O thread */

static void *run_io(void *context)
{
    kvs_dist *dist = context;
    uint64_t tick_ns = 0;
    for (;;) {
        uint64_t now = kvs_clock_now_ns();
        if (now >= tick_ns) {
            kvs_dist_lock(dist);
            kvs_dist_check_requests(dist, now);
            kvs_dist_tick_session(dist, now);
            bool stop = dist->stop;
            kvs_dist_unlock(dist);
            if (stop) {
                return NULL;
            }
            tick_ns = now + TICK_NS;
        }
        if (dist->draining > 0 && tick_ns > now + TICK_DRAINING_NS) {
            tick_ns = now + TICK_DRAINING_NS; /* changed by this thread alone */
        }
        kvs_peer_poll(dist->peer, tick_ns);
    }
}

/* ------------------------------------------------------------------ closing */

static void free_streams(kvs_dist *dist)
{
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        kvs_dist_stream *stream = &dist->streams[flow];
        free(stream->ready.list);
        kvs_head_deinit(&stream->head);
        kvs_codec_scratch_deinit(&stream->scratch);
    }
}

static void free_dist(kvs_dist *dist)
{
    kvs_dist_free_requests(dist);
    kvs_peer_close(dist->peer);
    free_streams(dist);
    kvs_client_keys_deinit(&dist->keys);
    kvs_sum_deinit(&dist->sum);
    kvs_compression_deinit(&dist->compression);
    kvs_block_pool_deinit(&dist->pool);
    kvs_shared_close(dist->shared);
    free(dist->flight.entries);
    free(dist->headers);
    free(dist->pull_keys);
    free(dist->pieces);
    free(dist->address);
    free(dist->store);
    free(dist->worker);
    (void)pthread_cond_destroy(&dist->changed);
    (void)pthread_mutex_destroy(&dist->mutex);
}

static bool has_calls(const kvs_dist *dist)
{
    bool any = dist->session_call != NULL || dist->registering != NULL;
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        any = any || dist->streams[flow].call != NULL;
    }
    return any;
}

static void cancel_calls(kvs_dist *dist)
{
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        if (dist->streams[flow].call != NULL) {
            kvs_peer_cancel(dist->streams[flow].call);
        }
    }
    if (dist->session_call != NULL) {
        kvs_peer_cancel(dist->session_call);
    }
    if (dist->registering != NULL && dist->registering->call != NULL) {
        kvs_peer_cancel(dist->registering->call);
    }
}

static void stop_thread(kvs_dist *dist)
{
    if (!dist->threaded) {
        return;
    }
    kvs_dist_lock(dist);
    dist->closing = true;
    kvs_dist_leave(dist);
    dist->leaving = true; /* what ends from here on is not mended */
    cancel_calls(dist);
    while (has_calls(dist)) {
        (void)kvs_dist_wait(dist, kvs_clock_now_ns() + TICK_NS);
        cancel_calls(dist); /* a retry may have begun in between */
    }
    dist->stop = true;
    kvs_dist_unlock(dist);
    (void)pthread_join(dist->thread, NULL);
}

static kvs_status dist_close(kv_store *kv, kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    kvs_status status = kvs_dist_wait_all(kv, KV_FOREVER, problem);
    stop_thread(dist);
    free_dist(dist);
    return status;
}

/* ------------------------------------------------------------------ the table */

static kvs_status dist_set_updater(kv_store *kv, kv_updater *updater, void *context,
                                   kvs_problem *problem)
{
    (void)kv;
    (void)updater;
    (void)context;
    return kvs_problem_set(problem, KVS_UNIMPLEMENTED,
                           "an updater is for local stores; use set_optimizer");
}

static kvs_status dist_set_compression(kv_store *kv, const char *json, kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    const kvs_compression before = dist->compression;
    KVS_TRY(kvs_compression_set(&dist->compression, json, problem));
    kvs_status status = kv->rank == 0 ? kvs_dist_tell_compression(dist, problem) : KVS_OK;
    if (status != KVS_OK) {
        dist->compression = before; /* a call that fails changes nothing */
    }
    return status;
}

static void dist_count(kv_store *kv, kv_statistics *out)
{
    kvs_dist *dist = (kvs_dist *)kv;
    kvs_dist_lock(dist);
    *out = dist->statistics;
    kvs_dist_unlock(dist);
}

static kvs_shared *dist_shared(kv_store *kv)
{
    return ((kvs_dist *)kv)->shared;
}

static const kvs_client_table dist_table = {
    .init = kvs_dist_init,
    .transfer = kvs_dist_transfer,
    .wait_handle = kvs_dist_wait_handle,
    .is_done = kvs_dist_is_done,
    .wait_all = kvs_dist_wait_all,
    .set_optimizer = kvs_dist_set_optimizer,
    .get_optimizer = kvs_dist_get_optimizer,
    .set_updater = dist_set_updater,
    .set_compression = dist_set_compression,
    .barrier = kvs_dist_barrier,
    .send_command = kvs_dist_send_command,
    .save_states = kvs_dist_save_states,
    .load_states = kvs_dist_load_states,
    .count = dist_count,
    .shared = dist_shared,
    .view = kvs_dist_view,
    .close = dist_close,
};

/* ------------------------------------------------------------------ opening */

static void init_mutex(kvs_dist *dist)
{
    pthread_condattr_t attributes;
    (void)pthread_mutex_init(&dist->mutex, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&dist->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

/* "host/process" */
static char *default_worker(void)
{
    char host[65] = "";
    char text[96];
    (void)gethostname(host, sizeof host - 1);
    (void)snprintf(text, sizeof text, "%s/%ld", host, (long)getpid());
    return strdup(text);
}

static void set_options(kvs_dist *dist, const kv_options *options)
{
    uint64_t connect = options->connect_timeout_ms;
    uint64_t request = options->request_timeout_ms;
    dist->connect_timeout_ns = (connect != 0 ? connect : CONNECT_TIMEOUT_MS) * KVS_MS;
    dist->request_timeout_ns = (request != 0 ? request : REQUEST_TIMEOUT_MS) * KVS_MS;
    dist->credit_wanted = options->credit_bytes;
    dist->rank_wanted = options->rank;
    dist->limits = (kvs_dist_limits){
        .part_elements = KVS_PART_ELEMENTS,
        .frame_payload_bytes = KVS_FRAME_PAYLOAD_BYTES_MAX,
        .credit_bytes = KVS_CREDIT_BYTES_DEFAULT,
        .inflight_parts = KVS_INFLIGHT_PARTS_MIN,
        .lease_ns = KVS_LEASE_NS,
        .barrier_ns = KVS_BARRIER_DEADLINE_NS,
    };
    if (options->credit_bytes != 0) {
        dist->limits.credit_bytes = options->credit_bytes;
    }
    dist->credit = dist->limits.credit_bytes;
    dist->store = strdup(options->store != NULL ? options->store : "default");
    dist->worker = options->worker != NULL ? strdup(options->worker) : default_worker();
}

static kvs_status alloc_parts(kvs_dist *dist, const char *address, const kv_options *options)
{
    dist->address = strdup(address);
    dist->flight.base = 1;
    dist->flight.next = 1;
    dist->next_number = 1;
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        dist->streams[flow].dist = dist;
        dist->streams[flow].flow = (kvs_flow)flow;
        dist->streams[flow].resend = 1;
    }
    set_options(dist, options);
    dist->headers = calloc(KVS_SEND_PARTS_MAX, sizeof *dist->headers);
    dist->pull_keys = calloc(KVS_SEND_PARTS_MAX, sizeof *dist->pull_keys);
    dist->pieces = calloc(KVS_SEND_PARTS_MAX, sizeof *dist->pieces);
    if (dist->address == NULL || dist->store == NULL || dist->worker == NULL ||
        dist->headers == NULL || dist->pull_keys == NULL || dist->pieces == NULL) {
        return KVS_NO_MEMORY;
    }
    return kvs_flight_reserve(&dist->flight, dist->limits.inflight_parts);
}

/* The threads made here take no signals of the host process. */
static kvs_status start(kvs_dist *dist, const char *address)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    kvs_status status = kvs_peer_open(address, &dist->peer);
    if (status == KVS_OK) {
        dist->threaded = pthread_create(&dist->thread, NULL, run_io, dist) == 0;
        status = dist->threaded ? KVS_OK : KVS_NO_MEMORY;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (dist->threaded) {
        (void)pthread_setname_np(dist->thread, "kvstore-io");
    }
    return status;
}

static kvs_status open_dist(kvs_dist *dist, const char *address, const kv_options *options,
                            kvs_problem *problem)
{
    kvs_status status = alloc_parts(dist, address, options);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "no memory for a store");
    }
    KVS_TRY(kvs_sum_init(&dist->sum, problem));
    status = start(dist, address);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "no thread for a store");
    }
    kvs_dist_lock(dist);
    status = kvs_dist_wait_up(dist, kvs_clock_now_ns() + dist->connect_timeout_ns, problem);
    kvs_dist_unlock(dist);
    return status;
}

kvs_status kvs_dist_open(const char *type, const char *address, const kv_options *options,
                         kv_store **out, kvs_problem *problem)
{
    if (address == NULL || address[0] == '\0') {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "type %s needs a server's address",
                               type);
    }
    kvs_dist *dist = calloc(1, sizeof *dist);
    if (dist == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a store");
    }
    init_mutex(dist);
    dist->shared = kvs_shared_open(address, options->store != NULL ? options->store : "default");
    kvs_block_pool_init(&dist->pool, dist->shared);
    kvs_status status = kvs_client_init(&dist->base, &dist_table, type);
    if (status != KVS_OK) {
        free_dist(dist);
        free(dist);
        return kvs_problem_set(problem, status, "no memory for a store");
    }
    status = open_dist(dist, address, options, problem);
    if (status != KVS_OK) {
        stop_thread(dist);
        free_dist(dist);
        kvs_client_deinit(&dist->base);
        free(dist);
        return status;
    }
    *out = &dist->base;
    return KVS_OK;
}
