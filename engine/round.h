/* What happens to a part: contributions, rounds, updates, versions. Does what schedule.h decides.
 *
 * Threads: the holder of the part's shard. All of it only gathers work into the shard's batch and
 * answers into its lists; the end of the turn computes and tells.
 */
#ifndef KVS_ENGINE_ROUND_H
#define KVS_ENGINE_ROUND_H

#include "engine/norms.h"
#include "engine/shard.h"

/* A push, with its payload still borrowed. */
void kvs_round_push(kvs_shard *shard, kvs_op *op, uint64_t now_ns);

/* The state of a rank has changed: goes on with, closes or fails the part's open round. */
void kvs_round_review(kvs_shard *shard, kvs_part *part, uint64_t now_ns);

/* The rank's session has ended: what it gave to rounds that are not open yet is refused. */
void kvs_round_forget(kvs_shard *shard, kvs_part *part, uint32_t rank);

/* Rounds of the part in which the rank has had its turn, or that it has missed. */
uint64_t kvs_round_turns(const kvs_part *part, uint32_t rank);

/* The rank is gone in the middle of a key: its next turn at this part, with nothing in it. */
void kvs_round_give_up(kvs_shard *shard, kvs_part *part, uint32_t rank, uint64_t now_ns);

/* The deadline of the part's open round, which is not closing, has passed. */
void kvs_round_expire(kvs_shard *shard, kvs_part *part, uint64_t now_ns);

/* The server stops, and what is with the part waits for a rank that does not come: refuses it with
 * KVS_STOPPING and ends the round. */
void kvs_round_stop(kvs_shard *shard, kvs_part *part, uint64_t now_ns);

/* Refuses every op and drops every action of the part. */
void kvs_round_refuse_all(kvs_shard *shard, kvs_part *part, kvs_status status);

/* The answer to one op, told at the end of the turn. Its payload is used up. */
void kvs_round_answer(kvs_shard *shard, kvs_op *op, kvs_status status);

/* For alone.c and norms.c. The payload is in a sum: its frame, its copy and its credit go back. */
void kvs_round_consume(kvs_shard *shard, kvs_op *op);
/* The payload is no longer needed after this turn: its frame, and unless
 * it waits as a copy its credit, go back. */
void kvs_round_use(kvs_shard *shard, kvs_op *op);
/* Copies the payload so that its frame can go; it keeps its credit. KVS_NO_MEMORY, KVS_OVER_BUDGET
 */
kvs_status kvs_round_copy(kvs_shard *shard, kvs_op *op) KVS_MUST_CHECK;
/* Keeps a push that was copied, or is empty, until its turn comes. */
void kvs_round_hold(kvs_shard *shard, kvs_op *op, kvs_op_list *list, bool by_rank);
/* The part joins the shard's list of open rounds; leaves it, and begins a round anew. */
void kvs_round_open(kvs_shard *shard, kvs_part *part, uint64_t now_ns);
void kvs_round_reset(kvs_shard *shard, kvs_part *part);
/* The part's rule needs norms and its turn is over: it waits for the key's other parts. */
void kvs_round_close(kvs_shard *shard, kvs_part *part, kvs_turn turn, kvs_status status);
/* They have reported: the update of a synchronous store's round, or its end without one. */
void kvs_round_go(kvs_shard *shard, kvs_part *part, const kvs_norms_part *record, uint64_t now_ns);

/* For rows.c. `sum`, whose reference it takes, stands for the op's payload from now on. */
void kvs_round_keep_sum(kvs_shard *shard, kvs_op *op, kvs_buffer *sum);

#endif
