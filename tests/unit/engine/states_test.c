/* States as a file: what is saved loads, what does not fit changes nothing. */
#include "engine/family.h"
#include "engine/states.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/states_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOMENTUM "{\"name\":\"sgd\",\"learning_rate\":0.1,\"momentum\":0.9,\"wd\":0.01}"
#define ADAM                                                                                       \
    "{\"name\":\"adam\",\"learning_rate\":0.01,\"lr_scheduler\":{\"name\":\"factor\",\"step\":3,"  \
    "\"factor\":0.5}}"

#define MASTERS                                                                                    \
    "{\"name\":\"sgd\",\"learning_rate\":0.001,\"momentum\":0.9,\"multi_precision\":true}"

#define ELEMENTS 10

static const float start[ELEMENTS] = {1, -2, 3, -4, 5, -6, 7, -8, 9, -10};

/* Two workers, keys "w" (of three parts) and "b". */
static void open_pair(fixture *f, const char *optimizer)
{
    fixture_open(f, &(fixture_options){.type = "dist_sync", .num_workers = 2, .part_elements = 4});
    (void)fixture_join(f, 0);
    (void)fixture_join(f, 1);
    fixture_init(f, "w", start, ELEMENTS);
    fixture_init(f, "b", start, 2);
    if (optimizer != NULL) {
        fixture_optimizer(f, optimizer);
    }
}

/* Three parts and one in turn, so what came before at the same key is known. */
static void push(fixture_worker *worker, const float *gradient)
{
    uint64_t next = worker->sequence;
    (void)fixture_push(worker, "w", gradient, ELEMENTS, next > 4 ? next - 2 : 0, false);
    (void)fixture_push(worker, "b", gradient, 2, next > 4 ? next - 1 : 0, false);
}

static void push_rounds(fixture *f, int from, int to)
{
    float gradient[ELEMENTS];
    for (int round = from; round < to; round++) {
        for (uint32_t rank = 0; rank < 2; rank++) {
            for (int i = 0; i < ELEMENTS; i++) {
                gradient[i] = (float)(((round + 1) * (i + 3) + (int)rank * 7) % 11) / 8 - 0.5F;
            }
            push(f->workers[rank], gradient);
        }
    }
}

