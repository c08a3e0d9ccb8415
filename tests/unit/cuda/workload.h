/* A piece of training that crosses every order the CUDA backend has to keep, and its right result.
 *
 * More slots of the ring are used between two syncs than there are, host buffers are overwritten
 * as soon as a sync allows it, and values are updated while their download is on its way.
 */
#ifndef KVS_TESTS_UNIT_CUDA_WORKLOAD_H
#define KVS_TESTS_UNIT_CUDA_WORKLOAD_H

#include "engine/backend.h"

typedef struct kvs_workload {
    size_t elements;
    unsigned rounds;
    unsigned batches; /* sums in one round, without a sync */
} kvs_workload;

/* Runs it on a backend. *same: each downloaded value had the right bits. Whatever the status, all
 * memory is given back and the stream closed. */
kvs_status kvs_workload_run(const kvs_workload *workload, kvs_backend *backend,
                            bool *same) KVS_MUST_CHECK;

#endif
