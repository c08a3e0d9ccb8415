#include "service/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* For every setting three values that are not its default: of a file, a variable and a flag. */
static const struct {
    const char *name;
    const char *file; /* as JSON */
    const char *variable;
    const char *flag;
} samples[] = {
    {"grpc-address", "\"127.0.0.1:1\"", "127.0.0.1:2", "127.0.0.1:3"},
    {"http-address", "\"127.0.0.1:1\"", "127.0.0.1:2", "127.0.0.1:3"},
    {"unix-socket", "\"/tmp/a\"", "/tmp/b", "/tmp/c"},
    {"allow-client-shm", "true", "true", "1"},
    {"shm-max-bytes", "\"64MiB\"", "65MiB", "66MiB"},
    {"data-dir", "\"/tmp/a\"", "/tmp/b", "/tmp/c"},
    {"profile-dir", "\"/tmp/a\"", "/tmp/b", "/tmp/c"},
    {"address-file", "\"/tmp/a\"", "/tmp/b", "/tmp/c"},
    {"engine", "\"cpu\"", "cuda", "cpu"},
    {"cuda-devices", "2", "3", "0"},
    {"store-type", "\"dist_async\"", "dist_device_sync", "dist_async_device"},
    {"num-workers", "2", "3", "4"},
    {"policy", "\"shrink\"", "wait", "shrink"},
    {"round-deadline", "2", "3s", "4000ms"},
    {"lease", "\"2s\"", "3s", "4s"},
    {"barrier-deadline", "2.5", "3m", "4h"},
    {"shards", "2", "3", "4"},
    {"grpc-threads", "2", "3", "4"},
    {"credit", "\"64MiB\"", "65MiB", "66MiB"},
    {"max-memory", "1073741824", "2GiB", "3GiB"},
    {"max-connections", "2", "3", "4"},
    {"max-connections-per-ip", "2", "3", "4"},
    {"slow-reader-timeout", "\"2s\"", "3s", "4s"},
    {"drain-timeout", "\"2s\"", "3s", "4s"},
    {"drain-delay", "\"2s\"", "3s", "4s"},
    {"insecure-allow-remote", "true", "true", "1"},
    {"http-hosts", "\"a.example\"", "b.example", "c.example,d.example"},
    {"log-level", "\"debug\"", "warn", "error"},
    {"tcp-congestion", "\"bbr\"", "cubic", "reno"},
};
#define SAMPLES (sizeof samples / sizeof samples[0])

static char file_path[] = "/tmp/kvs_config_XXXXXX";

