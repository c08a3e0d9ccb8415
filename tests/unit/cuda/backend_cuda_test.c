/* What only the CUDA backend promises; what every backend must do is in tests/contract. */
#include "cuda/backend_cuda.h"

#include "tests/support/cudasim/control.h"
#include "tests/unit/cuda/workload.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEEDS 6u

typedef struct fixture {
    kvs_backend *backend;
    const kvs_backend_table *table;
    kvs_stream *stream;
} fixture;

static fixture open_fixture(uint64_t seed)
{
    fixture one = {0};
    kvs_problem problem = {0};
    cudasim_reset(seed);
    assert_int_equal(kvs_backend_cuda_open(&one.backend, &problem), KVS_OK);
    one.table = one.backend->table;
    assert_int_equal(one.table->open_stream(one.backend, &one.stream), KVS_OK);
    return one;
}

static void close_fixture(fixture *one)
{
    one->table->close_stream(one->backend, one->stream);
    one->table->close(one->backend);
    assert_int_equal(cudasim_bytes(), 0);
}

static kvs_source bytes_of(const kvs_span *span)
{
    return (kvs_source){.payload = {.spans = span, .count = 1, .bytes = span->bytes}};
}

static void put(fixture *one, kvs_memory *target, const void *from, size_t bytes)
{
    const kvs_span span = {.data = from, .bytes = bytes};
    const kvs_copy_item item = {.target = target, .source = bytes_of(&span), .bytes = bytes};
    assert_int_equal(one->table->copy(one->stream, &item, 1), KVS_OK);
    assert_int_equal(one->table->sync(one->stream), KVS_OK);
}

static void the_name_is_the_card(void **state)
{
    fixture one = open_fixture(1);
    (void)state;
    assert_string_equal(one.backend->name, "cuda stand-in");
    close_fixture(&one);
}

static void without_a_device_the_problem_says_why(void **state)
{
    kvs_backend *backend = NULL;
    kvs_problem problem = {0};
    (void)state;
    cudasim_reset(1);
    cudasim_set_devices(0);
    assert_int_equal(kvs_backend_cuda_open(&backend, &problem), KVS_UNAVAILABLE);
    assert_null(backend);
    assert_int_equal(problem.status, KVS_UNAVAILABLE);
    assert_non_null(strstr(problem.detail, "cudaErrorNoDevice"));
}

/* ------------------------------------------------------------------ memory */

static unsigned frees_seen;
static bool only_zeros;

static void see_free(const unsigned char *data, size_t bytes)
{
    frees_seen++;
    for (size_t i = 0; i < bytes; i++) {
        only_zeros = only_zeros && data[i] == 0;
    }
}

static void memory_and_slots_are_wiped_before_they_are_freed(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        uint8_t secret[1000];
        fixture one = open_fixture(seed);
        kvs_memory memory = {0};
        kvs_memory *target = &memory;
        memset(secret, 0x5a, sizeof secret);
        assert_int_equal(one.table->alloc(one.backend, sizeof secret, &memory), KVS_OK);
        put(&one, &memory, secret, sizeof secret);
        assert_int_equal(one.table->download(one.stream, &target, 1), KVS_OK);
        assert_int_equal(one.table->sync(one.stream), KVS_OK);
        assert_memory_equal(memory.host, secret, sizeof secret);
        frees_seen = 0;
        only_zeros = true;
        cudasim_watch_free(see_free);
        one.table->free(one.backend, &memory);
        close_fixture(&one);
        assert_int_equal(frees_seen, 9); /* the memory, four slots, the scratch, block sums */
        assert_true(only_zeros);
    }
}

