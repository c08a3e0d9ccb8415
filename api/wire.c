#include "api/wire.h"

#include <stdlib.h>
#include <string.h>

/* A varint has at most so many bytes. */
#define VARINT_BYTES_MAX 10u

/* ------------------------------------------------------------------ bytes in pieces */

/* Makes the next byte be in the run. Needs wire->left > 0. */
static void refill(kvs_wire *wire)
{
    while (wire->at == wire->run_end) {
        wire->span++;
        wire->at = wire->span->data;
        size_t bytes = wire->span->bytes < wire->left ? wire->span->bytes : wire->left;
        wire->run_end = bytes == 0 ? wire->at : wire->at + bytes;
    }
}

kvs_status kvs_wire_init(kvs_wire *wire, const kvs_span *spans, size_t span_count)
{
    size_t total = 0;
    for (size_t i = 0; i < span_count; i++) {
        if (spans[i].bytes > KVS_MESSAGE_BYTES_MAX - total) {
            return KVS_TOO_LARGE;
        }
        total += spans[i].bytes;
    }
    *wire = (kvs_wire){.span = spans, .left = total};
    if (total > 0) {
        wire->at = spans->data;
        wire->run_end = spans->bytes == 0 ? wire->at : wire->at + spans->bytes;
        refill(wire);
    }
    return KVS_OK;
}

void kvs_wire_init_flat(kvs_wire *wire, const uint8_t *bytes, size_t count)
{
    *wire = (kvs_wire){.at = bytes, .run_end = count == 0 ? bytes : bytes + count, .left = count};
}

