#include "engine/shard.h"

#include "base/check.h"
#include "engine/alone.h"
#include "engine/encoded.h"
#include "engine/round.h"
#include "engine/session.h"
#include "engine/store.h"

#include <stdlib.h>
#include <string.h>

static void end_turn(kvs_right *right, uint64_t now_ns);
static void run_timer(kvs_task *task, uint64_t now_ns);

kvs_status kvs_shard_open(kvs_store *store, uint32_t index, kvs_shard **out)
{
    kvs_engine *engine = store->engine;
    kvs_backend *backend = engine->backend->table->place(engine->backend, index);
    kvs_shard *shard = calloc(1, sizeof *shard);
    kvs_status status = KVS_NO_MEMORY;
    if (shard == NULL) {
        return status;
    }
    shard->store = store;
    shard->index = index;
    shard->pool = kvs_pool_open(backend, &engine->budget);
    shard->ranks = calloc(store->num_workers, sizeof *shard->ranks);
    shard->rank_changes = calloc(store->num_workers, sizeof *shard->rank_changes);
    shard->answers = calloc(store->num_workers, sizeof *shard->answers);
    shard->answered = calloc(store->num_workers, sizeof *shard->answered);
    if (shard->pool != NULL && shard->ranks != NULL && shard->rank_changes != NULL &&
        shard->answers != NULL && shard->answered != NULL) {
        status = kvs_batch_init(&shard->batch, backend);
        shard->batch.profile = engine->profile;
    }
    if (status != KVS_OK) {
        kvs_shard_close(shard);
        return status;
    }
    shard->schedule = (kvs_schedule){
        .num_workers = store->num_workers, .policy = store->policy, .ranks = shard->ranks};
    shard->timer.run = run_timer;
    kvs_right_init(&shard->right, end_turn, engine->scheduler);
    *out = shard;
    return KVS_OK;
}

void kvs_shard_close(kvs_shard *shard)
{
    if (shard == NULL) {
        return;
    }
    if (shard->batch.backend != NULL) {
        kvs_batch_deinit(&shard->batch);
    }
    kvs_pool_close(shard->pool);
    kvs_budget_free(shard->row_places);
    free(shard->ranks);
    free(shard->rank_changes);
    free(shard->answers);
    free(shard->answered);
    free(shard);
}

/* ------------------------------------------------------------------ ops */

static kvs_shard *shard_of(kvs_right *right)
{
    return (kvs_shard *)((char *)right - offsetof(kvs_shard, right));
}

static void count_pushed(kvs_shard *shard, const kvs_op *op)
{
    uint64_t parts = op->kind == KVS_OP_PUSH ? 1 : 0;
    atomic_fetch_add_explicit(&shard->parts_pushed, parts, memory_order_relaxed);
    atomic_fetch_add_explicit(&shard->bytes_pushed, op->payload.bytes, memory_order_relaxed);
}

static void refuse_or_push(kvs_shard *shard, kvs_op *op, uint64_t now_ns)
{
    if (shard->closing) {
        kvs_round_answer(shard, op, KVS_STORE_DELETED);
    } else if (shard->batch.failed != KVS_OK) {
        kvs_round_answer(shard, op, shard->batch.failed);
    } else if (shard->store->kind == KVS_SYNC &&
               atomic_load_explicit(&op->session->ended, memory_order_acquire)) {
        /* Its rank may be gone already, or another session's: nobody would take it out again. */
        kvs_round_answer(shard, op, KVS_FENCED);
    } else if (shard->frozen > 0) {
        kvs_op_append(&shard->frozen_pushes, op);
    } else if (shard->store->kind == KVS_SYNC) {
        count_pushed(shard, op);
        kvs_round_push(shard, op, now_ns);
    } else {
        count_pushed(shard, op);
        kvs_alone_push(shard, op, now_ns);
    }
}

