#include "api/wire.h"

#include <string.h>

/* Numbers of kvstored.proto. */
enum {
    FRAME_STORE = 1,
    FRAME_SESSION = 2,
    FRAME_EPOCH = 3,
    FRAME_MEMBERSHIP = 4,
    FRAME_PARTS = 5,
    FRAME_SHARD_PARTS = 6,
    FRAME_DURABLE = 7,
    FRAME_CRC32C = 8,
    FRAME_VALUE_CODEC = 9,
    FRAME_REGION = 10,
    FRAME_HOLD = 11,
    FRAME_DATA = KVS_WIRE_DATA
};

enum {
    PART_KEY = 1,
    PART_DTYPE = 2,
    PART_STORAGE = 3,
    PART_CODEC = 4,
    PART_SHAPE = 5,
    PART_ELEMENT_OFFSET = 6,
    PART_ELEMENT_COUNT = 7,
    PART_SEQUENCE = 8,
    PART_AFTER = 9,
    PART_PRIORITY = 10,
    PART_WEIGHT = 11,
    PART_PAYLOAD_BYTES = 12,
    PART_VERSION = 13,
    PART_ROW_IDS = 14,
    PART_THRESHOLD = 15,
    PART_EMPTY_PARTS = 16,
    PART_REGION_OFFSET = 17
};

/* ------------------------------------------------------------------ one part header */

/* Where a field that is one number goes, or NULL. */
static uint64_t *part_number(kvs_part_header *part, uint32_t number)
{
    switch (number) {
    case PART_ELEMENT_OFFSET:
        return &part->element_offset;
    case PART_ELEMENT_COUNT:
        return &part->element_count;
    case PART_SEQUENCE:
        return &part->sequence;
    case PART_AFTER:
        return &part->after;
    case PART_PAYLOAD_BYTES:
        return &part->payload_bytes;
    case PART_EMPTY_PARTS:
        return &part->empty_parts;
    case PART_REGION_OFFSET:
        return &part->region_offset;
    default:
        return NULL;
    }
}

/* One field of 32 bits; false: of the wrong type. */
static bool read_part_word(kvs_part_header *part, const kvs_wire_field *field)
{
    uint32_t word = (uint32_t)field->value;
    switch (field->number) {
    case PART_DTYPE:
        part->dtype = (kvs_dtype)word;
        break;
    case PART_STORAGE:
        part->storage = (kvs_storage)word;
        break;
    case PART_CODEC:
        part->codec = (kvs_codec)word;
        break;
    default:
        part->priority = (int32_t)word;
        break;
    }
    return field->type == KVS_WIRE_VARINT;
}

typedef struct part_lists {
    kvs_wire_list shape;
    kvs_wire_list row_ids;
} part_lists;

/* False: no field of a PartHeader. `wire` stands behind the tag, and the length if it has one. */
static bool read_part_field(kvs_wire *wire, const kvs_wire_field *field, kvs_part_header *part,
                            part_lists *lists)
{
    uint64_t *number = part_number(part, field->number);
    if (number != NULL) {
        *number = field->value;
        return field->type == KVS_WIRE_VARINT;
    }
    switch (field->number) {
    case PART_KEY:
        part->key = (const char *)wire->at;
        part->key_bytes = (uint32_t)field->bytes;
        kvs_wire_skip(wire, field->bytes);
        return field->type == KVS_WIRE_BYTES;
    case PART_SHAPE:
        return kvs_wire_list_add(&lists->shape, wire, field) == KVS_WIRE_FIELD;
    case PART_ROW_IDS:
        return kvs_wire_list_add(&lists->row_ids, wire, field) == KVS_WIRE_FIELD;
    case PART_WEIGHT:
        part->has_weight = true;
        memcpy(&part->weight, &field->value, sizeof(part->weight));
        return field->type == KVS_WIRE_FIXED64;
    case PART_THRESHOLD:
        memcpy(&part->threshold, &field->value, sizeof(part->threshold)); /* little-endian */
        return field->type == KVS_WIRE_FIXED32;
    case PART_VERSION:
        return field->type == KVS_WIRE_BYTES &&
               kvs_wire_version(wire, field->bytes, &part->version);
    case PART_DTYPE:
    case PART_STORAGE:
    case PART_CODEC:
    case PART_PRIORITY:
        return read_part_word(part, field);
    default:
        kvs_wire_skip(wire, field->bytes);
        return true;
    }
}