static void put_values(fixture *f, const char *key, const float *values, uint64_t elements)
{
    fixture_wait wait;
    kvs_shape shape = {.rank = 1, .size = {elements}};
    fixture_wait_begin(&wait, 0);
    kvs_store_assign(f->store, key, strlen(key), KVS_F32, &shape, values, elements * sizeof(float),
                     NULL, NULL, &wait.waiter, f->now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
}

static void pull_values(fixture *f, const char *key, float *out, uint64_t elements)
{
    (void)fixture_pull(f->workers[0], key, 0);
    memcpy(out, f->workers[0]->value, elements * sizeof(float));
}

/* Saves after some rounds, loads into another store, and goes on in both. */
static void check_goes_on(const char *optimizer, bool values)
{
    fixture first;
    fixture second;
    states_file saved = {NULL, 0};
    states_file again = {NULL, 0};
    kvs_problem problem;
    float w[ELEMENTS];
    float b[2];
    float expected[ELEMENTS];
    open_pair(&first, optimizer);
    push_rounds(&first, 0, 5);
    assert_int_equal(states_file_save(&first, values, false, &saved), KVS_OK);
    pull_values(&first, "w", w, ELEMENTS);
    pull_values(&first, "b", b, 2);
    push_rounds(&first, 5, 9);
    pull_values(&first, "w", expected, ELEMENTS);

    open_pair(&second, optimizer);
    push_rounds(&second, 20, 22);
    if (!values) {
        put_values(&second, "w", w, ELEMENTS);
        put_values(&second, "b", b, 2);
    }
    assert_int_equal(states_file_load(&second, &saved, 7, &problem), KVS_OK);
    assert_int_equal(states_file_save(&second, values, false, &again), KVS_OK);
    assert_int_equal(again.count, saved.count);
    assert_memory_equal(again.bytes, saved.bytes, saved.count);
    push_rounds(&second, 5, 9);
    pull_values(&second, "w", w, ELEMENTS);
    assert_memory_equal(w, expected, sizeof w);
    states_file_deinit(&saved);
    states_file_deinit(&again);
    fixture_close(&first);
    fixture_close(&second);
}

static void a_run_goes_on_bit_for_bit_from_its_states(void **state)
{
    (void)state;
    check_goes_on(MOMENTUM, false);
    check_goes_on(ADAM, false);
    check_goes_on("{\"name\":\"sgd\",\"learning_rate\":0.1}", false);
    check_goes_on("{\"name\":\"test\"}", false);
}

static void every_rule_that_is_built_goes_on(void **state)
{
    const char *names[KVS_FAMILIES_MAX];
    char json[128];
    int built = 0;
    (void)state;
    for (int line = 0; line < KVS_LINE_COUNT; line++) {
        size_t count = kvs_family_names((kvs_line)line, names);
        for (size_t i = 0; i < count; i++) {
            kvs_optimizer *optimizer = NULL;
            kvs_problem problem;
            (void)snprintf(json, sizeof json, "{\"name\":\"%s\",\"rules\":\"%s\"}", names[i],
                           kvs_line_names[line]);
            kvs_status status = kvs_optimizer_parse(json, strlen(json), &optimizer, &problem);
            assert_int_equal(status, KVS_OK);
            for (unsigned s = 0; s < kvs_optimizer_states(optimizer); s++) {
                assert_non_null(kvs_rule_state_name(kvs_optimizer_rule(optimizer), s));
            }
            kvs_optimizer_unref(optimizer);
            check_goes_on(json, false);
            built++;
        }
    }
    assert_true(built >= 30);
}

static void push_half(fixture *f, int rounds)
{
    static const uint16_t gradient[2] = {0x3e9a, 0xbe12};
    for (int i = 0; i < rounds; i++) {
        fixture_worker *worker = f->workers[0];
        kvs_part_header header = {.key = "h",
                                  .key_bytes = 1,
                                  .dtype = KVS_BF16,
                                  .element_count = 2,
                                  .sequence = worker->sequence,
                                  .after = worker->sequence - 1,
                                  .payload_bytes = sizeof gradient};
        fixture_push_parts(worker, &header, 1, gradient, sizeof gradient, false);
        assert_int_equal(fixture_status(worker, worker->sequence++), KVS_OK);
    }
}

/* bf16 keeps 8 bits: what the updates add up to is in the master. */
static void masters_are_saved_before_and_after_their_first_update(void **state)
{
    static const uint16_t values[2] = {0x3f80, 0xc000};
    (void)state;
    for (int before = 0; before <= 5; before += 5) {
        fixture first;
        fixture second;
        states_file saved = {NULL, 0};
        states_file one = {NULL, 0};
        states_file two = {NULL, 0};
        kvs_problem problem;
        fixture_open(&first, &(fixture_options){.type = "dist_sync", .num_workers = 1});
        fixture_open(&second, &(fixture_options){.type = "dist_sync", .num_workers = 1});
        (void)fixture_join(&first, 0);
        (void)fixture_join(&second, 0);
        fixture_init_halves(&first, values);
        fixture_init_halves(&second, values);
        fixture_optimizer(&first, MASTERS);
        fixture_optimizer(&second, MASTERS);
        push_half(&first, before);
        assert_int_equal(states_file_save(&first, true, false, &saved), KVS_OK);
        push_half(&first, 4);
        push_half(&second, 3);
        assert_int_equal(states_file_load(&second, &saved, 9, &problem), KVS_OK);
        push_half(&second, 4);
        assert_int_equal(states_file_save(&first, true, false, &one), KVS_OK);
        assert_int_equal(states_file_save(&second, true, false, &two), KVS_OK);
        assert_int_equal(one.count, two.count);
        assert_memory_equal(one.bytes, two.bytes, one.count);
        saved.bytes[200] = 0; /* as text from here on */
        assert_non_null(strstr((const char *)saved.bytes + 8, "h::master"));
        states_file_deinit(&saved);
        states_file_deinit(&one);
        states_file_deinit(&two);
        fixture_close(&first);
        fixture_close(&second);
    }
}

static void values_may_lie_beside_the_states(void **state)
{
    (void)state;
    check_goes_on(ADAM, true);
}

static void a_dumped_optimizer_is_set_at_the_load(void **state)
{
    fixture first;
    fixture second;
    states_file saved = {NULL, 0};
    kvs_problem problem;
    (void)state;
    open_pair(&first, ADAM);
    push_rounds(&first, 0, 2);
    assert_int_equal(states_file_save(&first, true, true, &saved), KVS_OK);
    push_rounds(&first, 2, 4);
    open_pair(&second, NULL);
    assert_int_equal(states_file_load(&second, &saved, 4096, &problem), KVS_OK);
    kvs_optimizer *one = kvs_store_optimizer(first.store);
    kvs_optimizer *two = kvs_store_optimizer(second.store);
    assert_true(kvs_optimizer_equal(one, two));
    kvs_optimizer_unref(one);
    kvs_optimizer_unref(two);
    push_rounds(&second, 2, 4);
    float expected[ELEMENTS];
    float w[ELEMENTS];
    pull_values(&first, "w", expected, ELEMENTS);
    pull_values(&second, "w", w, ELEMENTS);
    assert_memory_equal(w, expected, sizeof w);
    states_file_deinit(&saved);
    fixture_close(&first);
    fixture_close(&second);
}

/* Captures the store and keeps it. */
static kvs_states *hold(fixture *f)
{
    fixture_wait wait;
    kvs_problem problem;
    kvs_capture *capture = NULL;
    kvs_states *states = NULL;
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f->store, true, &capture, &wait.waiter, f->now_ns);
    assert_int_equal(wait.problem.status, KVS_OK);
    assert_int_equal(kvs_states_open(capture, false, &states, &problem), KVS_OK);
    return states;
}

