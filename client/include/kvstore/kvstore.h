/* libkvstore: MXNet's KVStore for C. Push gradients, pull weights; the optimizer runs in the
 * server ("dist_sync", "dist_async" ...) or in this process ("local", "device").
 *
 *     kv_store *kv;
 *     kv_create("dist_sync", "127.0.0.1:9400", NULL, &kv);
 *     kv_array w = kv_array_f32(weights, 2, (uint64_t[]){2, 3});
 *     kv_init(kv, &(kv_key){.name = "w"}, &w, 1);
 *     kv_push(kv, ...);  kv_pull(kv, ...);  kv_wait(kv, KV_FOREVER);
 *     kv_close(kv);
 *
 * Threads: a store may be used from several threads; calls on one store are put in some order.
 *   Nothing here is global but the library code.
 * Memory: strings and arrays given to a call are borrowed during the call, except values of a
 *   push with KV_BORROW and outs of a pull, which are borrowed until the handle (or the store) was
 *   waited for. Arrays are row-major, little-endian, contiguous.
 * Errors: every call that can fail gives a kv_status; kv_last_error says more, per store and
 *   thread-safe. What fails after a call returned is told by the wait on its handle.
 */
#ifndef KVSTORE_KVSTORE_H
#define KVSTORE_KVSTORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KV_API __attribute__((visibility("default")))
#else
#define KV_API
#endif

/* 0 is success. Any other number is a row of the error table (docs/ERRORS.md); its name is
 * kv_status_reason, "KEY_NOT_FOUND". */
typedef int kv_status;
KV_API const char *kv_status_reason(kv_status status);
KV_API int kv_status_grpc_code(kv_status status);
/* The next step for whoever meets the status, one sentence; "" for success. */
KV_API const char *kv_status_advice(kv_status status);

KV_API const char *kv_version(void); /* of this library, "0.1.0" */

typedef struct kv_store kv_store;
typedef struct kv_handle kv_handle; /* something asked for and not yet waited for */

typedef enum kv_dtype {
    KV_F32 = 1,
    KV_F64 = 2,
    KV_F16 = 3,
    KV_BF16 = 4,
    KV_U8 = 5,
    KV_I8 = 6,
    KV_I32 = 7,
    KV_I64 = 8
} kv_dtype;

/* Borrowed numbers. rank 0 is a scalar. */
typedef struct kv_array {
    void *data;
    kv_dtype dtype;
    uint32_t rank;
    const uint64_t *shape;
} kv_array;

/* Rows of a value that has many: borrowed numbers. The value has at least one dimension, the first
 * counts its rows. ids NULL: all rows, in order (count is shape[0]), or none. */
typedef struct kv_row_sparse {
    void *data; /* `count` rows, one after another */
    kv_dtype dtype;
    uint32_t rank; /* of the whole value */
    const uint64_t *shape;
    void *ids;         /* which row each is, in any order, perhaps twice; whole numbers */
    kv_dtype id_dtype; /* U8, I8, I32, I64, F32, F64; an out's: I64 */
    uint64_t count;
} kv_row_sparse;

/* A name, or a number when name is NULL (it travels in decimal). One store uses one kind. */
typedef struct kv_key {
    const char *name;
    int64_t number;
} kv_key;

#define KV_FOREVER UINT64_MAX

typedef struct kv_options {
    const char *store;           /* NULL: "default" */
    const char *worker;          /* a name for people; NULL: host and process */
    int64_t rank;                /* wanted; -1: any */
    uint64_t connect_timeout_ms; /* 0: 30 s: how long create tries to reach the server */
    uint64_t request_timeout_ms; /* 0: 120 s: how long one request may take, reconnects included */
    uint64_t credit_bytes;       /* 0: the server's; less makes this worker use less */
} kv_options;

/* Fills the defaults. */
KV_API void kv_options_init(kv_options *options);

/* type: MXNet's names, by its substring rule: what holds "dist" is a server at `address`
 * ("host:port" or "unix:/path"), everything else is local. options may be NULL. The store is not
 * created: it must exist (STORE_NOT_FOUND). On failure *out is NULL and `error` (may be NULL,
 * error_bytes long) receives the reason in words. */
KV_API kv_status kv_create(const char *type, const char *address, const kv_options *options,
                           kv_store **out, char *error, size_t error_bytes);
/* Waits for what is under way (up to the request timeout), says goodbye, frees. Accepts NULL. */
KV_API kv_status kv_close(kv_store *kv);

/* The last failure of a call on this store by this thread, in words; "" if none. Borrowed until
 * the thread's next call on it. */
KV_API const char *kv_last_error(kv_store *kv);

KV_API const char *kv_type(kv_store *kv); /* as given, in lower case */
KV_API uint32_t kv_rank(kv_store *kv);
KV_API uint32_t kv_num_workers(kv_store *kv);

