#include "bench/gpu/card.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <cuda_runtime.h>

namespace
{

/* Two streams, and memory on both sides of the link. */
struct bench {
    cudaStream_t stream[2] = {nullptr, nullptr};
    void *device[2] = {nullptr, nullptr};
    void *pinned[2] = {nullptr, nullptr};
    size_t bytes = 0;

    bench() = default;
    bench(const bench &) = delete;
    bench &operator=(const bench &) = delete;
    ~bench()
    {
        for (int i = 0; i < 2; i++) {
            if (device[i] != nullptr) {
                (void)cudaFree(device[i]);
            }
            if (pinned[i] != nullptr) {
                (void)cudaFreeHost(pinned[i]);
            }
            if (stream[i] != nullptr) {
                (void)cudaStreamDestroy(stream[i]);
            }
        }
    }

    cudaError_t open(size_t size)
    {
        cudaError_t error = cudaSetDevice(0);
        bytes = size;
        for (int i = 0; i < 2 && error == cudaSuccess; i++) {
            error = cudaStreamCreateWithFlags(&stream[i], cudaStreamNonBlocking);
            error = error == cudaSuccess ? cudaMalloc(&device[i], bytes) : error;
            error = error == cudaSuccess ? cudaMallocHost(&pinned[i], bytes) : error;
            if (error == cudaSuccess) {
                memset(pinned[i], 1, bytes); /* pages that are there */
                error = cudaMemsetAsync(device[i], 1, bytes, stream[i]);
            }
        }
        return error == cudaSuccess ? sync() : error;
    }

    cudaError_t sync()
    {
        cudaError_t error = cudaStreamSynchronize(stream[0]);
        return error == cudaSuccess ? cudaStreamSynchronize(stream[1]) : error;
    }

    /* The seconds of copies, all at once. */
    cudaError_t time(bool within, bool up, bool down, double *seconds)
    {
        cudaError_t error = cudaSuccess;
        const auto start = std::chrono::steady_clock::now();
        if (within) {
            error =
                cudaMemcpyAsync(device[1], device[0], bytes, cudaMemcpyDeviceToDevice, stream[0]);
        }
        if (up && error == cudaSuccess) {
            error = cudaMemcpyAsync(device[0], pinned[0], bytes, cudaMemcpyHostToDevice, stream[0]);
        }
        if (down && error == cudaSuccess) {
            error = cudaMemcpyAsync(pinned[1], device[1], bytes, cudaMemcpyDeviceToHost, stream[1]);
        }
        error = error == cudaSuccess ? sync() : error;
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        *seconds = took.count();
        return error;
    }
};

void keep_best(double *best, double bytes, double seconds)
{
    const double rate = seconds > 0 ? bytes / seconds : 0;
    *best = rate > *best ? rate : *best;
}

cudaError_t measure(bench *with, unsigned repeats, kvs_gpu_card *out)
{
    const double bytes = static_cast<double>(with->bytes);
    cudaError_t error = cudaSuccess;
    for (unsigned i = 0; i < repeats && error == cudaSuccess; i++) {
        double seconds = 0;
        error = with->time(true, false, false, &seconds);
        keep_best(&out->copy, 2 * bytes, seconds);
        error = error == cudaSuccess ? with->time(false, true, false, &seconds) : error;
        keep_best(&out->up, bytes, seconds);
        error = error == cudaSuccess ? with->time(false, false, true, &seconds) : error;
        keep_best(&out->down, bytes, seconds);
        error = error == cudaSuccess ? with->time(false, true, true, &seconds) : error;
        keep_best(&out->up_both, bytes, seconds);
        keep_best(&out->down_both, bytes, seconds);
    }
    return error;
}

} // namespace

bool kvs_gpu_card_measure(size_t bytes, unsigned repeats, kvs_gpu_card *out)
{
    int count = 0;
    cudaDeviceProp properties;
    bench with;
    memset(out, 0, sizeof *out);
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count == 0) {
        error = cudaErrorNoDevice;
    }
    error = error == cudaSuccess ? cudaGetDeviceProperties(&properties, 0) : error;
    if (error == cudaSuccess) {
        (void)snprintf(out->name, sizeof out->name, "%s", properties.name);
        out->major = properties.major;
        out->minor = properties.minor;
        out->multiprocessors = properties.multiProcessorCount;
        error = with.open(bytes);
    }
    error = error == cudaSuccess ? measure(&with, repeats, out) : error;
    if (error != cudaSuccess) {
        (void)fprintf(stderr, "kvbench_gpu: no card to measure: %s (%s)\n", cudaGetErrorName(error),
                      cudaGetErrorString(error));
    }
    return error == cudaSuccess;
}
