/* What all methods of the gRPC door share: the context of every call.
 *
 * Threads: as each member says. Memory: lives from before the first call until after the last.
 */
#ifndef KVS_SERVICE_DOOR_H
#define KVS_SERVICE_DOOR_H

#include "base/profile.h"
#include "engine/engine.h"
#include "service/admin.h"
#include "service/rpc.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct kvs_workers kvs_workers;
typedef struct kvs_regions kvs_regions;
typedef struct kvs_subscriber kvs_subscriber;

typedef struct kvs_door {
    kvs_engine *engine;
    kvs_admin *admin;
    kvs_workers *workers; /* for what may block */
    kvs_profile *profile; /* borrowed; may be NULL */
    kvs_regions *regions; /* NULL: no memory is shared */
    uint64_t silence_ns;  /* an upload that brings nothing for so long is given up */
    atomic_bool draining; /* health says so; no new workers */
    atomic_bool stopping; /* streams that are told things, or have nothing under way, are ended */
    pthread_mutex_t lock; /* of the list; never held during a call into the engine */
    kvs_subscriber *subscribers;
} kvs_door;

/* The methods of each file, ended by NULL. */
extern const kvs_method *const kvs_data_methods[];
extern const kvs_method *const kvs_control_methods[];
extern const kvs_method *const kvs_session_methods[];
extern const kvs_method *const kvs_watch_methods[];
extern const kvs_method *const kvs_admin_methods[];
extern const kvs_method *const kvs_value_methods[];
extern const kvs_method *const kvs_health_methods[];
extern const kvs_method *const kvs_reflection_methods[];

/* Store and session of a request, each a reference. `out_store` may be NULL. */
kvs_status kvs_door_find(kvs_door *door, const char *store, size_t store_bytes,
                         const uint8_t *session, size_t session_bytes, uint64_t epoch,
                         kvs_store **out_store, kvs_session **out,
                         kvs_problem *problem) KVS_MUST_CHECK;

/* ------------------------------------------------------------------ streams that are told things
 */

/* Part of the state of a stream that is told of changes: looked at about every 100 ms. */
struct kvs_subscriber {
    kvs_subscriber *next;
    kvs_call *call;
    bool listed;
    /* Sends what has changed. On the ticking thread, without the lock; not after closed. */
    void (*look)(kvs_subscriber *subscriber, uint64_t now_ns);
};
void kvs_door_subscribe(kvs_door *door, kvs_subscriber *subscriber);
void kvs_door_unsubscribe(kvs_door *door, kvs_subscriber *subscriber);
void kvs_door_look(kvs_door *door, uint64_t now_ns);

#endif
