#include "service/rpc.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "service/status_details.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Each queue has so many calls asked for in advance: a burst beyond waits inside the core, whose
 * queue of waiting calls has no bound of its own. */
#define REQUESTS_ARMED 128u
#define METADATA_MAX 32u
/* A message so short waits for the one behind it: a write costs more than the message. */
#define SHORT_BYTES 4096u
#define SLOW_READER_SCAN_NS KVS_SECOND
#define SLOW_READERS_AT_ONCE 32u
#define POLLERS_MAX 64u

/* The hand-over of a tag through the core's queue is an order that ThreadSanitizer cannot see,
 * since the core is not instrumented. */
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define TAG_RELEASE(tag) __tsan_release(tag)
#define TAG_ACQUIRE(tag) __tsan_acquire(tag)
#else
#define TAG_RELEASE(tag) (void)(tag)
#define TAG_ACQUIRE(tag) (void)(tag)
#endif

typedef enum tag_kind { TAG_REQUEST, TAG_RECEIVED, TAG_SENT, TAG_CLOSED, TAG_STOPPED } tag_kind;

typedef struct kvs_tag {
    tag_kind kind;
    void *owner;
} kvs_tag;

/* A polling thread with its queue. All events of a call come to one of them. */
typedef struct kvs_poller {
    kvs_rpc *rpc;
    grpc_completion_queue *queue;
    pthread_t thread;
    uint32_t index;
    /* The peer sends no more: told when the queue is dry, so that a cancellation that is in it
     * comes first; or if it never is, the old ones at the next tick. */
    kvs_call *halves, *old_halves;
    pthread_mutex_t lock;
    kvs_call *dead;          /* no reference is left */
    _Atomic uint64_t served; /* events; this thread alone counts */
} kvs_poller;

/* A call that is asked for. */
typedef struct kvs_request {
    kvs_tag tag;
    kvs_poller *poller;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
} kvs_request;

typedef enum slot_state { SLOT_FREE, SLOT_ARMED, SLOT_FULL } slot_state;

typedef struct kvs_slot {
    kvs_message message; /* first: a message is its slot */
    slot_state state;
    grpc_byte_buffer *buffer;
    kvs_span *spans;
    uint32_t spans_max;
    uint8_t *gathered;
} kvs_slot;

struct kvs_send {
    kvs_send *next;
    grpc_slice *slices;
    size_t count;
    size_t size;
    grpc_byte_buffer *buffer;
    uint64_t cookie;
};

struct kvs_call {
    kvs_rpc *rpc;
    kvs_poller *poller;
    const kvs_method *method;
    grpc_call *core;
    uint64_t deadline_ns;
    _Atomic uint32_t references;
    kvs_call *previous, *next; /* all calls; under rpc->lock */
    kvs_call *dead_next, *half_next;
    kvs_tag received_tag, sent_tag, closed_tag;

    /* Everything below: ops of one call are started one at a time, by whichever thread has an
     * answer; the core asks for that. Held for the start of an op, never for a method function. */
    pthread_mutex_t lock;
    kvs_slot slots[KVS_CALL_SLOTS_MAX];
    int armed; /* the slot that is being filled, or -1 */
    bool receive_over, received_any;
    kvs_send *first, *last, *sending, *spare;
    uint32_t queued;
    bool out_busy, initial_sent, finishing, status_sent, closed;
    uint64_t out_started_ns;
    kvs_problem problem;
    grpc_metadata trailers[2];
    grpc_slice detail;
    int cancelled;

    _Alignas(max_align_t) unsigned char state[];
};

struct kvs_rpc {
    kvs_rpc_options options;
    grpc_server *server;
    grpc_server_credentials *credentials;
    kvs_poller *pollers;
    uint32_t poller_count;
    kvs_tag stopped_tag;
    atomic_bool stopping, stopped, quiet;
    _Atomic uint64_t started;
    pthread_mutex_t lock;
    kvs_call *calls;
    uint64_t next_tick_ns, next_scan_ns;
};

/* ------------------------------------------------------------------ references */

kvs_call *kvs_call_take(kvs_call *call)
{
    atomic_fetch_add_explicit(&call->references, 1, memory_order_relaxed);
    return call;
}

/* The last one leaves the rest to the polling thread: it may have been given back deep inside an
 * engine's turn that the call's end would disturb. */
