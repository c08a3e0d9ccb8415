/* The engine and its store: opened, initialised, closed; and what must have come back by then. */
#include "tests/sim/sim.h"

#include "base/check.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ a backend that counts */

static sim *world_of(kvs_backend *backend)
{
    return (sim *)((char *)backend - offsetof(sim, backend));
}

static kvs_status open_stream(kvs_backend *backend, kvs_stream **out)
{
    kvs_backend *inner = world_of(backend)->inner;
    return inner->table->open_stream(inner, out);
}

static void close_stream(kvs_backend *backend, kvs_stream *stream)
{
    kvs_backend *inner = world_of(backend)->inner;
    inner->table->close_stream(inner, stream);
}

static kvs_status alloc_memory(kvs_backend *backend, size_t bytes, kvs_memory *out)
{
    sim *world = world_of(backend);
    if (world->open && !world->closing && sim_chance(world, world->plan.starve_in)) {
        return KVS_NO_MEMORY;
    }
    kvs_status status = world->inner->table->alloc(world->inner, bytes, out);
    world->memory_live += status == KVS_OK ? 1 : 0;
    return status;
}

static void free_memory(kvs_backend *backend, kvs_memory *memory)
{
    sim *world = world_of(backend);
    world->memory_live -= memory->data != NULL ? 1 : 0;
    world->inner->table->free(world->inner, memory);
}

static kvs_status alloc_host(kvs_backend *backend, kvs_memory *memory)
{
    kvs_backend *inner = world_of(backend)->inner;
    return inner->table->alloc_host(inner, memory);
}

/* Of several devices there is one. */
static kvs_backend *place(kvs_backend *backend, uint32_t shard)
{
    (void)shard;
    return backend;
}

static void close_backend(kvs_backend *backend)
{
    (void)backend;
}

static kvs_backend_table counting_table;

static bool open_backend(sim *world)
{
    kvs_problem problem;
    if (sim_backend_open(world->number, &world->inner, &problem) != KVS_OK) {
        sim_fail(world, "backend: %s", problem.detail);
        return false;
    }
    counting_table = *world->inner->table;
    counting_table.open_stream = open_stream;
    counting_table.close_stream = close_stream;
    counting_table.alloc = alloc_memory;
    counting_table.free = free_memory;
    counting_table.alloc_host = alloc_host;
    counting_table.place = place;
    counting_table.close = close_backend;
    world->backend = *world->inner;
    world->backend.table = &counting_table;
    return true;
}

/* ------------------------------------------------------------------ waiters */

static void waiter_done(kvs_waiter *waiter, const kvs_problem *problem)
{
    sim_waiter *told = (sim_waiter *)waiter;
    told->world->waiters_live--;
    if (told->told != NULL) {
        told->told(told, problem);
    }
    free(told);
}

sim_waiter *sim_waiter_make(sim *world,
                            void (*told)(sim_waiter *waiter, const kvs_problem *problem),
                            void *context, uint64_t number)
{
    sim_waiter *waiter = calloc(1, sizeof(*waiter));
    KVS_CHECK(waiter != NULL);
    waiter->waiter.done = waiter_done;
    waiter->world = world;
    waiter->told = told;
    waiter->context = context;
    waiter->number = number;
    world->waiters_live++;
    return waiter;
}

/* ------------------------------------------------------------------ init */

