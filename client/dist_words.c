#include "api/kvstored.pb-c.h"
#include "base/clock.h"
#include "client/dist_state.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* How long the server is asked for words when a wait is over anyway. */
#define WORDS_NS KVS_SECOND
/* Ranks that are named. */
#define RANKS_MAX 16u

/* Appends what fits. */
static void add_text(kvs_problem *problem, const char *text)
{
    size_t used = strlen(problem->detail);
    (void)snprintf(problem->detail + used, sizeof problem->detail - used, "%s", text);
}

static void add_ranks(kvs_problem *problem, const uint32_t *ranks, size_t count)
{
    add_text(problem, count == 1 ? "rank " : "ranks ");
    for (size_t i = 0; i < count && i < RANKS_MAX; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "%s%" PRIu32, i == 0 ? "" : ", ", ranks[i]);
        add_text(problem, text);
    }
    if (count > RANKS_MAX) {
        add_text(problem, " and more");
    }
}

static bool is_up(kvs_dist *dist)
{
    kvs_dist_lock(dist);
    bool up = dist->phase == KVS_DIST_UP;
    kvs_dist_unlock(dist);
    return up;
}

void kvs_dist_name_round(kvs_dist *dist, kvs_problem *problem)
{
    if (!is_up(dist)) {
        return;
    }
    Kvstored__V1__ListRoundsRequest request = KVSTORED__V1__LIST_ROUNDS_REQUEST__INIT;
    request.store = dist->store;
    kvs_unary unary = {0};
    kvs_problem ignored = {0};
    Kvstored__V1__ListRoundsReply *reply = NULL;
    if (kvs_dist_call(dist, "/kvstored.v1.Admin/ListRounds", &request.base,
                      kvs_clock_now_ns() + WORDS_NS, KVS_ONCE, &unary, &ignored) == KVS_OK) {
        reply = kvstored__v1__list_rounds_reply__unpack(NULL, unary.reply_bytes, unary.reply);
    }
    for (size_t i = 0; reply != NULL && i < reply->n_rounds; i++) {
        const Kvstored__V1__Round *round = reply->rounds[i];
        if (round->n_missing_ranks > 0) {
            add_text(problem, "; the round of key ");
            add_text(problem, round->key);
            add_text(problem, " waits for ");
            add_ranks(problem, round->missing_ranks, round->n_missing_ranks);
            break;
        }
    }
    if (reply != NULL) {
        kvstored__v1__list_rounds_reply__free_unpacked(reply, NULL);
    }
    kvs_unary_deinit(&unary);
}

void kvs_dist_name_barrier(kvs_dist *dist, kvs_problem *problem)
{
    if (!is_up(dist)) {
        return;
    }
    Kvstored__V1__ListBarriersRequest request = KVSTORED__V1__LIST_BARRIERS_REQUEST__INIT;
    request.store = dist->store;
    kvs_unary unary = {0};
    kvs_problem ignored = {0};
    Kvstored__V1__ListBarriersReply *reply = NULL;
    if (kvs_dist_call(dist, "/kvstored.v1.Admin/ListBarriers", &request.base,
                      kvs_clock_now_ns() + WORDS_NS, KVS_ONCE, &unary, &ignored) == KVS_OK) {
        reply = kvstored__v1__list_barriers_reply__unpack(NULL, unary.reply_bytes, unary.reply);
    }
    for (size_t i = 0; reply != NULL && i < reply->n_barriers; i++) {
        const Kvstored__V1__BarrierState *barrier = reply->barriers[i];
        if (barrier->name[0] == '\0' && barrier->n_missing_ranks > 0) {
            add_text(problem, "; the barrier waits for ");
            add_ranks(problem, barrier->missing_ranks, barrier->n_missing_ranks);
        }
    }
    if (reply != NULL) {
        kvstored__v1__list_barriers_reply__free_unpacked(reply, NULL);
    }
    kvs_unary_deinit(&unary);
}
