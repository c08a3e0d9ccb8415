#include "base/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The format's names, and their places in its own list of dtypes, which its order goes by. */
static const struct {
    const char *name;
    int place;
} kinds[KVS_DTYPE_COUNT] = {
    [KVS_U8] = {"U8", 4},      [KVS_I8] = {"I8", 5},    [KVS_F16] = {"F16", 13},
    [KVS_BF16] = {"BF16", 14}, [KVS_I32] = {"I32", 15}, [KVS_F32] = {"F32", 17},
    [KVS_F64] = {"F64", 19},   [KVS_I64] = {"I64", 20},
};

const char *kvs_safetensors_dtype_name(kvs_dtype dtype)
{
    return kinds[dtype].name;
}

/* ------------------------------------------------------------------ order */

static int compare_texts(const char *a, uint32_t a_bytes, const char *b, uint32_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

int kvs_safetensor_compare(const void *a, const void *b)
{
    const kvs_safetensor *left = a;
    const kvs_safetensor *right = b;
    return compare_texts(left->name, left->name_bytes, right->name, right->name_bytes);
}

int kvs_safetensors_note_compare(const void *a, const void *b)
{
    const kvs_safetensors_note *left = a;
    const kvs_safetensors_note *right = b;
    return compare_texts(left->name, left->name_bytes, right->name, right->name_bytes);
}

static int by_kind(const void *a, const void *b)
{
    int left = kinds[((const kvs_safetensor *)a)->dtype].place;
    int right = kinds[((const kvs_safetensor *)b)->dtype].place;
    return left != right ? right - left : kvs_safetensor_compare(a, b);
}

/* ------------------------------------------------------------------ writing */

/* Escaped as the format's own writer does: as little as JSON asks for. */
static void put_text(FILE *to, const char *text, uint32_t bytes)
{
    static const char from[] = "\"\\\b\f\n\r\t";
    static const char into[] = "\"\\bfnrt";
    (void)fputc('"', to);
    for (uint32_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        const char *found = c == '\0' ? NULL : strchr(from, c);
        if (found != NULL) {
            (void)fputc('\\', to);
            (void)fputc(into[found - from], to);
        } else if (c < 0x20) {
            (void)fprintf(to, "\\u%04x", c);
        } else {
            (void)fputc(c, to);
        }
    }
    (void)fputc('"', to);
}

static void put_header(FILE *to, const kvs_safetensor *tensors, size_t count,
                       const kvs_safetensors_note *notes, size_t note_count)
{
    (void)fputc('{', to);
    for (size_t i = 0; i < note_count; i++) {
        (void)fputs(i == 0 ? "\"__metadata__\":{" : ",", to);
        put_text(to, notes[i].name, notes[i].name_bytes);
        (void)fputc(':', to);
        put_text(to, notes[i].text, notes[i].text_bytes);
    }
    if (note_count > 0) {
        (void)fputs(count > 0 ? "}," : "}", to);
    }
    for (size_t i = 0; i < count; i++) {
        const kvs_safetensor *tensor = &tensors[i];
        if (i > 0) {
            (void)fputc(',', to);
        }
        put_text(to, tensor->name, tensor->name_bytes);
        (void)fprintf(to, ":{\"dtype\":\"%s\",\"shape\":[", kinds[tensor->dtype].name);
        for (uint32_t d = 0; d < tensor->rank; d++) {
            (void)fprintf(to, "%s%" PRIu64, d > 0 ? "," : "", tensor->sizes[d]);
        }
        (void)fprintf(to, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", tensor->begin,
                      tensor->end);
    }
    (void)fputc('}', to);
}

/* The header's entry for the notes. */
static const char notes_name[] = "__metadata__";

/* Gives every tensor its place. */
static kvs_status arrange(kvs_safetensor *tensors, size_t count, uint64_t *data_bytes,
                          kvs_problem *problem)
{
    uint64_t at = 0;
    if (count > 0) {
        qsort(tensors, count, sizeof *tensors, kvs_safetensor_compare);
    }
    for (size_t i = 0; i < count; i++) {
        if (compare_texts(tensors[i].name, tensors[i].name_bytes, notes_name,
                          sizeof notes_name - 1) == 0) {
            return kvs_problem_set(problem, KVS_INVALID_FIELD,
                                   "the format has \"%s\" for itself: no tensor can have the name",
                                   notes_name);
        }
        if (i > 0 && kvs_safetensor_compare(&tensors[i - 1], &tensors[i]) == 0) {
            return kvs_problem_set(problem, KVS_INVALID_FIELD, "two tensors have the name \"%.*s\"",
                                   (int)(tensors[i].name_bytes < 200 ? tensors[i].name_bytes : 200),
                                   tensors[i].name);
        }
    }
    if (count > 0) {
        qsort(tensors, count, sizeof *tensors, by_kind);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = kvs_dtype_bytes(tensors[i].dtype);
        for (uint32_t d = 0; d < tensors[i].rank; d++) {
            bytes *= tensors[i].sizes[d];
        }
        tensors[i].begin = at;
        at += bytes;
        tensors[i].end = at;
    }
    *data_bytes = at;
    return KVS_OK;
}

kvs_status kvs_safetensors_print(kvs_safetensor *tensors, size_t count, kvs_safetensors_note *notes,
                                 size_t note_count, uint8_t **out, size_t *out_bytes,
                                 uint64_t *data_bytes, kvs_problem *problem)
{
    char *text = NULL;
    size_t bytes = 0;
    KVS_TRY(arrange(tensors, count, data_bytes, problem));
    if (note_count > 0) {
        qsort(notes, note_count, sizeof *notes, kvs_safetensors_note_compare);
    }
    FILE *to = open_memstream(&text, &bytes);
    if (to == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the header");
    }
    (void)fprintf(to, "%*s", (int)KVS_SAFETENSORS_LENGTH_BYTES, ""); /* the length's place */
    put_header(to, tensors, count, notes, note_count);
    /* The data begins at a multiple of 8, so that every tensor is aligned. */
    long header = ftell(to);
    (void)fprintf(to, "%*s", (int)((8 - header % 8) % 8), "");
    bool failed = ferror(to) != 0;
    failed = fclose(to) != 0 || failed;
    if (failed) {
        free(text);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the header");
    }
    uint64_t length = bytes - KVS_SAFETENSORS_LENGTH_BYTES;
    if (length > KVS_SAFETENSORS_HEADER_BYTES_MAX) { /* nobody here would read it again */
        free(text);
        return kvs_problem_set(problem, KVS_TOO_LARGE,
                               "a safetensors header of %" PRIu64 " bytes; the limit is %" PRIu64,
                               length, KVS_SAFETENSORS_HEADER_BYTES_MAX);
    }
    for (unsigned i = 0; i < KVS_SAFETENSORS_LENGTH_BYTES; i++) {
        text[i] = (char)(length >> (8 * i));
    }
    *out = (uint8_t *)text;
    *out_bytes = bytes;
    return KVS_OK;
}
