#include "tests/e2e/client_server.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS_MAX 32
#define START_NS (20 * KVS_SECOND)

struct kvs_test_server {
    char program[512];
    char file[64]; /* the address file */
    char grpc[64];
    char http[64];
    const char *arguments[ARGUMENTS_MAX];
    pid_t process; /* 0: none */
};

static void rest(void)
{
    const struct timespec moment = {.tv_nsec = 10000000};
    (void)nanosleep(&moment, NULL);
}

/* Reads "name": "value" from the address file; false when it is not there (yet). */
static int read_address(const char *file, const char *name, char *out, size_t out_bytes)
{
    char text[512] = "";
    char format[64];
    FILE *from = fopen(file, "r");
    if (from == NULL) {
        return 0;
    }
    size_t bytes = fread(text, 1, sizeof text - 1, from);
    text[bytes] = '\0';
    (void)fclose(from);
    (void)snprintf(format, sizeof format, "\"%s\":", name);
    const char *at = strstr(text, format);
    at = at != NULL ? strchr(at + strlen(format), '"') : NULL;
    const char *end = at != NULL ? strchr(at + 1, '"') : NULL;
    if (end == NULL || (size_t)(end - at) > out_bytes) {
        return 0;
    }
    memcpy(out, at + 1, (size_t)(end - at - 1));
    out[end - at - 1] = '\0';
    return 1;
}

/* Starts the process and waits until it serves. */
static void start(kvs_test_server *server)
{
    const char *argv[ARGUMENTS_MAX + 8] = {server->program};
    size_t count = 1;
    argv[count++] = "--grpc-address";
    argv[count++] = server->grpc;
    argv[count++] = "--http-address";
    argv[count++] = server->http;
    argv[count++] = "--address-file";
    argv[count++] = server->file;
    for (size_t i = 0; server->arguments[i] != NULL; i++) {
        argv[count++] = server->arguments[i];
    }
    (void)unlink(server->file);
    server->process = fork();
    KVS_CHECK(server->process >= 0);
    if (server->process == 0) {
        /* A test that is killed leaves no server behind. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)execv(server->program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    uint64_t until = kvs_clock_now_ns() + START_NS;
    while (!read_address(server->file, "grpc", server->grpc, sizeof server->grpc) ||
           !read_address(server->file, "http", server->http, sizeof server->http)) {
        int status = 0;
        KVS_CHECK(waitpid(server->process, &status, WNOHANG) == 0);
        KVS_CHECK(kvs_clock_now_ns() < until);
        rest();
    }
}

kvs_test_server *kvs_test_server_open(const char *program, const char *const *arguments)
{
    kvs_test_server *server = calloc(1, sizeof *server);
    KVS_CHECK(server != NULL);
    (void)snprintf(server->program, sizeof server->program, "%s", program);
    (void)snprintf(server->file, sizeof server->file, "/tmp/kvs-client-test-XXXXXX");
    int file = mkstemp(server->file);
    KVS_CHECK(file >= 0);
    (void)close(file);
    (void)strcpy(server->grpc, "127.0.0.1:0");
    (void)strcpy(server->http, "127.0.0.1:0");
    for (size_t i = 0; arguments != NULL && arguments[i] != NULL; i++) {
        KVS_CHECK(i < ARGUMENTS_MAX - 1);
        server->arguments[i] = arguments[i];
    }
    start(server);
    return server;
}

static int reap(kvs_test_server *server)
{
    int status = 0;
    KVS_CHECK(waitpid(server->process, &status, 0) == server->process);
    server->process = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void kvs_test_server_kill(kvs_test_server *server)
{
    (void)kill(server->process, SIGKILL);
    (void)reap(server);
}

void kvs_test_server_restart(kvs_test_server *server)
{
    KVS_CHECK(server->process == 0);
    start(server);
}

int kvs_test_server_close(kvs_test_server *server)
{
    int code = 0;
    if (server->process != 0) {
        (void)kill(server->process, SIGTERM);
        code = reap(server);
    }
    (void)unlink(server->file);
    free(server);
    return code;
}

const char *kvs_test_server_address(const kvs_test_server *server)
{
    return server->grpc;
}

uint16_t kvs_test_server_port(const kvs_test_server *server)
{
    const char *colon = strrchr(server->grpc, ':');
    KVS_CHECK(colon != NULL);
    return (uint16_t)strtoul(colon + 1, NULL, 10);
}