/* Rank 0's values count; the other ranks wait for them. Synchronous. */
KV_API kv_status kv_init(kv_store *kv, const kv_key *keys, const kv_array *values, size_t count);

/* Memory for values, 64-byte aligned and not filled. Where the store's address is a Unix socket and
 * its server shares memory (--allow-client-shm), a push of it with KV_BORROW sends no bytes: the
 * server reads it where it lies; else it is memory like any other. It outlives the store:
 * kv_dealloc frees it, once whatever was pushed from it has been waited for. */
KV_API kv_status kv_alloc(kv_store *kv, uint64_t bytes, void **out);
KV_API void kv_dealloc(void *memory); /* accepts NULL */

/* The whole value of a key at one version, after what this store has pushed, to be read. Where the
 * server shares memory it moves no bytes: it is the server's own memory, kept as it is while the
 * view is open, and updates go elsewhere; else it is a copy. An open view keeps a connection, and
 * its bytes count for the server's bound (--shm-max-bytes). kv_view_get tells dtype, shape and
 * where it lies; all of that is the view's. kv_view_mapped: the bytes that were not moved. Views
 * may be freed after the store, but once it is closed, or the server has ended the session, the
 * server keeps nothing for them: what they show may then change. */
typedef struct kv_view kv_view;
KV_API kv_status kv_view_open(kv_store *kv, const kv_key *key, kv_view **out);
KV_API void kv_view_get(const kv_view *view, kv_array *out);
KV_API uint64_t kv_view_mapped(const kv_view *view);
KV_API void kv_view_free(kv_view *view); /* accepts NULL */

/* Flags of push, pushpull. */
#define KV_BORROW 1u /* do not copy the values: they stay as they are until waited for */

/* One entry a key. values[i] has value_counts[i] arrays (device values), added left to right
 * before they are sent; value_counts NULL: one each. Values of all keys lie one after another in
 * `values`. A key that stands twice counts as one with more values. Higher priority goes first; but
 * order within a key is kept, and what waits as a key's n-th push goes before another's n+1-th.
 * Returns once queued. `handle` may be NULL: kv_wait covers it. */
KV_API kv_status kv_push(kv_store *kv, const kv_key *keys, const kv_array *values,
                         const size_t *value_counts, size_t count, int priority, unsigned flags,
                         kv_handle **handle);
/* Each key's value is written to all of its outs. A pull sees this store's earlier pushes. */
KV_API kv_status kv_pull(kv_store *kv, const kv_key *keys, const kv_array *outs,
                         const size_t *out_counts, size_t count, int priority, kv_handle **handle);
/* Push, then pull of the value after the push's round. outs NULL: written to the values. */
KV_API kv_status kv_pushpull(kv_store *kv, const kv_key *keys, const kv_array *values,
                             const size_t *value_counts, const kv_array *outs,
                             const size_t *out_counts, size_t count, int priority, unsigned flags,
                             kv_handle **handle);
/* init, then pull into the outs. Synchronous. */
KV_API kv_status kv_broadcast(kv_store *kv, const kv_key *keys, const kv_array *values,
                              const kv_array *outs, const size_t *out_counts, size_t count);

/* A key of row_sparse storage: rows that are not given are zero, rows given twice are added up. As
 * kv_init otherwise; whoever pushes or pulls it by rows needs the same shape. */
KV_API kv_status kv_init_row_sparse(kv_store *kv, const kv_key *keys, const kv_row_sparse *values,
                                    size_t count);
/* As kv_push. What a call gives for a row is added up in its order; no rows at all still count as
 * this rank's turn in the round (an asynchronous store passes such a push over). Rows are copied.
 */
KV_API kv_status kv_push_row_sparse(kv_store *kv, const kv_key *keys, const kv_row_sparse *values,
                                    const size_t *value_counts, size_t count, int priority,
                                    kv_handle **handle);
/* For each out the rows that its row_ids (of any shape, in any order, perhaps twice; dtypes as in
 * kv_row_sparse) name; with row_ids_count 1 one list counts for all outs. Each row comes once, in
 * ascending order: an out has room for as many rows as it asks for in data and in ids (I64). ids
 * and count are written by the call itself, data until it was waited for. */
KV_API kv_status kv_row_sparse_pull(kv_store *kv, const kv_key *keys, kv_row_sparse *outs,
                                    const size_t *out_counts, const kv_array *row_ids,
                                    size_t row_ids_count, size_t count, int priority,
                                    kv_handle **handle);

/* Waits for one handle and frees it. With a timeout DEADLINE keeps the handle, which is to be
 * waited for again (kv_close frees what is left); with KV_FOREVER a request ends by its own
 * timeout, and the handle is freed whatever comes of it. kv_wait waits for all that is under way
 * and gives the first failure of what was asked for without a handle. */
