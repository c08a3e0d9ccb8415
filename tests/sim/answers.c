/* What a worker makes of the answers that arrive: each once, of the right kind, complete. */
#include "tests/sim/sim.h"

#include <stdio.h>

static sim_op *find(sim_client *client, uint64_t sequence)
{
    if (sequence == 0 || sequence > client->op_count) {
        sim_fail(client->world, "answers: rank %u was answered sequence %llu of %zu", client->rank,
                 (unsigned long long)sequence, client->op_count);
        return NULL;
    }
    return &client->ops[sequence - 1];
}

/* Every copy that was sent is answered at most once. */
static bool expected(sim_client *client, sim_op *op)
{
    if (++op->answers <= op->copies) {
        return true;
    }
    sim_fail(client->world, "answers: sequence %llu of rank %u was answered %u times to %u copies",
             (unsigned long long)op->sequence, client->rank, op->answers, op->copies);
    return false;
}

static void move_low(sim_client *client)
{
    while (client->low <= client->op_count && client->ops[client->low - 1].state >= SIM_OK) {
        client->low++;
    }
}

/* A read of rows takes memory: of two copies of it one may find some, the other none. */
static bool starved(const sim_client *client, const sim_op *op, kvs_status status)
{
    return op->kind == SIM_OP_PULL && sim_is_sparse(&client->world->plan, op->key) &&
           (status == KVS_NO_MEMORY || status == KVS_OVER_BUDGET);
}

static void ack_one(sim_client *client, uint64_t sequence, bool duplicate)
{
    sim *world = client->world;
    sim_op *op = find(client, sequence);
    if (op == NULL || !expected(client, op)) {
        return;
    }
    world->counts->acks++;
    world->counts->duplicates += duplicate ? 1 : 0;
    /* A copy that comes so late that the window has forgotten it is acked. */
    bool forgotten = sequence + client->window <= client->op_count;
    if (op->state == SIM_REFUSED && !(duplicate && forgotten) && !starved(client, op, op->status)) {
        sim_fail(world, "answers: sequence %llu of rank %u is acked after it was refused",
                 (unsigned long long)sequence, client->rank);
    }
    if (op->state == SIM_REFUSED) {
        return;
    }
    if (duplicate && op->copies == 1 && !op->resent) {
        sim_fail(world, "answers: sequence %llu of rank %u, sent once, is acked as a duplicate",
                 (unsigned long long)sequence, client->rank);
    }
    if (op->state == SIM_OK) {
        return;
    }
    op->state = SIM_OK;
    if (op->kind != SIM_OP_PULL) {
        sim_oracle_push_ended(world, client->rank, op->key, op->part, op->number, KVS_OK);
    }
    sim_oracle_answered(world, client, op);
}

void sim_client_acked(sim_client *client, uint64_t first, uint64_t last, bool duplicate)
{
    if (last < first || last > client->op_count) {
        sim_fail(client->world, "answers: an ack of %llu to %llu", (unsigned long long)first,
                 (unsigned long long)last);
        return;
    }
    for (uint64_t s = first; s <= last; s++) {
        ack_one(client, s, duplicate);
    }
    move_low(client);
}

/* Refusals that do not use the sequence up: it is sent again, later. */
static void send_again(sim_client *client, sim_op *op)
{
    sim *world = client->world;
    world->counts->refused_credit++;
    if (!client->resumed) {
        sim_fail(world, "credit: rank %u kept inside its credit and was refused", client->rank);
    }
    if (op->state == SIM_SENT) {
        op->state = SIM_QUEUED;
        op->not_before_ns = world->now_ns + SIM_MS + sim_below(world, 20 * SIM_MS);
    }
}

/* May a calm run refuse this? */
static bool refusal_allowed(const sim_client *client, kvs_status status)
{
    const sim *world = client->world;
    switch (status) {
    case KVS_STORE_DELETED:
        return world->deleted;
    case KVS_FENCED:
    case KVS_NOT_REGISTERED:
        return world->deleted || world->plan.chaos;
    case KVS_OPTIMIZER_NOT_SET:
        return world->plan.late_optimizer;
    case KVS_ROUND_FAILED:
        /* Who waits is refused only what somebody has torn; so is who shrinks, if there are norms.
         */
        if (world->plan.late_optimizer && world->plan.norms != 0) {
            return true; /* a push that has met some parts before the rule and some after it */
        }
        return world->plan.chaos &&
               (world->plan.policy != KVS_POLICY_SHRINK || world->plan.norms != 0);
    case KVS_DEADLINE:
        return world->plan.chaos;
    case KVS_NO_MEMORY:
        return world->plan.starve_in != 0;
    case KVS_OVER_BUDGET:
        return world->plan.memory_bytes != 0;
    default:
        return false;
    }
}

