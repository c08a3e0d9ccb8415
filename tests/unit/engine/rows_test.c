/* row_sparse values: sums by row, updates of rows, reads of rows, against a model that is dense. */
#include "engine/session.h"
#include "engine/store.h"
#include "tests/support/engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Parts of four, four and two rows. */
#define ROWS 10
#define WIDTH 2
#define PART_ROWS 4
#define PARTS 3
#define BRING_MAX 16

/* What one rank brings in one push: rows in any order, perhaps twice. */
typedef struct bring {
    size_t count;
    uint64_t ids[BRING_MAX];
    float data[BRING_MAX][WIDTH];
} bring;

/* The headers and payload of one push of it; ids and data are copied. */
typedef struct push {
    kvs_part_header headers[PARTS];
    uint8_t packed[PARTS][BRING_MAX * KVS_VARINT_BYTES_MAX];
    float data[BRING_MAX][WIDTH];
    size_t rows;
} push;

static void make_push(push *p, const bring *given, uint64_t sequence, uint64_t after)
{
    memset(p, 0, sizeof *p);
    for (uint64_t part = 0; part < PARTS; part++) {
        kvs_part_header *header = &p->headers[part];
        uint32_t used = 0;
        size_t before = p->rows;
        for (size_t i = 0; i < given->count; i++) {
            if (given->ids[i] / PART_ROWS == part) {
                used += kvs_varint_pack(given->ids[i], p->packed[part] + used);
                memcpy(p->data[p->rows++], given->data[i], sizeof given->data[i]);
            }
        }
        uint64_t first = part * PART_ROWS;
        uint64_t rows = ROWS - first < PART_ROWS ? ROWS - first : PART_ROWS;
        *header = (kvs_part_header){.key = "e",
                                    .key_bytes = 1,
                                    .dtype = KVS_F32,
                                    .storage = KVS_ROW_SPARSE,
                                    .element_offset = first * WIDTH,
                                    .element_count = rows * WIDTH,
                                    .sequence = sequence == 0 ? 0 : sequence + part,
                                    .after = after,
                                    .payload_bytes = (p->rows - before) * WIDTH * sizeof(float),
                                    .row_ids = p->packed[part],
                                    .row_ids_bytes = used};
    }
}

/* The sequence of its first part. */
static uint64_t send(fixture_worker *worker, const bring *given, uint64_t after)
{
    push p;
    uint64_t first = worker->sequence;
    make_push(&p, given, first, after);
    worker->sequence += PARTS;
    fixture_push_parts(worker, p.headers, PARTS, p.data, p.rows * sizeof p.data[0], false);
    return first;
}

static void init_rows(fixture *f, const bring *given)
{
    push p;
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    uint8_t packed[16];
    kvs_shape shape = {.rank = 2, .size = {ROWS, WIDTH}};
    uint32_t packed_bytes = kvs_shape_pack(&shape, packed);
    size_t row = 0;
    make_push(&p, given, 0, 0);
    assert_int_equal(kvs_init_open(f->store, NULL, &init, &problem), KVS_OK);
    for (int part = 0; part < PARTS; part++) {
        kvs_part_header *header = &p.headers[part];
        kvs_span span = {(const uint8_t *)p.data[row], header->payload_bytes};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        row += header->payload_bytes / sizeof p.data[0];
        header->has_shape = true;
        header->shape = packed;
        header->shape_bytes = packed_bytes;
        assert_int_equal(kvs_init_part(init, header, &payload, &problem), KVS_OK);
    }
    fixture_wait done;
    fixture_wait_begin(&done, 0);
    kvs_init_commit(init, &done.waiter, f->now_ns);
    assert_int_equal(done.calls, 1);
    assert_int_equal(done.problem.status, KVS_OK);
    kvs_init_close(init);
}

