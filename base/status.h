/* The one status type and the one error table: what went wrong, on every plane.
 *
 * Every refusal, from the engine to gRPC, REST and the client library, is one of these rows.
 * A row holds the reason that travels on the wire, the gRPC code, the HTTP status, a constant
 * title and the next step for whoever was refused.
 *
 * Threads: any. Memory: the texts are static.
 */
#ifndef KVS_BASE_STATUS_H
#define KVS_BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVS_MUST_CHECK __attribute__((warn_unused_result))

/* X(name, gRPC code, HTTP status, title, next step). Codes: grpc/status.h of any language. */
#define KVS_STATUS_TABLE(X)                                                                        \
    X(OK, 0, 200, "Done", "")                                                                      \
    X(INVALID_FIELD, 3, 422, "A field is not valid", "Correct the named field.")                   \
    X(INVALID_FRAME, 3, 400, "The message cannot be read",                                         \
      "Send what kvstored.proto or openapi.yaml describes.")                                       \
    X(INVALID_TENSOR, 3, 400, "The tensor does not fit its key",                                   \
      "Compare dtype, shape, offset and bytes with GET /v1/keys/{key}.")                           \
    X(KEY_NOT_FOUND, 5, 404, "No such key", "Call init for the key first.")                        \
    X(STORE_NOT_FOUND, 5, 404, "No such store", "Create it with POST /v1/stores.")                 \
    X(WORKER_NOT_FOUND, 5, 404, "No such worker", "List them with GET /v1/workers.")               \
    X(ROUTE_NOT_FOUND, 5, 404, "No such route", "See GET /openapi.yaml.")                          \
    X(KEY_EXISTS, 6, 409, "The key exists",                                                        \
      "Use another key; at a server an equal init is taken as done.")                              \
    X(STORE_EXISTS, 6, 409, "The store exists with other settings",                                \
      "Use another name, or delete the store first.")                                              \
    X(RANK_TAKEN, 6, 409, "The rank is held by a live worker",                                     \
      "Register without a rank, or wait for the lease to end.")                                    \
    X(STORE_FULL, 9, 409, "All ranks of the store are taken",                                      \
      "Wait for a lease to end, or create the store with more workers.")                           \
    X(STORE_TYPE_MISMATCH, 9, 409, "The store is of the other kind (sync or async)",               \
      "Register with the type that GET /v1/type names.")                                           \
    X(STORE_DELETED, 9, 409, "The store was deleted", "Register at another store.")                \
    X(OPTIMIZER_NOT_SET, 9, 409, "The store has no optimizer",                                     \
      "PUT /v1/optimizer before pushing to an asynchronous store.")                                \
    X(NOT_REGISTERED, 9, 409, "The session is not known", "Call Register first.")                  \
    X(FENCED, 9, 409, "The session has ended or its epoch is over", "Call Register again.")        \
    X(SEQ_GAP, 11, 409, "The sequence lies beyond the window",                                     \
      "Resume from the sequence named in the detail.")                                             \
    X(ROUND_FAILED, 10, 409, "The round has failed",                                               \
      "The named ranks are missing; push again once they have registered.")                        \
    X(BARRIER_BROKEN, 10, 409, "The barrier is broken", "Enter it again with all workers alive.")  \
    X(ETAG_MISMATCH, 10, 412, "The value has changed since it was read",                           \
      "Read it again and repeat.")                                                                 \
    X(OVER_CREDIT, 8, 429, "More bytes are in flight than the session's credit",                   \
      "Wait for credit messages and push again.")                                                  \
    X(OVER_BUDGET, 8, 429, "The memory budget is used up", "Retry later, or raise --max-memory.")  \
    X(SLOW_READER, 8, 429, "The reader did not keep up", "Read faster, or ask for fewer keys.")    \
    X(TOO_LARGE, 8, 413, "The message or body is too large",                                       \
      "Split it; the limit is in the detail.")                                                     \
    X(TOO_MANY, 8, 429, "A limit on a count is reached", "Close what is not needed and retry.")    \
    X(DEADLINE, 4, 504, "The deadline has passed", "Retry with a later deadline.")                 \
    X(CANCELLED, 1, 499, "The caller went away", "Retry.")                                         \
    X(STOPPING, 14, 503, "The server is stopping", "Retry against the next server.")               \
    X(DEVICE_LOST, 14, 503, "The accelerator has failed", "Restart the server.")                   \
    X(UNAVAILABLE, 14, 503, "The server cannot be reached", "Check its address and retry.")        \
    X(NO_MEMORY, 8, 507, "The machine has no memory left",                                         \
      "Retry later, or use a larger machine.")                                                     \
    X(IO_ERROR, 13, 500, "Reading or writing failed",                                              \
      "Check the named path, its rights and the room on its disk.")                                \
    X(INTERNAL, 13, 500, "The server is at fault", "Report it with the server's log.")             \
    X(METHOD_NOT_ALLOWED, 12, 405, "The route has no such method", "See the Allow header.")        \
    X(HOST_REFUSED, 3, 421, "The server does not go by that name",                                 \
      "Use an address, or start the server with --http-hosts NAME.")                               \
    X(MEDIA_TYPE, 3, 415, "The media type is not supported", "See GET /openapi.yaml.")             \
    X(NOT_ACCEPTABLE, 3, 406, "No representation matches Accept", "Ask for one that is listed.")   \
    X(RANGE, 11, 416, "The range is not satisfiable", "Ask for bytes inside the value.")           \
    X(UNIMPLEMENTED, 12, 501, "Not built yet", "See README.md for what is built.")                 \
    X(STATES_MISMATCH, 9, 409, "The states do not fit the store",                                  \
      "Set the optimizer they were saved under, or save them with dump_optimizer.")

typedef enum kvs_status {
#define KVS_STATUS_ENUM(name, grpc, http, title, advice) KVS_##name,
    KVS_STATUS_TABLE(KVS_STATUS_ENUM)
#undef KVS_STATUS_ENUM
        KVS_STATUS_COUNT
} kvs_status;

/* The row of a status. An unknown number gives the row of KVS_INTERNAL. */
typedef struct kvs_status_row {
    const char *reason; /* "KEY_NOT_FOUND": the word on the wire; lower case with dashes it ends
                           the problem type of RFC 9457 */
    const char *title;
    const char *advice;
    int grpc_code;
    int http_status;
} kvs_status_row;

const kvs_status_row *kvs_status_find(kvs_status status);

/* The status of a reason from the wire, or KVS_INTERNAL. */
kvs_status kvs_status_parse(const char *reason);

/* What is told to the one who is refused: the row, and what only this case knows. */
typedef struct kvs_problem {
    kvs_status status;
    char detail[256]; /* one sentence that names the thing, or empty; valid UTF-8 */
} kvs_problem;

/* Fills `problem` (which may be NULL) and returns `status`, so that a check is one line. A text
 * that is too long is cut, and one that a precision has cut within a character loses the rest of
 * that character: the detail stays UTF-8. */
kvs_status kvs_problem_set(kvs_problem *problem, kvs_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
kvs_status kvs_problem_set_list(kvs_problem *problem, kvs_status status, const char *format,
                                va_list arguments) __attribute__((format(printf, 3, 0)));

/* Takes out of a text all bytes that are no whole character of UTF-8. */
void kvs_text_clean(char *text);

#define KVS_TRY(call)                                                                              \
    do {                                                                                           \
        kvs_status try_status_ = (call);                                                           \
        if (try_status_ != KVS_OK) {                                                               \
            return try_status_;                                                                    \
        }                                                                                          \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
