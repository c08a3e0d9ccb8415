/* Every answer against the model. What is seen of a part is kept by version; at the end the
 * versions are walked in order, one round of the model each. */
#include "tests/sim/sim.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

typedef struct record {
    uint64_t version;
    sim_value value;
} record;

typedef struct assignment {
    uint64_t version;
    uint64_t id;
} assignment;

/* What became of a push. */
typedef enum fate { FATE_UNKNOWN, FATE_APPLIED, FATE_REFUSED } fate;

typedef struct pushes {
    uint8_t *fates; /* by number, from 1 */
    uint64_t count, room;
} pushes;

struct sim_oracle {
    struct {
        record *records; /* by version */
        size_t count, room;
        pushes of[SIM_WORKERS_MAX];
    } parts[SIM_KEYS_MAX][SIM_PARTS_MAX];
    struct {
        assignment all[8];
        size_t count;
    } assigned[SIM_KEYS_MAX];
};

bool sim_oracle_open(sim *world)
{
    world->oracle = calloc(1, sizeof(*world->oracle));
    return world->oracle != NULL;
}

void sim_oracle_free(sim *world)
{
    for (uint32_t key = 0; key < SIM_KEYS_MAX; key++) {
        for (uint32_t part = 0; part < SIM_PARTS_MAX; part++) {
            free(world->oracle->parts[key][part].records);
            for (uint32_t rank = 0; rank < SIM_WORKERS_MAX; rank++) {
                free(world->oracle->parts[key][part].of[rank].fates);
            }
        }
    }
    free(world->oracle);
}

/* ------------------------------------------------------------------ what is seen */

void sim_oracle_value(sim *world, uint32_t key, uint32_t part, uint64_t version,
                      const sim_value *value)
{
    __typeof__(&world->oracle->parts[0][0]) seen = &world->oracle->parts[key][part];
    size_t at = seen->count;
    while (at > 0 && seen->records[at - 1].version > version) {
        at--;
    }
    sim_trace(world, version);
    if (at > 0 && seen->records[at - 1].version == version) {
        if (memcmp(&seen->records[at - 1].value, value, sizeof(*value)) != 0) {
            sim_fail(world, "bytes: version %llu of %s part %u has been seen with other bytes",
                     (unsigned long long)version, sim_key_name(key), part);
        }
        return;
    }
    if (seen->count == seen->room) {
        seen->room = 2 * seen->room + 32;
        seen->records = realloc(seen->records, seen->room * sizeof(record));
        KVS_CHECK(seen->records != NULL);
    }
    memmove(&seen->records[at + 1], &seen->records[at], (seen->count - at) * sizeof(record));
    seen->records[at] = (record){.version = version, .value = *value};
    seen->count++;
    world->counts->versions++;
}

void sim_oracle_assign(sim *world, uint32_t key, uint64_t version, uint64_t id)
{
    __typeof__(&world->oracle->assigned[0]) to = &world->oracle->assigned[key];
    KVS_CHECK(to->count < sizeof(to->all) / sizeof(to->all[0]));
    to->all[to->count++] = (assignment){version, id};
}

void sim_oracle_pushed(sim *world, uint32_t rank, uint32_t key, uint32_t part, uint64_t number)
{
    pushes *to = &world->oracle->parts[key][part].of[rank];
    if (number >= to->room) {
        to->room = 2 * number + 32;
        to->fates = realloc(to->fates, to->room);
        KVS_CHECK(to->fates != NULL);
    }
    to->count = number > to->count ? number : to->count;
    to->fates[number] = FATE_UNKNOWN;
}

void sim_oracle_push_ended(sim *world, uint32_t rank, uint32_t key, uint32_t part, uint64_t number,
                           kvs_status status)
{
    world->oracle->parts[key][part].of[rank].fates[number] =
        status == KVS_OK ? FATE_APPLIED : FATE_REFUSED;
}