static void open_fixture(fixture *f, const char *type, uint32_t workers, kvs_policy policy)
{
    fixture_open(f, &(fixture_options){.type = type,
                                       .num_workers = workers,
                                       .policy = policy,
                                       .part_elements = (uint64_t)PART_ROWS * WIDTH});
    for (uint32_t i = 0; i < workers; i++) {
        (void)fixture_join(f, i);
    }
}

/* ------------------------------------------------------------------ the model */

typedef struct model {
    float value[ROWS][WIDTH];
} model;

/* Adds a rank's own sum of each row to the round's; `there` says which rows have one. */
static void model_add(float sum[ROWS][WIDTH], bool there[ROWS], const bring *given)
{
    float own[ROWS][WIDTH];
    bool brought[ROWS] = {false};
    for (size_t i = 0; i < given->count; i++) {
        uint64_t row = given->ids[i];
        for (int j = 0; j < WIDTH; j++) {
            own[row][j] = brought[row] ? own[row][j] + given->data[i][j] : given->data[i][j];
        }
        brought[row] = true;
    }
    for (int row = 0; row < ROWS; row++) {
        for (int j = 0; brought[row] && j < WIDTH; j++) {
            sum[row][j] = there[row] ? sum[row][j] + own[row][j] : own[row][j];
        }
        there[row] = there[row] || brought[row];
    }
}

/* The value after a round without an optimizer. */
static model model_round(const bring *brings, size_t count)
{
    model m;
    bool there[ROWS] = {false};
    memset(&m, 0, sizeof m);
    for (size_t i = 0; i < count; i++) {
        model_add(m.value, there, &brings[i]);
    }
    return m;
}

static void assert_value(fixture_worker *worker, const model *m)
{
    memset(worker->value, 0x7f, sizeof m->value);
    (void)fixture_pull(worker, "e", worker->sequence - 1);
    assert_memory_equal(worker->value, m->value, sizeof m->value);
}

/* Numbers whose sums depend on their order. */
static float awkward(unsigned *seed)
{
    static const float numbers[] = {1e8f, -1e8f, 1, 0.3f, -7e-4f, 3e7f};
    return numbers[(unsigned)rand_r(seed) % 6];
}

static bring random_bring(unsigned *seed)
{
    bring b = {.count = (size_t)rand_r(seed) % (BRING_MAX + 1)};
    for (size_t i = 0; i < b.count; i++) {
        b.ids[i] = (uint64_t)rand_r(seed) % ROWS;
        for (int j = 0; j < WIDTH; j++) {
            b.data[i][j] = awkward(seed);
        }
    }
    return b;
}

/* ------------------------------------------------------------------ rounds */

static const bring nothing;
static const bring one_row = {.count = 1, .ids = {5}, .data = {{1, 2}}};

static void sums_have_the_same_bits_for_any_order_of_arrival(void **state)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    unsigned seed = 11;
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 3, KVS_POLICY_FAIL);
    init_rows(&f, &one_row);
    for (int round = 0; round < 300; round++) {
        bring brings[3] = {random_bring(&seed), random_bring(&seed), random_bring(&seed)};
        for (int i = 0; i < 3; i++) {
            int rank = orders[round % 6][i];
            (void)send(f.workers[rank], &brings[rank], f.workers[rank]->sequence - 1);
        }
        model m = model_round(brings, 3);
        assert_value(f.workers[round % 3], &m);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(f.workers[i]->credit_back, f.workers[i]->bytes_pushed);
        }
    }
    fixture_close(&f);
}

/* Rank 1 is a round ahead of the others: what it brings to the second waits. */
static void a_push_of_a_later_round_waits_for_it(void **state)
{
    unsigned seed = 5;
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 2, KVS_POLICY_FAIL);
    init_rows(&f, &nothing);
    bring brings[2][2];
    for (int i = 0; i < 4; i++) {
        brings[i / 2][i % 2] = random_bring(&seed);
    }
    (void)send(f.workers[1], &brings[0][1], 0);
    (void)send(f.workers[1], &brings[1][1], 0);
    (void)send(f.workers[0], &brings[0][0], 0);
    model first = model_round(brings[0], 2);
    assert_value(f.workers[0], &first);
    (void)send(f.workers[0], &brings[1][0], 0);
    model second = model_round(brings[1], 2);
    assert_value(f.workers[0], &second);
    fixture_close(&f);
}

