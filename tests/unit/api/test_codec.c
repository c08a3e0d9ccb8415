/* The hand codec alone: what goes in comes out, wherever the bytes are cut. */
#include "api/codec.h"
#include "tests/unit/api/spans.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t session[16] = "0123456789abcdef";

/* A message: the head, then the payload. */
static uint8_t *join(const kvs_head *head, const uint8_t *data, size_t data_bytes, size_t *bytes)
{
    *bytes = head->used + data_bytes;
    uint8_t *message = malloc(*bytes + 1);
    assert_non_null(message);
    memcpy(message, head->bytes, head->used);
    if (data_bytes > 0) {
        memcpy(message + head->used, data, data_bytes);
    }
    return message;
}

static void assert_part(const kvs_part_header *got, const kvs_part_header *want)
{
    assert_int_equal(got->key_bytes, want->key_bytes);
    assert_memory_equal(got->key, want->key, want->key_bytes);
    assert_int_equal(got->dtype, want->dtype);
    assert_int_equal(got->storage, want->storage);
    assert_int_equal(got->codec, want->codec);
    assert_int_equal(got->has_shape, want->has_shape);
    assert_int_equal(got->shape_bytes, want->shape_bytes);
    assert_memory_equal(got->shape, want->shape, want->shape_bytes);
    assert_true(got->element_offset == want->element_offset);
    assert_true(got->element_count == want->element_count);
    assert_true(got->sequence == want->sequence);
    assert_true(got->after == want->after);
    assert_int_equal(got->priority, want->priority);
    assert_int_equal(got->has_weight, want->has_weight);
    assert_true(got->weight == want->weight);
    assert_true(got->payload_bytes == want->payload_bytes);
    assert_true(got->version.epoch == want->version.epoch);
    assert_true(got->version.count == want->version.count);
    assert_int_equal(got->row_ids_bytes, want->row_ids_bytes);
    assert_memory_equal(got->row_ids, want->row_ids, want->row_ids_bytes);
    assert_true(got->empty_parts == want->empty_parts);
    assert_true(got->region_offset == want->region_offset);
}

static kvs_part_header some_parts[2];

static kvs_frame_view some_frame(void)
{
    static const uint8_t shape[3] = {0x80, 0x01, 5};
    static const uint8_t rows[2] = {7, 9};
    some_parts[0] = (kvs_part_header){.key = "fc1.weight",
                                      .key_bytes = 10,
                                      .dtype = KVS_BF16,
                                      .codec = KVS_CODEC_2BIT,
                                      .has_shape = true,
                                      .shape = shape,
                                      .shape_bytes = 3,
                                      .element_offset = (uint64_t)1 << 40,
                                      .element_count = 262144,
                                      .sequence = UINT64_MAX,
                                      .after = 12,
                                      .priority = -3,
                                      .has_weight = true,
                                      .payload_bytes = 300,
                                      .version = {4, 1}};
    some_parts[1] = (kvs_part_header){.key = "b",
                                      .key_bytes = 1,
                                      .dtype = KVS_F32,
                                      .storage = KVS_ROW_SPARSE,
                                      .element_count = 1,
                                      .payload_bytes = 4,
                                      .row_ids = rows,
                                      .row_ids_bytes = 2,
                                      .region_offset = (uint64_t)1 << 40,
                                      .empty_parts = 300};
    return (kvs_frame_view){.store = "default",
                            .store_bytes = 7,
                            .session = session,
                            .session_bytes = 16,
                            .epoch = 3,
                            .membership = 2,
                            .durable = true,
                            .has_crc32c = true,
                            .crc32c = 0xdeadbeef,
                            .value_codec = KVS_CODEC_INT8,
                            .parts = some_parts,
                            .part_count = 2};
}

static void assert_frame(const kvs_frame_view *got, const kvs_frame_view *want, const uint8_t *data,
                         size_t data_bytes)
{
    assert_int_equal(got->store_bytes, want->store_bytes);
    assert_memory_equal(got->store, want->store, want->store_bytes);
    assert_int_equal(got->session_bytes, want->session_bytes);
    assert_memory_equal(got->session, want->session, want->session_bytes);
    assert_true(got->epoch == want->epoch);
    assert_true(got->membership == want->membership);
    assert_int_equal(got->durable, want->durable);
    assert_int_equal(got->has_crc32c, want->has_crc32c);
    assert_int_equal(got->crc32c, want->crc32c);
    assert_int_equal(got->value_codec, want->value_codec);
    assert_int_equal(got->covered_parts, 301);
    assert_int_equal(got->part_count, want->part_count);
    for (size_t i = 0; i < want->part_count; i++) {
        assert_part(&got->parts[i], &want->parts[i]);
    }
    assert_int_equal(got->payload.bytes, data_bytes);
    uint8_t *bytes = malloc(data_bytes + 1);
    assert_non_null(bytes);
    kvs_payload_gather(&got->payload, bytes);
    assert_memory_equal(bytes, data, data_bytes);
    free(bytes);
}

