/* Every route of the REST plane, in one table: which operation of the admin plane it is, and how
 * path, query and body become its request. openapi.yaml says the same to people; a test compares.
 *
 * Threads: any; the table is constant.
 */
#ifndef KVS_SERVICE_ROUTES_H
#define KVS_SERVICE_ROUTES_H

#include "base/limits.h"
#include "base/status.h"

#include <stddef.h>

/* What a request may carry. */
typedef enum kvs_route_body {
    KVS_BODY_NONE,
    KVS_BODY_JSON,      /* an object whose fields are the request's */
    KVS_BODY_OPTIMIZER, /* an object, or null, that becomes optimizer.json */
    KVS_BODY_FIELD,     /* an object that becomes the request's field of the path's last name */
    KVS_BODY_VALUE,     /* npy or raw */
    KVS_BODY_STATES,    /* safetensors */
    KVS_BODY_UNREAD     /* refused whatever it is */
} kvs_route_body;

typedef enum kvs_route_reply {
    KVS_REPLY_JSON,
    KVS_REPLY_OPTIMIZER, /* its field "json" as the body itself, with an ETag */
    KVS_REPLY_NONE,      /* 204 */
    KVS_REPLY_VALUE,     /* npy or raw, with ETag and ranges */
    KVS_REPLY_STATES,    /* safetensors, in the same way */
    KVS_REPLY_KEY,       /* of a value that was written: 200 or 201 */
    KVS_REPLY_LIVEZ,     /* here and below: a page of the server itself */
    KVS_REPLY_READYZ,
    KVS_REPLY_METRICS,
    KVS_REPLY_OPENAPI,
    KVS_REPLY_INDEX
} kvs_route_reply;

#define KVS_ROUTE_QUERIES_MAX 4u

typedef struct kvs_route {
    const char *method;
    const char *path;      /* "/v1/stores/{store}/keys/{key}" */
    const char *operation; /* of the gRPC service Admin, or a page's name */
    kvs_route_body body;
    kvs_route_reply reply;
    int status;                                 /* of a success */
    const char *queries[KVS_ROUTE_QUERIES_MAX]; /* names, each a field of the request */
} kvs_route;

const kvs_route *kvs_routes(size_t *count);

/* A target that matched: its parameters decoded. */
typedef struct kvs_route_match {
    const kvs_route *route;
    char store[KVS_NAME_BYTES_MAX + 1]; /* "" in the short forms */
    char key[KVS_KEY_BYTES_MAX + 1];
    const char *query; /* behind the '?', borrowed from the target; NULL: none */
} kvs_route_match;

/* Room for the value of an Allow header. */
#define KVS_ALLOW_BYTES 64u

/* Finds the route of a method (HEAD finds GET's) and a raw target. Errors: KVS_INVALID_FRAME for a
 * broken target, KVS_ROUTE_NOT_FOUND, KVS_METHOD_NOT_ALLOWED; `allow` then names the methods that
 * the path has ("" where it has none). */
kvs_status kvs_route_find(const char *method, const char *target, kvs_route_match *out,
                          char allow[KVS_ALLOW_BYTES], kvs_problem *problem) KVS_MUST_CHECK;

#endif
