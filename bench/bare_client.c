/* The asking end of the bare stream. */
#include "bench/bare.h"
#include "bench/bare_message.h"
#include "bench/limits.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Echoes in flight: fewer starve the stream, more gain nothing. */
#define ECHO_WINDOW 4u

typedef enum event_kind {
    EVENT_OPENED,
    EVENT_SENT,
    EVENT_RECEIVED,
    EVENT_CLOSED,
    EVENT_ENDED
} event_kind;

typedef struct client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
    float *gradient; /* sent */
    float *value;    /* received */
    uint64_t tensor_bytes;
} client;

/* One stream: `total` bytes in messages of `message_bytes`, at most `window` unanswered. */
typedef struct transfer {
    client *owner;
    kvs_bare_kind kind;
    uint64_t total;
    uint32_t message_bytes;
    uint32_t window; /* 0: answers are not waited for */
    uint32_t unanswered;
    double *latencies; /* of each answer in seconds, or NULL; window is 1 then */
    uint64_t answers;
    double asked_at;
    grpc_call *call;
    grpc_byte_buffer *sent, *received;
    grpc_metadata_array opening, closing;
    grpc_status_code status;
    grpc_slice details;
    unsigned in_flight;
    uint64_t sent_bytes, received_bytes;
    bool closed;
} transfer;

/* One stream at a time: the kind says all there is to say of an operation. */
static void *tag_of(event_kind kind)
{
    static event_kind kinds[] = {EVENT_OPENED, EVENT_SENT, EVENT_RECEIVED, EVENT_CLOSED,
                                 EVENT_ENDED};
    return &kinds[kind];
}

static void start(transfer *t, event_kind kind, const grpc_op *op)
{
    t->in_flight++;
    if (grpc_call_start_batch(t->call, op, 1, tag_of(kind), NULL) != GRPC_CALL_OK) {
        (void)fprintf(stderr, "kvbench: the bare client cannot start an operation\n");
        abort();
    }
}

static void receive_next(transfer *t)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &t->received;
    start(t, EVENT_RECEIVED, &op);
}

static void send_message(transfer *t, const kvs_bare_header *header, const float *tensor)
{
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    t->sent = kvs_bare_message_make(header, tensor);
    op.data.send_message.send_message = t->sent;
    start(t, EVENT_SENT, &op);
}

/* Sends the next message when the window allows, and closes this side after the last. */
static void send_next(transfer *t)
{
    if (t->sent != NULL || t->closed) {
        return;
    }
    if (t->sent_bytes < t->total) {
        if (t->window > 0 && t->unanswered == t->window) {
            return;
        }
        const uint64_t tensor_bytes = t->owner->tensor_bytes;
        const kvs_bare_header header = {t->sent_bytes % tensor_bytes, t->message_bytes, t->kind};
        t->sent_bytes += t->message_bytes;
        t->unanswered++;
        t->asked_at = t->latencies != NULL ? kvs_bench_clock() : 0;
        send_message(t, &header, t->owner->gradient);
        return;
    }
    if (t->window == 0 || t->unanswered == 0) {
        const grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
        t->closed = true;
        start(t, EVENT_CLOSED, &op);
    }
}

static void on_received(transfer *t)
{
    grpc_byte_buffer *message = t->received;
    kvs_bare_header header;
    t->received = NULL;
    if (message == NULL) {
        return;
    }
    receive_next(t);
    const bool has_payload = t->kind == KVS_BARE_ECHO || t->kind == KVS_BARE_FETCH;
    if (kvs_bare_message_read(message, has_payload ? t->owner->value : NULL, t->owner->tensor_bytes,
                              false, &header)) {
        t->received_bytes += header.bytes;
    }
    if (t->kind == KVS_BARE_ADD) {
        t->received_bytes = header.offset; /* what the server says that it has summed */
    }
    if (t->latencies != NULL) {
        t->latencies[t->answers] = kvs_bench_clock() - t->asked_at;
    }
    t->answers++;
    t->unanswered -= t->unanswered > 0 ? 1 : 0;
    send_next(t);
}

