#include "service/admin.h"

#include "base/check.h"
#include "base/clock.h"
#include "service/admin_methods.h"

#include <stdlib.h>
#include <string.h>

#ifndef KVS_VERSION
#define KVS_VERSION "0.0.0"
#endif
#ifndef KVS_GIT_COMMIT
#define KVS_GIT_COMMIT "unknown"
#endif
#ifndef KVS_BUILD_TYPE
#define KVS_BUILD_TYPE "unknown"
#endif

/* What a client may look for before it relies on it. */
static const char *const features[] = {"stores",   "npy",    "raw",    "range",
                                       "barriers", "rounds", "states", "safetensors"};

const char *const kvs_policy_words[3] = {"fail", "shrink", "wait"};

/* ------------------------------------------------------------------ open, stop, close */

kvs_status kvs_admin_open(const kvs_admin_options *options, kvs_admin **out)
{
    kvs_admin *admin = calloc(1, sizeof *admin);
    if (admin == NULL) {
        return KVS_NO_MEMORY;
    }
    admin->options = *options;
    if (admin->options.upload_bytes_max == 0) {
        admin->options.upload_bytes_max = KVS_UPLOAD_BYTES_MAX;
    }
    admin->started_ns = kvs_clock_now_ns();
    if (pthread_mutex_init(&admin->optimizer_mutex, NULL) != 0) {
        free(admin);
        return KVS_NO_MEMORY;
    }
    if (kvs_waits_init(&admin->waits) != KVS_OK) {
        (void)pthread_mutex_destroy(&admin->optimizer_mutex);
        free(admin);
        return KVS_NO_MEMORY;
    }
    *out = admin;
    return KVS_OK;
}

void kvs_admin_stop(kvs_admin *admin)
{
    kvs_waits_stop(&admin->waits);
}

void kvs_admin_close(kvs_admin *admin)
{
    if (admin == NULL) {
        return;
    }
    kvs_store *store;
    while ((store = kvs_waits_left(&admin->waits)) != NULL) {
        /* Deleting the store ends whatever waits in it. */
        kvs_store_info info;
        kvs_store_describe(store, &info);
        uint64_t now_ns = kvs_clock_now_ns();
        if (kvs_store_delete(admin->options.engine, info.name, now_ns, NULL) != KVS_OK) {
            kvs_engine_tick(admin->options.engine, now_ns);
        }
        kvs_store_unref(store);
    }
    kvs_waits_deinit(&admin->waits);
    (void)pthread_mutex_destroy(&admin->optimizer_mutex);
    free(admin);
}

/* ------------------------------------------------------------------ methods of the server */

kvs_status kvs_admin_get_version(kvs_admin_request *request)
{
    kvs_admin *admin = request->admin;
    KVS_TRY(kvs_request_end(request));
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof features / sizeof features[0] && list != NULL; i++) {
        if (json_array_append_new(list, json_string(features[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    const char *core = admin->options.grpc_core;
    kvs_json_object version = kvs_json_object_open();
    kvs_json_add_text(&version, "version", KVS_VERSION);
    kvs_json_add_text(&version, "git_commit", KVS_GIT_COMMIT);
    kvs_json_add_text(&version, "build_type", KVS_BUILD_TYPE);
    kvs_json_add_text(&version, "engine", kvs_engine_backend_name(admin->options.engine));
    kvs_json_add_text(&version, "grpc_core", core != NULL ? core : "");
    kvs_json_add_u64(&version, "epoch", kvs_engine_epoch(admin->options.engine));
    kvs_json_add_u64(&version, "uptime_ms", (kvs_clock_now_ns() - admin->started_ns) / KVS_MS);
    kvs_json_add(&version, "features", list);
    return kvs_admin_reply(kvs_json_object_close(&version), &request->reply, request->problem);
}

/* Named in the contract, built later. */
static kvs_status later(kvs_admin_request *request)
{
    return kvs_problem_set(request->problem, KVS_UNIMPLEMENTED, "this version has no checkpoints");
}

/* ------------------------------------------------------------------ the table */

static const struct {
    const char *name;
    kvs_admin_method *run;
} methods[] = {
    {"GetVersion", kvs_admin_get_version},
    {"ListStores", kvs_admin_list_stores},
    {"CreateStore", kvs_admin_create_store},
    {"GetStore", kvs_admin_get_store},
    {"DeleteStore", kvs_admin_delete_store},
    {"GetType", kvs_admin_get_type},
    {"GetNumWorkers", kvs_admin_get_num_workers},
    {"GetRank", kvs_admin_get_rank},
    {"ListWorkers", kvs_admin_list_workers},
    {"ListKeys", kvs_admin_list_keys},
    {"GetKey", kvs_admin_get_key},
    {"GetOptimizer", kvs_admin_get_optimizer},
    {"SetOptimizer", kvs_admin_set_optimizer},
    {"GetCompression", kvs_admin_get_compression},
    {"SetCompression", kvs_admin_set_compression},
    {"ListBarriers", kvs_admin_list_barriers},
    {"EnterBarrier", kvs_admin_enter_barrier},
    {"SendCommand", kvs_admin_send_command},
    {"ListRounds", kvs_admin_list_rounds},
    {"ListCheckpoints", later},
    {"CreateCheckpoint", later},
    {"GetStatistics", kvs_admin_get_statistics},
};

kvs_status kvs_admin_call(kvs_admin *admin, const kvs_caller *caller, const char *method,
                          const json_t *request, json_t **reply, kvs_problem *problem)
{
    kvs_admin_method *run = NULL;
    kvs_problem mine = {.status = KVS_OK, .detail = ""};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (strcmp(methods[i].name, method) == 0) {
            run = methods[i].run;
        }
    }
    problem = problem != NULL ? problem : &mine;
    if (run == NULL) {
        return kvs_problem_set(problem, KVS_ROUTE_NOT_FOUND, "the admin plane has no method %s",
                               method);
    }
    if (kvs_waits_stopping(&admin->waits)) {
        return kvs_problem_set(problem, KVS_STOPPING, "the admin plane is closed");
    }
    kvs_admin_request state = {.admin = admin, .caller = caller, .problem = problem};
    state.errors.problem = problem;
    kvs_json_fields_init(&state.fields, NULL, "", request, &state.errors);
    kvs_status status = run(&state);
    if (status == KVS_OK) {
        KVS_CHECK(state.reply != NULL);
        *reply = state.reply;
    } else {
        json_decref(state.reply);
    }
    return status;
}