static void host_is_pinned_at_the_first_download_and_kept(void **state)
{
    const float value = 1.5F;
    fixture one = open_fixture(1);
    kvs_memory memory = {0};
    kvs_memory *target = &memory;
    (void)state;
    assert_int_equal(one.table->alloc(one.backend, sizeof value, &memory), KVS_OK);
    assert_null(memory.host);
    put(&one, &memory, &value, sizeof value);
    assert_int_equal(one.table->download(one.stream, &target, 1), KVS_OK);
    assert_int_equal(one.table->sync(one.stream), KVS_OK);
    const void *host = memory.host;
    const unsigned pinned = cudasim_calls("cudaMallocHost");
    assert_non_null(host);
    assert_int_equal(one.table->download(one.stream, &target, 1), KVS_OK);
    assert_int_equal(one.table->sync(one.stream), KVS_OK);
    assert_ptr_equal(memory.host, host);
    assert_int_equal(cudasim_calls("cudaMallocHost"), pinned);
    one.table->free(one.backend, &memory);
    close_fixture(&one);
}

static void work_allocates_nothing(void **state)
{
    float gradient[100] = {0};
    const kvs_span span = {.data = (const uint8_t *)gradient, .bytes = sizeof gradient};
    fixture one = open_fixture(2);
    kvs_memory memory = {0};
    (void)state;
    assert_int_equal(one.table->alloc(one.backend, sizeof gradient, &memory), KVS_OK);
    const unsigned device = cudasim_calls("cudaMalloc");
    const unsigned pinned = cudasim_calls("cudaMallocHost");
    for (unsigned i = 0; i < 20; i++) {
        const kvs_accumulate_item item = {
            .target = &memory,
            .source = bytes_of(&span),
            .elements = 100,
            .dtype = KVS_F32,
            .first = i == 0,
        };
        assert_int_equal(one.table->accumulate(one.stream, &item, 1), KVS_OK);
    }
    assert_int_equal(one.table->sync(one.stream), KVS_OK);
    assert_int_equal(cudasim_calls("cudaMalloc"), device);
    assert_int_equal(cudasim_calls("cudaMallocHost"), pinned);
    one.table->free(one.backend, &memory);
    close_fixture(&one);
}

static void a_closed_stream_is_opened_again(void **state)
{
    const uint8_t secret[64] = {1, 2, 3};
    kvs_stream *streams[8] = {NULL};
    fixture one = open_fixture(3);
    kvs_memory memory = {0};
    (void)state;
    assert_int_equal(one.table->alloc(one.backend, sizeof secret, &memory), KVS_OK);
    for (unsigned turn = 0; turn < 3; turn++) {
        const unsigned pinned = cudasim_calls("cudaMallocHost");
        const unsigned wiped = cudasim_calls("cudaMemsetAsync");
        for (size_t i = 0; i < 8; i++) {
            assert_int_equal(one.table->open_stream(one.backend, &streams[i]), KVS_OK);
        }
        /* Four of them are kept, each with its four slots and room for sums. */
        assert_int_equal(cudasim_calls("cudaMallocHost"), pinned + (turn == 0 ? 8U : 4U) * 5);
        fixture other = {.backend = one.backend, .table = one.table, .stream = streams[7]};
        put(&other, &memory, secret, sizeof secret);
        assert_int_equal(one.table->sync(streams[7]), KVS_OK);
        for (size_t i = 8; i-- > 0;) {
            one.table->close_stream(one.backend, streams[i]);
        }
        assert_true(cudasim_calls("cudaMemsetAsync") > wiped);
    }
    one.table->free(one.backend, &memory);
    close_fixture(&one);
}

/* ------------------------------------------------------------------ several devices */

static void shards_are_dealt_to_the_devices(void **state)
{
    const float value = 2.5F;
    kvs_backend *backend = NULL;
    kvs_problem problem = {0};
    (void)state;
    cudasim_reset(5);
    cudasim_set_devices(3);
    assert_int_equal(kvs_backend_cuda_open_devices(0, &backend, &problem), KVS_OK);
    assert_string_equal(backend->name, "cuda stand-in and 2 more");
    for (uint32_t shard = 0; shard < 6; shard++) {
        kvs_backend *mine = backend->table->place(backend, shard);
        fixture one = {.backend = mine, .table = mine->table};
        kvs_memory memory = {0};
        kvs_memory *target = &memory;
        assert_ptr_equal(mine, backend->table->place(backend, (shard + 3) % 6));
        assert_true((mine == backend) == (shard % 3 == 0));
        assert_int_equal(one.table->open_stream(mine, &one.stream), KVS_OK);
        assert_int_equal(one.table->alloc(mine, sizeof value, &memory), KVS_OK);
        put(&one, &memory, &value, sizeof value);
        assert_int_equal(one.table->download(one.stream, &target, 1), KVS_OK);
        assert_int_equal(one.table->sync(one.stream), KVS_OK);
        assert_memory_equal(memory.host, &value, sizeof value);
        one.table->free(mine, &memory);
        one.table->close_stream(mine, one.stream);
    }
    backend->table->close(backend);
    assert_int_equal(cudasim_bytes(), 0);
}

