#include "service/replies.h"

#include "service/door.h"

#include <stdlib.h>
#include <string.h>

/* One message with the core and one behind it keep the connection busy. */
#define SENDS_AHEAD 2u
/* What a peer may leave unread before nothing more is taken from it: acks of a full window in the
 * worst order, or refusals of one full frame. */
#define ACKS_MAX 1024u
#define QUEUED_MAX 1024u
/* Shorter payloads are copied: a piece of its own costs the core more than that. */
#define SMALL_BYTES 512u
#define HEAD_BYTES_KEPT (256 * KVS_KIB)

static bool grow(void **array, size_t *max, size_t count, size_t element_bytes)
{
    if (count < *max) {
        return true;
    }
    size_t wanted = *max == 0 ? 64 : *max * 2;
    void *grown = realloc(*array, wanted * element_bytes);
    if (grown == NULL) {
        return false;
    }
    *array = grown;
    *max = wanted;
    return true;
}

void kvs_replies_ack(kvs_replies *replies, uint64_t first, uint64_t last, bool duplicate)
{
    if (replies->ack_count > 0) {
        kvs_ack_range *range = &replies->acks[replies->ack_count - 1];
        if (range->last + 1 == first && range->duplicate == duplicate) {
            range->last = last;
            return;
        }
    }
    void *acks = replies->acks;
    if (!grow(&acks, &replies->ack_max, replies->ack_count, sizeof(*replies->acks))) {
        replies->failed = true;
        return;
    }
    replies->acks = acks;
    replies->acks[replies->ack_count++] =
        (kvs_ack_range){.first = first, .last = last, .duplicate = duplicate};
}

/* Sends a message without payload; with `more` another one follows at once. */
static void send_head(kvs_replies *replies, const kvs_reply_view *view, bool more)
{
    replies->head.used = 0;
    kvs_send *send = kvs_send_begin(replies->call);
    if (send == NULL) { /* no memory, or the call is over */
        replies->failed = true;
        return;
    }
    if (kvs_reply_encode(&replies->head, view, 0) != KVS_OK ||
        !kvs_send_copy(send, replies->head.bytes, replies->head.used)) {
        kvs_send_drop(replies->call, send);
        replies->failed = true;
        return;
    }
    kvs_send_commit(replies->call, send, 0, more);
}

void kvs_replies_refuse(kvs_replies *replies, uint64_t sequence, const char *key, size_t key_bytes,
                        const kvs_problem *problem)
{
    const kvs_status_row *row = kvs_status_find(problem->status);
    const char *detail = problem->detail[0] != '\0' ? problem->detail : row->title;
    kvs_reply_view view = {.kind = KVS_REPLY_REFUSAL};
    view.refusal.sequence = sequence;
    view.refusal.key = key;
    view.refusal.key_bytes = (uint32_t)key_bytes;
    view.refusal.reason = row->reason;
    view.refusal.reason_bytes = (uint32_t)strlen(row->reason);
    view.refusal.detail = detail;
    view.refusal.detail_bytes = (uint32_t)strlen(detail);
    view.refusal.code = row->grpc_code;
    send_head(replies, &view, false);
}

void kvs_replies_credit(kvs_replies *replies, uint64_t bytes)
{
    replies->credit_bytes += bytes;
}

void kvs_replies_value(kvs_replies *replies, const kvs_value_part *part)
{
    void *values = replies->values;
    if (!grow(&values, &replies->value_max, replies->value_count, sizeof(*replies->values))) {
        replies->failed = true;
        kvs_buffer_unref(part->buffer);
        return;
    }
    replies->values = values;
    replies->values[replies->value_count++] = *part;
}

/* ------------------------------------------------------------------ frames of values */

static void release_buffer(void *buffer)
{
    kvs_buffer_unref(buffer);
}

static bool flush_small(kvs_replies *replies, kvs_send *send)
{
    bool done =
        replies->small.used == 0 || kvs_send_copy(send, replies->small.bytes, replies->small.used);
    replies->small.used = 0;
    return done;
}

static bool add_small(kvs_replies *replies, const uint8_t *data, size_t bytes)
{
    kvs_head *small = &replies->small;
    if (small->used + bytes > small->size) {
        size_t size = (small->size + bytes) * 2;
        uint8_t *grown = realloc(small->bytes, size);
        if (grown == NULL) {
            return false;
        }
        small->bytes = grown;
        small->size = size;
    }
    if (bytes > 0) {
        memcpy(small->bytes + small->used, data, bytes);
    }
    small->used += bytes;
    return true;
}

