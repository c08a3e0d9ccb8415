/* The hot messages of kvstored.proto, by hand: Frame, PullRequest, Reply. Bytes <-> structs; pure.
 *
 * A payload is never copied: decoding gives views into the received spans, encoding gives a head
 * to which the payload is appended as it lies. Everything else of the proto goes through
 * protobuf-c (api/kvstored.pb-c.h, generated). tests/ hold the two against each other.
 *
 * Threads: any. Memory: views borrow the received spans and the caller's scratch.
 * Errors: KVS_INVALID_FRAME for bytes that are no such message, KVS_TOO_LARGE for counts above
 *   base/limits.h; nothing of `out` counts then. No input makes it read outside its bytes.
 */
#ifndef KVS_API_CODEC_H
#define KVS_API_CODEC_H

#include "base/frame.h"
#include "base/status.h"

/* Where heads are gathered when they straddle spans; grown by the codec, freed by deinit. One per
 * stream, used again for every message, so that nothing is allocated in steady state. */
typedef struct kvs_codec_scratch {
    uint8_t *bytes;
    size_t size;
    kvs_part_header *parts; /* room for decoded headers */
    size_t parts_max;
} kvs_codec_scratch;
void kvs_codec_scratch_deinit(kvs_codec_scratch *scratch);

typedef struct kvs_frame_view {
    const char *store; /* not terminated; NULL with 0 bytes when absent */
    uint32_t store_bytes;
    const uint8_t *session;
    uint32_t session_bytes;
    uint64_t epoch;
    uint64_t membership;
    bool durable;
    bool has_crc32c;
    uint32_t crc32c;
    bool has_shard_parts;
    kvs_codec value_codec;
    uint64_t region; /* 0: none. Else the payload lies there, and is empty here */
    uint64_t hold;   /* of a reply in a region */
    const kvs_part_header *parts;
    size_t part_count;
    size_t covered_parts; /* decode: with those that one header stands for */
    kvs_payload payload;  /* the sum of the parts' payload_bytes is checked to be payload.bytes */
} kvs_frame_view;

kvs_status kvs_frame_decode(const kvs_span *spans, size_t span_count, kvs_codec_scratch *scratch,
                            kvs_frame_view *out, kvs_problem *problem) KVS_MUST_CHECK;

/* The bytes of one head on its way out; grows, is used again: each encode starts over, and leaves
 * the head in bytes[0] to bytes[used - 1]. Encoding can fail with KVS_TOO_LARGE (more than
 * KVS_FRAME_PARTS_MAX parts, keys or ranges; a message above KVS_MESSAGE_BYTES_MAX), KVS_NO_MEMORY,
 * and KVS_UNIMPLEMENTED for what a view cannot hold yet (shard_parts, snapshot_name). */
typedef struct kvs_head {
    uint8_t *bytes;
    size_t used;
    size_t size;
} kvs_head;
void kvs_head_deinit(kvs_head *head);

/* Writes a Frame up to and including the length of `data`; data_bytes of payload must follow on
 * the wire. view->parts in order; view->payload is not looked at. */
kvs_status kvs_frame_encode(kvs_head *head, const kvs_frame_view *view,
                            uint64_t data_bytes) KVS_MUST_CHECK;

/* ------------------------------------------------------------------ pull requests */

typedef struct kvs_pull_key_view {
    const char *key;
    uint32_t key_bytes;
    uint64_t sequence;
    uint64_t after;
    int32_t priority;
    kvs_version min_version;
    bool has_since;
    kvs_version since;
    uint32_t row_ids_bytes;
    const uint8_t *row_ids;
} kvs_pull_key_view;

typedef struct kvs_pull_view {
    const char *store;
    uint32_t store_bytes;
    const uint8_t *session;
    uint32_t session_bytes;
    uint64_t epoch;
    uint64_t membership;
    const char *prefix;
    uint32_t prefix_bytes;
    bool all;
    bool snapshot;
    kvs_codec codec;
    bool has_snapshot_name;
    bool shared;
    uint64_t release;
    kvs_pull_key_view *keys; /* in scratch->parts' place: valid until the next decode */
    size_t key_count;
} kvs_pull_view;

kvs_status kvs_pull_decode(const kvs_span *spans, size_t span_count, kvs_codec_scratch *scratch,
                           kvs_pull_view *out, kvs_problem *problem) KVS_MUST_CHECK;
kvs_status kvs_pull_encode(kvs_head *head, const kvs_pull_view *view) KVS_MUST_CHECK;

/* ------------------------------------------------------------------ replies */

typedef struct kvs_ack_range {
    uint64_t first;
    uint64_t last;
    bool duplicate;
    bool durable;
} kvs_ack_range;

typedef enum kvs_reply_kind {
    KVS_REPLY_NONE, /* empty, or of a kind that this version does not know */
    KVS_REPLY_ACKS,
    KVS_REPLY_REFUSAL,
    KVS_REPLY_CREDIT,
    KVS_REPLY_FRAME
} kvs_reply_kind;

typedef struct kvs_reply_view {
    kvs_reply_kind kind;
    const kvs_ack_range *acks; /* decode: in scratch */
    size_t ack_count;
    struct {
        uint64_t sequence;
        const char *key;
        uint32_t key_bytes;
        const char *reason; /* "ROUND_FAILED" */
        uint32_t reason_bytes;
        const char *detail;
        uint32_t detail_bytes;
        int32_t code;
    } refusal;
    uint64_t credit_bytes;
    kvs_frame_view frame;
} kvs_reply_view;

kvs_status kvs_reply_decode(const kvs_span *spans, size_t span_count, kvs_codec_scratch *scratch,
                            kvs_reply_view *out, kvs_problem *problem) KVS_MUST_CHECK;
/* For KVS_REPLY_FRAME `data_bytes` of payload must follow on the wire, else it is 0. */
kvs_status kvs_reply_encode(kvs_head *head, const kvs_reply_view *view,
                            uint64_t data_bytes) KVS_MUST_CHECK;

#endif
