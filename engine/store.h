/* A store: keys, shards, ranks; and the mutex of its control plane, which no push or pull takes.
 *
 * Threads: as said of each member. Memory: counted; the last reference frees it.
 */
#ifndef KVS_ENGINE_STORE_H
#define KVS_ENGINE_STORE_H

#include "engine/key.h"
#include "engine/shard.h"

#include <pthread.h>

/* What is known of a rank. Under the store's mutex. */
typedef struct kvs_member {
    const char *state;                /* NULL: never registered; "live", "lost", "left", "out" */
    kvs_session *session;             /* a reference while live */
    uint8_t id[KVS_SESSION_ID_BYTES]; /* of the last session */
    char name[KVS_NAME_BYTES_MAX + 1];
} kvs_member;

struct kvs_engine {
    kvs_backend *backend;
    kvs_scheduler *scheduler;
    struct kvs_profile *profile;
    void (*random)(void *out, size_t bytes);
    uint32_t shards;
    uint64_t epoch;
    uint64_t credit_bytes;
    uint64_t part_elements;
    uint64_t inflight_parts;
    kvs_budget budget;
    _Atomic bool draining; /* any thread */
    pthread_mutex_t mutex; /* the list of stores; taken before a store's */
    kvs_store *stores_first, *stores_last;
    size_t store_count;
};

struct kvs_store {
    /* Fixed from the start; any thread. */
    kvs_engine *engine;
    _Atomic uint32_t references;
    char *name;
    char *type;
    kvs_kind kind;
    kvs_policy policy;
    uint32_t num_workers;
    uint64_t round_deadline_ns, lease_ns, barrier_deadline_ns;
    uint32_t shard_count;
    kvs_shard *shards[KVS_SHARDS_MAX];

    /* Any thread. */
    kvs_key_table keys;
    _Atomic uint64_t parts;
    _Atomic uint64_t inflight_parts; /* the window of its sessions */
    _Atomic uint64_t membership;     /* grows with every change of ranks */
    _Atomic bool deleted;
    _Atomic uint64_t duplicates, refused, leases_lost;
    _Atomic(uint64_t) *late_ranks; /* bits: missed a deadline under KVS_POLICY_SHRINK */

    /* Under the mutex. */
    pthread_mutex_t mutex;
    kvs_store *next; /* the engine's */
    kvs_member *members;
    kvs_optimizer *optimizer;
    kvs_encoding compression; /* as the workers say */
    kvs_init *inits;          /* of other ranks, that wait for rank 0's */
    struct kvs_barrier *barriers;
    kvs_cut *cuts;
    bool cutting;                  /* one cut decides at a time */
    kvs_cut *cut_first, *cut_last; /* wait for their turn to decide */
    kvs_watcher *watchers;
};

/* Something done by the holder of each shard in turn, and then once `done`. Freed by itself. */
typedef struct kvs_visit kvs_visit;
struct kvs_visit {
    void (*run)(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns);
    void (*done)(kvs_visit *visit, uint64_t now_ns); /* may be NULL */
    void *context;
    uint32_t rank; /* for whoever needs them */
    kvs_rank_state state;
    uint64_t change;
    kvs_store *store;   /* a reference once it is posted */
    kvs_session *ended; /* a reference, or NULL: is told after the shards */
    kvs_visit *next;    /* to be posted once a mutex is free */
    _Atomic uint32_t remaining;
    uint32_t count;
    struct {
        kvs_task task;
        kvs_visit *visit;
        kvs_shard *shard;
    } stops[];
};

/* NULL: no memory. */
kvs_visit *kvs_visit_make(kvs_store *store,
                          void (*run)(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns),
                          void (*done)(kvs_visit *visit, uint64_t now_ns), void *context);
/* Not under a mutex. */
void kvs_visit_post(kvs_visit *visit, uint64_t now_ns);

/* Mutex: tells the watchers. */
void kvs_store_changed(kvs_store *store);

/* Fills what is known of a key. */
void kvs_key_fill_info(const kvs_store *store, const kvs_key *key, kvs_key_info *out);

/* A name of a store, worker or barrier: [A-Za-z0-9][A-Za-z0-9._-]{0,127}. */
bool kvs_name_valid(const char *name, size_t bytes);

/* membership.c. Not under the mutex: ends the sessions whose lease is over or that missed a
 * deadline; all sessions of a store that is deleted. */
void kvs_members_tick(kvs_store *store, uint64_t now_ns);
void kvs_members_close(kvs_store *store, uint64_t now_ns);

/* init.c: tells the waiters whose keys have come, or whose deadline has passed. */
void kvs_init_tick(kvs_store *store, uint64_t now_ns);
/* barrier.c. Not under the mutex: tells those whose deadline has passed; everybody, because a
 * rank is gone; everybody, because the store is. */
void kvs_barriers_tick(kvs_store *store, uint64_t now_ns);
void kvs_barriers_break(kvs_store *store, uint32_t rank, uint64_t now_ns);
void kvs_barriers_close(kvs_store *store, uint64_t now_ns);
/* cut.c. Not under the mutex: the rank's session has ended and the shards have been told; its last
 * pushes count in all parts of their keys or in none. */
void kvs_cut_leave(kvs_store *store, uint32_t rank, uint64_t now_ns);
void kvs_cuts_tick(kvs_store *store, uint64_t now_ns);
void kvs_cut_act(kvs_action *action, kvs_shard *shard); /* HOLDER: the part is at the version */
/* After the sync, and what it said: one action is done, or was dropped. */
void kvs_cut_acted(kvs_action *action, kvs_status computed, uint64_t now_ns);

/* Tells the waiter, which is not touched afterwards. Not under a mutex. */
void kvs_waiter_finish(kvs_waiter *waiter, uint64_t now_ns, kvs_status status, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));

#endif
