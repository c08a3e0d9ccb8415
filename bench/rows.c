#include "bench/rows.h"

#include "bench/limits.h"
#include "bench/ours.h"

#include <inttypes.h>
#include <kvstore/kvstore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROUNDS_MAX 101u
#define PREFETCH_ROWS 8u

typedef struct series {
    const char *name;
    double seconds[ROUNDS_MAX]; /* of one call */
    uint32_t count;
} series;

enum { COPY, LOCAL_PULL, LOCAL_PUSH, PULL, PUSH, PULL_HALF, PULL_BYTE, SERIES };

/* One call's rows: asked for, and where they go. */
typedef struct request {
    uint64_t shape[2];
    int64_t *ids; /* in ascending order, each once, as rows travel */
    int64_t *got_ids;
    float *rows;
    uint64_t count;
} request;

typedef struct stage {
    const kvs_bench_rows_plan *plan;
    request request;
    series all[SERIES];
    double memory_mib[2]; /* of the server: after init, after all calls */
} stage;

/* ------------------------------------------------------------------ rows at random */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int compare_ids(const void *a, const void *b)
{
    const int64_t left = *(const int64_t *)a;
    const int64_t right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

static void choose_rows(stage *s, uint64_t *seed)
{
    request *r = &s->request;
    for (uint32_t i = 0; i < s->plan->ask; i++) {
        r->ids[i] = (int64_t)(next_random(seed) % s->plan->rows);
    }
    qsort(r->ids, s->plan->ask, sizeof *r->ids, compare_ids);
    r->count = 0;
    for (uint32_t i = 0; i < s->plan->ask; i++) {
        if (r->count == 0 || r->ids[i] != r->ids[r->count - 1]) {
            r->ids[r->count++] = r->ids[i];
        }
    }
}

static bool alloc_request(stage *s)
{
    request *r = &s->request;
    r->shape[0] = s->plan->rows;
    r->shape[1] = s->plan->width;
    r->ids = calloc(s->plan->ask, sizeof *r->ids);
    r->got_ids = calloc(s->plan->ask, sizeof *r->got_ids);
    r->rows = kvs_bench_tensor((uint64_t)s->plan->ask * s->plan->width * sizeof(float), 0.5f);
    return r->ids != NULL && r->got_ids != NULL && r->rows != NULL;
}

static void note(series *of, double seconds)
{
    of->seconds[of->count++] = seconds;
}

/* ------------------------------------------------------------------ the limit */

/* The whole value in this process, and the rows copied from it. */
static bool measure_copy(stage *s)
{
    const uint64_t row_bytes = s->plan->width * sizeof(float);
    const uint64_t bytes = s->plan->rows * row_bytes;
    float *value = kvs_bench_tensor(bytes, 1);
    uint64_t seed = 42;
    if (value == NULL) {
        (void)fprintf(stderr, "kvbench: no memory for the value; use fewer --rows.\n");
        return false;
    }
    for (uint32_t round = 0; round <= s->plan->rounds; round++) {
        choose_rows(s, &seed);
        const request *r = &s->request;
        const double start = kvs_bench_clock();
        for (uint64_t i = 0; i < r->count; i++) {
            if (i + PREFETCH_ROWS < r->count) {
                __builtin_prefetch(value + (uint64_t)r->ids[i + PREFETCH_ROWS] * s->plan->width);
            }
            memcpy(r->rows + i * s->plan->width, value + (uint64_t)r->ids[i] * s->plan->width,
                   row_bytes);
        }
        __asm__ volatile("" : : "r"(r->rows) : "memory");
        if (round > 0) {
            note(&s->all[COPY], kvs_bench_clock() - start);
        }
    }
    kvs_bench_tensor_free(value, bytes);
    return true;
}

/* ------------------------------------------------------------------ through a store */

static bool failed(kv_store *kv, kv_status status)
{
    if (status != 0) {
        (void)fprintf(stderr, "kvbench: %s: %s\n", kv_status_reason(status), kv_last_error(kv));
    }
    return status != 0;
}

static const kv_key key = {.name = "rows"};

static kv_status pull(kv_store *kv, request *r)
{
    kv_row_sparse out = {r->rows, KV_F32, 2, r->shape, r->got_ids, KV_I64, 0};
    const kv_array wanted = {r->ids, KV_I64, 1, &r->count};
    const kv_status status = kv_row_sparse_pull(kv, &key, &out, NULL, &wanted, 1, 1, 0, NULL);
    return status != 0 ? status : kv_wait(kv, KV_FOREVER);
}

static kv_status push(kv_store *kv, request *r)
{
    const kv_row_sparse value = {r->rows, KV_F32, 2, r->shape, r->ids, KV_I64, r->count};
    const kv_status status = kv_push_row_sparse(kv, &key, &value, NULL, 1, 0, NULL);
    return status != 0 ? status : kv_wait(kv, KV_FOREVER);
}

/* All rows start as zero: nothing of the value is made here. */
static bool measure_store(stage *s, kv_store *kv, series *pulls, series *pushes)
{
    uint64_t seed = 42;
    const kv_row_sparse none = {.dtype = KV_F32, .rank = 2, .shape = s->request.shape};
    kv_status status = kv_init_row_sparse(kv, &key, &none, 1);
    if (status == 0) {
        status = kv_set_optimizer(kv, "{\"name\": \"sgd\", \"learning_rate\": 0.001}");
    }
    for (uint32_t round = 0; status == 0 && round <= s->plan->rounds; round++) {
        choose_rows(s, &seed);
        double start = kvs_bench_clock();
        status = pull(kv, &s->request);
        if (round > 0) {
            note(pulls, kvs_bench_clock() - start);
        }
        start = kvs_bench_clock();
        status = status != 0 ? status : push(kv, &s->request);
        if (round > 0) {
            note(pushes, kvs_bench_clock() - start);
        }
    }
    return !failed(kv, status);
}

/* The same pulls in fewer bytes. */
static bool measure_encoded(stage *s, kv_store *kv, const char *json, series *pulls)
{
    uint64_t seed = 43;
    kv_status status = kv_set_gradient_compression(kv, json);
    for (uint32_t round = 0; status == 0 && round <= s->plan->rounds; round++) {
        choose_rows(s, &seed);
        const double start = kvs_bench_clock();
        status = pull(kv, &s->request);
        if (round > 0) {
            note(pulls, kvs_bench_clock() - start);
        }
    }
    return !failed(kv, status);
}

static bool measure_local(stage *s)
{
    kv_store *kv = NULL;
    char error[256];
    if (kv_create("local", NULL, NULL, &kv, error, sizeof error) != 0) {
        (void)fprintf(stderr, "kvbench: %s\n", error);
        return false;
    }
    const bool good = measure_store(s, kv, &s->all[LOCAL_PULL], &s->all[LOCAL_PUSH]);
    return kv_close(kv) == 0 && good;
}

/* Resident, by /proc. */
static double resident_mib(pid_t process)
{
    char path[64];
    unsigned long long pages = 0;
    unsigned long long resident = 0;
    (void)snprintf(path, sizeof path, "/proc/%ld/statm", (long)process);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%llu %llu", &pages, &resident) != 2) {
            resident = 0;
        }
        (void)fclose(file);
    }
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static bool measure_server(stage *s)
{
    kvs_bench_server server;
    kv_store *kv = NULL;
    char error[256];
    if (!kvs_bench_server_start(s->plan->server, 1, false, &server)) {
        return false;
    }
    bool good = kv_create("dist_sync", server.address, NULL, &kv, error, sizeof error) == 0;
    if (!good) {
        (void)fprintf(stderr, "kvbench: %s\n", error);
    }
    s->memory_mib[0] = resident_mib(server.process);
    good = good && measure_store(s, kv, &s->all[PULL], &s->all[PUSH]) &&
           measure_encoded(s, kv, "{\"pull\": \"bf16\"}", &s->all[PULL_HALF]) &&
           measure_encoded(s, kv, "{\"pull\": \"int8\"}", &s->all[PULL_BYTE]);
    s->memory_mib[1] = resident_mib(server.process);
    good = kv_close(kv) == 0 && good;
    return kvs_bench_server_stop(&server) && good;
}

