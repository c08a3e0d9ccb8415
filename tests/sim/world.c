/* Time, events and turns. Whoever posts to an idle shard or session makes it ready; the seed picks
 * which of the ready ones has the next turn, and whether time goes on before that. */
#include "tests/sim/sim.h"

#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A turn waits no longer than this for events that come first. */
#define TURN_WAIT_NS (5 * SIM_MS)
#define TICK_NS (50 * SIM_MS)

/* ------------------------------------------------------------------ chance, trace, failure */

uint64_t sim_below(sim *world, uint64_t below)
{
    return kvs_seed_below(&world->seed, below);
}

bool sim_chance(sim *world, unsigned in)
{
    return in != 0 && kvs_seed_below(&world->seed, in) == 0;
}

uint64_t sim_delay(sim *world)
{
    uint64_t delay = 1000 + sim_below(world, world->plan.delay_ns);
    return sim_chance(world, 50) ? delay + sim_below(world, 20 * world->plan.delay_ns) : delay;
}

void sim_trace(sim *world, uint64_t word)
{
    world->trace = (world->trace ^ word) * 0x100000001b3u;
}

void sim_fail(sim *world, const char *format, ...)
{
    if (world->failed) {
        return;
    }
    world->failed = true;
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(world->reason, sizeof(world->reason), format, arguments);
    va_end(arguments);
    if (used > 0 && (size_t)used < sizeof(world->reason)) {
        (void)snprintf(world->reason + used, sizeof(world->reason) - (size_t)used, " (at %.3f ms)",
                       (double)world->now_ns / 1e6);
    }
}

void sim_say(sim *world, const char *format, ...)
{
    if (!world->verbose) {
        return;
    }
    (void)printf("%12.3f ms  ", (double)world->now_ns / 1e6);
    va_list arguments;
    va_start(arguments, format);
    (void)vprintf(format, arguments);
    va_end(arguments);
    (void)printf("\n");
}

/* ------------------------------------------------------------------ events: a heap */

