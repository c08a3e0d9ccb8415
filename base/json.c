#include "base/json.h"

#include "base/check.h"

#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* A JSON pointer is cut to this in a detail; names from outside may be long. */
#define POINTER_BYTES 96u
/* Words longer than this are not compared: none of ours is. */
#define WORD_BYTES_MAX 64u

/* ------------------------------------------------------------------ text */

/* A line that grows to the end of its room and then stays whole UTF-8. */
typedef struct line {
    char *data;
    size_t room; /* with the zero */
    size_t used;
} line;

/* Adds as much as fits. Control characters become '?'; a cut falls between characters. */
static void line_add(line *to, const char *from)
{
    while (*from != '\0') {
        size_t bytes = 1;
        while (((unsigned char)from[bytes] & 0xc0) == 0x80) {
            bytes++;
        }
        if (to->used + bytes >= to->room) {
            to->room = to->used + 1; /* nothing shorter may follow what was cut */
            break;
        }
        memcpy(to->data + to->used, from, bytes);
        if ((unsigned char)*from < 0x20 || *from == 0x7f) {
            to->data[to->used] = '?';
        }
        to->used += bytes;
        from += bytes;
    }
    to->data[to->used] = '\0';
}

/* One step of a JSON pointer: "/name" with ~ and / escaped. */
static void line_add_step(line *to, const char *name)
{
    char one[2] = {0, 0};
    line_add(to, "/");
    while (*name != '\0') {
        size_t plain = strcspn(name, "~/");
        char piece[POINTER_BYTES];
        size_t bytes = plain < sizeof piece ? plain : sizeof piece - 1;
        memcpy(piece, name, bytes);
        piece[bytes] = '\0';
        line_add(to, piece);
        if (bytes < plain) {
            return; /* longer than any room */
        }
        name += plain;
        if (*name != '\0') {
            one[0] = *name == '~' ? '0' : '1';
            line_add(to, "~");
            line_add(to, one);
            name++;
        }
    }
}

static void line_add_pointer(line *to, const kvs_json_fields *fields)
{
    if (fields->parent != NULL) {
        line_add_pointer(to, fields->parent);
        line_add_step(to, fields->name);
    }
}

/* ------------------------------------------------------------------ parsing */

/* The deepest nesting of brackets outside of strings. Does not judge anything else. */
static size_t depth_of(const char *text, size_t bytes)
{
    size_t depth = 0;
    size_t deepest = 0;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                quoted = false;
            }
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            depth++;
            deepest = depth > deepest ? depth : deepest;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return deepest;
}

kvs_status kvs_json_parse(const char *text, size_t bytes, size_t bytes_max, json_t **out,
                          kvs_problem *problem)
{
    if (bytes > bytes_max) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "%zu bytes of JSON; the limit is %zu", bytes,
                               bytes_max);
    }
    if (depth_of(text, bytes) > KVS_JSON_DEPTH_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME,
                               "the JSON is nested deeper than %u levels", KVS_JSON_DEPTH_MAX);
    }
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    /* jansson gives no text when it runs out of memory (but blames a string that it cannot hold).
     */
    if (root == NULL && error.text[0] == '\0') {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory to read the JSON");
    }
    if (root == NULL) {
        for (char *c = error.text; *c != '\0'; c++) {
            if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) {
                *c = '?'; /* jansson quotes what it could not read */
            }
        }
        return kvs_problem_set(problem, KVS_INVALID_FRAME, "not JSON, line %d column %d: %s",
                               error.line, error.column, error.text);
    }
    *out = root;
    return KVS_OK;
}

/* ------------------------------------------------------------------ errors */

kvs_status kvs_json_status(const kvs_json_errors *errors)
{
    return errors->count == 0 ? KVS_OK : KVS_INVALID_FIELD;
}

