/* A worker's protocol: sequences, window, credit, repetition, and replay after a break. */
#include "tests/sim/sim.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

#define PARTS_PER_FRAME_MAX 6u

static uint64_t credit_limit(const sim_client *client)
{
    uint64_t limit = client->world->plan.credit_bytes;
    return limit == 0 ? KVS_CREDIT_BYTES_DEFAULT : limit;
}

static uint64_t bytes_of(const sim_client *client, const sim_op *op)
{
    if (sim_is_sparse(&client->world->plan, op->key)) {
        sim_rows rows;
        sim_pushed_rows(&client->world->plan, op->key, op->part, client->rank, op->number, &rows);
        return rows.count * sizeof(float);
    }
    return sim_plan_elements(&client->world->plan, op->key, op->part) * sizeof(float);
}

static bool answered(const sim_op *op)
{
    return op->state == SIM_OK || op->state == SIM_REFUSED;
}

uint64_t sim_client_open_ops(const sim_client *client)
{
    uint64_t open = 0;
    for (uint64_t s = client->low; s <= client->op_count; s++) {
        open += answered(&client->ops[s - 1]) ? 0 : 1;
    }
    return open;
}

sim_op *sim_client_add(sim_client *client, sim_op_kind kind, uint32_t key, uint32_t part,
                       uint64_t after)
{
    sim *world = client->world;
    if (client->op_count == client->op_room) {
        client->op_room = 2 * client->op_room + 64;
        client->ops = realloc(client->ops, client->op_room * sizeof(sim_op));
        KVS_CHECK(client->ops != NULL);
    }
    sim_op *op = &client->ops[client->op_count++];
    *op = (sim_op){.kind = kind,
                   .key = key,
                   .part = part,
                   .after = after,
                   .sequence = client->op_count,
                   .priority = (int32_t)sim_below(world, 5) - 2};
    if (kind != SIM_OP_PULL) {
        op->number = ++client->numbers[key][part];
        client->own[key][part]++;
        sim_oracle_pushed(world, client->rank, key, part, op->number);
        world->counts->pushes++;
    } else {
        world->counts->pulls++;
    }
    memcpy(op->own, client->own[key], sizeof(op->own));
    return op;
}

/* ------------------------------------------------------------------ sending */

static void run_pump(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    (void)world;
    if (client->connection == number) {
        sim_worker_pump(client);
    }
}

static void run_break(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    if (client->connection == number && client->connected && !world->closing) {
        client->wants_break = true;
        sim_worker_pump(client);
    }
}

static sim_stream_kind stream_of(sim_client *client, const sim_op *op)
{
    if (op->kind == SIM_OP_PULL) {
        return SIM_PULL;
    }
    if (op->kind == SIM_OP_PUSHPULL) {
        return SIM_PUSHPULL;
    }
    return sim_chance(client->world, 4) ? SIM_PUSH_TOO : SIM_PUSH;
}

static void send_pushes(sim_client *client, sim_stream_kind kind, sim_op **ops, size_t count)
{
    sim_part_message parts[PARTS_PER_FRAME_MAX];
    for (size_t i = 0; i < count; i++) {
        parts[i] = (sim_part_message){.key = ops[i]->key,
                                      .part = ops[i]->part,
                                      .sequence = ops[i]->sequence,
                                      .after = ops[i]->after,
                                      .number = ops[i]->number,
                                      .priority = ops[i]->priority};
        client->credit_used += bytes_of(client, ops[i]);
    }
    sim_stream_push(client->streams[kind], client->rank, parts, count);
}

static void send_pulls(sim_client *client, sim_op **ops, size_t count)
{
    sim_pull_message keys[SIM_KEYS_MAX];
    for (size_t i = 0; i < count; i++) {
        keys[i] = (sim_pull_message){.key = ops[i]->key,
                                     .sequence = ops[i]->sequence,
                                     .after = ops[i]->after,
                                     .min_version = ops[i]->min_version,
                                     .priority = ops[i]->priority,
                                     .snapshot = ops[i]->snapshot};
    }
    sim_stream_pull(client->streams[SIM_PULL], keys, count);
}

static void run_repeat(sim *world, void *context, uint64_t number)
{
    sim_client *client = context;
    uint64_t sequence = number & 0xffffffff;
    if (client->connection != number >> 32 || !client->connected || client->stalled ||
        world->closing || sequence > client->op_count || sequence + client->window <= client->low) {
        return;
    }
    sim_op *op = &client->ops[sequence - 1];
    if (op->copies == 0 || op->state == SIM_QUEUED || op->snapshot) {
        return;
    }
    world->counts->repeats++;
    op->copies++;
    if (op->kind == SIM_OP_PULL) {
        send_pulls(client, &op, 1);
    } else if (client->credit_used + bytes_of(client, op) <= credit_limit(client)) {
        send_pushes(client, stream_of(client, op), &op, 1);
    } else {
        op->copies--;
    }
}

