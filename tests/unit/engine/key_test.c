/* Keys, their parts, and the table in which they are found without a lock. */
#include "engine/key.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kvs_key *make(const char *name, uint64_t elements, uint64_t part_elements)
{
    kvs_key *key = NULL;
    kvs_shape shape = {.rank = 1, .size = {elements}};
    assert_int_equal(kvs_key_make(name, (uint32_t)strlen(name), KVS_F32, KVS_DENSE, &shape,
                                  part_elements, 130, &key),
                     KVS_OK);
    return key;
}

static void a_value_is_cut_into_parts_of_which_only_the_last_is_short(void **state)
{
    static const struct {
        uint64_t elements, part_elements, parts, last;
    } rows[] = {{0, 4, 1, 0}, {1, 4, 1, 1},  {4, 4, 1, 4},
                {5, 4, 2, 1}, {12, 4, 3, 4}, {11, 4, 3, 3}};
    (void)state;
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        kvs_key *key = make("w", rows[r].elements, rows[r].part_elements);
        assert_int_equal(key->part_count, rows[r].parts);
        for (uint64_t i = 0; i + 1 < key->part_count; i++) {
            assert_int_equal(key->parts[i].elements, 4);
        }
        kvs_part *last = &key->parts[key->part_count - 1];
        assert_int_equal(last->elements, rows[r].last);
        assert_int_equal(kvs_part_bytes(last), rows[r].last * 4);
        kvs_key_free(key);
    }
    kvs_key_free(NULL);
}

static void parts_do_not_share_the_bits_of_their_rounds(void **state)
{
    kvs_key *key = make("w", 12, 4);
    (void)state;
    kvs_round_mark(&key->parts[1].round, 129);
    assert_true(kvs_round_has(&key->parts[1].round, 129));
    for (uint32_t rank = 0; rank < 130; rank++) {
        assert_false(kvs_round_has(&key->parts[0].round, rank));
        assert_false(kvs_round_has(&key->parts[2].round, rank));
    }
    kvs_key_free(key);
}

static void the_version_of_a_key_is_that_of_its_slowest_part(void **state)
{
    kvs_key *key = make("w", 12, 4);
    (void)state;
    atomic_store(&key->parts[0].version, 3);
    atomic_store(&key->parts[1].version, 2);
    atomic_store(&key->parts[2].version, 4);
    assert_int_equal(kvs_key_version(key), 2);
    kvs_key_free(key);
}

static void every_key_is_found_while_the_table_grows(void **state)
{
    enum { KEYS = 3000 };
    kvs_key_table table = {0};
    char name[32];
    (void)state;
    assert_null(kvs_key_table_find(&table, "k0", 2));
    for (int i = 0; i < KEYS; i++) {
        size_t bytes = (size_t)snprintf(name, sizeof name, "k%d", i);
        assert_int_equal(kvs_key_table_reserve(&table, 1), KVS_OK);
        kvs_key_table_insert(&table, make(name, 1, 4));
        assert_non_null(kvs_key_table_find(&table, name, bytes));
    }
    assert_int_equal(atomic_load(&table.count), KEYS);
    for (int i = 0; i < KEYS; i++) {
        size_t bytes = (size_t)snprintf(name, sizeof name, "k%d", i);
        kvs_key *key = kvs_key_table_find(&table, name, bytes);
        assert_non_null(key);
        assert_string_equal(key->name, name);
        assert_ptr_equal(key, kvs_key_table_at(&table, (size_t)i));
        assert_null(kvs_key_table_find(&table, name, bytes - 1 + (i < 10 ? 5 : 4)));
    }
    assert_null(kvs_key_table_find(&table, "", 0));
    assert_null(kvs_key_table_find(&table, "k3000", 5));
    kvs_key_table_deinit(&table);
}

static void a_prefix_of_a_name_is_another_name(void **state)
{
    kvs_key_table table = {0};
    (void)state;
    assert_int_equal(kvs_key_table_reserve(&table, 2), KVS_OK);
    kvs_key_table_insert(&table, make("layer", 1, 4));
    kvs_key_table_insert(&table, make("layer.bias", 2, 4));
    assert_int_equal(kvs_key_table_find(&table, "layer.bias", 5)->elements, 1);
    assert_int_equal(kvs_key_table_find(&table, "layer.bias", 10)->elements, 2);
    assert_null(kvs_key_table_find(&table, "layer.bias", 6));
    kvs_key_table_deinit(&table);
}

/* Computed by another implementation of xxh64. */
static void the_shard_of_a_part_is_the_published_function(void **state)
{
    char long_name[257];
    (void)state;
    memset(long_name, 'a', sizeof long_name);
    assert_int_equal(kvs_shard_of("w", 1, 0, 64), 2);
    assert_int_equal(kvs_shard_of("w", 1, 1, 64), 38);
    assert_int_equal(kvs_shard_of("w", 1, 0, 7), 1);
    assert_int_equal(kvs_shard_of("fc.bias", 7, 3, 64), 27);
    assert_int_equal(kvs_shard_of("3", 1, 0, 2), 1);
    assert_int_equal(kvs_shard_of("3", 1, 1, 2), 0);
    assert_int_equal(kvs_shard_of("\xc3\xa9", 2, 2, 16), 13);
    assert_int_equal(kvs_shard_of(long_name, 256, 4095, 61), 28);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_cut_into_parts_of_which_only_the_last_is_short),
        cmocka_unit_test(parts_do_not_share_the_bits_of_their_rounds),
        cmocka_unit_test(the_version_of_a_key_is_that_of_its_slowest_part),
        cmocka_unit_test(every_key_is_found_while_the_table_grows),
        cmocka_unit_test(a_prefix_of_a_name_is_another_name),
        cmocka_unit_test(the_shard_of_a_part_is_the_published_function),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
