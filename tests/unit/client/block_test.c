#include "client/block.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void blocks_are_aligned_and_as_large_as_asked(void **state)
{
    (void)state;
    kvs_block_pool pool;
    kvs_block_pool_init(&pool, NULL);
    for (size_t bytes = 0; bytes < 10000; bytes = 2 * bytes + 1) {
        kvs_block *block = kvs_block_make(&pool, bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block->data % 64, 0);
        memset(block->data, 0x5a, bytes);
        kvs_block_unref(block);
    }
    kvs_block_pool_deinit(&pool);
}

static void a_block_that_is_given_back_is_used_again(void **state)
{
    (void)state;
    kvs_block_pool pool;
    kvs_block_pool_init(&pool, NULL);
    kvs_block *first = kvs_block_make(&pool, 100000);
    kvs_block *second = kvs_block_make(&pool, 100000);
    assert_ptr_not_equal(first, second);
    kvs_block_unref(second);
    assert_ptr_equal(kvs_block_make(&pool, 90000), second);
    kvs_block *larger = kvs_block_make(&pool, 1000000);
    assert_ptr_not_equal(larger, first);
    kvs_block_unref(first);
    kvs_block_unref(second);
    kvs_block_unref(larger);
    kvs_block_pool_deinit(&pool);
}

static void a_block_is_shared_until_the_last_other_lets_go(void **state)
{
    (void)state;
    kvs_block_pool pool;
    kvs_block_pool_init(&pool, NULL);
    kvs_block *block = kvs_block_borrow(&pool);
    assert_null(block->data);
    assert_false(kvs_block_shared(block));
    assert_ptr_equal(kvs_block_take(block), block);
    (void)kvs_block_take(block);
    kvs_block_release(block);
    assert_true(kvs_block_shared(block));
    kvs_block_release(block);
    assert_false(kvs_block_shared(block));
    kvs_block_unref(block);
    kvs_block_unref(NULL);
    kvs_block_pool_deinit(&pool);
}

static void more_than_there_can_be_is_no_block(void **state)
{
    (void)state;
    kvs_block_pool pool;
    kvs_block_pool_init(&pool, NULL);
    assert_null(kvs_block_make(&pool, SIZE_MAX));
    assert_null(kvs_block_make(&pool, SIZE_MAX / 2));
    kvs_block_pool_deinit(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_as_large_as_asked),
        cmocka_unit_test(a_block_that_is_given_back_is_used_again),
        cmocka_unit_test(a_block_is_shared_until_the_last_other_lets_go),
        cmocka_unit_test(more_than_there_can_be_is_no_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