static void a_rank_without_rows_has_its_turn(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 2, KVS_POLICY_FAIL);
    init_rows(&f, &nothing);
    uint64_t first = send(f.workers[0], &one_row, 0);
    for (uint64_t part = 0; part < PARTS; part++) {
        assert_int_equal(fixture_status(f.workers[0], first + part), KVS_STATUS_COUNT);
    }
    (void)send(f.workers[1], &nothing, 0);
    for (uint64_t part = 0; part < PARTS; part++) {
        assert_int_equal(fixture_status(f.workers[0], first + part), KVS_OK);
    }
    model m = model_round(&one_row, 1);
    assert_value(f.workers[0], &m);
    (void)send(f.workers[0], &nothing, 0);
    (void)send(f.workers[1], &nothing, 0);
    m = model_round(&nothing, 1);
    assert_value(f.workers[0], &m);
    assert_int_equal(f.workers[0]->version.count, 2);
    fixture_close(&f);
}

static void a_failed_round_changes_no_row(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 2, KVS_POLICY_FAIL);
    init_rows(&f, &one_row);
    uint64_t first = send(f.workers[0], &one_row, 0);
    kvs_session_leave(f.workers[1]->session, f.now_ns);
    assert_int_equal(fixture_status(f.workers[0], first + 1), KVS_ROUND_FAILED);
    fixture_worker *again = fixture_join(&f, 1);
    model m = model_round(&one_row, 1);
    assert_value(f.workers[0], &m);
    bring brings[2] = {{.count = 1, .ids = {9}, .data = {{3, 4}}},
                       {.count = 2, .ids = {9, 0}, .data = {{5, 6}, {7, 8}}}};
    (void)send(f.workers[0], &brings[0], 0);
    (void)send(again, &brings[1], 0);
    m = model_round(brings, 2);
    assert_value(f.workers[0], &m);
    fixture_close(&f);
}

static void a_lost_rank_is_left_out(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 2, KVS_POLICY_SHRINK);
    init_rows(&f, &nothing);
    (void)send(f.workers[1], &one_row, 0);
    kvs_session_leave(f.workers[0]->session, f.now_ns);
    model m = model_round(&one_row, 1);
    assert_value(f.workers[1], &m);
    fixture_close(&f);
}

/* ------------------------------------------------------------------ updates */

/* The same pushes to a dense key, with zeros where there are no rows. */
static void send_dense(fixture_worker *worker, const bring *given)
{
    model sum = model_round(given, 1);
    (void)fixture_push(worker, "d", sum.value[0], (uint64_t)ROWS * WIDTH, 0, false);
}

static void check_standard(const char *type, const char *optimizer)
{
    unsigned seed = 3;
    fixture f;
    model zero;
    open_fixture(&f, type, 1, KVS_POLICY_FAIL);
    memset(&zero, 0, sizeof zero);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        zero.value[i / WIDTH][i % WIDTH] = (float)i - 3.5f;
    }
    bring all = {.count = ROWS};
    for (uint64_t i = 0; i < ROWS; i++) {
        all.ids[i] = i;
        memcpy(all.data[i], zero.value[i], sizeof zero.value[i]);
    }
    init_rows(&f, &all);
    fixture_init(&f, "d", zero.value[0], (uint64_t)ROWS * WIDTH);
    fixture_optimizer(&f, optimizer);
    fixture_worker *a = f.workers[0];
    for (int round = 0; round < 20; round++) {
        bring given = random_bring(&seed);
        uint64_t first = send(a, &given, 0);
        assert_int_equal(fixture_status(a, first), KVS_OK);
        send_dense(a, &given);
        float expected[ROWS * WIDTH];
        (void)fixture_pull(a, "d", a->sequence - 1);
        memcpy(expected, a->value, sizeof expected);
        (void)fixture_pull(a, "e", a->sequence - 1);
        assert_memory_equal(a->value, expected, sizeof expected);
    }
    fixture_close(&f);
}

