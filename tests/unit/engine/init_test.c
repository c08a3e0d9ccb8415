/* Init: parts that fit and parts that do not, all keys or none, the other ranks' wait. */
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const float values[32] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

typedef struct given {
    kvs_part_header header;
    kvs_span span;
    kvs_payload payload;
    uint8_t shape[(KVS_DIMENSIONS_MAX + 2) * 10];
} given;

static void open_with(fixture *f, uint32_t workers)
{
    fixture_open(
        f, &(fixture_options){.type = "dist_sync", .num_workers = workers, .part_elements = 4});
}

static kvs_init *begin(fixture *f, kvs_session *session)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    assert_int_equal(kvs_init_open(f->store, session, &init, &problem), KVS_OK);
    return init;
}

/* `count` elements from `offset` on, of a value of `elements`. */
static void describe(given *g, const char *key, uint64_t elements, uint64_t offset, uint64_t count)
{
    kvs_shape shape = {.rank = 1, .size = {elements}};
    memset(g, 0, sizeof *g);
    g->header = (kvs_part_header){.key = key,
                                  .key_bytes = (uint32_t)strlen(key),
                                  .dtype = KVS_F32,
                                  .has_shape = true,
                                  .shape = g->shape,
                                  .shape_bytes = kvs_shape_pack(&shape, g->shape),
                                  .element_offset = offset,
                                  .element_count = count,
                                  .payload_bytes = count * sizeof(float)};
    g->span = (kvs_span){.data = (const uint8_t *)(values + offset % 16),
                         .bytes = (size_t)(count % 16) * sizeof(float)};
    g->payload = (kvs_payload){.spans = &g->span, .count = 1, .bytes = g->span.bytes};
}

static kvs_status give(kvs_init *init, const given *g)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_status status = kvs_init_part(init, &g->header, &g->payload, &problem);
    assert_int_equal(problem.status, status);
    return status;
}

static kvs_status give_part(kvs_init *init, const char *key, uint64_t elements, uint64_t offset,
                            uint64_t count)
{
    given g;
    describe(&g, key, elements, offset, count);
    return give(init, &g);
}

static kvs_status commit(fixture *f, kvs_init *init)
{
    fixture_wait wait;
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f->now_ns);
    assert_int_equal(wait.calls, 1);
    return wait.problem.status;
}

static uint64_t keys_of(fixture *f)
{
    kvs_store_info info;
    kvs_store_describe(f->store, &info);
    return info.keys;
}

static void parts_may_come_in_any_order_and_of_many_keys(void **state)
{
    fixture f;
    const kvs_init_key *keys = NULL;
    (void)state;
    open_with(&f, 1);
    fixture_worker *a = fixture_join(&f, 0);
    kvs_init *init = begin(&f, a->session);
    assert_int_equal(give_part(init, "w", 10, 8, 2), KVS_OK);
    assert_int_equal(give_part(init, "b", 1, 0, 1), KVS_OK);
    assert_int_equal(give_part(init, "w", 10, 0, 4), KVS_OK);
    assert_int_equal(keys_of(&f), 0);
    assert_int_equal(give_part(init, "w", 10, 4, 4), KVS_OK);
    assert_int_equal(commit(&f, init), KVS_OK);
    assert_int_equal(kvs_init_keys(init, &keys), 2);
    assert_string_equal(keys[0].info.name, "w");
    assert_int_equal(keys[0].info.parts, 3);
    assert_int_equal(keys[0].info.part_elements, 4);
    assert_int_equal(keys[0].info.version.epoch, 7);
    assert_false(keys[0].existed);
    kvs_init_close(init);
    (void)fixture_pull(a, "w", 0);
    assert_memory_equal(a->value, values, 10 * sizeof(float));
    fixture_close(&f);
}

