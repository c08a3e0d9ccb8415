/* Pulls of one version of all parts: what a cut has captured goes to the reader at once. */
#include "engine/cut.h"
#include "engine/session.h"

#include <stdlib.h>

/* A snapshot on its way to its reader. */
typedef struct snapshot_pull {
    kvs_waiter waiter;
    kvs_task task;
    kvs_session *session; /* a reference */
    kvs_op *parent;
    kvs_snapshot snapshot;
    kvs_problem problem;
} snapshot_pull;

/* Gives what has been captured, as answers to the parent. */
static void give_parts(kvs_session *session, kvs_op *parent, const kvs_snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->parts; i++) {
        if (snapshot->buffers[i] == NULL) {
            continue; /* no row of this part was asked for */
        }
        parent->part = &parent->key->parts[i];
        parent->value = kvs_buffer_take(snapshot->buffers[i]);
        parent->version = snapshot->info.version.count;
        if (parent->of_rows) {
            const kvs_row_cut *rows = &snapshot->rows;
            parent->rows = rows->rows + rows->starts[i];
            parent->row_count = (uint32_t)(rows->starts[i + 1] - rows->starts[i]);
        }
        kvs_session_give_value(session, parent);
    }
    parent->rows = NULL; /* the snapshot's */
    parent->row_count = 0;
}

static void run_snapshot(kvs_task *task, uint64_t now_ns)
{
    snapshot_pull *pull = (snapshot_pull *)((char *)task - offsetof(snapshot_pull, task));
    kvs_session *session = pull->session;
    kvs_op *parent = pull->parent;
    if (pull->problem.status == KVS_OK) {
        give_parts(session, parent, &pull->snapshot);
        kvs_snapshot_deinit(&pull->snapshot);
    } else {
        kvs_session_refuse(session, parent->channel, parent->sequence, parent->key->name,
                           parent->key->name_bytes, &pull->problem);
    }
    kvs_pull_end(session, parent, pull->problem.status, now_ns);
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

void kvs_pull_start_snapshot(kvs_session *session, kvs_op *parent, uint64_t now_ns)
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
    kvs_read_wish wish = {.row_ids = parent->of_rows ? parent->row_ids : NULL,
                          .row_id_count = parent->row_id_count,
                          .codec = parent->value_codec};
    kvs_key_read(session->store, parent->key, &wish, &pull->snapshot, &pull->waiter, now_ns);
}
