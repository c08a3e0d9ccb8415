#include "examples/fashion_mnist/demo.h"

#include "examples/fashion_mnist/chart.h"
#include "examples/fashion_mnist/network.h"
#include "examples/fashion_mnist/server.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 64u

/* Everything that the demo holds. */
typedef struct show {
    const fashion_demo *demo;
    const fashion_run *run;
    const fashion_set *train, *test;
    fashion_report *workers[WORKERS_MAX];
    fashion_report *alone;
} show;

/* A process of its own for each run: nothing of the store's library is shared but the report. */
static pid_t start_run(const show *s, const fashion_run *run, fashion_report *report)
{
    const pid_t parent = getpid();
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(1);
        }
        const bool good = fashion_train(run, s->train, s->test, report);
        (void)fflush(NULL);
        _exit(good ? 0 : 1);
    }
    return child;
}

static bool wait_run(pid_t child, const fashion_report *report)
{
    int state = 0;
    return child > 0 && waitpid(child, &state, 0) == child && WIFEXITED(state) &&
           WEXITSTATUS(state) == 0 && report->done;
}

static bool run_workers(show *s)
{
    fashion_server server;
    if (!fashion_server_start(s->demo->server, s->run->type, s->run->shares, &server)) {
        return false;
    }
    (void)fprintf(stderr, "kvstored runs at %s; %u workers train (%s)\n", server.address,
                  s->run->shares, s->run->type);
    char name[64];
    (void)snprintf(name, sizeof name, "%u workers, %s", s->run->shares, s->run->type);
    pid_t children[WORKERS_MAX];
    for (uint32_t rank = 0; rank < s->run->shares; rank++) {
        fashion_run run = *s->run;
        run.name = rank == 0 ? name : NULL;
        run.address = server.address;
        run.rank = rank;
        children[rank] = start_run(s, &run, s->workers[rank]);
    }
    bool good = true;
    for (uint32_t rank = 0; rank < s->run->shares; rank++) {
        if (!wait_run(children[rank], s->workers[rank])) {
            (void)fprintf(stderr, "fashion_mnist: worker %u failed.\n", rank);
            good = false;
        }
    }
    return fashion_server_stop(&server) && good;
}

static bool run_alone(show *s)
{
    char name[64];
    (void)snprintf(name, sizeof name, "one process, %u device values", s->run->shares);
    fashion_run run = *s->run;
    run.name = name;
    run.type = "local";
    run.address = NULL;
    run.store = NULL;
    run.rank = -1;
    run.compression = NULL;
    if (!wait_run(start_run(s, &run, s->alone), s->alone)) {
        (void)fprintf(stderr, "fashion_mnist: the run of one process failed.\n");
        return false;
    }
    return true;
}

/* All workers must hold the same weights; with dist_sync and whole gradients the process alone as
 * well. */
static bool compare(const show *s)
{
    const size_t bytes = fashion_network_elements() * sizeof(float);
    bool equal = true;
    for (uint32_t rank = 1; rank < s->run->shares; rank++) {
        equal = equal && memcmp(s->workers[0]->weights, s->workers[rank]->weights, bytes) == 0;
    }
    if (!equal) {
        (void)fprintf(stderr, "fashion_mnist: the workers ended with different weights.\n");
        return false;
    }
    const bool alike = memcmp(s->workers[0]->weights, s->alone->weights, bytes) == 0;
    (void)printf("weights of the workers      %016" PRIx64 "\n"
                 "weights of the one process  %016" PRIx64 "  %s\n",
                 fashion_report_hash(s->workers[0]), fashion_report_hash(s->alone),
                 alike ? "equal to the bit" : "not equal");
    if (strstr(s->run->type, "async") != NULL || s->run->compression != NULL) {
        return true;
    }
    if (!alike) {
        (void)fprintf(stderr, "fashion_mnist: dist_sync and local ended with different weights.\n");
    }
    return alike;
}

static bool write_files(const show *s)
{
    char several[64];
    char alone[64];
    char path[4096];
    (void)snprintf(several, sizeof several, "%u workers %s", s->run->shares, s->run->type);
    (void)snprintf(alone, sizeof alone, "one process local");
    const fashion_series series[] = {{several, s->workers[0]}, {alone, s->alone}};
    (void)snprintf(path, sizeof path, "%s/loss.csv", s->demo->output);
    if (!fashion_report_csv(path, series, 2)) {
        return false;
    }
    (void)printf("loss by step                %s\n", path);
    (void)snprintf(path, sizeof path, "%s/loss.svg", s->demo->output);
    if (!fashion_chart_write(path, "Fashion-MNIST, 784-128-10, SGD in the server", series, 2)) {
        return false;
    }
    (void)printf("the same as a picture       %s\n", path);
    return true;
}

static bool tell(const show *s)
{
    const double several = fashion_report_accuracy(s->workers[0]);
    const double alone = fashion_report_accuracy(s->alone);
    (void)printf("accuracy, %2u workers        %.4f  (%.1f s, %s)\n"
                 "accuracy, one process       %.4f  (%.1f s, local)\n",
                 s->run->shares, several, s->workers[0]->seconds, s->run->type, alone,
                 s->alone->seconds);
    const bool equal = compare(s);
    const bool written = write_files(s);
    if (several < s->demo->accuracy_min) {
        (void)fprintf(stderr, "fashion_mnist: the accuracy %.4f is below %.2f.\n", several,
                      s->demo->accuracy_min);
    }
    (void)printf("{\"accuracy\": %.4f, \"single_process_accuracy\": %.4f, \"workers\": %u, "
                 "\"type\": \"%s\", \"seconds\": %.1f}\n",
                 several, alone, s->run->shares, s->run->type, s->workers[0]->seconds);
    return equal && written && several >= s->demo->accuracy_min;
}

bool fashion_demo_run(const fashion_demo *demo, const fashion_run *run, const fashion_set *train,
                      const fashion_set *test)
{
    show s = {.demo = demo, .run = run, .train = train, .test = test};
    if (run->shares > WORKERS_MAX) {
        (void)fprintf(stderr, "fashion_mnist: at most %u workers.\n", WORKERS_MAX);
        return false;
    }
    const uint32_t steps = run->epochs * fashion_run_steps(run, train);
    bool good = (s.alone = fashion_report_open(steps, run->epochs)) != NULL;
    for (uint32_t rank = 0; good && rank < run->shares; rank++) {
        good = (s.workers[rank] = fashion_report_open(steps, run->epochs)) != NULL;
    }
    good = good && run_workers(&s) && run_alone(&s) && tell(&s);
    for (uint32_t rank = 0; rank < run->shares; rank++) {
        fashion_report_close(s.workers[rank]);
    }
    fashion_report_close(s.alone);
    return good;
}
