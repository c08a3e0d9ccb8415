#include "engine/round.h"

#include "base/check.h"
#include "engine/norms.h"
#include "engine/rows.h"
#include "engine/session.h"
#include "engine/store.h"
#include "engine/update.h"

#include <stdlib.h>
#include <string.h>

void kvs_round_use(kvs_shard *shard, kvs_op *op)
{
    if (shard->used_count == KVS_BATCH_ITEMS) {
        kvs_shard_settle(shard);
    }
    shard->used[shard->used_count++] = op;
}

static void drop_held(kvs_shard *shard, kvs_op *op)
{
    if (op->held != NULL) {
        atomic_fetch_sub_explicit(&shard->held_bytes, op->payload.bytes, memory_order_relaxed);
        kvs_batch_release(&shard->batch, op->held);
        op->held = NULL;
    }
}

void kvs_round_consume(kvs_shard *shard, kvs_op *op)
{
    drop_held(shard, op);
    kvs_round_use(shard, op);
}

void kvs_round_answer(kvs_shard *shard, kvs_op *op, kvs_status status)
{
    op->status = status;
    drop_held(shard, op);
    if (op->session == NULL) {
        free(op); /* an empty turn: nobody waits for its answer */
        return;
    }
    if (op->frame != NULL || op->charge > 0) {
        kvs_round_use(shard, op);
    }
    kvs_task_list_append(&shard->finished, &op->task);
}

/* A turn with nothing in it: its rank is gone, or there was no memory for what it brings, which
 * op->status says until it is answered. */
static bool is_empty(const kvs_op *op)
{
    return op->session == NULL || op->status != KVS_OK;
}

/* With the names of those who failed the round. */
static void refuse_failed(kvs_shard *shard, kvs_op *op, kvs_status status)
{
    const kvs_round *round = &op->part->round;
    op->missing_count = round->culprit_count;
    memcpy(op->missing, round->culprits, sizeof op->missing);
    kvs_round_answer(shard, op, op->status != KVS_OK ? op->status : status);
}

/* ------------------------------------------------------------------ the list of open rounds */

void kvs_round_open(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    part->round.opened_ns = now_ns == 0 ? 1 : now_ns;
    part->open_next = NULL;
    part->open_previous = shard->open_last;
    if (shard->open_last != NULL) {
        shard->open_last->open_next = part;
    } else {
        shard->open_first = part;
    }
    shard->open_last = part;
    atomic_fetch_add_explicit(&shard->open_count, 1, memory_order_relaxed);
}

static void unlist_round(kvs_shard *shard, kvs_part *part)
{
    if (part->open_previous != NULL) {
        part->open_previous->open_next = part->open_next;
    } else {
        shard->open_first = part->open_next;
    }
    if (part->open_next != NULL) {
        part->open_next->open_previous = part->open_previous;
    } else {
        shard->open_last = part->open_previous;
    }
    part->open_next = part->open_previous = NULL;
    atomic_fetch_sub_explicit(&shard->open_count, 1, memory_order_relaxed);
}

void kvs_round_reset(kvs_shard *shard, kvs_part *part)
{
    kvs_round *round = &part->round;
    if (kvs_part_is_sparse(part)) {
        kvs_rows_reset(shard, part);
    }
    if (round->opened_ns != 0) {
        unlist_round(shard, part);
    }
    round->opened_ns = 0;
    round->next_rank = 0;
    round->terms = 0;
    round->failed = false;
    round->culprit_count = 0;
    round->closing = round->gathered = round->ahead = false;
    round->measured = NULL;
    kvs_norms_part *norms = kvs_norms_of(part);
    if (norms != NULL) {
        norms->stage = 0;
    }
    memset(round->arrived, 0, (shard->schedule.num_workers + 63) / 64 * sizeof round->arrived[0]);
}

/* ------------------------------------------------------------------ rounds */

kvs_status kvs_round_copy(kvs_shard *shard, kvs_op *op)
{
    bool none = kvs_part_is_sparse(op->part) && op->row_count == 0;
    if (none || op->held != NULL) {
        return KVS_OK;
    }
    KVS_TRY(kvs_pool_take(shard->pool, op->payload.bytes, &op->held));
    kvs_batch_copy(&shard->batch, NULL, op->held, &op->payload);
    atomic_fetch_add_explicit(&shard->held_bytes, op->payload.bytes, memory_order_relaxed);
    return KVS_OK;
}

