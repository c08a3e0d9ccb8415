#include "tests/unit/api/same.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

static void same_text(const void *hand, size_t hand_bytes, const char *text)
{
    KVS_CHECK(hand_bytes == strlen(text));
    KVS_CHECK(hand_bytes == 0 || memcmp(hand, text, hand_bytes) == 0);
}

static void same_bytes(const void *hand, size_t hand_bytes, const ProtobufCBinaryData *data)
{
    KVS_CHECK(hand_bytes == data->len);
    KVS_CHECK(hand_bytes == 0 || memcmp(hand, data->data, hand_bytes) == 0);
}

static void same_list(const uint8_t *packed, size_t bytes, const uint64_t *values, size_t count)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 0;
        unsigned shift = 0;
        do {
            KVS_CHECK(at < bytes);
            KVS_CHECK(shift < 64);
            value |= (uint64_t)(packed[at] & 0x7f) << shift;
            shift += 7;
        } while ((packed[at++] & 0x80) != 0);
        KVS_CHECK(value == values[i]);
    }
    KVS_CHECK(at == bytes);
}

static void same_version(kvs_version hand, const Kvstored__V1__Version *version)
{
    KVS_CHECK(hand.epoch == (version == NULL ? 0 : version->epoch));
    KVS_CHECK(hand.count == (version == NULL ? 0 : version->count));
}

static void same_part(const kvs_part_header *hand, const Kvstored__V1__PartHeader *part)
{
    same_text(hand->key, hand->key_bytes, part->key);
    KVS_CHECK((int)hand->dtype == (int)part->dtype);
    KVS_CHECK((int)hand->storage == (int)part->storage);
    KVS_CHECK((int)hand->codec == (int)part->codec);
    KVS_CHECK(hand->has_shape || part->n_shape == 0);
    same_list(hand->shape, hand->shape_bytes, part->shape, part->n_shape);
    KVS_CHECK(hand->element_offset == part->element_offset);
    KVS_CHECK(hand->element_count == part->element_count);
    KVS_CHECK(hand->sequence == part->sequence);
    KVS_CHECK(hand->after == part->after);
    KVS_CHECK(hand->priority == part->priority);
    KVS_CHECK(hand->has_weight ==
              (part->contribution_case == KVSTORED__V1__PART_HEADER__CONTRIBUTION_WEIGHT));
    if (hand->has_weight) {
        KVS_CHECK(memcmp(&hand->weight, &part->weight, sizeof(double)) == 0);
    }
    KVS_CHECK(hand->payload_bytes == part->payload_bytes);
    same_version(hand->version, part->version);
    same_list(hand->row_ids, hand->row_ids_bytes, part->row_ids, part->n_row_ids);
    KVS_CHECK(hand->empty_parts == part->empty_parts);
    KVS_CHECK(hand->region_offset == part->region_offset);
}

void kvs_same_frame(const kvs_frame_view *hand, const Kvstored__V1__Frame *frame)
{
    same_text(hand->store, hand->store_bytes, frame->store);
    same_bytes(hand->session, hand->session_bytes, &frame->session);
    KVS_CHECK(hand->epoch == frame->epoch);
    KVS_CHECK(hand->membership == frame->membership);
    KVS_CHECK(hand->durable == (frame->durable != 0));
    KVS_CHECK(hand->has_crc32c == (frame->checksum_case == KVSTORED__V1__FRAME__CHECKSUM_CRC32C));
    KVS_CHECK((int)hand->value_codec == (int)frame->value_codec);
    KVS_CHECK(hand->region == frame->region);
    KVS_CHECK(!hand->has_crc32c || hand->crc32c == frame->crc32c);
    KVS_CHECK(hand->has_shard_parts == (frame->n_shard_parts > 0));
    KVS_CHECK(hand->part_count == frame->n_parts);
    for (size_t i = 0; i < frame->n_parts; i++) {
        same_part(&hand->parts[i], frame->parts[i]);
    }
    uint8_t *data = malloc(hand->payload.bytes + 1);
    KVS_CHECK(data != NULL);
    kvs_payload_gather(&hand->payload, data);
    same_bytes(data, hand->payload.bytes, &frame->data);
    free(data);
}

