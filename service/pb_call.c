#include "service/pb_call.h"

#include <stdlib.h>

/* Most answers: no allocation. */
#define SMALL_BYTES 1024u

kvs_status kvs_pb_unpack(const kvs_message *message, const ProtobufCMessageDescriptor *descriptor,
                         size_t bytes_max, ProtobufCMessage **out, kvs_problem *problem)
{
    if (message->bytes > bytes_max) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a %s may have %zu bytes",
                               descriptor->short_name, bytes_max);
    }
    uint8_t *gathered = NULL;
    const uint8_t *bytes = message->span_count == 0 ? NULL : message->spans[0].data;
    if (message->span_count > 1) {
        gathered = malloc(message->bytes);
        if (gathered == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a request");
        }
        kvs_payload payload = {
            .spans = message->spans, .count = message->span_count, .bytes = message->bytes};
        kvs_payload_gather(&payload, gathered);
        bytes = gathered;
    }
    ProtobufCMessage *unpacked = protobuf_c_message_unpack(descriptor, NULL, message->bytes, bytes);
    free(gathered);
    if (unpacked == NULL) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME, "the message is no %s",
                               descriptor->short_name);
    }
    *out = unpacked;
    return KVS_OK;
}

void *kvs_pb_take(kvs_call *call, const kvs_message *message,
                  const ProtobufCMessageDescriptor *descriptor)
{
    ProtobufCMessage *unpacked = NULL;
    kvs_problem problem;
    if (kvs_pb_unpack(message, descriptor, KVS_CONTROL_BYTES_MAX, &unpacked, &problem) != KVS_OK) {
        kvs_call_finish(call, &problem);
        return NULL;
    }
    return unpacked;
}

void kvs_pb_free(void *message)
{
    if (message != NULL) {
        protobuf_c_message_free_unpacked(message, NULL);
    }
}

void kvs_pb_send(kvs_call *call, const ProtobufCMessage *message)
{
    uint8_t small[SMALL_BYTES];
    uint8_t *bytes = small;
    size_t count = protobuf_c_message_get_packed_size(message);
    if (count > KVS_MESSAGE_BYTES_MAX) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_TOO_LARGE, "the answer has %zu bytes", count);
        kvs_call_finish(call, &problem);
        return;
    }
    if (count > sizeof(small)) {
        bytes = malloc(count);
        if (bytes == NULL) {
            kvs_problem problem;
            (void)kvs_problem_set(&problem, KVS_NO_MEMORY, "no memory for an answer");
            kvs_call_finish(call, &problem);
            return;
        }
    }
    (void)protobuf_c_message_pack(message, bytes);
    kvs_call_send(call, bytes, count);
    if (bytes != small) {
        free(bytes);
    }
}

void kvs_pb_reply(kvs_call *call, const ProtobufCMessage *message)
{
    kvs_pb_send(call, message);
    kvs_call_finish(call, NULL);
}
