/* Control messages of a call: from spans to protobuf-c structs and back.
 *
 * Threads: any. Memory: an unpacked message is the caller's, freed by kvs_pb_free.
 */
#ifndef KVS_SERVICE_PB_CALL_H
#define KVS_SERVICE_PB_CALL_H

#include "service/rpc.h"

#include <protobuf-c/protobuf-c.h>

/* Names, numbers and short texts: an optimizer's JSON is the longest. */
#define KVS_CONTROL_BYTES_MAX KVS_MIB

/* KVS_INVALID_FRAME, KVS_TOO_LARGE above `bytes_max`, KVS_NO_MEMORY. */
kvs_status kvs_pb_unpack(const kvs_message *message, const ProtobufCMessageDescriptor *descriptor,
                         size_t bytes_max, ProtobufCMessage **out,
                         kvs_problem *problem) KVS_MUST_CHECK;

/* The same, and finishes the call with the problem if there is one: NULL then. */
void *kvs_pb_take(kvs_call *call, const kvs_message *message,
                  const ProtobufCMessageDescriptor *descriptor);
void kvs_pb_free(void *message); /* accepts NULL */

/* Sends a message. */
void kvs_pb_send(kvs_call *call, const ProtobufCMessage *message);
/* Sends a message as the call's answer. */
void kvs_pb_reply(kvs_call *call, const ProtobufCMessage *message);

#endif
