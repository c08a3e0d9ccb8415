#include "engine/alone.h"

#include "engine/round.h"
#include "engine/rows.h"
#include "engine/session.h"
#include "engine/store.h"
#include "engine/update.h"

#include <string.h>

/* ------------------------------------------------------------------ at once */

/* The same of rows. */
static kvs_status update_rows(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    kvs_status status = op->whole ? KVS_OK : kvs_rows_reserve(shard, part, op);
    if (status == KVS_OK) {
        kvs_source source = kvs_op_source(op);
        kvs_rows_add(shard, part, op, &source);
        status = kvs_rows_update(shard, part);
    }
    kvs_rows_reset(shard, part);
    return status;
}

static kvs_status update(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    if (kvs_part_is_sparse(part)) {
        return update_rows(shard, part, op);
    }
    kvs_source source = kvs_op_source(op);
    bool encoded = op->codec != KVS_CODEC_NONE; /* a rule reads none: it is decoded first */
    KVS_TRY(kvs_update_prepare(shard, part, part->binding == NULL || encoded));
    if (part->binding != NULL && !encoded) {
        return kvs_update_apply(shard, part, NULL, &source);
    }
    kvs_batch_accumulate(&shard->batch, part, part->accumulator, &source, op, true);
    if (part->binding != NULL) {
        return kvs_update_apply(shard, part, part->accumulator, NULL);
    }
    kvs_update_replace(shard, part);
    return KVS_OK;
}

static void skip_torn(kvs_shard *shard, kvs_op *op)
{
    atomic_fetch_add_explicit(&shard->torn, 1, memory_order_relaxed);
    kvs_batch_touch(&shard->batch, op->part);
    atomic_fetch_add_explicit(&op->part->version, op->torn - 1, memory_order_relaxed);
    kvs_part_advance(shard, op->part);
    kvs_round_answer(shard, op, KVS_OK);
}

/* Of each rank, should a rule with norms come (kvs_norms_bind). */
static void count_turns(kvs_part *part, uint32_t rank, uint64_t turns)
{
    if (part->turns != NULL) {
        part->turns[rank] += turns;
    }
}

static void push(kvs_shard *shard, kvs_op *op)
{
    kvs_part *part = op->part;
    kvs_status status = KVS_OPTIMIZER_NOT_SET;
    count_turns(part, op->rank, op->kind == KVS_OP_TORN ? op->torn : 1);
    if (op->kind == KVS_OP_TORN) {
        skip_torn(shard, op);
        return;
    }
    kvs_batch_touch(&shard->batch, part);
    if (atomic_load_explicit(&op->session->ended, memory_order_acquire)) {
        status = KVS_FENCED; /* it still counts, as a push that has failed */
    } else if (op->status != KVS_OK) {
        status = op->status;
    } else if (part->binding != NULL || shard->store->kind == KVS_LOCAL) {
        status = update(shard, part, op);
    }
    kvs_part_advance(shard, part);
    if (status == KVS_OK && op->want_value) {
        status = kvs_part_capture(shard, part, op);
    }
    op->version = atomic_load_explicit(&part->version, memory_order_relaxed);
    kvs_round_answer(shard, op, status);
}

/* ------------------------------------------------------------------ whole, in a local store */

/* All the memory that the push takes, so that it cannot fail any more. */
static kvs_status reserve(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    if (op->status != KVS_OK) {
        return op->status;
    }
    kvs_batch_touch(&shard->batch, part);
    if (kvs_part_is_sparse(part)) {
        KVS_TRY(kvs_rows_reserve(shard, part, op));
        return kvs_rows_prepare(shard, part, op->row_count);
    }
    KVS_TRY(kvs_update_prepare(shard, part, part->binding == NULL || op->codec != KVS_CODEC_NONE));
    return part->binding == NULL ? KVS_OK : kvs_update_own(shard, part);
}