void kvs_call_unref(kvs_call *call)
{
    /* Release what this holder did; the one who buries acquires it by the lock. */
    if (atomic_fetch_sub_explicit(&call->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    kvs_poller *poller = call->poller;
    pthread_mutex_lock(&poller->lock);
    call->dead_next = poller->dead;
    poller->dead = call;
    pthread_mutex_unlock(&poller->lock);
}

/* For those who find a call in the list, where it may lie dead. */
static bool take_living(kvs_call *call)
{
    uint32_t references = atomic_load_explicit(&call->references, memory_order_relaxed);
    while (references != 0) {
        if (atomic_compare_exchange_weak_explicit(&call->references, &references, references + 1,
                                                  memory_order_acquire, memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

static void send_free(kvs_send *send)
{
    for (size_t i = 0; i < send->count; i++) {
        grpc_slice_unref(send->slices[i]);
    }
    if (send->buffer != NULL) {
        grpc_byte_buffer_destroy(send->buffer);
    }
    free(send->slices);
    free(send);
}

static void sends_free(kvs_send *sends)
{
    while (sends != NULL) {
        kvs_send *next = sends->next;
        send_free(sends);
        sends = next;
    }
}

static void slot_clear(kvs_slot *slot)
{
    if (slot->buffer != NULL) {
        grpc_byte_buffer_destroy(slot->buffer);
        slot->buffer = NULL;
    }
    free(slot->gathered);
    slot->gathered = NULL;
}

static void call_free(kvs_call *call)
{
    kvs_rpc *rpc = call->rpc;
    pthread_mutex_lock(&rpc->lock); /* first: whoever goes through the list locks each call */
    if (call->previous != NULL) {
        call->previous->next = call->next;
    } else {
        rpc->calls = call->next;
    }
    if (call->next != NULL) {
        call->next->previous = call->previous;
    }
    pthread_mutex_unlock(&rpc->lock);
    if (call->method->deinit != NULL) {
        call->method->deinit(call);
    }
    for (uint32_t i = 0; i < KVS_CALL_SLOTS_MAX; i++) {
        slot_clear(&call->slots[i]);
        free(call->slots[i].spans);
    }
    sends_free(call->first);
    sends_free(call->spare);
    grpc_slice_unref(call->detail);
    for (int i = 0; i < 2; i++) {
        grpc_slice_unref(call->trailers[i].value);
    }
    grpc_call_unref(call->core);
    pthread_mutex_destroy(&call->lock);
    free(call);
}

static void bury(kvs_poller *poller)
{
    for (;;) {
        pthread_mutex_lock(&poller->lock);
        kvs_call *dead = poller->dead;
        poller->dead = NULL;
        pthread_mutex_unlock(&poller->lock);
        if (dead == NULL) {
            return;
        }
        while (dead != NULL) {
            kvs_call *next = dead->dead_next;
            call_free(dead);
            dead = next;
        }
    }
}

/* ------------------------------------------------------------------ batches */

/* Lock held. An op that the core does not take is our error, whatever the peer does. */
static void start(kvs_call *call, const grpc_op *ops, size_t count, kvs_tag *tag)
{
    kvs_call_take(call);
    TAG_RELEASE(tag);
    grpc_call_error error = grpc_call_start_batch(call->core, ops, count, tag, NULL);
    KVS_CHECK(error == GRPC_CALL_OK);
}

/* Lock held. Asks for the next message if a slot is free. */
static void start_receive(kvs_call *call)
{
    if (call->armed >= 0 || call->receive_over || call->closed || call->status_sent) {
        return;
    }
    for (uint32_t i = 0; i < call->method->slots; i++) {
        kvs_slot *slot = &call->slots[i];
        if (slot->state == SLOT_FREE) {
            slot->state = SLOT_ARMED;
            call->armed = (int)i;
            grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
            op.data.recv_message.recv_message = &slot->buffer;
            start(call, &op, 1, &call->received_tag);
            return;
        }
    }
}

static void fill_status(kvs_call *call, grpc_op *op)
{
    op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    const kvs_problem *problem = &call->problem;
    op->data.send_status_from_server.status =
        (grpc_status_code)kvs_status_find(problem->status)->grpc_code;
    if (problem->status != KVS_OK) {
        char text[KVS_STATUS_TEXT_BYTES];
        kvs_status_text(problem, text);
        call->detail = grpc_slice_from_copied_string(text);
        uint8_t details[KVS_STATUS_DETAILS_BYTES];
        size_t bytes = kvs_status_details(problem, text, details);
        call->trailers[0].key = grpc_slice_from_static_string("kv-reason");
        call->trailers[0].value =
            grpc_slice_from_static_string(kvs_status_find(problem->status)->reason);
        call->trailers[1].key = grpc_slice_from_static_string("grpc-status-details-bin");
        call->trailers[1].value = grpc_slice_from_copied_buffer((const char *)details, bytes);
        op->data.send_status_from_server.trailing_metadata = call->trailers;
        op->data.send_status_from_server.trailing_metadata_count = 2;
    }
    op->data.send_status_from_server.status_details = &call->detail;
}

/* Lock held. Gives the core what is to go out next, if it has nothing of this call. */
static void start_out(kvs_call *call)
{
    if (call->out_busy || call->closed || call->status_sent) {
        return;
    }
    grpc_op ops[3];
    memset(ops, 0, sizeof(ops));
    size_t count = 0;
    kvs_send *send = call->first;
    if (!call->initial_sent && (send != NULL || call->finishing || call->method->streaming)) {
        ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
        call->initial_sent = true;
    }
    if (send != NULL) {
        call->first = send->next;
        call->sending = send;
        ops[count].op = GRPC_OP_SEND_MESSAGE;
        if (call->first != NULL && grpc_byte_buffer_length(send->buffer) < SHORT_BYTES) {
            ops[count].flags = GRPC_WRITE_BUFFER_HINT; /* one write for both */
        }
        ops[count++].data.send_message.send_message = send->buffer;
    }
    if (call->finishing && call->first == NULL) {
        fill_status(call, &ops[count++]);
        call->status_sent = true;
    }
    if (count == 0) {
        return;
    }
    call->out_busy = true;
    call->out_started_ns = kvs_clock_now_ns();
    start(call, ops, count, &call->sent_tag);
}

/* ------------------------------------------------------------------ sending */

kvs_send *kvs_send_begin(kvs_call *call)
{
    pthread_mutex_lock(&call->lock);
    bool over = call->closed || call->finishing;
    kvs_send *send = over ? NULL : call->spare;
    if (send != NULL) {
        call->spare = send->next;
    }
    pthread_mutex_unlock(&call->lock);
    if (send == NULL && !over) {
        send = calloc(1, sizeof(*send));
    }
    return send;
}

static bool send_reserve(kvs_send *send)
{
    if (send->count < send->size) {
        return true;
    }
    size_t size = send->size == 0 ? 8 : send->size * 2;
    grpc_slice *slices = realloc(send->slices, size * sizeof(*slices));
    if (slices == NULL) {
        return false;
    }
    send->slices = slices;
    send->size = size;
    return true;
}

bool kvs_send_copy(kvs_send *send, const void *bytes, size_t count)
{
    if (!send_reserve(send)) {
        return false;
    }
    send->slices[send->count++] = grpc_slice_from_copied_buffer(bytes, count);
    return true;
}

bool kvs_send_borrow(kvs_send *send, const void *bytes, size_t count, void (*release)(void *),
                     void *context)
{
    if (!send_reserve(send)) {
        return false;
    }
    union { /* the core's signature lacks a const; it does not write */
        const void *in;
        void *out;
    } address = {.in = bytes};
    send->slices[send->count++] =
        grpc_slice_new_with_user_data(address.out, count, release, context);
    return true;
}

/* Empties a send and keeps it for the next one. */
static void send_recycle(kvs_call *call, kvs_send *send)
{
    for (size_t i = 0; i < send->count; i++) {
        grpc_slice_unref(send->slices[i]);
    }
    send->count = 0;
    if (send->buffer != NULL) {
        grpc_byte_buffer_destroy(send->buffer);
        send->buffer = NULL;
    }
    pthread_mutex_lock(&call->lock);
    send->next = call->spare;
    call->spare = send;
    pthread_mutex_unlock(&call->lock);
}

void kvs_send_drop(kvs_call *call, kvs_send *send)
{
    send_recycle(call, send);
}

void kvs_send_commit(kvs_call *call, kvs_send *send, uint64_t cookie, bool more)
{
    send->buffer = grpc_raw_byte_buffer_create(send->slices, send->count);
    for (size_t i = 0; i < send->count; i++) { /* the buffer has its own references */
        grpc_slice_unref(send->slices[i]);
    }
    send->count = 0;
    send->cookie = cookie;
    send->next = NULL;
    pthread_mutex_lock(&call->lock);
    bool over = call->closed || call->finishing;
    if (!over) {
        if (call->first == NULL) {
            call->first = send;
        } else {
            call->last->next = send;
        }
        call->last = send;
        call->queued++;
        if (!more) {
            start_out(call);
        }
    }
    pthread_mutex_unlock(&call->lock);
    if (over) {
        send_recycle(call, send);
    }
}

void kvs_call_send(kvs_call *call, const void *bytes, size_t count)
{
    kvs_send *send = kvs_send_begin(call);
    if (send == NULL) {
        return;
    }
    if (!kvs_send_copy(send, bytes, count)) {
        kvs_send_drop(call, send);
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_NO_MEMORY, "no memory for an answer");
        kvs_call_finish(call, &problem);
        return;
    }
    kvs_send_commit(call, send, 0, false);
}

uint32_t kvs_call_queued(kvs_call *call)
{
    pthread_mutex_lock(&call->lock);
    uint32_t queued = call->queued;
    pthread_mutex_unlock(&call->lock);
    return queued;
}

void kvs_call_finish(kvs_call *call, const kvs_problem *problem)
{
    pthread_mutex_lock(&call->lock);
    if (!call->finishing && !call->closed) {
        call->finishing = true;
        if (problem != NULL) {
            call->problem = *problem;
        }
        start_out(call);
    }
    pthread_mutex_unlock(&call->lock);
}

void kvs_call_cancel(kvs_call *call, const kvs_problem *problem)
{
    char text[KVS_STATUS_TEXT_BYTES];
    kvs_status_text(problem, text);
    grpc_call_error error = grpc_call_cancel_with_status(
        call->core, (grpc_status_code)kvs_status_find(problem->status)->grpc_code, text, NULL);
    KVS_CHECK(error == GRPC_CALL_OK);
}

/* ------------------------------------------------------------------ receiving */

/* Makes spans of what was received. */
static kvs_status slot_fill(kvs_slot *slot, kvs_problem *problem)
{
    grpc_byte_buffer *buffer = slot->buffer;
    if (buffer->data.raw.compression != GRPC_COMPRESS_NONE) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "compressed messages are not accepted");
    }
    size_t count = buffer->data.raw.slice_buffer.count;
    bool gather = count > KVS_FRAME_SPANS_MAX;
    uint32_t wanted = gather || count == 0 ? 1 : (uint32_t)count;
    if (wanted > slot->spans_max) {
        kvs_span *spans = realloc(slot->spans, wanted * sizeof(*spans));
        if (spans == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a message");
        }
        slot->spans = spans;
        slot->spans_max = wanted;
    }
    slot->message.bytes = grpc_byte_buffer_length(buffer);
    slot->message.spans = slot->spans;
    slot->message.span_count = count == 0 ? 0 : wanted;
    if (gather) {
        slot->gathered = malloc(slot->message.bytes);
        if (slot->gathered == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a message");
        }
        slot->spans[0] = (kvs_span){.data = slot->gathered, .bytes = slot->message.bytes};
    }
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME, "the message cannot be read");
    }
    grpc_slice *piece;
    size_t offset = 0;
    for (uint32_t i = 0; grpc_byte_buffer_reader_peek(&reader, &piece); i++) {
        size_t bytes = GRPC_SLICE_LENGTH(*piece);
        if (gather) {
            memcpy(slot->gathered + offset, GRPC_SLICE_START_PTR(*piece), bytes);
            offset += bytes;
        } else {
            slot->spans[i] = (kvs_span){.data = GRPC_SLICE_START_PTR(*piece), .bytes = bytes};
        }
    }
    grpc_byte_buffer_reader_destroy(&reader);
    return KVS_OK;
}

void kvs_message_release(kvs_call *call, kvs_message *message)
{
    kvs_slot *slot = (kvs_slot *)message;
    pthread_mutex_lock(&call->lock);
    KVS_CHECK(slot->state == SLOT_FULL);
    slot_clear(slot);
    slot->state = SLOT_FREE;
    start_receive(call);
    pthread_mutex_unlock(&call->lock);
}

static void received_event(kvs_call *call, uint64_t now_ns)
{
    kvs_problem problem;
    kvs_status status = KVS_OK;
    pthread_mutex_lock(&call->lock);
    kvs_slot *slot = &call->slots[call->armed];
    call->armed = -1;
    bool over = slot->buffer == NULL;
    bool answered = call->closed || call->finishing;
    if (over || answered) {
        slot_clear(slot);
        slot->state = SLOT_FREE;
        call->receive_over = true;
    } else {
        slot->state = SLOT_FULL;
        call->received_any = true;
        start_receive(call); /* before the work on this one, so that the two overlap */
        status = slot_fill(slot, &problem);
    }
    pthread_mutex_unlock(&call->lock);
    if (status != KVS_OK) {
        kvs_call_finish(call, &problem);
        kvs_message_release(call, &slot->message);
    } else if (over && !answered) {
        /* A peer that went away looks the same until its cancellation arrives, right behind. */
        call->half_next = call->poller->halves;
        call->poller->halves = kvs_call_take(call);
    } else if (!over && !answered) {
        call->method->received(call, &slot->message, now_ns);
    }
}

static void tell_halves(kvs_call **list, uint64_t now_ns)
{
    kvs_call *call = *list;
    *list = NULL;
    while (call != NULL) {
        kvs_call *next = call->half_next;
        pthread_mutex_lock(&call->lock);
        bool over = call->closed || call->finishing;
        pthread_mutex_unlock(&call->lock);
        if (!over && call->method->ended != NULL) {
            call->method->ended(call, now_ns);
        } else if (!over && call->received_any && call->method->streaming) {
            kvs_call_finish(call, NULL);
        } else if (!over && !call->received_any) {
            kvs_problem problem;
            (void)kvs_problem_set(&problem, KVS_INVALID_FRAME, "the call brought no message");
            kvs_call_finish(call, &problem);
        }
        kvs_call_unref(call);
        call = next;
    }
}

/* ------------------------------------------------------------------ the life of a call */

static void refuse_unknown(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    kvs_problem problem;
    (void)kvs_problem_set(&problem, KVS_UNIMPLEMENTED, "no such method");
    kvs_call_finish(call, &problem);
}

static void ignore(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    (void)now_ns;
    kvs_message_release(call, message);
}

static const kvs_method unknown_method = {
    .path = "", .slots = 1, .opened = refuse_unknown, .received = ignore, .ended = refuse_unknown};

static const kvs_method *find_method(const kvs_rpc *rpc, grpc_slice path)
{
    for (size_t i = 0; i < rpc->options.method_count; i++) {
        if (grpc_slice_str_cmp(path, rpc->options.methods[i]->path) == 0) {
            return rpc->options.methods[i];
        }
    }
    return &unknown_method;
}

static uint64_t deadline_of(gpr_timespec deadline)
{
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) >= 0) {
        return 0;
    }
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    int64_t ns = (int64_t)left.tv_sec * 1000000000 + left.tv_nsec;
    return kvs_clock_now_ns() + (ns > 0 ? (uint64_t)ns : 1);
}

