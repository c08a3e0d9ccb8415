/* Gradients and values of f32 in fewer bytes: written by the sender, read where they are summed
 * or, of a pull, where they go.
 *
 * The bytes of a part of n elements, in the order of the elements, little-endian:
 *
 *   2BIT     4 ceil(n/16) bytes. Byte b has elements 4b to 4b+3, the first in the two highest bits:
 *            11 is +threshold, 10 is -threshold, 00 nothing. MXNet's layout.
 *   1BIT     4 ceil(n/32) bytes. Byte b has elements 8b to 8b+7, the first in the highest bit: 1 is
 *            +1, 0 is -1. MXNet's layout.
 *   F16      2n bytes; BF16 likewise: each element rounded to the nearest, ties to even.
 *   INT8     ceil(n/256) scales of f32, then n signed bytes: an element is byte times scale.
 *   ENTRIES  8 bytes each, at most n of them: index in the part (u32), value (f32). Indices ascend;
 *            what is not named is left as it is.
 *
 * What a lossy encoding leaves out stays with the sender as the residual and is added to the next
 * gradient. Padding is written as 0 and not read.
 *
 * Threads: any; pure functions of their arguments. Memory: borrows its arguments during the call.
 */
#ifndef KVS_ENGINE_CODEC_H
#define KVS_ENGINE_CODEC_H

#include "base/frame.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Is it a codec that this version reads? KVS_CODEC_NONE is none. */
bool kvs_codec_known(kvs_codec codec);

/* The bytes of `elements` elements; of KVS_CODEC_ENTRIES the most that there can be. */
uint64_t kvs_codec_bytes(kvs_codec codec, uint64_t elements);

/* Are these bytes, from anywhere, such an encoding? KVS_INVALID_TENSOR names what is wrong: the
 * codec, the threshold, the length, an index. What has passed can be decoded. */
kvs_status kvs_codec_judge(kvs_codec codec, float threshold, uint64_t elements,
                           const kvs_payload *payload, kvs_problem *problem) KVS_MUST_CHECK;

/* first: target := decoded (what ENTRIES do not name is 0), else target := target + decoded. The
 * payload has been judged; of INT8 elements <= KVS_PART_ELEMENTS. */
void kvs_codec_decode(kvs_codec codec, float threshold, const kvs_payload *payload, float *target,
                      uint64_t elements, bool first);

/* ------------------------------------------------------------------ values */

/* Can a value be pulled so? F16, BF16 and INT8; the others leave out what only a residual gives
 * back. Not KVS_CODEC_NONE. */
bool kvs_codec_of_values(kvs_codec codec);

/* A value travels as runs of `elements` elements, each encoded for itself, one after another. A
 * part is one run; of rows that are pulled each is one, so that what comes of a row does not depend
 * on the others. Of a run of more than KVS_PART_ELEMENTS so many are encoded at a time. INT8 of
 * what is not finite is NaN in its whole block. */
uint64_t kvs_codec_value_bytes(kvs_codec codec, uint64_t runs, uint64_t elements);
void kvs_codec_write_value(kvs_codec codec, const float *value, uint64_t runs, uint64_t elements,
                           uint8_t *out);
/* payload.bytes is kvs_codec_value_bytes, whatever they are. */
void kvs_codec_read_value(kvs_codec codec, const kvs_payload *payload, uint64_t runs,
                          uint64_t elements, float *target);

/* ------------------------------------------------------------------ the sender's choice */

/* What a sender has been told. */
typedef struct kvs_encoding {
    kvs_codec codec; /* of pushes; KVS_CODEC_NONE: not said */
    bool random;     /* ENTRIES: drawn; else the largest */
    float threshold; /* 2BIT: the step; 1BIT: above it is a 1 */
    double ratio;    /* ENTRIES: of the elements of a part, at least one is sent */
    bool has_pull;
    kvs_codec pull; /* of pulls; KVS_CODEC_NONE: whole */
} kvs_encoding;

/* {"type": "2bit", "threshold": 0.5, "pull": "bf16"}; types: 2bit, 1bit, fp16, bf16, int8, topk,
 * randomk; of pulls: none, fp16, bf16, int8. One of the two fields is needed. What the type does
 * not have is not looked at, as in MXNet. KVS_INVALID_FIELD, KVS_INVALID_FRAME, KVS_NO_MEMORY. */
kvs_status kvs_encoding_parse(const char *json, kvs_encoding *out,
                              kvs_problem *problem) KVS_MUST_CHECK;
const char *kvs_encoding_name(const kvs_encoding *encoding);      /* "2bit"; "": not said */
const char *kvs_encoding_pull_name(const kvs_encoding *encoding); /* "bf16"; "": whole */

/* The most that a part of so many elements takes. */
uint64_t kvs_encoding_bytes(const kvs_encoding *encoding, uint64_t elements);

/* Does the sender keep a residual? Casts have none. */
bool kvs_encoding_keeps_residual(const kvs_encoding *encoding);

/* Writes one part; the bytes used, at most kvs_encoding_bytes. `residual` (elements of f32, 0
 * before the first; NULL for casts) is read and changed. `draw` chooses what a random encoding
 * sends: the same number, the same elements. 0 without memory for a choice, then nothing has
 * changed. */
size_t kvs_encoding_write(const kvs_encoding *encoding, const float *gradient, float *residual,
                          uint64_t elements, uint64_t draw, uint8_t *out);

#ifdef __cplusplus
}
#endif
#endif
