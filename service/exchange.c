#include "service/exchange.h"

#include "base/clock.h"
#include "service/accept.h"
#include "service/exchange_run.h"
#include "service/problem.h"
#include "service/target.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

/* ------------------------------------------------------------------ open, close */

/* 16 hexadecimal digits. */
static void make_request_id(char out[KVS_REQUEST_ID_BYTES])
{
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, GRND_NONBLOCK) != (ssize_t)sizeof number) {
        number = kvs_clock_now_ns();
    }
    (void)snprintf(out, KVS_REQUEST_ID_BYTES, "%016" PRIx64, number);
}

/* "http://host/path", as proxies are asked: *authority and the path behind it. */
static const char *split_target(const char *target, char authority[KVS_HEADER_VALUE_BYTES])
{
    static const char scheme[] = "http://";
    if (strncasecmp(target, scheme, sizeof scheme - 1) != 0) {
        return target;
    }
    const char *host = target + sizeof scheme - 1;
    size_t bytes = strcspn(host, "/?");
    if (bytes == 0 || bytes >= KVS_HEADER_VALUE_BYTES || host[bytes] != '/') {
        return target;
    }
    memcpy(authority, host, bytes);
    authority[bytes] = '\0';
    return host + bytes;
}

kvs_exchange *kvs_exchange_open(const kvs_rest_world *world, const char *target)
{
    kvs_exchange *exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL) {
        return NULL;
    }
    exchange->world = world;
    exchange->target = strdup(split_target(target, exchange->authority));
    if (exchange->target == NULL) {
        free(exchange);
        return NULL;
    }
    make_request_id(exchange->request_id);
    return exchange;
}

void kvs_exchange_close(kvs_exchange *exchange)
{
    if (exchange != NULL) {
        kvs_admin_upload_close(exchange->upload);
        kvs_admin_load_close(exchange->load);
        kvs_admin_value_close(exchange->reply.value);
        json_decref(exchange->request);
        free(exchange->reply.text);
        free(exchange->body);
        free(exchange->target);
        free(exchange);
    }
}

void kvs_reply_add(kvs_http_reply *reply, const char *name, const char *value)
{
    if (reply->header_count < KVS_REPLY_HEADERS_MAX) {
        kvs_reply_header *header = &reply->headers[reply->header_count++];
        header->name = name;
        (void)snprintf(header->value, sizeof header->value, "%s", value);
    }
}

kvs_status kvs_exchange_refuse(kvs_exchange *exchange, kvs_status status, const char *detail)
{
    exchange->refused = true;
    return kvs_problem_set(&exchange->problem, status, "%s", detail);
}

/* ------------------------------------------------------------------ begin: what headers say */

/* A request's own id, if it is harmless in a log and in a header. */
static void take_request_id(kvs_exchange *exchange, const char *id)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t bytes = id != NULL ? strlen(id) : 0;
    if (bytes > 0 && bytes <= 64 && strspn(id, allowed) == bytes) {
        memcpy(exchange->request_id, id, bytes + 1);
    }
}

static kvs_status check_host(kvs_exchange *exchange, const char *host)
{
    if (host != NULL && !kvs_host_is_ours(host, exchange->world->hosts)) {
        return kvs_problem_set(&exchange->problem, KVS_HOST_REFUSED,
                               "the server does not go by the name in Host");
    }
    return KVS_OK;
}

static const char *media_type_of(kvs_route_reply reply)
{
    switch (reply) {
    case KVS_REPLY_LIVEZ:
    case KVS_REPLY_READYZ:
    case KVS_REPLY_METRICS:
    case KVS_REPLY_INDEX:
        return "text/plain";
    case KVS_REPLY_OPENAPI:
        return "application/yaml";
    case KVS_REPLY_JSON:
    case KVS_REPLY_OPTIMIZER:
    case KVS_REPLY_KEY:
        return "application/json";
    case KVS_REPLY_STATES:
        return KVS_STATES_MEDIA_TYPE;
    case KVS_REPLY_NONE:
    case KVS_REPLY_VALUE:
        break;
    }
    return NULL;
}

