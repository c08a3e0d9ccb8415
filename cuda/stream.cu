#include "cuda/stream.cuh"

#include "base/check.h"
#include "cuda/casts.cuh"
#include "cuda/encodes.cuh"
#include "cuda/halves.cuh"
#include "cuda/measures.cuh"
#include "cuda/move_kernel.cuh"
#include "cuda/row_rules.cuh"
#include "cuda/rows.cuh"
#include "cuda/scans.cuh"
#include "cuda/updates.cuh"

#include <stdlib.h>
#include <string.h>

static_assert(KVS_CUDA_ROWS_MAX * sizeof(kvs_cuda_move) <= KVS_CUDA_TABLE_BYTES,
              "a table fits its slot");
static_assert(KVS_CUDA_TILE_BYTES % KVS_CUDA_WORD_BYTES == 0, "tiles start at words");

#define PARTIAL_BYTES (KVS_CUDA_PARTIALS_MAX * sizeof(double))

static cudaError_t launch_moves(const cudaLaunchConfig_t *config, const void *rows, uint32_t count,
                                uint64_t tiles)
{
    return cudaLaunchKernelEx(config, kvs_cuda_move_kernel, (const kvs_cuda_move *)rows, count,
                              tiles);
}

static const kvs_cuda_row_kind move_rows = {sizeof(kvs_cuda_move), launch_moves};

cudaError_t kvs_cuda_kernels_load(void)
{
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, kvs_cuda_move_kernel);
    if (error == cudaSuccess) {
        error = kvs_cuda_casts_load();
    }
    if (error == cudaSuccess) {
        error = kvs_cuda_rows_load();
    }
    if (error == cudaSuccess) {
        error = kvs_cuda_measures_load();
    }
    if (error == cudaSuccess) {
        error = kvs_cuda_row_rules_load();
    }
    if (error == cudaSuccess) {
        error = kvs_cuda_scans_load();
    }
    if (error == cudaSuccess) {
        error = kvs_cuda_encodes_load();
    }
    return error == cudaSuccess ? kvs_cuda_updates_load() : error;
}

/* ------------------------------------------------------------------ open, close, sync */

/* Every verb starts so. Rows that an earlier call left behind were left by a device that is lost.
 */
static kvs_status begin(const kvs_stream *stream)
{
    return kvs_cuda_enter(stream->device);
}

/* `compute` has waited for every copy on `up`, so two waits are enough. */
static kvs_status wait_all(kvs_stream *stream)
{
    KVS_TRY(begin(stream));
    KVS_CUDA_TRY(stream->device, cudaStreamSynchronize(stream->compute));
    KVS_CUDA_TRY(stream->device, cudaStreamSynchronize(stream->down));
    stream->downloading = false;
    kvs_cuda_measures_add(stream);
    return KVS_OK;
}

static kvs_status alloc_scratch(kvs_cuda_device *device, kvs_memory *memory, size_t bytes)
{
    KVS_TRY(kvs_cuda_alloc(device, bytes, &memory->data));
    memory->bytes = bytes;
    return KVS_OK;
}

static kvs_status init(kvs_stream *stream, kvs_cuda_device *device)
{
    stream->device = device;
    KVS_TRY(alloc_scratch(device, &stream->scratch.encoded, KVS_CUDA_SCRATCH_BYTES));
    KVS_TRY(alloc_scratch(device, &stream->scratch.weight, KVS_CUDA_SCRATCH_BYTES / 2));
    KVS_TRY(alloc_scratch(device, &stream->scratch.gradient, KVS_CUDA_SCRATCH_BYTES / 2));
    KVS_TRY(kvs_cuda_alloc(device, PARTIAL_BYTES, (void **)&stream->partial));
    KVS_TRY(kvs_cuda_alloc_pinned(device, PARTIAL_BYTES, (void **)&stream->partial_host));
    KVS_CUDA_TRY(device, cudaStreamCreateWithFlags(&stream->up, cudaStreamNonBlocking));
    KVS_CUDA_TRY(device, cudaStreamCreateWithFlags(&stream->compute, cudaStreamNonBlocking));
    KVS_CUDA_TRY(device, cudaStreamCreateWithFlags(&stream->down, cudaStreamNonBlocking));
    KVS_CUDA_TRY(device, cudaEventCreateWithFlags(&stream->computed, cudaEventDisableTiming));
    KVS_CUDA_TRY(device, cudaEventCreateWithFlags(&stream->downloaded, cudaEventDisableTiming));
    return kvs_cuda_ring_init(&stream->ring, device);
}