void kvs_round_hold(kvs_shard *shard, kvs_op *op, kvs_op_list *list, bool by_rank)
{
    if (op->held == NULL) {
        op->payload = (kvs_payload){0};
    }
    if (op->frame != NULL) {
        kvs_round_use(shard, op);
    }
    kvs_op **at = &list->first;
    if (by_rank) {
        while (*at != NULL && (*at)->rank < op->rank) {
            at = &(*at)->next;
        }
    }
    if (!by_rank || *at == NULL) {
        kvs_op_append(list, op);
    } else {
        op->next = *at;
        *at = op;
    }
}

/* Adds the contribution whose turn it is. `closes`: it is the round's last, and a rule follows,
 * which reads it itself: then its payload is needed until the answer. */
static void add_term(kvs_shard *shard, kvs_part *part, kvs_op *op, bool closes, kvs_source *last)
{
    kvs_round *round = &part->round;
    round->next_rank = op->rank + 1;
    if (is_empty(op)) {
        if (round->culprit_count < KVS_CULPRITS_MAX) { /* should the key fail for want of it */
            round->culprits[round->culprit_count++] = op->rank;
        }
        kvs_round_answer(shard, op, op->status);
        return;
    }
    *last = kvs_op_source(op);
    if (round->terms > 0 && !kvs_part_is_sparse(part)) {
        kvs_batch_touch_sum(&shard->batch, part);
    } else {
        kvs_batch_touch(&shard->batch, part);
    }
    if (!closes) {
        if (kvs_part_is_sparse(part)) {
            kvs_rows_add(shard, part, op, last);
        } else {
            kvs_batch_accumulate(&shard->batch, part, part->accumulator, last, op,
                                 round->terms == 0);
        }
        kvs_round_consume(shard, op);
    }
    round->terms++;
    kvs_op_append(&part->summed, op);
}

/* From now on, whoever comes back. `empty`: the turn that fails it, or NULL. */
static void name_culprits(kvs_shard *shard, kvs_round *round, const kvs_op *empty)
{
    round->culprit_count =
        kvs_schedule_culprits(&shard->schedule, round, round->culprits, KVS_CULPRITS_MAX);
    if (empty != NULL) {
        round->culprit_count = 1;
        round->culprits[0] = empty->rank;
    }
    atomic_fetch_add_explicit(&shard->rounds_failed, 1, memory_order_relaxed);
}

/* What the open round holds. */
static void refuse_all(kvs_shard *shard, kvs_part *part, kvs_status status)
{
    kvs_op_list *lists[] = {&part->summed, &part->held};
    for (int i = 0; i < 2; i++) {
        for (kvs_op *op; (op = kvs_op_shift(lists[i])) != NULL;) {
            refuse_failed(shard, op, status);
        }
    }
}

/* Refuses what the open round holds and whatever still comes to it. */
static void fail_round(kvs_shard *shard, kvs_part *part, kvs_status status, const kvs_op *empty,
                       uint64_t now_ns)
{
    name_culprits(shard, &part->round, empty);
    refuse_all(shard, part, status);
    unlist_round(shard, part);
    part->round.failed = true;
    part->round.terms = 0;
    kvs_round_open(shard, part, now_ns); /* as a failed one: it has a deadline of its own */
}

/* The round is over and `turn` is what has come of it. True when the part is at its next version:
 * with norms it waits for the key's other parts. */
static bool end_round(kvs_shard *shard, kvs_part *part, kvs_turn turn, kvs_status status)
{
    if (kvs_norms_of(part) != NULL) {
        kvs_round_close(shard, part, turn, status);
        return false;
    }
    kvs_round_reset(shard, part);
    kvs_part_advance(shard, part);
    return true;
}

void kvs_round_close(kvs_shard *shard, kvs_part *part, kvs_turn turn, kvs_status status)
{
    part->round.closing = true;
    part->round.turn = turn;
    part->round.status = status;
    part->round.measured = kvs_norms_of(part)->norms;
    kvs_norms_report(shard, part, turn, status);
}

