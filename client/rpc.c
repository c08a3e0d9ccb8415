#include "client/rpc.h"

#include "base/check.h"
#include "base/clock.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A piece below it costs less to copy than to carry as a slice of its own. */
#define COPY_BELOW_BYTES (16 * KVS_KIB)
#define SLICES_MAX 1024u

#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
/* The core is not instrumented: the hand-over of a tag has to be told. */
#define TAG_GIVE(tag) __tsan_release(tag)
#define TAG_TAKE(tag) __tsan_acquire(tag)
#else
#define TAG_GIVE(tag) ((void)(tag))
#define TAG_TAKE(tag) ((void)(tag))
#endif

typedef enum batch_kind {
    BATCH_START,
    BATCH_INITIAL,
    BATCH_SEND,
    BATCH_CLOSE,
    BATCH_RECEIVE,
    BATCH_STATUS,
    BATCH_COUNT
} batch_kind;

typedef struct batch_tag {
    kvs_peer_call *call;
    batch_kind kind;
} batch_tag;

struct kvs_peer {
    grpc_completion_queue *queue;
    grpc_channel *channels[KVS_LANE_COUNT];
    kvs_span spans[KVS_FRAME_SPANS_MAX]; /* of the message that is being received */
};

struct kvs_peer_call {
    kvs_peer *peer;
    grpc_call *call;
    const kvs_peer_events *events;
    void *context;
    _Atomic uint32_t pending; /* batches that the core has */
    bool has_status;          /* polling thread, as the next one */
    bool told;
    grpc_byte_buffer *outgoing;
    grpc_byte_buffer *incoming;
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_status_code code;
    grpc_slice details;
    batch_tag tags[BATCH_COUNT];
};

/* ------------------------------------------------------------------ opening */

static grpc_arg integer_argument(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = value};
}

static grpc_channel *open_channel(const char *address)
{
    grpc_arg list[] = {
        /* Nor with another store of this process: a connection is one worker's. */
        integer_argument(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        /* The client replays by sequence; the core's retries would keep copies of messages. */
        integer_argument(GRPC_ARG_ENABLE_RETRIES, 0),
        integer_argument(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        integer_argument(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        integer_argument(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)KVS_MESSAGE_BYTES_MAX),
        integer_argument(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)KVS_MESSAGE_BYTES_MAX),
        integer_argument(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50),
        integer_argument(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000),
        integer_argument(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000),
        /* A peer that is gone without a word is noticed; above what a server takes as a flood. */
        integer_argument(GRPC_ARG_KEEPALIVE_TIME_MS, 20000),
        integer_argument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
    };
    grpc_channel_args arguments = {sizeof list / sizeof list[0], list};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, credentials, &arguments);
    grpc_channel_credentials_release(credentials);
    return channel;
}

kvs_status kvs_peer_open(const char *address, kvs_peer **out)
{
    kvs_peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL) {
        return KVS_NO_MEMORY;
    }
    grpc_init();
    peer->queue = grpc_completion_queue_create_for_next(NULL);
    for (int lane = 0; lane < KVS_LANE_COUNT; lane++) {
        peer->channels[lane] = open_channel(address);
    }
    *out = peer;
    return KVS_OK;
}

void kvs_peer_close(kvs_peer *peer)
{
    if (peer == NULL) {
        return;
    }
    for (int lane = 0; lane < KVS_LANE_COUNT; lane++) {
        grpc_channel_destroy(peer->channels[lane]);
    }
    grpc_completion_queue_shutdown(peer->queue);
    while (
        grpc_completion_queue_next(peer->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
        GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(peer->queue);
    grpc_shutdown();
    free(peer);
}

/* ------------------------------------------------------------------ batches */

static gpr_timespec core_time(uint64_t at_ns)
{
    if (at_ns == 0 || at_ns == UINT64_MAX) {
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    }
    uint64_t now = kvs_clock_now_ns();
    int64_t left = at_ns > now ? (int64_t)(at_ns - now) : 0;
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(left, GPR_TIMESPAN));
}

static void give(kvs_peer_call *call, batch_kind kind, const grpc_op *operation)
{
    batch_tag *tag = &call->tags[kind];
    /* Relaxed: the core's queue orders the batch before its event. */
    atomic_fetch_add_explicit(&call->pending, 1, memory_order_relaxed);
    TAG_GIVE(tag);
    grpc_call_error error = grpc_call_start_batch(call->call, operation, 1, tag, NULL);
    KVS_CHECK(error == GRPC_CALL_OK);
}

static void arm_receive(kvs_peer_call *call)
{
    grpc_op operation = {.op = GRPC_OP_RECV_MESSAGE};
    operation.data.recv_message.recv_message = &call->incoming;
    give(call, BATCH_RECEIVE, &operation);
}

kvs_peer_call *kvs_peer_start(kvs_peer *peer, kvs_lane lane, const char *method,
                              uint64_t deadline_ns, const kvs_peer_events *events, void *context)
{
    kvs_peer_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return NULL;
    }
    call->peer = peer;
    call->events = events;
    call->context = context;
    call->details = grpc_empty_slice();
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    for (int i = 0; i < BATCH_COUNT; i++) {
        call->tags[i] = (batch_tag){.call = call, .kind = (batch_kind)i};
    }
    grpc_slice path = grpc_slice_from_copied_string(method);
    call->call = grpc_channel_create_call(peer->channels[lane], NULL, GRPC_PROPAGATE_DEFAULTS,
                                          peer->queue, path, NULL, core_time(deadline_ns), NULL);
    grpc_slice_unref(path);
    /* Each alone: the server's headers may come long after ours have left. */
    grpc_op operation = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    give(call, BATCH_START, &operation);
    operation = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA};
    operation.data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    give(call, BATCH_INITIAL, &operation);
    arm_receive(call);
    /* Last: from here on the polling thread may end the call. */
    operation = (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    operation.data.recv_status_on_client.trailing_metadata = &call->trailing;
    operation.data.recv_status_on_client.status = &call->code;
    operation.data.recv_status_on_client.status_details = &call->details;
    give(call, BATCH_STATUS, &operation);
    return call;
}