static void a_part_that_does_not_fit_is_refused_and_the_rest_goes_on(void **state)
{
    static const struct {
        uint64_t elements, offset, count;
    } rows[] = {{10, 2, 4},          {10, 12, 4}, {10, 8, 4},
                {10, 0, 3},          {10, 0, 8},  {10, UINT64_MAX - 3, 4},
                {10, 0, UINT64_MAX}, {9, 0, 4},   {10, 0, 0}};
    fixture f;
    (void)state;
    open_with(&f, 1);
    kvs_init *init = begin(&f, NULL);
    assert_int_equal(give_part(init, "w", 10, 4, 4), KVS_OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (give_part(init, "w", rows[i].elements, rows[i].offset, rows[i].count) !=
            KVS_INVALID_TENSOR) {
            fail_msg("row %zu", i);
        }
    }
    assert_int_equal(give_part(init, "w", 10, 4, 4), KVS_INVALID_TENSOR); /* comes twice */
    given g;
    describe(&g, "w", 10, 0, 4);
    g.payload.bytes = 12; /* fewer bytes than elements */
    assert_int_equal(give(init, &g), KVS_INVALID_TENSOR);
    assert_int_equal(give_part(init, "w", 10, 0, 4), KVS_OK);
    assert_int_equal(commit(&f, init), KVS_INVALID_TENSOR); /* one is missing */
    assert_int_equal(keys_of(&f), 0);
    kvs_init_close(init);
    fixture_close(&f);
}

static void a_missing_part_of_one_key_keeps_all_keys_out(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1);
    kvs_init *init = begin(&f, NULL);
    assert_int_equal(give_part(init, "whole", 4, 0, 4), KVS_OK);
    assert_int_equal(give_part(init, "half", 8, 0, 4), KVS_OK);
    fixture_wait wait;
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f.now_ns);
    assert_int_equal(wait.problem.status, KVS_INVALID_TENSOR);
    assert_non_null(strstr(wait.problem.detail, "1 of 2 parts of \"half\""));
    assert_int_equal(keys_of(&f), 0);
    kvs_init_close(init);
    /* The same again, whole, as if nothing had been. */
    fixture_init(&f, "whole", values, 4);
    fixture_init(&f, "half", values, 8);
    assert_int_equal(keys_of(&f), 2);
    fixture_close(&f);
}

static void an_equal_second_init_is_ok_and_changes_nothing(void **state)
{
    static const float others[4] = {9, 9, 9, 9};
    fixture f;
    const kvs_init_key *keys = NULL;
    (void)state;
    open_with(&f, 1);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_init(&f, "w", values, 4);
    kvs_init *init = begin(&f, a->session);
    given g;
    describe(&g, "w", 4, 0, 4);
    g.span.data = (const uint8_t *)others;
    assert_int_equal(give(init, &g), KVS_OK);
    assert_int_equal(commit(&f, init), KVS_OK);
    assert_int_equal(kvs_init_keys(init, &keys), 1);
    assert_true(keys[0].existed);
    kvs_init_close(init);
    (void)fixture_pull(a, "w", 0);
    assert_memory_equal(a->value, values, sizeof others);
    fixture_close(&f);
}

static void two_inits_at_once_make_one_key(void **state)
{
    fixture f;
    const kvs_init_key *keys = NULL;
    (void)state;
    open_with(&f, 1);
    kvs_init *first = begin(&f, NULL);
    kvs_init *second = begin(&f, NULL);
    kvs_init *other = begin(&f, NULL);
    assert_int_equal(give_part(first, "w", 4, 0, 4), KVS_OK);
    assert_int_equal(give_part(second, "w", 4, 0, 4), KVS_OK);
    assert_int_equal(give_part(other, "w", 3, 0, 3), KVS_OK);
    assert_int_equal(commit(&f, first), KVS_OK);
    assert_int_equal(commit(&f, second), KVS_OK);
    assert_int_equal(commit(&f, other), KVS_KEY_EXISTS);
    assert_int_equal(kvs_init_keys(second, &keys), 1);
    assert_true(keys[0].existed);
    assert_int_equal(keys_of(&f), 1);
    kvs_init_close(first);
    kvs_init_close(second);
    kvs_init_close(other);
    fixture_close(&f);
}

