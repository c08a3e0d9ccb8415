#include "api/wire.h"

/* Numbers of kvstored.proto. */
enum { REPLY_ACKS = 1, REPLY_REFUSAL = 2, REPLY_CREDIT = 3, REPLY_FRAME = KVS_WIRE_DATA };
enum { ACKS_RANGES = 1 };
enum { ACK_FIRST = 1, ACK_LAST = 2, ACK_DUPLICATE = 3, ACK_DURABLE = 4 };
enum { REFUSAL_SEQUENCE = 1, REFUSAL_KEY = 2, REFUSAL_PROBLEM = 3 };
enum { PROBLEM_REASON = 1, PROBLEM_DETAIL = 2, PROBLEM_CODE = 3 };
enum { CREDIT_BYTES = 1 };

/* ------------------------------------------------------------------ acks */

static bool read_ack(kvs_wire *acks, size_t bytes, kvs_ack_range *out)
{
    kvs_wire wire;
    kvs_wire_enter(acks, bytes, &wire);
    kvs_ack_range ack = {0};
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(&wire, &field)) == KVS_WIRE_FIELD) {
        if (field.number > ACK_DURABLE) {
            kvs_wire_skip(&wire, field.bytes);
            continue;
        }
        if (field.type != KVS_WIRE_VARINT) {
            return false;
        }
        switch (field.number) {
        case ACK_FIRST:
            ack.first = field.value;
            break;
        case ACK_LAST:
            ack.last = field.value;
            break;
        case ACK_DUPLICATE:
            ack.duplicate = field.value != 0;
            break;
        default:
            ack.durable = field.value != 0;
            break;
        }
    }
    *out = ack;
    return step == KVS_WIRE_END;
}

static kvs_status read_acks(kvs_wire *wire, kvs_codec_scratch *scratch, kvs_reply_view *out,
                            kvs_problem *problem)
{
    kvs_wire_field field;
    kvs_wire_step step;
    size_t count = 0;
    while ((step = kvs_wire_next(wire, &field)) == KVS_WIRE_FIELD) {
        if (field.number != ACKS_RANGES) {
            kvs_wire_skip(wire, field.bytes);
            continue;
        }
        if (count == KVS_FRAME_PARTS_MAX) {
            return kvs_problem_set(problem, KVS_TOO_LARGE, "a reply holds at most %u ranges",
                                   KVS_FRAME_PARTS_MAX);
        }
        KVS_TRY(kvs_wire_room(scratch, count + 1, sizeof(kvs_ack_range)));
        kvs_ack_range *acks = (kvs_ack_range *)(void *)scratch->parts;
        if (field.type != KVS_WIRE_BYTES || !read_ack(wire, field.bytes, &acks[count])) {
            return kvs_wire_bad(problem, "Acks");
        }
        count++;
    }
    out->kind = KVS_REPLY_ACKS;
    out->acks = (const kvs_ack_range *)(const void *)scratch->parts;
    out->ack_count = count;
    return step == KVS_WIRE_END ? KVS_OK : kvs_wire_bad(problem, "Acks");
}

/* ------------------------------------------------------------------ refusal and credit */

/* `wire` is flat, so texts are taken in place. */
static const char *take_text(kvs_wire *wire, const kvs_wire_field *field, uint32_t *bytes)
{
    const char *text = (const char *)wire->at;
    *bytes = (uint32_t)field->bytes;
    kvs_wire_skip(wire, field->bytes);
    return text;
}

static bool read_problem(kvs_wire *refusal, size_t bytes, kvs_reply_view *out)
{
    kvs_wire wire;
    kvs_wire_enter(refusal, bytes, &wire);
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(&wire, &field)) == KVS_WIRE_FIELD) {
        kvs_wire_type type = field.number == PROBLEM_CODE ? KVS_WIRE_VARINT : KVS_WIRE_BYTES;
        if (field.number <= PROBLEM_CODE && field.type != type) {
            return false;
        }
        switch (field.number) {
        case PROBLEM_REASON:
            out->refusal.reason = take_text(&wire, &field, &out->refusal.reason_bytes);
            break;
        case PROBLEM_DETAIL:
            out->refusal.detail = take_text(&wire, &field, &out->refusal.detail_bytes);
            break;
        case PROBLEM_CODE:
            out->refusal.code = (int32_t)(uint32_t)field.value;
            break;
        default:
            kvs_wire_skip(&wire, field.bytes);
            break;
        }
    }
    return step == KVS_WIRE_END;
}

