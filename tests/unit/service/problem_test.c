#include "service/problem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return text;
}

static void every_status_becomes_a_problem(void **state)
{
    (void)state;
    for (int i = KVS_OK + 1; i < KVS_STATUS_COUNT; i++) {
        kvs_problem problem = {.status = (kvs_status)i, .detail = "the key w"};
        const kvs_status_row *row = kvs_status_find(problem.status);
        json_t *json = kvs_problem_json(&problem, "/v1/keys/w", "id-1");
        assert_non_null(json);
        assert_string_equal(text_of(json, "reason"), row->reason);
        assert_string_equal(text_of(json, "title"), row->title);
        assert_string_equal(text_of(json, "instance"), "/v1/keys/w#id-1");
        assert_string_equal(text_of(json, "request_id"), "id-1");
        assert_int_equal(json_integer_value(json_object_get(json, "status")), row->http_status);
        assert_string_equal(text_of(json, "code"), kvs_problem_code_name(row->grpc_code));
        assert_string_not_equal(text_of(json, "code"), "UNKNOWN");
        assert_non_null(strstr(text_of(json, "detail"), "the key w. "));
        assert_non_null(strstr(text_of(json, "detail"), row->advice));
        assert_null(json_object_get(json, "errors"));
        json_decref(json);
    }
}

static void the_type_is_the_reason_in_small_letters(void **state)
{
    kvs_problem problem = {.status = KVS_KEY_NOT_FOUND, .detail = ""};
    json_t *json = kvs_problem_json(&problem, "/", "x");
    (void)state;
    assert_string_equal(text_of(json, "type"), "https://kvstored.dev/problems/key-not-found");
    assert_string_equal(text_of(json, "detail"), kvs_status_find(KVS_KEY_NOT_FOUND)->advice);
    json_decref(json);
}

static void each_pointer_of_the_detail_is_an_error_of_its_own(void **state)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_json_errors errors = {.problem = &problem};
    kvs_json_fields fields;
    double number;
    json_t *root = json_pack("{s:s, s:i}", "momentum", "fast", "unknwon", 1);
    (void)state;
    kvs_json_fields_init(&fields, NULL, "", root, &errors);
    assert_false(kvs_json_double(&fields, "momentum", 0, 1, &number));
    kvs_json_fields_end(&fields);
    assert_int_equal(kvs_json_status(&errors), KVS_INVALID_FIELD);
    json_t *json = kvs_problem_json(&problem, "/", "x");
    const json_t *list = json_object_get(json, "errors");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(text_of(json_array_get(list, 0), "pointer"), "/momentum");
    assert_string_equal(text_of(json_array_get(list, 0), "detail"), "must be a number");
    assert_string_equal(text_of(json_array_get(list, 1), "pointer"), "/unknwon");
    json_decref(json);
    json_decref(root);
}

static void bytes_that_are_no_text_do_not_spoil_the_rest(void **state)
{
    kvs_problem problem = {.status = KVS_KEY_NOT_FOUND, .detail = "key \xff"};
    json_t *json = kvs_problem_json(&problem, "/v1/keys/\xff", "x");
    (void)state;
    assert_non_null(json);
    assert_string_equal(text_of(json, "reason"), "KEY_NOT_FOUND");
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_becomes_a_problem),
        cmocka_unit_test(the_type_is_the_reason_in_small_letters),
        cmocka_unit_test(each_pointer_of_the_detail_is_an_error_of_its_own),
        cmocka_unit_test(bytes_that_are_no_text_do_not_spoil_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