static void frame_comes_back_wherever_it_is_cut(void **state)
{
    (void)state;
    uint8_t data[304];
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7);
    }
    kvs_head head = {0};
    kvs_frame_view want = some_frame();
    assert_int_equal(kvs_frame_encode(&head, &want, sizeof(data)), KVS_OK);
    size_t bytes;
    uint8_t *message = join(&head, data, sizeof(data), &bytes);
    kvs_codec_scratch scratch = {0};
    kvs_seed seed = {1};
    for (int round = 0; round < 2000; round++) {
        kvs_spans cut = kvs_spans_cut(message, bytes, round % 2 == 0 ? 4 : 60, &seed);
        kvs_frame_view got;
        kvs_problem problem;
        assert_int_equal(kvs_frame_decode(cut.spans, cut.count, &scratch, &got, &problem), KVS_OK);
        assert_frame(&got, &want, data, sizeof(data));
        kvs_spans_free(&cut);
    }
    free(message);
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

static void payload_is_not_copied(void **state)
{
    (void)state;
    kvs_head head = {0};
    kvs_part_header part = {.key = "k", .key_bytes = 1, .payload_bytes = 100};
    kvs_frame_view view = {.parts = &part, .part_count = 1};
    assert_int_equal(kvs_frame_encode(&head, &view, 100), KVS_OK);
    uint8_t data[100] = {0};
    kvs_span spans[3] = {{head.bytes, head.used}, {data, 60}, {data + 60, 40}};
    kvs_codec_scratch scratch = {0};
    kvs_frame_view got;
    assert_int_equal(kvs_frame_decode(spans, 3, &scratch, &got, NULL), KVS_OK);
    assert_ptr_equal(got.payload.spans[0].data + got.payload.skip, data);
    assert_int_equal(got.payload.count, 2);
    assert_ptr_equal(got.parts[0].key, head.bytes + 4);
    assert_null(scratch.bytes); /* nothing straddled, nothing was gathered */
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

static void empty_message_is_an_empty_frame(void **state)
{
    (void)state;
    kvs_codec_scratch scratch = {0};
    kvs_frame_view got;
    kvs_span nothing = {NULL, 0};
    assert_int_equal(kvs_frame_decode(NULL, 0, &scratch, &got, NULL), KVS_OK);
    assert_int_equal(kvs_frame_decode(&nothing, 1, &scratch, &got, NULL), KVS_OK);
    assert_int_equal(got.part_count, 0);
    assert_int_equal(got.payload.bytes, 0);
    assert_null(got.store);
    kvs_codec_scratch_deinit(&scratch);
}

/* The bytes of a Frame with one part whose fields are `part`. */
static kvs_status decode_part(const uint8_t *part, size_t bytes, kvs_codec_scratch *scratch,
                              kvs_frame_view *out)
{
    static uint8_t message[256];
    message[0] = 5 << 3 | 2;
    message[1] = (uint8_t)bytes;
    memcpy(message + 2, part, bytes);
    kvs_span span = {message, bytes + 2};
    return kvs_frame_decode(&span, 1, scratch, out, NULL);
}

static void lists_are_read_packed_or_not(void **state)
{
    (void)state;
    static const uint8_t want[4] = {3, 0xac, 2, 5};
    static const struct {
        uint8_t bytes[12];
        size_t count;
    } forms[] = {
        {{0x2a, 4, 3, 0xac, 2, 5}, 6},                /* packed */
        {{0x28, 3, 0x28, 0xac, 2, 0x28, 5}, 7},       /* not packed */
        {{0x2a, 1, 3, 0x28, 0xac, 2, 0x2a, 1, 5}, 9}, /* both */
        {{0x2a, 0, 0x28, 0x83, 0, 0x2a, 3, 0xac, 2, 5}, 10},
        {{0x28, 3, 0x70, 1, 0x2a, 3, 0xac, 2, 5}, 9}, /* with a row id between */
    };
    kvs_codec_scratch scratch = {0};
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        kvs_frame_view got;
        assert_int_equal(decode_part(forms[i].bytes, forms[i].count, &scratch, &got), KVS_OK);
        assert_true(got.parts[0].has_shape);
        assert_int_equal(got.parts[0].shape_bytes, 4);
        assert_memory_equal(got.parts[0].shape, want, 4);
        kvs_shape shape;
        assert_true(kvs_part_header_shape(&got.parts[0], &shape));
        assert_int_equal(shape.rank, 3);
        assert_int_equal(shape.size[1], 300);
    }
    kvs_codec_scratch_deinit(&scratch);
}

