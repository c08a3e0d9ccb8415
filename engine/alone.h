/* Pushes of asynchronous and local stores: every push of a part is an update of its own.
 *
 * Those of a local store come for all parts of a key at once, and none is applied before all have
 * the memory that they take (docs/decisions/0015).
 *
 * If the rule needs norms, all parts of a key take its pushes in one order, which its first part
 * says (norms.h); what comes out of turn waits as a copy.
 *
 * Threads: the holder of the part's shard. Memory and errors: as in round.h.
 */
#ifndef KVS_ENGINE_ALONE_H
#define KVS_ENGINE_ALONE_H

#include "engine/norms.h"
#include "engine/shard.h"

/* A KVS_OP_PUSH, or a KVS_OP_TORN that stands for pushes that will never come. */
void kvs_alone_push(kvs_shard *shard, kvs_op *op, uint64_t now_ns);
/* Begins with the push whose turn it is, if it is there. */
void kvs_alone_next(kvs_shard *shard, kvs_part *part, uint64_t now_ns);
/* All parts have reported: the update, or the refusal, and the next push. */
void kvs_alone_go(kvs_shard *shard, kvs_part *part, kvs_norms_part *record, uint64_t now_ns);
/* A cut may have changed the rule, the value or the states of a part that is closing or waits. */
void kvs_alone_review(kvs_shard *shard, kvs_part *part, uint64_t now_ns);

#endif
