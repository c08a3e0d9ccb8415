/* Every call on a store in this process, with its n-th allocation failing, for each n: the call
 * says so, nothing leaks, and the store goes on. */
#include "tests/support/failing_alloc.h"

#include <kvstore/kvstore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define ROWS 4
#define WIDTH 3
#define ELEMENTS ((size_t)ROWS * WIDTH)
#define TRIES 2000

static const uint64_t shape[] = {ROWS, WIDTH};
static const kv_key dense = {.name = "dense"};
static const kv_key sparse = {.name = "sparse"};
static float numbers[ELEMENTS] = {1, -1, 1, 1, 1, -1, 1, 1, 1, 1, 1, 1};
static float got[2][ELEMENTS];
static char path[64];

static const kv_array value = {numbers, KV_F32, 2, shape};
static const kv_array values[] = {{numbers, KV_F32, 2, shape}, {numbers, KV_F32, 2, shape}};
static const kv_array outs[] = {{got[0], KV_F32, 2, shape}, {got[1], KV_F32, 2, shape}};
static const size_t two = 2;
static int64_t ids[] = {2, 0, 2};
static const kv_row_sparse rows[] = {{numbers, KV_F32, 2, shape, ids, KV_I64, 3},
                                     {numbers, KV_F32, 2, shape, NULL, KV_I64, ROWS}};

static void add_twice(kv_key key, const kv_array *input, kv_array *stored, void *context)
{
    (void)key;
    (void)context;
    for (size_t i = 0; i < ELEMENTS; i++) {
        ((float *)stored->data)[i] += 2 * ((const float *)input->data)[i];
    }
}

/* ------------------------------------------------------------------ calls */

static kv_status init_dense(kv_store *kv)
{
    return kv_init(kv, &(kv_key){.name = "other"}, &value, 1);
}

static kv_status init_rows(kv_store *kv)
{
    return kv_init_row_sparse(kv, &(kv_key){.name = "other"}, rows, 1);
}

static kv_status push(kv_store *kv)
{
    return kv_push(kv, &dense, values, &two, 1, 0, 0, NULL);
}

static kv_status push_rows(kv_store *kv)
{
    return kv_push_row_sparse(kv, &sparse, rows, &two, 1, 0, NULL);
}

static kv_status pushpull(kv_store *kv)
{
    kv_handle *handle = NULL;
    kv_status status = kv_pushpull(kv, &dense, &value, NULL, outs, &two, 1, 0, KV_BORROW, &handle);
    return status != 0 ? status : kv_handle_wait(kv, handle, KV_FOREVER);
}

static kv_status pull_rows(kv_store *kv)
{
    int64_t found[3];
    kv_row_sparse out = {got[0], KV_F32, 2, shape, found, KV_I64, 0};
    kv_array wanted = {ids, KV_I64, 1, (uint64_t[]){3}};
    return kv_row_sparse_pull(kv, &sparse, &out, NULL, &wanted, 1, 1, 0, NULL);
}

static kv_status set_optimizer(kv_store *kv)
{
    return kv_set_optimizer(kv, "{\"name\": \"adam\"}");
}

static kv_status get_optimizer(kv_store *kv)
{
    char *json = NULL;
    kv_status status = kv_get_optimizer(kv, &json);
    kv_free(json);
    return status;
}

static kv_status save(kv_store *kv)
{
    return kv_save_optimizer_states(kv, path, 1);
}

static kv_status load(kv_store *kv)
{
    return kv_load_optimizer_states(kv, path);
}

/* ------------------------------------------------------------------ what comes before */

static void with_updater(kv_store *kv)
{
    assert_int_equal(kv_set_updater(kv, add_twice, NULL), 0);
}

static void with_topk(kv_store *kv)
{
    assert_int_equal(kv_set_gradient_compression(kv, "{\"type\": \"topk\", \"ratio\": 0.5}"), 0);
}

static void with_optimizer(kv_store *kv)
{
    assert_int_equal(kv_set_optimizer(kv, "{\"name\": \"sgd\", \"momentum\": 0.5}"), 0);
    assert_int_equal(push(kv), 0);
    assert_int_equal(push_rows(kv), 0);
}

