/* The admin plane's methods on stores and on those who take part in them. */
#include "service/admin_methods.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_DEFAULT 100u
#define PAGE_MAX 1000u
/* A year: above it somebody has mixed up the units. */
#define DURATION_MS_MAX (UINT64_C(365) * 24 * 3600 * 1000)
/* What is shown of a session: enough to tell sessions apart, not enough to use one. */
#define SESSION_SHOWN_BYTES 4u

static json_t *store_json(kvs_store *store, uint64_t epoch)
{
    kvs_store_info info;
    kvs_store_describe(store, &info);
    kvs_optimizer *optimizer = kvs_store_optimizer(store);
    kvs_json_object object = kvs_json_object_open();
    kvs_json_add_text(&object, "name", info.name);
    kvs_json_add_text(&object, "type", info.type);
    kvs_json_add_u32(&object, "num_workers", info.num_workers);
    kvs_json_add_u32(&object, "live_workers", info.live_workers);
    kvs_json_add_text(&object, "policy", kvs_policy_words[info.policy]);
    kvs_json_add_u64(&object, "keys", info.keys);
    kvs_json_add_u64(&object, "bytes", info.bytes);
    kvs_json_add_u64(&object, "epoch", epoch);
    kvs_json_add_u64(&object, "membership", info.membership);
    kvs_json_add_text(&object, "optimizer", optimizer != NULL ? kvs_optimizer_name(optimizer) : "");
    kvs_json_add_u64(&object, "round_deadline_ms", info.round_deadline_ns / KVS_MS);
    kvs_json_add_u64(&object, "lease_ms", info.lease_ns / KVS_MS);
    kvs_json_add_u64(&object, "barrier_deadline_ms", info.barrier_deadline_ns / KVS_MS);
    kvs_optimizer_unref(optimizer);
    return kvs_json_object_close(&object);
}

/* ------------------------------------------------------------------ stores */

/* A page token of stores is how many came before. */
static uint64_t read_token(kvs_admin_request *request)
{
    const char *token = kvs_request_text(request, "page_token", 32);
    char *end;
    uint64_t skip = strtoull(token, &end, 10);
    if (token[0] != '\0' && (*end != '\0' || token[0] < '0' || token[0] > '9')) {
        kvs_json_fail(&request->fields, "page_token", "is not one that was given out");
    }
    return skip;
}

kvs_status kvs_admin_list_stores(kvs_admin_request *request)
{
    kvs_engine *engine = request->admin->options.engine;
    uint64_t skip = read_token(request);
    size_t size = (size_t)kvs_request_number(request, "page_size", PAGE_MAX, PAGE_DEFAULT);
    KVS_TRY(kvs_request_end(request));
    kvs_store **stores = calloc(size + 1, sizeof *stores); /* one more tells of a next page */
    if (stores == NULL) {
        return kvs_problem_set(request->problem, KVS_NO_MEMORY, "no memory for the list");
    }
    size_t count = kvs_store_list(engine, (size_t)skip, size + 1, stores);
    kvs_json_object reply = kvs_json_object_open();
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        if (i < size && list != NULL &&
            json_array_append_new(list, store_json(stores[i], kvs_engine_epoch(engine))) != 0) {
            json_decref(list);
            list = NULL;
        }
        kvs_store_unref(stores[i]);
    }
    free(stores);
    char token[24] = "";
    if (count > size) {
        (void)snprintf(token, sizeof token, "%" PRIu64, skip + size);
    }
    kvs_json_add(&reply, "stores", list);
    kvs_json_add_text(&reply, "next_page_token", token);
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}

