#include "api/json_message.h"

#include "api/base64.h"
#include "base/check.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Names of enum values here are far shorter. */
#define ENUM_WORD_BYTES 64u
/* "18446744073709551615" */
#define NUMBER_TEXT_BYTES 24u

static void *member(const ProtobufCMessage *message, unsigned offset)
{
    return (char *)message + offset; /* what reads a message does not write to it */
}

/* ------------------------------------------------------------------ enums */

/* Bytes of the common beginning of all names, up to and with its last '_'. */
static size_t enum_prefix(const ProtobufCEnumDescriptor *descriptor)
{
    const char *first = descriptor->values[0].name;
    size_t common = strlen(first);
    for (unsigned i = 1; i < descriptor->n_values; i++) {
        size_t same = 0;
        while (same < common && descriptor->values[i].name[same] == first[same]) {
            same++;
        }
        common = same;
    }
    while (common > 0 && first[common - 1] != '_') {
        common--;
    }
    return common;
}

static const char *enum_word(const ProtobufCEnumDescriptor *descriptor, unsigned index, char *out,
                             size_t out_bytes)
{
    const char *name = descriptor->values[index].name + enum_prefix(descriptor);
    size_t bytes = strlen(name);
    if (bytes >= out_bytes) {
        return NULL;
    }
    for (size_t i = 0; i <= bytes; i++) {
        out[i] = (char)tolower((unsigned char)name[i]);
    }
    return out;
}

