#include "engine/norms.h"

#include "engine/alone.h"
#include "engine/round.h"
#include "engine/rows.h"
#include "engine/store.h"
#include "engine/update.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static void run_go(kvs_task *task, uint64_t now_ns);
static void run_order(kvs_task *task, uint64_t now_ns);
static void run_begin(kvs_task *task, uint64_t now_ns);
static void run_overdue(kvs_task *task, uint64_t now_ns);

kvs_norms *kvs_norms_make(kvs_binding *binding, kvs_key *key)
{
    kvs_norms *norms = calloc(1, sizeof *norms + key->part_count * sizeof norms->parts[0]);
    if (norms == NULL) {
        return NULL;
    }
    if (key->turns != NULL) {
        uint32_t ranks = key->num_workers;
        norms->first_turns = calloc(ranks, sizeof *norms->first_turns);
        norms->ahead = calloc(key->part_count * ranks, sizeof *norms->ahead);
        if (norms->first_turns == NULL || norms->ahead == NULL) {
            kvs_norms_free(norms);
            return NULL;
        }
        for (uint64_t i = 0; i < key->part_count; i++) {
            norms->parts[i].ahead = norms->ahead + i * ranks;
        }
    }
    norms->binding = binding;
    norms->measure_count =
        kvs_optimizer_measures(binding->optimizer, binding->multipliers, norms->measures);
    for (unsigned i = 0; i < norms->measure_count; i++) {
        norms->whole = norms->whole || kvs_measure_form_of(norms->measures[i]).weight;
    }
    norms->part_count = key->part_count;
    atomic_init(&norms->awaited, key->part_count);
    for (uint64_t i = 0; i < key->part_count; i++) {
        norms->parts[i].go.run = run_go;
        norms->parts[i].order.run = run_order;
        norms->parts[i].begin.run = run_begin;
        norms->parts[i].overdue.run = run_overdue;
        norms->parts[i].norms = norms;
        norms->parts[i].part = &key->parts[i];
    }
    return norms;
}

void kvs_norms_free(kvs_norms *norms)
{
    if (norms != NULL) {
        free(norms->first_turns);
        free(norms->ahead);
        free(norms);
    }
}

kvs_norms_part *kvs_norms_of(const kvs_part *part)
{
    kvs_norms *norms = part->binding == NULL ? NULL : part->binding->norms;
    return norms == NULL ? NULL : &norms->parts[part->index];
}

void kvs_norms_scalars(const kvs_part *part, uint64_t t, kvs_rule_scalars *out)
{
    const kvs_binding *binding = part->binding;
    const kvs_norms_part *record = kvs_norms_of(part);
    kvs_optimizer_scalars(binding->optimizer, binding->multipliers, t, out);
    for (unsigned i = 0; record != NULL && i < record->stage; i++) {
        kvs_optimizer_scale(binding->optimizer, i, record->norms->squares[i], out);
    }
}

kvs_status kvs_norms_prepare(kvs_shard *shard, kvs_part *part)
{
    if (!kvs_part_is_sparse(part)) {
        return kvs_update_prepare(shard, part, true);
    }
    if (!kvs_norms_of(part)->norms->whole) {
        return KVS_OK;
    }
    KVS_TRY(kvs_update_take_states(shard, part));
    return kvs_rows_complete(shard, part);
}

/* ------------------------------------------------------------------ reports */

/* Of what the part has of its first row and of its last, where parts cut them. */
static void measure_edges(kvs_shard *shard, kvs_part *part, double *sums)
{
    uint64_t row = kvs_key_row_elements(part->key);
    kvs_row_range rows = kvs_key_rows_of(part->key, part->index);
    uint64_t head = row - rows.begun < part->elements ? row - rows.begun : part->elements;
    uint64_t tail = (rows.begun + part->elements) % row;
    if (head < row) {
        kvs_batch_measure(&shard->batch, part, KVS_MEASURE_ROW, 0, head, &sums[0]);
    }
    if (rows.count > 1 && tail > 0) {
        kvs_batch_measure(&shard->batch, part, KVS_MEASURE_ROW, part->elements - tail, tail,
                          &sums[1]);
    }
}

