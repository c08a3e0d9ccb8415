/* Rules on f16 and bf16: in f32, beside the values or on their masters.
 *
 * Items are done in groups that share the stream's scratch, a launch for each step of a group:
 * the gradient summed and widened, the weight widened unless there is a master, the rule, the new
 * weight narrowed.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_HALVES_CUH
#define KVS_CUDA_HALVES_CUH

#include "cuda/stream_state.cuh"

bool kvs_cuda_is_half(kvs_dtype dtype);

/* What the stream's apply does for those of its items that are of halves. */
kvs_status kvs_cuda_update_halves(kvs_stream *stream, const kvs_apply_item *items,
                                  size_t count) KVS_MUST_CHECK;
/* And for one of rows of them. */
kvs_status kvs_cuda_update_half_rows(kvs_stream *stream, const kvs_apply_item *item) KVS_MUST_CHECK;

#endif
