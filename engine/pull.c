/* Pulls: a key is asked for part by part, no further ahead of its reader than a bound. */
#include "base/check.h"
#include "engine/codec.h"
#include "engine/encoded.h"
#include "engine/rows.h"
#include "engine/session.h"
#include "engine/store.h"

#include <inttypes.h>
#include <stdlib.h>

/* A part costs at least this much of what may be ahead, so that tiny parts are bounded too. */
#define PART_BYTES_MIN 256u

static uint64_t cost_of(const kvs_op *op)
{
    uint64_t bytes = kvs_op_value_bytes(op);
    return bytes < PART_BYTES_MIN ? PART_BYTES_MIN : bytes;
}

/* ------------------------------------------------------------------ the end of a key */

void kvs_pull_end(kvs_session *session, kvs_op *parent, kvs_status status, uint64_t now_ns)
{
    uint64_t through = session->window.through;
    if (parent->sequence != 0 && !parent->duplicate) {
        kvs_window_end(&session->window, parent->sequence, status);
    }
    if (status == KVS_OK && parent->sequence != 0) {
        kvs_session_ack(session, parent->channel, parent->sequence, parent->duplicate);
    }
    kvs_session_free_op(session, parent);
    if (session->window.through != through || session->snapshots_deferred > 0) {
        kvs_session_open_door(session, now_ns);
    }
}

static void refuse_key(kvs_session *session, kvs_op *parent, kvs_status status)
{
    kvs_problem problem;
    (void)kvs_problem_set(&problem, status, "%s", "");
    kvs_session_refuse(session, parent->channel, parent->sequence, parent->key->name,
                       parent->key->name_bytes, &problem);
}

void kvs_pull_drop(kvs_session *session, kvs_op *parent, uint64_t now_ns)
{
    kvs_status status = parent->status;
    refuse_key(session, parent, status);
    kvs_pull_end(session, parent, status, now_ns);
}

/* ------------------------------------------------------------------ asking */

/* Takes the first key out of the channel's queue: all of its parts are with their shards. */
static void dequeue(kvs_session *session, kvs_channel *channel, uint64_t now_ns)
{
    kvs_op *parent = channel->pulls_first;
    channel->pulls_first = parent->next;
    if (channel->pulls_first == NULL) {
        channel->pulls_last = NULL;
    }
    parent->next = NULL;
    if (parent->sequence != 0 && !parent->duplicate &&
        kvs_window_open(&session->window, parent->sequence)) {
        kvs_session_open_door(session, now_ns);
    }
}

/* Says which rows the op asks for: those of its parent's next part that has any. */
static void choose_rows(kvs_op *op, const kvs_op *parent)
{
    uint64_t rows = parent->key->part_elements / parent->key->row_elements;
    const uint64_t *ids = parent->row_ids + parent->row_ids_asked;
    uint64_t left = parent->row_id_count - parent->row_ids_asked;
    uint64_t part = ids[0] / rows;
    uint32_t count = 1;
    while (count < left && ids[count] / rows == part) {
        count++;
    }
    op->part = &parent->key->parts[part];
    op->of_rows = true;
    op->row_count = count;
}

/* Lists them. */
static kvs_status take_rows(kvs_op *op, const kvs_op *parent)
{
    const kvs_part *part = op->part;
    uint64_t first = part->index * (parent->key->part_elements / parent->key->row_elements);
    const uint64_t *ids = parent->row_ids + parent->row_ids_asked;
    void *list = NULL;
    KVS_TRY(kvs_pool_alloc(part->shard->pool, op->row_count * sizeof *op->rows, &list));
    op->rows = list;
    for (uint32_t i = 0; i < op->row_count; i++) {
        op->rows[i] = (uint32_t)(ids[i] - first);
    }
    return KVS_OK;
}

