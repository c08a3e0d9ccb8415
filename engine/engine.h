/* The front door of the parameter store: stores, sessions, pushes, pulls, cuts.
 *
 * No network, no clock, no threads of its own. A request goes down by plain calls; what comes of
 * it comes back up through the functions of a kvs_channel. The same code runs in the server, in
 * the client library (local) and in the seeded simulation.
 *
 * Threads: control calls (kvs_engine_*, kvs_store_*, kvs_session_register ...) from any thread;
 *   they may wait for a mutex that no push or pull ever takes. Calls marked HOLDER only from
 *   within a task posted by kvs_session_post, which makes the caller the session's holder.
 *   Channel functions and waiters' done are called by some holder: they must not block.
 * Time: every call that can move time on takes `now_ns` (base/clock.h in a server).
 */
#ifndef KVS_ENGINE_ENGINE_H
#define KVS_ENGINE_ENGINE_H

#include "base/frame.h"
#include "base/status.h"
#include "engine/backend.h"
#include "engine/codec.h"
#include "engine/optimizer.h"
#include "engine/right.h"

#include <stdatomic.h>

typedef struct kvs_engine kvs_engine;
typedef struct kvs_store kvs_store;     /* counted */
typedef struct kvs_session kvs_session; /* counted */
typedef struct kvs_buffer kvs_buffer;   /* counted: the bytes of one version of one part */

#define KVS_SESSION_ID_BYTES 16

/* ------------------------------------------------------------------ the engine */

typedef struct kvs_engine_options {
    kvs_backend *backend;      /* borrowed until close */
    uint32_t shards;           /* of each store; 1 to KVS_SHARDS_MAX */
    uint64_t epoch;            /* above every epoch of this data before */
    uint64_t credit_bytes;     /* of each session; 0: KVS_CREDIT_BYTES_DEFAULT */
    uint64_t part_elements;    /* 0: KVS_PART_ELEMENTS, as every server; less only in tests */
    uint64_t inflight_parts;   /* 0: KVS_INFLIGHT_PARTS_MIN; less only in tests */
    uint64_t memory_bytes_max; /* of weights, states, held contributions; 0: the machine's */
    void (*random)(void *out, size_t bytes); /* session ids; NULL: getrandom */
    kvs_scheduler *scheduler;                /* NULL but in the simulation */
    struct kvs_profile *profile;             /* of its stages; NULL: none. Borrowed until close */
} kvs_engine_options;

kvs_status kvs_engine_open(const kvs_engine_options *options, kvs_engine **out) KVS_MUST_CHECK;

/* Deletes all stores. After every reference to a store, session and buffer was given back. */
void kvs_engine_close(kvs_engine *engine);

/* Ends what is due: leases, round deadlines, barriers, waits. Call it at least every 100 ms. */
void kvs_engine_tick(kvs_engine *engine, uint64_t now_ns);

/* The server stops: no session comes any more. From the next tick on, what waits for a rank without
 * a live session is refused with KVS_STOPPING: contributions to rounds of it, and pulls, barriers
 * and inits behind them. What can still end is left alone. Any thread, for good. */
void kvs_engine_drain(kvs_engine *engine);

uint64_t kvs_engine_epoch(const kvs_engine *engine);
const char *kvs_engine_backend_name(const kvs_engine *engine);
/* The backend has failed, for ever: whatever needs it is refused with KVS_DEVICE_LOST. */
bool kvs_engine_lost(const kvs_engine *engine);

/* ------------------------------------------------------------------ stores */

/* Numbers as in kvstored.proto. */
typedef enum kvs_policy {
    KVS_POLICY_FAIL = 0,
    KVS_POLICY_SHRINK = 1,
    KVS_POLICY_WAIT = 2
} kvs_policy;

/* What a type name means, by MXNet's substring rule. */
typedef enum kvs_kind { KVS_LOCAL, KVS_SYNC, KVS_ASYNC } kvs_kind;
kvs_kind kvs_kind_of(const char *type);

typedef struct kvs_store_options {
    const char *name;     /* "" means "default"; [A-Za-z0-9][A-Za-z0-9._-]{0,127} */
    const char *type;     /* "dist_sync"; kept as given, in lower case */
    uint32_t num_workers; /* 1 to KVS_WORKERS_MAX */
    kvs_policy policy;
    uint64_t round_deadline_ns; /* 0: the default, here and below */
    uint64_t lease_ns;
    uint64_t barrier_deadline_ns;
} kvs_store_options;

