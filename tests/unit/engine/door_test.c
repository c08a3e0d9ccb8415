/* The door for pushes: every refusal with its status, what uses a sequence, and every byte of
 * credit back exactly once. */
#include "engine/codec.h"
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const float zeros[16];
static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static kvs_part_header whole(const char *key, uint64_t elements, uint64_t sequence)
{
    return (kvs_part_header){.key = key,
                             .key_bytes = (uint32_t)strlen(key),
                             .dtype = KVS_F32,
                             .element_count = elements,
                             .sequence = sequence,
                             .payload_bytes = elements * sizeof(float)};
}

static fixture_worker *open_async(fixture *f)
{
    fixture_open(f, &(fixture_options){.type = "dist_async",
                                       .num_workers = 2,
                                       .part_elements = 4,
                                       .inflight_parts = 32,
                                       .credit_bytes = 64});
    fixture_worker *a = fixture_join(f, 0);
    fixture_init(f, "w", zeros, 10);
    fixture_optimizer(f, "{\"name\":\"test\"}"); /* w += g */
    return a;
}

/* Has the sequence been used? */
static bool used(fixture_worker *a, uint64_t sequence)
{
    kvs_entry *entry = NULL;
    kvs_place place = kvs_window_find(&a->session->window, sequence, &entry);
    return place == KVS_PLACE_OLD || (place == KVS_PLACE_IN && entry->state != KVS_ENTRY_NEW);
}

typedef struct row {
    const char *name;
    void (*spoil)(kvs_part_header *header);
    kvs_status status;
    bool used;
} row;

static uint8_t shape_of_9[] = {9};
static uint8_t shapes_33[33]; /* of ones */
static uint8_t cut_shape[] = {0x80};
static char long_key[1000];

static void no_such_key(kvs_part_header *h)
{
    h->key = "x";
}
static void empty_key(kvs_part_header *h)
{
    h->key_bytes = 0;
}
static void huge_key(kvs_part_header *h)
{
    h->key = long_key;
    h->key_bytes = sizeof long_key;
}
static void sparse(kvs_part_header *h)
{
    h->storage = KVS_ROW_SPARSE;
}
static void no_storage(kvs_part_header *h)
{
    h->storage = (kvs_storage)7;
}
static void row_ids(kvs_part_header *h)
{
    h->row_ids_bytes = 1;
}
static void no_threshold(kvs_part_header *h)
{
    h->codec = KVS_CODEC_2BIT;
    h->payload_bytes = 4;
}
static void nan_threshold(kvs_part_header *h)
{
    no_threshold(h);
    h->threshold = NAN;
}
static void infinite_threshold(kvs_part_header *h)
{
    no_threshold(h);
    h->threshold = INFINITY;
}
static void long_2bit(kvs_part_header *h)
{
    h->codec = KVS_CODEC_2BIT;
    h->threshold = 0.5f;
}
static void short_1bit(kvs_part_header *h)
{
    h->codec = KVS_CODEC_1BIT;
    h->payload_bytes = 3;
}
static void short_f16(kvs_part_header *h)
{
    h->codec = KVS_CODEC_F16;
    h->payload_bytes = 6;
}
static void long_bf16(kvs_part_header *h)
{
    h->codec = KVS_CODEC_BF16;
}
static void short_int8(kvs_part_header *h)
{
    h->codec = KVS_CODEC_INT8;
    h->payload_bytes = 7;
}
static void cut_entry(kvs_part_header *h)
{
    h->codec = KVS_CODEC_ENTRIES;
    h->payload_bytes = 12;
}
static void index_outside(kvs_part_header *h)
{
    h->codec = KVS_CODEC_ENTRIES; /* the bytes of 1.0f are no index of 4 elements */
}
static void no_codec(kvs_part_header *h)
{
    h->codec = (kvs_codec)99;
}
static void negative_codec(kvs_part_header *h)
{
    h->codec = (kvs_codec)-1;
}
static void weighted(kvs_part_header *h)
{
    h->has_weight = true;
}
static void f64(kvs_part_header *h)
{
    h->dtype = KVS_F64;
}
static void no_dtype(kvs_part_header *h)
{
    h->dtype = (kvs_dtype)99;
}
static void shape_9(kvs_part_header *h)
{
    h->has_shape = true;
    h->shape = shape_of_9;
    h->shape_bytes = 1;
}
static void shape_33(kvs_part_header *h)
{
    h->has_shape = true;
    h->shape = shapes_33;
    h->shape_bytes = 33;
}
static void shape_cut(kvs_part_header *h)
{
    h->has_shape = true;
    h->shape = cut_shape;
    h->shape_bytes = 1;
}
static void inside_a_part(kvs_part_header *h)
{
    h->element_offset = 2;
}
static void past_the_end(kvs_part_header *h)
{
    h->element_offset = 12;
}
static void far_past_the_end(kvs_part_header *h)
{
    h->element_offset = UINT64_MAX - 3;
}
static void last_part(kvs_part_header *h)
{
    h->element_offset = 8;
} /* has 2 elements */
static void crosses(kvs_part_header *h)
{
    h->element_count = 5;
}
static void few_elements(kvs_part_header *h)
{
    h->element_count = 3;
}
static void all_elements(kvs_part_header *h)
{
    h->element_count = UINT64_MAX;
}
static void no_sequence(kvs_part_header *h)
{
    h->sequence = 0;
}
static void after_itself(kvs_part_header *h)
{
    h->after = h->sequence;
}
static void after_all(kvs_part_header *h)
{
    h->after = UINT64_MAX;
}
static void beyond(kvs_part_header *h)
{
    h->sequence += 32;
}
static void far_beyond(kvs_part_header *h)
{
    h->sequence = UINT64_MAX;
}

