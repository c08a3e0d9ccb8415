/* An update of a part: what it takes, and what it does to the value.
 *
 * Threads: the holder of the part's shard. All of it only gathers work into the shard's batch.
 * Memory: buffers come from the shard's pool and belong to the part.
 * Errors: KVS_NO_MEMORY, KVS_OVER_BUDGET: the value is as it was.
 */
#ifndef KVS_ENGINE_UPDATE_H
#define KVS_ENGINE_UPDATE_H

#include "engine/part.h"

/* Takes what an update of this part will need, so that it cannot fail half-way. */
kvs_status kvs_update_prepare(kvs_shard *shard, kvs_part *part, bool accumulates) KVS_MUST_CHECK;

/* The rule, on the accumulator and `last` (either may be NULL). In place if nobody reads the value.
 */
kvs_status kvs_update_apply(kvs_shard *shard, kvs_part *part, const kvs_buffer *accumulator,
                            const kvs_source *last) KVS_MUST_CHECK;

/* The buffers that an update writes to are nobody else's from now on: copies, if somebody reads
 * them. After it and kvs_update_prepare, kvs_update_apply cannot fail. */
kvs_status kvs_update_own(kvs_shard *shard, kvs_part *part) KVS_MUST_CHECK;

/* No optimizer: the sum becomes the value, and what was the value the next accumulator. */
void kvs_update_replace(kvs_shard *shard, kvs_part *part);

/* For rows.c. Takes the states and the master that the part's rule needs, to be written to; lets go
 * of a master that it does not need. */
kvs_status kvs_update_take_states(kvs_shard *shard, kvs_part *part) KVS_MUST_CHECK;

#endif