const char *kvs_json_enum_word(const ProtobufCEnumDescriptor *descriptor, int value, char *out,
                               size_t out_bytes)
{
    for (unsigned i = 0; i < descriptor->n_values; i++) {
        if (descriptor->values[i].value == value) {
            return enum_word(descriptor, i, out, out_bytes);
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------ reading values */

/* One value on its way in: where errors are reported, and where it goes. */
typedef struct place {
    kvs_json_fields *fields;
    const char *name;
    const ProtobufCFieldDescriptor *field;
    void *slot;
    bool *no_memory;
} place;

static bool fail_memory(const place *at)
{
    *at->no_memory = true;
    kvs_json_fail(at->fields, at->name, "is more than memory holds");
    return false;
}

/* An integer from a number or a decimal text; the sign and the magnitude. */
static bool read_magnitude(const json_t *json, bool *negative, uint64_t *magnitude)
{
    if (json_is_integer(json)) {
        json_int_t value = json_integer_value(json);
        *negative = value < 0;
        *magnitude = *negative ? 0 - (uint64_t)value : (uint64_t)value;
        return true;
    }
    if (!json_is_string(json)) {
        return false;
    }
    const char *text = json_string_value(json);
    *negative = *text == '-';
    text += *negative ? 1 : 0;
    if (!isdigit((unsigned char)*text)) {
        return false;
    }
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *magnitude = value;
    return errno == 0 && *end == '\0';
}

static bool read_unsigned(const place *at, const json_t *json, uint64_t max, uint64_t *out)
{
    bool negative;
    if (!read_magnitude(json, &negative, out) || *out > max || (negative && *out != 0)) {
        kvs_json_fail(at->fields, at->name, "must be an integer between 0 and %llu",
                      (unsigned long long)max);
        return false;
    }
    return true;
}

static bool read_signed(const place *at, const json_t *json, int64_t max, int64_t *out)
{
    bool negative;
    uint64_t magnitude;
    if (!read_magnitude(json, &negative, &magnitude) ||
        magnitude > (uint64_t)max + (negative ? 1 : 0)) {
        kvs_json_fail(at->fields, at->name, "must be an integer between %lld and %lld",
                      -(long long)max - 1, (long long)max);
        return false;
    }
    *out = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return true;
}

static bool read_double(const place *at, const json_t *json, double *out)
{
    if (json_is_number(json)) {
        *out = json_number_value(json);
        return true;
    }
    const char *text = json_string_value(json); /* NULL for anything but a string */
    if (text != NULL && strcmp(text, "NaN") == 0) {
        *out = (double)NAN;
    } else if (text != NULL && strcmp(text, "Infinity") == 0) {
        *out = (double)INFINITY;
    } else if (text != NULL && strcmp(text, "-Infinity") == 0) {
        *out = -(double)INFINITY;
    } else {
        kvs_json_fail(at->fields, at->name, "must be a number");
        return false;
    }
    return true;
}

static bool read_enum(const place *at, const json_t *json)
{
    const ProtobufCEnumDescriptor *descriptor = at->field->descriptor;
    const char *text = json_string_value(json);
    const char *words[KVS_JSON_FIELDS_MAX];
    char room[KVS_JSON_FIELDS_MAX][ENUM_WORD_BYTES];
    size_t count = 0;
    KVS_CHECK(descriptor->n_values > 0);
    KVS_CHECK(descriptor->n_values <= KVS_JSON_FIELDS_MAX);
    for (unsigned i = 0; i < descriptor->n_values; i++) {
        words[count] = enum_word(descriptor, i, room[count], sizeof(room[count]));
        KVS_CHECK(words[count] != NULL);
        if (text != NULL && strcmp(text, words[count]) == 0) {
            int value = descriptor->values[i].value;
            memcpy(at->slot, &value, sizeof(value));
            return true;
        }
        count++;
    }
    const char *near = text == NULL ? NULL : kvs_json_nearest(text, words, count);
    if (near != NULL) {
        kvs_json_fail(at->fields, at->name, "is unknown, did you mean \"%s\"?", near);
    } else {
        kvs_json_fail(at->fields, at->name, "must be a word like \"%s\"", words[count - 1]);
    }
    return false;
}

static bool read_text(const place *at, const json_t *json)
{
    if (!json_is_string(json)) {
        kvs_json_fail(at->fields, at->name, "must be a string");
        return false;
    }
    if (strlen(json_string_value(json)) != json_string_length(json)) {
        kvs_json_fail(at->fields, at->name, "must not hold the character 0");
        return false;
    }
    char *copy = strdup(json_string_value(json));
    if (copy == NULL) {
        return fail_memory(at);
    }
    memcpy(at->slot, &copy, sizeof(copy));
    return true;
}

static bool read_bytes(const place *at, const json_t *json)
{
    if (!json_is_string(json)) {
        kvs_json_fail(at->fields, at->name, "must be a string of base64");
        return false;
    }
    size_t length = json_string_length(json);
    ProtobufCBinaryData data = {.data = malloc(length / 4 * 3 + 3)};
    if (data.data == NULL) {
        return fail_memory(at);
    }
    if (!kvs_base64_decode(json_string_value(json), length, data.data, &data.len)) {
        free(data.data);
        kvs_json_fail(at->fields, at->name, "must be base64");
        return false;
    }
    memcpy(at->slot, &data, sizeof(data));
    return true;
}

static bool read_bool(const place *at, const json_t *json)
{
    if (!json_is_boolean(json)) {
        kvs_json_fail(at->fields, at->name, "must be true or false");
        return false;
    }
    protobuf_c_boolean value = json_is_true(json);
    memcpy(at->slot, &value, sizeof(value));
    return true;
}

static ProtobufCMessage *read_message(const ProtobufCMessageDescriptor *descriptor,
                                      kvs_json_fields *fields, bool *no_memory);

static bool read_number(const place *at, const json_t *json)
{
    uint64_t magnitude;
    int64_t number;
    double real;
    switch (at->field->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32: {
        if (!read_unsigned(at, json, UINT32_MAX, &magnitude)) {
            return false;
        }
        uint32_t word = (uint32_t)magnitude;
        memcpy(at->slot, &word, sizeof(word));
        return true;
    }
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        if (!read_unsigned(at, json, UINT64_MAX, &magnitude)) {
            return false;
        }
        memcpy(at->slot, &magnitude, sizeof(magnitude));
        return true;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        if (!read_signed(at, json, INT64_MAX, &number)) {
            return false;
        }
        memcpy(at->slot, &number, sizeof(number));
        return true;
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FLOAT: {
        if (!read_double(at, json, &real)) {
            return false;
        }
        float single = (float)real;
        bool wide = at->field->type == PROTOBUF_C_TYPE_DOUBLE;
        memcpy(at->slot, wide ? (void *)&real : (void *)&single,
               wide ? sizeof(real) : sizeof(single));
        return true;
    }
    default: { /* 32 bits with a sign */
        if (!read_signed(at, json, INT32_MAX, &number)) {
            return false;
        }
        int32_t word = (int32_t)number;
        memcpy(at->slot, &word, sizeof(word));
        return true;
    }
    }
}

static bool read_value(const place *at, const json_t *json)
{
    switch (at->field->type) {
    case PROTOBUF_C_TYPE_BOOL:
        return read_bool(at, json);
    case PROTOBUF_C_TYPE_ENUM:
        return read_enum(at, json);
    case PROTOBUF_C_TYPE_STRING:
        return read_text(at, json);
    case PROTOBUF_C_TYPE_BYTES:
        return read_bytes(at, json);
    case PROTOBUF_C_TYPE_MESSAGE: {
        kvs_json_fields inner;
        kvs_json_fields_init(&inner, at->fields, at->name, json, at->fields->errors);
        ProtobufCMessage *message = read_message(at->field->descriptor, &inner, at->no_memory);
        *(ProtobufCMessage **)at->slot = message;
        return message != NULL;
    }
    default:
        return read_number(at, json);
    }
}

static size_t value_bytes(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_ENUM:
        return sizeof(int);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return sizeof(uint64_t);
    default:
        return sizeof(uint32_t);
    }
}

/* ------------------------------------------------------------------ reading messages */

static void read_array(const place *at, const json_t *json, ProtobufCMessage *message)
{
    if (!json_is_array(json)) {
        kvs_json_fail(at->fields, at->name, "must be an array");
        return;
    }
    size_t size = value_bytes(at->field->type);
    size_t *count = member(message, at->field->quantifier_offset);
    char *items = calloc(json_array_size(json) + 1, size);
    if (items == NULL) {
        (void)fail_memory(at);
        return;
    }
    memcpy(at->slot, &items, sizeof(items));
    kvs_json_fields level = {.parent = at->fields, .name = at->name, .errors = at->fields->errors};
    size_t i;
    json_t *item;
    json_array_foreach (json, i, item) {
        char name[NUMBER_TEXT_BYTES];
        (void)snprintf(name, sizeof(name), "%zu", i);
        place inner = {&level, name, at->field, items + *count * size, at->no_memory};
        /* What is bad is left out, so that the message can always be freed. */
        *count += read_value(&inner, item) ? 1 : 0;
    }
}

static void read_member(const place *at, const json_t *json, ProtobufCMessage *message)
{
    const ProtobufCFieldDescriptor *field = at->field;
    uint32_t *oneof = member(message, field->quantifier_offset);
    if (*oneof != 0) {
        kvs_json_fail(at->fields, at->name, "cannot stand beside another of its kind");
        return;
    }
    if (read_value(at, json)) {
        *oneof = field->id;
    }
}

static ProtobufCMessage *read_message(const ProtobufCMessageDescriptor *descriptor,
                                      kvs_json_fields *fields, bool *no_memory)
{
    ProtobufCMessage *message = malloc(descriptor->sizeof_message);
    if (message == NULL) {
        *no_memory = true;
        kvs_json_fail(fields, NULL, "is more than memory holds");
        return NULL;
    }
    protobuf_c_message_init(descriptor, message);
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        const json_t *json = kvs_json_find(fields, field->name);
        if (json == NULL || json_is_null(json)) {
            continue;
        }
        place at = {fields, field->name, field, member(message, field->offset), no_memory};
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            read_array(&at, json, message);
        } else if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
            read_member(&at, json, message);
        } else {
            (void)read_value(&at, json);
        }
    }
    kvs_json_fields_end(fields);
    return message;
}

