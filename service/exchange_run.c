#include "service/exchange_run.h"

#include "service/accept.h"
#include "service/pages.h"
#include "service/problem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ replies */

static kvs_status no_memory(kvs_exchange *exchange)
{
    return kvs_problem_set(&exchange->problem, KVS_NO_MEMORY, "no memory for the reply");
}

static kvs_status reply_text(kvs_exchange *exchange, int status, const char *media_type, char *text,
                             size_t bytes)
{
    if (text == NULL) {
        return no_memory(exchange);
    }
    exchange->reply.status = status;
    exchange->reply.text = text;
    exchange->reply.text_bytes = bytes;
    kvs_reply_add(&exchange->reply, "Content-Type", media_type);
    return KVS_OK;
}

/* Takes `json`. One line, so that curl's output ends well. */
static kvs_status reply_json(kvs_exchange *exchange, int status, const char *media_type,
                             json_t *json)
{
    size_t bytes = json != NULL ? json_dumpb(json, NULL, 0, JSON_COMPACT) : 0;
    char *text = bytes > 0 ? malloc(bytes + 1) : NULL;
    if (text != NULL) {
        (void)json_dumpb(json, text, bytes, JSON_COMPACT);
        text[bytes] = '\n';
    }
    json_decref(json);
    return reply_text(exchange, status, media_type, text, bytes + 1);
}

static void reply_problem(kvs_exchange *exchange)
{
    const kvs_status_row *row = kvs_status_find(exchange->problem.status);
    char path[512];
    (void)snprintf(path, sizeof path, "%.*s", (int)(strcspn(exchange->target, "?") & 0xffff),
                   exchange->target);
    json_t *json = kvs_problem_json(&exchange->problem, path, exchange->request_id);
    json_t *misfits = exchange->load != NULL ? kvs_admin_load_misfits(exchange->load) : NULL;
    if (json != NULL && misfits != NULL) {
        (void)json_object_set(json, "errors", misfits); /* without memory only the detail tells */
    }
    json_decref(misfits);
    if (row->http_status == 429 || row->http_status == 503) {
        kvs_reply_add(&exchange->reply, "Retry-After", "1");
    }
    if (reply_json(exchange, row->http_status, KVS_PROBLEM_MEDIA_TYPE, json) != KVS_OK) {
        exchange->reply.status = 507; /* without a body: there is no memory for one */
    }
}

/* ------------------------------------------------------------------ operations in JSON */

/* Adds the body's fields to the request. The path's parameters are not the body's to give. */
static kvs_status merge_body(kvs_exchange *exchange)
{
    json_t *body = NULL;
    const char *name;
    json_t *value;
    KVS_TRY(kvs_json_parse(exchange->body, exchange->body_bytes, KVS_REST_JSON_BYTES_MAX, &body,
                           &exchange->problem));
    kvs_status status = KVS_OK;
    if (!json_is_object(body)) {
        status = kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                                 "the document must be an object");
    }
    json_object_foreach (body, name, value) {
        if (strcmp(name, "store") == 0) {
            status = kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                                     "/store is named by the path");
        } else if (json_object_set(exchange->request, name, value) != 0) {
            status = no_memory(exchange);
        }
    }
    json_decref(body);
    return status;
}

/* The body, whatever JSON it is, as the text that optimizer.json holds. */
static kvs_status merge_optimizer(kvs_exchange *exchange)
{
    json_t *body = NULL;
    KVS_TRY(kvs_json_parse(exchange->body, exchange->body_bytes, KVS_REST_JSON_BYTES_MAX, &body,
                           &exchange->problem));
    json_decref(body);
    json_t *optimizer = json_object();
    size_t blank = 0;
    while (blank < exchange->body_bytes && strchr(" \t\r\n", exchange->body[blank]) != NULL) {
        blank++;
    }
    size_t bytes = exchange->body_bytes;
    while (bytes > blank && strchr(" \t\r\n", exchange->body[bytes - 1]) != NULL) {
        bytes--;
    }
    json_t *text = json_stringn(exchange->body + blank, bytes - blank);
    if (optimizer == NULL || json_object_set_new(optimizer, "json", text) != 0) {
        json_decref(optimizer);
        return no_memory(exchange);
    }
    return json_object_set_new(exchange->request, "optimizer", optimizer) == 0
               ? KVS_OK
               : no_memory(exchange);
}