/* The updates after the cut work on copies. */
static void what_was_captured_stays_as_it_was(void **state)
{
    static const uint16_t values[2] = {0x3f80, 0xc000};
    fixture f;
    (void)state;
    open_pair(&f, ADAM);
    push_rounds(&f, 0, 3);
    kvs_states *states = hold(&f);
    uint64_t before = kvs_states_hash(states);
    push_rounds(&f, 3, 6);
    assert_true(kvs_states_hash(states) == before);
    kvs_states_close(states);
    fixture_close(&f);
    fixture_open(&f, &(fixture_options){.type = "dist_sync", .num_workers = 1});
    (void)fixture_join(&f, 0);
    fixture_init_halves(&f, values);
    fixture_optimizer(&f, MASTERS);
    push_half(&f, 2);
    states = hold(&f);
    before = kvs_states_hash(states);
    push_half(&f, 2);
    assert_true(kvs_states_hash(states) == before);
    kvs_states_close(states);
    fixture_close(&f);
}

static void a_save_while_a_round_is_open_waits_for_its_parts_to_meet(void **state)
{
    fixture f;
    fixture_wait wait;
    kvs_problem problem;
    kvs_capture *capture = NULL;
    kvs_states *states = NULL;
    (void)state;
    open_pair(&f, MOMENTUM);
    push_rounds(&f, 0, 1);
    /* Rank 1 has pushed all of "w", rank 0 only from its second part on. */
    fixture_worker *one = f.workers[1];
    fixture_worker *zero = f.workers[0];
    (void)fixture_push(one, "w", start, ELEMENTS, one->sequence - 2, false);
    fixture_push_tail(zero, "w", start, ELEMENTS, 4, zero->sequence + 1, zero->sequence - 2);
    fixture_wait_begin(&wait, 0);
    kvs_store_capture(f.store, false, &capture, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 0);
    float head[4];
    memcpy(head, start, sizeof head);
    kvs_part_header header = {.key = "w",
                              .key_bytes = 1,
                              .dtype = KVS_F32,
                              .element_count = 4,
                              .sequence = zero->sequence,
                              .after = zero->sequence - 2,
                              .payload_bytes = sizeof head};
    fixture_push_parts(zero, &header, 1, head, sizeof head, false);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_OK);
    assert_int_equal(kvs_states_open(capture, false, &states, &problem), KVS_OK);
    kvs_states_close(states);
    fixture_close(&f);
}

static void without_an_optimizer_there_are_no_states(void **state)
{
    fixture f;
    states_file saved = {NULL, 0};
    (void)state;
    open_pair(&f, NULL);
    assert_int_equal(states_file_save(&f, false, false, &saved), KVS_OPTIMIZER_NOT_SET);
    fixture_close(&f);
}

/* Loads `saved` into a store under `optimizer` that has `extra` (may be NULL) besides; it must be
 * refused and change nothing. */
