/* The gRPC door of the process: data plane, gRPC Admin, health and reflection, on TCP and Unix.
 *
 * Order: open, (port), drain, close. Between open and close it ticks the engine by itself.
 * Threads: one caller; listener_dead is called from a thread of the door.
 * Memory: the options' texts are copied; engine and admin are borrowed until close.
 * Errors: KVS_IO_ERROR when an address cannot be bound (the detail names it), KVS_INVALID_FIELD
 *   for an address that cannot be read, KVS_NO_MEMORY. Nothing is left behind then.
 */
#ifndef KVS_SERVICE_GRPC_SERVER_H
#define KVS_SERVICE_GRPC_SERVER_H

#include "base/status.h"
#include "engine/engine.h"
#include "service/admin.h"

typedef struct kvs_grpc_server kvs_grpc_server;

typedef struct kvs_grpc_options {
    struct kvs_profile *profile; /* borrowed until close; may be NULL */
    kvs_engine *engine;
    kvs_admin *admin;
    const char *address;             /* "127.0.0.1:9400", "[::1]:0"; NULL or "": no TCP */
    const char *unix_path;           /* NULL or "": no Unix socket */
    struct kvs_arena *arena;         /* borrowed: where values lie; may be NULL */
    uint64_t shm_bytes_max;          /* shared with workers at the Unix socket; 0: none is */
    uint32_t threads;                /* that poll; 0: 1 */
    uint32_t connections_max;        /* 0: 1024 */
    uint32_t connections_per_ip_max; /* 0: no bound; Unix peers are not counted */
    uint64_t slow_reader_ns;         /* 0: 30 s */
    const char *tcp_congestion;      /* NULL or "": the system's */
    /* The door no longer answers its own health check (three times in a row). Once. */
    void (*listener_dead)(void *context);
    void *context;
} kvs_grpc_options;

kvs_status kvs_grpc_server_open(const kvs_grpc_options *options, kvs_grpc_server **out,
                                kvs_problem *problem) KVS_MUST_CHECK;

/* The TCP port in use, or 0 without TCP. */
uint16_t kvs_grpc_server_port(const kvs_grpc_server *server);

/* "127.0.0.1:43210", or "" without TCP. Borrowed. */
const char *kvs_grpc_server_address(const kvs_grpc_server *server);

/* True while the own health check succeeds and nothing drains: what readiness asks. */
bool kvs_grpc_server_ready(const kvs_grpc_server *server);

/* From now on health says NOT_SERVING, sessions are told to drain and Register is refused. */
void kvs_grpc_server_drain(kvs_grpc_server *server);

/* Accepts no more, lets what is in flight end for up to `deadline_ns` from now, cancels the rest.
 * Whoever still waits is released by kvs_admin_stop and by deleting all stores. Accepts NULL.
 * KVS_DEADLINE when something had to be cancelled; everything is closed all the same.
 * KVS_INTERNAL when somebody still holds a call: end the process without closing the engine. */
kvs_status kvs_grpc_server_close(kvs_grpc_server *server, uint64_t deadline_ns);

/* Tells the watchers of a store of a command: what kvs_admin_options.command wants. */
void kvs_grpc_server_command(void *server, const char *store, int32_t head, const char *body);

/* "29.0.0": of the C core. */
const char *kvs_grpc_core_version(void);

typedef struct kvs_grpc_statistics {
    uint64_t connections, connections_accepted, connections_refused;
    uint64_t calls, calls_started, probes_failed;
    uint64_t shm_regions, shm_bytes;
} kvs_grpc_statistics;
void kvs_grpc_server_count(const kvs_grpc_server *server, kvs_grpc_statistics *out);

#endif