/* For a profile, if there is one and it is on. */
static void count_push(kvs_shard *shard, const kvs_op *op)
{
    if (shard->span_ns == 0) {
        shard->span_ns = kvs_profile_begin(shard->batch.profile);
        shard->span_bytes = 0;
        shard->span_parts = 0;
    }
    shard->span_bytes += op->payload.bytes;
    shard->span_parts++;
}

void kvs_shard_take_op(kvs_task *task, uint64_t now_ns)
{
    kvs_op *op = (kvs_op *)task;
    kvs_shard *shard = op->part->shard;
    shard->now_ns = now_ns;
    if (op->kind == KVS_OP_PUSH || op->kind == KVS_OP_TORN) {
        count_push(shard, op);
        refuse_or_push(shard, op, now_ns);
    } else if (shard->closing) {
        kvs_round_answer(shard, op, KVS_STORE_DELETED);
    } else if (shard->batch.failed != KVS_OK) {
        kvs_round_answer(shard, op, shard->batch.failed);
    } else if (atomic_load_explicit(&op->session->ended, memory_order_acquire)) {
        kvs_round_answer(shard, op, KVS_FENCED); /* nobody would end its wait */
    } else if (shard->frozen > 0 && op->after != 0) {
        kvs_op_append(&shard->frozen_pushes, op); /* keeps its place behind the session's pushes */
    } else {
        kvs_part_pull(shard, op);
    }
}

/* ------------------------------------------------------------------ the end of a turn */

void kvs_shard_settle(kvs_shard *shard)
{
    (void)!kvs_batch_sync(&shard->batch); /* a failure stays in the batch and is told below */
    uint32_t count = shard->used_count;
    shard->used_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        kvs_op *op = shard->used[i];
        kvs_frame *frame = op->frame;
        if (op->held == NULL && op->charge > 0) {
            uint64_t charge = op->charge;
            op->charge = 0;
            kvs_session_give_credit(op->session, charge, shard->now_ns);
        }
        op->frame = NULL;
        if (frame != NULL) {
            kvs_session_use_frame(frame, shard->now_ns);
        }
    }
}

/* Ops of one session go back as one list: one turn of the session, one message of acks. */
static void sort_answer(kvs_shard *shard, kvs_op *op, uint64_t now_ns)
{
    kvs_task_list *list = &shard->answers[op->rank];
    if (list->first != NULL && ((kvs_op *)list->first)->session != op->session) {
        kvs_session_post_ops(list, now_ns); /* a rank's last session and its new one */
    } else if (list->first == NULL) {
        shard->answered[shard->answered_count++] = op->rank;
    }
    kvs_task_list_append(list, &op->task);
}

/* Refuses every op and drops every action that is with the shard. */
static void refuse_what_waits(kvs_shard *shard, kvs_status status)
{
    kvs_store *store = shard->store;
    shard->waiting_count = 0; /* all of them are refused below */
    for (kvs_op *op; (op = kvs_op_shift(&shard->frozen_pushes)) != NULL;) {
        kvs_round_answer(shard, op, status);
    }
    uint64_t count = atomic_load_explicit(&store->keys.count, memory_order_acquire);
    for (uint64_t i = 0; i < count; i++) {
        kvs_key *key = kvs_key_table_at(&store->keys, i);
        for (uint64_t p = 0; p < key->part_count; p++) {
            if (key->parts[p].shard == shard) {
                kvs_round_refuse_all(shard, &key->parts[p], status);
            }
        }
    }
}

