#include "base/clock.h"
#include "client/dist_state.h"
#include "client/row_list.h"

#include <stdlib.h>
#include <string.h>

static const char *const methods[KVS_FLOW_COUNT] = {
    [KVS_FLOW_PUSH] = "/kvstored.v1.KVStore/Push",
    [KVS_FLOW_PUSHPULL] = "/kvstored.v1.KVStore/PushPull",
    [KVS_FLOW_PULL] = "/kvstored.v1.KVStore/Pull",
};

/* ------------------------------------------------------------------ what is ready */

/* Is it for an earlier round than the other? A push that comes to the server before its round keeps
 * its credit until those before have closed. Were it sent first for its priority, workers with
 * little credit could spend it on rounds that wait for what each of them has no credit to send. */
static bool is_of_earlier(const kvs_item *a, const kvs_item *b)
{
    return a->flow != KVS_FLOW_PULL && b->flow != KVS_FLOW_PULL && a->key->pushes < b->key->pushes;
}

static bool goes_before(const kvs_item *a, const kvs_item *b)
{
    if (is_of_earlier(a, b) || is_of_earlier(b, a)) {
        return is_of_earlier(a, b);
    }
    int priority_a = a->request->priority;
    int priority_b = b->request->priority;
    return priority_a != priority_b ? priority_a > priority_b : a->order < b->order;
}

static void swap(kvs_item_heap *heap, size_t i, size_t j)
{
    kvs_item *item = heap->list[i];
    heap->list[i] = heap->list[j];
    heap->list[j] = item;
}

static void sift_up(kvs_item_heap *heap, size_t i)
{
    while (i > 0 && goes_before(heap->list[i], heap->list[(i - 1) / 2])) {
        swap(heap, i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
}

static void sift_down(kvs_item_heap *heap, size_t i)
{
    for (;;) {
        size_t first = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2; child++) {
            if (child < heap->count && goes_before(heap->list[child], heap->list[first])) {
                first = child;
            }
        }
        if (first == i) {
            return;
        }
        swap(heap, i, first);
        i = first;
    }
}

static void heap_remove(kvs_item_heap *heap, size_t i)
{
    heap->count--;
    if (i < heap->count) {
        heap->list[i] = heap->list[heap->count];
        sift_down(heap, i);
        sift_up(heap, i);
    }
}

/* Needs room. */
static void heap_add(kvs_item_heap *heap, kvs_item *item)
{
    heap->list[heap->count] = item;
    sift_up(heap, heap->count++);
}

/* Room in every flow's heap for one more of each key. */
static kvs_status reserve_heaps(kvs_dist *dist)
{
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        kvs_item_heap *heap = &dist->streams[flow].ready;
        if (heap->size < dist->keys.count) {
            size_t size = heap->size == 0 ? 64 : 2 * heap->size;
            while (size < dist->keys.count) {
                size *= 2;
            }
            kvs_item **list = realloc(heap->list, size * sizeof(kvs_item *));
            if (list == NULL) {
                return KVS_NO_MEMORY;
            }
            heap->list = list;
            heap->size = size;
        }
    }
    return KVS_OK;
}

kvs_status kvs_item_queue(kvs_dist *dist, kvs_item *item)
{
    KVS_TRY(reserve_heaps(dist));
    kvs_client_key *key = item->key;
    item->order = dist->next_order++;
    item->next = NULL;
    if (key->last != NULL) {
        key->last->next = item;
        key->last = item;
        return KVS_OK;
    }
    key->first = item;
    key->last = item;
    heap_add(&dist->streams[item->flow].ready, item);
    return KVS_OK;
}

/* The first of a key's queue leaves it; the next one is ready. */
static void pop_first(kvs_dist *dist, kvs_client_key *key)
{
    key->pushes += key->first->flow != KVS_FLOW_PULL && key->first->parts_sent > 0 ? 1 : 0;
    key->first = key->first->next;
    if (key->first == NULL) {
        key->last = NULL;
    } else {
        heap_add(&dist->streams[key->first->flow].ready, key->first);
    }
}