static void destroy(cudaStream_t stream)
{
    if (stream != NULL) {
        (void)cudaStreamDestroy(stream); /* fails only with the device, which is told */
    }
}

/* Of a stream that init has left in any state; no work of it is left. */
static void destroy_stream(kvs_stream *stream)
{
    if (stream->computed != NULL) {
        (void)cudaEventDestroy(stream->computed);
    }
    if (stream->downloaded != NULL) {
        (void)cudaEventDestroy(stream->downloaded);
    }
    if (stream->ring.device != NULL) {
        kvs_cuda_ring_deinit(&stream->ring);
    }
    const kvs_memory *memories[] = {&stream->scratch.encoded, &stream->scratch.weight,
                                    &stream->scratch.gradient};
    for (unsigned i = 0; i < sizeof memories / sizeof memories[0]; i++) {
        kvs_cuda_free(stream->device, memories[i]->data, memories[i]->bytes);
    }
    kvs_cuda_free(stream->device, stream->partial, PARTIAL_BYTES);
    kvs_cuda_free_pinned(stream->device, stream->partial_host, PARTIAL_BYTES);
    destroy(stream->down);
    destroy(stream->compute);
    destroy(stream->up);
    free(stream);
}

/* One that was kept, or NULL. */
static kvs_stream *take_idle(kvs_cuda_device *device)
{
    (void)pthread_mutex_lock(&device->mutex);
    kvs_stream *stream = device->idle;
    if (stream != NULL) {
        device->idle = stream->next;
        device->idle_count--;
    }
    (void)pthread_mutex_unlock(&device->mutex);
    return stream;
}

/* False: there are enough. */
static bool keep(kvs_cuda_device *device, kvs_stream *stream)
{
    (void)pthread_mutex_lock(&device->mutex);
    bool room = device->idle_count < KVS_CUDA_IDLE_STREAMS;
    if (room) {
        stream->next = device->idle;
        device->idle = stream;
        device->idle_count++;
    }
    (void)pthread_mutex_unlock(&device->mutex);
    return room;
}

kvs_status kvs_cuda_stream_open(kvs_backend *backend, kvs_stream **out)
{
    kvs_cuda_device *device = (kvs_cuda_device *)backend;
    KVS_TRY(kvs_cuda_enter(device));
    kvs_stream *kept = take_idle(device);
    if (kept != NULL) {
        *out = kept;
        return KVS_OK;
    }
    kvs_stream *stream = (kvs_stream *)calloc(1, sizeof *stream);
    if (stream == NULL) {
        return KVS_NO_MEMORY;
    }
    kvs_status status = init(stream, device);
    if (status != KVS_OK) {
        destroy_stream(stream);
        return status;
    }
    *out = stream;
    return KVS_OK;
}

/* What went through it is nobody's any more. */
static kvs_status wipe(kvs_stream *stream)
{
    const kvs_memory *memories[] = {&stream->scratch.encoded, &stream->scratch.weight,
                                    &stream->scratch.gradient};
    for (unsigned i = 0; i < sizeof memories / sizeof memories[0]; i++) {
        KVS_CUDA_TRY(stream->device,
                     cudaMemsetAsync(memories[i]->data, 0, memories[i]->bytes, stream->compute));
    }
    KVS_CUDA_TRY(stream->device,
                 cudaMemsetAsync(stream->partial, 0, PARTIAL_BYTES, stream->compute));
    explicit_bzero(stream->partial_host, PARTIAL_BYTES);
    KVS_TRY(kvs_cuda_ring_wipe(&stream->ring, stream->compute));
    return wait_all(stream);
}

