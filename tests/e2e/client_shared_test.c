/* Pushes from memory that the server shares, as a user of the library sees them: what is counted,
 * what comes out, and what happens when the server does not share it, or not any more. */
#include "base/clock.h"
#include "base/limits.h"
#include "tests/e2e/client_store.h"

#include <kvstore/kvstore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Two parts and some. */
#define LARGE ((size_t)600000)
#define ROWS 5000
#define WIDTH 100

static const char *program;
static char folder[] = "/tmp/kvs-shared-XXXXXX";
static char path[64];
static char address[72];
static const uint64_t large = LARGE;

/* A server at the socket. */
static kvs_test_server *start(const char *flag, const char *value)
{
    const char *arguments[] = {"--unix-socket", path, flag, value, NULL};
    return kvs_test_server_open(program, arguments);
}

static kv_store *open_at_socket(const char *type, uint64_t timeout_ms)
{
    kv_store *kv;
    kv_options options;
    char error[256];
    kv_options_init(&options);
    options.request_timeout_ms = timeout_ms;
    if (kv_create(type, address, &options, &kv, error, sizeof error) != 0) {
        fail_msg("%s", error);
    }
    return kv;
}

static kv_statistics count(kv_store *kv)
{
    kv_statistics now;
    kv_count(kv, &now);
    return now;
}

static kv_array array_of(const float *data)
{
    return (kv_array){.data = (void *)data, .dtype = KV_F32, .shape = &large, .rank = 1};
}

static void fill(float *out, float first)
{
    for (size_t i = 0; i < LARGE; i++) {
        out[i] = first + (float)(i % 1000);
    }
}

/* The store's sum is the last push. */
static void check_value(kv_store *kv, float first)
{
    kv_key key = {.name = "w"};
    float *out = malloc(LARGE * sizeof *out);
    kv_array to = array_of(out);
    ok(kv, kv_pull(kv, &key, &to, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    for (size_t i = 0; i < LARGE; i++) {
        if (out[i] != first + (float)(i % 1000)) {
            fail_msg("element %zu is %g, not %g", i, (double)out[i],
                     (double)(first + (float)(i % 1000)));
        }
    }
    free(out);
}

/* Of this process. */
static int mapped_regions(void)
{
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps) != NULL) {
        found += strstr(line, "kvstored-region") != NULL ? 1 : 0;
    }
    (void)fclose(maps);
    return found;
}

static void init_large(kv_store *kv)
{
    kv_key key = {.name = "w"};
    float *zeros = calloc(LARGE, sizeof *zeros);
    kv_array value = array_of(zeros);
    ok(kv, kv_init(kv, &key, &value, 1));
    free(zeros);
}

