#include "service/grpc_server.h"

#include "base/clock.h"
#include "base/log.h"
#include "service/door.h"
#include "service/listener.h"
#include "service/regions.h"
#include "service/selfprobe.h"
#include "service/watch.h"
#include "service/workers.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_DEFAULT 1024u
#define SLOW_READER_DEFAULT_NS (30 * KVS_SECOND)
/* Admin calls that run at once, and that wait for a thread. */
#define ADMIN_THREADS 16u
#define ADMIN_JOBS 256u
#define LOOK_NS (100 * KVS_MS)
#define TELL_NS (3 * LOOK_NS)
#define METHODS_MAX 64u
/* After everything is cancelled: time for the last events to come back from the core. */
#define CLOSE_NS (5 * KVS_SECOND)
#define STORES_AT_ONCE 16u

struct kvs_grpc_server {
    kvs_grpc_options options;
    kvs_door door;
    kvs_rpc *rpc;
    kvs_listener *listener;
    kvs_selfprobe *probe;
    const kvs_method *methods[METHODS_MAX];
    size_t method_count;
    uint64_t next_look_ns;
};

static kvs_grpc_server *server_of(void *door)
{
    return (kvs_grpc_server *)(void *)((char *)door - offsetof(kvs_grpc_server, door));
}

static void tick(void *context, uint64_t now_ns)
{
    kvs_grpc_server *server = server_of(context);
    kvs_engine_tick(server->door.engine, now_ns);
    if (now_ns >= server->next_look_ns) {
        server->next_look_ns = now_ns + LOOK_NS;
        kvs_door_look(&server->door, now_ns);
    }
}

static void adopt(void *context, int fd)
{
    kvs_grpc_server *server = context;
    kvs_rpc_adopt(server->rpc, fd);
}

static uint64_t served(void *context)
{
    return kvs_rpc_served(((kvs_grpc_server *)context)->rpc);
}

static void found_dead(void *context)
{
    const kvs_grpc_server *server = context;
    server->options.listener_dead(server->options.context);
}

static void gather_methods(kvs_grpc_server *server)
{
    const kvs_method *const *const tables[] = {
        kvs_data_methods,  kvs_control_methods, kvs_session_methods, kvs_watch_methods,
        kvs_admin_methods, kvs_value_methods,   kvs_health_methods,  kvs_reflection_methods};
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        for (const kvs_method *const *at = tables[i]; *at != NULL; at++) {
            server->methods[server->method_count++] = *at;
        }
    }
}

static kvs_status start(kvs_grpc_server *server, kvs_problem *problem)
{
    const kvs_grpc_options *options = &server->options;
    kvs_rpc_options rpc = {
        .methods = server->methods,
        .method_count = server->method_count,
        .context = &server->door,
        .threads = options->threads == 0 ? 1 : options->threads,
        .slow_reader_ns =
            options->slow_reader_ns == 0 ? SLOW_READER_DEFAULT_NS : options->slow_reader_ns,
        .tick = tick,
    };
    kvs_status status = kvs_workers_open(ADMIN_THREADS, ADMIN_JOBS, &server->door.workers);
    if (status == KVS_OK) {
        status = kvs_rpc_open(&rpc, &server->rpc);
    }
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "cannot start the gRPC server");
    }
    kvs_listener_options listener = {
        .address = options->address,
        .unix_path = options->unix_path,
        .tcp_congestion = options->tcp_congestion,
        .connections_max =
            options->connections_max == 0 ? CONNECTIONS_DEFAULT : options->connections_max,
        .connections_per_ip_max = options->connections_per_ip_max,
        .adopt = adopt,
        .context = server,
    };
    KVS_TRY(kvs_listener_open(&listener, &server->listener, problem));
    if (options->shm_bytes_max > 0 && kvs_listener_unix_path(server->listener)[0] != '\0') {
        kvs_regions_options regions = {.door = &server->door,
                                       .arena = options->arena,
                                       .unix_path = kvs_listener_unix_path(server->listener),
                                       .bytes_max = options->shm_bytes_max};
        KVS_TRY(kvs_regions_open(&regions, &server->door.regions, problem));
    }
    const char *address = kvs_listener_address(server->listener);
    kvs_selfprobe_options probe = {
        .address = address[0] != '\0' ? address : kvs_listener_unix_path(server->listener),
        .listener = server->listener,
        .served = served,
        .dead = found_dead,
        .context = server,
    };
    status = kvs_selfprobe_open(&probe, &server->probe);
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "cannot start the self-probe");
    }
    return KVS_OK;
}

kvs_status kvs_grpc_server_open(const kvs_grpc_options *options, kvs_grpc_server **out,
                                kvs_problem *problem)
{
    bool tcp = options->address != NULL && options->address[0] != '\0';
    bool local = options->unix_path != NULL && options->unix_path[0] != '\0';
    if (!tcp && !local) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "neither a TCP address nor a socket");
    }
    kvs_grpc_server *server = calloc(1, sizeof(*server));
    if (server == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the gRPC server");
    }
    server->options = *options;
    server->door.engine = options->engine;
    server->door.admin = options->admin;
    server->door.profile = options->profile;
    server->door.silence_ns =
        options->slow_reader_ns == 0 ? SLOW_READER_DEFAULT_NS : options->slow_reader_ns;
    pthread_mutex_init(&server->door.lock, NULL);
    gather_methods(server);
    kvs_status status = start(server, problem);
    if (status != KVS_OK) {
        (void)kvs_grpc_server_close(server, 0);
        return status;
    }
    *out = server;
    return KVS_OK;
}