void kvs_item_unqueue(kvs_dist *dist, kvs_item *item)
{
    kvs_client_key *key = item->key;
    if (key->first == item) {
        kvs_item_heap *heap = &dist->streams[item->flow].ready;
        size_t i = 0;
        while (i < heap->count && heap->list[i] != item) {
            i++;
        }
        if (i < heap->count) {
            heap_remove(heap, i);
        }
        pop_first(dist, key);
        return;
    }
    for (kvs_item *before = key->first; before != NULL; before = before->next) {
        if (before->next == item) {
            before->next = item->next;
            if (key->last == item) {
                key->last = before;
            }
            return;
        }
    }
}

/* ------------------------------------------------------------------ one message */

/* What is being put together. */
typedef struct outgoing {
    kvs_dist_stream *stream;
    size_t count;
    uint64_t bytes;
    uint64_t id_bytes; /* of row ids, beside the payload */
    uint64_t parts;    /* that the headers stand for */
    uint64_t region;   /* where all payloads lie; 0: they are sent */
    kvs_codec pull_codec;
} outgoing;

/* Where the server finds the part's payload itself; 0: it has to be sent. */
static uint64_t region_of(const outgoing *message, const kvs_item *item, uint64_t part,
                          uint64_t *offset)
{
    const kvs_dist *dist = message->stream->dist;
    uint64_t bytes = item->flow == KVS_FLOW_PULL ? 0 : kvs_item_part_bytes(item, part);
    uint64_t region = 0;
    if (bytes == 0) {
        return message->region; /* it goes with any */
    }
    /* What is encoded is judged before it is read: it must not change in between. */
    if (item->codec == KVS_CODEC_NONE) {
        (void)kvs_shared_find(dist->shared, item->data + kvs_item_part_offset(item, part), bytes,
                              &region, offset);
    }
    return region;
}

/* False: it does not fit this message, or nothing may be sent now. */
static bool fits(const outgoing *message, const kvs_item *item, uint64_t part)
{
    const kvs_dist *dist = message->stream->dist;
    uint64_t offset;
    uint64_t bytes = kvs_item_part_bytes(item, part);
    uint64_t sum = message->bytes + message->id_bytes + bytes + kvs_item_id_bytes(item, part);
    if (message->count == KVS_SEND_PARTS_MAX || message->parts == KVS_FRAME_PARTS_MAX ||
        (message->count > 0 && (item->pull_codec != message->pull_codec ||
                                region_of(message, item, part, &offset) != message->region)) ||
        (message->count > 0 && sum > dist->limits.frame_payload_bytes)) {
        return false;
    }
    return kvs_dist_has_credit(dist, bytes);
}

/* Does the part, which brings no rows, go with the header before it? */
static bool joins_run(const outgoing *message, const kvs_flight_entry *entry, uint64_t sequence)
{
    const kvs_item *item = entry->item;
    if (item->rows == NULL || message->count == 0 ||
        !kvs_row_list_is_empty(item->rows, entry->part)) {
        return false;
    }
    const kvs_part_header *before = &message->stream->dist->headers[message->count - 1];
    return before->empty_parts > 0 && before->key == item->key->name &&
           before->after == item->after && before->priority == item->request->priority &&
           before->sequence + before->empty_parts == sequence &&
           before->element_offset + before->empty_parts * item->part_elements ==
               entry->part * item->part_elements;
}

