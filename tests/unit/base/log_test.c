#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int stderr_before;
static int reader;

static int capture(void **state)
{
    int ends[2];
    (void)state;
    if (pipe(ends) != 0) {
        return -1;
    }
    stderr_before = dup(STDERR_FILENO);
    (void)dup2(ends[1], STDERR_FILENO);
    (void)close(ends[1]);
    reader = ends[0];
    return 0;
}

/* Ends the capture and gives what was written. */
static void captured(char *out, size_t out_bytes)
{
    (void)dup2(stderr_before, STDERR_FILENO);
    (void)close(stderr_before);
    size_t used = 0;
    ssize_t bytes;
    while ((bytes = read(reader, out + used, out_bytes - 1 - used)) > 0) {
        used += (size_t)bytes;
    }
    out[used] = '\0';
    (void)close(reader);
}

static int restore(void **state)
{
    (void)state;
    kvs_log_set_level(KVS_LOG_INFO);
    kvs_log_set_quiet(0);
    return 0;
}

static void a_happening_is_one_line(void **state)
{
    (void)state;
    char line[4096];
    kvs_log(KVS_LOG_WARN, "lease_lost", "store=%s rank=%d", "default", 2);
    captured(line, sizeof line);
    assert_memory_equal(line, "ts=", 3);
    assert_non_null(strstr(line, "Z level=warn event=lease_lost store=default rank=2\n"));
    assert_int_equal(strlen(strchr(line, '\n')), 1);
}

static void what_is_below_the_level_is_dropped(void **state)
{
    (void)state;
    char line[4096];
    kvs_log(KVS_LOG_DEBUG, "hidden", "x=1");
    kvs_log_set_level(KVS_LOG_DEBUG);
    kvs_log(KVS_LOG_DEBUG, "shown", "x=1");
    kvs_log_set_level(KVS_LOG_ERROR);
    kvs_log(KVS_LOG_WARN, "hidden", "x=1");
    captured(line, sizeof line);
    assert_null(strstr(line, "hidden"));
    assert_non_null(strstr(line, "event=shown"));
}

static void a_quiet_log_writes_nothing(void **state)
{
    (void)state;
    char line[64];
    kvs_log_set_quiet(1);
    kvs_log(KVS_LOG_ERROR, "hidden", "x=1");
    captured(line, sizeof line);
    assert_string_equal(line, "");
}

static void a_long_line_is_cut_and_ends(void **state)
{
    (void)state;
    char line[8192];
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    kvs_log(KVS_LOG_INFO, "long", "text=%s", text);
    captured(line, sizeof line);
    assert_in_range(strlen(line), 512, 1024);
    assert_int_equal(line[strlen(line) - 1], '\n');
}

static void texts_from_outside_cannot_break_a_line(void **state)
{
    (void)state;
    char out[16];
    assert_string_equal(kvs_log_text(out, sizeof out, "a\n\"b\\\x7f", 6), "a??b??");
    assert_string_equal(kvs_log_text(out, 4, "abcdef", 6), "abc");
    assert_string_equal(kvs_log_text(out, sizeof out, "", 0), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_happening_is_one_line, capture, restore),
        cmocka_unit_test_setup_teardown(what_is_below_the_level_is_dropped, capture, restore),
        cmocka_unit_test_setup_teardown(a_quiet_log_writes_nothing, capture, restore),
        cmocka_unit_test_setup_teardown(a_long_line_is_cut_and_ends, capture, restore),
        cmocka_unit_test(texts_from_outside_cannot_break_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