kvs_status kvs_json_message_parse(const ProtobufCMessageDescriptor *descriptor, const json_t *json,
                                  ProtobufCMessage **out, kvs_problem *problem)
{
    bool no_memory = false;
    kvs_json_errors errors = {.problem = problem};
    kvs_json_fields fields;
    kvs_json_fields_init(&fields, NULL, "", json, &errors);
    ProtobufCMessage *message = read_message(descriptor, &fields, &no_memory);
    kvs_status status = kvs_json_status(&errors);
    if (no_memory) {
        status = kvs_problem_set(problem, KVS_NO_MEMORY, "to read the document");
    }
    if (status != KVS_OK) {
        protobuf_c_message_free_unpacked(message, NULL);
        return status;
    }
    *out = message;
    return KVS_OK;
}

/* ------------------------------------------------------------------ printing */

static json_t *print_double(double value)
{
    if (isnan(value)) {
        return json_string("NaN");
    }
    if (isinf(value)) {
        return json_string(value > 0 ? "Infinity" : "-Infinity");
    }
    return json_real(value);
}

static json_t *print_wide(uint64_t bits, bool is_signed)
{
    char text[NUMBER_TEXT_BYTES];
    if (is_signed) {
        (void)snprintf(text, sizeof(text), "%lld", (long long)bits);
    } else {
        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)bits);
    }
    return json_string(text);
}