kvs_status sim_life_init_parts(sim *world, kvs_init *init, bool giver, kvs_problem *problem)
{
    const sim_plan *plan = &world->plan;
    uint32_t places[SIM_KEYS_MAX * SIM_PARTS_MAX];
    uint32_t count = 0;
    for (uint32_t key = 0; key < plan->keys; key++) {
        for (uint32_t part = 0; part < plan->parts[key]; part++) {
            places[count++] = key * SIM_PARTS_MAX + part;
        }
    }
    while (count > 0) {
        uint32_t index = (uint32_t)sim_below(world, count);
        uint32_t key = places[index] / SIM_PARTS_MAX;
        uint32_t part = places[index] % SIM_PARTS_MAX;
        uint32_t elements = sim_plan_elements(plan, key, part);
        const char *name = sim_key_name(key);
        uint8_t packed[10];
        bool sparse = sim_is_sparse(plan, key);
        kvs_shape shape = {.rank = 1, .size = {sim_plan_key_elements(plan, key)}};
        sim_value value;
        sim_initial(plan, key, part, &value);
        kvs_span span = {(const uint8_t *)value.of, giver ? elements * sizeof(float) : 0};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        kvs_part_header header = {.key = name,
                                  .key_bytes = (uint32_t)strlen(name),
                                  .dtype = KVS_F32,
                                  .storage = sparse ? KVS_ROW_SPARSE : KVS_DENSE,
                                  .has_shape = true,
                                  .shape = packed,
                                  .shape_bytes = kvs_shape_pack(&shape, packed),
                                  .element_offset = (uint64_t)part * plan->part_elements,
                                  .element_count = elements,
                                  .payload_bytes = span.bytes};
        KVS_TRY(kvs_init_part(init, &header, &payload, problem));
        places[index] = places[--count];
    }
    return KVS_OK;
}

static void told_init(sim_waiter *waiter, const kvs_problem *problem)
{
    if (problem->status != KVS_OK && !waiter->world->deleted) {
        sim_fail(waiter->world, "init: %s", problem->detail);
    }
}

static void init_all(sim *world)
{
    kvs_init *init = NULL;
    kvs_problem problem = {.status = KVS_OK};
    if (kvs_init_open(world->store, NULL, &init, &problem) != KVS_OK ||
        sim_life_init_parts(world, init, true, &problem) != KVS_OK) {
        sim_fail(world, "init: %s", problem.detail);
        return;
    }
    sim_waiter *waiter = sim_waiter_make(world, told_init, NULL, 0);
    kvs_init_commit(init, &waiter->waiter, world->now_ns);
    kvs_init_close(init);
}

/* ------------------------------------------------------------------ open */

static kvs_seed identities; /* the engine's source of session ids has no context */

static void fill_random(void *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        ((uint8_t *)out)[i] = (uint8_t)kvs_seed_next(&identities);
    }
}

kvs_optimizer *sim_life_rule(sim *world, int rate)
{
    char json[256];
    kvs_optimizer *optimizer = NULL;
    kvs_problem problem;
    /* A clip that never takes effect: the values are those of a rule without norms. */
    bool norms = (world->plan.norms >> (rate - 1) & 1) != 0;
    const char *other = world->other_norms ? ",\"clip_norm\":2e30" : ",\"clip_norm\":1e30";
    const char *clip = norms ? other : "";
    (void)snprintf(json, sizeof(json), "{\"name\":\"sgd\",\"learning_rate\":%d,\"wd\":0%s}", rate,
                   clip);
    if (world->plan.states != 0) {
        sim_states_rule(&world->plan, (uint32_t)rate, json, sizeof(json));
    }
    if (kvs_optimizer_parse(json, strlen(json), &optimizer, &problem) != KVS_OK) {
        sim_fail(world, "optimizer: %s", problem.detail);
    }
    return optimizer;
}

