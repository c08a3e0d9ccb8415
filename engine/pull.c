/* Pulls: a key is asked for part by part, no further ahead of its reader than a bound. */
#include "base/check.h"
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

static void end_key(kvs_session *session, kvs_op *parent, kvs_status status, uint64_t now_ns)
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
    end_key(session, parent, status, now_ns);
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

/* Gives the op the rows of its parent's next part that has any. */
static kvs_status take_rows(kvs_op *op, const kvs_op *parent)
{
    uint64_t rows = parent->key->part_elements / parent->key->row_elements;
    const uint64_t *ids = parent->row_ids + parent->row_ids_asked;
    uint64_t left = parent->row_id_count - parent->row_ids_asked;
    uint64_t part = ids[0] / rows;
    uint32_t count = 1;
    while (count < left && ids[count] / rows == part) {
        count++;
    }
    op->rows = malloc(count * sizeof *op->rows);
    if (op->rows == NULL) {
        return KVS_NO_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        op->rows[i] = (uint32_t)(ids[i] - part * rows);
    }
    op->part = &parent->key->parts[part];
    op->of_rows = true;
    op->row_count = count;
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
    *status = parent->of_rows ? take_rows(op, parent) : KVS_OK;
    if (*status != KVS_OK) {
        kvs_session_free_op(session, op);
        return NULL;
    }
    uint64_t cost = cost_of(op);
    if (channel->ahead_bytes > 0 && channel->ahead_bytes + cost > KVS_PULL_BYTES_AHEAD) {
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

/* A snapshot on its way to its reader. */
typedef struct snapshot_pull {
    kvs_waiter waiter;
    kvs_task task;
    kvs_session *session; /* a reference */
    kvs_op *parent;
    kvs_snapshot snapshot;
    kvs_problem problem;
} snapshot_pull;

static void run_snapshot(kvs_task *task, uint64_t now_ns)
{
    snapshot_pull *pull = (snapshot_pull *)((char *)task - offsetof(snapshot_pull, task));
    kvs_session *session = pull->session;
    kvs_op *parent = pull->parent;
    if (pull->problem.status == KVS_OK) {
        for (size_t i = 0; i < pull->snapshot.parts; i++) {
            parent->part = &parent->key->parts[i];
            parent->value = kvs_buffer_take(pull->snapshot.buffers[i]);
            parent->version = pull->snapshot.info.version.count;
            kvs_session_give_value(session, parent);
        }
        kvs_snapshot_deinit(&pull->snapshot);
    } else {
        kvs_session_refuse(session, parent->channel, parent->sequence, parent->key->name,
                           parent->key->name_bytes, &pull->problem);
    }
    end_key(session, parent, pull->problem.status, now_ns);
    kvs_session_send_chains(session, now_ns);
    free(pull);
    kvs_session_unref(session);
}

static void snapshot_done(kvs_waiter *waiter, const kvs_problem *problem)
{
    snapshot_pull *pull = (snapshot_pull *)waiter;
    kvs_session *session = kvs_session_take(pull->session);
    pull->problem = *problem;
    kvs_session_post(session, &pull->task, waiter->done_ns);
    kvs_session_unref(session);
}

static void start_snapshot(kvs_session *session, kvs_op *parent, uint64_t now_ns)
{
    snapshot_pull *pull = calloc(1, sizeof *pull);
    if (pull == NULL) {
        parent->status = KVS_NO_MEMORY;
        kvs_pull_drop(session, parent, now_ns);
        return;
    }
    pull->waiter.done = snapshot_done;
    pull->task.run = run_snapshot;
    pull->session = kvs_session_take(session);
    pull->parent = parent;
    if (parent->sequence != 0 && !parent->duplicate &&
        kvs_window_open(&session->window, parent->sequence)) {
        kvs_session_open_door(session, now_ns);
    }
    kvs_store_read(session->store, parent->key->name, parent->key->name_bytes, &pull->snapshot,
                   &pull->waiter, now_ns);
}

void kvs_pull_start(kvs_session *session, kvs_op *parent, uint64_t now_ns)
{
    kvs_channel *channel = parent->channel;
    if (channel->closed) {
        end_key(session, parent, KVS_CANCELLED, now_ns);
        return;
    }
    if (parent->snapshot) {
        start_snapshot(session, parent, now_ns);
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
        kvs_session_give_value(session, op);
        kvs_session_ack(session, channel, op->sequence, true);
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
        end_key(session, parent, parent->status, now_ns);
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

static int compare_ids(const void *a, const void *b)
{
    uint64_t first = *(const uint64_t *)a;
    uint64_t second = *(const uint64_t *)b;
    return first < second ? -1 : first > second ? 1 : 0;
}

/* Reads the ids to `ids`, ascending and each once; how many, or UINT64_MAX: one is out of bounds.
 */
static uint64_t read_ids(const kvs_pull_key *in, uint64_t rows, uint64_t *ids)
{
    uint64_t count = 0;
    bool ascending = true;
    for (uint32_t at = 0; at < in->row_ids_bytes; count++) {
        if (!kvs_varint_next(in->row_ids, in->row_ids_bytes, &at, &ids[count]) ||
            ids[count] >= rows) {
            return UINT64_MAX;
        }
        ascending = ascending && (count == 0 || ids[count] > ids[count - 1]);
    }
    if (ascending) {
        return count;
    }
    qsort(ids, count, sizeof *ids, compare_ids);
    uint64_t kept = 1;
    for (uint64_t i = 1; i < count; i++) {
        if (ids[i] != ids[kept - 1]) {
            ids[kept++] = ids[i];
        }
    }
    return kept;
}

/* What of the key is wanted: all parts, or rows. */
static kvs_status take_ids(kvs_session *session, kvs_op *op, const kvs_pull_key *in,
                           kvs_problem *problem)
{
    kvs_key *key = op->key;
    op->parts_wanted = key->part_count;
    if (in->row_ids_bytes == 0) {
        return KVS_OK;
    }
    if (key->storage != KVS_ROW_SPARSE) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "\"%s\" is dense: it is not pulled by rows", key->name);
    }
    if (in->snapshot) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "a snapshot of rows is not built yet");
    }
    op->row_ids = malloc(in->row_ids_bytes * sizeof *op->row_ids);
    if (op->row_ids == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the row ids");
    }
    uint64_t rows = key->elements / key->row_elements;
    uint64_t part_rows = key->part_elements / key->row_elements;
    uint64_t count = read_ids(in, rows, op->row_ids);
    if (count == UINT64_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "a row id is not below %" PRIu64 ", the rows of \"%s\"", rows,
                               key->name);
    }
    if (session->row_ids > 0 && session->row_ids + count > KVS_SESSION_ROW_IDS_MAX) {
        return kvs_problem_set(problem, KVS_TOO_MANY, "%" PRIu64 " row ids are waiting",
                               session->row_ids);
    }
    uint64_t *less = realloc(op->row_ids, count * sizeof *less);
    op->row_ids = less != NULL ? less : op->row_ids;
    op->row_id_count = count;
    session->row_ids += count;
    op->of_rows = true;
    op->parts_wanted = 0;
    for (uint64_t i = 0; i < op->row_id_count; i++) {
        if (i == 0 || op->row_ids[i] / part_rows != op->row_ids[i - 1] / part_rows) {
            op->parts_wanted++;
        }
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
            status = take_ids(session, op, in, &problem);
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
        end_key(session, op, KVS_CANCELLED, now_ns);
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
            end_key(session, parent, KVS_CANCELLED, now_ns);
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
