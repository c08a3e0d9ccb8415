/* What a call gives when it ends, and what is said of the last failure. */
#include "client/store.h"

#include <stdio.h>
#include <stdlib.h>

/* The calling thread's place, or NULL. */
static kvs_last_error *find_error(kv_store *kv)
{
    kvs_last_error *error = kv->errors;
    while (error != NULL && !pthread_equal(error->thread, pthread_self())) {
        error = error->next;
    }
    return error;
}

void kvs_client_write_problem(const kvs_problem *problem, char *out, size_t out_bytes)
{
    const kvs_status_row *row = kvs_status_find(problem->status);
    (void)snprintf(out, out_bytes, "%s: %s%s%s", row->reason, row->title,
                   problem->detail[0] == '\0' ? "" : ": ", problem->detail);
}

kv_status kvs_client_finish(kv_store *kv, kvs_status status, kvs_problem *problem)
{
    (void)pthread_mutex_lock(&kv->errors_mutex);
    kvs_last_error *error = find_error(kv);
    if (error == NULL && status != KVS_OK) {
        error = calloc(1, sizeof *error);
        if (error != NULL) {
            error->thread = pthread_self();
            error->next = kv->errors;
            kv->errors = error;
        }
    }
    if (error != NULL) {
        error->text[0] = '\0';
        if (status != KVS_OK) {
            problem->status = status;
            kvs_client_write_problem(problem, error->text, sizeof error->text);
        }
    }
    (void)pthread_mutex_unlock(&kv->errors_mutex);
    return (kv_status)status;
}

const char *kv_last_error(kv_store *kv)
{
    (void)pthread_mutex_lock(&kv->errors_mutex);
    const kvs_last_error *error = find_error(kv);
    (void)pthread_mutex_unlock(&kv->errors_mutex);
    return error == NULL ? "" : error->text;
}

const char *kv_status_reason(kv_status status)
{
    return kvs_status_find((kvs_status)status)->reason;
}

int kv_status_grpc_code(kv_status status)
{
    return kvs_status_find((kvs_status)status)->grpc_code;
}

const char *kv_status_advice(kv_status status)
{
    return kvs_status_find((kvs_status)status)->advice;
}

const char *kv_version(void)
{
    return KVS_VERSION;
}
