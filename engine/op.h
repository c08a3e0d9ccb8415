/* One thing asked of one part: a push, a pull; or of one key, while its parts are still to be
 * asked. One name for the whole way: made at the door, worked on by the shard, answered by the
 * session, and used again.
 *
 * Threads: whoever holds what it is with: the session, then the shard, then the session.
 * Memory: belongs to its session's free list; keeps a reference to its channel.
 */
#ifndef KVS_ENGINE_OP_H
#define KVS_ENGINE_OP_H

#include "engine/part.h"

#define KVS_OP_MISSING_MAX KVS_CULPRITS_MAX

typedef enum kvs_op_kind {
    KVS_OP_PUSH, /* a contribution to one part */
    KVS_OP_PULL, /* a read of one part */
    KVS_OP_TORN, /* a push that will never come: the part follows the key's others. Of a round:
                    its rank's turn, with nothing in it, and no session */
    KVS_OP_KEY   /* a read of one key: makes KVS_OP_PULLs; never leaves its session */
} kvs_op_kind;

struct kvs_op {
    kvs_task task; /* first: in an inbox */
    kvs_op *next;  /* in a list of a part or a session */
    kvs_session *session;
    kvs_channel *channel; /* a reference; NULL once nobody is to be told */
    kvs_op_kind kind;
    bool want_value;
    bool whole;     /* a KVS_OP_PUSH that is applied with those of all parts of its key, or not */
    bool snapshot;  /* a KVS_OP_KEY of one version of all parts */
    bool duplicate; /* repeats what has been applied: only the value is still wanted */
    kvs_key *key;
    kvs_part *part;
    uint64_t sequence;
    uint64_t after;
    uint32_t rank;
    int32_t priority;

    kvs_frame *frame; /* while the payload is borrowed */
    kvs_payload payload;
    kvs_codec codec; /* of the payload */
    float threshold;
    kvs_buffer *held; /* the payload's copy, while it waits */
    uint64_t charge;  /* credit that it uses */
    uint64_t torn;    /* a KVS_OP_TORN of an asynchronous store: so many pushes */

    /* Of a row_sparse value; freed with the op. The lists stand in the budget. */
    bool of_rows;   /* a KVS_OP_PULL, KVS_OP_KEY: of rows, not of all */
    bool ascending; /* no row stands twice */
    uint32_t row_count;
    uint32_t *rows;        /* of the part: which the payload, or the answer, holds */
    uint64_t *row_ids;     /* a KVS_OP_KEY: of the value, ascending */
    uint64_t row_id_count; /* how many of them there are, and have been asked for */
    uint64_t row_ids_asked;

    kvs_version min_version;
    kvs_op *parent;        /* a KVS_OP_PULL's key */
    uint64_t parts_wanted; /* of a KVS_OP_KEY, as the next two */
    uint64_t parts_asked;
    uint64_t parts_given;

    kvs_status status; /* the answer; of a push before its turn: why that is empty */
    uint32_t missing_count;
    uint32_t missing[KVS_OP_MISSING_MAX];
    kvs_buffer *value;
    kvs_codec value_codec; /* what the value is encoded as */
    uint64_t version;
};

/* The payload, where it lies. */
static inline kvs_source kvs_op_source(const kvs_op *op)
{
    kvs_source source = {.payload = op->payload};
    if (op->held != NULL) {
        source.memory = &op->held->memory;
    }
    return source;
}

/* Of what a KVS_OP_PULL asks of its part. */
size_t kvs_op_value_bytes(const kvs_op *op);

static inline void kvs_op_append(kvs_op_list *list, kvs_op *op)
{
    op->next = NULL;
    if (list->first == NULL) {
        list->first = op;
    } else {
        list->last->next = op;
    }
    list->last = op;
}

/* The first, taken out; NULL when empty. */
static inline kvs_op *kvs_op_shift(kvs_op_list *list)
{
    kvs_op *op = list->first;
    if (op != NULL) {
        list->first = op->next;
        op->next = NULL;
    }
    return op;
}

#endif
