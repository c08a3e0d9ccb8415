/* Pulls: what they wait for, in what order they go, how far they run ahead of their reader. */
#include "engine/session.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LARGE_PART ((uint64_t)1 << 15)

static const float zeros[16];
static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const float twos[16] = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2};

static void open_sync(fixture *f, uint32_t workers)
{
    fixture_open(
        f, &(fixture_options){.type = "dist_sync", .num_workers = workers, .part_elements = 4});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
}

/* Keys of two parts of 128 KiB, and a reader that takes nothing: 4 MiB are 32 parts. */
static fixture_worker *open_large(fixture *f, unsigned keys)
{
    char name[2] = "a";
    float *values = calloc(2 * LARGE_PART, sizeof *values);
    assert_non_null(values);
    fixture_open(
        f, &(fixture_options){.type = "dist_sync", .num_workers = 1, .part_elements = LARGE_PART});
    fixture_worker *a = fixture_join(f, 0);
    for (unsigned i = 0; i < keys; i++) {
        name[0] = (char)('a' + i);
        fixture_init(f, name, values, 2 * LARGE_PART);
    }
    free(values);
    a->slow = true;
    return a;
}

static void values_count_as_pulled_by_a_pull_and_by_a_pushpull(void **state)
{
    static const char *const types[] = {"dist_sync", "dist_async"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        fixture f;
        kvs_store_statistics counted;
        fixture_open(&f,
                     &(fixture_options){.type = types[i], .num_workers = 1, .part_elements = 4});
        fixture_worker *a = fixture_join(&f, 0);
        fixture_init(&f, "w", zeros, 10);
        fixture_optimizer(&f, "{\"name\": \"sgd\"}");
        (void)fixture_push(a, "w", ones, 10, 0, false);
        kvs_store_count(f.store, &counted);
        assert_int_equal(counted.bytes_pulled, 0);
        (void)fixture_push(a, "w", ones, 10, 0, true);
        (void)fixture_pull(a, "w", 0);
        kvs_store_count(f.store, &counted);
        assert_int_equal(counted.parts_pulled, 2 * 3);
        assert_int_equal(counted.bytes_pulled, 2 * sizeof(float[10]));
        assert_int_equal(counted.bytes_pushed, 2 * sizeof(float[10]));
        fixture_close(&f);
    }
}

static kvs_pull_key key_of(const char *key, uint64_t sequence)
{
    return (kvs_pull_key){.key = key, .key_bytes = (uint32_t)strlen(key), .sequence = sequence};
}

static void what_cannot_be_pulled_is_told_why_and_whether_its_sequence_was_used(void **state)
{
    fixture f;
    char long_key[KVS_KEY_BYTES_MAX + 2];
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 4);
    memset(long_key, 'k', sizeof long_key);
    long_key[KVS_KEY_BYTES_MAX + 1] = '\0';
    const struct {
        kvs_pull_key key;
        kvs_status status;
        bool used;
    } rows[] = {
        {{.key = "x", .key_bytes = 1, .sequence = 1}, KVS_KEY_NOT_FOUND, true},
        {{.key = long_key, .key_bytes = sizeof long_key - 1, .sequence = 2},
         KVS_KEY_NOT_FOUND,
         true},
        {{.key = "w", .key_bytes = 1, .sequence = 3, .after = 3}, KVS_INVALID_FIELD, true},
        {{.key = "w", .key_bytes = 1, .sequence = 4, .after = UINT64_MAX}, KVS_INVALID_FIELD, true},
        {{.key = "w", .key_bytes = 1, .sequence = 5, .min_version = {8, 1}},
         KVS_INVALID_FIELD,
         true},
        {{.key = "w", .key_bytes = 1, .sequence = 6, .min_version = {7, 1}, .snapshot = true},
         KVS_UNIMPLEMENTED,
         true},
        {{.key = "w", .key_bytes = 1, .sequence = UINT64_MAX}, KVS_SEQ_GAP, false},
        {{.key = "w", .key_bytes = 1, .sequence = 100000}, KVS_SEQ_GAP, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        kvs_entry *entry = NULL;
        fixture_pull_keys(a, &rows[i].key, 1);
        if (fixture_status(a, rows[i].key.sequence) != rows[i].status) {
            fail_msg("row %zu: %s", i,
                     kvs_status_find(fixture_status(a, rows[i].key.sequence))->reason);
        }
        bool used =
            kvs_window_find(&a->session->window, rows[i].key.sequence, &entry) == KVS_PLACE_IN &&
            entry->state == KVS_ENTRY_ENDED;
        assert_int_equal(used, rows[i].used);
    }
    assert_int_equal(a->session->window.low, 7); /* what comes next need not wait */
    assert_int_equal(a->values, 0);
    fixture_close(&f);
}

