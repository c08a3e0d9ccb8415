#include "client/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define COUNT 5000

static size_t visited;

static void visit(kvs_client_key *key)
{
    visited++;
    key->last_sequence = 0;
}

static void every_key_is_found_where_it_was_put(void **state)
{
    (void)state;
    kvs_client_keys keys = {0};
    char name[32];
    assert_null(kvs_client_keys_find(&keys, "a", 1));
    static kvs_client_key *made[COUNT];
    for (int i = 0; i < COUNT; i++) {
        size_t bytes = (size_t)snprintf(name, sizeof name, "layer.%d", i);
        made[i] = kvs_client_keys_find_or_add(&keys, name, bytes);
        assert_non_null(made[i]);
        assert_string_equal(made[i]->name, name);
        made[i]->last_sequence = (uint64_t)i + 1;
    }
    for (int i = 0; i < COUNT; i++) {
        size_t bytes = (size_t)snprintf(name, sizeof name, "layer.%d", i);
        assert_ptr_equal(kvs_client_keys_find(&keys, name, bytes), made[i]);
        assert_ptr_equal(kvs_client_keys_find_or_add(&keys, name, bytes), made[i]);
        assert_int_equal(made[i]->last_sequence, i + 1);
    }
    assert_null(kvs_client_keys_find(&keys, "layer.1x", 8));
    kvs_client_keys_each(&keys, visit);
    assert_int_equal(visited, COUNT);
    assert_int_equal(made[7]->last_sequence, 0);
    kvs_client_keys_deinit(&keys);
}

static void a_name_is_its_bytes_and_their_number(void **state)
{
    (void)state;
    kvs_client_keys keys = {0};
    kvs_client_key *shorter = kvs_client_keys_find_or_add(&keys, "weights", 6);
    kvs_client_key *longer = kvs_client_keys_find_or_add(&keys, "weights", 7);
    assert_ptr_not_equal(shorter, longer);
    assert_string_equal(shorter->name, "weight");
    kvs_client_keys_deinit(&keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key_is_found_where_it_was_put),
        cmocka_unit_test(a_name_is_its_bytes_and_their_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