static const row rows[] = {
    {"no such key", no_such_key, KVS_KEY_NOT_FOUND, true},
    {"an empty key", empty_key, KVS_KEY_NOT_FOUND, true},
    {"a huge key", huge_key, KVS_KEY_NOT_FOUND, true},
    {"rows of a dense key", sparse, KVS_INVALID_TENSOR, true},
    {"row ids of a dense key", row_ids, KVS_INVALID_TENSOR, true},
    {"no storage", no_storage, KVS_INVALID_FIELD, true},
    {"2bit without a threshold", no_threshold, KVS_INVALID_TENSOR, true},
    {"2bit, NaN", nan_threshold, KVS_INVALID_TENSOR, true},
    {"2bit, infinity", infinite_threshold, KVS_INVALID_TENSOR, true},
    {"2bit of too many bytes", long_2bit, KVS_INVALID_TENSOR, true},
    {"1bit of too few bytes", short_1bit, KVS_INVALID_TENSOR, true},
    {"f16 of too few bytes", short_f16, KVS_INVALID_TENSOR, true},
    {"bf16 of too many bytes", long_bf16, KVS_INVALID_TENSOR, true},
    {"int8 of too few bytes", short_int8, KVS_INVALID_TENSOR, true},
    {"an entry that is cut", cut_entry, KVS_INVALID_TENSOR, true},
    {"an index outside", index_outside, KVS_INVALID_TENSOR, true},
    {"no codec", no_codec, KVS_INVALID_TENSOR, true},
    {"a negative codec", negative_codec, KVS_INVALID_TENSOR, true},
    {"a weight", weighted, KVS_UNIMPLEMENTED, true},
    {"another dtype", f64, KVS_INVALID_TENSOR, true},
    {"no dtype", no_dtype, KVS_INVALID_TENSOR, true},
    {"another shape", shape_9, KVS_INVALID_TENSOR, true},
    {"33 dimensions", shape_33, KVS_INVALID_TENSOR, true},
    {"a shape that is cut", shape_cut, KVS_INVALID_TENSOR, true},
    {"an offset inside a part", inside_a_part, KVS_INVALID_TENSOR, true},
    {"an offset past the end", past_the_end, KVS_INVALID_TENSOR, true},
    {"an offset far past the end", far_past_the_end, KVS_INVALID_TENSOR, true},
    {"the count of another part", last_part, KVS_INVALID_TENSOR, true},
    {"more elements than the part", crosses, KVS_INVALID_TENSOR, true},
    {"fewer elements than the part", few_elements, KVS_INVALID_TENSOR, true},
    {"2^64 elements", all_elements, KVS_INVALID_TENSOR, true},
    {"no sequence", no_sequence, KVS_INVALID_FIELD, false},
    {"after itself", after_itself, KVS_INVALID_FIELD, true},
    {"after everything", after_all, KVS_INVALID_FIELD, true},
    {"beyond the window", beyond, KVS_SEQ_GAP, false},
    {"far beyond the window", far_beyond, KVS_SEQ_GAP, false},
};

