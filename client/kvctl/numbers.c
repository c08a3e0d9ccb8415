#include "client/kvctl/numbers.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BYTES 64u
#define NUMBER_BYTES 40u

/* Whole numbers of the dtype, both ends; false for floats. */
static bool integer_range(kvs_dtype dtype, int64_t *low, int64_t *high)
{
    switch (dtype) {
    case KVS_U8:
        *low = 0;
        *high = UINT8_MAX;
        return true;
    case KVS_I8:
        *low = INT8_MIN;
        *high = INT8_MAX;
        return true;
    case KVS_I32:
        *low = INT32_MIN;
        *high = INT32_MAX;
        return true;
    case KVS_I64:
        *low = INT64_MIN;
        *high = INT64_MAX;
        return true;
    default:
        return false;
    }
}

/* IEEE half precision as f32. */
static float from_half(uint16_t half)
{
    const int exponent = half >> 10 & 31;
    const float fraction = (float)(half & 1023);
    float value = 0;
    if (exponent == 31) {
        value = fraction > 0 ? NAN : INFINITY;
    } else if (exponent == 0) {
        value = ldexpf(fraction, -24);
    } else {
        value = ldexpf(1024.0f + fraction, exponent - 25);
    }
    return (half & 0x8000) != 0 ? -value : value;
}

static float from_brain(uint16_t brain)
{
    const uint32_t bits = (uint32_t)brain << 16;
    float value = 0;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void print_f32(float value, char *out)
{
    for (int digits = 6; digits <= 9; digits++) {
        (void)snprintf(out, NUMBER_BYTES, "%.*g", digits, (double)value);
        if (strtof(out, NULL) == value) {
            return;
        }
    }
}

static void print_f64(double value, char *out)
{
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(out, NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(out, NULL) == value) {
            return;
        }
    }
}

static int64_t load_integer(kvs_dtype dtype, const uint8_t *data)
{
    int32_t narrow = 0;
    int64_t wide = 0;
    switch (dtype) {
    case KVS_U8:
        return data[0];
    case KVS_I8:
        return (int8_t)data[0];
    case KVS_I32:
        memcpy(&narrow, data, sizeof narrow);
        return narrow;
    default:
        memcpy(&wide, data, sizeof wide);
        return wide;
    }
}

void kvs_number_print(kvs_dtype dtype, const uint8_t *data, char *out)
{
    float single = 0;
    double wide = 0;
    uint16_t half = 0;
    switch (dtype) {
    case KVS_F32:
        memcpy(&single, data, sizeof single);
        print_f32(single, out);
        return;
    case KVS_F64:
        memcpy(&wide, data, sizeof wide);
        print_f64(wide, out);
        return;
    case KVS_F16:
    case KVS_BF16:
        memcpy(&half, data, sizeof half);
        print_f32(dtype == KVS_F16 ? from_half(half) : from_brain(half), out);
        return;
    default:
        (void)snprintf(out, NUMBER_BYTES, "%" PRId64, load_integer(dtype, data));
    }
}

void kvs_numbers_print(FILE *file, kvs_dtype dtype, const kvs_shape *shape, const uint8_t *data)
{
    uint64_t elements = 0;
    char text[NUMBER_BYTES];
    const uint64_t row = shape->rank == 0 ? 1 : shape->size[shape->rank - 1];
    if (!kvs_shape_elements(shape, &elements)) {
        return;
    }
    for (uint64_t i = 0; i < elements; i++) {
        kvs_number_print(dtype, data + i * kvs_dtype_bytes(dtype), text);
        (void)fprintf(file, "%s%c", text, (i + 1) % row == 0 ? '\n' : ' ');
    }
}

/* The next word, or an empty one at the end. A longer one is cut, and then is no number. */
static void next_word(FILE *file, char out[WORD_BYTES])
{
    size_t used = 0;
    int byte = fgetc(file);
    while (byte == ',' || byte == ' ' || (byte >= '\t' && byte <= '\r')) {
        byte = fgetc(file);
    }
    while (byte != EOF && byte != ',' && byte != ' ' && !(byte >= '\t' && byte <= '\r')) {
        if (used + 1 < WORD_BYTES) {
            out[used++] = (char)byte;
        }
        byte = fgetc(file);
    }
    out[used] = '\0';
}

static bool store_word(kvs_dtype dtype, const char *word, uint8_t *out)
{
    char *end = NULL;
    int64_t low = 0;
    int64_t high = 0;
    errno = 0;
    if (integer_range(dtype, &low, &high)) {
        const int64_t value = strtoll(word, &end, 10);
        memcpy(out, &value, kvs_dtype_bytes(dtype)); /* little-endian: the low bytes */
        return *end == '\0' && errno == 0 && value >= low && value <= high;
    }
    if (dtype == KVS_F64) {
        const double value = strtod(word, &end);
        memcpy(out, &value, sizeof value);
        return *end == '\0' && (errno == 0 || isfinite(value));
    }
    const float value = strtof(word, &end);
    memcpy(out, &value, sizeof value);
    return *end == '\0' && (errno == 0 || isfinite(value));
}

kvs_status kvs_numbers_read(FILE *file, kvs_dtype dtype, uint8_t **out, uint64_t *elements,
                            kvs_problem *problem)
{
    const size_t bytes = kvs_dtype_bytes(dtype);
    if (dtype == KVS_F16 || dtype == KVS_BF16) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED,
                               "%s cannot be read from text; use npy or raw",
                               kvs_dtype_name(dtype));
    }
    uint8_t *data = NULL;
    size_t room = 0;
    uint64_t count = 0;
    char word[WORD_BYTES];
    for (next_word(file, word); word[0] != '\0'; next_word(file, word)) {
        if (count == room) {
            room = room == 0 ? 1024 : 2 * room;
            uint8_t *grown = realloc(data, room * bytes);
            if (grown == NULL) {
                free(data);
                return kvs_problem_set(problem, KVS_NO_MEMORY, "%zu numbers do not fit", room);
            }
            data = grown;
        }
        if (!store_word(dtype, word, data + count * bytes)) {
            free(data);
            return kvs_problem_set(problem, KVS_INVALID_TENSOR, "%s is no %s", word,
                                   kvs_dtype_name(dtype));
        }
        count++;
    }
    *out = data;
    *elements = count;
    return KVS_OK;
}

bool kvs_shape_parse(const char *text, kvs_shape *out)
{
    kvs_shape shape = {0};
    while (*text != '\0') {
        char *end = NULL;
        errno = 0;
        if (*text < '0' || *text > '9' || shape.rank == KVS_DIMENSIONS_MAX) {
            return false;
        }
        shape.size[shape.rank++] = strtoull(text, &end, 10);
        if (errno != 0 || (*end != '\0' && *end != ',' && *end != 'x') ||
            (*end != '\0' && end[1] == '\0')) {
            return false;
        }
        text = *end == '\0' ? end : end + 1;
    }
    *out = shape;
    return true;
}
