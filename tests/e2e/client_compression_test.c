/* Gradient compression and half floats, as a user of the library sees them. */
#include "tests/e2e/client_store.h"

#include <kvstore/kvstore.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SMALL 17
/* Two parts and some. */
#define LARGE ((size_t)600000)

static const char *program;
static kvs_test_server *server;

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

static kv_array array(void *data, kv_dtype dtype, const uint64_t *elements)
{
    return (kv_array){data, dtype, 1, elements};
}

static void push_pull(kv_store *kv, const char *name, kv_array *values, size_t devices,
                      kv_array *out)
{
    kv_key key = {.name = name};
    ok(kv, kv_push(kv, &key, values, &devices, 1, 0, 0, NULL));
    ok(kv, kv_pull(kv, &key, out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
}

static void init(kv_store *kv, const char *name, kv_array *value)
{
    ok(kv, kv_init(kv, &(kv_key){.name = name}, value, 1));
}

/* ------------------------------------------------------------------ MXNet's examples */

static const uint64_t small = SMALL;
static const float gradient_of[SMALL] = {0.5f, -0.5f, 0.49f, -0.49f, 1.25f, -1.25f, 0, 0.3f, 0.7f,
                                         0,    -0.7f, 0.2f,  -0.2f,  0.5f,  -0.5f,  0, 0.6f};

/* Without an optimizer the pull is the sum of what was sent. */
static void check_2bit(const char *type, size_t devices)
{
    static const float first[SMALL] = {0.5f, -0.5f, 0, 0, 0.5f, -0.5f, 0, 0,   0.5f,
                                       0,    -0.5f, 0, 0, 0.5f, -0.5f, 0, 0.5f};
    static const float second[SMALL] = {0.5f, -0.5f, 0.5f, -0.5f, 0.5f, -0.5f, 0, 0.5f, 0.5f,
                                        0,    -0.5f, 0,    0,     0.5f, -0.5f, 0, 0.5f};
    kv_store *kv = open_store(server, type);
    char name[40];
    float start[SMALL];
    float gradient[SMALL];
    float got[SMALL];
    (void)snprintf(name, sizeof name, "%s %zu", type, devices);
    memcpy(gradient, gradient_of, sizeof gradient);
    for (size_t i = 0; i < SMALL; i++) {
        start[i] = 0.1f; /* is not encoded */
    }
    kv_array value = array(start, KV_F32, &small);
    kv_array out = array(got, KV_F32, &small);
    ok(kv, kv_set_gradient_compression(kv, "{\"type\": \"2bit\", \"threshold\": 0.5}"));
    init(kv, name, &value);
    ok(kv, kv_pull(kv, &(kv_key){.name = name}, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_memory_equal(got, start, sizeof got);
    kv_array values[2] = {array(gradient, KV_F32, &small), array(gradient, KV_F32, &small)};
    push_pull(kv, name, values, devices, &out);
    for (size_t i = 0; i < SMALL; i++) {
        assert_true(got[i] == (float)devices * first[i]);
    }
    push_pull(kv, name, values, devices, &out);
    for (size_t i = 0; i < SMALL; i++) {
        assert_true(got[i] == (float)devices * second[i]);
    }
    ok(kv, kv_close(kv));
}

static void two_bits_at_a_server(void **state)
{
    (void)state;
    check_2bit("dist_sync", 1);
}

/* A residual each: two devices with the same gradient send the same. */
static void two_bits_between_device_values(void **state)
{
    (void)state;
    check_2bit("device", 1);
    check_2bit("device", 2);
}

/* At a server the device values are added first and have one residual: 0.3 + 0.3 is sent, which
 * neither would be alone. */
static void device_values_of_a_worker_are_added_before_they_are_encoded(void **state)
{
    kv_store *kv = open_store(server, "dist_sync");
    static const uint64_t one = 1;
    float start = 0;
    float gradient = 0.3f;
    float got = 7;
    (void)state;
    ok(kv, kv_set_gradient_compression(kv, "{\"type\": \"2bit\", \"threshold\": 0.5}"));
    kv_array value = array(&start, KV_F32, &one);
    kv_array out = array(&got, KV_F32, &one);
    init(kv, "sum", &value);
    kv_array values[2] = {array(&gradient, KV_F32, &one), array(&gradient, KV_F32, &one)};
    push_pull(kv, "sum", values, 2, &out);
    assert_true(got == 0.5f);
    ok(kv, kv_close(kv));
}

/* ------------------------------------------------------------------ bytes */

static void check_bytes(const char *json, const char *name, uint64_t expected)
{
    static const uint64_t large = LARGE;
    kv_store *kv = open_store(server, "dist_sync");
    float *start = calloc(LARGE, sizeof *start);
    float *got = calloc(LARGE, sizeof *got);
    kv_statistics before;
    kv_statistics after;
    for (size_t i = 0; i < LARGE; i++) {
        start[i] = (float)i / LARGE - 0.5f;
    }
    kv_array value = array(start, KV_F32, &large);
    kv_array out = array(got, KV_F32, &large);
    init(kv, name, &value);
    if (json != NULL) {
        ok(kv, kv_set_gradient_compression(kv, json));
    }
    kv_count(kv, &before);
    push_pull(kv, name, &value, 1, &out);
    kv_count(kv, &after);
    assert_int_equal(after.bytes_sent - before.bytes_sent, expected);
    assert_int_equal(after.parts_pushed - before.parts_pushed, 3);
    free(start);
    free(got);
    ok(kv, kv_close(kv));
}

static void what_goes_over_the_wire_shrinks_as_promised(void **state)
{
    (void)state;
    check_bytes(NULL, "plain", LARGE * 4);
    check_bytes("{\"type\": \"2bit\", \"threshold\": 0.1}", "2bit", LARGE * 4 / 16);
    check_bytes("{\"type\": \"1bit\", \"threshold\": 0}", "1bit", LARGE * 4 / 32);
    check_bytes("{\"type\": \"fp16\"}", "fp16", LARGE * 2);
    check_bytes("{\"type\": \"bf16\"}", "bf16", LARGE * 2);
    check_bytes("{\"type\": \"int8\"}", "int8", LARGE + 4 * (1024 + 1024 + 296));
    check_bytes("{\"type\": \"topk\", \"ratio\": 0.01}", "topk", 8 * (2621 + 2621 + 757));
    check_bytes("{\"type\": \"randomk\", \"ratio\": 0.01}", "randomk", 8 * (2621 + 2621 + 757));
}

/* ------------------------------------------------------------------ refusals */

static void what_cannot_be_compressed_is_refused(void **state)
{
    kv_store *local = open_store(server, "local");
    kv_store *kv = open_store(server, "dist_sync");
    double numbers[SMALL] = {0};
    (void)state;
    assert_string_equal(
        kv_status_reason(kv_set_gradient_compression(local, "{\"type\": \"2bit\"}")),
        "INVALID_FIELD");
    assert_string_equal(kv_status_reason(kv_set_gradient_compression(kv, "{\"type\": \"4bit\"}")),
                        "INVALID_FIELD");
    assert_string_equal(kv_status_reason(kv_set_gradient_compression(kv, NULL)), "INVALID_FIELD");
    ok(kv, kv_set_gradient_compression(kv, "{\"type\": \"2bit\"}"));
    kv_array value = array(numbers, KV_F64, &small);
    init(kv, "doubles", &value);
    assert_string_equal(
        kv_status_reason(kv_push(kv, &(kv_key){.name = "doubles"}, &value, NULL, 1, 0, 0, NULL)),
        "INVALID_TENSOR");
    ok(kv, kv_close(kv));
    ok(local, kv_close(local));
}

/* A push that the store refuses leaves nothing behind that refuses the next one. */
static void a_push_of_a_wrong_size_spoils_no_key(void **state)
{
    static const char *const types[] = {"device", "dist_sync"};
    static const uint64_t less = SMALL - 1;
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        kv_store *kv = open_store(server, types[i]);
        kv_key key = {.name = "sized"};
        float gradient[SMALL] = {0};
        float got[SMALL];
        kv_array value = array(gradient, KV_F32, &small);
        kv_array wrong = array(gradient, KV_F32, &less);
        kv_array out = array(got, KV_F32, &small);
        init(kv, key.name, &value);
        ok(kv, kv_set_gradient_compression(kv, "{\"type\": \"2bit\", \"threshold\": 0.5}"));
        gradient[0] = 0.5f;
        kv_status status = kv_push(kv, &key, &wrong, NULL, 1, 0, 0, NULL);
        status = status != 0 ? status : kv_wait(kv, KV_FOREVER);
        assert_string_equal(kv_status_reason(status), "INVALID_TENSOR");
        push_pull(kv, key.name, &value, 1, &out);
        assert_true(got[0] == 0.5f && got[1] == 0);
        ok(kv, kv_close(kv));
    }
}

/* ------------------------------------------------------------------ half floats */

/* 1 + 2^-10 in f16, 1 + 2^-7 in bf16: a unit in the last place above 1. */
static void check_halves(const char *type, kv_dtype dtype)
{
    const uint16_t one = dtype == KV_F16 ? 0x3c00 : 0x3f80;
    kv_store *kv = open_store(server, type);
    char name[40];
    uint16_t start[SMALL];
    uint16_t gradient[SMALL];
    uint16_t got[SMALL] = {0};
    (void)snprintf(name, sizeof name, "%s half %d", type, (int)dtype);
    for (size_t i = 0; i < SMALL; i++) {
        start[i] = (uint16_t)(one + i);
        gradient[i] = one;
    }
    kv_array value = array(start, dtype, &small);
    kv_array out = array(got, dtype, &small);
    init(kv, name, &value);
    ok(kv, kv_pull(kv, &(kv_key){.name = name}, &out, NULL, 1, 0, NULL));
    ok(kv, kv_wait(kv, KV_FOREVER));
    assert_memory_equal(got, start, sizeof got);
    ok(kv, kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": -1}"));
    kv_array values[2] = {array(gradient, dtype, &small), array(gradient, dtype, &small)};
    push_pull(kv, name, values, 2, &out);
    for (size_t i = 0; i < SMALL; i++) {
        /* (1 + i u) + 2: two units of 1 are half of one of 3, and ties go to even. */
        static const uint16_t added[SMALL] = {0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 8};
        const uint16_t three = dtype == KV_F16 ? 0x4200 : 0x4040;
        assert_int_equal(got[i], three + added[i]);
    }
    ok(kv, kv_set_optimizer(kv, NULL));
    ok(kv, kv_close(kv));
}

static void half_floats_are_pushed_and_pulled(void **state)
{
    (void)state;
    check_halves("local", KV_F16);
    check_halves("local", KV_BF16);
    check_halves("dist_sync", KV_F16);
    check_halves("dist_sync", KV_BF16);
}

/* 1000 steps of a thousandth: without a master none is as large as half a unit of bf16 at 1. */
static void check_master(const char *type)
{
    static const uint64_t one = 1;
    kv_store *kv = open_store(server, type);
    for (int with = 0; with < 2; with++) {
        uint16_t weight = 0x3f80; /* 1 */
        uint16_t gradient = 0x3f80;
        uint16_t got = 0;
        char name[40];
        (void)snprintf(name, sizeof name, "master %d", with);
        ok(kv, kv_set_optimizer(kv, with == 0 ? "{\"name\": \"sgd\", \"learning_rate\": -0.001}"
                                              : "{\"name\": \"sgd\", \"learning_rate\": -0.001, "
                                                "\"multi_precision\": true}"));
        kv_array value = array(&weight, KV_BF16, &one);
        kv_array step = array(&gradient, KV_BF16, &one);
        kv_array out = array(&got, KV_BF16, &one);
        init(kv, name, &value);
        for (int i = 0; i < 1000; i++) {
            push_pull(kv, name, &step, 1, &out);
        }
        assert_int_equal(got, with == 0 ? 0x3f80 : 0x4000); /* 1, or 2 */
    }
    ok(kv, kv_set_optimizer(kv, NULL));
    ok(kv, kv_close(kv));
}

static void multi_precision_keeps_what_a_half_float_would_lose(void **state)
{
    (void)state;
    check_master("local");
    check_master("dist_sync");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_bits_at_a_server),
        cmocka_unit_test(two_bits_between_device_values),
        cmocka_unit_test(device_values_of_a_worker_are_added_before_they_are_encoded),
        cmocka_unit_test(what_goes_over_the_wire_shrinks_as_promised),
        cmocka_unit_test(what_cannot_be_compressed_is_refused),
        cmocka_unit_test(a_push_of_a_wrong_size_spoils_no_key),
        cmocka_unit_test(half_floats_are_pushed_and_pulled),
        cmocka_unit_test(multi_precision_keeps_what_a_half_float_would_lose),
    };
    program = argc > 1 ? argv[1] : "kvstored";
    return cmocka_run_group_tests(tests, setup, teardown);
}
