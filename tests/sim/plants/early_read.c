/* A planted bug: a pull does not wait for the rounds of its session's own pushes. */
#include "engine/round.h"

#include "engine/session.h"

void kvs_planted_part_pull(kvs_shard *shard, kvs_op *op);

#define kvs_part_pull kvs_planted_part_pull
#include "engine/part.c"
#undef kvs_part_pull

void kvs_part_pull(kvs_shard *shard, kvs_op *op)
{
    op->after = 0;
    kvs_planted_part_pull(shard, op);
}
