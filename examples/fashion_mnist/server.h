/* Starts a kvstored of one's own on free ports of 127.0.0.1, and stops it.
 *
 * Threads: one.
 * Errors: false, with a sentence on stderr.
 */
#ifndef FASHION_SERVER_H
#define FASHION_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct fashion_server {
    pid_t process;
    char folder[64];   /* holds the address file; removed by stop */
    char address[128]; /* of gRPC: "127.0.0.1:43210" */
    char http[128];    /* of REST, alike */
} fashion_server;

/* Returns once the server takes calls. */
bool fashion_server_start(const char *program, const char *type, unsigned workers,
                          fashion_server *out);

/* SIGTERM; true when the server ended with exit code 0. */
bool fashion_server_stop(fashion_server *server);

#endif