static void another_shape_or_dtype_is_another_tensor(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1);
    fixture_init(&f, "w", values, 6);
    kvs_init *init = begin(&f, NULL);
    given g;
    assert_int_equal(give_part(init, "w", 5, 0, 4), KVS_KEY_EXISTS);
    describe(&g, "w", 6, 0, 4);
    kvs_shape square = {.rank = 2, .size = {2, 3}};
    g.header.shape_bytes = kvs_shape_pack(&square, g.shape);
    assert_int_equal(give(init, &g), KVS_KEY_EXISTS);
    describe(&g, "w", 6, 0, 4);
    g.header.dtype = KVS_I32;
    assert_int_equal(give(init, &g), KVS_KEY_EXISTS);
    /* Two shapes of one key in one init. */
    assert_int_equal(give_part(init, "v", 8, 0, 4), KVS_OK);
    assert_int_equal(give_part(init, "v", 7, 4, 3), KVS_INVALID_TENSOR);
    kvs_init_close(init);
    fixture_close(&f);
}

static void a_second_init_of_a_local_key_is_an_error(void **state)
{
    fixture f;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "local", .num_workers = 1, .part_elements = 4});
    fixture_init(&f, "w", values, 4);
    kvs_init *init = begin(&f, NULL);
    assert_int_equal(give_part(init, "w", 4, 0, 4), KVS_KEY_EXISTS);
    kvs_init_close(init);
    fixture_close(&f);
}

static void scalars_and_empty_values_have_one_part(void **state)
{
    fixture f;
    const kvs_init_key *keys = NULL;
    (void)state;
    open_with(&f, 1);
    fixture_worker *a = fixture_join(&f, 0);
    kvs_init *init = begin(&f, NULL);
    given g;
    describe(&g, "scalar", 1, 0, 1);
    g.header.shape_bytes = 0; /* rank 0 */
    assert_int_equal(give(init, &g), KVS_OK);
    assert_int_equal(give_part(init, "empty", 0, 0, 0), KVS_OK);
    assert_int_equal(commit(&f, init), KVS_OK);
    assert_int_equal(kvs_init_keys(init, &keys), 2);
    assert_int_equal(keys[0].info.shape.rank, 0);
    assert_int_equal(keys[0].info.elements, 1);
    assert_int_equal(keys[1].info.parts, 1);
    kvs_init_close(init);
    /* An empty value has rounds like any other. */
    kvs_part_header empty = {.key = "empty", .key_bytes = 5, .dtype = KVS_F32, .sequence = 1};
    fixture_push_parts(a, &empty, 1, NULL, 0, true);
    assert_int_equal(fixture_status(a, 1), KVS_OK);
    assert_int_equal(a->version.count, 1);
    a->sequence = 2;
    assert_int_equal(fixture_status(a, fixture_pull(a, "empty", 1)), KVS_OK);
    fixture_close(&f);
}

static void up_to_32_dimensions_are_taken(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1);
    kvs_init *init = begin(&f, NULL);
    given g;
    describe(&g, "w", 1, 0, 1);
    memset(g.shape, 1, sizeof g.shape); /* packed ones */
    g.header.shape_bytes = 33;
    assert_int_equal(give(init, &g), KVS_INVALID_TENSOR);
    g.header.shape_bytes = 32;
    assert_int_equal(give(init, &g), KVS_OK);
    g.header.key = "x";
    g.shape[31] = 0x80; /* a number that goes on after the end */
    assert_int_equal(give(init, &g), KVS_INVALID_TENSOR);
    kvs_init_close(init);
    fixture_close(&f);
}

