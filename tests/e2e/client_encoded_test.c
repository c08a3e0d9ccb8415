/* Pulls in fewer bytes, as a user of the library sees them. */
#include "base/half.h"
#include "tests/e2e/client_store.h"

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

/* Two parts and some. */
#define LARGE ((size_t)600000)
#define ROWS 5000
#define WIDTH 100

static const char *program;
static kvs_test_server *server;
static const uint64_t large = LARGE;

static int setup(void **state)
{
    (void)state;
    server = kvs_test_server_open(program, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return kvs_test_server_close(server);
}

static uint64_t received(kv_store *kv)
{
    kv_statistics now;
    kv_count(kv, &now);
    return now.bytes_received;
}

static float value_at(size_t i)
{
    return (float)(i % 7919) / 7919 - 0.5f;
}

static float as_half(float value, const char *as)
{
    return strcmp(as, "fp16") == 0 ? kvs_f16_to_f32(kvs_f32_to_f16(value))
                                   : kvs_bf16_to_f32(kvs_f32_to_bf16(value));
}

/* Half of what a step of 127 is, of a value of at most 0.5. */
static bool near(float got, float value, const char *as)
{
    return strcmp(as, "int8") == 0   ? fabsf(got - value) <= 0.5f / 254 * 1.001f
           : strcmp(as, "none") == 0 ? got == value
                                     : got == as_half(value, as);
}

static const struct {
    const char *json;
    const char *as;
    uint64_t dense_bytes;
    uint64_t row_bytes;
} forms[] = {
    {"{\"pull\": \"fp16\"}", "fp16", LARGE * 2, WIDTH * 2},
    {"{\"pull\": \"bf16\"}", "bf16", LARGE * 2, WIDTH * 2},
    {"{\"pull\": \"int8\"}", "int8", LARGE + 4 * (1024 + 1024 + 296), WIDTH + 4},
    {"{\"pull\": \"none\"}", "none", LARGE * 4, WIDTH * 4},
};
#define FORMS (sizeof forms / sizeof forms[0])

static void a_pull_takes_the_bytes_that_it_promises(void **state)
{
    kv_store *kv = open_store(server, "dist_sync");
    float *start = calloc(LARGE, sizeof *start);
    float *got = calloc(2 * LARGE, sizeof *got);
    kv_array value = {start, KV_F32, 1, &large};
    kv_array outs[2] = {{got, KV_F32, 1, &large}, {got + LARGE, KV_F32, 1, &large}};
    size_t devices = 2;
    kv_key key = {.name = "dense"};
    (void)state;
    for (size_t i = 0; i < LARGE; i++) {
        start[i] = value_at(i);
    }
    ok(kv, kv_init(kv, &key, &value, 1));
    for (size_t form = 0; form < FORMS; form++) {
        ok(kv, kv_set_gradient_compression(kv, forms[form].json));
        for (int fused = 0; fused < 2; fused++) {
            uint64_t before = received(kv);
            memset(got, 0, 2 * LARGE * sizeof *got);
            if (fused == 0) {
                ok(kv, kv_pull(kv, &key, outs, &devices, 1, 0, NULL));
            } else { /* without an optimizer the value is what was pushed */
                ok(kv, kv_pushpull(kv, &key, &value, NULL, outs, &devices, 1, 0, 0, NULL));
            }
            ok(kv, kv_wait(kv, KV_FOREVER));
            assert_int_equal(received(kv) - before, forms[form].dense_bytes);
            for (size_t i = 0; i < LARGE; i++) {
                if (!near(got[i], start[i], forms[form].as)) {
                    fail_msg("%s %zu: %g, not %g", forms[form].as, i, (double)got[i],
                             (double)start[i]);
                }
            }
            assert_memory_equal(got, got + LARGE, LARGE * sizeof *got);
        }
    }
    free(start);
    free(got);
    ok(kv, kv_close(kv));
}

static void rows_take_the_bytes_that_they_promise(void **state)
{
    static const uint64_t shape[2] = {ROWS, WIDTH};
    static int64_t got_ids[64];
    static float got[64][WIDTH];
    kv_store *kv = open_store(server, "dist_sync");
    float *start = calloc((size_t)ROWS * WIDTH, sizeof *start);
    int64_t ids[64];
    uint64_t count = 64;
    kv_key key = {.name = "rows"};
    kv_row_sparse all = {start, KV_F32, 2, shape, NULL, KV_I64, ROWS};
    (void)state;
    for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++) {
        start[i] = value_at(i);
    }
    for (int64_t i = 0; i < 64; i++) {
        ids[i] = (63 - i) * 78;
    }
    ok(kv, kv_init_row_sparse(kv, &key, &all, 1));
    for (size_t form = 0; form < FORMS; form++) {
        kv_row_sparse out = {got, KV_F32, 2, shape, got_ids, KV_I64, 0};
        kv_array wanted = {ids, KV_I64, 1, &count};
        ok(kv, kv_set_gradient_compression(kv, forms[form].json));
        uint64_t before = received(kv);
        ok(kv, kv_row_sparse_pull(kv, &key, &out, NULL, &wanted, 1, 1, 0, NULL));
        ok(kv, kv_wait(kv, KV_FOREVER));
        assert_int_equal(out.count, 64);
        assert_int_equal(received(kv) - before, 64 * forms[form].row_bytes);
        for (size_t i = 0; i < 64; i++) {
            assert_int_equal(got_ids[i], (int64_t)i * 78);
            for (size_t j = 0; j < WIDTH; j++) {
                assert_true(near(got[i][j], start[i * 78 * WIDTH + j], forms[form].as));
            }
        }
    }
    free(start);
    ok(kv, kv_close(kv));
}

