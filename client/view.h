/* A value of one version, to be read: over memory of the server's, or a copy of this process's.
 *
 * Threads: one at a time for one view. Memory: a view owns its pages and, of a server's value, the
 *   connection by which the server knows that it is held.
 */
#ifndef KVS_CLIENT_VIEW_H
#define KVS_CLIENT_VIEW_H

#include "base/frame.h"
#include "client/rpc.h"
#include "client/shared.h"

#include <kvstore/kvstore.h>

struct kv_view {
    uint8_t *data; /* whole pages */
    size_t bytes;  /* of the value */
    size_t room;   /* of the pages */
    kvs_dtype dtype;
    kvs_shape shape;
    kvs_version version;
    uint64_t elements, received;
    uint64_t mapped; /* bytes that were not moved */
    kvs_peer *peer;  /* NULL: nothing is held */
    kvs_peer_call *call;
};

kv_view *kvs_view_make(void); /* NULL: no memory */
/* Makes room for the value: once. KVS_NO_MEMORY, KVS_INVALID_TENSOR */
kvs_status kvs_view_shape(kv_view *view, kvs_dtype dtype, const kvs_shape *shape,
                          kvs_problem *problem) KVS_MUST_CHECK;
/* A part has come as bytes. KVS_INVALID_TENSOR */
kvs_status kvs_view_copy(kv_view *view, uint64_t element_offset, const kvs_payload *payload,
                         kvs_problem *problem) KVS_MUST_CHECK;
/* A part lies there: its pages become the view's, or its bytes are copied. KVS_INVALID_TENSOR,
 * KVS_UNAVAILABLE */
kvs_status kvs_view_map(kv_view *view, kvs_shared *shared, uint64_t region, uint64_t region_offset,
                        uint64_t element_offset, uint64_t bytes,
                        kvs_problem *problem) KVS_MUST_CHECK;
/* All has come: from now on it is only read. */
void kvs_view_seal(kv_view *view);

#endif
