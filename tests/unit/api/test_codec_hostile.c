/* What the hand codec refuses, and with which status. Truncations and bit flips are in
 * test_codec_differential.c. */
#include "api/codec.h"
#include "tests/unit/api/spans.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef kvs_status decode_function(const kvs_span *spans, size_t count, kvs_codec_scratch *scratch,
                                   kvs_problem *problem);

static kvs_status as_frame(const kvs_span *spans, size_t count, kvs_codec_scratch *scratch,
                           kvs_problem *problem)
{
    kvs_frame_view view;
    return kvs_frame_decode(spans, count, scratch, &view, problem);
}

static kvs_status as_pull(const kvs_span *spans, size_t count, kvs_codec_scratch *scratch,
                          kvs_problem *problem)
{
    kvs_pull_view view;
    return kvs_pull_decode(spans, count, scratch, &view, problem);
}

static kvs_status as_reply(const kvs_span *spans, size_t count, kvs_codec_scratch *scratch,
                           kvs_problem *problem)
{
    kvs_reply_view view;
    return kvs_reply_decode(spans, count, scratch, &view, problem);
}

static decode_function *const decoders[] = {as_frame, as_pull, as_reply};

static void bytes_that_are_no_protobuf_are_refused_by_all(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        uint8_t bytes[16];
        size_t count;
    } cases[] = {
        {"a tag that ends early", {0x80}, 1},
        {"field number 0", {0x00, 0x01}, 2},
        {"a number that ends early", {0x18}, 1},
        {"a varint of 11 bytes",
         {0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
         12},
        {"a group", {0xf3, 0x01}, 2},
        {"the end of a group", {0xf4, 0x01}, 2},
        {"wire type 6", {0xf6, 0x01, 0x00}, 3},
        {"wire type 7", {0xf7, 0x01, 0x00}, 3},
        {"a length past the end", {0xfa, 0x01, 0x05, 'a'}, 4},
        {"a length of 2^63",
         {0xfa, 0x01, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1},
         12},
        {"a length of 2^64 - 1",
         {0xfa, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
         12},
        {"four bytes that are three", {0xfd, 0x01, 1, 2, 3}, 5},
        {"eight bytes that are seven", {0xf9, 0x01, 1, 2, 3, 4, 5, 6, 7}, 9},
        {"a tag above 32 bits", {0xf8, 0xff, 0xff, 0xff, 0x7f, 0x00}, 6},
        {"a member that is a number", {0x08, 0x01}, 2},
    };
    kvs_codec_scratch scratch = {0};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t j = 0; j < 3; j++) {
            uint8_t *exact = malloc(cases[i].count);
            assert_non_null(exact);
            memcpy(exact, cases[i].bytes, cases[i].count);
            kvs_span span = {exact, cases[i].count};
            kvs_problem problem = {0};
            kvs_status status = decoders[j](&span, 1, &scratch, &problem);
            free(exact);
            if (status != KVS_INVALID_FRAME || problem.status != KVS_INVALID_FRAME) {
                fail_msg("%s: %s", cases[i].what, kvs_status_find(status)->reason);
            }
        }
    }
    kvs_codec_scratch_deinit(&scratch);
}

static kvs_status frame_of(const uint8_t *bytes, size_t count, kvs_problem *problem)
{
    kvs_codec_scratch scratch = {0};
    kvs_span span = {bytes, count};
    kvs_status status = as_frame(&span, 1, &scratch, problem);
    kvs_codec_scratch_deinit(&scratch);
    return status;
}

