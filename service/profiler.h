/* The server's profile, steered by MXNet's profiler commands (head 5), into one folder.
 *
 * A command is the text of MXNet's: arguments, and then one digit that says which command it is: 0
 * set_config ("filename:push.json,profile_all:1"), 1 state ("1": run, "0": stop), 2 pause ("1") and
 * resume ("0"), 3 dump. The file is a trace that Chrome and Perfetto show, "rank0_" and the name.
 *
 * Threads: any. Memory: owns the profile, which lives until close.
 */
#ifndef KVS_SERVICE_PROFILER_H
#define KVS_SERVICE_PROFILER_H

#include "base/profile.h"

typedef struct kvs_profiler kvs_profiler;

/* Files that the folder may hold: whoever may send commands cannot fill the disk. */
#define KVS_PROFILE_FILES_MAX 64u

/* `folder` is where dumps go, and must be there. KVS_IO_ERROR, KVS_NO_MEMORY */
kvs_status kvs_profiler_open(const char *folder, kvs_profiler **out,
                             kvs_problem *problem) KVS_MUST_CHECK;
void kvs_profiler_close(kvs_profiler *profiler);           /* accepts NULL */
kvs_profile *kvs_profiler_profile(kvs_profiler *profiler); /* NULL of NULL */

/* KVS_INVALID_FIELD, KVS_TOO_MANY, KVS_IO_ERROR; of a NULL profiler: KVS_INVALID_FIELD. */
kvs_status kvs_profiler_command(kvs_profiler *profiler, const char *body,
                                kvs_problem *problem) KVS_MUST_CHECK;

#endif
