/* What one turn of a shard has to compute: items gathered for the backend, launched together.
 *
 * Items of one launch touch different parts, but for the terms of a sum: a part that is touched
 * again launches first what is there. Order within a launch: zero, copy, accumulate, measure,
 * apply, encode. One sync a turn.
 *
 * Threads: the shard's holder.
 * Memory: borrows what the items name until sync; buffers given to release are let go of after it,
 *   since whoever takes one next may work on another stream.
 * Errors: the first failure of the device stays; everything after it does nothing.
 */
#ifndef KVS_ENGINE_BATCH_H
#define KVS_ENGINE_BATCH_H

#include "base/profile.h"
#include "engine/op.h"

#define KVS_BATCH_ITEMS 256u

typedef struct kvs_batch {
    kvs_backend *backend;
    kvs_stream *stream;
    kvs_profile *profile; /* borrowed; may be NULL */
    kvs_status failed;    /* KVS_OK, or the device's word for ever */
    uint64_t number;      /* part->batch == number: touched by what is not launched yet */
    kvs_part *summing;    /* the last item of accumulate is of its sum, and its last of all */
    uint32_t zeros, copies, accumulates, measures, applies, encodes, downloads, releases;
    kvs_memory *zero[KVS_BATCH_ITEMS];
    kvs_copy_item copy[KVS_BATCH_ITEMS];
    kvs_accumulate_item accumulate[KVS_BATCH_ITEMS];
    kvs_measure_item measure[KVS_BATCH_ITEMS];
    kvs_apply_item apply[KVS_BATCH_ITEMS];
    kvs_encode_item encode[KVS_BATCH_ITEMS];
    kvs_memory *download[KVS_BATCH_ITEMS];
    kvs_buffer *release[KVS_BATCH_ITEMS];
} kvs_batch;

kvs_status kvs_batch_init(kvs_batch *batch, kvs_backend *backend) KVS_MUST_CHECK;
void kvs_batch_deinit(kvs_batch *batch);

/* Before items for a part: launches if the part is in what is not launched. */
void kvs_batch_touch(kvs_batch *batch, kvs_part *part);

/* Before one more term of the part's sum, or a rule on it: terms that stand together are launched
 * together. */
void kvs_batch_touch_sum(kvs_batch *batch, kvs_part *part);

void kvs_batch_zero(kvs_batch *batch, kvs_buffer *target);
/* `part` is NULL when the target is no value of a part yet. */
void kvs_batch_copy(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                    const kvs_payload *payload);
/* What `from` holds, `bytes` of it. */
void kvs_batch_copy_buffer(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                           const kvs_buffer *from, size_t bytes);
/* `op` says how the source is encoded; NULL: not at all. */
void kvs_batch_accumulate(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                          const kvs_source *source, const kvs_op *op, bool first);
/* The master of a part of f16 or bf16 becomes its value, as f32. */
void kvs_batch_widen(kvs_batch *batch, kvs_part *part);
/* The part's rule, on value -> target (may be the same), from `accumulator` (may be NULL) and
 * `last` (may be NULL). part->updates is already that of this update. */
void kvs_batch_apply(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                     const kvs_buffer *accumulator, const kvs_source *last);
/* Of `elements` of the part's gradient, which is its accumulator, from `first` on, before its next
 * update. `sums` holds after the sync. */
void kvs_batch_measure(kvs_batch *batch, kvs_part *part, kvs_measure measure, uint64_t first,
                       uint64_t elements, double *sums);
/* The same of rows. The list is read when the batch is launched; whoever changes it before touches
 * the part first. */
void kvs_batch_copy_rows(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                         const kvs_buffer *source, const uint32_t *list, uint32_t count);
void kvs_batch_accumulate_rows(kvs_batch *batch, kvs_part *part, kvs_buffer *target,
                               const kvs_source *source, const uint32_t *list, uint32_t count);
/* On the part's value, in place. Without `accumulator` the gradient is zero. */
void kvs_batch_apply_rows(kvs_batch *batch, kvs_part *part, const kvs_buffer *accumulator,
                          const uint32_t *list, uint32_t count);
/* `source`, a value of the part or rows of it, in a codec of values. A reference is kept until the
 * sync, so that an update meanwhile writes elsewhere. */
void kvs_batch_encode(kvs_batch *batch, kvs_part *part, kvs_buffer *target, kvs_buffer *source,
                      const kvs_encode_item *how);
/* buffer->memory.host holds the bytes after the sync. KVS_NO_MEMORY: there is no room for them. */
kvs_status kvs_batch_download(kvs_batch *batch, kvs_buffer *buffer) KVS_MUST_CHECK;
/* Launches what is gathered and waits: the one wait of a turn. */
kvs_status kvs_batch_sync(kvs_batch *batch) KVS_MUST_CHECK;

/* Gives one reference back once nothing that was gathered reads it. Accepts NULL. Syncs if the
 * turn has given back a batch full already. */
void kvs_batch_release(kvs_batch *batch, kvs_buffer *buffer);

#endif