/* Gives a reference. An equal second create gives the same store. Errors: KVS_STORE_EXISTS,
 * KVS_INVALID_FIELD, KVS_TOO_MANY, KVS_NO_MEMORY. (A server refuses types without "dist"; the
 * engine does not.) */
kvs_status kvs_store_create(kvs_engine *engine, const kvs_store_options *options, kvs_store **out,
                            kvs_problem *problem) KVS_MUST_CHECK;
/* Gives a reference. `name` need not be terminated; empty means "default". KVS_STORE_NOT_FOUND */
kvs_status kvs_store_find(kvs_engine *engine, const char *name, size_t name_bytes, kvs_store **out,
                          kvs_problem *problem) KVS_MUST_CHECK;
/* Ends all sessions, refuses what is open with KVS_STORE_DELETED, forgets the name. */
kvs_status kvs_store_delete(kvs_engine *engine, const char *name, uint64_t now_ns,
                            kvs_problem *problem) KVS_MUST_CHECK;
kvs_store *kvs_store_take(kvs_store *store);
void kvs_store_unref(kvs_store *store); /* accepts NULL */

/* Up to `max` references, in order of creation, to stores after the first `skip`; how many. */
size_t kvs_store_list(kvs_engine *engine, size_t skip, size_t max, kvs_store **out);

typedef struct kvs_store_info {
    const char *name; /* borrowed from the store, as the next one */
    const char *type;
    kvs_kind kind;
    kvs_policy policy;
    uint32_t num_workers;
    uint32_t live_workers;
    uint32_t shards;
    uint64_t keys;
    uint64_t parts;
    uint64_t bytes; /* weights and states */
    uint64_t membership;
    uint64_t round_deadline_ns;
    uint64_t lease_ns;
    uint64_t barrier_deadline_ns;
    uint64_t credit_bytes;
    uint64_t inflight_parts; /* the window of its sessions */
} kvs_store_info;
void kvs_store_describe(kvs_store *store, kvs_store_info *out);

typedef struct kvs_store_statistics {
    uint64_t parts_pushed, bytes_pushed, parts_pulled, bytes_pulled;
    uint64_t duplicates, refused, rounds_closed, rounds_failed, leases_lost;
    uint64_t held_bytes, store_bytes;
} kvs_store_statistics;
void kvs_store_count(kvs_store *store, kvs_store_statistics *out);

/* Tells of every change of membership, optimizer and keys' existence: `changed` is called under
 * the control mutex and must only wake somebody. One per store and watcher. */
typedef struct kvs_watcher {
    struct kvs_watcher *next;
    void (*changed)(struct kvs_watcher *watcher);
} kvs_watcher;
void kvs_store_watch(kvs_store *store, kvs_watcher *watcher);
void kvs_store_unwatch(kvs_store *store, kvs_watcher *watcher);

/* ------------------------------------------------------------------ keys */

typedef struct kvs_key_info {
    const char *name; /* borrowed from the store */
    uint32_t name_bytes;
    kvs_dtype dtype;
    kvs_storage storage;
    kvs_shape shape;
    uint64_t elements;
    uint64_t part_elements;
    uint64_t parts;
    kvs_version version; /* of its slowest part at this moment */
} kvs_key_info;

kvs_status kvs_key_describe(kvs_store *store, const char *key, size_t key_bytes, kvs_key_info *out,
                            kvs_problem *problem) KVS_MUST_CHECK;
/* Keys that begin with `prefix`, in bytewise order, after `after` (empty: from the first): up to
 * `max`; how many. */
size_t kvs_key_list(kvs_store *store, const char *prefix, const char *after, size_t max,
                    kvs_key_info *out);

/* The shard of a part: xxh64 (seed 0) of the key's bytes followed by the part's number as 8
 * little-endian bytes, modulo the shard count. Published in docs/PROTOCOL.md. */
uint32_t kvs_shard_of(const char *key, size_t key_bytes, uint64_t part, uint32_t shards);

/* ------------------------------------------------------------------ sessions */

typedef struct kvs_register {
    const char *type;               /* the client's type name; "": whatever the store is */
    const char *worker;             /* its name, for people; may be "" */
    int64_t rank;                   /* wanted, or -1 */
    const uint8_t *resume;          /* KVS_SESSION_ID_BYTES, or NULL */
    uint64_t epoch;                 /* resume: of the session */
    uint64_t lowest_unacknowledged; /* resume: the window moves there; 0: stays */
} kvs_register;

typedef struct kvs_session_info {
    uint8_t id[KVS_SESSION_ID_BYTES];
    uint32_t rank;
    uint64_t epoch;
    uint64_t next_sequence; /* above the highest that arrived */
    bool resumed;
} kvs_session_info;

