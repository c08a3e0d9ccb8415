/* Protobuf's wire format: fields out of bytes that lie in pieces, and fields into a head.
 *
 * Private to api/. What it takes in whole stays where it lies; what straddles two spans is
 * gathered once into an arena, whose room is fixed before the first byte goes in, so that no view
 * given out before moves.
 *
 * Threads: any. Memory: what is taken borrows the spans or the arena's scratch.
 * Errors: KVS_WIRE_BAD for bytes that are no message; nothing is read outside the spans.
 */
#ifndef KVS_API_WIRE_H
#define KVS_API_WIRE_H

#include "api/codec.h"

/* Field numbers of data in Frame and of frame in Reply: what is never gathered. */
#define KVS_WIRE_DATA 15u

typedef enum kvs_wire_type {
    KVS_WIRE_VARINT = 0,
    KVS_WIRE_FIXED64 = 1,
    KVS_WIRE_BYTES = 2,
    KVS_WIRE_FIXED32 = 5
} kvs_wire_type;

typedef enum kvs_wire_step { KVS_WIRE_FIELD, KVS_WIRE_END, KVS_WIRE_BAD } kvs_wire_step;

typedef struct kvs_wire {
    const uint8_t *at;      /* the next byte */
    const uint8_t *run_end; /* of the run of bytes that lie together */
    const kvs_span *span;   /* that `at` lies in; NULL: the run is all there is */
    size_t left;            /* bytes to the end of the message */
} kvs_wire;

typedef struct kvs_wire_field {
    uint32_t number;
    kvs_wire_type type;
    uint64_t value; /* of a varint or fixed field */
    size_t bytes;   /* KVS_WIRE_BYTES: what follows, to be taken, entered or skipped */
} kvs_wire_field;

typedef struct kvs_wire_arena {
    kvs_codec_scratch *scratch;
    kvs_wire message; /* from its first byte: walked when room is needed */
    size_t extra;     /* room that its fields do not tell of */
    size_t used;
    size_t room; /* reserved; 0: nothing was gathered yet */
} kvs_wire_arena;

/* Over all spans. KVS_TOO_LARGE above KVS_MESSAGE_BYTES_MAX. */
kvs_status kvs_wire_init(kvs_wire *wire, const kvs_span *spans, size_t span_count) KVS_MUST_CHECK;
/* Over bytes that lie together. */
void kvs_wire_init_flat(kvs_wire *wire, const uint8_t *bytes, size_t count);

kvs_wire_step kvs_wire_next(kvs_wire *wire, kvs_wire_field *out);

/* Passes over `bytes` bytes, at most wire->left. */
void kvs_wire_skip(kvs_wire *wire, size_t bytes);

/* The next `bytes` bytes as a message of their own; passes over them in `wire`. */
void kvs_wire_enter(kvs_wire *wire, size_t bytes, kvs_wire *out);

/* The next `bytes` bytes as a payload that borrows the spans; passes over them. */
kvs_payload kvs_wire_payload(kvs_wire *wire, size_t bytes);

/* The next `bytes` bytes together, passed over: in place, or gathered. KVS_NO_MEMORY */
kvs_status kvs_wire_take(kvs_wire *wire, size_t bytes, kvs_wire_arena *arena,
                         const uint8_t **out) KVS_MUST_CHECK;

/* Starts an arena for the fields of `wire` but KVS_WIRE_DATA. */
void kvs_wire_arena_init(kvs_wire_arena *arena, kvs_codec_scratch *scratch, const kvs_wire *wire);

/* A repeated number on its way in: packed, not packed, or both. */
typedef struct kvs_wire_list {
    const uint8_t *bytes; /* packed varints */
    uint32_t count;       /* of bytes */
    bool present;
    bool scattered; /* more than one run: kvs_wire_list_end puts them together */
} kvs_wire_list;

/* One occurrence, passed over. `wire` must be flat. KVS_WIRE_BAD for varints that are cut. */
kvs_wire_step kvs_wire_list_add(kvs_wire_list *list, kvs_wire *wire, const kvs_wire_field *field);

/* After the last one: a list of one run lies in the message, others go into the arena. `message`
 * is the whole message that the occurrences of field `number` are in. KVS_NO_MEMORY */
kvs_status kvs_wire_list_end(kvs_wire_list *list, kvs_wire message, uint32_t number,
                             kvs_wire_arena *arena) KVS_MUST_CHECK;

/* A Version. False for bytes that are none. */
bool kvs_wire_version(kvs_wire *wire, size_t bytes, kvs_version *out);

/* Makes scratch->parts hold `count` items of `item_bytes`; keeps what is in it. KVS_NO_MEMORY */
kvs_status kvs_wire_room(kvs_codec_scratch *scratch, size_t count,
                         size_t item_bytes) KVS_MUST_CHECK;

/* One detail for everything that is cut or of the wrong type. */
kvs_status kvs_wire_bad(kvs_problem *problem, const char *message);

/* ------------------------------------------------------------------ on the way out */

/* Bytes that a field takes with its tag; numbers up to 15, and what is empty takes none. */
size_t kvs_wire_varint_bytes(uint64_t value);
size_t kvs_wire_number_size(uint64_t value);
size_t kvs_wire_text_size(size_t bytes);
size_t kvs_wire_version_size(kvs_version version);

/* Room for `bytes` more; the put functions below do not look. KVS_NO_MEMORY */
kvs_status kvs_wire_reserve(kvs_head *head, size_t bytes) KVS_MUST_CHECK;
void kvs_wire_put_varint(kvs_head *head, uint64_t value);
void kvs_wire_put_tag(kvs_head *head, uint32_t number, kvs_wire_type type);
void kvs_wire_put_fixed(kvs_head *head, uint64_t value, size_t bytes);
/* Nothing for 0, or for no bytes. */
void kvs_wire_put_number(kvs_head *head, uint32_t number, uint64_t value);
void kvs_wire_put_text(kvs_head *head, uint32_t number, const void *text, size_t bytes);
/* Always, even if empty. */
void kvs_wire_put_bytes(kvs_head *head, uint32_t number, const void *text, size_t bytes);
void kvs_wire_put_version(kvs_head *head, uint32_t number, kvs_version version);

/* ------------------------------------------------------------------ frames, alone or in a Reply */

/* A Frame out of a reader that stands at its first byte and ends with it. */
kvs_status kvs_frame_read(kvs_wire *wire, kvs_codec_scratch *scratch, kvs_frame_view *out,
                          kvs_problem *problem) KVS_MUST_CHECK;
/* Bytes of the head without the payload. KVS_INVALID_FIELD, KVS_TOO_LARGE, KVS_UNIMPLEMENTED */
kvs_status kvs_frame_size(const kvs_frame_view *view, uint64_t data_bytes,
                          size_t *out) KVS_MUST_CHECK;
/* Into room that was reserved. */
void kvs_frame_put(kvs_head *head, const kvs_frame_view *view, uint64_t data_bytes);

#endif
