/* Values of f32 in fewer bytes, for those who pull them so.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_ENCODES_CUH
#define KVS_CUDA_ENCODES_CUH

#include "cuda/stream_state.cuh"

/* Fails when this build has no kernel for the device. */
cudaError_t kvs_cuda_encodes_load(void);

kvs_status kvs_cuda_stream_encode(kvs_stream *stream, const kvs_encode_item *items,
                                  size_t count) KVS_MUST_CHECK;

#endif
