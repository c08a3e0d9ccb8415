/* A planted bug: a save takes parts that lag as they are, at versions of their own. */
#include "engine/cut.h"

static void act(kvs_shard *shard, kvs_part *part, kvs_action *action)
{
    if (action->cut->kind == CUT_CAPTURE) {
        action->count = atomic_load_explicit(&part->version, memory_order_relaxed);
    }
    kvs_part_act(shard, part, action);
}

#define kvs_part_act act
#include "engine/cut.c"