static void absurd_sizes_are_refused(void **state)
{
    static const kvs_shape shapes[] = {
        {.rank = 1, .size = {((uint64_t)1 << 40) + 1}},
        {.rank = 2, .size = {(uint64_t)1 << 32, (uint64_t)1 << 32}},
        {.rank = 3, .size = {UINT64_MAX, UINT64_MAX, UINT64_MAX}},
        {.rank = 4, .size = {1 << 20, 1 << 20, 1 << 20, 1 << 4}},
    };
    fixture f;
    (void)state;
    open_with(&f, 1);
    kvs_init *init = begin(&f, NULL);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        given g;
        describe(&g, "w", 4, 0, 4);
        g.header.shape_bytes = kvs_shape_pack(&shapes[i], g.shape);
        assert_int_equal(give(init, &g), KVS_TOO_LARGE);
    }
    kvs_init_close(init);
    fixture_close(&f);
}

static void keys_are_up_to_256_bytes_of_utf8_without_control_characters(void **state)
{
    static const struct {
        const char *key;
        bool good;
    } rows[] = {
        {"a", true},
        {"fc1.weight/0 x", true},
        {"\xc3\xa9", true},
        {"\xe2\x82\xac", true},
        {"\xf0\x9f\x98\x80", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"\xed\x9f\xbf", true},
        {"\xc2\xa0", true},
        {"", false},
        {"a\n", false},
        {"\x01", false},
        {"a\x7f", false},
        {"\xc2\x85", false},
        {"\x80", false},
        {"\xc3", false},
        {"\xc0\xaf", false},
        {"\xe0\x80\x80", false},
        {"\xed\xa0\x80", false},
        {"\xf4\x90\x80\x80", false},
        {"\xf5\x80\x80\x80", false},
        {"\xe2\x82", false},
        {"\xf0\x9f\x98", false},
        {"a\xff", false},
        {"\xe2\x28\xa1", false},
        {"\xf0\x8f\xbf\xbf", false},
    };
    fixture f;
    char long_key[KVS_KEY_BYTES_MAX + 2];
    (void)state;
    open_with(&f, 1);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        kvs_init *init = begin(&f, NULL);
        if (give_part(init, rows[i].key, 1, 0, 1) != (rows[i].good ? KVS_OK : KVS_INVALID_FIELD)) {
            fail_msg("row %zu", i);
        }
        kvs_init_close(init);
    }
    memset(long_key, 'k', sizeof long_key);
    long_key[KVS_KEY_BYTES_MAX + 1] = '\0';
    kvs_init *init = begin(&f, NULL);
    assert_int_equal(give_part(init, long_key, 1, 0, 1), KVS_INVALID_FIELD);
    long_key[KVS_KEY_BYTES_MAX] = '\0';
    assert_int_equal(give_part(init, long_key, 1, 0, 1), KVS_OK);
    given g;
    describe(&g, "ab", 1, 0, 1);
    g.header.key = "a\0b"; /* a zero inside */
    g.header.key_bytes = 3;
    assert_int_equal(give(init, &g), KVS_INVALID_FIELD);
    assert_int_equal(commit(&f, init), KVS_OK);
    kvs_init_close(init);
    fixture_close(&f);
}

static void what_is_not_built_yet_says_so(void **state)
{
    fixture f;
    given g;
    (void)state;
    open_with(&f, 1);
    kvs_init *init = begin(&f, NULL);
    describe(&g, "w", 4, 0, 4);
    g.header.storage = (kvs_storage)7;
    assert_int_equal(give(init, &g), KVS_INVALID_FIELD);
    describe(&g, "w", 4, 0, 4);
    g.header.codec = KVS_CODEC_2BIT;
    assert_int_equal(give(init, &g), KVS_INVALID_FIELD);
    describe(&g, "w", 4, 0, 4);
    g.header.dtype = KVS_DTYPE_NONE;
    assert_int_equal(give(init, &g), KVS_INVALID_TENSOR);
    g.header.dtype = (kvs_dtype)77;
    assert_int_equal(give(init, &g), KVS_INVALID_TENSOR);
    kvs_init_close(init);
    fixture_close(&f);
}

/* ------------------------------------------------------------------ other ranks */

