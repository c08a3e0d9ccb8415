/* Rules with a number a row (kvs_rule_row_states), on every floating dtype.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_ROW_RULES_CUH
#define KVS_CUDA_ROW_RULES_CUH

#include "cuda/rows.cuh"
#include "cuda/stream_state.cuh"

/* Fails when this build has no kernels for the device. */
cudaError_t kvs_cuda_row_rules_load(void);

/* What the stream's apply does for an item of such a rule. */
kvs_status kvs_cuda_row_rule_item(kvs_stream *stream, const kvs_apply_item *item) KVS_MUST_CHECK;

#endif