static kvs_status read_part(kvs_wire *frame, size_t bytes, kvs_wire_arena *arena,
                            kvs_part_header *out, kvs_problem *problem)
{
    const uint8_t *start;
    KVS_TRY(kvs_wire_take(frame, bytes, arena, &start));
    kvs_wire message;
    kvs_wire_init_flat(&message, start, bytes);
    kvs_wire wire = message;
    kvs_part_header part = {.key = ""};
    part_lists lists = {0};
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(&wire, &field)) == KVS_WIRE_FIELD) {
        if (!read_part_field(&wire, &field, &part, &lists)) {
            return kvs_wire_bad(problem, "PartHeader");
        }
    }
    if (step != KVS_WIRE_END) {
        return kvs_wire_bad(problem, "PartHeader");
    }
    KVS_TRY(kvs_wire_list_end(&lists.shape, message, PART_SHAPE, arena));
    KVS_TRY(kvs_wire_list_end(&lists.row_ids, message, PART_ROW_IDS, arena));
    part.has_shape = lists.shape.present;
    part.shape = lists.shape.bytes;
    part.shape_bytes = lists.shape.count;
    part.row_ids = lists.row_ids.bytes;
    part.row_ids_bytes = lists.row_ids.count;
    *out = part;
    return KVS_OK;
}

/* ------------------------------------------------------------------ the frame */

/* One field of the frame that is a number. */
static kvs_status read_number(const kvs_wire_field *field, kvs_frame_view *out,
                              kvs_problem *problem)
{
    kvs_wire_type type = field->number == FRAME_CRC32C ? KVS_WIRE_FIXED32 : KVS_WIRE_VARINT;
    if (field->type != type) {
        return kvs_wire_bad(problem, "Frame");
    }
    switch (field->number) {
    case FRAME_EPOCH:
        out->epoch = field->value;
        break;
    case FRAME_MEMBERSHIP:
        out->membership = field->value;
        break;
    case FRAME_DURABLE:
        out->durable = field->value != 0;
        break;
    case FRAME_VALUE_CODEC:
        out->value_codec = (kvs_codec)(uint32_t)field->value;
        break;
    case FRAME_REGION:
        out->region = field->value;
        break;
    case FRAME_HOLD:
        out->hold = field->value;
        break;
    default:
        out->has_crc32c = true;
        out->crc32c = (uint32_t)field->value;
        break;
    }
    return KVS_OK;
}

static kvs_status add_part(kvs_wire *wire, size_t bytes, kvs_wire_arena *arena, size_t *count,
                           kvs_problem *problem)
{
    if (*count == KVS_FRAME_PARTS_MAX) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a frame holds at most %u parts",
                               KVS_FRAME_PARTS_MAX);
    }
    KVS_TRY(kvs_wire_room(arena->scratch, *count + 1, sizeof(kvs_part_header)));
    KVS_TRY(read_part(wire, bytes, arena, &arena->scratch->parts[*count], problem));
    (*count)++;
    return KVS_OK;
}