/* The pushes of all parts are there. What was taken for one that fails stays for the next. */
static void push_whole(kvs_shard *shard, kvs_key *key)
{
    kvs_status status = KVS_OK;
    for (uint64_t i = 0; i < key->part_count && status == KVS_OK; i++) {
        status = reserve(shard, &key->parts[i], key->parts[i].later.first);
    }
    for (uint64_t i = 0; i < key->part_count; i++) {
        kvs_part *part = &key->parts[i];
        kvs_op *op = kvs_op_shift(&part->later);
        op->status = status;
        if (status != KVS_OK && kvs_part_is_sparse(part)) {
            kvs_rows_reset(shard, part);
        }
        push(shard, op);
    }
}

/* ------------------------------------------------------------------ in the order of the key */

/* Takes out the push whose turn it is, or gives NULL: it is not there, or not known. One that
 * stands for several that are torn stays for the others. */
static kvs_op *choose(kvs_part *part, kvs_norms_part *record)
{
    kvs_op **at = &part->later.first;
    kvs_op *before = NULL;
    if (part->index == 0 && *at != NULL) {
        record->next_push = (*at)->session;
    }
    while (*at != NULL && (record->next_push == NULL || (*at)->session != record->next_push)) {
        before = *at;
        at = &(*at)->next;
    }
    kvs_op *op = *at;
    if (op == NULL || (op->kind == KVS_OP_TORN && --op->torn > 0)) {
        return op;
    }
    *at = op->next;
    part->later.last = part->later.last == op ? before : part->later.last;
    return op;
}

/* What measures read. In a local store, where nobody reads a value between this and the update, it
 * takes what that needs as well. */
static kvs_status prepare(kvs_shard *shard, kvs_part *part)
{
    KVS_TRY(kvs_norms_prepare(shard, part));
    if (shard->store->kind != KVS_LOCAL) {
        return KVS_OK;
    }
    return kvs_part_is_sparse(part) ? kvs_rows_prepare(shard, part, part->row_set.count)
                                    : kvs_update_own(shard, part);
}

/* Its gradient becomes the part's accumulator. */
static kvs_status gather(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    if (atomic_load_explicit(&op->session->ended, memory_order_acquire)) {
        return KVS_FENCED;
    }
    kvs_batch_touch(&shard->batch, part);
    if (kvs_part_is_sparse(part)) {
        KVS_TRY(kvs_rows_reserve(shard, part, op));
        kvs_source source = kvs_op_source(op);
        kvs_rows_add(shard, part, op, &source);
        return prepare(shard, part);
    }
    KVS_TRY(prepare(shard, part));
    kvs_source source = kvs_op_source(op);
    kvs_batch_accumulate(&shard->batch, part, part->accumulator, &source, op, true);
    return KVS_OK;
}

static void begin(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    kvs_round *round = &part->round;
    kvs_status status = op->status;
    round->pusher = op->session;
    round->next_rank = op->rank;
    if (op->kind == KVS_OP_TORN) {
        status = KVS_FENCED;
        atomic_fetch_add_explicit(&shard->torn, 1, memory_order_relaxed);
    } else if (status == KVS_OK) {
        status = gather(shard, part, op);
        kvs_round_consume(shard, op);
    }
    if (op->kind == KVS_OP_PUSH || op->torn == 0) {
        kvs_op_append(&part->summed, op);
    }
    round->terms = status == KVS_OK ? 1 : 0;
    round->turn = status == KVS_OK ? KVS_TURN_UPDATE : KVS_TURN_FAILED;
    round->status = status;
    round->gathered = true;
}

static kvs_status apply(kvs_shard *shard, kvs_part *part)
{
    if (part->binding == NULL) {
        return KVS_OPTIMIZER_NOT_SET;
    }
    if (kvs_part_is_sparse(part)) {
        return kvs_rows_update(shard, part);
    }
    /* The rule may be another than that which has measured: its states are taken now. */
    KVS_TRY(kvs_update_prepare(shard, part, false));
    return kvs_update_apply(shard, part, part->accumulator, NULL);
}

/* Counted at its end: what is under way is so at all parts of the key, when a rule comes. */
static void count_turn(kvs_part *part)
{
    const kvs_round *round = &part->round;
    kvs_norms_part *record = kvs_norms_of(part);
    if (!round->ahead) {
        count_turns(part, round->next_rank, 1);
    } else if (record != NULL) {
        record->ahead[round->next_rank]--;
    }
}