static void push_large(kv_store *kv, const float *data, unsigned flags)
{
    kv_key key = {.name = "w"};
    kv_array value = array_of(data);
    ok(kv, kv_push(kv, &key, &value, NULL, 1, 0, flags, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
}

/* ------------------------------------------------------------------ tests */

static void a_push_at_the_socket_sends_no_bytes(void **state)
{
    (void)state;
    kvs_test_server *server = start("--allow-client-shm", NULL);
    kv_store *kv = open_at_socket("dist_sync", 0);
    float *own = malloc(LARGE * sizeof *own);
    void *given;
    init_large(kv);
    kv_statistics before = count(kv);
    fill(own, 1); /* copied to shared memory */
    push_large(kv, own, 0);
    check_value(kv, 1);
    ok(kv, kv_alloc(kv, LARGE * sizeof(float), &given));
    assert_int_equal((uintptr_t)given % 64, 0);
    fill(given, 2); /* read where it lies */
    push_large(kv, given, KV_BORROW);
    check_value(kv, 2);
    kv_statistics after = count(kv);
    assert_int_equal(after.bytes_sent, before.bytes_sent);
    assert_int_equal(after.bytes_shared - before.bytes_shared, 2 * LARGE * sizeof(float));
    /* Two parts and some, which is page enough too. */
    assert_int_equal(after.bytes_mapped - before.bytes_mapped, 2 * LARGE * sizeof(float));
    assert_int_equal(after.bytes_received, before.bytes_received);
    fill(own, 3); /* the caller's own memory, which nobody shares */
    push_large(kv, own, KV_BORROW);
    check_value(kv, 3);
    assert_int_equal(count(kv).bytes_sent - after.bytes_sent, LARGE * sizeof(float));
    kv_dealloc(given);
    kv_dealloc(NULL);
    free(own);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

static void memory_is_used_again_and_outlives_its_store(void **state)
{
    (void)state;
    kvs_test_server *server = start("--allow-client-shm", NULL);
    kv_store *kv = open_at_socket("dist_sync", 0);
    void *given;
    for (int i = 0; i < 1000; i++) { /* far more than the server shares */
        ok(kv, kv_alloc(kv, 30 * KVS_MIB, &given));
        memset(given, 1, 100);
        kv_dealloc(given);
    }
    ok(kv, kv_alloc(kv, LARGE * sizeof(float), &given));
    init_large(kv);
    fill(given, 4);
    push_large(kv, given, KV_BORROW);
    assert_true(count(kv).bytes_shared == LARGE * sizeof(float));
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
    assert_true(((float *)given)[1] == 5);
    fill(given, 5);
    kv_dealloc(given);
}

static void what_is_encoded_goes_as_data(void **state)
{
    (void)state;
    kvs_test_server *server = start("--allow-client-shm", NULL);
    kv_store *kv = open_at_socket("dist_sync", 0);
    void *given;
    init_large(kv);
    ok(kv, kv_set_gradient_compression(kv, "{\"type\": \"bf16\"}"));
    ok(kv, kv_alloc(kv, LARGE * sizeof(float), &given));
    for (size_t i = 0; i < LARGE; i++) {
        ((float *)given)[i] = (float)(i % 7);
    }
    kv_statistics before = count(kv);
    push_large(kv, given, KV_BORROW);
    assert_int_equal(count(kv).bytes_sent - before.bytes_sent, LARGE * 2);
    assert_int_equal(count(kv).bytes_shared, 0);
    kv_dealloc(given);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

static void rows_go_by_their_place_too(void **state)
{
    (void)state;
    static float values[ROWS / 2 * WIDTH];
    static int64_t ids[ROWS / 2];
    static float out[ROWS * WIDTH];
    const uint64_t shape[] = {ROWS, WIDTH};
    kvs_test_server *server = start("--allow-client-shm", NULL);
    kv_store *kv = open_at_socket("dist_sync", 0);
    kv_key key = {.name = "e"};
    kv_row_sparse none = {.dtype = KV_F32, .id_dtype = KV_I64, .shape = shape, .rank = 2};
    kv_row_sparse rows = none;
    kv_array to = {.data = out, .dtype = KV_F32, .shape = shape, .rank = 2};
    for (int i = 0; i < ROWS / 2; i++) {
        ids[i] = 2 * i + 1;
        for (int j = 0; j < WIDTH; j++) {
            values[i * WIDTH + j] = (float)(i + j);
        }
    }
    rows.data = values;
    rows.ids = ids;
    rows.count = ROWS / 2;
    ok(kv, kv_init_row_sparse(kv, &key, &none, 1));
    kv_statistics before = count(kv);
    ok(kv, kv_push_row_sparse(kv, &key, &rows, NULL, 1, 0, NULL));
    ok(kv, kv_pull(kv, &key, &to, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    for (int row = 0; row < ROWS; row++) {
        for (int j = 0; j < WIDTH; j++) {
            float wanted = row % 2 == 1 ? (float)(row / 2 + j) : 0;
            assert_true(out[row * WIDTH + j] == wanted);
        }
    }
    assert_int_equal(count(kv).bytes_shared - before.bytes_shared, sizeof values);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

static void check_as_data(kv_store *kv)
{
    void *given;
    init_large(kv);
    ok(kv, kv_alloc(kv, LARGE * sizeof(float), &given));
    fill(given, 6);
    push_large(kv, given, KV_BORROW);
    check_value(kv, 6);
    assert_int_equal(count(kv).bytes_shared, 0);
    kv_dealloc(given);
}

static void without_leave_it_is_memory_like_any_other(void **state)
{
    (void)state;
    kvs_test_server *server = start(NULL, NULL);
    kv_store *kv = open_at_socket("dist_sync", 0);
    check_as_data(kv);
    assert_int_equal(kv_close(kv), 0);
    kv = open_store(server, "dist_sync"); /* by TCP */
    check_as_data(kv);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
    kv = open_store(NULL, "local");
    check_as_data(kv);
    assert_int_equal(kv_close(kv), 0);
}

static void beyond_the_servers_bound_it_is_memory_like_any_other(void **state)
{
    (void)state;
    const char *arguments[] = {"--unix-socket",   path,   "--allow-client-shm",
                               "--shm-max-bytes", "1MiB", NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_store *kv = open_at_socket("dist_sync", 0);
    check_as_data(kv);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* What lies in memory of the server before goes as data; what is asked for now is shared anew. */
static void a_server_that_comes_again_shares_again(void **state)
{
    (void)state;
    kvs_test_server *server = start("--allow-client-shm", NULL);
    kv_store *kv = open_at_socket("dist_sync", 0);
    kv_key key = {.name = "w"};
    void *old;
    void *new;
    float *own = malloc(LARGE * sizeof *own);
    init_large(kv);
    ok(kv, kv_alloc(kv, LARGE * sizeof(float), &old));
    fill(old, 7);
    push_large(kv, old, KV_BORROW);
    fill(own, 9);
    push_large(kv, own, 0); /* its copy's memory is kept for the next */
    kvs_test_server_kill(server);
    kvs_test_server_restart(server);
    kv_array value = array_of(old);
    (void)kv_push(kv, &key, &value, NULL, 1, 0, KV_BORROW, NULL);
    (void)kv_wait(kv, KV_FOREVER); /* the key is gone, or the session */
    init_large(kv);
    kv_statistics before = count(kv);
    push_large(kv, old, KV_BORROW);
    check_value(kv, 7);
    assert_int_equal(count(kv).bytes_sent - before.bytes_sent, LARGE * sizeof(float));
    before = count(kv);
    ok(kv, kv_alloc(kv, LARGE * sizeof(float), &new));
    fill(new, 8);
    push_large(kv, new, KV_BORROW);
    check_value(kv, 8);
    assert_int_equal(count(kv).bytes_shared - before.bytes_shared, LARGE * sizeof(float));
    before = count(kv);
    push_large(kv, own, 0);
    check_value(kv, 9);
    assert_int_equal(count(kv).bytes_shared - before.bytes_shared, LARGE * sizeof(float));
    int mapped = mapped_regions();
    kv_dealloc(old); /* the last of what the server before has given */
    assert_int_equal(mapped_regions(), mapped - 1);
    kv_dealloc(new);
    free(own);
    assert_int_equal(kv_close(kv), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* A push that has run out of time may still be read where it lies: its handle is not done before
 * the server has answered. */
static void a_late_push_keeps_its_memory_until_it_is_answered(void **state)
{
    (void)state;
    const char *arguments[] = {"--unix-socket",
                               path,
                               "--allow-client-shm",
                               "--num-workers",
                               "2",
                               "--round-deadline",
                               "2s",
                               NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_store *first = open_at_socket("dist_sync", 200);
    kv_store *second = open_at_socket("dist_sync", 200);
    kv_key key = {.name = "w"};
    kv_handle *handle;
    void *given;
    init_large(first);
    ok(first, kv_alloc(first, LARGE * sizeof(float), &given));
    kv_array value = array_of(given);
    fill(given, 1);
    uint64_t begun_ns = kvs_clock_now_ns();
    ok(first, kv_push(first, &key, &value, NULL, 1, 0, KV_BORROW, &handle));
    assert_int_not_equal(kv_handle_wait(first, handle, KV_FOREVER), 0);
    assert_true(kvs_clock_now_ns() - begun_ns > KVS_SECOND);
    kv_dealloc(given);
    (void)kv_close(first);
    (void)kv_close(second);
    assert_int_equal(kvs_test_server_close(server), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_push_at_the_socket_sends_no_bytes),
        cmocka_unit_test(memory_is_used_again_and_outlives_its_store),
        cmocka_unit_test(what_is_encoded_goes_as_data),
        cmocka_unit_test(rows_go_by_their_place_too),
        cmocka_unit_test(without_leave_it_is_memory_like_any_other),
        cmocka_unit_test(beyond_the_servers_bound_it_is_memory_like_any_other),
        cmocka_unit_test(a_server_that_comes_again_shares_again),
        cmocka_unit_test(a_late_push_keeps_its_memory_until_it_is_answered),
    };
    if (argc < 2 || mkdtemp(folder) == NULL) {
        return 2;
    }
    program = argv[1];
    (void)snprintf(path, sizeof path, "%s/socket", folder);
    (void)snprintf(address, sizeof address, "unix:%s", path);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)rmdir(folder);
    return failed;
}