/* What is asked next for the key, or NULL: there is no room for it now, or *status. */
static kvs_op *make_next(kvs_session *session, kvs_channel *channel, const kvs_op *parent,
                         kvs_status *status)
{
    kvs_op *op = kvs_session_make_op(session, channel, KVS_OP_PULL);
    if (op == NULL) {
        return NULL; /* goes on when another op comes back */
    }
    op->parent = channel->pulls_first;
    op->key = parent->key;
    op->part = &parent->key->parts[parent->parts_asked];
    op->sequence = parent->sequence;
    op->after = parent->after;
    op->min_version = parent->min_version;
    op->value_codec = parent->value_codec;
    if (parent->of_rows) {
        choose_rows(op, parent);
    }
    uint64_t cost = cost_of(op);
    bool room = channel->ahead_bytes == 0 || channel->ahead_bytes + cost <= KVS_PULL_BYTES_AHEAD;
    *status = room && parent->of_rows ? take_rows(op, parent) : KVS_OK;
    if (!room || *status != KVS_OK) {
        kvs_session_free_op(session, op);
        return NULL;
    }
    channel->ahead_bytes += cost;
    return op;
}

/* Asks for no more of the first key, which is refused: perhaps no op is out to come back and have
 * it tried again. */
static void give_up(kvs_session *session, kvs_channel *channel, kvs_status status, uint64_t now_ns)
{
    kvs_op *parent = channel->pulls_first;
    parent->status = parent->status == KVS_OK ? status : parent->status;
    parent->parts_wanted = parent->parts_asked;
    dequeue(session, channel, now_ns);
    if (parent->parts_given == parent->parts_asked) {
        kvs_pull_drop(session, parent, now_ns);
    } /* else its last part ends it */
}

void kvs_pull_ask(kvs_session *session, kvs_channel *channel, uint64_t now_ns)
{
    while (channel->pulls_first != NULL) {
        kvs_op *parent = channel->pulls_first;
        kvs_status status = KVS_OK;
        kvs_op *op = make_next(session, channel, parent, &status);
        if (status != KVS_OK) {
            give_up(session, channel, status, now_ns);
            continue;
        }
        if (op == NULL) {
            return;
        }
        parent->parts_asked++;
        parent->row_ids_asked += op->row_count;
        kvs_session_chain(session, op);
        if (parent->parts_asked == parent->parts_wanted) {
            dequeue(session, channel, now_ns);
        }
    }
}

void kvs_pull_start(kvs_session *session, kvs_op *parent, uint64_t now_ns)
{
    kvs_channel *channel = parent->channel;
    if (channel->closed) {
        kvs_pull_end(session, parent, KVS_CANCELLED, now_ns);
        return;
    }
    if (parent->snapshot) {
        kvs_pull_start_snapshot(session, parent, now_ns);
        return;
    }
    kvs_op **at = &channel->pulls_first;
    while (*at != NULL && ((*at)->priority >= parent->priority || (*at)->parts_asked > 0)) {
        at = &(*at)->next;
    }
    parent->next = *at;
    *at = parent;
    if (parent->next == NULL) {
        channel->pulls_last = parent;
    }
    kvs_pull_ask(session, channel, now_ns);
}

/* ------------------------------------------------------------------ answers */

