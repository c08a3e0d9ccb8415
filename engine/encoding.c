/* The sender's side of engine/codec.h. */
#include "base/check.h"
#include "base/half.h"
#include "base/json.h"
#include "engine/codec.h"
#include "engine/decode.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES_MAX (4 * KVS_KIB)
#define THRESHOLD_DEFAULT 0.5f
/* One element of a hundred: what is usual for gradients of this kind. */
#define RATIO_DEFAULT 0.01

static const struct {
    const char *name;
    kvs_codec codec;
    bool random;
} types[] = {
    {"2bit", KVS_CODEC_2BIT, false},      {"1bit", KVS_CODEC_1BIT, false},
    {"fp16", KVS_CODEC_F16, false},       {"bf16", KVS_CODEC_BF16, false},
    {"int8", KVS_CODEC_INT8, false},      {"topk", KVS_CODEC_ENTRIES, false},
    {"randomk", KVS_CODEC_ENTRIES, true},
};
#define TYPES (sizeof types / sizeof types[0])

static const char *const pulls[] = {"none", "fp16", "bf16", "int8"};
static const kvs_codec pull_codecs[] = {KVS_CODEC_NONE, KVS_CODEC_F16, KVS_CODEC_BF16,
                                        KVS_CODEC_INT8};
#define PULLS (sizeof pulls / sizeof pulls[0])

/* ------------------------------------------------------------------ what was asked for */

/* A number, or its text, as MXNet's front ends pass it. */
static void read_number(kvs_json_fields *fields, const char *name, double min, double max,
                        double *out)
{
    const json_t *value = kvs_json_find(fields, name);
    if (!json_is_string(value)) {
        (void)kvs_json_double(fields, name, min, max, out);
        return;
    }
    json_t *number = json_loads(json_string_value(value), JSON_DECODE_ANY, NULL);
    double read = json_number_value(number);
    if (!json_is_number(number) || !(read >= min && read <= max)) {
        kvs_json_fail(fields, name, "must be a number from %g to %g", min, max);
    } else {
        *out = read;
    }
    json_decref(number);
}

static void read_pull(kvs_json_fields *fields, kvs_encoding *out)
{
    size_t type = 0;
    const json_t *value = kvs_json_find(fields, "pull");
    if (json_is_string(value) && json_string_value(value)[0] == '\0') {
        return; /* as a message without it reads */
    }
    for (size_t i = 0; json_is_string(value) && i < TYPES; i++) {
        if (strcmp(json_string_value(value), types[i].name) == 0 &&
            !kvs_codec_of_values(types[i].codec)) {
            kvs_json_fail(fields, "pull",
                          "%s is for gradients, whose sender keeps what it leaves "
                          "out; a value is pulled as fp16, bf16, int8 or none",
                          types[i].name);
            return;
        }
    }
    if (kvs_json_choice(fields, "pull", pulls, PULLS, &type)) {
        out->has_pull = true;
        out->pull = pull_codecs[type];
    }
}

static void read_fields(kvs_json_fields *fields, kvs_encoding *out)
{
    const char *words[TYPES];
    size_t type = 0;
    double threshold = THRESHOLD_DEFAULT;
    for (size_t i = 0; i < TYPES; i++) {
        words[i] = types[i].name;
    }
    const json_t *told = kvs_json_find(fields, "type");
    if (out->has_pull && json_is_string(told) && json_string_value(told)[0] == '\0') {
        return; /* as a message without it reads */
    }
    if (!out->has_pull && !kvs_json_required(fields, "type")) {
        return;
    }
    if (!kvs_json_choice(fields, "type", words, TYPES, &type)) {
        return;
    }
    out->codec = types[type].codec;
    out->random = types[type].random;
    if (out->codec == KVS_CODEC_2BIT || out->codec == KVS_CODEC_1BIT) {
        read_number(fields, "threshold", -FLT_MAX, FLT_MAX, &threshold);
        out->threshold = (float)threshold;
        if (out->codec == KVS_CODEC_2BIT && !(out->threshold > 0)) {
            kvs_json_fail(fields, "threshold", "must be above 0");
        }
    }
    if (out->codec == KVS_CODEC_ENTRIES) {
        out->ratio = RATIO_DEFAULT;
        read_number(fields, "ratio", 0, 1, &out->ratio);
        if (!(out->ratio > 0)) {
            kvs_json_fail(fields, "ratio", "must be above 0");
        }
    }
}

kvs_status kvs_encoding_parse(const char *json, kvs_encoding *out, kvs_problem *problem)
{
    json_t *tree = NULL;
    kvs_json_errors errors = {.problem = problem};
    kvs_json_fields fields;
    kvs_encoding read = {0};
    KVS_TRY(kvs_json_parse(json, strlen(json), TEXT_BYTES_MAX, &tree, problem));
    kvs_json_fields_init(&fields, NULL, "", tree, &errors);
    read_pull(&fields, &read);
    read_fields(&fields, &read);
    kvs_status status = kvs_json_status(&errors);
    json_decref(tree);
    if (status == KVS_OK) {
        *out = read;
    }
    return status;
}