static void check_refused(const states_file *saved, const char *optimizer, const char *extra,
                          size_t misfits, kvs_status expected)
{
    fixture f;
    states_file before = {NULL, 0};
    states_file after = {NULL, 0};
    kvs_problem problem = {.detail = ""};
    kvs_states_load *loading = NULL;
    const kvs_states_misfit *list;
    open_pair(&f, optimizer);
    if (extra != NULL) {
        fixture_init(&f, extra, start, 1);
    }
    push_rounds(&f, 3, 5);
    bool has_states = states_file_save(&f, true, true, &before) == KVS_OK;
    assert_int_equal(states_file_load(&f, saved, 64, &problem), expected);
    assert_int_equal(kvs_states_load_open(f.store, &loading, &problem), KVS_OK);
    assert_int_equal(kvs_states_load_append(loading, saved->bytes, saved->count, &problem),
                     expected);
    assert_int_equal(kvs_states_load_misfits(loading, &list), misfits);
    kvs_states_load_close(loading);
    if (has_states) {
        assert_int_equal(states_file_save(&f, true, true, &after), KVS_OK);
        assert_int_equal(after.count, before.count);
        assert_memory_equal(after.bytes, before.bytes, before.count);
    }
    states_file_deinit(&before);
    states_file_deinit(&after);
    fixture_close(&f);
}

static void what_does_not_fit_is_named_and_changes_nothing(void **state)
{
    fixture f;
    states_file saved = {NULL, 0};
    states_file dumped = {NULL, 0};
    (void)state;
    open_pair(&f, MOMENTUM);
    push_rounds(&f, 0, 2);
    assert_int_equal(states_file_save(&f, false, false, &saved), KVS_OK);
    assert_int_equal(states_file_save(&f, false, true, &dumped), KVS_OK);
    fixture_close(&f);
    check_refused(&saved, ADAM, NULL, 0, KVS_STATES_MISMATCH);
    check_refused(&saved, NULL, NULL, 0, KVS_OPTIMIZER_NOT_SET);
    check_refused(&saved, MOMENTUM, "more", 2, KVS_STATES_MISMATCH);
    /* Without momentum there is no place for two tensors. */
    check_refused(&saved, "{\"name\":\"sgd\"}", NULL, 2, KVS_STATES_MISMATCH);
    check_refused(&dumped, ADAM, "more", 2, KVS_STATES_MISMATCH);
    saved.bytes[saved.count - 1] = 0;
    states_file cut = {saved.bytes, saved.count - 1};
    kvs_problem problem;
    open_pair(&f, MOMENTUM);
    assert_int_equal(states_file_load(&f, &cut, 5, &problem), KVS_INVALID_FRAME);
    cut.count = 11;
    assert_int_equal(states_file_load(&f, &cut, 5, &problem), KVS_INVALID_FRAME);
    cut.count = 0;
    assert_int_equal(states_file_load(&f, &cut, 5, &problem), KVS_INVALID_FRAME);
    states_file longer = {malloc(saved.count + 1), saved.count + 1};
    memcpy(longer.bytes, saved.bytes, saved.count);
    longer.bytes[saved.count] = 0;
    assert_int_equal(states_file_load(&f, &longer, 5, &problem), KVS_INVALID_FRAME);
    states_file_deinit(&longer);
    fixture_close(&f);
    states_file_deinit(&saved);
    states_file_deinit(&dumped);
}

static void shapes_and_dtypes_must_be_the_stores(void **state)
{
    static const char header[] =
        "{\"w::step\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"w::momentum_buffer\":{\"dtype\":\"F32\",\"shape\":[5,2],\"data_offsets\":[4,44]}}";
    fixture f;
    kvs_problem problem;
    const kvs_states_misfit *list;
    kvs_states_load *loading = NULL;
    uint8_t length[8] = {sizeof header - 1};
    (void)state;
    open_pair(&f, MOMENTUM);
    assert_int_equal(kvs_states_load_open(f.store, &loading, &problem), KVS_OK);
    assert_int_equal(kvs_states_load_append(loading, length, 8, &problem), KVS_OK);
    assert_int_equal(kvs_states_load_append(loading, header, sizeof header - 1, &problem),
                     KVS_STATES_MISMATCH);
    assert_int_equal(kvs_states_load_misfits(loading, &list), 4);
    assert_string_equal(list[0].tensor, "w::step");
    assert_string_equal(list[0].why, "is I32, the store has I64");
    assert_string_equal(list[1].why, "has another shape than the store's");
    assert_string_equal(list[2].tensor, "b::momentum_buffer");
    assert_string_equal(list[2].why, "is missing");
    assert_string_equal(problem.detail,
                        "4 misfits: \"w::step\" is I32, the store has I64; "
                        "\"w::momentum_buffer\" has another shape than the store's; "
                        "\"b::momentum_buffer\" is missing; \"b::step\" is missing");
    kvs_states_load_close(loading);
    fixture_close(&f);
}