KV_API kv_status kv_handle_wait(kv_store *kv, kv_handle *handle, uint64_t timeout_ms);
KV_API kv_status kv_wait(kv_store *kv, uint64_t timeout_ms);
/* The same, and *handle is NULL once it is freed; DEADLINE with a handle left means that the
 * patience alone is over. For callers that an exception may overtake right after the call. */
KV_API kv_status kv_handle_poll(kv_store *kv, kv_handle **handle, uint64_t timeout_ms);
/* 1: the request has ended, so that a wait returns at once. */
KV_API int kv_handle_is_done(kv_store *kv, kv_handle *handle);

/* JSON: {"name": "sgd", "learning_rate": 0.1, ...} or NULL for none. Every rank may call it. */
KV_API kv_status kv_set_optimizer(kv_store *kv, const char *json);
/* The optimizer as JSON, or "" for none. The caller frees it by kv_free. */
KV_API kv_status kv_get_optimizer(kv_store *kv, char **json);
KV_API void kv_free(void *memory);

/* The optimizer states of all keys, of one moment, as a safetensors file at `path` on this machine
 * (docs/PROTOCOL.md has the names in it). Both wait for what this store has pushed. A save puts the
 * file in its place whole, or not at all. A load is taken whole or not at all: STATES_MISMATCH when
 * the file does not fit the store, and kv_last_error lists the misfits, as far as it has room. With
 * dump_optimizer not 0 the file holds the optimizer too, and a load then sets it. */
KV_API kv_status kv_save_optimizer_states(kv_store *kv, const char *path, int dump_optimizer);
KV_API kv_status kv_load_optimizer_states(kv_store *kv, const char *path);
/* Called by the thread that saves or loads, as bytes move; the last time with done == total. It
 * must not call this store. NULL takes it away. Not while a save or load is under way. */
typedef void kv_progress(uint64_t done_bytes, uint64_t total_bytes, void *context);
KV_API void kv_set_progress(kv_store *kv, kv_progress *progress, void *context);

/* Local stores only (UNIMPLEMENTED on others, as MXNet never calls it there): `updater` is called
 * on the pushing thread, once per key, with whole contiguous arrays: input is the summed push,
 * stored is changed in place. It must not call this store. NULL takes it away; of an updater and an
 * optimizer the later one counts. */
typedef void kv_updater(kv_key key, const kv_array *input, kv_array *stored, void *context);
KV_API kv_status kv_set_updater(kv_store *kv, kv_updater *updater, void *context);

/* Gradients of f32 are sent in fewer bytes from the next push on; what is left out stays here and
 * is added to the next gradient of the key. Values of init are whole. JSON:
 *   {"type": "2bit", "threshold": 0.5}   two bits an element: +threshold, -threshold or nothing
 *   {"type": "1bit", "threshold": 0}     one bit: +1 above the threshold, else -1
 *   {"type": "int8"}                     a byte an element, a scale for each 256
 *   {"type": "topk", "ratio": 0.01}      the largest elements of each part; "randomk": any
 *   {"type": "fp16"}, {"type": "bf16"}   rounded; nothing is kept
 *   {"pull": "bf16"}                     values of f32 are pulled so, rows too: "fp16", "bf16",
 *                                        "int8", or "none": whole. With a type or without
 * What a call does not name, type or pull, stays as it was; other fields are not looked at. Every
 * worker calls it, before it pushes. For stores whose type has "dist" or "device" in it; a device
 * store encodes each device value for itself, and refuses "pull". It can be set again, not taken
 * back. INVALID_FIELD; a push of another dtype is then INVALID_TENSOR. */
KV_API kv_status kv_set_gradient_compression(kv_store *kv, const char *json);

/* All ranks; timeout 0: the store's default (10 minutes). */
KV_API kv_status kv_barrier(kv_store *kv, uint64_t timeout_ms);
KV_API kv_status kv_send_command(kv_store *kv, int head, const char *body);

/* Only "optimizer" is known: 1. Others: INVALID_FIELD. */
KV_API kv_status kv_is_capable(kv_store *kv, const char *capability, int *out);

typedef struct kv_statistics {
    uint64_t reconnects, replayed_parts, parts_pushed, parts_pulled, bytes_sent, bytes_received;
    uint64_t messages_sent; /* frames and pull requests */
    uint64_t bytes_shared;  /* of values that the server read where they lay (kv_alloc) */
    uint64_t bytes_mapped;  /* of values that were read where the server has them */
} kv_statistics;
KV_API void kv_count(kv_store *kv, kv_statistics *out);

/* Sets glibc's malloc so that large buffers are kept (M_TRIM_THRESHOLD, M_TOP_PAD): faster, and
 * process-wide, hence only when asked. */
KV_API void kv_tune_malloc(void);

#ifdef __cplusplus
}
#endif
#endif