static void count_refusal(sim_counts *counts, kvs_status status)
{
    counts->refused_rounds += status == KVS_ROUND_FAILED ? 1 : 0;
    counts->refused_memory += status == KVS_NO_MEMORY || status == KVS_OVER_BUDGET ? 1 : 0;
    counts->refused_rule += status == KVS_OPTIMIZER_NOT_SET ? 1 : 0;
    counts->refused_deleted += status == KVS_STORE_DELETED ? 1 : 0;
    counts->refused_fenced += status == KVS_FENCED || status == KVS_NOT_REGISTERED ? 1 : 0;
}

void sim_client_refused(sim_client *client, uint64_t sequence, const kvs_problem *problem)
{
    sim *world = client->world;
    kvs_status status = problem->status;
    sim_say(world, "rank %u: sequence %llu refused: %s %s", client->rank,
            (unsigned long long)sequence, kvs_status_find(status)->reason, problem->detail);
    if (sequence == 0 && (world->deleted || world->plan.chaos)) {
        return;
    }
    sim_op *op = find(client, sequence);
    if (op == NULL || !expected(client, op)) {
        return;
    }
    if (status == KVS_OVER_CREDIT) {
        send_again(client, op);
        return;
    }
    if (!refusal_allowed(client, status)) {
        sim_fail(world, "refused: sequence %llu of rank %u: %s %s", (unsigned long long)sequence,
                 client->rank, kvs_status_find(status)->reason, problem->detail);
        return;
    }
    count_refusal(world->counts, status);
    if (op->state == SIM_OK || (op->state == SIM_REFUSED && op->status != status)) {
        /* A session that has ended refuses repetitions of what it had acked: allowed. */
        if (status != KVS_FENCED && status != KVS_STORE_DELETED && !starved(client, op, status)) {
            sim_fail(world, "answers: sequence %llu of rank %u is refused after another answer",
                     (unsigned long long)sequence, client->rank);
        }
        return;
    }
    if (op->state == SIM_REFUSED) {
        return;
    }
    op->state = SIM_REFUSED;
    op->status = status;
    move_low(client);
    if (status == KVS_ROUND_FAILED) {
        sim_oracle_round_failed(world, problem);
    }
    if (op->kind != SIM_OP_PULL && status != KVS_FENCED && status != KVS_STORE_DELETED) {
        sim_oracle_push_ended(world, client->rank, op->key, op->part, op->number, status);
    }
    sim_worker_refused(client, op, status);
}

void sim_client_credited(sim_client *client, uint64_t bytes)
{
    if (bytes > client->credit_used && !client->resumed) {
        sim_fail(client->world, "credit: rank %u got back more than it had used", client->rank);
    }
    client->credit_used -= bytes < client->credit_used ? bytes : client->credit_used;
}

void sim_client_got(sim_client *client, uint64_t sequence, uint32_t key, uint32_t part,
                    uint64_t version, const sim_value *value)
{
    const sim_plan *plan = &client->world->plan;
    double count = sim_count_of(plan, value, client->rank);
    /* Values that are loaded may have fewer pushes than what was seen before; versions grow. */
    double seen = plan->states != 0 ? (double)version : count;
    if (seen > (double)client->seen[key][part]) {
        client->seen[key][part] = (uint64_t)seen;
    }
    if (sequence == 0) {
        if (client->polls-- == 0) {
            sim_fail(client->world, "answers: a plain read came back twice");
        }
        return;
    }
    sim_op *op = find(client, sequence);
    if (op == NULL) {
        return;
    }
    if (op->key != key || (op->kind == SIM_OP_PUSHPULL && op->part != part) ||
        op->kind == SIM_OP_PUSH) {
        sim_fail(client->world, "answers: a value of %s part %u to sequence %llu",
                 sim_key_name(key), part, (unsigned long long)sequence);
        return;
    }
    if (op->state >= SIM_OK) {
        return; /* of a repetition */
    }
    op->seen |= 1u << part;
    op->versions[part] = version;
    op->counts[part] = plan->optimizer ? count : sim_numbers_of(plan, value, client->rank);
}
