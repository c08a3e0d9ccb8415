#include "service/target.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void escapes_are_decoded_once(void **state)
{
    char out[32];
    (void)state;
    assert_true(kvs_target_decode("a%2Fb%252F%c3%A9", 16, false, out, sizeof out));
    assert_string_equal(out, "a/b%2F\xc3\xa9");
}

static void plus_is_a_blank_in_queries_only(void **state)
{
    char out[8];
    (void)state;
    assert_true(kvs_target_decode("a+b", 3, false, out, sizeof out));
    assert_string_equal(out, "a+b");
    assert_true(kvs_target_decode("a+b", 3, true, out, sizeof out));
    assert_string_equal(out, "a b");
}

static void broken_escapes_and_nul_are_refused(void **state)
{
    static const char *const bad[] = {"%", "%2", "%zz", "%0", "a%", "%00", "%2%46"};
    char out[32];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(kvs_target_decode(bad[i], strlen(bad[i]), false, out, sizeof out));
    }
}

static void what_has_no_room_is_refused(void **state)
{
    char out[4];
    (void)state;
    assert_true(kvs_target_decode("abc", 3, false, out, sizeof out));
    assert_false(kvs_target_decode("abcd", 4, false, out, sizeof out));
}

static void a_query_gives_its_pairs_in_order(void **state)
{
    const char *query = "&prefix=a%26b&&empty=&bare&x=1=2";
    kvs_query_pair pair;
    bool broken;
    (void)state;
    assert_true(kvs_query_next(&query, &pair, &broken));
    assert_string_equal(pair.name, "prefix");
    assert_string_equal(pair.value, "a&b");
    assert_true(kvs_query_next(&query, &pair, &broken));
    assert_string_equal(pair.name, "empty");
    assert_string_equal(pair.value, "");
    assert_true(kvs_query_next(&query, &pair, &broken));
    assert_string_equal(pair.name, "bare");
    assert_true(kvs_query_next(&query, &pair, &broken));
    assert_string_equal(pair.name, "x");
    assert_string_equal(pair.value, "1=2");
    assert_false(kvs_query_next(&query, &pair, &broken));
    assert_false(broken);
}

static void a_broken_pair_ends_a_query(void **state)
{
    const char *query = "a=%zz&b=1";
    kvs_query_pair pair;
    bool broken;
    (void)state;
    assert_false(kvs_query_next(&query, &pair, &broken));
    assert_true(broken);
    query = NULL;
    assert_false(kvs_query_next(&query, &pair, &broken));
    assert_false(broken);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escapes_are_decoded_once),
        cmocka_unit_test(plus_is_a_blank_in_queries_only),
        cmocka_unit_test(broken_escapes_and_nul_are_refused),
        cmocka_unit_test(what_has_no_room_is_refused),
        cmocka_unit_test(a_query_gives_its_pairs_in_order),
        cmocka_unit_test(a_broken_pair_ends_a_query),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
