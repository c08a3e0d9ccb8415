#include "service/settings.h"

#include "base/check.h"
#include "service/address.h"
#include "service/quantity.h"

#include <inttypes.h>
#include <string.h>

#define ROW(name, kind, fallback, member, help, ...)                                               \
    {                                                                                              \
        name, KVS_SETTING_##kind, fallback, offsetof(kvs_config, member), help, __VA_ARGS__        \
    }
#define NO_BOUNDS                                                                                  \
    0, 0,                                                                                          \
    {                                                                                              \
        NULL                                                                                       \
    }
#define BOUNDS(min, max)                                                                           \
    min, max,                                                                                      \
    {                                                                                              \
        NULL                                                                                       \
    }
#define CHOICES(...)                                                                               \
    0, 0,                                                                                          \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static const kvs_setting settings[] = {
    ROW("grpc-address", ADDRESS_OR_NONE, "127.0.0.1:9400", grpc_address,
        "where push, pull and the rest of gRPC listens; port 0: any; empty: Unix socket only",
        NO_BOUNDS),
    ROW("http-address", ADDRESS, "127.0.0.1:9401", http_address, "where REST listens", NO_BOUNDS),
    ROW("unix-socket", TEXT, "", unix_socket, "path of a Unix socket for gRPC", NO_BOUNDS),
    ROW("allow-client-shm", SWITCH, "false", allow_client_shm,
        "workers at the Unix socket may push from memory that they share with the server",
        NO_BOUNDS),
    ROW("shm-max-bytes", SIZE, "1GiB", shm_max_bytes, "of such memory, for all workers together",
        NO_BOUNDS),
    ROW("data-dir", TEXT, "", data_dir, "folder that keeps the epoch over restarts", NO_BOUNDS),
    ROW("profile-dir", TEXT, "", profile_dir,
        "folder for profiles taken by command; empty: none are", NO_BOUNDS),
    ROW("address-file", TEXT, "", address_file,
        "file that receives {\"grpc\": ..., \"http\": ...} once ready", NO_BOUNDS),
    ROW("engine", CHOICE, "auto", engine, "auto, cpu or cuda", CHOICES("auto", "cpu", "cuda")),
    ROW("cuda-devices", COUNT, "1", cuda_devices, "GPUs that share the shards; 0: all there are",
        BOUNDS(0, KVS_DEVICES_MAX)),
    ROW("store-type", STORE_TYPE, "dist_sync", store_type, "type of the store \"default\"",
        NO_BOUNDS),
    ROW("num-workers", COUNT, "1", num_workers, "ranks of the store \"default\"",
        BOUNDS(1, KVS_WORKERS_MAX)),
    ROW("policy", CHOICE, "fail", policy,
        "what a round does that misses a rank: fail, shrink or wait",
        CHOICES("fail", "shrink", "wait")),
    ROW("round-deadline", DURATION, "60s", round_deadline_ns, "how long a round may stay open",
        BOUNDS(1, 0)),
    ROW("lease", DURATION, "10s", lease_ns, "how long a silent worker counts as live",
        BOUNDS(1, 0)),
    ROW("barrier-deadline", DURATION, "600s", barrier_deadline_ns,
        "how long a barrier waits for the last rank", BOUNDS(1, 0)),
    ROW("shards", COUNT, "0", shards, "shards of a store; 0: as the machine has processors",
        BOUNDS(0, KVS_SHARDS_MAX)),
    ROW("grpc-threads", COUNT, "1", grpc_threads, "threads that serve gRPC", BOUNDS(1, 64)),
    ROW("credit", SIZE, "8MiB", credit_bytes, "bytes that a worker may have on their way",
        BOUNDS(KVS_PART_BYTES_MAX, 0)),
    ROW("max-memory", SIZE, "0", max_memory_bytes,
        "bytes of weights, states and waiting gradients; 0: what the machine has", NO_BOUNDS),
    ROW("max-connections", COUNT, "1024", max_connections, "connections of each door",
        BOUNDS(1, 100000)),
    ROW("max-connections-per-ip", COUNT, "0", max_connections_per_ip,
        "connections from one address; 0: no bound", BOUNDS(0, 100000)),
    ROW("slow-reader-timeout", DURATION, "30s", slow_reader_timeout_ns,
        "how long a reader may hold up a send", BOUNDS(1, 0)),
    ROW("drain-timeout", DURATION, "10s", drain_timeout_ns,
        "how long a stop waits for what is under way", NO_BOUNDS),
    ROW("drain-delay", DURATION, "0s", drain_delay_ns,
        "how long a stop says so before it closes the doors", NO_BOUNDS),
    ROW("insecure-allow-remote", SWITCH, "false", insecure_allow_remote,
        "listen beyond this machine although nobody is asked for credentials", NO_BOUNDS),
    ROW("http-hosts", TEXT, "", http_hosts, "names, with commas, that REST is reached by",
        NO_BOUNDS),
    ROW("log-level", CHOICE, "info", log_level, "error, warn, info or debug",
        CHOICES("error", "warn", "info", "debug")),
    ROW("tcp-congestion", TEXT, "", tcp_congestion, "congestion control of gRPC's connections",
        NO_BOUNDS),
};

