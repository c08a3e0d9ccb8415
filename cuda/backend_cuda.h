/* The CUDA backend: weights and states stay in device memory, gradients pass through a ring of
 * pinned slots, and copies up, arithmetic and copies down overlap on three CUDA streams.
 *
 * Gives the same bits as the CPU backend; only a NaN that arithmetic makes has other payload bits
 * on a card. dtypes: f32, f64, f16 and bf16 with rules, u8, i8, i32 and i64 with sums; every codec
 * into f32, decoded on the card. The rest answers KVS_UNIMPLEMENTED before anything is touched.
 *
 * Threads: as engine/backend.h says. Devices are taken in CUDA's order (CUDA_VISIBLE_DEVICES picks
 *   others); of several each shard computes on one, in turn, and with one all are lost.
 * Memory: every kvs_stream owns 4 slots of 1 MiB and 96 KiB, pinned and on the device, and 4 MiB
 *   on the device for what is encoded or half as wide; up to 4 that are closed are kept, wiped.
 * host of a kvs_memory is pinned memory that alloc_host or the first download allocates and free
 *   gives back.
 * Errors: any failure of CUDA but an allocation's is KVS_DEVICE_LOST, then and ever after; the
 *   log has the call. KVS_NO_MEMORY comes from open_stream, alloc, alloc_host and download only; a
 *   download that fails so may leave some host pointers set, their bytes undefined.
 */
#ifndef KVS_CUDA_BACKEND_CUDA_H
#define KVS_CUDA_BACKEND_CUDA_H

#include "engine/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Opens the device. KVS_UNAVAILABLE: there is no driver, no device, or none that this build has
 * kernels for; the problem says which. The caller closes it by table->close. */
kvs_status kvs_backend_cuda_open(kvs_backend **out, kvs_problem *problem) KVS_MUST_CHECK;

/* The first `devices_max` (0: all) of the devices that there are, or none of them. */
kvs_status kvs_backend_cuda_open_devices(uint32_t devices_max, kvs_backend **out,
                                         kvs_problem *problem) KVS_MUST_CHECK;

#ifdef __cplusplus
}
#endif

#endif