/* One field of the frame that has a length. */
static kvs_status read_bytes(kvs_wire *wire, const kvs_wire_field *field, kvs_wire_arena *arena,
                             kvs_frame_view *out, kvs_problem *problem)
{
    const uint8_t *bytes;
    switch (field->number) {
    case FRAME_STORE:
        KVS_TRY(kvs_wire_take(wire, field->bytes, arena, &bytes));
        out->store = (const char *)bytes;
        out->store_bytes = (uint32_t)field->bytes;
        return KVS_OK;
    case FRAME_SESSION:
        KVS_TRY(kvs_wire_take(wire, field->bytes, arena, &out->session));
        out->session_bytes = (uint32_t)field->bytes;
        return KVS_OK;
    case FRAME_PARTS:
        return add_part(wire, field->bytes, arena, &out->part_count, problem);
    case FRAME_DATA:
        out->payload = kvs_wire_payload(wire, field->bytes);
        return KVS_OK;
    default:
        out->has_shard_parts = out->has_shard_parts || field->number == FRAME_SHARD_PARTS;
        kvs_wire_skip(wire, field->bytes);
        return KVS_OK;
    }
}

/* Counts the parts that the headers stand for. */
static kvs_status count_parts(kvs_frame_view *frame, kvs_problem *problem)
{
    for (size_t i = 0; i < frame->part_count; i++) {
        uint64_t run = frame->parts[i].empty_parts;
        if (run > KVS_FRAME_PARTS_MAX || frame->covered_parts > KVS_FRAME_PARTS_MAX) {
            break;
        }
        frame->covered_parts += run > 0 ? (size_t)run : 1;
    }
    return frame->covered_parts <= KVS_FRAME_PARTS_MAX && frame->covered_parts >= frame->part_count
               ? KVS_OK
               : kvs_problem_set(problem, KVS_TOO_LARGE, "a frame stands for at most %u parts",
                                 KVS_FRAME_PARTS_MAX);
}

static kvs_status check_payload(const kvs_frame_view *frame, kvs_problem *problem)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < frame->part_count; i++) {
        if (__builtin_add_overflow(sum, frame->parts[i].payload_bytes, &sum)) {
            return kvs_problem_set(problem, KVS_INVALID_FRAME,
                                   "the parts' payload_bytes add up to more than 2^64");
        }
    }
    if (frame->region != 0) {
        return frame->payload.bytes == 0
                   ? KVS_OK
                   : kvs_problem_set(problem, KVS_INVALID_FRAME,
                                     "a frame whose payloads lie in a region has no data");
    }
    if (sum != frame->payload.bytes) {
        return kvs_problem_set(problem, KVS_INVALID_FRAME,
                               "the parts' payload_bytes add up to %llu, data has %zu bytes",
                               (unsigned long long)sum, frame->payload.bytes);
    }
    return KVS_OK;
}

kvs_status kvs_frame_read(kvs_wire *wire, kvs_codec_scratch *scratch, kvs_frame_view *out,
                          kvs_problem *problem)
{
    kvs_wire_arena arena;
    kvs_wire_arena_init(&arena, scratch, wire);
    kvs_frame_view frame = {0};
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(wire, &field)) == KVS_WIRE_FIELD) {
        kvs_status status = KVS_OK;
        switch (field.number) {
        case FRAME_EPOCH:
        case FRAME_MEMBERSHIP:
        case FRAME_DURABLE:
        case FRAME_CRC32C:
        case FRAME_VALUE_CODEC:
        case FRAME_REGION:
        case FRAME_HOLD:
            status = read_number(&field, &frame, problem);
            break;
        case FRAME_STORE:
        case FRAME_SESSION:
        case FRAME_PARTS:
        case FRAME_SHARD_PARTS:
        case FRAME_DATA:
            status = field.type != KVS_WIRE_BYTES
                         ? kvs_wire_bad(problem, "Frame")
                         : read_bytes(wire, &field, &arena, &frame, problem);
            break;
        default:
            kvs_wire_skip(wire, field.bytes);
            break;
        }
        KVS_TRY(status);
    }
    if (step != KVS_WIRE_END) {
        return kvs_wire_bad(problem, "Frame");
    }
    frame.parts = scratch->parts;
    KVS_TRY(count_parts(&frame, problem));
    KVS_TRY(check_payload(&frame, problem));
    *out = frame;
    return KVS_OK;
}

