/* The state of a store at a server, and what the parts of the dist client say to each other.
 *
 * A call becomes a request of one item a key. Items wait in their key's queue; the first of each
 * queue stands in the heap of its flow: a key's n-th push before any other's n+1-th, then by
 * priority. When a part is sent it is given its sequence and an entry
 * in the window, which holds it until it is answered: what is not answered is sent again after a
 * reconnect.
 *
 *   dist.c          opening, closing, the I/O thread, the table
 *   dist_request.c  requests: from arguments to the queue, to their end
 *   dist_encode.c   values as the gradient compression sends them
 *   dist_rows.c     requests of row_sparse values
 *   dist_flight.c   sequences, credit, what is sent and not answered
 *   dist_send.c     frames and pull requests
 *   dist_receive.c  acks, credit, refusals, values
 *   dist_session.c  register, heartbeat, reconnect, the end of a session
 *   dist_control.c  unary calls: optimizer, barrier, command
 *   dist_words.c    who is missing when a deadline has passed
 *   dist_init.c     init
 *   dist_states.c   optimizer states as files
 *   dist_view.c     values that are read where the server has them
 *
 * Threads: everything here is under dist->mutex unless it says otherwise. Requests fail and items
 *   are freed on the I/O thread alone, so that it may write to outs without the mutex.
 * Memory: as said at each struct. Errors: as said at each function.
 */
#ifndef KVS_CLIENT_DIST_STATE_H
#define KVS_CLIENT_DIST_STATE_H

#include "api/codec.h"
#include "client/block.h"
#include "client/compression.h"
#include "client/dist.h"
#include "client/keys.h"
#include "client/rpc.h"
#include "client/sum.h"

/* Headers of one frame, keys of one pull request. */
#define KVS_SEND_PARTS_MAX 1024u
/* Room for a shape on its way; a longer one is left out, as a push may. */
#define KVS_ITEM_SHAPE_BYTES 48u
#define KVS_SESSION_BYTES 16u

typedef enum kvs_flow { KVS_FLOW_PUSH, KVS_FLOW_PUSHPULL, KVS_FLOW_PULL, KVS_FLOW_COUNT } kvs_flow;

typedef struct kvs_dist kvs_dist;
typedef struct kvs_request kvs_request;

/* One key of a request. */
typedef struct kvs_item {
    kvs_request *request;
    kvs_client_key *key;
    struct kvs_item *next; /* in the key's queue */
    kvs_flow flow;
    uint64_t order; /* of arrival, within a priority */
    kvs_dtype dtype;
    uint32_t element_bytes;
    uint32_t shape_bytes; /* 0 and has_shape false: left out */
    bool has_shape;
    bool dropped;  /* nothing of it is sent or written any more */
    bool finished; /* the request knows */
    uint8_t shape[KVS_ITEM_SHAPE_BYTES];
    const uint8_t *data;
    kvs_block *block;     /* a reference to whoever owns data */
    const uint64_t *ends; /* encoded: where each part ends in data; NULL: as it is */
    kvs_codec codec;
    float threshold;
    kvs_codec pull_codec; /* what its values may come back as */
    uint64_t elements;
    uint64_t part_elements;
    uint64_t parts; /* sequences it takes: 1 for a pull */
    uint64_t parts_sent;
    uint64_t after;
    uint64_t unanswered;
    uint64_t received; /* elements */
    void **outs;
    size_t out_count;
    const kvs_group *group;    /* during the call that makes it */
    struct kvs_row_list *rows; /* its own; NULL: dense. A pull's ids, a push's cut */
} kvs_item;

typedef struct kvs_request_list {
    kvs_request *first, *last;
} kvs_request_list;

/* Freed when it is done, nobody has its handle and no entry points to its items. */
struct kvs_request {
    kv_handle handle; /* first */
    kvs_dist *dist;
    kvs_request_list *list; /* that it is in, or NULL */
    kvs_request *next, *previous;
    uint64_t deadline_ns;
    uint64_t number; /* ascending */
    int priority;
    bool kept;           /* the caller has the handle */
    bool draining;       /* over, but the caller's memory is still being read */
    size_t open_items;   /* not finished */
    size_t live_items;   /* not finished, or finished and with parts in the window */
    kvs_block *borrowed; /* counts who reads the caller's memory; NULL: nothing is borrowed */
    size_t item_count;
    kvs_item *items;
    void **outs;
};

