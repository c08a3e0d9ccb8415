/* The examples of MXNet's KVStore page, with their numbers, on a local store and at a server. */
#include "tests/e2e/client_store.h"

#include <kvstore/kvstore.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define ELEMENTS 6
#define DEVICES 4

static const uint64_t shape[] = {2, 3};
static const char *program;
static const char *type = "local"; /* of the group that runs */

static int setup(void **state)
{
    static store_fixture one;
    *state = &one;
    return open_fixture(&one, program, type, NULL);
}

/* ------------------------------------------------------------------ arrays */

typedef struct numbers {
    float at[ELEMENTS];
} numbers;

static numbers all(float value)
{
    numbers made;
    for (int i = 0; i < ELEMENTS; i++) {
        made.at[i] = value;
    }
    return made;
}

static kv_array array(numbers *of)
{
    return (kv_array){of->at, KV_F32, 2, shape};
}

static void assert_all(const numbers *got, float expected)
{
    for (int i = 0; i < ELEMENTS; i++) {
        assert_float_equal(got->at[i], expected, 0);
    }
}

static const kv_key three = {.number = 3};
static const kv_key list[] = {{.number = 5}, {.number = 7}, {.number = 9}};

static void init_three(kv_store *kv, float value)
{
    numbers values = all(value);
    kv_array one = array(&values);
    ok(kv, kv_init(kv, &three, &one, 1));
}

static void init_list(kv_store *kv)
{
    numbers values[3] = {all(1), all(1), all(1)};
    kv_array arrays[3] = {array(&values[0]), array(&values[1]), array(&values[2])};
    ok(kv, kv_init(kv, list, arrays, 3));
}

