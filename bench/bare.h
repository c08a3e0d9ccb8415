/* A bare stream of the gRPC C core: what is left when there is no server of ours on top.
 *
 * One method, one message a chunk: 16 bytes of header and a payload that is summed straight from
 * the slices it came in. Payloads are sent without a copy. No keys, sessions, sequences, rounds or
 * versions: the limit that push, pull and pushpull are held against.
 *
 * Threads: a server or client is one process with one thread of its own.
 */
#ifndef KVS_BENCH_BARE_H
#define KVS_BENCH_BARE_H

#include "bench/party.h"

/* The argument of both roles. */
typedef struct kvs_bench_bare {
    char address[64]; /* where the server listens: "unix:" is not used, as TCP is the rule */
    uint64_t tensor_bytes;
} kvs_bench_bare;

/* A free port of 127.0.0.1 as an address; "" when there is none. */
void kvs_bench_free_address(char *out, uint32_t out_bytes);

/* Serves until its party is stopped; it takes no orders. */
const kvs_bench_role *kvs_bench_bare_server(void);
/* Carries out every verb against the server. */
const kvs_bench_role *kvs_bench_bare_client(void);

#endif
