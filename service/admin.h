/* Every operation of the admin plane, once, for both of its doors: REST and the gRPC service Admin.
 *
 * An operation is a method name of kvstored.proto and a JSON object in the proto3-JSON form of its
 * request; so is the reply. 64-bit numbers are strings in replies, strings or numbers in requests;
 * a field that is left out, 0 or "" means the default.
 *
 * Threads: any, but never one that ticks the engine or holds a session: a call blocks until its
 *   answer is there, at the latest until its deadline has passed.
 * Memory: the caller owns a reply. The engine outlives the admin plane.
 * Errors: every refusal fills the problem; the reply is then untouched.
 */
#ifndef KVS_SERVICE_ADMIN_H
#define KVS_SERVICE_ADMIN_H

#include "base/json.h"
#include "engine/engine.h"
#include "engine/states.h"

typedef struct kvs_admin kvs_admin;

typedef struct kvs_admin_options {
    kvs_engine *engine;    /* borrowed until close */
    const char *grpc_core; /* the version of the C core, for GetVersion; borrowed; may be NULL */
    struct kvs_profiler *profiler; /* borrowed until close; may be NULL */
    /* Of value uploads that are in flight together; 0: KVS_UPLOAD_BYTES_MAX. */
    uint64_t upload_bytes_max;
    /* Tells whoever watches a store of a command; may be NULL. Must not block. */
    void (*command)(void *context, const char *store, int32_t head, const char *body);
    void *command_context;
} kvs_admin_options;

#define KVS_UPLOAD_BYTES_MAX (4096 * KVS_MIB)

kvs_status kvs_admin_open(const kvs_admin_options *options, kvs_admin **out) KVS_MUST_CHECK;

/* From now on every call is refused with KVS_STOPPING, those that wait as well. */
void kvs_admin_stop(kvs_admin *admin);

/* After stop, when no call is under way any more. Ends by itself, ticking the engine, what the
 * stopped calls left behind; so the engine's other callers must be gone. Accepts NULL. */
void kvs_admin_close(kvs_admin *admin);

/* Who calls, so that nothing waits for somebody who has left. Asked a few times a second by the
 * thread of the call. NULL: does not leave. */
typedef struct kvs_caller {
    bool (*gone)(void *context);
    void *context;
} kvs_caller;

/* One call of a unary method, "GetType" for example. An unknown method is KVS_ROUTE_NOT_FOUND;
 * what a later version will bring is KVS_UNIMPLEMENTED. Not for GetValue and PutValue, Save- and
 * LoadOptimizerStates. */
kvs_status kvs_admin_call(kvs_admin *admin, const kvs_caller *caller, const char *method,
                          const json_t *request, json_t **reply,
                          kvs_problem *problem) KVS_MUST_CHECK;

/* ------------------------------------------------------------------ values (admin_values.c) */

#define KVS_STATES_MEDIA_TYPE "application/vnd.safetensors"

typedef enum kvs_value_format {
    KVS_VALUE_DEFAULT, /* PUT only: npy when the bytes begin like one, else raw */
    KVS_VALUE_RAW,
    KVS_VALUE_NPY,
    KVS_VALUE_SAFETENSORS
} kvs_value_format;

/* "npy", "raw" or "safetensors"; "" gives `fallback`. KVS_INVALID_FIELD for other words. */
kvs_status kvs_value_format_parse(const char *text, kvs_value_format fallback,
                                  kvs_value_format *out, kvs_problem *problem) KVS_MUST_CHECK;

/* "application/x-npy", "application/octet-stream", "application/vnd.safetensors" */
const char *kvs_value_format_media_type(kvs_value_format format);

/* Room for an ETag with its quotes and the zero. */
#define KVS_ETAG_BYTES 48u

/* `"epoch-count"`, quotes included. */
void kvs_etag_print(kvs_version version, char out[KVS_ETAG_BYTES]);

/* One quoted ETag, or the same without quotes. False: it is none of ours, so it matches nothing. */
bool kvs_etag_parse(const char *text, kvs_version *out);

