#include "engine/backend_cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int forget_environment(void **state)
{
    (void)state;
    return unsetenv("KVSTORED_CPU");
}

static void a_width_can_be_asked_for_by_name(void **state)
{
    (void)state;
    kvs_backend *backend = NULL;
    assert_int_equal(kvs_backend_cpu_open("baseline", &backend, NULL), KVS_OK);
    assert_string_equal(backend->name, "cpu baseline");
    backend->table->close(backend);
}

static void the_environment_forces_a_width(void **state)
{
    (void)state;
    kvs_backend *backend = NULL;
    assert_int_equal(setenv("KVSTORED_CPU", "baseline", 1), 0);
    assert_int_equal(kvs_backend_cpu_open(NULL, &backend, NULL), KVS_OK);
    assert_string_equal(backend->name, "cpu baseline");
    backend->table->close(backend);
}

static void the_widest_is_chosen_unasked(void **state)
{
    (void)state;
    kvs_backend *backend = NULL;
    const char *expected = "cpu baseline";
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        expected = "cpu avx2";
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        expected = "cpu avx512";
    }
#endif
    assert_int_equal(kvs_backend_cpu_open("", &backend, NULL), KVS_OK);
    assert_string_equal(backend->name, expected);
    backend->table->close(backend);
}

static void an_unknown_width_is_refused_by_name(void **state)
{
    (void)state;
    kvs_backend *backend = NULL;
    kvs_problem problem = {0};
    assert_int_equal(kvs_backend_cpu_open("mmx", &backend, &problem), KVS_INVALID_FIELD);
    assert_non_null(strstr(problem.detail, "mmx"));
    assert_int_equal(setenv("KVSTORED_CPU", "sse9", 1), 0);
    assert_int_equal(kvs_backend_cpu_open(NULL, &backend, &problem), KVS_INVALID_FIELD);
    assert_non_null(strstr(problem.detail, "sse9"));
    assert_null(backend);
}

static void every_member_of_the_table_is_there(void **state)
{
    (void)state;
    kvs_backend *backend = NULL;
    assert_int_equal(kvs_backend_cpu_open(NULL, &backend, NULL), KVS_OK);
    void *none = NULL;
    for (size_t i = 0; i < sizeof *backend->table; i += sizeof none) {
        assert_memory_not_equal((const char *)backend->table + i, &none, sizeof none);
    }
    backend->table->close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_width_can_be_asked_for_by_name, forget_environment),
        cmocka_unit_test_setup(the_environment_forces_a_width, forget_environment),
        cmocka_unit_test_setup(the_widest_is_chosen_unasked, forget_environment),
        cmocka_unit_test_setup(an_unknown_width_is_refused_by_name, forget_environment),
        cmocka_unit_test_setup(every_member_of_the_table_is_there, forget_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