static void call_open(kvs_request *request, uint64_t now_ns)
{
    kvs_poller *poller = request->poller;
    kvs_rpc *rpc = poller->rpc;
    const kvs_method *method = find_method(rpc, request->details.method);
    kvs_call *call = calloc(1, sizeof(*call) + method->state_bytes);
    if (call == NULL) {
        grpc_call_unref(request->call); /* cancels it */
        return;
    }
    call->rpc = rpc;
    call->poller = poller;
    call->method = method;
    call->core = request->call;
    call->deadline_ns = deadline_of(request->details.deadline);
    call->armed = -1;
    call->received_tag = (kvs_tag){.kind = TAG_RECEIVED, .owner = call};
    call->sent_tag = (kvs_tag){.kind = TAG_SENT, .owner = call};
    call->closed_tag = (kvs_tag){.kind = TAG_CLOSED, .owner = call};
    call->detail = grpc_empty_slice();
    call->trailers[0].value = grpc_empty_slice();
    call->trailers[1].value = grpc_empty_slice();
    for (uint32_t i = 0; i < KVS_CALL_SLOTS_MAX; i++) {
        call->slots[i].message.slot = i;
    }
    pthread_mutex_init(&call->lock, NULL);
    atomic_init(&call->references, 1); /* of this function */
    atomic_fetch_add_explicit(&rpc->started, 1, memory_order_relaxed);

    pthread_mutex_lock(&rpc->lock);
    call->next = rpc->calls;
    if (call->next != NULL) {
        call->next->previous = call;
    }
    rpc->calls = call;
    pthread_mutex_unlock(&rpc->lock);

    pthread_mutex_lock(&call->lock);
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &call->cancelled;
    start(call, &op, 1, &call->closed_tag);
    start_receive(call);
    start_out(call);
    pthread_mutex_unlock(&call->lock);
    if (request->metadata.count > METADATA_MAX) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_TOO_MANY, "more than %u metadata entries",
                              METADATA_MAX);
        kvs_call_finish(call, &problem);
    } else if (method->opened != NULL) {
        method->opened(call, now_ns);
    }
    kvs_call_unref(call);
}

