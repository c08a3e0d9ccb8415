/* One operation of the engine that a thread waits for: kvs_waiter with a condition.
 *
 * The memory is shared by the caller and the engine; whoever lets go last frees it, so a caller
 * that gives up (deadline, stop) leaves nothing dangling.
 *
 *     kvs_wait *wait = NULL;
 *     KVS_TRY(kvs_wait_open(admin, store, sizeof *mine, deadline_ns, &wait, problem));
 *     kvs_store_read(store, ..., kvs_wait_begin(wait), now);
 *     status = kvs_wait_for(wait, problem);
 *     kvs_wait_close(wait);
 *
 * Threads: open to close on one thread; the engine answers from any.
 * Errors: what the operation ended with; KVS_DEADLINE when it did not end in time; KVS_STOPPING.
 */
#ifndef KVS_SERVICE_ADMIN_WAIT_H
#define KVS_SERVICE_ADMIN_WAIT_H

#include "service/admin.h"

#include <pthread.h>

/* The first member of the struct that holds an operation's results. */
typedef struct kvs_wait {
    kvs_waiter waiter;
    kvs_admin *admin;
    kvs_store *store;                       /* a reference */
    void (*release)(struct kvs_wait *wait); /* results that nobody took; may be NULL */
    kvs_problem problem;
    /* Guarded by the waits' mutex. */
    uint32_t holders;
    bool ended;
    struct kvs_wait *next, *previous;
} kvs_wait;

/* All waits of an admin plane. */
typedef struct kvs_waits {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* some wait has ended, or all shall */
    bool stopping;
    kvs_wait *first; /* of those with holders */
} kvs_waits;

kvs_status kvs_waits_init(kvs_waits *waits) KVS_MUST_CHECK;
void kvs_waits_deinit(kvs_waits *waits);
void kvs_waits_stop(kvs_waits *waits);
bool kvs_waits_stopping(kvs_waits *waits);

/* A reference to the store of some wait that is left, or NULL when there is none. */
kvs_store *kvs_waits_left(kvs_waits *waits);

/* Zeroed memory of `bytes`, at least sizeof(kvs_wait). `deadline_ns` is absolute. */
kvs_status kvs_wait_open(kvs_admin *admin, kvs_store *store, size_t bytes, uint64_t deadline_ns,
                         kvs_wait **out, kvs_problem *problem) KVS_MUST_CHECK;
/* What to hand to the engine, which from now on has a hold on the wait. */
kvs_waiter *kvs_wait_begin(kvs_wait *wait);
kvs_status kvs_wait_for(kvs_wait *wait, kvs_problem *problem) KVS_MUST_CHECK;
/* The same, but KVS_CANCELLED when the caller (may be NULL) leaves; the engine is then to be told.
 */
kvs_status kvs_wait_for_caller(kvs_wait *wait, const kvs_caller *caller,
                               kvs_problem *problem) KVS_MUST_CHECK;
void kvs_wait_close(kvs_wait *wait); /* accepts NULL */

#endif
