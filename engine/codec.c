#include "engine/codec.h"

#include "base/check.h"
#include "base/half.h"
#include "engine/decode.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define ENTRY_BYTES 8u
#define SCALES_MAX (KVS_PART_ELEMENTS / KVS_INT8_BLOCK)

static uint64_t scales_of(uint64_t elements)
{
    return (elements + KVS_INT8_BLOCK - 1) / KVS_INT8_BLOCK;
}

bool kvs_codec_known(kvs_codec codec)
{
    return (unsigned)codec > KVS_CODEC_NONE && (unsigned)codec < KVS_CODEC_COUNT;
}

uint64_t kvs_codec_bytes(kvs_codec codec, uint64_t elements)
{
    switch (codec) {
    case KVS_CODEC_2BIT:
        return 4 * ((elements + 15) / 16);
    case KVS_CODEC_1BIT:
        return 4 * ((elements + 31) / 32);
    case KVS_CODEC_F16:
    case KVS_CODEC_BF16:
        return 2 * elements;
    case KVS_CODEC_INT8:
        return 4 * scales_of(elements) + elements;
    case KVS_CODEC_ENTRIES:
        return ENTRY_BYTES * elements;
    default:
        return 4 * elements;
    }
}

/* ------------------------------------------------------------------ judging */

typedef struct index_check {
    uint64_t elements;
    uint64_t next; /* the lowest index that may come */
    bool repeated;
    bool outside;
} index_check;

static void check_run(void *context, size_t first, const uint8_t *data, size_t entries)
{
    index_check *check = context;
    (void)first;
    for (size_t i = 0; i < entries; i++) {
        uint32_t index;
        memcpy(&index, data + i * ENTRY_BYTES, sizeof index);
        check->outside = check->outside || index >= check->elements;
        check->repeated = check->repeated || index < check->next;
        check->next = (uint64_t)index + 1;
    }
}

kvs_status kvs_codec_judge(kvs_codec codec, float threshold, uint64_t elements,
                           const kvs_payload *payload, kvs_problem *problem)
{
    if (!kvs_codec_known(codec)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "%d is no codec", (int)codec);
    }
    if (codec == KVS_CODEC_2BIT && !(threshold > 0 && isfinite(threshold))) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the threshold of 2bit must be finite and above 0");
    }
    uint64_t bytes = kvs_codec_bytes(codec, elements);
    if (codec != KVS_CODEC_ENTRIES) {
        return payload->bytes == bytes
                   ? KVS_OK
                   : kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                     "the part takes %" PRIu64 " encoded bytes, not %zu", bytes,
                                     payload->bytes);
    }
    if (payload->bytes % ENTRY_BYTES != 0 || payload->bytes > bytes) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "entries take %u bytes each, at most %" PRIu64 " in all, not %zu",
                               ENTRY_BYTES, bytes, payload->bytes);
    }
    index_check check = {.elements = elements};
    kvs_payload_runs(payload, ENTRY_BYTES, check_run, &check);
    if (check.outside) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "an index lies outside of the part's %" PRIu64 " elements",
                               elements);
    }
    if (check.repeated) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "an index is repeated, or comes after a higher one");
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ decoding */

typedef struct decoder {
    float *target;
    size_t elements;
    bool first;
    bool brain; /* bf16, not f16 */
    size_t per_byte;
    float table[256 * 8]; /* what each byte stands for: per_byte elements */
    float scales[SCALES_MAX];
} decoder;

static void put(const decoder *to, size_t i, float value)
{
    to->target[i] = to->first ? value : to->target[i] + value;
}

static void table_run(void *context, size_t first, const uint8_t *data, size_t bytes)
{
    const decoder *to = context;
    size_t per = to->per_byte;
    size_t whole = to->elements / per; /* bytes without padding */
    size_t i = 0;
    for (; i < bytes && first + i < whole; i++) {
        float *target = to->target + (first + i) * per;
        const float *values = to->table + data[i] * per;
        for (size_t j = 0; j < per; j++) {
            target[j] = to->first ? values[j] : target[j] + values[j];
        }
    }
    for (; i < bytes; i++) {
        for (size_t j = 0; j < per && (first + i) * per + j < to->elements; j++) {
            put(to, (first + i) * per + j, to->table[data[i] * per + j]);
        }
    }
}

static void half_run(void *context, size_t first, const uint8_t *data, size_t elements)
{
    const decoder *to = context;
    for (size_t i = 0; i < elements; i++) {
        uint16_t half;
        memcpy(&half, data + i * sizeof half, sizeof half);
        put(to, first + i, to->brain ? kvs_bf16_to_f32(half) : kvs_f16_to_f32(half));
    }
}

static void int8_run(void *context, size_t first, const uint8_t *data, size_t elements)
{
    const decoder *to = context;
    for (size_t i = 0; i < elements; i++) {
        put(to, first + i,
            kvs_decode_int8((signed char)data[i], to->scales[(first + i) / KVS_INT8_BLOCK]));
    }
}

static void entry_run(void *context, size_t first, const uint8_t *data, size_t entries)
{
    const decoder *to = context;
    (void)first;
    for (size_t i = 0; i < entries; i++) {
        uint32_t index;
        float value;
        memcpy(&index, data + i * ENTRY_BYTES, sizeof index);
        memcpy(&value, data + i * ENTRY_BYTES + sizeof index, sizeof value);
        KVS_CHECK(index < to->elements); /* judged at the door */
        put(to, index, value);
    }
}

static void fill_table(decoder *to, kvs_codec codec, float threshold)
{
    to->per_byte = codec == KVS_CODEC_2BIT ? 4 : 8;
    for (unsigned byte = 0; byte < 256; byte++) {
        for (unsigned j = 0; j < to->per_byte; j++) {
            to->table[byte * to->per_byte + j] = codec == KVS_CODEC_2BIT
                                                     ? kvs_decode_2bit(byte, j, threshold)
                                                     : kvs_decode_1bit(byte, j);
        }
    }
}

static void decode_int8(decoder *to, const kvs_payload *payload)
{
    KVS_CHECK(to->elements <= KVS_PART_ELEMENTS);
    size_t scales_bytes = (size_t)scales_of(to->elements) * sizeof to->scales[0];
    kvs_payload scales = kvs_payload_slice(payload, 0, scales_bytes);
    kvs_payload steps = kvs_payload_slice(payload, scales_bytes, payload->bytes - scales_bytes);
    kvs_payload_gather(&scales, to->scales);
    kvs_payload_runs(&steps, 1, int8_run, to);
}

void kvs_codec_decode(kvs_codec codec, float threshold, const kvs_payload *payload, float *target,
                      uint64_t elements, bool first)
{
    KVS_CHECK(kvs_codec_known(codec));
    decoder to; /* some 12 KiB: filled as far as the codec needs it */
    to.target = target;
    to.elements = (size_t)elements;
    to.first = first;
    to.brain = codec == KVS_CODEC_BF16;
    switch (codec) {
    case KVS_CODEC_2BIT:
    case KVS_CODEC_1BIT:
        fill_table(&to, codec, threshold);
        kvs_payload_runs(payload, 1, table_run, &to);
        break;
    case KVS_CODEC_F16:
    case KVS_CODEC_BF16:
        kvs_payload_runs(payload, sizeof(uint16_t), half_run, &to);
        break;
    case KVS_CODEC_INT8:
        decode_int8(&to, payload);
        break;
    default:
        if (first) {
            memset(target, 0, (size_t)elements * sizeof *target);
        }
        kvs_payload_runs(payload, ENTRY_BYTES, entry_run, &to);
        break;
    }
}