static void sent_event(kvs_call *call, uint64_t now_ns)
{
    pthread_mutex_lock(&call->lock);
    kvs_send *send = call->sending;
    call->sending = NULL;
    call->out_busy = false;
    if (send != NULL) {
        call->queued--;
    }
    start_out(call);
    bool closed = call->closed;
    pthread_mutex_unlock(&call->lock);
    if (send == NULL) {
        return;
    }
    uint64_t cookie = send->cookie;
    send_recycle(call, send);
    if (!closed && call->method->sent != NULL) {
        call->method->sent(call, cookie, now_ns);
    }
}

static void closed_event(kvs_call *call, uint64_t now_ns)
{
    pthread_mutex_lock(&call->lock);
    call->closed = true;
    kvs_send *sends = call->first;
    call->first = NULL;
    pthread_mutex_unlock(&call->lock);
    sends_free(sends); /* lets borrowed payloads go */
    if (call->method->closed != NULL) {
        call->method->closed(call, now_ns);
    }
}

/* ------------------------------------------------------------------ polling */

static void ask(kvs_request *request)
{
    kvs_rpc *rpc = request->poller->rpc;
    grpc_call_details_init(&request->details);
    grpc_metadata_array_init(&request->metadata);
    TAG_RELEASE(&request->tag);
    grpc_call_error error =
        grpc_server_request_call(rpc->server, &request->call, &request->details, &request->metadata,
                                 request->poller->queue, request->poller->queue, &request->tag);
    KVS_CHECK(error == GRPC_CALL_OK);
}