const char *kvs_encoding_pull_name(const kvs_encoding *encoding)
{
    for (size_t i = 1; i < PULLS; i++) {
        if (pull_codecs[i] == encoding->pull) {
            return pulls[i];
        }
    }
    return "";
}

const char *kvs_encoding_name(const kvs_encoding *encoding)
{
    for (size_t i = 0; i < TYPES; i++) {
        if (types[i].codec == encoding->codec && types[i].random == encoding->random) {
            return types[i].name;
        }
    }
    return "";
}

/* How many of a part's elements are sent. */
static uint64_t entries_of(const kvs_encoding *encoding, uint64_t elements)
{
    uint64_t entries = (uint64_t)(encoding->ratio * (double)elements);
    return entries == 0 && elements > 0 ? 1 : entries;
}

uint64_t kvs_encoding_bytes(const kvs_encoding *encoding, uint64_t elements)
{
    uint64_t count =
        encoding->codec == KVS_CODEC_ENTRIES ? entries_of(encoding, elements) : elements;
    return kvs_codec_bytes(encoding->codec, count);
}

bool kvs_encoding_keeps_residual(const kvs_encoding *encoding)
{
    return encoding->codec != KVS_CODEC_F16 && encoding->codec != KVS_CODEC_BF16;
}

/* ------------------------------------------------------------------ bits */

/* r := r + g; from the threshold on, in either direction, one threshold is sent and taken off. */
static unsigned take_2bit(float *residual, float gradient, float threshold)
{
    float sum = *residual + gradient;
    unsigned code = 0;
    if (sum >= threshold) {
        code = 3;
        sum -= threshold;
    } else if (sum <= -threshold) {
        code = 2;
        sum += threshold;
    }
    *residual = sum;
    return code;
}

/* r := r + g; above the threshold a 1 is sent and taken off, else a -1. */
static unsigned take_1bit(float *residual, float gradient, float threshold)
{
    float sum = *residual + gradient;
    unsigned code = sum > threshold;
    *residual = code != 0 ? sum - 1.0f : sum + 1.0f;
    return code;
}

static void write_bits(const kvs_encoding *encoding, const float *gradient, float *residual,
                       size_t elements, uint8_t *out)
{
    bool two = encoding->codec == KVS_CODEC_2BIT;
    unsigned width = two ? 2 : 1;
    memset(out, 0, (size_t)kvs_codec_bytes(encoding->codec, elements));
    for (size_t i = 0; i < elements; i++) {
        unsigned code = two ? take_2bit(&residual[i], gradient[i], encoding->threshold)
                            : take_1bit(&residual[i], gradient[i], encoding->threshold);
        unsigned bit = (unsigned)(i * width % 8);
        out[i * width / 8] = (uint8_t)(out[i * width / 8] | code << (8 - width - bit));
    }
}

/* ------------------------------------------------------------------ casts, int8 */

static void write_halves(kvs_codec codec, const float *gradient, size_t elements, uint8_t *out)
{
    for (size_t i = 0; i < elements; i++) {
        uint16_t half =
            codec == KVS_CODEC_BF16 ? kvs_f32_to_bf16(gradient[i]) : kvs_f32_to_f16(gradient[i]);
        memcpy(out + i * sizeof half, &half, sizeof half);
    }
}

/* One block: the largest magnitude is 127 steps. What is not finite makes the whole block NaN, so
 * that it is seen; it leaves no residual. */
static void write_block(const float *gradient, float *residual, size_t elements, uint8_t *scale_at,
                        uint8_t *steps)
{
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < elements; i++) {
        residual[i] += gradient[i];
        float magnitude = fabsf(residual[i]);
        finite = finite && magnitude <= FLT_MAX;
        largest = magnitude > largest ? magnitude : largest;
    }
    float scale = finite ? largest / 127.0f : NAN;
    memcpy(scale_at, &scale, sizeof scale);
    for (size_t i = 0; i < elements; i++) {
        float ratio = finite && scale > 0 ? rintf(residual[i] / scale) : 0;
        ratio = fminf(fmaxf(ratio, -127.0f), 127.0f); /* a subnormal scale has few digits */
        signed char step = (signed char)ratio;
        steps[i] = (uint8_t)step;
        residual[i] = finite ? residual[i] - kvs_decode_int8(step, scale) : 0;
    }
}

