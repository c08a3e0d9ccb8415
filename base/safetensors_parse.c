#include "base/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ scanning */

/* One pass over the text. `why` stays NULL until something is wrong. */
typedef struct scanner {
    char *begin, *at, *end;
    const char *why;
    kvs_status status;
    kvs_safetensors *file;
    size_t tensor_room, note_room, size_room, size_count;
} scanner;

static bool fail(scanner *scan, const char *why)
{
    if (scan->why == NULL) {
        scan->why = why;
        scan->status = KVS_INVALID_FRAME;
    }
    return false;
}

static bool fail_memory(scanner *scan)
{
    scan->why = "no memory for the header";
    scan->status = KVS_NO_MEMORY;
    return false;
}

static void skip_blanks(scanner *scan)
{
    while (scan->at < scan->end && memchr(" \t\r\n", *scan->at, 4) != NULL) {
        scan->at++;
    }
}

/* Is `c` what comes next? Takes it then. */
static bool take(scanner *scan, char c)
{
    skip_blanks(scan);
    if (scan->at < scan->end && *scan->at == c) {
        scan->at++;
        return true;
    }
    return false;
}

static bool expect(scanner *scan, char c)
{
    return take(scan, c) || fail(scan, "the header is no JSON of the form that the format has");
}

/* Four hexadecimal digits. */
static bool read_hex(scanner *scan, uint32_t *out)
{
    uint32_t code = 0;
    if (scan->end - scan->at < 4) {
        return fail(scan, "an escape is cut");
    }
    for (int i = 0; i < 4; i++) {
        char c = *scan->at++;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A') + 10
                                                : 16;
        if (digit == 16) {
            return fail(scan, "an escape is not hexadecimal");
        }
        code = code << 4 | digit;
    }
    *out = code;
    return true;
}

/* Writes a code point as UTF-8; never longer than its escape was. */
static char *put_code(char *to, uint32_t code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    }
    return to;
}

/* Behind a backslash. */
static bool read_escape(scanner *scan, char **to)
{
    static const char from[] = "\"\\/bfnrt";
    static const char into[] = "\"\\/\b\f\n\r\t";
    uint32_t code = 0;
    if (scan->at == scan->end) {
        return fail(scan, "an escape is cut");
    }
    char c = *scan->at++;
    const char *found = c == '\0' ? NULL : strchr(from, c);
    if (found != NULL) {
        *(*to)++ = into[found - from];
        return true;
    }
    if (c != 'u' || !read_hex(scan, &code)) {
        return fail(scan, "an escape is unknown");
    }
    if (code >= 0xd800 && code < 0xdc00) {
        uint32_t low = 0;
        if (scan->end - scan->at < 2 || scan->at[0] != '\\' || scan->at[1] != 'u') {
            return fail(scan, "half a pair of escapes");
        }
        scan->at += 2;
        if (!read_hex(scan, &low) || low < 0xdc00 || low >= 0xe000) {
            return fail(scan, "half a pair of escapes");
        }
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
        return fail(scan, "half a pair of escapes");
    }
    *to = put_code(*to, code);
    return true;
}

/* Copies one character of more than one byte. */
static bool read_wide(scanner *scan, char **to)
{
    const uint8_t *from = (const uint8_t *)scan->at;
    uint8_t lead = from[0];
    size_t bytes = lead >= 0xc2 && lead < 0xe0   ? 2
                   : lead >= 0xe0 && lead < 0xf0 ? 3
                   : lead >= 0xf0 && lead < 0xf5 ? 4
                                                 : 0;
    bool good = bytes > 0 && (size_t)(scan->end - scan->at) >= bytes;
    for (size_t i = 1; good && i < bytes; i++) {
        good = (from[i] & 0xc0) == 0x80;
    }
    /* No overlong forms, no surrogates, nothing above U+10FFFF. */
    good = good && !(lead == 0xe0 && from[1] < 0xa0) && !(lead == 0xed && from[1] > 0x9f) &&
           !(lead == 0xf0 && from[1] < 0x90) && !(lead == 0xf4 && from[1] > 0x8f);
    if (!good) {
        return fail(scan, "the header is not UTF-8");
    }
    memmove(*to, from, bytes);
    *to += bytes;
    scan->at += bytes;
    return true;
}