/* Gives a reference. Errors: KVS_STORE_TYPE_MISMATCH, KVS_RANK_TAKEN, KVS_STORE_FULL, KVS_FENCED
 * (resume of a session that has ended), KVS_INVALID_FIELD, KVS_STORE_DELETED. */
kvs_status kvs_session_register(kvs_store *store, const kvs_register *request, uint64_t now_ns,
                                kvs_session **out, kvs_session_info *info,
                                kvs_problem *problem) KVS_MUST_CHECK;
/* Gives a reference to a live session. KVS_NOT_REGISTERED, KVS_FENCED (ended, or another epoch). */
kvs_status kvs_session_find(kvs_store *store, const uint8_t *id, size_t id_bytes, uint64_t epoch,
                            kvs_session **out, kvs_problem *problem) KVS_MUST_CHECK;
kvs_session *kvs_session_take(kvs_session *session);
void kvs_session_unref(kvs_session *session);       /* accepts NULL */
kvs_store *kvs_session_store(kvs_session *session); /* borrowed */
uint32_t kvs_session_rank(const kvs_session *session);

/* Moves the lease on. Every frame does it as well. KVS_FENCED once the session has ended. */
kvs_status kvs_session_heartbeat(kvs_session *session, uint64_t now_ns) KVS_MUST_CHECK;
/* The worker says goodbye: the session ends and its rank is free. */
void kvs_session_leave(kvs_session *session, uint64_t now_ns);

typedef struct kvs_worker_info {
    char name[KVS_NAME_BYTES_MAX + 1];
    uint8_t id[KVS_SESSION_ID_BYTES];
    uint32_t rank;
    const char *state; /* "live", "lost" (lease), "left", "out" (missed a deadline) */
    uint64_t idle_ns;
    uint64_t parts_pushed, bytes_pushed, inflight_parts, inflight_bytes;
} kvs_worker_info;
/* One row a rank that ever registered, by rank; up to `max`; how many. */
size_t kvs_worker_list(kvs_store *store, uint64_t now_ns, size_t max, kvs_worker_info *out);

/* Runs task->run(task, now) as the session's holder: at once, or when the holder gets to it. The
 * caller has a reference for as long. */
void kvs_session_post(kvs_session *session, kvs_task *task, uint64_t now_ns);

/* ------------------------------------------------------------------ channels: the way back up */

/* A part of a value on its way out. Borrows all but the buffer's reference, which it gives. */
typedef struct kvs_value_part {
    kvs_part_header header; /* key and shape point into the store; sequence is the request's */
    const uint8_t *data;
    uint64_t region; /* 0, or where other processes find the data (engine/backend.h) */
    uint64_t region_offset;
    kvs_buffer *buffer; /* the receiver's reference: kvs_buffer_unref from any thread */
} kvs_value_part;
void kvs_buffer_unref(kvs_buffer *buffer);

/* One stream of a session. The first member of the service's own struct. All functions are called
 * by the session's holder; flush ends a turn in which any other was called. */
typedef struct kvs_channel kvs_channel;
typedef struct kvs_channel_table {
    void (*ack)(kvs_channel *channel, uint64_t first, uint64_t last, bool duplicate);
    void (*refuse)(kvs_channel *channel, uint64_t sequence, const char *key, size_t key_bytes,
                   const kvs_problem *problem);
    void (*credit)(kvs_channel *channel, uint64_t bytes);
    void (*value)(kvs_channel *channel, const kvs_value_part *part);
    void (*flush)(kvs_channel *channel, uint64_t now_ns);
    void (*take)(kvs_channel *channel); /* counted: an op in the engine keeps its channel */
    void (*unref)(kvs_channel *channel);
} kvs_channel_table;
struct kvs_channel {
    const kvs_channel_table *table;
    /* The engine's; zero at first, then HOLDER only. */
    kvs_channel *dirty_next;
    bool dirty;
    bool closed;
    uint64_t ahead_bytes; /* of pulls handed to shards or given to value() and not yet sent */
    struct kvs_op *pulls_first, *pulls_last; /* keys whose parts are still to be asked for */
};

/* ------------------------------------------------------------------ pushing */

/* A frame's bytes while its parts are in the engine. The first member of the service's own struct.
 * consumed is called by the session's holder when no part borrows the bytes any more; from then on
 * the frame is the service's again. */
