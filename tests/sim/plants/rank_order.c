/* A planted bug: contributions are added as they arrive, not in the order of their ranks. */
#define kvs_schedule_push kvs_planted_schedule_push
#define kvs_schedule_next kvs_planted_schedule_next
#include "engine/schedule.h"

#include "engine/schedule.c"
#undef kvs_schedule_push
#undef kvs_schedule_next

kvs_decision kvs_schedule_push(const kvs_schedule *schedule, const kvs_round *round, uint32_t rank);
uint32_t kvs_schedule_next(const kvs_schedule *schedule, const kvs_round *round);

kvs_decision kvs_schedule_push(const kvs_schedule *schedule, const kvs_round *round, uint32_t rank)
{
    kvs_round any = *round;
    any.next_rank = 0; /* nobody is too late */
    kvs_decision decision = kvs_planted_schedule_push(schedule, &any, rank);
    return decision == KVS_HOLD ? KVS_ADD : decision;
}

/* The lowest that has not arrived. */
uint32_t kvs_schedule_next(const kvs_schedule *schedule, const kvs_round *round)
{
    for (uint32_t rank = 0; rank < schedule->num_workers; rank++) {
        if (!kvs_round_has(round, rank) && expected(schedule, rank)) {
            return rank;
        }
    }
    return schedule->num_workers;
}