static kvs_status update_round(kvs_shard *shard, kvs_part *part, const kvs_source *last)
{
    if (kvs_part_is_sparse(part)) {
        return kvs_rows_update(shard, part);
    }
    if (part->binding == NULL) {
        kvs_update_replace(shard, part);
        return KVS_OK;
    }
    uint32_t accumulated = part->round.terms - (last != NULL ? 1 : 0);
    /* A rule may have come since the round opened: its states are taken now. */
    KVS_TRY(kvs_update_prepare(shard, part, false));
    return kvs_update_apply(shard, part, accumulated > 0 ? part->accumulator : NULL, last);
}

/* The update of a complete round; its norms are known, if there are any. */
static void update_and_answer(kvs_shard *shard, kvs_part *part, const kvs_source *last,
                              uint64_t now_ns)
{
    kvs_status status = update_round(shard, part, last);
    if (status != KVS_OK) {
        fail_round(shard, part, status, NULL, now_ns);
        kvs_round_reset(shard, part);
        kvs_part_advance(shard, part);
        return;
    }
    atomic_fetch_add_explicit(&shard->rounds_closed, 1, memory_order_relaxed);
    kvs_round_reset(shard, part);
    kvs_op_list summed = part->summed;
    part->summed = (kvs_op_list){NULL, NULL};
    uint64_t version = atomic_load_explicit(&part->version, memory_order_relaxed) + 1;
    for (kvs_op *op; (op = kvs_op_shift(&summed)) != NULL;) {
        status = op->want_value ? kvs_part_capture(shard, part, op) : KVS_OK;
        op->version = version;
        kvs_round_answer(shard, op, status);
    }
    kvs_part_advance(shard, part);
}

/* A complete round, whose gradient is the accumulator and `last`. True when it has ended. */
static bool close_round(kvs_shard *shard, kvs_part *part, const kvs_source *last, uint64_t now_ns)
{
    if (kvs_norms_of(part) == NULL) {
        update_and_answer(shard, part, last, now_ns);
        return true;
    }
    kvs_status status = kvs_norms_prepare(shard, part);
    if (status != KVS_OK) {
        fail_round(shard, part, status, NULL, now_ns);
        return end_round(shard, part, KVS_TURN_FAILED, status);
    }
    return end_round(shard, part, KVS_TURN_UPDATE, KVS_OK);
}

/* Adds `op` (may be NULL) and every held contribution whose turn has come, and closes the round
 * when it is complete. True when the round has ended. */
static bool proceed(kvs_shard *shard, kvs_part *part, kvs_op *op, uint64_t now_ns)
{
    const kvs_schedule *schedule = &shard->schedule;
    kvs_round *round = &part->round;
    kvs_source last;
    bool fused = false; /* the rule reads `last` itself */
    for (;;) {
        if (op == NULL) {
            uint32_t next = kvs_schedule_next(schedule, round);
            if (next == schedule->num_workers) {
                break;
            }
            if (part->held.first == NULL || part->held.first->rank != next) {
                return false;
            }
            op = kvs_op_shift(&part->held);
        }
        kvs_round after = *round;
        after.next_rank = op->rank + 1;
        fused = part->binding != NULL && part->binding->norms == NULL && !is_empty(op) &&
                op->codec == KVS_CODEC_NONE && !kvs_part_is_sparse(part) &&
                kvs_schedule_next(schedule, &after) == schedule->num_workers;
        add_term(shard, part, op, fused, &last);
        op = NULL;
    }
    if (round->terms == 0) { /* only empty turns, or none: all have gone */
        if (round->culprit_count == 0) {
            round->culprit_count =
                kvs_schedule_culprits(schedule, round, round->culprits, KVS_CULPRITS_MAX);
        }
        return end_round(shard, part, KVS_TURN_EMPTY, KVS_OK);
    }
    return close_round(shard, part, fused ? &last : NULL, now_ns);
}

