/* What cuts of the whole store have done: for rules with states, from which a value follows only
 * if it is known at which version each cut took place. Nobody is told. So at the end a placement
 * is looked for: one version of each key for each cut, in the order of the cuts, with which the
 * model gives every value that was seen and every file that was saved. If there is none, a cut
 * was torn, or brought what it should not.
 *
 * In an asynchronous store it is not known who pushed what first. There the model follows the sum
 * of all ranks' counts, which grows by one a push, and the tag of loaded states. */
#include "tests/sim/sim.h"

#include "base/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So many ways are looked at, of one key. */
#define STEPS_MAX 200000u

/* ------------------------------------------------------------------ what is noted */

size_t sim_history_add(sim *world, sim_cut_kind kind)
{
    if (world->cut_count == world->cut_room) {
        world->cut_room = 2 * world->cut_room + 16;
        world->cuts = realloc(world->cuts, world->cut_room * sizeof(sim_cut));
        KVS_CHECK(world->cuts != NULL);
    }
    sim_cut *cut = &world->cuts[world->cut_count];
    *cut = (sim_cut){.kind = kind};
    for (uint32_t key = 0; key < world->plan.keys; key++) {
        kvs_key_info info = {.elements = 0};
        const char *name = sim_key_name(key);
        bool there = kvs_key_describe(world->store, name, strlen(name), &info, NULL) == KVS_OK;
        cut->least[key] = info.version.count;
        cut->most[key] = there ? UINT64_MAX : 0; /* a key that comes later comes after it */
    }
    return world->cut_count++;
}

void sim_history_over(sim *world, size_t index)
{
    for (uint32_t key = 0; key < world->plan.keys; key++) {
        kvs_key_info info = {.elements = 0};
        const char *name = sim_key_name(key);
        if (world->cuts[index].most[key] == UINT64_MAX &&
            kvs_key_describe(world->store, name, strlen(name), &info, NULL) == KVS_OK) {
            world->cuts[index].most[key] = info.version.count;
        }
    }
}

void sim_history_free(sim *world)
{
    for (size_t i = 0; i < world->cut_count; i++) {
        free(world->cuts[i].states);
    }
    free(world->cuts);
}

/* ------------------------------------------------------------------ the rules */

#define SIM_MOMENTUM 1.0f

#define SIM_LARS_ETA 0.25

static const struct {
    const char *name, *more;
    uint32_t rate, step;
} rules[] = {{.name = NULL},
             {"sgd", "", 4, 3},
             {"sgd", "", 2, 5},
             {"nag", "", 1, 1000},
             {"lars", ",\"eta\":0.25,\"momentum_correction\":false", 2, 4}};

static bool is_nag(uint32_t rule)
{
    return rule == 3;
}

static bool is_lars(uint32_t rule)
{
    return rule == 4;
}

uint32_t sim_states_rules(const sim_plan *plan)
{
    bool norms = plan->kind == KVS_SYNC && !plan->chaos && plan->sparse == 0;
    return norms ? 4 : 3;
}

bool sim_states_same_rule(uint32_t a, uint32_t b)
{
    return strcmp(rules[a].name, rules[b].name) == 0;
}

void sim_states_rule(const sim_plan *plan, uint32_t rule, char *out, size_t bytes)
{
    const char *clip = (plan->norms >> (rule - 1) % 2 & 1) != 0 ? ",\"clip_norm\":1e30" : "";
    const char *lazy = plan->lazy ? ",\"lazy_update\":true" : ",\"lazy_update\":false";
    (void)snprintf(out, bytes,
                   "{\"name\":\"%s\",\"learning_rate\":%u,\"momentum\":1,\"wd\":0,"
                   "\"lr_scheduler\":{\"name\":\"factor\",\"step\":%u,\"factor\":0.5,"
                   "\"stop_factor_lr\":1}%s%s%s}",
                   rules[rule].name, rules[rule].rate, rules[rule].step, clip, rules[rule].more,
                   rule <= 2 ? lazy : "");
}

/* Of update t, from 1. */
static float rate_of(uint32_t rule, uint64_t t)
{
    float rate = (float)rules[rule].rate;
    for (uint64_t halves = (t - 1) / rules[rule].step; halves > 0 && rate > 1.0f; halves--) {
        rate *= 0.5f;
    }
    return rate;
}

/* ------------------------------------------------------------------ the model */

