/* What happens beside the training: reads at cuts, assignments, rules, lists. */
#include "tests/sim/sim.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASSIGNS_MAX 6u
/* No more is asked for while so much is on its way: turns would never catch up with events. */
#define OPEN_MAX 8u

bool sim_admin_may_fail(const sim *world, kvs_status status)
{
    return (status == KVS_STORE_DELETED && world->deleted) ||
           (status == KVS_KEY_NOT_FOUND && world->plan.inits) ||
           (status == KVS_DEADLINE && world->plan.chaos);
}

/* ------------------------------------------------------------------ reads */

static void read_told(sim_waiter *waiter, const kvs_problem *problem)
{
    sim *world = waiter->world;
    const kvs_snapshot *snapshot = &waiter->snapshot;
    if (problem->status != KVS_OK) {
        if (!sim_admin_may_fail(world, problem->status) && !world->closing) {
            sim_fail(world, "read: %s %s", kvs_status_find(problem->status)->reason,
                     problem->detail);
        }
        return;
    }
    world->counts->cuts++;
    world->last_reads += waiter->number != 0 ? 1u : 0u;
    if (snapshot->parts != world->plan.parts[waiter->key]) {
        sim_fail(world, "read: %zu parts of %s", snapshot->parts, sim_key_name(waiter->key));
    }
    for (uint32_t part = 0; part < snapshot->parts && !world->failed; part++) {
        sim_value value = {{0}};
        memcpy(value.of, snapshot->data[part],
               sim_plan_elements(&world->plan, waiter->key, part) * sizeof(float));
        sim_oracle_value(world, waiter->key, part, snapshot->info.version.count, &value);
    }
    kvs_snapshot_deinit(&waiter->snapshot);
}

static void read_key(sim *world, uint32_t key, bool last)
{
    const char *name = sim_key_name(key);
    sim_waiter *waiter = sim_waiter_make(world, read_told, NULL, last ? 1 : 0);
    waiter->key = key;
    kvs_store_read(world->store, name, strlen(name), &waiter->snapshot, &waiter->waiter,
                   world->now_ns);
}

void sim_admin_read_all(sim *world)
{
    for (uint32_t key = 0; key < world->plan.keys; key++) {
        read_key(world, key, true);
    }
    sim_loop(world, NULL);
    /* Whoever has died in the middle of a key: its parts have met. */
    if (world->last_reads != world->plan.keys) {
        sim_fail(world, "rest: of %u keys %u have parts of one version", world->plan.keys,
                 world->last_reads);
    }
}

/* ------------------------------------------------------------------ assignments */

static void assign_told(sim_waiter *waiter, const kvs_problem *problem)
{
    sim *world = waiter->world;
    if (problem->status == KVS_ETAG_MISMATCH && waiter->match.count > 0) {
        world->counts->mismatches++;
        return;
    }
    if (problem->status != KVS_OK) {
        if (!sim_admin_may_fail(world, problem->status)) {
            sim_fail(world, "assign: %s %s", kvs_status_find(problem->status)->reason,
                     problem->detail);
        }
        return;
    }
    world->counts->assigns++;
    if (waiter->match.count > 0 && waiter->version.count != waiter->match.count + 1) {
        sim_fail(world, "assign: matched version %llu, made version %llu",
                 (unsigned long long)waiter->match.count,
                 (unsigned long long)waiter->version.count);
    }
    sim_oracle_assign(world, waiter->key, waiter->version.count, waiter->number);
    if (world->plan.states != 0) {
        sim_cut *cut = &world->cuts[waiter->cut];
        cut->happened = true;
        cut->least[waiter->key] = cut->most[waiter->key] = waiter->version.count - 1;
    }
}

static void assign_key(sim *world, uint32_t key)
{
    const sim_plan *plan = &world->plan;
    const char *name = sim_key_name(key);
    float data[SIM_PARTS_MAX * SIM_ELEMENTS_MAX];
    uint32_t elements = sim_plan_key_elements(plan, key);
    kvs_shape shape = {.rank = 1, .size = {elements}};
    kvs_key_info info;
    if (world->assigned == ASSIGNS_MAX) {
        return;
    }
    uint64_t id = ++world->assigned;
    for (uint32_t part = 0; part < plan->parts[key]; part++) {
        sim_value value;
        sim_assigned(plan, key, part, id, &value);
        memcpy(data + (size_t)part * plan->part_elements, value.of,
               sim_plan_elements(plan, key, part) * sizeof(float));
    }
    sim_waiter *waiter = sim_waiter_make(world, assign_told, NULL, id);
    waiter->key = key;
    if (plan->states != 0) {
        waiter->cut = sim_history_add(world, SIM_CUT_ASSIGN);
        world->cuts[waiter->cut].key = key;
        world->cuts[waiter->cut].id = id;
    }
    const kvs_version *match = NULL;
    if (sim_chance(world, 3) &&
        kvs_key_describe(world->store, name, strlen(name), &info, NULL) == KVS_OK &&
        info.version.count > 0) {
        waiter->match = info.version;
        match = &waiter->match;
    }
    kvs_store_assign(world->store, name, strlen(name), KVS_F32, &shape, data,
                     elements * sizeof(float), match, &waiter->version, &waiter->waiter,
                     world->now_ns);
}

