/* The functions of the runtime, each as one scope that no other thread can be in. */
#include "cuda_runtime.h"

#include "block.hpp"
#include "control.h"
#include "memory.hpp"
#include "plan.hpp"
#include "stream.hpp"

#include <atomic>
#include <cstdio>
#include <map>
#include <sched.h>
#include <vector>

namespace cudasim
{

namespace
{

const size_t BLOCK_THREADS_MAX = 1024;
const size_t SHARED_BYTES_MAX = 48 * 1024; /* without asking for more, on any card */
const int MULTIPROCESSORS = 1;             /* few, so that blocks have to stride */

cudaError_t broken = cudaSuccess; /* the error that ended the device */
cudaError_t last = cudaSuccess;
thread_local int current_device = 0;
std::map<event *, std::shared_ptr<event>> events;

/* A lock that TSan does not see: the real runtime orders no more than CUDA says. */
std::atomic_flag busy = ATOMIC_FLAG_INIT;

class inside
{
  public:
    /* `out_of`: what a failure of this call means. */
    explicit inside(const char *name, cudaError_t out_of = cudaErrorLaunchFailure)
    {
        while (busy.test_and_set(std::memory_order_acquire)) {
            (void)sched_yield();
        }
        tsan_ignore();
        bool failing = the_plan().count(name);
        if (broken != cudaSuccess) {
            settle(broken);
        } else if (failing) {
            broken = out_of == cudaErrorMemoryAllocation ? cudaSuccess : out_of;
            settle(out_of);
        } else if (the_plan().dropped(name)) {
            settle(cudaSuccess);
        }
    }
    inside(const inside &) = delete;
    inside &operator=(const inside &) = delete;
    ~inside()
    {
        tsan_watch();
        busy.clear(std::memory_order_release);
    }

    bool settled() const
    {
        return settled_;
    }
    cudaError_t settle(cudaError_t answer)
    {
        settled_ = true;
        answer_ = answer;
        last = answer != cudaSuccess ? answer : last;
        return answer;
    }
    cudaError_t answer() const
    {
        return answer_;
    }

  private:
    bool settled_ = false;
    cudaError_t answer_ = cudaSuccess;
};

stream *checked(cudaStream_t handle)
{
    if (!the_streams().has(handle)) {
        die("%s", handle == nullptr ? "the default stream is not modelled" : "no such stream");
    }
    return handle;
}

const std::shared_ptr<event> &checked(cudaEvent_t handle)
{
    auto found = events.find(handle);
    if (found == events.end()) {
        die("no such event");
    }
    return found->second;
}

class kernel_work : public work
{
  public:
    kernel_work(const cudaLaunchConfig_t &config, std::unique_ptr<kernel_call> call)
        : config_(config), call_(std::move(call))
    {
    }

    void run() override
    {
        device_access during;
        const dim3 &grid = config_.gridDim;
        std::vector<std::unique_ptr<block>> blocks;
        for (unsigned z = 0; z < grid.z; z++) {
            for (unsigned y = 0; y < grid.y; y++) {
                for (unsigned x = 0; x < grid.x; x++) {
                    size_t number = blocks.size();
                    blocks.push_back(
                        std::make_unique<block>(config_, *call_, dim3(x, y, z), number));
                }
            }
        }
        gridDim = grid;
        for (size_t left = blocks.size(); left > 0; left--) {
            std::swap(blocks[left - 1], blocks[the_plan().draw(left)]);
            blocks[left - 1]->run();
        }
        /* Only now: blocks are not ordered among each other. */
        for (const auto &one : blocks) {
            one->join();
        }
    }

  private:
    cudaLaunchConfig_t config_;
    std::unique_ptr<kernel_call> call_;
};

class copy_work : public work
{
  public:
    copy_work(void *to, const void *from, size_t bytes) : to_(to), from_(from), bytes_(bytes)
    {
    }

    void run() override
    {
        check(to_);
        check(from_);
        device_access to(to_, bytes_);
        device_access from(from_, bytes_);
        tsan_watch();
        tsan_read(from_, bytes_);
        tsan_write(to_, bytes_);
        tsan_ignore();
        memcpy(to_, from_, bytes_);
    }