/* A string, unescaped where it stands. */
static bool read_text(scanner *scan, const char **text, uint32_t *bytes)
{
    if (!expect(scan, '"')) {
        return false;
    }
    char *start = scan->at;
    char *to = start;
    while (scan->at < scan->end && *scan->at != '"') {
        unsigned char c = (unsigned char)*scan->at;
        if (c < 0x20) {
            return fail(scan, "a control character in a string");
        }
        if (c == '\\') {
            scan->at++;
            if (!read_escape(scan, &to)) {
                return false;
            }
        } else if (c >= 0x80) {
            if (!read_wide(scan, &to)) {
                return false;
            }
        } else {
            *to++ = *scan->at++;
        }
    }
    if (scan->at == scan->end) {
        return fail(scan, "a string does not end");
    }
    scan->at++;
    *text = start;
    *bytes = (uint32_t)(to - start);
    return true;
}

static bool read_number(scanner *scan, uint64_t *out)
{
    uint64_t number = 0;
    skip_blanks(scan);
    char *start = scan->at;
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9') {
        if (scan->at - start == 18) {
            return fail(scan, "a number is too large");
        }
        number = number * 10 + (uint64_t)(*scan->at++ - '0');
    }
    if (scan->at == start || (*start == '0' && scan->at - start > 1)) {
        return fail(scan, "a size or offset is not a whole number");
    }
    *out = number;
    return true;
}

/* Room for one more element; false: no memory. */
static bool make_room(scanner *scan, void *list, size_t count, size_t *room, size_t element)
{
    void **memory = list;
    if (count < *room) {
        return true;
    }
    size_t more = *room == 0 ? 16 : *room * 2;
    void *grown = realloc(*memory, more * element);
    if (grown == NULL) {
        return fail_memory(scan);
    }
    *memory = grown;
    *room = more;
    return true;
}

/* ------------------------------------------------------------------ entries */

static bool is_text(const char *text, uint32_t bytes, const char *word)
{
    return strlen(word) == bytes && memcmp(text, word, bytes) == 0;
}

static bool read_dtype(scanner *scan, kvs_safetensor *tensor)
{
    const char *text;
    uint32_t bytes;
    if (!read_text(scan, &text, &bytes)) {
        return false;
    }
    for (int i = 1; i < KVS_DTYPE_COUNT; i++) {
        if (is_text(text, bytes, kvs_safetensors_dtype_name((kvs_dtype)i))) {
            tensor->dtype = (kvs_dtype)i;
            return true;
        }
    }
    return fail(scan, "a dtype is not one of F32 F64 F16 BF16 U8 I8 I32 I64");
}

/* The sizes go to the file's array, which may move: where they start is kept in `tag`. */
static bool read_shape(scanner *scan, kvs_safetensor *tensor)
{
    tensor->tag = scan->size_count;
    if (!expect(scan, '[')) {
        return false;
    }
    if (take(scan, ']')) {
        return true;
    }
    do {
        if (tensor->rank == KVS_DIMENSIONS_MAX) {
            return fail(scan, "a shape has more than 32 dimensions");
        }
        if (!make_room(scan, &scan->file->sizes, scan->size_count, &scan->size_room,
                       sizeof *scan->file->sizes) ||
            !read_number(scan, &scan->file->sizes[scan->size_count])) {
            return false;
        }
        scan->size_count++;
        tensor->rank++;
    } while (take(scan, ','));
    return expect(scan, ']');
}

