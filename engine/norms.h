/* Norms of whole values: what the parts of a key bring to them, and what all parts do once every
 * one has (docs/decisions/0013).
 *
 * A part whose gradient is complete measures it and reports; the last of the key's parts to report
 * adds the sums up in the order of the parts, and tells all of them what has come of the turn: all
 * apply it, or none. Until then a part is closing: what comes to it belongs to later turns. In an
 * asynchronous store, where pushes meet a key's parts in different orders, its first part says
 * whose push comes next.
 *
 * Threads: as said of each member; the record of a part by the holder of its shard, and by whoever
 *   makes the last report, which comes after all others and before what it tells.
 * Memory: belongs to a binding, so to all parts of one key; what is on its way keeps the binding.
 */
#ifndef KVS_ENGINE_NORMS_H
#define KVS_ENGINE_NORMS_H

#include "engine/part.h"

typedef struct kvs_norms_part {
    kvs_task go;    /* told: the turn goes on */
    kvs_task order; /* told: whose push comes next */
    kvs_norms *norms;
    kvs_part *part;
    struct kvs_norms_part *next;      /* of the shard's reports */
    struct kvs_norms_part *told_next; /* of what waits for its thaw */
    bool listed;                      /* HOLDER: among the shard's reports */
    bool report_due;
    kvs_turn turn;
    kvs_status status;
    uint32_t culprit_count;
    uint32_t culprits[KVS_CULPRITS_MAX];
    double sums[KVS_MEASURE_SUMS_MAX]; /* KVS_MEASURE_ROW: of what the part has of its first row and
                                          of its last, then of all of these rows */
    unsigned stage;                    /* HOLDER: measures that are done */
    /* Asynchronous: what is different from the first part (kvs_norms_bind). */
    kvs_task begin;
    bool begin_due;  /* HOLDER of the first part: the others are to be told */
    bool first_told; /* HOLDER: what the first part has had is known */
    bool waits;      /* HOLDER: nothing is done until it is */
    bool compared;   /* HOLDER: just now: what waits at the part may be behind */
    int64_t *ahead;  /* HOLDER: by rank, so many pushes more than the first part; less: below 0 */
    /* Asynchronous. Of a turn that is not over its session has an op with the first part. */
    uint64_t turns;               /* HOLDER: that are over, in any store */
    bool order_due;               /* HOLDER of the first part: the others are to be told */
    const kvs_session *next_push; /* HOLDER: whose push comes next; NULL: not told yet */
    uint32_t next_rank;           /* HOLDER: of that */
    uint64_t next_turn;
    uint64_t next_since_ns;
    const kvs_session *told_push; /* by the first part's holder, read by `order` */
    uint32_t told_rank;
    uint64_t told_turn;
    /* Synchronous: a part that waits for this one has reached the round's deadline. */
    kvs_task overdue;
    _Atomic bool overdue_posted; /* by whoever sets it */
    uint64_t overdue_turn;       /* written by them, read by `overdue` */
} kvs_norms_part;

struct kvs_norms {
    kvs_binding *binding; /* whose it is */
    unsigned measure_count;
    kvs_measure measures[KVS_MEASURES_MAX];
    bool whole; /* of a row_sparse value all rows count, also those without a gradient */
    uint64_t part_count;
    _Atomic uint64_t awaited; /* reports that are to come */
    /* Of the last report; read by what it tells. */
    kvs_turn turn;
    kvs_status status;
    uint32_t culprit_count;
    uint32_t culprits[KVS_CULPRITS_MAX];
    double squares[KVS_MEASURES_MAX][KVS_MEASURE_SUMS_MAX];
    uint64_t *first_turns; /* what the first part has had of each rank when the rule came */
    int64_t *ahead;        /* of all parts */
    kvs_norms_part parts[];
};

/* NULL: no memory. */
kvs_norms *kvs_norms_make(kvs_binding *binding, kvs_key *key);
void kvs_norms_free(kvs_norms *norms); /* accepts NULL */

/* The part's record, or NULL: its rule needs no norms. */
kvs_norms_part *kvs_norms_of(const kvs_part *part);

/* HOLDER. The numbers of update `t` of the part's key with all that is measured so far. */
void kvs_norms_scalars(const kvs_part *part, uint64_t t, kvs_rule_scalars *out);

/* HOLDER. Makes ready what measures read: the gradient is summed, or about to be. KVS_NO_MEMORY,
 * KVS_OVER_BUDGET. */
kvs_status kvs_norms_prepare(kvs_shard *shard, kvs_part *part) KVS_MUST_CHECK;

/* HOLDER. The part's turn is over but for the norms; if there is a gradient, the part's
 * accumulator holds it. Its measure is gathered, and the report follows at the end of the shard's
 * turn. */
void kvs_norms_report(kvs_shard *shard, kvs_part *part, kvs_turn turn, kvs_status status);

/* HOLDER, at the end of a turn, after the sync: makes the reports that are due. */
void kvs_norms_send_reports(kvs_shard *shard, uint64_t now_ns);

/* HOLDER of a part of an asynchronous store that has just been given its rule. Without norms, parts
 * have had the pushes of several workers in orders of their own: one that the first part has had
 * before the rule, and this one has not, is refused when it comes, and one that this part alone has
 * had fails where the first part has its turn. */
void kvs_norms_bind(kvs_shard *shard, kvs_part *part);

/* HOLDER of a part of a synchronous store that is closing, when its round's deadline is over: other
 * parts to which nothing has come of this round, and which so have no deadline, are at theirs. */
void kvs_norms_expire(kvs_part *part, uint64_t now_ns);

/* HOLDER. What was told while versions stood still. */
void kvs_norms_thaw(kvs_shard *shard, uint64_t now_ns);

#endif
