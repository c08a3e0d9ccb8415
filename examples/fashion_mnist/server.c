#include "examples/fashion_mnist/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_SECONDS 20
#define POLLS_PER_SECOND 50

static void sleep_briefly(void)
{
    const struct timespec pause = {.tv_nsec = 1000000000 / POLLS_PER_SECOND};
    (void)nanosleep(&pause, NULL);
}

static bool find_address(const char *text, const char *name, char *out, size_t out_bytes)
{
    const char *start = strstr(text, name);
    start = start == NULL ? NULL : strchr(start, ':');
    start = start == NULL ? NULL : strchr(start, '"');
    const char *end = start == NULL ? NULL : strchr(start + 1, '"');
    if (end == NULL || (size_t)(end - start) > out_bytes) {
        return false;
    }
    memcpy(out, start + 1, (size_t)(end - start - 1));
    out[end - start - 1] = '\0';
    return true;
}

/* The address file is {"grpc": "127.0.0.1:43210", "http": "..."}; it appears by rename, whole. */
static bool read_addresses(const char *path, fashion_server *server)
{
    char text[512];
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false;
    }
    const size_t bytes = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[bytes] = '\0';
    return find_address(text, "\"grpc\"", server->address, sizeof server->address) &&
           find_address(text, "\"http\"", server->http, sizeof server->http);
}

static void run_server(const char *program, const char *type, unsigned workers, const char *file)
{
    char count[16];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* no server outlives its demo */
    (void)snprintf(count, sizeof count, "%u", workers);
    execlp(program, program, "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
           "--address-file", file, "--store-type", type, "--num-workers", count, "--log-level",
           "warn", "--drain-delay", "0s", (char *)NULL);
    (void)fprintf(stderr, "fashion_mnist: cannot start %s: %s. Build it, or name it by --server.\n",
                  program, strerror(errno));
    _exit(127);
}

static void remove_folder(const fashion_server *server)
{
    char file[96];
    (void)snprintf(file, sizeof file, "%s/address", server->folder);
    (void)unlink(file);
    (void)rmdir(server->folder);
}

bool fashion_server_start(const char *program, const char *type, unsigned workers,
                          fashion_server *out)
{
    fashion_server server = {.folder = "/tmp/fashion_mnist.XXXXXX"};
    char file[96];
    if (mkdtemp(server.folder) == NULL) {
        (void)fprintf(stderr, "fashion_mnist: cannot make a folder in /tmp: %s.\n",
                      strerror(errno));
        return false;
    }
    (void)snprintf(file, sizeof file, "%s/address", server.folder);
    server.process = fork();
    if (server.process == 0) {
        run_server(program, type, workers, file);
    }
    for (int i = 0; server.process > 0 && i < START_SECONDS * POLLS_PER_SECOND; i++) {
        if (read_addresses(file, &server)) {
            *out = server;
            return true;
        }
        int state = 0;
        if (waitpid(server.process, &state, WNOHANG) == server.process) {
            (void)fprintf(stderr, "fashion_mnist: %s ended before it was ready.\n", program);
            remove_folder(&server);
            return false;
        }
        sleep_briefly();
    }
    (void)fprintf(stderr, "fashion_mnist: %s was not ready within %d s.\n", program, START_SECONDS);
    if (server.process > 0) {
        (void)kill(server.process, SIGKILL);
        (void)waitpid(server.process, NULL, 0);
    }
    remove_folder(&server);
    return false;
}

bool fashion_server_stop(fashion_server *server)
{
    int state = 0;
    (void)kill(server->process, SIGTERM);
    const bool ended = waitpid(server->process, &state, 0) == server->process;
    remove_folder(server);
    if (!ended || !WIFEXITED(state) || WEXITSTATUS(state) != 0) {
        (void)fprintf(stderr, "fashion_mnist: the server did not end with exit code 0.\n");
        return false;
    }
    return true;
}