/* The ETag of an optimizer, from its JSON text ("" or NULL: none): a hash of it. */
void kvs_optimizer_etag(const char *json, char out[KVS_ETAG_BYTES]);

/* A value at one version, borrowed from the engine's bytes until close. */
typedef struct kvs_admin_value kvs_admin_value;
typedef struct kvs_admin_value_info {
    uint64_t total_bytes;     /* header included */
    const char *content_type; /* static */
    char etag[KVS_ETAG_BYTES];
    kvs_version version; /* epoch 0: it has none, as the next two */
    kvs_dtype dtype;
    kvs_shape shape;
} kvs_admin_value_info;

kvs_status kvs_admin_get_value(kvs_admin *admin, const char *store, const char *key,
                               kvs_value_format format, kvs_admin_value **out,
                               kvs_problem *problem) KVS_MUST_CHECK;
const kvs_admin_value_info *kvs_admin_value_describe(const kvs_admin_value *value);

/* The bytes that lie together from `offset` (below total_bytes) on: at least one, as many as
 * there are without a copy. Valid until close. */
kvs_span kvs_admin_value_span(const kvs_admin_value *value, uint64_t offset);
void kvs_admin_value_close(kvs_admin_value *value); /* accepts NULL */

/* A value on its way in. The key is created when it is not there, else assigned. */
typedef struct kvs_admin_put {
    const char *store;
    const char *key;
    kvs_value_format format;
    kvs_dtype dtype; /* raw: of a new key required; KVS_DTYPE_NONE: the key's */
    bool has_shape;  /* raw: of a new key required; false: the key's */
    kvs_shape shape;
    const char *if_match; /* an ETag, "*" (the key must be there), or NULL or "" */
    bool create_only;     /* the key must not be there */
} kvs_admin_put;

typedef struct kvs_admin_upload kvs_admin_upload;

/* Copies what `put` points to. `bytes_expected` is what the sender announced, or UINT64_MAX.
 * KVS_TOO_LARGE here and in append when it cannot fit; nothing is read further then. */
kvs_status kvs_admin_upload_open(kvs_admin *admin, const kvs_admin_put *put,
                                 uint64_t bytes_expected, kvs_admin_upload **out,
                                 kvs_problem *problem) KVS_MUST_CHECK;
kvs_status kvs_admin_upload_append(kvs_admin_upload *upload, const void *data, size_t bytes,
                                   kvs_problem *problem) KVS_MUST_CHECK;
/* Whole or not at all. The reply is a Key; `created` (may be NULL) says whether it is new. */
kvs_status kvs_admin_upload_finish(kvs_admin_upload *upload, json_t **reply, bool *created,
                                   kvs_problem *problem) KVS_MUST_CHECK;
void kvs_admin_upload_close(kvs_admin_upload *upload); /* accepts NULL */

/* ------------------------------------------------------------------ states (admin_states.c) */

/* The store's optimizer states at a cut, as a file: engine/states.h. */
kvs_status kvs_admin_get_states(kvs_admin *admin, const char *store, bool dump_optimizer,
                                bool values, kvs_admin_value **out,
                                kvs_problem *problem) KVS_MUST_CHECK;

/* A file of states on its way in. */
typedef struct kvs_admin_load kvs_admin_load;
kvs_status kvs_admin_load_open(kvs_admin *admin, const char *store, kvs_admin_load **out,
                               kvs_problem *problem) KVS_MUST_CHECK;
kvs_status kvs_admin_load_append(kvs_admin_load *load, const void *data, size_t bytes,
                                 kvs_problem *problem) KVS_MUST_CHECK;
/* Whole or not at all. The reply is a LoadOptimizerStatesReply. */
kvs_status kvs_admin_load_finish(kvs_admin_load *load, json_t **reply,
                                 kvs_problem *problem) KVS_MUST_CHECK;
/* What did not fit, each as {pointer, detail}; NULL: nothing, or no memory. */
json_t *kvs_admin_load_misfits(const kvs_admin_load *load);
void kvs_admin_load_close(kvs_admin_load *load); /* accepts NULL */

#endif
