/* The stand-in for the CUDA runtime: that it computes what a card computes, and that it sees what
 * on a card would be a hang, garbage or nothing at all. */
#include "control.h"
#include "cuda_runtime.h"

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h> /* Debian 12's has no guard of its own */
}

#if defined(__SANITIZE_ADDRESS__)
#define WATCHED_BY_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define WATCHED_BY_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED_BY_ASAN 1
#elif __has_feature(thread_sanitizer)
#define WATCHED_BY_TSAN 1
#endif
#endif

namespace
{

const unsigned SEEDS = 12;
const unsigned THREADS = 64;
const char *program;

/* ------------------------------------------------------------------ kernels */

__global__ void add_one(float *values, unsigned count)
{
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * blockDim.x) {
        values[i] += 1;
    }
}

/* One sum a block, through shared memory; `wait` false leaves a __syncthreads out. */
__global__ void sum_block(const float *values, float *sums, bool wait)
{
    auto *shared = static_cast<float *>(cudasim::dynamic_shared());
    shared[threadIdx.x] = values[blockIdx.x * blockDim.x + threadIdx.x];
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (wait) {
            __syncthreads();
        }
        if (threadIdx.x < half) {
            shared[threadIdx.x] += shared[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = shared[0];
    }
}

/* One sum a warp by shuffles; the even lanes also count themselves. */
__global__ void sum_warp(const float *values, float *sums, unsigned *even)
{
    float sum = values[threadIdx.x];
    for (unsigned by = 16; by > 0; by /= 2) {
        sum += __shfl_down_sync(0xffffffffu, sum, by);
    }
    sum = __shfl_sync(0xffffffffu, sum, 0);
    unsigned ballot = __ballot_sync(0xffffffffu, threadIdx.x % 2 == 0);
    float other = __shfl_xor_sync(0xffffffffu, static_cast<float>(threadIdx.x), 1);
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = sum;
        even[threadIdx.x / 32] = ballot;
    }
    if (other != static_cast<float>(threadIdx.x ^ 1)) {
        sums[threadIdx.x / 32] = -1;
    }
}

__global__ void wait_together()
{
    __syncthreads();
    __syncwarp();
}

__global__ void leave_some_behind()
{
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    }
}

__global__ void shuffle_with_the_dead()
{
    if (threadIdx.x < 16) {
        (void)__shfl_down_sync(0xffffffffu, 1.0F, 1);
    }
}

__global__ void shuffle_outside_the_mask()
{
    (void)__shfl_sync(0x0000ffffu, 1.0F, 0);
}

__global__ void wait_for_different_things()
{
    if (threadIdx.x < 16) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

__global__ void write_at(float *values, long index)
{
    values[index] = 1;
}

__global__ void read_at(const float *values, long index, float *out)
{
    *out = values[index];
}

/* Every block writes the same place. */
__global__ void write_together(float *values)
{
    if (threadIdx.x == 0) {
        *values = static_cast<float>(blockIdx.x);
    }
}

/* ------------------------------------------------------------------ a small program */

/* Device and pinned memory, two streams and an event. */
struct bench {
    float *device = nullptr;
    float *pinned = nullptr;
    size_t count;
    cudaStream_t one = nullptr;
    cudaStream_t other = nullptr;
    cudaEvent_t mark = nullptr;

    explicit bench(size_t elements) : count(elements)
    {
        assert_int_equal(cudaMalloc(reinterpret_cast<void **>(&device), count * 4), cudaSuccess);
        assert_int_equal(cudaMallocHost(reinterpret_cast<void **>(&pinned), count * 4),
                         cudaSuccess);
        assert_int_equal(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking), cudaSuccess);
        assert_int_equal(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), cudaSuccess);
        assert_int_equal(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), cudaSuccess);
    }
    bench(const bench &) = delete;
    bench &operator=(const bench &) = delete;
    ~bench()
    {
        (void)cudaStreamDestroy(other);
        (void)cudaStreamDestroy(one);
        (void)cudaEventDestroy(mark);
        (void)cudaFree(device);
        (void)cudaFreeHost(pinned);
    }

    void up()
    {
        assert_int_equal(cudaMemcpyAsync(device, pinned, count * 4, cudaMemcpyHostToDevice, one),
                         cudaSuccess);
    }
    void down(cudaStream_t stream)
    {
        assert_int_equal(cudaMemcpyAsync(pinned, device, count * 4, cudaMemcpyDeviceToHost, stream),
                         cudaSuccess);
    }
    cudaLaunchConfig_t shape(unsigned blocks, unsigned threads, size_t shared = 0) const
    {
        return cudaLaunchConfig_t{dim3(blocks), dim3(threads), shared, one, nullptr, 0};
    }
    void sync()
    {
        assert_int_equal(cudaStreamSynchronize(one), cudaSuccess);
    }
};

