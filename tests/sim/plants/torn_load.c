/* A planted bug: a load leaves the second part of a key as it was. */
#include "engine/cut.h"

void kvs_planted_capture_act(kvs_action *action, kvs_shard *shard);

#define kvs_capture_act kvs_planted_capture_act
#include "engine/capture.c"
#undef kvs_capture_act

void kvs_capture_act(kvs_action *action, kvs_shard *shard)
{
    if (action->cut->kind == CUT_CAPTURE || action->part->index != 1) {
        kvs_planted_capture_act(action, shard);
    }
}