static void add_part(outgoing *message, kvs_flight_entry *entry, uint64_t sequence)
{
    kvs_dist *dist = message->stream->dist;
    kvs_item *item = entry->item;
    message->parts++;
    if (joins_run(message, entry, sequence)) {
        dist->headers[message->count - 1].empty_parts++;
        return;
    }
    uint64_t bytes = kvs_item_part_bytes(item, entry->part);
    kvs_part_header *header = &dist->headers[message->count];
    *header = (kvs_part_header){
        .key = item->key->name,
        .key_bytes = item->key->name_bytes,
        .dtype = item->dtype,
        .has_shape = item->has_shape,
        .shape = item->shape,
        .shape_bytes = item->shape_bytes,
        .codec = item->codec,
        .threshold = item->threshold,
        .element_offset = entry->part * item->part_elements,
        .element_count = kvs_item_part_elements(item, entry->part),
        .sequence = sequence,
        .after = item->after,
        .priority = item->request->priority,
        .payload_bytes = bytes,
    };
    if (item->rows != NULL) {
        kvs_row_list_fill_header(item->rows, entry->part, item->element_bytes, header);
        header->empty_parts = kvs_row_list_is_empty(item->rows, entry->part) ? 1 : 0;
    }
    message->region = region_of(message, item, entry->part, &header->region_offset);
    if (message->region == 0) {
        dist->pieces[message->count] = (kvs_piece){
            .data = bytes > 0 ? item->data + kvs_item_part_offset(item, entry->part) : NULL,
            .bytes = (size_t)bytes,
            .release = kvs_block_release,
            .context = kvs_block_take(item->block),
        };
        dist->statistics.bytes_sent += bytes;
    } else {
        dist->statistics.bytes_shared += bytes;
    }
    dist->credit = dist->credit > bytes ? dist->credit - bytes : 0;
    dist->unanswered_bytes += bytes;
    message->bytes += bytes;
    message->count++;
}

static void add_pull(outgoing *message, const kvs_flight_entry *entry, uint64_t sequence)
{
    const kvs_item *item = entry->item;
    kvs_pull_key_view *view = &message->stream->dist->pull_keys[message->count++];
    *view = (kvs_pull_key_view){
        .key = item->key->name,
        .key_bytes = item->key->name_bytes,
        .sequence = sequence,
        .after = item->after,
        .priority = item->request->priority,
    };
    if (item->rows != NULL) {
        view->row_ids = item->rows->packed;
        view->row_ids_bytes = (uint32_t)item->rows->packed_starts[1];
    }
}

static void add_entry(outgoing *message, kvs_flight_entry *entry, uint64_t sequence)
{
    entry->sent = true;
    message->pull_codec = entry->item->pull_codec;
    message->id_bytes += kvs_item_id_bytes(entry->item, entry->part);
    if (message->stream->flow == KVS_FLOW_PULL) {
        add_pull(message, entry, sequence);
    } else {
        add_part(message, entry, sequence);
    }
}

/* What was sent before and is to be sent again. False: there is more of it. */
static bool add_again(outgoing *message)
{
    kvs_dist_stream *stream = message->stream;
    kvs_dist *dist = stream->dist;
    if (stream->resend < dist->flight.base) {
        stream->resend = dist->flight.base;
    }
    for (; stream->resend < dist->flight.next; stream->resend++) {
        kvs_flight_entry *entry = kvs_flight_find(&dist->flight, stream->resend);
        if (entry == NULL || entry->sent || entry->item->flow != stream->flow) {
            continue;
        }
        if (kvs_clock_now_ns() < dist->pause_ns || !fits(message, entry->item, entry->part)) {
            return false;
        }
        add_entry(message, entry, stream->resend);
        dist->statistics.replayed_parts++;
    }
    return true;
}

/* Must a push leave the credit to one of the other kind? Not to a push that stands behind a pull
 * which has not been sent: that may wait for the server, and so for pushes. */
static bool gives_way(const kvs_dist *dist, const kvs_item *item)
{
    kvs_flow other = item->flow == KVS_FLOW_PUSH ? KVS_FLOW_PUSHPULL : KVS_FLOW_PUSH;
    const kvs_item_heap *ready = &dist->streams[other].ready;
    return ready->count > 0 && is_of_earlier(ready->list[0], item);
}

static void add_new(outgoing *message)
{
    kvs_dist_stream *stream = message->stream;
    kvs_dist *dist = stream->dist;
    kvs_item_heap *ready = &stream->ready;
    while (ready->count > 0 && kvs_flight_has_room(dist)) {
        kvs_item *item = ready->list[0];
        if (gives_way(dist, item) || !fits(message, item, item->parts_sent)) {
            return;
        }
        uint64_t sequence = kvs_flight_give(dist, item);
        add_entry(message, kvs_flight_find(&dist->flight, sequence), sequence);
        /* Nothing before it is left to be sent again. */
        stream->resend = sequence + 1;
        if (item->parts_sent == item->parts) {
            heap_remove(ready, 0);
            pop_first(dist, item->key);
        }
    }
}

