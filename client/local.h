/* The store in the caller's own process: the engine without a network.
 *
 * Every call has taken effect when it returns; handles are done at once. No optimizer: a push
 * replaces the value by the sum of its values. A second init of a key is an error.
 *
 * Threads: as in client/store.h. Memory: the store is closed by its table.
 * Errors: KVS_NO_MEMORY and what the engine says.
 */
#ifndef KVS_CLIENT_LOCAL_H
#define KVS_CLIENT_LOCAL_H

#include "client/store.h"

/* type: in lower case. */
kvs_status kvs_local_open(const char *type, kv_store **out, kvs_problem *problem) KVS_MUST_CHECK;

#endif
