/* Every maximum, with its reason. */
#ifndef KVS_BASE_LIMITS_H
#define KVS_BASE_LIMITS_H

#include <assert.h>
#include <stdint.h>

#define KVS_KIB ((uint64_t)1024)
#define KVS_MIB (1024 * KVS_KIB)

/* A part: 1 MiB of f32, the message size at which receive and sum overlap best
 * (docs/PERFORMANCE.md). Fixed at init, the same elements for every dtype and codec. */
#define KVS_PART_ELEMENTS ((uint64_t)1 << 18)
/* A part and its header fit a message of KVS_MESSAGE_BYTES_MAX. */
#define KVS_PART_BYTES_MAX (4 * KVS_MIB - 64 * KVS_KIB)
/* Payload of a frame of many parts; a frame of one part may hold KVS_PART_BYTES_MAX. */
#define KVS_FRAME_PAYLOAD_BYTES_MAX (1 * KVS_MIB)
/* What gRPC is told to refuse. */
#define KVS_MESSAGE_BYTES_MAX (4 * KVS_MIB + 64 * KVS_KIB)
/* Headers of one frame: the smallest useful header is about 24 bytes. */
#define KVS_FRAME_PARTS_MAX 4096u
/* Slices of one received message; more are gathered into one by a copy. */
#define KVS_FRAME_SPANS_MAX 1024u

#define KVS_KEY_BYTES_MAX 256u
#define KVS_DIMENSIONS_MAX 32u
#define KVS_NAME_BYTES_MAX 128u /* names of stores, workers, barriers */
#define KVS_WORKERS_MAX 4096u
#define KVS_STORES_MAX 1024u
#define KVS_KEYS_MAX ((uint64_t)1 << 24)
#define KVS_ELEMENTS_MAX ((uint64_t)1 << 40) /* of one value: 4 TiB of f32 */
#define KVS_SHARDS_MAX 64u
#define KVS_DEVICES_MAX 16u /* as many as one machine is built with */
#define KVS_COMMAND_BYTES_MAX (64 * KVS_KIB)
/* Of a safetensors file: about 100,000 tensors. Read into memory before anything else is. */
#define KVS_SAFETENSORS_HEADER_BYTES_MAX (16 * KVS_MIB)

/* Sequences in flight per session; never below the number of parts of the store. */
#define KVS_INFLIGHT_PARTS_MIN 1024u
/* Bytes a session may have sent and not yet seen summed or refused. More lets a worker run further
 * ahead of the lower ranks, which costs a copy of each part that waits (docs/PERFORMANCE.md). */
#define KVS_CREDIT_BYTES_DEFAULT (8 * KVS_MIB)
/* Bytes of one pull that wait for the reader: so much of the store a slow reader can pin. */
#define KVS_PULL_BYTES_AHEAD (4 * KVS_MIB)

#define KVS_MS ((uint64_t)1000000)
#define KVS_SECOND (1000 * KVS_MS)
#define KVS_ROUND_DEADLINE_NS (60 * KVS_SECOND)
#define KVS_LEASE_NS (10 * KVS_SECOND)
#define KVS_BARRIER_DEADLINE_NS (600 * KVS_SECOND)
#define KVS_CUT_DEADLINE_NS (60 * KVS_SECOND)

/* Row ids of a session's pulls that are not answered, 8 bytes each; one pull may have more. */
#define KVS_SESSION_ROW_IDS_MAX ((uint64_t)1 << 22)

static_assert(KVS_PART_ELEMENTS * 8 <= KVS_PART_BYTES_MAX, "a part of f64 fits");
static_assert(KVS_PART_BYTES_MAX < KVS_MESSAGE_BYTES_MAX, "a part and its header fit a message");
static_assert(KVS_FRAME_PAYLOAD_BYTES_MAX <= KVS_PART_BYTES_MAX, "a full frame fits a message");
static_assert(KVS_PULL_BYTES_AHEAD >= KVS_PART_BYTES_MAX, "one part can always be sent");

#endif
