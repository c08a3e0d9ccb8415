#include "service/npy.h"

#include "base/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

/* numpy's names, by kvs_dtype. The first is written; the others are read as well. */
static const struct {
    const char *word;
    kvs_dtype dtype;
} words[] = {
    {"<f4", KVS_F32}, {"<f8", KVS_F64}, {"<f2", KVS_F16}, {"|u1", KVS_U8},
    {"|i1", KVS_I8},  {"<i4", KVS_I32}, {"<i8", KVS_I64}, {"<u1", KVS_U8},
    {"<i1", KVS_I8},  {"u1", KVS_U8},   {"i1", KVS_I8},
};

/* ------------------------------------------------------------------ reading */

/* The dictionary of the head, as text that is read from left to right. */
typedef struct scanner {
    const char *at;
    const char *end;
} scanner;

static void skip_blanks(scanner *text)
{
    while (text->at < text->end &&
           (*text->at == ' ' || *text->at == '\n' || *text->at == '\t' || *text->at == '\r')) {
        text->at++;
    }
}

/* Reads one character, with blanks before it. */
static bool read_char(scanner *text, char c)
{
    skip_blanks(text);
    if (text->at < text->end && *text->at == c) {
        text->at++;
        return true;
    }
    return false;
}

/* Reads a quoted word without escapes. */
static bool read_word(scanner *text, char *out, size_t out_bytes)
{
    skip_blanks(text);
    if (text->at == text->end || (*text->at != '\'' && *text->at != '"')) {
        return false;
    }
    char quote = *text->at++;
    const char *first = text->at;
    while (text->at < text->end && *text->at != quote && *text->at != '\\') {
        text->at++;
    }
    size_t bytes = (size_t)(text->at - first);
    if (text->at == text->end || *text->at != quote || bytes >= out_bytes) {
        return false;
    }
    text->at++;
    memcpy(out, first, bytes);
    out[bytes] = '\0';
    return true;
}

static bool read_literal(scanner *text, const char *word)
{
    size_t bytes = strlen(word);
    skip_blanks(text);
    if ((size_t)(text->end - text->at) < bytes || memcmp(text->at, word, bytes) != 0) {
        return false;
    }
    text->at += bytes;
    return true;
}

/* A decimal number; Python 2 wrote an L behind it. */
static bool read_size(scanner *text, uint64_t *out)
{
    uint64_t number = 0;
    skip_blanks(text);
    const char *first = text->at;
    while (text->at < text->end && *text->at >= '0' && *text->at <= '9') {
        if (__builtin_mul_overflow(number, (uint64_t)10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*text->at - '0'), &number)) {
            return false;
        }
        text->at++;
    }
    if (text->at == first) {
        return false;
    }
    if (text->at < text->end && *text->at == 'L') {
        text->at++;
    }
    *out = number;
    return true;
}

/* A tuple of numbers: (), (3,), (2, 3). */
static bool read_shape(scanner *text, kvs_shape *out)
{
    out->rank = 0;
    if (!read_char(text, '(')) {
        return false;
    }
    while (!read_char(text, ')')) {
        if (out->rank == KVS_DIMENSIONS_MAX || !read_size(text, &out->size[out->rank])) {
            return false;
        }
        out->rank++;
        if (!read_char(text, ',')) {
            return out->rank > 1 && read_char(text, ')');
        }
    }
    return true;
}

typedef struct fields {
    char descr[32];
    kvs_shape shape;
    bool fortran;
    unsigned seen; /* one bit a field */
} fields;

static bool read_field(scanner *text, fields *out)
{
    char name[32];
    if (!read_word(text, name, sizeof name) || !read_char(text, ':')) {
        return false;
    }
    if (strcmp(name, "descr") == 0 && (out->seen & 1) == 0) {
        out->seen |= 1;
        return read_word(text, out->descr, sizeof out->descr);
    }
    if (strcmp(name, "fortran_order") == 0 && (out->seen & 2) == 0) {
        out->seen |= 2;
        out->fortran = read_literal(text, "True");
        return out->fortran || read_literal(text, "False");
    }
    if (strcmp(name, "shape") == 0 && (out->seen & 4) == 0) {
        out->seen |= 4;
        return read_shape(text, &out->shape);
    }
    return false;
}

static bool read_dictionary(scanner *text, fields *out)
{
    out->seen = 0;
    if (!read_char(text, '{')) {
        return false;
    }
    while (!read_char(text, '}')) {
        if (!read_field(text, out)) {
            return false;
        }
        if (!read_char(text, ',')) {
            if (!read_char(text, '}')) {
                return false;
            }
            break;
        }
    }
    skip_blanks(text);
    return text->at == text->end && out->seen == 7;
}

