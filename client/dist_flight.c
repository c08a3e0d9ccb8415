#include "base/check.h"
#include "client/dist_state.h"
#include "client/row_list.h"

#include <stdlib.h>

uint64_t kvs_item_part_elements(const kvs_item *item, uint64_t part)
{
    uint64_t left = item->elements - part * item->part_elements;
    return left < item->part_elements ? left : item->part_elements;
}

uint64_t kvs_item_part_offset(const kvs_item *item, uint64_t part)
{
    if (item->ends != NULL) {
        return part == 0 ? 0 : item->ends[part - 1];
    }
    if (item->rows != NULL) {
        return kvs_row_list_offset(item->rows, part, item->element_bytes);
    }
    return part * item->part_elements * item->element_bytes;
}

uint64_t kvs_item_part_bytes(const kvs_item *item, uint64_t part)
{
    if (item->flow == KVS_FLOW_PULL) {
        return 0;
    }
    if (item->ends != NULL) {
        return item->ends[part] - kvs_item_part_offset(item, part);
    }
    if (item->rows != NULL) {
        kvs_part_header header;
        kvs_row_list_fill_header(item->rows, part, item->element_bytes, &header);
        return header.payload_bytes;
    }
    return kvs_item_part_elements(item, part) * item->element_bytes;
}

uint64_t kvs_item_id_bytes(const kvs_item *item, uint64_t part)
{
    const kvs_row_list *list = item->rows;
    return list == NULL || list->packed_starts == NULL
               ? 0
               : list->packed_starts[part + 1] - list->packed_starts[part];
}

kvs_status kvs_flight_reserve(kvs_flight *flight, uint64_t parts)
{
    size_t size = 1024;
    while (size < parts) {
        size *= 2;
    }
    if (flight->entries != NULL && size <= flight->mask + 1) {
        return KVS_OK;
    }
    kvs_flight_entry *entries = calloc(size, sizeof *entries);
    if (entries == NULL) {
        return KVS_NO_MEMORY;
    }
    for (uint64_t s = flight->base; s < flight->next; s++) {
        entries[s & (size - 1)] = flight->entries[s & flight->mask];
    }
    free(flight->entries);
    flight->entries = entries;
    flight->mask = size - 1;
    return KVS_OK;
}

bool kvs_flight_has_room(const kvs_dist *dist)
{
    const kvs_flight *flight = &dist->flight;
    return flight->next - flight->base < dist->limits.inflight_parts &&
           flight->next - flight->base <= flight->mask;
}

kvs_flight_entry *kvs_flight_find(kvs_flight *flight, uint64_t sequence)
{
    if (sequence < flight->base || sequence >= flight->next) {
        return NULL;
    }
    kvs_flight_entry *entry = &flight->entries[sequence & flight->mask];
    return entry->item != NULL ? entry : NULL;
}

bool kvs_dist_has_credit(const kvs_dist *dist, uint64_t bytes)
{
    uint64_t limit = dist->limits.credit_bytes;
    /* What is answered holds no credit, whether or not the message that said so was lost. A part
     * above the limit goes alone. */
    return bytes <= dist->credit || dist->unanswered_bytes == 0 ||
           (dist->unanswered_bytes < limit && bytes <= limit - dist->unanswered_bytes);
}

uint64_t kvs_flight_give(kvs_dist *dist, kvs_item *item)
{
    kvs_flight *flight = &dist->flight;
    KVS_CHECK(kvs_flight_has_room(dist));
    uint64_t sequence = flight->next++;
    kvs_flight_entry *entry = &flight->entries[sequence & flight->mask];
    *entry = (kvs_flight_entry){.item = item, .part = item->parts_sent};
    if (item->parts_sent == 0) {
        item->after = item->key->last_sequence;
    }
    item->key->last_sequence = sequence;
    item->parts_sent++;
    item->unanswered++;
    return sequence;
}

static void move_base(kvs_flight *flight)
{
    while (flight->base < flight->next &&
           flight->entries[flight->base & flight->mask].item == NULL) {
        flight->base++;
    }
}

void kvs_flight_answer(kvs_dist *dist, uint64_t sequence)
{
    kvs_flight_entry *entry = kvs_flight_find(&dist->flight, sequence);
    if (entry == NULL) {
        return;
    }
    kvs_item *item = entry->item;
    if (entry->sent) {
        dist->unanswered_bytes -= kvs_item_part_bytes(item, entry->part);
    }
    entry->item = NULL;
    move_base(&dist->flight);
    item->unanswered--;
    if (item->unanswered == 0 && (item->parts_sent == item->parts || item->dropped)) {
        kvs_item_finish(item);
    }
}

static void mark_unsent(kvs_dist *dist, kvs_flight_entry *entry)
{
    if (!entry->sent) {
        return;
    }
    entry->sent = false;
    dist->unanswered_bytes -= kvs_item_part_bytes(entry->item, entry->part);
    if (entry->item->flow == KVS_FLOW_PULL) {
        /* It is answered from its first part on. */
        entry->item->received = 0;
    }
}

void kvs_flight_unsend(kvs_dist *dist)
{
    kvs_flight *flight = &dist->flight;
    for (uint64_t s = flight->base; s < flight->next; s++) {
        kvs_flight_entry *entry = kvs_flight_find(flight, s);
        if (entry != NULL) {
            mark_unsent(dist, entry);
        }
    }
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        dist->streams[flow].resend = flight->base;
    }
    dist->credit = dist->limits.credit_bytes;
    dist->pause_ns = 0;
}

void kvs_flight_unsend_one(kvs_dist *dist, uint64_t sequence)
{
    kvs_flight_entry *entry = kvs_flight_find(&dist->flight, sequence);
    if (entry == NULL) {
        return;
    }
    mark_unsent(dist, entry);
    kvs_dist_stream *stream = &dist->streams[entry->item->flow];
    if (sequence < stream->resend) {
        stream->resend = sequence;
    }
}

static void forget_key(kvs_client_key *key)
{
    key->last_sequence = 0;
}

void kvs_flight_reset(kvs_dist *dist, bool fresh)
{
    kvs_flight *flight = &dist->flight;
    for (uint64_t s = flight->base; s < flight->next; s++) {
        kvs_item *item = flight->entries[s & flight->mask].item;
        flight->entries[s & flight->mask] = (kvs_flight_entry){0};
        if (item != NULL && --item->unanswered == 0 && item->dropped) {
            kvs_item_finish(item);
        }
    }
    flight->base = fresh ? 1 : flight->next;
    flight->next = flight->base;
    for (int flow = 0; flow < KVS_FLOW_COUNT; flow++) {
        dist->streams[flow].resend = flight->base;
    }
    dist->unanswered_bytes = 0;
    dist->credit = dist->limits.credit_bytes;
    dist->pause_ns = 0;
    if (fresh) {
        kvs_client_keys_each(&dist->keys, forget_key);
    }
}