/* Adds the payload of one part. The buffer is taken in any case. */
static bool add_payload(kvs_replies *replies, kvs_send *send, const kvs_value_part *part)
{
    size_t bytes = (size_t)part->header.payload_bytes;
    bool done;
    if (bytes <= SMALL_BYTES) {
        done = add_small(replies, part->data, bytes);
    } else {
        done = flush_small(replies, send) &&
               kvs_send_borrow(send, part->data, bytes, release_buffer, part->buffer);
        if (done) {
            return true;
        }
    }
    kvs_buffer_unref(part->buffer);
    return done;
}

/* How many of `count` parts the next frame holds, and the bytes of their payload. Row ids, which
 * may take more than their rows, count beside it. */
static size_t frame_parts(const kvs_value_part *parts, size_t count, uint64_t *bytes)
{
    size_t taken = 0;
    uint64_t with_ids = 0;
    uint64_t region = parts[0].region;
    *bytes = 0;
    while (taken < count && taken < KVS_FRAME_PARTS_MAX) {
        const kvs_part_header *header = &parts[taken].header;
        with_ids += header->payload_bytes + header->row_ids_bytes;
        if (taken > 0 &&
            (with_ids > KVS_FRAME_PAYLOAD_BYTES_MAX || parts[taken].region != region)) {
            break;
        }
        *bytes += header->payload_bytes;
        taken++;
    }
    return taken;
}

static bool write_frame(kvs_replies *replies, kvs_send *send, const kvs_value_part *parts,
                        size_t count, uint64_t bytes)
{
    for (size_t i = 0; i < count; i++) {
        replies->headers[i] = parts[i].header;
    }
    kvs_reply_view view = {.kind = KVS_REPLY_FRAME};
    view.frame.parts = replies->headers;
    view.frame.part_count = count;
    replies->head.used = 0;
    bool done = kvs_reply_encode(&replies->head, &view, bytes) == KVS_OK &&
                kvs_send_copy(send, replies->head.bytes, replies->head.used);
    replies->small.used = 0;
    for (size_t i = 0; i < count; i++) {
        if (done) {
            done = add_payload(replies, send, &parts[i]);
        } else {
            kvs_buffer_unref(parts[i].buffer);
        }
    }
    return done && flush_small(replies, send);
}

/* ------------------------------------------------------------------ values that stay where they
 * are */

typedef struct kvs_hold {
    uint64_t number;
    uint64_t bytes;
    kvs_buffer *buffer;
} kvs_hold;

static kvs_regions *regions_of(const kvs_replies *replies)
{
    return ((kvs_door *)kvs_call_context(replies->call))->regions;
}

static void drop_holds(kvs_replies *replies, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        kvs_regions_unhold(regions_of(replies), replies->holds[i].bytes);
        kvs_buffer_unref(replies->holds[i].buffer);
    }
    replies->hold_count -= count;
    if (count > 0) {
        memmove(replies->holds, replies->holds + count, replies->hold_count * sizeof(kvs_hold));
    }
}

void kvs_replies_share(kvs_replies *replies, bool shares, uint64_t release)
{
    size_t count = 0;
    while (count < replies->hold_count && replies->holds[count].number <= release) {
        count++;
    }
    drop_holds(replies, count);
    replies->shares = shares;
}

/* False: they go as data. */
static bool may_hold(kvs_replies *replies, const kvs_value_part *parts, size_t count,
                     uint64_t bytes)
{
    void *holds = replies->holds;
    bool room = true;
    if (!replies->shares || regions_of(replies) == NULL || parts[0].region == 0) {
        return false;
    }
    while (room && replies->hold_max < replies->hold_count + count) {
        room = grow(&holds, &replies->hold_max, replies->hold_max, sizeof(kvs_hold));
        replies->holds = holds;
    }
    return room && kvs_regions_hold(regions_of(replies), bytes);
}