void kvs_cuda_stream_close(kvs_backend *backend, kvs_stream *stream)
{
    if (stream == NULL) {
        return;
    }
    stream->measured_count = 0; /* nobody has waited for them: their sums may be gone */
    /* A failure is told by the latch; and whoever keeps rows was left by a device that is lost. */
    if (wait_all(stream) != KVS_OK || wipe(stream) != KVS_OK ||
        !keep((kvs_cuda_device *)backend, stream)) {
        destroy_stream(stream);
    }
}

void kvs_cuda_streams_close(kvs_cuda_device *device)
{
    for (kvs_stream *stream = take_idle(device); stream != NULL; stream = take_idle(device)) {
        destroy_stream(stream);
    }
}

kvs_status kvs_cuda_stream_sync(kvs_stream *stream)
{
    return wait_all(stream);
}

/* ------------------------------------------------------------------ launches */

static cudaError_t launch_kernel(const kvs_stream *stream, const void *rows)
{
    cudaLaunchConfig_t config;
    uint64_t blocks_max = stream->device->blocks_max;
    memset((void *)&config, 0, sizeof config);
    config.gridDim = dim3((unsigned)(stream->tiles < blocks_max ? stream->tiles : blocks_max));
    config.blockDim = dim3(KVS_CUDA_BLOCK_THREADS);
    config.stream = stream->compute;
    return stream->kind->launch(&config, rows, stream->rows, stream->tiles);
}

kvs_status kvs_cuda_launch(kvs_stream *stream)
{
    if (stream->rows == 0) {
        return KVS_OK;
    }
    size_t bytes = stream->rows * stream->kind->row_bytes;
    const void *rows = NULL;
    KVS_TRY(kvs_cuda_ring_send(&stream->ring, stream->up, stream->compute, stream->table, bytes,
                               &rows));
    if (stream->downloading) {
        KVS_CUDA_TRY(stream->device, cudaStreamWaitEvent(stream->compute, stream->downloaded, 0));
        stream->downloading = false;
    }
    KVS_CUDA_TRY(stream->device, launch_kernel(stream, rows));
    KVS_TRY(kvs_cuda_ring_used(&stream->ring, stream->compute));
    stream->rows = 0;
    stream->tiles = 0;
    return KVS_OK;
}

kvs_status kvs_cuda_make_row(kvs_stream *stream, const kvs_cuda_row_kind *kind)
{
    if (stream->rows == KVS_CUDA_ROWS_MAX || (stream->rows > 0 && stream->kind != kind)) {
        KVS_TRY(kvs_cuda_launch(stream));
    }
    stream->kind = kind;
    return KVS_OK;
}

void *kvs_cuda_row_place(kvs_stream *stream)
{
    return stream->table + stream->rows * stream->kind->row_bytes;
}

void kvs_cuda_add_tiles(kvs_stream *stream, uint64_t bytes)
{
    stream->rows++;
    stream->tiles += (bytes + KVS_CUDA_TILE_BYTES - 1) / KVS_CUDA_TILE_BYTES;
}

void kvs_cuda_add_term(kvs_stream *stream)
{
    stream->rows++;
}

void *kvs_cuda_row_before(kvs_stream *stream, const kvs_cuda_row_kind *kind,
                          const kvs_source *source, size_t bytes)
{
    if (stream->rows == 0 || stream->rows == KVS_CUDA_ROWS_MAX || stream->kind != kind ||
        (source->memory == NULL && kvs_cuda_ring_room(&stream->ring) < bytes)) {
        return NULL;
    }
    return stream->table + (stream->rows - 1) * kind->row_bytes;
}

