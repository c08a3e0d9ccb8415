/* A part: a slice of a value, all that is known of it, and the ops that are with it.
 *
 * Threads: the holder of its shard; `version` is read by any.
 * Memory: parts lie in one array of their key and stay put until the store is freed.
 */
#ifndef KVS_ENGINE_PART_H
#define KVS_ENGINE_PART_H

#include "engine/binding.h"
#include "engine/buffer.h"
#include "engine/schedule.h"

typedef struct kvs_op kvs_op;
typedef struct kvs_shard kvs_shard;
typedef struct kvs_cut kvs_cut;

/* Ops in order, linked by op->next. */
typedef struct kvs_op_list {
    kvs_op *first;
    kvs_op *last;
} kvs_op_list;

/* Rows of a part, each once: row i of the accumulator is row list[i] of the part. The list keeps
 * its room from round to round, as large as the most rows that one had; it stands in the budget. */
typedef struct kvs_row_set {
    uint32_t *list;
    uint32_t room;
    uint32_t count;
    uint32_t reserved; /* so many may still come, with those that are there */
} kvs_row_set;

/* What is to happen to a part when it reaches a version. */
typedef struct kvs_action {
    struct kvs_action *next;
    uint64_t count;
    kvs_cut *cut;
    struct kvs_part *part;
    kvs_status status; /* KVS_OK, or why it was dropped */
    uint64_t key;      /* its key's place in the cut */
} kvs_action;

typedef struct kvs_part {
    kvs_key *key;
    kvs_shard *shard;
    uint64_t index;    /* in its key */
    uint64_t elements; /* at most KVS_PART_ELEMENTS; or one row, of at most KVS_PART_BYTES_MAX */

    _Atomic uint64_t version; /* the count; advanced by update, failure and assignment */
    kvs_buffer *value;
    kvs_buffer *encoded;                     /* encoded.c: the value of a version, or NULL */
    uint64_t encoded_version;                /* which */
    kvs_codec encoded_codec;                 /* as what */
    kvs_binding *binding;                    /* NULL: no optimizer */
    uint64_t updates;                        /* by the optimizer since its states began: t */
    kvs_buffer *states[KVS_RULE_STATES_MAX]; /* kvs_part_state_bytes each */
    kvs_buffer *master; /* multi_precision: the weight as f32, of which the value is the rounding;
                           NULL: made from the value by the next update */

    kvs_round round;
    kvs_buffer *accumulator; /* taken at the first term; kept for the next round */
    kvs_row_set row_set;     /* row_sparse: what the accumulator, which is not kept, holds */
    uint64_t *turns; /* asynchronous, of a key of several parts: how many pushes of each rank it has
                        had; NULL: not counted */
    kvs_op_list summed;  /* wait for the round to close */
    kvs_op_list held;    /* of this round, by rank: copied, wait for lower ranks */
    kvs_op_list later;   /* of later rounds, in order of arrival: copied */
    kvs_op_list waiting; /* pulls */
    kvs_action *actions; /* by version */

    struct kvs_part *open_next, *open_previous; /* the shard's open rounds, oldest first */
    uint64_t batch;                             /* the number of the batch that last wrote to it */
} kvs_part;

/* part.c. A pull: answered now, or when what it waits for has happened. */
void kvs_part_pull(kvs_shard *shard, kvs_op *op);
/* Refuses the pulls that wait for sessions that have ended. */
void kvs_part_forget_pulls(kvs_shard *shard, kvs_part *part);
/* Refuses all pulls that wait. */
void kvs_part_refuse_pulls(kvs_shard *shard, kvs_part *part, kvs_status status);
/* The rule from now on; what waits for norms is reviewed at the thaw. Takes its own reference. */
void kvs_part_bind(kvs_shard *shard, kvs_part *part, kvs_binding *binding);
/* Does it if the part is at the action's version, else keeps it. */
void kvs_part_act(kvs_shard *shard, kvs_part *part, kvs_action *action);
/* The value as it is now, or the rows asked for, goes with the op's answer, and counts as pulled.
 */
kvs_status kvs_part_capture(kvs_shard *shard, kvs_part *part, kvs_op *op) KVS_MUST_CHECK;
/* An update, or a round that brought none: the next version, and what has waited for it. */
void kvs_part_advance(kvs_shard *shard, kvs_part *part);

#endif