/* One contribution. True when its round has ended. */
static bool contribute(kvs_shard *shard, kvs_part *part, kvs_op *op, uint64_t now_ns)
{
    kvs_round *round = &part->round;
    kvs_decision decision = kvs_schedule_push(&shard->schedule, round, op->rank);
    bool empty = is_empty(op);
    if (round->closing) {
        decision = KVS_LATER;
    }
    if (empty && decision != KVS_LATER && shard->schedule.policy != KVS_POLICY_SHRINK) {
        decision = KVS_FAIL; /* a round has all ranks' contributions, or none */
    }
    if (decision == KVS_LATER) {
        op->status = empty ? op->status : kvs_round_copy(shard, op);
        kvs_round_hold(shard, op, &part->later, false);
        return false;
    }
    if (decision == KVS_FAIL) {
        if (round->opened_ns == 0) {
            kvs_round_open(shard, part, now_ns);
            round->failed = true;
            name_culprits(shard, round, empty ? op : NULL);
        } else if (!round->failed) {
            fail_round(shard, part, KVS_ROUND_FAILED, op, now_ns);
        }
        kvs_round_mark(round, op->rank);
        refuse_failed(shard, op, KVS_ROUND_FAILED);
        return kvs_schedule_ended(&shard->schedule, round) &&
               end_round(shard, part, KVS_TURN_FAILED, KVS_ROUND_FAILED);
    }
    if (!empty) {
        op->status = kvs_part_is_sparse(part) ? kvs_rows_reserve(shard, part, op)
                                              : kvs_update_prepare(shard, part, true);
        if (op->status == KVS_OK && decision == KVS_HOLD) {
            op->status = kvs_round_copy(shard, op);
        }
        if (op->status != KVS_OK) {
            return contribute(shard, part, op, now_ns); /* it has had its turn all the same */
        }
    }
    if (round->opened_ns == 0) {
        kvs_round_open(shard, part, now_ns);
    }
    if (decision == KVS_HOLD) {
        kvs_round_mark(round, op->rank);
        kvs_round_hold(shard, op, &part->held, true);
        /* The rank of an empty turn is gone: the round may have waited for nobody else. */
        return empty && proceed(shard, part, NULL, now_ns);
    }
    kvs_round_mark(round, op->rank);
    return proceed(shard, part, op, now_ns);
}

/* Feeds what waited for later rounds, and what is in `queue` after it, as rounds end. */
static void feed(kvs_shard *shard, kvs_part *part, kvs_op_list queue, bool ended, uint64_t now_ns)
{
    for (;;) {
        if (ended && part->later.first != NULL) {
            if (queue.first != NULL) {
                part->later.last->next = queue.first;
                part->later.last = queue.last;
            }
            queue = part->later;
            part->later = (kvs_op_list){NULL, NULL};
        }
        kvs_op *op = kvs_op_shift(&queue);
        if (op == NULL) {
            return;
        }
        ended = contribute(shard, part, op, now_ns);
    }
}

void kvs_round_keep_sum(kvs_shard *shard, kvs_op *op, kvs_buffer *sum)
{
    if (op->held != NULL) {
        kvs_batch_release(&shard->batch, op->held);
    } else {
        atomic_fetch_add_explicit(&shard->held_bytes, op->payload.bytes, memory_order_relaxed);
        kvs_round_use(shard, op);
    }
    op->held = sum;
}

void kvs_round_push(kvs_shard *shard, kvs_op *op, uint64_t now_ns)
{
    op->next = NULL;
    feed(shard, op->part, (kvs_op_list){op, op}, false, now_ns);
}

uint64_t kvs_round_turns(const kvs_part *part, uint32_t rank)
{
    uint64_t turns = atomic_load_explicit(&part->version, memory_order_relaxed);
    if (part->round.closing || kvs_round_has(&part->round, rank) || rank < part->round.next_rank) {
        turns++;
    }
    for (const kvs_op *op = part->later.first; op != NULL; op = op->next) {
        turns += op->rank == rank ? 1u : 0u;
    }
    return turns;
}

void kvs_round_give_up(kvs_shard *shard, kvs_part *part, uint32_t rank, uint64_t now_ns)
{
    kvs_op *op = calloc(1, sizeof *op);
    if (op == NULL) {
        return; /* a cut of this key ends at its deadline */
    }
    op->kind = KVS_OP_TORN;
    op->key = part->key;
    op->part = part;
    op->rank = rank;
    atomic_fetch_add_explicit(&shard->torn, 1, memory_order_relaxed);
    kvs_batch_touch(&shard->batch, part);
    feed(shard, part, (kvs_op_list){op, op}, false, now_ns);
}

