/* Commands: MXNet's heads as the operations that they stand for, the others to whoever watches.
 *
 * In MXNet a server runs what head 0 brings, a serialised object of the workers' language. Here no
 * head brings anything that runs: an optimizer is JSON, and everything else is refused.
 */
#include "service/admin_methods.h"

#include "base/log.h"
#include "service/profiler.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Somebody else sets the optimizer at the same time: so often it is read again. */
#define MATCHES_MAX 8

/* The heads that MXNet's servers act on. */
typedef enum head {
    HEAD_OPTIMIZER = 0,
    HEAD_MULTI_PRECISION = 1,
    HEAD_STOP = 2,
    HEAD_SYNC_MODE = 3,
    HEAD_COMPRESSION = 4,
    HEAD_PROFILER = 5,
    HEADS
} head;

typedef kvs_status command_function(kvs_admin_request *request, kvs_store *store,
                                    const kvs_store_info *info, const char *body);

/* Calls another operation with a request, which is taken, and drops its reply. */
static kvs_status call(kvs_admin_request *request, const char *method, json_t *inner)
{
    json_t *reply = NULL;
    if (inner == NULL) {
        return kvs_problem_set(request->problem, KVS_INVALID_FIELD, "/body cannot be read");
    }
    kvs_status status =
        kvs_admin_call(request->admin, NULL, method, inner, &reply, request->problem);
    json_decref(inner);
    json_decref(reply);
    return status;
}

static kvs_status set_optimizer(kvs_admin_request *request, kvs_store *store,
                                const kvs_store_info *info, const char *body)
{
    (void)store;
    const char *text = body + strspn(body, " \t\r\n");
    if (text[0] != '{') {
        return kvs_problem_set(request->problem, KVS_INVALID_FIELD,
                               "/body is no JSON: a serialised optimizer is never run here; send "
                               "{\"name\": \"sgd\", ...}, or call set_optimizer");
    }
    return call(request, "SetOptimizer",
                json_pack("{s:s, s:{s:s}}", "store", info->name, "optimizer", "json", text));
}

/* Reads the optimizer, adds the flag and sets it, if nobody has set another one meanwhile. */
static kvs_status try_multi_precision(kvs_admin_request *request, kvs_store *store,
                                      const kvs_store_info *info)
{
    kvs_optimizer *optimizer = kvs_store_optimizer(store);
    if (optimizer == NULL) {
        return kvs_problem_set(request->problem, KVS_OPTIMIZER_NOT_SET,
                               "multi_precision is a field of the optimizer");
    }
    json_t *tree = NULL;
    char etag[KVS_ETAG_BYTES];
    const char *json = kvs_optimizer_json(optimizer);
    kvs_optimizer_etag(json, etag);
    kvs_status status = kvs_json_parse(json, strlen(json), KVS_MIB, &tree, request->problem);
    kvs_optimizer_unref(optimizer);
    KVS_TRY(status);
    (void)json_object_set_new(tree, "multi_precision", json_true());
    char *text = json_dumps(tree, JSON_COMPACT);
    json_decref(tree);
    if (text == NULL) {
        return kvs_problem_set(request->problem, KVS_NO_MEMORY, "no memory for the optimizer");
    }
    status = call(request, "SetOptimizer",
                  json_pack("{s:s, s:s, s:{s:s}}", "store", info->name, "if_match", etag,
                            "optimizer", "json", text));
    free(text);
    return status;
}

/* MXNet's flag is a field of the optimizer here. */
static kvs_status set_multi_precision(kvs_admin_request *request, kvs_store *store,
                                      const kvs_store_info *info, const char *body)
{
    kvs_status status = KVS_ETAG_MISMATCH;
    (void)body;
    for (int i = 0; i < MATCHES_MAX && status == KVS_ETAG_MISMATCH; i++) {
        status = try_multi_precision(request, store, info);
    }
    return status;
}

/* Any worker could end the server of all others. */
static kvs_status refuse_stop(kvs_admin_request *request, kvs_store *store,
                              const kvs_store_info *info, const char *body)
{
    (void)store;
    (void)info;
    (void)body;
    return kvs_problem_set(request->problem, KVS_INVALID_FIELD,
                           "/head 2 stops a server in MXNet; here SIGTERM does, and DELETE "
                           "/v1/stores/{store} ends one store");
}

static kvs_status set_sync_mode(kvs_admin_request *request, kvs_store *store,
                                const kvs_store_info *info, const char *body)
{
    (void)store;
    (void)body;
    if (info->kind == KVS_ASYNC) {
        return kvs_problem_set(request->problem, KVS_STORE_TYPE_MISMATCH,
                               "\"%s\" is %s, and a store's type does not change", info->name,
                               info->type);
    }
    return KVS_OK;
}

/* "2bit,0.5" */
static kvs_status set_compression(kvs_admin_request *request, kvs_store *store,
                                  const kvs_store_info *info, const char *body)
{
    (void)store;
    size_t type_bytes = strcspn(body, ",");
    json_t *inner =
        json_pack("{s:s, s:{s:s%}}", "store", info->name, "compression", "type", body, type_bytes);
    if (body[type_bytes] == ',') {
        char *end = NULL;
        json_t *threshold = json_real(strtod(body + type_bytes + 1, &end)); /* NULL: nan, inf */
        if (end == body + type_bytes + 1 || *end != '\0' || threshold == NULL) {
            json_decref(threshold);
            json_decref(inner);
            return kvs_problem_set(request->problem, KVS_INVALID_FIELD,
                                   "/body is TYPE or TYPE,THRESHOLD, as 2bit,0.5");
        }
        (void)json_object_set_new(json_object_get(inner, "compression"), "threshold", threshold);
    }
    return call(request, "SetCompression", inner);
}

static kvs_status set_profiler(kvs_admin_request *request, kvs_store *store,
                               const kvs_store_info *info, const char *body)
{
    (void)store;
    (void)info;
    return kvs_profiler_command(request->admin->options.profiler, body, request->problem);
}

static command_function *const functions[HEADS] = {
    [HEAD_OPTIMIZER] = set_optimizer,
    [HEAD_MULTI_PRECISION] = set_multi_precision,
    [HEAD_STOP] = refuse_stop,
    [HEAD_SYNC_MODE] = set_sync_mode,
    [HEAD_COMPRESSION] = set_compression,
    [HEAD_PROFILER] = set_profiler,
};

kvs_status kvs_admin_send_command(kvs_admin_request *request)
{
    const kvs_admin_options *options = &request->admin->options;
    const char *body = kvs_request_text(request, "body", KVS_COMMAND_BYTES_MAX);
    int64_t number = 0;
    kvs_store *store = NULL;
    kvs_store_info info;
    (void)kvs_json_integer(&request->fields, "head", INT32_MIN, INT32_MAX, &number);
    KVS_TRY(kvs_request_store(request, &store));
    kvs_store_describe(store, &info);
    kvs_log(KVS_LOG_INFO, "command", "store=%s head=%" PRId64 " body_bytes=%zu", info.name, number,
            strlen(body));
    kvs_status status = KVS_OK;
    if (number >= 0 && number < HEADS) {
        status = functions[number](request, store, &info, body);
    } else if (options->command != NULL) {
        options->command(options->command_context, info.name, (int32_t)number, body);
    }
    kvs_store_unref(store);
    KVS_TRY(status);
    return kvs_admin_reply(json_object(), &request->reply, request->problem);
}