kvs_status kvs_frame_decode(const kvs_span *spans, size_t span_count, kvs_codec_scratch *scratch,
                            kvs_frame_view *out, kvs_problem *problem)
{
    kvs_wire wire;
    if (kvs_wire_init(&wire, spans, span_count) != KVS_OK) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a message has at most %llu bytes",
                               (unsigned long long)KVS_MESSAGE_BYTES_MAX);
    }
    kvs_status status = kvs_frame_read(&wire, scratch, out, problem);
    return status == KVS_NO_MEMORY ? kvs_problem_set(problem, status, "to read a frame") : status;
}

/* ------------------------------------------------------------------ on the way out */

/* A negative int32 is a varint of its 64 bits. */
static uint64_t signed_number(int32_t value)
{
    return (uint64_t)(int64_t)value;
}

/* A scalar's shape is empty and yet there: it takes two bytes. */
static size_t shape_size(const kvs_part_header *part)
{
    return !part->has_shape         ? 0
           : part->shape_bytes == 0 ? 2
                                    : kvs_wire_text_size(part->shape_bytes);
}

static bool has_version(const kvs_part_header *part)
{
    return part->version.epoch != 0 || part->version.count != 0;
}

static size_t part_size(const kvs_part_header *part)
{
    return kvs_wire_text_size(part->key_bytes) + kvs_wire_number_size((uint64_t)part->dtype) +
           kvs_wire_number_size((uint64_t)part->storage) +
           kvs_wire_number_size((uint64_t)part->codec) + shape_size(part) +
           kvs_wire_number_size(part->element_offset) + kvs_wire_number_size(part->element_count) +
           kvs_wire_number_size(part->sequence) + kvs_wire_number_size(part->after) +
           kvs_wire_number_size(signed_number(part->priority)) + (part->has_weight ? 9u : 0u) +
           kvs_wire_number_size(part->payload_bytes) +
           (has_version(part) ? kvs_wire_version_size(part->version) : 0) +
           kvs_wire_text_size(part->row_ids_bytes) + (part->threshold != 0 ? 5u : 0u) +
           (part->empty_parts != 0 ? 1 + kvs_wire_number_size(part->empty_parts) : 0) +
           (part->region_offset != 0 ? 1 + kvs_wire_number_size(part->region_offset) : 0);
}

static void put_part(kvs_head *head, const kvs_part_header *part)
{
    kvs_wire_put_tag(head, FRAME_PARTS, KVS_WIRE_BYTES);
    kvs_wire_put_varint(head, part_size(part));
    kvs_wire_put_text(head, PART_KEY, part->key, part->key_bytes);
    kvs_wire_put_number(head, PART_DTYPE, (uint64_t)part->dtype);
    kvs_wire_put_number(head, PART_STORAGE, (uint64_t)part->storage);
    kvs_wire_put_number(head, PART_CODEC, (uint64_t)part->codec);
    if (part->has_shape) {
        kvs_wire_put_bytes(head, PART_SHAPE, part->shape, part->shape_bytes);
    }
    kvs_wire_put_number(head, PART_ELEMENT_OFFSET, part->element_offset);
    kvs_wire_put_number(head, PART_ELEMENT_COUNT, part->element_count);
    kvs_wire_put_number(head, PART_SEQUENCE, part->sequence);
    kvs_wire_put_number(head, PART_AFTER, part->after);
    kvs_wire_put_number(head, PART_PRIORITY, signed_number(part->priority));
    if (part->has_weight) {
        uint64_t bits;
        memcpy(&bits, &part->weight, sizeof(bits));
        kvs_wire_put_tag(head, PART_WEIGHT, KVS_WIRE_FIXED64);
        kvs_wire_put_fixed(head, bits, sizeof(bits));
    }
    kvs_wire_put_number(head, PART_PAYLOAD_BYTES, part->payload_bytes);
    if (has_version(part)) {
        kvs_wire_put_version(head, PART_VERSION, part->version);
    }
    kvs_wire_put_text(head, PART_ROW_IDS, part->row_ids, part->row_ids_bytes);
    if (part->threshold != 0) {
        uint32_t bits;
        memcpy(&bits, &part->threshold, sizeof(bits));
        kvs_wire_put_tag(head, PART_THRESHOLD, KVS_WIRE_FIXED32);
        kvs_wire_put_fixed(head, bits, sizeof(bits));
    }
    kvs_wire_put_number(head, PART_EMPTY_PARTS, part->empty_parts); /* tags of two bytes */
    kvs_wire_put_number(head, PART_REGION_OFFSET, part->region_offset);
}

