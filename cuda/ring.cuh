/* Slots through which payloads and tables of work go up to the device.
 *
 * A slot is filled on the host (payloads first, the table of the launch behind them), copied up in
 * one piece on the stream `up`, read by one kernel on the stream `compute`, and filled again: the
 * host waits until it is copied, the next copy until the kernel has read it.
 *
 *     stage ... stage, send (copy up, join), launch, used;  then the next slot
 *
 * Threads: the holder of the kvs_stream. Memory: owns its slots and events, borrows the streams.
 * Errors: KVS_DEVICE_LOST; KVS_NO_MEMORY from init only.
 */
#ifndef KVS_CUDA_RING_CUH
#define KVS_CUDA_RING_CUH

#include "cuda/device.cuh"

/* One full part of f32 in a slot; four slots hide the copies (one filled, one on its way, one
 * read, one to spare). */
#define KVS_CUDA_SLOTS 4
#define KVS_CUDA_PAYLOAD_BYTES ((size_t)KVS_PART_ELEMENTS * 4)
#define KVS_CUDA_TABLE_BYTES ((size_t)96 * KVS_KIB)
#define KVS_CUDA_SLOT_BYTES (KVS_CUDA_PAYLOAD_BYTES + KVS_CUDA_TABLE_BYTES)
/* What kernels read at once: every payload starts at such an address. */
#define KVS_CUDA_WORD_BYTES ((size_t)16)

typedef struct kvs_cuda_slot {
    uint8_t *pinned;
    uint8_t *device;
    cudaEvent_t copied; /* the pinned side may be filled */
    cudaEvent_t used;   /* the device side may be copied to */
    size_t sent;        /* at most, since the last wipe */
} kvs_cuda_slot;

typedef struct kvs_cuda_ring {
    kvs_cuda_device *device;
    kvs_cuda_slot slots[KVS_CUDA_SLOTS];
    unsigned current;
    bool fillable; /* the host has waited for the current slot */
    size_t filled; /* bytes of the current slot, a multiple of a word */
} kvs_cuda_ring;

/* Needs zeroed memory; after a failure deinit is still due. */
kvs_status kvs_cuda_ring_init(kvs_cuda_ring *ring, kvs_cuda_device *device) KVS_MUST_CHECK;
void kvs_cuda_ring_deinit(kvs_cuda_ring *ring); /* when no work of it is left */

/* Zeroes what has passed through, when no work of it is left but what `compute` still does. */
kvs_status kvs_cuda_ring_wipe(kvs_cuda_ring *ring, cudaStream_t compute) KVS_MUST_CHECK;

/* Payload bytes that the current slot still takes: a multiple of a word, possibly 0. */
size_t kvs_cuda_ring_room(const kvs_cuda_ring *ring);

/* Copies `bytes` <= room of the payload, from `offset` on. *out is where they will be on the
 * device when the next kernel runs. */
kvs_status kvs_cuda_ring_stage(kvs_cuda_ring *ring, const kvs_payload *payload, size_t offset,
                               size_t bytes, const void **out) KVS_MUST_CHECK;

/* Sends what was staged, and the table behind it: what is launched on `compute` from now on finds
 * both. *out is the table on the device. */
kvs_status kvs_cuda_ring_send(kvs_cuda_ring *ring, cudaStream_t up, cudaStream_t compute,
                              const void *table, size_t bytes, const void **out) KVS_MUST_CHECK;

/* After the launch: the slot is free when `compute` has come so far. */
kvs_status kvs_cuda_ring_used(kvs_cuda_ring *ring, cudaStream_t compute) KVS_MUST_CHECK;

#endif
