/* kvctl keys, worker ls: what a store holds and who works on it. */
#include "client/kvctl/http.h"
#include "client/kvctl/table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* "2,3", or "scalar". */
static void print_shape(const json_t *shape, char *out, size_t out_bytes)
{
    size_t index = 0;
    size_t used = 0;
    const json_t *size = NULL;
    (void)snprintf(out, out_bytes, "scalar");
    json_array_foreach (shape, index, size) {
        const char *text = json_is_string(size) ? json_string_value(size) : NULL;
        int length = 0;
        if (text != NULL) {
            length = snprintf(out + used, out_bytes - used, "%s%s", index == 0 ? "" : ",", text);
        } else {
            length = snprintf(out + used, out_bytes - used, "%s%" JSON_INTEGER_FORMAT,
                              index == 0 ? "" : ",", json_integer_value(size));
        }
        if (length < 0 || (size_t)length >= out_bytes - used) {
            return;
        }
        used += (size_t)length;
    }
}

static void add_key(kvs_table *table, const json_t *key)
{
    char cell[512];
    const json_t *version = json_object_get(key, "version");
    kvs_table_add(table, kvs_field_text(key, "key"));
    kvs_table_add(table, kvs_field_text(key, "dtype"));
    print_shape(json_object_get(key, "shape"), cell, sizeof cell);
    kvs_table_add(table, cell);
    kvs_table_add(table, kvs_text_bytes(kvs_field_number(key, "bytes"), cell));
    (void)snprintf(cell, sizeof cell, "%" PRIu64, kvs_field_number(key, "parts"));
    kvs_table_add(table, cell);
    (void)snprintf(cell, sizeof cell, "%" PRIu64, kvs_field_number(version, "count"));
    kvs_table_add(table, cell);
}

kvs_exit kvs_ctl_keys(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    (void)words;
    static const char *const head[] = {"KEY", "DTYPE", "SHAPE", ">BYTES", ">PARTS", ">VERSION"};
    kvs_exit code = KVS_EXIT_DONE;
    const bool json = kvs_ctl_wants_json(ctl, &code);
    char path[KVS_HTTP_PATH_BYTES];
    json_t *all = NULL;
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_path(ctl, path, "/keys?page_size=1000&prefix={}", ctl->prefix);
    }
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_get_pages(ctl, path, "keys", &all);
    }
    if (code == KVS_EXIT_DONE && json) {
        code = kvs_ctl_print_json(all);
    } else if (code == KVS_EXIT_DONE) {
        kvs_table table;
        size_t index = 0;
        const json_t *key = NULL;
        kvs_table_init(&table, head, sizeof head / sizeof head[0]);
        json_array_foreach (all, index, key) {
            add_key(&table, key);
        }
        kvs_table_print(&table);
        kvs_table_deinit(&table);
    }
    json_decref(all);
    return code;
}

static void add_worker(kvs_table *table, const json_t *worker)
{
    char cell[KVS_TABLE_CELL_BYTES];
    (void)snprintf(cell, sizeof cell, "%" PRIu64, kvs_field_number(worker, "rank"));
    kvs_table_add(table, cell);
    kvs_table_add(table, kvs_field_text(worker, "name"));
    kvs_table_add(table, kvs_field_text(worker, "state"));
    kvs_table_add(table, kvs_field_text(worker, "session"));
    kvs_table_add(table, kvs_text_duration(kvs_field_number(worker, "last_seen_ms"), cell));
    (void)snprintf(cell, sizeof cell, "%" PRIu64, kvs_field_number(worker, "parts_pushed"));
    kvs_table_add(table, cell);
    kvs_table_add(table, kvs_text_bytes(kvs_field_number(worker, "bytes_pushed"), cell));
    (void)snprintf(cell, sizeof cell, "%" PRIu64, kvs_field_number(worker, "inflight_parts"));
    kvs_table_add(table, cell);
}

kvs_exit kvs_ctl_worker_ls(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    (void)words;
    static const char *const head[] = {">RANK",      "NAME",   "STATE",   "SESSION",
                                       ">LAST SEEN", ">PARTS", ">PUSHED", ">IN FLIGHT"};
    char path[KVS_HTTP_PATH_BYTES];
    json_t *reply = NULL;
    kvs_exit code = KVS_EXIT_DONE;
    const bool json = kvs_ctl_wants_json(ctl, &code);
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_path(ctl, path, "/workers", NULL);
    }
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_get_json(ctl, path, &reply);
    }
    const json_t *workers = json_object_get(reply, "workers");
    if (code == KVS_EXIT_DONE && json) {
        code = kvs_ctl_print_json(workers);
    } else if (code == KVS_EXIT_DONE) {
        kvs_table table;
        size_t index = 0;
        const json_t *worker = NULL;
        kvs_table_init(&table, head, sizeof head / sizeof head[0]);
        json_array_foreach (workers, index, worker) {
            add_worker(&table, worker);
        }
        kvs_table_print(&table);
        kvs_table_deinit(&table);
    }
    json_decref(reply);
    return code;
}