/* A frame without data. The buffers are held in any case. */
static bool write_places(kvs_replies *replies, kvs_send *send, const kvs_value_part *parts,
                         size_t count)
{
    kvs_reply_view view = {.kind = KVS_REPLY_FRAME};
    view.frame.parts = replies->headers;
    view.frame.part_count = count;
    view.frame.region = parts[0].region;
    view.frame.hold = ++replies->last_hold;
    for (size_t i = 0; i < count; i++) {
        replies->headers[i] = parts[i].header;
        replies->headers[i].region_offset = parts[i].region_offset;
        replies->holds[replies->hold_count++] =
            (kvs_hold){view.frame.hold, parts[i].header.payload_bytes, parts[i].buffer};
    }
    replies->head.used = 0;
    return kvs_reply_encode(&replies->head, &view, 0) == KVS_OK &&
           kvs_send_copy(send, replies->head.bytes, replies->head.used);
}

static void send_values(kvs_replies *replies, bool more)
{
    size_t sent = 0;
    while (sent < replies->value_count) {
        const kvs_value_part *parts = replies->values + sent;
        uint64_t bytes;
        size_t count = frame_parts(parts, replies->value_count - sent, &bytes);
        void *headers = replies->headers;
        bool room = true;
        while (room && replies->header_max < count) {
            room = grow(&headers, &replies->header_max, replies->header_max,
                        sizeof(*replies->headers));
            replies->headers = headers;
        }
        kvs_send *send = room ? kvs_send_begin(replies->call) : NULL;
        if (send == NULL) { /* no memory, or the call is over */
            for (size_t i = 0; i < count; i++) {
                kvs_buffer_unref(parts[i].buffer);
            }
            replies->failed = true;
        } else if (may_hold(replies, parts, count, bytes)
                       ? write_places(replies, send, parts, count)
                       : write_frame(replies, send, parts, count, bytes)) {
            kvs_send_commit(replies->call, send, bytes,
                            more || sent + count < replies->value_count);
        } else {
            kvs_send_drop(replies->call, send);
            replies->failed = true;
        }
        sent += count;
    }
    replies->value_count = 0;
}

void kvs_replies_pump(kvs_replies *replies)
{
    if (kvs_replies_empty(replies) || kvs_call_queued(replies->call) >= SENDS_AHEAD) {
        return;
    }
    bool acks = replies->ack_count > 0;
    kvs_profile *profile = ((kvs_door *)kvs_call_context(replies->call))->profile;
    uint64_t begun_ns = kvs_profile_begin(profile);
    uint32_t ranges = (uint32_t)replies->ack_count;
    if (replies->credit_bytes > 0) {
        kvs_reply_view view = {.kind = KVS_REPLY_CREDIT, .credit_bytes = replies->credit_bytes};
        send_head(replies, &view, acks || replies->value_count > 0);
        replies->credit_bytes = 0;
    }
    send_values(replies, acks);
    if (acks) {
        kvs_reply_view view = {
            .kind = KVS_REPLY_ACKS, .acks = replies->acks, .ack_count = replies->ack_count};
        send_head(replies, &view, false);
        replies->ack_count = 0;
    }
    if (replies->head.size > HEAD_BYTES_KEPT) {
        kvs_head_deinit(&replies->head);
        replies->head = (kvs_head){.bytes = NULL};
    }
    kvs_profile_end(profile, KVS_STAGE_ACK, begun_ns, KVS_PROFILE_NO_RANK, ranges, 0);
}

bool kvs_replies_empty(const kvs_replies *replies)
{
    return replies->credit_bytes == 0 && replies->ack_count == 0 && replies->value_count == 0;
}

bool kvs_replies_full(const kvs_replies *replies)
{
    return replies->ack_count > ACKS_MAX || kvs_call_queued(replies->call) > QUEUED_MAX;
}

void kvs_replies_drop(kvs_replies *replies)
{
    for (size_t i = 0; i < replies->value_count; i++) {
        kvs_buffer_unref(replies->values[i].buffer);
    }
    replies->value_count = 0;
    replies->ack_count = 0;
    replies->credit_bytes = 0;
    drop_holds(replies, replies->hold_count);
}

void kvs_replies_deinit(kvs_replies *replies)
{
    kvs_replies_drop(replies);
    free(replies->acks);
    free(replies->values);
    free(replies->headers);
    free(replies->holds);
    kvs_head_deinit(&replies->head);
    kvs_head_deinit(&replies->small);
}
