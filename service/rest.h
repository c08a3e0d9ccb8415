/* The REST door: HTTP/1.1 by libmicrohttpd, one thread a connection.
 *
 * Order: open, close. What a request means is service/exchange.h's; here are sockets, limits and
 * timeouts.
 * Threads: one caller. Memory: the options' texts are copied; engine, admin and the gRPC server
 *   are borrowed until close.
 * Errors: KVS_IO_ERROR when the address cannot be bound, KVS_INVALID_FIELD when it is none.
 */
#ifndef KVS_SERVICE_REST_H
#define KVS_SERVICE_REST_H

#include "service/admin.h"
#include "service/grpc_server.h"

typedef struct kvs_rest kvs_rest;

typedef struct kvs_rest_options {
    kvs_engine *engine;
    kvs_admin *admin;
    const kvs_grpc_server *grpc;     /* what readiness asks; NULL: always ready */
    const char *address;             /* "127.0.0.1:9401" */
    const char *hosts;               /* further names for Host, with commas; NULL or "": none */
    uint32_t connections_max;        /* 0: 256, which is also the most */
    uint32_t connections_per_ip_max; /* 0: no bound */
    uint64_t slow_reader_ns;         /* 0: 30 s */
} kvs_rest_options;

kvs_status kvs_rest_open(const kvs_rest_options *options, kvs_rest **out,
                         kvs_problem *problem) KVS_MUST_CHECK;

/* "127.0.0.1:43211". Borrowed. */
const char *kvs_rest_address(const kvs_rest *rest);

/* Accepts no more and ends every connection. What waits in the admin plane must be stopped before
 * (kvs_admin_stop), or this waits for it. Accepts NULL. */
void kvs_rest_close(kvs_rest *rest);

#endif
