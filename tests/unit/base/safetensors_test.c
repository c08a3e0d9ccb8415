#include "base/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Copies `text`, reads it, and gives the status; *file is to be deinited when it is OK. */
static kvs_status read(const char *text, char **header, kvs_safetensors *file)
{
    kvs_problem problem = {.detail = ""};
    *header = strdup(text);
    assert_non_null(*header);
    kvs_status status = kvs_safetensors_parse(*header, strlen(text), file, &problem);
    if (status != KVS_OK) {
        assert_true(strstr(problem.detail, "safetensors, byte ") != NULL);
        free(*header);
    }
    return status;
}

static void check_refused(const char *text)
{
    kvs_safetensors file = {.count = 77};
    char *header;
    if (read(text, &header, &file) != KVS_INVALID_FRAME) {
        fail_msg("accepted: %s", text);
    }
    assert_int_equal(file.count, 77);
}

static void check_printed(kvs_safetensor *tensors, size_t count, kvs_safetensors_note *notes,
                          size_t note_count, const char *expected)
{
    kvs_problem problem;
    uint8_t *bytes;
    size_t length;
    uint64_t data_bytes;
    assert_int_equal(kvs_safetensors_print(tensors, count, notes, note_count, &bytes, &length,
                                           &data_bytes, &problem),
                     KVS_OK);
    assert_int_equal(length % 8, 0);
    size_t text = strlen(expected);
    assert_true(length - 8 >= text && length - 8 < text + 8);
    assert_memory_equal(bytes + 8, expected, text);
    for (size_t i = 8 + text; i < length; i++) {
        assert_int_equal(bytes[i], ' ');
    }
    assert_int_equal(bytes[0] + 256 * bytes[1], length - 8);
    assert_int_equal(bytes[2] | bytes[3] | bytes[7], 0);
    free(bytes);
}

/* The bytes that the format's own writer gives for these. */
static void headers_are_those_of_the_formats_own_writer(void **state)
{
    (void)state;
    check_printed(NULL, 0, NULL, 0, "{}");
    kvs_safetensor three = {.name = "attn.0",
                            .name_bytes = 6,
                            .dtype = KVS_F32,
                            .rank = 3,
                            .sizes = (const uint64_t[]){1, 2, 3}};
    check_printed(&three, 1, NULL, 0,
                  "{\"attn.0\":{\"dtype\":\"F32\",\"shape\":[1,2,3],\"data_offsets\":[0,24]}}");
    kvs_safetensors_note note = {"framework", 9, "pt", 2};
    check_printed(NULL, 0, &note, 1, "{\"__metadata__\":{\"framework\":\"pt\"}}");
}

static void tensors_lie_by_dtype_and_name_and_notes_by_name(void **state)
{
    (void)state;
    uint64_t two[] = {2};
    kvs_safetensor tensors[] = {
        {.name = "b", .name_bytes = 1, .dtype = KVS_F32, .rank = 1, .sizes = two},
        {.name = "u", .name_bytes = 1, .dtype = KVS_U8, .rank = 1, .sizes = two},
        {.name = "a\"", .name_bytes = 2, .dtype = KVS_F32, .rank = 1, .sizes = two},
        {.name = "step", .name_bytes = 4, .dtype = KVS_I64},
        {.name = "h", .name_bytes = 1, .dtype = KVS_BF16, .rank = 1, .sizes = two},
    };
    kvs_safetensors_note notes[] = {{"z", 1, "\n\x01", 2}, {"a", 1, "", 0}};
    check_printed(tensors, 5, notes, 2,
                  "{\"__metadata__\":{\"a\":\"\",\"z\":\"\\n\\u0001\"},"
                  "\"step\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
                  "\"a\\\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
                  "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[16,24]},"
                  "\"h\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[24,28]},"
                  "\"u\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[28,30]}}");
    kvs_problem problem;
    uint8_t *bytes;
    size_t length;
    uint64_t data_bytes;
    tensors[1] = tensors[0];
    assert_int_equal(
        kvs_safetensors_print(tensors, 5, NULL, 0, &bytes, &length, &data_bytes, &problem),
        KVS_INVALID_FIELD);
}