typedef struct kvs_frame {
    kvs_task task;
    _Atomic uint32_t pending;
    kvs_session *session;
    void (*consumed)(struct kvs_frame *frame, uint64_t now_ns);
    kvs_codec value_codec; /* of the values that are wanted: F16, BF16, INT8 or none */
    bool whole; /* all parts of one key, in their order, in a local store of one shard that has no
                   other push under way: all are applied, or none is */
} kvs_frame;

/* HOLDER. All parts of one frame: judged at the door, handed to their shards. What becomes of each
 * part comes back through `channel` (ack, refuse; with `want_values` also value, before the ack).
 * Headers are read during the call only; payloads (headers[i]'s lie one after another in
 * `payload`, whose span array must live as long as the frame) until frame->consumed. The sum of
 * payload_bytes must equal payload->bytes (checked by api/). Headers stand for at most
 * KVS_FRAME_PARTS_MAX parts.
 * A part that is refused for OVER_CREDIT, SEQ_GAP, FENCED or STOPPING has not used its sequence. */
void kvs_session_push(kvs_session *session, kvs_channel *channel, kvs_frame *frame,
                      const kvs_part_header *headers, size_t count, const kvs_payload *payload,
                      bool want_values, uint64_t now_ns);

/* ------------------------------------------------------------------ pulling */

typedef struct kvs_pull_key {
    const char *key;
    uint32_t key_bytes;
    uint64_t sequence; /* 0: a plain read */
    uint64_t after;
    int32_t priority;
    kvs_version min_version; /* count 0: none */
    bool snapshot;           /* all parts of one version */
    uint32_t row_ids_bytes;  /* of packed varints: only these rows, in any order; 0: all */
    const uint8_t *row_ids;
    kvs_codec codec; /* f32 is wanted so: F16, BF16, INT8 or none */
} kvs_pull_key;

/* HOLDER. Values come back through channel->value, part by part, as the channel is read: at most
 * KVS_PULL_BYTES_AHEAD wait for kvs_session_sent. An unknown key is refused. The last part of a
 * key is followed by ack(sequence) if it had one. Of rows, each comes once, in ascending order;
 * parts without any do not come. */
void kvs_session_pull(kvs_session *session, kvs_channel *channel, const kvs_pull_key *keys,
                      size_t count, uint64_t now_ns);

/* HOLDER. `bytes` of values of this channel have left. */
void kvs_session_sent(kvs_session *session, kvs_channel *channel, uint64_t bytes, uint64_t now_ns);

/* HOLDER. The stream is gone: its pulls are dropped (pushes go on and are acked to whoever
 * repeats them). Nothing is called on it any more but unref. */
void kvs_session_close_channel(kvs_session *session, kvs_channel *channel, uint64_t now_ns);

/* ------------------------------------------------------------------ init */

/* Values on their way in, whole or not at all. One caller at a time. */
typedef struct kvs_init kvs_init;
typedef struct kvs_init_key {
    kvs_key_info info;
    bool existed;
} kvs_init_key;

/* Told once that something has ended: OK, or problem->status. The first member of the caller's
 * own struct; `done` may free it. Called from any thread, perhaps before the starting call
 * returns. */
typedef struct kvs_waiter {
    struct kvs_waiter *next; /* the engine's */
    uint64_t deadline_ns;    /* the caller's: an absolute time; 0: the operation's default */
    uint64_t done_ns;        /* the engine's: the time of done */
    void (*done)(struct kvs_waiter *waiter, const kvs_problem *problem);
    kvs_task task; /* the engine's */
} kvs_waiter;

/* `session` may be NULL (REST, local): counts as rank 0. */
kvs_status kvs_init_open(kvs_store *store, kvs_session *session, kvs_init **out,
                         kvs_problem *problem) KVS_MUST_CHECK;
/* One part. Rank 0's payload is copied; of other ranks only key, dtype and shape count, payload
 * may be absent. KVS_INVALID_TENSOR, KVS_KEY_EXISTS, KVS_UNIMPLEMENTED, KVS_NO_MEMORY, ... */
kvs_status kvs_init_part(kvs_init *init, const kvs_part_header *header, const kvs_payload *payload,
                         kvs_problem *problem) KVS_MUST_CHECK;
/* Rank 0: makes all keys visible, or none (missing parts: KVS_INVALID_TENSOR). Others: waits until
 * rank 0 has. `waiter->done` tells; afterwards kvs_init_keys may be read until close. */
void kvs_init_commit(kvs_init *init, kvs_waiter *waiter, uint64_t now_ns);
size_t kvs_init_keys(const kvs_init *init, const kvs_init_key **out);
void kvs_init_close(kvs_init *init); /* accepts NULL; not while a commit waits */

