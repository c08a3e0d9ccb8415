/* A planted bug: a worker that goes in the middle of a key leaves its parts as they are. */
#include "engine/round.h"

#define kvs_round_give_up(shard, part, rank, now_ns) ((void)(now_ns))
#include "engine/cut.c"
