/* A planted bug: a pull does not wait for the rounds of its session's own pushes. */
#include "engine/round.h"

#include "engine/session.h"

void kvs_planted_round_pull(kvs_shard *shard, kvs_op *op);

#define kvs_round_pull kvs_planted_round_pull
#include "engine/round.c"
#undef kvs_round_pull

void kvs_round_pull(kvs_shard *shard, kvs_op *op)
{
    op->after = 0;
    kvs_planted_round_pull(shard, op);
}
