/* Calls to the REST plane: the only file with libcurl.
 *
 * Threads: one; open once a process, close at its end.
 * Memory: a reply belongs to the caller until deinit.
 * Errors: what could not be sent or was refused is printed, and gives an exit code; the reply is
 *   then empty, but for its status.
 */
#ifndef KVS_CLIENT_KVCTL_HTTP_H
#define KVS_CLIENT_KVCTL_HTTP_H

#include "client/kvctl/ctl.h"

#include <stdio.h>

#define KVS_HTTP_BODY_BYTES_MAX ((size_t)256 << 20) /* of a reply that is kept in memory */

/* A path with a store, a key and a page's token, all encoded. */
#define KVS_HTTP_PATH_BYTES 4096u

typedef struct kvs_http_request {
    const char *method; /* "GET" */
    const char *path;   /* "/v1/stores", encoded, with its query */
    const char *accept; /* NULL: JSON */
    const char *content_type;
    const char *if_match; /* NULL: none */
    const void *body;     /* NULL: none, unless source */
    size_t body_bytes;
    FILE *source; /* a body to stream; its length is source_bytes, or -1: not known */
    int64_t source_bytes;
    FILE *sink; /* where a body of a success goes; NULL: into the reply */
    bool quiet; /* a refusal is not printed */
} kvs_http_request;

typedef struct kvs_http_reply {
    long status;
    char etag[64]; /* with its quotes; "" when there was none */
    char *body;    /* terminated; body_bytes long without the zero */
    size_t body_bytes;
} kvs_http_reply;

kvs_exit kvs_http_open(void);
void kvs_http_close(void);

kvs_exit kvs_http_call(const kvs_ctl *ctl, const kvs_http_request *request, kvs_http_reply *out);
void kvs_http_reply_deinit(kvs_http_reply *reply);

/* GET of a JSON document. The caller gives the tree back by json_decref. */
kvs_exit kvs_http_get_json(const kvs_ctl *ctl, const char *path, json_t **out);

/* GETs every page of a list and joins their arrays `name`; `path` has a query already. */
kvs_exit kvs_http_get_pages(const kvs_ctl *ctl, const char *path, const char *name, json_t **out);

/* Writes "/v1/stores/{store}" and `rest`, with {} in rest standing for `name`, encoded. */
kvs_exit kvs_http_path(const kvs_ctl *ctl, char out[KVS_HTTP_PATH_BYTES], const char *rest,
                       const char *name);

/* grpc.health.v1.Health.Check at ctl->grpc_endpoint, over HTTP/2; nothing is printed. `out` says
 * what the server said, or why there is no answer. */
bool kvs_http_grpc_serving(const kvs_ctl *ctl, char *out, size_t out_bytes);

#endif