/* ------------------------------------------------------------------ what a card computes */

void a_kernel_strides_over_all_elements(void **)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cudasim_reset(seed);
        bench with(1000);
        for (size_t i = 0; i < with.count; i++) {
            with.pinned[i] = static_cast<float>(i);
        }
        with.up();
        cudaLaunchConfig_t config = with.shape(3, THREADS);
        assert_int_equal(cudaLaunchKernelEx(&config, add_one, with.device, 1000u), cudaSuccess);
        with.down(with.one);
        with.sync();
        for (size_t i = 0; i < with.count; i++) {
            assert_true(with.pinned[i] == static_cast<float>(i + 1));
        }
    }
}

/* True: the sums of the blocks are right. */
bool reduce(uint64_t seed, bool wait)
{
    cudasim_reset(seed);
    bench with(2 * THREADS + 2);
    for (size_t i = 0; i < with.count; i++) {
        with.pinned[i] = static_cast<float>(i < THREADS ? 1 : 2);
    }
    with.up();
    cudaLaunchConfig_t config = with.shape(2, THREADS, THREADS * 4);
    assert_int_equal(cudaLaunchKernelEx(&config, sum_block, with.device,
                                        with.device + static_cast<size_t>(2) * THREADS, wait),
                     cudaSuccess);
    with.down(with.one);
    with.sync();
    const float *sums = with.pinned + static_cast<size_t>(2) * THREADS;
    return sums[0] == THREADS && sums[1] == 2 * THREADS;
}

void a_block_reduces_through_shared_memory(void **)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        assert_true(reduce(seed, true));
    }
}

void warps_shuffle_and_vote(void **)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        cudasim_reset(seed);
        bench with(THREADS + 4);
        for (size_t i = 0; i < with.count; i++) {
            with.pinned[i] = 1;
        }
        with.up();
        cudaLaunchConfig_t config = with.shape(1, THREADS);
        float *sums = with.device + THREADS;
        assert_int_equal(cudaLaunchKernelEx(&config, sum_warp, with.device, sums,
                                            reinterpret_cast<unsigned *>(sums + 2)),
                         cudaSuccess);
        with.down(with.one);
        with.sync();
        unsigned even[2];
        memcpy(even, with.pinned + THREADS + 2, sizeof even);
        assert_true(with.pinned[THREADS] == 32);
        assert_true(with.pinned[THREADS + 1] == 32);
        assert_int_equal(even[0], 0x55555555u);
        assert_int_equal(even[1], 0x55555555u);
    }
}

/* ------------------------------------------------------------------ what ends the process */

