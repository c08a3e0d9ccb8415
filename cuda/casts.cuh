/* Numbers into other numbers: encoded gradients and half floats into f32, and f32 back.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_CASTS_CUH
#define KVS_CUDA_CASTS_CUH

#include "cuda/stream_state.cuh"

/* Fails when this build has no kernel for the device. */
cudaError_t kvs_cuda_casts_load(void);

/* What the stream's accumulate does for an item that is encoded, or of halves and not the first;
 * and its apply for one of halves, or of rows of them. */
kvs_status kvs_cuda_decode_item(kvs_stream *stream, const kvs_accumulate_item *item) KVS_MUST_CHECK;
kvs_status kvs_cuda_add_halves(kvs_stream *stream, kvs_dtype dtype, const kvs_memory *target,
                               const kvs_source *source, size_t bytes) KVS_MUST_CHECK;
kvs_status kvs_cuda_update_half(kvs_stream *stream, const kvs_apply_item *item) KVS_MUST_CHECK;
kvs_status kvs_cuda_update_half_rows(kvs_stream *stream, const kvs_apply_item *item) KVS_MUST_CHECK;

#endif
