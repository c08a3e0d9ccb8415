/* A Frame as JSON: whatever is read can be printed. */
#include "tests/fuzz/fuzz.h"

#include "api/json_message.h"
#include "api/kvstored.pb-c.h"
#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    json_t *json = NULL;
    kvs_problem problem;
    if (kvs_json_parse((const char *)bytes, count, 65536, &json, &problem) != KVS_OK) {
        return 0;
    }
    ProtobufCMessage *message = NULL;
    if (kvs_json_message_parse(&kvstored__v1__frame__descriptor, json, &message, &problem) ==
        KVS_OK) {
        json_t *printed = NULL;
        KVS_CHECK(kvs_json_message_print(message, &printed, &problem) == KVS_OK);
        json_decref(printed);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    json_decref(json);
    return 0;
}