static void a_standard_rule_gives_the_bits_of_a_dense_value(void **state)
{
    static const char *const rules[] = {
        "{\"name\": \"sgd\", \"wd\": 0.01, \"lazy_update\": false}",
        "{\"name\": \"sgd\", \"wd\": 0.01, \"momentum\": 0.9, \"lazy_update\": false}",
        "{\"name\": \"adam\", \"wd\": 0.01, \"lazy_update\": false}",
        "{\"name\": \"test\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        check_standard("dist_sync", rules[i]);
        check_standard("dist_async", rules[i]);
    }
}

/* Of a lazy rule a row sees only the rounds that bring it, but counts all of them. */
static void a_lazy_rule_touches_the_rows_that_come(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 1, KVS_POLICY_FAIL);
    bring start = {.count = 2, .ids = {1, 2}, .data = {{8, 8}, {8, 8}}};
    init_rows(&f, &start);
    fixture_optimizer(&f, "{\"name\": \"sgd\", \"learning_rate\": 0.5, \"wd\": 0.5, "
                          "\"momentum\": 0.5, \"lazy_update\": true}");
    fixture_worker *a = f.workers[0];
    bring first = {.count = 1, .ids = {1}, .data = {{4, 4}}};
    (void)send(a, &first, 0);
    (void)send(a, &nothing, 0);
    /* m = -0.5 (4 + 0.5 8) = -4; w = 4; then m = -2 - 0.5 (4 + 0.5 4) = -5; w = -1 */
    (void)send(a, &first, 0);
    model m;
    memset(&m, 0, sizeof m);
    m.value[1][0] = m.value[1][1] = -1;
    m.value[2][0] = m.value[2][1] = 8;
    assert_value(a, &m);
    assert_int_equal(a->version.count, 3);
    fixture_close(&f);
}

static void a_reader_keeps_the_rows_that_it_has(void **state)
{
    fixture f;
    (void)state;
    for (int with_rule = 0; with_rule < 2; with_rule++) {
        open_fixture(&f, "dist_sync", 1, KVS_POLICY_FAIL);
        init_rows(&f, &one_row);
        if (with_rule == 1) {
            fixture_optimizer(&f, "{\"name\": \"test\"}");
        }
        kvs_snapshot snapshot;
        fixture_wait wait;
        fixture_wait_begin(&wait, 0);
        kvs_store_read(f.store, "e", 1, &snapshot, &wait.waiter, f.now_ns);
        assert_int_equal(wait.calls, 1);
        (void)send(f.workers[0], &one_row, 0);
        const float *row = (const float *)(const void *)(snapshot.data[1] + sizeof(float) * WIDTH);
        assert_float_equal(row[0], 1, 0);
        (void)fixture_pull(f.workers[0], "e", f.workers[0]->sequence - 1);
        assert_float_equal(f.workers[0]->value[5 * WIDTH], with_rule == 1 ? 2 : 1, 0);
        kvs_snapshot_deinit(&snapshot);
        fixture_close(&f);
    }
}

/* ------------------------------------------------------------------ reads of rows */

static uint64_t pull_rows(fixture_worker *worker, const uint64_t *ids, size_t count,
                          const char *key)
{
    static uint8_t packed[256];
    kvs_pull_key pull = {.key = key,
                         .key_bytes = (uint32_t)strlen(key),
                         .sequence = worker->sequence++,
                         .row_ids = packed};
    for (size_t i = 0; i < count; i++) {
        pull.row_ids_bytes += kvs_varint_pack(ids[i], packed + pull.row_ids_bytes);
    }
    worker->rows = 0;
    worker->values = 0;
    fixture_pull_keys(worker, &pull, 1);
    return pull.sequence;
}

