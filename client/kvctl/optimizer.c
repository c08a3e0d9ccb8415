/* kvctl optimizer get, set: the rule that a store applies to what is pushed. */
#include "client/kvctl/http.h"
#include "client/kvctl/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTIMIZER_BYTES_MAX ((size_t)1 << 20)

/* A number as its shortest text; everything else as JSON, but texts without quotes. */
static void add_field(kvs_table *table, const char *field, const json_t *value)
{
    char number[KVS_JSON_NUMBER_BYTES];
    kvs_table_add(table, field);
    if (json_is_string(value)) {
        kvs_table_add(table, json_string_value(value));
        return;
    }
    if (json_is_real(value)) {
        (void)kvs_json_print(json_real_value(value), number);
        kvs_table_add(table, number);
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    kvs_table_add(table, text != NULL ? text : "?");
    free(text);
}

/* The reply's own text for -o json, so that every number stays as the server wrote it. */
static kvs_exit print_optimizer(const kvs_ctl *ctl, const kvs_http_reply *reply)
{
    static const char *const head[] = {"FIELD", "VALUE"};
    kvs_exit code = KVS_EXIT_DONE;
    kvs_problem problem = {0};
    json_t *optimizer = NULL;
    const bool json = kvs_ctl_wants_json(ctl, &code);
    if (code != KVS_EXIT_DONE) {
        return code;
    }
    if (kvs_json_parse(reply->body != NULL ? reply->body : "", reply->body_bytes,
                       OPTIMIZER_BYTES_MAX, &optimizer, &problem) != KVS_OK) {
        return kvs_ctl_fail(KVS_EXIT_REFUSED, "Is it a kvstored at --endpoint?",
                            "the answer is no JSON: %s", problem.detail);
    }
    if (json) {
        (void)printf("%s\n", reply->body);
    } else if (!json_is_object(optimizer)) {
        (void)puts("none: what is pushed replaces the value");
    } else {
        kvs_table table;
        const char *field = NULL;
        json_t *value = NULL;
        kvs_table_init(&table, head, 2);
        json_object_foreach (optimizer, field, value) {
            add_field(&table, field, value);
        }
        kvs_table_print(&table);
        kvs_table_deinit(&table);
    }
    json_decref(optimizer);
    return KVS_EXIT_DONE;
}

kvs_exit kvs_ctl_optimizer_get(const kvs_ctl *ctl, int count, char **words)
{
    (void)count;
    (void)words;
    char path[KVS_HTTP_PATH_BYTES];
    kvs_http_reply reply = {0};
    const kvs_http_request request = {.method = "GET", .path = path};
    kvs_exit code = kvs_http_path(ctl, path, "/optimizer", NULL);
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_call(ctl, &request, &reply);
    }
    if (code == KVS_EXIT_DONE) {
        code = print_optimizer(ctl, &reply);
    }
    kvs_http_reply_deinit(&reply);
    return code;
}

/* The whole of a file, or of stdin for "-". The caller frees. */
static kvs_exit read_text(const char *name, char **out, size_t *bytes)
{
    FILE *file = strcmp(name, "-") == 0 ? stdin : fopen(name, "r");
    if (file == NULL) {
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "Name a file that can be read, or - for stdin.",
                            "cannot open %s", name);
    }
    char *text = malloc(OPTIMIZER_BYTES_MAX + 1);
    *bytes = text == NULL ? 0 : fread(text, 1, OPTIMIZER_BYTES_MAX + 1, file);
    if (file != stdin) {
        (void)fclose(file);
    }
    if (text == NULL || *bytes > OPTIMIZER_BYTES_MAX) {
        free(text);
        return kvs_ctl_fail(KVS_EXIT_LOCAL, "An optimizer is a small JSON object.",
                            "%s is too large", name);
    }
    *out = text;
    return KVS_EXIT_DONE;
}

static kvs_exit parse_object(const char *text, size_t bytes, json_t **out)
{
    kvs_problem problem = {0};
    if (kvs_json_parse(text, bytes, OPTIMIZER_BYTES_MAX, out, &problem) != KVS_OK) {
        return kvs_ctl_fail(KVS_EXIT_USAGE, "Write it like {\"name\": \"sgd\"}.", "no JSON: %s",
                            problem.detail);
    }
    return KVS_EXIT_DONE;
}

/* NAME FIELD=VALUE ...; a value that is no JSON is a text. */
static kvs_exit build_object(int count, char **words, json_t **out)
{
    json_t *object = json_pack("{s:s}", "name", words[0]);
    for (int i = 1; i < count; i++) {
        const char *equals = strchr(words[i], '=');
        if (equals == NULL || equals == words[i]) {
            json_decref(object);
            return kvs_ctl_fail(KVS_EXIT_USAGE, "Write fields like learning_rate=0.1.",
                                "%s is no FIELD=VALUE", words[i]);
        }
        char field[128];
        json_t *value = NULL;
        (void)snprintf(field, sizeof field, "%.*s", (int)(equals - words[i]), words[i]);
        if (kvs_json_parse(equals + 1, strlen(equals + 1), OPTIMIZER_BYTES_MAX, &value, NULL) !=
            KVS_OK) {
            value = json_string(equals + 1);
        }
        if (json_object_set_new(object, field, value) != 0) {
            json_decref(object);
            return kvs_ctl_fail(KVS_EXIT_USAGE, "Use UTF-8.", "%s is no text", words[i]);
        }
    }
    *out = object;
    return KVS_EXIT_DONE;
}

static kvs_exit read_optimizer(int count, char **words, json_t **out)
{
    if (count == 1 && words[0][0] == '{') {
        return parse_object(words[0], strlen(words[0]), out);
    }
    if (count == 1 && (words[0][0] == '@' || strcmp(words[0], "-") == 0)) {
        char *text = NULL;
        size_t bytes = 0;
        kvs_exit code = read_text(words[0][0] == '@' ? words[0] + 1 : "-", &text, &bytes);
        if (code == KVS_EXIT_DONE) {
            code = parse_object(text, bytes, out);
        }
        free(text);
        return code;
    }
    if (count == 1 && strcmp(words[0], "none") == 0) {
        *out = json_null();
        return KVS_EXIT_DONE;
    }
    return build_object(count, words, out);
}

kvs_exit kvs_ctl_optimizer_set(const kvs_ctl *ctl, int count, char **words)
{
    char path[KVS_HTTP_PATH_BYTES];
    json_t *optimizer = NULL;
    kvs_http_reply answer = {0};
    kvs_exit code = read_optimizer(count, words, &optimizer);
    char *text =
        code == KVS_EXIT_DONE ? json_dumps(optimizer, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (code == KVS_EXIT_DONE) {
        code = kvs_http_path(ctl, path, "/optimizer", NULL);
    }
    if (code == KVS_EXIT_DONE && text != NULL) {
        const kvs_http_request request = {.method = "PUT",
                                          .path = path,
                                          .content_type = "application/json",
                                          .if_match = ctl->if_match,
                                          .body = text,
                                          .body_bytes = strlen(text)};
        code = kvs_http_call(ctl, &request, &answer);
    }
    if (code == KVS_EXIT_DONE) {
        code = print_optimizer(ctl, &answer);
    }
    kvs_http_reply_deinit(&answer);
    free(text);
    json_decref(optimizer);
    return code;
}
