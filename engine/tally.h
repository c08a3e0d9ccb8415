/* How many pushes a session has given to each part of each key of an asynchronous store: so that a
 * push that its end has cut is known, and the versions of the key's parts meet all the same.
 *
 * Threads: the session's holder. Memory: a number a part, made at a session's first push of a key;
 *   keys of one part need none. Errors: KVS_NO_MEMORY refuses that push.
 */
#ifndef KVS_ENGINE_TALLY_H
#define KVS_ENGINE_TALLY_H

#include "engine/part.h"

typedef struct kvs_tally {
    uint32_t **counts; /* by the key's place in its store; NULL: nothing pushed */
    kvs_key **keys;
    uint64_t room;
} kvs_tally;

void kvs_tally_deinit(kvs_tally *tally);

/* One more push of the part. */
kvs_status kvs_tally_add(kvs_tally *tally, kvs_part *part) KVS_MUST_CHECK;
/* It was refused before it reached its shard. */
void kvs_tally_remove(kvs_tally *tally, kvs_part *part);

/* A part that has had fewer pushes than another of its key, by *count, which are counted as had;
 * NULL: none left. */
kvs_part *kvs_tally_take_torn(kvs_tally *tally, uint64_t *count);

#endif
