/* The admin plane's methods on what is trained: keys, optimizer, barriers, rounds. */
#include "service/admin_methods.h"

#include "base/clock.h"
#include "engine/codec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_DEFAULT 100u
#define PAGE_MAX 1000u
/* ListRounds shows the oldest. */
#define ROUNDS_MAX 1000u
#define BARRIERS_MAX 1000u
/* A long poll that names no timeout. */
#define BARRIER_TIMEOUT_MS 60000u
#define BARRIER_TIMEOUT_MS_MAX (UINT64_C(24) * 3600 * 1000)
#define OPTIMIZER_BYTES_MAX (256 * KVS_KIB)
#define ETAG_TEXT_BYTES_MAX 256u

/* ------------------------------------------------------------------ keys */

/* A page token of keys is the last key of the page before. */
kvs_status kvs_admin_list_keys(kvs_admin_request *request)
{
    const char *prefix = kvs_request_text(request, "prefix", KVS_KEY_BYTES_MAX);
    const char *after = kvs_request_text(request, "page_token", KVS_KEY_BYTES_MAX);
    size_t size = (size_t)kvs_request_number(request, "page_size", PAGE_MAX, PAGE_DEFAULT);
    kvs_store *store = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_key_info *keys = calloc(size + 1, sizeof *keys); /* one more tells of a next page */
    if (keys == NULL) {
        kvs_store_unref(store);
        return kvs_problem_set(request->problem, KVS_NO_MEMORY, "no memory for the list");
    }
    size_t count = kvs_key_list(store, prefix, after, size + 1, keys);
    kvs_json_object reply = kvs_json_object_open();
    json_t *list = json_array();
    for (size_t i = 0; i < count && i < size && list != NULL; i++) {
        if (json_array_append_new(list, kvs_admin_key_json(&keys[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    kvs_json_add(&reply, "keys", list);
    if (count > size) {
        kvs_json_add_text_bytes(&reply, "next_page_token", keys[size - 1].name,
                                keys[size - 1].name_bytes);
    } else {
        kvs_json_add_text(&reply, "next_page_token", "");
    }
    free(keys);
    kvs_store_unref(store);
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}

kvs_status kvs_admin_get_key(kvs_admin_request *request)
{
    const char *key = kvs_request_text(request, "key", KVS_KEY_BYTES_MAX);
    kvs_store *store = NULL;
    kvs_key_info info;
    json_t *reply = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_status status = kvs_key_describe(store, key, strlen(key), &info, request->problem);
    if (status == KVS_OK) {
        reply = kvs_admin_key_json(&info);
        status = kvs_admin_reply(reply, &request->reply, request->problem);
    }
    kvs_store_unref(store);
    return status;
}

/* ------------------------------------------------------------------ optimizer */

void kvs_optimizer_etag(const char *json, char out[KVS_ETAG_BYTES])
{
    if (json == NULL || json[0] == '\0') {
        (void)snprintf(out, KVS_ETAG_BYTES, "\"none\"");
        return;
    }
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a, 64 bits */
    for (const char *at = json; *at != '\0'; at++) {
        hash = (hash ^ (unsigned char)*at) * UINT64_C(1099511628211);
    }
    (void)snprintf(out, KVS_ETAG_BYTES, "\"%016" PRIx64 "\"", hash);
}

static json_t *optimizer_json(kvs_store *store)
{
    kvs_optimizer *optimizer = kvs_store_optimizer(store);
    kvs_json_object object = kvs_json_object_open();
    kvs_json_add_text(&object, "json", optimizer != NULL ? kvs_optimizer_json(optimizer) : "");
    kvs_optimizer_unref(optimizer);
    return kvs_json_object_close(&object);
}

kvs_status kvs_admin_get_optimizer(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    json_t *reply = optimizer_json(store);
    kvs_store_unref(store);
    return kvs_admin_reply(reply, &request->reply, request->problem);
}

/* Is `tag`, with its quotes or without, the store's optimizer? "*" asks only that there is one. */
static bool optimizer_matches(kvs_store *store, const char *tag)
{
    char etag[KVS_ETAG_BYTES];
    kvs_optimizer *optimizer = kvs_store_optimizer(store);
    bool any = optimizer != NULL;
    kvs_optimizer_etag(any ? kvs_optimizer_json(optimizer) : NULL, etag);
    kvs_optimizer_unref(optimizer);
    size_t bytes = strlen(etag) - 2;
    return (any && strcmp(tag, "*") == 0) || strcmp(tag, etag) == 0 ||
           (strlen(tag) == bytes && strncmp(tag, etag + 1, bytes) == 0);
}

/* With the optimizer mutex. */
static kvs_status set_optimizer(kvs_admin *admin, kvs_store *store, kvs_optimizer *optimizer,
                                const char *if_match, kvs_problem *problem)
{
    kvs_wait *wait = NULL;
    if (if_match[0] != '\0' && !optimizer_matches(store, if_match)) {
        return kvs_problem_set(problem, KVS_ETAG_MISMATCH, "the optimizer is another one by now");
    }
    uint64_t now_ns = kvs_clock_now_ns();
    KVS_TRY(
        kvs_wait_open(admin, store, sizeof *wait, now_ns + KVS_CUT_DEADLINE_NS, &wait, problem));
    kvs_store_set_optimizer(store, optimizer, kvs_wait_begin(wait), now_ns);
    kvs_status status = kvs_wait_for(wait, problem);
    kvs_wait_close(wait);
    return status;
}

kvs_status kvs_admin_set_optimizer(kvs_admin_request *request)
{
    kvs_admin *admin = request->admin;
    kvs_json_fields inner;
    kvs_optimizer *optimizer = NULL;
    kvs_store *store = NULL;
    const char *text = "";
    const char *if_match = kvs_request_text(request, "if_match", ETAG_TEXT_BYTES_MAX);
    if (kvs_json_required(&request->fields, "optimizer")) {
        kvs_json_fields_init(&inner, &request->fields, "optimizer",
                             kvs_json_find(&request->fields, "optimizer"), &request->errors);
        if (kvs_json_required(&inner, "json")) {
            (void)kvs_json_text(&inner, "json", OPTIMIZER_BYTES_MAX, &text);
        }
        kvs_json_fields_end(&inner);
    }
    KVS_TRY(kvs_request_store(request, &store));
    kvs_status status = KVS_OK;
    if (strcmp(text, "null") != 0) { /* null: no optimizer from now on */
        status = kvs_optimizer_parse(text, strlen(text), &optimizer, request->problem);
    }
    if (status == KVS_OK) {
        (void)pthread_mutex_lock(&admin->optimizer_mutex);
        status = set_optimizer(admin, store, optimizer, if_match, request->problem);
        (void)pthread_mutex_unlock(&admin->optimizer_mutex);
    }
    if (status == KVS_OK) {
        status = kvs_admin_reply(optimizer_json(store), &request->reply, request->problem);
    }
    kvs_optimizer_unref(optimizer);
    kvs_store_unref(store);
    return status;
}

/* ------------------------------------------------------------------ compression */

static json_t *compression_json(kvs_store *store)
{
    kvs_encoding encoding;
    kvs_store_compression(store, &encoding);
    kvs_json_object object = kvs_json_object_open();
    kvs_json_add_text(&object, "type", kvs_encoding_name(&encoding));
    kvs_json_add(&object, "threshold", json_real((double)encoding.threshold));
    kvs_json_add(&object, "ratio", json_real(encoding.ratio));
    kvs_json_add_text(&object, "pull", kvs_encoding_pull_name(&encoding));
    return kvs_json_object_close(&object);
}

kvs_status kvs_admin_get_compression(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    json_t *reply = compression_json(store);
    kvs_store_unref(store);
    return kvs_admin_reply(reply, &request->reply, request->problem);
}

/* What the workers say they send and pull as; each message says for itself how it is encoded. */
kvs_status kvs_admin_set_compression(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    kvs_encoding encoding;
    const json_t *given = kvs_json_find(&request->fields, "compression");
    (void)kvs_json_required(&request->fields, "compression");
    KVS_TRY(kvs_request_store(request, &store));
    char *text = json_dumps(given, JSON_COMPACT | JSON_ENCODE_ANY);
    kvs_status status = KVS_NO_MEMORY;
    if (text == NULL) {
        (void)kvs_problem_set(request->problem, status, "no memory for the request");
    } else {
        status = kvs_encoding_parse(text, &encoding, request->problem);
    }
    free(text);
    if (status == KVS_OK) {
        kvs_store_set_compression(store, &encoding);
        status = kvs_admin_reply(compression_json(store), &request->reply, request->problem);
    }
    kvs_store_unref(store);
    return status;
}

/* ------------------------------------------------------------------ barriers */

kvs_status kvs_admin_list_barriers(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_barrier_info *barriers = calloc(BARRIERS_MAX, sizeof *barriers);
    if (barriers == NULL) {
        kvs_store_unref(store);
        return kvs_problem_set(request->problem, KVS_NO_MEMORY, "no memory for the list");
    }
    size_t count = kvs_barrier_list(store, BARRIERS_MAX, barriers);
    json_t *list = json_array();
    for (size_t i = 0; i < count && list != NULL; i++) {
        const kvs_barrier_info *info = &barriers[i];
        size_t shown = sizeof info->missing / sizeof info->missing[0];
        kvs_json_object object = kvs_json_object_open();
        kvs_json_add_text(&object, "name", info->name);
        kvs_json_add_u64(&object, "generation", info->generation);
        kvs_json_add_u32(&object, "arrived", info->arrived);
        kvs_json_add_ranks(&object, "missing_ranks", info->missing,
                           info->missing_count < shown ? info->missing_count : shown);
        if (json_array_append_new(list, kvs_json_object_close(&object)) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    free(barriers);
    kvs_store_unref(store);
    kvs_json_object reply = kvs_json_object_open();
    kvs_json_add(&reply, "barriers", list);
    return kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
}

typedef struct barrier_wait {
    kvs_wait wait;
    kvs_barrier_result result;
    char name[KVS_NAME_BYTES_MAX + 1];
} barrier_wait;

kvs_status kvs_admin_enter_barrier(kvs_admin_request *request)
{
    const char *name = kvs_request_text(request, "name", KVS_NAME_BYTES_MAX);
    uint32_t rank = (uint32_t)kvs_request_number(request, "rank", KVS_WORKERS_MAX - 1, 0);
    uint64_t timeout_ms =
        kvs_request_number(request, "timeout_ms", BARRIER_TIMEOUT_MS_MAX, BARRIER_TIMEOUT_MS);
    kvs_store *store = NULL;
    kvs_store_info info;
    kvs_wait *wait = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    kvs_store_describe(store, &info);
    uint64_t now_ns = kvs_clock_now_ns();
    kvs_status status;
    if (rank >= info.num_workers) {
        status = kvs_problem_set(request->problem, KVS_INVALID_FIELD,
                                 "/rank must be below %" PRIu32, info.num_workers);
    } else {
        status = kvs_wait_open(request->admin, store, sizeof(barrier_wait),
                               now_ns + timeout_ms * KVS_MS, &wait, request->problem);
    }
    if (status == KVS_OK) {
        barrier_wait *mine = (barrier_wait *)wait;
        (void)snprintf(mine->name, sizeof mine->name, "%s", name);
        kvs_barrier_enter(store, rank, mine->name, &mine->result, kvs_wait_begin(wait), now_ns);
        status = kvs_wait_for_caller(wait, request->caller, request->problem);
        if (status == KVS_CANCELLED) {
            kvs_barrier_leave(store, &wait->waiter, kvs_clock_now_ns());
        }
        if (status == KVS_OK) {
            kvs_json_object reply = kvs_json_object_open();
            kvs_json_add_u64(&reply, "generation", mine->result.generation);
            kvs_json_add_u32(&reply, "arrival_index", mine->result.arrival_index);
            status =
                kvs_admin_reply(kvs_json_object_close(&reply), &request->reply, request->problem);
        }
        kvs_wait_close(wait);
    }
    kvs_store_unref(store);
    return status;
}

/* ------------------------------------------------------------------ rounds */

typedef struct rounds_wait {
    kvs_wait wait;
    kvs_rounds rounds;
} rounds_wait;

static void release_rounds(kvs_wait *wait)
{
    free(((rounds_wait *)wait)->rounds.rounds);
}

static json_t *round_json(const kvs_round_info *info)
{
    size_t shown = sizeof info->arrived / sizeof info->arrived[0];
    kvs_json_object object = kvs_json_object_open();
    kvs_json_add_text_bytes(&object, "key", info->key, info->key_bytes);
    kvs_json_add_u64(&object, "part", info->part);
    kvs_json_add_version(&object, "version", info->version);
    kvs_json_add_u64(&object, "age_ms", info->age_ns / KVS_MS);
    kvs_json_add_ranks(&object, "arrived_ranks", info->arrived,
                       info->arrived_count < shown ? info->arrived_count : shown);
    kvs_json_add_ranks(&object, "missing_ranks", info->missing,
                       info->missing_count < shown ? info->missing_count : shown);
    return kvs_json_object_close(&object);
}

static json_t *rounds_json(const kvs_rounds *rounds)
{
    kvs_json_object reply = kvs_json_object_open();
    json_t *list = json_array();
    for (size_t i = 0; i < rounds->count && list != NULL; i++) {
        if (json_array_append_new(list, round_json(&rounds->rounds[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    kvs_json_add(&reply, "rounds", list);
    kvs_json_add_u64(&reply, "open", rounds->open);
    return kvs_json_object_close(&reply);
}

kvs_status kvs_admin_list_rounds(kvs_admin_request *request)
{
    kvs_store *store = NULL;
    kvs_wait *wait = NULL;
    KVS_TRY(kvs_request_store(request, &store));
    uint64_t now_ns = kvs_clock_now_ns();
    kvs_status status = kvs_wait_open(request->admin, store, sizeof(rounds_wait),
                                      now_ns + KVS_CUT_DEADLINE_NS, &wait, request->problem);
    if (status == KVS_OK) {
        rounds_wait *mine = (rounds_wait *)wait;
        wait->release = release_rounds;
        mine->rounds.rounds = calloc(ROUNDS_MAX, sizeof *mine->rounds.rounds);
        mine->rounds.max = ROUNDS_MAX;
        if (mine->rounds.rounds == NULL) {
            status = kvs_problem_set(request->problem, KVS_NO_MEMORY, "no memory for the list");
        } else {
            kvs_store_rounds(store, &mine->rounds, kvs_wait_begin(wait), now_ns);
            status = kvs_wait_for(wait, request->problem);
        }
        if (status == KVS_OK) {
            status = kvs_admin_reply(rounds_json(&mine->rounds), &request->reply, request->problem);
        }
        kvs_wait_close(wait);
    }
    kvs_store_unref(store);
    return status;
}
