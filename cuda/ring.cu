#include "cuda/ring.cuh"

#include "base/check.h"

#include <string.h>

static size_t whole_words(size_t bytes)
{
    return (bytes + KVS_CUDA_WORD_BYTES - 1) / KVS_CUDA_WORD_BYTES * KVS_CUDA_WORD_BYTES;
}

kvs_status kvs_cuda_ring_init(kvs_cuda_ring *ring, kvs_cuda_device *device)
{
    ring->device = device;
    for (unsigned i = 0; i < KVS_CUDA_SLOTS; i++) {
        kvs_cuda_slot *slot = &ring->slots[i];
        KVS_TRY(kvs_cuda_alloc_pinned(device, KVS_CUDA_SLOT_BYTES, (void **)&slot->pinned));
        KVS_TRY(kvs_cuda_alloc(device, KVS_CUDA_SLOT_BYTES, (void **)&slot->device));
        KVS_CUDA_TRY(device, cudaEventCreateWithFlags(&slot->copied, cudaEventDisableTiming));
        KVS_CUDA_TRY(device, cudaEventCreateWithFlags(&slot->used, cudaEventDisableTiming));
    }
    return KVS_OK;
}

void kvs_cuda_ring_deinit(kvs_cuda_ring *ring)
{
    for (unsigned i = 0; i < KVS_CUDA_SLOTS; i++) {
        kvs_cuda_slot *slot = &ring->slots[i];
        if (slot->used != NULL) {
            (void)cudaEventDestroy(slot->used); /* fails only with the device, which is told */
        }
        if (slot->copied != NULL) {
            (void)cudaEventDestroy(slot->copied);
        }
        kvs_cuda_free(ring->device, slot->device, KVS_CUDA_SLOT_BYTES);
        kvs_cuda_free_pinned(ring->device, slot->pinned, KVS_CUDA_SLOT_BYTES);
    }
}

kvs_status kvs_cuda_ring_wipe(kvs_cuda_ring *ring, cudaStream_t compute)
{
    for (unsigned i = 0; i < KVS_CUDA_SLOTS; i++) {
        kvs_cuda_slot *slot = &ring->slots[i];
        if (slot->sent == 0) {
            continue;
        }
        explicit_bzero(slot->pinned, slot->sent);
        KVS_CUDA_TRY(ring->device, cudaMemsetAsync(slot->device, 0, slot->sent, compute));
        slot->sent = 0;
    }
    return KVS_OK;
}

size_t kvs_cuda_ring_room(const kvs_cuda_ring *ring)
{
    return ring->filled < KVS_CUDA_PAYLOAD_BYTES ? KVS_CUDA_PAYLOAD_BYTES - ring->filled : 0;
}

static kvs_status make_fillable(kvs_cuda_ring *ring)
{
    if (!ring->fillable) {
        KVS_CUDA_TRY(ring->device, cudaEventSynchronize(ring->slots[ring->current].copied));
        ring->fillable = true;
    }
    return KVS_OK;
}

kvs_status kvs_cuda_ring_stage(kvs_cuda_ring *ring, const kvs_payload *payload, size_t offset,
                               size_t bytes, const void **out)
{
    const kvs_cuda_slot *slot = &ring->slots[ring->current];
    kvs_payload piece = kvs_payload_slice(payload, offset, bytes);
    KVS_CHECK(bytes <= kvs_cuda_ring_room(ring));
    KVS_TRY(make_fillable(ring));
    kvs_payload_gather(&piece, slot->pinned + ring->filled);
    *out = slot->device + ring->filled;
    ring->filled += whole_words(bytes);
    return KVS_OK;
}

kvs_status kvs_cuda_ring_send(kvs_cuda_ring *ring, cudaStream_t up, cudaStream_t compute,
                              const void *table, size_t bytes, const void **out)
{
    kvs_cuda_slot *slot = &ring->slots[ring->current];
    KVS_CHECK(bytes <= KVS_CUDA_SLOT_BYTES - ring->filled);
    KVS_TRY(make_fillable(ring));
    memcpy(slot->pinned + ring->filled, table, bytes);
    if (slot->sent < ring->filled + bytes) {
        slot->sent = ring->filled + bytes;
    }
    KVS_CUDA_TRY(ring->device, cudaStreamWaitEvent(up, slot->used, 0));
    KVS_CUDA_TRY(ring->device, cudaMemcpyAsync(slot->device, slot->pinned, ring->filled + bytes,
                                               cudaMemcpyHostToDevice, up));
    KVS_CUDA_TRY(ring->device, cudaEventRecord(slot->copied, up));
    KVS_CUDA_TRY(ring->device, cudaStreamWaitEvent(compute, slot->copied, 0));
    *out = slot->device + ring->filled;
    return KVS_OK;
}

kvs_status kvs_cuda_ring_used(kvs_cuda_ring *ring, cudaStream_t compute)
{
    KVS_CUDA_TRY(ring->device, cudaEventRecord(ring->slots[ring->current].used, compute));
    ring->current = (ring->current + 1) % KVS_CUDA_SLOTS;
    ring->fillable = false;
    ring->filled = 0;
    return KVS_OK;
}
