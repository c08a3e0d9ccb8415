/* Who waits for a part to reach a version: pulls, and the actions of cuts. */
#include "engine/part.h"

#include "engine/encoded.h"
#include "engine/round.h"
#include "engine/rows.h"
#include "engine/session.h"
#include "engine/store.h"

size_t kvs_op_value_bytes(const kvs_op *op)
{
    if (op->value_codec != KVS_CODEC_NONE) {
        return kvs_encoded_bytes(op->part, op->value_codec, op->of_rows, op->row_count);
    }
    return op->of_rows ? op->row_count * kvs_part_row_bytes(op->part) : kvs_part_bytes(op->part);
}

/* Has the session of this op given the part something that comes before it and is not done? */
static bool waits_for_own(const kvs_op_list *list, const kvs_op *op)
{
    for (const kvs_op *other = list->first; other != NULL; other = other->next) {
        if (other->session == op->session && other->sequence <= op->after) {
            return true;
        }
    }
    return false;
}

static bool readable(const kvs_part *part, const kvs_op *op)
{
    if (op->min_version.count > atomic_load_explicit(&part->version, memory_order_relaxed)) {
        return false;
    }
    return op->after == 0 || (!waits_for_own(&part->summed, op) &&
                              !waits_for_own(&part->held, op) && !waits_for_own(&part->later, op));
}

kvs_status kvs_part_capture(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    if (op->of_rows) {
        KVS_TRY(kvs_rows_capture(shard, part, op));
    } else if (op->value_codec != KVS_CODEC_NONE) {
        KVS_TRY(kvs_encoded_take(shard, part, op->value_codec, &op->value));
    } else {
        KVS_TRY(kvs_batch_download(&shard->batch, part->value));
        op->value = kvs_buffer_take(part->value);
    }
    op->version = atomic_load_explicit(&part->version, memory_order_relaxed);
    atomic_fetch_add_explicit(&shard->parts_pulled, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&shard->bytes_pulled, kvs_op_value_bytes(op), memory_order_relaxed);
    return KVS_OK;
}

static void serve(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    kvs_round_answer(shard, op, kvs_part_capture(shard, part, op));
}

/* Does what waits for the version that the part has just reached. An action may advance it. */
static void run_actions(kvs_shard *shard, kvs_part *part)
{
    while (part->actions != NULL &&
           part->actions->count <= atomic_load_explicit(&part->version, memory_order_relaxed)) {
        kvs_action *action = part->actions;
        part->actions = action->next;
        kvs_cut_act(action, shard);
        action->next = shard->acted;
        shard->acted = action;
    }
}

/* Looks again at the pulls that wait. */
static void serve_waiting(kvs_shard *shard, kvs_part *part)
{
    kvs_op_list waiting = part->waiting;
    part->waiting = (kvs_op_list){NULL, NULL};
    for (kvs_op *op; (op = kvs_op_shift(&waiting)) != NULL;) {
        shard->waiting_count--;
        kvs_part_pull(shard, op);
    }
}

void kvs_part_advance(kvs_shard *shard, kvs_part *part)
{
    atomic_fetch_add_explicit(&part->version, 1, memory_order_relaxed);
    kvs_encoded_forget(shard, part);
    run_actions(shard, part);
    serve_waiting(shard, part);
}

void kvs_part_pull(kvs_shard *shard, kvs_op *op)
{
    if (readable(op->part, op)) {
        serve(shard, op->part, op);
    } else {
        kvs_op_append(&op->part->waiting, op);
        shard->waiting_count++;
    }
}

void kvs_part_forget_pulls(kvs_shard *shard, kvs_part *part)
{
    kvs_op_list waiting = part->waiting;
    part->waiting = (kvs_op_list){NULL, NULL};
    for (kvs_op *op; (op = kvs_op_shift(&waiting)) != NULL;) {
        if (atomic_load_explicit(&op->session->ended, memory_order_acquire)) {
            shard->waiting_count--;
            kvs_round_answer(shard, op, KVS_FENCED);
        } else {
            kvs_op_append(&part->waiting, op);
        }
    }
}

void kvs_part_refuse_pulls(kvs_shard *shard, kvs_part *part, kvs_status status)
{
    for (kvs_op *op; (op = kvs_op_shift(&part->waiting)) != NULL;) {
        shard->waiting_count--;
        kvs_round_answer(shard, op, status);
    }
}

void kvs_part_bind(kvs_shard *shard, kvs_part *part, kvs_binding *binding)
{
    kvs_binding_unref(part->binding);
    part->binding = kvs_binding_take(binding);
    if (shard->store->kind == KVS_ASYNC) {
        kvs_norms_bind(shard, part);
    }
    shard->review_due = shard->review_due || part->round.closing || part->later.first != NULL;
}

void kvs_part_act(kvs_shard *shard, kvs_part *part, kvs_action *action)
{
    kvs_action **at = &part->actions;
    while (*at != NULL && (*at)->count <= action->count) {
        at = &(*at)->next;
    }
    action->next = *at;
    *at = action;
    run_actions(shard, part);
    serve_waiting(shard, part);
}