/* How many pieces from `first` on are copied together, and their bytes. */
static size_t small_run(const kvs_piece *pieces, size_t first, size_t count, size_t *bytes)
{
    size_t end = first;
    while (end < count && pieces[end].bytes < COPY_BELOW_BYTES) {
        *bytes += pieces[end].bytes;
        end++;
    }
    return end - first;
}

static void release_piece(const kvs_piece *piece)
{
    if (piece->release != NULL) {
        piece->release(piece->context);
    }
}

/* Copies `head` and the pieces to one slice and lets them go. */
static grpc_slice join(const void *head, size_t head_bytes, const kvs_piece *pieces, size_t count,
                       size_t bytes)
{
    grpc_slice slice = grpc_slice_malloc(head_bytes + bytes);
    uint8_t *to = GRPC_SLICE_START_PTR(slice);
    if (head_bytes > 0) {
        memcpy(to, head, head_bytes);
        to += head_bytes;
    }
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].bytes > 0) {
            memcpy(to, pieces[i].data, pieces[i].bytes);
            to += pieces[i].bytes;
        }
        release_piece(&pieces[i]);
    }
    return slice;
}

static void ignore_release(void *context)
{
    (void)context;
}

static grpc_slice borrow(const kvs_piece *piece)
{
    return grpc_slice_new_with_user_data((void *)piece->data, piece->bytes,
                                         piece->release != NULL ? piece->release : ignore_release,
                                         piece->context);
}

void kvs_peer_send(kvs_peer_call *call, const void *head, size_t head_bytes,
                   const kvs_piece *pieces, size_t count, bool last)
{
    grpc_slice slices[SLICES_MAX];
    size_t used = 0;
    size_t bytes = 0;
    size_t at = small_run(pieces, 0, count, &bytes);
    slices[used++] = join(head, head_bytes, pieces, at, bytes);
    while (at < count) {
        bytes = 0;
        size_t run = small_run(pieces, at, count, &bytes);
        if (used >= SLICES_MAX - 1) {
            /* What is left, however large, in one last slice. */
            bytes = 0;
            run = count - at;
            for (size_t i = at; i < count; i++) {
                bytes += pieces[i].bytes;
            }
        }
        if (run > 0) {
            slices[used++] = join(NULL, 0, pieces + at, run, bytes);
            at += run;
        } else {
            slices[used++] = borrow(&pieces[at]);
            at++;
        }
    }
    KVS_CHECK(call->outgoing == NULL);
    call->outgoing = grpc_raw_byte_buffer_create(slices, used);
    for (size_t i = 0; i < used; i++) {
        grpc_slice_unref(slices[i]);
    }
    grpc_op operation = {.op = GRPC_OP_SEND_MESSAGE};
    operation.data.send_message.send_message = call->outgoing;
    give(call, BATCH_SEND, &operation);
    if (last) {
        kvs_peer_end_sends(call);
    }
}

void kvs_peer_end_sends(kvs_peer_call *call)
{
    grpc_op operation = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    give(call, BATCH_CLOSE, &operation);
}

void kvs_peer_cancel(kvs_peer_call *call)
{
    (void)grpc_call_cancel(call->call, NULL);
}

/* ------------------------------------------------------------------ events */

