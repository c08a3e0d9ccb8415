/* Reads of a key at one version: a cut whose actions take references to the parts' values, or
 * copies of the rows that are wanted, and encode them if they are to be. */
#include "engine/cut.h"
#include "engine/encoded.h"
#include "engine/rows.h"

#include <stdlib.h>
#include <string.h>

void kvs_snapshot_deinit(kvs_snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->parts; i++) {
        kvs_buffer_unref(snapshot->buffers[i]);
    }
    free(snapshot->buffers);
    free((void *)snapshot->data);
    kvs_budget_free(snapshot->rows.rows);
    kvs_budget_free(snapshot->rows.starts);
    memset(snapshot, 0, sizeof *snapshot);
}

/* ------------------------------------------------------------------ at the version */

static uint32_t rows_of(const kvs_row_cut *rows, uint64_t part)
{
    return rows->starts == NULL ? 0 : (uint32_t)(rows->starts[part + 1] - rows->starts[part]);
}

void kvs_read_act(kvs_cut *cut, kvs_part *part, kvs_shard *shard)
{
    uint64_t index = part->index;
    kvs_status status = KVS_OK;
    if (cut->rows.starts != NULL) {
        kvs_rows_wish wish = {.list = cut->rows.rows + cut->rows.starts[index],
                              .count = rows_of(&cut->rows, index),
                              .codec = cut->codec};
        if (wish.count > 0) {
            status = kvs_rows_gather(shard, part, &wish, &cut->buffers[index]);
        }
    } else if (cut->codec != KVS_CODEC_NONE) {
        status = kvs_encoded_take(shard, part, cut->codec, &cut->buffers[index]);
    } else {
        cut->buffers[index] = kvs_buffer_take(part->value);
        status = kvs_batch_download(&shard->batch, part->value);
    }
    kvs_cut_note(cut, status);
}

/* ------------------------------------------------------------------ the end */

void kvs_read_fill(kvs_cut *cut)
{
    kvs_snapshot *out = cut->snapshot;
    kvs_key_fill_info(cut->store, cut->key, &out->info);
    out->info.version.count = atomic_load_explicit(&cut->versions[0], memory_order_relaxed);
    out->parts = cut->key->part_count;
    for (size_t i = 0; i < out->parts; i++) {
        out->buffers[i] = cut->buffers[i];
        out->data[i] = cut->buffers[i] == NULL ? NULL : cut->buffers[i]->memory.host;
    }
    out->rows = cut->rows;
    cut->rows = (kvs_row_cut){NULL, NULL};
    free(cut->buffers);
    cut->buffers = NULL;
}

void kvs_read_drop(kvs_cut *cut)
{
    free(cut->snapshot->buffers);
    free((void *)cut->snapshot->data);
    memset(cut->snapshot, 0, sizeof *cut->snapshot);
}

void kvs_read_deinit(kvs_cut *cut)
{
    kvs_budget_free(cut->rows.rows);
    kvs_budget_free(cut->rows.starts);
}

/* ------------------------------------------------------------------ making one */

/* Cuts the ids by the parts of the key. */
static kvs_status cut_rows(kvs_budget *budget, const kvs_key *key, const kvs_read_wish *wish,
                           kvs_row_cut *out)
{
    uint64_t part_rows = key->part_elements / key->row_elements;
    uint64_t at = 0;
    void *memory = NULL;
    KVS_TRY(kvs_budget_alloc(budget, wish->row_id_count * sizeof *out->rows, &memory));
    out->rows = memory;
    KVS_TRY(kvs_budget_alloc(budget, (key->part_count + 1) * sizeof *out->starts, &memory));
    out->starts = memory;
    for (uint64_t part = 0; part < key->part_count; part++) {
        uint64_t first = part * part_rows;
        out->starts[part] = at;
        for (; at < wish->row_id_count && wish->row_ids[at] - first < part_rows; at++) {
            out->rows[at] = (uint32_t)(wish->row_ids[at] - first);
        }
    }
    out->starts[key->part_count] = at;
    return KVS_OK;
}

static kvs_status make_room(kvs_cut *cut, const kvs_read_wish *wish, kvs_snapshot *out)
{
    uint64_t parts = cut->key->part_count;
    cut->snapshot = out;
    cut->codec = wish->codec;
    cut->buffers = calloc(parts, sizeof *cut->buffers);
    out->buffers = calloc(parts, sizeof *out->buffers);
    out->data = calloc(parts, sizeof *out->data);
    if (cut->buffers == NULL || out->buffers == NULL || out->data == NULL) {
        return KVS_NO_MEMORY;
    }
    return wish->row_ids == NULL
               ? KVS_OK
               : cut_rows(&cut->store->engine->budget, cut->key, wish, &cut->rows);
}

void kvs_key_read(kvs_store *store, kvs_key *key, const kvs_read_wish *wish, kvs_snapshot *out,
                  kvs_waiter *waiter, uint64_t now_ns)
{
    memset(out, 0, sizeof *out);
    kvs_cut *cut = kvs_cut_make(store, CUT_READ, key, 1, waiter, now_ns);
    kvs_status status = cut == NULL ? KVS_NO_MEMORY : make_room(cut, wish, out);
    if (status != KVS_OK) {
        kvs_snapshot_deinit(out);
        if (cut != NULL) {
            kvs_cut_free(cut);
        }
        kvs_waiter_finish(waiter, now_ns, status, "%s", "");
        return;
    }
    (void)!kvs_cut_submit(cut, now_ns); /* a read is always taken */
}

void kvs_store_read(kvs_store *store, const char *key, size_t key_bytes, kvs_snapshot *out,
                    kvs_waiter *waiter, uint64_t now_ns)
{
    static const kvs_read_wish all = {.row_ids = NULL};
    memset(out, 0, sizeof *out);
    kvs_key *found = kvs_cut_find(store, key, key_bytes, waiter, now_ns);
    if (found != NULL) {
        kvs_key_read(store, found, &all, out, waiter, now_ns);
    }
}