static void payload_that_does_not_add_up_is_refused(void **state)
{
    (void)state;
    static const uint8_t more[] = {0x2a, 2, 0x60, 3, 0x7a, 2, 'a', 'b'};
    static const uint8_t less[] = {0x2a, 2, 0x60, 1, 0x7a, 2, 'a', 'b'};
    static const uint8_t none[] = {0x2a, 2, 0x60, 1};
    static const uint8_t no_header[] = {0x7a, 1, 'a'};
    kvs_problem problem;
    assert_int_equal(frame_of(more, sizeof(more), &problem), KVS_INVALID_FRAME);
    assert_string_equal(problem.detail, "the parts' payload_bytes add up to 3, data has 2 bytes");
    assert_int_equal(frame_of(less, sizeof(less), NULL), KVS_INVALID_FRAME);
    assert_int_equal(frame_of(none, sizeof(none), NULL), KVS_INVALID_FRAME);
    assert_int_equal(frame_of(no_header, sizeof(no_header), NULL), KVS_INVALID_FRAME);
}

static void payload_that_overflows_is_refused(void **state)
{
    (void)state;
    /* 2^64 - 1 and 3: 2 in 64 bits, which is what data has. */
    static const uint8_t bytes[] = {0x2a, 11,   0x60, 0xff, 0xff, 0xff, 0xff,
                                    0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x2a,
                                    2,    0x60, 3,    0x7a, 2,    'a',  'b'};
    kvs_problem problem;
    assert_int_equal(frame_of(bytes, sizeof(bytes), &problem), KVS_INVALID_FRAME);
    assert_non_null(strstr(problem.detail, "2^64"));
}

static void fields_of_the_wrong_type_are_refused(void **state)
{
    (void)state;
    /* A part with each of its fields as the other wire type. */
    static const uint8_t number_as_bytes[] = {2, 3, 4, 6, 7, 8, 9, 10, 11, 12};
    static const uint8_t bytes_as_number[] = {1, 11, 13};
    for (size_t i = 0; i < sizeof(number_as_bytes); i++) {
        uint8_t frame[] = {0x2a, 3, (uint8_t)(number_as_bytes[i] << 3 | 2), 1, 'a'};
        assert_int_equal(frame_of(frame, sizeof(frame), NULL), KVS_INVALID_FRAME);
    }
    for (size_t i = 0; i < sizeof(bytes_as_number); i++) {
        uint8_t frame[] = {0x2a, 2, (uint8_t)(bytes_as_number[i] << 3), 0};
        assert_int_equal(frame_of(frame, sizeof(frame), NULL), KVS_INVALID_FRAME);
    }
    static const uint8_t shape_fixed[] = {0x2a, 5, 0x2d, 1, 2, 3, 4};
    assert_int_equal(frame_of(shape_fixed, sizeof(shape_fixed), NULL), KVS_INVALID_FRAME);
}

