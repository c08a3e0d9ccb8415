/* A worker of kvstored, through libkvstore as any program would use it; and the server itself.
 *
 * Threads: one.
 */
#ifndef KVS_BENCH_OURS_H
#define KVS_BENCH_OURS_H

#include "bench/party.h"

/* The argument of the role. */
typedef struct kvs_bench_ours {
    char address[128];
    uint32_t rank;
    bool shared; /* its gradients lie in memory of the server's */
    kvs_bench_sizes sizes;
} kvs_bench_ours;

/* Joins the store, makes the keys and sets the rule "sgd" without momentum, which moves the bytes
 * that the bare stream's sum moves. */
const kvs_bench_role *kvs_bench_ours_worker(void);

/* A kvstored of one's own. */
typedef struct kvs_bench_server {
    pid_t process;
    char folder[64];
    char address[128];
} kvs_bench_server;

/* `shared`: at a Unix socket, with memory for the workers. */
bool kvs_bench_server_start(const char *program, uint32_t workers, bool shared,
                            kvs_bench_server *out);
/* SIGTERM; false when it did not end with exit code 0. */
bool kvs_bench_server_stop(kvs_bench_server *server);

#endif