uint16_t kvs_grpc_server_port(const kvs_grpc_server *server)
{
    return kvs_listener_port(server->listener);
}

const char *kvs_grpc_server_address(const kvs_grpc_server *server)
{
    return kvs_listener_address(server->listener);
}

bool kvs_grpc_server_ready(const kvs_grpc_server *server)
{
    return kvs_selfprobe_healthy(server->probe) &&
           !atomic_load_explicit(&server->door.draining, memory_order_acquire);
}

void kvs_grpc_server_drain(kvs_grpc_server *server)
{
    atomic_store_explicit(&server->door.draining, true, memory_order_release);
}

/* Releases whoever waits in a store: barriers, rounds, inits. */
static void delete_stores(kvs_engine *engine)
{
    kvs_store *stores[STORES_AT_ONCE];
    size_t count;
    while ((count = kvs_store_list(engine, 0, STORES_AT_ONCE, stores)) > 0) {
        for (size_t i = 0; i < count; i++) {
            kvs_store_info info;
            kvs_store_describe(stores[i], &info);
            kvs_problem problem;
            kvs_status status = kvs_store_delete(engine, info.name, kvs_clock_now_ns(), &problem);
            kvs_store_unref(stores[i]);
            if (status != KVS_OK && status != KVS_STORE_NOT_FOUND) {
                kvs_log(KVS_LOG_ERROR, "store_not_deleted", "reason=%s",
                        kvs_status_find(status)->reason);
            }
        }
    }
}

/* False when something was still under way at the deadline. Streams are ended by kvs_door_look and
 * by themselves, once idle; what waits for workers who are not there is refused by the engine;
 * those that last are not waited for, but are told. */
static bool let_end(kvs_grpc_server *server, uint64_t deadline_ns)
{
    uint64_t began_ns = kvs_clock_now_ns();
    atomic_store_explicit(&server->door.stopping, true, memory_order_release);
    kvs_engine_drain(server->door.engine);
    for (;;) {
        uint64_t passed_ns = kvs_clock_now_ns() - began_ns;
        bool busy = kvs_rpc_calls(server->rpc, false) != 0;
        bool told = passed_ns >= TELL_NS || kvs_rpc_calls(server->rpc, true) == 0;
        if (!busy && told) {
            return true;
        }
        if (busy && passed_ns >= deadline_ns) {
            return false;
        }
        (void)usleep(5000);
    }
}

kvs_status kvs_grpc_server_close(kvs_grpc_server *server, uint64_t deadline_ns)
{
    if (server == NULL) {
        return KVS_OK;
    }
    kvs_status status = KVS_OK;
    kvs_selfprobe_close(server->probe);
    kvs_grpc_server_drain(server);
    kvs_listener_close(server->listener);
    if (server->rpc != NULL) {
        kvs_rpc_stop(server->rpc);
        if (!let_end(server, deadline_ns)) {
            status = KVS_DEADLINE;
        }
        kvs_admin_stop(server->door.admin);
        kvs_rpc_cancel(server->rpc);
        delete_stores(server->door.engine);
    }
    kvs_regions_close(server->door.regions);
    kvs_workers_close(server->door.workers);
    if (server->rpc != NULL && !kvs_rpc_close(server->rpc, CLOSE_NS)) {
        kvs_log(KVS_LOG_ERROR, "calls_left", "count=%zu", kvs_rpc_calls(server->rpc, true));
        return KVS_INTERNAL; /* somebody still holds them: nothing may be freed */
    }
    kvs_regions_free(server->door.regions);
    pthread_mutex_destroy(&server->door.lock);
    free(server);
    return status;
}

void kvs_grpc_server_command(void *server, const char *store, int32_t head, const char *body)
{
    kvs_watch_command(&((kvs_grpc_server *)server)->door, store, head, body);
}

const char *kvs_grpc_core_version(void)
{
    return kvs_rpc_core_version();
}

void kvs_grpc_server_count(const kvs_grpc_server *server, kvs_grpc_statistics *out)
{
    kvs_listener_statistics listener;
    kvs_listener_count(server->listener, &listener);
    out->connections = listener.open;
    out->connections_accepted = listener.accepted;
    out->connections_refused = listener.refused + listener.silent;
    out->calls = kvs_rpc_calls(server->rpc, true);
    out->calls_started = kvs_rpc_started(server->rpc);
    if (server->door.regions != NULL) {
        kvs_regions_statistics shared;
        kvs_regions_count(server->door.regions, &shared);
        out->shm_regions = shared.regions;
        out->shm_bytes = shared.bytes;
    }
    out->probes_failed = kvs_selfprobe_failures(server->probe);
}