/* The first that Accept names, else npy. */
static kvs_value_format choose_format(const char *accept)
{
    static const kvs_value_format order[] = {KVS_VALUE_NPY, KVS_VALUE_RAW, KVS_VALUE_SAFETENSORS};
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        if (kvs_accept_names(accept, kvs_value_format_media_type(order[i]))) {
            return order[i];
        }
    }
    return KVS_VALUE_NPY;
}

static kvs_status check_accept(kvs_exchange *exchange, const char *accept)
{
    kvs_route_reply reply = exchange->match.route->reply;
    const char *media_type = media_type_of(reply);
    if (reply == KVS_REPLY_VALUE) {
        if (exchange->format == KVS_VALUE_DEFAULT) {
            exchange->format = choose_format(accept);
        }
        media_type = kvs_value_format_media_type(exchange->format);
    }
    if (media_type != NULL && !kvs_accept_admits(accept, media_type)) {
        return kvs_problem_set(&exchange->problem, KVS_NOT_ACCEPTABLE, "the reply is %s",
                               media_type);
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ begin: path and query */

static kvs_status add_text(kvs_exchange *exchange, const char *name, const char *value)
{
    json_t *text = json_string(value);
    if (text == NULL) {
        return kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                               "%s is not UTF-8 without control characters", name);
    }
    if (json_object_set_new(exchange->request, name, text) != 0) {
        return kvs_problem_set(&exchange->problem, KVS_NO_MEMORY, "no memory for the request");
    }
    return KVS_OK;
}

static bool route_knows(const kvs_route *route, const char *name)
{
    for (size_t i = 0; i < KVS_ROUTE_QUERIES_MAX && route->queries[i] != NULL; i++) {
        if (strcmp(route->queries[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static kvs_status add_query(kvs_exchange *exchange)
{
    const kvs_route *route = exchange->match.route;
    const char *query = exchange->match.query;
    kvs_query_pair pair;
    bool broken;
    while (kvs_query_next(&query, &pair, &broken)) {
        if (!route_knows(route, pair.name)) {
            size_t count = 0;
            while (count < KVS_ROUTE_QUERIES_MAX && route->queries[count] != NULL) {
                count++;
            }
            const char *near = kvs_json_nearest(pair.name, route->queries, count);
            return kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                                   "the query has an unknown parameter%s%s%s",
                                   near != NULL ? ", did you mean \"" : "",
                                   near != NULL ? near : "", near != NULL ? "\"?" : "");
        }
        if (json_object_get(exchange->request, pair.name) != NULL) {
            return kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                                   "the query names %s twice", pair.name);
        }
        KVS_TRY(add_text(exchange, pair.name, pair.value));
    }
    if (broken) {
        return kvs_problem_set(&exchange->problem, KVS_INVALID_FRAME, "the query cannot be read");
    }
    return KVS_OK;
}

/* Parameters that are about the HTTP exchange and not the operation's: taken out again. */
static kvs_status take_format(kvs_exchange *exchange)
{
    kvs_route_reply reply = exchange->match.route->reply;
    const char *format = json_string_value(json_object_get(exchange->request, "format"));
    exchange->format = KVS_VALUE_DEFAULT;
    if (format != NULL) {
        KVS_TRY(kvs_value_format_parse(format, KVS_VALUE_DEFAULT, &exchange->format,
                                       &exchange->problem));
    }
    if (reply == KVS_REPLY_LIVEZ || reply == KVS_REPLY_READYZ) {
        exchange->verbose = json_object_get(exchange->request, "verbose") != NULL;
    }
    return KVS_OK;
}

static kvs_status make_request(kvs_exchange *exchange)
{
    const kvs_route *route = exchange->match.route;
    exchange->request = json_object();
    if (exchange->request == NULL) {
        return kvs_problem_set(&exchange->problem, KVS_NO_MEMORY, "no memory for the request");
    }
    if (exchange->match.store[0] != '\0') {
        KVS_TRY(add_text(exchange, "store", exchange->match.store));
    }
    if (strstr(route->path, "{key}") != NULL) {
        KVS_TRY(add_text(exchange, "key", exchange->match.key));
    }
    KVS_TRY(add_query(exchange));
    return take_format(exchange);
}

/* ------------------------------------------------------------------ begin: the body to come */

/* Content-Length, or UINT64_MAX when there is a body of unknown length, or 0. */
static uint64_t announced(kvs_header_function *header, void *context)
{
    const char *length = header(context, "Content-Length");
    if (header(context, "Transfer-Encoding") != NULL) {
        return UINT64_MAX;
    }
    return length != NULL ? strtoull(length, NULL, 10) : 0;
}

static kvs_status check_json_body(kvs_exchange *exchange, const char *type, uint64_t bytes)
{
    /* A page of another origin can POST a form or text unasked, but not this media type. */
    if (type == NULL || !kvs_media_type_is(type, "application/json")) {
        return kvs_problem_set(&exchange->problem, KVS_MEDIA_TYPE,
                               "Content-Type must be application/json");
    }
    if (bytes != UINT64_MAX && bytes > KVS_REST_JSON_BYTES_MAX) {
        return kvs_problem_set(&exchange->problem, KVS_TOO_LARGE,
                               "%" PRIu64 " bytes of JSON; the limit is %" PRIu64, bytes,
                               KVS_REST_JSON_BYTES_MAX);
    }
    return KVS_OK;
}

static kvs_status check_body(kvs_exchange *exchange, kvs_header_function *header, void *context)
{
    const char *type = header(context, "Content-Type");
    const char *encoding = header(context, "Content-Encoding");
    const char *transfer = header(context, "Transfer-Encoding");
    uint64_t bytes = exchange->announced_bytes;
    if (transfer != NULL && strcasecmp(transfer, "chunked") != 0) {
        return kvs_problem_set(&exchange->problem, KVS_INVALID_FRAME,
                               "the Transfer-Encoding is not chunked");
    }
    if (encoding != NULL && strcasecmp(encoding, "identity") != 0) {
        return kvs_problem_set(&exchange->problem, KVS_MEDIA_TYPE, "bodies are not decompressed");
    }
    switch (exchange->match.route->body) {
    case KVS_BODY_NONE:
        if (bytes != 0) {
            return kvs_problem_set(&exchange->problem, KVS_INVALID_FRAME,
                                   "the route takes no body");
        }
        return KVS_OK;
    case KVS_BODY_JSON:
    case KVS_BODY_OPTIMIZER:
    case KVS_BODY_FIELD:
        return check_json_body(exchange, type, bytes);
    case KVS_BODY_VALUE:
        return kvs_exchange_open_upload(exchange, type, header(context, "If-Match"),
                                        header(context, "If-None-Match"), bytes);
    case KVS_BODY_STATES:
        return kvs_exchange_open_load(exchange, type);
    case KVS_BODY_UNREAD:
        break;
    }
    /* Asking the operation at once spares everybody the body. */
    json_t *none = NULL;
    kvs_status status =
        kvs_admin_call(exchange->world->admin, &exchange->caller, exchange->match.route->operation,
                       exchange->request, &none, &exchange->problem);
    json_decref(none);
    return status;
}

static void copy_header(char out[KVS_HEADER_VALUE_BYTES], const char *value)
{
    if (value != NULL && strlen(value) < KVS_HEADER_VALUE_BYTES) {
        memcpy(out, value, strlen(value) + 1);
    }
}

static kvs_status begin(kvs_exchange *exchange, const char *method, kvs_header_function *header,
                        void *context)
{
    char allow[KVS_ALLOW_BYTES] = "";
    const char *expect = header(context, "Expect");
    kvs_problem *problem = &exchange->problem;
    exchange->announced_bytes = announced(header, context);
    exchange->waits_to_send = expect != NULL && strcasecmp(expect, "100-continue") == 0;
    take_request_id(exchange, header(context, "X-Request-Id"));
    KVS_TRY(check_host(exchange, exchange->authority[0] != '\0' ? exchange->authority
                                                                : header(context, "Host")));
    if (strcmp(method, "OPTIONS") == 0 && strcmp(exchange->target, "*") == 0) {
        exchange->reply.status = 204; /* of the server as a whole there is nothing to say */
        return KVS_OK;
    }
    kvs_status status = kvs_route_find(method, exchange->target, &exchange->match, allow, problem);
    if (allow[0] != '\0' && (status != KVS_OK || strcmp(method, "OPTIONS") == 0)) {
        kvs_reply_add(&exchange->reply, "Allow", allow);
    }
    if (strcmp(method, "OPTIONS") == 0 && status == KVS_METHOD_NOT_ALLOWED) {
        exchange->reply.status = 204;
        return KVS_OK;
    }
    KVS_TRY(status);
    KVS_TRY(make_request(exchange));
    KVS_TRY(check_accept(exchange, header(context, "Accept")));
    if (exchange->match.route->body == KVS_BODY_OPTIMIZER && header(context, "If-Match") != NULL) {
        KVS_TRY(add_text(exchange, "if_match", header(context, "If-Match")));
    }
    copy_header(exchange->if_none_match, header(context, "If-None-Match"));
    copy_header(exchange->range, header(context, "Range"));
    copy_header(exchange->if_range, header(context, "If-Range"));
    return check_body(exchange, header, context);
}

void kvs_exchange_begin(kvs_exchange *exchange, const char *method, kvs_header_function *header,
                        void *context)
{
    exchange->begun = true;
    exchange->refused = begin(exchange, method, header, context) != KVS_OK;
}

/* ------------------------------------------------------------------ body */

bool kvs_exchange_takes_file(const kvs_exchange *exchange)
{
    const kvs_route *route = exchange->match.route;
    return route != NULL && (route->body == KVS_BODY_VALUE || route->body == KVS_BODY_STATES);
}

static kvs_status grow_body(kvs_exchange *exchange, const char *data, size_t bytes)
{
    if (bytes > KVS_REST_JSON_BYTES_MAX - exchange->body_bytes) {
        return kvs_problem_set(&exchange->problem, KVS_TOO_LARGE,
                               "the limit is %" PRIu64 " bytes of JSON", KVS_REST_JSON_BYTES_MAX);
    }
    if (exchange->body_bytes + bytes > exchange->body_room) {
        size_t room = (exchange->body_bytes + bytes) * 2;
        char *body = realloc(exchange->body, room);
        if (body == NULL) {
            return kvs_problem_set(&exchange->problem, KVS_NO_MEMORY, "no memory for the body");
        }
        exchange->body = body;
        exchange->body_room = room;
    }
    memcpy(exchange->body + exchange->body_bytes, data, bytes);
    exchange->body_bytes += bytes;
    return KVS_OK;
}

void kvs_exchange_body(kvs_exchange *exchange, const char *data, size_t bytes)
{
    if (exchange->refused || bytes == 0 || exchange->reply.status != 0) {
        return;
    }
    kvs_status status;
    if (exchange->upload != NULL) {
        status = kvs_admin_upload_append(exchange->upload, data, bytes, &exchange->problem);
    } else if (exchange->load != NULL) {
        status = kvs_admin_load_append(exchange->load, data, bytes, &exchange->problem);
    } else {
        status = grow_body(exchange, data, bytes);
    }
    exchange->refused = status != KVS_OK;
    if (exchange->refused) {
        kvs_admin_upload_close(exchange->upload); /* nothing is kept while the rest comes */
        exchange->upload = NULL;
    }
}
