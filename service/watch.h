/* Commands, on their way to whoever watches a store.
 *
 * Threads: any. Memory: the texts are copied.
 */
#ifndef KVS_SERVICE_WATCH_H
#define KVS_SERVICE_WATCH_H

#include "service/door.h"

void kvs_watch_command(kvs_door *door, const char *store, int32_t head, const char *body);

#endif
