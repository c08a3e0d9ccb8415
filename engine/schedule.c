#include "engine/schedule.h"

/* Does the round wait for this rank? */
static bool expected(const kvs_schedule *schedule, uint32_t rank)
{
    return schedule->policy != KVS_POLICY_SHRINK || schedule->ranks[rank] != KVS_RANK_GONE;
}

kvs_decision kvs_schedule_push(const kvs_schedule *schedule, const kvs_round *round, uint32_t rank)
{
    /* A rank that was skipped and has come back has missed this round. */
    if (kvs_round_has(round, rank) || rank < round->next_rank) {
        return KVS_LATER;
    }
    if (round->failed ||
        (round->opened_ns == 0 && schedule->policy == KVS_POLICY_FAIL && schedule->gone > 0)) {
        return KVS_FAIL;
    }
    return kvs_schedule_next(schedule, round) == rank ? KVS_ADD : KVS_HOLD;
}

uint32_t kvs_schedule_next(const kvs_schedule *schedule, const kvs_round *round)
{
    uint32_t rank = round->next_rank;
    while (rank < schedule->num_workers && !kvs_round_has(round, rank) &&
           !expected(schedule, rank)) {
        rank++;
    }
    return rank;
}

bool kvs_schedule_failed(const kvs_schedule *schedule, const kvs_round *round)
{
    if (schedule->policy != KVS_POLICY_FAIL || schedule->gone == 0) {
        return false;
    }
    for (uint32_t rank = 0; rank < schedule->num_workers; rank++) {
        if (schedule->ranks[rank] == KVS_RANK_GONE && !kvs_round_has(round, rank)) {
            return true;
        }
    }
    return false;
}

bool kvs_schedule_stuck(const kvs_schedule *schedule, const kvs_round *round)
{
    for (uint32_t rank = 0; rank < schedule->num_workers; rank++) {
        if (schedule->ranks[rank] != KVS_RANK_LIVE && !kvs_round_has(round, rank) &&
            expected(schedule, rank)) {
            return true;
        }
    }
    return false;
}

bool kvs_schedule_ended(const kvs_schedule *schedule, const kvs_round *round)
{
    for (uint32_t rank = 0; rank < schedule->num_workers; rank++) {
        bool comes = schedule->policy == KVS_POLICY_WAIT || schedule->ranks[rank] != KVS_RANK_GONE;
        if (comes && !kvs_round_has(round, rank)) {
            return false;
        }
    }
    return true;
}

uint32_t kvs_schedule_missing(const kvs_schedule *schedule, const kvs_round *round, uint32_t *out,
                              uint32_t max)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; rank < schedule->num_workers; rank++) {
        if (!kvs_round_has(round, rank) && expected(schedule, rank)) {
            if (count < max) {
                out[count] = rank;
            }
            count++;
        }
    }
    return count;
}

uint32_t kvs_schedule_culprits(const kvs_schedule *schedule, const kvs_round *round, uint32_t *out,
                               uint32_t max)
{
    uint32_t count = 0;
    for (uint32_t rank = 0; schedule->gone > 0 && rank < schedule->num_workers; rank++) {
        if (!kvs_round_has(round, rank) && schedule->ranks[rank] == KVS_RANK_GONE) {
            if (count < max) {
                out[count] = rank;
            }
            count++;
        }
    }
    return count > 0 ? count : kvs_schedule_missing(schedule, round, out, max);
}
