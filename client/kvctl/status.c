/* kvctl status, health, version: the server as a whole. */
#include "client/kvctl/http.h"
#include "client/kvctl/table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* 200 from /readyz. */
static bool is_ready(const kvs_ctl *ctl, kvs_exit *code)
{
    kvs_http_reply reply = {0};
    const kvs_http_request request = {
        .method = "GET", .path = "/readyz", .accept = "*/*", .quiet = true};
    *code = kvs_http_call(ctl, &request, &reply);
    kvs_http_reply_deinit(&reply);
    return *code == KVS_EXIT_DONE;
}

static void print_server(const json_t *version, bool ready)
{
    char uptime[KVS_TABLE_CELL_BYTES];
    (void)printf("kvstored %s  epoch %" PRIu64 "  %s  up %s  engine %s\n",
                 kvs_field_text(version, "version"), kvs_field_number(version, "epoch"),
                 ready ? "READY" : "NOT READY",
                 kvs_text_duration(kvs_field_number(version, "uptime_ms"), uptime),
                 kvs_field_text(version, "engine"));
}

static void print_stores(const json_t *stores)
{
    static const char *const head[] = {"STORE", "TYPE",   ">WORKERS", "POLICY",
                                       ">KEYS", ">BYTES", "OPTIMIZER"};
    kvs_table table;
    char cell[KVS_TABLE_CELL_BYTES];
    size_t index = 0;
    const json_t *store = NULL;
    kvs_table_init(&table, head, sizeof head / sizeof head[0]);
    json_array_foreach (stores, index, store) {
        kvs_table_add(&table, kvs_field_text(store, "name"));
        kvs_table_add(&table, kvs_field_text(store, "type"));
        (void)snprintf(cell, sizeof cell, "%" PRIu64 "/%" PRIu64,
                       kvs_field_number(store, "live_workers"),
                       kvs_field_number(store, "num_workers"));
        kvs_table_add(&table, cell);
        kvs_table_add(&table, kvs_field_text(store, "policy"));
        (void)snprintf(cell, sizeof cell, "%" PRIu64, kvs_field_number(store, "keys"));
        kvs_table_add(&table, cell);
        kvs_table_add(&table, kvs_text_bytes(kvs_field_number(store, "bytes"), cell));
        const char *optimizer = kvs_field_text(store, "optimizer");
        kvs_table_add(&table, *optimizer == '\0' ? "-" : optimizer);
    }
    kvs_table_print(&table);
    kvs_table_deinit(&table);
}

static void print_ranks(const json_t *ranks)
{
    size_t index = 0;
    const json_t *rank = NULL;
    json_array_foreach (ranks, index, rank) {
        (void)printf("%s%" JSON_INTEGER_FORMAT, index == 0 ? " " : ", ", json_integer_value(rank));
    }
}

/* The rounds of ctl->store that wait, if any: the first one, and for whom. */
static void print_rounds(const kvs_ctl *ctl, const json_t *rounds)
{
    char age[KVS_TABLE_CELL_BYTES];
    const uint64_t open = kvs_field_number(rounds, "open");
    const json_t *first = json_array_get(json_object_get(rounds, "rounds"), 0);
    if (open == 0 || first == NULL) {
        return;
    }
    (void)printf(
        "%s: %" PRIu64 " open round(s), the oldest %s of key %s; missing ranks:", ctl->store, open,
        kvs_text_duration(kvs_field_number(first, "age_ms"), age), kvs_field_text(first, "key"));
    print_ranks(json_object_get(first, "missing_ranks"));
    (void)printf("\n");
}

kvs_exit kvs_ctl_status(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    (void)words;
    kvs_exit code = KVS_EXIT_DONE;
    const bool json = kvs_ctl_wants_json(ctl, &code);
    char path[KVS_HTTP_PATH_BYTES];
    json_t *version = NULL;
    json_t *stores = NULL;
    json_t *rounds = NULL;
    bool ready = false;
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_get_json(ctl, "/version", &version);
    }
    if (code == KVS_EXIT_DONE) {
        ready = is_ready(ctl, &code);
        code = kvs_http_get_pages(ctl, "/v1/stores?page_size=100", "stores", &stores);
    }
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_path(ctl, path, "/rounds", NULL);
    }
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_get_json(ctl, path, &rounds);
    }
    if (code == KVS_EXIT_DONE && json) {
        json_t *all = json_pack("{s:b, s:O, s:O, s:O}", "ready", ready, "server", version, "stores",
                                stores, "rounds", rounds);
        code = kvs_ctl_print_json(all);
        json_decref(all);
    } else if (code == KVS_EXIT_DONE) {
        print_server(version, ready);
        print_stores(stores);
        print_rounds(ctl, rounds);
    }
    json_decref(version);
    json_decref(stores);
    json_decref(rounds);
    return code;
}

/* Made for probes: every failure is exit code 1. */
kvs_exit kvs_ctl_health(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    (void)words;
    kvs_exit code = KVS_EXIT_DONE;
    char said[300] = "not asked";
    const bool json = kvs_ctl_wants_json(ctl, &code);
    if (code != KVS_EXIT_DONE) {
        return code;
    }
    const bool ready = is_ready(ctl, &code);
    const bool serving = !ctl->rpc || kvs_http_grpc_serving(ctl, said, sizeof said);
    if (json) {
        json_t *all = json_pack("{s:b, s:s}", "ready", ready, "rpc", said);
        (void)kvs_ctl_print_json(all);
        json_decref(all);
    } else {
        (void)printf("http %s\n", ready ? "ready" : "not ready");
        (void)(ctl->rpc ? printf("grpc %s\n", said) : 0);
    }
    if (!ready && code == KVS_EXIT_REFUSED) {
        (void)kvs_ctl_fail(KVS_EXIT_REFUSED, "Wait, or ask GET /readyz?verbose what it waits for.",
                           "the server is not ready");
    }
    if (!serving) {
        (void)kvs_ctl_fail(KVS_EXIT_REFUSED, "Name the gRPC address by --grpc-endpoint.",
                           "gRPC at %s: %s", ctl->grpc_endpoint, said);
    }
    return ready && serving ? KVS_EXIT_DONE : KVS_EXIT_REFUSED;
}

kvs_exit kvs_ctl_version(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    (void)words;
    kvs_exit code = KVS_EXIT_DONE;
    json_t *server = NULL;
    const bool json = kvs_ctl_wants_json(ctl, &code);
    if (code != KVS_EXIT_DONE) {
        return code;
    }
    if (!json) {
        (void)printf("kvctl     %s\n", KVS_VERSION);
    }
    code = kvs_http_get_json(ctl, "/version", &server);
    if (code == KVS_EXIT_DONE && json) {
        json_t *both = json_pack("{s:s, s:O}", "kvctl", KVS_VERSION, "server", server);
        code = kvs_ctl_print_json(both);
        json_decref(both);
    } else if (code == KVS_EXIT_DONE) {
        (void)printf("kvstored  %s  commit %s  build %s  engine %s  gRPC core %s\n",
                     kvs_field_text(server, "version"), kvs_field_text(server, "git_commit"),
                     kvs_field_text(server, "build_type"), kvs_field_text(server, "engine"),
                     kvs_field_text(server, "grpc_core"));
    }
    json_decref(server);
    return code;
}