static void write_int8(const float *gradient, float *residual, size_t elements, uint8_t *out)
{
    size_t blocks = (elements + KVS_INT8_BLOCK - 1) / KVS_INT8_BLOCK;
    uint8_t *steps = out + blocks * sizeof(float);
    for (size_t block = 0; block < blocks; block++) {
        size_t first = block * KVS_INT8_BLOCK;
        size_t left = elements - first;
        write_block(gradient + first, residual + first,
                    left < KVS_INT8_BLOCK ? left : KVS_INT8_BLOCK, out + block * sizeof(float),
                    steps + first);
    }
}

/* ------------------------------------------------------------------ entries */

static size_t write_entry(uint8_t *out, size_t used, size_t index, float value)
{
    uint32_t place = (uint32_t)index;
    memcpy(out + used, &place, sizeof place);
    memcpy(out + used + sizeof place, &value, sizeof value);
    return used + sizeof place + sizeof value;
}

/* By the bits of the magnitude: NaNs are the largest of all, and so are sent. */
static uint32_t rank_of(float value)
{
    return kvs_f32_bits(value) & 0x7fffffffu;
}

/* The k-th largest of the list, which is reordered; k from 1. */
static uint32_t select_largest(uint32_t *list, size_t count, size_t k)
{
    size_t low = 0;
    size_t high = count - 1;
    while (low < high) {
        uint32_t pivot = list[low + (high - low) / 2];
        size_t i = low;
        size_t j = high;
        for (;;) {
            while (list[i] > pivot) {
                i++;
            }
            while (list[j] < pivot) {
                j--;
            }
            if (i >= j) {
                break;
            }
            uint32_t other = list[i];
            list[i++] = list[j];
            list[j--] = other;
        }
        if (k - 1 <= j) {
            high = j;
        } else {
            low = j + 1;
        }
    }
    return list[low];
}

/* Sends the k largest; of equal ones the first. `ranks` is room for as many numbers. */
static size_t write_largest(float *residual, uint32_t *ranks, size_t elements, size_t k,
                            uint8_t *out)
{
    for (size_t i = 0; i < elements; i++) {
        ranks[i] = rank_of(residual[i]);
    }
    uint32_t bound = select_largest(ranks, elements, k);
    size_t above = 0;
    for (size_t i = 0; i < elements; i++) {
        above += rank_of(residual[i]) > bound;
    }
    size_t used = 0;
    size_t equal = k - above;
    for (size_t i = 0; i < elements; i++) {
        uint32_t rank = rank_of(residual[i]);
        if (rank > bound || (rank == bound && equal > 0)) {
            equal -= rank == bound ? 1 : 0;
            used = write_entry(out, used, i, residual[i]);
            residual[i] = 0;
        }
    }
    return used;
}

/* splitmix64: what is sent differs from push to push, and can be made again. */
static uint64_t next_draw(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Sends k elements, any k as likely as any other: each with the chance of what is left to take. */
static size_t write_drawn(float *residual, size_t elements, size_t k, uint64_t draw, uint8_t *out)
{
    size_t used = 0;
    for (size_t i = 0; i < elements && k > 0; i++) {
        if (next_draw(&draw) % (elements - i) < k) {
            k--;
            used = write_entry(out, used, i, residual[i]);
            residual[i] = 0;
        }
    }
    return used;
}

static size_t write_entries(const kvs_encoding *encoding, const float *gradient, float *residual,
                            size_t elements, uint64_t draw, uint8_t *out)
{
    size_t k = (size_t)entries_of(encoding, elements);
    uint32_t *ranks = encoding->random ? NULL : malloc(elements * sizeof *ranks);
    if (!encoding->random && ranks == NULL) {
        return 0;
    }
    for (size_t i = 0; i < elements; i++) {
        residual[i] += gradient[i];
    }
    size_t used = encoding->random ? write_drawn(residual, elements, k, draw, out)
                                   : write_largest(residual, ranks, elements, k, out);
    free(ranks);
    return used;
}

size_t kvs_encoding_write(const kvs_encoding *encoding, const float *gradient, float *residual,
                          uint64_t elements, uint64_t draw, uint8_t *out)
{
    size_t count = (size_t)elements;
    KVS_CHECK(elements <= KVS_PART_ELEMENTS);
    if (count == 0) {
        return 0;
    }
    switch (encoding->codec) {
    case KVS_CODEC_2BIT:
    case KVS_CODEC_1BIT:
        write_bits(encoding, gradient, residual, count, out);
        break;
    case KVS_CODEC_F16:
    case KVS_CODEC_BF16:
        write_halves(encoding->codec, gradient, count, out);
        break;
    case KVS_CODEC_INT8:
        write_int8(gradient, residual, count, out);
        break;
    default:
        return write_entries(encoding, gradient, residual, count, draw, out);
    }
    return (size_t)kvs_codec_bytes(encoding->codec, elements);
}
