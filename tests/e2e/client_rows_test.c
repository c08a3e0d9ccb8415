/* row_sparse values through the C client: on a local store, and at a server. */
#include "tests/e2e/client_store.h"

#include <kvstore/kvstore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Three parts of 4096 rows, the last not full. */
#define ROWS 10000
#define WIDTH 64

static const uint64_t shape[] = {ROWS, WIDTH};
static const kv_key key = {.name = "embedding"};
static const char *program;
static const char *type = "local"; /* of the group that runs */

static int setup(void **state)
{
    static store_fixture one;
    const char *const arguments[] = {"--store-type", type, NULL};
    *state = &one;
    return open_fixture(&one, program, type, arguments);
}

static void assert_reason(kv_status status, const char *reason)
{
    assert_string_equal(kv_status_reason(status), reason);
}

/* ------------------------------------------------------------------ rows */

/* `count` rows, each filled with its number in `fills`. */
typedef struct rows {
    float data[64][WIDTH];
    kv_row_sparse value;
} rows;

static kv_row_sparse *fill(rows *of, int64_t *ids, const float *fills, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        for (int j = 0; j < WIDTH; j++) {
            of->data[i][j] = fills[i];
        }
    }
    of->value = (kv_row_sparse){.data = of->data,
                                .dtype = KV_F32,
                                .rank = 2,
                                .shape = shape,
                                .ids = ids,
                                .id_dtype = KV_I64,
                                .count = count};
    return &of->value;
}

static void init_rows(kv_store *kv, int64_t *ids, const float *fills, uint64_t count)
{
    rows given;
    ok(kv, kv_init_row_sparse(kv, &key, fill(&given, ids, fills, count), 1));
}

static void push_rows(kv_store *kv, int64_t *ids, const float *fills, uint64_t count)
{
    rows given;
    ok(kv, kv_push_row_sparse(kv, &key, fill(&given, ids, fills, count), NULL, 1, 0, NULL));
}

/* Pulls rows `ids` and expects `count` rows of those ids and fills. */
static void assert_rows(kv_store *kv, const int64_t *asked, uint64_t asked_count,
                        const int64_t *ids, const float *fills, uint64_t count)
{
    rows got;
    int64_t got_ids[64];
    memset(got.data, 0x7f, sizeof got.data);
    kv_row_sparse *out = fill(&got, got_ids, NULL, 0);
    kv_array wanted = {(void *)asked, KV_I64, 1, &asked_count};
    ok(kv, kv_row_sparse_pull(kv, &key, out, NULL, &wanted, 1, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_int_equal(out->count, count);
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(got_ids[i], ids[i]);
        for (int j = 0; j < WIDTH; j++) {
            assert_float_equal(got.data[i][j], fills[i], 0);
        }
    }
}

#define IDS(...) ((int64_t[]){__VA_ARGS__})
#define FILLS(...) ((const float[]){__VA_ARGS__})
#define PULLED(ids, fills) assert_rows(one->kv, ids, sizeof(ids) / 8, ids, fills, sizeof(ids) / 8)

/* ------------------------------------------------------------------ init and pull */

static void rows_come_once_in_ascending_order(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(0, 4095, 4096, 9999), FILLS(1, 2, 3, 4), 4);
    assert_rows(one->kv, IDS(9999, 0, 4096, 0, 5), 5, IDS(0, 5, 4096, 9999), FILLS(1, 0, 3, 4), 4);
}

static void init_sums_repeated_rows_and_takes_any_order(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(8000, 7, 8000), FILLS(1, 2, 4), 3);
    PULLED(IDS(7, 8000), FILLS(2, 5));
}

static void all_rows_can_be_given_without_ids(void **state)
{
    store_fixture *one = *state;
    float *all = malloc(sizeof(float) * ROWS * WIDTH);
    float *back = calloc(ROWS * WIDTH, sizeof(float));
    assert_non_null(all);
    assert_non_null(back);
    for (size_t i = 0; i < ROWS * WIDTH; i++) {
        all[i] = (float)(i / WIDTH);
    }
    kv_row_sparse value = {.data = all, .dtype = KV_F32, .rank = 2, .shape = shape, .count = ROWS};
    ok(one->kv, kv_init_row_sparse(one->kv, &key, &value, 1));
    PULLED(IDS(0, 4095, 4096, 9999), FILLS(0, 4095, 4096, 9999));
    kv_array out = {back, KV_F32, 2, shape};
    ok(one->kv, kv_pull(one->kv, &key, &out, NULL, 1, 0, NULL));
    ok(one->kv, kv_wait(one->kv, KV_FOREVER));
    assert_memory_equal(all, back, sizeof(float) * ROWS * WIDTH);
    free(all);
    free(back);
}