static json_t *print_enum(const ProtobufCEnumDescriptor *descriptor, int value)
{
    char word[ENUM_WORD_BYTES];
    const char *text = kvs_json_enum_word(descriptor, value, word, sizeof(word));
    return text != NULL ? json_string(text) : json_integer(value);
}

static json_t *print_bytes(const ProtobufCBinaryData *data)
{
    char *text = malloc(KVS_BASE64_BYTES(data->len));
    if (text == NULL) {
        return NULL;
    }
    json_t *json = json_stringn(text, kvs_base64_encode(data->data, data->len, text));
    free(text);
    return json;
}

static json_t *print_message(const ProtobufCMessage *message);

/* A new value, or NULL: no memory, or a text that is not UTF-8. */
static json_t *print_value(const ProtobufCFieldDescriptor *field, const void *slot)
{
    uint32_t word;
    uint64_t wide;
    memcpy(&word, slot, sizeof(word));
    switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL:
        return json_boolean(*(const protobuf_c_boolean *)slot);
    case PROTOBUF_C_TYPE_ENUM:
        return print_enum(field->descriptor, (int)word);
    case PROTOBUF_C_TYPE_STRING:
        return json_string(*(char *const *)slot == NULL ? "" : *(char *const *)slot);
    case PROTOBUF_C_TYPE_BYTES:
        return print_bytes(slot);
    case PROTOBUF_C_TYPE_MESSAGE:
        return print_message(*(ProtobufCMessage *const *)slot);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        memcpy(&wide, slot, sizeof(wide));
        return print_wide(wide, field->type != PROTOBUF_C_TYPE_UINT64 &&
                                    field->type != PROTOBUF_C_TYPE_FIXED64);
    case PROTOBUF_C_TYPE_DOUBLE:
        return print_double(*(const double *)slot);
    case PROTOBUF_C_TYPE_FLOAT:
        return print_double((double)*(const float *)slot);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return json_integer((json_int_t)word);
    default:
        return json_integer((json_int_t)(int32_t)word);
    }
}

static json_t *print_array(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    size_t count = *(const size_t *)member(message, field->quantifier_offset);
    const char *items = *(char *const *)member(message, field->offset);
    size_t size = value_bytes(field->type);
    json_t *array = json_array();
    for (size_t i = 0; array != NULL && i < count; i++) {
        if (json_array_append_new(array, print_value(field, items + i * size)) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* True when a field is left out of the object. */
static bool absent(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        return *(const uint32_t *)member(message, field->quantifier_offset) != field->id;
    }
    return field->type == PROTOBUF_C_TYPE_MESSAGE &&
           *(void *const *)member(message, field->offset) == NULL;
}

static json_t *print_message(const ProtobufCMessage *message)
{
    json_t *object = json_object();
    for (unsigned i = 0; object != NULL && i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
        if (!repeated && absent(message, field)) {
            continue;
        }
        json_t *value = repeated ? print_array(message, field)
                                 : print_value(field, member(message, field->offset));
        if (json_object_set_new(object, field->name, value) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

kvs_status kvs_json_message_print(const ProtobufCMessage *message, json_t **out,
                                  kvs_problem *problem)
{
    json_t *json = print_message(message);
    if (json == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "a text of the answer is not UTF-8, or memory is used up");
    }
    *out = json;
    return KVS_OK;
}
