/* The accept loop: TCP and Unix sockets, from connection to a socket that speaks HTTP/2.
 *
 * The core's own listener stops for ever when it once runs out of file descriptors, and has no
 * bounds; this one keeps a descriptor in reserve to refuse with, counts connections in all and by
 * address, and hands a socket over only once the preface of HTTP/2 has arrived on it: so a
 * connection that says nothing, or something else, costs the core nothing.
 *
 * Threads: one of its own; adopt and transform are called by it. The others' calls: any.
 * Memory: the options' texts are copied.
 * Errors: KVS_IO_ERROR (the detail names address and reason), KVS_INVALID_FIELD.
 */
#ifndef KVS_SERVICE_LISTENER_H
#define KVS_SERVICE_LISTENER_H

#include "base/status.h"

#include <stddef.h>

typedef struct kvs_listener kvs_listener;

typedef struct kvs_listener_options {
    const char *address;   /* "127.0.0.1:0"; NULL or "": no TCP */
    const char *unix_path; /* NULL or "": no Unix socket; a stale one is replaced */
    const char *tcp_congestion;
    uint32_t connections_max;
    uint32_t connections_per_ip_max; /* 0: no bound */
    /* Gets a connected, non-blocking socket. Takes it. */
    void (*adopt)(void *context, int fd);
    /* Puts something between socket and server (TLS, a guard of frames): gets the accepted socket,
     * gives the one to go on with, or -1 after closing it. NULL: nothing. Must not block. */
    int (*transform)(void *context, int fd);
    void *context;
} kvs_listener_options;

kvs_status kvs_listener_open(const kvs_listener_options *options, kvs_listener **out,
                             kvs_problem *problem) KVS_MUST_CHECK;

/* Stops accepting and removes the Unix socket's file. Accepts NULL. */
void kvs_listener_close(kvs_listener *listener);

/* "127.0.0.1:43210", or "" without TCP; "/run/kvstored.sock", or "". Borrowed. */
const char *kvs_listener_address(const kvs_listener *listener);
const char *kvs_listener_unix_path(const kvs_listener *listener);
uint16_t kvs_listener_port(const kvs_listener *listener);

typedef struct kvs_listener_statistics {
    uint64_t open; /* connections, as of the last count */
    uint64_t accepted;
    uint64_t refused; /* over a bound, or no descriptor */
    uint64_t silent;  /* closed: no preface in time, or another one */
} kvs_listener_statistics;
void kvs_listener_count(const kvs_listener *listener, kvs_listener_statistics *out);

#endif
