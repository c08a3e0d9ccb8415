#include "service/address.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void addresses_of_this_machine_are_known(void **state)
{
    static const struct {
        const char *text;
        bool loopback;
    } cases[] = {
        {"127.0.0.1:9400", true}, {"127.9.9.9:1", true},      {"localhost:0", true},
        {"[::1]:9400", true},     {"0.0.0.0:9400", false},    {"[::]:9400", false},
        {"10.0.0.1:9400", false}, {"[2001:db8::1]:1", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kvs_address address;
        assert_int_equal(kvs_address_parse(cases[i].text, &address, NULL), KVS_OK);
        assert_int_equal(kvs_address_is_loopback(&address), cases[i].loopback);
    }
}

static void what_is_no_address_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "9400",
                                      ":9400",
                                      "127.0.0.1",
                                      "127.0.0.1:",
                                      "::1:9400",
                                      "127.0.0.1:65536",
                                      "127.0.0.1:-1",
                                      "127.0.0.1:1x",
                                      "example.org:80",
                                      "[::1]9400",
                                      "[::1:80",
                                      "1.2.3:80"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        kvs_address address;
        kvs_problem problem;
        assert_int_equal(kvs_address_parse(bad[i], &address, &problem), KVS_INVALID_FIELD);
    }
}

static void port_zero_becomes_a_real_one(void **state)
{
    kvs_address address;
    char text[KVS_ADDRESS_BYTES];
    int fd = -1;
    (void)state;
    assert_int_equal(kvs_address_parse("127.0.0.1:0", &address, NULL), KVS_OK);
    assert_int_equal(kvs_address_listen(&address, &fd, text, NULL), KVS_OK);
    assert_int_equal(strncmp(text, "127.0.0.1:", 10), 0);
    assert_string_not_equal(text, "127.0.0.1:0");

    int second = -1;
    char again[KVS_ADDRESS_BYTES];
    kvs_problem problem;
    assert_int_equal(kvs_address_parse(text, &address, NULL), KVS_OK);
    assert_int_equal(kvs_address_listen(&address, &second, again, &problem), KVS_IO_ERROR);
    assert_non_null(strstr(problem.detail, text));
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_of_this_machine_are_known),
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(port_zero_becomes_a_real_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
