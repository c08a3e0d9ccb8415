/* The serving end of the bare stream. */
#include "bench/bare.h"
#include "bench/bare_message.h"
#include "bench/limits.h"

#include <arpa/inet.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLIES_MAX 128u /* above any window of the client */
#define CALLS_READY 8u

typedef enum event_kind {
    EVENT_NEW,
    EVENT_OPENED,
    EVENT_CLOSED,
    EVENT_RECEIVED,
    EVENT_SENT,
    EVENT_ENDED,
    EVENT_KINDS
} event_kind;

struct stream;

/* The tag of one operation in flight. */
typedef struct event {
    struct stream *stream;
    event_kind kind;
} event;

typedef struct server {
    grpc_server *grpc;
    grpc_completion_queue *queue;
    pthread_t thread;
    float *tensor;
    uint64_t tensor_bytes;
} server;

typedef struct stream {
    server *owner;
    event events[EVENT_KINDS];
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *received;
    grpc_byte_buffer *sent;
    int cancelled;
    unsigned in_flight; /* operations; the stream is freed at 0 */
    bool client_done, ended;
    uint64_t added_bytes;
    uint64_t fetch_offset, fetch_end; /* of a fetch: what is still to be sent */
    uint32_t fetch_bytes;
    kvs_bare_header replies[REPLIES_MAX];
    unsigned first_reply, end_reply;
} stream;

static void start(stream *s, event_kind kind, const grpc_op *op)
{
    s->in_flight++;
    if (grpc_call_start_batch(s->call, op, 1, &s->events[kind], NULL) != GRPC_CALL_OK) {
        (void)fprintf(stderr, "kvbench: the bare server cannot start an operation\n");
        abort();
    }
}

static void await_call(server *owner)
{
    stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        abort();
    }
    s->owner = owner;
    for (int i = 0; i < EVENT_KINDS; i++) {
        s->events[i] = (event){s, (event_kind)i};
    }
    grpc_call_details_init(&s->details);
    grpc_metadata_array_init(&s->metadata);
    s->in_flight = 1;
    if (grpc_server_request_call(owner->grpc, &s->call, &s->details, &s->metadata, owner->queue,
                                 owner->queue, &s->events[EVENT_NEW]) != GRPC_CALL_OK) {
        abort();
    }
}

static void free_stream(stream *s)
{
    grpc_call_details_destroy(&s->details);
    grpc_metadata_array_destroy(&s->metadata);
    if (s->call != NULL) {
        grpc_call_unref(s->call);
    }
    free(s);
}

static void receive_next(stream *s)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &s->received;
    start(s, EVENT_RECEIVED, &op);
}

static void send_message(stream *s, const kvs_bare_header *header, const float *tensor)
{
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    s->sent = kvs_bare_message_make(header, tensor);
    op.data.send_message.send_message = s->sent;
    start(s, EVENT_SENT, &op);
}

static void end_stream(stream *s)
{
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op.data.send_status_from_server.status = GRPC_STATUS_OK;
    s->ended = true;
    start(s, EVENT_ENDED, &op);
}

/* Sends what is next, if nothing is being sent. */
static void send_next(stream *s)
{
    if (s->sent != NULL || s->ended || s->cancelled != 0) {
        return;
    }
    const uint64_t tensor_bytes = s->owner->tensor_bytes;
    if (s->fetch_offset < s->fetch_end) {
        const kvs_bare_header header = {s->fetch_offset % tensor_bytes, s->fetch_bytes,
                                        KVS_BARE_ADD};
        s->fetch_offset += s->fetch_bytes;
        send_message(s, &header, s->owner->tensor);
    } else if (s->first_reply != s->end_reply) {
        const kvs_bare_header *header = &s->replies[s->first_reply++ % REPLIES_MAX];
        send_message(s, header, header->kind == KVS_BARE_ECHO ? s->owner->tensor : NULL);
    } else if (s->client_done) {
        end_stream(s);
    }
}

static void add_reply(stream *s, const kvs_bare_header *header)
{
    if (s->end_reply - s->first_reply < REPLIES_MAX) {
        s->replies[s->end_reply++ % REPLIES_MAX] = *header;
    }
}