/* What the fields say as a tensor. */
static kvs_status judge(const fields *from, kvs_npy *out, kvs_problem *problem)
{
    uint64_t elements;
    out->dtype = KVS_DTYPE_NONE;
    out->shape = from->shape;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(words[i].word, from->descr) == 0) {
            out->dtype = words[i].dtype;
        }
    }
    size_t length = strlen(from->descr);
    if (length >= 2 && strcmp(from->descr + length - 2, "V2") == 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "\"%s\" says nothing of its 2 bytes: send bf16 raw, with "
                               "?format=raw&dtype=bf16&shape=...",
                               from->descr);
    }
    if (out->dtype == KVS_DTYPE_NONE) {
        return kvs_problem_set(
            problem, KVS_INVALID_TENSOR,
            "numpy's dtype \"%s\" is none of f2 f4 f8 u1 i1 i4 i8 (little-endian)", from->descr);
    }
    /* Up to one dimension both orders are the same. */
    if (from->fortran && out->shape.rank > 1) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the array is in Fortran order: send numpy.ascontiguousarray(a)");
    }
    if (!kvs_shape_elements(&out->shape, &elements)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the shape has too many elements");
    }
    out->payload_bytes = elements * kvs_dtype_bytes(out->dtype);
    return KVS_OK;
}

bool kvs_npy_begins(const uint8_t *data, size_t bytes)
{
    return memcmp(data, magic, bytes < sizeof magic ? bytes : sizeof magic) == 0;
}

kvs_status kvs_npy_parse(const uint8_t *data, size_t bytes, bool *complete, kvs_npy *out,
                         kvs_problem *problem)
{
    *complete = false;
    if (bytes > 0 && !kvs_npy_begins(data, bytes)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the bytes do not begin like a .npy");
    }
    if (bytes < 8) {
        return KVS_OK;
    }
    if (data[6] < 1 || data[6] > 3 || data[7] != 0) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, ".npy version %u.%u is not known",
                               data[6], data[7]);
    }
    size_t start = data[6] == 1 ? 10 : 12;
    if (bytes < start) {
        return KVS_OK;
    }
    size_t length = (size_t)data[8] | (size_t)data[9] << 8;
    if (start == 12) {
        length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    }
    if (length > KVS_NPY_HEAD_BYTES_READ_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the .npy head has %zu bytes; the limit is %u", length,
                               KVS_NPY_HEAD_BYTES_READ_MAX);
    }
    if (bytes < start + length) {
        return KVS_OK;
    }
    scanner text = {.at = (const char *)data + start, .end = (const char *)data + start + length};
    fields found = {.descr = "", .fortran = false};
    kvs_npy parsed = {.head_bytes = start + length};
    if (!read_dictionary(&text, &found)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the .npy head is not {descr, fortran_order, shape} of one array");
    }
    KVS_TRY(judge(&found, &parsed, problem));
    *out = parsed;
    *complete = true;
    return KVS_OK;
}

/* ------------------------------------------------------------------ writing */

size_t kvs_npy_print(kvs_dtype dtype, const kvs_shape *shape, uint8_t out[KVS_NPY_HEAD_BYTES_MAX])
{
    char text[KVS_NPY_HEAD_BYTES_MAX];
    const char *word = "";
    for (size_t i = sizeof words / sizeof words[0]; i > 0; i--) {
        word = words[i - 1].dtype == dtype ? words[i - 1].word : word;
    }
    KVS_CHECK(word[0] != '\0');
    int used =
        snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (", word);
    for (uint32_t i = 0; i < shape->rank; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%" PRIu64, i > 0 ? ", " : "",
                         shape->size[i]);
    }
    used +=
        snprintf(text + used, sizeof text - (size_t)used, "%s), }", shape->rank == 1 ? "," : "");
    size_t length = (size_t)used + 1; /* with the line's end */
    size_t total = (10 + length + 63) / 64 * 64;
    KVS_CHECK(total <= KVS_NPY_HEAD_BYTES_MAX);
    memcpy(out, magic, sizeof magic);
    out[6] = 1;
    out[7] = 0;
    out[8] = (uint8_t)((total - 10) & 0xff);
    out[9] = (uint8_t)((total - 10) >> 8);
    memset(out + 10, ' ', total - 10);
    memcpy(out + 10, text, (size_t)used);
    out[total - 1] = '\n';
    return total;
}