/* A key after some updates and cuts. */
typedef struct walk {
    uint64_t version;
    uint64_t rounds; /* updates, over all */
    size_t cut;      /* the next */
    uint32_t rule;
    uint64_t updates[SIM_PARTS_MAX]; /* by the states: t */
    sim_value value[SIM_PARTS_MAX];
    sim_value momentum[SIM_PARTS_MAX];
} walk;

typedef struct search {
    sim *world;
    uint32_t key;
    uint64_t end;   /* the newest version that was seen */
    uint64_t tried; /* steps */
    uint64_t far;   /* the highest version and cut that led nowhere, and why */
    char why[320];
} search;

/* What the model knows of a value or of a state. */
static sim_value known(const sim_plan *plan, const sim_value *of)
{
    sim_layout at = sim_layout_of(plan);
    sim_value sum = {{0}};
    if (plan->kind == KVS_SYNC) {
        return *of;
    }
    for (uint32_t rank = 0; rank < plan->workers; rank++) {
        sum.of[0] += of->of[at.count + rank];
    }
    sum.of[1] = of->of[at.assign];
    return sum;
}

/* The gradient of a round, and which of its elements it has: of a key's rows some have none. */
static void gradient(const sim_plan *plan, uint32_t key, uint32_t part, uint64_t number,
                     sim_value *sum, bool *has)
{
    memset(sum, 0, sizeof(*sum));
    for (uint32_t i = 0; i < SIM_ELEMENTS_MAX; i++) {
        has[i] = !plan->lazy || !sim_is_sparse(plan, key);
    }
    if (plan->kind == KVS_ASYNC) {
        sum->of[0] = 1.0f;
        return;
    }
    for (uint32_t rank = 0; rank < plan->workers; rank++) {
        sim_value term;
        sim_pushed(plan, key, part, rank, number, &term);
        for (uint32_t i = 0; i < sim_plan_elements(plan, key, part); i++) {
            sum->of[i] = rank == 0 ? term.of[i] : sum->of[i] + term.of[i];
            has[i] = has[i] || term.of[i] != 0.0f;
        }
    }
}

