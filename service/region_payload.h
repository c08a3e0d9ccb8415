/* The payload of a frame whose parts lie in a region, as spans of it: what the engine gets in place
 * of the frame's data.
 *
 * Threads: begin by the stream's polling thread, end by whoever has consumed the frame. Memory: a
 *   payload keeps its array of spans from frame to frame, and its region from begin to end.
 */
#ifndef KVS_SERVICE_REGION_PAYLOAD_H
#define KVS_SERVICE_REGION_PAYLOAD_H

#include "api/codec.h"
#include "service/regions.h"

typedef struct kvs_region_payload {
    kvs_region *region; /* NULL: no frame is under way */
    kvs_span *spans;
    size_t room;
} kvs_region_payload;

/* Fills frame->payload, if the frame is in a region. *last is a reference to the region that the
 * stream's frame before was in, or NULL, and becomes one to this one's. KVS_INVALID_FIELD: it is
 * none of the session's, a part lies outside, or is encoded: what is judged and then read must not
 * change in between. KVS_UNAVAILABLE: the region is gone. KVS_NO_MEMORY */
kvs_status kvs_region_payload_begin(kvs_region_payload *payload, const kvs_door *door,
                                    const uint8_t session[KVS_SESSION_ID_BYTES], kvs_region **last,
                                    kvs_frame_view *frame, kvs_problem *problem) KVS_MUST_CHECK;
void kvs_region_payload_end(kvs_region_payload *payload); /* accepts one that has not begun */
void kvs_region_payload_deinit(kvs_region_payload *payload);

#endif
