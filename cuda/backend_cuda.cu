#include "cuda/backend_cuda.h"

#include "cuda/encodes.cuh"
#include "cuda/measures.cuh"
#include "cuda/scans.cuh"
#include "cuda/stream.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Blocks of 256 threads that one multiprocessor holds at once, on every card since 7.5: 2048 or
 * 1024 threads, so 8 or 4 of them; more would only wait. */
#define BLOCKS_PER_MULTIPROCESSOR 8u

static kvs_status alloc_memory(kvs_backend *backend, size_t bytes, kvs_memory *out)
{
    void *data = NULL;
    KVS_TRY(kvs_cuda_alloc((kvs_cuda_device *)backend, bytes, &data));
    out->data = data;
    out->host = NULL;
    out->bytes = bytes;
    return KVS_OK;
}

static void free_memory(kvs_backend *backend, kvs_memory *memory)
{
    kvs_cuda_device *device = (kvs_cuda_device *)backend;
    kvs_cuda_free_pinned(device, memory->host, memory->bytes);
    kvs_cuda_free(device, memory->data, memory->bytes);
    memory->data = NULL;
    memory->host = NULL;
    memory->bytes = 0;
}

static kvs_status alloc_host(kvs_backend *backend, kvs_memory *memory)
{
    if (memory->host != NULL) {
        return KVS_OK;
    }
    return kvs_cuda_alloc_pinned((kvs_cuda_device *)backend, memory->bytes, &memory->host);
}

static kvs_backend *place(kvs_backend *backend, uint32_t shard)
{
    kvs_cuda_device *device = (kvs_cuda_device *)backend;
    uint32_t which = shard % (device->other_count + 1);
    return which == 0 ? backend : &device->others[which - 1]->base;
}

static void close_device(kvs_cuda_device *device)
{
    kvs_cuda_streams_close(device);
    (void)pthread_mutex_destroy(&device->mutex);
    if (device->care != NULL) {
        (void)cudaStreamDestroy(device->care); /* nobody is left to be told */
    }
    free(device);
}

static void close_backend(kvs_backend *backend)
{
    kvs_cuda_device *device = (kvs_cuda_device *)backend;
    for (unsigned i = 0; i < device->other_count; i++) {
        close_device(device->others[i]);
    }
    close_device(device);
}

static const kvs_backend_table table = {
    kvs_cuda_stream_open,
    kvs_cuda_stream_close,
    alloc_memory,
    free_memory,
    kvs_cuda_stream_zero,
    kvs_cuda_stream_copy,
    kvs_cuda_stream_accumulate,
    kvs_cuda_stream_apply,
    kvs_cuda_stream_measure,
    kvs_cuda_stream_scan,
    kvs_cuda_stream_encode,
    alloc_host,
    kvs_cuda_stream_download,
    kvs_cuda_stream_sync,
    place,
    close_backend,
};

/* Says what CUDA said, and leaves no error behind. */
static kvs_status refuse(kvs_problem *problem, const char *what, cudaError_t error)
{
    (void)cudaGetLastError();
    return kvs_problem_set(problem, KVS_UNAVAILABLE, "%s: %s (%s)", what, cudaGetErrorName(error),
                           cudaGetErrorString(error));
}

/* How many there are: at least one. */
static kvs_status count_devices(int *out, kvs_problem *problem)
{
    cudaError_t error = cudaGetDeviceCount(out);
    if (error != cudaSuccess) {
        return refuse(problem, "no CUDA device can be used", error);
    }
    return *out > 0 ? KVS_OK : kvs_problem_set(problem, KVS_UNAVAILABLE, "there is no CUDA device");
}

static kvs_status probe(kvs_cuda_device *device, kvs_problem *problem)
{
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device->index);
    if (error != cudaSuccess) {
        return refuse(problem, "the CUDA device does not answer", error);
    }
    error = cudaSetDevice(device->index);
    if (error != cudaSuccess) {
        return refuse(problem, "the CUDA device cannot be taken", error);
    }
    error = kvs_cuda_kernels_load();
    if (error != cudaSuccess) {
        char what[320];
        (void)snprintf(what, sizeof what, "no kernels for %.200s (compute capability %d.%d)",
                       properties.name, properties.major, properties.minor);
        return refuse(problem, what, error);
    }
    error = cudaStreamCreateWithFlags(&device->care, cudaStreamNonBlocking);
    if (error != cudaSuccess) {
        return refuse(problem, "the CUDA device gives no stream", error);
    }
    device->blocks_max = (unsigned)properties.multiProcessorCount * BLOCKS_PER_MULTIPROCESSOR;
    (void)snprintf(device->name, sizeof device->name, "cuda %.255s", properties.name);
    return KVS_OK;
}

static kvs_status open_device(int index, kvs_cuda_device *first, kvs_cuda_device **out,
                              kvs_problem *problem)
{
    kvs_cuda_device *device = (kvs_cuda_device *)calloc(1, sizeof *device);
    if (device == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the CUDA backend");
    }
    (void)pthread_mutex_init(&device->mutex, NULL); /* of the default kind: does not fail */
    device->index = index;
    device->first = first != NULL ? first : device;
    device->base.table = &table;
    device->base.name = device->name;
    device->base.rows = true;
    device->base.dtypes = 1u << KVS_F32 | 1u << KVS_F64 | 1u << KVS_F16 | 1u << KVS_BF16 |
                          1u << KVS_U8 | 1u << KVS_I8 | 1u << KVS_I32 | 1u << KVS_I64;
    kvs_status status = probe(device, problem);
    if (status != KVS_OK) {
        close_device(device);
        return status;
    }
    *out = device;
    return KVS_OK;
}

kvs_status kvs_backend_cuda_open_devices(uint32_t devices_max, kvs_backend **out,
                                         kvs_problem *problem)
{
    kvs_cuda_device *first = NULL;
    int count = 0;
    KVS_TRY(count_devices(&count, problem));
    KVS_TRY(open_device(0, NULL, &first, problem));
    unsigned most =
        devices_max == 0 || devices_max > KVS_DEVICES_MAX ? KVS_DEVICES_MAX : devices_max;
    for (int i = 1; i < count && (unsigned)i < most; i++) {
        kvs_status status = open_device(i, first, &first->others[first->other_count], problem);
        if (status != KVS_OK) {
            close_backend(&first->base);
            return status;
        }
        first->other_count++;
    }
    if (first->other_count > 0) {
        size_t used = strlen(first->name);
        (void)snprintf(first->name + used, sizeof first->name - used, " and %u more",
                       first->other_count);
    }
    *out = &first->base;
    return KVS_OK;
}

kvs_status kvs_backend_cuda_open(kvs_backend **out, kvs_problem *problem)
{
    return kvs_backend_cuda_open_devices(1, out, problem);
}
