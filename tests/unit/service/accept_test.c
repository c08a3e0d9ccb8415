#include "service/accept.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void accept_admits_by_name_and_by_range(void **state)
{
    (void)state;
    assert_true(kvs_accept_admits(NULL, "application/json"));
    assert_true(kvs_accept_admits("", "application/json"));
    assert_true(kvs_accept_admits("*/*", "application/json"));
    assert_true(kvs_accept_admits("text/html, application/*;q=0.5", "application/json"));
    assert_true(kvs_accept_admits("Application/JSON", "application/json"));
    assert_false(kvs_accept_admits("text/html", "application/json"));
    assert_false(kvs_accept_admits("application/jsonx, text/*", "application/json"));
}

static void the_most_precise_entry_of_accept_wins(void **state)
{
    (void)state;
    assert_false(kvs_accept_admits("*/*, application/json;q=0", "application/json"));
    assert_false(kvs_accept_admits("application/json; q=0.0, */*", "application/json"));
    assert_true(kvs_accept_admits("application/*;q=0, application/json", "application/json"));
    assert_true(kvs_accept_names("text/html, application/x-npy;q=0.1", "application/x-npy"));
    assert_false(kvs_accept_names("application/*", "application/x-npy"));
}

static void a_media_type_has_parameters(void **state)
{
    (void)state;
    assert_true(kvs_media_type_is("application/json; charset=utf-8", "application/json"));
    assert_true(kvs_media_type_is("APPLICATION/json ;x", "application/json"));
    assert_false(kvs_media_type_is("application/json5", "application/json"));
    assert_false(kvs_media_type_is("", "application/json"));
}

static void lists_of_etags_are_searched(void **state)
{
    (void)state;
    assert_true(kvs_etag_list_holds("\"1-2\"", "\"1-2\""));
    assert_true(kvs_etag_list_holds("\"0-1\", W/\"1-2\"", "\"1-2\""));
    assert_true(kvs_etag_list_holds("*", "\"1-2\""));
    assert_false(kvs_etag_list_holds("\"1-22\", \"1-\"", "\"1-2\""));
    assert_false(kvs_etag_list_holds("", "\"1-2\""));
}

static void check_range(const char *text, uint64_t total, kvs_range kind, uint64_t first,
                        uint64_t bytes)
{
    uint64_t got_first = 0;
    uint64_t got_bytes = 0;
    assert_int_equal(kvs_range_parse(text, total, &got_first, &got_bytes), kind);
    if (kind == KVS_RANGE_PART) {
        assert_int_equal(got_first, first);
        assert_int_equal(got_bytes, bytes);
    }
}

static void ranges_are_cut_to_what_is_there(void **state)
{
    (void)state;
    check_range("bytes=0-0", 10, KVS_RANGE_PART, 0, 1);
    check_range("bytes=2-5", 10, KVS_RANGE_PART, 2, 4);
    check_range("bytes=8-", 10, KVS_RANGE_PART, 8, 2);
    check_range("bytes=8-99", 10, KVS_RANGE_PART, 8, 2);
    check_range("bytes=-3", 10, KVS_RANGE_PART, 7, 3);
    check_range("bytes=-99", 10, KVS_RANGE_PART, 0, 10);
    check_range("bytes=10-", 10, KVS_RANGE_NONE, 0, 0);
    check_range("bytes=-0", 10, KVS_RANGE_NONE, 0, 0);
    check_range("bytes=0-", 0, KVS_RANGE_NONE, 0, 0);
}

static void what_is_no_single_range_gives_all(void **state)
{
    static const char *const whole[] = {
        "bytes=0-1,3-4", "bytes=5-2",  "items=0-1",
        "bytes=a-b",     "bytes=",     "bytes=-",
        "bytes=1",       "bytes=0-1x", "bytes=99999999999999999999-"};
    (void)state;
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        check_range(whole[i], 10, KVS_RANGE_WHOLE, 0, 0);
    }
}

static void only_names_of_ours_are_hosts(void **state)
{
    (void)state;
    assert_true(kvs_host_is_ours("127.0.0.1:9401", ""));
    assert_true(kvs_host_is_ours("10.1.2.3", ""));
    assert_true(kvs_host_is_ours("[::1]:9401", ""));
    assert_true(kvs_host_is_ours("localhost:9401", ""));
    assert_true(kvs_host_is_ours("LOCALHOST", ""));
    assert_true(kvs_host_is_ours("kv.example:80", "a.example, kv.example"));
    assert_false(kvs_host_is_ours("kv.example", ""));
    assert_false(kvs_host_is_ours("evil.example", "kv.example"));
    assert_false(kvs_host_is_ours("kv.example.evil", "kv.example"));
    assert_false(kvs_host_is_ours("", ""));
    assert_false(kvs_host_is_ours("[::1", ""));
    assert_false(kvs_host_is_ours("localhost:80.evil.example", ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accept_admits_by_name_and_by_range),
        cmocka_unit_test(the_most_precise_entry_of_accept_wins),
        cmocka_unit_test(a_media_type_has_parameters),
        cmocka_unit_test(lists_of_etags_are_searched),
        cmocka_unit_test(ranges_are_cut_to_what_is_there),
        cmocka_unit_test(what_is_no_single_range_gives_all),
        cmocka_unit_test(only_names_of_ours_are_hosts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
