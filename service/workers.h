/* A few threads for what may block: admin calls. Started when needed, bounded in number.
 *
 * Threads: post from any. Memory: a job is the poster's; it may free itself in run.
 */
#ifndef KVS_SERVICE_WORKERS_H
#define KVS_SERVICE_WORKERS_H

#include "base/status.h"

typedef struct kvs_workers kvs_workers;

typedef struct kvs_job {
    struct kvs_job *next;
    void (*run)(struct kvs_job *job);
} kvs_job;

kvs_status kvs_workers_open(uint32_t threads_max, uint32_t jobs_max,
                            kvs_workers **out) KVS_MUST_CHECK;

/* False: too many jobs wait, no thread could be started, or it is closing. */
bool kvs_workers_post(kvs_workers *workers, kvs_job *job);

/* Runs what was posted, then ends the threads. Accepts NULL. */
void kvs_workers_close(kvs_workers *workers);

#endif
