/* Optimizer states by the C client: local, and at a server that dies between save and load. */
#include "tests/e2e/client_store.h"

#include <dirent.h>
#include <kvstore/kvstore.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ELEMENTS 300000 /* two parts */
#define WORKERS 2
#define MOMENTUM "{\"name\":\"sgd\",\"learning_rate\":0.05,\"momentum\":0.9,\"wd\":0.001}"
#define ADAM "{\"name\":\"adam\",\"learning_rate\":0.01}"

static const char *program;
static const uint64_t shape[] = {ELEMENTS};
static const kv_key key = {.name = "w"};
static char folder[64];

static char *file_of(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static float *numbers(void)
{
    float *values = malloc(ELEMENTS * sizeof *values);
    assert_non_null(values);
    return values;
}

typedef struct party {
    const char *type;
    kvs_test_server *server;
    uint32_t workers;
    kv_store *kv[WORKERS];
} party;

static void join(party *p)
{
    char error[256];
    for (uint32_t i = 0; i < p->workers; i++) {
        kv_options options;
        kv_options_init(&options);
        options.rank = i;
        const char *address = p->server != NULL ? kvs_test_server_address(p->server) : NULL;
        if (kv_create(p->type, address, &options, &p->kv[i], error, sizeof error) != 0) {
            fail_msg("%s", error);
        }
    }
}

static void leave(party *p)
{
    for (uint32_t i = 0; i < p->workers; i++) {
        (void)kv_close(p->kv[i]);
        p->kv[i] = NULL;
    }
}

static void open_party(party *p, const char *type)
{
    static const char *const arguments[] = {"--num-workers", "2", NULL};
    bool dist = strcmp(type, "local") != 0;
    *p = (party){.type = type, .workers = dist ? WORKERS : 1};
    p->server = dist ? kvs_test_server_open(program, arguments) : NULL;
    join(p);
}

static void close_party(party *p)
{
    leave(p);
    if (p->server != NULL) {
        assert_int_equal(kvs_test_server_close(p->server), 0);
    }
}

static void init_weights(party *p, const float *values)
{
    kv_array array = {(void *)(uintptr_t)values, KV_F32, 1, shape};
    for (uint32_t i = 0; i < p->workers; i++) {
        ok(p->kv[i], kv_init(p->kv[i], &key, &array, 1));
    }
}

static void train(party *p, int first, int end)
{
    float *gradient = numbers();
    for (int round = first; round < end; round++) {
        for (uint32_t rank = 0; rank < p->workers; rank++) {
            for (int i = 0; i < ELEMENTS; i++) {
                gradient[i] = (float)((i * 7 + round * 13 + (int)rank * 5) % 17) / 16 - 0.5F;
            }
            kv_array array = {gradient, KV_F32, 1, shape};
            ok(p->kv[rank], kv_push(p->kv[rank], &key, &array, NULL, 1, 0, 0, NULL));
        }
    }
    for (uint32_t rank = 0; rank < p->workers; rank++) {
        ok(p->kv[rank], kv_wait(p->kv[rank], KV_FOREVER));
    }
    free(gradient);
}

static float *weights(party *p)
{
    float *values = numbers();
    kv_array array = {values, KV_F32, 1, shape};
    ok(p->kv[0], kv_pull(p->kv[0], &key, &array, NULL, 1, 0, NULL));
    ok(p->kv[0], kv_wait(p->kv[0], KV_FOREVER));
    return values;
}

typedef struct seen {
    uint64_t calls, done, total;
    pthread_t thread;
} seen;

static void see(uint64_t done, uint64_t total, void *context)
{
    seen *s = context;
    assert_true(done >= s->done && done <= total);
    assert_true(pthread_equal(s->thread, pthread_self()));
    s->calls++;
    s->done = done;
    s->total = total;
}

static void check_goes_on(const char *type, const char *optimizer)
{
    party p;
    seen s = {.thread = pthread_self()};
    float *start = numbers();
    for (int i = 0; i < ELEMENTS; i++) {
        start[i] = (float)(i % 100) / 10;
    }
    open_party(&p, type);
    init_weights(&p, start);
    ok(p.kv[0], kv_set_optimizer(p.kv[0], optimizer));
    train(&p, 0, 4);
    kv_set_progress(p.kv[0], see, &s);
    ok(p.kv[0], kv_save_optimizer_states(p.kv[0], file_of("states"), 0));
    assert_true(s.calls > 1 && s.done == s.total);
    assert_true(s.total > ELEMENTS * sizeof(float));
    float *middle = weights(&p);
    train(&p, 4, 7);
    float *expected = weights(&p);
    leave(&p);
    if (p.server != NULL) {
        kvs_test_server_kill(p.server);
        kvs_test_server_restart(p.server);
    }
    join(&p);
    init_weights(&p, middle);
    ok(p.kv[0], kv_set_optimizer(p.kv[0], optimizer));
    s = (seen){.thread = pthread_self()};
    kv_set_progress(p.kv[0], see, &s);
    ok(p.kv[0], kv_load_optimizer_states(p.kv[0], file_of("states")));
    assert_true(s.calls > 1 && s.done == s.total);
    train(&p, 4, 7);
    float *got = weights(&p);
    assert_memory_equal(got, expected, ELEMENTS * sizeof(float));
    close_party(&p);
    free(start);
    free(middle);
    free(expected);
    free(got);
}

static void a_local_run_goes_on_from_its_states(void **state)
{
    (void)state;
    check_goes_on("local", MOMENTUM);
    check_goes_on("local", ADAM);
}

static void a_run_goes_on_after_its_server_was_killed(void **state)
{
    (void)state;
    check_goes_on("dist_sync", MOMENTUM);
    check_goes_on("dist_sync", ADAM);
}

/* Rows 1 and 3 of four, of two numbers each. */
static void push_rows(party *p, int round)
{
    static const uint64_t whole[] = {4, 2};
    static const kv_key rows_key = {.name = "rows"};
    for (uint32_t rank = 0; rank < p->workers; rank++) {
        float data[4] = {1, 2, (float)round, (float)rank};
        int64_t ids[2] = {1, 3};
        kv_row_sparse rows = {data, KV_F32, 2, whole, ids, KV_I64, 2};
        ok(p->kv[rank], kv_push_row_sparse(p->kv[rank], &rows_key, &rows, NULL, 1, 0, NULL));
    }
    for (uint32_t rank = 0; rank < p->workers; rank++) {
        ok(p->kv[rank], kv_wait(p->kv[rank], KV_FOREVER));
    }
}

static void start_rows(party *p, const char *type)
{
    static const uint64_t whole[] = {4, 2};
    static const kv_key rows_key = {.name = "rows"};
    open_party(p, type);
    for (uint32_t rank = 0; rank < p->workers; rank++) {
        float data[2] = {0.5F, -0.5F};
        int64_t ids[1] = {3};
        kv_row_sparse rows = {data, KV_F32, 2, whole, ids, KV_I64, 1};
        ok(p->kv[rank], kv_init_row_sparse(p->kv[rank], &rows_key, &rows, 1));
    }
    ok(p->kv[0], kv_set_optimizer(p->kv[0], ADAM));
}

static void assert_same_files(const char *one, const char *two)
{
    uint8_t bytes[2][4096];
    size_t counts[2];
    const char *names[2] = {one, two};
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(file_of(names[i]), "rb");
        assert_non_null(file);
        counts[i] = fread(bytes[i], 1, sizeof bytes[i], file);
        (void)fclose(file);
    }
    assert_true(counts[0] > 100);
    assert_int_equal(counts[0], counts[1]);
    assert_memory_equal(bytes[0], bytes[1], counts[0]);
}