static void end_turn(kvs_right *right, uint64_t now_ns)
{
    kvs_shard *shard = shard_of(right);
    shard->now_ns = now_ns;
    kvs_shard_settle(shard);
    if (shard->batch.failed != KVS_OK && !shard->lost) {
        shard->lost = true; /* no version will be reached any more */
        refuse_what_waits(shard, shard->batch.failed);
        kvs_shard_settle(shard);
    }
    kvs_task *task = shard->finished.first;
    shard->finished = (kvs_task_list){NULL, NULL};
    while (task != NULL) {
        kvs_op *op = (kvs_op *)task;
        task = task->next;
        if (shard->batch.failed != KVS_OK && op->status == KVS_OK) {
            op->status = shard->batch.failed;
        }
        op->task.run = kvs_session_take_answer;
        sort_answer(shard, op, now_ns);
    }
    uint32_t count = shard->answered_count;
    shard->answered_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        kvs_session_post_ops(&shard->answers[shard->answered[i]], now_ns);
    }
    kvs_norms_send_reports(shard, now_ns);
    kvs_action *acted = shard->acted;
    shard->acted = NULL;
    while (acted != NULL) {
        kvs_action *next = acted->next;
        kvs_cut_acted(acted, shard->batch.failed, now_ns);
        acted = next;
    }
    kvs_profile_end(shard->batch.profile, KVS_STAGE_SHARD, shard->span_ns, KVS_PROFILE_NO_RANK,
                    shard->span_parts, shard->span_bytes);
    shard->span_ns = 0;
}

/* ------------------------------------------------------------------ ranks, deadlines, cuts */

static void review(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    if (shard->store->kind == KVS_SYNC) {
        kvs_round_review(shard, part, now_ns);
    } else {
        kvs_alone_review(shard, part, now_ns);
    }
}

/* No list of them is kept, for sessions do not end often. */
static void forget_pulls(kvs_shard *shard)
{
    kvs_key_table *keys = &shard->store->keys;
    uint64_t count = atomic_load_explicit(&keys->count, memory_order_acquire);
    for (uint64_t i = 0; i < count && shard->waiting_count > 0; i++) {
        kvs_key *key = kvs_key_table_at(keys, i);
        for (uint64_t p = 0; p < key->part_count; p++) {
            if (key->parts[p].shard == shard) {
                kvs_part_forget_pulls(shard, &key->parts[p]);
            }
        }
    }
}

void kvs_shard_set_rank(kvs_shard *shard, uint32_t rank, kvs_rank_state state, uint64_t change,
                        uint64_t now_ns)
{
    if (change <= shard->rank_changes[rank]) {
        return; /* an older change that was overtaken */
    }
    shard->rank_changes[rank] = change;
    shard->schedule.gone += (state == KVS_RANK_GONE ? 1u : 0u);
    shard->schedule.gone -= (shard->ranks[rank] == KVS_RANK_GONE ? 1u : 0u);
    shard->ranks[rank] = (uint8_t)state;
    shard->now_ns = now_ns;
    if (state == KVS_RANK_GONE) {
        forget_pulls(shard);
    }
    kvs_part *next;
    for (kvs_part *part = shard->open_first; part != NULL; part = next) {
        next = part->open_next;
        if (state == KVS_RANK_LIVE && part->round.failed &&
            shard->schedule.policy != KVS_POLICY_WAIT) {
            kvs_round_mark(&part->round, rank); /* whoever is new has no part in old failures */
        }
        if (state == KVS_RANK_GONE && shard->store->kind == KVS_SYNC) {
            kvs_round_forget(shard, part, rank);
        }
        if (part == shard->open_last) {
            next = NULL; /* rounds that open meanwhile know the new state already */
        }
        if (shard->frozen > 0) {
            shard->review_due = true; /* versions stand still */
        } else {
            review(shard, part, now_ns);
        }
    }
}

static bool draining(const kvs_shard *shard)
{
    return atomic_load_explicit(&shard->store->engine->draining, memory_order_relaxed);
}

/* Ends what would wait for ranks that no longer come. */
static void stop_stuck(kvs_shard *shard, uint64_t now_ns)
{
    kvs_key_table *keys = &shard->store->keys;
    uint64_t count = atomic_load_explicit(&keys->count, memory_order_acquire);
    for (uint64_t i = 0; i < count; i++) {
        kvs_key *key = kvs_key_table_at(keys, i);
        for (uint64_t p = 0; p < key->part_count; p++) {
            kvs_part *part = &key->parts[p];
            if (part->shard == shard && kvs_schedule_stuck(&shard->schedule, &part->round)) {
                kvs_round_stop(shard, part, now_ns);
            }
        }
    }
}