static kvs_status try_print(kvs_safetensor *tensors, size_t count)
{
    kvs_problem problem;
    uint8_t *bytes = NULL;
    size_t length;
    uint64_t data_bytes;
    kvs_status status =
        kvs_safetensors_print(tensors, count, NULL, 0, &bytes, &length, &data_bytes, &problem);
    free(bytes);
    return status;
}

/* Nothing is written that could not be read again. */
static void what_would_not_be_read_is_not_written(void **state)
{
    (void)state;
    kvs_safetensor reserved = {.name = "__metadata__", .name_bytes = 12, .dtype = KVS_F32};
    assert_int_equal(try_print(&reserved, 1), KVS_INVALID_FIELD);
    size_t count = KVS_SAFETENSORS_HEADER_BYTES_MAX / 64;
    kvs_safetensor *tensors = calloc(count, sizeof *tensors);
    char(*names)[40] = calloc(count, sizeof *names);
    assert_non_null(tensors);
    assert_non_null(names);
    for (size_t i = 0; i < count; i++) {
        uint32_t bytes = (uint32_t)snprintf(names[i], sizeof names[i], "%032zu", i);
        tensors[i] = (kvs_safetensor){.name = names[i], .name_bytes = bytes, .dtype = KVS_F32};
    }
    assert_int_equal(try_print(tensors, count), KVS_TOO_LARGE);
    assert_int_equal(try_print(tensors, count / 8), KVS_OK);
    free(names);
    free(tensors);
}

static void a_header_is_read_in_the_order_of_the_data(void **state)
{
    (void)state;
    kvs_safetensors file;
    char *header;
    assert_int_equal(
        read("{ \"z\" : {\"shape\":[2, 3],\"data_offsets\":[4,28],\"dtype\":\"F32\"},\n"
             "\"__metadata__\":{\"kind\":\"x\\u00e9\\ud83d\\ude00\\/\"},"
             "\"e\":{\"dtype\":\"F64\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
             "\"a\\\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]} }  ",
             &header, &file),
        KVS_OK);
    assert_int_equal(file.count, 3);
    assert_int_equal(file.data_bytes, 28);
    assert_int_equal(file.tensors[0].name_bytes, 3);
    assert_memory_equal(file.tensors[0].name, "a\"b", 3);
    assert_int_equal(file.tensors[1].rank, 2);
    assert_int_equal(file.tensors[1].begin, 4);
    assert_int_equal(file.tensors[2].dtype, KVS_F32);
    assert_int_equal(file.tensors[2].sizes[0], 2);
    assert_int_equal(file.tensors[2].sizes[1], 3);
    const kvs_safetensors_note *note = kvs_safetensors_find_note(&file, "kind");
    assert_non_null(note);
    assert_int_equal(note->text_bytes, 8);
    assert_memory_equal(note->text, "x\xc3\xa9\xf0\x9f\x98\x80/", 8);
    assert_null(kvs_safetensors_find_note(&file, "kin"));
    kvs_safetensors_deinit(&file);
    free(header);
}

#define ENTRY(name, dtype, shape, from, to)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" from "," to "]" \
    "}"

