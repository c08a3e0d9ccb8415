#include "tests/support/engine_fixture.h"

#include "base/check.h"
#include "base/log.h"
#include "engine/backend_cpu.h"
#include "engine/codec.h"

#include <stddef.h>
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
    ((fixture_worker *)channel)->ack_ranges++;
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

/* What an encoded part stands for, or NULL: it is not encoded. Rows are as long as the bytes say.
 */
static float *decode(fixture_worker *worker, const kvs_value_part *part, uint64_t runs)
{
    const kvs_part_header *header = &part->header;
    if (header->codec == KVS_CODEC_NONE) {
        return NULL;
    }
    uint64_t elements = 1;
    kvs_shape shape;
    KVS_CHECK(kvs_part_header_shape(header, &shape));
    for (uint32_t i = 1; i < shape.rank; i++) {
        elements *= shape.size[i];
    }
    elements = header->storage == KVS_ROW_SPARSE ? elements : header->element_count;
    KVS_CHECK(kvs_codec_value_bytes(header->codec, runs, elements) == header->payload_bytes);
    float *decoded = calloc(runs * elements, sizeof *decoded);
    KVS_CHECK(decoded != NULL);
    kvs_span span = {part->data, header->payload_bytes};
    kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
    kvs_codec_read_value(header->codec, &payload, runs, elements, decoded);
    worker->decoded_elements = runs * elements;
    return decoded;
}

/* To the places that they have in the whole value. */
static void keep_rows(fixture_worker *worker, const kvs_value_part *part)
{
    const kvs_part_header *header = &part->header;
    uint64_t id = 0;
    size_t rows = 0;
    for (uint32_t at = 0; at < header->row_ids_bytes; rows++) {
        KVS_CHECK(kvs_varint_next(header->row_ids, header->row_ids_bytes, &at, &id));
    }
    KVS_CHECK(rows > 0);
    const uint8_t *data = part->data;
    float *decoded = decode(worker, part, rows);
    size_t row_bytes = header->payload_bytes / rows;
    if (decoded != NULL) {
        data = (const uint8_t *)decoded;
        row_bytes = worker->decoded_elements / rows * sizeof(float);
    }
    rows = 0;
    for (uint32_t at = 0; at < header->row_ids_bytes; rows++) {
        KVS_CHECK(kvs_varint_next(header->row_ids, header->row_ids_bytes, &at, &id));
        KVS_CHECK((id + 1) * row_bytes <= sizeof worker->value);
        memcpy((uint8_t *)worker->value + id * row_bytes, data + rows * row_bytes, row_bytes);
    }
    free(decoded);
    worker->rows += rows;
}