/* Runs in a process of its own, which may die. True: it ended well and returned true. */
bool good(uint64_t seed, bool (*run)(uint64_t seed))
{
    static const int deaths[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(nowhere, STDERR_FILENO); /* what ends it is expected */
        for (int death : deaths) {
            (void)signal(death, SIG_DFL); /* cmocka would go on with the next test */
        }
        exit(run(seed) ? 0 : 1); /* not _exit: a sanitizer may have its say */
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

unsigned bad_seeds(bool (*run)(uint64_t seed))
{
    unsigned bad = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        bad += good(seed, run) ? 0 : 1;
    }
    return bad;
}

/* Launches a kernel of no arguments on one block of 32 and waits for it. */
bool launch_warp(uint64_t seed, void (*kernel)())
{
    cudasim_reset(seed);
    bench with(4);
    cudaLaunchConfig_t config = with.shape(1, 32);
    assert_int_equal(cudaLaunchKernelEx(&config, kernel), cudaSuccess);
    with.sync();
    return true;
}

/* Launches one thread that touches an element. */
bool touch(uint64_t seed, bool write, long index)
{
    cudasim_reset(seed);
    bench with(5);
    cudaLaunchConfig_t config = with.shape(1, 1);
    assert_int_equal(write ? cudaLaunchKernelEx(&config, write_at, with.device, index)
                           : cudaLaunchKernelEx(&config, read_at, with.device, index, with.device),
                     cudaSuccess);
    with.sync();
    return true;
}

void a_missing_syncthreads_is_caught(void **)
{
    assert_int_equal(bad_seeds([](uint64_t seed) { return reduce(seed, true); }), 0);
    assert_true(bad_seeds([](uint64_t seed) { return reduce(seed, false); }) > SEEDS / 2);
}

void a_sound_kernel_ends_well(void **)
{
    assert_int_equal(bad_seeds([](uint64_t seed) { return launch_warp(seed, wait_together); }), 0);
}

void a_barrier_that_some_threads_leave_is_caught(void **)
{
    assert_false(good(1, [](uint64_t seed) { return launch_warp(seed, leave_some_behind); }));
}

void a_shuffle_with_lanes_that_have_left_is_caught(void **)
{
    assert_false(good(1, [](uint64_t seed) { return launch_warp(seed, shuffle_with_the_dead); }));
}

void a_shuffle_outside_of_the_own_mask_is_caught(void **)
{
    assert_false(
        good(1, [](uint64_t seed) { return launch_warp(seed, shuffle_outside_the_mask); }));
}

void a_deadlock_in_a_block_is_caught(void **)
{
    assert_false(
        good(1, [](uint64_t seed) { return launch_warp(seed, wait_for_different_things); }));
}

void a_write_past_the_end_is_caught(void **)
{
    assert_true(good(1, [](uint64_t seed) { return touch(seed, true, 4); }));
    assert_false(good(1, [](uint64_t seed) { return touch(seed, true, 5); }));
}

void a_read_past_the_end_is_caught(void **)
{
#ifdef WATCHED_BY_ASAN
    assert_true(good(1, [](uint64_t seed) { return touch(seed, false, 4); }));
    assert_false(good(1, [](uint64_t seed) { return touch(seed, false, 5); }));
#else
    skip(); /* only AddressSanitizer sees a read */
#endif
}

void the_host_touching_device_memory_is_caught(void **)
{
#ifdef WATCHED_BY_ASAN
    assert_false(good(1, [](uint64_t seed) {
        cudasim_reset(seed);
        bench with(4);
        return *static_cast<volatile float *>(with.device) != 1;
    }));
#else
    skip(); /* only AddressSanitizer sees it */
#endif
}

void a_copy_that_does_not_fit_is_caught(void **)
{
    assert_false(good(1, [](uint64_t seed) {
        cudasim_reset(seed);
        bench with(4);
        (void)cudaMemcpyAsync(with.device, with.pinned, 17, cudaMemcpyHostToDevice, with.one);
        return true;
    }));
}

void a_copy_from_pageable_memory_is_caught(void **)
{
    assert_false(good(1, [](uint64_t seed) {
        const float pageable = 1;
        cudasim_reset(seed);
        bench with(4);
        (void)cudaMemcpyAsync(with.device, &pageable, 4, cudaMemcpyHostToDevice, with.one);
        return true;
    }));
}

void freeing_under_a_copy_is_caught(void **)
{
    assert_false(good(1, [](uint64_t seed) {
        cudasim_reset(seed);
        bench with(4);
        with.up();
        (void)cudaFree(with.device);
        with.device = nullptr;
        with.sync();
        return true;
    }));
}

/* ------------------------------------------------------------------ orders */

/* A host that writes to memory while its copy is on its way. */
bool copy_is_done_at_once(uint64_t seed)
{
    cudasim_reset(seed);
    bench with(4);
    memset(with.pinned, 0, 16);
    with.up();
    with.pinned[0] = 7;
    with.down(with.one);
    with.sync();
    return with.pinned[0] == 0;
}

void work_runs_late(void **)
{
    assert_true(bad_seeds(copy_is_done_at_once) > SEEDS / 2);
    cudasim_reset(0);
    bench with(4);
    memset(with.pinned, 0, 16);
    with.up();
    with.down(with.one);
    with.sync();
    assert_true(with.pinned[0] == 0);
}

/* Whether a stream sees what a kernel on another one did before. */
bool other_stream_sees(uint64_t seed, bool wait)
{
    cudasim_reset(seed);
    bench with(4);
    memset(with.pinned, 0, 16);
    with.up();
    with.sync();
    cudaLaunchConfig_t config = with.shape(1, 32);
    assert_int_equal(cudaLaunchKernelEx(&config, add_one, with.device, 4u), cudaSuccess);
    assert_int_equal(cudaEventRecord(with.mark, with.one), cudaSuccess);
    if (wait) {
        assert_int_equal(cudaStreamWaitEvent(with.other, with.mark, 0), cudaSuccess);
    }
    with.down(with.other);
    assert_int_equal(cudaStreamSynchronize(with.other), cudaSuccess);
    return with.pinned[0] == 1;
}

void only_an_event_orders_streams(void **)
{
    assert_int_equal(bad_seeds([](uint64_t seed) { return other_stream_sees(seed, true); }), 0);
    assert_true(bad_seeds([](uint64_t seed) { return other_stream_sees(seed, false); }) > 0);
}

/* The block whose write is the last. ThreadSanitizer calls it the race that it is. */
int last_block(uint64_t seed)
{
    cudasim_reset(seed);
    bench with(1);
    cudaLaunchConfig_t config = with.shape(16, 1);
    assert_int_equal(cudaLaunchKernelEx(&config, write_together, with.device), cudaSuccess);
    with.down(with.one);
    with.sync();
    return static_cast<int>(with.pinned[0]);
}

void the_seed_decides_and_repeats(void **)
{
#ifdef WATCHED_BY_TSAN
    assert_false(good(1, [](uint64_t seed) { return last_block(seed) >= 0; }));
#else
    bool differs = false;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        const int first = last_block(seed);
        assert_int_equal(last_block(seed), first);
        differs = differs || first != last_block(seed + 1);
    }
    assert_true(differs);
#endif
}