/* The end of a turn: `status` is that of the whole key. */
static void finish(kvs_shard *shard, kvs_part *part, kvs_status status)
{
    kvs_op *op = kvs_op_shift(&part->summed);
    count_turn(part);
    kvs_batch_touch(&shard->batch, part);
    if (status == KVS_OK) {
        status = apply(shard, part);
    }
    kvs_round_reset(shard, part);
    if (op != NULL) {
        if (status == KVS_OK && op->want_value) {
            status = kvs_part_capture(shard, part, op);
        }
        op->version = atomic_load_explicit(&part->version, memory_order_relaxed) + 1;
        kvs_round_answer(shard, op, op->kind == KVS_OP_TORN ? KVS_OK : status);
    }
    kvs_part_advance(shard, part);
}

/* The first part has had it before the rule with norms: it has no norms, and no version. */
static void refuse_behind(kvs_shard *shard, kvs_op *op)
{
    kvs_part *part = op->part;
    int64_t *ahead = &kvs_norms_of(part)->ahead[op->rank];
    op->missing_count = 1;
    op->missing[0] = op->rank;
    count_turns(part, op->rank, 1);
    *ahead += 1;
    kvs_round_answer(shard, op, KVS_ROUND_FAILED);
}

/* A torn push that stands for several takes what is behind with it. True: nothing is left of it. */
static bool take_behind(kvs_shard *shard, kvs_op *op)
{
    kvs_norms_part *record = kvs_norms_of(op->part);
    if (record == NULL || record->waits || record->ahead == NULL || record->ahead[op->rank] >= 0) {
        return false;
    }
    if (op->kind == KVS_OP_PUSH) {
        refuse_behind(shard, op);
        return true;
    }
    uint64_t behind = (uint64_t)-record->ahead[op->rank];
    uint64_t taken = op->torn < behind ? op->torn : behind;
    op->torn -= taken;
    record->ahead[op->rank] += (int64_t)taken;
    count_turns(op->part, op->rank, taken);
    if (op->torn == 0) {
        kvs_round_answer(shard, op, KVS_OK);
    }
    return op->torn == 0;
}

static void take_all_behind(kvs_shard *shard, kvs_part *part)
{
    kvs_op_list later = part->later;
    part->later = (kvs_op_list){NULL, NULL};
    for (kvs_op *op; (op = kvs_op_shift(&later)) != NULL;) {
        if (!take_behind(shard, op)) {
            kvs_op_append(&part->later, op);
        }
    }
}

/* The turn of a push that this part alone has had before the rule with norms. */
static void begin_ahead(kvs_part *part, kvs_norms_part *record)
{
    kvs_round *round = &part->round;
    round->ahead = true;
    round->pusher = record->next_push;
    round->next_rank = record->next_rank;
    round->terms = 0;
    round->turn = KVS_TURN_FAILED;
    round->status = KVS_ROUND_FAILED;
    round->culprit_count = 1;
    round->culprits[0] = record->next_rank;
    round->gathered = true;
}

/* What may be done with the push whose turn it is, if it is there. True: the turn is over. */
static bool step(kvs_shard *shard, kvs_part *part)
{
    kvs_round *round = &part->round;
    kvs_norms_part *record = kvs_norms_of(part);
    if (record != NULL && record->waits) {
        return false;
    }
    if (record != NULL && record->compared) {
        record->compared = false;
        take_all_behind(shard, part);
    }
    if (!round->gathered && record != NULL && record->next_push != NULL && record->ahead != NULL &&
        record->ahead[record->next_rank] > 0) {
        begin_ahead(part, record);
    }
    if (!round->gathered && part->later.first != NULL) {
        kvs_op *op = record == NULL ? kvs_op_shift(&part->later) : choose(part, record);
        if (record == NULL) {
            push(shard, op);
            return true;
        }
        if (op != NULL) {
            begin(shard, part, op);
        }
    }
    if (!round->gathered) {
        return false;
    }
    if (record == NULL) { /* a cut has changed the rule to one that needs no norms */
        finish(shard, part, round->status);
        return true;
    }
    if (part->index == 0 || record->next_push == round->pusher) {
        round->gathered = false;
        record->order_due = part->index == 0;
        kvs_round_close(shard, part, round->turn, round->status);
    }
    return false;
}

