/* JSON from outside, read within bounds: the one door to jansson.
 *
 * Text becomes a tree only within a bound of bytes and KVS_JSON_DEPTH_MAX levels. An object's
 * fields are then read one by one, by name and type. What is wrong is collected in a problem, each
 * as a JSON pointer (RFC 6901) and a sentence; a field that nobody asked for is refused as well.
 *
 *     kvs_json_errors errors = {.problem = problem};
 *     kvs_json_fields fields;
 *     kvs_json_fields_init(&fields, NULL, "", root, &errors);
 *     kvs_json_double(&fields, "momentum", 0, 1, &momentum);
 *     kvs_json_fields_end(&fields);
 *     return kvs_json_status(&errors);
 *
 * Threads: any; a tree belongs to whoever holds it.
 * Memory: parse gives one reference, given back by json_decref; fields borrow the tree.
 * Errors: a field that is absent or wrong leaves its `out` as it was, which so holds the default.
 */
#ifndef KVS_BASE_JSON_H
#define KVS_BASE_JSON_H

#include "base/status.h"

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

/* jansson itself would go 2048 levels down. */
#define KVS_JSON_DEPTH_MAX 32u
/* Fields that one object may know: the largest here is an optimizer with about 30. */
#define KVS_JSON_FIELDS_MAX 64u
/* Room for any double as text, with the zero. */
#define KVS_JSON_NUMBER_BYTES 32u

/* Reads one JSON value that is the whole text. Duplicate fields, invalid UTF-8 and anything behind
 * the value are errors: KVS_INVALID_FRAME with line and column; KVS_TOO_LARGE above `bytes_max`;
 * KVS_NO_MEMORY. */
kvs_status kvs_json_parse(const char *text, size_t bytes, size_t bytes_max, json_t **out,
                          kvs_problem *problem) KVS_MUST_CHECK;

/* What was wrong so far. */
typedef struct kvs_json_errors {
    kvs_problem *problem; /* may be NULL; its detail receives the first ones that fit */
    uint32_t count;
} kvs_json_errors;

/* KVS_OK, or KVS_INVALID_FIELD after an error (or the status of a problem set by hand). */
kvs_status kvs_json_status(const kvs_json_errors *errors) KVS_MUST_CHECK;

/* One object on its way through the readers. */
typedef struct kvs_json_fields {
    const struct kvs_json_fields *parent; /* NULL: the root */
    const char *name;                     /* in the parent */
    const json_t *object;                 /* NULL when the value was no object */
    kvs_json_errors *errors;
    const char *known[KVS_JSON_FIELDS_MAX];
    uint32_t known_count;
} kvs_json_fields;

/* Begins to read `value`, the field `name` of `parent`. A value that is no object is an error, and
 * every reader then finds nothing. */
void kvs_json_fields_init(kvs_json_fields *fields, const kvs_json_fields *parent, const char *name,
                          const json_t *value, kvs_json_errors *errors);

/* Refuses every field that no reader asked for, with the nearest known name. */
void kvs_json_fields_end(kvs_json_fields *fields);

/* The value of a field, or NULL when it is absent. Marks it as known, as every reader does. */
const json_t *kvs_json_find(kvs_json_fields *fields, const char *name);

/* True when the field is there; else it is an error. */
bool kvs_json_required(kvs_json_fields *fields, const char *name);

/* True when the field is there and null. */
bool kvs_json_null(kvs_json_fields *fields, const char *name);

/* True when the field is there, of the type and in [min, max]. Integers count as doubles, doubles
 * never as integers. */
bool kvs_json_double(kvs_json_fields *fields, const char *name, double min, double max,
                     double *out);
bool kvs_json_integer(kvs_json_fields *fields, const char *name, int64_t min, int64_t max,
                      int64_t *out);
bool kvs_json_bool(kvs_json_fields *fields, const char *name, bool *out);

/* A text of at most `bytes_max` bytes, borrowed from the tree and terminated. */
bool kvs_json_text(kvs_json_fields *fields, const char *name, size_t bytes_max, const char **out);

/* One of `count` words; its index. Another word is an error that names the nearest. */
bool kvs_json_choice(kvs_json_fields *fields, const char *name, const char *const *words,
                     size_t count, size_t *out);

/* An object or array (type: JSON_OBJECT or JSON_ARRAY), or NULL. */
const json_t *kvs_json_child(kvs_json_fields *fields, const char *name, json_type type);

/* Reports an error of a field: "must be ...". `name` NULL: of the object itself. */
void kvs_json_fail(kvs_json_fields *fields, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Of `count` words the one that a person may have meant by `word`, or NULL. */
const char *kvs_json_nearest(const char *word, const char *const *words, size_t count);

/* The shortest decimal text that reads back as the same double, whatever the locale. `value` is
 * finite. The length. */
size_t kvs_json_print(double value, char out[KVS_JSON_NUMBER_BYTES]);

/* Writes `text` quoted and escaped, and `"name": value`. An error stays in the FILE. */
void kvs_json_put_text(FILE *to, const char *text);
void kvs_json_put_double(FILE *to, const char *name, double value);

#endif
