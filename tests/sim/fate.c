/* What happens to a worker: it joins, initialises, beats; it stalls, leaves, dies and comes back.
 */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define HEART_NS (250 * SIM_MS)
#define POLL_NS (1000 * SIM_MS)
/* Faults of a chaos plan happen in its first seconds; later everything must come to an end. */
#define FATE_NS (20000 * SIM_MS)

/* ------------------------------------------------------------------ joining */

static void run(sim_client *client, kvs_session *session)
{
    kvs_store_info info;
    kvs_store_describe(client->world->store, &info);
    client->window = info.inflight_parts;
    client->life = SIM_RUNNING;
    client->stalled = false;
    client->sync_ns = 0;
    client->step = 0;
    client->step_count = 0;
    sim_client_connect(client, session);
    sim_worker_pump(client);
}

static void init_told(sim_waiter *waiter, const kvs_problem *problem)
{
    sim_client *client = waiter->context;
    sim *world = client->world;
    const kvs_init_key *keys = NULL;
    if (problem->status != KVS_OK) {
        if (!world->deleted) {
            sim_fail(world, "init: %s", problem->detail);
        }
        client->life = SIM_FINISHED;
    } else if (kvs_init_keys(waiter->init, &keys) != world->plan.keys) {
        sim_fail(world, "init: not all keys came back");
    } else if (!keys[0].existed && client->rank != 0) {
        keys = NULL; /* it may or may not have been there when the others asked */
    }
    kvs_init_close(waiter->init);
    if (client->life == SIM_JOINING && !world->failed) {
        run(client, client->session);
    }
}

static void init_keys(sim_client *client)
{
    sim *world = client->world;
    kvs_init *init = NULL;
    kvs_problem problem = {.status = KVS_OK};
    if (kvs_init_open(world->store, client->session, &init, &problem) != KVS_OK ||
        sim_life_init_parts(world, init, client->rank == 0, &problem) != KVS_OK) {
        sim_fail(world, "init: %s", problem.detail);
        return;
    }
    sim_waiter *waiter = sim_waiter_make(world, init_told, client, 0);
    waiter->init = init;
    kvs_init_commit(init, &waiter->waiter, world->now_ns);
}

/* A client of the other kind is told so. */
static void try_wrong_type(sim_client *client)
{
    sim *world = client->world;
    kvs_register request = {.type = world->plan.kind == KVS_SYNC ? "dist_async" : "dist_sync",
                            .worker = "other",
                            .rank = -1};
    kvs_session *session = NULL;
    kvs_session_info info;
    kvs_status status =
        kvs_session_register(world->store, &request, world->now_ns, &session, &info, NULL);
    if (status != KVS_STORE_TYPE_MISMATCH) {
        sim_fail(world, "register: the other kind got %s", kvs_status_find(status)->reason);
    }
}

static void run_join(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    char name[16];
    if (client->incarnation != number || client->life != SIM_AWAY || world->closing) {
        return;
    }
    if (world->deleted) {
        client->life = SIM_FINISHED;
        return;
    }
    (void)snprintf(name, sizeof(name), "worker-%u", client->rank);
    if (sim_chance(world, 10)) {
        try_wrong_type(client);
    }
    kvs_register request = {.type =
                                world->plan.kind == KVS_SYNC ? "dist_device_sync" : "dist_async",
                            .worker = name,
                            .rank = client->rank};
    kvs_session *session = NULL;
    kvs_problem problem = {.status = KVS_OK};
    kvs_status status = kvs_session_register(world->store, &request, world->now_ns, &session,
                                             &client->info, &problem);
    if (status == KVS_RANK_TAKEN && world->plan.chaos) {
        sim_worker_join(client, 300 * SIM_MS);
        return;
    }
    if (status != KVS_OK || client->info.rank != client->rank) {
        sim_fail(world, "register: %s %s", kvs_status_find(status)->reason, problem.detail);
        return;
    }
    sim_say(world, "rank %u has joined", client->rank);
    sim_life_keep(world, session);
    client->low = 1;
    client->session = session;
    client->life = SIM_JOINING;
    if (world->plan.inits) {
        init_keys(client);
    } else {
        run(client, session);
    }
}

void sim_worker_join(sim_client *client, uint64_t delay_ns)
{
    sim_after(client->world, delay_ns, run_join, client, client->incarnation);
}

/* ------------------------------------------------------------------ heart and fate */

