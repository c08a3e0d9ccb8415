/* The rows of row_sparse values: which of them a push brings, their sums, updates and reads.
 *
 * Every push of such a key has its turn at every part, with the rows that it has there, or none: so
 * rounds, versions and cuts are those of dense values. A part's accumulator holds only rows that
 * somebody has brought, one after another; part->row_set says which they are.
 *
 * Threads: read and count by the session's holder, the rest by the shard's.
 * Memory: an op owns its list of rows. What a round needs beyond the value grows with the rows that
 *   are pushed, not with the value; a shard keeps one number a row of its largest part.
 * Errors: KVS_NO_MEMORY, KVS_OVER_BUDGET change nothing.
 */
#ifndef KVS_ENGINE_ROWS_H
#define KVS_ENGINE_ROWS_H

#include "engine/shard.h"

/* Is it what a part of this row_sparse key can take: rows of the part, and so many bytes? A header
 * without ids brings nothing, or all rows. KVS_INVALID_TENSOR */
kvs_status kvs_rows_judge(const kvs_part *part, const kvs_part_header *header,
                          kvs_problem *problem) KVS_MUST_CHECK;
/* Fills list (of `room`) with the rows of a header that was judged, *ascending: none twice. */
uint32_t kvs_rows_count(const kvs_part *part, const kvs_part_header *header);
void kvs_rows_read(const kvs_part *part, const kvs_part_header *header, uint32_t *list,
                   bool *ascending);

/* Makes sure that the op can be added, and that nothing of it stands twice. */
kvs_status kvs_rows_reserve(kvs_shard *shard, kvs_part *part, kvs_op *op) KVS_MUST_CHECK;
/* Adds a contribution for which there is room. */
void kvs_rows_add(kvs_shard *shard, kvs_part *part, kvs_op *op, const kvs_source *source);
/* Takes all that the update by so many rows needs: then it cannot fail. */
kvs_status kvs_rows_prepare(kvs_shard *shard, kvs_part *part, uint32_t rows) KVS_MUST_CHECK;
/* The update by what was added: by the rule, or the sum becomes the value, other rows zero. */
kvs_status kvs_rows_update(kvs_shard *shard, kvs_part *part) KVS_MUST_CHECK;
/* Forgets what was added. */
void kvs_rows_reset(kvs_shard *shard, kvs_part *part);

/* The sum becomes one of all rows in their order, zeros where none was brought. KVS_NO_MEMORY,
 * KVS_OVER_BUDGET: it is as it was. */
kvs_status kvs_rows_complete(kvs_shard *shard, kvs_part *part) KVS_MUST_CHECK;

/* Rows to be read. The list is borrowed until the end of the turn. */
typedef struct kvs_rows_wish {
    const uint32_t *list; /* of the part */
    uint32_t count;
    kvs_codec codec; /* of values */
} kvs_rows_wish;
/* *out will hold the rows, or their encoding if there is to be one, with room for their ids behind
 * them. */
kvs_status kvs_rows_gather(kvs_shard *shard, kvs_part *part, const kvs_rows_wish *wish,
                           kvs_buffer **out) KVS_MUST_CHECK;
/* The same for an op. */
kvs_status kvs_rows_capture(kvs_shard *shard, kvs_part *part, kvs_op *op) KVS_MUST_CHECK;
/* Once it is computed: writes the ids behind the rows and completes the header. */
void kvs_rows_fill_header(const kvs_op *op, kvs_part_header *header);

#endif
