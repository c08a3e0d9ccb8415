#include "service/quantity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void durations_have_units(void **state)
{
    static const struct {
        const char *text;
        uint64_t ns;
    } good[] = {
        {"0", 0},
        {"0s", 0},
        {"500ms", 500000000},
        {"1.5s", 1500000000},
        {"60", UINT64_C(60000000000)},
        {"10m", UINT64_C(600000000000)},
        {"2h", UINT64_C(7200000000000)},
    };
    static const char *const bad[] = {"",     "s",   "-1s", "1 s",          "1d",     "1e9",
                                      "0x10", "1s2", "nan", "99999999999h", "1.2.3s", "+1"};
    uint64_t ns;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(kvs_duration_parse(good[i].text, &ns));
        assert_int_equal(ns, good[i].ns);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(kvs_duration_parse(bad[i], &ns));
    }
}

static void sizes_have_binary_units(void **state)
{
    uint64_t bytes;
    (void)state;
    assert_true(kvs_size_parse("4096", &bytes));
    assert_int_equal(bytes, 4096);
    assert_true(kvs_size_parse("32MiB", &bytes));
    assert_int_equal(bytes, 32 << 20);
    assert_true(kvs_size_parse("1.5GiB", &bytes));
    assert_int_equal(bytes, UINT64_C(3) << 29);
    assert_false(kvs_size_parse("32MB", &bytes));
    assert_false(kvs_size_parse("MiB", &bytes));
    assert_false(kvs_size_parse("9999999TiB", &bytes));
}

static void counts_end_at_their_most(void **state)
{
    uint64_t count;
    (void)state;
    assert_true(kvs_count_parse("64", 64, &count));
    assert_int_equal(count, 64);
    assert_false(kvs_count_parse("65", 64, &count));
    assert_false(kvs_count_parse("", 64, &count));
    assert_false(kvs_count_parse("1x", 64, &count));
    assert_false(kvs_count_parse("-1", 64, &count));
    assert_false(kvs_count_parse("99999999999999999999", UINT64_MAX, &count));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_have_units),
        cmocka_unit_test(sizes_have_binary_units),
        cmocka_unit_test(counts_end_at_their_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