static kvs_status encode(const outgoing *message)
{
    kvs_dist_stream *stream = message->stream;
    const kvs_dist *dist = stream->dist;
    if (stream->flow == KVS_FLOW_PULL) {
        kvs_pull_view view = {
            .store = dist->store,
            .store_bytes = (uint32_t)strlen(dist->store),
            .session = dist->session,
            .session_bytes = KVS_SESSION_BYTES,
            .epoch = dist->epoch,
            .membership = dist->membership,
            .codec = message->pull_codec,
            .shared = !stream->unshared && kvs_shared_works(dist->shared),
            .release = stream->release,
            .keys = dist->pull_keys,
            .key_count = message->count,
        };
        return kvs_pull_encode(&stream->head, &view);
    }
    kvs_frame_view view = {
        .store = dist->store,
        .store_bytes = (uint32_t)strlen(dist->store),
        .session = dist->session,
        .session_bytes = KVS_SESSION_BYTES,
        .epoch = dist->epoch,
        .membership = dist->membership,
        .value_codec = stream->flow == KVS_FLOW_PUSHPULL ? message->pull_codec : KVS_CODEC_NONE,
        .region = message->region,
        .parts = dist->headers,
        .part_count = message->count,
    };
    return kvs_frame_encode(&stream->head, &view, message->region == 0 ? message->bytes : 0);
}

static bool is_open(kvs_dist_stream *stream)
{
    if (stream->call == NULL) {
        stream->call = kvs_peer_start(stream->dist->peer, KVS_LANE_BULK, methods[stream->flow], 0,
                                      &kvs_dist_stream_events, stream);
    }
    return stream->call != NULL;
}

/* Gives what was put together to the call; without memory all of it stays unsent. */
static void send_message(const outgoing *message)
{
    kvs_dist_stream *stream = message->stream;
    kvs_dist *dist = stream->dist;
    size_t pieces = stream->flow == KVS_FLOW_PULL || message->region != 0 ? 0 : message->count;
    if (is_open(stream) && encode(message) == KVS_OK) {
        stream->sending = true;
        stream->released = stream->release;
        dist->statistics.messages_sent++;
        kvs_peer_send(stream->call, stream->head.bytes, stream->head.used, dist->pieces, pieces,
                      false);
        return;
    }
    for (size_t i = 0; i < pieces; i++) {
        kvs_block_unref(dist->pieces[i].context);
    }
    for (size_t i = 0; i < message->count; i++) {
        if (stream->flow == KVS_FLOW_PULL) {
            kvs_flight_unsend_one(dist, dist->pull_keys[i].sequence);
            continue;
        }
        const kvs_part_header *header = &dist->headers[i];
        kvs_flight_unsend_one(dist, header->sequence);
        for (uint64_t more = 1; more < header->empty_parts; more++) {
            kvs_flight_unsend_one(dist, header->sequence + more);
        }
    }
    dist->pause_ns = kvs_clock_now_ns() + 100 * KVS_MS;
}

static bool has_work(const kvs_dist_stream *stream)
{
    return stream->release > stream->released || stream->ready.count > 0 ||
           stream->resend < stream->dist->flight.next;
}

static void pump_stream(kvs_dist_stream *stream)
{
    if (stream->sending || !has_work(stream)) {
        return;
    }
    outgoing message = {.stream = stream};
    if (add_again(&message)) {
        add_new(&message);
    }
    if (message.count > 0 || (stream->call != NULL && stream->release > stream->released)) {
        send_message(&message);
    }
}

void kvs_dist_pump(kvs_dist *dist)
{
    if (dist->phase != KVS_DIST_UP || dist->leaving) {
        return;
    }
    pump_stream(&dist->streams[KVS_FLOW_PULL]); /* pushes may stand behind its pulls */
    pump_stream(&dist->streams[KVS_FLOW_PUSH]);
    pump_stream(&dist->streams[KVS_FLOW_PUSHPULL]);
    pump_stream(&dist->streams[KVS_FLOW_PUSH]); /* what has given way to the last */
}