static void measure(kvs_shard *shard, kvs_part *part, kvs_measure measure, double *sums)
{
    uint64_t elements =
        kvs_part_is_sparse(part) ? part->row_set.count * part->key->row_elements : part->elements;
    if (measure == KVS_MEASURE_ROW) {
        measure_edges(shard, part, sums);
    } else {
        kvs_batch_measure(&shard->batch, part, measure, 0, elements, sums);
    }
}

/* For the end of the shard's turn. */
static void list_record(kvs_shard *shard, kvs_norms_part *record)
{
    if (!record->listed) {
        (void)kvs_binding_take(record->norms->binding);
        record->listed = true;
        record->next = shard->reports;
        shard->reports = record;
    }
}

void kvs_norms_report(kvs_shard *shard, kvs_part *part, kvs_turn turn, kvs_status status)
{
    kvs_norms_part *record = kvs_norms_of(part);
    kvs_norms *norms = record->norms;
    record->turn = turn;
    record->status = status;
    record->culprit_count = part->round.culprit_count;
    memcpy(record->culprits, part->round.culprits, sizeof record->culprits);
    memset(record->sums, 0, sizeof record->sums);
    if (turn == KVS_TURN_UPDATE) {
        measure(shard, part, norms->measures[record->stage], record->sums);
    }
    record->report_due = true;
    list_record(shard, record);
}

static void add_up(kvs_norms *norms)
{
    double *squares = norms->squares[norms->parts[0].stage];
    memset(squares, 0, KVS_MEASURE_SUMS_MAX * sizeof squares[0]);
    for (uint64_t i = 0; i < norms->part_count; i++) {
        for (unsigned k = 0; k < KVS_MEASURE_SUMS_MAX; k++) {
            squares[k] += norms->parts[i].sums[k];
        }
    }
}

/* Gives each part the sums over all of its first row and of its last, instead of those over what it
 * has of them; pieces are added in the order of the parts. */
static void add_up_rows(kvs_norms *norms)
{
    const kvs_key *key = norms->parts[0].part->key;
    uint64_t row = kvs_key_row_elements(key);
    double sum = 0;     /* of the row that the part before does not end */
    uint64_t begin = 0; /* the part where that begins, as its last row */
    for (uint64_t i = 0; i < norms->part_count; i++) {
        double *sums = norms->parts[i].sums;
        kvs_row_range rows = kvs_key_rows_of(key, i);
        uint64_t tail = (rows.begun + key->parts[i].elements) % row;
        sum = rows.begun > 0 ? sum + sums[0] : sums[0];
        begin = rows.begun > 0 ? begin : i;
        if (rows.count == 1 && tail > 0) {
            continue; /* neither does this one */
        }
        for (uint64_t j = begin; j <= i; j++) {
            bool last = j < i && kvs_key_rows_of(key, j).count > 1;
            norms->parts[j].sums[last ? 1 : 0] = sum;
        }
        sum = sums[1];
        begin = i;
    }
}

/* What has come of the turn, by whoever reports last. */
static void conclude(kvs_norms *norms)
{
    uint64_t count[3] = {0};
    const kvs_norms_part *first[3] = {NULL};
    for (uint64_t i = 0; i < norms->part_count; i++) {
        const kvs_norms_part *record = &norms->parts[i];
        first[record->turn] = count[record->turn]++ == 0 ? record : first[record->turn];
    }
    norms->turn = KVS_TURN_FAILED;
    norms->status = KVS_ROUND_FAILED;
    const kvs_norms_part *named = first[KVS_TURN_FAILED];
    if (named != NULL) {
        norms->status = named->status;
    } else if (count[KVS_TURN_UPDATE] > 0 && count[KVS_TURN_EMPTY] > 0) {
        named = first[KVS_TURN_EMPTY]; /* a value without some of its gradient has no norm */
    } else {
        norms->turn = count[KVS_TURN_EMPTY] > 0 ? KVS_TURN_EMPTY : KVS_TURN_UPDATE;
        norms->status = KVS_OK;
    }
    norms->culprit_count = named == NULL ? 0 : named->culprit_count;
    if (named != NULL) {
        memcpy(norms->culprits, named->culprits, sizeof norms->culprits);
    }
    if (norms->turn == KVS_TURN_UPDATE) {
        bool rows = norms->measures[norms->parts[0].stage] == KVS_MEASURE_ROW;
        (rows ? add_up_rows : add_up)(norms);
    }
}

