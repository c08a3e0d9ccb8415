#include "engine/batch.h"

#include "engine/key.h"
#include "engine/norms.h"

#include <string.h>

kvs_status kvs_batch_init(kvs_batch *batch, kvs_backend *backend)
{
    batch->backend = backend;
    batch->number = 1;
    return backend->table->open_stream(backend, &batch->stream);
}

void kvs_batch_deinit(kvs_batch *batch)
{
    if (batch->stream != NULL) {
        batch->backend->table->close_stream(batch->backend, batch->stream);
    }
}

static void note(kvs_batch *batch, kvs_status status)
{
    if (batch->failed == KVS_OK) {
        batch->failed = status;
    }
}

static void launch_items(kvs_batch *batch)
{
    const kvs_backend_table *table = batch->backend->table;
    kvs_stream *stream = batch->stream;
    if (batch->zeros > 0 && batch->failed == KVS_OK) {
        note(batch, table->zero(stream, batch->zero, batch->zeros));
    }
    if (batch->copies > 0 && batch->failed == KVS_OK) {
        note(batch, table->copy(stream, batch->copy, batch->copies));
    }
    if (batch->accumulates > 0 && batch->failed == KVS_OK) {
        note(batch, table->accumulate(stream, batch->accumulate, batch->accumulates));
    }
    if (batch->measures > 0 && batch->failed == KVS_OK) {
        note(batch, table->measure(stream, batch->measure, batch->measures));
    }
    if (batch->applies > 0 && batch->failed == KVS_OK) {
        note(batch, table->apply(stream, batch->apply, batch->applies));
    }
    if (batch->encodes > 0 && batch->failed == KVS_OK) {
        note(batch, table->encode(stream, batch->encode, batch->encodes));
    }
    if (batch->downloads > 0 && batch->failed == KVS_OK) {
        note(batch, table->download(stream, batch->download, batch->downloads));
    }
    batch->zeros = batch->copies = batch->accumulates = batch->measures = 0;
    batch->applies = batch->encodes = batch->downloads = 0;
    batch->summing = NULL;
    batch->number++;
}

static uint32_t count_items(const kvs_batch *batch)
{
    return batch->zeros + batch->copies + batch->accumulates + batch->measures + batch->applies +
           batch->encodes + batch->downloads;
}

static void launch(kvs_batch *batch)
{
    uint32_t items = count_items(batch);
    uint64_t begun_ns = items > 0 ? kvs_profile_begin(batch->profile) : 0;
    launch_items(batch);
    kvs_profile_end(batch->profile, KVS_STAGE_BACKEND, begun_ns, KVS_PROFILE_NO_RANK, items, 0);
}

void kvs_batch_touch(kvs_batch *batch, kvs_part *part)
{
    if (part->batch == batch->number) {
        launch(batch);
    }
    part->batch = batch->number;
}

void kvs_batch_touch_sum(kvs_batch *batch, kvs_part *part)
{
    if (batch->summing != part) {
        kvs_batch_touch(batch, part);
    }
}

/* The next free place of one of the arrays, all of which have the same room; `part` (may be NULL)
 * is touched by what is put there. */
static uint32_t place(kvs_batch *batch, kvs_part *part, uint32_t *count)
{
    if (*count == KVS_BATCH_ITEMS) {
        launch(batch);
    }
    if (part != NULL) {
        part->batch = batch->number;
    }
    if (part == batch->summing || count == &batch->accumulates) {
        batch->summing = NULL;
    }
    return (*count)++;
}

void kvs_batch_zero(kvs_batch *batch, kvs_buffer *target)
{
    batch->zero[place(batch, NULL, &batch->zeros)] = &target->memory;
}

void kvs_batch_copy(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                    const kvs_payload *payload)
{
    kvs_copy_item *item = &batch->copy[place(batch, part, &batch->copies)];
    target->downloaded = false;
    *item = (kvs_copy_item){
        .target = &target->memory, .source.payload = *payload, .bytes = payload->bytes};
}

void kvs_batch_copy_buffer(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                           const kvs_buffer *from, size_t bytes)
{
    kvs_copy_item *item = &batch->copy[place(batch, part, &batch->copies)];
    target->downloaded = false;
    *item =
        (kvs_copy_item){.target = &target->memory, .source.memory = &from->memory, .bytes = bytes};
}

void kvs_batch_accumulate(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                          const kvs_source *source, const kvs_op *op, bool first)
{
    kvs_accumulate_item *item = &batch->accumulate[place(batch, part, &batch->accumulates)];
    target->downloaded = false;
    *item = (kvs_accumulate_item){.target = &target->memory,
                                  .source = *source,
                                  .elements = part->elements,
                                  .dtype = part->key->dtype,
                                  .codec = op == NULL ? KVS_CODEC_NONE : op->codec,
                                  .threshold = op == NULL ? 0 : op->threshold,
                                  .first = first};
    batch->summing = part;
}

void kvs_batch_widen(kvs_batch *batch, kvs_part *part)
{
    kvs_accumulate_item *item = &batch->accumulate[place(batch, part, &batch->accumulates)];
    bool brain = part->key->dtype == KVS_BF16;
    part->master->downloaded = false;
    *item = (kvs_accumulate_item){
        .target = &part->master->memory,
        .source = {.memory = &part->value->memory, .payload.bytes = kvs_part_bytes(part)},
        .elements = part->elements,
        .dtype = KVS_F32,
        .codec = brain ? KVS_CODEC_BF16 : KVS_CODEC_F16,
        .first = true};
}

