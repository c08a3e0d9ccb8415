#include "tests/support/engine_fixture.h"

#include "base/check.h"
#include "base/log.h"
#include "engine/backend_cpu.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the channel */

static void note(fixture_worker *worker, uint64_t sequence, kvs_status status, bool duplicate,
                 const char *detail)
{
    KVS_CHECK(worker->answer_count < FIXTURE_ANSWERS);
    fixture_answer *answer = &worker->answers[worker->answer_count++];
    answer->sequence = sequence;
    answer->status = status;
    answer->duplicate = duplicate;
    (void)snprintf(answer->detail, sizeof answer->detail, "%s", detail);
}

static void ack(kvs_channel *channel, uint64_t first, uint64_t last, bool duplicate)
{
    for (uint64_t s = first; s <= last; s++) {
        note((fixture_worker *)channel, s, KVS_OK, duplicate, "");
    }
}

static void refuse(kvs_channel *channel, uint64_t sequence, const char *key, size_t key_bytes,
                   const kvs_problem *problem)
{
    (void)key;
    (void)key_bytes;
    note((fixture_worker *)channel, sequence, problem->status, false, problem->detail);
}

static void credit(kvs_channel *channel, uint64_t bytes)
{
    ((fixture_worker *)channel)->credit_back += bytes;
}

static void value(kvs_channel *channel, const kvs_value_part *part)
{
    fixture_worker *worker = (fixture_worker *)channel;
    KVS_CHECK(part->header.element_offset + part->header.element_count <= 1 << 16);
    memcpy(worker->value + part->header.element_offset, part->data, part->header.payload_bytes);
    worker->values++;
    worker->version = part->header.version;
    kvs_buffer_unref(part->buffer);
    channel->ahead_bytes -= part->header.payload_bytes < channel->ahead_bytes
                                ? part->header.payload_bytes
                                : channel->ahead_bytes; /* it has left at once */
}

static void flush(kvs_channel *channel, uint64_t now_ns)
{
    (void)now_ns;
    ((fixture_worker *)channel)->flushes++;
}

static void take(kvs_channel *channel)
{
    ((fixture_worker *)channel)->references++;
}

static void unref(kvs_channel *channel)
{
    ((fixture_worker *)channel)->references--;
}

static const kvs_channel_table table = {ack, refuse, credit, value, flush, take, unref};

/* ------------------------------------------------------------------ life */

void fixture_open(fixture *f, const fixture_options *options)
{
    kvs_problem problem = {.status = KVS_OK};
    memset(f, 0, sizeof *f);
    kvs_log_set_quiet(1);
    KVS_CHECK(kvs_backend_cpu_open(NULL, &f->backend, &problem) == KVS_OK);
    kvs_engine_options engine = {.backend = f->backend,
                                 .shards = options->shards == 0 ? 2 : options->shards,
                                 .epoch = 7,
                                 .part_elements = options->part_elements,
                                 .credit_bytes = options->credit_bytes,
                                 .inflight_parts = options->inflight_parts};
    KVS_CHECK(kvs_engine_open(&engine, &f->engine) == KVS_OK);
    kvs_store_options store = {.name = "",
                               .type = options->type,
                               .num_workers = options->num_workers,
                               .policy = options->policy};
    KVS_CHECK(kvs_store_create(f->engine, &store, &f->store, &problem) == KVS_OK);
    f->now_ns = KVS_SECOND;
    f->part_elements = options->part_elements == 0 ? KVS_PART_ELEMENTS : options->part_elements;
}

void fixture_close(fixture *f)
{
    for (size_t i = 0; i < f->worker_count; i++) {
        kvs_session_unref(f->workers[i]->session);
    }
    kvs_store_unref(f->store);
    kvs_engine_close(f->engine);
    for (size_t i = 0; i < f->worker_count; i++) {
        KVS_CHECK(f->workers[i]->references == 0);
        free(f->workers[i]);
    }
    KVS_CHECK(f->frames_made == f->frames_done);
    f->backend->table->close(f->backend);
}

