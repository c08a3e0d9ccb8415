/* Which blocks of two memories differ.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_SCANS_CUH
#define KVS_CUDA_SCANS_CUH

#include "cuda/stream_state.cuh"

/* Fails when this build has no kernel for the device. */
cudaError_t kvs_cuda_scans_load(void);

kvs_status kvs_cuda_stream_scan(kvs_stream *stream, const kvs_scan_item *items,
                                size_t count) KVS_MUST_CHECK;

#endif
