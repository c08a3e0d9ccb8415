#include "engine/session.h"

#include "base/check.h"
#include "engine/rows.h"
#include "engine/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPS_PER_SLAB 64u
/* Room for acks of a turn, grown as they come. */
#define ACKS_AT_FIRST 256u

struct kvs_op_slab {
    struct kvs_op_slab *next;
    kvs_op ops[OPS_PER_SLAB];
};

static void end_turn(kvs_right *right, uint64_t now_ns);
static void run_credit(kvs_task *task, uint64_t now_ns);
static void run_end(kvs_task *task, uint64_t now_ns);
static void run_resume(kvs_task *task, uint64_t now_ns);

/* ------------------------------------------------------------------ life */

kvs_status kvs_session_make(kvs_store *store, uint32_t rank, uint64_t now_ns, kvs_session **out)
{
    kvs_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return KVS_NO_MEMORY;
    }
    uint64_t size = atomic_load_explicit(&store->inflight_parts, memory_order_relaxed);
    session->ack_room = ACKS_AT_FIRST;
    session->acks = calloc((size_t)2 * ACKS_AT_FIRST, sizeof *session->acks);
    kvs_status status = session->acks == NULL ? KVS_NO_MEMORY : KVS_OK;
    if (status == KVS_OK) {
        status = kvs_window_init(&session->window, size);
    }
    if (status != KVS_OK) {
        free(session->acks);
        free(session);
        return status;
    }
    kvs_right_init(&session->right, end_turn, store->engine->scheduler);
    session->store = kvs_store_take(store);
    session->rank = rank;
    session->credit_limit = store->engine->credit_bytes;
    session->credit_task.run = run_credit;
    session->end_task.run = run_end;
    session->resume_task.run = run_resume;
    atomic_init(&session->references, 1);
    atomic_init(&session->last_seen_ns, now_ns);
    atomic_init(&session->next_sequence, 1);
    store->engine->random(session->id, sizeof session->id);
    *out = session;
    return KVS_OK;
}

kvs_session *kvs_session_take(kvs_session *session)
{
    atomic_fetch_add_explicit(&session->references, 1, memory_order_relaxed);
    return session;
}

