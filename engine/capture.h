/* What all keys of a store hold at one cut: optimizer states, counts of updates, and if asked the
 * values; taken out, or put in.
 *
 * Capturing takes references: an update meanwhile goes on with a copy of what is captured. Putting
 * in exchanges buffers that were filled beforehand, so it cannot fail half-way.
 *
 * Threads: as engine.h says of control calls; kvs_capture_act by the part's holder.
 * Memory: a capture owns references to its buffers and to the store.
 */
#ifndef KVS_ENGINE_CAPTURE_H
#define KVS_ENGINE_CAPTURE_H

#include "engine/part.h"
#include "engine/states.h"

typedef struct kvs_captured_part {
    uint64_t updates;
    kvs_buffer *value;  /* NULL without values, unless a master is still to begin as it */
    kvs_buffer *master; /* NULL: none, or it has not begun */
    kvs_buffer *states[KVS_RULE_STATES_MAX]; /* NULL: zeros */
} kvs_captured_part;

struct kvs_capture {
    kvs_store *store;         /* a reference */
    kvs_optimizer *optimizer; /* a reference: whose states they are */
    bool values;
    uint64_t key_count; /* the first of the store */
    uint64_t part_count;
    uint64_t *first; /* of each key: the place of its first part */
    kvs_captured_part *parts;
};

/* An empty one of the store's keys so far. */
kvs_status kvs_capture_make(kvs_store *store, kvs_optimizer *optimizer, bool values,
                            kvs_capture **out) KVS_MUST_CHECK;

/* Does `key` have a master under the capture's optimizer? */
bool kvs_capture_has_master(const kvs_capture *capture, const kvs_key *key);

/* How many state arrays `key` has under the capture's optimizer: none for integers. */
uint32_t kvs_capture_states(const kvs_capture *capture, const kvs_key *key);

/* Puts a capture into the store, at a cut of all keys. Takes it, whatever comes of it. With
 * `replaces` its optimizer becomes the store's. KVS_STATES_MISMATCH when keys have come or the
 * rule has changed since it was made. */
void kvs_store_restore(kvs_capture *capture, bool replaces, kvs_waiter *waiter, uint64_t now_ns);

/* The part is at the cut's version. */
void kvs_capture_act(kvs_action *action, kvs_shard *shard);

#endif
