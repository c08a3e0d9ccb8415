/* The state of a store in the caller's process, and what its three sources say to each other.
 *
 *   local.c           opening, closing, init, optimizer, the table
 *   local_states.c    optimizer states as files
 *   local_transfer.c  push, pull, the updater: one way down to the engine and back
 *
 * Threads: under base.order but for opening and closing. Memory: as said at each member.
 * Errors: as said at each function.
 */
#ifndef KVS_CLIENT_LOCAL_STATE_H
#define KVS_CLIENT_LOCAL_STATE_H

#include "client/block.h"
#include "client/compression.h"
#include "client/keys.h"
#include "client/local.h"
#include "client/row_list.h"
#include "client/sum.h"
#include "engine/engine.h"

/* The one way back up from the engine; what it says of the request under way. */
typedef struct kvs_local_channel {
    kvs_channel channel;
    uint64_t answered; /* sequences */
    bool unused;       /* one of them was refused for room, and is still to come for the engine */
    kvs_status status; /* of the first refusal */
    kvs_problem problem;
    uint64_t sent_bytes; /* of values, not yet told to the engine */
    const kvs_group *group;
    const kvs_row_list *rows; /* that are pulled, or NULL: all */
    uint8_t *out;
    uint64_t elements; /* received */
} kvs_local_channel;

typedef struct kvs_local {
    kv_store base;
    kvs_sum sum; /* its backend is the engine's as well */
    kvs_engine *engine;
    kvs_store *store;
    kvs_session *session;
    uint8_t session_id[KVS_SESSION_ID_BYTES];
    kvs_block_pool pool;
    kvs_compression compression;
    kvs_client_keys keys;
    kvs_local_channel channel;
    kvs_part_header *headers; /* of the push under way */
    size_t header_room;
    uint64_t next_sequence;
    kv_updater *updater;
    void *updater_context;
    kv_statistics statistics;
} kvs_local;

/* A wait of the engine that this thread waits for. */
typedef struct kvs_local_waiter {
    kvs_waiter waiter; /* first */
    bool done;
    kvs_problem problem;
} kvs_local_waiter;

void kvs_local_waiter_init(kvs_local_waiter *waiter);
kvs_status kvs_local_wait(kvs_local *local, kvs_local_waiter *waiter,
                          kvs_problem *problem) KVS_MUST_CHECK;
/* Nearly everything is done at once, on this thread; this moves on what is not. */
void kvs_local_move_on(kvs_local *local);

/* The engine's epoch: a store in this process has but one. */
#define KVS_LOCAL_EPOCH 1u

/* The way back up of this store. */
void kvs_local_channel_init(kvs_local *local);

/* The rows of a group, cut, and added up in a block: both the caller's. Of a value with all its
 * rows nothing is copied: then *block is NULL and *data the value itself. */
kvs_status kvs_local_take_rows(kvs_local *local, const kvs_group *group, kvs_row_list *list,
                               kvs_block **block, const uint8_t **data,
                               kvs_problem *problem) KVS_MUST_CHECK;

kvs_status kvs_local_transfer(kv_store *kv, const kvs_transfer *transfer, kv_handle **handle,
                              kvs_problem *problem);

kvs_status kvs_local_save_states(kv_store *kv, const char *path, bool dump_optimizer,
                                 kvs_problem *problem);
kvs_status kvs_local_load_states(kv_store *kv, const char *path, kvs_problem *problem);

#endif