void sim_oracle_round_failed(sim *world, const kvs_problem *problem)
{
    bool late = world->now_ns > world->plan.round_deadline_ns;
    /* Nor is there a norm of what some part had no memory for, or has had before the rule. */
    const sim_plan *plan = &world->plan;
    bool unknown = plan->norms != 0 &&
                   (plan->starve_in != 0 || plan->memory_bytes != 0 || plan->late_optimizer);
    if (!world->somebody_gone && !late && !unknown) {
        sim_fail(world, "round: failed, and nobody is gone: %s", problem->detail);
    }
    if (problem->detail[0] == '\0') {
        sim_fail(world, "round: failed, and nobody is named");
    }
}

const sim_value *sim_oracle_seen(const sim *world, uint32_t key, uint32_t part, uint64_t version)
{
    const __typeof__(world->oracle->parts[0][0]) *seen = &world->oracle->parts[key][part];
    size_t low = 0;
    size_t high = seen->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (seen->records[middle].version < version) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = low < seen->count && seen->records[low].version == version;
    return found ? &seen->records[low].value : NULL;
}

uint64_t sim_oracle_newest(const sim *world, uint32_t key, uint32_t part)
{
    const __typeof__(world->oracle->parts[0][0]) *seen = &world->oracle->parts[key][part];
    return seen->count == 0 ? 0 : seen->records[seen->count - 1].version;
}

/* ------------------------------------------------------------------ one answer */

static void check_own(sim *world, const sim_client *client, const sim_op *op, uint32_t part)
{
    const sim_plan *plan = &world->plan;
    bool counted = !plan->assigns && plan->states == 0;
    if (plan->chaos || plan->late_optimizer) {
        return; /* pushes may have been refused: counted at the end */
    }
    if (op->versions[part] < op->own[part] ||
        (counted && op->counts[part] < (double)op->own[part])) {
        sim_fail(world,
                 "own round: rank %u asked for %s part %u after %llu pushes and saw version %llu "
                 "with %.0f of them",
                 client->rank, sim_key_name(op->key), part, (unsigned long long)op->own[part],
                 (unsigned long long)op->versions[part], op->counts[part]);
    }
}

void sim_oracle_answered(sim *world, const sim_client *client, const sim_op *op)
{
    const sim_plan *plan = &world->plan;
    if (op->kind == SIM_OP_PUSH) {
        return;
    }
    if (op->kind == SIM_OP_PUSHPULL) {
        if ((op->seen & 1u << op->part) == 0) {
            sim_fail(world, "pushpull: sequence %llu is acked without its value",
                     (unsigned long long)op->sequence);
            return;
        }
        check_own(world, client, op, op->part);
        if (plan->kind == KVS_SYNC && !plan->chaos && !plan->assigns &&
            plan->states != SIM_STATES_AND_VALUES && !op->resent && op->copies == 1 &&
            op->versions[op->part] != op->number) {
            sim_fail(world, "pushpull: push %llu came back with version %llu",
                     (unsigned long long)op->number, (unsigned long long)op->versions[op->part]);
        }
        return;
    }
    for (uint32_t part = 0; part < plan->parts[op->key]; part++) {
        if ((op->seen & 1u << part) == 0) {
            sim_fail(world, "pull: sequence %llu of rank %u is acked without part %u",
                     (unsigned long long)op->sequence, client->rank, part);
            return;
        }
        if (op->versions[part] < op->min_version) {
            sim_fail(world, "pull: version %llu where %llu was the least",
                     (unsigned long long)op->versions[part], (unsigned long long)op->min_version);
        }
        if (op->snapshot && op->versions[part] != op->versions[0]) {
            sim_fail(world, "snapshot: parts of versions %llu and %llu",
                     (unsigned long long)op->versions[0], (unsigned long long)op->versions[part]);
        }
        check_own(world, client, op, part);
    }
    world->counts->snapshots += op->snapshot ? 1 : 0;
}

/* ------------------------------------------------------------------ the end: calm, exact */

static const assignment *assignment_at(const sim *world, uint32_t key, uint64_t version)
{
    const __typeof__(world->oracle->assigned[0]) *all = &world->oracle->assigned[key];
    for (size_t i = 0; i < all->count; i++) {
        if (all->all[i].version == version) {
            return &all->all[i];
        }
    }
    return NULL;
}

