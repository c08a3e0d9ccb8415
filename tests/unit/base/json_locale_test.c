#include "base/json.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void numbers_have_a_point_in_every_locale(void **state)
{
    (void)state;
    char text[KVS_JSON_NUMBER_BYTES];
    json_t *root = NULL;
    (void)kvs_json_print(0.25, text);
    assert_string_equal(text, "0.25");
    assert_int_equal(kvs_json_parse("0.25", 4, 4, &root, NULL), KVS_OK);
    assert_true(json_real_value(root) == 0.25);
    json_decref(root);
}

int main(void)
{
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_have_a_point_in_every_locale),
    };
    for (size_t i = 0; i < sizeof commas / sizeof commas[0]; i++) {
        if (setlocale(LC_ALL, commas[i]) != NULL && strcmp(localeconv()->decimal_point, ",") == 0) {
            return cmocka_run_group_tests(tests, NULL, NULL);
        }
    }
    (void)printf("skipped: this machine has no locale with a decimal comma\n");
    return 77;
}