/* ------------------------------------------------------------------ rules */

static void rule_told(sim_waiter *waiter, const kvs_problem *problem)
{
    if (problem->status != KVS_OK && !sim_admin_may_fail(waiter->world, problem->status)) {
        sim_fail(waiter->world, "set_optimizer: %s", problem->detail);
    }
    waiter->world->counts->rules++;
}

static void set_rule(sim *world, int rate)
{
    kvs_optimizer *optimizer = sim_life_rule(world, rate);
    if (optimizer == NULL) {
        return;
    }
    sim_waiter *waiter = sim_waiter_make(world, rule_told, NULL, 0);
    kvs_store_set_optimizer(world->store, optimizer, &waiter->waiter, world->now_ns);
    kvs_optimizer_unref(optimizer);
}

void sim_admin_set_rule(sim *world, uint32_t rule)
{
    size_t cut = sim_history_add(world, SIM_CUT_RULE);
    world->cuts[cut].rule = rule;
    world->cuts[cut].happened = true;
    world->rule = rule;
    set_rule(world, (int)rule);
}

static void run_late_rule(sim *world, void *context, uint64_t number);

/* Another rule with norms and the same effect, before all parts may have taken the first. */
static void run_other_norms(sim *world, void *context, uint64_t number)
{
    world->other_norms = true;
    run_late_rule(world, context, number);
}

static void run_late_rule(sim *world, void *context, uint64_t number)
{
    (void)context;
    if (world->plan.late_optimizer && world->plan.norms != 0 && !world->other_norms) {
        sim_after(world, sim_below(world, 4 * world->plan.delay_ns), run_other_norms, NULL, number);
    }
    if (!world->deleted) {
        world->rule = (uint32_t)number;
        set_rule(world, (int)number);
    }
}

/* ------------------------------------------------------------------ lists */

static void rounds_told(sim_waiter *waiter, const kvs_problem *problem)
{
    sim *world = waiter->world;
    if (problem->status != KVS_OK) {
        sim_fail(world, "rounds: %s", problem->detail);
    }
    for (size_t i = 0; i < waiter->rounds.count; i++) {
        const kvs_round_info *info = &waiter->infos[i];
        if (info->arrived_count > world->plan.workers ||
            info->missing_count > world->plan.workers ||
            sim_plan_key_of(&world->plan, info->key, info->key_bytes) == SIM_KEYS_MAX) {
            sim_fail(world, "rounds: %u arrived and %u missing of %u", info->arrived_count,
                     info->missing_count, world->plan.workers);
        }
    }
}

static void list_rounds(sim *world)
{
    sim_waiter *waiter = sim_waiter_make(world, rounds_told, NULL, 0);
    waiter->rounds.max = sizeof(waiter->infos) / sizeof(waiter->infos[0]);
    waiter->rounds.rounds = waiter->infos;
    kvs_store_rounds(world->store, &waiter->rounds, &waiter->waiter, world->now_ns);
}

static void list_others(sim *world)
{
    kvs_key_info keys[SIM_KEYS_MAX];
    kvs_barrier_info barriers[4];
    kvs_worker_info workers[SIM_WORKERS_MAX];
    size_t count = kvs_key_list(world->store, "", "", SIM_KEYS_MAX, keys);
    if (count != world->plan.keys && !(world->plan.inits && count == 0)) {
        sim_fail(world, "keys: %zu are listed", count);
    }
    (void)kvs_barrier_list(world->store, 4, barriers);
    (void)kvs_worker_list(world->store, world->now_ns, SIM_WORKERS_MAX, workers);
}

/* ------------------------------------------------------------------ its day */

static void run_something(sim *world, void *context, uint64_t number)
{
    const sim_plan *plan = &world->plan;
    (void)context;
    (void)number;
    if (world->closing || world->deleted) {
        return;
    }
    uint64_t pause = plan->chaos ? 2000 * SIM_MS : 4 * plan->delay_ns;
    sim_after(world, 1 + sim_below(world, pause), run_something, NULL, 0);
    if (world->waiters_live > OPEN_MAX) {
        return;
    }
    uint32_t key = (uint32_t)sim_below(world, plan->keys);
    switch (sim_below(world, 5)) {
    case 0:
        if (plan->reads) {
            read_key(world, key, false);
        }
        break;
    case 1:
        if (plan->assigns) {
            assign_key(world, key);
        }
        break;
    case 2:
        if (plan->optimizer && !plan->late_optimizer) {
            set_rule(world, (int)world->rule); /* an equal one: nothing may change */
        }
        break;
    case 3:
        list_rounds(world);
        break;
    default:
        list_others(world);
        break;
    }
}

void sim_admin_open(sim *world)
{
    sim_after(world, sim_below(world, 10 * SIM_MS), run_something, NULL, 0);
    if (world->plan.late_optimizer) {
        sim_after(world, sim_below(world, 200 * SIM_MS), run_late_rule, NULL, 1);
    }
    if (world->plan.rule_changes) {
        sim_after(world, sim_below(world, 20 * world->plan.delay_ns), run_late_rule, NULL, 2);
    }
}
