/* A file of optimizer states on the caller's machine: written beside its place and put there whole,
 * or read in pieces.
 *
 * Threads: one at a time. Memory: owns the descriptor and the names until close.
 * Errors: KVS_IO_ERROR with the system's words.
 */
#ifndef KVS_CLIENT_STATE_FILE_H
#define KVS_CLIENT_STATE_FILE_H

#include "base/status.h"

#include <stddef.h>
#include <sys/types.h>

/* Bytes that are read, or handed over, at once. */
#define KVS_STATE_FILE_CHUNK ((size_t)1 << 20)

typedef struct kvs_state_file {
    int fd;
    char *path;
    char *temporary; /* NULL when it is read, or in its place */
    uint64_t bytes;  /* of a file that is read */
} kvs_state_file;

kvs_status kvs_state_file_create(const char *path, kvs_state_file *out,
                                 kvs_problem *problem) KVS_MUST_CHECK;
kvs_status kvs_state_file_write(kvs_state_file *file, const void *data, size_t bytes,
                                kvs_problem *problem) KVS_MUST_CHECK;
/* It is whole: on the disk, and in its place instead of what was there. */
kvs_status kvs_state_file_commit(kvs_state_file *file, kvs_problem *problem) KVS_MUST_CHECK;

kvs_status kvs_state_file_open(const char *path, kvs_state_file *out,
                               kvs_problem *problem) KVS_MUST_CHECK;
/* Fills `out` with exactly `bytes`. */
kvs_status kvs_state_file_read(kvs_state_file *file, void *out, size_t bytes,
                               kvs_problem *problem) KVS_MUST_CHECK;

/* Removes what was not committed. */
void kvs_state_file_close(kvs_state_file *file);

#endif