_Static_assert(sizeof settings / sizeof settings[0] == KVS_SETTINGS, "KVS_SETTINGS counts them");

const kvs_setting *kvs_setting_at(size_t index)
{
    KVS_CHECK(index < KVS_SETTINGS);
    return &settings[index];
}

size_t kvs_setting_find(const char *name, size_t bytes)
{
    size_t index = 0;
    while (index < KVS_SETTINGS && (strlen(settings[index].name) != bytes ||
                                    memcmp(settings[index].name, name, bytes) != 0)) {
        index++;
    }
    return index;
}

/* ------------------------------------------------------------------ values */

/* One text on its way into the configuration. */
typedef struct entry {
    const kvs_setting *setting;
    const char *text;
    const char *source;
    void *out;
    kvs_problem *problem;
} entry;

static kvs_status wrong(const entry *from, const char *expected)
{
    return kvs_problem_set(from->problem, KVS_INVALID_FIELD, "%s is \"%.60s\" (%s): %s",
                           from->setting->name, from->text, from->source, expected);
}

static kvs_status store_choice(const entry *from)
{
    char expected[80] = "it is none of";
    size_t used = strlen(expected);
    for (int i = 0; i < 4 && from->setting->choices[i] != NULL; i++) {
        if (strcmp(from->setting->choices[i], from->text) == 0) {
            memcpy(from->out, &i, sizeof i); /* every enumeration is an int that starts at 0 */
            return KVS_OK;
        }
        used += (size_t)snprintf(expected + used, sizeof expected - used, "%s %s", i > 0 ? "," : "",
                                 from->setting->choices[i]);
    }
    return wrong(from, expected);
}

static kvs_status store_count(const entry *from)
{
    uint64_t number;
    if (!kvs_count_parse(from->text, from->setting->max, &number) || number < from->setting->min) {
        char expected[80];
        (void)snprintf(expected, sizeof expected, "it must be %" PRIu64 " to %" PRIu64,
                       from->setting->min, from->setting->max);
        return wrong(from, expected);
    }
    uint32_t narrow = (uint32_t)number;
    memcpy(from->out, &narrow, sizeof narrow);
    return KVS_OK;
}

static kvs_status store_quantity(const entry *from)
{
    uint64_t number;
    if (from->setting->kind == KVS_SETTING_DURATION) {
        if (!kvs_duration_parse(from->text, &number)) {
            return wrong(from, "it must be a time like 500ms, 60s, 10m or 2h");
        }
    } else if (!kvs_size_parse(from->text, &number)) {
        return wrong(from, "it must be a size like 4096, 32MiB or 4GiB");
    }
    if (number < from->setting->min) {
        return wrong(from, "it is too small");
    }
    memcpy(from->out, &number, sizeof number);
    return KVS_OK;
}

static kvs_status store_text(const entry *from)
{
    kvs_setting_kind kind = from->setting->kind;
    kvs_address address;
    kvs_problem found;
    bool is_address = kind == KVS_SETTING_ADDRESS ||
                      (kind == KVS_SETTING_ADDRESS_OR_NONE && from->text[0] != '\0');
    if (is_address && kvs_address_parse(from->text, &address, &found) != KVS_OK) {
        return wrong(from, "it must be an address like 127.0.0.1:9400 or [::1]:9400");
    }
    if (kind == KVS_SETTING_STORE_TYPE && kvs_kind_of(from->text) == KVS_LOCAL) {
        return wrong(from, "it must contain \"dist\", as dist_sync and dist_async do");
    }
    memcpy(from->out, &from->text, sizeof from->text);
    return KVS_OK;
}

static kvs_status store_switch(const entry *from)
{
    bool on = strcmp(from->text, "true") == 0 || strcmp(from->text, "1") == 0;
    if (!on && strcmp(from->text, "false") != 0 && strcmp(from->text, "0") != 0) {
        return wrong(from, "it must be true or false");
    }
    memcpy(from->out, &on, sizeof on);
    return KVS_OK;
}

kvs_status kvs_setting_store(const kvs_setting *setting, const char *text, const char *source,
                             kvs_config *config, kvs_problem *problem)
{
    const entry from = {
        .setting = setting,
        .text = text,
        .source = source,
        .out = (char *)config + setting->offset,
        .problem = problem,
    };
    switch (setting->kind) {
    case KVS_SETTING_TEXT:
    case KVS_SETTING_ADDRESS:
    case KVS_SETTING_ADDRESS_OR_NONE:
    case KVS_SETTING_STORE_TYPE:
        return store_text(&from);
    case KVS_SETTING_CHOICE:
        return store_choice(&from);
    case KVS_SETTING_COUNT:
        return store_count(&from);
    case KVS_SETTING_DURATION:
    case KVS_SETTING_SIZE:
        return store_quantity(&from);
    case KVS_SETTING_SWITCH:
        break;
    }
    return store_switch(&from);
}
