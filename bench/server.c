/* The kvstored that is measured. */
#include "bench/ours.h"

#include "base/json.h"

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
#define PATH_BYTES 96u

static bool read_address(const char *path, char *out, size_t out_bytes)
{
    char text[1024];
    json_t *addresses = NULL;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return false;
    }
    const size_t bytes = fread(text, 1, sizeof text, file);
    (void)fclose(file);
    if (kvs_json_parse(text, bytes, sizeof text, &addresses, NULL) != KVS_OK) {
        return false;
    }
    const char *grpc = json_string_value(json_object_get(addresses, "grpc"));
    (void)snprintf(out, out_bytes, "%s", grpc != NULL ? grpc : "");
    json_decref(addresses);
    return out[0] != '\0';
}

static void socket_path(const kvs_bench_server *server, char out[PATH_BYTES])
{
    (void)snprintf(out, PATH_BYTES, "%s/socket", server->folder);
}

static void run_server(const char *program, uint32_t workers, const char *file, const char *socket)
{
    char count[16];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)snprintf(count, sizeof count, "%u", workers);
    execlp(program, program, "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
           "--address-file", file, "--store-type", "dist_sync", "--num-workers", count,
           "--log-level", "warn", "--drain-delay", "0s", "--unix-socket", socket,
           "--allow-client-shm=true", (char *)NULL);
    (void)fprintf(stderr, "kvbench: cannot start %s: %s. Name it by --server.\n", program,
                  strerror(errno));
    _exit(127);
}

static void remove_folder(const kvs_bench_server *server)
{
    char file[PATH_BYTES];
    (void)snprintf(file, sizeof file, "%s/address", server->folder);
    (void)unlink(file);
    (void)rmdir(server->folder);
}

bool kvs_bench_server_start(const char *program, uint32_t workers, bool shared,
                            kvs_bench_server *out)
{
    kvs_bench_server server = {.folder = "/tmp/kvbench.XXXXXX"};
    char file[PATH_BYTES];
    char socket[PATH_BYTES] = "";
    if (mkdtemp(server.folder) == NULL) {
        perror("kvbench: a folder in /tmp");
        return false;
    }
    (void)snprintf(file, sizeof file, "%s/address", server.folder);
    if (shared) {
        socket_path(&server, socket);
    }
    (void)fflush(NULL);
    server.process = fork();
    if (server.process == 0) {
        run_server(program, workers, file, socket);
    }
    const struct timespec pause = {.tv_nsec = 1000000000 / POLLS_PER_SECOND};
    for (int i = 0; server.process > 0 && i < START_SECONDS * POLLS_PER_SECOND; i++) {
        if (read_address(file, server.address, sizeof server.address)) {
            if (shared) {
                (void)snprintf(server.address, sizeof server.address, "unix:%s", socket);
            }
            *out = server;
            return true;
        }
        if (waitpid(server.process, NULL, WNOHANG) == server.process) {
            (void)fprintf(stderr, "kvbench: %s ended before it was ready.\n", program);
            remove_folder(&server);
            return false;
        }
        (void)nanosleep(&pause, NULL);
    }
    (void)fprintf(stderr, "kvbench: %s was not ready within %d s.\n", program, START_SECONDS);
    *out = server;
    (void)kvs_bench_server_stop(out);
    return false;
}

bool kvs_bench_server_stop(kvs_bench_server *server)
{
    int state = 0;
    if (server->process <= 0) {
        return true;
    }
    (void)kill(server->process, SIGTERM);
    const bool ended = waitpid(server->process, &state, 0) == server->process;
    remove_folder(server);
    server->process = 0;
    if (!ended || !WIFEXITED(state) || WEXITSTATUS(state) != 0) {
        (void)fprintf(stderr, "kvbench: the server did not end with exit code 0.\n");
        return false;
    }
    return true;
}
