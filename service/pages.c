#include "service/pages.h"

#include "service/openapi_text.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* A text that grows; `file` is NULL when there was no memory for it. */
typedef struct page {
    FILE *file;
    char *text;
    size_t bytes;
} page;

static bool page_open(page *out)
{
    out->text = NULL;
    out->bytes = 0;
    out->file = open_memstream(&out->text, &out->bytes);
    return out->file != NULL;
}

/* The text, or NULL when it did not come out whole. */
static char *page_close(page *from, size_t *bytes)
{
    bool whole = ferror(from->file) == 0;
    if (fclose(from->file) != 0 || !whole) {
        free(from->text);
        return NULL;
    }
    *bytes = from->bytes;
    return from->text;
}

/* ------------------------------------------------------------------ health */

char *kvs_page_livez(bool verbose, size_t *bytes)
{
    page text;
    if (!page_open(&text)) {
        return NULL;
    }
    (void)fputs(verbose ? "[+]http ok\nlivez check passed\n" : "ok\n", text.file);
    return page_close(&text, bytes);
}

char *kvs_page_readyz(const kvs_rest_world *world, bool verbose, bool *good, size_t *bytes)
{
    page text;
    *good = world->grpc == NULL || kvs_grpc_server_ready(world->grpc);
    if (!page_open(&text)) {
        return NULL;
    }
    if (verbose) {
        (void)fprintf(text.file, "[+]http ok\n[%c]grpc %s\nreadyz check %s\n", *good ? '+' : '-',
                      *good ? "ok" : "does not answer, or drains", *good ? "passed" : "failed");
    } else {
        (void)fputs(*good ? "ok\n" : "not ready\n", text.file);
    }
    return page_close(&text, bytes);
}

/* ------------------------------------------------------------------ metrics */

/* What is counted of each store. */
static const struct {
    const char *name;
    const char *type;
    const char *help;
    size_t offset; /* in kvs_store_statistics */
} store_metrics[] = {
#define METRIC(name, type, help, member)                                                           \
    {                                                                                              \
        name, type, help, offsetof(kvs_store_statistics, member)                                   \
    }
    METRIC("kvstored_parts_pushed_total", "counter", "Parts pushed and taken.", parts_pushed),
    METRIC("kvstored_push_bytes_total", "counter", "Payload bytes of parts pushed.", bytes_pushed),
    METRIC("kvstored_parts_pulled_total", "counter", "Parts handed to pulls and pushpulls.",
           parts_pulled),
    METRIC("kvstored_pull_bytes_total", "counter", "Payload bytes of parts pulled.", bytes_pulled),
    METRIC("kvstored_push_duplicates_total", "counter", "Parts pushed again and not applied again.",
           duplicates),
    METRIC("kvstored_push_rejected_total", "counter", "Parts refused.", refused),
    METRIC("kvstored_rounds_closed_total", "counter", "Rounds of a part that were applied.",
           rounds_closed),
    METRIC("kvstored_rounds_failed_total", "counter", "Rounds of a part that were refused.",
           rounds_failed),
    METRIC("kvstored_lease_expirations_total", "counter", "Sessions whose lease was lost.",
           leases_lost),
    METRIC("kvstored_held_bytes", "gauge", "Contributions that wait for a lower rank.", held_bytes),
    METRIC("kvstored_store_bytes", "gauge", "Weights and optimizer states.", store_bytes),
#undef METRIC
};

#define STORE_METRICS (sizeof store_metrics / sizeof store_metrics[0])

