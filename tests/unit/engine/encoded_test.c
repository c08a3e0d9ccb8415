/* Pulls that ask for fewer bytes: what comes, how often it is encoded, whose memory it takes. */
#include "base/half.h"
#include "engine/backend_cpu.h"
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Parts of 1000 and 500. */
#define ELEMENTS 1500
#define PART 1000

static float values[ELEMENTS];

static void open_fixture(fixture *f, uint32_t workers, uint64_t memory_bytes_max)
{
    fixture_open(f, &(fixture_options){.type = "dist_sync",
                                       .num_workers = workers,
                                       .part_elements = PART,
                                       .memory_bytes_max = memory_bytes_max});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
    for (size_t i = 0; i < ELEMENTS; i++) {
        values[i] = 1 + (float)i / 4096;
    }
}

static uint64_t pull_as(fixture_worker *worker, const char *key, kvs_codec codec, bool snapshot)
{
    kvs_pull_key pull = {.key = key,
                         .key_bytes = (uint32_t)strlen(key),
                         .sequence = worker->sequence++,
                         .codec = codec,
                         .snapshot = snapshot};
    worker->bytes_pulled = 0;
    memset(worker->value, 0, sizeof worker->value);
    fixture_pull_keys(worker, &pull, 1);
    return pull.sequence;
}

static void check_bf16(const fixture_worker *worker, float factor)
{
    for (size_t i = 0; i < ELEMENTS; i++) {
        assert_true(worker->value[i] == kvs_bf16_to_f32(kvs_f32_to_bf16(factor * values[i])));
    }
}

static void a_value_comes_as_it_is_asked_for(void **state)
{
    static const struct {
        kvs_codec codec;
        uint64_t bytes;
        float error;
    } rows[] = {{KVS_CODEC_NONE, 4 * ELEMENTS, 0},
                {KVS_CODEC_F16, 2 * ELEMENTS, 0x1p-11f},
                {KVS_CODEC_BF16, 2 * ELEMENTS, 0x1p-8f},
                {KVS_CODEC_INT8, ELEMENTS + 4 * (4 + 2), 1.37f / 254}};
    fixture f;
    kvs_store_statistics counted;
    uint64_t bytes = 0;
    (void)state;
    open_fixture(&f, 1, 0);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", values, ELEMENTS);
    for (int snapshot = 0; snapshot < 2; snapshot++) {
        for (size_t r = 0; r < 4; r++) {
            uint64_t sequence = pull_as(a, "w", rows[r].codec, snapshot == 1);
            assert_int_equal(fixture_status(a, sequence), KVS_OK);
            assert_int_equal(a->bytes_pulled, rows[r].bytes);
            bytes += snapshot == 0 ? rows[r].bytes : 0;
            for (size_t i = 0; i < ELEMENTS; i++) {
                float error = a->value[i] - values[i];
                assert_true(error <= rows[r].error && error >= -rows[r].error);
            }
        }
    }
    kvs_store_count(f.store, &counted);
    assert_int_equal(counted.bytes_pulled, bytes);
    fixture_close(&f);
}

static void a_version_is_encoded_once_for_all_who_pull_it(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 2, 0);
    fixture_worker *a = f.workers[0];
    fixture_worker *b = f.workers[1];
    fixture_init(&f, "w", values, ELEMENTS);
    (void)pull_as(a, "w", KVS_CODEC_BF16, false);
    (void)pull_as(b, "w", KVS_CODEC_BF16, false);
    assert_ptr_equal(a->data, b->data);
    check_bf16(a, 1);
    check_bf16(b, 1);
    (void)pull_as(b, "w", KVS_CODEC_F16, false); /* another codec: its own bytes */
    (void)pull_as(a, "w", KVS_CODEC_BF16, false);
    check_bf16(a, 1);
    (void)fixture_push(a, "w", values, ELEMENTS, 0, false);
    (void)fixture_push(b, "w", values, ELEMENTS, 0, false);
    (void)pull_as(b, "w", KVS_CODEC_BF16, false); /* the next version: not the last one's */
    check_bf16(b, 2);
    kvs_key *key = kvs_key_table_find(&f.store->keys, "w", 1);
    assert_non_null(key->parts[0].encoded);
    (void)fixture_push(a, "w", values, ELEMENTS, 0, false);
    (void)fixture_push(b, "w", values, ELEMENTS, 0, false);
    assert_null(key->parts[0].encoded);
    fixture_close(&f);
}

/* The CPU's backend, with what leaves it counted as if it were a device. */
static const kvs_backend_table *cpu;
static size_t downloaded;

static kvs_status counted_download(kvs_stream *stream, kvs_memory *const *memories, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        downloaded += memories[i]->bytes;
    }
    return cpu->download(stream, memories, count);
}

