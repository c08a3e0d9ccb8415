/* Calls of a gRPC server, without gRPC's own words: the one door to the C core, which is not
 * promised to stay as it is.
 *
 * A call is received as messages in a few slots (a slot is the stream's window: while all are
 * held, HTTP/2 stops the peer) and answered by sends, of which one at a time is with the core and
 * the others wait in order. Each polling thread has its own completion queue; all functions of
 * one call's method are called by one thread, one at a time.
 *
 * Threads: everything on a call may be called from any thread. Method functions and tick must not
 *   block. They are called without any lock held.
 * Memory: a call is counted; whoever keeps a pointer takes a reference. A message's bytes are
 *   borrowed until kvs_message_release. Borrowed payloads of a send are let go by `release`, from
 *   any thread, perhaps long after the send.
 * Errors: after a call has ended sends are dropped and finish does nothing: nobody need check.
 */
#ifndef KVS_SERVICE_RPC_H
#define KVS_SERVICE_RPC_H

#include "base/status.h"
#include "base/tensor.h"

typedef struct kvs_rpc kvs_rpc;
typedef struct kvs_call kvs_call;
typedef struct kvs_send kvs_send;

#define KVS_CALL_SLOTS_MAX 4u
/* How often tick is called: the engine asks for 100 ms at most. */
#define KVS_RPC_TICK_NS (50 * KVS_MS)

/* A message that was received. Borrows its bytes from the core until its release. */
typedef struct kvs_message {
    const kvs_span *spans;
    uint32_t span_count;
    uint32_t slot; /* below the method's slots */
    size_t bytes;
} kvs_message;

/* All functions but received may be NULL. */
typedef struct kvs_method {
    const char *path;   /* "/kvstored.v1.KVStore/Push" */
    uint32_t slots;     /* 1 to KVS_CALL_SLOTS_MAX; unary: 1 */
    bool streaming;     /* headers go out at once, not with the first message */
    bool lasting;       /* has no end of its own: not waited for when the server stops */
    size_t state_bytes; /* of kvs_call_state, zero at first */
    void (*opened)(kvs_call *call, uint64_t now_ns);
    void (*received)(kvs_call *call, kvs_message *message, uint64_t now_ns);
    void (*ended)(kvs_call *call, uint64_t now_ns); /* the peer sends no more; NULL: finish OK, or
                                                       INVALID_FRAME when it sent nothing */
    void (*sent)(kvs_call *call, uint64_t cookie, uint64_t now_ns);
    void (*closed)(kvs_call *call, uint64_t now_ns); /* answered or cancelled; the last event */
    void (*deinit)(kvs_call *call);                  /* no reference is left; on a polling thread */
} kvs_method;

typedef struct kvs_rpc_options {
    const kvs_method *const *methods;
    size_t method_count;
    void *context; /* kvs_call_context */
    uint32_t threads;
    uint64_t slow_reader_ns; /* a send that takes longer ends its call with KVS_SLOW_READER */
    void (*tick)(void *context, uint64_t now_ns); /* on one thread; may be NULL */
} kvs_rpc_options;

kvs_status kvs_rpc_open(const kvs_rpc_options *options, kvs_rpc **out) KVS_MUST_CHECK;

/* Serves a connected, non-blocking socket. Takes it always. */
void kvs_rpc_adopt(kvs_rpc *rpc, int fd);

/* No new calls; peers are told. Then those that are there may end. */
void kvs_rpc_stop(kvs_rpc *rpc);

/* Ends all calls. */
void kvs_rpc_cancel(kvs_rpc *rpc);

/* Calls that somebody still holds: all, or those of methods that are not lasting. */
size_t kvs_rpc_calls(kvs_rpc *rpc, bool lasting_too);
uint64_t kvs_rpc_started(const kvs_rpc *rpc);

/* After stop, cancel and when no call is left. False: calls were left after `deadline_ns` (from
 * now); the core is then not torn down, since somebody still holds it. */
bool kvs_rpc_close(kvs_rpc *rpc, uint64_t deadline_ns);

/* Events that its threads have served: grows while they are well. */
uint64_t kvs_rpc_served(const kvs_rpc *rpc);

/* "29.0.0": of the C core. */
const char *kvs_rpc_core_version(void);

/* ------------------------------------------------------------------ a call */

void *kvs_call_state(kvs_call *call);
kvs_call *kvs_call_of(void *state);
void *kvs_call_context(kvs_call *call);
const kvs_method *kvs_call_method(kvs_call *call);
/* When the caller gives up, in the time of base/clock.h; 0: never. */
uint64_t kvs_call_deadline_ns(const kvs_call *call);
kvs_call *kvs_call_take(kvs_call *call);
void kvs_call_unref(kvs_call *call);

/* The slot may be filled again. */
void kvs_message_release(kvs_call *call, kvs_message *message);

/* A message on its way out. NULL: no memory, or the call has ended. */
kvs_send *kvs_send_begin(kvs_call *call);
/* False: no memory; the send is then to be dropped. `release` is not called in that case. */
bool kvs_send_copy(kvs_send *send, const void *bytes, size_t count);
bool kvs_send_borrow(kvs_send *send, const void *bytes, size_t count, void (*release)(void *),
                     void *context);
void kvs_send_drop(kvs_call *call, kvs_send *send);
/* Takes the send; method->sent(cookie) follows once it has left. With `more` it may wait for the
 * next one, so that both leave together: one without `more` must follow soon. */
void kvs_send_commit(kvs_call *call, kvs_send *send, uint64_t cookie, bool more);
/* The three above in one, for small answers. */
void kvs_call_send(kvs_call *call, const void *bytes, size_t count);
/* Sends committed and not yet gone. */
uint32_t kvs_call_queued(kvs_call *call);

/* Answers with a status once the sends before it are gone. NULL: OK. The first one counts. */
void kvs_call_finish(kvs_call *call, const kvs_problem *problem);
/* Ends the call at once, whatever waits. */
void kvs_call_cancel(kvs_call *call, const kvs_problem *problem);

#endif