static void what_is_no_header_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " {}",
        "[]",
        "{",
        "{}x",
        "{}\n",
        "{\"a\"}",
        "{\"a\":1}",
        "{\"a\":{}}",
        "{,}",
        "{" ENTRY("a", "F32", "[1]", "0", "4") ",}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}",
        "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}",
        "{" ENTRY("a", "F31", "[1]", "0", "4") "}",
        "{" ENTRY("a", "BOOL", "[4]", "0", "4") "}",
        "{" ENTRY("a", "F8_E4M3", "[4]", "0", "4") "}",
        "{" ENTRY("a", "f32", "[1]", "0", "4") "}",
        "{" ENTRY("a", "F32", "[-1]", "0", "4") "}",
        "{" ENTRY("a", "F32", "[1.0]", "0", "4") "}",
        "{" ENTRY("a", "F32", "[01]", "0", "4") "}",
        "{" ENTRY("a", "F32", "[1,]", "0", "4") "}",
        "{" ENTRY("a", "F32", "[1", "0", "4") "}",
        "{" ENTRY("a", "F32", "[1]", "0", "5") "}",
        "{" ENTRY("a", "F32", "[1]", "4", "0") "}",
        "{" ENTRY("a", "F32", "[1]", "4", "8") "}",
        "{" ENTRY("a", "F32", "[4611686018427387905,4]", "0", "16") "}",
        "{" ENTRY("a", "F32", "[99999999999999999999]", "0", "4") "}",
        "{" ENTRY("a", "F32", "[1]", "0", "4") "," ENTRY("a", "F32", "[1]", "4", "8") "}",
        "{" ENTRY("a", "F32", "[1]", "0", "4") "," ENTRY("\\u0061", "F32", "[1]", "4", "8") "}",
        "{" ENTRY("a", "F32", "[1]", "0", "4") "," ENTRY("b", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("a", "F32", "[2]", "0", "8") "," ENTRY("b", "F32", "[1]", "4", "8") "}",
        "{" ENTRY("a", "F32", "[1]", "0", "4") "," ENTRY("b", "F32", "[1]", "8", "12") "}",
        "{" ENTRY("a\x01", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("a\xff", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("\xed\xa0\x80", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("\xf4\x90\x80\x80", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("\\ud800", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("\\udc00", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("\\ud800\\u0041", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("\\u00g0", "F32", "[1]", "0", "4") "}",
        "{" ENTRY("\\x", "F32", "[1]", "0", "4") "}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}",
        "{\"__metadata__\":{},\"__metadata__\":{}}",
        "{\"__metadata__\":null}",
        "{\"a",
        "{\"a\\",
        "{\"a\\u12",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_refused(bad[i]);
    }
    char deep[600] = "{"
                     "\"a\":{\"dtype\":\"F32\",\"shape\":[";
    for (int i = 0; i < 33; i++) {
        strcat(deep, i == 0 ? "1" : ",1");
    }
    strcat(deep, "],\"data_offsets\":[0,4]}}");
    check_refused(deep);
}

static void a_header_that_announces_too_much_is_refused_before_it_is_read(void **state)
{
    (void)state;
    kvs_problem problem;
    size_t length = 5;
    const uint8_t most[8] = {0, 0, 0, 1, 0, 0, 0, 0};
    const uint8_t more[8] = {1, 0, 0, 1, 0, 0, 0, 0};
    const uint8_t lie[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    const uint8_t none[8] = {1, 0, 0, 0, 0, 0, 0, 0};
    assert_int_equal(kvs_safetensors_length(more, &length, &problem), KVS_TOO_LARGE);
    assert_int_equal(kvs_safetensors_length(lie, &length, &problem), KVS_TOO_LARGE);
    assert_int_equal(kvs_safetensors_length(none, &length, &problem), KVS_INVALID_FRAME);
    assert_int_equal(length, 5);
    assert_int_equal(kvs_safetensors_length(most, &length, &problem), KVS_OK);
    assert_int_equal(length, KVS_SAFETENSORS_HEADER_BYTES_MAX);
}

/* 100,000 tensors in one place. */
static void many_tensors_that_overlap_are_refused(void **state)
{
    (void)state;
    size_t bytes = 0;
    char *text = NULL;
    FILE *to = open_memstream(&text, &bytes);
    assert_non_null(to);
    for (int i = 0; i < 100000; i++) {
        (void)fprintf(to,
                      "%c\"t%d\":{\"dtype\":\"U8\",\"shape\":[1000000],"
                      "\"data_offsets\":[0,1000000]}",
                      i == 0 ? '{' : ',', i);
    }
    (void)fputc('}', to);
    (void)fclose(to);
    kvs_safetensors file;
    kvs_problem problem;
    assert_int_equal(kvs_safetensors_parse(text, bytes, &file, &problem), KVS_INVALID_FRAME);
    assert_true(strstr(problem.detail, "overlap") != NULL);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_those_of_the_formats_own_writer),
        cmocka_unit_test(tensors_lie_by_dtype_and_name_and_notes_by_name),
        cmocka_unit_test(what_would_not_be_read_is_not_written),
        cmocka_unit_test(a_header_is_read_in_the_order_of_the_data),
        cmocka_unit_test(what_is_no_header_is_refused),
        cmocka_unit_test(a_header_that_announces_too_much_is_refused_before_it_is_read),
        cmocka_unit_test(many_tensors_that_overlap_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
