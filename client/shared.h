/* Memory that the server maps too (base/region.h): a push from there sends no bytes, only their
 * place. Had at a server on this machine that allows it, over its Unix socket; everywhere else all
 * of this says no, and values go as data.
 *
 * Threads: any. A call that asks the server for more waits for it, for a moment.
 * Memory: counted, so that what was given out stays mapped when store and server have gone.
 */
#ifndef KVS_CLIENT_SHARED_H
#define KVS_CLIENT_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvs_shared kvs_shared;

/* `address` as kv_create has it. NULL: no Unix socket, or no memory. */
kvs_shared *kvs_shared_open(const char *address, const char *store);
/* The store is closed: the server knows nothing of it any more. Gives its reference back. Accepts
 * NULL, as all below. */
void kvs_shared_close(kvs_shared *shared);
kvs_shared *kvs_shared_take(kvs_shared *shared);
void kvs_shared_unref(kvs_shared *shared);

/* A session is up, new or resumed. What was shared with another one, or over a connection that has
 * ended, is memory like any other from now on. */
void kvs_shared_begin(kvs_shared *shared, const uint8_t *session, size_t session_bytes,
                      uint64_t epoch);

/* 64-byte aligned. NULL: the server shares no more, or nothing. */
uint8_t *kvs_shared_alloc(kvs_shared *shared, size_t bytes);
void kvs_shared_free(kvs_shared *shared, uint8_t *memory, size_t bytes); /* of one alloc */
/* Where bytes of the server's lie, to be read; NULL: it does not show them. Polling thread alone;
 * stays until the session's end. */
const uint8_t *kvs_shared_read(kvs_shared *shared, uint64_t region, uint64_t offset,
                               uint64_t bytes);
/* The same bytes' pages in the place of those at `at`: all are on the bounds of pages. False: they
 * are not to be had. Any thread. */
bool kvs_shared_map(kvs_shared *shared, uint64_t region, uint64_t offset, uint64_t bytes, void *at);
/* Is there anything to be asked of the server? */
bool kvs_shared_works(kvs_shared *shared);

/* Where the server finds these bytes. False: it cannot. */
bool kvs_shared_find(kvs_shared *shared, const uint8_t *at, uint64_t bytes, uint64_t *region,
                     uint64_t *offset);

#endif