static void a_thread_turns_from_one_device_to_another(void **state)
{
    const float value = 2.5F;
    kvs_backend *backend = NULL;
    kvs_problem problem = {0};
    fixture of[2] = {{0}};
    kvs_memory memory[2] = {{0}};
    (void)state;
    cudasim_reset(5);
    cudasim_set_devices(3);
    assert_int_equal(kvs_backend_cuda_open_devices(2, &backend, &problem), KVS_OK);
    for (uint32_t i = 0; i < 2; i++) {
        of[i].backend = backend->table->place(backend, i);
        of[i].table = of[i].backend->table;
        assert_int_equal(of[i].table->open_stream(of[i].backend, &of[i].stream), KVS_OK);
        assert_int_equal(of[i].table->alloc(of[i].backend, sizeof value, &memory[i]), KVS_OK);
    }
    for (uint32_t i = 0; i < 8; i++) { /* a launch on another device's stream is caught */
        put(&of[i % 2], &memory[i % 2], &value, sizeof value);
    }
    /* With one of them all are lost. */
    cudasim_fail("cudaLaunchKernelEx", 1);
    const kvs_copy_item copy = {
        .target = &memory[1], .source = {.memory = &memory[1]}, .bytes = sizeof value};
    assert_int_equal(of[1].table->copy(of[1].stream, &copy, 1), KVS_DEVICE_LOST);
    assert_int_equal(of[0].table->sync(of[0].stream), KVS_DEVICE_LOST);
    assert_int_equal(backend->lost, 1);
    for (uint32_t i = 0; i < 2; i++) {
        of[i].table->free(of[i].backend, &memory[i]);
        of[i].table->close_stream(of[i].backend, of[i].stream);
    }
    backend->table->close(backend);
    assert_int_equal(cudasim_bytes(), 0);
}

/* ------------------------------------------------------------------ batches */

enum { KEYS = 600, KEY_ELEMENTS = 7 };

static void many_small_keys_take_few_launches(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        static float gradient[KEYS][KEY_ELEMENTS];
        kvs_memory *memory = calloc(KEYS, sizeof *memory);
        kvs_memory **targets = calloc(KEYS, sizeof *targets);
        kvs_span *spans = calloc(KEYS, sizeof *spans);
        kvs_accumulate_item *items = calloc(KEYS, sizeof *items);
        fixture one = open_fixture(seed);
        for (size_t i = 0; i < KEYS; i++) {
            for (size_t j = 0; j < KEY_ELEMENTS; j++) {
                gradient[i][j] = (float)(i * 10 + j + (size_t)seed);
            }
            assert_int_equal(one.table->alloc(one.backend, sizeof gradient[i], &memory[i]), KVS_OK);
            spans[i] = (kvs_span){(const uint8_t *)gradient[i], sizeof gradient[i]};
            targets[i] = &memory[i];
            items[i] = (kvs_accumulate_item){
                .target = &memory[i],
                .source = bytes_of(&spans[i]),
                .elements = KEY_ELEMENTS,
                .dtype = KVS_F32,
                .first = true,
            };
        }
        assert_int_equal(one.table->accumulate(one.stream, items, KEYS), KVS_OK);
        assert_int_equal(cudasim_calls("cudaLaunchKernelEx"), 3); /* 256 rows in one */
        assert_int_equal(cudasim_calls("cudaMemcpyAsync"), 3);
        assert_int_equal(one.table->download(one.stream, targets, KEYS), KVS_OK);
        assert_int_equal(one.table->sync(one.stream), KVS_OK);
        for (size_t i = 0; i < KEYS; i++) {
            assert_memory_equal(memory[i].host, gradient[i], sizeof gradient[i]);
            one.table->free(one.backend, &memory[i]);
        }
        close_fixture(&one);
        free(memory);
        free(targets);
        free(spans);
        free(items);
    }
}

