/* The store at a server: what the calls of kvstore.h mean over the network.
 *
 * Threads: as in client/store.h, beside one I/O thread a store, which alone receives.
 * Memory: the store is closed by its table.
 * Errors: what the server says, and KVS_UNAVAILABLE, KVS_DEADLINE, KVS_FENCED.
 */
#ifndef KVS_CLIENT_DIST_H
#define KVS_CLIENT_DIST_H

#include "client/store.h"

/* type: in lower case. */
kvs_status kvs_dist_open(const char *type, const char *address, const kv_options *options,
                         kv_store **out, kvs_problem *problem) KVS_MUST_CHECK;

#endif