/* Of one part, as engine/rules.h says that squares are added. */
static double squares(const sim_plan *plan, uint32_t key, uint32_t part, const sim_value *of)
{
    double lanes[8] = {0};
    for (uint32_t i = 0; i < sim_plan_elements(plan, key, part); i++) {
        lanes[i % 8] += (double)of->of[i] * (double)of->of[i];
    }
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/* lars: what the norms of the whole value and of its gradient make of a rate of 1. */
static double trust(const search *in, const walk *at, const sim_value *sums)
{
    const sim_plan *plan = &in->world->plan;
    static const char plain[] = "bias"; /* of a key with this end the norms do not matter */
    const char *name = sim_key_name(in->key);
    double weight = 0;
    double slope = 0;
    for (uint32_t part = 0; part < plan->parts[in->key]; part++) {
        weight += squares(plan, in->key, part, &at->value[part]);
        slope += squares(plan, in->key, part, &sums[part]);
    }
    weight = sqrt(weight);
    slope = sqrt(slope);
    size_t bytes = strlen(name);
    bool matters = bytes < strlen(plain) || strcmp(name + bytes - strlen(plain), plain) != 0;
    return matters && weight > 0 && slope > 0 ? SIM_LARS_ETA * weight / slope : 1;
}

static void update(const search *in, walk *at)
{
    const sim_plan *plan = &in->world->plan;
    sim_value sums[SIM_PARTS_MAX];
    bool had[SIM_PARTS_MAX][SIM_ELEMENTS_MAX];
    at->version++;
    at->rounds++;
    for (uint32_t part = 0; part < plan->parts[in->key]; part++) {
        gradient(plan, in->key, part, at->rounds, &sums[part], had[part]);
    }
    double scale = is_lars(at->rule) ? trust(in, at, sums) : 1;
    for (uint32_t part = 0; part < plan->parts[in->key]; part++) {
        const sim_value sum = sums[part];
        const bool *has = had[part];
        float rate = (float)(rate_of(at->rule, ++at->updates[part]) * scale);
        for (uint32_t i = 0; i < SIM_ELEMENTS_MAX; i++) {
            float *momentum = &at->momentum[part].of[i];
            float step = rate * sum.of[i];
            if (has[i] || at->rule > 2) {
                *momentum = SIM_MOMENTUM * *momentum - step;
                at->value[part].of[i] +=
                    is_nag(at->rule) ? SIM_MOMENTUM * *momentum - step : *momentum;
            }
        }
    }
}

/* ------------------------------------------------------------------ cuts of the model */

static bool lead_nowhere(search *in, const walk *at, const char *what, uint32_t part)
{
    uint64_t far = at->version << 16 | at->cut;
    if (far >= in->far) {
        in->far = far;
        (void)snprintf(in->why, sizeof(in->why),
                       "%s part %u, version %llu, after %zu of %zu cuts: %s", sim_key_name(in->key),
                       part, (unsigned long long)at->version, at->cut, in->world->cut_count, what);
    }
    return false;
}

static bool is_equal(const sim_plan *plan, const sim_value *model, const sim_value *seen)
{
    sim_value of = known(plan, seen);
    return memcmp(model, &of, sizeof(of)) == 0;
}

static bool check_save(search *in, const walk *at, const sim_states *file)
{
    const sim_plan *plan = &in->world->plan;
    for (uint32_t part = 0; part < plan->parts[in->key]; part++) {
        const sim_part_states *saved = &file->of[in->key][part];
        if (saved->updates != at->updates[part]) {
            return lead_nowhere(in, at, "the file has another count of updates", part);
        }
        if (!is_equal(plan, &at->momentum[part], &saved->momentum)) {
            return lead_nowhere(in, at, "the file has another momentum", part);
        }
        if (file->values && !is_equal(plan, &at->value[part], &saved->value)) {
            return lead_nowhere(in, at, "the file has another value", part);
        }
    }
    return true;
}

static void load(const search *in, walk *at, const sim_cut *cut)
{
    const sim_plan *plan = &in->world->plan;
    at->rule = cut->rule != 0 ? cut->rule : at->rule;
    at->version += cut->states->values ? 1 : 0;
    for (uint32_t part = 0; part < plan->parts[in->key]; part++) {
        const sim_part_states *from = &cut->states->of[in->key][part];
        at->updates[part] = from->updates;
        at->momentum[part] = known(plan, &from->momentum);
        at->value[part] = cut->states->values ? known(plan, &from->value) : at->value[part];
    }
}

static void change_rule(const search *in, walk *at, uint32_t rule)
{
    for (uint32_t part = 0; part < in->world->plan.parts[in->key]; part++) {
        if (!sim_states_same_rule(rule, at->rule)) {
            at->updates[part] = 0;
            at->momentum[part] = (sim_value){{0}};
        }
    }
    at->rule = rule;
}

static void assign(const search *in, walk *at, uint64_t id)
{
    const sim_plan *plan = &in->world->plan;
    at->version++;
    for (uint32_t part = 0; part < plan->parts[in->key]; part++) {
        sim_value value;
        sim_assigned(plan, in->key, part, id, &value);
        at->value[part] = known(plan, &value);
    }
}

/* At this version. False: it is not what was saved. */
static bool act(search *in, walk *at, const sim_cut *cut)
{
    at->cut++;
    switch (cut->kind) {
    case SIM_CUT_SAVE:
        return check_save(in, at, cut->states);
    case SIM_CUT_LOAD:
        load(in, at, cut);
        return true;
    case SIM_CUT_RULE:
        change_rule(in, at, cut->rule);
        return true;
    case SIM_CUT_ASSIGN:
        assign(in, at, cut->id);
        return true;
    }
    return true;
}

/* ------------------------------------------------------------------ the search */

static bool concerns(const sim_cut *cut, uint32_t key)
{
    bool empty = (cut->kind == SIM_CUT_SAVE || cut->kind == SIM_CUT_LOAD) &&
                 (cut->states == NULL || cut->states->keys == 0);
    if (cut->kind == SIM_CUT_LOAD && empty) {
        return cut->happened && cut->rule != 0; /* it came before the keys, and set their rule */
    }
    return cut->happened && !empty && (cut->kind != SIM_CUT_ASSIGN || cut->key == key);
}

static bool matches(search *in, const walk *at)
{
    const sim_plan *plan = &in->world->plan;
    for (uint32_t part = 0; part < plan->parts[in->key]; part++) {
        const sim_value *seen = sim_oracle_seen(in->world, in->key, part, at->version);
        if (seen != NULL && !is_equal(plan, &at->value[part], seen)) {
            return lead_nowhere(in, at, "another value was seen", part);
        }
    }
    return true;
}

static bool find(search *in, walk at)
{
    sim *world = in->world;
    if (++in->tried > STEPS_MAX || !matches(in, &at)) {
        return false;
    }
    while (at.cut < world->cut_count && !concerns(&world->cuts[at.cut], in->key)) {
        at.cut++;
    }
    if (at.cut < world->cut_count) {
        const sim_cut *cut = &world->cuts[at.cut];
        walk next = at;
        if (at.version >= cut->least[in->key] && at.version <= cut->most[in->key] &&
            act(in, &next, cut) && find(in, next)) {
            return true;
        }
        if (at.version >= cut->most[in->key]) {
            return lead_nowhere(in, &at, "the next cut has been told", 0);
        }
    }
    if (at.version >= in->end) {
        bool all = at.version == in->end && (at.cut == world->cut_count || world->deleted);
        return all || lead_nowhere(in, &at, "it ends here", 0);
    }
    update(in, &at);
    return find(in, at);
}

static void explain_key(sim *world, uint32_t key)
{
    const sim_plan *plan = &world->plan;
    search in = {.world = world, .key = key};
    walk start = {.rule = 1};
    uint64_t expected = plan->rounds * (plan->kind == KVS_SYNC ? 1 : plan->workers);
    for (size_t i = 0; i < world->cut_count; i++) {
        const sim_cut *cut = &world->cuts[i];
        if (concerns(cut, key)) {
            bool values = cut->kind == SIM_CUT_LOAD && cut->states->values;
            expected += cut->kind == SIM_CUT_ASSIGN || values ? 1 : 0;
        }
    }
    for (uint32_t part = 0; part < plan->parts[key]; part++) {
        uint64_t newest = sim_oracle_newest(world, key, part);
        in.end = newest > in.end ? newest : in.end;
        if (newest > expected || (newest != expected && !world->deleted)) {
            sim_fail(world, "exactly once: %s part %u is at version %llu, not %llu",
                     sim_key_name(key), part, (unsigned long long)newest,
                     (unsigned long long)expected);
            return;
        }
        sim_value value;
        sim_initial(plan, key, part, &value);
        start.value[part] = known(plan, &value);
    }
    if (!find(&in, start)) {
        sim_fail(world, "history: %s%s", in.why, in.tried > STEPS_MAX ? " (and more)" : "");
        return;
    }
    world->counts->histories++;
}

/* ------------------------------------------------------------------ any plan */

/* No gradient touches the tag of loaded states, and no round does: a file has that of the last load
 * before it, in all of its parts. */
static void check_tags(sim *world, const sim_states *file, float tag)
{
    const sim_plan *plan = &world->plan;
    sim_layout at = sim_layout_of(plan);
    for (uint32_t key = 0; key < file->keys; key++) {
        for (uint32_t part = 0; part < plan->parts[key]; part++) {
            const sim_part_states *saved = &file->of[key][part];
            if (saved->momentum.of[at.assign] != tag) {
                sim_fail(world, "states: of %s part %u those tagged %g were saved, not %g",
                         sim_key_name(key), part, (double)saved->momentum.of[at.assign],
                         (double)tag);
                return;
            }
            bool whole = plan->kind == KVS_SYNC && plan->policy != KVS_POLICY_SHRINK;
            for (uint32_t rank = 1; whole && rank < plan->workers; rank++) {
                if (saved->momentum.of[at.count + rank] != saved->momentum.of[at.count]) {
                    sim_fail(world, "states: of %s part %u some have pushes of rank 0 alone",
                             sim_key_name(key), part);
                }
            }
        }
    }
}

void sim_history_check(sim *world)
{
    uint32_t rule = 1;
    float tag = 0;
    for (size_t i = 0; i < world->cut_count && !world->failed; i++) {
        const sim_cut *cut = &world->cuts[i];
        if (!cut->happened) {
            continue;
        }
        if (cut->kind == SIM_CUT_SAVE) {
            check_tags(world, cut->states, tag);
        } else if (cut->kind == SIM_CUT_RULE) {
            tag = sim_states_same_rule(rule, cut->rule) ? tag : 0;
        } else if (cut->kind == SIM_CUT_LOAD && cut->states->keys > 0) {
            tag = cut->states->tag;
        }
        rule = cut->kind != SIM_CUT_ASSIGN && cut->rule != 0 ? cut->rule : rule;
    }
    if (world->plan.chaos || (world->deleted && world->plan.assigns)) {
        return; /* rounds that fail are not counted; who assigns while the store goes is not told */
    }
    for (uint32_t key = 0; key < world->plan.keys && !world->failed; key++) {
        explain_key(world, key);
    }
}