fixture_worker *fixture_join(fixture *f, int64_t rank)
{
    kvs_problem problem = {.status = KVS_OK};
    fixture_worker *worker = calloc(1, sizeof *worker);
    kvs_register request = {.type = "", .worker = "w", .rank = rank};
    KVS_CHECK(worker != NULL);
    KVS_CHECK(kvs_session_register(f->store, &request, f->now_ns, &worker->session, &worker->info,
                                   &problem) == KVS_OK);
    worker->channel.table = &table;
    worker->fixture = f;
    worker->sequence = 1;
    f->workers[f->worker_count++] = worker;
    return worker;
}

/* ------------------------------------------------------------------ waiting for control calls */

typedef struct wait {
    kvs_waiter waiter;
    bool done;
    kvs_problem problem;
} wait;

static void told(kvs_waiter *waiter, const kvs_problem *problem)
{
    ((wait *)waiter)->done = true;
    ((wait *)waiter)->problem = *problem;
}

void fixture_init(fixture *f, const char *key, const float *values, uint64_t elements)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    uint8_t packed[16];
    kvs_shape shape = {.rank = 1, .size = {elements}};
    uint32_t packed_bytes = kvs_shape_pack(&shape, packed);
    uint64_t part = f->part_elements;
    KVS_CHECK(kvs_init_open(f->store, NULL, &init, &problem) == KVS_OK);
    for (uint64_t at = 0; at < elements || at == 0; at += part) {
        uint64_t count = elements - at < part ? elements - at : part;
        kvs_span span = {.data = (const uint8_t *)(values + at), .bytes = count * sizeof(float)};
        kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
        kvs_part_header header = {.key = key,
                                  .key_bytes = (uint32_t)strlen(key),
                                  .dtype = KVS_F32,
                                  .has_shape = true,
                                  .shape = packed,
                                  .shape_bytes = packed_bytes,
                                  .element_offset = at,
                                  .element_count = count,
                                  .payload_bytes = span.bytes};
        KVS_CHECK(kvs_init_part(init, &header, &payload, &problem) == KVS_OK);
    }
    wait done = {.waiter.done = told};
    kvs_init_commit(init, &done.waiter, f->now_ns);
    KVS_CHECK(done.done);
    KVS_CHECK(done.problem.status == KVS_OK);
    kvs_init_close(init);
}

void fixture_optimizer(fixture *f, const char *json)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_optimizer *optimizer = NULL;
    wait done = {.waiter.done = told};
    KVS_CHECK(kvs_optimizer_parse(json, strlen(json), &optimizer, &problem) == KVS_OK);
    kvs_store_set_optimizer(f->store, optimizer, &done.waiter, f->now_ns);
    kvs_optimizer_unref(optimizer);
    KVS_CHECK(done.done);
    KVS_CHECK(done.problem.status == KVS_OK);
}

/* ------------------------------------------------------------------ pushing and pulling */

typedef struct request {
    kvs_task task;
    fixture_worker *worker;
    kvs_part_header headers[64];
    size_t count;
    kvs_payload payload;
    bool want_values;
    kvs_pull_key pull;
    struct sent_frame *frame;
} request;

/* The frame's bytes live until the engine is done with them, and not longer: ASan watches. */
typedef struct sent_frame {
    kvs_frame frame;
    fixture *fixture;
    kvs_span spans[3];
    uint8_t *bytes;
} sent_frame;

static void consumed(kvs_frame *frame, uint64_t now_ns)
{
    sent_frame *sent = (sent_frame *)frame;
    (void)now_ns;
    sent->fixture->frames_done++;
    free(sent->bytes);
    free(sent);
}

static void run_push(kvs_task *task, uint64_t now_ns)
{
    request *r = (request *)task;
    kvs_session_push(r->worker->session, &r->worker->channel, &r->frame->frame, r->headers,
                     r->count, &r->payload, r->want_values, now_ns);
}

