/* The door for pushes: what the session can judge is judged here, once; after it a push is known
 * to be well-formed, in its place in the order, within its bounds, and of a part that exists. */
#include "base/check.h"
#include "engine/codec.h"
#include "engine/encoded.h"
#include "engine/rows.h"
#include "engine/session.h"
#include "engine/store.h"

#include <inttypes.h>
#include <stdlib.h>

typedef struct push {
    kvs_session *session;
    kvs_channel *channel;
    kvs_frame *frame;
    const kvs_part_header *header;
    kvs_payload payload;
    bool want_values;
    uint64_t now_ns;
    kvs_status *refused; /* KVS_OK, or why the first part was refused */
} push;

/* Does the header say something that this version can do? */
static kvs_status judge_form(const kvs_part_header *header, kvs_codec value_codec,
                             kvs_problem *problem)
{
    if (header->storage != KVS_DENSE && header->storage != KVS_ROW_SPARSE) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "%d is no storage",
                               (int)header->storage);
    }
    if (header->empty_parts > 0) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "empty_parts are of row_sparse, without rows and payload");
    }
    if (header->has_weight) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "weights are not built yet");
    }
    if (value_codec != KVS_CODEC_NONE && !kvs_codec_of_values(value_codec)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "codec %d is none of values: ask for f16, bf16 or int8",
                               (int)value_codec);
    }
    return KVS_OK;
}

/* Is it exactly one part of its key? */
static kvs_status judge_part(const kvs_key *key, const kvs_part_header *header, kvs_part **out,
                             kvs_problem *problem)
{
    if (header->dtype != key->dtype) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the key is %s, the push %s",
                               kvs_dtype_name(key->dtype), kvs_dtype_name(header->dtype));
    }
    if (header->has_shape && header->shape_bytes > 0) {
        kvs_shape shape;
        if (!kvs_part_header_shape(header, &shape) || !kvs_shape_equal(&shape, &key->shape)) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the shape is not the key's");
        }
    }
    if (header->element_offset % key->part_elements != 0 ||
        header->element_offset / key->part_elements >= key->part_count) {
        return kvs_problem_set(
            problem, KVS_INVALID_TENSOR,
            "offset %" PRIu64 " is not the start of one of the key's parts of %" PRIu64 " elements",
            header->element_offset, key->part_elements);
    }
    kvs_part *part = &key->parts[header->element_offset / key->part_elements];
    if (header->element_count != part->elements) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the part at offset %" PRIu64 " has %" PRIu64
                               " elements, not %" PRIu64,
                               header->element_offset, part->elements, header->element_count);
    }
    if (key->storage == KVS_ROW_SPARSE && header->codec != KVS_CODEC_NONE) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "rows are not encoded");
    }
    if (key->storage == KVS_ROW_SPARSE) {
        KVS_TRY(kvs_rows_judge(part, header, problem));
    } else if (header->storage != KVS_DENSE || header->row_ids_bytes > 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the key is dense, the push row_sparse");
    } else if (header->codec != KVS_CODEC_NONE) {
        if (key->dtype != KVS_F32) {
            return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                   "the key is %s; gradients of f32 alone are encoded",
                                   kvs_dtype_name(key->dtype));
        }
    } else if (header->payload_bytes != kvs_part_bytes(part)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the part takes %zu bytes, not %" PRIu64, kvs_part_bytes(part),
                               header->payload_bytes);
    }
    *out = part;
    return KVS_OK;
}

/* Refuses; the bytes, which were never charged, go back to the client's count. */
static void refuse(const push *in, const kvs_problem *problem)
{
    in->channel->table->credit(in->channel, in->header->payload_bytes);
    kvs_session_refuse(in->session, in->channel, in->header->sequence, in->header->key,
                       in->header->key_bytes, problem);
    *in->refused = *in->refused == KVS_OK ? problem->status : *in->refused;
}

/* Refuses and uses the sequence up: what comes after it need not wait. */
static void refuse_for_good(const push *in, const kvs_problem *problem)
{
    kvs_session *session = in->session;
    uint64_t through = session->window.through;
    kvs_window_end(&session->window, in->header->sequence, problem->status);
    refuse(in, problem);
    if (session->window.through != through) {
        kvs_session_open_door(session, in->now_ns);
    }
}