static void write_file(const char *text)
{
    FILE *file = fopen(file_path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(file_path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(file_path);
}

static kvs_status read_with(const char *const *flags, const char *const *environment,
                            kvs_config *out, kvs_problem *problem)
{
    const char *argv[16] = {"kvstored"};
    int argc = 1;
    kvs_config_action action;
    while (flags != NULL && flags[argc - 1] != NULL) {
        argv[argc] = flags[argc - 1];
        argc++;
    }
    static const char *const empty[] = {NULL};
    return kvs_config_read(argc, argv, environment != NULL ? environment : empty, &action, out,
                           problem);
}

/* "grpc-address" in the form of a variable or of a file's field. */
static void rename_to(const char *name, bool upper, char *out)
{
    for (; *name != '\0'; name++, out++) {
        *out = (char)(*name == '-' ? '_' : upper && *name >= 'a' ? *name - 'a' + 'A' : *name);
    }
    *out = '\0';
}

/* Reads setting `index` with the sources of `mask` (1 file, 2 variable, 4 flag) present. */
static void check_sources(size_t index, unsigned mask)
{
    char field[64];
    char variable[128] = "KVSTORED_";
    char flag[128];
    char file[256];
    const char *flags[4] = {NULL};
    const char *environment[2] = {NULL};
    size_t count = 0;
    kvs_config config;
    kvs_problem problem = {.detail = ""};
    rename_to(samples[index].name, false, field);
    (void)snprintf(file, sizeof file, "{\"%s\": %s}", field, samples[index].file);
    write_file(file);
    if ((mask & 1) != 0) {
        flags[count++] = "--config";
        flags[count++] = file_path;
    }
    if ((mask & 2) != 0) {
        char name[64];
        rename_to(samples[index].name, true, name);
        (void)snprintf(variable, sizeof variable, "KVSTORED_%s=%s", name, samples[index].variable);
        environment[0] = variable;
    }
    if ((mask & 4) != 0) {
        (void)snprintf(flag, sizeof flag, "--%s=%s", samples[index].name, samples[index].flag);
        flags[count++] = flag;
    }
    if (read_with(flags, environment, &config, &problem) != KVS_OK) {
        fail_msg("%s: %s", samples[index].name, problem.detail);
    }
    kvs_config_source source;
    const char *text = kvs_config_text(&config, index, &source);
    if ((mask & 4) != 0) {
        assert_int_equal(source, KVS_FROM_FLAG);
        assert_string_equal(text, samples[index].flag);
    } else if ((mask & 2) != 0) {
        assert_int_equal(source, KVS_FROM_ENVIRONMENT);
        assert_string_equal(text, samples[index].variable);
    } else if ((mask & 1) != 0) {
        assert_int_equal(source, KVS_FROM_FILE);
        assert_non_null(strstr(samples[index].file, text));
    } else {
        assert_int_equal(source, KVS_FROM_DEFAULT);
    }
    kvs_config_deinit(&config);
}

static void every_setting_obeys_flag_over_variable_over_file_over_default(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        assert_string_equal(kvs_config_name(i), samples[i].name);
        for (unsigned mask = 0; mask < 8; mask++) {
            check_sources(i, mask);
        }
    }
    assert_null(kvs_config_name(SAMPLES)); /* a new setting needs its sample */
}

static void values_arrive_where_the_server_reads_them(void **state)
{
    const char *const flags[] = {"--num-workers", "4",    "--lease=2s", "--credit", "64MiB",
                                 "--policy",      "wait", "--engine",   "cuda",     NULL};
    kvs_config config;
    (void)state;
    assert_int_equal(read_with(flags, NULL, &config, NULL), KVS_OK);
    assert_int_equal(config.num_workers, 4);
    assert_int_equal(config.lease_ns, 2 * KVS_SECOND);
    assert_int_equal(config.credit_bytes, 64 * KVS_MIB);
    assert_int_equal(config.policy, KVS_POLICY_WAIT);
    assert_int_equal(config.engine, KVS_ENGINE_CUDA);
    assert_int_equal(config.round_deadline_ns, KVS_ROUND_DEADLINE_NS);
    assert_int_equal(config.barrier_deadline_ns, KVS_BARRIER_DEADLINE_NS);
    assert_string_equal(config.grpc_address, "127.0.0.1:9400");
    assert_string_equal(config.unix_socket, "");
    assert_false(config.insecure_allow_remote);
    kvs_config_deinit(&config);
}

static void check_refused(const char *const *flags, const char *const *environment,
                          const char *expected)
{
    kvs_config config;
    kvs_problem problem = {.detail = ""};
    assert_int_equal(read_with(flags, environment, &config, &problem), KVS_INVALID_FIELD);
    if (strstr(problem.detail, expected) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", problem.detail, expected);
    }
}

/* The table has its defaults as text; the engine has them as numbers. They must not drift apart. */
static void defaults_are_those_of_the_limits(void **state)
{
    const char *const flags[] = {NULL};
    kvs_config config;
    (void)state;
    assert_int_equal(read_with(flags, NULL, &config, NULL), KVS_OK);
    assert_int_equal(config.credit_bytes, KVS_CREDIT_BYTES_DEFAULT);
    assert_int_equal(config.lease_ns, KVS_LEASE_NS);
    assert_int_equal(config.round_deadline_ns, KVS_ROUND_DEADLINE_NS);
    assert_int_equal(config.barrier_deadline_ns, KVS_BARRIER_DEADLINE_NS);
    kvs_config_deinit(&config);
}

static void unknown_names_are_fatal_with_a_suggestion(void **state)
{
    const char *const flag[] = {"--num-worker", "4", NULL};
    const char *const variable[] = {"KVSTORED_GRPC_ADRESS=127.0.0.1:1", NULL};
    const char *const file[] = {"--config", file_path, NULL};
    const char *const word[] = {"serve", NULL};
    (void)state;
    check_refused(flag, NULL, "did you mean --num-workers?");
    check_refused(NULL, variable, "did you mean KVSTORED_GRPC_ADDRESS?");
    write_file("{\"num-workers\": 2}");
    check_refused(file, NULL, "did you mean num_workers?");
    check_refused(word, NULL, "serve is no flag");
}

static void wrong_values_name_setting_and_source(void **state)
{
    static const struct {
        const char *flag;
        const char *expected;
    } cases[] = {
        {"--num-workers=0", "num-workers is \"0\" (flag)"},
        {"--num-workers=4097", "1 to 4096"},
        {"--lease=soon", "lease is \"soon\""},
        {"--lease=0s", "too small"},
        {"--credit=1KiB", "too small"},
        {"--policy=maybe", "fail, shrink, wait"},
        {"--engine=tpu", "auto, cpu, cuda"},
        {"--store-type=local", "must contain \"dist\""},
        {"--grpc-address=9400", "must be an address"},
        {"--http-address=", "must be an address"},
        {"--insecure-allow-remote=perhaps", "true or false"},
        {"--num-workers", "needs a value"},
    };
    const char *const variable[] = {"KVSTORED_SHARDS=many", NULL};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const flags[] = {cases[i].flag, NULL};
        check_refused(flags, NULL, cases[i].expected);
    }
    check_refused(NULL, variable, "shards is \"many\" (environment)");
}