static void report(kvs_norms_part *record, kvs_status failed, uint64_t now_ns)
{
    kvs_norms *norms = record->norms;
    record->report_due = false;
    if (failed != KVS_OK) { /* the device's word */
        record->turn = KVS_TURN_FAILED;
        record->status = failed;
    }
    /* Release what this part brings; acquire what the others have. */
    if (atomic_fetch_sub_explicit(&norms->awaited, 1, memory_order_acq_rel) != 1) {
        return;
    }
    conclude(norms);
    atomic_store_explicit(&norms->awaited, norms->part_count, memory_order_relaxed);
    for (uint64_t i = 0; i < norms->part_count; i++) {
        (void)kvs_binding_take(norms->binding); /* the task's */
        kvs_right_post(&norms->parts[i].part->shard->right, &norms->parts[i].go, now_ns);
    }
}

/* HOLDER of the first part: the others are to take the next push of its session. */
static void send_order(kvs_norms_part *first, uint64_t now_ns)
{
    kvs_norms *norms = first->norms;
    first->order_due = false;
    for (uint64_t i = 1; i < norms->part_count; i++) {
        norms->parts[i].told_push = first->part->round.pusher;
        norms->parts[i].told_rank = first->part->round.next_rank;
        norms->parts[i].told_turn = first->turns;
        (void)kvs_binding_take(norms->binding); /* the task's */
        kvs_right_post(&norms->parts[i].part->shard->right, &norms->parts[i].order, now_ns);
    }
}

/* HOLDER of the first part: what it has had before the rule can be read. */
static void send_begin(kvs_norms *norms, uint64_t now_ns)
{
    norms->parts[0].begin_due = false;
    for (uint64_t i = 1; i < norms->part_count; i++) {
        (void)kvs_binding_take(norms->binding); /* the task's */
        kvs_right_post(&norms->parts[i].part->shard->right, &norms->parts[i].begin, now_ns);
    }
}

void kvs_norms_send_reports(kvs_shard *shard, uint64_t now_ns)
{
    while (shard->reports != NULL) {
        kvs_norms_part *record = shard->reports;
        kvs_binding *binding = record->norms->binding;
        shard->reports = record->next;
        record->listed = false;
        if (record->begin_due) {
            send_begin(record->norms, now_ns);
        }
        if (record->order_due) {
            send_order(record, now_ns);
        }
        if (record->report_due) {
            report(record, shard->batch.failed, now_ns);
        }
        kvs_binding_unref(binding);
    }
}

/* ------------------------------------------------------------------ what is told */

static void go(kvs_norms_part *record, uint64_t now_ns)
{
    kvs_part *part = record->part;
    kvs_shard *shard = part->shard;
    const kvs_norms *norms = record->norms;
    /* Another rule, value or state has come at a cut meanwhile: the part begins again. */
    if (shard->closing || !part->round.closing || part->round.measured != norms ||
        kvs_norms_of(part) != record) {
        return;
    }
    if (norms->turn == KVS_TURN_UPDATE && ++record->stage < norms->measure_count) {
        kvs_norms_report(shard, part, KVS_TURN_UPDATE, KVS_OK);
        return;
    }
    record->turns++;
    if (shard->store->kind == KVS_SYNC) {
        kvs_round_go(shard, part, record, now_ns);
    } else {
        kvs_alone_go(shard, part, record, now_ns);
    }
}

static void run_go(kvs_task *task, uint64_t now_ns)
{
    kvs_norms_part *record = (kvs_norms_part *)((char *)task - offsetof(kvs_norms_part, go));
    kvs_binding *binding = record->norms->binding;
    kvs_shard *shard = record->part->shard;
    shard->now_ns = now_ns;
    if (shard->frozen > 0) {
        record->told_next = shard->told;
        shard->told = record;
        return;
    }
    go(record, now_ns);
    kvs_binding_unref(binding);
}

