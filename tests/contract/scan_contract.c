/* Blocks of two memories that differ: any bit counts, and nothing but that. */
#include "tests/contract/backend_contract.h"

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BLOCKS_MAX 40u
#define BYTES_MAX (BLOCKS_MAX * KVS_SCAN_BLOCK_BYTES)
#define ITEMS_MAX 4u

typedef struct scan_case {
    size_t bytes;
    uint8_t *a;
    uint8_t *b;
} scan_case;

static scan_case make_case(kvs_contract *contract, uint32_t number)
{
    size_t bound = number % 3 == 0 ? 40 : BYTES_MAX;
    scan_case one = {.bytes = kvs_contract_random(contract, bound + 1)};
    one.a = malloc(one.bytes + 1);
    one.b = malloc(one.bytes + 1);
    for (size_t i = 0; i < one.bytes; i++) {
        one.a[i] = (uint8_t)kvs_contract_random(contract, 256);
    }
    memcpy(one.b, one.a, one.bytes);
    for (uint64_t changes = kvs_contract_random(contract, 8); one.bytes > 0 && changes > 0;
         changes--) {
        one.b[kvs_contract_random(contract, one.bytes)] ^=
            (uint8_t)(1u << kvs_contract_random(contract, 8));
    }
    return one;
}

static void run(kvs_contract_side *side, const scan_case *cases, size_t count,
                uint8_t changed[][BLOCKS_MAX])
{
    kvs_memory a[ITEMS_MAX];
    kvs_memory b[ITEMS_MAX];
    kvs_scan_item items[ITEMS_MAX];
    for (size_t i = 0; i < count; i++) {
        a[i] = kvs_contract_memory(side, cases[i].a, cases[i].bytes);
        b[i] = kvs_contract_memory(side, cases[i].b, cases[i].bytes);
        items[i] = (kvs_scan_item){&a[i], &b[i], cases[i].bytes, changed[i]};
    }
    assert_int_equal(side->backend->table->scan(side->stream, items, count), KVS_OK);
    assert_int_equal(side->backend->table->sync(side->stream), KVS_OK);
    for (size_t i = 0; i < count; i++) {
        kvs_contract_free(side, &a[i]);
        kvs_contract_free(side, &b[i]);
    }
}

static void a_block_counts_if_any_bit_differs(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    for (uint32_t n = 0; n < contract->cases / 2; n++) {
        scan_case cases[ITEMS_MAX];
        uint8_t changed[ITEMS_MAX][BLOCKS_MAX];
        size_t count = 1 + kvs_contract_random(contract, ITEMS_MAX);
        memset(changed, 7, sizeof changed);
        for (size_t i = 0; i < count; i++) {
            cases[i] = make_case(contract, n + (uint32_t)i);
        }
        run(&contract->side[0], cases, count, changed);
        for (size_t i = 0; i < count; i++) {
            for (size_t block = 0; block < BLOCKS_MAX; block++) {
                size_t at = block * KVS_SCAN_BLOCK_BYTES;
                size_t left = at < cases[i].bytes ? cases[i].bytes - at : 0;
                left = left < KVS_SCAN_BLOCK_BYTES ? left : KVS_SCAN_BLOCK_BYTES;
                uint8_t wanted =
                    left == 0 ? 7 : memcmp(cases[i].a + at, cases[i].b + at, left) != 0;
                if (changed[i][block] != wanted) {
                    fail_msg("block %zu of %zu bytes: %u, not %u", block, cases[i].bytes,
                             changed[i][block], wanted);
                }
            }
            free(cases[i].a);
            free(cases[i].b);
        }
    }
}

/* Numbers that are equal and have other bits, and a NaN that is the same. */
static void bits_count_not_numbers(void **state)
{
    kvs_contract *contract = kvs_contract_of(state);
    static const uint32_t before[] = {0x00000000, 0x7fc00000, 0x3f800000};
    static const uint32_t after[] = {0x80000000, 0x7fc00000, 0x3f800000};
    uint8_t changed[1][BLOCKS_MAX];
    for (size_t i = 0; i < 3; i++) {
        scan_case one = {4, (uint8_t *)&before[i], (uint8_t *)&after[i]};
        run(&contract->side[0], &one, 1, changed);
        assert_int_equal(changed[0][0], i == 0);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_block_counts_if_any_bit_differs),
    cmocka_unit_test(bits_count_not_numbers),
};

kvs_contract_tests kvs_contract_scan_tests(void)
{
    return (kvs_contract_tests){tests, sizeof tests / sizeof tests[0]};
}