void kvs_pull_take_answer(kvs_session *session, kvs_op *op, uint64_t now_ns)
{
    kvs_op *parent = op->parent;
    kvs_channel *channel = op->channel;
    if (parent == NULL) { /* the value of a repeated push */
        if (op->status == KVS_OK) {
            kvs_session_give_value(session, op);
            kvs_session_ack(session, channel, op->sequence, true);
        } else { /* an ack without the value would pass for both */
            kvs_problem problem;
            kvs_op_explain(op, &problem);
            kvs_session_refuse(session, channel, op->sequence, op->key->name, op->key->name_bytes,
                               &problem);
        }
        kvs_buffer_unref(op->value);
        op->value = NULL;
        kvs_session_free_op(session, op);
        return;
    }
    if (op->status != KVS_OK) {
        kvs_buffer_unref(op->value);
        op->value = NULL;
        parent->status = parent->status == KVS_OK ? op->status : parent->status;
    }
    channel->ahead_bytes -= cost_of(op); /* what is given counts by its bytes */
    if (parent->status == KVS_OK) {
        kvs_session_give_value(session, op);
    } else {
        kvs_buffer_unref(op->value);
        op->value = NULL;
    }
    parent->parts_given++;
    bool all_asked = parent->parts_asked == parent->parts_wanted || channel->closed;
    if (all_asked && parent->parts_given == parent->parts_asked) {
        if (parent->status != KVS_OK) { /* not before: until now its place in the window is taken */
            refuse_key(session, parent, parent->status);
        }
        kvs_pull_end(session, parent, parent->status, now_ns);
    }
    channel->table->take(channel); /* the op's may be the last */
    kvs_session_free_op(session,
                        op); /* before more is asked for: it may be the last that is free */
    if (!channel->closed) {
        kvs_pull_ask(session, channel, now_ns);
    }
    channel->table->unref(channel);
    kvs_session_send_chains(session, now_ns);
}

void kvs_session_sent(kvs_session *session, kvs_channel *channel, uint64_t bytes, uint64_t now_ns)
{
    (void)!kvs_session_heartbeat(session, now_ns);
    channel->ahead_bytes -= bytes < channel->ahead_bytes ? bytes : channel->ahead_bytes;
    kvs_pull_ask(session, channel, now_ns);
    kvs_session_send_chains(session, now_ns);
}

/* ------------------------------------------------------------------ requests */

static kvs_status judge(kvs_session *session, const kvs_pull_key *in, kvs_key **key,
                        kvs_problem *problem)
{
    if (atomic_load_explicit(&session->ended, memory_order_acquire)) {
        return kvs_problem_set(problem, KVS_FENCED, "the session's lease is over");
    }
    *key = in->key_bytes > KVS_KEY_BYTES_MAX
               ? NULL
               : kvs_key_table_find(&session->store->keys, in->key, in->key_bytes);
    if (*key == NULL) {
        return kvs_problem_set(problem, KVS_KEY_NOT_FOUND, "the store has no key \"%.*s\"",
                               (int)(in->key_bytes < 200 ? in->key_bytes : 200), in->key);
    }
    if (in->sequence != 0 && in->after >= in->sequence) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "after %" PRIu64 " does not come before sequence %" PRIu64,
                               in->after, in->sequence);
    }
    if (in->codec != KVS_CODEC_NONE && !kvs_codec_of_values(in->codec)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "codec %d is none of values: ask for f16, bf16 or int8",
                               (int)in->codec);
    }
    uint64_t epoch = session->store->engine->epoch;
    if (in->min_version.count > 0 && in->min_version.epoch > epoch) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "min_version is of epoch %" PRIu64 ", the server's is %" PRIu64,
                               in->min_version.epoch, epoch);
    }
    if (in->snapshot && in->min_version.epoch == epoch &&
        in->min_version.count > kvs_key_version(*key)) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED,
                               "a snapshot of a version that has not come is not built yet");
    }
    return KVS_OK;
}