void kvs_batch_apply(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                     const kvs_buffer *accumulator, const kvs_source *last)
{
    kvs_apply_item *item = &batch->apply[place(batch, part, &batch->applies)];
    memset(item, 0, sizeof *item);
    kvs_norms_scalars(part, part->updates, &item->scalars);
    item->scalars.seed ^= part->key->hash;
    item->scalars.element = part->index * part->key->part_elements;
    item->weight = &part->value->memory;
    item->target = &target->memory;
    for (int i = 0; i < KVS_RULE_STATES_MAX; i++) {
        item->state[i] = part->states[i] == NULL ? NULL : &part->states[i]->memory;
        if (part->states[i] != NULL) {
            part->states[i]->downloaded = false;
        }
    }
    item->master = part->master == NULL ? NULL : &part->master->memory;
    if (part->master != NULL) {
        part->master->downloaded = false;
    }
    item->accumulator = accumulator == NULL ? NULL : &accumulator->memory;
    if (last != NULL) {
        item->last = *last;
    }
    const kvs_norms_part *norms = kvs_norms_of(part);
    if (norms != NULL && kvs_rule_row_states(item->scalars.rule) > 0) {
        item->edges = (kvs_row_edges){
            .row_elements = kvs_key_row_elements(part->key),
            .begun = kvs_key_rows_of(part->key, part->index).begun,
            .squares = {norms->sums[0], norms->sums[1]},
        };
    }
    item->elements = part->elements;
    item->dtype = part->key->dtype;
    target->downloaded = false;
}

void kvs_batch_measure(kvs_batch *batch, kvs_part *part, kvs_measure measure, uint64_t first,
                       uint64_t elements, double *sums)
{
    kvs_measure_item *item = &batch->measure[place(batch, part, &batch->measures)];
    memset(item, 0, sizeof *item);
    kvs_norms_scalars(part, part->updates + 1, &item->scalars);
    item->measure = measure;
    item->weight = &part->value->memory;
    for (int i = 0; i < KVS_RULE_STATES_MAX; i++) {
        item->state[i] = part->states[i] == NULL ? NULL : &part->states[i]->memory;
    }
    item->master = part->master == NULL ? NULL : &part->master->memory;
    item->accumulator = part->accumulator == NULL ? NULL : &part->accumulator->memory;
    item->sums = sums;
    item->first = first;
    item->elements = elements;
    item->dtype = part->key->dtype;
}

static kvs_rows rows_of(const kvs_part *part, const uint32_t *list, uint32_t count)
{
    return (kvs_rows){.list = list, .count = count, .elements = (uint32_t)part->key->row_elements};
}

void kvs_batch_copy_rows(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                         const kvs_buffer *source, const uint32_t *list, uint32_t count)
{
    kvs_copy_item *item = &batch->copy[place(batch, part, &batch->copies)];
    target->downloaded = false;
    *item = (kvs_copy_item){.target = &target->memory,
                            .source.memory = &source->memory,
                            .bytes = count * kvs_part_row_bytes(part),
                            .rows = rows_of(part, list, count)};
}

void kvs_batch_accumulate_rows(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                               const kvs_source *source, const uint32_t *list, uint32_t count)
{
    kvs_accumulate_item *item = &batch->accumulate[place(batch, part, &batch->accumulates)];
    target->downloaded = false;
    *item = (kvs_accumulate_item){.target = &target->memory,
                                  .source = *source,
                                  .elements = count * part->key->row_elements,
                                  .dtype = part->key->dtype,
                                  .codec = KVS_CODEC_NONE,
                                  .rows = rows_of(part, list, count)};
}

void kvs_batch_apply_rows(kvs_batch *batch, kvs_part *part, const kvs_buffer *accumulator,
                          const uint32_t *list, uint32_t count)
{
    kvs_batch_apply(batch, part, part->value, accumulator, NULL);
    kvs_apply_item *item = &batch->apply[batch->applies - 1];
    item->elements = count * part->key->row_elements;
    item->rows = rows_of(part, list, count);
}

void kvs_batch_encode(kvs_batch *batch, kvs_part *part, kvs_buffer *target, kvs_buffer *source,
                      const kvs_encode_item *how)
{
    kvs_encode_item *item = &batch->encode[place(batch, part, &batch->encodes)];
    target->downloaded = false;
    *item = *how;
    item->target = &target->memory;
    item->source = &source->memory;
    kvs_batch_release(batch, kvs_buffer_take(source));
}

kvs_status kvs_batch_download(kvs_batch *batch, kvs_buffer *buffer)
{
    if (!buffer->downloaded) {
        KVS_TRY(batch->backend->table->alloc_host(batch->backend, &buffer->memory));
        batch->download[place(batch, NULL, &batch->downloads)] = &buffer->memory;
        buffer->downloaded = true;
    }
    return KVS_OK;
}

kvs_status kvs_batch_sync(kvs_batch *batch)
{
    uint32_t items = count_items(batch);
    uint64_t begun_ns = items > 0 ? kvs_profile_begin(batch->profile) : 0;
    launch_items(batch);
    if (batch->failed == KVS_OK) {
        note(batch, batch->backend->table->sync(batch->stream));
    }
    kvs_profile_end(batch->profile, KVS_STAGE_BACKEND, begun_ns, KVS_PROFILE_NO_RANK, items, 0);
    for (uint32_t i = 0; i < batch->releases; i++) {
        kvs_buffer_unref(batch->release[i]);
    }
    batch->releases = 0;
    return batch->failed;
}

void kvs_batch_release(kvs_batch *batch, kvs_buffer *buffer)
{
    if (buffer == NULL) {
        return;
    }
    if (batch->releases == KVS_BATCH_ITEMS) {
        (void)!kvs_batch_sync(batch); /* a failure stays in the batch */
    }
    batch->release[batch->releases++] = buffer;
}