static void a_min_version_is_waited_for(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 8);
    kvs_pull_key pull = key_of("w", 1);
    pull.min_version = (kvs_version){7, 2};
    fixture_pull_keys(a, &pull, 1);
    a->sequence = 2;
    (void)fixture_push(a, "w", ones, 8, 0, false);
    assert_int_equal(fixture_status(a, 1), KVS_STATUS_COUNT);
    (void)fixture_push(a, "w", twos, 8, 3, false);
    assert_int_equal(fixture_status(a, 1), KVS_OK);
    assert_int_equal(a->version.count, 2);
    assert_memory_equal(a->value, twos, 32);
    /* One of an earlier epoch has passed. */
    pull = key_of("w", 6);
    pull.min_version = (kvs_version){6, 1000};
    fixture_pull_keys(a, &pull, 1);
    assert_int_equal(fixture_status(a, 6), KVS_OK);
    fixture_close(&f);
}

static void a_snapshot_waits_for_the_end_of_what_it_comes_after(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 2);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 8);
    uint64_t s = fixture_push(a, "w", ones, 8, 0, false);
    kvs_pull_key pull = key_of("w", 3);
    pull.after = s + 1;
    pull.snapshot = true;
    fixture_pull_keys(a, &pull, 1);
    assert_int_equal(fixture_status(a, 3), KVS_STATUS_COUNT);
    (void)fixture_push(f.workers[1], "w", ones, 8, 0, false);
    assert_int_equal(fixture_status(a, 3), KVS_OK);
    assert_int_equal(a->values, 2);
    assert_int_equal(a->version.count, 1);
    assert_memory_equal(a->value, twos, 32);
    /* A version that has come need not be waited for. */
    pull = key_of("w", 4);
    pull.snapshot = true;
    pull.min_version = (kvs_version){7, 1};
    fixture_pull_keys(a, &pull, 1);
    assert_int_equal(fixture_status(a, 4), KVS_OK);
    fixture_close(&f);
}

static void a_snapshot_after_a_pull_is_answered_when_the_pull_is(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 1,
                                        .part_elements = 4,
                                        .shards = 1,
                                        .manual = true});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_run_all(&f);
    fixture_init(&f, "w", zeros, 4);
    kvs_pull_key pulls[2] = {key_of("w", 1), key_of("w", 2)};
    pulls[1].after = 1;
    pulls[1].snapshot = true;
    fixture_pull_keys(a, pulls, 2);
    fixture_run_all(&f);
    assert_int_equal(fixture_status(a, 1), KVS_OK);
    assert_int_equal(fixture_status(a, 2), KVS_OK);
    fixture_close(&f);
}

static void what_comes_after_a_snapshot_goes_on_when_it_has_begun(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 4);
    fixture_push_at(a, "w", ones, 4, 3, 2, false);
    kvs_pull_key pull = key_of("w", 2);
    pull.after = 1;
    pull.snapshot = true;
    fixture_pull_keys(a, &pull, 1);
    fixture_push_at(a, "w", ones, 4, 1, 0, false);
    for (uint64_t s = 1; s <= 3; s++) {
        assert_int_equal(fixture_status(a, s), KVS_OK);
    }
    fixture_close(&f);
}

