/* kvstored: reads its settings, puts the parts together, serves until it is told to stop.
 *
 * The order of start: settings, epoch, profiler, backend, engine, store "default", admin plane,
 * gRPC, REST, address file. The order of a stop is the reverse; what is under way has drain_timeout
 * to end.
 */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/backend_cpu.h"
#include "engine/engine.h"
#include "service/admin.h"
#include "service/arena.h"
#include "service/config.h"
#include "service/epoch.h"
#include "service/grpc_server.h"
#include "service/profiler.h"
#include "service/rest.h"
#include "service/rpc.h"
#include "service/whole_file.h"
#if KVS_HAVE_CUDA
#include "cuda/backend_cuda.h"
#endif

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef KVS_VERSION
#define KVS_VERSION "0.0.0"
#endif

/* What the process ends with (docs/OPERATIONS.md). */
enum {
    EXIT_CLEAN = 0,
    EXIT_CONFIG = 2,
    EXIT_BIND = 3,
    EXIT_DATA = 4,
    EXIT_DEVICE = 6,
    EXIT_IO = 7,
    EXIT_LISTENER = 8,
    EXIT_FORCED = 9,
    EXIT_START = 70
};

/* Told by the gRPC door that it no longer answers itself. */
#define SIGNAL_LISTENER_DEAD SIGUSR1
/* How often the backend is looked at: a lost one ends the process. */
#define LOOK_NS (200L * 1000 * 1000)
/* More shards than this only cost: each is a right that one thread holds at a time. */
#define SHARDS_DEFAULT_MAX 16

typedef struct server {
    kvs_config config;
    kvs_epoch epoch;
    kvs_profiler *profiler; /* NULL: no profiles are taken */
    kvs_arena *arena;       /* NULL: values are in memory of this process alone */
    kvs_cpu_heap heap;
    kvs_backend *backend;
    kvs_engine *engine;
    kvs_admin *admin;
    kvs_grpc_server *grpc;
    kvs_rest *rest;
} server;

/* ------------------------------------------------------------------ start */

static int fail(int code, const char *what, const kvs_problem *problem)
{
    (void)fprintf(stderr, "kvstored: %s: %s\n", what, problem->detail);
    return code;
}

/* Memory that was used stays ours: giving every freed message back to the kernel and taking it
 * again costs more than summing it (docs/PERFORMANCE.md). */
static void tune_malloc(void)
{
    (void)mallopt(M_TRIM_THRESHOLD, 2000 * 1024 * 1024);
    (void)mallopt(M_TOP_PAD, 64 * 1024 * 1024);
    (void)mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024);
}

static kvs_status open_cuda(uint32_t devices, kvs_backend **out, kvs_problem *problem)
{
#if KVS_HAVE_CUDA
    return kvs_backend_cuda_open_devices(devices, out, problem);
#else
    (void)devices;
    (void)out;
    return kvs_problem_set(problem, KVS_UNAVAILABLE, "this program was built without CUDA");
#endif
}

static int open_backend(server *self)
{
    kvs_problem problem = {.detail = ""};
    kvs_engine_choice choice = self->config.engine;
    if (choice != KVS_ENGINE_CPU) {
        kvs_status status = open_cuda(self->config.cuda_devices, &self->backend, &problem);
        if (status == KVS_OK) {
            return EXIT_CLEAN;
        }
        if (choice == KVS_ENGINE_CUDA) {
            return fail(EXIT_DEVICE, "the CUDA engine does not start", &problem);
        }
        kvs_log(KVS_LOG_INFO, "engine_cpu", "reason=\"%s\"", problem.detail);
    }
    const kvs_cpu_heap *heap = NULL;
    if (self->config.allow_client_shm && self->config.unix_socket[0] != '\0') {
        if (kvs_arena_open(&self->arena) != KVS_OK) {
            return fail(EXIT_START, "no memory is shared", &problem);
        }
        self->heap = (kvs_cpu_heap){kvs_arena_alloc, kvs_arena_free, self->arena};
        heap = &self->heap;
    }
    if (kvs_backend_cpu_open_on(heap, NULL, &self->backend, &problem) != KVS_OK) {
        return fail(EXIT_CONFIG, "the CPU engine does not start", &problem);
    }
    return EXIT_CLEAN;
}

