/* What closes a round, as pure functions: decided here, done in shard.c.
 *
 * A round of a part takes one contribution of each rank and adds them in rank order, whatever the
 * order of arrival. A rank that is gone is waited for, skipped or fatal, as the policy says.
 *
 * Threads: any; plain data. Errors: none.
 */
#ifndef KVS_ENGINE_SCHEDULE_H
#define KVS_ENGINE_SCHEDULE_H

#include "engine/engine.h"

/* What a shard knows of a rank. */
typedef enum kvs_rank_state {
    KVS_RANK_NEVER, /* has not registered yet: waited for until the deadline */
    KVS_RANK_LIVE,
    KVS_RANK_GONE /* lease lost, left, or left out */
} kvs_rank_state;

typedef struct kvs_schedule {
    uint32_t num_workers;
    kvs_policy policy;
    uint32_t gone;        /* how many of `ranks` are KVS_RANK_GONE */
    const uint8_t *ranks; /* kvs_rank_state of each */
} kvs_schedule;

/* So many of those who failed a round are named. */
#define KVS_CULPRITS_MAX 8u

/* What has come of a round, or of an asynchronous push. */
typedef enum kvs_turn {
    KVS_TURN_UPDATE, /* there is a gradient */
    KVS_TURN_EMPTY,  /* nobody brought one */
    KVS_TURN_FAILED
} kvs_turn;

/* The open round of a part. */
typedef struct kvs_round {
    uint64_t opened_ns; /* when the first contribution arrived; 0: nothing has arrived */
    uint32_t next_rank; /* lower ranks are summed or skipped */
    uint32_t terms;     /* summed so far */
    bool failed;        /* every contribution to it is refused, until each rank has had its turn:
                           so a rank's n-th push meets the others' n-th, whatever has failed */
    uint32_t culprit_count; /* of a failed one: they may have come back by now; else empty turns */
    uint32_t culprits[KVS_CULPRITS_MAX];
    uint64_t *arrived; /* a bit a rank: summed or held */
    /* It is over, but for what the other parts of the key have to say (norms.h): */
    bool closing;
    kvs_turn turn;
    kvs_status status;                /* of a failed one */
    const struct kvs_norms *measured; /* whom the part has told */
    const kvs_session *pusher;        /* asynchronous: whose push it is */
    bool gathered;                    /* asynchronous: it is with the part, which has told nobody */
    bool ahead;                       /* asynchronous: the part has had it before the rule */
} kvs_round;

static inline bool kvs_round_has(const kvs_round *round, uint32_t rank)
{
    return (round->arrived[rank / 64] >> (rank % 64) & 1) != 0;
}

static inline void kvs_round_mark(kvs_round *round, uint32_t rank)
{
    round->arrived[rank / 64] |= (uint64_t)1 << (rank % 64);
}

typedef enum kvs_decision {
    KVS_ADD,   /* it is this rank's turn */
    KVS_HOLD,  /* of this round, but a lower rank is to come first */
    KVS_LATER, /* of a later round: the rank has had its turn in this one */
    KVS_FAIL   /* the round has failed, or must: a rank is gone and the policy is to fail */
} kvs_decision;

kvs_decision kvs_schedule_push(const kvs_schedule *schedule, const kvs_round *round, uint32_t rank);

/* The rank that is summed next: the lowest from next_rank on that has arrived or is waited for;
 * num_workers when the round is complete. */
uint32_t kvs_schedule_next(const kvs_schedule *schedule, const kvs_round *round);

/* True when the round cannot end well: the policy is to fail and a rank that is gone has not
 * arrived. */
bool kvs_schedule_failed(const kvs_schedule *schedule, const kvs_round *round);

/* True when it waits for a rank that has no live session. */
bool kvs_schedule_stuck(const kvs_schedule *schedule, const kvs_round *round);

/* True when no rank is to come to a failed round any more: who is gone is waited for by a store
 * that waits, as in its other rounds, so that parts of a key with and without the failure meet. */
bool kvs_schedule_ended(const kvs_schedule *schedule, const kvs_round *round);

/* The ranks that are waited for and have not arrived: how many; the first `max` to `out`. */
uint32_t kvs_schedule_missing(const kvs_schedule *schedule, const kvs_round *round, uint32_t *out,
                              uint32_t max);

/* Of those, the ones to name when the round fails: the ranks that are gone, or if none is, all. */
uint32_t kvs_schedule_culprits(const kvs_schedule *schedule, const kvs_round *round, uint32_t *out,
                               uint32_t max);

#endif