static void rows_are_read_once_each_from_the_parts_that_have_them(void **state)
{
    static const uint64_t ids[] = {9, 0, 9, 1, 8, 0};
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 1, KVS_POLICY_FAIL);
    bring start = {.count = 4, .ids = {0, 1, 8, 9}, .data = {{1, 2}, {3, 4}, {5, 6}, {7, 8}}};
    init_rows(&f, &start);
    fixture_worker *a = f.workers[0];
    for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++) {
        a->value[i] = -1;
    }
    uint64_t sequence = pull_rows(a, ids, 6, "e");
    assert_int_equal(fixture_status(a, sequence), KVS_OK);
    assert_int_equal(a->values, 2);
    assert_int_equal(a->rows, 4);
    static const float expected[ROWS * WIDTH] = {1,  2,  3,  4,  -1, -1, -1, -1, -1, -1,
                                                 -1, -1, -1, -1, -1, -1, 5,  6,  7,  8};
    assert_memory_equal(a->value, expected, sizeof expected);
    fixture_close(&f);
}

static void reads_of_rows_that_cannot_be_are_refused(void **state)
{
    static const uint64_t good[] = {3};
    static const uint64_t bad[] = {3, ROWS};
    static const uint64_t huge[] = {UINT64_MAX};
    static const float one[1] = {1};
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 1, KVS_POLICY_FAIL);
    init_rows(&f, &one_row);
    fixture_init(&f, "d", one, 1);
    fixture_worker *a = f.workers[0];
    assert_int_equal(fixture_status(a, pull_rows(a, bad, 2, "e")), KVS_INVALID_TENSOR);
    assert_int_equal(fixture_status(a, pull_rows(a, huge, 1, "e")), KVS_INVALID_TENSOR);
    assert_int_equal(fixture_status(a, pull_rows(a, good, 1, "d")), KVS_INVALID_TENSOR);
    assert_int_equal(fixture_status(a, pull_rows(a, good, 1, "x")), KVS_KEY_NOT_FOUND);
    assert_int_equal(fixture_status(a, pull_rows(a, good, 1, "e")), KVS_OK);
    fixture_close(&f);
}

/* ------------------------------------------------------------------ refusals */

static void another_part(kvs_part_header *h)
{
    h->row_ids = (const uint8_t *)"\x00";
}
static void past_the_end(kvs_part_header *h)
{
    h->row_ids = (const uint8_t *)"\x0a";
}
static void cut_id(kvs_part_header *h)
{
    h->row_ids = (const uint8_t *)"\x85";
}
static void long_id(kvs_part_header *h)
{
    h->row_ids = (const uint8_t *)"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    h->row_ids_bytes = 12;
}
static void two_ids(kvs_part_header *h)
{
    h->row_ids = (const uint8_t *)"\x05\x06";
    h->row_ids_bytes = 2;
}
static void no_ids(kvs_part_header *h)
{
    h->row_ids_bytes = 0;
}
static void dense_with_ids(kvs_part_header *h)
{
    h->storage = KVS_DENSE;
}
static void dense_and_short(kvs_part_header *h)
{
    h->storage = KVS_DENSE;
    h->row_ids_bytes = 0;
}