kvs_status kvs_admin_create_store(kvs_admin_request *request)
{
    kvs_engine *engine = request->admin->options.engine;
    size_t policy = 0;
    kvs_store_options options = {
        .name = kvs_request_text(request, "name", KVS_NAME_BYTES_MAX),
        .type = kvs_request_text(request, "type", KVS_NAME_BYTES_MAX),
        .num_workers = (uint32_t)kvs_request_number(request, "num_workers", KVS_WORKERS_MAX, 1),
    };
    (void)kvs_json_choice(&request->fields, "policy", kvs_policy_words, 3, &policy);
    options.policy = (kvs_policy)policy;
    options.round_deadline_ns =
        kvs_request_number(request, "round_deadline_ms", DURATION_MS_MAX, 0) * KVS_MS;
    options.lease_ns = kvs_request_number(request, "lease_ms", DURATION_MS_MAX, 0) * KVS_MS;
    options.barrier_deadline_ns =
        kvs_request_number(request, "barrier_deadline_ms", DURATION_MS_MAX, 0) * KVS_MS;
    if (options.type[0] == '\0') {
        options.type = "dist_sync";
    } else if (kvs_kind_of(options.type) == KVS_LOCAL) {
        kvs_json_fail(&request->fields, "type",
                      "must contain \"dist\": a server is no local store");
    }
    KVS_TRY(kvs_request_end(request));
    kvs_store *store = NULL;
    KVS_TRY(kvs_store_create(engine, &options, &store, request->problem));
    json_t *reply = store_json(store, kvs_engine_epoch(engine));
    kvs_store_unref(store);
    return kvs_admin_reply(reply, &request->reply, request->problem);
}

kvs_status kvs_admin_get_store(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    json_t *reply = store_json(store, kvs_engine_epoch(request->admin->options.engine));
    kvs_store_unref(store);
    return kvs_admin_reply(reply, &request->reply, request->problem);
}

kvs_status kvs_admin_delete_store(kvs_admin_request *request)
{
    const char *name = kvs_request_text(request, "store", KVS_NAME_BYTES_MAX);
    KVS_TRY(kvs_request_end(request));
    KVS_TRY(kvs_store_delete(request->admin->options.engine, name, kvs_clock_now_ns(),
                             request->problem));
    return kvs_admin_reply(json_object(), &request->reply, request->problem);
}

kvs_status kvs_admin_get_type(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    kvs_store_info info;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_store_describe(store, &info);
    kvs_json_object reply = kvs_json_object_open();
    kvs_json_add_text(&reply, "type", info.type);
    kvs_store_unref(store);
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}

kvs_status kvs_admin_get_num_workers(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    kvs_store_info info;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_store_describe(store, &info);
    kvs_json_object reply = kvs_json_object_open();
    kvs_json_add_u32(&reply, "num_workers", info.num_workers);
    kvs_store_unref(store);
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}

kvs_status kvs_admin_get_statistics(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    kvs_store_statistics counts;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_store_count(store, &counts);
    kvs_store_unref(store);
    kvs_json_object reply = kvs_json_object_open();
    kvs_json_add_u64(&reply, "parts_pushed", counts.parts_pushed);
    kvs_json_add_u64(&reply, "bytes_pushed", counts.bytes_pushed);
    kvs_json_add_u64(&reply, "parts_pulled", counts.parts_pulled);
    kvs_json_add_u64(&reply, "bytes_pulled", counts.bytes_pulled);
    kvs_json_add_u64(&reply, "duplicates", counts.duplicates);
    kvs_json_add_u64(&reply, "refused", counts.refused);
    kvs_json_add_u64(&reply, "rounds_closed", counts.rounds_closed);
    kvs_json_add_u64(&reply, "rounds_failed", counts.rounds_failed);
    kvs_json_add_u64(&reply, "leases_lost", counts.leases_lost);
    kvs_json_add_u64(&reply, "held_bytes", counts.held_bytes);
    kvs_json_add_u64(&reply, "store_bytes", counts.store_bytes);
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}

/* ------------------------------------------------------------------ workers */

static void print_session(const uint8_t *id, size_t bytes, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < bytes; i++) {
        out[2 * i] = digits[id[i] >> 4];
        out[2 * i + 1] = digits[id[i] & 15];
    }
    out[2 * bytes] = '\0';
}

