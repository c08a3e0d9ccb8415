#include "service/epoch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int make_folder(void **state)
{
    static char folder[] = "/tmp/kvs_epoch_XXXXXX";
    strcpy(folder, "/tmp/kvs_epoch_XXXXXX");
    *state = mkdtemp(folder);
    return *state == NULL;
}

static void write_epoch(const char *folder, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/epoch", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int remove_folder(void **state)
{
    static const char *const names[] = {"epoch", "lock"};
    char path[128];
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", (const char *)*state, names[i]);
        (void)unlink(path);
    }
    return rmdir(*state);
}

static void without_a_folder_it_is_the_clock(void **state)
{
    kvs_epoch epoch;
    (void)state;
    assert_int_equal(kvs_epoch_open("", &epoch, NULL), KVS_OK);
    assert_true(epoch.number > 1700000000);
    kvs_epoch_close(&epoch);
}

static void each_start_is_above_the_one_before(void **state)
{
    uint64_t before = 0;
    for (int i = 0; i < 3; i++) {
        kvs_epoch epoch;
        assert_int_equal(kvs_epoch_open(*state, &epoch, NULL), KVS_OK);
        assert_true(epoch.number > before);
        before = epoch.number;
        kvs_epoch_close(&epoch);
    }
}

static void a_clock_that_went_back_does_not_matter(void **state)
{
    kvs_epoch epoch;
    write_epoch(*state, "99999999999\n");
    assert_int_equal(kvs_epoch_open(*state, &epoch, NULL), KVS_OK);
    assert_int_equal(epoch.number, UINT64_C(100000000000));
    kvs_epoch_close(&epoch);
}

static void a_broken_file_is_refused_and_not_overwritten(void **state)
{
    static const char *const broken[] = {"",      "x\n",  "12",
                                         "12x\n", "-1\n", "99999999999999999999\n"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        kvs_epoch epoch;
        kvs_problem problem;
        write_epoch(*state, broken[i]);
        assert_int_equal(kvs_epoch_open(*state, &epoch, &problem), KVS_IO_ERROR);
        assert_non_null(strstr(problem.detail, "epoch"));
    }
}

static void a_folder_has_one_server(void **state)
{
    kvs_epoch first;
    kvs_epoch second;
    kvs_problem problem;
    assert_int_equal(kvs_epoch_open(*state, &first, NULL), KVS_OK);
    assert_int_equal(kvs_epoch_open(*state, &second, &problem), KVS_IO_ERROR);
    kvs_epoch_close(&first);
    assert_int_equal(kvs_epoch_open(*state, &second, NULL), KVS_OK);
    kvs_epoch_close(&second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_folder_it_is_the_clock),
        cmocka_unit_test_setup_teardown(each_start_is_above_the_one_before, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_clock_that_went_back_does_not_matter, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_broken_file_is_refused_and_not_overwritten, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(a_folder_has_one_server, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