static void ids_of_any_whole_dtype_name_rows(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(0, 3, 100), FILLS(1, 2, 3), 3);
    kv_array lists[] = {
        {(uint8_t[]){100, 3}, KV_U8, 1, (uint64_t[]){2}},
        {(int8_t[]){100, 3}, KV_I8, 1, (uint64_t[]){2}},
        {(int32_t[]){100, 3}, KV_I32, 2, (uint64_t[]){2, 1}},
        {(float[]){100, 3}, KV_F32, 1, (uint64_t[]){2}},
        {(double[]){100, 3}, KV_F64, 1, (uint64_t[]){2}},
    };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        rows got;
        int64_t ids[2];
        kv_row_sparse *out = fill(&got, ids, NULL, 0);
        ok(one->kv, kv_row_sparse_pull(one->kv, &key, out, NULL, &lists[i], 1, 1, 0, NULL));
        ok(one->kv, kv_wait(one->kv, KV_FOREVER));
        assert_int_equal(out->count, 2);
        assert_int_equal(ids[0], 3);
        assert_float_equal(got.data[0][0], 2, 0);
        assert_float_equal(got.data[1][WIDTH - 1], 3, 0);
    }
}

static void one_list_of_ids_serves_all_outs(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(1, 2), FILLS(1, 2), 2);
    rows got[2];
    int64_t ids[2][2];
    kv_row_sparse outs[2] = {*fill(&got[0], ids[0], NULL, 0), *fill(&got[1], ids[1], NULL, 0)};
    size_t counts[] = {2};
    kv_array wanted = {IDS(2), KV_I64, 1, (uint64_t[]){1}};
    ok(one->kv, kv_row_sparse_pull(one->kv, &key, outs, counts, &wanted, 1, 1, 0, NULL));
    ok(one->kv, kv_wait(one->kv, KV_FOREVER));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(outs[i].count, 1);
        assert_float_equal(got[i].data[0][0], 2, 0);
    }
}

static void no_ids_give_no_rows(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(1), FILLS(1), 1);
    assert_rows(one->kv, IDS(0), 0, IDS(0), FILLS(0), 0);
}

/* More ids than one request takes. */
static void a_whole_value_can_be_asked_for_by_rows(void **state)
{
    store_fixture *one = *state;
    static const uint64_t long_shape[] = {200000, 1};
    static float data[200000];
    static int64_t ids[200000];
    static int64_t asked[200000];
    static float got[200000];
    static int64_t got_ids[200000];
    for (int64_t i = 0; i < 200000; i++) {
        data[i] = (float)i;
        ids[i] = i;
        asked[i] = (i * 7919) % 200000;
    }
    kv_row_sparse value = {data, KV_F32, 2, long_shape, ids, KV_I64, 200000};
    kv_row_sparse out = {got, KV_F32, 2, long_shape, got_ids, KV_I64, 0};
    kv_array wanted = {asked, KV_I64, 1, long_shape};
    ok(one->kv, kv_init_row_sparse(one->kv, &key, &value, 1));
    ok(one->kv, kv_row_sparse_pull(one->kv, &key, &out, NULL, &wanted, 1, 1, 0, NULL));
    ok(one->kv, kv_wait(one->kv, KV_FOREVER));
    assert_int_equal(out.count, 200000);
    assert_memory_equal(got, data, sizeof data);
    assert_memory_equal(got_ids, ids, sizeof ids);
}

/* ------------------------------------------------------------------ push */

static void without_an_optimizer_the_rows_become_the_value(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(1, 5000), FILLS(1, 1), 2);
    push_rows(one->kv, IDS(5000, 9000, 5000), FILLS(2, 3, 4), 3);
    PULLED(IDS(1, 5000, 9000), FILLS(0, 6, 3));
    push_rows(one->kv, NULL, NULL, 0);
    PULLED(IDS(1, 5000, 9000), FILLS(0, 0, 0));
}

static void values_of_several_devices_are_added_up(void **state)
{
    store_fixture *one = *state;
    rows given[2];
    init_rows(one->kv, NULL, NULL, 0);
    kv_row_sparse values[] = {*fill(&given[0], IDS(9, 1), FILLS(1, 2), 2),
                              *fill(&given[1], IDS(1, 7000), FILLS(4, 8), 2)};
    size_t counts[] = {2};
    ok(one->kv, kv_push_row_sparse(one->kv, &key, values, counts, 1, 0, NULL));
    PULLED(IDS(1, 9, 7000), FILLS(6, 1, 8));
}