static void a_pull_waits_for_its_place_and_sees_what_came_before(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 4);
    kvs_pull_key pull = key_of("w", 2);
    pull.after = 1;
    fixture_pull_keys(a, &pull, 1); /* its push is still on the way */
    assert_int_equal(fixture_status(a, 2), KVS_STATUS_COUNT);
    fixture_push_at(a, "w", ones, 4, 1, 0, false);
    assert_int_equal(fixture_status(a, 2), KVS_OK);
    assert_int_equal(a->version.count, 1);
    fixture_close(&f);
}

static void values_of_all_kinds_count_until_they_have_left(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 8);
    a->slow = true;
    kvs_pull_key pulls[3] = {key_of("w", 1), key_of("w", 2), key_of("w", 3)};
    pulls[0].snapshot = true;
    pulls[2].min_version = (kvs_version){7, 1}; /* asked for, and not answered */
    fixture_pull_keys(a, pulls, 3);
    a->sequence = 4;
    (void)fixture_push(a, "w", ones, 8, 0, true);
    fixture_push_at(a, "w", ones, 8, 4, 0, true); /* repeated: its values come again */
    assert_int_equal(a->values, 10);
    assert_int_equal(a->unsent, 160);
    assert_int_equal(a->channel.ahead_bytes, 160);
    fixture_sent(a, 160);
    assert_int_equal(a->channel.ahead_bytes, 0);
    fixture_close(&f);
}

static void a_snapshot_does_not_stop_the_pulls_beside_it(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 8);
    a->slow = true;
    kvs_pull_key pulls[2] = {key_of("w", 1), key_of("w", 2)};
    pulls[0].snapshot = true;
    pulls[1].min_version = (kvs_version){7, 1};
    fixture_pull_keys(a, pulls, 2);
    for (int i = 0; i < 20; i++) {
        pulls[0].sequence = 3 + (uint64_t)i;
        fixture_pull_keys(a, pulls, 1);
    }
    fixture_sent(a, a->unsent); /* more bytes than the pull that waits has charged */
    a->sequence = 23;
    (void)fixture_push(a, "w", ones, 8, 0, false);
    assert_int_equal(fixture_status(a, 2), KVS_OK);
    uint64_t p = fixture_pull(a, "w", 0);
    assert_int_equal(fixture_status(a, p), KVS_OK);
    fixture_close(&f);
}

static void higher_priority_goes_first_between_keys(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_large(&f, 20);
    kvs_pull_key pulls[20];
    char names[20][2];
    for (unsigned i = 0; i < 20; i++) { /* 40 parts, of which 32 may be ahead */
        names[i][0] = (char)('a' + i);
        names[i][1] = '\0';
        pulls[i] = key_of(names[i], i + 1);
        pulls[i].priority = i == 19 ? 5 : i == 18 ? INT32_MIN : 0;
    }
    fixture_pull_keys(a, pulls, 20);
    assert_int_equal(a->values, 32);
    fixture_sent(a, 2 * LARGE_PART * sizeof(float));
    assert_int_equal(a->values, 34);
    assert_int_equal(a->value_sequence, 20); /* before the 17th to 19th */
    uint64_t order[3];
    for (unsigned i = 0; i < 3; i++) {
        fixture_sent(a, 2 * LARGE_PART * sizeof(float));
        order[i] = a->value_sequence;
    }
    assert_int_equal(order[0], 17);
    assert_int_equal(order[1], 18);
    assert_int_equal(order[2], 19);
    assert_int_equal(a->values, 40);
    fixture_close(&f);
}