/* What was applied long ago, or is still at work: acked again, or told where to answer. */
static void repeat(const push *in, const kvs_entry *entry)
{
    kvs_session *session = in->session;
    const kvs_part_header *header = in->header;
    atomic_fetch_add_explicit(&session->store->duplicates, 1, memory_order_relaxed);
    /* Its first copy was charged; this one was not, so the client gets its bytes back at once. */
    in->channel->table->credit(in->channel, header->payload_bytes);
    kvs_session_mark_dirty(session, in->channel);
    if (entry != NULL && entry->op != NULL) {
        kvs_op *op = entry->op;
        if (op->channel != in->channel) {
            in->channel->table->take(in->channel);
            op->channel->table->unref(op->channel);
            op->channel = in->channel;
        }
        return;
    }
    kvs_status status = entry == NULL ? KVS_OK : (kvs_status)entry->status;
    if (status != KVS_OK) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, status, "refused before; this is a repetition");
        kvs_session_refuse(session, in->channel, header->sequence, header->key, header->key_bytes,
                           &problem);
        return;
    }
    kvs_key *key = kvs_key_table_find(&session->store->keys, header->key, header->key_bytes);
    kvs_part *part = NULL;
    if (in->want_values && key != NULL && judge_part(key, header, &part, NULL) == KVS_OK) {
        kvs_op *op = kvs_session_make_op(session, in->channel, KVS_OP_PULL);
        if (op == NULL) { /* an ack without the value would pass for both */
            kvs_problem problem;
            (void)kvs_problem_set(&problem, KVS_OVER_CREDIT, "too many parts are in flight");
            kvs_session_refuse(session, in->channel, header->sequence, header->key,
                               header->key_bytes, &problem);
            return;
        }
        op->part = part;
        op->key = key;
        op->sequence = header->sequence;
        op->duplicate = true;
        op->value_codec = kvs_encoded_codec(key, in->frame->value_codec);
        kvs_session_chain(session, op);
        return;
    }
    kvs_session_ack(session, in->channel, header->sequence, true);
}

/* Takes a push that waits at the door out again, as if it had not come. */
static void turn_away(const push *in, kvs_op *op)
{
    kvs_session *session = in->session;
    kvs_problem problem;
    kvs_entry *entry = NULL;
    (void)kvs_problem_set(&problem, KVS_OVER_CREDIT, "it waits for a push that needs its credit");
    if (!op->channel->closed) {
        op->channel->table->credit(op->channel, op->charge);
    }
    kvs_session_refuse(session, op->channel, op->sequence, op->key->name, op->key->name_bytes,
                       &problem);
    if (kvs_window_find(&session->window, op->sequence, &entry) == KVS_PLACE_IN) {
        *entry = (kvs_entry){0};
    }
    session->credit_used -= op->charge;
    atomic_fetch_sub_explicit(&session->inflight_parts, 1, memory_order_relaxed);
    kvs_tally_remove(&session->tally, op->part);
    kvs_session_use_frame(op->frame, in->now_ns);
    kvs_session_free_op(session, op);
}

static uint64_t credit_left(const kvs_session *session)
{
    return session->credit_used < session->credit_limit
               ? session->credit_limit - session->credit_used
               : 0;
}

/* Pushes that wait at the door for this one must not keep it out: the last of them give way. */
static void make_way(const push *in)
{
    kvs_session *session = in->session;
    uint64_t bytes = in->header->payload_bytes;
    while (bytes > credit_left(session)) {
        kvs_op **last = NULL;
        for (kvs_op **at = &session->deferred.first; *at != NULL; at = &(*at)->next) {
            if ((*at)->kind == KVS_OP_PUSH && (*at)->sequence > in->header->sequence &&
                (last == NULL || (*at)->sequence > (*last)->sequence)) {
                last = at;
            }
        }
        if (last == NULL) {
            return;
        }
        kvs_op *op = *last;
        *last = op->next;
        kvs_op_list rest = session->deferred;
        session->deferred.last = NULL;
        for (kvs_op *other = rest.first; other != NULL; other = other->next) {
            session->deferred.last = other;
        }
        turn_away(in, op);
    }
}

/* The rows of a part that was judged, kept with its op. */
static kvs_status take_rows(kvs_op *op, const kvs_part_header *header)
{
    if (op->key->storage != KVS_ROW_SPARSE) {
        return KVS_OK;
    }
    op->row_count = kvs_rows_count(op->part, header);
    if (op->row_count == 0) {
        return KVS_OK;
    }
    void *rows = NULL;
    KVS_TRY(kvs_pool_alloc(op->part->shard->pool, op->row_count * sizeof *op->rows, &rows));
    op->rows = rows;
    kvs_rows_read(op->part, header, op->rows, &op->ascending);
    return KVS_OK;
}

