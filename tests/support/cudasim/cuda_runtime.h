/* A stand-in for the CUDA runtime: CUDA C++ compiles as C++17 against it and runs on the CPU.
 *
 * For tests only. It has the part of the runtime that cuda/ uses, and is strict where a card is
 * lenient: streams are non-blocking, the default stream does not exist, the host side of a copy
 * is pinned, freeing does not wait. What it cannot say: speed, occupancy, coalescing.
 *
 * Kernels that can be run here: no <<<>>> (cudaLaunchKernelEx), no PTX, no static __shared__ (use
 * cudasim::dynamic_shared), warp operations with explicit masks only.
 */
#ifndef KVS_TESTS_CUDASIM_CUDA_RUNTIME_H
#define KVS_TESTS_CUDASIM_CUDA_RUNTIME_H

#define KVS_CUDASIM 1

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1)
        : x(width), y(height), z(depth)
    {
    }
};

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719
};

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
};

enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

namespace cudasim
{
class stream;
struct event;

/* A kernel with its arguments. */
class kernel_call
{
  public:
    virtual ~kernel_call() = default;
    virtual void run() const = 0; /* as the current thread of the current block */
};

template <typename... Parameters> class kernel_with : public kernel_call
{
  public:
    kernel_with(void (*kernel)(Parameters...), std::tuple<Parameters...> arguments)
        : kernel_(kernel), arguments_(std::move(arguments))
    {
    }
    void run() const override
    {
        std::apply(kernel_, arguments_);
    }

  private:
    void (*kernel_)(Parameters...);
    std::tuple<Parameters...> arguments_;
};

void barrier();
/* Shows `value` to all lanes of the mask; the number of the own lane. */
unsigned warp_exchange(unsigned mask, uint64_t value, uint64_t shown[32]);
void *dynamic_shared();
} // namespace cudasim

typedef cudasim::stream *cudaStream_t;
typedef cudasim::event *cudaEvent_t;

struct cudaDeviceProp {
    char name[256];
    int major;
    int minor;
    int multiProcessorCount;
};

struct cudaFuncAttributes {
    int maxThreadsPerBlock;
};

struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
};

namespace cudasim
{
cudaError_t launch(const cudaLaunchConfig_t &config, std::unique_ptr<kernel_call> call);
cudaError_t function_attributes(cudaFuncAttributes *out);
} // namespace cudasim

const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *data);
cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaFreeHost(void *data);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);

template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, Kernel *kernel)
{
    (void)kernel;
    return cudasim::function_attributes(out);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments)
{
    return cudasim::launch(
        *config, std::make_unique<cudasim::kernel_with<Parameters...>>(
                     kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)));
}

/* What a kernel sees. Set before a thread goes on. */
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

inline void __syncthreads()
{
    cudasim::barrier();
}

inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    uint64_t shown[32];
    (void)cudasim::warp_exchange(mask, 0, shown);
}

namespace cudasim
{
/* The value of the lane that `pick` names, or the own one where it names none of the warp. */
template <typename Value, typename Pick> Value shuffle(unsigned mask, Value value, Pick pick)
{
    static_assert(sizeof value <= sizeof(uint64_t), "shuffles move up to 8 bytes");
    uint64_t shown[32];
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    unsigned lane = warp_exchange(mask, bits, shown);
    unsigned from = pick(lane);
    memcpy(&value, &shown[from < 32 ? from : lane], sizeof value);
    return value;
}
} // namespace cudasim

template <typename Value> Value __shfl_down_sync(unsigned mask, Value value, unsigned by)
{
    return cudasim::shuffle(mask, value, [by](unsigned lane) { return lane + by; });
}

template <typename Value> Value __shfl_xor_sync(unsigned mask, Value value, int with)
{
    return cudasim::shuffle(mask, value,
                            [with](unsigned lane) { return lane ^ static_cast<unsigned>(with); });
}

template <typename Value> Value __shfl_sync(unsigned mask, Value value, int from)
{
    return cudasim::shuffle(mask, value,
                            [from](unsigned) { return static_cast<unsigned>(from) % 32; });
}

inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    uint64_t shown[32];
    unsigned result = 0;
    (void)cudasim::warp_exchange(mask, predicate != 0, shown);
    for (unsigned i = 0; i < 32; i++) {
        result |= (mask >> i & 1) != 0 && shown[i] != 0 ? 1u << i : 0;
    }
    return result;
}

#endif