static void a_dense_push_brings_all_rows(void **state)
{
    store_fixture *one = *state;
    float *all = malloc(sizeof(float) * ROWS * WIDTH);
    assert_non_null(all);
    for (size_t i = 0; i < ROWS * WIDTH; i++) {
        all[i] = (float)(i / WIDTH);
    }
    init_rows(one->kv, NULL, NULL, 0);
    kv_array value = {all, KV_F32, 2, shape};
    ok(one->kv, kv_push(one->kv, &key, &value, NULL, 1, 0, 0, NULL));
    PULLED(IDS(0, 4096, 9999), FILLS(0, 4096, 9999));
    free(all);
}

static void a_lazy_rule_leaves_other_rows_alone(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(3, 5000), FILLS(8, 8), 2);
    ok(one->kv, kv_set_optimizer(one->kv, "{\"name\": \"sgd\", \"learning_rate\": 0.5, \"wd\": 0.5,"
                                          " \"momentum\": 0.5, \"lazy_update\": true}"));
    push_rows(one->kv, IDS(3), FILLS(4), 1);
    /* m = -0.5 (4 + 0.5 * 8) = -4; w = 4 */
    PULLED(IDS(3, 5000), FILLS(4, 8));
    push_rows(one->kv, IDS(5000), FILLS(0), 1);
    PULLED(IDS(3, 5000), FILLS(4, 6));
}

static void a_standard_rule_updates_all_rows(void **state)
{
    store_fixture *one = *state;
    init_rows(one->kv, IDS(3, 5000), FILLS(8, 8), 2);
    ok(one->kv, kv_set_optimizer(one->kv, "{\"name\": \"sgd\", \"learning_rate\": 0.5, \"wd\": 0.5,"
                                          " \"momentum\": 0.5, \"lazy_update\": false}"));
    push_rows(one->kv, IDS(3), FILLS(4), 1);
    PULLED(IDS(3, 5000), FILLS(4, 6));
    push_rows(one->kv, NULL, NULL, 0);
    if (strcmp(type, "dist_async") == 0) {
        PULLED(IDS(3, 5000), FILLS(4, 6)); /* passed over */
        return;
    }
    /* m = 0.5 m - 0.5 (0.5 w): 3: -2 - 1; 5000: -1 - 1.5 */
    PULLED(IDS(3, 5000), FILLS(1, 3.5f));
}

/* ------------------------------------------------------------------ refusals */

static void rows_beyond_the_value_are_refused(void **state)
{
    store_fixture *one = *state;
    rows given;
    init_rows(one->kv, IDS(1), FILLS(1), 1);
    int64_t bad[] = {ROWS, -1};
    for (int i = 0; i < 2; i++) {
        assert_reason(
            kv_push_row_sparse(one->kv, &key, fill(&given, &bad[i], FILLS(1), 1), NULL, 1, 0, NULL),
            "INVALID_TENSOR");
        int64_t ids[1];
        kv_array wanted = {&bad[i], KV_I64, 1, (uint64_t[]){1}};
        assert_reason(kv_row_sparse_pull(one->kv, &key, fill(&given, ids, NULL, 0), NULL, &wanted,
                                         1, 1, 0, NULL),
                      "INVALID_TENSOR");
    }
    kv_array half = {(float[]){0.5f}, KV_F32, 1, (uint64_t[]){1}};
    int64_t ids[1];
    assert_reason(
        kv_row_sparse_pull(one->kv, &key, fill(&given, ids, NULL, 0), NULL, &half, 1, 1, 0, NULL),
        "INVALID_TENSOR");
    PULLED(IDS(1), FILLS(1));
}

/* It would never arrive. */
static void a_row_that_fits_no_message_is_refused(void **state)
{
    store_fixture *one = *state;
    const uint64_t wide[] = {2, (1u << 21) + 1}; /* 8 MiB and 4 bytes a row */
    float *row = calloc(wide[1], sizeof *row);
    assert_non_null(row);
    kv_row_sparse value = {row, KV_F32, 2, wide, IDS(1), KV_I64, 1};
    assert_reason(kv_init_row_sparse(one->kv, &key, &value, 1), "TOO_LARGE");
    assert_reason(kv_push_row_sparse(one->kv, &key, &value, NULL, 1, 0, NULL), "TOO_LARGE");
    free(row);
}

