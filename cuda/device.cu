#include "cuda/device.cuh"

#include "base/log.h"

#include <string.h>

bool kvs_cuda_lost(const kvs_cuda_device *device)
{
    return __atomic_load_n(&device->first->base.lost, __ATOMIC_RELAXED) != 0;
}

kvs_status kvs_cuda_lose(kvs_cuda_device *device, const char *call, cudaError_t error)
{
    if (__atomic_exchange_n(&device->first->base.lost, 1, __ATOMIC_RELAXED) == 0) {
        kvs_log(KVS_LOG_ERROR, "device_lost", "device=%d error=%s call=\"%s\"", device->index,
                cudaGetErrorName(error), call);
    }
    return KVS_DEVICE_LOST;
}

kvs_status kvs_cuda_enter(kvs_cuda_device *device)
{
    if (kvs_cuda_lost(device)) {
        return KVS_DEVICE_LOST;
    }
    KVS_CUDA_TRY(device, cudaSetDevice(device->index));
    return KVS_OK;
}

static kvs_status allocated(kvs_cuda_device *device, const char *call, cudaError_t error)
{
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* else the next launch reports it again */
        return KVS_NO_MEMORY;
    }
    return error == cudaSuccess ? KVS_OK : kvs_cuda_lose(device, call, error);
}

kvs_status kvs_cuda_alloc(kvs_cuda_device *device, size_t bytes, void **out)
{
    KVS_TRY(kvs_cuda_enter(device));
    return allocated(device, "cudaMalloc", cudaMalloc(out, bytes == 0 ? 1 : bytes));
}

static kvs_status wipe(kvs_cuda_device *device, void *data, size_t bytes)
{
    KVS_CUDA_TRY(device, cudaMemsetAsync(data, 0, bytes, device->care));
    KVS_CUDA_TRY(device, cudaStreamSynchronize(device->care));
    return KVS_OK;
}

void kvs_cuda_free(kvs_cuda_device *device, void *data, size_t bytes)
{
    if (data == NULL) {
        return;
    }
    if (!kvs_cuda_lost(device) && bytes > 0) {
        (void)wipe(device, data, bytes); /* a device that is lost has lost the bytes, too */
    }
    cudaError_t error = cudaFree(data);
    if (error != cudaSuccess) {
        (void)kvs_cuda_lose(device, "cudaFree", error);
    }
}

kvs_status kvs_cuda_alloc_pinned(kvs_cuda_device *device, size_t bytes, void **out)
{
    KVS_TRY(kvs_cuda_enter(device));
    return allocated(device, "cudaMallocHost", cudaMallocHost(out, bytes == 0 ? 1 : bytes));
}

void kvs_cuda_free_pinned(kvs_cuda_device *device, void *data, size_t bytes)
{
    if (data == NULL) {
        return;
    }
    explicit_bzero(data, bytes);
    cudaError_t error = cudaFreeHost(data);
    if (error != cudaSuccess) {
        (void)kvs_cuda_lose(device, "cudaFreeHost", error);
    }
}
