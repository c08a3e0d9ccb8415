#include "base/clock.h"
#include "client/dist_state.h"

#include <string.h>

/* A value from here on is copied without the mutex. */
#define UNLOCK_FROM_BYTES (32 * KVS_KIB)
/* Between a refusal for lack of room and the next try. */
#define PAUSE_NS (5 * KVS_MS)

/* ------------------------------------------------------------------ values */

/* Why the part does not fit the item's outs, or KVS_OK. */
static kvs_status check_dense(const kvs_item *item, const kvs_part_header *header, kvs_arrival *out,
                              kvs_problem *problem)
{
    *out = (kvs_arrival){.element_offset = header->element_offset,
                         .runs = 1,
                         .run_elements = header->element_count,
                         .codec = header->codec};
    const char *name = item->key->name;
    if (header->dtype != item->dtype) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %s holds %s, its out is %s", name,
                               kvs_dtype_name(header->dtype), kvs_dtype_name(item->dtype));
    }
    if (header->storage != KVS_DENSE) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "key %s is not dense", name);
    }
    if (header->element_offset > item->elements ||
        header->element_count > item->elements - header->element_offset) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %s is larger than its out", name);
    }
    if (!kvs_item_fits(item, header, out)) {
        return kvs_problem_set(problem, KVS_INTERNAL, "key %s came with a wrong byte count", name);
    }
    return KVS_OK;
}

static kvs_status check_part(const kvs_item *item, const kvs_part_header *header, kvs_arrival *out,
                             kvs_problem *problem)
{
    return item->rows != NULL ? kvs_item_check_rows(item, header, out, problem)
                              : check_dense(item, header, out, problem);
}

static void write_outs(const kvs_item *item, const kvs_arrival *arrival, const kvs_payload *payload)
{
    size_t offset = (size_t)arrival->element_offset * item->element_bytes;
    size_t bytes = (size_t)(arrival->runs * arrival->run_elements) * item->element_bytes;
    if (bytes == 0 || item->out_count == 0) {
        return;
    }
    uint8_t *first = (uint8_t *)item->outs[0] + offset;
    if (arrival->codec == KVS_CODEC_NONE) {
        kvs_payload_gather(payload, first);
    } else {
        kvs_codec_read_value(arrival->codec, payload, arrival->runs, arrival->run_elements,
                             (float *)(void *)first);
    }
    for (size_t i = 1; i < item->out_count; i++) {
        if (item->outs[i] != item->outs[0]) {
            memcpy((uint8_t *)item->outs[i] + offset, first, bytes);
        }
    }
}

/* Holds the mutex, but lets go of it while it copies much: items stay where they are, since only
 * this thread ends them. */
static void take_value(kvs_dist *dist, const kvs_part_header *header, const kvs_payload *payload)
{
    kvs_flight_entry *entry = kvs_flight_find(&dist->flight, header->sequence);
    dist->statistics.bytes_received += payload->bytes;
    if (entry == NULL || entry->item->dropped || entry->item->flow == KVS_FLOW_PUSH) {
        return;
    }
    kvs_item *item = entry->item;
    kvs_problem problem = {0};
    kvs_arrival arrival = {0};
    if (check_part(item, header, &arrival, &problem) != KVS_OK) {
        kvs_request_blame(item->request, &problem);
        return;
    }
    if (payload->bytes >= UNLOCK_FROM_BYTES) {
        kvs_dist_unlock(dist);
        write_outs(item, &arrival, payload);
        kvs_dist_lock(dist);
    } else {
        write_outs(item, &arrival, payload);
    }
    /* The window may have grown meanwhile. */
    entry = kvs_flight_find(&dist->flight, header->sequence);
    if (entry != NULL && !(entry->valued && item->flow == KVS_FLOW_PUSHPULL)) {
        entry->valued = true;
        item->received += arrival.runs * arrival.run_elements;
    }
    dist->statistics.parts_pulled++;
}

/* The values lie where the server has them. False: they are not to be had there. */
static bool take_places(kvs_dist_stream *stream, const kvs_frame_view *frame)
{
    kvs_dist *dist = stream->dist;
    for (size_t i = 0; i < frame->part_count; i++) {
        const kvs_part_header *header = &frame->parts[i];
        size_t bytes = (size_t)header->payload_bytes;
        kvs_span span = {NULL, bytes};
        span.data = kvs_shared_read(dist->shared, frame->region, header->region_offset, bytes);
        if (span.data == NULL) {
            return false;
        }
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = bytes};
        take_value(dist, header, &payload);
        dist->statistics.bytes_received -= bytes;
        dist->statistics.bytes_mapped += bytes;
    }
    stream->release = frame->hold;
    return true;
}

