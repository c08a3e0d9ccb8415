#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BYTES_MAX 4096u

static json_t *parse(const char *text)
{
    json_t *root = NULL;
    kvs_problem problem = {0};
    if (kvs_json_parse(text, strlen(text), BYTES_MAX, &root, &problem) != KVS_OK) {
        fail_msg("%s: %s", text, problem.detail);
    }
    return root;
}

static void refused(const char *text, size_t bytes, kvs_status status)
{
    json_t *root = NULL;
    kvs_problem problem = {0};
    assert_int_equal(kvs_json_parse(text, bytes, BYTES_MAX, &root, &problem), status);
    assert_int_equal(problem.status, status);
    assert_true(problem.detail[0] != '\0');
    assert_null(root);
}

/* ------------------------------------------------------------------ parsing */

static void text_that_is_no_json_is_refused_with_its_place(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "{\"a\":1,}",
        "{'a':1}",
        "{\"a\":1} x",
        "nul",
        "01",
        "1e999",
        "\"\\ud800\"",
        "\"\xff\"",
        "{\"a\":1,\"a\":2}",
        "\"\\u0000\"",
        "[1] [2]",
        "NaN",
        "Infinity",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        refused(bad[i], strlen(bad[i]), KVS_INVALID_FRAME);
    }
    kvs_problem problem = {0};
    json_t *root = NULL;
    assert_int_equal(kvs_json_parse("{\n \"a\": x}", 10, BYTES_MAX, &root, &problem),
                     KVS_INVALID_FRAME);
    assert_non_null(strstr(problem.detail, "line 2"));
    refused("1\0 2", 4, KVS_INVALID_FRAME);
}

static void text_longer_than_the_bound_is_refused(void **state)
{
    (void)state;
    char text[BYTES_MAX + 2];
    memset(text, ' ', sizeof text);
    text[0] = '1';
    json_t *root = NULL;
    assert_int_equal(kvs_json_parse(text, BYTES_MAX, BYTES_MAX, &root, NULL), KVS_OK);
    json_decref(root);
    refused(text, BYTES_MAX + 1, KVS_TOO_LARGE);
}

/* `levels` arrays, one in the other. */
static void nest(char *text, size_t levels)
{
    memset(text, '[', levels);
    memset(text + levels, ']', levels);
    text[2 * levels] = '\0';
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    char text[BYTES_MAX + 1];
    nest(text, KVS_JSON_DEPTH_MAX);
    json_decref(parse(text));
    nest(text, KVS_JSON_DEPTH_MAX + 1);
    refused(text, strlen(text), KVS_INVALID_FRAME);
    nest(text, BYTES_MAX / 2);
    refused(text, strlen(text), KVS_INVALID_FRAME);
}

static void brackets_in_strings_are_not_nesting(void **state)
{
    (void)state;
    json_t *root = parse("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[[[[[[\"");
    json_decref(root);
}

/* Allocations until one fails; then all do. */
static size_t allocations_left;

static void *failing_malloc(size_t bytes)
{
    if (allocations_left == 0) {
        return NULL;
    }
    allocations_left--;
    return malloc(bytes);
}

static void every_failed_allocation_is_refused_and_leaks_nothing(void **state)
{
    (void)state;
    static const char text[] = "{\"a\": [1, 2.5, \"text\", {\"b\": null}], \"c\": true}";
    size_t allowed = 0;
    size_t no_memory = 0;
    kvs_status status = KVS_NO_MEMORY;
    for (; status != KVS_OK && allowed < 1000; allowed++) {
        json_t *root = NULL;
        allocations_left = allowed;
        json_set_alloc_funcs(failing_malloc, free);
        status = kvs_json_parse(text, sizeof text - 1, BYTES_MAX, &root, NULL);
        json_decref(root);
        json_set_alloc_funcs(malloc, free);
        no_memory += status == KVS_NO_MEMORY ? 1 : 0;
    }
    assert_int_equal(status, KVS_OK);
    assert_true(no_memory > allowed / 2);
    assert_in_range(allowed, 10, 1000);
}

/* ------------------------------------------------------------------ fields */

