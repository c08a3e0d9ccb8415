/* A refusal as the JSON of RFC 9457 (application/problem+json), from the table in base/status.h.
 *
 * Threads: any. Memory: the caller owns the object.
 */
#ifndef KVS_SERVICE_PROBLEM_H
#define KVS_SERVICE_PROBLEM_H

#include "base/json.h"

#define KVS_PROBLEM_MEDIA_TYPE "application/problem+json"

/* {type, title, status, detail, instance, code, reason, request_id, errors}. `path` is the
 * request's, `request_id` what X-Request-Id says. errors lists each JSON pointer that the
 * problem's detail names. NULL when there is no memory. */
json_t *kvs_problem_json(const kvs_problem *problem, const char *path, const char *request_id);

/* "INVALID_ARGUMENT": the name of a gRPC code. */
const char *kvs_problem_code_name(int grpc_code);

#endif