bool sim_life_open(sim *world)
{
    const sim_plan *plan = &world->plan;
    kvs_problem problem;
    kvs_log_set_quiet(1);
    identities.state = world->number;
    if (!open_backend(world)) {
        return false;
    }
    kvs_engine_options options = {.backend = &world->backend,
                                  .shards = plan->shards,
                                  .epoch = 1,
                                  .credit_bytes = plan->credit_bytes,
                                  .part_elements = plan->part_elements,
                                  .inflight_parts = plan->inflight_parts,
                                  .memory_bytes_max = plan->memory_bytes,
                                  .random = fill_random,
                                  .scheduler = &world->scheduler};
    kvs_store_options store = {.name = "",
                               .type = plan->kind == KVS_SYNC ? "dist_sync" : "dist_async",
                               .num_workers = plan->workers,
                               .policy = plan->policy,
                               .round_deadline_ns = plan->round_deadline_ns,
                               .lease_ns = plan->lease_ns};
    if (kvs_engine_open(&options, &world->engine) != KVS_OK ||
        kvs_store_create(world->engine, &store, &world->store, &problem) != KVS_OK) {
        sim_fail(world, "open: the engine or the store");
        return false;
    }
    world->streams = sim_streams_make();
    world->clients = calloc(SIM_WORKERS_MAX, sizeof(sim_client));
    KVS_CHECK(world->streams != NULL);
    KVS_CHECK(world->clients != NULL);
    world->rule = 1;
    if (plan->optimizer && !plan->late_optimizer) {
        kvs_optimizer *optimizer = sim_life_rule(world, 1);
        sim_waiter *waiter = sim_waiter_make(world, told_init, NULL, 0);
        kvs_store_set_optimizer(world->store, optimizer, &waiter->waiter, world->now_ns);
        kvs_optimizer_unref(optimizer);
    }
    if (!plan->inits) {
        init_all(world);
    }
    world->open = true;
    return !world->failed;
}

void sim_life_keep(sim *world, kvs_session *session)
{
    if (world->session_count == world->session_room) {
        world->session_room = 2 * world->session_room + 16;
        world->sessions = realloc(world->sessions, world->session_room * sizeof(kvs_session *));
        KVS_CHECK(world->sessions != NULL);
    }
    world->sessions[world->session_count++] = session;
}

/* ------------------------------------------------------------------ rest and close */

void sim_life_check_rest(sim *world)
{
    kvs_worker_info infos[SIM_WORKERS_MAX];
    kvs_store_statistics statistics;
    if (world->failed || world->deleted || world->plan.chaos) {
        return;
    }
    size_t count = kvs_worker_list(world->store, world->now_ns, SIM_WORKERS_MAX, infos);
    for (size_t i = 0; i < count; i++) {
        if (infos[i].inflight_parts != 0 || infos[i].inflight_bytes != 0) {
            sim_fail(world, "rest: %llu parts and %llu bytes of rank %u are still in flight",
                     (unsigned long long)infos[i].inflight_parts,
                     (unsigned long long)infos[i].inflight_bytes, infos[i].rank);
        }
        if (strcmp(infos[i].state, "live") != 0) {
            sim_fail(world, "rest: rank %u is %s", infos[i].rank, infos[i].state);
        }
    }
    kvs_store_count(world->store, &statistics);
    if (count != world->plan.workers || statistics.held_bytes != 0 ||
        statistics.rounds_failed != 0 || statistics.leases_lost != 0) {
        sim_fail(world, "rest: %zu workers, %llu bytes held, %llu rounds failed, %llu leases lost",
                 count, (unsigned long long)statistics.held_bytes,
                 (unsigned long long)statistics.rounds_failed,
                 (unsigned long long)statistics.leases_lost);
    }
}

void sim_life_close(sim *world)
{
    kvs_problem problem = {.status = KVS_OK};
    if (world->failed) {
        return;
    }
    if (!world->deleted && kvs_store_delete(world->engine, "", world->now_ns, &problem) != KVS_OK) {
        sim_fail(world, "delete: %s", problem.detail);
    }
    sim_loop(world, NULL);
    sim_streams_check(world);
    for (size_t i = 0; i < world->session_count; i++) {
        kvs_session_unref(world->sessions[i]);
    }
    sim_states_close(world);
    kvs_store_unref(world->store);
    kvs_engine_close(world->engine);
    if (world->memory_live != 0 || world->frames_live != 0 || world->waiters_live != 0) {
        sim_fail(world, "leak: %llu buffers, %llu frames, %llu waiters",
                 (unsigned long long)world->memory_live, (unsigned long long)world->frames_live,
                 (unsigned long long)world->waiters_live);
        return;
    }
    world->inner->table->close(world->inner);
    free(world->sessions);
    free(world->streams);
    free(world->clients);
}
