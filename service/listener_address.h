/* Listening sockets from the texts of a configuration.
 *
 * Threads: any. Memory: nothing is kept.
 */
#ifndef KVS_SERVICE_LISTENER_ADDRESS_H
#define KVS_SERVICE_LISTENER_ADDRESS_H

#include "base/status.h"

#include <sys/socket.h>

#define KVS_ADDRESS_BYTES 64u

/* "127.0.0.1:9400", "[::1]:0", "localhost:9400". A non-blocking listening socket and the address
 * in use, with its port. */
kvs_status kvs_listen_tcp(const char *address, const char *congestion, int *out,
                          char text[KVS_ADDRESS_BYTES], uint16_t *port,
                          kvs_problem *problem) KVS_MUST_CHECK;

/* A socket at `path`, of SOCK_STREAM or SOCK_SEQPACKET. A file that is there and that nobody
 * listens at is replaced. */
kvs_status kvs_listen_unix(const char *path, int type, int *out,
                           kvs_problem *problem) KVS_MUST_CHECK;

/* Starts to connect to such an address, or, when it begins with '/', to a Unix socket: a
 * non-blocking socket, or -1 with errno. */
int kvs_connect_to(const char *address);

#endif
