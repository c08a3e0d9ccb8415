/* Device values added left to right, first copied: the same bits as ranks added in a server.
 *
 * The arithmetic is the engine's own CPU backend; nothing is added anywhere else in the client.
 *
 * Threads: one at a time. Memory: owns the backend.
 * Errors: KVS_UNIMPLEMENTED for a dtype whose sums are not built yet.
 */
#ifndef KVS_CLIENT_SUM_H
#define KVS_CLIENT_SUM_H

#include "base/status.h"
#include "client/group.h"
#include "engine/backend.h"

typedef struct kvs_sum {
    kvs_backend *backend;
    kvs_stream *stream;
} kvs_sum;

kvs_status kvs_sum_init(kvs_sum *sum, kvs_problem *problem) KVS_MUST_CHECK;
void kvs_sum_deinit(kvs_sum *sum);

/* target (64-byte aligned, large enough) := the sum of the group's values. */
kvs_status kvs_sum_group(kvs_sum *sum, const kvs_group *group, void *target,
                         kvs_problem *problem) KVS_MUST_CHECK;

#endif