kvs_status kvs_cuda_make_room(kvs_stream *stream, size_t bytes)
{
    return kvs_cuda_ring_room(&stream->ring) < bytes ? kvs_cuda_launch(stream) : KVS_OK;
}

kvs_status kvs_cuda_stage(kvs_stream *stream, const void *data, size_t bytes, const void **out)
{
    kvs_span span = {(const uint8_t *)data, bytes};
    kvs_payload payload = {&span, 1, 0, bytes};
    return kvs_cuda_ring_stage(&stream->ring, &payload, 0, bytes, out);
}

kvs_status kvs_cuda_take_piece(kvs_stream *stream, const kvs_source *source, size_t offset,
                               size_t bytes, kvs_cuda_piece *out)
{
    if (source->memory != NULL) {
        out->data = (const uint8_t *)source->memory->data + offset;
        out->bytes = bytes;
        return KVS_OK;
    }
    if (kvs_cuda_ring_room(&stream->ring) == 0) {
        KVS_TRY(kvs_cuda_launch(stream));
    }
    size_t room = kvs_cuda_ring_room(&stream->ring);
    out->bytes = bytes < room ? bytes : room;
    return kvs_cuda_ring_stage(&stream->ring, &source->payload, offset, out->bytes, &out->data);
}

/* ------------------------------------------------------------------ copies and sums */

static void move_row(kvs_stream *stream, kvs_cuda_move_kind kind, void *target, const void *source,
                     size_t bytes)
{
    kvs_cuda_move *row = (kvs_cuda_move *)kvs_cuda_row_place(stream);
    row->target = target;
    row->source = source;
    row->bytes = bytes;
    row->first_tile = stream->tiles;
    row->kind = kind;
    row->term = 0;
    kvs_cuda_add_tiles(stream, bytes);
}

void kvs_cuda_check_source(const kvs_source *source, size_t bytes)
{
    if (source->memory != NULL) {
        KVS_CHECK(bytes <= source->memory->bytes);
    } else {
        KVS_CHECK(bytes == source->payload.bytes);
    }
}

static kvs_status move_item(kvs_stream *stream, kvs_cuda_move_kind kind, const kvs_memory *target,
                            const kvs_source *source, size_t bytes)
{
    KVS_CHECK(bytes <= target->bytes);
    kvs_cuda_check_source(source, bytes);
    for (size_t offset = 0; offset < bytes;) {
        kvs_cuda_piece from;
        KVS_TRY(kvs_cuda_make_row(stream, &move_rows));
        KVS_TRY(kvs_cuda_take_piece(stream, source, offset, bytes - offset, &from));
        move_row(stream, kind, (uint8_t *)target->data + offset, from.data, from.bytes);
        offset += from.bytes;
    }
    return KVS_OK;
}

kvs_status kvs_cuda_zero_row(kvs_stream *stream, const kvs_memory *target, size_t bytes)
{
    KVS_CHECK(bytes <= target->bytes);
    KVS_TRY(kvs_cuda_make_row(stream, &move_rows));
    move_row(stream, KVS_CUDA_ZERO, target->data, NULL, bytes);
    return KVS_OK;
}

kvs_status kvs_cuda_copy_rows(kvs_stream *stream, const kvs_memory *target,
                              const kvs_source *source, size_t bytes)
{
    return move_item(stream, KVS_CUDA_COPY, target, source, bytes);
}

kvs_status kvs_cuda_stream_zero(kvs_stream *stream, kvs_memory *const *targets, size_t count)
{
    KVS_TRY(begin(stream));
    for (size_t i = 0; i < count; i++) {
        if (targets[i]->bytes > 0) {
            KVS_TRY(kvs_cuda_zero_row(stream, targets[i], targets[i]->bytes));
        }
    }
    return kvs_cuda_launch(stream);
}