static void take_frame(kvs_dist_stream *stream, const kvs_frame_view *frame)
{
    kvs_dist *dist = stream->dist;
    size_t offset = 0;
    if (frame->region != 0) {
        if (!take_places(stream, frame)) {
            kvs_problem problem = {0};
            (void)kvs_problem_set(&problem, KVS_UNAVAILABLE, "a value's region cannot be mapped");
            stream->unshared = true;
            kvs_dist_broken(dist, &problem);
        }
        return;
    }
    for (size_t i = 0; i < frame->part_count; i++) {
        size_t bytes = (size_t)frame->parts[i].payload_bytes;
        kvs_payload payload = kvs_payload_slice(&frame->payload, offset, bytes);
        take_value(dist, &frame->parts[i], &payload);
        offset += bytes;
    }
}

/* ------------------------------------------------------------------ acks, refusals */

static void take_acks(kvs_dist *dist, const kvs_reply_view *reply)
{
    for (size_t i = 0; i < reply->ack_count; i++) {
        uint64_t first = reply->acks[i].first;
        uint64_t last = reply->acks[i].last;
        first = first < dist->flight.base ? dist->flight.base : first;
        last = last < dist->flight.next ? last : dist->flight.next - 1;
        for (uint64_t s = first; s <= last; s++) {
            kvs_flight_answer(dist, s);
        }
    }
    dist->backoff_ns = 0; /* the way works */
}

/* True for what has not used its sequence: the same part is to be sent again. */
static bool is_for_room(kvs_status status)
{
    return status == KVS_OVER_CREDIT || status == KVS_SEQ_GAP || status == KVS_TOO_MANY;
}

static void take_refusal(kvs_dist_stream *stream, const kvs_reply_view *reply)
{
    kvs_dist *dist = stream->dist;
    char reason[64];
    size_t bytes = reply->refusal.reason_bytes;
    bytes = bytes < sizeof reason ? bytes : sizeof reason - 1;
    memcpy(reason, reply->refusal.reason != NULL ? reply->refusal.reason : "", bytes);
    reason[bytes] = '\0';
    kvs_problem problem = {0};
    (void)kvs_problem_set(&problem, kvs_status_parse(reason), "%.*s",
                          (int)reply->refusal.detail_bytes,
                          reply->refusal.detail != NULL ? reply->refusal.detail : "");
    if (problem.status == KVS_FENCED || problem.status == KVS_STOPPING ||
        problem.status == KVS_NOT_REGISTERED) {
        /* Resume decides what becomes of the session and of what is not answered. */
        kvs_dist_broken(dist, &problem);
        return;
    }
    kvs_flight_entry *entry = kvs_flight_find(&dist->flight, reply->refusal.sequence);
    if (entry == NULL) {
        return;
    }
    if (is_for_room(problem.status)) {
        dist->pause_ns = kvs_clock_now_ns() + PAUSE_NS;
        kvs_flight_unsend_one(dist, reply->refusal.sequence);
        return;
    }
    kvs_request_blame(entry->item->request, &problem);
    kvs_flight_answer(dist, reply->refusal.sequence);
}

static void take_credit(kvs_dist *dist, uint64_t bytes)
{
    uint64_t limit = dist->limits.credit_bytes;
    dist->credit = bytes < limit - dist->credit ? dist->credit + bytes : limit;
}

/* ------------------------------------------------------------------ the stream's events */

static void stream_received(void *context, const kvs_span *spans, size_t count)
{
    kvs_dist_stream *stream = context;
    kvs_dist *dist = stream->dist;
    kvs_reply_view reply = {0};
    kvs_problem problem = {0};
    kvs_status status = kvs_reply_decode(spans, count, &stream->scratch, &reply, &problem);
    kvs_dist_lock(dist);
    if (status != KVS_OK) {
        (void)kvs_problem_set(&problem, KVS_UNAVAILABLE, "the server's reply cannot be read");
        kvs_dist_broken(dist, &problem);
        kvs_dist_unlock(dist);
        return;
    }
    switch (reply.kind) {
    case KVS_REPLY_ACKS:
        take_acks(dist, &reply);
        break;
    case KVS_REPLY_REFUSAL:
        take_refusal(stream, &reply);
        break;
    case KVS_REPLY_CREDIT:
        take_credit(dist, reply.credit_bytes);
        break;
    case KVS_REPLY_FRAME:
        take_frame(stream, &reply.frame);
        break;
    default:
        break;
    }
    kvs_dist_pump(dist);
    kvs_dist_unlock(dist);
}

static void stream_sent(void *context)
{
    kvs_dist_stream *stream = context;
    kvs_dist_lock(stream->dist);
    stream->sending = false;
    kvs_dist_pump(stream->dist);
    kvs_dist_unlock(stream->dist);
}

static void stream_ended(void *context, const kvs_problem *problem)
{
    kvs_dist_stream *stream = context;
    kvs_dist *dist = stream->dist;
    kvs_dist_lock(dist);
    stream->call = NULL;
    stream->sending = false;
    stream->release = stream->released = 0;
    kvs_problem told = *problem;
    if (told.status == KVS_OK) {
        (void)kvs_problem_set(&told, KVS_UNAVAILABLE, "the server has ended a stream");
    }
    kvs_dist_broken(dist, &told);
    kvs_dist_unlock(dist);
}

const kvs_peer_events kvs_dist_stream_events = {
    .received = stream_received,
    .sent = stream_sent,
    .ended = stream_ended,
};
