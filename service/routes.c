#include "service/routes.h"

#include "service/target.h"

#include <stdio.h>
#include <string.h>

/* A route of a store, and its short form for the store "default". */
#define STORE "/v1/stores/{store}/"
#define BOTH(method, path, ...)                                                                    \
    {method, STORE path, __VA_ARGS__},                                                             \
    {                                                                                              \
        method, "/v1/" path, __VA_ARGS__                                                           \
    }

static const kvs_route routes[] = {
    {"GET", "/", "Index", KVS_BODY_NONE, KVS_REPLY_INDEX, 200, {NULL}},
    {"GET", "/livez", "Livez", KVS_BODY_NONE, KVS_REPLY_LIVEZ, 200, {"verbose"}},
    {"GET", "/readyz", "Readyz", KVS_BODY_NONE, KVS_REPLY_READYZ, 200, {"verbose"}},
    {"GET", "/metrics", "Metrics", KVS_BODY_NONE, KVS_REPLY_METRICS, 200, {NULL}},
    {"GET", "/openapi.yaml", "OpenApi", KVS_BODY_NONE, KVS_REPLY_OPENAPI, 200, {NULL}},
    {"GET", "/version", "GetVersion", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}},

    {"GET",
     "/v1/stores",
     "ListStores",
     KVS_BODY_NONE,
     KVS_REPLY_JSON,
     200,
     {"page_size", "page_token"}},
    {"POST", "/v1/stores", "CreateStore", KVS_BODY_JSON, KVS_REPLY_JSON, 201, {NULL}},
    {"GET", "/v1/stores/{store}", "GetStore", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}},
    {"DELETE", "/v1/stores/{store}", "DeleteStore", KVS_BODY_NONE, KVS_REPLY_NONE, 204, {NULL}},

    BOTH("GET", "type", "GetType", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}),
    BOTH("GET", "num_workers", "GetNumWorkers", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}),
    BOTH("GET", "rank", "GetRank", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {"worker"}),
    BOTH("GET", "workers", "ListWorkers", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}),
    BOTH("GET", "rounds", "ListRounds", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}),

    BOTH("GET", "keys", "ListKeys", KVS_BODY_NONE, KVS_REPLY_JSON, 200,
         {"prefix", "page_size", "page_token"}),
    BOTH("GET", "keys/{key}", "GetKey", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}),
    BOTH("GET", "keys/{key}/value", "GetValue", KVS_BODY_NONE, KVS_REPLY_VALUE, 200, {"format"}),
    BOTH("PUT", "keys/{key}/value", "PutValue", KVS_BODY_VALUE, KVS_REPLY_KEY, 200,
         {"format", "dtype", "shape"}),

    BOTH("GET", "optimizer", "GetOptimizer", KVS_BODY_NONE, KVS_REPLY_OPTIMIZER, 200, {NULL}),
    BOTH("PUT", "optimizer", "SetOptimizer", KVS_BODY_OPTIMIZER, KVS_REPLY_OPTIMIZER, 200, {NULL}),
    BOTH("GET", "optimizer/states", "SaveOptimizerStates", KVS_BODY_NONE, KVS_REPLY_STATES, 200,
         {"dump_optimizer", "weights"}),
    BOTH("PUT", "optimizer/states", "LoadOptimizerStates", KVS_BODY_STATES, KVS_REPLY_JSON, 200,
         {NULL}),

    {"GET", STORE "compression", "GetCompression", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}},
    {"PUT", STORE "compression", "SetCompression", KVS_BODY_FIELD, KVS_REPLY_JSON, 200, {NULL}},
    {"GET", STORE "barriers", "ListBarriers", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}},
    {"POST", STORE "barriers", "EnterBarrier", KVS_BODY_JSON, KVS_REPLY_JSON, 200, {NULL}},
    {"POST", STORE "commands", "SendCommand", KVS_BODY_JSON, KVS_REPLY_NONE, 204, {NULL}},
    {"GET", STORE "checkpoints", "ListCheckpoints", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}},
    {"POST", STORE "checkpoints", "CreateCheckpoint", KVS_BODY_UNREAD, KVS_REPLY_JSON, 201, {NULL}},
    {"GET", STORE "statistics", "GetStatistics", KVS_BODY_NONE, KVS_REPLY_JSON, 200, {NULL}},
};