void kvs_norms_thaw(kvs_shard *shard, uint64_t now_ns)
{
    kvs_norms_part *record = shard->told;
    shard->told = NULL;
    while (record != NULL) {
        kvs_norms_part *next = record->told_next;
        kvs_binding *binding = record->norms->binding;
        go(record, now_ns);
        kvs_binding_unref(binding);
        record = next;
    }
}

/* ------------------------------------------------------------------ deadlines */

void kvs_norms_expire(kvs_part *part, uint64_t now_ns)
{
    const kvs_norms_part *late = kvs_norms_of(part);
    if (late == NULL || late->norms != part->round.measured) {
        return; /* it is about to measure anew */
    }
    kvs_norms *norms = late->norms;
    for (uint64_t i = 0; i < norms->part_count; i++) {
        kvs_norms_part *other = &norms->parts[i];
        /* Release what is written below; acquire that it has been read. */
        if (other != late &&
            !atomic_exchange_explicit(&other->overdue_posted, true, memory_order_acq_rel)) {
            other->overdue_turn = late->turns;
            (void)kvs_binding_take(norms->binding); /* the task's */
            kvs_right_post(&other->part->shard->right, &other->overdue, now_ns);
        }
    }
}

static void run_overdue(kvs_task *task, uint64_t now_ns)
{
    kvs_norms_part *record = (kvs_norms_part *)((char *)task - offsetof(kvs_norms_part, overdue));
    kvs_binding *binding = record->norms->binding;
    kvs_part *part = record->part;
    kvs_shard *shard = part->shard;
    bool of_this_turn = record->overdue_turn == record->turns && kvs_norms_of(part) == record;
    shard->now_ns = now_ns;
    atomic_store_explicit(&record->overdue_posted, false, memory_order_release);
    /* An open round has a deadline of its own. While versions stand still nothing ends: the next
     * tick says it again. */
    if (of_this_turn && !shard->closing && shard->frozen == 0 && part->round.opened_ns == 0) {
        kvs_round_open(shard, part, now_ns);
        kvs_shard_expire(shard, part, now_ns);
    }
    kvs_binding_unref(binding);
}

/* ------------------------------------------------------------------ when a rule comes */

static void compare(kvs_norms_part *record)
{
    const kvs_part *part = record->part;
    for (uint32_t rank = 0; rank < part->key->num_workers; rank++) {
        record->ahead[rank] = (int64_t)(part->turns[rank] - record->norms->first_turns[rank]);
    }
    record->waits = false;
    record->compared = true;
}

void kvs_norms_bind(kvs_shard *shard, kvs_part *part)
{
    kvs_norms_part *record = kvs_norms_of(part);
    if (record == NULL || part->turns == NULL) {
        return;
    }
    if (part->index == 0) {
        memcpy(record->norms->first_turns, part->turns,
               part->key->num_workers * sizeof part->turns[0]);
        record->begin_due = true;
        list_record(shard, record);
    } else if (record->first_told) {
        compare(record);
    } else {
        record->waits = true;
    }
}

static void run_begin(kvs_task *task, uint64_t now_ns)
{
    kvs_norms_part *record = (kvs_norms_part *)((char *)task - offsetof(kvs_norms_part, begin));
    kvs_binding *binding = record->norms->binding;
    kvs_part *part = record->part;
    kvs_shard *shard = part->shard;
    shard->now_ns = now_ns;
    record->first_told = true;
    if (!shard->closing && record->waits && kvs_norms_of(part) == record) {
        compare(record);
        kvs_alone_next(shard, part, now_ns);
    }
    kvs_binding_unref(binding);
}

static void run_order(kvs_task *task, uint64_t now_ns)
{
    kvs_norms_part *record = (kvs_norms_part *)((char *)task - offsetof(kvs_norms_part, order));
    kvs_binding *binding = record->norms->binding;
    kvs_part *part = record->part;
    kvs_shard *shard = part->shard;
    shard->now_ns = now_ns;
    if (!shard->closing) {
        record->next_push = record->told_push;
        record->next_rank = record->told_rank;
        record->next_turn = record->told_turn;
        record->next_since_ns = now_ns;
        if (kvs_norms_of(part) == record) {
            kvs_alone_next(shard, part, now_ns);
        }
    }
    kvs_binding_unref(binding);
}
