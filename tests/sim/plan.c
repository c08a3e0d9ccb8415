/* What a seed means. Every third plan is chaos; the rest are calm: every worker does its rounds,
 * streams break and messages come late, twice or out of order, and the values are known exactly. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <string.h>

static const char *const names[SIM_KEYS_MAX] = {"k0", "k1", "weights/2", "k3.bias"};

const char *sim_key_name(uint32_t key)
{
    return names[key];
}

uint32_t sim_plan_key_of(const sim_plan *plan, const char *name, size_t bytes)
{
    for (uint32_t key = 0; key < plan->keys; key++) {
        if (strlen(names[key]) == bytes && memcmp(names[key], name, bytes) == 0) {
            return key;
        }
    }
    return SIM_KEYS_MAX;
}

uint32_t sim_plan_elements(const sim_plan *plan, uint32_t key, uint32_t part)
{
    return part + 1 == plan->parts[key] ? plan->elements[key] : plan->part_elements;
}

uint32_t sim_plan_key_elements(const sim_plan *plan, uint32_t key)
{
    return (plan->parts[key] - 1) * plan->part_elements + plan->elements[key];
}

static uint32_t draw(kvs_seed *seed, uint32_t least, uint32_t most)
{
    return least + (uint32_t)kvs_seed_below(seed, most - least + 1);
}

static uint32_t make_keys(kvs_seed *seed, sim_plan *plan)
{
    uint32_t used = sim_layout_of(plan).used;
    uint32_t parts = 0;
    plan->keys = draw(seed, 1, SIM_KEYS_MAX);
    plan->part_elements = used + draw(seed, 0, 9);
    for (uint32_t key = 0; key < plan->keys; key++) {
        plan->parts[key] = draw(seed, 1, SIM_PARTS_MAX);
        plan->elements[key] = used + draw(seed, 0, plan->part_elements - used);
        parts += plan->parts[key];
    }
    return parts;
}

static void make_calm(kvs_seed *seed, sim_plan *plan)
{
    plan->rounds = draw(seed, 1, 10);
    plan->optimizer = plan->kind == KVS_ASYNC || !kvs_seed_chance(seed, 3);
    plan->late_optimizer = plan->kind == KVS_ASYNC && kvs_seed_chance(seed, 5);
    plan->policy = (kvs_policy)kvs_seed_below(seed, 3);
    plan->ahead = !plan->late_optimizer && kvs_seed_chance(seed, 2);
    plan->barriers = kvs_seed_chance(seed, 4);
    plan->assigns = !plan->late_optimizer && kvs_seed_chance(seed, 3);
    plan->rule_changes =
        plan->optimizer && plan->kind == KVS_SYNC && !plan->assigns && kvs_seed_chance(seed, 3);
    plan->inits = kvs_seed_chance(seed, 2);
    plan->deletes = kvs_seed_chance(seed, 16);
    plan->lease_ns = 10000 * SIM_MS;
    plan->round_deadline_ns = 60000 * SIM_MS;
    plan->limit_ns = 50000 * SIM_MS;
    plan->break_in = kvs_seed_chance(seed, 3) ? 0 : draw(seed, 20, 200);
}

static void make_chaos(kvs_seed *seed, sim_plan *plan)
{
    plan->chaos = true;
    plan->optimizer = true;
    plan->rounds = draw(seed, 2, 8);
    plan->policy = (kvs_policy)kvs_seed_below(seed, 3);
    plan->ahead = kvs_seed_chance(seed, 3);
    plan->deletes = kvs_seed_chance(seed, 32);
    plan->lease_ns = draw(seed, 1, 5) * 1000 * SIM_MS;
    plan->round_deadline_ns = draw(seed, 5, 20) * 1000 * SIM_MS;
    plan->limit_ns = 900000 * SIM_MS;
    plan->break_in = kvs_seed_chance(seed, 2) ? 0 : draw(seed, 30, 300);
    plan->starve_in = kvs_seed_chance(seed, 4) ? draw(seed, 2, 6) : 0;
}

/* Room for each value, its sum, its states and a copy, and a little for what waits and what is
 * read. */
static uint64_t little_memory(const sim_plan *plan, uint32_t parts)
{
    uint32_t each = plan->states != 0 ? 4 : 3;
    return (each * parts + 4) * (plan->part_elements * sizeof(float) + 32);
}

