/* The device as all of cuda/ sees it: its latch of failure and its raw memory.
 *
 * Threads: any.
 * Memory: alloc pairs with free, which wipes first.
 * Errors: what CUDA says becomes KVS_NO_MEMORY from an allocation and KVS_DEVICE_LOST otherwise.
 */
#ifndef KVS_CUDA_DEVICE_CUH
#define KVS_CUDA_DEVICE_CUH

#include "engine/backend.h"

#include <cuda_runtime.h>
#include <pthread.h>

/* Streams that are kept for the next who opens one: an init and a load of states open one each. */
#define KVS_CUDA_IDLE_STREAMS 4u

typedef struct kvs_cuda_device {
    kvs_backend base;
    cudaStream_t care;     /* wipes memory that is given back */
    pthread_mutex_t mutex; /* of the idle streams */
    kvs_stream *idle;
    unsigned idle_count;
    unsigned blocks_max; /* of one launch: enough to fill the card */
    char name[280];
} kvs_cuda_device;

bool kvs_cuda_lost(const kvs_cuda_device *device);

/* Ends the device: logs the first failure, and returns KVS_DEVICE_LOST. */
kvs_status kvs_cuda_lose(kvs_cuda_device *device, const char *call, cudaError_t error);

/* At least 1 byte is allocated; aligned to 256. */
kvs_status kvs_cuda_alloc(kvs_cuda_device *device, size_t bytes, void **out) KVS_MUST_CHECK;
void kvs_cuda_free(kvs_cuda_device *device, void *data, size_t bytes); /* accepts NULL */
kvs_status kvs_cuda_alloc_pinned(kvs_cuda_device *device, size_t bytes, void **out) KVS_MUST_CHECK;
void kvs_cuda_free_pinned(kvs_cuda_device *device, void *data, size_t bytes); /* accepts NULL */

#define KVS_CUDA_TRY(device, call)                                                                 \
    do {                                                                                           \
        cudaError_t try_error_ = (call);                                                           \
        if (try_error_ != cudaSuccess) {                                                           \
            return kvs_cuda_lose((device), #call, try_error_);                                     \
        }                                                                                          \
    } while (0)

#endif