static void run_pull(kvs_task *task, uint64_t now_ns)
{
    request *r = (request *)task;
    kvs_session_pull(r->worker->session, &r->worker->channel, &r->pull, 1, now_ns);
}

static void push_range(fixture_worker *worker, const char *key, const float *values, uint64_t from,
                       uint64_t elements, uint64_t sequence, uint64_t after, bool want_values)
{
    fixture *f = worker->fixture;
    request r = {.task.run = run_push, .worker = worker, .want_values = want_values};
    uint64_t part = f->part_elements;
    for (uint64_t at = from; at < elements; at += part) {
        uint64_t count = elements - at < part ? elements - at : part;
        KVS_CHECK(r.count < 64);
        r.headers[r.count] = (kvs_part_header){.key = key,
                                               .key_bytes = (uint32_t)strlen(key),
                                               .dtype = KVS_F32,
                                               .element_offset = at,
                                               .element_count = count,
                                               .sequence = sequence + r.count,
                                               .after = after,
                                               .payload_bytes = count * sizeof(float)};
        r.count++;
    }
    sent_frame *sent = calloc(1, sizeof *sent);
    size_t bytes = (elements - from) * sizeof(float);
    KVS_CHECK(sent != NULL);
    sent->bytes = malloc(bytes + 3);
    KVS_CHECK(sent->bytes != NULL);
    sent->fixture = f;
    sent->frame.consumed = consumed;
    /* Unaligned, and cut inside an element. */
    memcpy(sent->bytes + 1, values + from, bytes);
    size_t cut = bytes > 6 ? 6 : bytes;
    sent->spans[0] = (kvs_span){.data = sent->bytes + 1, .bytes = cut};
    sent->spans[1] = (kvs_span){.data = sent->bytes + 1 + cut, .bytes = bytes - cut};
    r.payload = (kvs_payload){.spans = sent->spans, .count = 2, .bytes = bytes};
    r.frame = sent;
    f->frames_made++;
    kvs_session_post(worker->session, &r.task, f->now_ns);
}

void fixture_push_at(fixture_worker *worker, const char *key, const float *values,
                     uint64_t elements, uint64_t sequence, uint64_t after, bool want_values)
{
    push_range(worker, key, values, 0, elements, sequence, after, want_values);
}

void fixture_push_tail(fixture_worker *worker, const char *key, const float *values,
                       uint64_t elements, uint64_t from, uint64_t sequence, uint64_t after)
{
    push_range(worker, key, values, from, elements, sequence, after, false);
}

uint64_t fixture_push(fixture_worker *worker, const char *key, const float *values,
                      uint64_t elements, uint64_t after, bool want_values)
{
    uint64_t first = worker->sequence;
    uint64_t part = worker->fixture->part_elements;
    worker->sequence += (elements + part - 1) / part;
    fixture_push_at(worker, key, values, elements, first, after, want_values);
    return first;
}

uint64_t fixture_pull(fixture_worker *worker, const char *key, uint64_t after)
{
    request r = {.task.run = run_pull, .worker = worker};
    r.pull = (kvs_pull_key){.key = key,
                            .key_bytes = (uint32_t)strlen(key),
                            .sequence = worker->sequence++,
                            .after = after};
    kvs_session_post(worker->session, &r.task, worker->fixture->now_ns);
    return r.pull.sequence;
}

const fixture_answer *fixture_answer_of(const fixture_worker *worker, uint64_t sequence)
{
    for (size_t i = worker->answer_count; i-- > 0;) {
        if (worker->answers[i].sequence == sequence) {
            return &worker->answers[i];
        }
    }
    return NULL;
}

void fixture_tick(fixture *f, uint64_t by_ns)
{
    f->now_ns += by_ns;
    kvs_engine_tick(f->engine, f->now_ns);
}