void kvs_session_unref(kvs_session *session)
{
    if (session == NULL ||
        atomic_fetch_sub_explicit(&session->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    KVS_CHECK(session->ops_live == 0);
    if (session->push_channel != NULL) {
        session->push_channel->table->unref(session->push_channel);
    }
    while (session->slabs != NULL) {
        struct kvs_op_slab *next = session->slabs->next;
        free(session->slabs);
        session->slabs = next;
    }
    free(session->acks);
    kvs_window_deinit(&session->window);
    kvs_tally_deinit(&session->tally);
    kvs_store *store = session->store;
    free(session);
    kvs_store_unref(store);
}

kvs_store *kvs_session_store(kvs_session *session)
{
    return session->store;
}

uint32_t kvs_session_rank(const kvs_session *session)
{
    return session->rank;
}

kvs_op *kvs_session_make_op(kvs_session *session, kvs_channel *channel, kvs_op_kind kind)
{
    /* Grows to what the window and its pulls need, and no further. Keys leave some for the parts
     * that answer them. */
    uint64_t ops_max = 4 * session->window.size + KVS_FRAME_PARTS_MAX;
    if (kind == KVS_OP_KEY && session->ops_live + OPS_PER_SLAB >= ops_max) {
        return NULL;
    }
    if (session->free_ops == NULL) {
        if (session->ops_made >= ops_max) {
            return NULL;
        }
        struct kvs_op_slab *slab = calloc(1, sizeof *slab);
        if (slab == NULL) {
            return NULL;
        }
        slab->next = session->slabs;
        session->slabs = slab;
        session->ops_made += OPS_PER_SLAB;
        for (size_t i = 0; i < OPS_PER_SLAB; i++) {
            slab->ops[i].next = session->free_ops;
            session->free_ops = &slab->ops[i];
        }
    }
    kvs_op *op = session->free_ops;
    session->free_ops = op->next;
    memset(op, 0, sizeof *op);
    op->session = session;
    op->rank = session->rank;
    op->kind = kind;
    op->channel = channel;
    if (channel != NULL) {
        channel->table->take(channel);
    }
    if (session->ops_live++ == 0) {
        (void)kvs_session_take(session); /* one reference for all of its ops */
    }
    return op;
}

void kvs_session_free_op(kvs_session *session, kvs_op *op)
{
    if (op->channel != NULL) {
        op->channel->table->unref(op->channel);
    }
    kvs_budget_free(op->rows);
    kvs_budget_free(op->row_ids);
    session->row_ids -= op->row_id_count;
    op->next = session->free_ops;
    session->free_ops = op;
    if (--session->ops_live == 0) {
        kvs_session_unref(session); /* whoever posted this turn still has one */
    }
}

/* ------------------------------------------------------------------ from other threads */

/* With a reference of our own: the turn may give back the last of the others. */
static void post(kvs_session *session, kvs_task *task, uint64_t now_ns)
{
    (void)kvs_session_take(session);
    kvs_right_post(&session->right, task, now_ns);
    kvs_session_unref(session);
}

void kvs_session_post(kvs_session *session, kvs_task *task, uint64_t now_ns)
{
    post(session, task, now_ns);
}

void kvs_session_post_ops(kvs_task_list *ops, uint64_t now_ns)
{
    if (ops->first == NULL) {
        return;
    }
    kvs_session *session = kvs_session_take(((kvs_op *)ops->first)->session);
    kvs_right_post_list(&session->right, ops, now_ns);
    kvs_session_unref(session);
}

void kvs_session_give_credit(kvs_session *session, uint64_t bytes, uint64_t now_ns)
{
    atomic_fetch_add_explicit(&session->credit_back, bytes, memory_order_relaxed);
    if (!atomic_exchange_explicit(&session->credit_posted, true, memory_order_acq_rel)) {
        post(session, &session->credit_task, now_ns);
    }
}

void kvs_session_use_frame(kvs_frame *frame, uint64_t now_ns)
{
    /* Release: our reads of the bytes are over; acquire: so are everybody's. */
    if (atomic_fetch_sub_explicit(&frame->pending, 1, memory_order_acq_rel) == 1) {
        post(frame->session, &frame->task, now_ns);
    }
}

void kvs_session_post_end(kvs_session *session, uint64_t now_ns)
{
    if (!atomic_exchange_explicit(&session->end_posted, true, memory_order_acq_rel)) {
        post(session, &session->end_task, now_ns);
    }
}

void kvs_session_post_resume(kvs_session *session, uint64_t low, uint64_t now_ns)
{
    atomic_store_explicit(&session->resume_low, low, memory_order_relaxed);
    if (!atomic_exchange_explicit(&session->resume_posted, true, memory_order_acq_rel)) {
        post(session, &session->resume_task, now_ns);
    }
}

/* ------------------------------------------------------------------ the session's own tasks */

static void run_credit(kvs_task *task, uint64_t now_ns)
{
    kvs_session *session = (kvs_session *)((char *)task - offsetof(kvs_session, credit_task));
    (void)now_ns;
    /* First the flag, then the sum: what comes in between posts again. An exchange, since it reads
     * the flag of the last who did not post, and so sees what that one added. */
    (void)atomic_exchange_explicit(&session->credit_posted, false, memory_order_acq_rel);
    uint64_t bytes = atomic_exchange_explicit(&session->credit_back, 0, memory_order_acquire);
    KVS_CHECK(bytes <= session->credit_used);
    session->credit_used -= bytes;
    atomic_store_explicit(&session->inflight_bytes, session->credit_used, memory_order_relaxed);
    kvs_channel *channel = session->push_channel;
    if (bytes > 0 && channel != NULL && !channel->closed) {
        channel->table->credit(channel, bytes);
        kvs_session_mark_dirty(session, channel);
    }
}

static void run_resume(kvs_task *task, uint64_t now_ns)
{
    kvs_session *session = (kvs_session *)((char *)task - offsetof(kvs_session, resume_task));
    (void)atomic_exchange_explicit(&session->resume_posted, false, memory_order_acq_rel);
    uint64_t low = atomic_load_explicit(&session->resume_low, memory_order_acquire);
    kvs_window_skip(&session->window, low);
    kvs_session_open_door(session, now_ns);
    kvs_session_send_chains(session, now_ns);
}

/* Tells the shards of the parts that an unfinished push has not reached: their versions follow
 * those of the parts that it has. As many at a time as there are ops. */
static void count_torn(kvs_session *session)
{
    for (;;) {
        uint64_t count;
        kvs_op *op = kvs_session_make_op(session, NULL, KVS_OP_TORN);
        kvs_part *part = op == NULL ? NULL : kvs_tally_take_torn(&session->tally, &count);
        if (part == NULL) {
            session->torn_due = op == NULL; /* the end of a turn that frees some goes on */
            if (op != NULL) {
                kvs_session_free_op(session, op);
            }
            return;
        }
        op->torn = count;
        op->part = part;
        op->key = part->key;
        kvs_session_chain(session, op);
    }
}

/* Refuses what waits at the door; what is with the shards is answered by them. */
static void run_end(kvs_task *task, uint64_t now_ns)
{
    kvs_session *session = (kvs_session *)((char *)task - offsetof(kvs_session, end_task));
    kvs_op_list waiting = session->deferred; /* all of it: the first must not let in the others */
    session->deferred = (kvs_op_list){NULL, NULL};
    session->snapshots_deferred = 0;
    for (kvs_op *op; (op = kvs_op_shift(&waiting)) != NULL;) {
        op->status = KVS_FENCED;
        if (op->kind == KVS_OP_KEY) {
            kvs_pull_drop(session, op, now_ns);
            continue;
        }
        kvs_session_give_credit(session, op->charge, now_ns);
        op->charge = 0;
        kvs_session_use_frame(op->frame, now_ns);
        op->frame = NULL;
        kvs_tally_remove(&session->tally, op->part);
        kvs_session_take_answer(&op->task, now_ns);
    }
    count_torn(session);
    kvs_session_send_chains(session, now_ns);
}

void kvs_session_mark_dirty(kvs_session *session, kvs_channel *channel)
{
    if (!channel->dirty) {
        channel->dirty = true;
        channel->table->take(channel);
        channel->dirty_next = session->dirty;
        session->dirty = channel;
    }
}

/* ------------------------------------------------------------------ answers */

/* By channel, kind and sequence. */
static bool comes_after(const kvs_session_ack_mark *a, const kvs_session_ack_mark *b)
{
    return a->channel != b->channel       ? a->channel > b->channel
           : a->duplicate != b->duplicate ? a->duplicate
                                          : a->sequence > b->sequence;
}

/* Where the ascending run that begins at `first` ends. */
static uint32_t ascending_until(const kvs_session_ack_mark *acks, uint32_t first, uint32_t count)
{
    while (++first < count && !comes_after(&acks[first - 1], &acks[first])) {
    }
    return first;
}

static uint32_t merge(const kvs_session_ack_mark *from, uint32_t first, uint32_t middle,
                      uint32_t end, kvs_session_ack_mark *to)
{
    uint32_t a = first;
    uint32_t b = middle;
    for (uint32_t i = first; i < end; i++) {
        bool second = a == middle || (b < end && comes_after(&from[a], &from[b]));
        to[i] = second ? from[b++] : from[a++];
    }
    return end;
}

/* Each shard answers in order: as many ascending runs as shards are merged, two by two. */
static void sort_acks(kvs_session *session)
{
    uint32_t count = session->ack_count;
    kvs_session_ack_mark *from = session->acks;
    kvs_session_ack_mark *to = session->acks + session->ack_room;
    while (count > 0 && ascending_until(from, 0, count) < count) {
        for (uint32_t at = 0; at < count;) {
            uint32_t middle = ascending_until(from, at, count);
            uint32_t end = middle < count ? ascending_until(from, middle, count) : count;
            at = merge(from, at, middle, end, to);
        }
        kvs_session_ack_mark *merged = to;
        to = from;
        from = merged;
    }
    if (from != session->acks) {
        memcpy(session->acks, from, count * sizeof *from);
    }
}

static void flush_acks(kvs_session *session)
{
    sort_acks(session);
    for (uint32_t i = 0; i < session->ack_count;) {
        kvs_channel *channel = session->acks[i].channel;
        bool duplicate = session->acks[i].duplicate;
        uint64_t first = session->acks[i].sequence;
        uint64_t last = first;
        while (++i < session->ack_count && session->acks[i].channel == channel &&
               session->acks[i].duplicate == duplicate && session->acks[i].sequence <= last + 1) {
            last = session->acks[i].sequence;
        }
        if (!channel->closed) {
            channel->table->ack(channel, first, last, duplicate);
        }
    }
    session->ack_count = 0;
}

/* False: there are as many as are joined, or no memory for more. */
static bool grow_acks(kvs_session *session)
{
    uint32_t room = 2 * session->ack_room;
    if (room > KVS_SESSION_ACKS_MAX) {
        return false;
    }
    kvs_session_ack_mark *acks = realloc(session->acks, 2 * room * sizeof *acks);
    if (acks == NULL) {
        return false;
    }
    session->acks = acks;
    session->ack_room = room;
    return true;
}

void kvs_session_ack(kvs_session *session, kvs_channel *channel, uint64_t sequence, bool duplicate)
{
    if (channel->closed) {
        return;
    }
    if (session->ack_count == session->ack_room && !grow_acks(session)) {
        flush_acks(session);
    }
    session->acks[session->ack_count++] = (kvs_session_ack_mark){channel, sequence, duplicate};
    kvs_session_mark_dirty(session, channel); /* keeps it until the end of the turn */
}

void kvs_session_refuse(kvs_session *session, kvs_channel *channel, uint64_t sequence,
                        const char *key, size_t key_bytes, const kvs_problem *problem)
{
    atomic_fetch_add_explicit(&session->store->refused, 1, memory_order_relaxed);
    if (!channel->closed) {
        channel->table->refuse(channel, sequence, key, key_bytes, problem);
        kvs_session_mark_dirty(session, channel);
    }
}

void kvs_op_explain(const kvs_op *op, kvs_problem *problem)
{
    problem->status = op->status;
    problem->detail[0] = '\0';
    bool of_round = op->status == KVS_ROUND_FAILED || op->status == KVS_STOPPING;
    if (!of_round || op->missing_count == 0) {
        return;
    }
    char ranks[128];
    size_t used = 0;
    uint32_t named =
        op->missing_count < KVS_OP_MISSING_MAX ? op->missing_count : KVS_OP_MISSING_MAX;
    for (uint32_t i = 0; i < named; i++) {
        used += (size_t)snprintf(ranks + used, sizeof ranks - used, "%s%u", i == 0 ? "" : ", ",
                                 op->missing[i]);
    }
    (void)snprintf(problem->detail, sizeof problem->detail, "missing rank%s %s%s of %u, part %llu",
                   op->missing_count == 1 ? "" : "s", ranks,
                   named < op->missing_count ? " and more" : "", op->session->store->num_workers,
                   (unsigned long long)op->part->index);
}

void kvs_session_give_value(kvs_session *session, kvs_op *op)
{
    kvs_channel *channel = op->channel;
    if (op->value == NULL) {
        return;
    }
    if (channel->closed) {
        kvs_buffer_unref(op->value);
        op->value = NULL;
        return;
    }
    const kvs_part *part = op->part;
    const kvs_key *key = part->key;
    kvs_value_part value = {
        .header = {.key = key->name,
                   .key_bytes = key->name_bytes,
                   .dtype = key->dtype,
                   .has_shape = true,
                   .shape = key->packed_shape,
                   .shape_bytes = key->packed_shape_bytes,
                   .element_offset = part->index * key->part_elements,
                   .element_count = part->elements,
                   .sequence = op->sequence,
                   .codec = op->value_codec,
                   .payload_bytes = kvs_op_value_bytes(op),
                   .version = {.epoch = session->store->engine->epoch, .count = op->version}},
        .data = op->value->memory.host,
        .region = op->value->memory.region,
        .region_offset = op->value->memory.region_offset,
        .buffer = op->value};
    if (op->of_rows) {
        kvs_rows_fill_header(op, &value.header);
    }
    op->value = NULL;
    channel->ahead_bytes += value.header.payload_bytes; /* until it has left */
    channel->table->value(channel, &value);
    kvs_session_mark_dirty(session, channel);
}

void kvs_session_take_answer(kvs_task *task, uint64_t now_ns)
{
    kvs_op *op = (kvs_op *)task;
    kvs_session *session = op->session;
    if (op->kind == KVS_OP_PULL) {
        kvs_pull_take_answer(session, op, now_ns);
        return;
    }
    if (op->kind == KVS_OP_TORN) {
        kvs_session_free_op(session, op);
        return;
    }
    uint64_t through = session->window.through;
    kvs_window_end(&session->window, op->sequence, op->status);
    atomic_fetch_sub_explicit(&session->inflight_parts, 1, memory_order_relaxed);
    if (op->status == KVS_OK) {
        kvs_session_give_value(session, op);
        kvs_session_ack(session, op->channel, op->sequence, false);
    } else {
        kvs_problem problem;
        kvs_op_explain(op, &problem);
        kvs_buffer_unref(op->value);
        op->value = NULL;
        kvs_session_refuse(session, op->channel, op->sequence, op->part->key->name,
                           op->part->key->name_bytes, &problem);
    }
    kvs_session_free_op(session, op);
    if (session->window.through != through || session->snapshots_deferred > 0) {
        kvs_session_open_door(session, now_ns);
        kvs_session_send_chains(session, now_ns);
    }
}

/* The end of a turn: acks as ranges, then whatever has something to send. */
static void end_turn(kvs_right *right, uint64_t now_ns)
{
    kvs_session *session = (kvs_session *)((char *)right - offsetof(kvs_session, right));
    flush_acks(session);
    if (session->torn_due) {
        count_torn(session);
        kvs_session_send_chains(session, now_ns);
    }
    while (session->dirty != NULL) {
        kvs_channel *channel = session->dirty;
        session->dirty = channel->dirty_next;
        channel->dirty = false;
        if (!channel->closed) {
            channel->table->flush(channel, now_ns);
        }
        channel->table->unref(channel);
    }
}

/* ------------------------------------------------------------------ to the shards */

void kvs_session_chain(kvs_session *session, kvs_op *op)
{
    op->task.run = kvs_shard_take_op;
    kvs_task_list_append(&session->chains[op->part->shard->index], &op->task);
}

void kvs_session_send_chains(kvs_session *session, uint64_t now_ns)
{
    kvs_store *store = session->store;
    for (uint32_t i = 0; i < store->shard_count; i++) {
        if (session->chains[i].first != NULL) {
            kvs_task_list list = session->chains[i];
            session->chains[i] = (kvs_task_list){NULL, NULL};
            kvs_right_post_list(&store->shards[i]->right, &list, now_ns);
        }
    }
}

/* Is one of the session's own pushes of the key, up to `after`, not in its round yet? */
static bool pushes_first(const kvs_session *session, const kvs_op *op)
{
    const kvs_window *window = &session->window;
    for (uint64_t s = window->low; s <= op->after; s++) {
        const kvs_op *other = window->entries[s & window->mask].op;
        if (other != NULL && other->kind == KVS_OP_PUSH && other->key == op->key) {
            return true;
        }
    }
    return false;
}

bool kvs_session_defers(const kvs_session *session, const kvs_op *op)
{
    return op->after > session->window.through || (op->snapshot && pushes_first(session, op));
}

void kvs_session_open_door(kvs_session *session, uint64_t now_ns)
{
    bool moved = session->deferred.first != NULL;
    while (moved) {
        moved = false;
        kvs_op_list waiting = session->deferred;
        session->deferred = (kvs_op_list){NULL, NULL};
        session->snapshots_deferred = 0;
        for (kvs_op *op; (op = kvs_op_shift(&waiting)) != NULL;) {
            if (kvs_session_defers(session, op)) {
                kvs_op_append(&session->deferred, op);
                session->snapshots_deferred += op->snapshot ? 1u : 0u;
            } else if (op->kind == KVS_OP_KEY) {
                kvs_pull_start(session, op, now_ns);
            } else {
                kvs_session_chain(session, op);
                moved = kvs_window_open(&session->window, op->sequence) || moved;
            }
        }
    }
}

/* ------------------------------------------------------------------ leases */

kvs_status kvs_session_heartbeat(kvs_session *session, uint64_t now_ns)
{
    if (atomic_load_explicit(&session->ended, memory_order_acquire)) {
        return KVS_FENCED;
    }
    /* Never back: the time of a turn is that of its beginning. */
    uint64_t seen = atomic_load_explicit(&session->last_seen_ns, memory_order_relaxed);
    while (seen < now_ns &&
           !atomic_compare_exchange_weak_explicit(&session->last_seen_ns, &seen, now_ns,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
    return KVS_OK;
}