static void other_ranks_wait_for_rank_0_and_get_its_values(void **state)
{
    fixture f;
    fixture_wait wait;
    const kvs_init_key *keys = NULL;
    (void)state;
    open_with(&f, 2);
    fixture_worker *a = fixture_join(&f, 0);
    fixture_worker *b = fixture_join(&f, 1);
    kvs_init *init = begin(&f, b->session);
    given g;
    describe(&g, "w", 6, 0, 4);
    g.payload = (kvs_payload){0}; /* its own values do not count and need not come */
    assert_int_equal(give(init, &g), KVS_OK);
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f.now_ns);
    assert_int_equal(wait.calls, 0);
    kvs_init *first = begin(&f, a->session);
    assert_int_equal(give_part(first, "other", 4, 0, 4), KVS_OK);
    assert_int_equal(commit(&f, first), KVS_OK);
    kvs_init_close(first);
    assert_int_equal(wait.calls, 0); /* another key */
    fixture_init(&f, "w", values, 6);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_OK);
    assert_int_equal(kvs_init_keys(init, &keys), 1);
    assert_int_equal(keys[0].info.parts, 2);
    kvs_init_close(init);
    fixture_close(&f);
}

static void other_ranks_need_not_wait_for_what_is_there(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 2);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "w", values, 6);
    kvs_init *init = begin(&f, b->session);
    assert_int_equal(give_part(init, "w", 6, 4, 2), KVS_OK);
    assert_int_equal(commit(&f, init), KVS_OK);
    kvs_init_close(init);
    fixture_close(&f);
}

static void a_waiting_rank_with_another_shape_is_told(void **state)
{
    fixture f;
    fixture_wait wait;
    (void)state;
    open_with(&f, 2);
    fixture_worker *b = fixture_join(&f, 1);
    kvs_init *init = begin(&f, b->session);
    assert_int_equal(give_part(init, "w", 6, 0, 4), KVS_OK);
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f.now_ns);
    fixture_init(&f, "w", values, 5);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_KEY_EXISTS);
    kvs_init_close(init);
    fixture_close(&f);
}

static void the_deadline_names_the_key(void **state)
{
    fixture f;
    fixture_wait wait;
    (void)state;
    open_with(&f, 2);
    fixture_worker *b = fixture_join(&f, 1);
    fixture_init(&f, "there", values, 4);
    kvs_init *init = begin(&f, b->session);
    assert_int_equal(give_part(init, "there", 4, 0, 4), KVS_OK);
    assert_int_equal(give_part(init, "fc.bias", 4, 0, 4), KVS_OK);
    fixture_wait_begin(&wait, f.now_ns + 3 * KVS_SECOND);
    kvs_init_commit(init, &wait.waiter, f.now_ns);
    fixture_tick(&f, 3 * KVS_SECOND - 1);
    assert_int_equal(wait.calls, 0);
    fixture_tick(&f, 1);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_DEADLINE);
    assert_non_null(strstr(wait.problem.detail, "\"fc.bias\""));
    kvs_init_close(init);
    fixture_close(&f);
}

static void deletion_ends_the_wait(void **state)
{
    fixture f;
    fixture_wait wait;
    (void)state;
    open_with(&f, 2);
    fixture_worker *b = fixture_join(&f, 1);
    kvs_init *init = begin(&f, b->session);
    assert_int_equal(give_part(init, "w", 4, 0, 4), KVS_OK);
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f.now_ns);
    assert_int_equal(kvs_store_delete(f.engine, "default", f.now_ns, NULL), KVS_OK);
    assert_int_equal(wait.calls, 1);
    assert_int_equal(wait.problem.status, KVS_STORE_DELETED);
    kvs_init_close(init);
    kvs_init *late = begin(&f, NULL);
    assert_int_equal(give_part(late, "w", 4, 0, 4), KVS_OK);
    assert_int_equal(commit(&f, late), KVS_STORE_DELETED);
    kvs_init_close(late);
    fixture_close(&f);
}

