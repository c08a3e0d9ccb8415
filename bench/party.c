#include "bench/party.h"

#include <kvstore/kvstore.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds_of(clockid_t clock)
{
    struct timespec now = {0};
    (void)clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double kvs_bench_clock(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

double kvs_bench_cpu(pid_t process)
{
    clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
    if (process != 0 && clock_getcpuclockid(process, &clock) != 0) {
        return 0;
    }
    return seconds_of(clock);
}

static void serve(const kvs_bench_role *role, const void *argument, int socket)
{
    kvs_bench_answer answer = {0};
    kvs_bench_order order;
    kv_tune_malloc(); /* for every party alike */
    void *context = role->open(argument, answer.error, sizeof answer.error);
    answer.good = context != NULL;
    (void)send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
    while (context != NULL && recv(socket, &order, sizeof order, 0) == (ssize_t)sizeof order) {
        answer = (kvs_bench_answer){.good = true};
        const double cpu = kvs_bench_cpu(0);
        role->run(context, &order, &answer);
        answer.cpu = kvs_bench_cpu(0) - cpu;
        (void)send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
    }
    if (context != NULL) {
        role->close(context);
    }
}

bool kvs_bench_party_start(const kvs_bench_role *role, const void *argument, kvs_bench_party *out)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        perror("kvbench: socketpair");
        return false;
    }
    const pid_t parent = getpid();
    (void)fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(1);
        }
        (void)close(ends[0]);
        serve(role, argument, ends[1]);
        (void)fflush(NULL);
        _exit(0);
    }
    (void)close(ends[1]);
    if (child < 0) {
        perror("kvbench: fork");
        (void)close(ends[0]);
        return false;
    }
    *out = (kvs_bench_party){.process = child, .socket = ends[0]};
    return true;
}

bool kvs_bench_party_answer(kvs_bench_party *party, kvs_bench_answer *out)
{
    if (recv(party->socket, out, sizeof *out, 0) != (ssize_t)sizeof *out) {
        (void)fprintf(stderr, "kvbench: a process of the measurement has ended.\n");
        return false;
    }
    if (!out->good) {
        (void)fprintf(stderr, "kvbench: %s\n", out->error);
    }
    return out->good;
}

bool kvs_bench_party_ready(kvs_bench_party *party)
{
    kvs_bench_answer answer;
    return kvs_bench_party_answer(party, &answer);
}

bool kvs_bench_party_order(kvs_bench_party *party, const kvs_bench_order *order)
{
    return send(party->socket, order, sizeof *order, MSG_NOSIGNAL) == (ssize_t)sizeof *order;
}

void kvs_bench_party_stop(kvs_bench_party *party)
{
    if (party->process > 0) {
        /* Not by close alone: later parties were forked with a copy of this socket. */
        (void)shutdown(party->socket, SHUT_RDWR);
        (void)close(party->socket);
        (void)waitpid(party->process, NULL, 0);
        party->process = 0;
    }
}