/* ------------------------------------------------------------------ cuts: read, assign, rule */

/* Rows of a key, by part: rows[starts[p]] to rows[starts[p + 1] - 1] are of part p, and count from
 * its first. All NULL: no rows, but all. */
typedef struct kvs_row_cut {
    uint32_t *rows;
    uint64_t *starts;
} kvs_row_cut;

/* One key at one version. */
typedef struct kvs_snapshot {
    kvs_key_info info; /* version is the cut's */
    size_t parts;
    kvs_buffer **buffers; /* references, of rows NULL where there are none; freed by
                             kvs_snapshot_deinit */
    const uint8_t **data; /* of each part: part_elements each but the last */
    kvs_row_cut rows;     /* what the buffers hold */
} kvs_snapshot;
void kvs_snapshot_deinit(kvs_snapshot *snapshot);

/* Fills *out (the caller's, until done) with the value at a cut. KVS_KEY_NOT_FOUND, KVS_DEADLINE */
void kvs_store_read(kvs_store *store, const char *key, size_t key_bytes, kvs_snapshot *out,
                    kvs_waiter *waiter, uint64_t now_ns);

/* Replaces a value, whole or not at all, as one update of every part. `data` holds the whole value
 * and is copied during the call. With `if_match` (may be NULL) only while the value is at that
 * version: KVS_ETAG_MISMATCH. `version` (may be NULL) receives the new version before done. */
void kvs_store_assign(kvs_store *store, const char *key, size_t key_bytes, kvs_dtype dtype,
                      const kvs_shape *shape, const void *data, size_t bytes,
                      const kvs_version *if_match, kvs_version *version, kvs_waiter *waiter,
                      uint64_t now_ns);

/* Takes effect at a cut of every key: no round mixes two rules. An equal one changes nothing; the
 * same rule with other numbers keeps the states; another rule drops them. Takes its own reference.
 * NULL: no optimizer. */
void kvs_store_set_optimizer(kvs_store *store, kvs_optimizer *optimizer, kvs_waiter *waiter,
                             uint64_t now_ns);
kvs_optimizer *kvs_store_optimizer(kvs_store *store); /* a reference, or NULL */

/* What the workers say of their gradients; for whoever asks, and codec NONE at first. Pushes say
 * for themselves how they are encoded (engine/codec.h). Any thread. */
void kvs_store_set_compression(kvs_store *store, const kvs_encoding *encoding);
void kvs_store_compression(kvs_store *store, kvs_encoding *out);

/* ------------------------------------------------------------------ barriers, rounds, commands */

/* Waits until every rank has entered `name` ("" is the store's own). waiter->deadline_ns is an
 * absolute time; the earlier of it and the store's default ends it: KVS_DEADLINE names the
 * missing; KVS_BARRIER_BROKEN when a lease is lost. A local store returns at once. */
typedef struct kvs_barrier_result {
    uint64_t generation;
    uint32_t arrival_index;
} kvs_barrier_result;
void kvs_barrier_enter(kvs_store *store, uint32_t rank, const char *name,
                       kvs_barrier_result *result, kvs_waiter *waiter, uint64_t now_ns);

/* Takes out again whoever entered with `waiter`, if it still waits: KVS_CANCELLED. */
void kvs_barrier_leave(kvs_store *store, const kvs_waiter *waiter, uint64_t now_ns);

typedef struct kvs_barrier_info {
    char name[KVS_NAME_BYTES_MAX + 1];
    uint64_t generation;
    uint32_t arrived;
    uint32_t missing_count;
    uint32_t missing[64]; /* the first ranks */
} kvs_barrier_info;
size_t kvs_barrier_list(kvs_store *store, size_t max, kvs_barrier_info *out);

typedef struct kvs_round_info {
    const char *key; /* borrowed from the store */
    uint32_t key_bytes;
    uint64_t part;
    kvs_version version; /* that it will make */
    uint64_t age_ns;
    uint32_t arrived_count, missing_count;
    uint32_t arrived[64], missing[64]; /* the first ranks */
} kvs_round_info;
typedef struct kvs_rounds {
    size_t max;   /* the caller's: room in `rounds` */
    size_t count; /* how many are filled */
    uint64_t open;
    kvs_round_info *rounds; /* the caller's, until done */
} kvs_rounds;
/* The open rounds of a store. */
void kvs_store_rounds(kvs_store *store, kvs_rounds *out, kvs_waiter *waiter, uint64_t now_ns);

#endif
