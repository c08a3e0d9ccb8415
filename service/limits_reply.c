#include "service/limits_reply.h"

static char shard_function[] = "xxh64";

void kvs_limits_fill(const kvs_store_info *info, Kvstored__V1__Limits *out)
{
    kvstored__v1__limits__init(out);
    out->part_elements = KVS_PART_ELEMENTS;
    out->part_bytes = KVS_PART_BYTES_MAX;
    out->frame_payload_bytes = KVS_FRAME_PAYLOAD_BYTES_MAX;
    out->message_bytes = KVS_MESSAGE_BYTES_MAX;
    out->credit_bytes = info->credit_bytes;
    out->inflight_parts = info->inflight_parts;
    out->shards = info->shards;
    out->shard_function = shard_function;
    out->round_deadline_ms = info->round_deadline_ns / KVS_MS;
    out->lease_ms = info->lease_ns / KVS_MS;
    out->barrier_deadline_ms = info->barrier_deadline_ns / KVS_MS;
}

const uint8_t *kvs_binary(const ProtobufCBinaryData *data)
{
    return data->len > 0 ? data->data : NULL;
}