static void
every_refusal_has_its_status_gives_its_bytes_back_and_uses_its_sequence_or_not(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_async(&f);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t next = a->session->window.low;
        kvs_part_header header = whole("w", 4, next);
        rows[i].spoil(&header);
        fixture_push_parts(a, &header, 1, ones, (size_t)header.payload_bytes, false);
        kvs_status status = fixture_status(a, header.sequence);
        if (status != rows[i].status) {
            fail_msg("%s: %s", rows[i].name, kvs_status_find(status)->reason);
        }
        if (used(a, next) != rows[i].used) {
            fail_msg("%s: sequence used %d", rows[i].name, !rows[i].used);
        }
        assert_int_equal(a->credit_back, a->bytes_pushed);
        assert_int_equal(a->session->credit_used, 0);
        if (rows[i].used) {
            /* A repetition gets the same answer. */
            header = whole("w", 4, next);
            fixture_push_parts(a, &header, 1, ones, 16, false);
            assert_int_equal(fixture_status(a, next), rows[i].status);
            assert_int_equal(a->credit_back, a->bytes_pushed);
        }
        /* The session goes on. */
        header = whole("w", 4, a->session->window.low);
        header.after = header.sequence - 1;
        fixture_push_parts(a, &header, 1, ones, 16, false);
        assert_int_equal(fixture_status(a, header.sequence), KVS_OK);
    }
    kvs_key_info info;
    assert_int_equal(kvs_key_describe(f.store, "w", 1, &info, NULL), KVS_OK);
    fixture_close(&f);
}

static void one_bad_part_of_a_frame_hurts_no_other(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_async(&f);
    kvs_part_header headers[3] = {whole("w", 4, 1), whole("w", 4, 2), whole("w", 2, 3)};
    headers[1].element_offset = 5;
    headers[2].element_offset = 8;
    fixture_push_parts(a, headers, 3, ones, 40, false);
    assert_int_equal(fixture_status(a, 1), KVS_OK);
    assert_int_equal(fixture_status(a, 2), KVS_INVALID_TENSOR);
    assert_int_equal(fixture_status(a, 3), KVS_OK);
    a->sequence = 4;
    (void)fixture_pull(a, "w", 3);
    const float expected[10] = {1, 1, 1, 1, 0, 0, 0, 0, 1, 1};
    assert_memory_equal(a->value, expected, sizeof expected);
    assert_int_equal(a->credit_back, 40);
    fixture_close(&f);
}

static void a_refusal_lets_pass_what_waited_for_its_sequence(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_async(&f);
    kvs_part_header second = whole("w", 4, 2);
    second.after = 1;
    fixture_push_parts(a, &second, 1, ones, 16, false);
    assert_int_equal(fixture_status(a, 2), KVS_STATUS_COUNT);
    kvs_part_header first = whole("x", 4, 1);
    fixture_push_parts(a, &first, 1, ones, 16, false);
    assert_int_equal(fixture_status(a, 1), KVS_KEY_NOT_FOUND);
    assert_int_equal(fixture_status(a, 2), KVS_OK);
    fixture_close(&f);
}

/* Else what others wait for would wait for the others. */
static void the_lowest_sequence_is_taken_over_the_credit(void **state)
{
    fixture f;
    (void)state;
    fixture_open(
        &f, &(fixture_options){
                .type = "dist_sync", .num_workers = 2, .part_elements = 4, .credit_bytes = 48});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 12);
    fixture_init(&f, "x", zeros, 4);
    fixture_push_at(b, "w", ones, 12, 2, 0, false); /* 48 bytes, held for rank 0 */
    fixture_push_at(b, "x", ones, 4, 1, 0, false);
    assert_int_equal(fixture_status(b, 1), KVS_STATUS_COUNT);
    fixture_push_at(b, "x", ones, 4, 5, 1, false); /* not the lowest */
    assert_int_equal(fixture_status(b, 5), KVS_OVER_CREDIT);
    (void)fixture_push(a, "x", ones, 4, 0, false);
    assert_int_equal(fixture_status(b, 1), KVS_OK);
    (void)fixture_push(a, "w", ones, 12, 0, false);
    assert_int_equal(fixture_status(b, 4), KVS_OK);
    assert_int_equal(b->credit_back, 80); /* with what was refused */
    fixture_close(&f);
}