void kvs_json_fail(kvs_json_fields *fields, const char *name, const char *format, ...)
{
    kvs_problem *problem = fields->errors->problem;
    fields->errors->count++;
    if (problem == NULL) {
        return;
    }
    char sentence[sizeof problem->detail];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);

    char pointer[POINTER_BYTES] = "";
    line path = {.data = pointer, .room = sizeof pointer};
    line_add_pointer(&path, fields);
    if (name != NULL) {
        line_add_step(&path, name);
    }
    if (fields->errors->count == 1) {
        problem->status = KVS_INVALID_FIELD;
        problem->detail[0] = '\0';
    }
    line detail = {
        .data = problem->detail,
        .room = sizeof problem->detail,
        .used = strlen(problem->detail),
    };
    line_add(&detail, fields->errors->count > 1 ? "; " : "");
    line_add(&detail, pointer[0] != '\0' ? pointer : "the document");
    line_add(&detail, " ");
    line_add(&detail, sentence);
    kvs_text_clean(problem->detail);
}

/* ------------------------------------------------------------------ nearest word */

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* How many letters to insert, drop or change (two neighbours swapped count two). */
static size_t distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    size_t row[WORD_BYTES_MAX + 1];
    for (size_t j = 0; j <= b_bytes; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a_bytes; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_bytes; j++) {
            size_t above = row[j];
            size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = min3(above + 1, row[j - 1] + 1, changed);
            diagonal = above;
        }
    }
    return row[b_bytes];
}

const char *kvs_json_nearest(const char *word, const char *const *words, size_t count)
{
    const char *best = NULL;
    size_t bytes = strlen(word);
    size_t best_distance = bytes / 3 < 2 ? 2 : bytes / 3;
    if (bytes > WORD_BYTES_MAX) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        size_t other = strlen(words[i]);
        if (other > WORD_BYTES_MAX) {
            continue;
        }
        size_t apart = distance(word, bytes, words[i], other);
        /* A word of which nothing is left was not meant. */
        if (apart < bytes && (apart < best_distance || (best == NULL && apart == best_distance))) {
            best = words[i];
            best_distance = apart;
        }
    }
    return best;
}

/* ------------------------------------------------------------------ fields */

void kvs_json_fields_init(kvs_json_fields *fields, const kvs_json_fields *parent, const char *name,
                          const json_t *value, kvs_json_errors *errors)
{
    fields->parent = parent;
    fields->name = name;
    fields->object = json_is_object(value) ? value : NULL;
    fields->errors = errors;
    fields->known_count = 0;
    if (fields->object == NULL) {
        kvs_json_fail(fields, NULL, "must be an object");
    }
}

static bool known(const kvs_json_fields *fields, const char *name)
{
    for (uint32_t i = 0; i < fields->known_count; i++) {
        if (strcmp(fields->known[i], name) == 0) {
            return true;
        }
    }
    return false;
}

void kvs_json_fields_end(kvs_json_fields *fields)
{
    const char *name;
    json_t *value;
    /* The cast: jansson's iterator takes no const; nothing is changed. */
    json_object_foreach ((json_t *)fields->object, name, value) {
        if (known(fields, name)) {
            continue;
        }
        const char *near = kvs_json_nearest(name, fields->known, fields->known_count);
        if (near != NULL) {
            kvs_json_fail(fields, name, "is unknown, did you mean \"%s\"?", near);
        } else {
            kvs_json_fail(fields, name, "is unknown");
        }
    }
}

const json_t *kvs_json_find(kvs_json_fields *fields, const char *name)
{
    if (!known(fields, name)) {
        KVS_CHECK(fields->known_count < KVS_JSON_FIELDS_MAX);
        fields->known[fields->known_count++] = name;
    }
    return json_object_get(fields->object, name);
}

bool kvs_json_required(kvs_json_fields *fields, const char *name)
{
    if (kvs_json_find(fields, name) != NULL) {
        return true;
    }
    if (fields->object != NULL) {
        kvs_json_fail(fields, name, "is missing");
    }
    return false;
}

bool kvs_json_null(kvs_json_fields *fields, const char *name)
{
    return json_is_null(kvs_json_find(fields, name));
}

bool kvs_json_double(kvs_json_fields *fields, const char *name, double min, double max, double *out)
{
    const json_t *value = kvs_json_find(fields, name);
    if (value == NULL) {
        return false;
    }
    if (!json_is_number(value)) {
        kvs_json_fail(fields, name, "must be a number");
        return false;
    }
    double number = json_number_value(value);
    if (!(number >= min && number <= max)) {
        kvs_json_fail(fields, name, "must be between %g and %g", min, max);
        return false;
    }
    *out = number;
    return true;
}