static void pull_key(kvs_session *session, kvs_channel *channel, const kvs_pull_key *in,
                     uint64_t now_ns)
{
    kvs_problem problem;
    kvs_key *key = NULL;
    kvs_entry *entry = NULL;
    bool again = false;
    if (in->sequence != 0) {
        kvs_place place = kvs_window_find(&session->window, in->sequence, &entry);
        if (place == KVS_PLACE_BEYOND) {
            (void)kvs_problem_set(&problem, KVS_SEQ_GAP, "expected a sequence below %" PRIu64,
                                  session->window.low + session->window.size);
            kvs_session_refuse(session, channel, in->sequence, in->key, in->key_bytes, &problem);
            return;
        }
        again = place == KVS_PLACE_OLD || entry->state != KVS_ENTRY_NEW;
    }
    kvs_status status = judge(session, in, &key, &problem);
    kvs_op *op = NULL;
    if (status == KVS_OK) {
        op = kvs_session_make_op(session, channel, KVS_OP_KEY);
        if (op == NULL) {
            status = kvs_problem_set(&problem, KVS_TOO_MANY, "too many pulls are waiting");
        } else {
            op->key = key;
            status = kvs_pull_take_ids(session, op, in, &problem);
        }
    }
    if (status != KVS_OK) {
        if (in->sequence != 0 && !again && status != KVS_FENCED && status != KVS_TOO_MANY) {
            kvs_window_end(&session->window, in->sequence, status);
        }
        kvs_session_refuse(session, channel, in->sequence, in->key, in->key_bytes, &problem);
        if (op != NULL) {
            kvs_session_free_op(session, op);
        }
        return;
    }
    op->sequence = in->sequence;
    op->after = in->after;
    op->priority = in->priority;
    op->min_version = in->min_version;
    if (in->min_version.epoch < session->store->engine->epoch) {
        op->min_version.count = 0; /* of an earlier epoch: passed */
    }
    op->duplicate = again;
    op->snapshot = in->snapshot;
    op->value_codec = kvs_encoded_codec(key, in->codec);
    if (in->sequence != 0 && !again) {
        uint64_t next = in->sequence + 1;
        if (atomic_load_explicit(&session->next_sequence, memory_order_relaxed) < next) {
            atomic_store_explicit(&session->next_sequence, next, memory_order_relaxed);
        }
        *entry = (kvs_entry){.op = op, .state = KVS_ENTRY_DOOR};
    }
    if (kvs_session_defers(session, op)) {
        kvs_op_append(&session->deferred, op);
        session->snapshots_deferred += op->snapshot ? 1u : 0u;
    } else {
        kvs_pull_start(session, op, now_ns);
    }
}

void kvs_session_pull(kvs_session *session, kvs_channel *channel, const kvs_pull_key *keys,
                      size_t count, uint64_t now_ns)
{
    (void)!kvs_session_heartbeat(session, now_ns);
    uint64_t size = atomic_load_explicit(&session->store->inflight_parts, memory_order_relaxed);
    if (size > session->window.size) {
        (void)!kvs_window_grow(&session->window, size);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t through = session->window.through;
        pull_key(session, channel, &keys[i], now_ns);
        if (session->window.through != through) {
            kvs_session_open_door(session, now_ns);
        }
    }
    kvs_session_send_chains(session, now_ns);
}

/* What its pulls wait for at the door may never come. */
static void drop_deferred(kvs_session *session, kvs_channel *channel, uint64_t now_ns)
{
    kvs_op_list waiting = session->deferred;
    kvs_op_list dropped = {NULL, NULL};
    session->deferred = (kvs_op_list){NULL, NULL};
    for (kvs_op *op; (op = kvs_op_shift(&waiting)) != NULL;) {
        bool drop = op->kind == KVS_OP_KEY && op->channel == channel;
        session->snapshots_deferred -= drop && op->snapshot ? 1u : 0u;
        kvs_op_append(drop ? &dropped : &session->deferred, op);
    }
    for (kvs_op *op; (op = kvs_op_shift(&dropped)) != NULL;) {
        kvs_pull_end(session, op, KVS_CANCELLED, now_ns);
    }
}

void kvs_session_close_channel(kvs_session *session, kvs_channel *channel, uint64_t now_ns)
{
    if (channel->closed) {
        return;
    }
    channel->closed = true;
    while (channel->pulls_first != NULL) {
        kvs_op *parent = channel->pulls_first;
        channel->pulls_first = parent->next;
        parent->next = NULL;
        if (parent->parts_given == parent->parts_asked) {
            kvs_pull_end(session, parent, KVS_CANCELLED, now_ns);
        } /* else its last part ends it */
    }
    channel->pulls_last = NULL;
    drop_deferred(session, channel, now_ns);
    if (session->push_channel == channel) {
        session->push_channel = NULL;
        channel->table->unref(channel);
    }
    kvs_session_send_chains(session, now_ns);
}