static void open_call(transfer *t)
{
    client *owner = t->owner;
    const grpc_op opened = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    grpc_op opening = {.op = GRPC_OP_RECV_INITIAL_METADATA};
    grpc_op ended = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    t->call = grpc_channel_create_call(owner->channel, NULL, GRPC_PROPAGATE_DEFAULTS, owner->queue,
                                       grpc_slice_from_static_string("/bare/Stream"), NULL,
                                       gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_metadata_array_init(&t->opening);
    grpc_metadata_array_init(&t->closing);
    opening.data.recv_initial_metadata.recv_initial_metadata = &t->opening;
    ended.data.recv_status_on_client.trailing_metadata = &t->closing;
    ended.data.recv_status_on_client.status = &t->status;
    ended.data.recv_status_on_client.status_details = &t->details;
    start(t, EVENT_OPENED, &opened);
    start(t, EVENT_OPENED, &opening);
    start(t, EVENT_ENDED, &ended);
    receive_next(t);
}

/* Runs the stream to its end. */
static bool run_transfer(transfer *t, kvs_bench_answer *answer)
{
    client *owner = t->owner;
    answer->start = kvs_bench_clock();
    open_call(t);
    if (t->kind == KVS_BARE_FETCH) {
        const kvs_bare_header wanted = {t->total, t->message_bytes, KVS_BARE_FETCH};
        t->sent_bytes = t->total;
        send_message(t, &wanted, NULL);
    } else {
        send_next(t);
    }
    while (t->in_flight > 0) {
        const grpc_event happened =
            grpc_completion_queue_next(owner->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        t->in_flight--;
        const event_kind kind = *(const event_kind *)happened.tag;
        if (kind == EVENT_RECEIVED) {
            on_received(t);
        } else if (kind == EVENT_SENT) {
            grpc_byte_buffer_destroy(t->sent);
            t->sent = NULL;
            if (happened.success != 0) {
                send_next(t);
            }
        }
    }
    answer->end = kvs_bench_clock();
    const bool good =
        t->status == GRPC_STATUS_OK && (t->kind == KVS_BARE_PING || t->received_bytes == t->total);
    if (!good) {
        (void)snprintf(answer->error, sizeof answer->error,
                       "the bare stream ended with status %d after %llu of %llu bytes",
                       (int)t->status, (unsigned long long)t->received_bytes,
                       (unsigned long long)t->total);
    }
    grpc_metadata_array_destroy(&t->opening);
    grpc_metadata_array_destroy(&t->closing);
    grpc_slice_unref(t->details);
    grpc_call_unref(t->call);
    return good;
}

static int compare_numbers(const void *a, const void *b)
{
    const double left = *(const double *)a;
    const double right = *(const double *)b;
    return (left > right) - (left < right);
}

static void run_alone(transfer *t, uint32_t operations, kvs_bench_answer *answer)
{
    t->kind = KVS_BARE_PING;
    t->window = 1;
    t->total = (uint64_t)operations * t->message_bytes;
    t->latencies = calloc(operations, sizeof *t->latencies);
    answer->good = t->latencies != NULL && run_transfer(t, answer);
    if (answer->good) {
        qsort(t->latencies, operations, sizeof *t->latencies, compare_numbers);
        answer->median_us = t->latencies[operations / 2] * 1e6;
    }
    free(t->latencies);
}

/* A list of small keys is held against the same bytes in large messages, which no list can beat;
 * queued small keys against a message each. */
static void run_client(void *context, const kvs_bench_order *order, kvs_bench_answer *answer)
{
    const kvs_bench_sizes *sizes = &order->sizes;
    const uint64_t small_total = sizes->small_bytes * sizes->small_keys;
    transfer t = {.owner = context,
                  .kind = KVS_BARE_ADD,
                  .total = sizes->tensor_bytes * sizes->repeats,
                  .message_bytes = (uint32_t)sizes->message_bytes};
    switch (order->verb) {
    case KVS_BENCH_PULL:
        t.kind = KVS_BARE_FETCH;
        break;
    case KVS_BENCH_PUSHPULL:
        t.kind = KVS_BARE_ECHO;
        t.window = ECHO_WINDOW;
        break;
    case KVS_BENCH_SMALL_LIST:
        t.total = small_total * sizes->small_repeats;
        if (small_total % t.message_bytes != 0) {
            t.message_bytes = (uint32_t)small_total;
        }
        break;
    case KVS_BENCH_SMALL_QUEUED:
    case KVS_BENCH_SMALL_ALONE:
        t.total = small_total * sizes->small_repeats;
        t.message_bytes = (uint32_t)sizes->small_bytes;
        break;
    default:
        break;
    }
    if (order->verb == KVS_BENCH_SMALL_ALONE) {
        run_alone(&t, sizes->alone_operations, answer);
    } else {
        answer->good = run_transfer(&t, answer);
    }
    answer->bytes = t.total;
    answer->operations =
        t.total / (order->verb >= KVS_BENCH_SMALL_LIST ? sizes->small_bytes : sizes->tensor_bytes);
}

static void *open_client(const void *argument, char *error, uint32_t error_bytes)
{
    const kvs_bench_bare *bare = argument;
    client *c = calloc(1, sizeof *c);
    if (c != NULL) {
        c->tensor_bytes = bare->tensor_bytes;
        c->gradient = kvs_bench_tensor(bare->tensor_bytes, 1);
        c->value = kvs_bench_tensor(bare->tensor_bytes, 0);
    }
    if (c == NULL || c->gradient == NULL || c->value == NULL) {
        (void)snprintf(error, error_bytes, "no memory for the bare client");
        return NULL;
    }
    grpc_init();
    grpc_arg limit = {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH};
    limit.value.integer = -1;
    const grpc_channel_args arguments = {1, &limit};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    c->channel = grpc_channel_create(bare->address, credentials, &arguments);
    grpc_channel_credentials_release(credentials);
    c->queue = grpc_completion_queue_create_for_next(NULL);
    return c;
}

static void close_client(void *context)
{
    client *c = context;
    grpc_channel_destroy(c->channel);
    grpc_completion_queue_shutdown(c->queue);
    while (grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN) {
    }
    grpc_completion_queue_destroy(c->queue);
    grpc_shutdown();
    kvs_bench_tensor_free(c->gradient, c->tensor_bytes);
    kvs_bench_tensor_free(c->value, c->tensor_bytes);
    free(c);
}

const kvs_bench_role *kvs_bench_bare_client(void)
{
    static const kvs_bench_role role = {open_client, run_client, close_client};
    return &role;
}