static void other_machines_get_in_only_when_that_is_said(void **state)
{
    const char *const grpc[] = {"--grpc-address=0.0.0.0:9400", NULL};
    const char *const http[] = {"--http-address=[::]:9401", NULL};
    const char *const meant[] = {"--http-address=[::]:9401", "--insecure-allow-remote", NULL};
    const char *const nowhere[] = {"--grpc-address=", NULL};
    kvs_config config;
    (void)state;
    check_refused(grpc, NULL, "--insecure-allow-remote");
    check_refused(http, NULL, "--insecure-allow-remote");
    check_refused(nowhere, NULL, "--unix-socket");
    assert_int_equal(read_with(meant, NULL, &config, NULL), KVS_OK);
    kvs_config_deinit(&config);
}

static void variables_of_others_are_left_alone(void **state)
{
    const char *const environment[] = {"KVSTORED_CPU=baseline",
                                       "KVSTORED_SERVICE_HOST=10.0.0.1",
                                       "KVSTORED_PORT_9400_TCP=tcp://10.0.0.1:9400",
                                       "KVSTORED_PORT=tcp://10.0.0.1:9400",
                                       "KVSTORE_ENDPOINT=x",
                                       "PATH=/bin",
                                       NULL};
    kvs_config config;
    (void)state;
    assert_int_equal(read_with(NULL, environment, &config, NULL), KVS_OK);
    kvs_config_deinit(&config);
}

static void files_that_cannot_be_read_are_refused(void **state)
{
    const char *const flags[] = {"--config", file_path, NULL};
    const char *const none[] = {"--config", "/nonexistent/kvstored.json", NULL};
    const char *const bad[] = {"",
                               "[]",
                               "{\"lease\": null}",
                               "{\"lease\": [1]}",
                               "{\"lease\": 1, \"lease\": 2}",
                               "{\"lease\": 1"};
    kvs_config config;
    kvs_problem problem;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_file(bad[i]);
        assert_int_not_equal(read_with(flags, NULL, &config, &problem), KVS_OK);
    }
    assert_int_equal(read_with(none, NULL, &config, &problem), KVS_IO_ERROR);
}

static void a_file_may_be_named_by_a_variable(void **state)
{
    char variable[128];
    (void)snprintf(variable, sizeof variable, "KVSTORED_CONFIG=%s", file_path);
    const char *const environment[] = {variable, NULL};
    kvs_config config;
    (void)state;
    write_file("{\"num_workers\": 7}");
    assert_int_equal(read_with(NULL, environment, &config, NULL), KVS_OK);
    assert_int_equal(config.num_workers, 7);
    kvs_config_deinit(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_setting_obeys_flag_over_variable_over_file_over_default),
        cmocka_unit_test(values_arrive_where_the_server_reads_them),
        cmocka_unit_test(defaults_are_those_of_the_limits),
        cmocka_unit_test(unknown_names_are_fatal_with_a_suggestion),
        cmocka_unit_test(wrong_values_name_setting_and_source),
        cmocka_unit_test(other_machines_get_in_only_when_that_is_said),
        cmocka_unit_test(variables_of_others_are_left_alone),
        cmocka_unit_test(files_that_cannot_be_read_are_refused),
        cmocka_unit_test(a_file_may_be_named_by_a_variable),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