typedef struct kvs_flight_entry {
    kvs_item *item; /* NULL: answered */
    uint64_t part;
    bool sent;
    bool valued; /* its value has come */
} kvs_flight_entry;

/* Sequences [base, next): given out, the lowest not answered. */
typedef struct kvs_flight {
    kvs_flight_entry *entries;
    size_t mask;
    uint64_t base;
    uint64_t next;
} kvs_flight;

typedef struct kvs_item_heap {
    kvs_item **list;
    size_t count;
    size_t size;
} kvs_item_heap;

typedef struct kvs_dist_stream {
    kvs_dist *dist;
    kvs_flow flow;
    kvs_peer_call *call;
    bool sending;
    bool sent_any; /* since it was opened */
    kvs_item_heap ready;
    uint64_t resend; /* sequences from here on may have to be sent again */
    uint64_t release,
        released;  /* holds of the server's that have been read, and that it knows of */
    bool unshared; /* its values come as data */
    kvs_head head;
    kvs_codec_scratch scratch; /* I/O thread */
} kvs_dist_stream;

typedef enum kvs_dist_phase {
    KVS_DIST_DOWN,        /* no session: the next call registers */
    KVS_DIST_REGISTERING, /* or resuming */
    KVS_DIST_UP,
    KVS_DIST_WAITING /* the way is broken: tried again at retry_ns */
} kvs_dist_phase;

typedef struct kvs_dist_limits {
    uint64_t part_elements;
    uint64_t frame_payload_bytes;
    uint64_t credit_bytes;
    uint64_t inflight_parts;
    uint64_t lease_ns;
    uint64_t barrier_ns;
} kvs_dist_limits;

struct kvs_dist {
    kv_store base; /* first */
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* by CLOCK_MONOTONIC */
    pthread_t thread;
    bool threaded;
    bool closing; /* no further requests */
    bool stop;
    kvs_peer *peer;
    kvs_block_pool pool;
    kvs_shared *shared;          /* NULL: the server is elsewhere */
    kvs_sum sum;                 /* under base.order */
    kvs_compression compression; /* under base.order */
    char *address;
    char *store;
    char *worker;
    uint64_t connect_timeout_ns;
    uint64_t request_timeout_ns;
    uint64_t credit_wanted; /* 0: the server's */
    int64_t rank_wanted;

    kvs_dist_phase phase;
    kvs_problem problem; /* why it is not up */
    uint64_t retry_ns;
    uint64_t backoff_ns;
    bool has_session;
    uint8_t session[KVS_SESSION_BYTES];
    uint64_t epoch;
    uint64_t membership;
    uint32_t live_workers;
    kvs_dist_limits limits;
    struct kvs_unary *registering;
    kvs_peer_call *session_call;
    bool session_sending;
    bool leaving;
    uint64_t heartbeat_ns;

    kvs_client_keys keys;
    kvs_dist_stream streams[KVS_FLOW_COUNT];
    kvs_flight flight;
    uint64_t credit;           /* bytes that may be sent */
    uint64_t unanswered_bytes; /* of pushes sent and not answered */
    uint64_t pause_ns;         /* nothing refused for room is sent again before */
    kvs_part_header *headers;  /* KVS_SEND_PARTS_MAX of each, for the frame being made */
    kvs_pull_key_view *pull_keys;
    kvs_piece *pieces;

    kvs_request_list open; /* not done, oldest first */
    kvs_request_list over; /* done and not freed */
    size_t draining;       /* requests */
    bool abandon;          /* the session cannot go on: the next tick ends it */
    uint64_t next_number;
    uint64_t next_order;
    kvs_problem failure; /* the first of a request that nobody has a handle of */
    kv_statistics statistics;
};

/* ------------------------------------------------------------------ dist.c */

void kvs_dist_lock(kvs_dist *dist);
void kvs_dist_unlock(kvs_dist *dist);
/* Waits for a change; false when `until_ns` has come. */
bool kvs_dist_wait(kvs_dist *dist, uint64_t until_ns);
/* now + timeout_ms, or never. */
uint64_t kvs_dist_until(uint64_t timeout_ms);

/* ------------------------------------------------------------------ dist_request.c */

kvs_status kvs_dist_transfer(kv_store *kv, const kvs_transfer *transfer, kv_handle **handle,
                             kvs_problem *problem);
