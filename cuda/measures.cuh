/* Sums of squares over whole values, for rules with norms.
 *
 * Two levels of a fixed shape: the card sums blocks of KVS_MEASURE_BLOCK elements, the host adds
 * those in order once it has waited for them.
 *
 * Threads, memory and errors: as cuda/stream.cuh says.
 */
#ifndef KVS_CUDA_MEASURES_CUH
#define KVS_CUDA_MEASURES_CUH

#include "cuda/stream_state.cuh"

/* Fails when this build has no kernels for the device. */
cudaError_t kvs_cuda_measures_load(void);

kvs_status kvs_cuda_stream_measure(kvs_stream *stream, const kvs_measure_item *items,
                                   size_t count) KVS_MUST_CHECK;
/* Makes room for one more that is measured, and its partial sums: waits if there is none. *from is
 * the first of them that are not sent yet. */
kvs_status kvs_cuda_measures_room(kvs_stream *stream, uint32_t partials,
                                  uint32_t *from) KVS_MUST_CHECK;
/* Sends what is measured down, from that place on, to be there once the stream has been waited for.
 */
kvs_status kvs_cuda_measures_send(kvs_stream *stream, uint32_t from) KVS_MUST_CHECK;
/* Adds up what has come down: the stream has been waited for. */
void kvs_cuda_measures_add(kvs_stream *stream);

#endif