static void request_event(kvs_request *request, bool success, uint64_t now_ns)
{
    if (success) {
        call_open(request, now_ns);
    }
    grpc_call_details_destroy(&request->details);
    grpc_metadata_array_destroy(&request->metadata);
    if (success && !atomic_load_explicit(&request->poller->rpc->stopping, memory_order_acquire)) {
        ask(request);
    } else {
        free(request);
    }
}

/* Ends calls whose peer has not read for too long: what they hold is other people's memory. */
static void cut_slow_readers(kvs_rpc *rpc, uint64_t now_ns)
{
    kvs_call *slow[SLOW_READERS_AT_ONCE];
    size_t count = 0;
    pthread_mutex_lock(&rpc->lock);
    for (kvs_call *call = rpc->calls; call != NULL && count < SLOW_READERS_AT_ONCE;
         call = call->next) {
        pthread_mutex_lock(&call->lock);
        bool late = call->out_busy && !call->closed &&
                    now_ns > call->out_started_ns + rpc->options.slow_reader_ns;
        pthread_mutex_unlock(&call->lock);
        if (late && take_living(call)) {
            slow[count++] = call;
        }
    }
    pthread_mutex_unlock(&rpc->lock);
    for (size_t i = 0; i < count; i++) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_SLOW_READER, "nothing was read for %llu ms",
                              (unsigned long long)(rpc->options.slow_reader_ns / KVS_MS));
        kvs_log(KVS_LOG_WARN, "slow_reader", "method=%s", slow[i]->method->path);
        kvs_call_cancel(slow[i], &problem);
        kvs_call_unref(slow[i]);
    }
}