/* The body is one field of the request: what the path ends in. */
static kvs_status merge_field(kvs_exchange *exchange)
{
    json_t *body = NULL;
    KVS_TRY(kvs_json_parse(exchange->body, exchange->body_bytes, KVS_REST_JSON_BYTES_MAX, &body,
                           &exchange->problem));
    const char *name = strrchr(exchange->match.route->path, '/') + 1;
    return json_object_set_new(exchange->request, name, body) == 0 ? KVS_OK : no_memory(exchange);
}

/* A reply {"json": text} becomes the text itself; without an optimizer it is null. */
static kvs_status reply_optimizer(kvs_exchange *exchange, json_t *reply)
{
    char etag[KVS_ETAG_BYTES];
    const char *json = json_string_value(json_object_get(reply, "json"));
    bool none = json == NULL || json[0] == '\0';
    bool read = strcmp(exchange->match.route->method, "GET") == 0;
    kvs_optimizer_etag(json, etag);
    kvs_reply_add(&exchange->reply, "ETag", etag);
    if (read && kvs_etag_list_holds(exchange->if_none_match, etag)) {
        exchange->reply.status = 304;
        json_decref(reply);
        return KVS_OK;
    }
    char *text = NULL;
    int bytes = asprintf(&text, "%s\n", none ? "null" : json);
    json_decref(reply);
    return reply_text(exchange, 200, "application/json", bytes < 0 ? NULL : text, (size_t)bytes);
}

static kvs_status reply_created(kvs_exchange *exchange, json_t *reply)
{
    char location[KVS_HEADER_VALUE_BYTES];
    const char *name = json_string_value(json_object_get(reply, "name"));
    if (name != NULL) {
        (void)snprintf(location, sizeof location, "/v1/stores/%s", name);
        kvs_reply_add(&exchange->reply, "Location", location);
    }
    return reply_json(exchange, 201, "application/json", reply);
}

static kvs_status run_operation(kvs_exchange *exchange)
{
    const kvs_route *route = exchange->match.route;
    json_t *reply = NULL;
    if (route->body == KVS_BODY_STATES) {
        KVS_TRY(kvs_admin_load_finish(exchange->load, &reply, &exchange->problem));
        return reply_json(exchange, route->status, "application/json", reply);
    }
    if (route->body == KVS_BODY_JSON) {
        KVS_TRY(merge_body(exchange));
    } else if (route->body == KVS_BODY_FIELD) {
        KVS_TRY(merge_field(exchange));
    } else if (route->body == KVS_BODY_OPTIMIZER) {
        KVS_TRY(merge_optimizer(exchange));
    }
    KVS_TRY(kvs_admin_call(exchange->world->admin, &exchange->caller, route->operation,
                           exchange->request, &reply, &exchange->problem));
    if (route->reply == KVS_REPLY_OPTIMIZER) {
        return reply_optimizer(exchange, reply);
    }
    if (route->reply == KVS_REPLY_NONE) {
        exchange->reply.status = route->status;
        json_decref(reply);
        return KVS_OK;
    }
    if (route->status == 201) {
        return reply_created(exchange, reply);
    }
    return reply_json(exchange, route->status, "application/json", reply);
}

/* ------------------------------------------------------------------ values */

/* "2,3"; "" is a scalar. */
static bool parse_shape(const char *text, kvs_shape *out)
{
    out->rank = 0;
    if (text[0] == '\0') {
        return true;
    }
    for (;;) {
        char *end;
        if (out->rank == KVS_DIMENSIONS_MAX || text[0] < '0' || text[0] > '9' ||
            strspn(text, "0123456789") > 15) {
            return false;
        }
        out->size[out->rank++] = strtoull(text, &end, 10);
        if (*end == '\0') {
            return true;
        }
        if (*end != ',') {
            return false;
        }
        text = end + 1;
    }
}

static kvs_status read_put(kvs_exchange *exchange, kvs_admin_put *put)
{
    const json_t *request = exchange->request;
    const char *dtype = json_string_value(json_object_get(request, "dtype"));
    const char *shape = json_string_value(json_object_get(request, "shape"));
    put->store = exchange->match.store;
    put->key = exchange->match.key;
    put->format = exchange->format;
    if (dtype != NULL) {
        put->dtype = kvs_dtype_parse(dtype);
        if (put->dtype == KVS_DTYPE_NONE) {
            return kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                                   "dtype is one of f32 f64 f16 bf16 u8 i8 i32 i64");
        }
    }
    if (shape != NULL) {
        put->has_shape = true;
        if (!parse_shape(shape, &put->shape)) {
            return kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                                   "shape is up to %u sizes with commas between, as 2,3",
                                   KVS_DIMENSIONS_MAX);
        }
    }
    return KVS_OK;
}