void kvs_same_pull(const kvs_pull_view *hand, const Kvstored__V1__PullRequest *pull)
{
    same_text(hand->store, hand->store_bytes, pull->store);
    same_bytes(hand->session, hand->session_bytes, &pull->session);
    KVS_CHECK(hand->epoch == pull->epoch);
    KVS_CHECK(hand->membership == pull->membership);
    same_text(hand->prefix, hand->prefix_bytes, pull->prefix);
    KVS_CHECK(hand->all == (pull->all != 0));
    KVS_CHECK(hand->snapshot == (pull->snapshot != 0));
    KVS_CHECK((int)hand->codec == (int)pull->codec);
    KVS_CHECK(hand->has_snapshot_name == (pull->snapshot_name[0] != '\0'));
    KVS_CHECK(hand->key_count == pull->n_keys);
    for (size_t i = 0; i < pull->n_keys; i++) {
        const kvs_pull_key_view *a = &hand->keys[i];
        const Kvstored__V1__PullKey *b = pull->keys[i];
        same_text(a->key, a->key_bytes, b->key);
        KVS_CHECK(a->sequence == b->sequence);
        KVS_CHECK(a->after == b->after);
        KVS_CHECK(a->priority == b->priority);
        same_version(a->min_version, b->min_version);
        KVS_CHECK(a->has_since == (b->since != NULL));
        same_version(a->since, b->since);
        same_list(a->row_ids, a->row_ids_bytes, b->row_ids, b->n_row_ids);
    }
}

static void same_acks(const kvs_reply_view *hand, const Kvstored__V1__Acks *acks)
{
    KVS_CHECK(hand->ack_count == acks->n_ranges);
    for (size_t i = 0; i < acks->n_ranges; i++) {
        KVS_CHECK(hand->acks[i].first == acks->ranges[i]->first);
        KVS_CHECK(hand->acks[i].last == acks->ranges[i]->last);
        KVS_CHECK(hand->acks[i].duplicate == (acks->ranges[i]->duplicate != 0));
        KVS_CHECK(hand->acks[i].durable == (acks->ranges[i]->durable != 0));
    }
}

static void same_refusal(const kvs_reply_view *hand, const Kvstored__V1__Refusal *refusal)
{
    KVS_CHECK(hand->refusal.sequence == refusal->sequence);
    same_text(hand->refusal.key, hand->refusal.key_bytes, refusal->key);
    const Kvstored__V1__Problem *problem = refusal->problem;
    same_text(hand->refusal.reason, hand->refusal.reason_bytes,
              problem == NULL ? "" : problem->reason);
    same_text(hand->refusal.detail, hand->refusal.detail_bytes,
              problem == NULL ? "" : problem->detail);
    KVS_CHECK(hand->refusal.code == (problem == NULL ? 0 : problem->code));
}

void kvs_same_reply(const kvs_reply_view *hand, const Kvstored__V1__Reply *reply)
{
    switch (reply->reply_case) {
    case KVSTORED__V1__REPLY__REPLY_ACKS:
        KVS_CHECK(hand->kind == KVS_REPLY_ACKS);
        same_acks(hand, reply->acks);
        break;
    case KVSTORED__V1__REPLY__REPLY_REFUSAL:
        KVS_CHECK(hand->kind == KVS_REPLY_REFUSAL);
        same_refusal(hand, reply->refusal);
        break;
    case KVSTORED__V1__REPLY__REPLY_CREDIT:
        KVS_CHECK(hand->kind == KVS_REPLY_CREDIT);
        KVS_CHECK(hand->credit_bytes == reply->credit->bytes);
        break;
    case KVSTORED__V1__REPLY__REPLY_FRAME:
        KVS_CHECK(hand->kind == KVS_REPLY_FRAME);
        kvs_same_frame(&hand->frame, reply->frame);
        break;
    default:
        KVS_CHECK(hand->kind == KVS_REPLY_NONE);
        break;
    }
}