static bool read_offsets(scanner *scan, kvs_safetensor *tensor)
{
    return expect(scan, '[') && read_number(scan, &tensor->begin) && expect(scan, ',') &&
           read_number(scan, &tensor->end) && expect(scan, ']');
}

static bool check_bytes(scanner *scan, const kvs_safetensor *tensor)
{
    kvs_shape shape = {.rank = tensor->rank};
    uint64_t elements;
    for (uint32_t i = 0; i < tensor->rank; i++) {
        shape.size[i] = scan->file->sizes[tensor->tag + i];
    }
    if (!kvs_shape_elements(&shape, &elements)) {
        return fail(scan, "a shape has too many elements");
    }
    if (tensor->end < tensor->begin ||
        tensor->end - tensor->begin != elements * kvs_dtype_bytes(tensor->dtype)) {
        return fail(scan, "the offsets of a tensor do not fit its shape and dtype");
    }
    return true;
}

static bool read_tensor(scanner *scan, kvs_safetensor *tensor)
{
    static const char *const names[] = {"dtype", "shape", "data_offsets"};
    bool (*const readers[])(scanner *, kvs_safetensor *) = {read_dtype, read_shape, read_offsets};
    unsigned seen = 0;
    if (!expect(scan, '{')) {
        return false;
    }
    do {
        const char *name;
        uint32_t bytes;
        unsigned field = 0;
        if (!read_text(scan, &name, &bytes) || !expect(scan, ':')) {
            return false;
        }
        while (field < 3 && !is_text(name, bytes, names[field])) {
            field++;
        }
        if (field == 3 || (seen >> field & 1) != 0) {
            return fail(scan, "a tensor has a field that is unknown or stands twice");
        }
        seen |= 1u << field;
        if (!readers[field](scan, tensor)) {
            return false;
        }
    } while (take(scan, ','));
    if (seen != 7) {
        return fail(scan, "a tensor lacks dtype, shape or data_offsets");
    }
    return expect(scan, '}') && check_bytes(scan, tensor);
}

static bool read_notes(scanner *scan)
{
    kvs_safetensors *file = scan->file;
    if (file->notes != NULL) {
        return fail(scan, "__metadata__ stands twice");
    }
    if (!expect(scan, '{') ||
        !make_room(scan, &file->notes, 0, &scan->note_room, sizeof *file->notes)) {
        return false;
    }
    if (take(scan, '}')) {
        return true;
    }
    do {
        if (!make_room(scan, &file->notes, file->note_count, &scan->note_room,
                       sizeof *file->notes)) {
            return false;
        }
        kvs_safetensors_note *note = &file->notes[file->note_count];
        if (!read_text(scan, &note->name, &note->name_bytes) || !expect(scan, ':') ||
            !read_text(scan, &note->text, &note->text_bytes)) {
            return false;
        }
        file->note_count++;
    } while (take(scan, ','));
    return expect(scan, '}');
}

static bool read_entry(scanner *scan)
{
    kvs_safetensors *file = scan->file;
    const char *name;
    uint32_t bytes;
    if (!read_text(scan, &name, &bytes) || !expect(scan, ':')) {
        return false;
    }
    if (is_text(name, bytes, "__metadata__")) {
        return read_notes(scan);
    }
    if (!make_room(scan, &file->tensors, file->count, &scan->tensor_room, sizeof *file->tensors)) {
        return false;
    }
    kvs_safetensor *tensor = &file->tensors[file->count];
    *tensor = (kvs_safetensor){.name = name, .name_bytes = bytes};
    file->count++;
    return read_tensor(scan, tensor);
}

static bool read_header(scanner *scan)
{
    if (scan->at == scan->end || *scan->at != '{') {
        return fail(scan, "the header does not begin with {");
    }
    scan->at++;
    if (!take(scan, '}')) {
        do {
            if (!read_entry(scan)) {
                return false;
            }
        } while (take(scan, ','));
        if (!expect(scan, '}')) {
            return false;
        }
    }
    while (scan->at < scan->end && *scan->at == ' ') {
        scan->at++;
    }
    return scan->at == scan->end || fail(scan, "something follows the header's object");
}

