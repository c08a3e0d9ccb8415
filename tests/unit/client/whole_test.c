/* A push of a value of several parts into a store in this process, with its n-th allocation
 * failing, for each n: it happens or it fails, and then it has changed nothing. */
#include "tests/support/failing_alloc.h"

#include <kvstore/kvstore.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Three parts: of two rows, two, and one. */
#define ROWS 5
#define WIDTH ((size_t)1 << 17)
#define ELEMENTS (ROWS * WIDTH)
#define BYTES (ELEMENTS * sizeof(float))

static const uint64_t shape[] = {ROWS, WIDTH};
static const kv_key dense = {.name = "dense"};
static const kv_key sparse = {.name = "sparse"};
static float start[ELEMENTS], gradient[ELEMENTS], rich[ELEMENTS], got[ELEMENTS];
static int64_t ids[] = {4, 0, 3};

static kv_status push(kv_store *kv, bool of_rows)
{
    const kv_array value = {gradient, KV_F32, 2, shape};
    const kv_row_sparse rows = {gradient, KV_F32, 2, shape, ids, KV_I64, 3};
    return of_rows ? kv_push_row_sparse(kv, &sparse, &rows, NULL, 1, 0, NULL)
                   : kv_push(kv, &dense, &value, NULL, 1, 0, KV_BORROW, NULL);
}

static void pull(kv_store *kv, bool of_rows, float *out)
{
    const kv_array value = {out, KV_F32, 2, shape};
    int64_t all[] = {0, 1, 2, 3, 4};
    int64_t found[ROWS];
    kv_row_sparse rows = {out, KV_F32, 2, shape, found, KV_I64, 0};
    const kv_array wanted = {all, KV_I64, 1, (uint64_t[]){ROWS}};
    assert_int_equal(of_rows ? kv_row_sparse_pull(kv, &sparse, &rows, NULL, &wanted, 1, 1, 0, NULL)
                             : kv_pull(kv, &dense, &value, NULL, 1, 0, NULL),
                     0);
}

static kv_store *open_store(const char *rule, bool of_rows)
{
    kv_store *kv = NULL;
    const kv_array value = {start, KV_F32, 2, shape};
    const kv_row_sparse rows = {start, KV_F32, 2, shape, NULL, KV_I64, ROWS};
    assert_int_equal(kv_create("local", NULL, NULL, &kv, NULL, 0), 0);
    assert_int_equal(
        of_rows ? kv_init_row_sparse(kv, &sparse, &rows, 1) : kv_init(kv, &dense, &value, 1), 0);
    if (rule != NULL) {
        assert_int_equal(kv_set_optimizer(kv, rule), 0);
    }
    return kv;
}

/* False once all allocations of the push have succeeded. */
static bool try(const char *rule, bool of_rows, uint64_t n)
{
    kv_store *kv = open_store(rule, of_rows);
    failing_alloc_begin(n, true);
    kv_status status = push(kv, of_rows);
    bool failed = failing_alloc_end();
    if (failed) {
        assert_string_equal(kv_status_reason(status), "NO_MEMORY");
        pull(kv, of_rows, got);
        assert_int_equal(memcmp(got, start, BYTES), 0);
        assert_int_equal(push(kv, of_rows), 0);
    } else {
        assert_int_equal(status, 0);
    }
    pull(kv, of_rows, got);
    assert_int_equal(memcmp(got, rich, BYTES), 0);
    assert_int_equal(kv_close(kv), 0);
    return failed;
}

static void a_push_of_several_parts_happens_or_fails(void **state)
{
    static const char *const rules[] = {NULL, "{\"name\": \"adam\", \"lazy_update\": true}",
                                        "{\"name\": \"lars\", \"momentum\": 0.9}",
                                        "{\"name\": \"groupadagrad\"}"};
    (void)state;
    for (size_t i = 0; i < ELEMENTS; i++) {
        start[i] = (float)(i % 89) / 40.0f - 1.0f;
        gradient[i] = (float)(i % 97) / 64.0f - 0.5f;
    }
    for (size_t r = 0; r < sizeof rules / sizeof rules[0]; r++) {
        for (int of_rows = 0; of_rows < 2; of_rows++) {
            kv_store *kv = open_store(rules[r], of_rows != 0);
            assert_int_equal(push(kv, of_rows != 0), 0);
            pull(kv, of_rows != 0, rich);
            assert_int_equal(kv_close(kv), 0);
            uint64_t n = 1;
            while (try(rules[r], of_rows != 0, n)) {
                n++;
            }
            assert_true(n > 3);
        }
    }
}

/* 8 MiB, more than a session of a server may have on its way: clipped by the norm of all of it. */
static void a_large_value_has_the_norm_of_all_its_parts(void **state)
{
    const uint64_t count = (uint64_t)1 << 21;
    float *numbers = calloc(count, sizeof *numbers);
    const kv_array value = {numbers, KV_F32, 1, &count};
    kv_store *kv = NULL;
    (void)state;
    assert_non_null(numbers);
    assert_int_equal(kv_create("local", NULL, NULL, &kv, NULL, 0), 0);
    assert_int_equal(kv_init(kv, &dense, &value, 1), 0);
    assert_int_equal(kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": 1, \"wd\": 0,"
                                          " \"clip_norm\": 4}"),
                     0);
    for (uint64_t i = 0; i < count; i++) {
        numbers[i] = -1;
    }
    assert_int_equal(kv_push(kv, &dense, &value, NULL, 1, 0, KV_BORROW, NULL), 0);
    assert_int_equal(kv_pull(kv, &dense, &value, NULL, 1, 0, NULL), 0);
    for (uint64_t i = 0; i < count; i++) {
        assert_float_equal(numbers[i], 4 / sqrtf((float)count), 1e-8f);
    }
    assert_int_equal(kv_close(kv), 0);
    free(numbers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_large_value_has_the_norm_of_all_its_parts),
        cmocka_unit_test(a_push_of_several_parts_happens_or_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