/* The next tick of the engine leaves it out, for all shards. */
static void mark_late(kvs_store *store, uint32_t rank)
{
    atomic_fetch_or_explicit(&store->late_ranks[rank / 64], (uint64_t)1 << (rank % 64),
                             memory_order_relaxed);
}

void kvs_shard_expire(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    kvs_store *store = shard->store;
    if (store->policy == KVS_POLICY_WAIT) {
        return;
    }
    if (part->round.closing) {
        kvs_norms_expire(part, now_ns);
        return;
    }
    if (store->policy == KVS_POLICY_FAIL) {
        kvs_round_expire(shard, part, now_ns);
        return;
    }
    for (uint32_t rank = 0; rank < store->num_workers; rank++) {
        if (!kvs_round_has(&part->round, rank) && shard->ranks[rank] != KVS_RANK_GONE) {
            mark_late(store, rank);
        }
    }
}

static void run_timer(kvs_task *task, uint64_t now_ns)
{
    kvs_shard *shard = (kvs_shard *)((char *)task - offsetof(kvs_shard, timer));
    kvs_store *store = shard->store;
    shard->now_ns = now_ns;
    atomic_store_explicit(&shard->timer_posted, false, memory_order_release);
    if (shard->frozen > 0) {
        return; /* versions stand still; the next tick looks again */
    }
    if (draining(shard) && store->kind == KVS_SYNC &&
        (shard->open_first != NULL || shard->waiting_count > 0)) {
        stop_stuck(shard, now_ns);
    }
    uint64_t due = now_ns < store->round_deadline_ns ? 0 : now_ns - store->round_deadline_ns;
    kvs_part *last = shard->open_last;
    kvs_part *next;
    for (kvs_part *part = shard->open_first; part != NULL; part = next) {
        next = part == last ? NULL : part->open_next;
        if (part->round.opened_ns > due) {
            break;
        }
        if (store->kind != KVS_SYNC) {
            const kvs_norms_part *norms = part->round.closing ? NULL : kvs_norms_of(part);
            if (norms != NULL && norms->next_push != NULL && norms->next_since_ns <= due) {
                mark_late(store, norms->next_rank); /* it has pushed other parts of the key */
            }
        } else {
            kvs_shard_expire(shard, part, now_ns);
        }
    }
}

void kvs_shard_post_timer(kvs_shard *shard, uint64_t now_ns)
{
    bool due = atomic_load_explicit(&shard->open_count, memory_order_relaxed) > 0;
    if ((due || draining(shard)) &&
        !atomic_exchange_explicit(&shard->timer_posted, true, memory_order_acq_rel)) {
        kvs_right_post(&shard->right, &shard->timer, now_ns);
    }
}

void kvs_shard_freeze(kvs_shard *shard)
{
    shard->frozen++;
}

void kvs_shard_thaw(kvs_shard *shard, uint64_t now_ns)
{
    KVS_CHECK(shard->frozen > 0);
    if (--shard->frozen > 0) {
        return;
    }
    kvs_norms_thaw(shard, now_ns);
    kvs_part *last = shard->review_due ? shard->open_last : NULL;
    shard->review_due = false;
    kvs_part *next = last == NULL ? NULL : shard->open_first;
    for (kvs_part *part = next; part != NULL; part = next) {
        next = part == last ? NULL : part->open_next;
        review(shard, part, now_ns);
    }
    kvs_op_list pushes = shard->frozen_pushes;
    shard->frozen_pushes = (kvs_op_list){NULL, NULL};
    for (kvs_op *op; (op = kvs_op_shift(&pushes)) != NULL;) {
        kvs_shard_take_op(&op->task, now_ns);
    }
}

void kvs_shard_refuse_all(kvs_shard *shard, uint64_t now_ns)
{
    shard->now_ns = now_ns;
    shard->closing = true;
    refuse_what_waits(shard, KVS_STORE_DELETED);
}
