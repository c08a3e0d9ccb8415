/* The server's epoch: wall-clock seconds at the start, and above every epoch of the same data
 * before, which a folder remembers.
 *
 * Threads: one. Memory: the lock holds the folder for this process until close.
 * Errors: KVS_IO_ERROR; the detail names the file, or says that another server has the folder.
 */
#ifndef KVS_SERVICE_EPOCH_H
#define KVS_SERVICE_EPOCH_H

#include "base/status.h"

typedef struct kvs_epoch {
    uint64_t number;
    int lock; /* -1: no folder */
} kvs_epoch;

/* `folder` may be "" (nothing is remembered); it is made when it is not there. The number is on
 * disk before this returns. */
kvs_status kvs_epoch_open(const char *folder, kvs_epoch *out, kvs_problem *problem) KVS_MUST_CHECK;
void kvs_epoch_close(kvs_epoch *epoch);

#endif
