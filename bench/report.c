#include "bench/report.h"

#include "base/json.h"
#include "bench/commit.h"

#include <grpc/grpc.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

/* Above it somebody else was at work: an idle machine shows less for minutes on end. */
#define BUSY_LOAD_OF_A_CORE 0.35

/* The machine, in words. */
typedef struct machine {
    char processor[128];
    char kernel[128];
    char congestion[32];
    char date[32];
    long cores;
} machine;

typedef struct summary {
    double median, low, high;
} summary;

static int compare_numbers(const void *a, const void *b)
{
    const double left = *(const double *)a;
    const double right = *(const double *)b;
    return (left > right) - (left < right);
}

static summary summarise(const double *values, uint32_t count)
{
    double sorted[KVS_BENCH_ROUNDS_MAX];
    if (count == 0) {
        return (summary){0};
    }
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_numbers);
    const double median =
        count % 2 == 1 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
    return (summary){median, sorted[0], sorted[count - 1]};
}

/* The first line of a file that begins with `field`, behind its colon; or the first line. */
static void read_line(const char *path, const char *field, char *out, size_t out_bytes)
{
    char line[256];
    FILE *file = fopen(path, "r");
    (void)snprintf(out, out_bytes, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        const char *colon = strchr(line, ':');
        if (field == NULL || (strncmp(line, field, strlen(field)) == 0 && colon != NULL)) {
            (void)snprintf(out, out_bytes, "%.*s", (int)out_bytes - 1,
                           field == NULL ? line : colon + 2);
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

static void describe(machine *m)
{
    struct utsname name;
    const time_t now = time(NULL);
    struct tm parts;
    *m = (machine){.cores = sysconf(_SC_NPROCESSORS_ONLN)};
    read_line("/proc/cpuinfo", "model name", m->processor, sizeof m->processor);
    read_line("/proc/sys/net/ipv4/tcp_congestion_control", NULL, m->congestion,
              sizeof m->congestion);
    if (uname(&name) == 0) {
        (void)snprintf(m->kernel, sizeof m->kernel, "%.40s %.60s", name.sysname, name.release);
    }
    if (gmtime_r(&now, &parts) != NULL) {
        (void)strftime(m->date, sizeof m->date, "%Y-%m-%d %H:%M UTC", &parts);
    }
}

static double ratio_of(const kvs_bench_row *row)
{
    const double bare = summarise(row->bare.rate, row->bare.count).median;
    return bare > 0 ? summarise(row->ours.rate, row->ours.count).median / bare : 0;
}

/* ------------------------------------------------------------------ for people */

static void print_series(const kvs_bench_series *series)
{
    const summary rate = summarise(series->rate, series->count);
    (void)printf("  %8.2f [%.2f-%.2f]%*s %5.2f/%-5.2f", rate.median, rate.low, rate.high,
                 rate.high >= 100  ? 0
                 : rate.high >= 10 ? 2
                                   : 4,
                 "", summarise(series->client_cpu, series->count).median,
                 summarise(series->server_cpu, series->count).median);
}

static void print_head(const char *title, const char *unit, const char *bare, bool ours)
{
    (void)printf("\n%-36s  %-31s", title, ours ? bare : unit);
    (void)printf(ours ? "   %-31s  ratio\n" : "\n", "kvstored");
    (void)printf("%-36s  %s\n", ours ? unit : "", "median [lowest-highest], CPU client/server");
}

static void print_rows(const kvs_bench_results *results, bool small, bool shared, bool ours)
{
    for (uint32_t i = 0; i < results->rows_count; i++) {
        const kvs_bench_row *row = &results->rows[i];
        char name[64];
        if (row->workers == 0 || row->small != small || row->shared != shared) {
            continue;
        }
        (void)snprintf(name, sizeof name, "%s, %u worker%s", row->name, row->workers,
                       row->workers == 1 ? "" : "s");
        (void)printf("%-36s", name);
        print_series(&row->bare);
        if (ours) {
            print_series(&row->ours);
            (void)printf("  %5.2f", ratio_of(row));
        }
        if (row->bare.median_us[0] > 0) {
            (void)printf("  (%.0f us", summarise(row->bare.median_us, row->bare.count).median);
            (void)(ours ? printf(" / %.0f us",
                                 summarise(row->ours.median_us, row->ours.count).median)
                        : 0);
            (void)printf(" each)");
        }
        (void)printf("\n");
    }
}

void kvs_bench_print(const kvs_bench_plan *plan, const kvs_bench_results *results)
{
    machine m;
    const kvs_bench_sizes *sizes = &plan->sizes;
    describe(&m);
    (void)printf("machine   %s, %ld cores, %s, TCP %s, load %.1f before\n"
                 "build     %s, %s, gRPC core %s\n"
                 "date      %s\n"
                 "sizes     tensor %" PRIu64 " MiB x %u, messages of %" PRIu64 " KiB, %u keys of "
                 "%" PRIu64 " KiB x %u; %u rounds, interleaved\n",
                 m.processor, m.cores, m.kernel, m.congestion, results->load, KVS_BENCH_COMMIT,
                 KVS_BENCH_BUILD, grpc_version_string(), m.date, sizes->tensor_bytes >> 20,
                 sizes->repeats, sizes->message_bytes >> 10, sizes->small_keys,
                 sizes->small_bytes >> 10, sizes->small_repeats, plan->rounds);
    if (results->load > BUSY_LOAD_OF_A_CORE * (double)m.cores) {
        (void)printf("note      the machine was busy with something else: compare no numbers\n");
    }
    print_head("limits of the machine", "GB/s, CPU in s for a GB", "", false);
    for (uint32_t i = 0; i < results->rows_count; i++) {
        const kvs_bench_row *row = &results->rows[i];
        if (row->workers == 0) {
            (void)printf("%-36s", row->name);
            print_series(&row->bare);
            (void)printf("\n");
        }
    }
    const bool ours = plan->server != NULL;
    print_head("a tensor", "GB/s, CPU in s for a GB", "bare stream", ours);
    print_rows(results, false, false, ours);
    print_head("a tensor, memory shared", "GB/s, CPU in s for a GB", "one thread in memory", ours);
    print_rows(results, false, true, ours);
    print_head("small keys", "1000 keys/s, CPU in us for a key", "bare stream", ours);
    print_rows(results, true, false, ours);
}

/* ------------------------------------------------------------------ for scripts */

static json_t *series_json(const kvs_bench_series *series)
{
    const summary rate = summarise(series->rate, series->count);
    const double each = summarise(series->median_us, series->count).median;
    json_t *out =
        json_pack("{s:f, s:f, s:f, s:f, s:f}", "median", rate.median, "lowest", rate.low, "highest",
                  rate.high, "client_cpu", summarise(series->client_cpu, series->count).median,
                  "server_cpu", summarise(series->server_cpu, series->count).median);
    if (each > 0) {
        (void)json_object_set_new(out, "median_us", json_real(each));
    }
    return out;
}

static json_t *row_json(const kvs_bench_row *row, bool ours)
{
    json_t *out = json_pack("{s:s, s:s}", "name", row->name, "unit",
                            row->small ? "1000 keys/s, us CPU a key" : "GB/s, s CPU a GB");
    if (row->workers == 0) {
        (void)json_object_set_new(out, "limit", series_json(&row->bare));
        return out;
    }
    (void)json_object_set_new(out, "workers", json_integer(row->workers));
    (void)json_object_set_new(out, "shared", json_boolean(row->shared));
    (void)json_object_set_new(out, "bare", series_json(&row->bare));
    if (ours) {
        (void)json_object_set_new(out, "kvstored", series_json(&row->ours));
        (void)json_object_set_new(out, "ratio", json_real(ratio_of(row)));
    }
    return out;
}

void kvs_bench_print_json(const kvs_bench_plan *plan, const kvs_bench_results *results)
{
    machine m;
    const kvs_bench_sizes *sizes = &plan->sizes;
    json_t *list = json_array();
    describe(&m);
    for (uint32_t i = 0; i < results->rows_count; i++) {
        (void)json_array_append_new(list, row_json(&results->rows[i], plan->server != NULL));
    }
    json_t *out = json_pack(
        "{s:{s:s, s:I, s:s, s:s, s:f}, s:{s:s, s:s, s:s}, s:s, s:{s:I, s:I, s:I, s:I}, s:I, s:o}",
        "machine", "processor", m.processor, "cores", (json_int_t)m.cores, "kernel", m.kernel,
        "tcp_congestion", m.congestion, "load", results->load, "build", "commit", KVS_BENCH_COMMIT,
        "type", KVS_BENCH_BUILD, "grpc_core", grpc_version_string(), "date", m.date, "sizes",
        "tensor_bytes", (json_int_t)sizes->tensor_bytes, "repeats", (json_int_t)sizes->repeats,
        "small_keys", (json_int_t)sizes->small_keys, "small_bytes", (json_int_t)sizes->small_bytes,
        "rounds", (json_int_t)plan->rounds, "cases", list);
    if (out != NULL) {
        (void)json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        (void)fputc('\n', stdout);
    }
    json_decref(out);
}

static bool series_plausible(const kvs_bench_series *series, uint32_t rounds)
{
    bool good = series->count == rounds;
    for (uint32_t i = 0; i < series->count; i++) {
        good = good && series->rate[i] > 0;
    }
    return good;
}

bool kvs_bench_plausible(const kvs_bench_plan *plan, const kvs_bench_results *results)
{
    bool good = results->rows_count > 0;
    for (uint32_t i = 0; i < results->rows_count; i++) {
        const kvs_bench_row *row = &results->rows[i];
        good = good && series_plausible(&row->bare, plan->rounds);
        if (row->workers > 0 && plan->server != NULL) {
            good = good && series_plausible(&row->ours, plan->rounds);
        }
    }
    return good;
}
