/* A session: one worker's sequences, credit and channels. A right like a shard.
 *
 * The window answers for each sequence: not seen, waiting at the door, with its shard, or ended
 * and how. It keeps as many ended ones below the lowest open one as may be open above it, so that
 * whatever a client repeats is still known.
 *
 * Threads: HOLDER for all but what is said to be for any.
 * Memory: owns its ops (in slabs, used again); holds a reference to its store.
 */
#ifndef KVS_ENGINE_SESSION_H
#define KVS_ENGINE_SESSION_H

#include "engine/op.h"
#include "engine/tally.h"

/* Acks of one turn that are kept to be joined: those of one frame. */
#define KVS_SESSION_ACKS_MAX KVS_FRAME_PARTS_MAX

typedef enum kvs_entry_state {
    KVS_ENTRY_NEW,  /* not seen */
    KVS_ENTRY_DOOR, /* seen; waits for `after`, or to be asked of its shards */
    KVS_ENTRY_OPEN, /* with its shards */
    KVS_ENTRY_ENDED /* answered: `status` */
} kvs_entry_state;

typedef struct kvs_entry {
    kvs_op *op; /* while DOOR or OPEN; NULL if only the place is taken */
    uint8_t state;
    uint8_t status;
} kvs_entry;

typedef struct kvs_session_ack_mark {
    kvs_channel *channel;
    uint64_t sequence;
    bool duplicate;
} kvs_session_ack_mark;

typedef struct kvs_window {
    kvs_entry *entries; /* a ring; the entry of sequence s is at s & mask */
    uint64_t mask;
    uint64_t size;    /* sequences that may be open: low to low + size - 1 */
    uint64_t low;     /* the lowest that has not ended; all below have */
    uint64_t through; /* all up to it are with their shards, or have ended */
} kvs_window;

struct kvs_session {
    kvs_right right;
    kvs_store *store;
    uint8_t id[KVS_SESSION_ID_BYTES];
    uint32_t rank;
    _Atomic uint32_t references;

    /* Any thread. */
    _Atomic bool ended;
    _Atomic uint64_t last_seen_ns;
    _Atomic uint64_t next_sequence;
    _Atomic uint64_t credit_back; /* summed or refused by shards, not yet told */
    _Atomic bool credit_posted;
    _Atomic uint64_t parts_pushed, bytes_pushed, inflight_parts, inflight_bytes;
    _Atomic uint64_t resume_low;

    kvs_window window;
    kvs_tally tally;             /* asynchronous stores */
    bool torn_due;               /* it has ended, and not all of what it has cut is counted */
    kvs_op_list deferred;        /* wait at the door for `after` */
    uint32_t snapshots_deferred; /* how many of them are snapshots, which wait for its end */
    kvs_op *free_ops;
    struct kvs_op_slab *slabs;
    size_t ops_live, ops_made;
    uint64_t row_ids; /* of its pulls by rows */
    uint64_t credit_limit, credit_used;
    kvs_channel *push_channel; /* a reference: the last that pushed; credit goes there */
    kvs_channel *dirty;
    kvs_task credit_task, end_task, resume_task;
    _Atomic bool end_posted, resume_posted;
    kvs_task_list chains[KVS_SHARDS_MAX]; /* ops of this call, by shard */
    kvs_session_ack_mark *acks;           /* of this turn; twice the room, half of it to sort in */
    uint32_t ack_count, ack_room;
};

kvs_status kvs_session_make(kvs_store *store, uint32_t rank, uint64_t now_ns,
                            kvs_session **out) KVS_MUST_CHECK;

/* Any thread: from a shard. */
void kvs_session_post_ops(kvs_task_list *ops, uint64_t now_ns); /* all of one session */
void kvs_session_take_answer(kvs_task *task,
                             uint64_t now_ns); /* the run of an op on its way back */
void kvs_session_give_credit(kvs_session *session, uint64_t bytes, uint64_t now_ns);
void kvs_session_use_frame(kvs_frame *frame, uint64_t now_ns); /* one part no longer borrows */
/* Any thread: the session is over; refuses what waits at its door. Once. */
void kvs_session_post_end(kvs_session *session, uint64_t now_ns);
/* Any thread: the client has all answers below `low`. */
void kvs_session_post_resume(kvs_session *session, uint64_t low, uint64_t now_ns);

/* A new op, or NULL when there are too many or no memory. Keeps a reference to the channel, which
 * may be NULL. */
kvs_op *kvs_session_make_op(kvs_session *session, kvs_channel *channel, kvs_op_kind kind);
void kvs_session_free_op(kvs_session *session, kvs_op *op);

/* window.c */
kvs_status kvs_window_init(kvs_window *window, uint64_t size) KVS_MUST_CHECK;
kvs_status kvs_window_grow(kvs_window *window, uint64_t size) KVS_MUST_CHECK;
void kvs_window_deinit(kvs_window *window);
typedef enum kvs_place { KVS_PLACE_OLD, KVS_PLACE_IN, KVS_PLACE_BEYOND } kvs_place;
/* IN: *out is its entry. OLD: ended so long ago that its entry is gone. */
kvs_place kvs_window_find(kvs_window *window, uint64_t sequence, kvs_entry **out);
/* The op is with its shards. True when `through` has moved. */
bool kvs_window_open(kvs_window *window, uint64_t sequence);
void kvs_window_end(kvs_window *window, uint64_t sequence, kvs_status status);
/* All below `low` count as ended. */
void kvs_window_skip(kvs_window *window, uint64_t low);

/* Puts the op with those of this call that go to its shard. */
void kvs_session_chain(kvs_session *session, kvs_op *op);
/* Hands the chains to their shards. The end of every call that makes ops. */
void kvs_session_send_chains(kvs_session *session, uint64_t now_ns);
/* The window has moved: hands on what waited for it. */
void kvs_session_open_door(kvs_session *session, uint64_t now_ns);
/* Must the op wait at the door? */
bool kvs_session_defers(const kvs_session *session, const kvs_op *op);

void kvs_session_ack(kvs_session *session, kvs_channel *channel, uint64_t sequence, bool duplicate);
void kvs_session_refuse(kvs_session *session, kvs_channel *channel, uint64_t sequence,
                        const char *key, size_t key_bytes, const kvs_problem *problem);
void kvs_session_mark_dirty(kvs_session *session, kvs_channel *channel);
/* Gives the op's value (if any) to its channel, or lets go of it. */
void kvs_session_give_value(kvs_session *session, kvs_op *op);
/* What an op's status means in words. */
void kvs_op_explain(const kvs_op *op, kvs_problem *problem);

/* pull.c */
void kvs_pull_take_answer(kvs_session *session, kvs_op *op, uint64_t now_ns);
/* Asks for more parts. */
void kvs_pull_ask(kvs_session *session, kvs_channel *channel, uint64_t now_ns);
/* Its `after` has come. */
void kvs_pull_start(kvs_session *session, kvs_op *parent, uint64_t now_ns);
void kvs_pull_drop(kvs_session *session, kvs_op *parent, uint64_t now_ns); /* refused at the door */
/* The key is answered: by its parts, or its refusal. */
void kvs_pull_end(kvs_session *session, kvs_op *parent, kvs_status status, uint64_t now_ns);

/* pull_snapshot.c */
void kvs_pull_start_snapshot(kvs_session *session, kvs_op *parent, uint64_t now_ns);

/* pull_ids.c. What of the key is wanted: all parts, or rows. */
kvs_status kvs_pull_take_ids(kvs_session *session, kvs_op *op, const kvs_pull_key *in,
                             kvs_problem *problem) KVS_MUST_CHECK;

#endif