/* ------------------------------------------------------------------ the report */

static int compare_numbers(const void *a, const void *b)
{
    const double left = *(const double *)a;
    const double right = *(const double *)b;
    return (left > right) - (left < right);
}

/* Calls differ by a row or two in how many rows they ask for: `ask` counts. */
static void print(stage *s)
{
    const kvs_bench_rows_plan *plan = s->plan;
    const double bytes = (double)plan->ask * plan->width * sizeof(float);
    const double value_mib = (double)plan->rows * plan->width * sizeof(float) / (1 << 20);
    (void)printf(plan->json ? "{\"rows\": %" PRIu64 ", \"width\": %u, \"ask\": %u, \"rounds\": %u"
                            : "value %" PRIu64 " rows of %u f32; calls of %u rows at random; "
                              "%u rounds\n\n",
                 plan->rows, plan->width, plan->ask, plan->rounds);
    if (!plan->json) {
        (void)printf("%-28s %12s %8s %10s\n", "", "rows/s", "GB/s", "of memcpy");
    }
    double copy = 0;
    for (int i = 0; i < SERIES; i++) {
        series *of = &s->all[i];
        qsort(of->seconds, of->count, sizeof of->seconds[0], compare_numbers);
        const double median = of->seconds[of->count / 2];
        copy = i == COPY ? median : copy;
        (void)printf(plan->json ? ", \"%s\": {\"rows_s\": %.0f, \"gb_s\": %.3f, \"ratio\": %.4f}"
                                : "%-28s %12.0f %8.3f %10.3f\n",
                     of->name, plan->ask / median, bytes / median / 1e9, copy / median);
    }
    (void)printf(plan->json ? ", \"value_mib\": %.0f, \"server_mib\": %.0f}\n"
                            : "\nvalue %.0f MiB, server %.0f MiB after all calls\n",
                 value_mib, s->memory_mib[1]);
}

bool kvs_bench_rows(const kvs_bench_rows_plan *plan)
{
    static const char *const names[SERIES] = {
        "memcpy of rows", "pull, embedded",       "push, embedded",      "pull, server",
        "push, server",   "pull as bf16, server", "pull as int8, server"};
    stage s = {.plan = plan};
    for (int i = 0; i < SERIES; i++) {
        s.all[i].name = names[i];
    }
    const bool good =
        alloc_request(&s) && measure_copy(&s) && measure_local(&s) && measure_server(&s);
    if (good) {
        print(&s);
    }
    free(s.request.ids);
    free(s.request.got_ids);
    kvs_bench_tensor_free(s.request.rows, (uint64_t)plan->ask * plan->width * sizeof(float));
    return good;
}
