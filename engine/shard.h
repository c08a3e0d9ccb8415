/* A shard: the right to touch a set of parts, and what a turn with it does.
 *
 * A turn takes ops from the inbox, decides by schedule.h, gathers what is to be computed into
 * batches, launches them, syncs once, and answers. An op comes down by kvs_right_post_list and
 * goes back up to its session's inbox; nothing else leaves a shard.
 *
 * Threads: functions marked HOLDER from a task of the shard's right; the rest as said.
 * Memory: owns its pool and stream; its parts belong to their keys.
 */
#ifndef KVS_ENGINE_SHARD_H
#define KVS_ENGINE_SHARD_H

#include "engine/batch.h"
#include "engine/op.h"

struct kvs_shard {
    kvs_right right;
    kvs_store *store; /* borrowed */
    uint32_t index;
    kvs_pool *pool;

    kvs_schedule schedule; /* the shard's own view of the ranks */
    uint8_t *ranks;
    uint64_t *rank_changes; /* the number of the membership that each rank's state is from */
    bool closing;           /* the store is being deleted: everything is refused */
    bool lost;              /* the device has failed, and what waited was refused */
    uint32_t frozen;        /* cuts that have asked for versions and not yet decided */
    kvs_op_list frozen_pushes;
    bool review_due; /* a rank has come or gone meanwhile: rounds end after the decision */
    kvs_part *open_first, *open_last; /* parts with an open round, oldest first */
    _Atomic uint64_t open_count;
    uint64_t waiting_count; /* pulls that wait at its parts */
    uint32_t *row_places;   /* rows.c: of each row of the part at hand, its place + 1; else 0 */
    uint64_t row_places_room;

    kvs_batch batch;
    kvs_op *used[KVS_BATCH_ITEMS]; /* ops whose payload the turn has read, copied or refused */
    uint32_t used_count;
    uint64_t now_ns;  /* of the turn */
    uint64_t span_ns; /* a profile's: since the turn's first push; 0: none */
    uint64_t span_bytes;
    uint32_t span_parts;
    struct kvs_norms_part *reports; /* to be made after the sync */
    struct kvs_norms_part *told;    /* waits for the thaw */
    kvs_action *acted;              /* cuts told after the sync */
    kvs_task_list finished;         /* ops answered after the sync */
    kvs_task_list *answers;         /* by rank: ops of one session, posted as one list */
    uint32_t *answered;             /* ranks with answers */
    uint32_t answered_count;

    kvs_task timer;
    _Atomic bool timer_posted;

    _Atomic uint64_t parts_pushed, bytes_pushed, parts_pulled, bytes_pulled;
    _Atomic uint64_t rounds_closed, rounds_failed, held_bytes;
    _Atomic uint64_t torn; /* parts of pushes that their session's end has cut */
};

kvs_status kvs_shard_open(kvs_store *store, uint32_t index, kvs_shard **out) KVS_MUST_CHECK;
void kvs_shard_close(kvs_shard *shard); /* after its keys are freed; accepts NULL */

/* The run of an op's task at its shard. */
void kvs_shard_take_op(kvs_task *task, uint64_t now_ns);

/* HOLDER. A rank has come or gone; `change` is the membership's number. */
void kvs_shard_set_rank(kvs_shard *shard, uint32_t rank, kvs_rank_state state, uint64_t change,
                        uint64_t now_ns);

/* HOLDER. Pushes wait until as many thaws as there were freezes: versions stand still. */
void kvs_shard_freeze(kvs_shard *shard);
void kvs_shard_thaw(kvs_shard *shard, uint64_t now_ns);

/* HOLDER of a synchronous store's shard: the part's open round is at its deadline. */
void kvs_shard_expire(kvs_shard *shard, kvs_part *part, uint64_t now_ns);

/* HOLDER. Computes what the turn has gathered and lets go of the payloads that it has read. */
void kvs_shard_settle(kvs_shard *shard);

/* HOLDER. Refuses everything, now and from now on. */
void kvs_shard_refuse_all(kvs_shard *shard, uint64_t now_ns);

/* Any thread: looks at the deadlines of the open rounds at its next turn. */
void kvs_shard_post_timer(kvs_shard *shard, uint64_t now_ns);

#endif