#define ROUTES (sizeof routes / sizeof routes[0])

const kvs_route *kvs_routes(size_t *count)
{
    *count = ROUTES;
    return routes;
}

/* Decodes one segment of a path into the parameter that the template names there. False: it does
 * not fit, so the path names nothing. */
static bool fill(kvs_route_match *match, const char *name, size_t name_bytes, const char *segment,
                 size_t bytes)
{
    bool store = name_bytes == strlen("{store}") && memcmp(name, "{store}", name_bytes) == 0;
    char *out = store ? match->store : match->key;
    size_t room = store ? sizeof match->store : sizeof match->key;
    return bytes > 0 && kvs_target_decode(segment, bytes, false, out, room);
}

/* Does a path of `bytes` fit the template? Fills the parameters. */
static bool fits(const char *template, const char *path, size_t bytes, kvs_route_match *match)
{
    const char *end = path + bytes;
    match->store[0] = '\0';
    match->key[0] = '\0';
    while (*template == '/' && path < end && *path == '/') {
        size_t name = strcspn(template + 1, "/");
        const char *slash = memchr(path + 1, '/', (size_t)(end - path - 1));
        size_t segment = (size_t)((slash != NULL ? slash : end) - path - 1);
        if (template[1] == '{') {
            if (!fill(match, template + 1, name, path + 1, segment)) {
                return false;
            }
        } else if (name != segment || memcmp(template + 1, path + 1, name) != 0) {
            return false;
        }
        template += 1 + name;
        path += 1 + segment;
    }
    return *template == '\0' && path == end;
}

static bool well_formed(const char *path, size_t bytes)
{
    char piece[KVS_TARGET_PIECE_BYTES * 4];
    if (bytes == 0 || path[0] != '/') {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)path[i] <= ' ' || path[i] == 0x7f) {
            return false;
        }
    }
    /* Longer ones fit no template; they are then not found rather than broken. */
    return bytes >= sizeof piece || kvs_target_decode(path, bytes, false, piece, sizeof piece);
}

kvs_status kvs_route_find(const char *method, const char *target, kvs_route_match *out,
                          char allow[KVS_ALLOW_BYTES], kvs_problem *problem)
{
    size_t bytes = strcspn(target, "?");
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    size_t used = 0;
    bool found = false;
    kvs_route_match match;
    allow[0] = '\0';
    if (!well_formed(target, bytes)) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME, "the path cannot be read");
    }
    for (size_t i = 0; i < ROUTES; i++) {
        if (!fits(routes[i].path, target, bytes, &match)) {
            continue;
        }
        bool get = strcmp(routes[i].method, "GET") == 0;
        used += (size_t)snprintf(allow + used, KVS_ALLOW_BYTES - used, "%s%s%s",
                                 used > 0 ? ", " : "", routes[i].method, get ? ", HEAD" : "");
        if (strcmp(routes[i].method, wanted) == 0) {
            found = true;
            *out = match;
            out->route = &routes[i];
            out->query = target[bytes] == '?' ? target + bytes + 1 : NULL;
        }
    }
    if (used == 0) {
        return kvs_problem_set(problem, KVS_ROUTE_NOT_FOUND, "%.100s is not a route", target);
    }
    (void)snprintf(allow + used, KVS_ALLOW_BYTES - used, ", OPTIONS");
    if (!found) {
        return kvs_problem_set(problem, KVS_METHOD_NOT_ALLOWED, "the path has %s", allow);
    }
    return KVS_OK;
}
