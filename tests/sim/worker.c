/* A worker's program, step by step: rounds of pushes and pulls, barriers, naps; and what it does
 * when its streams break or its session is over. */
#include "tests/sim/sim.h"

#include "base/check.h"

#include <stdio.h>
#include <string.h>

#define CALL_NS (5000 * SIM_MS)

/* ------------------------------------------------------------------ the program */

static void add_step(sim_client *client, sim_step_kind kind, uint32_t key)
{
    KVS_CHECK(client->step_count < SIM_STEPS_MAX);
    client->steps[client->step_count++] = (sim_step){.kind = kind, .key = key};
}

/* One round: every key once, in an order of its own. */
static void plan_round(sim_client *client)
{
    sim *world = client->world;
    const sim_plan *plan = &world->plan;
    uint32_t keys[SIM_KEYS_MAX];
    uint32_t count = plan->keys;
    bool pulls_last = sim_chance(world, 2);
    for (uint32_t key = 0; key < count; key++) {
        keys[key] = key;
    }
    client->step = 0;
    client->step_count = 0;
    while (count > 0) {
        uint32_t index = (uint32_t)sim_below(world, count);
        add_step(client, SIM_STEP_PUSH, keys[index]);
        /* A pull before the round's other pushes could wait for a worker that waits for those. */
        if (!pulls_last && count == 1 && sim_chance(world, 2)) {
            add_step(client, SIM_STEP_PULL, keys[index]);
        }
        if (plan->late_optimizer) {
            add_step(client, SIM_STEP_SYNC, 0);
        }
        keys[index] = keys[--count];
    }
    for (uint32_t key = 0; key < plan->keys; key++) {
        if (plan->chaos || sim_chance(world, 2)) {
            add_step(client, SIM_STEP_PULL, key);
        }
    }
    /* A snapshot waits for the slowest part of its key; a push of it that is cut by the window's
     * end would wait for the snapshot. */
    client->snapshots = plan->snapshots && sim_chance(world, 2);
    if (plan->chaos || !plan->ahead || client->snapshots || sim_chance(world, 3)) {
        add_step(client, SIM_STEP_SYNC, 0);
    }
    if (plan->barriers && client->round % 2 == 0) {
        add_step(client, SIM_STEP_BARRIER, 0);
    }
    if (client->refused || sim_chance(world, 4)) {
        add_step(client, SIM_STEP_NAP, 0);
    }
    client->refused = false;
    client->round++;
}

static void push_key(sim_client *client, uint32_t key)
{
    uint64_t after = client->last[key];
    sim_op_kind kind = sim_chance(client->world, 3) ? SIM_OP_PUSHPULL : SIM_OP_PUSH;
    for (uint32_t part = 0; part < client->world->plan.parts[key]; part++) {
        client->last[key] = sim_client_add(client, kind, key, part, after)->sequence;
    }
}

static void pull_key(sim_client *client, uint32_t key)
{
    const sim_plan *plan = &client->world->plan;
    sim_op *op = sim_client_add(client, SIM_OP_PULL, key, 0, client->last[key]);
    client->last[key] = op->sequence;
    op->snapshot = client->snapshots && sim_chance(client->world, 2);
    if (!plan->chaos && !op->snapshot && !plan->late_optimizer && sim_chance(client->world, 4)) {
        op->min_version = client->own[key][0]; /* its own rounds will bring it there */
    }
}

static void barrier_told(sim_waiter *waiter, const kvs_problem *problem)
{
    sim_client *client = waiter->context;
    sim *world = client->world;
    if (client->incarnation != waiter->number) {
        return;
    }
    client->in_barrier = false;
    if (problem->status != KVS_OK) {
        if (!world->deleted) {
            sim_fail(world, "barrier: %s %s", kvs_status_find(problem->status)->reason,
                     problem->detail);
        }
        client->life = SIM_FINISHED;
        return;
    }
    world->counts->barriers++;
    if (waiter->barrier.generation + 1 != client->barriers) {
        sim_fail(world, "barrier: generation %llu to the rank %u's entry %llu",
                 (unsigned long long)waiter->barrier.generation, client->rank,
                 (unsigned long long)client->barriers);
    }
    for (uint32_t rank = 0; rank < world->plan.workers; rank++) {
        if (world->clients[rank].barriers < client->barriers) {
            sim_fail(world, "barrier: rank %u went on before rank %u came", client->rank, rank);
        }
    }
    client->step++;
}

static void enter_barrier(sim_client *client)
{
    sim *world = client->world;
    sim_waiter *waiter = sim_waiter_make(world, barrier_told, client, client->incarnation);
    client->in_barrier = true;
    client->barriers++;
    kvs_barrier_enter(world->store, client->rank, "", &waiter->barrier, &waiter->waiter,
                      world->now_ns);
}

static void run_nap_over(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    (void)world;
    if (client->incarnation == number && client->napping) {
        client->napping = false;
        client->step++;
        sim_worker_pump(client);
    }
}

/* A call has a deadline of its own: then its worker goes on, without the answer. Who has died in
 * the middle of a round comes back ahead in some keys, and waits for those who wait for it. */
static bool gives_up(sim_client *client)
{
    sim *world = client->world;
    if (client->sync_ns == 0) {
        client->sync_ns = world->now_ns;
    }
    return world->plan.chaos && world->now_ns > client->sync_ns + CALL_NS;
}