void kvs_alone_next(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    const kvs_round *round = &part->round;
    while (!round->closing && step(shard, part)) {
    }
    const kvs_norms_part *record = kvs_norms_of(part);
    bool waits = part->later.first != NULL || (record != NULL && record->next_push != NULL);
    if ((round->closing || round->gathered || waits) && round->opened_ns == 0) {
        kvs_round_open(shard, part, now_ns); /* so that deadlines and changes of the rule find it */
    }
}

/* Waits for those of the key's other parts, of which the last comes last. */
static void gather_whole(kvs_shard *shard, kvs_op *op, uint64_t now_ns)
{
    kvs_key *key = op->key;
    kvs_op_append(&op->part->later, op);
    if (op->part->index + 1 < key->part_count) {
        return;
    }
    if (kvs_norms_of(op->part) == NULL) {
        push_whole(shard, key);
        return;
    }
    for (uint64_t i = 0; i < key->part_count; i++) {
        kvs_alone_next(shard, &key->parts[i], now_ns);
    }
}

void kvs_alone_push(kvs_shard *shard, kvs_op *op, uint64_t now_ns)
{
    kvs_part *part = op->part;
    const kvs_norms_part *record = kvs_norms_of(part);
    if (op->whole) {
        gather_whole(shard, op, now_ns);
        return;
    }
    if (record == NULL && part->later.first == NULL) {
        push(shard, op);
        if (kvs_norms_of(part) != NULL) { /* its version was that of a cut */
            kvs_alone_next(shard, part, now_ns);
        }
        return;
    }
    if (take_behind(shard, op)) {
        return;
    }
    bool first =
        part->index == 0 || record == NULL || (record->next_push == op->session && !record->waits);
    bool busy = part->round.closing || part->round.gathered || part->later.first != NULL;
    if (op->kind == KVS_OP_PUSH && (busy || !first)) {
        if (op->status == KVS_OK) {
            op->status = kvs_round_copy(shard, op);
        } /* a failure is its answer when its turn comes */
        kvs_round_hold(shard, op, &part->later, false);
    } else {
        kvs_op_append(&part->later, op);
    }
    kvs_alone_next(shard, part, now_ns);
}

void kvs_alone_go(kvs_shard *shard, kvs_part *part, kvs_norms_part *record, uint64_t now_ns)
{
    if (part->index == 0 || record->next_turn < record->turns) {
        record->next_push = NULL; /* unless the next order is here already */
    }
    kvs_op *op = part->summed.first;
    if (op != NULL) { /* who is named if it fails */
        op->missing_count = record->norms->culprit_count;
        memcpy(op->missing, record->norms->culprits, sizeof op->missing);
    }
    finish(shard, part, record->norms->status);
    kvs_alone_next(shard, part, now_ns);
}

/* The part is closing, and its norms are no longer those of its rule, value or states. */
static void begin_again(kvs_shard *shard, kvs_part *part)
{
    kvs_round *round = &part->round;
    const kvs_norms_part *record = kvs_norms_of(part);
    round->closing = false;
    round->gathered = true;
    if (round->turn == KVS_TURN_UPDATE && record != NULL) {
        round->status = prepare(shard, part);
        round->turn = round->status == KVS_OK ? KVS_TURN_UPDATE : KVS_TURN_FAILED;
    }
}

void kvs_alone_review(kvs_shard *shard, kvs_part *part, uint64_t now_ns)
{
    const kvs_norms_part *record = kvs_norms_of(part);
    if (part->round.closing && (record == NULL || record->norms != part->round.measured)) {
        begin_again(shard, part);
    }
    kvs_alone_next(shard, part, now_ns);
}