/* The format that a Content-Type says; NULL says nothing (curl -T sends none). */
static kvs_status take_content_type(kvs_exchange *exchange, const char *type)
{
    kvs_value_format said = KVS_VALUE_DEFAULT;
    if (type == NULL) {
        return KVS_OK;
    }
    if (kvs_media_type_is(type, kvs_value_format_media_type(KVS_VALUE_NPY))) {
        said = KVS_VALUE_NPY;
    } else if (kvs_media_type_is(type, kvs_value_format_media_type(KVS_VALUE_SAFETENSORS))) {
        said = KVS_VALUE_SAFETENSORS;
    } else if (!kvs_media_type_is(type, kvs_value_format_media_type(KVS_VALUE_RAW))) {
        return kvs_problem_set(&exchange->problem, KVS_MEDIA_TYPE,
                               "a value is application/x-npy, application/vnd.safetensors or "
                               "application/octet-stream (curl -T FILE sends it well)");
    }
    if (exchange->format == KVS_VALUE_DEFAULT) {
        exchange->format = said;
    }
    return KVS_OK;
}

kvs_status kvs_exchange_open_upload(kvs_exchange *exchange, const char *content_type,
                                    const char *if_match, const char *if_none_match,
                                    uint64_t bytes_expected)
{
    kvs_admin_put put = {.if_match = if_match};
    KVS_TRY(take_content_type(exchange, content_type));
    KVS_TRY(read_put(exchange, &put));
    if (if_none_match != NULL && strcmp(if_none_match, "*") != 0) {
        return kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD,
                               "PUT knows If-None-Match only as *: create, do not replace");
    }
    put.create_only = if_none_match != NULL;
    return kvs_admin_upload_open(exchange->world->admin, &put, bytes_expected, &exchange->upload,
                                 &exchange->problem);
}

kvs_status kvs_exchange_open_load(kvs_exchange *exchange, const char *content_type)
{
    if (content_type != NULL && !kvs_media_type_is(content_type, KVS_STATES_MEDIA_TYPE) &&
        !kvs_media_type_is(content_type, "application/octet-stream")) {
        return kvs_problem_set(&exchange->problem, KVS_MEDIA_TYPE,
                               "states are " KVS_STATES_MEDIA_TYPE " (curl -T FILE sends it well)");
    }
    return kvs_admin_load_open(exchange->world->admin, exchange->match.store, &exchange->load,
                               &exchange->problem);
}

static kvs_status run_put(kvs_exchange *exchange)
{
    char etag[KVS_ETAG_BYTES];
    bool created = false;
    json_t *reply = NULL;
    KVS_TRY(kvs_admin_upload_finish(exchange->upload, &reply, &created, &exchange->problem));
    const json_t *version = json_object_get(reply, "version");
    (void)snprintf(etag, sizeof etag, "\"%s-%s\"",
                   json_string_value(json_object_get(version, "epoch")),
                   json_string_value(json_object_get(version, "count")));
    kvs_reply_add(&exchange->reply, "ETag", etag);
    if (created) {
        kvs_reply_add(&exchange->reply, "Location", exchange->target);
    }
    return reply_json(exchange, created ? 201 : 200, "application/json", reply);
}

/* Which bytes of the value go out, and under which status. */
static kvs_status choose_range(kvs_exchange *exchange, const char *etag, uint64_t total)
{
    kvs_http_reply *reply = &exchange->reply;
    char text[KVS_HEADER_VALUE_BYTES];
    kvs_range range = KVS_RANGE_WHOLE;
    reply->status = 200;
    reply->value_first = 0;
    reply->value_bytes = total;
    if (exchange->range[0] != '\0' &&
        (exchange->if_range[0] == '\0' || strcmp(exchange->if_range, etag) == 0)) {
        range = kvs_range_parse(exchange->range, total, &reply->value_first, &reply->value_bytes);
    }
    if (range == KVS_RANGE_NONE) {
        (void)snprintf(text, sizeof text, "bytes */%" PRIu64, total);
        kvs_reply_add(reply, "Content-Range", text);
        return kvs_problem_set(&exchange->problem, KVS_RANGE, "the value has %" PRIu64 " bytes",
                               total);
    }
    if (range == KVS_RANGE_PART) {
        reply->status = 206;
        (void)snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64,
                       reply->value_first, reply->value_first + reply->value_bytes - 1, total);
        kvs_reply_add(reply, "Content-Range", text);
    } else {
        reply->value_first = 0;
        reply->value_bytes = total;
    }
    return KVS_OK;
}

static void print_shape(const kvs_shape *shape, char *out, size_t out_bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < shape->rank && used < out_bytes; i++) {
        used += (size_t)snprintf(out + used, out_bytes - used, "%s%" PRIu64, i > 0 ? "," : "",
                                 shape->size[i]);
    }
}