kvs_status kvs_dist_wait_handle(kv_store *kv, kv_handle *handle, uint64_t timeout_ms,
                                kvs_problem *problem);
bool kvs_dist_is_done(kv_store *kv, const kv_handle *handle);
kvs_status kvs_dist_wait_all(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem);

/* What a request of any kind says of an item. */
void kvs_item_fill(kvs_item *item, kvs_request *request, const kvs_group *group,
                   const kv_array *array, kvs_flow flow);
/* I/O thread. All parts of the item are answered, or it has failed. */
void kvs_item_finish(kvs_item *item);
/* I/O thread. Keeps the first problem of the request. */
void kvs_request_blame(kvs_request *request, const kvs_problem *problem);
/* I/O thread. Ends the request for its caller; parts in the window stay there. */
void kvs_request_fail(kvs_request *request, const kvs_problem *problem);
/* I/O thread. Ends requests that are due or whose memory is no longer read. */
void kvs_dist_check_requests(kvs_dist *dist, uint64_t now_ns);
/* True when a push, or a part of one, is sent and not answered. */
bool kvs_dist_has_pushes(const kvs_dist *dist);
void kvs_dist_free_requests(kvs_dist *dist);

/* ------------------------------------------------------------------ dist_encode.c */

/* ORDERED, without the mutex. Gives the items their values, encoded. */
kvs_status kvs_dist_encode_values(kvs_request *request, const kvs_groups *groups,
                                  kvs_problem *problem) KVS_MUST_CHECK;

/* ------------------------------------------------------------------ dist_rows.c */

/* Room for items of a transfer of rows: at most so many. */
size_t kvs_dist_count_row_items(const kvs_transfer *transfer);
/* Makes the request's items, with their rows. */
kvs_status kvs_dist_fill_rows(kvs_request *request, const kvs_transfer *transfer,
                              kvs_problem *problem) KVS_MUST_CHECK;
void kvs_item_free_rows(kvs_item *item);
/* What has come of a value: where it goes in the item's outs, and in which form it is. */
typedef struct kvs_arrival {
    uint64_t element_offset;
    uint64_t runs; /* as engine/codec.h means them: one, or the rows */
    uint64_t run_elements;
    kvs_codec codec;
} kvs_arrival;
/* The same of rows. */
kvs_status kvs_item_check_rows(const kvs_item *item, const kvs_part_header *header,
                               kvs_arrival *out, kvs_problem *problem) KVS_MUST_CHECK;
/* Is it in a form that was asked for, and of as many bytes as that takes? */
bool kvs_item_fits(const kvs_item *item, const kvs_part_header *header, const kvs_arrival *arrival);

/* ------------------------------------------------------------------ dist_view.c */

kvs_status kvs_dist_view(kv_store *kv, const char *name, size_t name_bytes, kv_view **out,
                         kvs_problem *problem);

/* ------------------------------------------------------------------ dist_flight.c */

/* Room for the server's limit. KVS_NO_MEMORY */
kvs_status kvs_flight_reserve(kvs_flight *flight, uint64_t parts) KVS_MUST_CHECK;
bool kvs_flight_has_room(const kvs_dist *dist);
/* The entry of a sequence that is not answered, or NULL. */
kvs_flight_entry *kvs_flight_find(kvs_flight *flight, uint64_t sequence);
/* Gives the item's next part a sequence. Needs room. */
uint64_t kvs_flight_give(kvs_dist *dist, kvs_item *item);
/* I/O thread. The sequence was answered: its item may be finished. */
void kvs_flight_answer(kvs_dist *dist, uint64_t sequence);
/* Nothing that is not answered counts as sent; the credit is whole. */
void kvs_flight_unsend(kvs_dist *dist);
/* One is to be sent again. */
void kvs_flight_unsend_one(kvs_dist *dist, uint64_t sequence);
/* I/O thread. Forgets all that is not answered, and with `fresh` that there ever was a sequence
 * (the session is over). Items that are not dropped are not told: fail them or queue them again. */
void kvs_flight_reset(kvs_dist *dist, bool fresh);

uint64_t kvs_item_part_elements(const kvs_item *item, uint64_t part);
uint64_t kvs_item_part_bytes(const kvs_item *item, uint64_t part);
/* Where the part begins in the item's data. */
uint64_t kvs_item_part_offset(const kvs_item *item, uint64_t part);
uint64_t kvs_item_id_bytes(const kvs_item *item, uint64_t part); /* of row ids in its header */
bool kvs_dist_has_credit(const kvs_dist *dist, uint64_t bytes);

