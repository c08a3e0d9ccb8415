#include "service/routes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static kvs_status find(const char *method, const char *target, kvs_route_match *match, char *allow)
{
    kvs_problem problem;
    return kvs_route_find(method, target, match, allow, &problem);
}

/* The template with its parameters filled in. */
static void example_of(const char *template, char *out, size_t out_bytes)
{
    size_t used = 0;
    while (*template != '\0' && used + 8 < out_bytes) {
        if (strncmp(template, "{store}", 7) == 0) {
            used += (size_t)snprintf(out + used, out_bytes - used, "s%%2E1");
            template += 7;
        } else if (strncmp(template, "{key}", 5) == 0) {
            used += (size_t)snprintf(out + used, out_bytes - used, "a%%2Fb");
            template += 5;
        } else {
            out[used++] = *template ++;
        }
    }
    out[used] = '\0';
}

static void every_route_is_found_by_its_own_path(void **state)
{
    size_t count;
    const kvs_route *routes = kvs_routes(&count);
    (void)state;
    assert_true(count > 30);
    for (size_t i = 0; i < count; i++) {
        char target[160];
        char allow[KVS_ALLOW_BYTES];
        kvs_route_match match;
        example_of(routes[i].path, target, sizeof target);
        assert_int_equal(find(routes[i].method, target, &match, allow), KVS_OK);
        assert_ptr_equal(match.route, &routes[i]);
        assert_non_null(strstr(allow, routes[i].method));
        assert_string_equal(match.store, strstr(routes[i].path, "{store}") != NULL ? "s.1" : "");
        assert_string_equal(match.key, strstr(routes[i].path, "{key}") != NULL ? "a/b" : "");
    }
}

static void no_route_stands_twice_in_the_table(void **state)
{
    size_t count;
    const kvs_route *routes = kvs_routes(&count);
    (void)state;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = i + 1; j < count; j++) {
            assert_false(strcmp(routes[i].path, routes[j].path) == 0 &&
                         strcmp(routes[i].method, routes[j].method) == 0);
        }
    }
}

static void head_finds_the_route_of_get(void **state)
{
    kvs_route_match match;
    char allow[KVS_ALLOW_BYTES];
    (void)state;
    assert_int_equal(find("HEAD", "/v1/type", &match, allow), KVS_OK);
    assert_string_equal(match.route->operation, "GetType");
}

static void the_query_lies_behind_the_path(void **state)
{
    kvs_route_match match;
    char allow[KVS_ALLOW_BYTES];
    (void)state;
    assert_int_equal(find("GET", "/v1/keys?prefix=/v1/type", &match, allow), KVS_OK);
    assert_string_equal(match.query, "prefix=/v1/type");
    assert_int_equal(find("GET", "/v1/keys", &match, allow), KVS_OK);
    assert_null(match.query);
}

static void another_method_names_those_of_the_path(void **state)
{
    kvs_route_match match;
    char allow[KVS_ALLOW_BYTES];
    (void)state;
    assert_int_equal(find("DELETE", "/v1/optimizer", &match, allow), KVS_METHOD_NOT_ALLOWED);
    assert_string_equal(allow, "GET, HEAD, PUT, OPTIONS");
    assert_int_equal(find("PATCH", "/v1/stores", &match, allow), KVS_METHOD_NOT_ALLOWED);
    assert_string_equal(allow, "GET, HEAD, POST, OPTIONS");
}

static void what_is_no_route_is_not_found(void **state)
{
    static const char *const none[] = {
        "/v1",
        "/v1/",
        "/v2/type",
        "/v1/type/",
        "//v1/type",
        "/v1/stores/",
        "/v1/stores//type",
        "/v1/keys//value",
        "/v1/keys/a/b",
        "/V1/type",
        "/v1/keys/a/value/",
        "/../v1/type",
        "/v1/stores/a/b/c",
        "/favicon.ico",
    };
    kvs_route_match match;
    char allow[KVS_ALLOW_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        assert_int_equal(find("GET", none[i], &match, allow), KVS_ROUTE_NOT_FOUND);
        assert_string_equal(allow, "");
    }
}

static void broken_paths_cannot_be_read(void **state)
{
    static const char *const broken[] = {"",
                                         "*",
                                         "v1/type",
                                         "/v1/keys/%zz",
                                         "/v1/keys/%00",
                                         "/v1/keys/a b",
                                         "/v1/keys/a\tb",
                                         "http://x/v1/type"};
    kvs_route_match match;
    char allow[KVS_ALLOW_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        assert_int_equal(find("GET", broken[i], &match, allow), KVS_INVALID_FRAME);
    }
}

static void the_longest_key_fits_and_a_longer_one_does_not(void **state)
{
    char target[1024] = "/v1/keys/";
    kvs_route_match match;
    char allow[KVS_ALLOW_BYTES];
    (void)state;
    for (unsigned i = 0; i < KVS_KEY_BYTES_MAX; i++) {
        strcat(target, "%6b");
    }
    assert_int_equal(find("GET", target, &match, allow), KVS_OK);
    assert_int_equal(strlen(match.key), KVS_KEY_BYTES_MAX);
    strcat(target, "k");
    assert_int_equal(find("GET", target, &match, allow), KVS_ROUTE_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_found_by_its_own_path),
        cmocka_unit_test(no_route_stands_twice_in_the_table),
        cmocka_unit_test(head_finds_the_route_of_get),
        cmocka_unit_test(the_query_lies_behind_the_path),
        cmocka_unit_test(another_method_names_those_of_the_path),
        cmocka_unit_test(what_is_no_route_is_not_found),
        cmocka_unit_test(broken_paths_cannot_be_read),
        cmocka_unit_test(the_longest_key_fits_and_a_longer_one_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
