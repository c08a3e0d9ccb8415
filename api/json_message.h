/* Any protobuf-c message as JSON, by its descriptor: what the REST and gRPC admin planes share.
 *
 * Names as in the proto. 64-bit numbers are strings (numbers are read as well), enums their names
 * without the common prefix in lower case ("f32", "fail"), bytes base64, numbers that are not
 * finite "NaN", "Infinity" and "-Infinity". Printed: every field, at its default too, but messages
 * that are absent and members of a oneof that are not set. Read: null and absent mean the default.
 *
 * Threads: any. Memory: both give something new to the caller.
 * Errors: KVS_INVALID_FIELD names each bad or unknown field as a JSON pointer; KVS_NO_MEMORY.
 *   Nothing is given out then.
 */
#ifndef KVS_API_JSON_MESSAGE_H
#define KVS_API_JSON_MESSAGE_H

#include "base/json.h"
#include "base/status.h"

#include <protobuf-c/protobuf-c.h>

/* Freed by protobuf_c_message_free_unpacked(message, NULL). */
kvs_status kvs_json_message_parse(const ProtobufCMessageDescriptor *descriptor, const json_t *json,
                                  ProtobufCMessage **out, kvs_problem *problem) KVS_MUST_CHECK;

/* An object, given back by json_decref. A text that is not UTF-8 is KVS_INVALID_FIELD. */
kvs_status kvs_json_message_print(const ProtobufCMessage *message, json_t **out,
                                  kvs_problem *problem) KVS_MUST_CHECK;

/* The word of a value of an enum ("f32"), written to `out` and given back, or NULL when there is
 * no such value or no room. */
const char *kvs_json_enum_word(const ProtobufCEnumDescriptor *descriptor, int value, char *out,
                               size_t out_bytes);

#endif
