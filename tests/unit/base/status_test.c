#include "base/status.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void every_row_is_complete(void **state)
{
    (void)state;
    for (int i = 0; i < KVS_STATUS_COUNT; i++) {
        const kvs_status_row *row = kvs_status_find((kvs_status)i);
        assert_true(row->title[0] != '\0');
        assert_true(i == KVS_OK || row->advice[0] != '\0');
        assert_in_range(row->grpc_code, 0, 16);
        assert_in_range(row->http_status, 200, 599);
        assert_true((row->grpc_code == 0) == (i == KVS_OK));
        for (const char *c = row->reason; *c != '\0'; c++) {
            assert_true(isupper((unsigned char)*c) || *c == '_');
        }
    }
}

static void reasons_read_back_as_their_status(void **state)
{
    (void)state;
    for (int i = 0; i < KVS_STATUS_COUNT; i++) {
        assert_int_equal(kvs_status_parse(kvs_status_find((kvs_status)i)->reason), i);
    }
    assert_int_equal(kvs_status_parse("NO_SUCH_REASON"), KVS_INTERNAL);
}

static void an_unknown_status_is_an_internal_error(void **state)
{
    (void)state;
    assert_string_equal(kvs_status_find((kvs_status)1000)->reason, "INTERNAL");
    assert_string_equal(kvs_status_find((kvs_status)-1)->reason, "INTERNAL");
}

static void a_problem_is_filled_and_its_status_returned(void **state)
{
    (void)state;
    kvs_problem problem;
    assert_int_equal(kvs_problem_set(&problem, KVS_KEY_NOT_FOUND, "key \"%s\"", "fc"),
                     KVS_KEY_NOT_FOUND);
    assert_int_equal(problem.status, KVS_KEY_NOT_FOUND);
    assert_string_equal(problem.detail, "key \"fc\"");
    assert_int_equal(kvs_problem_set(NULL, KVS_DEADLINE, "x"), KVS_DEADLINE);
}

static void a_long_detail_is_cut(void **state)
{
    (void)state;
    kvs_problem problem;
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)kvs_problem_set(&problem, KVS_INTERNAL, "%s", text);
    assert_int_equal(strlen(problem.detail), sizeof problem.detail - 1);
}

static void a_detail_is_cut_between_characters(void **state)
{
    (void)state;
    kvs_problem problem;
    char text[400] = "";
    for (size_t i = 0; i < 100; i++) {
        memcpy(text + 3 * i, "\xe2\x82\xac", 4); /* the sign of the euro */
    }
    for (int shift = 0; shift < 3; shift++) {
        (void)kvs_problem_set(&problem, KVS_INTERNAL, "%.*s%s", shift, "ab", text);
        assert_int_equal((strlen(problem.detail) - (size_t)(shift < 2 ? shift : 2)) % 3, 0);
        assert_true(strlen(problem.detail) >= sizeof problem.detail - 3);
    }
    /* A precision cuts in the middle of the sentence. */
    (void)kvs_problem_set(&problem, KVS_INTERNAL, "\"%.4s\" is not there", text);
    assert_string_equal(problem.detail, "\"\xe2\x82\xac\" is not there");
}

static void what_is_no_character_is_left_out(void **state)
{
    (void)state;
    char text[] = "a\xff"
                  "b\xc0\x80"
                  "c\xed\xa0\x80"
                  "d\xf0\x9f\x98\x80\xf4\x90\x80\x80"
                  "e\xc3";
    kvs_text_clean(text);
    assert_string_equal(text, "abcd\xf0\x9f\x98\x80"
                              "e");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_complete),
        cmocka_unit_test(reasons_read_back_as_their_status),
        cmocka_unit_test(an_unknown_status_is_an_internal_error),
        cmocka_unit_test(a_problem_is_filled_and_its_status_returned),
        cmocka_unit_test(a_long_detail_is_cut),
        cmocka_unit_test(a_detail_is_cut_between_characters),
        cmocka_unit_test(what_is_no_character_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
