#include "service/config.h"

#include "base/json.h"
#include "service/address.h"
#include "service/settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX (1 * KVS_MIB)
#define VARIABLE_PREFIX "KVSTORED_"

struct kvs_config_values {
    char *text[KVS_SETTINGS];
    kvs_config_source source[KVS_SETTINGS];
};

/* Variables with our prefix that other parts of the program read. */
static const char *const foreign[] = {"KVSTORED_CPU"};
/* Kubernetes puts these before every container of a namespace with a Service "kvstored". */
static const char *const foreign_prefixes[] = {"KVSTORED_SERVICE_", "KVSTORED_PORT"};

static const char *const source_words[] = {"default", "file", "environment", "flag"};

/* ------------------------------------------------------------------ names */

/* "GRPC_ADDRESS" or "grpc_address" to "grpc-address". */
static void to_flag_name(const char *name, char *out, size_t out_bytes)
{
    size_t used = 0;
    for (; name[used] != '\0' && used + 1 < out_bytes; used++) {
        char c = name[used];
        out[used] = (char)(c == '_' ? '-' : c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    out[used] = '\0';
}

/* " (did you mean X?)" with the setting's name in the form of its source, or "". */
static const char *suggest(const char *flag_name, kvs_config_source source, char *out,
                           size_t out_bytes)
{
    const char *names[KVS_SETTINGS + 1];
    for (size_t i = 0; i < KVS_SETTINGS; i++) {
        names[i] = kvs_setting_at(i)->name;
    }
    names[KVS_SETTINGS] = "config";
    const char *near = kvs_json_nearest(flag_name, names, KVS_SETTINGS + 1);
    out[0] = '\0';
    if (near != NULL) {
        const char *prefix = source == KVS_FROM_FLAG          ? "--"
                             : source == KVS_FROM_ENVIRONMENT ? VARIABLE_PREFIX
                                                              : "";
        size_t start = (size_t)snprintf(out, out_bytes, "; did you mean %s", prefix);
        (void)snprintf(out + start, out_bytes - start, "%s?", near);
        for (char *at = out + start; source != KVS_FROM_FLAG && *at != '\0'; at++) {
            if (*at == '-') {
                *at = '_';
            } else if (source == KVS_FROM_ENVIRONMENT && *at >= 'a' && *at <= 'z') {
                *at = (char)(*at - 'a' + 'A');
            }
        }
    }
    return out;
}

static kvs_status put(kvs_config *config, size_t index, const char *text, size_t bytes,
                      kvs_config_source source, kvs_problem *problem)
{
    char *copy = strndup(text, bytes);
    if (copy == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the configuration");
    }
    free(config->values->text[index]);
    config->values->text[index] = copy;
    config->values->source[index] = source;
    return KVS_OK;
}

/* ------------------------------------------------------------------ sources */

static kvs_status read_defaults(kvs_config *config, kvs_problem *problem)
{
    for (size_t i = 0; i < KVS_SETTINGS; i++) {
        KVS_TRY(put(config, i, kvs_setting_at(i)->fallback, strlen(kvs_setting_at(i)->fallback),
                    KVS_FROM_DEFAULT, problem));
    }
    return KVS_OK;
}

static kvs_status load_file(const char *path, json_t **out, kvs_problem *problem)
{
    FILE *file = fopen(path, "re");
    char *text = malloc(FILE_BYTES_MAX + 1);
    if (file == NULL || text == NULL) {
        kvs_status status = kvs_problem_set(problem, KVS_IO_ERROR, "cannot open %.150s: %s", path,
                                            file == NULL ? strerror(errno) : "no memory");
        if (file != NULL) {
            (void)fclose(file);
        }
        free(text);
        return status;
    }
    size_t bytes = fread(text, 1, FILE_BYTES_MAX + 1, file);
    bool failed = ferror(file) != 0;
    (void)fclose(file);
    kvs_status status;
    if (failed) {
        status = kvs_problem_set(problem, KVS_IO_ERROR, "cannot read %.150s", path);
    } else {
        status = kvs_json_parse(text, bytes, FILE_BYTES_MAX, out, problem);
    }
    free(text);
    return status;
}

/* A JSON value as the text that a flag would have. */
static bool value_text(const json_t *value, char *out, size_t out_bytes)
{
    if (json_is_string(value)) {
        return (size_t)snprintf(out, out_bytes, "%s", json_string_value(value)) < out_bytes;
    }
    if (json_is_integer(value)) {
        (void)snprintf(out, out_bytes, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return true;
    }
    if (json_is_real(value)) {
        char number[KVS_JSON_NUMBER_BYTES];
        (void)kvs_json_print(json_real_value(value), number);
        (void)snprintf(out, out_bytes, "%s", number);
        return true;
    }
    (void)snprintf(out, out_bytes, "%s", json_is_true(value) ? "true" : "false");
    return json_is_boolean(value);
}

static kvs_status read_file(kvs_config *config, const char *path, kvs_problem *problem)
{
    json_t *root = NULL;
    const char *name;
    json_t *value;
    kvs_status status = KVS_OK;
    KVS_TRY(load_file(path, &root, problem));
    if (!json_is_object(root)) {
        json_decref(root);
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "%.150s is no JSON object", path);
    }
    json_object_foreach (root, name, value) {
        char flag[64];
        char text[512];
        char near[96];
        to_flag_name(name, flag, sizeof flag);
        size_t index = kvs_setting_find(flag, strlen(flag));
        if (index == KVS_SETTINGS || strchr(name, '-') != NULL ||
            strpbrk(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != NULL) {
            status = kvs_problem_set(problem, KVS_INVALID_FIELD, "%.80s: unknown field %.40s%s",
                                     path, name, suggest(flag, KVS_FROM_FILE, near, sizeof near));
        } else if (!value_text(value, text, sizeof text)) {
            status =
                kvs_problem_set(problem, KVS_INVALID_FIELD,
                                "%.80s: %s must be a text, a number, true or false", path, name);
        } else {
            status = put(config, index, text, strlen(text), KVS_FROM_FILE, problem);
        }
        if (status != KVS_OK) {
            break;
        }
    }
    json_decref(root);
    return status;
}

static bool is_foreign(const char *variable)
{
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        size_t bytes = strlen(foreign[i]);
        if (strncmp(variable, foreign[i], bytes) == 0 && variable[bytes] == '=') {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof foreign_prefixes / sizeof foreign_prefixes[0]; i++) {
        if (strncmp(variable, foreign_prefixes[i], strlen(foreign_prefixes[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* The value of KVSTORED_CONFIG goes to *file; everything else into the configuration. */
static kvs_status read_environment(kvs_config *config, const char *const *environment,
                                   const char **file, kvs_problem *problem)
{
    for (; *environment != NULL; environment++) {
        const char *variable = *environment;
        const char *equals = strchr(variable, '=');
        char name[64];
        char near[96];
        if (strncmp(variable, VARIABLE_PREFIX, strlen(VARIABLE_PREFIX)) != 0 || equals == NULL ||
            is_foreign(variable)) {
            continue;
        }
        (void)snprintf(name, sizeof name, "%.*s",
                       (int)(equals - variable - (ptrdiff_t)strlen(VARIABLE_PREFIX)),
                       variable + strlen(VARIABLE_PREFIX));
        to_flag_name(name, name, sizeof name);
        if (strcmp(name, "config") == 0) {
            *file = equals + 1;
            continue;
        }
        size_t index = kvs_setting_find(name, strlen(name));
        if (index == KVS_SETTINGS) {
            return kvs_problem_set(problem, KVS_INVALID_FIELD, "unknown variable %.*s%s",
                                   (int)(equals - variable), variable,
                                   suggest(name, KVS_FROM_ENVIRONMENT, near, sizeof near));
        }
        if (config != NULL) {
            KVS_TRY(
                put(config, index, equals + 1, strlen(equals + 1), KVS_FROM_ENVIRONMENT, problem));
        }
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ flags */

static bool take_action(const char *argument, kvs_config_action *action)
{
    static const struct {
        const char *flag;
        kvs_config_action action;
    } actions[] = {
        {"--help", KVS_CONFIG_HELP},          {"-h", KVS_CONFIG_HELP},
        {"--version", KVS_CONFIG_VERSION},    {"--check-config", KVS_CONFIG_CHECK},
        {"--print-config", KVS_CONFIG_PRINT},
    };
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (strcmp(argument, actions[i].flag) == 0) {
            *action = actions[i].action;
            return true;
        }
    }
    return false;
}

/* One flag at argv[*at], which moves on by one when the value is an argument of its own. */
static kvs_status read_flag(kvs_config *config, const char *const *argv, int argc, int *at,
                            const char **file, kvs_problem *problem)
{
    const char *argument = argv[*at];
    char near[96];
    if (strncmp(argument, "--", 2) != 0) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "%.60s is no flag; see kvstored --help",
                               argument);
    }
    const char *name = argument + 2;
    size_t bytes = strcspn(name, "=");
    const char *value = name[bytes] == '=' ? name + bytes + 1 : NULL;
    bool is_file = bytes == strlen("config") && memcmp(name, "config", bytes) == 0;
    size_t index = kvs_setting_find(name, bytes);
    if (index == KVS_SETTINGS && !is_file) {
        char plain[64];
        (void)snprintf(plain, sizeof plain, "%.*s", (int)(bytes < 60 ? bytes : 60), name);
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "unknown flag --%s%s", plain,
                               suggest(plain, KVS_FROM_FLAG, near, sizeof near));
    }
    if (value == NULL && !is_file && kvs_setting_at(index)->kind == KVS_SETTING_SWITCH) {
        value = "true";
    }
    if (value == NULL && *at + 1 < argc) {
        value = argv[++*at];
    }
    if (value == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "%.60s needs a value", argument);
    }
    if (is_file) {
        *file = value;
    } else if (config != NULL) {
        return put(config, index, value, strlen(value), KVS_FROM_FLAG, problem);
    }
    return KVS_OK;
}

static kvs_status read_flags(kvs_config *config, int argc, const char *const *argv,
                             kvs_config_action *action, const char **file, kvs_problem *problem)
{
    for (int i = 1; i < argc; i++) {
        if (!take_action(argv[i], action)) {
            KVS_TRY(read_flag(config, argv, argc, &i, file, problem));
        }
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ values */

static kvs_status check_reach(const kvs_config *config, const char *text, kvs_problem *problem)
{
    kvs_address address;
    if (text[0] == '\0' || config->insecure_allow_remote) {
        return KVS_OK;
    }
    KVS_TRY(kvs_address_parse(text, &address, problem));
    if (!kvs_address_is_loopback(&address)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "%s can be reached from other machines and asks nobody for "
                               "credentials; --insecure-allow-remote says that this is meant",
                               text);
    }
    return KVS_OK;
}

static kvs_status set_values(kvs_config *config, kvs_problem *problem)
{
    for (size_t i = 0; i < KVS_SETTINGS; i++) {
        KVS_TRY(kvs_setting_store(kvs_setting_at(i), config->values->text[i],
                                  source_words[config->values->source[i]], config, problem));
    }
    if (config->grpc_address[0] == '\0' && config->unix_socket[0] == '\0') {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "gRPC needs --grpc-address or --unix-socket");
    }
    KVS_TRY(check_reach(config, config->grpc_address, problem));
    return check_reach(config, config->http_address, problem);
}

/* ------------------------------------------------------------------ front */

static kvs_status read_all(int argc, const char *const *argv, const char *const *environment,
                           kvs_config_action *action, kvs_config *out, kvs_problem *problem)
{
    const char *file = NULL;
    /* First only to find the file: what it says lies below what these say. */
    KVS_TRY(read_environment(NULL, environment, &file, problem));
    KVS_TRY(read_flags(NULL, argc, argv, action, &file, problem));
    if (*action == KVS_CONFIG_HELP || *action == KVS_CONFIG_VERSION) {
        return KVS_OK;
    }
    KVS_TRY(read_defaults(out, problem));
    if (file != NULL && file[0] != '\0') {
        KVS_TRY(read_file(out, file, problem));
    }
    KVS_TRY(read_environment(out, environment, &file, problem));
    KVS_TRY(read_flags(out, argc, argv, action, &file, problem));
    return set_values(out, problem);
}

kvs_status kvs_config_read(int argc, const char *const *argv, const char *const *environment,
                           kvs_config_action *action, kvs_config *out, kvs_problem *problem)
{
    kvs_config config;
    memset(&config, 0, sizeof config);
    *action = KVS_CONFIG_RUN;
    config.values = calloc(1, sizeof *config.values);
    if (config.values == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the configuration");
    }
    kvs_status status = read_all(argc, argv, environment, action, &config, problem);
    if (status != KVS_OK || *action == KVS_CONFIG_HELP || *action == KVS_CONFIG_VERSION) {
        kvs_config_deinit(&config);
        return status;
    }
    *out = config;
    return KVS_OK;
}

void kvs_config_deinit(kvs_config *config)
{
    for (size_t i = 0; config->values != NULL && i < KVS_SETTINGS; i++) {
        free(config->values->text[i]);
    }
    free(config->values);
    config->values = NULL;
}

const char *kvs_config_name(size_t index)
{
    return index < KVS_SETTINGS ? kvs_setting_at(index)->name : NULL;
}

const char *kvs_config_text(const kvs_config *config, size_t index, kvs_config_source *source)
{
    *source = config->values->source[index];
    return config->values->text[index];
}

void kvs_config_print(const kvs_config *config, FILE *to)
{
    for (size_t i = 0; i < KVS_SETTINGS; i++) {
        (void)fprintf(to, "%-24s %-24s %s\n", kvs_setting_at(i)->name,
                      config->values->text[i][0] != '\0' ? config->values->text[i] : "\"\"",
                      source_words[config->values->source[i]]);
    }
}

void kvs_config_help(FILE *to)
{
    (void)fprintf(to, "kvstored: a parameter server over gRPC and REST\n\n"
                      "usage: kvstored [--config FILE] [--SETTING VALUE] ...\n\n"
                      "Each setting is also a variable (KVSTORED_GRPC_ADDRESS) and a field of the\n"
                      "JSON file (\"grpc_address\"). A flag goes over a variable, a variable over\n"
                      "the file, the file over the default.\n\n");
    for (size_t i = 0; i < KVS_SETTINGS; i++) {
        char flag[40];
        (void)snprintf(flag, sizeof flag, "--%s", kvs_setting_at(i)->name);
        (void)fprintf(to, "  %-26s %s [%s]\n", flag, kvs_setting_at(i)->help,
                      kvs_setting_at(i)->fallback);
    }
    (void)fprintf(to, "\n  --config                   file of settings (KVSTORED_CONFIG)\n"
                      "  --check-config             exits with 0 when all is well, else with 2\n"
                      "  --print-config             each setting, its value and where from\n"
                      "  --version\n  --help\n");
}