static void no_more_than_the_bound_runs_ahead_of_a_slow_reader(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_large(&f, 26);
    kvs_pull_key pulls[26];
    char names[26][2];
    for (unsigned i = 0; i < 26; i++) {
        names[i][0] = (char)('a' + i);
        names[i][1] = '\0';
        pulls[i] = key_of(names[i], i + 1);
    }
    fixture_pull_keys(a, pulls, 26);
    uint64_t sent = 0;
    while (a->unsent > 0) {
        uint64_t some = a->unsent < 100000 ? a->unsent : 100000; /* no whole parts */
        assert_true(a->unsent <= KVS_PULL_BYTES_AHEAD);
        assert_int_equal(a->channel.ahead_bytes, a->unsent);
        fixture_sent(a, some);
        sent += some;
    }
    assert_int_equal(a->values, 52);
    assert_int_equal(sent, 52 * LARGE_PART * sizeof(float));
    assert_int_equal(a->channel.ahead_bytes, 0);
    for (uint64_t s = 1; s <= 26; s++) {
        assert_int_equal(fixture_status(a, s), KVS_OK);
    }
    fixture_close(&f);
}

static void tiny_parts_are_bounded_as_well(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 1);
    a->slow = true;
    kvs_pull_key pulls[64];
    for (int i = 0; i < 64; i++) {
        pulls[i] = key_of("w", 0);
    }
    for (int i = 0; i < 40; i++) {
        fixture_pull_keys(a, pulls, 64);
        assert_int_equal(a->channel.ahead_bytes, a->unsent); /* given: by their bytes */
    }
    assert_int_equal(a->values, 64 * 40);
    fixture_sent(a, a->unsent);
    assert_int_equal(a->channel.ahead_bytes, 0);
    fixture_close(&f);
}

static void pulls_go_on_however_many_there_are(void **state)
{
    fixture f;
    kvs_pull_key pulls[64];
    uint64_t before;
    float *values = calloc(2 * LARGE_PART, sizeof *values);
    (void)state;
    assert_non_null(values);
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 1,
                                        .part_elements = LARGE_PART,
                                        .inflight_parts = 4});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_init(&f, "w", values, 2 * LARGE_PART);
    free(values);
    a->slow = true;
    for (int i = 0; i < 64; i++) {
        pulls[i] = key_of("w", 0);
    }
    for (int i = 0; i < 70; i++) { /* more than there are ops for */
        fixture_pull_keys(a, pulls, 64);
    }
    assert_int_equal(fixture_status(a, 0), KVS_TOO_MANY);
    do {
        before = a->values;
        fixture_sent(a, a->unsent);
    } while (a->values != before);
    assert_int_equal(a->session->ops_live, 0);
    assert_true(a->values > 4000);
    fixture_close(&f);
}

static void a_repeated_pull_is_answered_again(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", ones, 8);
    kvs_pull_key pull = key_of("w", 1);
    fixture_pull_keys(a, &pull, 1);
    assert_false(fixture_answer_of(a, 1)->duplicate);
    fixture_pull_keys(a, &pull, 1);
    assert_true(fixture_answer_of(a, 1)->duplicate);
    assert_int_equal(a->values, 4);
    /* On another channel, while the first waits. */
    fixture_worker *again = fixture_join_again(a);
    pull = key_of("w", 2);
    pull.min_version = (kvs_version){7, 1};
    fixture_pull_keys(a, &pull, 1);
    fixture_close_channel(a);
    fixture_pull_keys(again, &pull, 1);
    assert_int_equal(fixture_status(again, 2), KVS_STATUS_COUNT);
    again->sequence = 3;
    (void)fixture_push(again, "w", twos, 8, 0, false);
    assert_int_equal(fixture_status(again, 2), KVS_OK);
    assert_int_equal(again->values, 2);
    assert_memory_equal(again->value, twos, 32);
    fixture_close(&f);
}