static kvs_status status_of_code(grpc_status_code code)
{
    switch (code) {
    case GRPC_STATUS_OK:
        return KVS_OK;
    case GRPC_STATUS_CANCELLED:
        return KVS_CANCELLED;
    case GRPC_STATUS_DEADLINE_EXCEEDED:
        return KVS_DEADLINE;
    case GRPC_STATUS_UNAVAILABLE:
        return KVS_UNAVAILABLE;
    case GRPC_STATUS_UNIMPLEMENTED:
        return KVS_UNIMPLEMENTED;
    case GRPC_STATUS_RESOURCE_EXHAUSTED:
        return KVS_TOO_LARGE;
    case GRPC_STATUS_INVALID_ARGUMENT:
        return KVS_INVALID_FRAME;
    default:
        /* The core says INTERNAL or UNKNOWN when a stream is reset under it. A fault of the
         * server has its own reason. */
        return KVS_UNAVAILABLE;
    }
}

static void read_problem(const kvs_peer_call *call, kvs_problem *out)
{
    kvs_status status = status_of_code(call->code);
    for (size_t i = 0; i < call->trailing.count; i++) {
        const grpc_metadata *entry = &call->trailing.metadata[i];
        if (call->code != GRPC_STATUS_OK && grpc_slice_str_cmp(entry->key, "kv-reason") == 0) {
            char *reason = grpc_slice_to_c_string(entry->value);
            status = kvs_status_parse(reason);
            gpr_free(reason);
        }
    }
    char *details = grpc_slice_to_c_string(call->details);
    (void)kvs_problem_set(out, status, "%s", details);
    gpr_free(details);
}

static void hand_over(kvs_peer_call *call, grpc_byte_buffer *message)
{
    kvs_peer *peer = call->peer;
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, message)) {
        kvs_peer_cancel(call);
        return;
    }
    size_t count = 0;
    grpc_slice *slice;
    while (count < KVS_FRAME_SPANS_MAX && grpc_byte_buffer_reader_peek(&reader, &slice)) {
        peer->spans[count].data = GRPC_SLICE_START_PTR(*slice);
        peer->spans[count].bytes = GRPC_SLICE_LENGTH(*slice);
        count++;
    }
    if (count < KVS_FRAME_SPANS_MAX) {
        call->events->received(call->context, peer->spans, count);
        grpc_byte_buffer_reader_destroy(&reader);
        return;
    }
    /* So many pieces are gathered: rare, and cheaper than room for any number. */
    grpc_byte_buffer_reader_destroy(&reader);
    if (!grpc_byte_buffer_reader_init(&reader, message)) {
        kvs_peer_cancel(call);
        return;
    }
    grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    peer->spans[0].data = GRPC_SLICE_START_PTR(whole);
    peer->spans[0].bytes = GRPC_SLICE_LENGTH(whole);
    call->events->received(call->context, peer->spans, 1);
    grpc_slice_unref(whole);
}

static void receive_event(kvs_peer_call *call, bool success)
{
    grpc_byte_buffer *message = call->incoming;
    call->incoming = NULL;
    if (message == NULL) {
        return;
    }
    if (success && !call->told) {
        /* First: the core reads on while this message is worked on. */
        arm_receive(call);
        hand_over(call, message);
    }
    grpc_byte_buffer_destroy(message);
}

static void send_event(kvs_peer_call *call, bool success)
{
    grpc_byte_buffer_destroy(call->outgoing);
    call->outgoing = NULL;
    /* After a failure the status says more, and comes. */
    if (success && !call->told && call->events->sent != NULL) {
        call->events->sent(call->context);
    }
}

static void free_call(kvs_peer_call *call)
{
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    grpc_slice_unref(call->details);
    grpc_call_unref(call->call);
    free(call);
}

static void handle(const batch_tag *tag, bool success)
{
    kvs_peer_call *call = tag->call;
    switch (tag->kind) {
    case BATCH_RECEIVE:
        receive_event(call, success);
        break;
    case BATCH_SEND:
        send_event(call, success);
        break;
    case BATCH_STATUS:
        call->has_status = true;
        break;
    default:
        break;
    }
    /* Acquire and release: the thread that gave a batch is done with the call's fields. */
    if (atomic_fetch_sub_explicit(&call->pending, 1, memory_order_acq_rel) > 1 ||
        !call->has_status) {
        return;
    }
    if (!call->told) {
        kvs_problem problem = {0};
        read_problem(call, &problem);
        call->told = true;
        /* A send may have slipped in until here; `ended` keeps further ones out. */
        atomic_fetch_add_explicit(&call->pending, 1, memory_order_relaxed);
        call->events->ended(call->context, &problem);
        if (atomic_fetch_sub_explicit(&call->pending, 1, memory_order_acq_rel) > 1) {
            return;
        }
    }
    free_call(call);
}

void kvs_peer_poll(kvs_peer *peer, uint64_t until_ns)
{
    grpc_event event = grpc_completion_queue_next(peer->queue, core_time(until_ns), NULL);
    if (event.type == GRPC_OP_COMPLETE) {
        TAG_TAKE(event.tag);
        handle(event.tag, event.success != 0);
    }
}