static void dispatch(kvs_tag *tag, bool success, uint64_t now_ns)
{
    kvs_call *call = tag->owner;
    switch (tag->kind) {
    case TAG_REQUEST:
        request_event(tag->owner, success, now_ns);
        return;
    case TAG_STOPPED:
        atomic_store_explicit(&((kvs_rpc *)tag->owner)->stopped, true, memory_order_release);
        return;
    case TAG_RECEIVED:
        received_event(call, now_ns);
        break;
    case TAG_SENT:
        sent_event(call, now_ns);
        break;
    case TAG_CLOSED:
        closed_event(call, now_ns);
        break;
    }
    kvs_call_unref(call);
}

static void tick(kvs_rpc *rpc, uint64_t now_ns)
{
    rpc->next_tick_ns = now_ns + KVS_RPC_TICK_NS;
    if (rpc->options.tick != NULL && !atomic_load_explicit(&rpc->quiet, memory_order_acquire)) {
        rpc->options.tick(rpc->options.context, now_ns);
    }
    if (now_ns >= rpc->next_scan_ns) {
        rpc->next_scan_ns = now_ns + SLOW_READER_SCAN_NS;
        cut_slow_readers(rpc, now_ns);
    }
}

static void *poll_loop(void *argument)
{
    kvs_poller *poller = argument;
    kvs_rpc *rpc = poller->rpc;
    for (;;) {
        bool halves = poller->halves != NULL || poller->old_halves != NULL;
        int64_t wait_ns = halves ? 0 : (int64_t)KVS_RPC_TICK_NS;
        gpr_timespec deadline =
            gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(wait_ns, GPR_TIMESPAN));
        grpc_event event = grpc_completion_queue_next(poller->queue, deadline, NULL);
        uint64_t now_ns = kvs_clock_now_ns();
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            bury(poller);
            return NULL;
        }
        if (event.type == GRPC_OP_COMPLETE) {
            TAG_ACQUIRE(event.tag);
            dispatch(event.tag, event.success != 0, now_ns);
            (void)atomic_fetch_add_explicit(&poller->served, 1, memory_order_relaxed);
        }
        bury(poller);
        bool due = poller->index == 0 && now_ns >= rpc->next_tick_ns;
        if (event.type == GRPC_QUEUE_TIMEOUT || due) {
            tell_halves(&poller->old_halves, now_ns);
        }
        if (event.type == GRPC_QUEUE_TIMEOUT) {
            tell_halves(&poller->halves, now_ns);
        } else if (due) {
            poller->old_halves = poller->halves;
            poller->halves = NULL;
        }
        if (due) {
            tick(rpc, now_ns);
        }
    }
}

