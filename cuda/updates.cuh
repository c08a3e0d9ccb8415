/* The rules, on f32 and f64.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_UPDATES_CUH
#define KVS_CUDA_UPDATES_CUH

#include "cuda/stream_state.cuh"

/* Fails when this build has no kernels for the device. */
cudaError_t kvs_cuda_updates_load(void);

/* Rows of a rule on f32 or f64. */
kvs_status kvs_cuda_update_item(kvs_stream *stream, const kvs_apply_item *item) KVS_MUST_CHECK;

#endif
