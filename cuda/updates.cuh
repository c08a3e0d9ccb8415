/* The rules, on f32 and f64.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_UPDATES_CUH
#define KVS_CUDA_UPDATES_CUH

#include "cuda/rows.cuh"
#include "cuda/stream_state.cuh"

/* Fails when this build has no kernels for the device. */
cudaError_t kvs_cuda_updates_load(void);

/* Rows of a rule on f32 or f64. */
kvs_status kvs_cuda_update_item(kvs_stream *stream, const kvs_apply_item *item) KVS_MUST_CHECK;

/* What a rule on a piece of rows reads and writes beside the states, which are the item's. */
typedef struct kvs_cuda_sparse_update {
    const void *gradient; /* of the piece alone; NULL: zero */
    void *weight;         /* updated in place */
    bool compact;         /* the weight, too, is of the piece alone */
} kvs_cuda_sparse_update;

/* A row of a rule on f32 or f64. */
kvs_status kvs_cuda_update_piece(kvs_stream *stream, const kvs_apply_item *item,
                                 const kvs_cuda_rows_piece *piece,
                                 const kvs_cuda_sparse_update *update) KVS_MUST_CHECK;
/* What the stream's apply does for an item of rows of f32 or f64. */
kvs_status kvs_cuda_update_rows(kvs_stream *stream, const kvs_apply_item *item) KVS_MUST_CHECK;
/* Has all the memory that it speaks of? Of f16 and bf16, too. */
void kvs_cuda_check_update_rows(const kvs_apply_item *item);

#endif