static void value(kvs_channel *channel, const kvs_value_part *part)
{
    fixture_worker *worker = (fixture_worker *)channel;
    KVS_CHECK(worker->counts_only ||
              part->header.element_offset + part->header.element_count <= 1 << 16);
    if (worker->counts_only) {
        worker->rows += part->header.payload_bytes / sizeof(float);
    } else if (part->header.storage == KVS_ROW_SPARSE) {
        keep_rows(worker, part);
    } else {
        float *decoded = decode(worker, part, 1);
        memcpy(worker->value + part->header.element_offset,
               decoded != NULL ? (const uint8_t *)decoded : part->data,
               decoded != NULL ? part->header.element_count * sizeof(float)
                               : part->header.payload_bytes);
        free(decoded);
    }
    worker->bytes_pulled += part->header.payload_bytes;
    worker->data = part->data;
    worker->values++;
    worker->version = part->header.version;
    worker->value_sequence = part->header.sequence;
    kvs_buffer_unref(part->buffer);
    worker->unsent += part->header.payload_bytes;
    if (worker->slow) {
        return;
    }
    worker->unsent = 0;
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

static void note_ready(kvs_scheduler *scheduler, kvs_right *right)
{
    fixture *f = (fixture *)(void *)((char *)scheduler - offsetof(fixture, scheduler));
    KVS_CHECK(f->ready_count < sizeof f->ready / sizeof f->ready[0]);
    f->ready[f->ready_count++] = right;
}

void fixture_open(fixture *f, const fixture_options *options)
{
    kvs_problem problem = {.status = KVS_OK};
    memset(f, 0, sizeof *f);
    kvs_log_set_quiet(1);
    f->backend = options->backend;
    if (f->backend == NULL) {
        KVS_CHECK(kvs_backend_cpu_open(NULL, &f->backend, &problem) == KVS_OK);
    }
    f->scheduler.ready = note_ready;
    kvs_engine_options engine = {.backend = f->backend,
                                 .shards = options->shards == 0 ? 2 : options->shards,
                                 .epoch = 7,
                                 .part_elements = options->part_elements,
                                 .credit_bytes = options->credit_bytes,
                                 .inflight_parts = options->inflight_parts,
                                 .memory_bytes_max = options->memory_bytes_max,
                                 .scheduler = options->manual ? &f->scheduler : NULL};
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
    char name[KVS_NAME_BYTES_MAX + 1];
    kvs_store *store;
    fixture_run_all(f);
    while (kvs_store_list(f->engine, 0, 1, &store) == 1) {
        kvs_store_info info;
        kvs_store_describe(store, &info);
        (void)snprintf(name, sizeof name, "%s", info.name);
        KVS_CHECK(kvs_store_delete(f->engine, name, f->now_ns, NULL) == KVS_OK);
        fixture_run_all(f);
        kvs_store_unref(store);
    }
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
    KVS_CHECK(f->worker_count < sizeof f->workers / sizeof f->workers[0]);
    f->workers[f->worker_count++] = worker;
    return worker;
}

fixture_worker *fixture_join_again(fixture_worker *worker)
{
    fixture *f = worker->fixture;
    fixture_worker *other = calloc(1, sizeof *other);
    KVS_CHECK(other != NULL);
    other->session = kvs_session_take(worker->session);
    other->info = worker->info;
    other->channel.table = &table;
    other->fixture = f;
    other->sequence = worker->sequence;
    KVS_CHECK(f->worker_count < sizeof f->workers / sizeof f->workers[0]);
    f->workers[f->worker_count++] = other;
    return other;
}

void fixture_resume(fixture_worker *worker, uint64_t lowest_unacknowledged)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_session *session = NULL;
    kvs_session_info info;
    kvs_register request = {.type = "",
                            .worker = "w",
                            .rank = -1,
                            .resume = worker->info.id,
                            .epoch = worker->info.epoch,
                            .lowest_unacknowledged = lowest_unacknowledged};
    KVS_CHECK(kvs_session_register(worker->fixture->store, &request, worker->fixture->now_ns,
                                   &session, &info, &problem) == KVS_OK);
    KVS_CHECK(info.resumed);
    KVS_CHECK(session == worker->session);
    kvs_session_unref(session);
}

/* ------------------------------------------------------------------ turns */

void fixture_run(fixture *f, kvs_right *right)
{
    size_t i = 0;
    while (i < f->ready_count && f->ready[i] != right) {
        i++;
    }
    KVS_CHECK(i < f->ready_count);
    f->ready_count--;
    memmove(&f->ready[i], &f->ready[i + 1], (f->ready_count - i) * sizeof f->ready[0]);
    kvs_right_run(right, f->now_ns);
}

void fixture_run_all(fixture *f)
{
    while (f->ready_count > 0) {
        fixture_run(f, f->ready[0]);
    }
}

/* ------------------------------------------------------------------ waiting for control calls */

static void told(kvs_waiter *waiter, const kvs_problem *problem)
{
    fixture_wait *wait = (fixture_wait *)waiter;
    wait->calls++;
    wait->problem = *problem;
}

void fixture_wait_begin(fixture_wait *wait, uint64_t deadline_ns)
{
    memset(wait, 0, sizeof *wait);
    wait->waiter.done = told;
    wait->waiter.deadline_ns = deadline_ns;
}

void fixture_init(fixture *f, const char *key, const float *values, uint64_t elements)
{
    fixture_init_shape(f, key, values, &(kvs_shape){.rank = 1, .size = {elements}});
}

