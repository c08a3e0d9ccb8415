/* A cut as the files that act at one see it.
 *
 * Threads: as cut.c says of each member's use. Memory: a cut frees itself after its last action;
 *   one that was not enqueued is freed by kvs_cut_free.
 */
#ifndef KVS_ENGINE_CUT_H
#define KVS_ENGINE_CUT_H

#include "engine/capture.h"
#include "engine/store.h"

typedef enum kvs_cut_kind {
    CUT_READ,
    CUT_ASSIGN,
    CUT_RULE,
    CUT_LEAVE,
    CUT_CAPTURE, /* capture.c */
    CUT_RESTORE  /* capture.c */
} kvs_cut_kind;

struct kvs_cut {
    struct kvs_cut *next;      /* in the queue of those that have not decided */
    struct kvs_cut *list_next; /* in the store's list */
    kvs_cut_kind kind;
    kvs_store *store;             /* a reference */
    _Atomic(kvs_waiter *) waiter; /* NULL once told */
    uint64_t deadline_ns;
    kvs_visit *report, *decide; /* made beforehand: deciding cannot fail */

    kvs_key *key; /* of one key; NULL: of the first key_count of the store */
    uint64_t key_count;
    _Atomic uint64_t *versions; /* of each key: the highest reported */
    kvs_action *actions;        /* one a part */
    bool acts;                  /* decided: what it is about is done */
    _Atomic uint64_t remaining; /* actions not done, and the decision */
    _Atomic int status;

    kvs_buffer **buffers;   /* read: captured; assign: to become the values */
    kvs_snapshot *snapshot; /* read: the caller's */
    kvs_codec codec;        /* read: of values */
    kvs_row_cut rows;       /* read: of all parts, or of those with such rows */
    bool has_match;
    kvs_version match;
    kvs_version *assigned;    /* assign: the caller's; may be NULL */
    kvs_optimizer *optimizer; /* rule: a reference; NULL: none */
    kvs_binding **bindings;   /* rule: of each key */
    uint32_t rank;            /* leave: whose turns */
    kvs_capture *capture;     /* capture, restore: its buffers */
    kvs_capture **captured;   /* capture: the caller's */
};

/* A cut of one key (or of the first key_count of the store), or NULL: no memory. */
kvs_cut *kvs_cut_make(kvs_store *store, kvs_cut_kind kind, kvs_key *key, uint64_t key_count,
                      kvs_waiter *waiter, uint64_t now_ns);
void kvs_cut_free(kvs_cut *cut);

/* What the cut ends with, if it is a failure. */
void kvs_cut_note(kvs_cut *cut, kvs_status status);

/* Mutex. Fills cut->bindings of a cut of all keys, from `optimizer` (a reference is taken). False:
 * no memory. */
bool kvs_cut_bind(kvs_cut *cut, kvs_optimizer *optimizer);

/* Mutex. For a cut that changes values or states: if the store's rule needs norms, parts that have
 * measured theirs are to do so anew, for which the cut has bindings of the same rule. False: no
 * memory. */
bool kvs_cut_bind_anew(kvs_cut *cut);

/* Mutex. Gives the cut its place; true when it is its turn, and then kvs_cut_start follows without
 * the mutex. */
bool kvs_cut_enqueue(kvs_cut *cut);
void kvs_cut_start(kvs_cut *cut, uint64_t now_ns);
/* Both, without the mutex. KVS_NO_MEMORY, of an assignment alone: the cut is freed. */
kvs_status kvs_cut_submit(kvs_cut *cut, uint64_t now_ns) KVS_MUST_CHECK;

/* A key to make a cut of; NULL: the waiter has been told. */
kvs_key *kvs_cut_find(kvs_store *store, const char *key, size_t key_bytes, kvs_waiter *waiter,
                      uint64_t now_ns);

/* ------------------------------------------------------------------ snapshot.c: reads */

/* HOLDER of the part's shard: captures it. */
void kvs_read_act(kvs_cut *cut, kvs_part *part, kvs_shard *shard);
/* Hands what was captured to the caller: nothing here can fail. Or nothing, as it has failed. */
void kvs_read_fill(kvs_cut *cut);
void kvs_read_drop(kvs_cut *cut);
void kvs_read_deinit(kvs_cut *cut);

/* What of a key is read at one version: borrowed during the call. */
typedef struct kvs_read_wish {
    const uint64_t *row_ids; /* ascending, each once; NULL: all */
    uint64_t row_id_count;
    kvs_codec codec; /* of values */
} kvs_read_wish;
/* As kvs_store_read. KVS_OVER_BUDGET and KVS_NO_MEMORY where rows or encodings find no room. */
void kvs_key_read(kvs_store *store, kvs_key *key, const kvs_read_wish *wish, kvs_snapshot *out,
                  kvs_waiter *waiter, uint64_t now_ns);

#endif