static void what_is_over_the_credit_has_not_used_its_sequence(void **state)
{
    fixture f;
    (void)state;
    fixture_open(
        &f, &(fixture_options){
                .type = "dist_sync", .num_workers = 2, .part_elements = 4, .credit_bytes = 48});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 12);
    fixture_push_at(b, "w", ones, 12, 1, 0, false); /* 48 bytes, held for rank 0 */
    fixture_push_at(b, "w", ones, 4, 4, 1, false);
    assert_int_equal(fixture_status(b, 4), KVS_OVER_CREDIT);
    assert_false(used(b, 4));
    assert_int_equal(b->credit_back, 16);
    (void)fixture_push(a, "w", ones, 12, 0, false);
    assert_int_equal(b->credit_back, 64);
    fixture_push_at(b, "w", ones, 4, 4, 1, false); /* the same, again */
    (void)fixture_push(a, "w", ones, 12, 3, false);
    assert_int_equal(fixture_status(b, 4), KVS_OK);
    fixture_close(&f);
}

static void a_fenced_push_has_its_bytes_back(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_async(&f);
    kvs_session_leave(a->session, f.now_ns);
    (void)fixture_push(a, "w", ones, 10, 0, false);
    for (uint64_t s = 1; s <= 3; s++) {
        assert_int_equal(fixture_status(a, s), KVS_FENCED);
        assert_false(used(a, s));
    }
    assert_int_equal(a->credit_back, 40);
    fixture_close(&f);
}

static void a_repetition_on_another_channel_is_answered_there(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync", .num_workers = 2, .part_elements = 4});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", zeros, 4);
    (void)fixture_push(a, "w", ones, 4, 0, false);
    fixture_close_channel(a);
    assert_int_equal(a->references, 1); /* the part that waits for its round */
    fixture_worker *again = fixture_join_again(a);
    fixture_push_at(again, "w", ones, 4, 1, 0, false);
    assert_int_equal(a->references, 0);
    assert_int_equal(again->credit_back, 16);
    (void)fixture_push(b, "w", ones, 4, 0, false);
    assert_int_equal(fixture_status(again, 1), KVS_OK);
    assert_int_equal(a->answer_count, 0);
    (void)fixture_pull(b, "w", 1);
    assert_true(b->value[0] == 2.0f); /* once */
    fixture_close(&f);
}

static void a_sequence_of_a_pull_repeated_as_a_push_harms_nobody(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_async(&f);
    kvs_pull_key pull = {.key = "w", .key_bytes = 1, .sequence = 1, .min_version = {7, 1}};
    fixture_pull_keys(a, &pull, 1); /* waits */
    fixture_worker *other = fixture_join_again(a);
    fixture_push_at(other, "w", ones, 4, 1, 0, true);
    fixture_close_channel(a);
    fixture_push_at(other, "w", ones, 10, 2, 0, false);
    fixture_close_channel(other);
    assert_int_equal(a->session->ops_live, 0);
    fixture_close(&f);
}

/* ------------------------------------------------------------------ a property */

static uint64_t random_below(uint64_t *seed, uint64_t bound)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (*seed >> 33) % bound;
}

/* Random pushes, good and bad, repeated and out of order, in a random order of turns, with ranks
 * that go: at the end every byte is back, every frame is free, and nothing is charged. */
/* A push in one of the ways in which it may come. */
static void encode(kvs_part_header *header, uint64_t way)
{
    static const kvs_codec codecs[] = {KVS_CODEC_2BIT, KVS_CODEC_1BIT, KVS_CODEC_F16,
                                       KVS_CODEC_BF16, KVS_CODEC_INT8, KVS_CODEC_ENTRIES};
    header->codec = codecs[way];
    header->threshold = way == 0 ? 0.25f : 0;
    header->payload_bytes = header->codec == KVS_CODEC_ENTRIES
                                ? 0
                                : kvs_codec_bytes(header->codec, header->element_count);
}

static void random_push(fixture_worker *a, uint64_t *seed)
{
    uint64_t index = random_below(seed, 3);
    kvs_part_header header = whole("w", index == 2 ? 2 : 4, 0);
    header.element_offset = 4 * index;
    header.sequence = a->session->window.low + random_below(seed, 6);
    header.after = random_below(seed, 2) == 0 ? 0 : header.sequence - 1;
    if (random_below(seed, 8) == 0) {
        rows[random_below(seed, sizeof rows / sizeof rows[0])].spoil(&header);
    } else if (random_below(seed, 2) == 0) {
        encode(&header, random_below(seed, 6));
    }
    fixture_push_parts(a, &header, 1, ones, (size_t)header.payload_bytes,
                       random_below(seed, 2) == 0);
}