static void run_heart(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    (void)number;
    if (world->closing) {
        return;
    }
    sim_after(world, HEART_NS, run_heart, client, 0);
    if (client->session == NULL || client->stalled || client->life == SIM_AWAY) {
        return;
    }
    kvs_status status = kvs_session_heartbeat(client->session, world->now_ns);
    if (status != KVS_OK && client->life == SIM_RUNNING) {
        sim_worker_lost_session(client, status);
        return;
    }
    sim_worker_pump(client);
}

static void run_poll(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    (void)number;
    if (world->closing) {
        return;
    }
    sim_after(world, POLL_NS, run_poll, client, 0);
    if (client->life == SIM_RUNNING && client->connected && !client->stalled) {
        sim_client_poll(client);
    }
}

static void run_wake(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    (void)world;
    if (client->incarnation == number) {
        client->stalled = false;
        sim_worker_pump(client);
    }
}

static void run_fate(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    (void)number;
    if (client->life != SIM_RUNNING || client->stalled || world->closing || world->deleted) {
        return;
    }
    world->somebody_gone = true;
    uint64_t away_ns = sim_below(world, 3 * world->plan.lease_ns);
    switch (sim_below(world, 3)) {
    case 0:
        sim_say(world, "rank %u stalls", client->rank);
        world->counts->stalls++;
        client->stalled = true;
        sim_after(world, away_ns, run_wake, client, client->incarnation);
        return;
    case 1:
        sim_say(world, "rank %u leaves", client->rank);
        world->counts->leaves++;
        kvs_session_leave(client->session, world->now_ns);
        break;
    default:
        sim_say(world, "rank %u dies", client->rank);
        world->counts->deaths++;
        break;
    }
    sim_client_forget(client);
    client->napping = false;
    client->life = SIM_AWAY;
    sim_worker_join(client, away_ns);
}

/* ------------------------------------------------------------------ all of them */

void sim_clients_open(sim *world)
{
    for (uint32_t rank = 0; rank < world->plan.workers; rank++) {
        sim_client *client = &world->clients[rank];
        client->world = world;
        client->rank = rank;
        client->low = 1;
        sim_worker_join(client, sim_delay(world));
        sim_after(world, sim_below(world, HEART_NS), run_heart, client, 0);
        if (!world->plan.chaos) {
            continue;
        }
        sim_after(world, POLL_NS, run_poll, client, 0);
        for (uint64_t fates = sim_below(world, 4); fates > 0; fates--) {
            uint64_t within = sim_chance(world, 2) ? 200 * SIM_MS : FATE_NS;
            sim_after(world, sim_below(world, within), run_fate, client, 0);
        }
    }
}

bool sim_clients_finished(sim *world)
{
    for (uint32_t rank = 0; rank < world->plan.workers; rank++) {
        if (world->clients[rank].life != SIM_FINISHED) {
            return false;
        }
    }
    return true;
}

void sim_clients_explain(sim *world, char *out, size_t bytes)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t rank = 0; rank < world->plan.workers && used < bytes; rank++) {
        const sim_client *client = &world->clients[rank];
        if (client->life == SIM_FINISHED) {
            continue;
        }
        used += (size_t)snprintf(out + used, bytes - used, "rank %u is %s%s", rank,
                                 client->life == SIM_AWAY      ? "away"
                                 : client->life == SIM_JOINING ? "joining"
                                                               : "running",
                                 client->in_barrier ? " in a barrier" : "");
        if (used < bytes && client->life == SIM_RUNNING && client->low <= client->op_count) {
            const sim_op *op = &client->ops[client->low - 1];
            used += (size_t)snprintf(out + used, bytes - used,
                                     ", %llu of %zu (%s of %s part %u after %llu) is %s",
                                     (unsigned long long)op->sequence, client->op_count,
                                     op->snapshot              ? "snapshot"
                                     : op->kind == SIM_OP_PULL ? "pull"
                                                               : "push",
                                     sim_key_name(op->key), op->part, (unsigned long long)op->after,
                                     op->state == SIM_QUEUED ? "not sent" : "not answered");
        }
        used += used < bytes ? (size_t)snprintf(out + used, bytes - used, "; ") : 0;
    }
}

void sim_clients_close(sim *world)
{
    for (uint32_t rank = 0; rank < world->plan.workers && !world->failed; rank++) {
        sim_client *client = &world->clients[rank];
        if (client->credit_used != 0 && client->connected && !client->resumed && !world->deleted &&
            !world->plan.chaos) {
            sim_fail(world, "credit: %llu bytes of rank %u have not come back",
                     (unsigned long long)client->credit_used, rank);
        }
        sim_client_disconnect(client);
        if (client->session != NULL && sim_chance(world, 2)) {
            kvs_session_leave(client->session, world->now_ns);
        }
        free(client->ops);
        client->ops = NULL;
        client->op_count = 0;
    }
}
