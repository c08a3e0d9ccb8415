#include "tests/contract/backend_contract.h"

#include <stdlib.h>
#include <string.h>

static void memory_is_aligned_and_holds_what_was_copied(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static const size_t sizes[] = {1, 63, 64, 65, 4096, 1 << 20, (2 << 20) - 1, 2 << 20, 5 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *bytes = malloc(sizes[i]);
        uint8_t *back = malloc(sizes[i]);
        kvs_contract_fill(contract, KVS_U8, bytes, sizes[i]);
        kvs_memory memory = kvs_contract_memory(&contract->side[0], bytes, sizes[i]);
        assert_int_equal(memory.bytes, sizes[i]);
        assert_int_equal((uintptr_t)memory.data % 64, 0);
        kvs_contract_read(&contract->side[0], &memory, back);
        assert_memory_equal(bytes, back, sizes[i]);
        kvs_contract_free(&contract->side[0], &memory);
        assert_null(memory.data);
        free(bytes);
        free(back);
    }
}

static void zeroed_memory_is_zero(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    uint8_t ones[300];
    uint8_t back[300];
    uint8_t zeros[300] = {0};
    memset(ones, 0xff, sizeof ones);
    kvs_memory a = kvs_contract_memory(side, ones, sizeof ones);
    kvs_memory b = kvs_contract_memory(side, ones, 7);
    kvs_memory *both[] = {&a, &b};
    assert_int_equal(side->backend->table->zero(side->stream, both, 2), KVS_OK);
    kvs_contract_read(side, &a, back);
    assert_memory_equal(back, zeros, sizeof zeros);
    kvs_contract_read(side, &b, back);
    assert_memory_equal(back, zeros, 7);
    kvs_contract_free(side, &a);
    kvs_contract_free(side, &b);
}

static void memory_that_cannot_be_had_is_refused(void **state)
{
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    kvs_memory memory = {.bytes = 17};
    assert_int_equal(side->backend->table->alloc(side->backend, SIZE_MAX, &memory), KVS_NO_MEMORY);
    assert_int_equal(side->backend->table->alloc(side->backend, SIZE_MAX - 100, &memory),
                     KVS_NO_MEMORY);
    assert_int_equal(side->backend->table->alloc(side->backend, SIZE_MAX / 4, &memory),
                     KVS_NO_MEMORY);
    assert_int_equal(memory.bytes, 17); /* untouched */
}

static void room_for_a_download_stays_where_it_is(void **state)
{
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    const uint8_t bytes[4] = {1, 2, 3, 4};
    uint8_t back[4];
    kvs_memory memory = kvs_contract_memory(side, bytes, 4);
    assert_int_equal(side->backend->table->alloc_host(side->backend, &memory), KVS_OK);
    const void *host = memory.host;
    assert_non_null(host);
    assert_int_equal(side->backend->table->alloc_host(side->backend, &memory), KVS_OK);
    kvs_contract_read(side, &memory, back);
    assert_ptr_equal(memory.host, host);
    assert_memory_equal(back, bytes, 4);
    kvs_contract_free(side, &memory);
}

static void freeing_nothing_is_allowed(void **state)
{
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    kvs_memory nothing = {0};
    side->backend->table->free(side->backend, &nothing);
}

static void empty_memory_can_be_used(void **state)
{
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    kvs_memory memory = kvs_contract_memory(side, NULL, 0);
    kvs_accumulate_item item = {.target = &memory, .dtype = KVS_F32};
    assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
    item.first = true;
    assert_int_equal(side->backend->table->accumulate(side->stream, &item, 1), KVS_OK);
    kvs_contract_read(side, &memory, NULL);
    kvs_contract_free(side, &memory);
}

static void spans_are_copied_in_order(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    kvs_contract_side *side = &contract->side[0];
    for (uint32_t i = 0; i < contract->cases; i++) {
        size_t bytes = (size_t)kvs_contract_random(contract, 3000);
        uint8_t from[3000];
        uint8_t back[3000];
        kvs_contract_fill(contract, KVS_U8, from, bytes);
        kvs_contract_pieces pieces =
            kvs_contract_cut_bytes(contract, from, bytes, i % KVS_CUT_COUNT);
        kvs_memory target = kvs_contract_memory(side, NULL, bytes);
        kvs_copy_item item = {
            .target = &target, .source = {.payload = pieces.payload}, .bytes = bytes};
        assert_int_equal(side->backend->table->copy(side->stream, &item, 1), KVS_OK);
        kvs_contract_read(side, &target, back);
        assert_memory_equal(from, back, bytes);
        kvs_contract_pieces_free(&pieces);
        kvs_contract_free(side, &target);
    }
}

static void memory_is_copied_to_memory_in_the_order_of_the_calls(void **state)
{
    kvs_contract_side *side = &kvs_contract_of(state)->side[0];
    const uint8_t one[4] = {1, 2, 3, 4};
    uint8_t back[4];
    kvs_memory a = kvs_contract_memory(side, one, 4);
    kvs_memory b = kvs_contract_memory(side, NULL, 4);
    kvs_memory c = kvs_contract_memory(side, NULL, 4);
    kvs_copy_item first = {.target = &b, .source = {.memory = &a}, .bytes = 3};
    kvs_copy_item second = {.target = &c, .source = {.memory = &b}, .bytes = 4};
    assert_int_equal(side->backend->table->copy(side->stream, &first, 1), KVS_OK);
    assert_int_equal(side->backend->table->copy(side->stream, &second, 1), KVS_OK);
    kvs_contract_read(side, &c, back);
    const uint8_t expected[4] = {1, 2, 3, 0};
    assert_memory_equal(back, expected, 4);
    kvs_contract_free(side, &a);
    kvs_contract_free(side, &b);
    kvs_contract_free(side, &c);
}

kvs_contract_tests kvs_contract_memory_tests(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_aligned_and_holds_what_was_copied),
        cmocka_unit_test(zeroed_memory_is_zero),
        cmocka_unit_test(memory_that_cannot_be_had_is_refused),
        cmocka_unit_test(room_for_a_download_stays_where_it_is),
        cmocka_unit_test(freeing_nothing_is_allowed),
        cmocka_unit_test(empty_memory_can_be_used),
        cmocka_unit_test(spans_are_copied_in_order),
        cmocka_unit_test(memory_is_copied_to_memory_in_the_order_of_the_calls),
    };
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