static void random_schedule(uint64_t seed, const char *type, kvs_policy policy)
{
    fixture f;
    fixture_worker *w[3];
    const uint64_t number = seed;
    fixture_open(&f, &(fixture_options){.type = type,
                                        .num_workers = 3,
                                        .part_elements = 4,
                                        .policy = policy,
                                        .shards = 3,
                                        .inflight_parts = 16,
                                        .credit_bytes = 100,
                                        .manual = true});
    for (int i = 0; i < 3; i++) {
        w[i] = fixture_join(&f, i);
    }
    fixture_run_all(&f);
    fixture_init(&f, "w", zeros, 10);
    fixture_init(&f, "v", zeros, 7);
    if (random_below(&seed, 2) == 0) {
        fixture_optimizer(&f, "{\"name\":\"sgd\",\"learning_rate\":0.1,\"momentum\":0.9}");
    }
    bool gone = false;
    for (int step = 0; step < 150; step++) {
        fixture_worker *a = w[random_below(&seed, 3)];
        uint64_t what = random_below(&seed, 20);
        if (what < 9) {
            random_push(a, &seed);
        } else if (what < 11) {
            kvs_pull_key pull = {.key = random_below(&seed, 2) == 0 ? "w" : "v",
                                 .key_bytes = 1,
                                 .sequence = a->session->window.low + random_below(&seed, 6),
                                 .snapshot = random_below(&seed, 4) == 0};
            pull.after = random_below(&seed, pull.sequence);
            fixture_pull_keys(a, &pull, 1);
        } else if (what == 11 && !gone && step > 60) {
            kvs_session_leave(a->session, f.now_ns);
            gone = true;
        } else if (what == 12) {
            for (int i = 0; i < 3; i++) {
                (void)!kvs_session_heartbeat(w[i]->session, f.now_ns);
            }
            fixture_tick(&f, 3 * KVS_SECOND);
        } else if (f.ready_count > 0) {
            fixture_run(&f, f.ready[random_below(&seed, f.ready_count)]);
        }
    }
    fixture_run_all(&f);
    for (int i = 0; i < 3; i++) {
        if (w[i]->credit_back + w[i]->session->credit_used > w[i]->bytes_pushed) {
            fail_msg("seed %llu: credit given twice", (unsigned long long)number);
        }
    }
    /* The sessions live; the store ends, and with it all that waits. */
    assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, NULL), KVS_OK);
    fixture_run_all(&f);
    for (int i = 0; i < 3; i++) {
        if (w[i]->credit_back != w[i]->bytes_pushed || w[i]->session->credit_used != 0 ||
            w[i]->session->ops_live != 0) {
            fail_msg("seed %llu: %llu of %llu bytes came back, %llu are charged, %zu ops live",
                     (unsigned long long)number, (unsigned long long)w[i]->credit_back,
                     (unsigned long long)w[i]->bytes_pushed,
                     (unsigned long long)w[i]->session->credit_used, w[i]->session->ops_live);
        }
    }
    assert_int_equal(f.frames_made, f.frames_done);
    kvs_store_statistics statistics;
    kvs_store_count(f.store, &statistics);
    assert_int_equal(statistics.held_bytes, 0);
    fixture_close(&f);
}

static void every_byte_of_credit_comes_back_exactly_once_synchronous(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        random_schedule(seed, "dist_sync", (kvs_policy)(seed % 3));
    }
}

static void every_byte_of_credit_comes_back_exactly_once_asynchronous(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        random_schedule(seed * 3 + 1, "dist_async", KVS_POLICY_FAIL);
    }
}

int main(void)
{
    memset(long_key, 'k', sizeof long_key);
    memset(shapes_33, 1, sizeof shapes_33);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            every_refusal_has_its_status_gives_its_bytes_back_and_uses_its_sequence_or_not),
        cmocka_unit_test(one_bad_part_of_a_frame_hurts_no_other),
        cmocka_unit_test(a_refusal_lets_pass_what_waited_for_its_sequence),
        cmocka_unit_test(the_lowest_sequence_is_taken_over_the_credit),
        cmocka_unit_test(what_is_over_the_credit_has_not_used_its_sequence),
        cmocka_unit_test(a_fenced_push_has_its_bytes_back),
        cmocka_unit_test(a_repetition_on_another_channel_is_answered_there),
        cmocka_unit_test(a_sequence_of_a_pull_repeated_as_a_push_harms_nobody),
        cmocka_unit_test(every_byte_of_credit_comes_back_exactly_once_synchronous),
        cmocka_unit_test(every_byte_of_credit_comes_back_exactly_once_asynchronous),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
