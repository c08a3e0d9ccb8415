/* A small file that appears whole or not at all: written beside, renamed.
 *
 * Threads: any. Errors: KVS_IO_ERROR names the path; nothing is left behind then.
 */
#ifndef KVS_SERVICE_WHOLE_FILE_H
#define KVS_SERVICE_WHOLE_FILE_H

#include "base/status.h"

/* With `durable` it is on disk, its name as well, when this returns. */
kvs_status kvs_whole_file_write(const char *path, const char *text, bool durable,
                                kvs_problem *problem) KVS_MUST_CHECK;

#endif