void fixture_init_shape(fixture *f, const char *key, const float *values, const kvs_shape *shape)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_init *init = NULL;
    uint8_t packed[16];
    uint32_t packed_bytes = kvs_shape_pack(shape, packed);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < shape->rank; i++) {
        elements *= shape->size[i];
    }
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
    fixture_wait done;
    fixture_wait_begin(&done, 0);
    kvs_init_commit(init, &done.waiter, f->now_ns);
    fixture_run_all(f);
    KVS_CHECK(done.calls == 1);
    KVS_CHECK(done.problem.status == KVS_OK);
    kvs_init_close(init);
}

void fixture_init_halves(fixture *f, const uint16_t *values)
{
    kvs_problem problem;
    kvs_init *init = NULL;
    fixture_wait wait;
    uint8_t packed[16];
    kvs_shape shape = {.rank = 1, .size = {2}};
    kvs_span span = {.data = (const uint8_t *)values, .bytes = 4};
    kvs_payload payload = {.spans = &span, .count = 1, .bytes = 4};
    kvs_part_header header = {.key = "h",
                              .key_bytes = 1,
                              .dtype = KVS_BF16,
                              .has_shape = true,
                              .shape = packed,
                              .shape_bytes = kvs_shape_pack(&shape, packed),
                              .element_count = 2,
                              .payload_bytes = 4};
    KVS_CHECK(kvs_init_open(f->store, NULL, &init, &problem) == KVS_OK);
    KVS_CHECK(kvs_init_part(init, &header, &payload, &problem) == KVS_OK);
    fixture_wait_begin(&wait, 0);
    kvs_init_commit(init, &wait.waiter, f->now_ns);
    KVS_CHECK(wait.problem.status == KVS_OK);
    kvs_init_close(init);
}

void fixture_optimizer(fixture *f, const char *json)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_optimizer *optimizer = NULL;
    fixture_wait done;
    fixture_wait_begin(&done, 0);
    KVS_CHECK(kvs_optimizer_parse(json, strlen(json), &optimizer, &problem) == KVS_OK);
    kvs_store_set_optimizer(f->store, optimizer, &done.waiter, f->now_ns);
    kvs_optimizer_unref(optimizer);
    fixture_run_all(f);
    KVS_CHECK(done.calls == 1);
    KVS_CHECK(done.problem.status == KVS_OK);
}

/* ------------------------------------------------------------------ pushing and pulling */