static void pushes_that_do_not_fit_are_refused(void **state)
{
    static void (*const spoilers[])(kvs_part_header *) = {another_part,   past_the_end,   cut_id,
                                                          long_id,        two_ids,        no_ids,
                                                          dense_with_ids, dense_and_short};
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 1, KVS_POLICY_FAIL);
    init_rows(&f, &one_row);
    fixture_worker *a = f.workers[0];
    for (size_t i = 0; i < sizeof spoilers / sizeof spoilers[0]; i++) {
        push p;
        uint64_t sequence = a->sequence++;
        make_push(&p, &one_row, sequence, 0);
        p.headers[1].sequence = sequence;
        spoilers[i](&p.headers[1]);
        fixture_push_parts(a, &p.headers[1], 1, p.data, sizeof p.data[0], false);
        assert_int_equal(fixture_status(a, sequence), KVS_INVALID_TENSOR);
        assert_int_equal(a->credit_back, a->bytes_pushed);
    }
    (void)send(a, &one_row, 0);
    model m = model_round(&one_row, 1);
    assert_value(a, &m);
    fixture_close(&f);
}

static kvs_status try_init(fixture *f, kvs_shape shape)
{
    uint8_t packed[64];
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    kvs_payload payload = {0};
    kvs_part_header header = {.key = "n",
                              .key_bytes = 1,
                              .dtype = KVS_F32,
                              .storage = KVS_ROW_SPARSE,
                              .has_shape = true,
                              .shape = packed,
                              .shape_bytes = kvs_shape_pack(&shape, packed)};
    assert_int_equal(kvs_init_open(f->store, NULL, &init, &problem), KVS_OK);
    kvs_status status = kvs_init_part(init, &header, &payload, &problem);
    kvs_init_close(init);
    return status;
}

static void shapes_without_rows_to_speak_of_are_refused(void **state)
{
    fixture f;
    (void)state;
    open_fixture(&f, "dist_sync", 1, KVS_POLICY_FAIL);
    assert_int_equal(try_init(&f, (kvs_shape){.rank = 0}), KVS_INVALID_TENSOR);
    assert_int_equal(try_init(&f, (kvs_shape){.rank = 2, .size = {5, 0}}), KVS_INVALID_TENSOR);
    assert_int_equal(try_init(&f, (kvs_shape){.rank = 2, .size = {5, 1 << 20}}), KVS_TOO_LARGE);
    assert_int_equal(try_init(&f, (kvs_shape){.rank = 3, .size = {0, UINT64_MAX, 8}}),
                     KVS_TOO_LARGE);
    fixture_close(&f);
}

/* A row longer than a part is a part of its own. */
static void a_long_row_is_a_part(void **state)
{
    kvs_shape shape = {.rank = 2, .size = {3, 100}};
    kvs_key *key = NULL;
    (void)state;
    assert_int_equal(kvs_key_make("k", 1, KVS_F32, KVS_ROW_SPARSE, &shape, 64, 1, &key), KVS_OK);
    assert_int_equal(key->part_count, 3);
    assert_int_equal(key->part_elements, 100);
    kvs_key_free(key);
    shape.size[1] = 30;
    assert_int_equal(kvs_key_make("k", 1, KVS_F32, KVS_ROW_SPARSE, &shape, 64, 1, &key), KVS_OK);
    assert_int_equal(key->part_count, 2);
    assert_int_equal(key->part_elements, 60);
    kvs_key_free(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_have_the_same_bits_for_any_order_of_arrival),
        cmocka_unit_test(a_push_of_a_later_round_waits_for_it),
        cmocka_unit_test(a_rank_without_rows_has_its_turn),
        cmocka_unit_test(a_failed_round_changes_no_row),
        cmocka_unit_test(a_lost_rank_is_left_out),
        cmocka_unit_test(a_standard_rule_gives_the_bits_of_a_dense_value),
        cmocka_unit_test(a_lazy_rule_touches_the_rows_that_come),
        cmocka_unit_test(a_reader_keeps_the_rows_that_it_has),
        cmocka_unit_test(rows_are_read_once_each_from_the_parts_that_have_them),
        cmocka_unit_test(reads_of_rows_that_cannot_be_are_refused),
        cmocka_unit_test(pushes_that_do_not_fit_are_refused),
        cmocka_unit_test(shapes_without_rows_to_speak_of_are_refused),
        cmocka_unit_test(a_long_row_is_a_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