static void fields_of_every_type_are_read(void **state)
{
    (void)state;
    json_t *root = parse("{\"d\": 0.5, \"w\": 3, \"i\": -7, \"b\": true, \"t\": \"text\", "
                         "\"c\": \"two\", \"n\": null, \"o\": {}, \"a\": []}");
    static const char *const words[] = {"one", "two"};
    kvs_problem problem = {0};
    kvs_json_errors errors = {.problem = &problem};
    kvs_json_fields fields;
    double d = 0;
    double whole = 0;
    int64_t i = 0;
    bool b = false;
    const char *t = NULL;
    size_t c = 9;
    kvs_json_fields_init(&fields, NULL, "", root, &errors);
    assert_true(kvs_json_double(&fields, "d", 0, 1, &d));
    assert_true(kvs_json_double(&fields, "w", 0, 3, &whole));
    assert_true(kvs_json_integer(&fields, "i", -7, 7, &i));
    assert_true(kvs_json_bool(&fields, "b", &b));
    assert_true(kvs_json_text(&fields, "t", 4, &t));
    assert_true(kvs_json_choice(&fields, "c", words, 2, &c));
    assert_true(kvs_json_null(&fields, "n"));
    assert_non_null(kvs_json_child(&fields, "o", JSON_OBJECT));
    assert_non_null(kvs_json_child(&fields, "a", JSON_ARRAY));
    assert_false(kvs_json_double(&fields, "absent", 0, 1, &d));
    assert_false(kvs_json_null(&fields, "absent"));
    kvs_json_fields_end(&fields);
    assert_int_equal(kvs_json_status(&errors), KVS_OK);
    assert_true(d == 0.5);
    assert_true(whole == 3);
    assert_int_equal(i, -7);
    assert_true(b);
    assert_string_equal(t, "text");
    assert_int_equal(c, 1);
    json_decref(root);
}

static void wrong_fields_are_named_and_leave_the_default(void **state)
{
    (void)state;
    json_t *root = parse("{\"d\": \"x\", \"low\": -1, \"i\": 1.0, \"b\": 1, \"t\": \"long\"}");
    kvs_problem problem = {0};
    kvs_json_errors errors = {.problem = &problem};
    kvs_json_fields fields;
    double d = 42;
    int64_t i = 43;
    bool b = true;
    const char *t = "default";
    kvs_json_fields_init(&fields, NULL, "", root, &errors);
    assert_false(kvs_json_double(&fields, "d", 0, 1, &d));
    assert_false(kvs_json_double(&fields, "low", 0, 1, &d));
    assert_false(kvs_json_integer(&fields, "i", 0, 9, &i));
    assert_false(kvs_json_bool(&fields, "b", &b));
    assert_false(kvs_json_text(&fields, "t", 3, &t));
    assert_false(kvs_json_required(&fields, "must"));
    kvs_json_fields_end(&fields);
    assert_int_equal(kvs_json_status(&errors), KVS_INVALID_FIELD);
    assert_int_equal(errors.count, 6);
    assert_string_equal(problem.detail, "/d must be a number; /low must be between 0 and 1; "
                                        "/i must be an integer; /b must be true or false; "
                                        "/t must be at most 3 bytes long; /must is missing");
    assert_true(d == 42);
    assert_int_equal(i, 43);
    assert_true(b);
    assert_string_equal(t, "default");
    json_decref(root);
}

static void unknown_fields_are_refused_with_what_was_meant(void **state)
{
    (void)state;
    json_t *root = parse("{\"momentun\": 1, \"qqqqqqqq\": 2}");
    kvs_problem problem = {0};
    kvs_json_errors errors = {.problem = &problem};
    kvs_json_fields fields;
    double momentum = 0;
    kvs_json_fields_init(&fields, NULL, "", root, &errors);
    (void)kvs_json_double(&fields, "momentum", 0, 1, &momentum);
    kvs_json_fields_end(&fields);
    assert_string_equal(problem.detail, "/momentun is unknown, did you mean \"momentum\"?; "
                                        "/qqqqqqqq is unknown");
    json_decref(root);
}

static void pointers_go_through_parents_and_are_escaped(void **state)
{
    (void)state;
    json_t *root = parse("{\"a/b~c\": {\"x\\n\": 1}}");
    kvs_problem problem = {0};
    kvs_json_errors errors = {.problem = &problem};
    kvs_json_fields outer;
    kvs_json_fields inner;
    kvs_json_fields_init(&outer, NULL, "", root, &errors);
    kvs_json_fields_init(&inner, &outer, "a/b~c", kvs_json_find(&outer, "a/b~c"), &errors);
    kvs_json_fields_end(&inner);
    kvs_json_fields_end(&outer);
    assert_string_equal(problem.detail, "/a~1b~0c/x? is unknown");
    json_decref(root);
}

static void a_document_that_is_no_object_is_an_error(void **state)
{
    (void)state;
    json_t *root = parse("[1]");
    kvs_problem problem = {0};
    kvs_json_errors errors = {.problem = &problem};
    kvs_json_fields fields;
    kvs_json_fields_init(&fields, NULL, "", root, &errors);
    assert_false(kvs_json_required(&fields, "name"));
    kvs_json_fields_end(&fields);
    assert_int_equal(kvs_json_status(&errors), KVS_INVALID_FIELD);
    assert_string_equal(problem.detail, "the document must be an object");
    json_decref(root);
}