/* One step; false: it has to wait. */
static bool run_step(sim_client *client)
{
    sim *world = client->world;
    sim_step step = client->steps[client->step];
    switch (step.kind) {
    case SIM_STEP_PUSH:
        if (client->op_count + 1 - client->low > 2 * client->window) {
            return false;
        }
        push_key(client, step.key);
        break;
    case SIM_STEP_PULL:
        pull_key(client, step.key);
        break;
    case SIM_STEP_SYNC:
        if (client->low <= client->op_count && !gives_up(client)) {
            return false;
        }
        client->sync_ns = 0;
        break;
    case SIM_STEP_NAP:
        if (!client->napping) {
            client->napping = true;
            uint64_t nap = world->plan.chaos ? 500 * SIM_MS : 10 * SIM_MS;
            sim_after(world, sim_below(world, nap), run_nap_over, client, client->incarnation);
        }
        return false;
    case SIM_STEP_BARRIER:
        if (!client->in_barrier) {
            enter_barrier(client);
        }
        return false;
    }
    client->step++;
    return true;
}

/* Chaos: all its pushes that were asked for are in the values. */
static bool has_seen_all(const sim_client *client)
{
    const sim_plan *plan = &client->world->plan;
    for (uint32_t key = 0; key < plan->keys; key++) {
        for (uint32_t part = 0; part < plan->parts[key]; part++) {
            if (client->seen[key][part] < plan->rounds) {
                return false;
            }
        }
    }
    return true;
}

/* Chaos: if the policy is to wait for who has gone, all go on until all have seen all: who came
 * back may be a round ahead of the others in some keys, and sees nothing more of them without the
 * others. */
static bool may_leave(const sim_client *client)
{
    sim *world = client->world;
    for (uint32_t rank = 0; rank < world->plan.workers; rank++) {
        const sim_client *other = &world->clients[rank];
        if (world->plan.policy == KVS_POLICY_WAIT && world->plan.kind == KVS_SYNC &&
            other->life != SIM_FINISHED && !has_seen_all(other)) {
            return false;
        }
    }
    return has_seen_all(client);
}

static void finish(sim_client *client)
{
    sim *world = client->world;
    sim_say(world, "rank %u has finished", client->rank);
    if (world->plan.chaos) { /* the others need not wait for it any more */
        kvs_session_leave(client->session, world->now_ns);
        world->somebody_gone = true;
        sim_client_forget(client);
    }
    client->life = SIM_FINISHED;
}

static void run_rejoin(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    kvs_register request = {.type = "",
                            .worker = "again",
                            .rank = client->rank,
                            .resume = client->info.id,
                            .epoch = 1,
                            .lowest_unacknowledged = client->low};
    kvs_session *session = NULL;
    kvs_problem problem = {.status = KVS_OK};
    if (client->connection != number || client->life == SIM_AWAY) {
        return;
    }
    kvs_status status = kvs_session_register(world->store, &request, world->now_ns, &session,
                                             &client->info, &problem);
    if (status != KVS_OK) {
        sim_worker_lost_session(client, status);
        return;
    }
    world->counts->resumes++;
    client->resumed = true;
    sim_life_keep(world, session);
    sim_client_connect(client, session);
    sim_worker_pump(client);
}

static void break_streams(sim_client *client)
{
    sim *world = client->world;
    sim_say(world, "rank %u loses its streams", client->rank);
    world->counts->breaks++;
    sim_client_disconnect(client);
    sim_after(world, sim_delay(world) + sim_below(world, 300 * SIM_MS), run_rejoin, client,
              client->connection);
}

void sim_worker_pump(sim_client *client)
{
    sim *world = client->world;
    if (client->pumping || world->failed) {
        return;
    }
    if (client->wants_break && client->connected && !client->stalled) {
        break_streams(client);
    }
    if (client->life != SIM_RUNNING || !client->connected || client->stalled) {
        return;
    }
    client->pumping = true;
    if (world->plan.chaos && may_leave(client)) {
        finish(client);
        for (uint32_t rank = 0; rank < world->plan.workers; rank++) {
            sim_worker_pump(&world->clients[rank]); /* they may go, too */
        }
    }
    while (client->life == SIM_RUNNING) {
        if (client->step < client->step_count) {
            if (!run_step(client)) {
                break;
            }
        } else if (world->plan.chaos || client->round < world->plan.rounds) {
            plan_round(client);
        } else if (client->low > client->op_count) {
            finish(client);
        } else {
            break;
        }
    }
    if (client->connected) {
        sim_client_transmit(client);
    }
    client->pumping = false;
}

void sim_worker_refused(sim_client *client, const sim_op *op, kvs_status status)
{
    uint32_t key = op->key;
    uint32_t part = op->part;
    client->refused = true;
    if (status == KVS_FENCED || status == KVS_NOT_REGISTERED || status == KVS_STORE_DELETED) {
        sim_worker_lost_session(client, status);
    } else if (client->world->plan.late_optimizer) {
        client->numbers[key][part]--;
        client->own[key][part]--;
        if (client->world->plan.norms != 0) {
            return; /* a push is one of all parts, and others of this one may have been taken */
        }
        /* The same push once more, until somebody sets the rule. */
        sim_op *again = sim_client_add(client, op->kind, key, part, client->last[key]);
        again->not_before_ns = client->world->now_ns + 10 * SIM_MS;
        client->last[key] = again->sequence;
    }
}

void sim_worker_lost_session(sim_client *client, kvs_status status)
{
    sim *world = client->world;
    sim_say(world, "rank %u has lost its session: %s", client->rank,
            kvs_status_find(status)->reason);
    world->somebody_gone = true;
    sim_client_forget(client);
    client->napping = false;
    client->in_barrier = false;
    if (world->deleted) {
        client->life = SIM_FINISHED;
        return;
    }
    if (!world->plan.chaos) {
        sim_fail(world, "session: rank %u lost it: %s", client->rank,
                 kvs_status_find(status)->reason);
        return;
    }
    client->life = SIM_AWAY;
    sim_worker_join(client, 20 * SIM_MS);
}
