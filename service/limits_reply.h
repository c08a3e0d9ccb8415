/* The bounds of a store as the wire tells them.
 *
 * Threads: any. Memory: `out` borrows constants only.
 */
#ifndef KVS_SERVICE_LIMITS_REPLY_H
#define KVS_SERVICE_LIMITS_REPLY_H

#include "api/kvstored.pb-c.h"
#include "engine/engine.h"

void kvs_limits_fill(const kvs_store_info *info, Kvstored__V1__Limits *out);

/* The bytes of a bytes field; NULL when it is empty. */
const uint8_t *kvs_binary(const ProtobufCBinaryData *data);

#endif