kvs_status kvs_cuda_stream_copy(kvs_stream *stream, const kvs_copy_item *items, size_t count)
{
    KVS_TRY(begin(stream));
    for (size_t i = 0; i < count; i++) {
        const kvs_source *source = &items[i].source;
        size_t bytes = source->memory != NULL ? items[i].bytes : source->payload.bytes;
        if (items[i].rows.elements > 0) {
            KVS_TRY(kvs_cuda_gather_rows(stream, &items[i]));
            continue;
        }
        KVS_TRY(move_item(stream, KVS_CUDA_COPY, items[i].target, source, bytes));
    }
    return kvs_cuda_launch(stream);
}

/* False: sums of that dtype are not built. */
static bool find_sum(kvs_dtype dtype, kvs_cuda_move_kind *out)
{
    switch (dtype) {
    case KVS_F32:
        *out = KVS_CUDA_ADD_F32;
        return true;
    case KVS_F64:
        *out = KVS_CUDA_ADD_F64;
        return true;
    case KVS_U8:
    case KVS_I8:
        *out = KVS_CUDA_ADD_8;
        return true;
    case KVS_I32:
        *out = KVS_CUDA_ADD_32;
        return true;
    case KVS_I64:
        *out = KVS_CUDA_ADD_64;
        return true;
    case KVS_F16:
        *out = KVS_CUDA_ADD_F16;
        return true;
    case KVS_BF16:
        *out = KVS_CUDA_ADD_BF16;
        return true;
    default:
        return false;
    }
}

kvs_status kvs_cuda_sum_rows(kvs_stream *stream, kvs_dtype dtype, const kvs_memory *target,
                             const kvs_source *source, size_t bytes)
{
    kvs_cuda_move_kind sum = KVS_CUDA_ADD_F32;
    KVS_CHECK(find_sum(dtype, &sum));
    return move_item(stream, sum, target, source, bytes);
}

/* One more term of the sum that the row before begins or goes on with. False: it cannot be. */
static bool add_term(kvs_stream *stream, const kvs_accumulate_item *item, size_t bytes,
                     kvs_status *status)
{
    kvs_cuda_move_kind sum = KVS_CUDA_ADD_F32;
    kvs_cuda_piece from;
    const kvs_cuda_move *before =
        (const kvs_cuda_move *)kvs_cuda_row_before(stream, &move_rows, &item->source, bytes);
    if (before == NULL || before->target != item->target->data || before->bytes != bytes ||
        !find_sum(item->dtype, &sum)) {
        return false;
    }
    kvs_cuda_check_source(&item->source, bytes);
    *status = kvs_cuda_take_piece(stream, &item->source, 0, bytes, &from);
    kvs_cuda_move *row = (kvs_cuda_move *)kvs_cuda_row_place(stream);
    *row = *before;
    row->source = from.data;
    row->kind = sum;
    row->term++;
    kvs_cuda_add_term(stream);
    return true;
}

/* `follows`: the item before has the same target; `leads`: so has the next. */
static kvs_status accumulate_item(kvs_stream *stream, const kvs_accumulate_item *item, bool follows,
                                  bool leads)
{
    size_t bytes = (size_t)item->elements * kvs_dtype_bytes(item->dtype);
    kvs_status status = KVS_OK;
    if (item->rows.elements > 0) {
        return kvs_cuda_add_rows(stream, item);
    }
    if (item->codec != KVS_CODEC_NONE) {
        return kvs_cuda_decode_item(stream, item, follows);
    }
    if (follows && !item->first && bytes > 0 && add_term(stream, item, bytes, &status)) {
        return status;
    }
    if (follows) {
        KVS_TRY(kvs_cuda_launch(stream));
    }
    if (leads && item->source.memory == NULL && bytes <= KVS_CUDA_PAYLOAD_BYTES) {
        KVS_TRY(kvs_cuda_make_room(stream, bytes)); /* in one piece others can be added to it */
    }
    if (item->first) {
        return kvs_cuda_copy_rows(stream, item->target, &item->source, bytes);
    }
    return kvs_cuda_sum_rows(stream, item->dtype, item->target, &item->source, bytes);
}