static uint32_t default_shards(void)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (processors < 1) {
        return 1;
    }
    return processors < SHARDS_DEFAULT_MAX ? (uint32_t)processors : SHARDS_DEFAULT_MAX;
}

static int open_engine(server *self)
{
    const kvs_config *config = &self->config;
    kvs_problem problem = {.detail = "no memory"};
    kvs_store *store = NULL;
    kvs_engine_options options = {
        .backend = self->backend,
        .shards = config->shards != 0 ? config->shards : default_shards(),
        .epoch = self->epoch.number,
        .credit_bytes = config->credit_bytes,
        .memory_bytes_max = config->max_memory_bytes,
        .profile = kvs_profiler_profile(self->profiler),
    };
    kvs_store_options first = {
        .name = "default",
        .type = config->store_type,
        .num_workers = config->num_workers,
        .policy = config->policy,
        .round_deadline_ns = config->round_deadline_ns,
        .lease_ns = config->lease_ns,
        .barrier_deadline_ns = config->barrier_deadline_ns,
    };
    if (kvs_engine_open(&options, &self->engine) != KVS_OK) {
        return fail(EXIT_START, "the engine does not start", &problem);
    }
    if (kvs_store_create(self->engine, &first, &store, &problem) != KVS_OK) {
        return fail(EXIT_CONFIG, "the store \"default\" cannot be made", &problem);
    }
    kvs_store_unref(store);
    return EXIT_CLEAN;
}

static void listener_dead(void *context)
{
    (void)context;
    (void)kill(getpid(), SIGNAL_LISTENER_DEAD);
}

static int bind_code(kvs_status status)
{
    return status == KVS_IO_ERROR ? EXIT_BIND : EXIT_START;
}

/* A command, from either plane, goes to those who watch its store. */
static void tell_command(void *context, const char *store, int32_t head, const char *body)
{
    kvs_grpc_server *grpc = ((server *)context)->grpc;
    if (grpc != NULL) {
        kvs_grpc_server_command(grpc, store, head, body);
    }
}

static int open_doors(server *self)
{
    const kvs_config *config = &self->config;
    kvs_problem problem = {.detail = "no memory"};
    kvs_admin_options admin = {.engine = self->engine,
                               .grpc_core = kvs_rpc_core_version(),
                               .profiler = self->profiler,
                               .command = tell_command,
                               .command_context = self};
    if (kvs_admin_open(&admin, &self->admin) != KVS_OK) {
        return fail(EXIT_START, "the admin plane does not start", &problem);
    }
    if (config->allow_client_shm && config->unix_socket[0] == '\0') {
        kvs_log(KVS_LOG_WARN, "nothing_is_shared",
                "reason=\"--allow-client-shm needs --unix-socket\"");
    }
    kvs_grpc_options grpc = {
        .profile = kvs_profiler_profile(self->profiler),
        .engine = self->engine,
        .admin = self->admin,
        .address = config->grpc_address,
        .unix_path = config->unix_socket,
        .arena = self->arena,
        .shm_bytes_max = config->allow_client_shm ? config->shm_max_bytes : 0,
        .threads = config->grpc_threads,
        .connections_max = config->max_connections,
        .connections_per_ip_max = config->max_connections_per_ip,
        .slow_reader_ns = config->slow_reader_timeout_ns,
        .tcp_congestion = config->tcp_congestion,
        .listener_dead = listener_dead,
    };
    kvs_status status = kvs_grpc_server_open(&grpc, &self->grpc, &problem);
    if (status != KVS_OK) {
        return fail(bind_code(status), "the gRPC door does not open", &problem);
    }
    kvs_rest_options rest = {
        .engine = self->engine,
        .admin = self->admin,
        .grpc = self->grpc,
        .address = config->http_address,
        .hosts = config->http_hosts,
        .connections_max = config->max_connections,
        .connections_per_ip_max = config->max_connections_per_ip,
        .slow_reader_ns = config->slow_reader_timeout_ns,
    };
    status = kvs_rest_open(&rest, &self->rest, &problem);
    if (status != KVS_OK) {
        return fail(bind_code(status), "the HTTP door does not open", &problem);
    }
    return EXIT_CLEAN;
}