/* Bits above the 64th are dropped, as every implementation of protobuf does. */
static bool read_varint(kvs_wire *wire, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < VARINT_BYTES_MAX; i++) {
        if (wire->left == 0) {
            return false;
        }
        refill(wire);
        uint8_t byte = *wire->at++;
        wire->left--;
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if ((byte & 0x80) == 0) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_fixed(kvs_wire *wire, unsigned bytes, uint64_t *out)
{
    if (wire->left < bytes) {
        return false;
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        refill(wire);
        value |= (uint64_t)*wire->at++ << (8 * i);
        wire->left--;
    }
    *out = value;
    return true;
}

kvs_wire_step kvs_wire_next(kvs_wire *wire, kvs_wire_field *out)
{
    if (wire->left == 0) {
        return KVS_WIRE_END;
    }
    uint64_t tag;
    if (!read_varint(wire, &tag) || tag > UINT32_MAX || tag >> 3 == 0) {
        return KVS_WIRE_BAD;
    }
    *out = (kvs_wire_field){.number = (uint32_t)(tag >> 3), .type = (kvs_wire_type)(tag & 7)};
    uint64_t bytes;
    bool good;
    switch (out->type) {
    case KVS_WIRE_VARINT:
        good = read_varint(wire, &out->value);
        break;
    case KVS_WIRE_FIXED64:
        good = read_fixed(wire, 8, &out->value);
        break;
    case KVS_WIRE_FIXED32:
        good = read_fixed(wire, 4, &out->value);
        break;
    case KVS_WIRE_BYTES:
        good = read_varint(wire, &bytes) && bytes <= wire->left;
        out->bytes = good ? (size_t)bytes : 0;
        break;
    default: /* groups, which proto3 does not have, and two numbers that mean nothing */
        good = false;
        break;
    }
    return good ? KVS_WIRE_FIELD : KVS_WIRE_BAD;
}

/* Passes over up to `bytes` bytes of the run: how many. Needs bytes > 0. */
static size_t pass_run(kvs_wire *wire, size_t bytes)
{
    refill(wire);
    size_t run = (size_t)(wire->run_end - wire->at);
    size_t step = bytes < run ? bytes : run;
    wire->at += step;
    wire->left -= step;
    return step;
}

void kvs_wire_skip(kvs_wire *wire, size_t bytes)
{
    while (bytes > 0) {
        bytes -= pass_run(wire, bytes);
    }
}

void kvs_wire_enter(kvs_wire *wire, size_t bytes, kvs_wire *out)
{
    *out = *wire;
    out->left = bytes;
    if ((size_t)(out->run_end - out->at) > bytes) {
        out->run_end = out->at + bytes;
    }
    kvs_wire_skip(wire, bytes);
}

kvs_payload kvs_wire_payload(kvs_wire *wire, size_t bytes)
{
    kvs_payload payload = {.bytes = bytes};
    if (bytes == 0) {
        return payload;
    }
    refill(wire);
    payload.spans = wire->span;
    payload.skip = (size_t)(wire->at - wire->span->data);
    kvs_wire_skip(wire, bytes);
    payload.count = (uint32_t)(wire->span - payload.spans + 1);
    return payload;
}

/* ------------------------------------------------------------------ gathering */

void kvs_wire_arena_init(kvs_wire_arena *arena, kvs_codec_scratch *scratch, const kvs_wire *wire)
{
    *arena = (kvs_wire_arena){.scratch = scratch};
    /* Walked again only when something has to be gathered: see make_room. */
    arena->message = *wire;
}

/* Reserves, before the first use, all that the message can need: each of its fields once when it
 * straddles, and its lists once more when they are put together. */
static kvs_status make_room(kvs_wire_arena *arena)
{
    if (arena->room > 0) {
        return KVS_OK;
    }
    kvs_wire wire = arena->message;
    kvs_wire_field field;
    size_t need = 1 + arena->extra; /* so that room > 0 says that this was done */
    while (kvs_wire_next(&wire, &field) == KVS_WIRE_FIELD) {
        if (field.type == KVS_WIRE_BYTES) {
            need += field.number == KVS_WIRE_DATA ? 0 : 2 * field.bytes;
            kvs_wire_skip(&wire, field.bytes);
        }
    }
    kvs_codec_scratch *scratch = arena->scratch;
    if (need > scratch->size) {
        /* What is in it is of an earlier message. */
        uint8_t *bytes = malloc(need);
        if (bytes == NULL) {
            return KVS_NO_MEMORY;
        }
        free(scratch->bytes);
        scratch->bytes = bytes;
        scratch->size = need;
    }
    arena->room = need;
    return KVS_OK;
}

kvs_status kvs_wire_take(kvs_wire *wire, size_t bytes, kvs_wire_arena *arena, const uint8_t **out)
{
    static const uint8_t nothing[1] = {0};
    if (bytes == 0) {
        *out = nothing;
        return KVS_OK;
    }
    refill(wire);
    if ((size_t)(wire->run_end - wire->at) >= bytes) {
        *out = wire->at;
        wire->at += bytes;
        wire->left -= bytes;
        return KVS_OK;
    }
    KVS_TRY(make_room(arena));
    uint8_t *to = arena->scratch->bytes + arena->used;
    arena->used += bytes;
    *out = to;
    while (bytes > 0) {
        refill(wire);
        const uint8_t *from = wire->at;
        size_t step = pass_run(wire, bytes);
        memcpy(to, from, step);
        to += step;
        bytes -= step;
    }
    return KVS_OK;
}

/* True when `bytes` is a run of whole varints. */
static bool varints_whole(const uint8_t *bytes, size_t count)
{
    unsigned length = 0;
    for (size_t i = 0; i < count; i++) {
        length = (bytes[i] & 0x80) != 0 ? length + 1 : 0;
        if (length == VARINT_BYTES_MAX) {
            return false;
        }
    }
    return length == 0;
}

kvs_wire_step kvs_wire_list_add(kvs_wire_list *list, kvs_wire *wire, const kvs_wire_field *field)
{
    list->scattered = list->present || field->type == KVS_WIRE_VARINT;
    list->present = true;
    if (field->type == KVS_WIRE_VARINT) {
        return KVS_WIRE_FIELD;
    }
    if (field->type != KVS_WIRE_BYTES || !varints_whole(wire->at, field->bytes)) {
        return KVS_WIRE_BAD;
    }
    list->bytes = wire->at;
    list->count = (uint32_t)field->bytes;
    kvs_wire_skip(wire, field->bytes);
    return KVS_WIRE_FIELD;
}

static size_t write_varint(uint8_t *to, uint64_t value)
{
    size_t used = 0;
    while (value > 0x7f) {
        to[used++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    to[used++] = (uint8_t)value;
    return used;
}

kvs_status kvs_wire_list_end(kvs_wire_list *list, kvs_wire message, uint32_t number,
                             kvs_wire_arena *arena)
{
    if (!list->scattered) {
        return KVS_OK;
    }
    KVS_TRY(make_room(arena));
    uint8_t *start = arena->scratch->bytes + arena->used;
    uint8_t *to = start;
    kvs_wire_field field;
    while (kvs_wire_next(&message, &field) == KVS_WIRE_FIELD) {
        if (field.number == number && field.type == KVS_WIRE_VARINT) {
            to += write_varint(to, field.value);
        } else if (field.number == number && field.bytes > 0) {
            memcpy(to, message.at, field.bytes);
            to += field.bytes;
        }
        if (field.type == KVS_WIRE_BYTES) {
            kvs_wire_skip(&message, field.bytes);
        }
    }
    list->bytes = start;
    list->count = (uint32_t)(to - start);
    arena->used += list->count;
    return KVS_OK;
}

bool kvs_wire_version(kvs_wire *wire, size_t bytes, kvs_version *out)
{
    kvs_wire version;
    kvs_wire_enter(wire, bytes, &version);
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(&version, &field)) == KVS_WIRE_FIELD) {
        if (field.number == 1 || field.number == 2) {
            if (field.type != KVS_WIRE_VARINT) {
                return false;
            }
            *(field.number == 1 ? &out->epoch : &out->count) = field.value;
        } else if (field.type == KVS_WIRE_BYTES) {
            kvs_wire_skip(&version, field.bytes);
        }
    }
    return step == KVS_WIRE_END;
}

kvs_status kvs_wire_room(kvs_codec_scratch *scratch, size_t count, size_t item_bytes)
{
    size_t have = scratch->parts_max * sizeof(kvs_part_header);
    size_t need = count * item_bytes;
    if (need <= have) {
        return KVS_OK;
    }
    size_t parts_max = (need > 2 * have ? need : 2 * have) / sizeof(kvs_part_header) + 8;
    kvs_part_header *parts = realloc(scratch->parts, parts_max * sizeof(kvs_part_header));
    if (parts == NULL) {
        return KVS_NO_MEMORY;
    }
    scratch->parts = parts;
    scratch->parts_max = parts_max;
    return KVS_OK;
}

void kvs_codec_scratch_deinit(kvs_codec_scratch *scratch)
{
    free(scratch->bytes);
    free(scratch->parts);
    *scratch = (kvs_codec_scratch){0};
}

kvs_status kvs_wire_bad(kvs_problem *problem, const char *message)
{
    return kvs_problem_set(problem, KVS_INVALID_FRAME, "the bytes are no kvstored.v1.%s", message);
}

/* ------------------------------------------------------------------ on the way out */

void kvs_head_deinit(kvs_head *head)
{
    free(head->bytes);
    *head = (kvs_head){0};
}

size_t kvs_wire_varint_bytes(uint64_t value)
{
    size_t bytes = 1;
    while (value > 0x7f) {
        value >>= 7;
        bytes++;
    }
    return bytes;
}

size_t kvs_wire_number_size(uint64_t value)
{
    return value == 0 ? 0 : 1 + kvs_wire_varint_bytes(value);
}

size_t kvs_wire_text_size(size_t bytes)
{
    return bytes == 0 ? 0 : 1 + kvs_wire_varint_bytes(bytes) + bytes;
}

static size_t version_bytes(kvs_version version)
{
    return kvs_wire_number_size(version.epoch) + kvs_wire_number_size(version.count);
}

size_t kvs_wire_version_size(kvs_version version)
{
    return 1 + 1 + version_bytes(version); /* its own length is below 128 */
}

kvs_status kvs_wire_reserve(kvs_head *head, size_t bytes)
{
    if (bytes <= head->size - head->used) {
        return KVS_OK;
    }
    size_t size = head->used + bytes;
    size = size < 2 * head->size ? 2 * head->size : size;
    uint8_t *grown = realloc(head->bytes, size);
    if (grown == NULL) {
        return KVS_NO_MEMORY;
    }
    head->bytes = grown;
    head->size = size;
    return KVS_OK;
}

void kvs_wire_put_varint(kvs_head *head, uint64_t value)
{
    head->used += write_varint(head->bytes + head->used, value);
}

void kvs_wire_put_tag(kvs_head *head, uint32_t number, kvs_wire_type type)
{
    kvs_wire_put_varint(head, (uint64_t)number << 3 | (uint64_t)type);
}

void kvs_wire_put_fixed(kvs_head *head, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        head->bytes[head->used++] = (uint8_t)(value >> (8 * i));
    }
}

void kvs_wire_put_number(kvs_head *head, uint32_t number, uint64_t value)
{
    if (value != 0) {
        kvs_wire_put_tag(head, number, KVS_WIRE_VARINT);
        kvs_wire_put_varint(head, value);
    }
}

void kvs_wire_put_bytes(kvs_head *head, uint32_t number, const void *text, size_t bytes)
{
    kvs_wire_put_tag(head, number, KVS_WIRE_BYTES);
    kvs_wire_put_varint(head, bytes);
    if (bytes > 0) {
        memcpy(head->bytes + head->used, text, bytes);
        head->used += bytes;
    }
}

void kvs_wire_put_text(kvs_head *head, uint32_t number, const void *text, size_t bytes)
{
    if (bytes > 0) {
        kvs_wire_put_bytes(head, number, text, bytes);
    }
}

void kvs_wire_put_version(kvs_head *head, uint32_t number, kvs_version version)
{
    kvs_wire_put_tag(head, number, KVS_WIRE_BYTES);
    kvs_wire_put_varint(head, version_bytes(version));
    kvs_wire_put_number(head, 1, version.epoch);
    kvs_wire_put_number(head, 2, version.count);
}