static void with_file(kv_store *kv)
{
    with_optimizer(kv);
    assert_int_equal(save(kv), 0);
}

static const struct {
    const char *name;
    void (*prepare)(kv_store *kv);
    kv_status (*run)(kv_store *kv);
    bool pulls; /* what the engine has taken of a pull waits until there is memory */
} operations[] = {
    {"init", NULL, init_dense, false},
    {"init of rows", NULL, init_rows, false},
    {"push", NULL, push, false},
    {"push with an updater", with_updater, push, true},
    {"push with an optimizer", with_optimizer, push, false},
    {"push with topk", with_topk, push, false},
    {"push of rows", NULL, push_rows, false},
    {"push of rows with an updater", with_updater, push_rows, true},
    {"push of rows with an optimizer", with_optimizer, push_rows, false},
    {"pushpull", NULL, pushpull, true},
    {"pull of rows", NULL, pull_rows, true},
    {"set_optimizer", NULL, set_optimizer, false},
    {"get_optimizer", with_optimizer, get_optimizer, false},
    {"save", with_optimizer, save, false},
    {"load", with_file, load, false},
};

/* ------------------------------------------------------------------ tries */

static kv_store *open_store(void)
{
    kv_store *kv = NULL;
    assert_int_equal(kv_create("device", NULL, NULL, &kv, NULL, 0), 0);
    assert_int_equal(kv_init(kv, &dense, &value, 1), 0);
    assert_int_equal(kv_init_row_sparse(kv, &sparse, rows, 1), 0);
    return kv;
}

/* A pull that finds no op is one too many. */
static void check(const char *name, uint64_t n, bool failed, kv_status status, const char *words)
{
    const char *reason = kv_status_reason(status);
    bool fits = strcmp(reason, "NO_MEMORY") == 0 || strcmp(reason, "TOO_MANY") == 0;
    if (status != 0 && !(failed && fits)) {
        fail_msg("%s, allocation %d: %s", name, (int)n, words);
    }
}

/* False once all allocations of the call have succeeded. */
static bool try(size_t i, uint64_t n, bool goes_on)
{
    kv_store *kv = open_store();
    if (operations[i].prepare != NULL) {
        operations[i].prepare(kv);
    }
    failing_alloc_begin(n, goes_on);
    kv_status status = operations[i].run(kv);
    bool failed = failing_alloc_end();
    check(operations[i].name, n, failed, status, kv_last_error(kv));
    assert_int_equal(operations[i].run(kv) != 0, status == 0 && i < 2); /* no key twice */
    assert_int_equal(push(kv), 0);
    assert_int_equal(pull_rows(kv), 0);
    assert_int_equal(kv_close(kv), 0);
    return failed;
}

static void every_call_survives_without_memory(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        for (int goes_on = 0; goes_on < (operations[i].pulls ? 1 : 2); goes_on++) {
            uint64_t n = 1;
            while (try(i, n, goes_on != 0)) {
                n++;
                assert_true(n < TRIES);
            }
            assert_true(n > 1);
        }
    }
}

static void a_store_that_does_not_open_leaves_nothing(void **state)
{
    bool failed = true;
    (void)state;
    for (uint64_t n = 1; failed; n++) {
        kv_store *kv = NULL;
        failing_alloc_begin(n, false);
        kv_status status = kv_create("local", NULL, NULL, &kv, NULL, 0);
        failed = failing_alloc_end();
        check("create", n, failed, status, "");
        assert_true((status == 0) == (kv != NULL));
        assert_int_equal(kv_close(kv), 0);
    }
}

static int make_path(void **state)
{
    (void)state;
    (void)snprintf(path, sizeof path, "/tmp/kvs-torture-XXXXXX");
    int file = mkstemp(path);
    return file < 0 ? -1 : close(file);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_that_does_not_open_leaves_nothing),
        cmocka_unit_test(every_call_survives_without_memory),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