/* All that can be said of a part before it costs anything. */
static kvs_status judge(const push *in, kvs_key *key, kvs_part **part, kvs_problem *problem)
{
    const kvs_part_header *header = in->header;
    KVS_TRY(judge_form(header, in->frame->value_codec, problem));
    if (key == NULL) {
        return kvs_problem_set(problem, KVS_KEY_NOT_FOUND, "the store has no key \"%.*s\"",
                               (int)header->key_bytes, header->key);
    }
    if (header->after >= header->sequence) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "after %" PRIu64 " does not come before sequence %" PRIu64,
                               header->after, header->sequence);
    }
    KVS_TRY(judge_part(key, header, part, problem));
    return header->codec == KVS_CODEC_NONE
               ? KVS_OK
               : kvs_codec_judge(header->codec, header->threshold, (*part)->elements, &in->payload,
                                 problem);
}

/* The op of a part that was judged, or NULL: it has been refused. */
static kvs_op *make_op(const push *in, kvs_key *key, kvs_part *part)
{
    kvs_session *session = in->session;
    kvs_problem problem;
    kvs_op *op = kvs_session_make_op(session, in->channel, KVS_OP_PUSH);
    if (op == NULL) {
        (void)kvs_problem_set(&problem, KVS_OVER_CREDIT, "too many parts are in flight");
        refuse(in, &problem);
        return NULL;
    }
    op->key = key;
    op->part = part;
    kvs_status status = take_rows(op, in->header);
    if (status == KVS_OVER_BUDGET) { /* it has its turn all the same, with nothing in it */
        op->row_count = 0;
        op->status = status;
        status = KVS_OK;
    }
    if (status == KVS_OK && session->store->kind == KVS_ASYNC) {
        status = kvs_tally_add(&session->tally, part);
    }
    if (status != KVS_OK) {
        kvs_session_free_op(session, op);
        (void)kvs_problem_set(&problem, KVS_OVER_CREDIT, "no memory to keep count of it");
        refuse(in, &problem);
        return NULL;
    }
    return op;
}

/* A part that is new and has its place in the window. */
static void accept(const push *in, kvs_entry *entry)
{
    kvs_session *session = in->session;
    const kvs_part_header *header = in->header;
    kvs_problem problem = {.status = KVS_OK};
    kvs_part *part = NULL;
    kvs_key *key = kvs_key_table_find(&session->store->keys, header->key, header->key_bytes);
    if (judge(in, key, &part, &problem) != KVS_OK) {
        refuse_for_good(in, &problem);
        return;
    }
    make_way(in);
    /* The lowest that has not ended comes in all the same: after a resume, streams may bring first
     * what is for later rounds, and others wait for this one before those can end. */
    bool lowest = header->sequence == session->window.low;
    if (!lowest && header->payload_bytes > credit_left(session)) {
        (void)kvs_problem_set(&problem, KVS_OVER_CREDIT,
                              "%" PRIu64 " of %" PRIu64 " bytes are in flight",
                              session->credit_used, session->credit_limit);
        refuse(in, &problem);
        return;
    }
    kvs_op *op = make_op(in, key, part);
    if (op == NULL) {
        return;
    }
    op->sequence = header->sequence;
    op->after = header->after;
    op->priority = header->priority;
    op->want_value = in->want_values;
    op->whole = in->frame->whole;
    op->value_codec = kvs_encoded_codec(key, in->frame->value_codec);
    op->payload = in->payload;
    op->codec = header->codec;
    op->threshold = header->threshold;
    op->frame = in->frame;
    op->charge = header->payload_bytes;
    session->credit_used += op->charge;
    atomic_fetch_add_explicit(&in->frame->pending, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&session->inflight_parts, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&session->parts_pushed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&session->bytes_pushed, op->charge, memory_order_relaxed);
    *entry = (kvs_entry){.op = op, .state = KVS_ENTRY_DOOR};
    if (kvs_session_defers(session, op)) {
        KVS_CHECK(!op->whole);
        kvs_op_append(&session->deferred, op);
        return;
    }
    kvs_session_chain(session, op);
    if (kvs_window_open(&session->window, op->sequence)) {
        kvs_session_open_door(session, in->now_ns);
    }
}

