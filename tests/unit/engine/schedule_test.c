/* What closes a round, as a table: ranks, policy and what has arrived against the decision. */
#include "engine/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* One letter a rank: n never registered, l live, g gone. */
typedef struct row {
    const char *name;
    kvs_policy policy;
    const char *ranks;
    const char *arrived; /* x: has contributed */
    uint32_t next_rank;
    bool open, failed;
    uint32_t pushes; /* the rank that pushes now */
    kvs_decision decision;
    uint32_t next;  /* kvs_schedule_next before the push */
    bool must_fail; /* kvs_schedule_failed */
    bool ended;     /* kvs_schedule_ended */
    uint32_t missing;
    uint32_t culprits;
    uint32_t culprit; /* the first */
} row;

#define F KVS_POLICY_FAIL
#define S KVS_POLICY_SHRINK
#define W KVS_POLICY_WAIT

static const row rows[] = {
    {"first of three", F, "lll", "...", 0, 0, 0, 0, KVS_ADD, 0, 0, 0, 3, 3, 0},
    {"last of three comes first", F, "lll", "...", 0, 0, 0, 2, KVS_HOLD, 0, 0, 0, 3, 3, 0},
    {"the next in order", F, "lll", "x..", 1, 1, 0, 1, KVS_ADD, 1, 0, 0, 2, 2, 1},
    {"one before its turn", F, "lll", "x..", 1, 1, 0, 2, KVS_HOLD, 1, 0, 0, 2, 2, 1},
    {"again in one round", F, "lll", "x..", 1, 1, 0, 0, KVS_LATER, 1, 0, 0, 2, 2, 1},
    {"again, while held", F, "lll", "..x", 0, 1, 0, 2, KVS_LATER, 0, 0, 0, 2, 2, 0},
    {"all have come", F, "lll", "xxx", 3, 1, 0, 0, KVS_LATER, 3, 0, 1, 0, 0, 0},
    {"nobody has registered but one", F, "nnl", "...", 0, 0, 0, 2, KVS_HOLD, 0, 0, 0, 3, 3, 0},
    {"a new round with a rank gone fails", F, "lgl", "...", 0, 0, 0, 0, KVS_FAIL, 0, 1, 0, 3, 1, 1},
    {"an open round with a rank gone that came", F, "gll", "x..", 1, 1, 0, 1, KVS_ADD, 1, 0, 0, 2,
     2, 1},
    {"an open round with a rank gone that did not", F, "lgl", "x..", 1, 1, 0, 2, KVS_HOLD, 1, 1, 0,
     2, 1, 1},
    {"a failed round refuses", F, "lll", "x..", 1, 1, 1, 1, KVS_FAIL, 1, 0, 0, 2, 2, 1},
    {"a failed round and one that had its turn", F, "lll", "x..", 1, 1, 1, 0, KVS_LATER, 1, 0, 0, 2,
     2, 1},
    {"a failed round that only the gone did not reach", F, "lgl", "x.x", 0, 1, 1, 0, KVS_LATER, 0,
     1, 1, 1, 1, 1},
    {"shrink skips the gone", S, "gll", "...", 0, 0, 0, 1, KVS_ADD, 1, 0, 0, 2, 1, 0},
    {"shrink waits for the never", S, "nll", "...", 0, 0, 0, 1, KVS_HOLD, 0, 0, 0, 3, 3, 0},
    {"shrink: the skipped is back", S, "lll", ".x.", 2, 1, 0, 0, KVS_LATER, 2, 0, 0, 2, 2, 0},
    {"shrink: what the gone gave counts", S, "gll", "x..", 0, 1, 0, 1, KVS_HOLD, 0, 0, 0, 2, 2, 1},
    {"shrink: complete without the gone", S, "llg", "xx.", 2, 1, 0, 1, KVS_LATER, 3, 0, 1, 0, 1, 2},
    {"wait waits for the gone", W, "gll", "...", 0, 0, 0, 1, KVS_HOLD, 0, 0, 0, 3, 1, 0},
    {"wait takes the one that is back", W, "lll", ".xx", 0, 1, 0, 0, KVS_ADD, 0, 0, 0, 1, 1, 0},
    {"one worker alone", F, "l", ".", 0, 0, 0, 0, KVS_ADD, 0, 0, 0, 1, 1, 0},
};