static void lists_that_are_cut_are_refused(void **state)
{
    (void)state;
    static const uint8_t cut[] = {0x2a, 3, 0x2a, 1, 0x80};
    static const uint8_t cut_rows[] = {0x2a, 4, 0x72, 2, 1, 0xff};
    static const uint8_t long_one[] = {0x2a, 13,   0x2a, 11,   0xff, 0xff, 0xff, 0xff,
                                       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    assert_int_equal(frame_of(cut, sizeof(cut), NULL), KVS_INVALID_FRAME);
    assert_int_equal(frame_of(cut_rows, sizeof(cut_rows), NULL), KVS_INVALID_FRAME);
    assert_int_equal(frame_of(long_one, sizeof(long_one), NULL), KVS_INVALID_FRAME);
}

/* `count` empty messages as field `number`, cut at random. */
static kvs_status many(decode_function *decode, uint8_t number, size_t count)
{
    uint8_t *bytes = malloc(2 * count);
    assert_non_null(bytes);
    for (size_t i = 0; i < count; i++) {
        bytes[2 * i] = (uint8_t)(number << 3 | 2);
        bytes[2 * i + 1] = 0;
    }
    kvs_seed seed = {count};
    kvs_spans cut = kvs_spans_cut(bytes, 2 * count, 100, &seed);
    kvs_codec_scratch scratch = {0};
    kvs_status status = decode(cut.spans, cut.count, &scratch, NULL);
    kvs_spans_free(&cut);
    kvs_codec_scratch_deinit(&scratch);
    free(bytes);
    return status;
}

static void counts_have_limits(void **state)
{
    (void)state;
    assert_int_equal(many(as_frame, 5, KVS_FRAME_PARTS_MAX), KVS_OK);
    assert_int_equal(many(as_frame, 5, KVS_FRAME_PARTS_MAX + 1), KVS_TOO_LARGE);
    assert_int_equal(many(as_pull, 5, KVS_FRAME_PARTS_MAX), KVS_OK);
    assert_int_equal(many(as_pull, 5, KVS_FRAME_PARTS_MAX + 1), KVS_TOO_LARGE);
}

static void ranges_have_a_limit(void **state)
{
    (void)state;
    static kvs_ack_range ranges[KVS_FRAME_PARTS_MAX + 1];
    kvs_reply_view view = {.kind = KVS_REPLY_ACKS, .acks = ranges};
    kvs_head head = {0};
    view.ack_count = KVS_FRAME_PARTS_MAX + 1;
    assert_int_equal(kvs_reply_encode(&head, &view, 0), KVS_TOO_LARGE);
    view.ack_count = KVS_FRAME_PARTS_MAX;
    assert_int_equal(kvs_reply_encode(&head, &view, 0), KVS_OK);
    kvs_codec_scratch scratch = {0};
    kvs_span span = {head.bytes, head.used};
    assert_int_equal(as_reply(&span, 1, &scratch, NULL), KVS_OK);
    kvs_codec_scratch_deinit(&scratch);
    kvs_head_deinit(&head);
}

static void message_above_the_limit_is_refused_unread(void **state)
{
    (void)state;
    uint8_t byte = 0;
    /* The spans lie: nobody must look at them. */
    kvs_span spans[3] = {{&byte, KVS_MESSAGE_BYTES_MAX}, {&byte, 1}, {&byte, SIZE_MAX}};
    kvs_codec_scratch scratch = {0};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(decoders[i](spans, 2, &scratch, NULL), KVS_TOO_LARGE);
        assert_int_equal(decoders[i](spans, 3, &scratch, NULL), KVS_TOO_LARGE);
    }
}

static void long_heads_in_many_pieces_cost_a_fixed_room(void **state)
{
    (void)state;
    /* One part of 1 MiB of row ids, not packed, in pieces: gathered once, packed once. */
    size_t ids = 512 * 1024;
    size_t bytes = 2 * ids;
    uint8_t *message = malloc(bytes + 4);
    assert_non_null(message);
    message[0] = 0x2a;
    message[1] = 0x80;
    message[2] = 0x80;
    message[3] = 0x40;
    for (size_t i = 0; i < ids; i++) {
        message[4 + 2 * i] = 0x70;
        message[5 + 2 * i] = (uint8_t)(i & 0x7f);
    }
    kvs_seed seed = {9};
    kvs_spans cut = kvs_spans_cut(message, bytes + 4, 500, &seed);
    kvs_codec_scratch scratch = {0};
    kvs_frame_view view;
    assert_int_equal(kvs_frame_decode(cut.spans, cut.count, &scratch, &view, NULL), KVS_OK);
    assert_int_equal(view.parts[0].row_ids_bytes, ids);
    assert_int_equal(view.parts[0].row_ids[129], 1);
    assert_true(scratch.size <= 2 * bytes + 64);
    kvs_spans_free(&cut);
    kvs_codec_scratch_deinit(&scratch);
    free(message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_that_are_no_protobuf_are_refused_by_all),
        cmocka_unit_test(payload_that_does_not_add_up_is_refused),
        cmocka_unit_test(payload_that_overflows_is_refused),
        cmocka_unit_test(fields_of_the_wrong_type_are_refused),
        cmocka_unit_test(lists_that_are_cut_are_refused),
        cmocka_unit_test(counts_have_limits),
        cmocka_unit_test(ranges_have_a_limit),
        cmocka_unit_test(message_above_the_limit_is_refused_unread),
        cmocka_unit_test(long_heads_in_many_pieces_cost_a_fixed_room),
    };
    return cmocka_run_group_tests_name("codec_hostile", tests, NULL, NULL);
}