static void an_optimizer_that_comes_meanwhile_refuses_the_load(void **state)
{
    fixture f;
    states_file saved = {NULL, 0};
    kvs_problem problem;
    kvs_states_load *loading = NULL;
    fixture_wait wait;
    (void)state;
    open_pair(&f, MOMENTUM);
    push_rounds(&f, 0, 2);
    assert_int_equal(states_file_save(&f, false, false, &saved), KVS_OK);
    assert_int_equal(kvs_states_load_open(f.store, &loading, &problem), KVS_OK);
    assert_int_equal(kvs_states_load_append(loading, saved.bytes, saved.count, &problem), KVS_OK);
    fixture_optimizer(&f, ADAM);
    fixture_wait_begin(&wait, 0);
    kvs_states_load_commit(loading, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_STATES_MISMATCH);
    kvs_states_load_close(loading);
    states_file_deinit(&saved);
    fixture_close(&f);
}

/* The parts of a key count their updates one by one. */
static void steps_that_differ_are_saved_part_by_part(void **state)
{
    fixture f;
    states_file saved = {NULL, 0};
    states_file again = {NULL, 0};
    kvs_problem problem;
    (void)state;
    open_pair(&f, MOMENTUM);
    push_rounds(&f, 0, 2);
    kvs_key *key = kvs_key_table_find(&f.store->keys, "w", 1);
    key->parts[1].updates = 1; /* as if one update had found no memory */
    assert_int_equal(states_file_save(&f, false, false, &saved), KVS_OK);
    push_rounds(&f, 2, 4);
    assert_int_equal(states_file_load(&f, &saved, 1, &problem), KVS_OK);
    assert_int_equal(key->parts[0].updates, 2);
    assert_int_equal(key->parts[1].updates, 1);
    assert_int_equal(states_file_save(&f, false, false, &again), KVS_OK);
    assert_int_equal(again.count, saved.count);
    assert_memory_equal(again.bytes, saved.bytes, saved.count);
    states_file_deinit(&saved);
    states_file_deinit(&again);
    fixture_close(&f);
}

static void a_key_that_reads_like_a_state_is_told_apart(void **state)
{
    fixture f;
    states_file saved = {NULL, 0};
    kvs_problem problem;
    (void)state;
    open_pair(&f, MOMENTUM);
    fixture_init(&f, "w::momentum_buffer", start, ELEMENTS);
    assert_int_equal(states_file_save(&f, true, false, &saved), KVS_INVALID_FIELD);
    assert_int_equal(states_file_save(&f, false, false, &saved), KVS_OK);
    states_file_deinit(&saved);
    (void)problem;
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_goes_on_bit_for_bit_from_its_states),
        cmocka_unit_test(every_rule_that_is_built_goes_on),
        cmocka_unit_test(masters_are_saved_before_and_after_their_first_update),
        cmocka_unit_test(values_may_lie_beside_the_states),
        cmocka_unit_test(a_dumped_optimizer_is_set_at_the_load),
        cmocka_unit_test(what_was_captured_stays_as_it_was),
        cmocka_unit_test(a_save_while_a_round_is_open_waits_for_its_parts_to_meet),
        cmocka_unit_test(without_an_optimizer_there_are_no_states),
        cmocka_unit_test(what_does_not_fit_is_named_and_changes_nothing),
        cmocka_unit_test(shapes_and_dtypes_must_be_the_stores),
        cmocka_unit_test(an_optimizer_that_comes_meanwhile_refuses_the_load),
        cmocka_unit_test(steps_that_differ_are_saved_part_by_part),
        cmocka_unit_test(a_key_that_reads_like_a_state_is_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
