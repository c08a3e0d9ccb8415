/* One HTTP request and its reply, without a socket: what REST means, apart from libmicrohttpd.
 *
 * Order: open, begin, body (any number of times), run; then the reply's fields are read; close.
 * begin and body may refuse: `refused` is then set, what follows of the body is not wanted, and
 * run only writes the refusal. run blocks for as long as the operation does.
 *
 * Threads: one at a time. Memory: open copies the target; the headers are read in begin only.
 * Errors: every refusal becomes an application/problem+json reply.
 */
#ifndef KVS_SERVICE_EXCHANGE_H
#define KVS_SERVICE_EXCHANGE_H

#include "service/admin.h"
#include "service/grpc_server.h"
#include "service/routes.h"

/* What all exchanges of a server share. Texts are borrowed. */
typedef struct kvs_rest_world {
    kvs_engine *engine;
    kvs_admin *admin;
    const kvs_grpc_server *grpc; /* what readiness asks; NULL: always ready */
    const char *http_address;    /* "127.0.0.1:9401", for the index page */
    const char *hosts;           /* further names that Host may have: "a.example, b.example" */
} kvs_rest_world;

#define KVS_REST_JSON_BYTES_MAX (1 * KVS_MIB)
#define KVS_REQUEST_ID_BYTES 72u
#define KVS_REPLY_HEADERS_MAX 12u
#define KVS_HEADER_VALUE_BYTES 256u

typedef struct kvs_reply_header {
    const char *name; /* static */
    char value[KVS_HEADER_VALUE_BYTES];
} kvs_reply_header;

typedef struct kvs_http_reply {
    int status;
    kvs_reply_header headers[KVS_REPLY_HEADERS_MAX];
    size_t header_count;
    char *text; /* by malloc; or NULL */
    size_t text_bytes;
    kvs_admin_value *value; /* or NULL: the body is a value's bytes ... */
    uint64_t value_first;   /* ... from here on ... */
    uint64_t value_bytes;   /* ... so many */
} kvs_http_reply;

/* The headers of a request: the value of a name, or NULL. */
typedef const char *kvs_header_function(void *context, const char *name);

typedef struct kvs_exchange {
    const kvs_rest_world *world;
    kvs_caller caller; /* the door's; zero: does not leave */
    char *target;
    char authority[KVS_HEADER_VALUE_BYTES]; /* of a target in absolute form: goes over Host */
    char request_id[KVS_REQUEST_ID_BYTES];
    kvs_route_match match;
    kvs_value_format format;
    kvs_problem problem;
    bool begun;
    bool refused;
    bool verbose;
    char if_none_match[KVS_HEADER_VALUE_BYTES];
    char range[KVS_HEADER_VALUE_BYTES];
    char if_range[KVS_HEADER_VALUE_BYTES];
    json_t *request; /* of the admin plane */
    char *body;
    size_t body_bytes, body_room;
    uint64_t announced_bytes; /* of the body; UINT64_MAX: not known */
    bool waits_to_send;       /* the client sends the body once it is told to go on */
    /* The door's. */
    uint64_t started_ns;
    uint64_t received_bytes;  /* of the body */
    uint64_t discarded_bytes; /* of them: came after the refusal */
    kvs_admin_upload *upload;
    kvs_admin_load *load;
    kvs_http_reply reply;
} kvs_exchange;

/* NULL when there is no memory. */
kvs_exchange *kvs_exchange_open(const kvs_rest_world *world, const char *target);
void kvs_exchange_begin(kvs_exchange *exchange, const char *method, kvs_header_function *header,
                        void *context);
void kvs_exchange_body(kvs_exchange *exchange, const char *data, size_t bytes);
void kvs_exchange_run(kvs_exchange *exchange);
void kvs_exchange_close(kvs_exchange *exchange); /* accepts NULL */

/* Is the body a file? It may be long, and whoever sends it to the end sees a refusal only then. */
bool kvs_exchange_takes_file(const kvs_exchange *exchange);

/* For what only the door can see: the reply becomes this refusal. */
kvs_status kvs_exchange_refuse(kvs_exchange *exchange, kvs_status status, const char *detail);

/* Adds a header to the reply; a longer value is cut. */
void kvs_reply_add(kvs_http_reply *reply, const char *name, const char *value);

#endif