static bool earlier(const sim_event *a, const sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void swap(sim_event *a, sim_event *b)
{
    sim_event other = *a;
    *a = *b;
    *b = other;
}

void sim_at(sim *world, uint64_t at_ns, sim_function *run, void *context, uint64_t number)
{
    if (world->event_count == world->event_room) {
        world->event_room = 2 * world->event_room + 64;
        world->events = realloc(world->events, world->event_room * sizeof(sim_event));
        KVS_CHECK(world->events != NULL);
    }
    size_t at = world->event_count++;
    world->events[at] = (sim_event){at_ns, world->event_order++, run, context, number};
    while (at > 0 && earlier(&world->events[at], &world->events[(at - 1) / 2])) {
        swap(&world->events[at], &world->events[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
}

void sim_after(sim *world, uint64_t delay_ns, sim_function *run, void *context, uint64_t number)
{
    sim_at(world, world->now_ns + delay_ns, run, context, number);
}

static sim_event take_event(sim *world)
{
    sim_event first = world->events[0];
    world->events[0] = world->events[--world->event_count];
    size_t at = 0;
    for (;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2; child++) {
            if (child < world->event_count &&
                earlier(&world->events[child], &world->events[least])) {
                least = child;
            }
        }
        if (least == at) {
            return first;
        }
        swap(&world->events[at], &world->events[least]);
        at = least;
    }
}

/* ------------------------------------------------------------------ turns */

static void make_ready(kvs_scheduler *scheduler, kvs_right *right)
{
    sim *world = (sim *)scheduler;
    if (world->ready_count == world->ready_room) {
        world->ready_room = 2 * world->ready_room + 16;
        world->ready = realloc(world->ready, world->ready_room * sizeof(kvs_right *));
        KVS_CHECK(world->ready != NULL);
    }
    world->ready[world->ready_count++] = right;
}

static void give_turn(sim *world)
{
    size_t index = sim_below(world, world->ready_count);
    kvs_right *right = world->ready[index];
    world->ready[index] = world->ready[--world->ready_count];
    world->counts->turns++;
    kvs_right_run(right, world->now_ns);
    sim_server_check_turn(world);
}

static void run_event(sim *world)
{
    sim_event event = take_event(world);
    KVS_CHECK(event.at_ns >= world->now_ns);
    world->now_ns = event.at_ns;
    world->counts->events++;
    sim_trace(world, event.at_ns ^ event.order);
    event.run(world, event.context, event.number);
}

void sim_loop(sim *world, bool (*done)(sim *world))
{
    while (!world->failed && (done == NULL || !done(world))) {
        bool soon =
            world->event_count > 0 && world->events[0].at_ns <= world->now_ns + TURN_WAIT_NS;
        if (world->ready_count > 0 && (!soon || sim_below(world, 100) < world->plan.turn_first)) {
            give_turn(world);
        } else if (world->event_count > 0 && !world->closing &&
                   world->events[0].at_ns > world->limit_ns) {
            char what[400];
            sim_clients_explain(world, what, sizeof(what));
            sim_fail(world, "stuck: %s", what);
        } else if (world->event_count > 0) {
            run_event(world);
        } else {
            if (!world->closing) {
                sim_fail(world, "stuck: nothing is to happen any more");
            }
            return;
        }
    }
}

/* ------------------------------------------------------------------ a whole run */

static void run_tick(sim *world, void *context, uint64_t number)
{
    (void)context;
    (void)number;
    kvs_engine_tick(world->engine, world->now_ns);
    if (!world->closing) {
        sim_after(world, TICK_NS, run_tick, NULL, 0);
    }
}

static void run_delete(sim *world, void *context, uint64_t number)
{
    kvs_problem problem = {.status = KVS_OK};
    (void)context;
    (void)number;
    if (world->closing || world->deleted) {
        return;
    }
    sim_say(world, "the store is deleted");
    world->deleted = true;
    if (kvs_store_delete(world->engine, "", world->now_ns, &problem) != KVS_OK) {
        sim_fail(world, "delete: %s", problem.detail);
    }
}

static void live(sim *world)
{
    sim_after(world, TICK_NS, run_tick, NULL, 0);
    world->limit_ns = world->now_ns + world->plan.limit_ns;
    if (world->plan.deletes) {
        sim_after(world, sim_below(world, world->plan.chaos ? 20000 * SIM_MS : 100 * SIM_MS),
                  run_delete, NULL, 0);
    }
    sim_clients_open(world);
    sim_admin_open(world);
    sim_states_open(world);
    sim_loop(world, sim_clients_finished);
    world->closing = true;
    sim_loop(world, NULL);
    if (!world->failed && !world->deleted) {
        sim_admin_read_all(world);
        sim_states_save_last(world);
    }
    if (!world->failed) {
        sim_oracle_check(world);
    }
    if (!world->failed && world->plan.states != 0) {
        sim_history_check(world);
    }
    sim_life_check_rest(world);
    sim_clients_close(world);
    sim_loop(world, NULL);
}

bool sim_run(uint64_t number, bool verbose, sim_counts *counts, uint64_t *trace, char *reason,
             size_t reason_bytes)
{
    sim *world = calloc(1, sizeof(*world));
    KVS_CHECK(world != NULL);
    world->scheduler.ready = make_ready;
    world->number = number;
    world->seed.state = number * 0x2545f4914f6cdd1du + 1;
    world->verbose = verbose;
    world->counts = counts;
    world->now_ns = 1000 * SIM_MS;
    sim_plan_make(&world->seed, &world->plan);
    if (verbose) {
        sim_plan_print(&world->plan);
    }
    if (sim_oracle_open(world) && sim_life_open(world)) {
        live(world);
        sim_life_close(world);
    }
    bool good = !world->failed;
    *trace = world->trace;
    (void)snprintf(reason, reason_bytes, "%s", world->reason);
    if (good) { /* else what is left is left: the process is about to end */
        sim_oracle_free(world);
        sim_history_free(world);
        free(world->events);
        free(world->ready);
        free(world);
    }
    return good;
}