static void a_dense_key_is_not_pulled_by_rows(void **state)
{
    store_fixture *one = *state;
    float data[4] = {1, 2, 3, 4};
    kv_array value = {data, KV_F32, 2, (uint64_t[]){2, 2}};
    ok(one->kv, kv_init(one->kv, &key, &value, 1));
    float got[2];
    int64_t ids[1];
    kv_row_sparse out = {got, KV_F32, 2, (uint64_t[]){2, 2}, ids, KV_I64, 0};
    kv_array wanted = {IDS(1), KV_I64, 1, (uint64_t[]){1}};
    kv_handle *handle = NULL;
    kv_status status = kv_row_sparse_pull(one->kv, &key, &out, NULL, &wanted, 1, 1, 0, &handle);
    assert_reason(status != 0 ? status : kv_handle_wait(one->kv, handle, KV_FOREVER),
                  "INVALID_TENSOR");
}

static void a_key_has_one_storage(void **state)
{
    store_fixture *one = *state;
    float *all = calloc(ROWS * WIDTH, sizeof(float));
    assert_non_null(all);
    init_rows(one->kv, IDS(1), FILLS(1), 1);
    kv_array value = {all, KV_F32, 2, shape};
    assert_reason(kv_init(one->kv, &key, &value, 1), "KEY_EXISTS");
    free(all);
}

/* ------------------------------------------------------------------ several ranks */

/* Sums that differ with their order: in rank order, whoever comes first, they do not. */
static void sums_are_made_in_rank_order(void **state)
{
    (void)state;
    static const int orders[2][3] = {{0, 1, 2}, {2, 0, 1}};
    static const float fills[] = {1e8f, -1e8f, 1};
    const char *const arguments[] = {"--num-workers", "3", NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_store *workers[3];
    rows given;
    for (int i = 0; i < 3; i++) {
        kv_options options;
        kv_options_init(&options);
        options.rank = i;
        assert_int_equal(
            kv_create("dist_sync", kvs_test_server_address(server), &options, &workers[i], NULL, 0),
            0);
    }
    for (int i = 0; i < 3; i++) {
        ok(workers[i], kv_init_row_sparse(workers[i], &key, fill(&given, NULL, NULL, 0), 1));
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            int rank = orders[round][i];
            /* Rank 1 has rows of its own as well, rank 2 none but the one that all have. */
            int64_t *ids = rank == 1 ? IDS(77, 6000) : IDS(77);
            push_rows(workers[rank], ids, FILLS(fills[rank], 5), rank == 1 ? 2 : 1);
        }
        for (int i = 0; i < 3; i++) {
            assert_rows(workers[i], IDS(77, 6000), 2, IDS(77, 6000), FILLS(1, 5), 2);
        }
    }
    for (int i = 0; i < 3; i++) {
        ok(workers[i], kv_close(workers[i]));
    }
    assert_int_equal(kvs_test_server_close(server), 0);
}

#define EACH(test) cmocka_unit_test_setup_teardown(test, setup, close_fixture)
#define RULES EACH(a_lazy_rule_leaves_other_rows_alone), EACH(a_standard_rule_updates_all_rows)
#define ALL                                                                                        \
    EACH(rows_come_once_in_ascending_order), EACH(init_sums_repeated_rows_and_takes_any_order),    \
        EACH(all_rows_can_be_given_without_ids), EACH(ids_of_any_whole_dtype_name_rows),           \
        EACH(one_list_of_ids_serves_all_outs), EACH(no_ids_give_no_rows),                          \
        EACH(a_whole_value_can_be_asked_for_by_rows),                                              \
        EACH(without_an_optimizer_the_rows_become_the_value),                                      \
        EACH(values_of_several_devices_are_added_up), EACH(a_dense_push_brings_all_rows), RULES,   \
        EACH(rows_beyond_the_value_are_refused), EACH(a_row_that_fits_no_message_is_refused),      \
        EACH(a_dense_key_is_not_pulled_by_rows), EACH(a_key_has_one_storage)

int main(int argc, char **argv)
{
    const struct CMUnitTest local[] = {ALL};
    const struct CMUnitTest server[] = {ALL, cmocka_unit_test(sums_are_made_in_rank_order)};
    const struct CMUnitTest alone[] = {RULES};
    if (argc < 2) {
        print_error("usage: %s KVSTORED\n", argv[0]);
        return 2;
    }
    program = argv[1];
    int failed = cmocka_run_group_tests_name("local", local, NULL, NULL);
    type = "dist_sync";
    failed += cmocka_run_group_tests_name("server", server, NULL, NULL);
    type = "dist_async";
    failed += cmocka_run_group_tests_name("asynchronous server", alone, NULL, NULL);
    return failed;
}