static void every_row_is_decided_as_the_table_says(void **state)
{
    (void)state;
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        const row *t = &rows[r];
        uint8_t ranks[8] = {0};
        uint64_t arrived = 0;
        kvs_schedule schedule = {
            .num_workers = (uint32_t)strlen(t->ranks), .policy = t->policy, .ranks = ranks};
        for (uint32_t i = 0; i < schedule.num_workers; i++) {
            ranks[i] = t->ranks[i] == 'n'   ? KVS_RANK_NEVER
                       : t->ranks[i] == 'l' ? KVS_RANK_LIVE
                                            : KVS_RANK_GONE;
            schedule.gone += t->ranks[i] == 'g' ? 1u : 0u;
            arrived |= t->arrived[i] == 'x' ? (uint64_t)1 << i : 0;
        }
        kvs_round round = {.opened_ns = t->open ? 1 : 0,
                           .next_rank = t->next_rank,
                           .failed = t->failed,
                           .arrived = &arrived};
        uint32_t named[8] = {0};
        if (kvs_schedule_push(&schedule, &round, t->pushes) != t->decision ||
            kvs_schedule_next(&schedule, &round) != t->next ||
            kvs_schedule_failed(&schedule, &round) != t->must_fail ||
            kvs_schedule_ended(&schedule, &round) != t->ended ||
            kvs_schedule_missing(&schedule, &round, named, 8) != t->missing ||
            kvs_schedule_culprits(&schedule, &round, named, 8) != t->culprits ||
            (t->culprits > 0 && named[0] != t->culprit)) {
            fail_msg("row %zu, \"%s\": push %d, next %u, failed %d, ended %d, missing %u, "
                     "culprits %u from %u",
                     r, t->name, (int)kvs_schedule_push(&schedule, &round, t->pushes),
                     kvs_schedule_next(&schedule, &round), kvs_schedule_failed(&schedule, &round),
                     kvs_schedule_ended(&schedule, &round),
                     kvs_schedule_missing(&schedule, &round, named, 0),
                     kvs_schedule_culprits(&schedule, &round, named, 8), named[0]);
        }
    }
}

static void names_stop_at_the_room_for_them_and_the_count_does_not(void **state)
{
    uint8_t ranks[130];
    uint64_t arrived[3] = {0, 0, 1};
    uint32_t named[4] = {9, 9, 9, 9};
    (void)state;
    memset(ranks, KVS_RANK_LIVE, sizeof ranks);
    kvs_schedule schedule = {.num_workers = 130, .policy = F, .ranks = ranks};
    kvs_round round = {.opened_ns = 1, .arrived = arrived};
    assert_int_equal(kvs_schedule_missing(&schedule, &round, named, 3), 129);
    assert_int_equal(named[2], 2);
    assert_int_equal(named[3], 9);
    ranks[129] = KVS_RANK_GONE;
    schedule.gone = 1;
    assert_int_equal(kvs_schedule_culprits(&schedule, &round, named, 3), 1);
    assert_int_equal(named[0], 129);
}

static void a_round_that_waits_for_a_rank_without_a_session_is_stuck(void **state)
{
    static const struct {
        kvs_policy policy;
        uint8_t other; /* state of rank 1; rank 0 is live */
        bool stuck;    /* unless rank 1 has contributed */
    } cases[] = {
        {F, KVS_RANK_NEVER, true}, {F, KVS_RANK_LIVE, false}, {F, KVS_RANK_GONE, true},
        {S, KVS_RANK_NEVER, true}, {S, KVS_RANK_LIVE, false}, {S, KVS_RANK_GONE, false},
        {W, KVS_RANK_NEVER, true}, {W, KVS_RANK_LIVE, false}, {W, KVS_RANK_GONE, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t ranks[] = {KVS_RANK_LIVE, cases[i].other};
        kvs_schedule schedule = {.num_workers = 2, .policy = cases[i].policy, .ranks = ranks};
        for (uint64_t arrived = 0; arrived < 4; arrived++) {
            kvs_round round = {.arrived = &arrived};
            assert_int_equal(kvs_schedule_stuck(&schedule, &round), cases[i].stuck && arrived < 2);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_decided_as_the_table_says),
        cmocka_unit_test(names_stop_at_the_room_for_them_and_the_count_does_not),
        cmocka_unit_test(a_round_that_waits_for_a_rank_without_a_session_is_stuck),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
