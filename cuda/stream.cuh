/* One order of work on the device: the verbs of engine/backend.h.
 *
 * Three CUDA streams carry it: `up` copies slots of the ring to the device, `compute` runs the
 * kernels, `down` copies values to the host. Events join them, so that the work takes effect in
 * the order of the calls, while copies and kernels of different slots overlap.
 *
 * Threads: the holder of the kvs_stream. Memory and errors: as backend.h says.
 */
#ifndef KVS_CUDA_STREAM_CUH
#define KVS_CUDA_STREAM_CUH

#include "cuda/device.cuh"

/* Fails when this build has no kernels for the device. */
cudaError_t kvs_cuda_kernels_load(void);

/* A stream is wiped when it is closed, and kept for the next open; these are closed for good. */
void kvs_cuda_streams_close(kvs_cuda_device *device);

kvs_status kvs_cuda_stream_open(kvs_backend *backend, kvs_stream **out) KVS_MUST_CHECK;
void kvs_cuda_stream_close(kvs_backend *backend, kvs_stream *stream);
kvs_status kvs_cuda_stream_zero(kvs_stream *stream, kvs_memory *const *targets,
                                size_t count) KVS_MUST_CHECK;
kvs_status kvs_cuda_stream_copy(kvs_stream *stream, const kvs_copy_item *items,
                                size_t count) KVS_MUST_CHECK;
kvs_status kvs_cuda_stream_accumulate(kvs_stream *stream, const kvs_accumulate_item *items,
                                      size_t count) KVS_MUST_CHECK;
kvs_status kvs_cuda_stream_apply(kvs_stream *stream, const kvs_apply_item *items,
                                 size_t count) KVS_MUST_CHECK;
kvs_status kvs_cuda_stream_download(kvs_stream *stream, kvs_memory *const *memories,
                                    size_t count) KVS_MUST_CHECK;
kvs_status kvs_cuda_stream_sync(kvs_stream *stream) KVS_MUST_CHECK;

#endif