/* ------------------------------------------------------------------ failures and environment */

void a_call_fails_when_it_is_told_to_and_breaks_the_device(void **)
{
    cudasim_reset(1);
    void *data = nullptr;
    cudasim_fail("cudaMalloc", 2);
    assert_int_equal(cudaMalloc(&data, 8), cudaSuccess);
    void *second = nullptr;
    assert_int_equal(cudaMalloc(&second, 8), cudaErrorMemoryAllocation);
    assert_null(second);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    cudasim_fail("cudaStreamCreateWithFlags", 1);
    cudaStream_t stream = nullptr;
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                     cudaErrorLaunchFailure);
    assert_int_equal(cudaMalloc(&second, 8), cudaErrorLaunchFailure);
    assert_int_equal(cudaFree(data), cudaErrorLaunchFailure);
    assert_int_equal(cudasim_bytes(), 0);
}

/* What a fresh process makes of its environment: this program, called with an argument. */
int probe()
{
    int count = 0;
    void *data = nullptr;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        return 10;
    }
    for (int i = 1; i <= 3; i++) {
        if (cudaMalloc(&data, 8) != cudaSuccess) {
            return 10 + i;
        }
        (void)cudaFree(data);
    }
    return 0;
}

int probe_with(const char *name, const char *value)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)setenv(name, value, 1);
        (void)execl(program, program, "probe", static_cast<char *>(nullptr));
        _exit(1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void the_environment_steers_a_process(void **)
{
    assert_int_equal(probe_with("CUDASIM_SEED", "3"), 0);
    assert_int_equal(probe_with("CUDASIM_NODEV", "1"), 10);
    assert_int_equal(probe_with("CUDASIM_FAIL", "cudaMalloc:3"), 13);
}

} // namespace

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kernel_strides_over_all_elements),
        cmocka_unit_test(a_block_reduces_through_shared_memory),
        cmocka_unit_test(warps_shuffle_and_vote),
        cmocka_unit_test(a_missing_syncthreads_is_caught),
        cmocka_unit_test(a_sound_kernel_ends_well),
        cmocka_unit_test(a_barrier_that_some_threads_leave_is_caught),
        cmocka_unit_test(a_shuffle_with_lanes_that_have_left_is_caught),
        cmocka_unit_test(a_shuffle_outside_of_the_own_mask_is_caught),
        cmocka_unit_test(a_deadlock_in_a_block_is_caught),
        cmocka_unit_test(a_write_past_the_end_is_caught),
        cmocka_unit_test(a_read_past_the_end_is_caught),
        cmocka_unit_test(the_host_touching_device_memory_is_caught),
        cmocka_unit_test(a_copy_that_does_not_fit_is_caught),
        cmocka_unit_test(a_copy_from_pageable_memory_is_caught),
        cmocka_unit_test(freeing_under_a_copy_is_caught),
        cmocka_unit_test(work_runs_late),
        cmocka_unit_test(only_an_event_orders_streams),
        cmocka_unit_test(the_seed_decides_and_repeats),
        cmocka_unit_test(a_call_fails_when_it_is_told_to_and_breaks_the_device),
        cmocka_unit_test(the_environment_steers_a_process),
    };
    program = argv[0];
    if (argc == 2 && strcmp(argv[1], "probe") == 0) {
        return probe();
    }
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