void sim_plan_make(kvs_seed *seed, sim_plan *out)
{
    static const uint64_t delays[] = {50000, SIM_MS, 20 * SIM_MS};
    memset(out, 0, sizeof(*out));
    out->kind = kvs_seed_chance(seed, 3) ? KVS_ASYNC : KVS_SYNC;
    out->workers = draw(seed, 1, SIM_WORKERS_MAX);
    uint32_t parts = make_keys(seed, out);
    if (kvs_seed_chance(seed, 3)) {
        make_chaos(seed, out);
    } else {
        make_calm(seed, out);
    }
    if (out->optimizer && !out->late_optimizer && kvs_seed_chance(seed, 3)) {
        out->states = draw(seed, SIM_STATES_ALONE, SIM_STATES_AND_VALUES);
        out->lazy = out->kind == KVS_SYNC && kvs_seed_chance(seed, 2);
        out->rule_changes = false; /* states.c changes it */
    }
    out->shards = draw(seed, 1, 4);
    out->inflight_parts = kvs_seed_chance(seed, 2) ? parts : draw(seed, parts, 4 * parts);
    uint64_t part_bytes = out->part_elements * sizeof(float);
    out->credit_bytes = kvs_seed_chance(seed, 2) ? part_bytes * draw(seed, 1, 3) : 0;
    if (out->chaos && kvs_seed_chance(seed, 5)) {
        out->memory_bytes = little_memory(out, parts);
    }
    if (out->chaos && out->kind == KVS_SYNC && out->policy != KVS_POLICY_SHRINK) {
        /* Who comes back may be a round ahead in some keys. What it holds of that must not keep it
         * from the others: such a circle ends at a deadline, if at all, and may begin again. */
        out->credit_bytes = 0;
        out->inflight_parts = 8 * parts;
        /* A push that is refused for want of memory leaves its rank a round behind the others;
         * ranks that are behind in different keys would wait for each other in the same way. */
        out->starve_in = 0;
        out->memory_bytes = 0;
    }
    out->delay_ns = delays[kvs_seed_below(seed, 3)];
    out->snapshots = kvs_seed_chance(seed, 2);
    out->reads = kvs_seed_chance(seed, 2);
    out->repeat_in = kvs_seed_chance(seed, 2) ? 0 : draw(seed, 3, 30);
    out->hold_in = kvs_seed_chance(seed, 2) ? 0 : draw(seed, 3, 30);
    out->turn_first = kvs_seed_chance(seed, 3) ? 100 : draw(seed, 20, 95);
    out->sparse = kvs_seed_chance(seed, 3) ? draw(seed, 1, (1u << SIM_KEYS_MAX) - 1) : 0;
    out->norms = out->optimizer && kvs_seed_chance(seed, 3) ? draw(seed, 1, 3) : 0;
    if (out->states != 0 && out->norms != 0 && out->kind == KVS_ASYNC) {
        out->norms = 3; /* else its parts would have had other pushes before a rule with norms */
    }
}

void sim_plan_print(const sim_plan *plan)
{
    static const char *const policies[] = {"fail", "shrink", "wait"};
    (void)printf("  %s%s, %s, %u workers, %u rounds, %s, %u shards, window %llu, credit %llu, keys",
                 plan->kind == KVS_SYNC ? "sync" : "async", plan->chaos ? ", chaos" : "",
                 policies[plan->policy], plan->workers, plan->rounds,
                 plan->optimizer ? "sgd" : "replace", plan->shards,
                 (unsigned long long)plan->inflight_parts, (unsigned long long)plan->credit_bytes);
    for (uint32_t key = 0; key < plan->keys; key++) {
        (void)printf(" %s%ux%u+%u", sim_is_sparse(plan, key) ? "sparse " : "", plan->parts[key] - 1,
                     plan->part_elements, plan->elements[key]);
    }
    (void)printf("%s%s%s%s%s%s%s%s, norms %u, break 1/%u, repeat 1/%u, hold 1/%u, starve 1/%u, "
                 "memory %llu, turns "
                 "%u%%\n",
                 plan->ahead ? ", ahead" : "", plan->barriers ? ", barriers" : "",
                 plan->assigns ? ", assigns" : "", plan->rule_changes ? ", rules" : "",
                 plan->late_optimizer ? ", late rule" : "", plan->inits ? ", inits" : "",
                 plan->deletes ? ", deletes" : "",
                 plan->states == 0                  ? ""
                 : plan->states == SIM_STATES_ALONE ? ", states"
                                                    : ", states and values",
                 plan->norms, plan->break_in, plan->repeat_in, plan->hold_in, plan->starve_in,
                 (unsigned long long)plan->memory_bytes, plan->turn_first);
}