static void closing_a_channel_ends_its_pulls_and_no_others(void **state)
{
    fixture f;
    (void)state;
    fixture_worker *a = open_large(&f, 20);
    fixture_worker *other = fixture_join_again(a);
    kvs_pull_key pulls[20];
    char names[20][2];
    for (unsigned i = 0; i < 20; i++) {
        names[i][0] = (char)('a' + i);
        names[i][1] = '\0';
        pulls[i] = key_of(names[i], i + 1);
    }
    fixture_pull_keys(a, pulls, 20);
    kvs_pull_key late = key_of("a", 21);
    late.after = 20; /* waits until all 20 are asked for */
    fixture_pull_keys(other, &late, 1);
    assert_int_equal(fixture_status(other, 21), KVS_STATUS_COUNT);
    size_t answers = a->answer_count;
    fixture_close_channel(a);
    fixture_close_channel(a);                   /* twice is once */
    assert_int_equal(a->answer_count, answers); /* it is not told any more */
    assert_int_equal(a->references, 0);
    assert_int_equal(fixture_status(other, 21), KVS_OK);
    assert_int_equal(a->session->ops_live, 0);
    /* What was cut off is answered to whoever repeats it. */
    fixture_pull_keys(other, &pulls[19], 1);
    assert_int_equal(fixture_status(other, 20), KVS_OK);
    fixture_close(&f);
}

static void closing_a_channel_ends_what_waits_at_the_door_or_for_a_version(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 4);
    fixture_worker *other = fixture_join_again(a);
    kvs_pull_key pulls[3] = {key_of("w", 0), key_of("w", 5), key_of("w", 6)};
    pulls[0].after = UINT64_MAX; /* never comes */
    pulls[1].after = 4;
    pulls[2].after = 5;
    pulls[2].snapshot = true;
    fixture_pull_keys(a, pulls, 3);
    fixture_close_channel(a);
    assert_int_equal(a->references, 0);
    assert_int_equal(a->session->ops_live, 0);
    assert_int_equal(a->session->snapshots_deferred, 0);
    for (uint64_t s = 1; s <= 4; s++) {
        fixture_push_at(other, "w", ones, 4, s, s - 1, false);
        assert_int_equal(fixture_status(other, s), KVS_OK);
    }
    assert_int_equal(a->session->window.low, 7);
    fixture_close(&f);
}

static void a_value_given_stays_as_it_was(void **state)
{
    fixture f;
    (void)state;
    open_sync(&f, 1);
    fixture_worker *a = f.workers[0];
    fixture_init(&f, "w", zeros, 8);
    for (int i = 0; i < 20; i++) {
        (void)fixture_push(a, "w", i % 2 == 0 ? ones : twos, 8, 0, true);
        assert_memory_equal(a->value, i % 2 == 0 ? ones : twos, 32);
        assert_int_equal(a->version.count, (uint64_t)i + 1);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_pulled_is_told_why_and_whether_its_sequence_was_used),
        cmocka_unit_test(a_min_version_is_waited_for),
        cmocka_unit_test(a_snapshot_waits_for_the_end_of_what_it_comes_after),
        cmocka_unit_test(a_snapshot_after_a_pull_is_answered_when_the_pull_is),
        cmocka_unit_test(what_comes_after_a_snapshot_goes_on_when_it_has_begun),
        cmocka_unit_test(a_pull_waits_for_its_place_and_sees_what_came_before),
        cmocka_unit_test(values_of_all_kinds_count_until_they_have_left),
        cmocka_unit_test(a_snapshot_does_not_stop_the_pulls_beside_it),
        cmocka_unit_test(higher_priority_goes_first_between_keys),
        cmocka_unit_test(no_more_than_the_bound_runs_ahead_of_a_slow_reader),
        cmocka_unit_test(tiny_parts_are_bounded_as_well),
        cmocka_unit_test(pulls_go_on_however_many_there_are),
        cmocka_unit_test(a_repeated_pull_is_answered_again),
        cmocka_unit_test(closing_a_channel_ends_its_pulls_and_no_others),
        cmocka_unit_test(closing_a_channel_ends_what_waits_at_the_door_or_for_a_version),
        cmocka_unit_test(a_value_given_stays_as_it_was),
        cmocka_unit_test(values_count_as_pulled_by_a_pull_and_by_a_pushpull),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
