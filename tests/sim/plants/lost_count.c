/* A planted bug: a load brings states, and leaves the count of updates as it was. */
#include "engine/cut.h"

void kvs_planted_capture_act(kvs_action *action, kvs_shard *shard);

#define kvs_capture_act kvs_planted_capture_act
#include "engine/capture.c"
#undef kvs_capture_act

void kvs_capture_act(kvs_action *action, kvs_shard *shard)
{
    uint64_t updates = action->part->updates;
    kvs_planted_capture_act(action, shard);
    action->part->updates = updates;
}