/* ------------------------------------------------------------------ dist_send.c */

/* Appends to the key's queue. KVS_NO_MEMORY */
kvs_status kvs_item_queue(kvs_dist *dist, kvs_item *item) KVS_MUST_CHECK;
/* Takes it out of its key's queue, wherever it stands. */
void kvs_item_unqueue(kvs_dist *dist, kvs_item *item);
/* Sends what can be sent. */
void kvs_dist_pump(kvs_dist *dist);

/* ------------------------------------------------------------------ dist_receive.c */

extern const kvs_peer_events kvs_dist_stream_events;

/* ------------------------------------------------------------------ dist_session.c */

/* Begins to register if there is no session and nobody has begun. */
void kvs_dist_connect(kvs_dist *dist);
/* Waits until the session is up. What has failed instead, or KVS_UNAVAILABLE at `until_ns`. */
kvs_status kvs_dist_wait_up(kvs_dist *dist, uint64_t until_ns, kvs_problem *problem);
/* I/O thread. A stream has ended that should not have. */
void kvs_dist_broken(kvs_dist *dist, const kvs_problem *problem);
/* I/O thread. Retries, heartbeats. */
void kvs_dist_tick_session(kvs_dist *dist, uint64_t now_ns);
/* Ends the session at the server. */
void kvs_dist_leave(kvs_dist *dist);
/* Takes over limits of the server; those that are 0 stay. */
struct Kvstored__V1__Limits;
void kvs_dist_set_limits(kvs_dist *dist, const struct Kvstored__V1__Limits *limits);

/* ------------------------------------------------------------------ dist_control.c */

/* A call with one message each way. Lives until `finished`, which always comes. */
typedef struct kvs_unary {
    kvs_dist *dist;
    kvs_peer_call *call;
    void (*done)(struct kvs_unary *unary); /* I/O thread, with the mutex; may free it; or NULL */
    bool finished;
    kvs_problem problem;
    uint8_t *reply;
    size_t reply_bytes;
    kvs_status reply_status;
} kvs_unary;

struct ProtobufCMessage;
/* Begins it. Without memory it is finished at once, and done is not called. */
void kvs_unary_start(kvs_unary *unary, kvs_dist *dist, const char *method,
                     const struct ProtobufCMessage *request, uint64_t deadline_ns);
void kvs_unary_deinit(kvs_unary *unary);
/* How often a call may be made when the way to the server breaks. */
typedef enum kvs_repeat { KVS_ONCE, KVS_REPEATABLE } kvs_repeat;
/* Calls and waits, without the mutex. The caller deinits. */
kvs_status kvs_dist_call(kvs_dist *dist, const char *method, const struct ProtobufCMessage *request,
                         uint64_t until_ns, kvs_repeat repeat, kvs_unary *unary,
                         kvs_problem *problem);

kvs_status kvs_dist_set_optimizer(kv_store *kv, const char *json, kvs_problem *problem);
kvs_status kvs_dist_get_optimizer(kv_store *kv, char **json, kvs_problem *problem);
/* The server keeps it for whoever asks. */
kvs_status kvs_dist_tell_compression(kvs_dist *dist, kvs_problem *problem);
kvs_status kvs_dist_barrier(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem);
kvs_status kvs_dist_send_command(kv_store *kv, int head, const char *body, kvs_problem *problem);

/* ------------------------------------------------------------------ dist_words.c */

/* Without the mutex; may ask the server for up to a second. Adds to the words of a KVS_DEADLINE, if
 * the server knows more: the ranks that the oldest round, or the barrier, waits for. */
void kvs_dist_name_round(kvs_dist *dist, kvs_problem *problem);
void kvs_dist_name_barrier(kvs_dist *dist, kvs_problem *problem);

/* ------------------------------------------------------------------ dist_init.c */

kvs_status kvs_dist_init(kv_store *kv, kvs_groups *groups, bool sparse, kvs_problem *problem);

/* ------------------------------------------------------------------ dist_states.c */

kvs_status kvs_dist_save_states(kv_store *kv, const char *path, bool dump_optimizer,
                                kvs_problem *problem);
kvs_status kvs_dist_load_states(kv_store *kv, const char *path, kvs_problem *problem);

#endif