  private:
    void check(const void *side) const
    {
        if (!device_memory().holds(side, bytes_) && !pinned_memory().holds(side, bytes_)) {
            die("a copy of %zu bytes runs on memory that was freed before it ran", bytes_);
        }
    }

    void *to_;
    const void *from_;
    size_t bytes_;
};

class fill_work : public work
{
  public:
    fill_work(void *to, int value, size_t bytes) : to_(to), value_(value), bytes_(bytes)
    {
    }

    void run() override
    {
        if (!device_memory().holds(to_, bytes_)) {
            die("a memset of %zu bytes runs on memory that was freed before it ran", bytes_);
        }
        device_access during(to_, bytes_);
        tsan_watch();
        tsan_write(to_, bytes_);
        tsan_ignore();
        memset(to_, value_, bytes_);
    }

  private:
    void *to_;
    int value_;
    size_t bytes_;
};

} // namespace

cudaError_t launch(const cudaLaunchConfig_t &config, std::unique_ptr<kernel_call> call)
{
    inside now("cudaLaunchKernelEx");
    size_t threads = static_cast<size_t>(config.blockDim.x) * config.blockDim.y * config.blockDim.z;
    if (now.settled()) {
        return now.answer();
    }
    if (threads == 0 || threads > BLOCK_THREADS_MAX || config.gridDim.x == 0 ||
        config.gridDim.y == 0 || config.gridDim.z == 0 ||
        config.dynamicSmemBytes > SHARED_BYTES_MAX) {
        return now.settle(cudaErrorInvalidConfiguration);
    }
    if (checked(config.stream)->device != current_device) {
        die("a launch on a stream of device %d by a thread that means device %d",
            config.stream->device, current_device);
    }
    checked(config.stream)->queue_work(std::make_unique<kernel_work>(config, std::move(call)));
    the_streams().poke();
    return cudaSuccess;
}

cudaError_t function_attributes(cudaFuncAttributes *out)
{
    inside now("cudaFuncGetAttributes");
    if (!now.settled()) {
        out->maxThreadsPerBlock = BLOCK_THREADS_MAX;
    }
    return now.answer();
}

} // namespace cudasim

using namespace cudasim;

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    }
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorNoDevice ? "no device is detected" : cudaGetErrorName(error);
}

cudaError_t cudaGetLastError()
{
    inside now("cudaGetLastError");
    cudaError_t error = last;
    last = broken;
    return error;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    inside now("cudaGetDeviceCount");
    if (now.settled()) {
        return now.answer();
    }
    *count = the_plan().devices;
    return now.settle(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device)
{
    inside now("cudaGetDeviceProperties");
    if (now.settled()) {
        return now.answer();
    }
    if (device < 0 || device >= the_plan().devices) {
        return now.settle(cudaErrorInvalidValue);
    }
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "stand-in");
    out->major = 9;
    out->multiProcessorCount = MULTIPROCESSORS;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    inside now("cudaSetDevice");
    if (now.settled()) {
        return now.answer();
    }
    if (device < 0 || device >= the_plan().devices) {
        return now.settle(cudaErrorInvalidValue);
    }
    current_device = device;
    return cudaSuccess;
}

namespace
{

cudaError_t alloc(const char *name, memory &from, void **out, size_t bytes)
{
    inside now(name, cudaErrorMemoryAllocation);
    if (now.settled()) {
        return now.answer();
    }
    void *data = from.alloc(bytes);
    if (data == nullptr) {
        return now.settle(cudaErrorMemoryAllocation);
    }
    *out = data;
    return cudaSuccess;
}

/* Also when the device is broken: the memory went with it. Does not wait for queued work, so that
 * work which still runs on freed memory is found. */
cudaError_t give_back(const char *name, memory &to, void *data)
{
    inside now(name);
    if (data != nullptr && !to.free(data)) {
        die("%s of memory that was not allocated", name);
    }
    return now.answer();
}

} // namespace

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return alloc("cudaMalloc", device_memory(), out, bytes);
}

cudaError_t cudaFree(void *data)
{
    return give_back("cudaFree", device_memory(), data);
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return alloc("cudaMallocHost", pinned_memory(), out, bytes);
}

