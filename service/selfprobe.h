/* Asks the own door for its health, over the network, every few seconds.
 *
 * A listener can die while its process lives; whoever only looks at the process would not notice.
 * The question is written by hand as HTTP/2 on a fresh connection, so that it goes the whole way
 * of a stranger's and shares nothing with the server. A probe that could not be made (no
 * descriptor), or that came while the listener refused others, says nothing. A door that takes the
 * connection and serves others meanwhile is slow, and for a while not yet dead.
 *
 * Threads: one of its own, which calls `dead`, once, after three failures in a row; one of a door
 *   that is only slow counts for a sixth.
 * Memory: the address is copied; the listener is borrowed until close.
 */
#ifndef KVS_SERVICE_SELFPROBE_H
#define KVS_SERVICE_SELFPROBE_H

#include "service/listener.h"

typedef struct kvs_selfprobe kvs_selfprobe;

typedef struct kvs_selfprobe_options {
    const char *address; /* "127.0.0.1:9400", or the path of a Unix socket */
    const kvs_listener *listener;
    uint64_t interval_ns; /* between two probes; 0: 5 s */
    uint64_t patience_ns; /* with one; 0: 3 s */
    /* How many events the door's threads have served: any thread; may be NULL. */
    uint64_t (*served)(void *context);
    void (*dead)(void *context);
    void *context;
} kvs_selfprobe_options;

kvs_status kvs_selfprobe_open(const kvs_selfprobe_options *options,
                              kvs_selfprobe **out) KVS_MUST_CHECK;
void kvs_selfprobe_close(kvs_selfprobe *probe); /* accepts NULL */

/* The last probe that said something succeeded. */
bool kvs_selfprobe_healthy(const kvs_selfprobe *probe);
uint64_t kvs_selfprobe_failures(const kvs_selfprobe *probe);

#endif
