/* Pools and counted buffers: sizes, use again, the budget, and who outlives whom. */
#include "engine/buffer.h"

#include "engine/backend_cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static kvs_backend *backend;
static kvs_budget budget;

static int open_backend(void **state)
{
    (void)state;
    memset(&budget, 0, sizeof budget);
    return kvs_backend_cpu_open(NULL, &backend, NULL) == KVS_OK ? 0 : -1;
}

static int close_backend(void **state)
{
    (void)state;
    backend->table->close(backend);
    return 0;
}

static uint64_t used(void)
{
    return atomic_load(&budget.bytes);
}

static void every_size_has_room_and_little_to_spare(void **state)
{
    kvs_pool *pool = kvs_pool_open(backend, &budget);
    (void)state;
    assert_non_null(pool);
    for (size_t bytes = 0; bytes < 70000; bytes = bytes < 300 ? bytes + 1 : bytes * 9 / 8 + 1) {
        kvs_buffer *buffer = NULL;
        assert_int_equal(kvs_pool_take(pool, bytes, &buffer), KVS_OK);
        assert_true(buffer->memory.bytes >= bytes);
        assert_true(bytes <= 64 || buffer->memory.bytes <= bytes + bytes / 4 + 16);
        memset(buffer->memory.data, 1, bytes);
        kvs_buffer_unref(buffer);
    }
    const size_t largest = KVS_PART_BYTES_MAX;
    kvs_buffer *buffer = NULL;
    assert_int_equal(kvs_pool_take(pool, largest, &buffer), KVS_OK);
    assert_true(buffer->memory.bytes >= largest);
    kvs_buffer_unref(buffer);
    kvs_pool_close(pool);
    assert_int_equal(used(), 0);
}

static void what_is_given_back_is_taken_again(void **state)
{
    kvs_pool *pool = kvs_pool_open(backend, &budget);
    kvs_buffer *first = NULL;
    kvs_buffer *second = NULL;
    (void)state;
    assert_int_equal(kvs_pool_take(pool, 100, &first), KVS_OK);
    uint64_t bytes = used();
    first->downloaded = true;
    kvs_buffer_unref(first);
    assert_int_equal(used(), bytes); /* kept for the next */
    assert_int_equal(kvs_pool_take(pool, 97, &second), KVS_OK);
    assert_ptr_equal(first, second);
    assert_false(second->downloaded);
    assert_int_equal(used(), bytes);
    kvs_buffer_unref(second);
    kvs_pool_close(pool);
    assert_int_equal(used(), 0);
}

static void only_the_one_owner_may_write(void **state)
{
    kvs_pool *pool = kvs_pool_open(backend, &budget);
    kvs_buffer *buffer = NULL;
    (void)state;
    assert_int_equal(kvs_pool_make(pool, 8, &buffer), KVS_OK);
    assert_true(kvs_buffer_own(buffer));
    (void)kvs_buffer_take(buffer);
    assert_false(kvs_buffer_own(buffer));
    kvs_buffer_unref(buffer);
    assert_true(kvs_buffer_own(buffer));
    kvs_buffer_unref(buffer);
    kvs_buffer_unref(NULL);
    kvs_pool_close(pool);
}

static void a_reader_may_outlive_the_pools_owner(void **state)
{
    kvs_pool *pool = kvs_pool_open(backend, &budget);
    kvs_buffer *kept = NULL;
    kvs_buffer *other = NULL;
    (void)state;
    assert_int_equal(kvs_pool_take(pool, 100, &kept), KVS_OK);
    assert_int_equal(kvs_pool_take(pool, 5000, &other), KVS_OK);
    kvs_buffer_unref(other);
    memset(kept->memory.data, 7, 100);
    kvs_pool_close(pool);
    assert_int_equal(((uint8_t *)kept->memory.host)[99], 7);
    assert_true(used() > 0);
    kvs_buffer_unref(kept); /* the last one frees the pool */
    assert_int_equal(used(), 0);
}

static void the_budget_bounds_several_pools_and_a_refusal_changes_nothing(void **state)
{
    kvs_pool *a = kvs_pool_open(backend, &budget);
    kvs_pool *b = kvs_pool_open(backend, &budget);
    kvs_buffer *first = NULL;
    kvs_buffer *second = NULL;
    (void)state;
    budget.bytes_max = 1000;
    assert_int_equal(kvs_pool_take(a, 640, &first), KVS_OK);
    uint64_t before = used();
    assert_int_equal(kvs_pool_take(b, 640, &second), KVS_OVER_BUDGET);
    assert_int_equal(kvs_pool_make(b, 640, &second), KVS_OVER_BUDGET);
    assert_null(second);
    assert_int_equal(used(), before);
    assert_int_equal(kvs_pool_take(b, 300, &second), KVS_OK);
    kvs_buffer_unref(first);
    kvs_buffer_unref(second);
    kvs_pool_close(a);
    kvs_pool_close(b);
    assert_int_equal(used(), 0);
}

static void what_is_kept_for_later_makes_room_when_there_is_none(void **state)
{
    kvs_pool *pool = kvs_pool_open(backend, &budget);
    kvs_buffer *small = NULL;
    kvs_buffer *large = NULL;
    (void)state;
    budget.bytes_max = 1000;
    for (int round = 0; round < 4; round++) {
        kvs_buffer *many[3] = {NULL, NULL, NULL};
        for (int i = 0; i < 3; i++) {
            assert_int_equal(kvs_pool_take(pool, 256, &many[i]), KVS_OK);
        }
        assert_int_equal(kvs_pool_take(pool, 512, &large), KVS_OVER_BUDGET);
        for (int i = 0; i < 3; i++) {
            kvs_buffer_unref(many[i]);
        }
        assert_int_equal(round % 2 == 0 ? kvs_pool_take(pool, 896, &large)
                                        : kvs_pool_make(pool, 896, &large),
                         KVS_OK);
        assert_int_equal(used(), 896);
        assert_int_equal(atomic_load(&pool->bytes), 896);
        kvs_buffer_unref(large);
    }
    assert_int_equal(kvs_pool_make(pool, 100, &small), KVS_OK);
    kvs_buffer_unref(small);
    large = small;
    assert_int_equal(kvs_pool_make(pool, 100, &small), KVS_OK);
    assert_ptr_equal(small, large); /* used again by any thread */
    kvs_buffer_unref(small);
    kvs_pool_close(pool);
    assert_int_equal(used(), 0);
}

#define BUFFER_TEST(name) cmocka_unit_test_setup_teardown(name, open_backend, close_backend)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BUFFER_TEST(every_size_has_room_and_little_to_spare),
        BUFFER_TEST(what_is_given_back_is_taken_again),
        BUFFER_TEST(only_the_one_owner_may_write),
        BUFFER_TEST(a_reader_may_outlive_the_pools_owner),
        BUFFER_TEST(what_is_kept_for_later_makes_room_when_there_is_none),
        BUFFER_TEST(the_budget_bounds_several_pools_and_a_refusal_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