static void a_detail_that_is_cut_stays_whole_utf8(void **state)
{
    (void)state;
    for (size_t pad = 0; pad < 8; pad++) {
        static const char euro[3] = "\xe2\x82\xac";
        char text[2048] = "{\"xxxxxxxx";
        size_t used = 2 + pad;
        for (size_t i = 0; i < 200; i++, used += sizeof euro) {
            memcpy(text + used, euro, sizeof euro);
        }
        (void)snprintf(text + used, sizeof text - used, "\": 1, \"b\": 2, \"c\": 3}");
        json_t *root = parse(text);
        kvs_problem problem = {0};
        kvs_json_errors errors = {.problem = &problem};
        kvs_json_fields fields;
        kvs_json_fields_init(&fields, NULL, "", root, &errors);
        for (size_t i = 0; i < 12; i++) {
            kvs_json_fields_end(&fields);
        }
        assert_int_equal(errors.count, 36);
        assert_true(strlen(problem.detail) < sizeof problem.detail);
        json_t *valid = json_string(problem.detail); /* NULL unless it is UTF-8 */
        assert_non_null(valid);
        json_decref(valid);
        json_decref(root);
    }
}

static void errors_are_counted_without_a_problem(void **state)
{
    (void)state;
    json_t *root = parse("{\"a\": 1}");
    kvs_json_errors errors = {0};
    kvs_json_fields fields;
    kvs_json_fields_init(&fields, NULL, "", root, &errors);
    kvs_json_fields_end(&fields);
    assert_int_equal(kvs_json_status(&errors), KVS_INVALID_FIELD);
    json_decref(root);
}

/* ------------------------------------------------------------------ words and numbers */

static void the_nearest_word_is_the_one_that_was_meant(void **state)
{
    (void)state;
    static const char *const words[] = {"learning_rate", "momentum", "wd", "name"};
    assert_string_equal(kvs_json_nearest("learning_rat", words, 4), "learning_rate");
    assert_string_equal(kvs_json_nearest("learnign_rate", words, 4), "learning_rate");
    assert_string_equal(kvs_json_nearest("nam", words, 4), "name");
    assert_null(kvs_json_nearest("zzzzzzzz", words, 4));
    assert_null(kvs_json_nearest("", words, 4));
    char longest[4096];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_null(kvs_json_nearest(longest, words, 4));
}

static void numbers_are_printed_short_and_read_back_the_same(void **state)
{
    (void)state;
    static const double numbers[] = {
        0,      -0.0, 1, 0.1, 1e-4, 1.0 / 3, 5e-324, 1.7976931348623157e308, 123456789012345678.0,
        -2.5e-8};
    char text[KVS_JSON_NUMBER_BYTES];
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        size_t bytes = kvs_json_print(numbers[i], text);
        assert_int_equal(bytes, strlen(text));
        double back = strtod(text, NULL);
        assert_memory_equal(&back, &numbers[i], sizeof back);
    }
    (void)kvs_json_print(0.1, text);
    assert_string_equal(text, "0.1");
    (void)kvs_json_print(1e-8, text);
    assert_string_equal(text, "1e-08");
}

static void texts_are_written_escaped(void **state)
{
    (void)state;
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    kvs_json_put_text(to, "a\"b\\c\nd\xc3\xa4");
    (void)fputs(" ", to);
    kvs_json_put_double(to, "x", 0.5);
    (void)fclose(to);
    assert_string_equal(text, "\"a\\\"b\\\\c\\u000ad\xc3\xa4\" \"x\": 0.5");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_that_is_no_json_is_refused_with_its_place),
        cmocka_unit_test(text_longer_than_the_bound_is_refused),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(brackets_in_strings_are_not_nesting),
        cmocka_unit_test(every_failed_allocation_is_refused_and_leaks_nothing),
        cmocka_unit_test(fields_of_every_type_are_read),
        cmocka_unit_test(wrong_fields_are_named_and_leave_the_default),
        cmocka_unit_test(unknown_fields_are_refused_with_what_was_meant),
        cmocka_unit_test(pointers_go_through_parents_and_are_escaped),
        cmocka_unit_test(a_document_that_is_no_object_is_an_error),
        cmocka_unit_test(a_detail_that_is_cut_stays_whole_utf8),
        cmocka_unit_test(errors_are_counted_without_a_problem),
        cmocka_unit_test(the_nearest_word_is_the_one_that_was_meant),
        cmocka_unit_test(numbers_are_printed_short_and_read_back_the_same),
        cmocka_unit_test(texts_are_written_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
