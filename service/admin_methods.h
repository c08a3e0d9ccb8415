/* What the files of the admin plane share: the plane itself, a request on its way, its methods.
 *
 * Threads, memory, errors: as service/admin.h says.
 */
#ifndef KVS_SERVICE_ADMIN_METHODS_H
#define KVS_SERVICE_ADMIN_METHODS_H

#include "service/admin_wait.h"

#include <stdatomic.h>

struct kvs_admin {
    kvs_admin_options options;
    uint64_t started_ns;
    kvs_waits waits;
    /* Makes "compare the ETag, then set" one step; every change of an optimizer comes here. */
    pthread_mutex_t optimizer_mutex;
    _Atomic uint64_t upload_bytes; /* of uploads in flight */
};

/* ------------------------------------------------------------------ one request */

/* Its fields, and the reply as it grows. */
typedef struct kvs_admin_request {
    kvs_admin *admin;
    const kvs_caller *caller; /* NULL: does not leave */
    kvs_problem *problem;
    kvs_json_errors errors;
    kvs_json_fields fields;
    json_t *reply;
} kvs_admin_request;

/* Text of at most `bytes_max` bytes; "" when the field is left out. */
const char *kvs_request_text(kvs_admin_request *request, const char *name, size_t bytes_max);
/* A number, or the same as a string; `fallback` when it is left out or 0. */
uint64_t kvs_request_number(kvs_admin_request *request, const char *name, uint64_t max,
                            uint64_t fallback);
/* To be called when every field was read: KVS_INVALID_FIELD when one is wrong or unknown. */
kvs_status kvs_request_end(kvs_admin_request *request) KVS_MUST_CHECK;
/* Reads the field "store", ends the fields and gives a reference. */
kvs_status kvs_request_store(kvs_admin_request *request, kvs_store **out) KVS_MUST_CHECK;

/* ------------------------------------------------------------------ one reply */

/* Objects and arrays that grow; a failure (no memory) is kept and told by kvs_json_is_whole. */
typedef struct kvs_json_object {
    json_t *json;
    bool failed;
} kvs_json_object;

kvs_json_object kvs_json_object_open(void);
void kvs_json_add_text(kvs_json_object *object, const char *name, const char *text);
void kvs_json_add_text_bytes(kvs_json_object *object, const char *name, const char *text,
                             size_t bytes);
/* 32 bits: a number. 64 bits: a string, as JSON's readers lose what lies above 2^53. */
void kvs_json_add_u32(kvs_json_object *object, const char *name, uint32_t number);
void kvs_json_add_u64(kvs_json_object *object, const char *name, uint64_t number);
void kvs_json_add_ranks(kvs_json_object *object, const char *name, const uint32_t *ranks,
                        size_t count);
void kvs_json_add_version(kvs_json_object *object, const char *name, kvs_version version);
/* Takes `value`, which may be NULL (that is a failure). */
void kvs_json_add(kvs_json_object *object, const char *name, json_t *value);
/* The object, or NULL when something has failed; it is then given back. */
json_t *kvs_json_object_close(kvs_json_object *object);

/* The message Key. */
json_t *kvs_admin_key_json(const kvs_key_info *info);

/* A file of states, taken, as a value that is read. NULL: no memory; nothing was taken. */
kvs_admin_value *kvs_admin_states_value(kvs_states *states);

/* A reference to the store of that name. KVS_STOPPING, KVS_STORE_NOT_FOUND */
kvs_status kvs_admin_find_store(kvs_admin *admin, const char *name, kvs_store **out,
                                kvs_problem *problem) KVS_MUST_CHECK;

/* Sets *out to `value`; KVS_NO_MEMORY when it is NULL. */
kvs_status kvs_admin_reply(json_t *value, json_t **out, kvs_problem *problem) KVS_MUST_CHECK;

/* "f32" for the enumerators of kvstored.proto. */
extern const char *const kvs_policy_words[3];

/* ------------------------------------------------------------------ methods, by file */

/* One method: fills request->reply. */
typedef kvs_status kvs_admin_method(kvs_admin_request *request);

/* admin.c */
kvs_admin_method kvs_admin_get_version;
/* admin_stores.c */
kvs_admin_method kvs_admin_list_stores, kvs_admin_create_store, kvs_admin_get_store,
    kvs_admin_delete_store, kvs_admin_get_type, kvs_admin_get_num_workers, kvs_admin_get_rank,
    kvs_admin_list_workers, kvs_admin_get_statistics;
/* admin_training.c */
kvs_admin_method kvs_admin_list_keys, kvs_admin_get_key, kvs_admin_get_optimizer,
    kvs_admin_set_optimizer, kvs_admin_get_compression, kvs_admin_set_compression,
    kvs_admin_list_barriers, kvs_admin_enter_barrier, kvs_admin_list_rounds;
/* admin_commands.c */
kvs_admin_method kvs_admin_send_command;

#endif