/* The last version under the first rule: from any later value, since each round counts double. */
static uint64_t rule_version(const sim *world, uint64_t version, const sim_value *value)
{
    double count = sim_count_of(&world->plan, value, 0);
    return world->plan.rule_changes ? (uint64_t)(2 * (double)version - count) : UINT64_MAX;
}

static void differ(sim *world, uint32_t key, uint32_t part, const record *seen,
                   const sim_value *model)
{
    sim_layout at = sim_layout_of(&world->plan);
    for (uint32_t i = 0; i < SIM_ELEMENTS_MAX; i++) {
        if (memcmp(&seen->value.of[i], &model->of[i], sizeof(float)) != 0) {
            bool order = i >= at.order && i < at.order + 3;
            sim_fail(world, "%s: version %llu of %s part %u, element %u: %g, the model says %g",
                     order ? "rank order" : "value", (unsigned long long)seen->version,
                     sim_key_name(key), part, i, (double)seen->value.of[i], (double)model->of[i]);
            return;
        }
    }
}

static void check_rounds(sim *world, uint32_t key, uint32_t part)
{
    const sim_plan *plan = &world->plan;
    const __typeof__(world->oracle->parts[0][0]) *seen = &world->oracle->parts[key][part];
    if (seen->count == 0) {
        return; /* deleted before anybody looked */
    }
    const record *newest = &seen->records[seen->count - 1];
    uint64_t expected = plan->rounds + world->oracle->assigned[key].count;
    if (newest->version > expected || (newest->version != expected && !world->deleted)) {
        sim_fail(world, "exactly once: %s part %u is at version %llu, not %llu", sim_key_name(key),
                 part, (unsigned long long)newest->version, (unsigned long long)expected);
        return;
    }
    uint64_t rule = rule_version(world, newest->version, &newest->value);
    uint64_t numbers[SIM_WORKERS_MAX] = {0};
    sim_value model;
    sim_initial(plan, key, part, &model);
    size_t next = 0;
    for (uint64_t version = 0; version <= newest->version; version++) {
        const assignment *assigned = assignment_at(world, key, version);
        if (assigned != NULL) {
            sim_assigned(plan, key, part, assigned->id, &model);
        } else if (version > 0) {
            for (uint32_t rank = 0; rank < plan->workers; rank++) {
                numbers[rank]++;
            }
            sim_round(plan, key, part, numbers, version <= rule ? 1.0f : 2.0f, &model);
        }
        if (seen->records[next].version == version) {
            differ(world, key, part, &seen->records[next++], &model);
            world->counts->exact_versions++;
        }
    }
}

/* Parts of one key change their rule at one version. */
static void check_rule(sim *world, uint32_t key)
{
    uint64_t first = 0;
    for (uint32_t part = 0; part < world->plan.parts[key] && !world->deleted; part++) {
        const __typeof__(world->oracle->parts[0][0]) *seen = &world->oracle->parts[key][part];
        const record *newest = &seen->records[seen->count - 1];
        uint64_t rule = rule_version(world, newest->version, &newest->value);
        first = part == 0 ? rule : first;
        if (rule != first) {
            sim_fail(world,
                     "cut: part 0 of %s took the rule after version %llu, part %u after %llu",
                     sim_key_name(key), (unsigned long long)first, part, (unsigned long long)rule);
        }
    }
}

/* ------------------------------------------------------------------ the end: any order */

static uint64_t last_assignment(const sim *world, uint32_t key, uint64_t version)
{
    const __typeof__(world->oracle->assigned[0]) *all = &world->oracle->assigned[key];
    uint64_t last = 0;
    for (size_t i = 0; i < all->count; i++) {
        if (all->all[i].version <= version && all->all[i].version > last) {
            last = all->all[i].version;
        }
    }
    return last;
}