bool kvs_json_integer(kvs_json_fields *fields, const char *name, int64_t min, int64_t max,
                      int64_t *out)
{
    const json_t *value = kvs_json_find(fields, name);
    if (value == NULL) {
        return false;
    }
    if (!json_is_integer(value)) {
        kvs_json_fail(fields, name, "must be an integer");
        return false;
    }
    int64_t number = json_integer_value(value);
    if (number < min || number > max) {
        kvs_json_fail(fields, name, "must be between %lld and %lld", (long long)min,
                      (long long)max);
        return false;
    }
    *out = number;
    return true;
}

bool kvs_json_bool(kvs_json_fields *fields, const char *name, bool *out)
{
    const json_t *value = kvs_json_find(fields, name);
    if (value == NULL) {
        return false;
    }
    if (!json_is_boolean(value)) {
        kvs_json_fail(fields, name, "must be true or false");
        return false;
    }
    *out = json_is_true(value);
    return true;
}

bool kvs_json_text(kvs_json_fields *fields, const char *name, size_t bytes_max, const char **out)
{
    const json_t *value = kvs_json_find(fields, name);
    if (value == NULL) {
        return false;
    }
    if (!json_is_string(value)) {
        kvs_json_fail(fields, name, "must be a string");
        return false;
    }
    if (json_string_length(value) > bytes_max) {
        kvs_json_fail(fields, name, "must be at most %zu bytes long", bytes_max);
        return false;
    }
    *out = json_string_value(value);
    return true;
}

bool kvs_json_choice(kvs_json_fields *fields, const char *name, const char *const *words,
                     size_t count, size_t *out)
{
    const char *word;
    if (!kvs_json_text(fields, name, SIZE_MAX, &word)) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(words[i], word) == 0) {
            *out = i;
            return true;
        }
    }
    const char *near = kvs_json_nearest(word, words, count);
    if (near != NULL) {
        kvs_json_fail(fields, name, "is unknown: \"%s\", did you mean \"%s\"?", word, near);
        return false;
    }
    char list[128] = "";
    line all = {.data = list, .room = sizeof list};
    for (size_t i = 0; i < count; i++) {
        line_add(&all, i > 0 ? ", " : "");
        line_add(&all, words[i]);
    }
    kvs_json_fail(fields, name, "must be one of %s", list);
    return false;
}

const json_t *kvs_json_child(kvs_json_fields *fields, const char *name, json_type type)
{
    const json_t *value = kvs_json_find(fields, name);
    if (value == NULL) {
        return NULL;
    }
    if (json_typeof(value) != type) {
        kvs_json_fail(fields, name, type == JSON_OBJECT ? "must be an object" : "must be an array");
        return NULL;
    }
    return value;
}

/* ------------------------------------------------------------------ numbers */

size_t kvs_json_print(double value, char out[KVS_JSON_NUMBER_BYTES])
{
    KVS_CHECK(isfinite(value));
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(out, KVS_JSON_NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(out, NULL) == value) {
            break;
        }
    }
    /* The host process of the client library may have set a locale with another point. */
    const char *point = localeconv()->decimal_point;
    char *at = point[0] == '.' ? NULL : strstr(out, point);
    if (at != NULL) {
        size_t bytes = strlen(point);
        *at = '.';
        memmove(at + 1, at + bytes, strlen(at + bytes) + 1);
    }
    return strlen(out);
}

void kvs_json_put_text(FILE *to, const char *text)
{
    (void)fputc('"', to);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20) {
            (void)fprintf(to, "\\u%04x", c);
        } else {
            (void)fprintf(to, c == '"' || c == '\\' ? "\\%c" : "%c", c);
        }
    }
    (void)fputc('"', to);
}

void kvs_json_put_double(FILE *to, const char *name, double value)
{
    char number[KVS_JSON_NUMBER_BYTES];
    (void)kvs_json_print(value, number);
    kvs_json_put_text(to, name);
    (void)fprintf(to, ": %s", number);
}
