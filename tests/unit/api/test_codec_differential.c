/* The hand codec against protobuf-c: the same message, the same answer. Seeded: a failure names
 * the seed, and the same seed gives the same messages. */
#include "tests/unit/api/same.h"
#include "tests/unit/api/spans.h"

#include "base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MESSAGE_BYTES 4096

typedef struct message {
    uint8_t bytes[MESSAGE_BYTES];
    size_t used;
} message;

/* ------------------------------------------------------------------ wild messages: raw fields */

static void put_varint(message *to, uint64_t value)
{
    while (value > 0x7f) {
        to->bytes[to->used++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    to->bytes[to->used++] = (uint8_t)value;
}

static void put_number(message *to, unsigned field, uint64_t value)
{
    put_varint(to, field << 3);
    put_varint(to, value);
}

static void put_bytes(message *to, unsigned field, const uint8_t *bytes, size_t count)
{
    put_varint(to, field << 3 | 2);
    put_varint(to, count);
    if (count > 0) {
        memcpy(to->bytes + to->used, bytes, count);
        to->used += count;
    }
}

static void put_text(message *to, unsigned field, kvs_seed *seed)
{
    uint8_t text[12];
    size_t count = kvs_seed_below(seed, sizeof(text));
    for (size_t i = 0; i < count; i++) {
        text[i] = (uint8_t)('a' + kvs_seed_below(seed, 26)); /* no zeros: protobuf-c ends there */
    }
    put_bytes(to, field, text, count);
}

static void put_list(message *to, unsigned field, kvs_seed *seed)
{
    if (kvs_seed_chance(seed, 2)) {
        put_number(to, field, kvs_seed_number(seed));
        return;
    }
    message packed = {.used = 0};
    for (uint64_t left = kvs_seed_below(seed, 5); left > 0; left--) {
        put_varint(&packed, kvs_seed_number(seed));
    }
    put_bytes(to, field, packed.bytes, packed.used);
}

static void put_version(message *to, unsigned field, kvs_seed *seed)
{
    message version = {.used = 0};
    put_number(&version, 1, kvs_seed_number(seed));
    if (kvs_seed_chance(seed, 2)) {
        put_number(&version, 2, kvs_seed_number(seed));
    }
    put_bytes(to, field, version.bytes, version.used);
}

static void put_unknown(message *to, kvs_seed *seed)
{
    static const uint8_t eight[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    unsigned field = 30 + (unsigned)kvs_seed_below(seed, 3000);
    switch (kvs_seed_below(seed, 4)) {
    case 0:
        put_number(to, field, kvs_seed_number(seed));
        break;
    case 1:
        put_text(to, field, seed);
        break;
    case 2:
        put_varint(to, field << 3 | 1);
        memcpy(to->bytes + to->used, eight, 8);
        to->used += 8;
        break;
    default:
        put_varint(to, field << 3 | 5);
        memcpy(to->bytes + to->used, eight, 4);
        to->used += 4;
        break;
    }
}

/* A PartHeader with fields in any order and any number; payload_bytes is last, and returned. */
static size_t put_part(message *to, unsigned field, kvs_seed *seed)
{
    message part = {.used = 0};
    bool version = false; /* at most one: protobuf-c does not merge two as it should */
    for (uint64_t left = kvs_seed_below(seed, 14); left > 0; left--) {
        unsigned number = 1 + (unsigned)kvs_seed_below(seed, 17);
        switch (number) {
        case 1:
            put_text(&part, number, seed);
            break;
        case 5:
        case 14:
            put_list(&part, number, seed);
            break;
        case 11:
            put_varint(&part, number << 3 | 1);
            memset(part.bytes + part.used, (int)kvs_seed_below(seed, 256), 8);
            part.used += 8;
            break;
        case 13:
            if (!version) {
                put_version(&part, number, seed);
            }
            version = true;
            break;
        case 15:
            put_unknown(&part, seed);
            break;
        case 16:
            put_number(&part, number, kvs_seed_below(seed, 300));
            break;
        default:
            put_number(&part, number, kvs_seed_number(seed));
            break;
        }
    }
    size_t payload = kvs_seed_below(seed, 40);
    put_number(&part, 12, payload);
    put_bytes(to, field, part.bytes, part.used);
    return payload;
}

static void put_frame(message *to, kvs_seed *seed, bool in_region)
{
    size_t payload = 0;
    for (uint64_t left = kvs_seed_below(seed, 10); left > 0; left--) {
        unsigned number = 1 + (unsigned)kvs_seed_below(seed, 10);
        if (number <= 2) {
            put_text(to, number, seed);
        } else if (number == 5) {
            payload += put_part(to, number, seed);
        } else if (number == 6) {
            put_bytes(to, number, NULL, 0);
        } else if (number == 8) {
            put_varint(to, 8 << 3 | 5);
            memset(to->bytes + to->used, 0x5a, 4);
            to->used += 4;
        } else if (number == 10) {
            put_unknown(to, seed);
        } else {
            put_number(to, number, kvs_seed_number(seed));
        }
    }
    uint8_t data[400];
    memset(data, (int)kvs_seed_below(seed, 256), sizeof(data));
    if (in_region) {
        put_number(to, 10, 1 + kvs_seed_below(seed, 1000));
    } else if (payload > 0 || kvs_seed_chance(seed, 4)) {
        put_bytes(to, 15, data, payload);
    }
    if (kvs_seed_chance(seed, 4)) {
        put_number(to, 3, 5);
    }
}

static void wild_frame(message *to, kvs_seed *seed)
{
    put_frame(to, seed, kvs_seed_chance(seed, 4));
}

static void wild_pull(message *to, kvs_seed *seed)
{
    for (uint64_t left = kvs_seed_below(seed, 12); left > 0; left--) {
        unsigned number = 1 + (unsigned)kvs_seed_below(seed, 11);
        message key = {.used = 0};
        switch (number) {
        case 1:
        case 2:
        case 6:
        case 10:
            put_text(to, number, seed);
            break;
        case 5:
            put_text(&key, 1, seed);
            put_list(&key, 7, seed);
            put_number(&key, 4, kvs_seed_number(seed));
            put_version(&key, kvs_seed_chance(seed, 2) ? 5 : 6, seed);
            put_list(&key, 7, seed);
            put_number(&key, 2, kvs_seed_number(seed));
            put_number(&key, 3, kvs_seed_number(seed));
            put_bytes(to, number, key.bytes, key.used);
            break;
        case 11:
            put_unknown(to, seed);
            break;
        default:
            put_number(to, number, kvs_seed_number(seed));
            break;
        }
    }
}

static void wild_reply(message *to, kvs_seed *seed)
{
    message body = {.used = 0};
    message inner = {.used = 0};
    if (kvs_seed_chance(seed, 3)) {
        put_unknown(to, seed);
    }
    switch (kvs_seed_below(seed, 5)) {
    case 0:
        for (uint64_t left = kvs_seed_below(seed, 5); left > 0; left--) {
            inner.used = 0;
            put_number(&inner, 1, kvs_seed_number(seed));
            put_number(&inner, 1 + (unsigned)kvs_seed_below(seed, 4), kvs_seed_number(seed));
            put_bytes(&body, 1, inner.bytes, inner.used);
        }
        put_bytes(to, 1, body.bytes, body.used);
        break;
    case 1:
        put_text(&inner, 1 + (unsigned)kvs_seed_below(seed, 2), seed);
        put_number(&inner, 3, kvs_seed_number(seed));
        put_text(&body, 2, seed);
        put_bytes(&body, 3, inner.bytes, inner.used);
        put_number(&body, 1, kvs_seed_number(seed));
        put_bytes(to, 2, body.bytes, body.used);
        break;
    case 2:
        put_number(&body, 1, kvs_seed_number(seed));
        put_bytes(to, 3, body.bytes, body.used);
        break;
    case 3:
        put_frame(&body, seed, false); /* replies are in none */
        put_bytes(to, 15, body.bytes, body.used);
        break;
    default:
        break;
    }
}

/* ------------------------------------------------------------------ both decoders at once */

/* True when protobuf-c reads a frame that only the hand codec's own rule refuses. */
static bool payload_differs(const Kvstored__V1__Frame *frame)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < frame->n_parts; i++) {
        if (__builtin_add_overflow(sum, frame->parts[i]->payload_bytes, &sum)) {
            return true;
        }
    }
    return frame->region != 0 ? frame->data.len != 0 : sum != frame->data.len;
}

/* protobuf-c takes a bool of any wire type and tags above 32 bits, which are no protobuf; the hand
 * codec does not. What only protobuf-c reads is packed again, as it understood it, and compared
 * where that mends it. */
typedef enum verdict { BOTH_REFUSE, BOTH_READ, ONLY_PROTOBUF_C } verdict;

static kvs_spans whole(const uint8_t *bytes, size_t count)
{
    kvs_seed seed = {0};
    return kvs_spans_cut(bytes, count, 1, &seed);
}

static verdict compare_frame(const message *from, const kvs_spans *cut, kvs_codec_scratch *scratch)
{
    kvs_frame_view hand;
    verdict said = BOTH_REFUSE;
    kvs_status status = kvs_frame_decode(cut->spans, cut->count, scratch, &hand, NULL);
    Kvstored__V1__Frame *frame = kvstored__v1__frame__unpack(NULL, from->used, from->bytes);
    if (status == KVS_OK && frame == NULL) {
        KVS_CHECK(hand.has_shard_parts); /* which it does not look into */
    } else if (status == KVS_OK) {
        kvs_same_frame(&hand, frame);
        said = BOTH_READ;
    } else if (frame != NULL && !payload_differs(frame)) {
        static uint8_t packed[2 * MESSAGE_BYTES];
        kvs_spans again = whole(packed, kvstored__v1__frame__pack(frame, packed));
        status = kvs_frame_decode(again.spans, again.count, scratch, &hand, NULL);
        if (status == KVS_OK) {
            kvs_same_frame(&hand, frame);
        }
        kvs_spans_free(&again);
        said = ONLY_PROTOBUF_C;
    }
    kvstored__v1__frame__free_unpacked(frame, NULL);
    return said;
}

static verdict compare_pull(const message *from, const kvs_spans *cut, kvs_codec_scratch *scratch)
{
    kvs_pull_view hand;
    verdict said = BOTH_REFUSE;
    kvs_status status = kvs_pull_decode(cut->spans, cut->count, scratch, &hand, NULL);
    Kvstored__V1__PullRequest *pull =
        kvstored__v1__pull_request__unpack(NULL, from->used, from->bytes);
    if (status == KVS_OK) {
        KVS_CHECK(pull != NULL);
        kvs_same_pull(&hand, pull);
        said = BOTH_READ;
    } else if (pull != NULL) {
        static uint8_t packed[2 * MESSAGE_BYTES];
        kvs_spans again = whole(packed, kvstored__v1__pull_request__pack(pull, packed));
        status = kvs_pull_decode(again.spans, again.count, scratch, &hand, NULL);
        if (status == KVS_OK) {
            kvs_same_pull(&hand, pull);
        }
        kvs_spans_free(&again);
        said = ONLY_PROTOBUF_C;
    }
    kvstored__v1__pull_request__free_unpacked(pull, NULL);
    return said;
}

static verdict compare_reply(const message *from, const kvs_spans *cut, kvs_codec_scratch *scratch)
{
    kvs_reply_view hand;
    verdict said = BOTH_REFUSE;
    kvs_status status = kvs_reply_decode(cut->spans, cut->count, scratch, &hand, NULL);
    Kvstored__V1__Reply *reply = kvstored__v1__reply__unpack(NULL, from->used, from->bytes);
    bool framed = reply != NULL && reply->reply_case == KVSTORED__V1__REPLY__REPLY_FRAME;
    if (status == KVS_OK && reply == NULL) {
        KVS_CHECK(hand.kind == KVS_REPLY_FRAME);
        KVS_CHECK(hand.frame.has_shard_parts);
    } else if (status == KVS_OK) {
        kvs_same_reply(&hand, reply);
        said = BOTH_READ;
    } else if (reply != NULL && !(framed && payload_differs(reply->frame))) {
        static uint8_t packed[2 * MESSAGE_BYTES];
        kvs_spans again = whole(packed, kvstored__v1__reply__pack(reply, packed));
        status = kvs_reply_decode(again.spans, again.count, scratch, &hand, NULL);
        if (status == KVS_OK) {
            kvs_same_reply(&hand, reply);
        }
        kvs_spans_free(&again);
        said = ONLY_PROTOBUF_C;
    }
    kvstored__v1__reply__free_unpacked(reply, NULL);
    return said;
}

typedef void make_function(message *to, kvs_seed *seed);
typedef verdict compare_function(const message *from, const kvs_spans *cut,
                                 kvs_codec_scratch *scratch);

static const struct {
    make_function *make;
    compare_function *compare;
} kinds[] = {
    {wild_frame, compare_frame},
    {wild_pull, compare_pull},
    {wild_reply, compare_reply},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static verdict compare_cut(size_t kind, const message *from, kvs_seed *seed,
                           kvs_codec_scratch *scratch)
{
    kvs_spans cut = kvs_spans_cut(from->bytes, from->used, 8, seed);
    verdict said = kinds[kind].compare(from, &cut, scratch);
    kvs_spans_free(&cut);
    return said;
}

/* ------------------------------------------------------------------ the tests */

static void wild_messages_are_read_as_protobuf_c_reads_them(void **state)
{
    (void)state;
    kvs_codec_scratch scratch = {0};
    for (uint64_t number = 0; number < 30000; number++) {
        kvs_seed seed = {number};
        size_t kind = number % KINDS;
        message wild = {.used = 0};
        kinds[kind].make(&wild, &seed);
        if (compare_cut(kind, &wild, &seed, &scratch) != BOTH_READ) {
            fail_msg("seed %llu is a good message and was refused", (unsigned long long)number);
        }
    }
    kvs_codec_scratch_deinit(&scratch);
}

static void every_truncation_is_judged_as_protobuf_c_judges_it(void **state)
{
    (void)state;
    kvs_codec_scratch scratch = {0};
    size_t refused = 0;
    for (uint64_t number = 0; number < 90; number++) {
        kvs_seed seed = {number};
        message wild = {.used = 0};
        kinds[number % KINDS].make(&wild, &seed);
        for (size_t whole = wild.used; whole > 0; whole--) {
            wild.used = whole - 1;
            refused += compare_cut(number % KINDS, &wild, &seed, &scratch) == BOTH_REFUSE;
        }
    }
    assert_true(refused > 1000);
    kvs_codec_scratch_deinit(&scratch);
}

static void bit_flips_are_judged_as_protobuf_c_judges_them(void **state)
{
    (void)state;
    kvs_codec_scratch scratch = {0};
    size_t said[ONLY_PROTOBUF_C + 1] = {0};
    for (uint64_t number = 0; number < 60000; number++) {
        kvs_seed seed = {number};
        message wild = {.used = 0};
        kinds[number % KINDS].make(&wild, &seed);
        for (uint64_t flips = 1 + kvs_seed_below(&seed, 3); flips > 0 && wild.used > 0; flips--) {
            wild.bytes[kvs_seed_below(&seed, wild.used)] ^=
                (uint8_t)(1u << kvs_seed_below(&seed, 8));
        }
        if (memchr(wild.bytes, 0, wild.used) != NULL) {
            continue; /* protobuf-c's texts end at a zero: not comparable */
        }
        said[compare_cut(number % KINDS, &wild, &seed, &scratch)]++;
    }
    assert_true(said[BOTH_READ] > 5000);
    assert_true(said[BOTH_REFUSE] > 5000);
    assert_true(said[ONLY_PROTOBUF_C] * 20 < said[BOTH_READ]);
    kvs_codec_scratch_deinit(&scratch);
}

/* What the hand codec writes is what protobuf-c writes, byte for byte. */
static void heads_are_what_protobuf_c_packs(void **state)
{
    (void)state;
    kvs_codec_scratch scratch = {0};
    kvs_head head = {0};
    size_t same = 0;
    for (uint64_t number = 0; number < 10000; number++) {
        kvs_seed seed = {number};
        message wild = {.used = 0};
        wild_frame(&wild, &seed);
        Kvstored__V1__Frame *frame = kvstored__v1__frame__unpack(NULL, wild.used, wild.bytes);
        assert_non_null(frame);
        size_t shard_parts = frame->n_shard_parts;
        frame->n_shard_parts = 0;
        kvs_span span = {wild.bytes, wild.used};
        kvs_frame_view view;
        assert_int_equal(kvs_frame_decode(&span, 1, &scratch, &view, NULL), KVS_OK);
        view.has_shard_parts = false;
        bool comparable = true;
        for (size_t i = 0; i < view.part_count; i++) {
            const kvs_part_header *part = &view.parts[i];
            comparable = comparable && !(part->has_shape && part->shape_bytes == 0) &&
                         (frame->parts[i]->version == NULL || part->version.epoch != 0 ||
                          part->version.count != 0) &&
                         frame->parts[i]->base.n_unknown_fields == 0 && (int)part->dtype >= 0 &&
                         (int)part->storage >= 0 &&
                         (int)part->codec >= 0; /* else nine more bytes of sign */
        }
        comparable = comparable && frame->base.n_unknown_fields == 0 && (int)view.value_codec >= 0;
        if (comparable) {
            static uint8_t packed[2 * MESSAGE_BYTES];
            assert_int_equal(kvs_frame_encode(&head, &view, view.payload.bytes), KVS_OK);
            size_t bytes = kvstored__v1__frame__pack(frame, packed);
            assert_int_equal(bytes, head.used + view.payload.bytes);
            assert_memory_equal(packed, head.bytes, head.used);
            same++;
        }
        frame->n_shard_parts = shard_parts;
        kvstored__v1__frame__free_unpacked(frame, NULL);
    }
    assert_true(same > 2000);
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wild_messages_are_read_as_protobuf_c_reads_them),
        cmocka_unit_test(every_truncation_is_judged_as_protobuf_c_judges_it),
        cmocka_unit_test(bit_flips_are_judged_as_protobuf_c_judges_them),
        cmocka_unit_test(heads_are_what_protobuf_c_packs),
    };
    return cmocka_run_group_tests_name("codec_differential", tests, NULL, NULL);
}