static void assert_three(kv_store *kv, float expected)
{
    numbers got = all(-1);
    kv_array out = array(&got);
    ok(kv, kv_pull(kv, &three, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_all(&got, expected);
}

/* ------------------------------------------------------------------ init and pull */

static void init_of_a_single_key_is_pulled(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    assert_three(kv, 2);
}

static void init_of_a_list_of_keys_is_pulled(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_list(kv);
    numbers got[3] = {all(0), all(0), all(0)};
    kv_array outs[3] = {array(&got[0]), array(&got[1]), array(&got[2])};
    ok(kv, kv_pull(kv, list, outs, NULL, 3, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    for (int i = 0; i < 3; i++) {
        assert_all(&got[i], 1);
    }
}

static void pull_into_several_devices_fills_each(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    numbers got[DEVICES] = {all(1), all(1), all(1), all(1)};
    kv_array outs[DEVICES];
    size_t count = DEVICES;
    for (int i = 0; i < DEVICES; i++) {
        outs[i] = array(&got[i]);
    }
    ok(kv, kv_pull(kv, &three, outs, &count, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    for (int i = 0; i < DEVICES; i++) {
        assert_all(&got[i], 2);
    }
}

/* ------------------------------------------------------------------ push */

static void push_of_a_single_key_replaces_its_value(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    numbers eight = all(8);
    kv_array value = array(&eight);
    ok(kv, kv_push(kv, &three, &value, NULL, 1, 0, 0, NULL));
    assert_three(kv, 8);
}

static void push_from_four_devices_is_their_sum(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    numbers ones[DEVICES] = {all(1), all(1), all(1), all(1)};
    kv_array values[DEVICES];
    size_t count = DEVICES;
    for (int i = 0; i < DEVICES; i++) {
        values[i] = array(&ones[i]);
    }
    ok(kv, kv_push(kv, &three, values, &count, 1, 0, 0, NULL));
    assert_three(kv, 4);
}

static void push_of_a_list_of_keys_changes_each(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_list(kv);
    numbers ones = all(1);
    kv_array values[3] = {array(&ones), array(&ones), array(&ones)};
    numbers got[3] = {all(0), all(0), all(0)};
    kv_array outs[3] = {array(&got[0]), array(&got[1]), array(&got[2])};
    ok(kv, kv_push(kv, list, values, NULL, 3, 0, 0, NULL));
    ok(kv, kv_pull(kv, list, outs, NULL, 3, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_all(&got[1], 1);
}

static void push_of_a_list_from_four_devices_is_pulled_into_four(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_list(kv);
    numbers ones[3][DEVICES];
    kv_array arrays[3 * DEVICES];
    size_t counts[3] = {DEVICES, DEVICES, DEVICES};
    for (int i = 0; i < 3 * DEVICES; i++) {
        ones[i / DEVICES][i % DEVICES] = all(1);
        arrays[i] = array(&ones[i / DEVICES][i % DEVICES]);
    }
    ok(kv, kv_push(kv, list, arrays, counts, 3, 0, 0, NULL));
    ok(kv, kv_pull(kv, list, arrays, counts, 3, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    for (int i = 0; i < 3 * DEVICES; i++) {
        assert_all(&ones[i / DEVICES][i % DEVICES], 4);
    }
}

static void a_key_that_stands_twice_in_a_push_is_summed(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    numbers ones = all(1);
    numbers fives = all(5);
    kv_key keys[2] = {three, three};
    kv_array values[2] = {array(&ones), array(&fives)};
    ok(kv, kv_push(kv, keys, values, NULL, 2, 0, 0, NULL));
    assert_three(kv, 6);
}

/* ------------------------------------------------------------------ pushpull, broadcast */

static void pushpull_without_outs_writes_the_sum_to_its_values(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    numbers ones[2] = {all(1), all(2)};
    kv_array values[2] = {array(&ones[0]), array(&ones[1])};
    size_t count = 2;
    ok(kv, kv_pushpull(kv, &three, values, &count, NULL, NULL, 1, 0, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_all(&ones[0], 3);
    assert_all(&ones[1], 3);
}

static void pushpull_with_an_optimizer_gives_the_new_weights(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    ok(kv, kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": 0.5}"));
    numbers ones = all(1);
    numbers got = all(0);
    kv_array value = array(&ones);
    kv_array out = array(&got);
    ok(kv, kv_pushpull(kv, &three, &value, NULL, &out, NULL, 1, 0, KV_BORROW, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_all(&got, 1.5f);
    assert_all(&ones, 1);
}

static void broadcast_is_an_init_and_a_pull(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    numbers sevens = all(7);
    numbers got[2] = {all(0), all(0)};
    kv_array value = array(&sevens);
    kv_array outs[2] = {array(&got[0]), array(&got[1])};
    size_t count = 2;
    ok(kv, kv_broadcast(kv, &three, &value, outs, &count, 1));
    assert_all(&got[0], 7);
    assert_all(&got[1], 7);
}

/* ------------------------------------------------------------------ the rest of the page */

static void type_rank_and_num_workers_are_told(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    int capable = 0;
    assert_string_equal(kv_type(kv), type);
    assert_int_equal(kv_rank(kv), 0);
    assert_int_equal(kv_num_workers(kv), 1);
    ok(kv, kv_is_capable(kv, "optimizer", &capable));
    assert_int_equal(capable, 1);
    assert_int_not_equal(kv_is_capable(kv, "flight", &capable), 0);
    ok(kv, kv_barrier(kv, 0));
    ok(kv, kv_send_command(kv, 7, "hello"));
}

static void optimizer_is_given_back_as_it_was_set(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    char *json = NULL;
    ok(kv, kv_get_optimizer(kv, &json));
    assert_string_equal(json, "");
    kv_free(json);
    ok(kv, kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": 0.25}"));
    ok(kv, kv_get_optimizer(kv, &json));
    assert_non_null(strstr(json, "0.25"));
    kv_free(json);
    assert_string_equal(kv_status_reason(kv_set_optimizer(kv, "{\"name\": \"sgdd\"}")),
                        "INVALID_FIELD");
    ok(kv, kv_set_optimizer(kv, NULL));
    ok(kv, kv_get_optimizer(kv, &json));
    assert_string_equal(json, "");
    kv_free(json);
}

static void pull_of_an_unknown_key_is_refused(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    numbers got = all(0);
    kv_array out = array(&got);
    kv_handle *handle = NULL;
    kv_status status = kv_pull(kv, &three, &out, NULL, 1, 0, &handle);
    if (status == 0) {
        status = kv_handle_wait(kv, handle, KV_FOREVER);
    }
    assert_string_equal(kv_status_reason(status), "KEY_NOT_FOUND");
    assert_int_equal(kv_status_grpc_code(status), 5);
    assert_non_null(strstr(kv_status_advice(status), "init"));
    assert_non_null(strstr(kv_last_error(kv), "3"));
}

static void keys_of_two_kinds_do_not_mix(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    numbers values = all(1);
    kv_array value = array(&values);
    kv_key name = {.name = "three"};
    assert_string_equal(kv_status_reason(kv_init(kv, &name, &value, 1)), "INVALID_FIELD");
    kv_key both[2] = {three, name};
    kv_array two[2] = {value, value};
    assert_string_equal(kv_status_reason(kv_push(kv, both, two, NULL, 2, 0, 0, NULL)),
                        "INVALID_FIELD");
}

static void names_are_keys_as_well(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    numbers values = all(1.5f);
    numbers got = all(0);
    kv_array value = array(&values);
    kv_array out = array(&got);
    kv_key name = {.name = "layer.0/weight"};
    ok(kv, kv_init(kv, &name, &value, 1));
    ok(kv, kv_pull(kv, &name, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_all(&got, 1.5f);
}

static void an_out_of_another_size_is_refused(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    float small[2] = {0};
    float large[8] = {0};
    const uint64_t two = 2;
    const uint64_t eight = 8;
    kv_array outs[2] = {{small, KV_F32, 1, &two}, {large, KV_F32, 1, &eight}};
    for (int i = 0; i < 2; i++) {
        kv_handle *handle = NULL;
        kv_status status = kv_pull(kv, &three, &outs[i], NULL, 1, 0, &handle);
        if (status == 0) {
            status = kv_handle_wait(kv, handle, KV_FOREVER);
        }
        assert_string_equal(kv_status_reason(status), "INVALID_TENSOR");
    }
    assert_three(kv, 2);
}

static void rows_of_the_page_are_pulled(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    static const uint64_t square[] = {3, 3};
    static const uint64_t two = 2;
    float ones[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    int64_t all_ids[3] = {0, 1, 2};
    kv_key key = {.name = "3"};
    kv_row_sparse value = {ones, KV_F32, 2, square, all_ids, KV_I64, 3};
    ok(kv, kv_init_row_sparse(kv, &key, &value, 1));
    static const struct {
        int64_t asked[2];
        uint64_t count;
        int64_t got[2];
    } pulls[] = {{{0, 2}, 2, {0, 2}}, {{2, 2}, 1, {2}}, {{1, 0}, 2, {0, 1}}};
    for (size_t i = 0; i < sizeof pulls / sizeof pulls[0]; i++) {
        float rows[6] = {0};
        int64_t ids[2] = {-1, -1};
        kv_row_sparse out = {rows, KV_F32, 2, square, ids, KV_I64, 0};
        kv_array asked = {(void *)(uintptr_t)pulls[i].asked, KV_I64, 1, &two};
        ok(kv, kv_row_sparse_pull(kv, &key, &out, NULL, &asked, 1, 1, 0, NULL));
        ok(kv, kv_wait(kv, KV_FOREVER));
        assert_int_equal(out.count, pulls[i].count);
        for (uint64_t row = 0; row < out.count; row++) {
            assert_int_equal(ids[row], pulls[i].got[row]);
            assert_memory_equal(&rows[3 * row], ones, 3 * sizeof(float));
        }
    }
}

/* ------------------------------------------------------------------ a server alone */

static void *enter_and_pull(void *given)
{
    kv_store *kv = given;
    static _Thread_local numbers got;
    got = all(-1);
    kv_array out = array(&got);
    bool done = kv_barrier(kv, 0) == 0 && kv_pull(kv, &three, &out, NULL, 1, 0, NULL) == 0 &&
                kv_wait(kv, KV_FOREVER) == 0;
    return (void *)(uintptr_t)(done && got.at[0] == 2 && got.at[ELEMENTS - 1] == 2);
}

static void rank_0_inits_and_all_pull_after_a_barrier(void **state)
{
    (void)state;
    static const char *const arguments[] = {"--num-workers", "2", NULL};
    kvs_test_server *server = kvs_test_server_open(program, arguments);
    kv_store *workers[2];
    for (int rank = 0; rank < 2; rank++) {
        kv_options options;
        kv_options_init(&options);
        options.rank = rank;
        assert_int_equal(kv_create("dist_sync", kvs_test_server_address(server), &options,
                                   &workers[rank], NULL, 0),
                         0);
    }
    pthread_t second;
    void *done = NULL;
    assert_int_equal(pthread_create(&second, NULL, enter_and_pull, workers[1]), 0);
    init_three(workers[0], 2);
    assert_non_null(enter_and_pull(workers[0]));
    assert_int_equal(pthread_join(second, &done), 0);
    assert_non_null(done);
    assert_int_equal(kv_close(workers[0]), 0);
    assert_int_equal(kv_close(workers[1]), 0);
    assert_int_equal(kvs_test_server_close(server), 0);
}

/* ------------------------------------------------------------------ local alone */

static void add_twice(kv_key key, const kv_array *input, kv_array *stored, void *context)
{
    const float *from = input->data;
    float *to = stored->data;
    assert_int_equal(key.number, 3);
    assert_int_equal(input->rank, 2);
    assert_int_equal(stored->shape[1], 3);
    for (int i = 0; i < ELEMENTS; i++) {
        to[i] += from[i] * 2;
    }
    (*(int *)context)++;
}

static void updater_is_called_once_a_key_with_the_sum(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    int calls = 0;
    init_three(kv, 4);
    ok(kv, kv_set_updater(kv, add_twice, &calls));
    numbers ones = all(1);
    kv_array value = array(&ones);
    ok(kv, kv_push(kv, &three, &value, NULL, 1, 0, 0, NULL));
    assert_int_equal(calls, 1);
    assert_three(kv, 6);
    kv_array values[2] = {value, value};
    size_t count = 2;
    ok(kv, kv_push(kv, &three, values, &count, 1, 0, 0, NULL));
    assert_int_equal(calls, 2);
    assert_three(kv, 10);
    ok(kv, kv_set_updater(kv, NULL, NULL));
    ok(kv, kv_push(kv, &three, &value, NULL, 1, 0, 0, NULL));
    assert_int_equal(calls, 2);
    assert_three(kv, 1);
}

static void second_init_is_an_error_on_local(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    numbers values = all(1);
    kv_array value = array(&values);
    assert_string_equal(kv_status_reason(kv_init(kv, &three, &value, 1)), "KEY_EXISTS");
    assert_three(kv, 2);
}

static void equal_second_init_changes_nothing_at_a_server(void **state)
{
    kv_store *kv = ((store_fixture *)*state)->kv;
    init_three(kv, 2);
    init_three(kv, 5);
    assert_three(kv, 2);
    numbers values = all(1);
    const uint64_t six = 6;
    kv_array other = {values.at, KV_F32, 1, &six};
    assert_string_equal(kv_status_reason(kv_init(kv, &three, &other, 1)), "KEY_EXISTS");
    assert_string_equal(kv_status_reason(kv_set_updater(kv, add_twice, NULL)), "UNIMPLEMENTED");
}

static void unknown_types_are_local(void **state)
{
    (void)state;
    kv_store *kv = NULL;
    assert_int_equal(kv_create("Row_Sparse", NULL, NULL, &kv, NULL, 0), 0);
    assert_string_equal(kv_type(kv), "row_sparse");
    assert_int_equal(kv_close(kv), 0);
    char error[256];
    assert_int_not_equal(kv_create("dist_sync", NULL, NULL, &kv, error, sizeof error), 0);
    assert_null(kv);
    assert_non_null(strstr(error, "address"));
}

#define EACH(test) cmocka_unit_test_setup_teardown(test, setup, close_fixture)
#define BOTH                                                                                       \
    EACH(init_of_a_single_key_is_pulled), EACH(init_of_a_list_of_keys_is_pulled),                  \
        EACH(pull_into_several_devices_fills_each), EACH(push_of_a_single_key_replaces_its_value), \
        EACH(push_from_four_devices_is_their_sum), EACH(push_of_a_list_of_keys_changes_each),      \
        EACH(push_of_a_list_from_four_devices_is_pulled_into_four),                                \
        EACH(a_key_that_stands_twice_in_a_push_is_summed),                                         \
        EACH(pushpull_without_outs_writes_the_sum_to_its_values),                                  \
        EACH(pushpull_with_an_optimizer_gives_the_new_weights),                                    \
        EACH(broadcast_is_an_init_and_a_pull), EACH(type_rank_and_num_workers_are_told),           \
        EACH(optimizer_is_given_back_as_it_was_set), EACH(pull_of_an_unknown_key_is_refused),      \
        EACH(keys_of_two_kinds_do_not_mix), EACH(names_are_keys_as_well),                          \
        EACH(an_out_of_another_size_is_refused), EACH(rows_of_the_page_are_pulled)

int main(int argc, char **argv)
{
    const struct CMUnitTest local[] = {
        BOTH,
        EACH(updater_is_called_once_a_key_with_the_sum),
        EACH(second_init_is_an_error_on_local),
        cmocka_unit_test(unknown_types_are_local),
    };
    const struct CMUnitTest server[] = {
        BOTH,
        EACH(equal_second_init_changes_nothing_at_a_server),
        cmocka_unit_test(rank_0_inits_and_all_pull_after_a_barrier),
    };
    if (argc < 2) {
        print_error("usage: %s KVSTORED\n", argv[0]);
        return 2;
    }
    program = argv[1];
    int failed = cmocka_run_group_tests_name("local", local, NULL, NULL);
    type = "dist_sync";
    failed += cmocka_run_group_tests_name("server", server, NULL, NULL);
    return failed;
}
