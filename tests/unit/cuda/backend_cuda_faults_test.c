/* What the CUDA backend does when CUDA fails, and that the stand-in sees a backend that forgets to
 * wait: for each order that the backend keeps, keeping it no longer turns a seed red. */
#include "cuda/backend_cuda.h"

#include "base/log.h"
#include "tests/support/cudasim/control.h"
#include "tests/unit/cuda/workload.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__)
#define WATCHED_BY_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WATCHED_BY_TSAN 1
#endif
#endif

/* The streams of the first kvs_stream, in the order in which they are created. */
enum { CARE, UP, COMPUTE, DOWN };

/* More launches between two syncs than the ring has slots. */
static const kvs_workload small = {.elements = 1001, .rounds = 3, .batches = 5};

#ifdef WATCHED_BY_TSAN
/* ThreadSanitizer takes its time, but sees a missing order whatever the bytes are. */
static const kvs_workload large = {.elements = 1001, .rounds = 2, .batches = 3};
#define SEEDS 2u
#define FAILURES_STEP 9u /* fails every ninth call only */
#else
/* Payloads longer than a slot are cut in two. */
static const kvs_workload large = {.elements = (1U << 18) + 4099, .rounds = 2, .batches = 3};
#define SEEDS 10u
#define FAILURES_STEP 1u
#endif

static kvs_status open_and_run(const kvs_workload *workload, bool *same)
{
    kvs_backend *backend = NULL;
    kvs_problem problem = {0};
    KVS_TRY(kvs_backend_cuda_open(&backend, &problem));
    kvs_status status = kvs_workload_run(workload, backend, same);
    backend->table->close(backend);
    return status;
}

static void every_seed_gives_the_right_bits(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed <= SEEDS; seed++) {
        bool same = false;
        cudasim_reset(seed);
        assert_int_equal(open_and_run(&small, &same), KVS_OK);
        assert_true(same);
        assert_int_equal(cudasim_bytes(), 0);
    }
    for (uint64_t seed = 0; seed <= 4; seed++) {
        bool same = false;
        cudasim_reset(seed);
        assert_int_equal(open_and_run(&large, &same), KVS_OK);
        assert_true(same);
    }
}

/* ------------------------------------------------------------------ planted faults */

typedef struct fault {
    const char *name;
    const char *call; /* not made any more, or NULL: */
    int waiter;       /* this stream does not wait for that one */
    int recorder;
} fault;

/* In a process of its own: a fault may end it. True: the run was not a good one. */
static bool caught(const fault *planted, uint64_t seed)
{
    static const int deaths[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool same = false;
        int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(nowhere, STDERR_FILENO); /* what ends it is expected */
        for (size_t i = 0; i < sizeof deaths / sizeof deaths[0]; i++) {
            (void)signal(deaths[i], SIG_DFL); /* cmocka would go on with the next test */
        }
        cudasim_reset(seed);
        if (planted->call != NULL) {
            cudasim_drop(planted->call);
        } else {
            cudasim_drop_wait(planted->waiter, planted->recorder);
        }
        _exit(open_and_run(&large, &same) == KVS_OK && same ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void assert_caught(const fault *planted)
{
    unsigned red = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        red += caught(planted, seed) ? 1 : 0;
    }
    print_message("%s: %u of %u seeds\n", planted->name, red, SEEDS);
    assert_true(red > 0);
}

static void without_a_fault_no_seed_is_red(void **state)
{
    const fault none = {.name = "none", .waiter = -2, .recorder = -2};
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        assert_false(caught(&none, seed));
    }
}

static void a_kernel_that_does_not_wait_for_its_copy_is_caught(void **state)
{
    (void)state;
    assert_caught(&(fault){.name = "kernel before copy", .waiter = COMPUTE, .recorder = UP});
}

static void a_copy_into_a_slot_that_is_still_read_is_caught(void **state)
{
    (void)state;
    assert_caught(&(fault){.name = "copy before kernel", .waiter = UP, .recorder = COMPUTE});
}

static void a_download_that_does_not_wait_for_the_update_is_caught(void **state)
{
    (void)state;
    assert_caught(&(fault){.name = "download before update", .waiter = DOWN, .recorder = COMPUTE});
}

static void an_update_that_does_not_wait_for_the_download_is_caught(void **state)
{
    (void)state;
    assert_caught(&(fault){.name = "update before download", .waiter = COMPUTE, .recorder = DOWN});
}

static void a_slot_that_is_filled_before_it_is_copied_is_caught(void **state)
{
    (void)state;
    assert_caught(&(fault){.name = "fill before copy", .call = "cudaEventSynchronize"});
}

static void a_pull_that_does_not_wait_for_the_download_is_caught(void **state)
{
    (void)state;
    assert_caught(&(fault){.name = "no sync", .call = "cudaStreamSynchronize"});
}

/* ------------------------------------------------------------------ failing calls */

static void each_call_that_fails_is_told_and_nothing_leaks(void **state)
{
    static const struct {
        const char *call;
        kvs_status status;
    } calls[] = {
        {"cudaGetDeviceCount", KVS_UNAVAILABLE},
        {"cudaGetDeviceProperties", KVS_UNAVAILABLE},
        {"cudaSetDevice", KVS_DEVICE_LOST},
        {"cudaFuncGetAttributes", KVS_UNAVAILABLE},
        {"cudaStreamCreateWithFlags", KVS_DEVICE_LOST},
        {"cudaEventCreateWithFlags", KVS_DEVICE_LOST},
        {"cudaMalloc", KVS_NO_MEMORY},
        {"cudaMallocHost", KVS_NO_MEMORY},
        {"cudaEventSynchronize", KVS_DEVICE_LOST},
        {"cudaStreamWaitEvent", KVS_DEVICE_LOST},
        {"cudaMemcpyAsync", KVS_DEVICE_LOST},
        {"cudaEventRecord", KVS_DEVICE_LOST},
        {"cudaLaunchKernelEx", KVS_DEVICE_LOST},
        {"cudaStreamSynchronize", KVS_DEVICE_LOST},
    };
    (void)state;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        unsigned failed = 0;
        for (unsigned nth = 1;; nth += FAILURES_STEP) {
            bool same = false;
            cudasim_reset(nth % 5);
            cudasim_fail(calls[i].call, nth);
            kvs_status status = open_and_run(&small, &same);
            assert_int_equal(cudasim_bytes(), 0);
            if (status == KVS_OK) {
                /* The last calls of all are made while closing, when nobody is left to be told. */
                assert_true(same);
                if (cudasim_calls(calls[i].call) < nth) {
                    break;
                }
                continue;
            }
            /* The first stream is the backend's own, made while it opens. */
            bool opening =
                calls[i].status == KVS_DEVICE_LOST && status == KVS_UNAVAILABLE && nth == 1;
            assert_true(status == calls[i].status || opening);
            failed++;
        }
        assert_true(failed > 0);
    }
}