static void values_beyond_the_budget_are_refused_and_leave_nothing(void **state)
{
    fixture f;
    kvs_store_info before, after;
    (void)state;
    fixture_open(&f, &(fixture_options){.type = "dist_sync",
                                        .num_workers = 1,
                                        .part_elements = 4,
                                        .memory_bytes_max = 200});
    kvs_store_describe(f.store, &before);
    kvs_init *init = begin(&f, NULL);
    kvs_status status = KVS_OK;
    for (uint64_t at = 0; at < 32 && status == KVS_OK; at += 4) {
        status = give_part(init, "w", 32, at, 4);
    }
    assert_int_equal(status, KVS_OVER_BUDGET);
    kvs_init_close(init);
    fixture_init(&f, "small", values, 4);
    kvs_store_describe(f.store, &after);
    assert_int_equal(after.keys, 1);
    fixture_close(&f);
}

static void the_window_grows_to_the_number_of_parts(void **state)
{
    fixture f;
    kvs_store_info info;
    float *many = calloc(400, sizeof *many);
    (void)state;
    assert_non_null(many);
    fixture_open(
        &f, &(fixture_options){
                .type = "dist_async", .num_workers = 1, .part_elements = 4, .inflight_parts = 8});
    fixture_worker *a = fixture_join(&f, 0);
    fixture_init(&f, "w", many, 400);
    kvs_store_describe(f.store, &info);
    assert_int_equal(info.parts, 100);
    assert_int_equal(info.inflight_parts, 100);
    fixture_optimizer(&f, "{\"name\": \"test\"}");
    fixture_push_at(a, "w", many, 4, 100, 0, false); /* the session was there before */
    assert_int_equal(fixture_status(a, 100), KVS_OK);
    fixture_push_at(a, "w", many, 4, 101, 0, false);
    assert_int_equal(fixture_status(a, 101), KVS_SEQ_GAP);
    free(many);
    fixture_close(&f);
}

static void a_thousand_keys_are_told_apart(void **state)
{
    fixture f;
    (void)state;
    open_with(&f, 1);
    kvs_init *init = begin(&f, NULL);
    char key[16];
    for (uint64_t i = 0; i < 3000; i++) { /* each part of all keys in turn; then once too often */
        (void)snprintf(key, sizeof key, "k%d", (int)(i % 1000));
        assert_int_equal(give_part(init, key, 8, i < 1000 ? 0 : 4, 4),
                         i < 2000 ? KVS_OK : KVS_INVALID_TENSOR);
    }
    assert_int_equal(commit(&f, init), KVS_OK);
    const kvs_init_key *keys = NULL;
    assert_int_equal(kvs_init_keys(init, &keys), 1000);
    kvs_init_close(init);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_may_come_in_any_order_and_of_many_keys),
        cmocka_unit_test(a_part_that_does_not_fit_is_refused_and_the_rest_goes_on),
        cmocka_unit_test(a_missing_part_of_one_key_keeps_all_keys_out),
        cmocka_unit_test(an_equal_second_init_is_ok_and_changes_nothing),
        cmocka_unit_test(two_inits_at_once_make_one_key),
        cmocka_unit_test(another_shape_or_dtype_is_another_tensor),
        cmocka_unit_test(a_second_init_of_a_local_key_is_an_error),
        cmocka_unit_test(scalars_and_empty_values_have_one_part),
        cmocka_unit_test(up_to_32_dimensions_are_taken),
        cmocka_unit_test(absurd_sizes_are_refused),
        cmocka_unit_test(keys_are_up_to_256_bytes_of_utf8_without_control_characters),
        cmocka_unit_test(what_is_not_built_yet_says_so),
        cmocka_unit_test(other_ranks_wait_for_rank_0_and_get_its_values),
        cmocka_unit_test(other_ranks_need_not_wait_for_what_is_there),
        cmocka_unit_test(a_waiting_rank_with_another_shape_is_told),
        cmocka_unit_test(the_deadline_names_the_key),
        cmocka_unit_test(deletion_ends_the_wait),
        cmocka_unit_test(values_beyond_the_budget_are_refused_and_leave_nothing),
        cmocka_unit_test(a_thousand_keys_are_told_apart),
        cmocka_unit_test(the_window_grows_to_the_number_of_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