static void print_head(FILE *file, const char *name, const char *type, const char *help)
{
    (void)fprintf(file, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_one(FILE *file, const char *name, const char *type, const char *help,
                      double value)
{
    print_head(file, name, type, help);
    (void)fprintf(file, "%s %.17g\n", name, value);
}

/* Names of stores need no escapes: see kvs_store_options. */
static void print_stores(FILE *file, kvs_store *const *stores, size_t count)
{
    for (size_t i = 0; i < STORE_METRICS; i++) {
        print_head(file, store_metrics[i].name, store_metrics[i].type, store_metrics[i].help);
        for (size_t j = 0; j < count; j++) {
            kvs_store_statistics counts;
            kvs_store_info info;
            uint64_t value;
            kvs_store_count(stores[j], &counts);
            kvs_store_describe(stores[j], &info);
            memcpy(&value, (const char *)&counts + store_metrics[i].offset, sizeof value);
            (void)fprintf(file, "%s{store=\"%s\"} %" PRIu64 "\n", store_metrics[i].name, info.name,
                          value);
        }
    }
    print_head(file, "kvstored_keys", "gauge", "Keys of the store.");
    for (size_t j = 0; j < count; j++) {
        kvs_store_info info;
        kvs_store_describe(stores[j], &info);
        (void)fprintf(file, "kvstored_keys{store=\"%s\"} %" PRIu64 "\n", info.name, info.keys);
    }
    print_head(file, "kvstored_workers", "gauge", "Workers with a live session.");
    for (size_t j = 0; j < count; j++) {
        kvs_store_info info;
        kvs_store_describe(stores[j], &info);
        (void)fprintf(file, "kvstored_workers{store=\"%s\",state=\"live\"} %" PRIu32 "\n",
                      info.name, info.live_workers);
    }
}

static void print_door(FILE *file, const kvs_grpc_server *grpc)
{
    kvs_grpc_statistics counts;
    if (grpc == NULL) {
        return;
    }
    kvs_grpc_server_count(grpc, &counts);
    print_one(file, "kvstored_connections", "gauge", "Open gRPC connections.",
              (double)counts.connections);
    print_one(file, "kvstored_shm_regions", "gauge", "Regions shared with workers on this machine.",
              (double)counts.shm_regions);
    print_one(file, "kvstored_shm_bytes", "gauge", "Bytes of them, those still in use included.",
              (double)counts.shm_bytes);
    print_one(file, "kvstored_connections_accepted_total", "counter",
              "gRPC connections that were accepted.", (double)counts.connections_accepted);
    print_one(file, "kvstored_connections_rejected_total", "counter",
              "gRPC connections above a limit.", (double)counts.connections_refused);
    print_one(file, "kvstored_calls", "gauge", "gRPC calls under way.", (double)counts.calls);
    print_one(file, "kvstored_calls_started_total", "counter", "gRPC calls that were started.",
              (double)counts.calls_started);
    print_one(file, "kvstored_listener_selfprobe_failures_total", "counter",
              "Health checks of the own gRPC door that failed.", (double)counts.probes_failed);
}

/* Pages of memory in use, or 0 where /proc does not say. */
static double resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long size = 0;
    unsigned long resident = 0;
    if (file != NULL) {
        if (fscanf(file, "%lu %lu", &size, &resident) != 2) {
            resident = 0;
        }
        (void)fclose(file);
    }
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static double open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    double count = 0;
    if (folder != NULL) {
        while (readdir(folder) != NULL) {
            count++;
        }
        (void)closedir(folder);
        count -= 3; /* ".", ".." and the folder itself */
    }
    return count;
}

static void print_process(FILE *file)
{
    struct rusage usage;
    struct rlimit files;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        double seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
        print_one(file, "process_cpu_seconds_total", "counter", "User and system time.", seconds);
    }
    print_one(file, "process_resident_memory_bytes", "gauge", "Memory in use.", resident_bytes());
    print_one(file, "process_open_fds", "gauge", "Open file descriptors.", open_files());
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        print_one(file, "process_max_fds", "gauge", "Most file descriptors.",
                  (double)files.rlim_cur);
    }
}

char *kvs_page_metrics(const kvs_rest_world *world, size_t *bytes)
{
    page text;
    kvs_store **stores = calloc(KVS_STORES_MAX, sizeof(kvs_store *));
    if (stores == NULL || !page_open(&text)) {
        free(stores);
        return NULL;
    }
    size_t count = kvs_store_list(world->engine, 0, KVS_STORES_MAX, stores);
    print_head(text.file, "kvstored_build_info", "gauge", "Always 1.");
    (void)fprintf(text.file, "kvstored_build_info{engine=\"%s\"} 1\n",
                  kvs_engine_backend_name(world->engine));
    print_stores(text.file, stores, count);
    print_door(text.file, world->grpc);
    print_process(text.file);
    for (size_t i = 0; i < count; i++) {
        kvs_store_unref(stores[i]);
    }
    free(stores);
    return page_close(&text, bytes);
}

/* ------------------------------------------------------------------ first page, contract */

char *kvs_page_index(const kvs_rest_world *world, size_t *bytes)
{
    page text;
    const char *grpc = world->grpc != NULL ? kvs_grpc_server_address(world->grpc) : "";
    if (!page_open(&text)) {
        return NULL;
    }
    (void)fprintf(text.file,
                  "kvstored: a parameter server\n\n"
                  "gRPC   %s  push, pull, init (package kvstored.v1, with reflection)\n"
                  "HTTP   %s  administration\n\n"
                  "GET /v1/stores      the stores\n"
                  "GET /v1/keys        the keys of the store \"default\"\n"
                  "GET /v1/workers     who takes part\n"
                  "GET /v1/optimizer   the rule that the server applies\n"
                  "GET /metrics        counters\n"
                  "GET /openapi.yaml   every route\n",
                  grpc[0] != '\0' ? grpc : "(no TCP address)", world->http_address);
    return page_close(&text, bytes);
}

char *kvs_page_openapi(size_t *bytes)
{
    char *text = malloc(kvs_openapi_bytes);
    if (text != NULL) {
        memcpy(text, kvs_openapi, kvs_openapi_bytes);
        *bytes = kvs_openapi_bytes;
    }
    return text;
}
