#include "service/problem.h"

#include <stdio.h>
#include <string.h>

static const char *const code_names[] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

const char *kvs_problem_code_name(int grpc_code)
{
    size_t count = sizeof code_names / sizeof code_names[0];
    return grpc_code >= 0 && (size_t)grpc_code < count ? code_names[grpc_code] : "UNKNOWN";
}

/* Adds {pointer, detail} for one "/pointer sentence". False: no memory. */
static bool add_error(json_t *errors, const char *text, size_t bytes)
{
    const char *blank = memchr(text, ' ', bytes);
    size_t pointer = blank != NULL ? (size_t)(blank - text) : bytes;
    size_t skip = blank != NULL ? pointer + 1 : bytes;
    json_t *error = json_object();
    if (error == NULL || json_object_set_new(error, "pointer", json_stringn(text, pointer)) != 0 ||
        json_object_set_new(error, "detail", json_stringn(text + skip, bytes - skip)) != 0) {
        json_decref(error);
        return false;
    }
    return json_array_append_new(errors, error) == 0;
}

/* The sentences of base/json.h: "/a must be ...; /b is unknown". Empty when there are none. */
static json_t *errors_json(const kvs_problem *problem)
{
    json_t *errors = json_array();
    const char *at = problem->detail;
    while (errors != NULL && problem->status == KVS_INVALID_FIELD && *at == '/') {
        const char *next = strstr(at, "; /");
        size_t bytes = next != NULL ? (size_t)(next - at) : strlen(at);
        if (!add_error(errors, at, bytes)) {
            json_decref(errors);
            return NULL;
        }
        at += bytes + (next != NULL ? 2 : 0);
    }
    return errors;
}

/* What happened, then what to do. */
static json_t *detail_json(const kvs_problem *problem, const kvs_status_row *row)
{
    char text[512];
    const char *detail = problem->detail;
    size_t bytes = strlen(detail);
    bool ends = bytes == 0 || strchr(".?!", detail[bytes - 1]) != NULL;
    (void)snprintf(text, sizeof text, "%s%s%s%s", detail, ends ? "" : ".", bytes > 0 ? " " : "",
                   row->advice);
    json_t *json = json_string(text);
    return json != NULL ? json : json_string(row->advice); /* not UTF-8 */
}

/* ".../problems/key-not-found" */
static void print_type(const char *reason, char *out, size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "https://kvstored.dev/problems/%s", reason);
    for (char *at = strrchr(out, '/'); *at != '\0'; at++) {
        if (*at == '_') {
            *at = '-';
        } else if (*at >= 'A' && *at <= 'Z') {
            *at = (char)(*at - 'A' + 'a');
        }
    }
}

json_t *kvs_problem_json(const kvs_problem *problem, const char *path, const char *request_id)
{
    const kvs_status_row *row = kvs_status_find(problem->status);
    char type[96];
    char instance[512];
    print_type(row->reason, type, sizeof type);
    (void)snprintf(instance, sizeof instance, "%.400s#%s", path, request_id);
    json_t *errors = errors_json(problem);
    json_t *object = json_object();
    json_t *instance_json = json_string(instance);
    if (instance_json == NULL) {
        instance_json = json_string(""); /* the path was not UTF-8 */
    }
    bool whole = object != NULL && json_object_set_new(object, "type", json_string(type)) == 0;
    whole = json_object_set_new(object, "title", json_string(row->title)) == 0 && whole;
    whole = json_object_set_new(object, "status", json_integer(row->http_status)) == 0 && whole;
    whole = json_object_set_new(object, "detail", detail_json(problem, row)) == 0 && whole;
    whole = json_object_set_new(object, "instance", instance_json) == 0 && whole;
    whole = json_object_set_new(object, "code",
                                json_string(kvs_problem_code_name(row->grpc_code))) == 0 &&
            whole;
    whole = json_object_set_new(object, "reason", json_string(row->reason)) == 0 && whole;
    whole = json_object_set_new(object, "request_id", json_string(request_id)) == 0 && whole;
    if (errors != NULL && json_array_size(errors) > 0) {
        whole = json_object_set_new(object, "errors", errors) == 0 && whole;
    } else {
        json_decref(errors);
    }
    if (!whole) {
        json_decref(object);
        return NULL;
    }
    return object;
}
