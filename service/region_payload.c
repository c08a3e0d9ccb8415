#include "service/region_payload.h"

#include <stdlib.h>

static kvs_status make_room(kvs_region_payload *payload, size_t count, kvs_problem *problem)
{
    if (count <= payload->room) {
        return KVS_OK;
    }
    kvs_span *spans = realloc(payload->spans, count * sizeof *spans);
    if (spans == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "to read a frame");
    }
    payload->spans = spans;
    payload->room = count;
    return KVS_OK;
}

static kvs_status find_region(const kvs_door *door, const uint8_t *session, kvs_region **last,
                              uint64_t number, kvs_problem *problem)
{
    if (door->regions == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "this server shares no memory");
    }
    if (*last == NULL || kvs_region_number(*last) != number) {
        kvs_region *region = NULL;
        KVS_TRY(kvs_regions_find(door->regions, number, session, &region, problem));
        kvs_region_unref(*last);
        *last = region;
    }
    return kvs_region_gone(*last) ? kvs_problem_set(problem, KVS_UNAVAILABLE,
                                                    "region %llu is gone with its connection",
                                                    (unsigned long long)number)
                                  : KVS_OK;
}

kvs_status kvs_region_payload_begin(kvs_region_payload *payload, const kvs_door *door,
                                    const uint8_t session[KVS_SESSION_ID_BYTES], kvs_region **last,
                                    kvs_frame_view *frame, kvs_problem *problem)
{
    kvs_payload whole = {0};
    if (frame->region == 0) {
        return KVS_OK;
    }
    KVS_TRY(find_region(door, session, last, frame->region, problem));
    KVS_TRY(make_room(payload, frame->part_count, problem));
    const kvs_region *region = *last;
    for (size_t i = 0; i < frame->part_count; i++) {
        const kvs_part_header *part = &frame->parts[i];
        const uint8_t *data = kvs_region_at(region, part->region_offset, part->payload_bytes);
        if (data == NULL || part->codec != KVS_CODEC_NONE) {
            return kvs_problem_set(problem, KVS_INVALID_FIELD,
                                   data == NULL ? "part %zu lies outside its region"
                                                : "part %zu is encoded, and lies in a region",
                                   i);
        }
        if (part->payload_bytes == 0) {
            continue;
        }
        kvs_span *before = whole.count > 0 ? &payload->spans[whole.count - 1] : NULL;
        if (before != NULL && before->data + before->bytes == data) {
            before->bytes += part->payload_bytes;
        } else {
            payload->spans[whole.count++] = (kvs_span){data, part->payload_bytes};
        }
        whole.bytes += part->payload_bytes; /* each is at most the region's: no overflow */
    }
    whole.spans = payload->spans;
    frame->payload = whole;
    payload->region = kvs_region_take(*last);
    return KVS_OK;
}

void kvs_region_payload_end(kvs_region_payload *payload)
{
    kvs_region_unref(payload->region);
    payload->region = NULL;
}

void kvs_region_payload_deinit(kvs_region_payload *payload)
{
    kvs_region_payload_end(payload);
    free(payload->spans);
}