static void no_more_than_the_encoding_leaves_the_device(void **state)
{
    static const struct {
        kvs_codec codec;
        size_t bytes;
    } rows[] = {{KVS_CODEC_BF16, 2 * ELEMENTS}, {KVS_CODEC_INT8, ELEMENTS + 4 * (4 + 2)}};
    static kvs_backend_table table;
    kvs_backend *backend = NULL;
    kvs_problem problem;
    fixture f;
    (void)state;
    assert_int_equal(kvs_backend_cpu_open(NULL, &backend, &problem), KVS_OK);
    cpu = backend->table;
    table = *cpu;
    table.download = counted_download;
    backend->table = &table;
    fixture_open(
        &f, &(fixture_options){
                .type = "dist_sync", .num_workers = 1, .part_elements = PART, .backend = backend});
    fixture_worker *worker = fixture_join(&f, 0);
    fixture_init(&f, "w", values, ELEMENTS);
    for (size_t r = 0; r < 2; r++) {
        for (int snapshot = 0; snapshot < 2; snapshot++) {
            downloaded = 0;
            (void)pull_as(worker, "w", rows[r].codec, snapshot == 1);
            assert_true(snapshot == 1 || downloaded >= rows[r].bytes);
            /* A buffer may be a quarter larger than what it holds. */
            assert_true(downloaded <= rows[r].bytes * 5 / 4);
        }
    }
    fixture_close(&f);
}

/* In one turn of a shard: the second is given what the first has not written yet. */
static void two_pulls_of_one_turn_are_both_right(void **state)
{
    fixture f;
    kvs_pull_key pulls[2];
    (void)state;
    open_fixture(&f, 1, 0);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", values, ELEMENTS);
    for (size_t i = 0; i < 2; i++) {
        pulls[i] = (kvs_pull_key){
            .key = "w", .key_bytes = 1, .sequence = a->sequence++, .codec = KVS_CODEC_BF16};
    }
    fixture_pull_keys(a, pulls, 2);
    assert_int_equal(a->values, 4);
    check_bf16(a, 1);
    fixture_close(&f);
}

static void other_codecs_are_refused_and_other_dtypes_come_whole(void **state)
{
    static const kvs_codec none[] = {KVS_CODEC_2BIT, KVS_CODEC_1BIT, KVS_CODEC_ENTRIES,
                                     (kvs_codec)77, (kvs_codec)-1};
    fixture f;
    (void)state;
    open_fixture(&f, 1, 0);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", values, ELEMENTS);
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        uint64_t sequence = pull_as(a, "w", none[i], i % 2 == 1);
        assert_int_equal(fixture_status(a, sequence), KVS_INVALID_FIELD);
        assert_non_null(strstr(fixture_answer_of(a, sequence)->detail, "bf16"));
    }
    assert_int_equal(a->values, 0);
    kvs_key *key = kvs_key_table_find(&f.store->keys, "w", 1);
    key->dtype = KVS_I32; /* the same bytes */
    assert_int_equal(fixture_status(a, pull_as(a, "w", KVS_CODEC_BF16, false)), KVS_OK);
    assert_memory_equal(a->value, values, sizeof values);
    key->dtype = KVS_F32;
    fixture_close(&f);
}

/* Room for the value and one encoding of a part. What finds none is refused, not left out. */
static void encodings_stand_in_the_budget(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, 1, 0);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", values, ELEMENTS);
    uint64_t held = atomic_load(&f.store->engine->budget.bytes);
    f.store->engine->budget.bytes_max = held;
    assert_int_equal(fixture_status(a, pull_as(a, "w", KVS_CODEC_BF16, false)), KVS_OVER_BUDGET);
    assert_int_equal(fixture_status(a, pull_as(a, "w", KVS_CODEC_BF16, true)), KVS_OVER_BUDGET);
    assert_int_equal(fixture_status(a, pull_as(a, "w", KVS_CODEC_NONE, false)), KVS_OK);
    assert_memory_equal(a->value, values, sizeof values);
    assert_int_equal(atomic_load(&f.store->engine->budget.bytes), held);
    f.store->engine->budget.bytes_max = 0;
    assert_int_equal(fixture_status(a, pull_as(a, "w", KVS_CODEC_BF16, true)), KVS_OK);
    check_bf16(a, 1);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_comes_as_it_is_asked_for),
        cmocka_unit_test(a_version_is_encoded_once_for_all_who_pull_it),
        cmocka_unit_test(no_more_than_the_encoding_leaves_the_device),
        cmocka_unit_test(two_pulls_of_one_turn_are_both_right),
        cmocka_unit_test(other_codecs_are_refused_and_other_dtypes_come_whole),
        cmocka_unit_test(encodings_stand_in_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