static int write_addresses(const server *self)
{
    char text[256];
    kvs_problem problem = {.detail = ""};
    if (self->config.address_file[0] == '\0') {
        return EXIT_CLEAN;
    }
    (void)snprintf(text, sizeof text, "{\"grpc\": \"%s\", \"http\": \"%s\"}\n",
                   kvs_grpc_server_address(self->grpc), kvs_rest_address(self->rest));
    if (kvs_whole_file_write(self->config.address_file, text, false, &problem) != KVS_OK) {
        return fail(EXIT_IO, "the address file", &problem);
    }
    return EXIT_CLEAN;
}

static void print_banner(const server *self)
{
    const kvs_config *config = &self->config;
    const char *grpc = kvs_grpc_server_address(self->grpc);
    const char *http = kvs_rest_address(self->rest);
    (void)fprintf(stderr,
                  "kvstored %s on %s, epoch %" PRIu64 "\n"
                  "store \"default\": %s, %" PRIu32 " worker%s\n",
                  KVS_VERSION, kvs_engine_backend_name(self->engine), self->epoch.number,
                  config->store_type, config->num_workers, config->num_workers == 1 ? "" : "s");
    if (grpc[0] != '\0') {
        (void)fprintf(stderr, "gRPC at %s: kvstored.create(\"%s\", \"%s\")\n", grpc,
                      config->store_type, grpc);
    }
    if (config->unix_socket[0] != '\0') {
        (void)fprintf(stderr, "gRPC at unix:%s\n", config->unix_socket);
    }
    (void)fprintf(stderr, "HTTP at %s: curl http://%s/v1/keys\n", http, http);
}

static int start(server *self)
{
    kvs_problem problem = {.detail = ""};
    if (kvs_epoch_open(self->config.data_dir, &self->epoch, &problem) != KVS_OK) {
        return fail(EXIT_DATA, "the data folder", &problem);
    }
    if (self->config.profile_dir[0] != '\0' &&
        kvs_profiler_open(self->config.profile_dir, &self->profiler, &problem) != KVS_OK) {
        return fail(EXIT_CONFIG, "the profiles' folder", &problem);
    }
    int code = open_backend(self);
    if (code == EXIT_CLEAN) {
        code = open_engine(self);
    }
    if (code == EXIT_CLEAN) {
        code = open_doors(self);
    }
    if (code == EXIT_CLEAN) {
        code = write_addresses(self);
    }
    return code;
}

/* ------------------------------------------------------------------ stop */

/* A second signal does not wait for what the first one has begun. */
static void *second_signal(void *signals)
{
    int signal;
    if (sigwait(signals, &signal) == 0) {
        static const char text[] = "kvstored: stopped at once\n";
        ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
        _exit(written < 0 ? EXIT_IO : EXIT_FORCED);
    }
    return NULL;
}

static void watch_for_second(sigset_t *signals)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, second_signal, signals) == 0) {
        (void)pthread_setname_np(thread, "kvs-signal");
        (void)pthread_detach(thread);
    }
}