static bool read_refusal(kvs_wire *wire, kvs_reply_view *out)
{
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(wire, &field)) == KVS_WIRE_FIELD) {
        kvs_wire_type type = field.number == REFUSAL_SEQUENCE ? KVS_WIRE_VARINT : KVS_WIRE_BYTES;
        if (field.number <= REFUSAL_PROBLEM && field.type != type) {
            return false;
        }
        switch (field.number) {
        case REFUSAL_SEQUENCE:
            out->refusal.sequence = field.value;
            break;
        case REFUSAL_KEY:
            out->refusal.key = take_text(wire, &field, &out->refusal.key_bytes);
            break;
        case REFUSAL_PROBLEM:
            if (!read_problem(wire, field.bytes, out)) {
                return false;
            }
            break;
        default:
            kvs_wire_skip(wire, field.bytes);
            break;
        }
    }
    out->kind = KVS_REPLY_REFUSAL;
    return step == KVS_WIRE_END;
}

static bool read_credit(kvs_wire *wire, kvs_reply_view *out)
{
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(wire, &field)) == KVS_WIRE_FIELD) {
        if (field.number != CREDIT_BYTES) {
            kvs_wire_skip(wire, field.bytes);
        } else if (field.type != KVS_WIRE_VARINT) {
            return false;
        } else {
            out->credit_bytes = field.value;
        }
    }
    out->kind = KVS_REPLY_CREDIT;
    return step == KVS_WIRE_END;
}

/* ------------------------------------------------------------------ the reply */

/* One member of the oneof: whatever came before it is void. */
static kvs_status read_member(kvs_wire *reply, const kvs_wire_field *field,
                              kvs_codec_scratch *scratch, kvs_reply_view *out, kvs_problem *problem)
{
    *out = (kvs_reply_view){.refusal = {.key = "", .reason = "", .detail = ""}};
    if (field->type != KVS_WIRE_BYTES) {
        return kvs_wire_bad(problem, "Reply");
    }
    kvs_wire wire;
    if (field->number == REPLY_FRAME) {
        kvs_wire_enter(reply, field->bytes, &wire);
        out->kind = KVS_REPLY_FRAME;
        return kvs_frame_read(&wire, scratch, &out->frame, problem);
    }
    kvs_wire_arena arena;
    kvs_wire_arena_init(&arena, scratch, reply);
    arena.message.left = 0;
    arena.extra = field->bytes;
    const uint8_t *start;
    KVS_TRY(kvs_wire_take(reply, field->bytes, &arena, &start));
    kvs_wire_init_flat(&wire, start, field->bytes);
    switch (field->number) {
    case REPLY_ACKS:
        return read_acks(&wire, scratch, out, problem);
    case REPLY_REFUSAL:
        return read_refusal(&wire, out) ? KVS_OK : kvs_wire_bad(problem, "Refusal");
    default:
        return read_credit(&wire, out) ? KVS_OK : kvs_wire_bad(problem, "Credit");
    }
}

static kvs_status read_reply(kvs_wire *wire, kvs_codec_scratch *scratch, kvs_reply_view *out,
                             kvs_problem *problem)
{
    kvs_reply_view reply = {.refusal = {.key = "", .reason = "", .detail = ""}};
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(wire, &field)) == KVS_WIRE_FIELD) {
        switch (field.number) {
        case REPLY_ACKS:
        case REPLY_REFUSAL:
        case REPLY_CREDIT:
        case REPLY_FRAME:
            KVS_TRY(read_member(wire, &field, scratch, &reply, problem));
            break;
        default:
            kvs_wire_skip(wire, field.bytes);
            break;
        }
    }
    if (step != KVS_WIRE_END) {
        return kvs_wire_bad(problem, "Reply");
    }
    *out = reply;
    return KVS_OK;
}

kvs_status kvs_reply_decode(const kvs_span *spans, size_t span_count, kvs_codec_scratch *scratch,
                            kvs_reply_view *out, kvs_problem *problem)
{
    kvs_wire wire;
    if (kvs_wire_init(&wire, spans, span_count) != KVS_OK) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a message has at most %llu bytes",
                               (unsigned long long)KVS_MESSAGE_BYTES_MAX);
    }
    kvs_status status = read_reply(&wire, scratch, out, problem);
    return status == KVS_NO_MEMORY ? kvs_problem_set(problem, status, "to read a reply") : status;
}

/* ------------------------------------------------------------------ on the way out */

static uint64_t signed_number(int32_t value)
{
    return (uint64_t)(int64_t)value;
}

static size_t ack_size(const kvs_ack_range *ack)
{
    return kvs_wire_number_size(ack->first) + kvs_wire_number_size(ack->last) +
           (ack->duplicate ? 2u : 0u) + (ack->durable ? 2u : 0u);
}