/* "true" and "false"; a name without a value is true. */
static kvs_status read_flag(kvs_exchange *exchange, const char *name, bool *out)
{
    const char *text = json_string_value(json_object_get(exchange->request, name));
    if (text != NULL && text[0] != '\0' && strcmp(text, "true") != 0 &&
        strcmp(text, "false") != 0) {
        return kvs_problem_set(&exchange->problem, KVS_INVALID_FIELD, "%s is true or false", name);
    }
    *out = text != NULL && strcmp(text, "false") != 0;
    return KVS_OK;
}

static kvs_status open_value(kvs_exchange *exchange, kvs_admin_value **out)
{
    kvs_admin *admin = exchange->world->admin;
    bool dump_optimizer = false;
    bool weights = false;
    if (exchange->match.route->reply == KVS_REPLY_VALUE) {
        return kvs_admin_get_value(admin, exchange->match.store, exchange->match.key,
                                   exchange->format, out, &exchange->problem);
    }
    KVS_TRY(read_flag(exchange, "dump_optimizer", &dump_optimizer));
    KVS_TRY(read_flag(exchange, "weights", &weights));
    return kvs_admin_get_states(admin, exchange->match.store, dump_optimizer, weights, out,
                                &exchange->problem);
}

static kvs_status run_value(kvs_exchange *exchange)
{
    kvs_http_reply *reply = &exchange->reply;
    kvs_admin_value *value = NULL;
    char shape[KVS_HEADER_VALUE_BYTES];
    KVS_TRY(open_value(exchange, &value));
    const kvs_admin_value_info *info = kvs_admin_value_describe(value);
    const char *etag = info->etag;
    kvs_reply_add(reply, "ETag", etag);
    kvs_reply_add(reply, "Vary", "Accept");
    if (kvs_etag_list_holds(exchange->if_none_match, etag)) {
        reply->status = 304;
        kvs_admin_value_close(value);
        return KVS_OK;
    }
    kvs_status status = choose_range(exchange, etag, info->total_bytes);
    if (status != KVS_OK) {
        kvs_admin_value_close(value);
        return status;
    }
    reply->value = value;
    kvs_reply_add(reply, "Accept-Ranges", "bytes");
    kvs_reply_add(reply, "Content-Type", info->content_type);
    if (info->dtype != KVS_DTYPE_NONE) {
        print_shape(&info->shape, shape, sizeof shape);
        kvs_reply_add(reply, "Kv-Dtype", kvs_dtype_name(info->dtype));
        kvs_reply_add(reply, "Kv-Shape", shape);
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ pages */

static kvs_status run_page(kvs_exchange *exchange)
{
    const kvs_rest_world *world = exchange->world;
    size_t bytes = 0;
    bool good = true;
    char *text = NULL;
    switch (exchange->match.route->reply) {
    case KVS_REPLY_LIVEZ:
        text = kvs_page_livez(exchange->verbose, &bytes);
        return reply_text(exchange, 200, "text/plain; charset=utf-8", text, bytes);
    case KVS_REPLY_READYZ:
        text = kvs_page_readyz(world, exchange->verbose, &good, &bytes);
        return reply_text(exchange, good ? 200 : 503, "text/plain; charset=utf-8", text, bytes);
    case KVS_REPLY_METRICS:
        text = kvs_page_metrics(world, &bytes);
        return reply_text(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", text, bytes);
    case KVS_REPLY_OPENAPI:
        text = kvs_page_openapi(&bytes);
        return reply_text(exchange, 200, "application/yaml", text, bytes);
    default:
        text = kvs_page_index(world, &bytes);
        return reply_text(exchange, 200, "text/plain; charset=utf-8", text, bytes);
    }
}

void kvs_exchange_run(kvs_exchange *exchange)
{
    kvs_status status = exchange->refused ? exchange->problem.status : KVS_OK;
    if (status == KVS_OK && exchange->reply.status == 0) {
        switch (exchange->match.route->reply) {
        case KVS_REPLY_JSON:
        case KVS_REPLY_OPTIMIZER:
        case KVS_REPLY_NONE:
            status = run_operation(exchange);
            break;
        case KVS_REPLY_VALUE:
        case KVS_REPLY_STATES:
            status = run_value(exchange);
            break;
        case KVS_REPLY_KEY:
            status = run_put(exchange);
            break;
        default:
            status = run_page(exchange);
            break;
        }
    }
    if (status != KVS_OK) {
        reply_problem(exchange);
    }
}