static void sleep_ns(uint64_t duration_ns)
{
    struct timespec left = {
        .tv_sec = (time_t)(duration_ns / KVS_SECOND),
        .tv_nsec = (long)(duration_ns % KVS_SECOND),
    };
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* Closes what is open, in whatever state the start has left it. */
static int stop(server *self)
{
    int code = EXIT_CLEAN;
    if (self->admin != NULL) {
        kvs_admin_stop(self->admin);
    }
    kvs_rest_close(self->rest);
    if (self->grpc != NULL &&
        kvs_grpc_server_close(self->grpc, self->config.drain_timeout_ns) != KVS_OK) {
        kvs_log(KVS_LOG_WARN, "drain_forced", "timeout_ms=%" PRIu64,
                self->config.drain_timeout_ns / KVS_MS);
        code = EXIT_FORCED;
    }
    kvs_admin_close(self->admin);
    if (self->engine != NULL) {
        kvs_engine_close(self->engine);
    }
    if (self->backend != NULL) {
        self->backend->table->close(self->backend);
    }
    kvs_arena_close(self->arena);
    kvs_profiler_close(self->profiler);
    kvs_epoch_close(&self->epoch);
    return code;
}

/* A signal, or 0: the backend has failed. */
static int wait_for_end(const server *self, const sigset_t *signals)
{
    const struct timespec look = {.tv_nsec = LOOK_NS};
    while (!kvs_engine_lost(self->engine)) {
        int signal = sigtimedwait(signals, NULL, &look);
        if (signal > 0) {
            return signal;
        }
        KVS_CHECK(errno == EAGAIN || errno == EINTR);
    }
    return 0;
}

/* Serves until a signal or until the backend fails; what the process then ends with. */
static int serve(server *self, sigset_t *signals)
{
    int signal = wait_for_end(self, signals);
    if (signal == SIGNAL_LISTENER_DEAD) {
        kvs_log(KVS_LOG_ERROR, "listener_dead", "exit=%d", EXIT_LISTENER);
        _exit(EXIT_LISTENER); /* a stop would wait for the door that has failed */
    }
    static sigset_t second;
    (void)sigemptyset(&second);
    (void)sigaddset(&second, SIGTERM);
    (void)sigaddset(&second, SIGINT);
    watch_for_second(&second);
    if (signal == 0) {
        kvs_log(KVS_LOG_ERROR, "drain_lost", "exit=%d", EXIT_DEVICE);
    } else {
        kvs_log(KVS_LOG_INFO, "drain", "signal=%d", signal);
    }
    kvs_grpc_server_drain(self->grpc);
    sleep_ns(self->config.drain_delay_ns);
    int code = stop(self);
    return signal == 0 ? EXIT_DEVICE : code; /* what is in its memory is not to be trusted */
}

/* The signals that main waits for, kept from every other thread. */
static void block_signals(sigset_t *signals)
{
    (void)sigemptyset(signals);
    (void)sigaddset(signals, SIGTERM);
    (void)sigaddset(signals, SIGINT);
    (void)sigaddset(signals, SIGNAL_LISTENER_DEAD);
    KVS_CHECK(pthread_sigmask(SIG_BLOCK, signals, NULL) == 0);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN); /* nothing is read again yet */
}

int main(int argc, char **argv)
{
    extern char **environ;
    static server self = {.epoch = {.lock = -1}};
    sigset_t signals;
    kvs_config_action action;
    kvs_problem problem = {.detail = ""};
    if (kvs_config_read(argc, (const char *const *)argv, (const char *const *)environ, &action,
                        &self.config, &problem) != KVS_OK) {
        return fail(EXIT_CONFIG, "configuration", &problem);
    }
    switch (action) {
    case KVS_CONFIG_HELP:
        kvs_config_help(stdout);
        return EXIT_CLEAN;
    case KVS_CONFIG_VERSION:
        (void)printf("kvstored %s\n", KVS_VERSION);
        return EXIT_CLEAN;
    case KVS_CONFIG_PRINT:
        kvs_config_print(&self.config, stdout);
        kvs_config_deinit(&self.config);
        return EXIT_CLEAN;
    case KVS_CONFIG_CHECK:
        kvs_config_deinit(&self.config);
        return EXIT_CLEAN;
    case KVS_CONFIG_RUN:
        break;
    }
    tune_malloc();
    kvs_log_set_level(self.config.log_level);
    block_signals(&signals);
    int code = start(&self);
    if (code == EXIT_CLEAN) {
        print_banner(&self);
        code = serve(&self, &signals);
    } else {
        (void)stop(&self);
    }
    kvs_config_deinit(&self.config);
    return code;
}