static void on_received(stream *s)
{
    grpc_byte_buffer *message = s->received;
    kvs_bare_header header;
    s->received = NULL;
    if (message == NULL) {
        const kvs_bare_header total = {s->added_bytes, 0, KVS_BARE_PING};
        s->client_done = true;
        if (s->added_bytes > 0) {
            add_reply(s, &total);
        }
    } else {
        receive_next(s); /* the transport reads on while this one is summed */
        if (!kvs_bare_message_read(message, s->owner->tensor, s->owner->tensor_bytes, true,
                                   &header)) {
            (void)grpc_call_cancel(s->call, NULL);
            return;
        }
        if (header.kind == KVS_BARE_FETCH) {
            s->fetch_end = header.offset;
            s->fetch_bytes = header.bytes;
        } else {
            s->added_bytes += header.kind == KVS_BARE_ADD ? header.bytes : 0;
        }
        if (header.kind == KVS_BARE_ECHO || header.kind == KVS_BARE_PING) {
            add_reply(s, &header);
        }
    }
    send_next(s);
}

static void on_new(stream *s)
{
    grpc_op opened = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    grpc_op closed = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    closed.data.recv_close_on_server.cancelled = &s->cancelled;
    await_call(s->owner);
    start(s, EVENT_OPENED, &opened);
    start(s, EVENT_CLOSED, &closed);
    receive_next(s);
}

static void *serve(void *context)
{
    server *owner = context;
    for (;;) {
        const grpc_event happened =
            grpc_completion_queue_next(owner->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (happened.type == GRPC_QUEUE_SHUTDOWN) {
            return NULL;
        }
        const event *tag = happened.tag;
        if (tag == NULL) {
            continue; /* the server has shut down */
        }
        stream *s = tag->stream;
        if (tag->kind == EVENT_NEW && happened.success != 0) {
            on_new(s);
        } else if (tag->kind == EVENT_RECEIVED) {
            on_received(s);
        } else if (tag->kind == EVENT_SENT) {
            grpc_byte_buffer_destroy(s->sent);
            s->sent = NULL;
            send_next(s);
        }
        if (--s->in_flight == 0) {
            free_stream(s);
        }
    }
}

static void *open_server(const void *argument, char *error, uint32_t error_bytes)
{
    const kvs_bench_bare *bare = argument;
    server *owner = calloc(1, sizeof *owner);
    if (owner == NULL || (owner->tensor = kvs_bench_tensor(bare->tensor_bytes, 0)) == NULL) {
        free(owner);
        (void)snprintf(error, error_bytes, "no memory for the bare server");
        return NULL;
    }
    owner->tensor_bytes = bare->tensor_bytes;
    grpc_init();
    grpc_arg limit = {.type = GRPC_ARG_INTEGER, .key = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH};
    limit.value.integer = -1;
    const grpc_channel_args arguments = {1, &limit};
    owner->grpc = grpc_server_create(&arguments, NULL);
    owner->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(owner->grpc, owner->queue, NULL);
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    const int port = grpc_server_add_http2_port(owner->grpc, bare->address, credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0) {
        (void)snprintf(error, error_bytes, "the bare server cannot listen at %s", bare->address);
        return NULL;
    }
    grpc_server_start(owner->grpc);
    for (unsigned i = 0; i < CALLS_READY; i++) {
        await_call(owner);
    }
    (void)pthread_create(&owner->thread, NULL, serve, owner);
    return owner;
}

static void run_nothing(void *context, const kvs_bench_order *order, kvs_bench_answer *answer)
{
    (void)context;
    (void)order;
    (void)answer;
}

static void close_server(void *context)
{
    server *owner = context;
    grpc_server_shutdown_and_notify(owner->grpc, owner->queue, NULL);
    grpc_server_cancel_all_calls(owner->grpc);
    grpc_completion_queue_shutdown(owner->queue);
    (void)pthread_join(owner->thread, NULL);
    grpc_server_destroy(owner->grpc);
    grpc_completion_queue_destroy(owner->queue);
    grpc_shutdown();
    kvs_bench_tensor_free(owner->tensor, owner->tensor_bytes);
    free(owner);
}

const kvs_bench_role *kvs_bench_bare_server(void)
{
    static const kvs_bench_role role = {open_server, run_nothing, close_server};
    return &role;
}

void kvs_bench_free_address(char *out, uint32_t out_bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    out[0] = '\0';
    if (bind(probe, (struct sockaddr *)&address, sizeof address) == 0 &&
        getsockname(probe, (struct sockaddr *)&address, &length) == 0) {
        (void)snprintf(out, out_bytes, "127.0.0.1:%u", ntohs(address.sin_port));
    }
    (void)close(probe);
}