static void check_rows(const char *type)
{
    party p;
    start_rows(&p, type);
    push_rows(&p, 0);
    push_rows(&p, 1);
    ok(p.kv[0], kv_save_optimizer_states(p.kv[0], file_of("states"), 0));
    push_rows(&p, 2);
    ok(p.kv[0], kv_save_optimizer_states(p.kv[0], file_of("adam"), 0));
    close_party(&p);
    start_rows(&p, type);
    push_rows(&p, 7);
    ok(p.kv[0], kv_load_optimizer_states(p.kv[0], file_of("states")));
    push_rows(&p, 2);
    ok(p.kv[0], kv_save_optimizer_states(p.kv[0], file_of("dumped"), 0));
    assert_same_files("adam", "dumped");
    close_party(&p);
}

static void states_of_rows_go_on_as_well(void **state)
{
    (void)state;
    check_rows("local");
    check_rows("dist_sync");
}

static size_t files_in_folder(void)
{
    size_t count = 0;
    DIR *list = opendir(folder);
    assert_non_null(list);
    for (const struct dirent *entry; (entry = readdir(list)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    (void)closedir(list);
    return count;
}

static void check_refusals(const char *type)
{
    party p;
    float *start = numbers();
    memset(start, 0, ELEMENTS * sizeof *start);
    open_party(&p, type);
    init_weights(&p, start);
    kv_store *kv = p.kv[0];
    size_t files = files_in_folder();
    assert_string_equal(kv_status_reason(kv_save_optimizer_states(kv, file_of("none"), 0)),
                        "OPTIMIZER_NOT_SET");
    assert_string_equal(kv_status_reason(kv_save_optimizer_states(kv, NULL, 0)), "INVALID_FIELD");
    assert_int_equal(files_in_folder(), files);
    ok(kv, kv_set_optimizer(kv, ADAM));
    assert_string_equal(kv_status_reason(kv_save_optimizer_states(kv, "/nowhere/file", 0)),
                        "IO_ERROR");
    assert_string_equal(kv_status_reason(kv_load_optimizer_states(kv, file_of("none"))),
                        "IO_ERROR");
    assert_string_equal(kv_status_reason(kv_load_optimizer_states(kv, folder)), "IO_ERROR");
    assert_non_null(strstr(kv_last_error(kv), "not a file of states"));
    assert_null(strstr(kv_status_advice(kv_load_optimizer_states(kv, folder)), "server"));
    assert_int_equal(mkfifo(file_of("pipe"), 0600), 0);
    assert_string_equal(kv_status_reason(kv_load_optimizer_states(kv, file_of("pipe"))),
                        "IO_ERROR"); /* and does not wait for somebody to write */
    assert_int_equal(unlink(file_of("pipe")), 0);
    ok(kv, kv_save_optimizer_states(kv, file_of("adam"), 0));
    ok(kv, kv_save_optimizer_states(kv, file_of("dumped"), 1));
    ok(kv, kv_set_optimizer(kv, MOMENTUM));
    assert_string_equal(kv_status_reason(kv_load_optimizer_states(kv, file_of("adam"))),
                        "STATES_MISMATCH");
    assert_non_null(strstr(kv_last_error(kv), "\"adam\""));
    ok(kv, kv_load_optimizer_states(kv, file_of("dumped")));
    char *json = NULL;
    ok(kv, kv_get_optimizer(kv, &json));
    assert_non_null(strstr(json, "\"adam\""));
    kv_free(json);
    FILE *bad = fopen(file_of("bad"), "wb");
    assert_non_null(bad);
    (void)fputs("\x80\x04\x95 a pickle is no file of states", bad);
    (void)fclose(bad);
    assert_string_equal(kv_status_reason(kv_load_optimizer_states(kv, file_of("bad"))),
                        "TOO_LARGE");
    bad = fopen(file_of("bad"), "wb");
    assert_non_null(bad);
    (void)fclose(bad);
    assert_string_equal(kv_status_reason(kv_load_optimizer_states(kv, file_of("bad"))),
                        "INVALID_FRAME");
    close_party(&p);
    free(start);
}

static void what_cannot_be_saved_or_loaded_is_told_and_leaves_no_file(void **state)
{
    (void)state;
    check_refusals("local");
    check_refusals("dist_sync");
}

static int make_folder(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/kvs-states-XXXXXX");
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int remove_folder(void **state)
{
    static const char *const names[] = {"states", "adam", "dumped", "bad"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)unlink(file_of(names[i]));
    }
    return rmdir(folder); /* fails when something was left behind */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_local_run_goes_on_from_its_states),
        cmocka_unit_test(a_run_goes_on_after_its_server_was_killed),
        cmocka_unit_test(states_of_rows_go_on_as_well),
        cmocka_unit_test(what_cannot_be_saved_or_loaded_is_told_and_leaves_no_file),
    };
    if (argc < 2) {
        print_error("usage: %s KVSTORED\n", argv[0]);
        return 2;
    }
    program = argv[1];
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