static void shape_of_a_scalar_is_empty_but_there(void **state)
{
    (void)state;
    kvs_head head = {0};
    kvs_part_header part = {.key = "k", .key_bytes = 1, .has_shape = true};
    kvs_frame_view view = {.parts = &part, .part_count = 1};
    assert_int_equal(kvs_frame_encode(&head, &view, 0), KVS_OK);
    kvs_codec_scratch scratch = {0};
    kvs_span span = {head.bytes, head.used};
    kvs_frame_view got;
    assert_int_equal(kvs_frame_decode(&span, 1, &scratch, &got, NULL), KVS_OK);
    assert_true(got.parts[0].has_shape);
    assert_int_equal(got.parts[0].shape_bytes, 0);
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

static void a_frame_in_a_region_has_no_data(void **state)
{
    (void)state;
    kvs_head head = {0};
    kvs_codec_scratch scratch = {0};
    kvs_frame_view view = some_frame();
    kvs_frame_view got;
    view.region = 77;
    assert_int_equal(kvs_frame_encode(&head, &view, 0), KVS_OK);
    kvs_span spans[2] = {{head.bytes, head.used}, {(const uint8_t *)"\x7a\x01x", 3}};
    assert_int_equal(kvs_frame_decode(spans, 1, &scratch, &got, NULL), KVS_OK);
    assert_int_equal(got.region, 77);
    assert_int_equal(got.payload.bytes, 0);
    assert_int_equal(kvs_frame_decode(spans, 2, &scratch, &got, NULL), KVS_INVALID_FRAME);
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

static void last_of_a_number_wins_and_unknown_fields_are_passed_over(void **state)
{
    (void)state;
    static const uint8_t part[] = {
        0x40, 1,                     /* sequence 1 */
        0x92, 1, 2,   'x',  'y',     /* 18: unknown */
        0x40, 9,                     /* sequence 9 */
        0x0a, 1, 'a', 0x0a, 1,   'b' /* key, twice */
    };
    kvs_codec_scratch scratch = {0};
    kvs_frame_view got;
    assert_int_equal(decode_part(part, sizeof(part), &scratch, &got), KVS_OK);
    assert_int_equal(got.parts[0].sequence, 9);
    assert_int_equal(got.parts[0].key_bytes, 1);
    assert_int_equal(got.parts[0].key[0], 'b');
    kvs_codec_scratch_deinit(&scratch);
}

static void fields_after_the_data_count(void **state)
{
    (void)state;
    static const uint8_t message[] = {0x7a, 1, 0xff, 0x7a, 2,    'p', 'q', /* data, twice */
                                      0x18, 5,                             /* epoch */
                                      0x2a, 5, 0x60, 2,    0x0a, 1,   'k', /* a part */
                                      0x0a, 2, 's',  't'};
    kvs_seed seed = {3};
    kvs_codec_scratch scratch = {0};
    for (int round = 0; round < 200; round++) {
        kvs_spans cut = kvs_spans_cut(message, sizeof(message), 12, &seed);
        kvs_frame_view got;
        assert_int_equal(kvs_frame_decode(cut.spans, cut.count, &scratch, &got, NULL), KVS_OK);
        uint8_t data[2];
        assert_int_equal(got.payload.bytes, 2);
        kvs_payload_gather(&got.payload, data);
        assert_memory_equal(data, "pq", 2);
        assert_int_equal(got.epoch, 5);
        assert_int_equal(got.part_count, 1);
        assert_memory_equal(got.store, "st", 2);
        kvs_spans_free(&cut);
    }
    kvs_codec_scratch_deinit(&scratch);
}

static void pull_comes_back_wherever_it_is_cut(void **state)
{
    (void)state;
    static const uint8_t rows[3] = {1, 0x80, 1};
    kvs_pull_key_view keys[2] = {
        {.key = "a",
         .key_bytes = 1,
         .sequence = 700,
         .after = 6,
         .priority = -1,
         .min_version = {1, 2},
         .has_since = true,
         .since = {0, 0},
         .row_ids = rows,
         .row_ids_bytes = 3},
        {.key = "", .key_bytes = 0},
    };
    kvs_pull_view want = {.store = "s",
                          .store_bytes = 1,
                          .session = session,
                          .session_bytes = 16,
                          .epoch = 1,
                          .membership = 300,
                          .prefix = "fc",
                          .prefix_bytes = 2,
                          .all = true,
                          .snapshot = true,
                          .codec = KVS_CODEC_1BIT,
                          .keys = keys,
                          .key_count = 2};
    kvs_head head = {0};
    assert_int_equal(kvs_pull_encode(&head, &want), KVS_OK);
    kvs_seed seed = {2};
    kvs_codec_scratch scratch = {0};
    for (int round = 0; round < 1000; round++) {
        kvs_spans cut = kvs_spans_cut(head.bytes, head.used, 20, &seed);
        kvs_pull_view got;
        assert_int_equal(kvs_pull_decode(cut.spans, cut.count, &scratch, &got, NULL), KVS_OK);
        assert_int_equal(got.key_count, 2);
        assert_memory_equal(got.keys[0].key, "a", 1);
        assert_true(got.keys[0].sequence == 700 && got.keys[0].after == 6);
        assert_int_equal(got.keys[0].priority, -1);
        assert_true(got.keys[0].min_version.epoch == 1 && got.keys[0].min_version.count == 2);
        assert_true(got.keys[0].has_since && !got.keys[1].has_since);
        assert_memory_equal(got.keys[0].row_ids, rows, 3);
        assert_int_equal(got.keys[1].key_bytes, 0);
        assert_memory_equal(got.session, session, 16);
        assert_memory_equal(got.prefix, "fc", 2);
        assert_true(got.all && got.snapshot && !got.has_snapshot_name);
        assert_true(got.membership == 300 && got.codec == KVS_CODEC_1BIT);
        kvs_spans_free(&cut);
    }
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

static kvs_reply_view decode_reply(const kvs_head *head, const uint8_t *data, size_t data_bytes,
                                   kvs_codec_scratch *scratch, kvs_spans *cut, kvs_seed *seed)
{
    size_t bytes;
    uint8_t *message = join(head, data, data_bytes, &bytes);
    *cut = kvs_spans_cut(message, bytes, 20, seed);
    kvs_reply_view got;
    assert_int_equal(kvs_reply_decode(cut->spans, cut->count, scratch, &got, NULL), KVS_OK);
    free(message);
    return got;
}

static void acks_refusals_and_credit_come_back(void **state)
{
    (void)state;
    kvs_ack_range ranges[2] = {{1, 900, false, true}, {902, 902, true, false}};
    kvs_reply_view acks = {.kind = KVS_REPLY_ACKS, .acks = ranges, .ack_count = 2};
    kvs_reply_view refusal = {.kind = KVS_REPLY_REFUSAL,
                              .refusal = {.sequence = 5,
                                          .key = "key",
                                          .key_bytes = 3,
                                          .reason = "ROUND_FAILED",
                                          .reason_bytes = 12,
                                          .detail = "rank 2",
                                          .detail_bytes = 6,
                                          .code = 10}};
    kvs_reply_view credit = {.kind = KVS_REPLY_CREDIT, .credit_bytes = 1 << 20};
    kvs_seed seed = {4};
    kvs_codec_scratch scratch = {0};
    kvs_head head = {0};
    kvs_spans cut;
    for (int round = 0; round < 300; round++) {
        assert_int_equal(kvs_reply_encode(&head, &acks, 0), KVS_OK);
        kvs_reply_view got = decode_reply(&head, NULL, 0, &scratch, &cut, &seed);
        assert_int_equal(got.kind, KVS_REPLY_ACKS);
        assert_int_equal(got.ack_count, 2);
        assert_true(got.acks[0].last == 900 && got.acks[0].durable && !got.acks[0].duplicate);
        assert_true(got.acks[1].first == 902 && got.acks[1].duplicate);
        kvs_spans_free(&cut);

        assert_int_equal(kvs_reply_encode(&head, &refusal, 0), KVS_OK);
        got = decode_reply(&head, NULL, 0, &scratch, &cut, &seed);
        assert_int_equal(got.kind, KVS_REPLY_REFUSAL);
        assert_true(got.refusal.sequence == 5 && got.refusal.code == 10);
        assert_memory_equal(got.refusal.key, "key", 3);
        assert_memory_equal(got.refusal.reason, "ROUND_FAILED", 12);
        assert_memory_equal(got.refusal.detail, "rank 2", 6);
        kvs_spans_free(&cut);

        assert_int_equal(kvs_reply_encode(&head, &credit, 0), KVS_OK);
        got = decode_reply(&head, NULL, 0, &scratch, &cut, &seed);
        assert_int_equal(got.kind, KVS_REPLY_CREDIT);
        assert_int_equal(got.credit_bytes, 1 << 20);
        kvs_spans_free(&cut);
    }
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

static void frame_in_a_reply_comes_back(void **state)
{
    (void)state;
    uint8_t data[304];
    memset(data, 0x5a, sizeof(data));
    kvs_reply_view want = {.kind = KVS_REPLY_FRAME, .frame = some_frame()};
    kvs_seed seed = {5};
    kvs_codec_scratch scratch = {0};
    kvs_head head = {0};
    for (int round = 0; round < 1000; round++) {
        kvs_spans cut;
        assert_int_equal(kvs_reply_encode(&head, &want, sizeof(data)), KVS_OK);
        kvs_reply_view got = decode_reply(&head, data, sizeof(data), &scratch, &cut, &seed);
        assert_int_equal(got.kind, KVS_REPLY_FRAME);
        assert_frame(&got.frame, &want.frame, data, sizeof(data));
        kvs_spans_free(&cut);
    }
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

static void what_cannot_be_sent_is_refused(void **state)
{
    (void)state;
    kvs_head head = {0};
    kvs_frame_view frame = {.has_shard_parts = true};
    assert_int_equal(kvs_frame_encode(&head, &frame, 0), KVS_UNIMPLEMENTED);
    frame = (kvs_frame_view){.part_count = KVS_FRAME_PARTS_MAX + 1};
    assert_int_equal(kvs_frame_encode(&head, &frame, 0), KVS_TOO_LARGE);
    frame = (kvs_frame_view){0};
    assert_int_equal(kvs_frame_encode(&head, &frame, KVS_MESSAGE_BYTES_MAX), KVS_TOO_LARGE);
    kvs_pull_view pull = {.has_snapshot_name = true};
    assert_int_equal(kvs_pull_encode(&head, &pull), KVS_UNIMPLEMENTED);
    kvs_reply_view reply = {.kind = KVS_REPLY_NONE};
    assert_int_equal(kvs_reply_encode(&head, &reply, 0), KVS_INVALID_FIELD);
    reply = (kvs_reply_view){.kind = KVS_REPLY_CREDIT};
    assert_int_equal(kvs_reply_encode(&head, &reply, 1), KVS_INVALID_FIELD);
    kvs_head_deinit(&head);
}

static void the_scratch_stays_as_it_is_in_steady_state(void **state)
{
    (void)state;
    uint8_t data[304] = {0};
    kvs_head head = {0};
    kvs_frame_view want = some_frame();
    assert_int_equal(kvs_frame_encode(&head, &want, sizeof(data)), KVS_OK);
    size_t bytes;
    uint8_t *message = join(&head, data, sizeof(data), &bytes);
    kvs_span spans[2] = {{message, 20}, {message + 20, bytes - 20}}; /* straddles the session */
    kvs_codec_scratch scratch = {0};
    kvs_frame_view got;
    assert_int_equal(kvs_frame_decode(spans, 2, &scratch, &got, NULL), KVS_OK);
    const uint8_t *gathered = scratch.bytes;
    const kvs_part_header *parts = scratch.parts;
    assert_non_null(gathered);
    for (int round = 0; round < 10; round++) {
        assert_int_equal(kvs_frame_encode(&head, &want, sizeof(data)), KVS_OK);
        assert_int_equal(kvs_frame_decode(spans, 2, &scratch, &got, NULL), KVS_OK);
        assert_ptr_equal(scratch.bytes, gathered);
        assert_ptr_equal(scratch.parts, parts);
    }
    free(message);
    kvs_head_deinit(&head);
    kvs_codec_scratch_deinit(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_comes_back_wherever_it_is_cut),
        cmocka_unit_test(payload_is_not_copied),
        cmocka_unit_test(empty_message_is_an_empty_frame),
        cmocka_unit_test(lists_are_read_packed_or_not),
        cmocka_unit_test(shape_of_a_scalar_is_empty_but_there),
        cmocka_unit_test(a_frame_in_a_region_has_no_data),
        cmocka_unit_test(last_of_a_number_wins_and_unknown_fields_are_passed_over),
        cmocka_unit_test(fields_after_the_data_count),
        cmocka_unit_test(pull_comes_back_wherever_it_is_cut),
        cmocka_unit_test(acks_refusals_and_credit_come_back),
        cmocka_unit_test(frame_in_a_reply_comes_back),
        cmocka_unit_test(what_cannot_be_sent_is_refused),
        cmocka_unit_test(the_scratch_stays_as_it_is_in_steady_state),
    };
    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