/* ------------------------------------------------------------------ the server */

static void core_log(gpr_log_func_args *args)
{
    char text[256];
    (void)kvs_log_text(text, sizeof(text), args->message, strlen(args->message));
    kvs_log(args->severity == GPR_LOG_SEVERITY_ERROR ? KVS_LOG_WARN : KVS_LOG_DEBUG, "grpc_core",
            "text=\"%s\"", text);
}

static grpc_arg integer(const char *key, int value)
{
    union { /* the core's struct lacks a const; it does not write */
        const char *in;
        char *out;
    } name = {.in = key};
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = name.out, .value.integer = value};
}

/* What the peers may do. Frame sizes, lookahead and the like stay the core's: measured, they only
 * made it slower (docs/PERFORMANCE.md). */
static grpc_server *create_server(void)
{
    grpc_arg args[] = {
        integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)KVS_MESSAGE_BYTES_MAX),
        integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)KVS_MESSAGE_BYTES_MAX),
        integer(GRPC_ARG_MAX_METADATA_SIZE, 8192),
        integer(GRPC_ARG_MAX_CONCURRENT_STREAMS, 64),
        integer(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5000),
        /* Without it a connection that opens no call would live for ever; and a header that never
         * ends costs time that grows faster than its length. */
        integer(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 10000),
        integer(GRPC_ARG_KEEPALIVE_TIME_MS, 20000),
        integer(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
        integer(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000),
        integer(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 2),
        integer(GRPC_ARG_ALLOW_REUSEPORT, 0),
        integer(GRPC_ARG_TCP_TX_ZEROCOPY_ENABLED, 0),
        /* A few bytes could unpack to gigabytes. */
        integer(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
    };
    grpc_channel_args all = {.num_args = sizeof(args) / sizeof(args[0]), .args = args};
    return grpc_server_create(&all, NULL);
}

static kvs_status start_pollers(kvs_rpc *rpc)
{
    for (uint32_t i = 0; i < rpc->options.threads; i++) {
        kvs_poller *poller = &rpc->pollers[i];
        for (uint32_t k = 0; k < REQUESTS_ARMED; k++) {
            kvs_request *request = calloc(1, sizeof(*request));
            if (request == NULL) {
                return KVS_NO_MEMORY;
            }
            request->poller = poller;
            request->tag = (kvs_tag){.kind = TAG_REQUEST, .owner = request};
            ask(request);
        }
        if (pthread_create(&poller->thread, NULL, poll_loop, poller) != 0) {
            return KVS_NO_MEMORY;
        }
        char name[16];
        (void)snprintf(name, sizeof(name), "kvs-grpc-%u", i % POLLERS_MAX);
        (void)pthread_setname_np(poller->thread, name);
        rpc->poller_count++;
    }
    return KVS_OK;
}

kvs_status kvs_rpc_open(const kvs_rpc_options *options, kvs_rpc **out)
{
    if (options->threads == 0 || options->threads > POLLERS_MAX) {
        return KVS_INVALID_FIELD;
    }
    kvs_rpc *rpc = calloc(1, sizeof(*rpc));
    kvs_poller *pollers = calloc(options->threads, sizeof(*pollers));
    if (rpc == NULL || pollers == NULL) {
        free(rpc);
        free(pollers);
        return KVS_NO_MEMORY;
    }
    gpr_set_log_function(core_log);
    grpc_init();
    rpc->options = *options;
    rpc->pollers = pollers;
    rpc->stopped_tag = (kvs_tag){.kind = TAG_STOPPED, .owner = rpc};
    pthread_mutex_init(&rpc->lock, NULL);
    rpc->credentials = grpc_insecure_server_credentials_create();
    rpc->server = create_server();
    for (uint32_t i = 0; i < options->threads; i++) {
        pollers[i].rpc = rpc;
        pollers[i].index = i;
        pthread_mutex_init(&pollers[i].lock, NULL);
        pollers[i].queue = grpc_completion_queue_create_for_next(NULL);
        grpc_server_register_completion_queue(rpc->server, pollers[i].queue, NULL);
    }
    grpc_server_start(rpc->server);
    kvs_status status = start_pollers(rpc);
    if (status != KVS_OK) {
        kvs_rpc_stop(rpc);
        (void)kvs_rpc_close(rpc, KVS_SECOND);
        return status;
    }
    *out = rpc;
    return KVS_OK;
}

