/* Numbers into other numbers: encoded gradients and half floats into f32, and f32 back.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_CASTS_CUH
#define KVS_CUDA_CASTS_CUH

#include "cuda/rows.cuh"
#include "cuda/stream_state.cuh"

/* Fails when this build has no kernel for the device. */
cudaError_t kvs_cuda_casts_load(void);

/* What the stream's accumulate does for an item that is encoded. `follows`: the item before has the
 * same target. */
kvs_status kvs_cuda_decode_item(kvs_stream *stream, const kvs_accumulate_item *item,
                                bool follows) KVS_MUST_CHECK;

/* `units` halves become f32, or f32 halves. One side may be a piece of rows in its matrix. */
typedef struct kvs_cuda_half_cast {
    kvs_dtype dtype; /* KVS_F16 or KVS_BF16 */
    bool narrow;     /* f32 to halves */
    void *target;
    const void *source;
    uint64_t units;
    const kvs_rows *rows; /* if any side is mapped */
    const kvs_cuda_rows_piece *piece;
    bool source_mapped;
    bool target_mapped;
} kvs_cuda_half_cast;
kvs_status kvs_cuda_cast_halves(kvs_stream *stream, const kvs_cuda_half_cast *cast) KVS_MUST_CHECK;

#endif