static bool same_target(const kvs_accumulate_item *one, const kvs_accumulate_item *other)
{
    return one->target->data == other->target->data && one->rows.elements == 0 &&
           other->rows.elements == 0;
}

kvs_status kvs_cuda_stream_accumulate(kvs_stream *stream, const kvs_accumulate_item *items,
                                      size_t count)
{
    kvs_cuda_move_kind sum = KVS_CUDA_ADD_F32;
    KVS_TRY(begin(stream));
    for (size_t i = 0; i < count; i++) {
        bool encoded = items[i].codec != KVS_CODEC_NONE;
        if ((encoded &&
             ((unsigned)items[i].codec >= KVS_CODEC_COUNT || items[i].dtype != KVS_F32)) ||
            !find_sum(items[i].dtype, &sum)) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        bool follows = i > 0 && same_target(&items[i - 1], &items[i]);
        bool leads = i + 1 < count && same_target(&items[i], &items[i + 1]);
        KVS_TRY(accumulate_item(stream, &items[i], follows, leads));
    }
    return kvs_cuda_launch(stream);
}

/* ------------------------------------------------------------------ rules */

kvs_status kvs_cuda_stream_apply(kvs_stream *stream, const kvs_apply_item *items, size_t count)
{
    KVS_TRY(begin(stream));
    for (size_t i = 0; i < count; i++) {
        KVS_CHECK(items[i].scalars.rule >= 0);
        KVS_CHECK(items[i].scalars.rule < KVS_RULE_COUNT);
        if (!kvs_dtype_floating(items[i].dtype)) {
            return KVS_UNIMPLEMENTED;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (items[i].elements == 0) {
            continue;
        }
        if (kvs_rule_row_states(items[i].scalars.rule) > 0) {
            KVS_TRY(kvs_cuda_row_rule_item(stream, &items[i]));
        } else if (items[i].rows.elements > 0) {
            KVS_TRY(kvs_cuda_is_half(items[i].dtype) ? kvs_cuda_update_half_rows(stream, &items[i])
                                                     : kvs_cuda_update_rows(stream, &items[i]));
        } else if (!kvs_cuda_is_half(items[i].dtype)) {
            KVS_TRY(kvs_cuda_update_item(stream, &items[i]));
        }
    }
    KVS_TRY(kvs_cuda_update_halves(stream, items, count));
    return kvs_cuda_launch(stream);
}

/* ------------------------------------------------------------------ download */

kvs_status kvs_cuda_stream_download(kvs_stream *stream, kvs_memory *const *memories, size_t count)
{
    kvs_cuda_device *device = stream->device;
    KVS_TRY(begin(stream));
    for (size_t i = 0; i < count; i++) {
        if (memories[i]->host == NULL) {
            KVS_TRY(kvs_cuda_alloc_pinned(device, memories[i]->bytes, &memories[i]->host));
        }
    }
    KVS_CUDA_TRY(device, cudaEventRecord(stream->computed, stream->compute));
    KVS_CUDA_TRY(device, cudaStreamWaitEvent(stream->down, stream->computed, 0));
    for (size_t i = 0; i < count; i++) {
        if (memories[i]->bytes > 0) {
            KVS_CUDA_TRY(device,
                         cudaMemcpyAsync(memories[i]->host, memories[i]->data, memories[i]->bytes,
                                         cudaMemcpyDeviceToHost, stream->down));
        }
    }
    KVS_CUDA_TRY(device, cudaEventRecord(stream->downloaded, stream->down));
    stream->downloading = true;
    return KVS_OK;
}