static void a_lost_device_says_so_for_ever(void **state)
{
    kvs_backend *backend = NULL;
    kvs_problem problem = {0};
    kvs_stream *stream = NULL;
    kvs_stream *second = NULL;
    kvs_memory memory = {0};
    kvs_memory other = {0};
    kvs_memory *target = &memory;
    (void)state;
    cudasim_reset(1);
    assert_int_equal(kvs_backend_cuda_open(&backend, &problem), KVS_OK);
    const kvs_backend_table *table = backend->table;
    assert_int_equal(table->open_stream(backend, &stream), KVS_OK);
    assert_int_equal(table->alloc(backend, 64, &memory), KVS_OK);
    cudasim_fail("cudaLaunchKernelEx", 1);
    assert_int_equal(table->zero(stream, &target, 1), KVS_DEVICE_LOST);
    cudasim_fail(NULL, 0);
    const kvs_copy_item copy = {.target = target, .source = {.memory = target}, .bytes = 64};
    assert_int_equal(table->zero(stream, &target, 1), KVS_DEVICE_LOST);
    assert_int_equal(table->copy(stream, &copy, 1), KVS_DEVICE_LOST);
    assert_int_equal(table->download(stream, &target, 1), KVS_DEVICE_LOST);
    assert_int_equal(table->sync(stream), KVS_DEVICE_LOST);
    assert_int_equal(table->alloc(backend, 64, &other), KVS_DEVICE_LOST);
    assert_int_equal(table->open_stream(backend, &second), KVS_DEVICE_LOST);
    table->close_stream(backend, stream);
    table->free(backend, &memory);
    table->close(backend);
    assert_int_equal(cudasim_bytes(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_seed_gives_the_right_bits),
        cmocka_unit_test(without_a_fault_no_seed_is_red),
        cmocka_unit_test(a_kernel_that_does_not_wait_for_its_copy_is_caught),
        cmocka_unit_test(a_copy_into_a_slot_that_is_still_read_is_caught),
        cmocka_unit_test(a_download_that_does_not_wait_for_the_update_is_caught),
        cmocka_unit_test(an_update_that_does_not_wait_for_the_download_is_caught),
        cmocka_unit_test(a_slot_that_is_filled_before_it_is_copied_is_caught),
        cmocka_unit_test(a_pull_that_does_not_wait_for_the_download_is_caught),
        cmocka_unit_test(each_call_that_fails_is_told_and_nothing_leaks),
        cmocka_unit_test(a_lost_device_says_so_for_ever),
    };
    kvs_log_set_quiet(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