/* Reads the field "store" and all of its workers; *out is freed by the caller. */
static kvs_status list_workers(kvs_admin_request *request, kvs_worker_info **out, size_t *count)
{
    kvs_store *store = NULL;
    kvs_store_info info;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_store_describe(store, &info);
    kvs_worker_info *workers = calloc(info.num_workers, sizeof *workers);
    if (workers == NULL) {
        kvs_store_unref(store);
        return kvs_problem_set(request->problem, KVS_NO_MEMORY, "no memory for the list");
    }
    *count = kvs_worker_list(store, kvs_clock_now_ns(), info.num_workers, workers);
    *out = workers;
    kvs_store_unref(store);
    return KVS_OK;
}

static json_t *worker_json(const kvs_worker_info *worker)
{
    char session[2 * SESSION_SHOWN_BYTES + 1];
    print_session(worker->id, SESSION_SHOWN_BYTES, session);
    kvs_json_object object = kvs_json_object_open();
    kvs_json_add_text(&object, "name", worker->name);
    kvs_json_add_u32(&object, "rank", worker->rank);
    kvs_json_add_text(&object, "state", worker->state);
    kvs_json_add_text(&object, "session", session);
    kvs_json_add_u64(&object, "last_seen_ms", worker->idle_ns / KVS_MS);
    kvs_json_add_u64(&object, "parts_pushed", worker->parts_pushed);
    kvs_json_add_u64(&object, "bytes_pushed", worker->bytes_pushed);
    kvs_json_add_u64(&object, "inflight_parts", worker->inflight_parts);
    kvs_json_add_u64(&object, "inflight_bytes", worker->inflight_bytes);
    return kvs_json_object_close(&object);
}

kvs_status kvs_admin_list_workers(kvs_admin_request *request)
{
    kvs_worker_info *workers = NULL;
    size_t count = 0;
    KVS_TRY(list_workers(request, &workers, &count));
    json_t *list = json_array();
    for (size_t i = 0; i < count && list != NULL; i++) {
        if (json_array_append_new(list, worker_json(&workers[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    free(workers);
    kvs_json_object reply = kvs_json_object_open();
    kvs_json_add(&reply, "workers", list);
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}

/* Does `word` name the worker: by its name, its session, or the digits shown of it? */
static bool is_worker(const kvs_worker_info *worker, const char *word)
{
    char session[2 * KVS_SESSION_ID_BYTES + 1];
    print_session(worker->id, KVS_SESSION_ID_BYTES, session);
    size_t bytes = strlen(word);
    return (worker->name[0] != '\0' && strcmp(worker->name, word) == 0) ||
           ((bytes == 2 * SESSION_SHOWN_BYTES || bytes == 2 * sizeof worker->id) &&
            strncmp(session, word, bytes) == 0);
}

kvs_status kvs_admin_get_rank(kvs_admin_request *request)
{
    const char *word = kvs_request_text(request, "worker", KVS_NAME_BYTES_MAX);
    kvs_worker_info *workers = NULL;
    const kvs_worker_info *found = NULL;
    size_t count = 0;
    if (word[0] == '\0' && request->errors.count == 0) {
        kvs_json_fail(&request->fields, "worker", "is missing: a name or a session");
    }
    KVS_TRY(list_workers(request, &workers, &count));
    for (size_t i = 0; i < count; i++) {
        /* A live one before those that have gone under the same name. */
        if (is_worker(&workers[i], word) &&
            (found == NULL || strcmp(workers[i].state, "live") == 0)) {
            found = &workers[i];
        }
    }
    kvs_json_object reply = kvs_json_object_open();
    if (found != NULL) {
        kvs_json_add_u32(&reply, "rank", found->rank);
    }
    free(workers);
    if (found == NULL) {
        json_decref(kvs_json_object_close(&reply));
        return kvs_problem_set(request->problem, KVS_WORKER_NOT_FOUND,
                               "no worker or session \"%s\" has registered", word);
    }
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}
