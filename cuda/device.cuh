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
    int index;                     /* CUDA's number of it */
    struct kvs_cuda_device *first; /* the backend that was opened: itself, or the one that has it */
    struct kvs_cuda_device *others[KVS_DEVICES_MAX - 1];
    unsigned other_count;
    cudaStream_t care;     /* wipes memory that is given back */
    pthread_mutex_t mutex; /* of the idle streams */
    kvs_stream *idle;
    unsigned idle_count;
    unsigned blocks_max; /* of one launch: enough to fill the card */
    char name[300];
} kvs_cuda_device;

/* Makes the device the one that the caller's thread means. KVS_DEVICE_LOST if any is lost. */
kvs_status kvs_cuda_enter(kvs_cuda_device *device) KVS_MUST_CHECK;

bool kvs_cuda_lost(const kvs_cuda_device *device);

/* Ends the device and those opened with it: logs the first failure, and returns KVS_DEVICE_LOST. */
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
