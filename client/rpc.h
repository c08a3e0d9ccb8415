/* The client's way to one server, without gRPC's own words: the one door to the C core, which is
 * not promised to stay as it is.
 *
 * Two connections that share nothing: bulk for values, control for everything that must not wait
 * behind them. A call sends messages one at a time, each a head and borrowed pieces, and receives
 * messages as spans of the bytes where the core left them. A unary call is one with one message.
 *
 * Threads: start, send, end_sends and cancel from any, but one at a time for one call (the
 *   client's mutex). poll by one thread only; events are called by it, with no lock held.
 * Memory: pieces are borrowed until their release, which may be called by any thread, also from
 *   within send, and must neither block nor call back. Spans are valid during `received`.
 * Errors: told by `ended`, always and last; after it the call is gone.
 */
#ifndef KVS_CLIENT_RPC_H
#define KVS_CLIENT_RPC_H

#include "base/status.h"
#include "base/tensor.h"

typedef struct kvs_peer kvs_peer;
typedef struct kvs_peer_call kvs_peer_call;

typedef enum kvs_lane { KVS_LANE_BULK, KVS_LANE_CONTROL, KVS_LANE_COUNT } kvs_lane;

/* `address`: "host:port" or "unix:/path". Does not connect yet. */
kvs_status kvs_peer_open(const char *address, kvs_peer **out) KVS_MUST_CHECK;
/* After the last call has ended; the polling thread is gone. Accepts NULL. */
void kvs_peer_close(kvs_peer *peer);

/* Waits for an event until `until_ns` (base/clock.h) and handles it. */
void kvs_peer_poll(kvs_peer *peer, uint64_t until_ns);

typedef struct kvs_peer_events {
    /* A message; its bytes lie in `count` spans. */
    void (*received)(void *context, const kvs_span *spans, size_t count);
    /* The message given to send has left this library: the next may be sent. Not called after
     * ended. */
    void (*sent)(void *context);
    /* The last event. KVS_OK or what the server (or the way to it) said. */
    void (*ended)(void *context, const kvs_problem *problem);
} kvs_peer_events;

/* Begins a call. deadline_ns 0: none. NULL: no memory. `method`: "/kvstored.v1.KVStore/Push" */
kvs_peer_call *kvs_peer_start(kvs_peer *peer, kvs_lane lane, const char *method,
                              uint64_t deadline_ns, const kvs_peer_events *events, void *context);

/* Bytes on their way out. release (may be NULL) is called once. */
typedef struct kvs_piece {
    const uint8_t *data;
    size_t bytes;
    void (*release)(void *context);
    void *context;
} kvs_piece;

/* Sends the head (copied) and the pieces as one message. Only when none is being sent. `last`:
 * nothing will be sent after it. Small pieces are copied. */
void kvs_peer_send(kvs_peer_call *call, const void *head, size_t head_bytes,
                   const kvs_piece *pieces, size_t count, bool last);
/* Nothing will be sent any more. */
void kvs_peer_end_sends(kvs_peer_call *call);
/* `ended` follows soon. */
void kvs_peer_cancel(kvs_peer_call *call);

#endif
