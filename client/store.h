/* What every kind of store has: the table of its functions, the order of calls, last errors.
 *
 * kvstore.c checks a call's arguments, groups them by key and takes the order; then one function
 * of the table does it, in this process (local.h) or at a server (dist.h).
 *
 * Threads: table functions marked ORDERED are called one at a time; the others from any thread.
 * Memory: groups are borrowed during the call, but their arrays' memory as in kvstore.h.
 * Errors: each function gives its status and fills the problem.
 */
#ifndef KVS_CLIENT_STORE_H
#define KVS_CLIENT_STORE_H

#include "base/status.h"
#include "client/group.h"
#include "client/shared.h"

#include <pthread.h>

/* What was asked for and not yet waited for. The first member of a store's own struct, or all. */
struct kv_handle {
    bool done;
    kvs_problem problem;
};

/* A push, pull or pushpull. */
typedef struct kvs_transfer {
    kvs_groups *groups;
    bool push;
    bool pull;
    bool borrow; /* the values stay as they are until the handle is done */
    bool sparse; /* each array's data is a kvs_row_argument; no pushpull */
    int priority;
} kvs_transfer;

typedef struct kvs_client_table {
    /* `sparse`: each array's data is a kvs_row_argument. */
    kvs_status (*init)(kv_store *kv, kvs_groups *groups, bool sparse, kvs_problem *problem);
    /* ORDERED. `handle` may be NULL. */
    kvs_status (*transfer)(kv_store *kv, const kvs_transfer *transfer, kv_handle **handle,
                           kvs_problem *problem);
    /* KVS_DEADLINE keeps the handle unless timeout_ms is KV_FOREVER, all else frees it. */
    kvs_status (*wait_handle)(kv_store *kv, kv_handle *handle, uint64_t timeout_ms,
                              kvs_problem *problem);
    bool (*is_done)(kv_store *kv, const kv_handle *handle);
    kvs_status (*wait_all)(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem);
    kvs_status (*set_optimizer)(kv_store *kv, const char *json, kvs_problem *problem);
    kvs_status (*get_optimizer)(kv_store *kv, char **json, kvs_problem *problem);
    /* ORDERED */
    kvs_status (*set_updater)(kv_store *kv, kv_updater *updater, void *context,
                              kvs_problem *problem);
    /* ORDERED */
    kvs_status (*set_compression)(kv_store *kv, const char *json, kvs_problem *problem);
    kvs_status (*barrier)(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem);
    kvs_status (*send_command)(kv_store *kv, int head, const char *body, kvs_problem *problem);
    kvs_status (*save_states)(kv_store *kv, const char *path, bool dump_optimizer,
                              kvs_problem *problem);
    kvs_status (*load_states)(kv_store *kv, const char *path, kvs_problem *problem);
    void (*count)(kv_store *kv, kv_statistics *out);
    kvs_status (*view)(kv_store *kv, const char *name, size_t name_bytes, kv_view **out,
                       kvs_problem *problem);
    /* Whose memory the server reads; NULL: none. Borrowed. */
    kvs_shared *(*shared)(kv_store *kv);
    /* Waits, says goodbye, frees all but the part that is common. */
    kvs_status (*close)(kv_store *kv, kvs_problem *problem);
} kvs_client_table;

typedef struct kvs_last_error {
    struct kvs_last_error *next;
    pthread_t thread;
    char text[sizeof(((kvs_problem *)NULL)->detail) + 96];
} kvs_last_error;

typedef enum kvs_key_kind { KVS_KEYS_UNUSED, KVS_KEYS_NAMES, KVS_KEYS_NUMBERS } kvs_key_kind;

struct kv_store {
    const kvs_client_table *table;
    char *type;
    uint32_t rank; /* fixed once created, as the next one */
    uint32_t num_workers;
    pthread_mutex_t order; /* one ORDERED call at a time; first of the locks */
    kvs_key_kind key_kind; /* under order */
    pthread_mutex_t errors_mutex;
    kvs_last_error *errors;
    kv_progress *progress; /* set while no save or load is under way */
    void *progress_context;
};

/* Fills the common part. KVS_NO_MEMORY */
kvs_status kvs_client_init(kv_store *kv, const kvs_client_table *table,
                           const char *type) KVS_MUST_CHECK;
void kvs_client_deinit(kv_store *kv);

/* last_error.c. Every call ends by it: gives the status, and keeps what went wrong for
 * kv_last_error. The problem's status is set. */
kv_status kvs_client_finish(kv_store *kv, kvs_status status, kvs_problem *problem);
/* Reason, title and detail in one line. */
void kvs_client_write_problem(const kvs_problem *problem, char *out, size_t out_bytes);

/* Tells who asked for it how far a save or load has come. */
void kvs_client_progress(kv_store *kv, uint64_t done_bytes, uint64_t total_bytes);

#endif