static size_t acks_size(const kvs_reply_view *view)
{
    size_t size = 0;
    for (size_t i = 0; i < view->ack_count; i++) {
        size += 1 + 1 + ack_size(&view->acks[i]); /* its own length is below 128 */
    }
    return size;
}

static void put_acks(kvs_head *head, const kvs_reply_view *view)
{
    for (size_t i = 0; i < view->ack_count; i++) {
        const kvs_ack_range *ack = &view->acks[i];
        kvs_wire_put_tag(head, ACKS_RANGES, KVS_WIRE_BYTES);
        kvs_wire_put_varint(head, ack_size(ack));
        kvs_wire_put_number(head, ACK_FIRST, ack->first);
        kvs_wire_put_number(head, ACK_LAST, ack->last);
        kvs_wire_put_number(head, ACK_DUPLICATE, ack->duplicate ? 1 : 0);
        kvs_wire_put_number(head, ACK_DURABLE, ack->durable ? 1 : 0);
    }
}

static size_t problem_size(const kvs_reply_view *view)
{
    return kvs_wire_text_size(view->refusal.reason_bytes) +
           kvs_wire_text_size(view->refusal.detail_bytes) +
           kvs_wire_number_size(signed_number(view->refusal.code));
}

static size_t refusal_size(const kvs_reply_view *view)
{
    size_t problem = problem_size(view);
    return kvs_wire_number_size(view->refusal.sequence) +
           kvs_wire_text_size(view->refusal.key_bytes) + 1 + kvs_wire_varint_bytes(problem) +
           problem;
}

static void put_refusal(kvs_head *head, const kvs_reply_view *view)
{
    kvs_wire_put_number(head, REFUSAL_SEQUENCE, view->refusal.sequence);
    kvs_wire_put_text(head, REFUSAL_KEY, view->refusal.key, view->refusal.key_bytes);
    kvs_wire_put_tag(head, REFUSAL_PROBLEM, KVS_WIRE_BYTES);
    kvs_wire_put_varint(head, problem_size(view));
    kvs_wire_put_text(head, PROBLEM_REASON, view->refusal.reason, view->refusal.reason_bytes);
    kvs_wire_put_text(head, PROBLEM_DETAIL, view->refusal.detail, view->refusal.detail_bytes);
    kvs_wire_put_number(head, PROBLEM_CODE, signed_number(view->refusal.code));
}

/* The number of the oneof's member, and its bytes on this side of the payload. */
static kvs_status member_size(const kvs_reply_view *view, uint64_t data_bytes, uint32_t *number,
                              size_t *out)
{
    switch (view->kind) {
    case KVS_REPLY_ACKS:
        *number = REPLY_ACKS;
        *out = acks_size(view);
        return view->ack_count > KVS_FRAME_PARTS_MAX ? KVS_TOO_LARGE : KVS_OK;
    case KVS_REPLY_REFUSAL:
        *number = REPLY_REFUSAL;
        *out = refusal_size(view);
        return *out > KVS_MESSAGE_BYTES_MAX ? KVS_TOO_LARGE : KVS_OK;
    case KVS_REPLY_CREDIT:
        *number = REPLY_CREDIT;
        *out = kvs_wire_number_size(view->credit_bytes);
        return KVS_OK;
    case KVS_REPLY_FRAME:
        *number = REPLY_FRAME;
        return kvs_frame_size(&view->frame, data_bytes, out);
    case KVS_REPLY_NONE:
    default:
        return KVS_INVALID_FIELD;
    }
}

kvs_status kvs_reply_encode(kvs_head *head, const kvs_reply_view *view, uint64_t data_bytes)
{
    uint32_t number = 0;
    size_t size = 0;
    if (view->kind != KVS_REPLY_FRAME && data_bytes != 0) {
        return KVS_INVALID_FIELD;
    }
    KVS_TRY(member_size(view, data_bytes, &number, &size));
    uint64_t whole = size + data_bytes;
    head->used = 0;
    KVS_TRY(kvs_wire_reserve(head, 1 + kvs_wire_varint_bytes(whole) + size));
    kvs_wire_put_tag(head, number, KVS_WIRE_BYTES);
    kvs_wire_put_varint(head, whole);
    switch (view->kind) {
    case KVS_REPLY_ACKS:
        put_acks(head, view);
        break;
    case KVS_REPLY_REFUSAL:
        put_refusal(head, view);
        break;
    case KVS_REPLY_CREDIT:
        kvs_wire_put_number(head, CREDIT_BYTES, view->credit_bytes);
        break;
    default:
        kvs_frame_put(head, &view->frame, data_bytes);
        break;
    }
    return KVS_OK;
}