/* Asynchronous: each version is one push more, and a rank's pushes come in their order. */
static void check_pushes(sim *world, uint32_t key, uint32_t part, const record *seen)
{
    const sim_plan *plan = &world->plan;
    uint64_t since = last_assignment(world, key, seen->version);
    double sum = 0;
    for (uint32_t rank = 0; rank < plan->workers; rank++) {
        double count = sim_count_of(plan, &seen->value, rank);
        double numbers = sim_numbers_of(plan, &seen->value, rank);
        double first = (numbers - count * (count + 1) / 2) / (count == 0 ? 1 : count);
        sum += count;
        if (!plan->chaos &&
            (first < 0 || first != (double)(uint64_t)first || (since == 0 && first != 0))) {
            sim_fail(
                world, "order: %s part %u, version %llu: %.0f pushes of rank %u add up to %.0f",
                sim_key_name(key), part, (unsigned long long)seen->version, count, rank, numbers);
        }
    }
    double made = (double)(seen->version - since);
    /* A push of a session that has ended, be it with its store, counts and brings nothing. */
    bool some_fail = plan->late_optimizer || plan->chaos || world->deleted;
    if (some_fail ? sum > made : sum != made) {
        sim_fail(world, "exactly once: version %llu of %s part %u has %.0f pushes in it",
                 (unsigned long long)seen->version, sim_key_name(key), part, sum);
    }
}

/* Chaos where a round has all ranks or fails: all counts are equal, and so is what they add to. */
static void check_whole_rounds(sim *world, uint32_t key, uint32_t part, const record *seen)
{
    const sim_plan *plan = &world->plan;
    sim_layout at = sim_layout_of(plan);
    double count = sim_count_of(plan, &seen->value, 0);
    uint64_t numbers[SIM_WORKERS_MAX] = {1, 1, 1, 1, 1};
    sim_value model;
    for (uint32_t rank = 1; rank < plan->workers; rank++) {
        if (sim_count_of(plan, &seen->value, rank) != count) {
            sim_fail(world,
                     "whole rounds: version %llu of %s part %u has %.0f of rank 0, %.0f of %u",
                     (unsigned long long)seen->version, sim_key_name(key), part, count,
                     sim_count_of(plan, &seen->value, rank), rank);
            return;
        }
    }
    sim_initial(plan, key, part, &model);
    for (double i = 0; i < count; i++) {
        sim_round(plan, key, part, numbers, 1.0f, &model);
    }
    if (count > (double)seen->version ||
        memcmp(&model.of[at.order], &seen->value.of[at.order], 3 * sizeof(float)) != 0) {
        sim_fail(world, "rank order: version %llu of %s part %u after %.0f rounds",
                 (unsigned long long)seen->version, sim_key_name(key), part, count);
    }
}

/* Chaos where a round goes on without who is gone: from one version to the next, the ranks that
 * are in it once more, added in their order. */
static void check_step(sim *world, uint32_t key, uint32_t part, const record *before,
                       const record *seen)
{
    const sim_plan *plan = &world->plan;
    sim_layout at = sim_layout_of(plan);
    uint64_t numbers[SIM_WORKERS_MAX] = {0};
    bool any = false;
    for (uint32_t rank = 0; rank < plan->workers; rank++) {
        double more =
            sim_count_of(plan, &seen->value, rank) - sim_count_of(plan, &before->value, rank);
        if (more < 0 || more > (double)(seen->version - before->version)) {
            sim_fail(world, "rounds: version %llu of %s part %u has %.0f more of rank %u than %llu",
                     (unsigned long long)seen->version, sim_key_name(key), part, more, rank,
                     (unsigned long long)before->version);
            return;
        }
        numbers[rank] = more > 0 ? 1 : 0;
        any = any || more > 0;
    }
    if (seen->version != before->version + 1) {
        return;
    }
    sim_value model = before->value;
    sim_round(plan, key, part, numbers, 1.0f, &model);
    if (!any && (plan->starve_in != 0 || plan->memory_bytes != 0 || world->somebody_gone)) {
        /* A round that failed for want of memory, or of which there were only the empty turns of
         * who has gone. */
        model = before->value;
        any = true;
    }
    if (!any || memcmp(&model.of[at.order], &seen->value.of[at.order], 3 * sizeof(float)) != 0) {
        sim_fail(world, "rank order: version %llu of %s part %u", (unsigned long long)seen->version,
                 sim_key_name(key), part);
    }
    world->counts->exact_versions++;
}