/* ------------------------------------------------------------------ the whole */

/* A tensor without bytes lies before the one that begins there. */
static int by_place(const void *a, const void *b)
{
    const kvs_safetensor *left = a;
    const kvs_safetensor *right = b;
    if (left->begin != right->begin) {
        return left->begin < right->begin ? -1 : 1;
    }
    return left->end != right->end ? (left->end < right->end ? -1 : 1)
                                   : kvs_safetensor_compare(a, b);
}

static bool check_whole(scanner *scan)
{
    kvs_safetensors *file = scan->file;
    for (size_t i = 0; i < file->count; i++) {
        file->tensors[i].sizes = file->sizes + file->tensors[i].tag;
        file->tensors[i].tag = 0;
    }
    if (file->count > 0) {
        qsort(file->tensors, file->count, sizeof *file->tensors, kvs_safetensor_compare);
    }
    for (size_t i = 1; i < file->count; i++) {
        if (kvs_safetensor_compare(&file->tensors[i - 1], &file->tensors[i]) == 0) {
            return fail(scan, "a tensor's name stands twice");
        }
    }
    if (file->note_count > 0) {
        qsort(file->notes, file->note_count, sizeof *file->notes, kvs_safetensors_note_compare);
    }
    for (size_t i = 1; i < file->note_count; i++) {
        if (kvs_safetensors_note_compare(&file->notes[i - 1], &file->notes[i]) == 0) {
            return fail(scan, "a name in __metadata__ stands twice");
        }
    }
    if (file->count > 0) {
        qsort(file->tensors, file->count, sizeof *file->tensors, by_place);
    }
    for (size_t i = 0; i < file->count; i++) {
        if (file->tensors[i].begin != file->data_bytes) {
            return fail(scan, "the tensors leave a gap or overlap");
        }
        file->data_bytes = file->tensors[i].end;
    }
    return true;
}

kvs_status kvs_safetensors_length(const uint8_t bytes[KVS_SAFETENSORS_LENGTH_BYTES], size_t *out,
                                  kvs_problem *problem)
{
    uint64_t length = 0;
    for (unsigned i = KVS_SAFETENSORS_LENGTH_BYTES; i-- > 0;) {
        length = length << 8 | bytes[i];
    }
    if (length > KVS_SAFETENSORS_HEADER_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_TOO_LARGE,
                               "a safetensors header of %" PRIu64 " bytes; the limit is %" PRIu64,
                               length, KVS_SAFETENSORS_HEADER_BYTES_MAX);
    }
    if (length < 2) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME,
                               "no safetensors file: its header has %" PRIu64 " bytes", length);
    }
    *out = (size_t)length;
    return KVS_OK;
}

kvs_status kvs_safetensors_parse(char *header, size_t bytes, kvs_safetensors *out,
                                 kvs_problem *problem)
{
    kvs_safetensors file = {.count = 0};
    scanner scan = {.begin = header, .at = header, .end = header + bytes, .file = &file};
    if (!read_header(&scan) || !check_whole(&scan)) {
        kvs_safetensors_deinit(&file);
        return kvs_problem_set(problem, scan.status, "safetensors, byte %td of the header: %s",
                               scan.at - scan.begin, scan.why);
    }
    *out = file;
    return KVS_OK;
}

void kvs_safetensors_deinit(kvs_safetensors *file)
{
    free(file->tensors);
    free(file->notes);
    free(file->sizes);
    memset(file, 0, sizeof *file);
}

const kvs_safetensors_note *kvs_safetensors_find_note(const kvs_safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->note_count; i++) {
        if (is_text(file->notes[i].name, file->notes[i].name_bytes, name)) {
            return &file->notes[i];
        }
    }
    return NULL;
}
