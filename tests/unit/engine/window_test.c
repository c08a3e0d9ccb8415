/* The window of a session against a model that remembers every sequence there ever was. */
#include "engine/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEQUENCES 4096u

/* What the window must say, in the plainest way. */
typedef struct model {
    uint8_t state[SEQUENCES];
    uint8_t status[SEQUENCES];
    uint64_t size;
    uint64_t low;
} model;

static uint64_t random_below(uint64_t *seed, uint64_t bound)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (*seed >> 33) % bound;
}

static uint64_t model_through(const model *m)
{
    uint64_t s = 1;
    while (s < m->low + m->size && m->state[s] >= KVS_ENTRY_OPEN) {
        s++;
    }
    return s - 1;
}

static void model_move(model *m)
{
    while (m->state[m->low] == KVS_ENTRY_ENDED) {
        m->low++;
    }
}

static void assert_same(kvs_window *window, const model *m)
{
    assert_int_equal(window->low, m->low);
    assert_int_equal(window->through, model_through(m));
    for (uint64_t s = 1; s < m->low + m->size + 3; s++) {
        kvs_entry *entry = NULL;
        kvs_place place = kvs_window_find(window, s, &entry);
        if (s >= m->low + m->size) {
            assert_int_equal(place, KVS_PLACE_BEYOND);
        } else if (s + m->size < m->low) {
            assert_int_equal(place, KVS_PLACE_OLD);
        } else {
            assert_int_equal(place, KVS_PLACE_IN);
            assert_int_equal(entry->state, m->state[s]);
            if (entry->state == KVS_ENTRY_ENDED) {
                assert_int_equal(entry->status, m->status[s]);
            }
        }
    }
}

static void one_run(uint64_t seed, bool grows, bool skips)
{
    static model m;
    kvs_window window;
    memset(&m, 0, sizeof m);
    m.size = 1 + random_below(&seed, 20);
    m.low = 1;
    assert_int_equal(kvs_window_init(&window, m.size), KVS_OK);
    for (int step = 0; step < 400; step++) {
        uint64_t s = m.low + random_below(&seed, m.size);
        uint64_t what = random_below(&seed, 100);
        kvs_entry *entry = NULL;
        if (what < 2 && grows && m.size < 200) {
            /* What only the larger window would know counts as ended well. */
            uint64_t size = m.size + random_below(&seed, 30);
            for (uint64_t old = 1; old + m.size < m.low; old++) {
                m.status[old] = KVS_OK;
            }
            m.size = size;
            assert_int_equal(kvs_window_grow(&window, size), KVS_OK);
        } else if (what < 4 && skips) {
            uint64_t low = m.low + random_below(&seed, m.size);
            while (m.low < low && m.state[m.low] != KVS_ENTRY_OPEN) {
                m.state[m.low] = KVS_ENTRY_ENDED;
                m.status[m.low] = KVS_OK;
                model_move(&m);
            }
            kvs_window_skip(&window, low);
        } else if (m.state[s] == KVS_ENTRY_NEW) {
            uint64_t before = model_through(&m);
            assert_int_equal(kvs_window_find(&window, s, &entry), KVS_PLACE_IN);
            entry->op = (kvs_op *)&m; /* anything but NULL: it is at work */
            m.state[s] = KVS_ENTRY_OPEN;
            assert_int_equal(kvs_window_open(&window, s), model_through(&m) != before);
        } else if (m.state[s] == KVS_ENTRY_OPEN) {
            m.state[s] = KVS_ENTRY_ENDED;
            m.status[s] = (uint8_t)random_below(&seed, 5);
            kvs_window_end(&window, s, (kvs_status)m.status[s]);
            model_move(&m);
        }
        if (m.low + 2 * m.size + 64 > SEQUENCES) {
            break;
        }
        assert_same(&window, &m);
    }
    kvs_window_deinit(&window);
}

static void the_window_agrees_with_a_model_of_every_sequence(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        one_run(seed, false, false);
    }
}

static void a_window_that_grows_agrees_with_the_model(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        one_run(seed * 7 + 1, true, false);
    }
}

static void a_window_that_skips_agrees_with_the_model(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        one_run(seed * 11 + 5, true, true);
    }
}

static void a_jump_far_ahead_forgets_everything_when_nothing_is_at_work(void **state)
{
    kvs_window window;
    kvs_entry *entry = NULL;
    (void)state;
    assert_int_equal(kvs_window_init(&window, 8), KVS_OK);
    (void)kvs_window_open(&window, 1);
    kvs_window_end(&window, 1, KVS_ROUND_FAILED);
    kvs_window_skip(&window, 1000);
    assert_int_equal(window.low, 1000);
    assert_int_equal(window.through, 999);
    assert_int_equal(kvs_window_find(&window, 999, &entry), KVS_PLACE_IN);
    assert_int_equal(entry->state, KVS_ENTRY_ENDED);
    assert_int_equal(kvs_window_find(&window, 1, &entry), KVS_PLACE_OLD);
    assert_int_equal(kvs_window_find(&window, 1007, &entry), KVS_PLACE_IN);
    assert_int_equal(entry->state, KVS_ENTRY_NEW);
    assert_int_equal(kvs_window_find(&window, 1008, &entry), KVS_PLACE_BEYOND);
    kvs_window_deinit(&window);
}

static void a_jump_far_ahead_waits_for_what_is_at_work(void **state)
{
    kvs_window window;
    kvs_entry *entry = NULL;
    (void)state;
    assert_int_equal(kvs_window_init(&window, 8), KVS_OK);
    assert_int_equal(kvs_window_find(&window, 3, &entry), KVS_PLACE_IN);
    *entry = (kvs_entry){.op = (kvs_op *)&window, .state = KVS_ENTRY_OPEN};
    kvs_window_skip(&window, 1000);
    assert_int_equal(window.low, 1);
    kvs_window_deinit(&window);
}

/* A client may name any number as its lowest. */
static void the_highest_numbers_do_no_harm(void **state)
{
    static const uint64_t lows[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_MAX - 8, UINT64_MAX - 9,
                                    UINT64_MAX - 20};
    (void)state;
    for (size_t i = 0; i < sizeof lows / sizeof lows[0]; i++) {
        kvs_window window;
        kvs_entry *entry = NULL;
        assert_int_equal(kvs_window_init(&window, 8), KVS_OK);
        kvs_window_skip(&window, lows[i]);
        for (uint64_t back = 0; back < 40; back++) {
            uint64_t s = UINT64_MAX - back;
            if (kvs_window_find(&window, s, &entry) == KVS_PLACE_IN &&
                entry->state == KVS_ENTRY_NEW) {
                (void)kvs_window_open(&window, s);
                kvs_window_end(&window, s, KVS_OK);
            }
        }
        assert_int_equal(kvs_window_grow(&window, 64), KVS_OK);
        (void)kvs_window_find(&window, UINT64_MAX, &entry);
        (void)kvs_window_find(&window, 1, &entry);
        kvs_window_deinit(&window);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_window_agrees_with_a_model_of_every_sequence),
        cmocka_unit_test(a_window_that_grows_agrees_with_the_model),
        cmocka_unit_test(a_window_that_skips_agrees_with_the_model),
        cmocka_unit_test(a_jump_far_ahead_forgets_everything_when_nothing_is_at_work),
        cmocka_unit_test(a_jump_far_ahead_waits_for_what_is_at_work),
        cmocka_unit_test(the_highest_numbers_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