/* A closing part whose rule, value or states are others than those that it has measured tells the
 * new norms, if there are any. */
static bool begin_again(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    kvs_round *round = &part->round;
    const kvs_norms_part *record = kvs_norms_of(part);
    if (record != NULL && record->norms == round->measured) {
        return false;
    }
    round->closing = false;
    return round->turn == KVS_TURN_UPDATE ? close_round(shard, part, NULL, now_ns)
                                          : end_round(shard, part, round->turn, round->status);
}

void kvs_round_go(kvs_shard *shard, kvs_part *part, const kvs_norms_part *record, uint64_t now_ns)
{
    const kvs_norms *norms = record->norms;
    if (norms->turn == KVS_TURN_UPDATE) {
        update_and_answer(shard, part, NULL, now_ns);
    } else {
        if (part->round.turn == KVS_TURN_UPDATE) { /* another part's has failed */
            atomic_fetch_add_explicit(&shard->rounds_failed, 1, memory_order_relaxed);
            part->round.culprit_count = norms->culprit_count;
            memcpy(part->round.culprits, norms->culprits, sizeof part->round.culprits);
            refuse_all(shard, part, norms->status);
        }
        kvs_round_reset(shard, part);
        kvs_part_advance(shard, part);
    }
    feed(shard, part, (kvs_op_list){NULL, NULL}, true, now_ns);
}

void kvs_round_review(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    bool ended = false;
    if (part->round.opened_ns == 0) {
        return;
    }
    if (part->round.closing) {
        ended = begin_again(shard, part, now_ns);
        feed(shard, part, (kvs_op_list){NULL, NULL}, ended, now_ns);
        return;
    }
    if (!part->round.failed && kvs_schedule_failed(&shard->schedule, &part->round)) {
        fail_round(shard, part, KVS_ROUND_FAILED, NULL, now_ns);
    }
    if (!part->round.failed) {
        ended = proceed(shard, part, NULL, now_ns);
    } else if (kvs_schedule_ended(&shard->schedule, &part->round)) {
        ended = end_round(shard, part, KVS_TURN_FAILED, KVS_ROUND_FAILED);
    }
    feed(shard, part, (kvs_op_list){NULL, NULL}, ended, now_ns);
}

void kvs_round_forget(kvs_shard *shard, kvs_part *part, uint32_t rank)
{
    kvs_op_list later = part->later;
    part->later = (kvs_op_list){NULL, NULL};
    for (kvs_op *op; (op = kvs_op_shift(&later)) != NULL;) {
        if (op->rank == rank && op->session != NULL) {
            kvs_round_answer(shard, op, KVS_FENCED);
        } else {
            kvs_op_append(&part->later, op);
        }
    }
}

void kvs_round_expire(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    if (part->round.failed) {
        bool ended = end_round(shard, part, KVS_TURN_FAILED, KVS_ROUND_FAILED);
        feed(shard, part, (kvs_op_list){NULL, NULL}, ended, now_ns);
    } else {
        fail_round(shard, part, KVS_ROUND_FAILED, NULL, now_ns);
        kvs_round_review(shard, part, now_ns);
    }
}

void kvs_round_stop(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    if (part->round.opened_ns != 0 && !part->round.closing) {
        if (!part->round.failed) {
            fail_round(shard, part, KVS_STOPPING, NULL, now_ns);
        }
        bool ended = end_round(shard, part, KVS_TURN_FAILED, KVS_STOPPING);
        feed(shard, part, (kvs_op_list){NULL, NULL}, ended, now_ns);
    }
    kvs_part_refuse_pulls(shard, part, KVS_STOPPING);
}

void kvs_round_refuse_all(kvs_shard *shard, kvs_part *part, kvs_status status)
{
    kvs_op_list *lists[] = {&part->summed, &part->held, &part->later, &part->waiting};
    for (int i = 0; i < 4; i++) {
        for (kvs_op *op; (op = kvs_op_shift(lists[i])) != NULL;) {
            kvs_round_answer(shard, op, status);
        }
    }
    kvs_round_reset(shard, part);
    while (part->actions != NULL) {
        kvs_action *action = part->actions;
        part->actions = action->next;
        action->status = status;
        action->next = shard->acted;
        shard->acted = action;
    }
}
