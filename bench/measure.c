#include "bench/measure.h"

#include "bench/bare.h"
#include "bench/limits.h"
#include "bench/ours.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS_MAX 2u

/* Every process of a run. Stores of one and of two workers each have their own kvstored. */
typedef struct stage {
    const kvs_bench_plan *plan;
    kvs_bench_party bare_server;
    kvs_bench_party bare_clients[WORKERS_MAX];
    kvs_bench_server servers[WORKERS_MAX];
    kvs_bench_party workers[WORKERS_MAX][WORKERS_MAX]; /* of servers[i]: i + 1 of them */
    kvs_bench_server sharing_server;
    kvs_bench_party sharing_worker;
} stage;

static const kvs_bench_row rows[] = {
    {.name = "memcpy"},
    {.name = "sum"},
    {.name = "loopback TCP, received and summed"},
    {.name = "push", .workers = 1, .verb = KVS_BENCH_PUSH},
    {.name = "pull", .workers = 1, .verb = KVS_BENCH_PULL},
    {.name = "pushpull", .workers = 1, .verb = KVS_BENCH_PUSHPULL},
    {.name = "push", .workers = 2, .verb = KVS_BENCH_PUSH},
    {.name = "pull", .workers = 2, .verb = KVS_BENCH_PULL},
    {.name = "pushpull", .workers = 2, .verb = KVS_BENCH_PUSHPULL},
    {.name = "push where it lies", .workers = 1, .shared = true, .verb = KVS_BENCH_PUSH},
    {.name = "push of a copy", .workers = 1, .shared = true, .verb = KVS_BENCH_PUSH_COPIED},
    {.name = "pull", .workers = 1, .shared = true, .verb = KVS_BENCH_PULL},
    {.name = "push, keys in one list", .workers = 1, .small = true, .verb = KVS_BENCH_SMALL_LIST},
    {.name = "push, a call for each key",
     .workers = 1,
     .small = true,
     .verb = KVS_BENCH_SMALL_QUEUED},
    {.name = "push, each key waited for",
     .workers = 1,
     .small = true,
     .verb = KVS_BENCH_SMALL_ALONE},
};
_Static_assert(sizeof rows / sizeof rows[0] <= KVS_BENCH_ROWS_MAX, "every row has its place");

static void say(const stage *s, const char *what)
{
    if (s->plan->verbose) {
        (void)fprintf(stderr, "kvbench: %s\n", what);
    }
}

/* ------------------------------------------------------------------ the processes */

static bool start_bare(stage *s)
{
    kvs_bench_bare bare = {.tensor_bytes = s->plan->sizes.tensor_bytes};
    kvs_bench_free_address(bare.address, sizeof bare.address);
    if (!kvs_bench_party_start(kvs_bench_bare_server(), &bare, &s->bare_server) ||
        !kvs_bench_party_ready(&s->bare_server)) {
        return false;
    }
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        if (!kvs_bench_party_start(kvs_bench_bare_client(), &bare, &s->bare_clients[i]) ||
            !kvs_bench_party_ready(&s->bare_clients[i])) {
            return false;
        }
    }
    return true;
}

/* The workers of one server join together: their init waits for rank 0. */
static bool start_ours(stage *s, uint32_t count)
{
    kvs_bench_ours ours = {.sizes = s->plan->sizes};
    kvs_bench_server *server = &s->servers[count - 1];
    if (!kvs_bench_server_start(s->plan->server, count, false, server)) {
        return false;
    }
    (void)snprintf(ours.address, sizeof ours.address, "%s", server->address);
    for (ours.rank = 0; ours.rank < count; ours.rank++) {
        if (!kvs_bench_party_start(kvs_bench_ours_worker(), &ours,
                                   &s->workers[count - 1][ours.rank])) {
            return false;
        }
    }
    for (uint32_t rank = 0; rank < count; rank++) {
        if (!kvs_bench_party_ready(&s->workers[count - 1][rank])) {
            return false;
        }
    }
    return true;
}

static bool start_sharing(stage *s)
{
    kvs_bench_ours ours = {.sizes = s->plan->sizes, .shared = true};
    if (!kvs_bench_server_start(s->plan->server, 1, true, &s->sharing_server)) {
        return false;
    }
    (void)snprintf(ours.address, sizeof ours.address, "%s", s->sharing_server.address);
    return kvs_bench_party_start(kvs_bench_ours_worker(), &ours, &s->sharing_worker) &&
           kvs_bench_party_ready(&s->sharing_worker);
}

static bool start_stage(stage *s)
{
    say(s, "starts the bare stream");
    bool good = start_bare(s);
    for (uint32_t count = 1; good && s->plan->server != NULL && count <= WORKERS_MAX; count++) {
        say(s, count == 1 ? "starts kvstored for one worker" : "starts kvstored for two workers");
        good = start_ours(s, count);
    }
    if (good && s->plan->server != NULL) {
        say(s, "starts kvstored for a worker that shares its memory");
        good = start_sharing(s);
    }
    return good;
}

static bool stop_stage(stage *s)
{
    bool good = true;
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        kvs_bench_party_stop(&s->bare_clients[i]);
        for (uint32_t rank = 0; rank < WORKERS_MAX; rank++) {
            kvs_bench_party_stop(&s->workers[i][rank]);
        }
        good = kvs_bench_server_stop(&s->servers[i]) && good;
    }
    kvs_bench_party_stop(&s->sharing_worker);
    good = kvs_bench_server_stop(&s->sharing_server) && good;
    kvs_bench_party_stop(&s->bare_server);
    return good;
}