static void what_is_not_f32_comes_whole(void **state)
{
    static const uint64_t three = 3;
    kv_store *kv = open_store(server, "dist_sync");
    double start[3] = {1.0 / 3, 2.0 / 3, 1e100};
    double got[3] = {0};
    kv_array value = {start, KV_F64, 1, &three};
    kv_array out = {got, KV_F64, 1, &three};
    kv_key key = {.name = "doubles"};
    (void)state;
    ok(kv, kv_init(kv, &key, &value, 1));
    ok(kv, kv_set_gradient_compression(kv, "{\"pull\": \"bf16\"}"));
    ok(kv, kv_pull(kv, &key, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_memory_equal(got, start, sizeof got);
    ok(kv, kv_close(kv));
}

/* What pushes do is not changed by what pulls do, nor the other way round. */
static void pushes_and_pulls_are_told_apart(void **state)
{
    static const uint64_t four = 4;
    kv_store *kv = open_store(server, "dist_sync");
    float start[4] = {0};
    float gradient[4] = {0.7f, -0.7f, 0.1f, 0.5f};
    static const float sent[4] = {0.5f, -0.5f, 0, 0.5f};
    float got[4];
    kv_statistics before;
    kv_statistics after;
    kv_array value = {start, KV_F32, 1, &four};
    kv_array pushed = {gradient, KV_F32, 1, &four};
    kv_array out = {got, KV_F32, 1, &four};
    kv_key key = {.name = "apart"};
    (void)state;
    ok(kv, kv_init(kv, &key, &value, 1));
    ok(kv, kv_set_gradient_compression(kv, "{\"type\": \"2bit\", \"threshold\": 0.5}"));
    ok(kv, kv_set_gradient_compression(kv, "{\"pull\": \"fp16\"}"));
    kv_count(kv, &before);
    ok(kv, kv_push(kv, &key, &pushed, NULL, 1, 0, 0, NULL));
    ok(kv, kv_pull(kv, &key, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    kv_count(kv, &after);
    assert_int_equal(after.bytes_sent - before.bytes_sent, 4);
    assert_int_equal(after.bytes_received - before.bytes_received, 4 * 2);
    assert_memory_equal(got, sent, sizeof got);
    ok(kv, kv_close(kv));
}

static void what_makes_no_sense_is_refused(void **state)
{
    kv_store *kv = open_store(server, "dist_sync");
    kv_store *device = open_store(server, "device");
    static const char *const wrong[] = {"{\"pull\": true}", "{\"pull\": \"2bit\"}",
                                        "{\"pull\": \"1bit\"}", "{\"pull\": \"topk\"}"};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_string_equal(kv_status_reason(kv_set_gradient_compression(kv, wrong[i])),
                            "INVALID_FIELD");
    }
    assert_non_null(strstr(kv_last_error(kv), "bf16"));
    assert_string_equal(
        kv_status_reason(kv_set_gradient_compression(device, "{\"pull\": \"bf16\"}")),
        "INVALID_FIELD");
    ok(kv, kv_close(kv));
    ok(device, kv_close(device));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pull_takes_the_bytes_that_it_promises),
        cmocka_unit_test(rows_take_the_bytes_that_they_promise),
        cmocka_unit_test(what_is_not_f32_comes_whole),
        cmocka_unit_test(pushes_and_pulls_are_told_apart),
        cmocka_unit_test(what_makes_no_sense_is_refused),
    };
    program = argc > 1 ? argv[1] : "kvstored";
    return cmocka_run_group_tests(tests, setup, teardown);
}