/* A sum that is read from memory: its target goes over the card's memory once. */
static void terms_that_wait_in_memory_take_one_launch(void **state)
{
    enum { TERMS = 9 };
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        static float term[TERMS][KEY_ELEMENTS];
        kvs_memory target = {0};
        kvs_memory *targets[] = {&target};
        kvs_memory held[TERMS] = {0};
        kvs_span span = {.data = (const uint8_t *)term[0], .bytes = sizeof term[0]};
        kvs_accumulate_item items[TERMS];
        fixture one = open_fixture(seed);
        assert_int_equal(one.table->alloc(one.backend, sizeof term[0], &target), KVS_OK);
        for (size_t i = 0; i < TERMS; i++) {
            for (size_t j = 0; j < KEY_ELEMENTS; j++) {
                term[i][j] = (float)(i * 10 + j);
            }
            assert_int_equal(one.table->alloc(one.backend, sizeof term[i], &held[i]), KVS_OK);
            put(&one, &held[i], term[i], sizeof term[i]);
            items[i] = (kvs_accumulate_item){.target = &target,
                                             .source = {.memory = &held[i]},
                                             .elements = KEY_ELEMENTS,
                                             .dtype = KVS_F32};
        }
        items[0].source = bytes_of(&span); /* whom the others have waited for */
        items[0].first = true;
        unsigned before = cudasim_calls("cudaLaunchKernelEx");
        assert_int_equal(one.table->accumulate(one.stream, items, TERMS), KVS_OK);
        assert_int_equal(cudasim_calls("cudaLaunchKernelEx"), before + 1);
        assert_int_equal(one.table->download(one.stream, targets, 1), KVS_OK);
        assert_int_equal(one.table->sync(one.stream), KVS_OK);
        for (size_t j = 0; j < KEY_ELEMENTS; j++) {
            assert_true(((const float *)target.host)[j] == (float)(360 + TERMS * j));
        }
        one.table->free(one.backend, &target);
        for (size_t i = 0; i < TERMS; i++) {
            one.table->free(one.backend, &held[i]);
        }
        close_fixture(&one);
    }
}

/* ------------------------------------------------------------------ threads */

typedef struct worker {
    pthread_t thread;
    kvs_backend *backend;
    kvs_status status;
    bool same;
} worker;

static void *work(void *context)
{
    static const kvs_workload workload = {.elements = 501, .rounds = 3, .batches = 3};
    worker *self = context;
    self->status = kvs_workload_run(&workload, self->backend, &self->same);
    return NULL;
}

static void threads_with_a_stream_each_share_the_device(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        worker workers[3] = {0};
        fixture one = open_fixture(seed);
        for (size_t i = 0; i < 3; i++) {
            workers[i].backend = one.backend;
            assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
        }
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
            assert_int_equal(workers[i].status, KVS_OK);
            assert_true(workers[i].same);
        }
        close_fixture(&one);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_name_is_the_card),
        cmocka_unit_test(without_a_device_the_problem_says_why),
        cmocka_unit_test(memory_and_slots_are_wiped_before_they_are_freed),
        cmocka_unit_test(host_is_pinned_at_the_first_download_and_kept),
        cmocka_unit_test(work_allocates_nothing),
        cmocka_unit_test(a_closed_stream_is_opened_again),
        cmocka_unit_test(shards_are_dealt_to_the_devices),
        cmocka_unit_test(a_thread_turns_from_one_device_to_another),
        cmocka_unit_test(many_small_keys_take_few_launches),
        cmocka_unit_test(terms_that_wait_in_memory_take_one_launch),
        cmocka_unit_test(threads_with_a_stream_each_share_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