kvs_status kvs_frame_size(const kvs_frame_view *view, uint64_t data_bytes, size_t *out)
{
    if (view->has_shard_parts) {
        return KVS_UNIMPLEMENTED;
    }
    if (view->part_count > KVS_FRAME_PARTS_MAX || data_bytes > KVS_MESSAGE_BYTES_MAX) {
        return KVS_TOO_LARGE;
    }
    size_t size = kvs_wire_text_size(view->store_bytes) + kvs_wire_text_size(view->session_bytes) +
                  kvs_wire_number_size(view->epoch) + kvs_wire_number_size(view->membership) +
                  (view->durable ? 2u : 0u) + (view->has_crc32c ? 5u : 0u) +
                  kvs_wire_number_size((uint64_t)view->value_codec) +
                  kvs_wire_number_size(view->region) + kvs_wire_number_size(view->hold);
    for (size_t i = 0; i < view->part_count; i++) {
        size_t part = part_size(&view->parts[i]);
        size += 1 + kvs_wire_varint_bytes(part) + part;
    }
    size += data_bytes == 0 ? 0 : 1 + kvs_wire_varint_bytes(data_bytes);
    if (size + data_bytes > KVS_MESSAGE_BYTES_MAX) {
        return KVS_TOO_LARGE;
    }
    *out = size;
    return KVS_OK;
}

void kvs_frame_put(kvs_head *head, const kvs_frame_view *view, uint64_t data_bytes)
{
    kvs_wire_put_text(head, FRAME_STORE, view->store, view->store_bytes);
    kvs_wire_put_text(head, FRAME_SESSION, view->session, view->session_bytes);
    kvs_wire_put_number(head, FRAME_EPOCH, view->epoch);
    kvs_wire_put_number(head, FRAME_MEMBERSHIP, view->membership);
    for (size_t i = 0; i < view->part_count; i++) {
        put_part(head, &view->parts[i]);
    }
    kvs_wire_put_number(head, FRAME_DURABLE, view->durable ? 1 : 0);
    if (view->has_crc32c) {
        kvs_wire_put_tag(head, FRAME_CRC32C, KVS_WIRE_FIXED32);
        kvs_wire_put_fixed(head, view->crc32c, sizeof(view->crc32c));
    }
    kvs_wire_put_number(head, FRAME_VALUE_CODEC, (uint64_t)view->value_codec);
    kvs_wire_put_number(head, FRAME_REGION, view->region);
    kvs_wire_put_number(head, FRAME_HOLD, view->hold);
    if (data_bytes > 0) {
        kvs_wire_put_tag(head, FRAME_DATA, KVS_WIRE_BYTES);
        kvs_wire_put_varint(head, data_bytes);
    }
}

kvs_status kvs_frame_encode(kvs_head *head, const kvs_frame_view *view, uint64_t data_bytes)
{
    size_t size;
    KVS_TRY(kvs_frame_size(view, data_bytes, &size));
    head->used = 0;
    KVS_TRY(kvs_wire_reserve(head, size));
    kvs_frame_put(head, view, data_bytes);
    return KVS_OK;
}