/* ------------------------------------------------------------------ one measurement */

static void add_sample(kvs_bench_series *series, double rate, double client_cpu, double server_cpu,
                       double median_us)
{
    const uint32_t i = series->count++;
    series->rate[i] = rate;
    series->client_cpu[i] = client_cpu;
    series->server_cpu[i] = server_cpu;
    series->median_us[i] = median_us;
}

/* All parties carry out the order together; what they did is one sample. */
static bool measure_parties(kvs_bench_party *parties, uint32_t count, pid_t server,
                            const kvs_bench_order *order, bool small, kvs_bench_series *series)
{
    double start = 0, end = 0, client = 0, median_us = 0;
    uint64_t bytes = 0, operations = 0;
    bool good = true;
    const double server_cpu = kvs_bench_cpu(server);
    for (uint32_t i = 0; good && i < count; i++) {
        good = kvs_bench_party_order(&parties[i], order);
    }
    for (uint32_t i = 0; good && i < count; i++) {
        kvs_bench_answer answer;
        good = kvs_bench_party_answer(&parties[i], &answer);
        start = i == 0 || answer.start < start ? answer.start : start;
        end = answer.end > end ? answer.end : end;
        client += answer.cpu;
        bytes += answer.bytes;
        operations += answer.operations;
        median_us = answer.median_us;
    }
    if (good) {
        const double amount = small ? (double)operations / 1e3 : (double)bytes / 1e9;
        const double scale = small ? 1e3 : 1; /* s for 1000 keys are ms: microseconds for one */
        add_sample(series, amount / (end - start), client / amount * scale,
                   (kvs_bench_cpu(server) - server_cpu) / amount * scale, median_us);
    }
    return good;
}

static bool measure_limit(const stage *s, kvs_bench_row *row)
{
    const kvs_bench_sizes *sizes = &s->plan->sizes;
    const double amount = (double)sizes->tensor_bytes * sizes->repeats / 1e9;
    double rate = 0;
    double cpu[2] = {0, 0};
    bool good = false;
    if (strcmp(row->name, "memcpy") == 0) {
        good = kvs_bench_memcpy(sizes, &rate);
    } else if (strcmp(row->name, "sum") == 0) {
        good = kvs_bench_sum(sizes, &rate);
    } else {
        good = kvs_bench_tcp(sizes, &rate, cpu);
    }
    add_sample(&row->bare, rate / 1e9, cpu[0] / amount, cpu[1] / amount, 0);
    return good;
}

/* What one thread does with the same bytes. */
static bool measure_memory(const stage *s, kvs_bench_row *row)
{
    const kvs_bench_sizes *sizes = &s->plan->sizes;
    double rate = 0;
    bool good = row->verb == KVS_BENCH_PUSH          ? kvs_bench_sum(sizes, &rate)
                : row->verb == KVS_BENCH_PUSH_COPIED ? kvs_bench_copy_and_sum(sizes, &rate)
                                                     : kvs_bench_memcpy(sizes, &rate);
    add_sample(&row->bare, rate / 1e9, 0, 0, 0);
    return good;
}

static bool measure_row(stage *s, kvs_bench_row *row)
{
    const kvs_bench_order order = {row->verb, s->plan->sizes};
    if (row->workers == 0) {
        return measure_limit(s, row);
    }
    if (row->shared) {
        return measure_memory(s, row) &&
               (s->plan->server == NULL ||
                measure_parties(&s->sharing_worker, 1, s->sharing_server.process, &order, false,
                                &row->ours));
    }
    return measure_parties(s->bare_clients, row->workers, s->bare_server.process, &order,
                           row->small, &row->bare) &&
           (s->plan->server == NULL ||
            measure_parties(s->workers[row->workers - 1], row->workers,
                            s->servers[row->workers - 1].process, &order, row->small, &row->ours));
}

/* Round 0 warms up and is forgotten. */
static bool measure_rounds(stage *s, kvs_bench_results *out)
{
    char text[64];
    for (uint32_t round = 0; round <= s->plan->rounds; round++) {
        (void)snprintf(text, sizeof text, round == 0 ? "warms up" : "round %u of %u", round,
                       s->plan->rounds);
        say(s, text);
        for (uint32_t i = 0; i < out->rows_count; i++) {
            kvs_bench_row *row = &out->rows[i];
            if (!measure_row(s, row)) {
                (void)fprintf(stderr, "kvbench: the case \"%s\" failed.\n", row->name);
                return false;
            }
            if (round == 0) {
                row->bare.count = 0;
                row->ours.count = 0;
            }
        }
    }
    return true;
}

bool kvs_bench_measure(const kvs_bench_plan *plan, kvs_bench_results *out)
{
    stage s = {.plan = plan};
    memset(out, 0, sizeof *out);
    out->rows_count = sizeof rows / sizeof rows[0];
    memcpy(out->rows, rows, sizeof rows);
    (void)getloadavg(&out->load, 1);
    const bool good = start_stage(&s) && measure_rounds(&s, out);
    return stop_stage(&s) && good;
}