static void push_part(const push *in)
{
    kvs_session *session = in->session;
    kvs_problem problem;
    kvs_entry *entry = NULL;
    if (atomic_load_explicit(&session->ended, memory_order_acquire)) {
        (void)kvs_problem_set(&problem, KVS_FENCED, "the session's lease is over");
        refuse(in, &problem);
        return;
    }
    if (in->header->sequence == 0) {
        (void)kvs_problem_set(&problem, KVS_INVALID_FIELD, "a pushed part needs a sequence");
        refuse(in, &problem);
        return;
    }
    switch (kvs_window_find(&session->window, in->header->sequence, &entry)) {
    case KVS_PLACE_BEYOND:
        (void)kvs_problem_set(&problem, KVS_SEQ_GAP,
                              "expected a sequence below %" PRIu64
                              "; the lowest that is open is %" PRIu64,
                              session->window.low + session->window.size, session->window.low);
        refuse(in, &problem);
        return;
    case KVS_PLACE_OLD:
        repeat(in, NULL);
        return;
    case KVS_PLACE_IN:
        break;
    }
    if (entry->state != KVS_ENTRY_NEW) {
        repeat(in, entry);
        return;
    }
    uint64_t next = in->header->sequence + 1;
    if (atomic_load_explicit(&session->next_sequence, memory_order_relaxed) < next) {
        atomic_store_explicit(&session->next_sequence, next, memory_order_relaxed);
    }
    accept(in, entry);
}

/* A header that stands for parts without rows: as if each had its own. */
static void push_run(const push *in, const kvs_part_header *run)
{
    kvs_store *store = in->session->store;
    const kvs_key *key = kvs_key_table_find(&store->keys, run->key, run->key_bytes);
    kvs_part_header one = *run;
    push part = *in;
    bool bare = run->storage == KVS_ROW_SPARSE && run->payload_bytes == 0 &&
                run->row_ids_bytes == 0 && run->codec == KVS_CODEC_NONE;
    part.header = &one;
    one.empty_parts = bare ? 0 : run->empty_parts; /* else each is refused */
    for (uint64_t i = 0; i < run->empty_parts; i++) {
        push_part(&part);
        one.sequence++;
        one.payload_bytes = 0;
        one.element_offset += key != NULL ? key->part_elements : one.element_count;
        if (key != NULL && one.element_offset < key->elements) {
            uint64_t left = key->elements - one.element_offset;
            one.element_count = left < key->part_elements ? left : key->part_elements;
        }
    }
}

/* A part of a frame that is whole was refused: the others, which no shard has seen, are as well. */
static void refuse_others(kvs_session *session, kvs_status refused, uint64_t now_ns)
{
    kvs_task_list list = session->chains[0];
    session->chains[0] = (kvs_task_list){NULL, NULL};
    for (kvs_task *next, *task = list.first; task != NULL; task = next) {
        kvs_op *op = (kvs_op *)task;
        next = task->next;
        op->status = refused;
        kvs_session_give_credit(session, op->charge, now_ns);
        op->charge = 0;
        kvs_session_use_frame(op->frame, now_ns);
        op->frame = NULL;
        kvs_session_take_answer(task, now_ns);
    }
}

static void run_consumed(kvs_task *task, uint64_t now_ns)
{
    kvs_frame *frame = (kvs_frame *)task;
    frame->consumed(frame, now_ns);
}

void kvs_session_push(kvs_session *session, kvs_channel *channel, kvs_frame *frame,
                      const kvs_part_header *headers, size_t count, const kvs_payload *payload,
                      bool want_values, uint64_t now_ns)
{
    kvs_status refused = KVS_OK;
    push in = {.session = session,
               .channel = channel,
               .frame = frame,
               .want_values = want_values,
               .now_ns = now_ns,
               .refused = &refused};
    KVS_CHECK(!frame->whole ||
              (session->store->kind == KVS_LOCAL && session->store->shard_count == 1));
    uint64_t size = atomic_load_explicit(&session->store->inflight_parts, memory_order_relaxed);
    if (size > session->window.size) {
        (void)!kvs_window_grow(&session->window, size); /* else the old bound stays */
    }
    if (session->push_channel != channel) {
        channel->table->take(channel);
        if (session->push_channel != NULL) {
            session->push_channel->table->unref(session->push_channel);
        }
        session->push_channel = channel;
    }
    (void)!kvs_session_heartbeat(session, now_ns);
    frame->session = session;
    frame->task.run = run_consumed;
    atomic_store_explicit(&frame->pending, 1, memory_order_relaxed); /* ours, until the end */
    size_t offset = 0;
    for (size_t i = 0; i < count; i++) {
        in.header = &headers[i];
        in.payload = kvs_payload_slice(payload, offset, headers[i].payload_bytes);
        offset += headers[i].payload_bytes;
        if (headers[i].empty_parts > 0) {
            push_run(&in, &headers[i]);
        } else {
            push_part(&in);
        }
    }
    if (frame->whole && refused != KVS_OK) {
        refuse_others(session, refused, now_ns);
    }
    kvs_session_send_chains(session, now_ns);
    kvs_session_use_frame(frame, now_ns);
}