/* The newest value has every push that was acked, once, none that was refused, and of those that
 * nobody was told of some. */
static void check_account(sim *world, uint32_t key, uint32_t part, const record *newest)
{
    const sim_plan *plan = &world->plan;
    for (uint32_t rank = 0; rank < plan->workers; rank++) {
        const pushes *all = &world->oracle->parts[key][part].of[rank];
        double least = 0, most = 0, least_sum = 0, most_sum = 0;
        for (uint64_t number = 1; number <= all->count; number++) {
            bool applied = all->fates[number] == FATE_APPLIED;
            bool perhaps = applied || all->fates[number] == FATE_UNKNOWN;
            least += applied ? 1 : 0;
            least_sum += applied ? (double)number : 0;
            most += perhaps ? 1 : 0;
            most_sum += perhaps ? (double)number : 0;
        }
        double count = sim_count_of(plan, &newest->value, rank);
        double sum = sim_numbers_of(plan, &newest->value, rank);
        if (count < least || count > most || sum < least_sum || sum > most_sum ||
            (count == least && sum != least_sum) || (count == most && sum != most_sum)) {
            sim_fail(world,
                     "exactly once: %s part %u has %.0f pushes of rank %u (sum %.0f), %.0f were "
                     "acked (%.0f), %.0f at most (%.0f)",
                     sim_key_name(key), part, count, rank, sum, least, least_sum, most, most_sum);
        }
    }
}

static void check_part(sim *world, uint32_t key, uint32_t part)
{
    const sim_plan *plan = &world->plan;
    const __typeof__(world->oracle->parts[0][0]) *seen = &world->oracle->parts[key][part];
    sim_layout at = sim_layout_of(plan);
    sim_value first;
    sim_initial(plan, key, part, &first);
    for (size_t i = 0; i < seen->count && !world->failed; i++) {
        const record *here = &seen->records[i];
        if (plan->optimizer && here->value.of[at.tag] != first.of[at.tag]) {
            sim_fail(world, "value: %s part %u holds another part", sim_key_name(key), part);
        }
        if (plan->kind == KVS_ASYNC) {
            check_pushes(world, key, part, here);
        } else if (plan->policy == KVS_POLICY_SHRINK && i > 0) {
            check_step(world, key, part, here - 1, here);
        } else if (plan->policy != KVS_POLICY_SHRINK) {
            check_whole_rounds(world, key, part, here);
        }
    }
    if (world->failed || world->deleted) {
        return;
    }
    if (seen->count == 0) {
        sim_fail(world, "value: nobody saw %s part %u", sim_key_name(key), part);
        return;
    }
    uint64_t newest = seen->records[seen->count - 1].version;
    uint64_t expected = plan->rounds * plan->workers + world->oracle->assigned[key].count;
    if (!plan->chaos && !plan->late_optimizer && newest != expected) {
        sim_fail(world, "exactly once: %s part %u is at version %llu, not %llu", sim_key_name(key),
                 part, (unsigned long long)newest, (unsigned long long)expected);
    }
    if (plan->assigns) {
        return; /* what came before an assignment cannot be counted any more */
    }
    check_account(world, key, part, &seen->records[seen->count - 1]);
}

void sim_oracle_check(sim *world)
{
    const sim_plan *plan = &world->plan;
    if (world->deleted && plan->assigns) {
        return; /* who assigns while the store goes is not told what became of it */
    }
    if (plan->states != 0) {
        return; /* history.c does */
    }
    for (uint32_t key = 0; key < plan->keys && !world->failed; key++) {
        for (uint32_t part = 0; part < plan->parts[key] && !world->failed; part++) {
            if (plan->kind == KVS_SYNC && !plan->chaos) {
                check_rounds(world, key, part);
            } else {
                check_part(world, key, part);
            }
        }
        if (plan->rule_changes && !world->failed) {
            check_rule(world, key);
        }
    }
}
