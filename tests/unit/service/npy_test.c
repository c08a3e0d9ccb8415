#include "service/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A file of version 1.0, 2.0 or 3.0 with that dictionary; its length. */
static size_t make_file(uint8_t version, const char *dictionary, uint8_t *out)
{
    size_t length = strlen(dictionary);
    size_t start = version == 1 ? 10 : 12;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = version;
    out[7] = 0;
    out[8] = (uint8_t)(length & 0xff);
    out[9] = (uint8_t)(length >> 8);
    out[10] = 0;
    out[11] = 0;
    memcpy(out + start, dictionary, length);
    return start + length;
}

static kvs_status parse(uint8_t version, const char *dictionary, kvs_npy *out, kvs_problem *problem)
{
    uint8_t file[1024];
    bool complete;
    size_t bytes = make_file(version, dictionary, file);
    kvs_status status = kvs_npy_parse(file, bytes, &complete, out, problem);
    if (status == KVS_OK) {
        assert_true(complete);
        assert_int_equal(out->head_bytes, bytes);
    }
    return status;
}

static void heads_of_all_versions_are_read(void **state)
{
    (void)state;
    for (uint8_t version = 1; version <= 3; version++) {
        kvs_npy npy;
        assert_int_equal(parse(version,
                               "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n",
                               &npy, NULL),
                         KVS_OK);
        assert_int_equal(npy.dtype, KVS_F32);
        assert_int_equal(npy.shape.rank, 2);
        assert_int_equal(npy.shape.size[0], 2);
        assert_int_equal(npy.shape.size[1], 3);
        assert_int_equal(npy.payload_bytes, 24);
    }
}

static void fields_come_in_any_order_and_quotes(void **state)
{
    kvs_npy npy;
    (void)state;
    assert_int_equal(
        parse(1, "{\"shape\":(7L,),\"fortran_order\":True,\"descr\":\"|i1\"}", &npy, NULL), KVS_OK);
    assert_int_equal(npy.dtype, KVS_I8);
    assert_int_equal(npy.shape.rank, 1);
    assert_int_equal(npy.shape.size[0], 7);
}

static void a_scalar_has_rank_zero(void **state)
{
    kvs_npy npy;
    (void)state;
    assert_int_equal(
        parse(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n", &npy, NULL), KVS_OK);
    assert_int_equal(npy.shape.rank, 0);
    assert_int_equal(npy.payload_bytes, 8);
}

static void what_is_no_tensor_of_ours_is_refused(void **state)
{
    static const char *const bad[] = {
        "{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 2, }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, , ), }",
        "{'descr': '<f4', 'fortran_order': False, }",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
        "1,1,1,1,1,1,1,1,1,1,1,1,1,1), }",
        "",
        "{",
        "{'descr",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        kvs_npy npy;
        kvs_problem problem = {.detail = ""};
        assert_int_equal(parse(1, bad[i], &npy, &problem), KVS_INVALID_TENSOR);
        assert_true(problem.detail[0] != '\0');
    }
}

static void a_head_that_is_cut_asks_for_more(void **state)
{
    uint8_t file[256];
    size_t bytes =
        make_file(2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", file);
    (void)state;
    for (size_t cut = 0; cut <= bytes; cut++) {
        /* A copy of exactly these bytes: reading on would be seen by the sanitizer. */
        uint8_t *part = malloc(cut + 1);
        kvs_npy npy;
        bool complete;
        memcpy(part, file, cut);
        part = realloc(part, cut > 0 ? cut : 1);
        assert_int_equal(kvs_npy_parse(part, cut, &complete, &npy, NULL), KVS_OK);
        assert_int_equal(complete, cut == bytes);
        free(part);
    }
}

static void a_wrong_beginning_is_seen_at_its_first_byte(void **state)
{
    kvs_npy npy;
    bool complete;
    (void)state;
    assert_int_equal(kvs_npy_parse((const uint8_t *)"\x93NUMPX", 6, &complete, &npy, NULL),
                     KVS_INVALID_TENSOR);
    assert_int_equal(kvs_npy_parse((const uint8_t *)"\x93NUMPY\x04\x00", 8, &complete, &npy, NULL),
                     KVS_INVALID_TENSOR);
    assert_false(kvs_npy_begins((const uint8_t *)"PK", 2));
    assert_true(kvs_npy_begins((const uint8_t *)"\x93N", 2));
}

static void a_huge_head_is_refused_unread(void **state)
{
    const uint8_t head[] = {0x93, 'N', 'U', 'M', 'P', 'Y', 2, 0, 0xff, 0xff, 0xff, 0xff};
    kvs_npy npy;
    bool complete;
    (void)state;
    assert_int_equal(kvs_npy_parse(head, sizeof head, &complete, &npy, NULL), KVS_INVALID_TENSOR);
}

/* ml_dtypes writes bf16 as V2: two bytes of anything. */
static void bf16_is_told_to_come_raw(void **state)
{
    static const char *const words[] = {"V2", "|V2", "<V2"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char dictionary[100];
        kvs_npy npy;
        kvs_problem problem = {0};
        (void)snprintf(dictionary, sizeof dictionary,
                       "{'descr': '%s', 'fortran_order': False, 'shape': (3,), }", words[i]);
        assert_int_equal(parse(1, dictionary, &npy, &problem), KVS_INVALID_TENSOR);
        assert_non_null(strstr(problem.detail, "dtype=bf16"));
    }
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    for (int dtype = KVS_F32; dtype < KVS_DTYPE_COUNT; dtype++) {
        for (uint32_t rank = 0; rank <= KVS_DIMENSIONS_MAX && dtype != KVS_BF16; rank++) {
            uint8_t head[KVS_NPY_HEAD_BYTES_MAX];
            kvs_shape shape = {.rank = rank};
            kvs_npy npy;
            bool complete;
            for (uint32_t i = 0; i < rank; i++) {
                shape.size[i] = i % 7 == 0 ? 3 : 1;
            }
            size_t bytes = kvs_npy_print((kvs_dtype)dtype, &shape, head);
            assert_int_equal(bytes % 64, 0);
            assert_int_equal(head[bytes - 1], '\n');
            assert_int_equal(kvs_npy_parse(head, bytes, &complete, &npy, NULL), KVS_OK);
            assert_true(complete);
            assert_int_equal(npy.dtype, dtype);
            assert_int_equal(npy.head_bytes, bytes);
            assert_true(kvs_shape_equal(&npy.shape, &shape));
        }
    }
}

static void the_widest_shape_fits_the_head(void **state)
{
    uint8_t head[KVS_NPY_HEAD_BYTES_MAX];
    kvs_shape shape = {.rank = KVS_DIMENSIONS_MAX};
    (void)state;
    for (uint32_t i = 0; i < shape.rank; i++) {
        shape.size[i] = UINT64_MAX;
    }
    assert_true(kvs_npy_print(KVS_F32, &shape, head) <= KVS_NPY_HEAD_BYTES_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_of_all_versions_are_read),
        cmocka_unit_test(fields_come_in_any_order_and_quotes),
        cmocka_unit_test(a_scalar_has_rank_zero),
        cmocka_unit_test(what_is_no_tensor_of_ours_is_refused),
        cmocka_unit_test(a_head_that_is_cut_asks_for_more),
        cmocka_unit_test(a_wrong_beginning_is_seen_at_its_first_byte),
        cmocka_unit_test(a_huge_head_is_refused_unread),
        cmocka_unit_test(bf16_is_told_to_come_raw),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(the_widest_shape_fits_the_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
