/* A problem as gRPC tells it: the message of the status, and google.rpc.Status with ErrorInfo.
 *
 * Threads: any. Memory: the caller's buffers; both functions always fit.
 */
#ifndef KVS_SERVICE_STATUS_DETAILS_H
#define KVS_SERVICE_STATUS_DETAILS_H

#include "base/status.h"

#include <stddef.h>

#define KVS_STATUS_TEXT_BYTES 512u
#define KVS_STATUS_DETAILS_BYTES 1024u

/* "no key \"a\" in the store. Call init for the key first." The length without the zero. */
size_t kvs_status_text(const kvs_problem *problem, char out[KVS_STATUS_TEXT_BYTES]);

/* The value of grpc-status-details-bin; its length. `text` is what kvs_status_text gave. */
size_t kvs_status_details(const kvs_problem *problem, const char *text,
                          uint8_t out[KVS_STATUS_DETAILS_BYTES]);

#endif