cudaError_t cudaFreeHost(void *data)
{
    return give_back("cudaFreeHost", pinned_memory(), data);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    inside now("cudaStreamCreateWithFlags");
    if (now.settled()) {
        return now.answer();
    }
    if (flags != cudaStreamNonBlocking) {
        die("only non-blocking streams are modelled");
    }
    *out = the_streams().create();
    (*out)->device = current_device;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    inside now("cudaStreamDestroy");
    stream *which = checked(handle);
    if (broken != cudaSuccess) {
        which->abandon();
    } else {
        the_streams().drain(which);
    }
    the_streams().destroy(which);
    return now.answer();
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    inside now("cudaStreamSynchronize");
    if (!now.settled()) {
        the_streams().drain(checked(handle));
    }
    return now.answer();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t mark, unsigned flags)
{
    inside now("cudaStreamWaitEvent");
    if (now.settled()) {
        return now.answer();
    }
    if (flags != 0) {
        return now.settle(cudaErrorInvalidValue);
    }
    stream *waiter = checked(handle);
    const std::shared_ptr<event> &what = checked(mark);
    if (!the_plan().wait_dropped(waiter->number(), what->recorder)) {
        waiter->queue_wait(what);
        the_streams().poke();
    }
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    inside now("cudaEventCreateWithFlags");
    if (now.settled()) {
        return now.answer();
    }
    if (flags != cudaEventDisableTiming) {
        die("only events without timing are modelled");
    }
    auto made = std::make_shared<event>();
    *out = made.get();
    events[made.get()] = made;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t handle)
{
    inside now("cudaEventDestroy");
    checked(handle);
    events.erase(handle);
    return now.answer();
}

cudaError_t cudaEventRecord(cudaEvent_t mark, cudaStream_t handle)
{
    inside now("cudaEventRecord");
    if (!now.settled()) {
        checked(handle)->queue_record(checked(mark));
        the_streams().poke();
    }
    return now.answer();
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle)
{
    inside now("cudaEventSynchronize");
    if (now.settled()) {
        return now.answer();
    }
    std::shared_ptr<event> mark = checked(handle);
    uint64_t turn = mark->recorded;
    the_streams().drain(*mark, turn);
    if (turn > 0) {
        tsan_acquire(&mark->sync);
    }
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t handle)
{
    inside now("cudaMemcpyAsync");
    if (now.settled()) {
        return now.answer();
    }
    bool to_host = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost;
    bool from_host = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost;
    const memory &target = to_host ? pinned_memory() : device_memory();
    const memory &source = from_host ? pinned_memory() : device_memory();
    if (!target.holds(to, bytes)) {
        die("a copy of %zu bytes does not fit its %s target", bytes, to_host ? "pinned" : "device");
    }
    if (!source.holds(from, bytes)) {
        die("a copy of %zu bytes does not fit its %s source", bytes,
            from_host ? "pinned" : "device");
    }
    checked(handle)->queue_work(std::make_unique<copy_work>(to, from, bytes));
    the_streams().poke();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t handle)
{
    inside now("cudaMemsetAsync");
    if (now.settled()) {
        return now.answer();
    }
    if (!device_memory().holds(to, bytes)) {
        die("a memset of %zu bytes does not fit its target", bytes);
    }
    checked(handle)->queue_work(std::make_unique<fill_work>(to, value, bytes));
    the_streams().poke();
    return cudaSuccess;
}

void cudasim_reset(uint64_t seed)
{
    if (cudasim_bytes() != 0) {
        die("reset while %zu bytes are allocated", cudasim_bytes());
    }
    the_streams().reset();
    the_plan().reset(seed);
    device_memory().seen = nullptr;
    broken = cudaSuccess;
    last = cudaSuccess;
    current_device = 0;
}

void cudasim_set_devices(int count)
{
    the_plan().devices = count;
}

void cudasim_fail(const char *call, unsigned nth)
{
    the_plan().fail(call, nth);
}

void cudasim_drop(const char *call)
{
    the_plan().drop(call);
}

void cudasim_drop_wait(int waiter, int recorder)
{
    the_plan().drop_wait(waiter, recorder);
}

unsigned cudasim_calls(const char *call)
{
    return the_plan().calls(call);
}

void cudasim_watch_free(void (*seen)(const unsigned char *data, size_t bytes))
{
    device_memory().seen = seen;
}

size_t cudasim_bytes(void)
{
    return device_memory().bytes() + pinned_memory().bytes();
}