void kvs_rpc_adopt(kvs_rpc *rpc, int fd)
{
    if (atomic_load_explicit(&rpc->stopping, memory_order_acquire)) {
        (void)close(fd);
        return;
    }
    grpc_server_add_channel_from_fd(rpc->server, fd, rpc->credentials);
}

void kvs_rpc_stop(kvs_rpc *rpc)
{
    if (!atomic_exchange_explicit(&rpc->stopping, true, memory_order_acq_rel)) {
        TAG_RELEASE(&rpc->stopped_tag);
        grpc_server_shutdown_and_notify(rpc->server, rpc->pollers[0].queue, &rpc->stopped_tag);
    }
}

void kvs_rpc_cancel(kvs_rpc *rpc)
{
    grpc_server_cancel_all_calls(rpc->server);
}

size_t kvs_rpc_calls(kvs_rpc *rpc, bool lasting_too)
{
    size_t count = 0;
    pthread_mutex_lock(&rpc->lock);
    for (const kvs_call *call = rpc->calls; call != NULL; call = call->next) {
        count += lasting_too || !call->method->lasting ? 1 : 0;
    }
    pthread_mutex_unlock(&rpc->lock);
    return count;
}

uint64_t kvs_rpc_started(const kvs_rpc *rpc)
{
    return atomic_load_explicit(&rpc->started, memory_order_relaxed);
}

bool kvs_rpc_close(kvs_rpc *rpc, uint64_t deadline_ns)
{
    uint64_t end_ns = kvs_clock_now_ns() + deadline_ns;
    while (rpc->poller_count == rpc->options.threads &&
           (kvs_rpc_calls(rpc, true) != 0 ||
            !atomic_load_explicit(&rpc->stopped, memory_order_acquire))) {
        if (kvs_clock_now_ns() > end_ns) {
            atomic_store_explicit(&rpc->quiet, true, memory_order_release);
            return false;
        }
        (void)usleep(2000);
    }
    for (uint32_t i = 0; i < rpc->options.threads; i++) {
        grpc_completion_queue_shutdown(rpc->pollers[i].queue);
    }
    for (uint32_t i = 0; i < rpc->options.threads; i++) {
        if (i < rpc->poller_count) {
            (void)pthread_join(rpc->pollers[i].thread, NULL);
        } else { /* its thread could not be started */
            poll_loop(&rpc->pollers[i]);
        }
    }
    grpc_server_destroy(rpc->server);
    for (uint32_t i = 0; i < rpc->options.threads; i++) {
        grpc_completion_queue_destroy(rpc->pollers[i].queue);
        pthread_mutex_destroy(&rpc->pollers[i].lock);
    }
    grpc_server_credentials_release(rpc->credentials);
    pthread_mutex_destroy(&rpc->lock);
    free(rpc->pollers);
    free(rpc);
    grpc_shutdown_blocking();
    return true;
}

uint64_t kvs_rpc_served(const kvs_rpc *rpc)
{
    uint64_t served = 0;
    for (uint32_t i = 0; i < rpc->options.threads; i++) {
        served += atomic_load_explicit(&rpc->pollers[i].served, memory_order_relaxed);
    }
    return served;
}

const char *kvs_rpc_core_version(void)
{
    return grpc_version_string();
}

/* ------------------------------------------------------------------ what a call tells */

void *kvs_call_state(kvs_call *call)
{
    return call->state;
}

kvs_call *kvs_call_of(void *state)
{
    return (kvs_call *)(void *)((unsigned char *)state - offsetof(kvs_call, state));
}

void *kvs_call_context(kvs_call *call)
{
    return call->rpc->options.context;
}

const kvs_method *kvs_call_method(kvs_call *call)
{
    return call->method;
}

uint64_t kvs_call_deadline_ns(const kvs_call *call)
{
    return call->deadline_ns;
}