/* Freed by its own run. */
typedef struct request {
    kvs_task task;
    fixture_worker *worker;
    kvs_part_header headers[FIXTURE_FRAME_PARTS];
    kvs_pull_key pulls[FIXTURE_FRAME_PARTS];
    char keys[FIXTURE_FRAME_PARTS][KVS_KEY_BYTES_MAX + 1];
    size_t count;
    kvs_payload payload;
    bool want_values;
    struct sent_frame *frame;
    uint64_t bytes;
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

static request *make_request(fixture_worker *worker, void (*run)(kvs_task *task, uint64_t now_ns))
{
    request *r = calloc(1, sizeof *r);
    KVS_CHECK(r != NULL);
    r->task.run = run;
    r->worker = worker;
    return r;
}

static void post(request *r)
{
    kvs_session_post(r->worker->session, &r->task, r->worker->fixture->now_ns);
}

static void run_push(kvs_task *task, uint64_t now_ns)
{
    request *r = (request *)task;
    kvs_session_push(r->worker->session, &r->worker->channel, &r->frame->frame, r->headers,
                     r->count, &r->payload, r->want_values, now_ns);
    free(r);
}

static void run_pull(kvs_task *task, uint64_t now_ns)
{
    request *r = (request *)task;
    kvs_session_pull(r->worker->session, &r->worker->channel, r->pulls, r->count, now_ns);
    free(r);
}

static void run_sent(kvs_task *task, uint64_t now_ns)
{
    request *r = (request *)task;
    r->worker->unsent -= r->bytes;
    kvs_session_sent(r->worker->session, &r->worker->channel, r->bytes, now_ns);
    free(r);
}

static void run_close(kvs_task *task, uint64_t now_ns)
{
    request *r = (request *)task;
    kvs_session_close_channel(r->worker->session, &r->worker->channel, now_ns);
    free(r);
}

/* Keys live as long as the request: a test's own may be gone when it runs. */
static const char *keep_key(request *r, size_t at, const char *key, uint32_t key_bytes)
{
    if (key_bytes > KVS_KEY_BYTES_MAX) {
        return key;
    }
    memcpy(r->keys[at], key, key_bytes);
    return r->keys[at];
}

void fixture_push_parts(fixture_worker *worker, const kvs_part_header *headers, size_t count,
                        const void *data, size_t bytes, bool want_values)
{
    fixture *f = worker->fixture;
    request *r = make_request(worker, run_push);
    sent_frame *sent = calloc(1, sizeof *sent);
    KVS_CHECK(sent != NULL);
    KVS_CHECK(count <= FIXTURE_FRAME_PARTS);
    sent->bytes = malloc(bytes + 3);
    KVS_CHECK(sent->bytes != NULL);
    sent->fixture = f;
    sent->frame.consumed = consumed;
    sent->frame.whole = worker->whole;
    /* Unaligned, and cut inside an element. */
    if (bytes > 0) {
        memcpy(sent->bytes + 1, data, bytes);
    }
    size_t cut = bytes > 6 ? 6 : bytes;
    sent->spans[0] = (kvs_span){.data = sent->bytes + 1, .bytes = cut};
    sent->spans[1] = (kvs_span){.data = sent->bytes + 1 + cut, .bytes = bytes - cut};
    r->payload = (kvs_payload){.spans = sent->spans, .count = 2, .bytes = bytes};
    r->frame = sent;
    r->want_values = want_values;
    r->count = count;
    for (size_t i = 0; i < count; i++) {
        r->headers[i] = headers[i];
        r->headers[i].key = keep_key(r, i, headers[i].key, headers[i].key_bytes);
    }
    worker->bytes_pushed += bytes;
    f->frames_made++;
    post(r);
}

static void push_range(fixture_worker *worker, const char *key, const float *values, uint64_t from,
                       uint64_t elements, uint64_t sequence, uint64_t after, bool want_values)
{
    kvs_part_header headers[FIXTURE_FRAME_PARTS];
    size_t count = 0;
    uint64_t part = worker->fixture->part_elements;
    for (uint64_t at = from; at < elements; at += part) {
        uint64_t here = elements - at < part ? elements - at : part;
        KVS_CHECK(count < FIXTURE_FRAME_PARTS);
        headers[count] = (kvs_part_header){.key = key,
                                           .key_bytes = (uint32_t)strlen(key),
                                           .dtype = KVS_F32,
                                           .element_offset = at,
                                           .element_count = here,
                                           .sequence = sequence + count,
                                           .after = after,
                                           .payload_bytes = here * sizeof(float)};
        count++;
    }
    fixture_push_parts(worker, headers, count, values + from, (elements - from) * sizeof(float),
                       want_values);
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

void fixture_pull_keys(fixture_worker *worker, const kvs_pull_key *keys, size_t count)
{
    request *r = make_request(worker, run_pull);
    KVS_CHECK(count <= FIXTURE_FRAME_PARTS);
    for (size_t i = 0; i < count; i++) {
        r->pulls[i] = keys[i];
        r->pulls[i].key = keep_key(r, i, keys[i].key, keys[i].key_bytes);
    }
    r->count = count;
    post(r);
}

uint64_t fixture_pull(fixture_worker *worker, const char *key, uint64_t after)
{
    kvs_pull_key pull = {.key = key,
                         .key_bytes = (uint32_t)strlen(key),
                         .sequence = worker->sequence++,
                         .after = after};
    fixture_pull_keys(worker, &pull, 1);
    return pull.sequence;
}

void fixture_sent(fixture_worker *worker, uint64_t bytes)
{
    request *r = make_request(worker, run_sent);
    r->bytes = bytes;
    post(r);
}

void fixture_close_channel(fixture_worker *worker)
{
    post(make_request(worker, run_close));
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

kvs_status fixture_status(const fixture_worker *worker, uint64_t sequence)
{
    const fixture_answer *answer = fixture_answer_of(worker, sequence);
    return answer == NULL ? KVS_STATUS_COUNT : answer->status;
}

void fixture_tick(fixture *f, uint64_t by_ns)
{
    f->now_ns += by_ns;
    kvs_engine_tick(f->engine, f->now_ns);
}
