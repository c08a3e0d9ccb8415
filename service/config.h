/* What the server is told: flag over KVSTORED_X over --config FILE (JSON) over default, merged
 * setting by setting. One table (config.c) makes flags, variables, file fields and --help.
 *
 * A setting "grpc-address" is --grpc-address, KVSTORED_GRPC_ADDRESS, and "grpc_address" in a file.
 * Durations: 500ms, 60s, 10m, 2h (a bare number is seconds). Sizes: 4096, 32MiB, 4GiB.
 *
 * Threads: one. Memory: the configuration owns its texts.
 * Errors: KVS_INVALID_FIELD; the detail names the setting, where it came from, and for an unknown
 *   one what may have been meant. KVS_IO_ERROR for a file that cannot be read.
 */
#ifndef KVS_SERVICE_CONFIG_H
#define KVS_SERVICE_CONFIG_H

#include "base/log.h"
#include "base/status.h"
#include "engine/engine.h"

#include <stdio.h>

typedef enum kvs_config_action {
    KVS_CONFIG_RUN,
    KVS_CONFIG_CHECK,
    KVS_CONFIG_PRINT,
    KVS_CONFIG_HELP,
    KVS_CONFIG_VERSION
} kvs_config_action;

typedef enum kvs_config_source {
    KVS_FROM_DEFAULT,
    KVS_FROM_FILE,
    KVS_FROM_ENVIRONMENT,
    KVS_FROM_FLAG
} kvs_config_source;

typedef enum kvs_engine_choice {
    KVS_ENGINE_AUTO,
    KVS_ENGINE_CPU,
    KVS_ENGINE_CUDA
} kvs_engine_choice;

/* The settings as the server uses them. Texts are never NULL; "" means none. */
typedef struct kvs_config {
    const char *grpc_address;
    const char *http_address;
    const char *unix_socket;
    const char *data_dir;
    const char *profile_dir;
    const char *address_file;
    const char *store_type;
    const char *http_hosts;
    const char *tcp_congestion;
    kvs_engine_choice engine;
    kvs_policy policy;
    kvs_log_level log_level;
    uint32_t num_workers;
    uint32_t cuda_devices; /* 0: all */
    uint32_t shards;       /* 0: as the machine has processors */
    uint32_t grpc_threads;
    uint32_t max_connections;
    uint32_t max_connections_per_ip; /* 0: no bound */
    uint64_t round_deadline_ns;
    uint64_t lease_ns;
    uint64_t barrier_deadline_ns;
    uint64_t slow_reader_timeout_ns;
    uint64_t drain_timeout_ns;
    uint64_t drain_delay_ns;
    uint64_t credit_bytes;
    uint64_t max_memory_bytes; /* 0: what the machine has */
    uint64_t shm_max_bytes;
    bool allow_client_shm;
    bool insecure_allow_remote;

    struct kvs_config_values *values; /* config.c's: each setting's text and source */
} kvs_config;

/* `environment` as environ. *out is filled with KVS_CONFIG_RUN, CHECK and PRINT only. */
kvs_status kvs_config_read(int argc, const char *const *argv, const char *const *environment,
                           kvs_config_action *action, kvs_config *out,
                           kvs_problem *problem) KVS_MUST_CHECK;
void kvs_config_deinit(kvs_config *config);

/* The name of setting `index`, or NULL behind the last. */
const char *kvs_config_name(size_t index);
/* Its text and where that came from. */
const char *kvs_config_text(const kvs_config *config, size_t index, kvs_config_source *source);

void kvs_config_print(const kvs_config *config, FILE *to);
void kvs_config_help(FILE *to);

#endif