static void mark_sent(sim_client *client, sim_op *op)
{
    sim *world = client->world;
    op->state = SIM_SENT;
    op->copies++;
    op->sent_ns = world->now_ns;
    if (sim_chance(world, world->plan.repeat_in)) {
        sim_after(world, sim_delay(world), run_repeat, client,
                  client->connection << 32 | op->sequence);
    }
    if (sim_chance(world, world->plan.break_in)) {
        sim_after(world, sim_delay(world), run_break, client, client->connection);
    }
}

/* May this one go now? Some are held back, so that later ones overtake them. */
static bool sendable(sim_client *client, sim_op *op)
{
    sim *world = client->world;
    if (op->state != SIM_QUEUED || op->not_before_ns > world->now_ns) {
        return false;
    }
    if (op->not_before_ns == 0 && sim_chance(world, world->plan.hold_in)) {
        op->not_before_ns = world->now_ns + sim_delay(world);
        sim_at(world, op->not_before_ns, run_pump, client, client->connection);
        world->counts->out_of_order++;
        return false;
    }
    return true;
}

/* Sends one message of what can go, from *next on: false when there is nothing more. */
static bool transmit_one(sim_client *client, uint64_t *next)
{
    sim_op *ops[PARTS_PER_FRAME_MAX];
    size_t count = 0;
    size_t most = 1 + sim_below(client->world, 4);
    uint64_t credit = client->credit_used;
    sim_stream_kind kind = SIM_PULL;
    for (; *next <= client->op_count && *next < client->low + client->window && count < most;
         (*next)++) {
        sim_op *op = &client->ops[*next - 1];
        if (!sendable(client, op)) {
            if (op->state == SIM_QUEUED && client->world->plan.credit_bytes != 0) {
                *next = UINT64_MAX; /* what overtakes it could take the credit that it needs */
                break;
            }
            continue;
        }
        sim_stream_kind its = stream_of(client, op);
        if (count > 0 &&
            (its == SIM_PULL || its == SIM_PUSHPULL ? its != kind : kind > SIM_PUSH_TOO)) {
            break;
        }
        if (its != SIM_PULL && credit + bytes_of(client, op) > credit_limit(client)) {
            *next = UINT64_MAX;
            break;
        }
        credit += its != SIM_PULL ? bytes_of(client, op) : 0;
        kind = count == 0 ? its : kind;
        ops[count++] = op;
    }
    for (size_t i = 0; i < count; i++) {
        mark_sent(client, ops[i]);
    }
    if (count > 0 && kind == SIM_PULL) {
        send_pulls(client, ops, count);
    } else if (count > 0) {
        send_pushes(client, kind, ops, count);
    }
    return *next <= client->op_count && *next < client->low + client->window;
}

void sim_client_transmit(sim_client *client)
{
    uint64_t next = client->low;
    if (next > client->op_count) {
        return;
    }
    while (transmit_one(client, &next)) {
    }
}

void sim_client_poll(sim_client *client)
{
    const sim_plan *plan = &client->world->plan;
    sim_pull_message keys[SIM_KEYS_MAX];
    for (uint32_t key = 0; key < plan->keys; key++) {
        keys[key] = (sim_pull_message){.key = key};
        client->polls += plan->parts[key];
    }
    sim_stream_pull(client->streams[SIM_PULL], keys, plan->keys);
}

/* ------------------------------------------------------------------ connections */

void sim_client_connect(sim_client *client, kvs_session *session)
{
    client->session = session;
    client->connected = true;
    client->credit_used = 0;
    client->polls = 0;
    for (uint32_t kind = 0; kind < SIM_STREAM_KINDS; kind++) {
        client->streams[kind] =
            sim_stream_open(client->world, client, session, (sim_stream_kind)kind);
    }
    for (uint64_t s = 1; s <= client->op_count; s++) {
        sim_op *op = &client->ops[s - 1];
        op->copies = 0;
        op->answers = 0;
        if (op->state == SIM_SENT) {
            op->state = SIM_QUEUED;
            op->resent = true;
            op->seen = 0;
        }
    }
}

void sim_client_disconnect(sim_client *client)
{
    if (!client->connected) {
        return;
    }
    client->connected = false;
    client->wants_break = false;
    client->connection++;
    for (uint32_t kind = 0; kind < SIM_STREAM_KINDS; kind++) {
        sim_stream_break(client->streams[kind]);
        client->streams[kind] = NULL;
    }
}

void sim_client_forget(sim_client *client)
{
    sim_client_disconnect(client);
    client->incarnation++;
    client->connection++;
    client->session = NULL;
    client->resumed = false;
    client->op_count = 0;
    client->low = 1;
    memset(client->last, 0, sizeof(client->last));
    memset(client->own, 0, sizeof(client->own));
}
