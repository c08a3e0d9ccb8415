#include "examples/diloco/compare.h"

#include "examples/diloco/statistics.h"
#include "examples/fashion_mnist/network.h"
#include "examples/fashion_mnist/server.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 64u

/* One of the two ways to train, and what it came to. */
typedef struct way {
    const char *name;
    bool local; /* DiLoCo: most steps are the worker's own */
    diloco_run run;
    fashion_report *reports[WORKERS_MAX];
    diloco_statistics counted;
} way;

/* A process for each worker. */
static pid_t start_worker(const way *w, uint32_t rank, const char *address,
                          const fashion_set *train, const fashion_set *test)
{
    const pid_t parent = getpid();
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child != 0) {
        return child;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    diloco_run run = w->run;
    run.inner.name = rank == 0 ? w->name : NULL;
    run.inner.address = address;
    run.inner.rank = rank;
    const bool good = w->local ? diloco_train(&run, train, test, w->reports[rank])
                               : fashion_train(&run.inner, train, test, w->reports[rank]);
    (void)fflush(NULL);
    _exit(good ? 0 : 1);
}

/* All must end with the same weights: those of the server. */
static bool agree(const way *w)
{
    const size_t bytes = fashion_network_elements() * sizeof(float);
    for (uint32_t rank = 1; rank < w->run.inner.shares; rank++) {
        if (memcmp(w->reports[0]->weights, w->reports[rank]->weights, bytes) != 0) {
            (void)fprintf(stderr, "diloco: the workers ended with different weights.\n");
            return false;
        }
    }
    return true;
}

static bool run_way(way *w, const char *program, const fashion_set *train, const fashion_set *test)
{
    fashion_server server;
    pid_t children[WORKERS_MAX];
    const uint32_t workers = w->run.inner.shares;
    if (!fashion_server_start(program, "dist_sync", workers, &server)) {
        return false;
    }
    for (uint32_t rank = 0; rank < workers; rank++) {
        children[rank] = start_worker(w, rank, server.address, train, test);
    }
    bool good = true;
    for (uint32_t rank = 0; rank < workers; rank++) {
        int state = 0;
        if (children[rank] <= 0 || waitpid(children[rank], &state, 0) != children[rank] ||
            !WIFEXITED(state) || WEXITSTATUS(state) != 0 || !w->reports[rank]->done) {
            (void)fprintf(stderr, "diloco: worker %u failed.\n", rank);
            good = false;
        }
    }
    good = good && diloco_statistics_read(server.http, &w->counted);
    return fashion_server_stop(&server) && good && agree(w);
}

static double megabytes(const way *w)
{
    return (double)(w->counted.bytes_pushed + w->counted.bytes_pulled) / 1e6;
}

static bool tell(const diloco_comparison *comparison, const way *ways)
{
    for (size_t i = 0; i < 2; i++) {
        (void)printf("%-12s accuracy %.4f, %9.2f MB pushed and pulled, %5.1f s\n", ways[i].name,
                     fashion_report_accuracy(ways[i].reports[0]), megabytes(&ways[i]),
                     ways[i].reports[0]->seconds);
    }
    const double synchronous = fashion_report_accuracy(ways[0].reports[0]);
    const double diloco = fashion_report_accuracy(ways[1].reports[0]);
    (void)printf("{\"workers\": %u, \"local_steps\": %u, \"outer\": \"%s\", "
                 "\"accuracy\": %.4f, \"synchronous_accuracy\": %.4f, "
                 "\"bytes\": %" PRIu64 ", \"synchronous_bytes\": %" PRIu64 ", "
                 "\"bytes_ratio\": %.2f, \"seconds\": %.1f, \"synchronous_seconds\": %.1f}\n",
                 comparison->run.inner.shares, comparison->run.local_steps,
                 comparison->run.outer_name, diloco, synchronous,
                 ways[1].counted.bytes_pushed + ways[1].counted.bytes_pulled,
                 ways[0].counted.bytes_pushed + ways[0].counted.bytes_pulled,
                 megabytes(&ways[0]) / megabytes(&ways[1]), ways[1].reports[0]->seconds,
                 ways[0].reports[0]->seconds);
    if (diloco < synchronous - comparison->accuracy_loss) {
        (void)fprintf(stderr, "diloco: the accuracy %.4f is more than %.3f below %.4f.\n", diloco,
                      comparison->accuracy_loss, synchronous);
        return false;
    }
    return true;
}

bool diloco_compare(const diloco_comparison *comparison, const fashion_set *train,
                    const fashion_set *test)
{
    const fashion_run *inner = &comparison->run.inner;
    if (inner->shares > WORKERS_MAX) {
        (void)fprintf(stderr, "diloco: at most %u workers.\n", WORKERS_MAX);
        return false;
    }
    way ways[2] = {{.name = "synchronous", .run = comparison->run},
                   {.name = "DiLoCo", .local = true, .run = comparison->run}};
    ways[0].run.inner.learning_rate = comparison->rate;
    ways[0].run.inner.momentum = comparison->momentum;
    const uint32_t steps = inner->epochs * fashion_run_steps(inner, train);
    bool good = true;
    for (size_t i = 0; i < 2; i++) {
        for (uint32_t rank = 0; good && rank < inner->shares; rank++) {
            good = (ways[i].reports[rank] = fashion_report_open(steps, inner->epochs)) != NULL;
        }
    }
    for (size_t i = 0; good && i < 2; i++) {
        good = run_way(&ways[i], comparison->server, train, test);
    }
    good = good && tell(comparison, ways);
    for (size_t i = 0; i < 2; i++) {
        for (uint32_t rank = 0; rank < inner->shares; rank++) {
            fashion_report_close(ways[i].reports[rank]);
        }
    }
    return good;
}
