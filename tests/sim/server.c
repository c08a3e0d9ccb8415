/* The service's part: streams, frames, replies. What gRPC does with a real server, on events. */
#include "tests/sim/sim.h"

#include "base/check.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum reply_kind { REPLY_ACK, REPLY_REFUSAL, REPLY_CREDIT, REPLY_VALUE } reply_kind;

typedef struct reply {
    struct reply *next;
    reply_kind kind;
    uint64_t first, last; /* ack; first: the sequence of the others */
    bool duplicate;
    uint64_t bytes;
    kvs_problem problem;
    uint32_t key, part;
    uint64_t version;
    const uint8_t *data; /* of a value, still the engine's: read when it arrives */
    uint32_t elements;
    kvs_buffer *buffer;
} reply;

struct sim_stream {
    kvs_channel channel; /* first */
    sim *world;
    sim_client *client;
    uint64_t incarnation, connection;
    sim_stream_kind kind;
    kvs_session *session;
    uint32_t references;
    bool broken; /* for the network; channel.closed: for the engine */
    uint64_t versions[SIM_KEYS_MAX][SIM_PARTS_MAX]; /* the newest that was sent of each part */
    uint64_t up_ns, down_ns; /* the last arrival at either end: streams keep their order */
    reply *outbox, **outbox_end;
};

/* A message on its way up, then a task of the session. */
typedef struct request {
    kvs_task task;
    sim_stream *stream;
    size_t count;
    bool is_push;
    uint64_t bytes; /* kvs_session_sent */
    sim_pull_message pulls[SIM_KEYS_MAX];
    struct push *push;
} request;

typedef struct push {
    kvs_frame frame; /* first */
    sim *world;
    size_t count;
    kvs_part_header headers[SIM_KEYS_MAX * SIM_PARTS_MAX];
    uint8_t ids[SIM_KEYS_MAX * SIM_PARTS_MAX][SIM_ROWS_MAX * KVS_VARINT_BYTES_MAX];
    kvs_spans spans;
    kvs_payload payload;
} push;

/* ------------------------------------------------------------------ replies on their way down */

static void free_reply(reply *message)
{
    if (message->buffer != NULL) {
        kvs_buffer_unref(message->buffer);
    }
    free(message);
}

static reply *add_reply(kvs_channel *channel, reply_kind kind)
{
    sim_stream *stream = (sim_stream *)channel;
    reply *message = calloc(1, sizeof(*message));
    KVS_CHECK(message != NULL);
    message->kind = kind;
    *stream->outbox_end = message;
    stream->outbox_end = &message->next;
    if (stream->channel.closed) {
        sim_fail(stream->world, "channel: called after it was closed");
    }
    return message;
}

static void send_ack(kvs_channel *channel, uint64_t first, uint64_t last, bool duplicate)
{
    reply *message = add_reply(channel, REPLY_ACK);
    message->first = first;
    message->last = last;
    message->duplicate = duplicate;
}

static void send_refusal(kvs_channel *channel, uint64_t sequence, const char *key, size_t key_bytes,
                         const kvs_problem *problem)
{
    reply *message = add_reply(channel, REPLY_REFUSAL);
    message->first = sequence;
    message->problem = *problem;
    message->key = sim_plan_key_of(&((sim_stream *)channel)->world->plan, key, key_bytes);
}

static void send_credit(kvs_channel *channel, uint64_t bytes)
{
    add_reply(channel, REPLY_CREDIT)->bytes = bytes;
}

static void send_value(kvs_channel *channel, const kvs_value_part *part)
{
    sim *world = ((sim_stream *)channel)->world;
    reply *message = add_reply(channel, REPLY_VALUE);
    message->first = part->header.sequence;
    message->key = sim_plan_key_of(&world->plan, part->header.key, part->header.key_bytes);
    message->part = (uint32_t)(part->header.element_offset / world->plan.part_elements);
    message->version = part->header.version.count;
    message->data = part->data;
    message->elements = (uint32_t)part->header.element_count;
    message->bytes = part->header.payload_bytes;
    message->buffer = part->buffer;
    if (message->key == SIM_KEYS_MAX || message->part >= world->plan.parts[message->key] ||
        message->elements != sim_plan_elements(&world->plan, message->key, message->part)) {
        sim_fail(world, "value: of no part that there is");
    }
}

static void take_stream(kvs_channel *channel)
{
    ((sim_stream *)channel)->references++;
}

static void unref_stream(kvs_channel *channel)
{
    sim_stream *stream = (sim_stream *)channel;
    if (stream->references == 0) {
        sim_fail(stream->world, "channel: given back more often than taken");
        return;
    }
    stream->references--;
}

static void run_sent(kvs_task *task, uint64_t now_ns)
{
    request *sent = (request *)task;
    sim_stream *stream = sent->stream;
    if (!stream->channel.closed) {
        kvs_session_sent(stream->session, &stream->channel, sent->bytes, now_ns);
    }
    unref_stream(&stream->channel);
    free(sent);
}

/* The bytes have left: the engine may send more. */
static void tell_sent(sim_stream *stream, uint64_t bytes)
{
    request *sent = calloc(1, sizeof(*sent));
    KVS_CHECK(sent != NULL);
    sent->task.run = run_sent;
    sent->stream = stream;
    sent->bytes = bytes;
    take_stream(&stream->channel);
    kvs_session_post(stream->session, &sent->task, stream->world->now_ns);
}

/* On one stream, the versions of a part only grow; snapshots may be older. */
static void check_grows(sim_stream *stream, const reply *message)
{
    const sim_client *client = stream->client;
    uint64_t *newest = &stream->versions[message->key][message->part];
    bool snapshot = message->first > 0 && message->first <= client->op_count &&
                    client->ops[message->first - 1].snapshot;
    if (!snapshot && message->version < *newest) {
        sim_fail(stream->world, "versions: rank %u saw version %llu of %s part %u after %llu",
                 client->rank, (unsigned long long)message->version, sim_key_name(message->key),
                 message->part, (unsigned long long)*newest);
    }
    *newest = snapshot ? *newest : message->version;
}

static void arrive(sim_stream *stream, const reply *message)
{
    sim_client *client = stream->client;
    sim_value value = {{0}};
    sim_trace(stream->world, message->first * 8 + message->kind);
    switch (message->kind) {
    case REPLY_ACK:
        sim_client_acked(client, message->first, message->last, message->duplicate);
        break;
    case REPLY_REFUSAL:
        sim_client_refused(client, message->first, &message->problem);
        break;
    case REPLY_CREDIT:
        sim_client_credited(client, message->bytes);
        break;
    case REPLY_VALUE:
        memcpy(value.of, message->data, message->elements * sizeof(float));
        check_grows(stream, message);
        sim_oracle_value(stream->world, message->key, message->part, message->version, &value);
        sim_client_got(client, message->first, message->key, message->part, message->version,
                       &value);
        break;
    }
}

static void run_replies(sim *world, void *context, uint64_t number)
{
    reply *message = context;
    sim_stream *stream = &world->streams[number];
    while (message != NULL) {
        reply *next = message->next;
        bool heard = !stream->broken && stream->client->incarnation == stream->incarnation &&
                     stream->client->connection == stream->connection;
        if (heard && !world->failed) {
            arrive(stream, message);
        }
        uint64_t bytes = message->kind == REPLY_VALUE ? message->bytes : 0;
        free_reply(message);
        if (bytes > 0 && !stream->channel.closed) {
            tell_sent(stream, bytes);
        }
        message = next;
    }
    if (stream->client->incarnation == stream->incarnation) {
        sim_worker_pump(stream->client);
    }
    unref_stream(&stream->channel);
}

static void flush(kvs_channel *channel, uint64_t now_ns)
{
    sim_stream *stream = (sim_stream *)channel;
    sim *world = stream->world;
    if (stream->outbox == NULL) {
        return;
    }
    uint64_t at_ns = now_ns + sim_delay(world);
    stream->down_ns = at_ns > stream->down_ns ? at_ns : stream->down_ns;
    take_stream(channel);
    sim_at(world, stream->down_ns, run_replies, stream->outbox,
           (uint64_t)(stream - world->streams));
    stream->outbox = NULL;
    stream->outbox_end = &stream->outbox;
}

static const kvs_channel_table channel_table = {.ack = send_ack,
                                                .refuse = send_refusal,
                                                .credit = send_credit,
                                                .value = send_value,
                                                .flush = flush,
                                                .take = take_stream,
                                                .unref = unref_stream};

void sim_server_check_turn(sim *world)
{
    for (uint32_t rank = 0; rank < world->plan.workers; rank++) {
        for (uint32_t kind = 0; kind < SIM_STREAM_KINDS; kind++) {
            const sim_stream *stream = world->clients[rank].streams[kind];
            if (stream != NULL && !stream->channel.closed && stream->outbox != NULL) {
                sim_fail(world, "channel: a turn ended without a flush");
            }
        }
    }
}

/* ------------------------------------------------------------------ streams */

sim_stream *sim_stream_open(sim *world, sim_client *client, kvs_session *session,
                            sim_stream_kind kind)
{
    KVS_CHECK(world->stream_count < SIM_STREAMS_MAX);
    sim_stream *stream = &world->streams[world->stream_count++];
    stream->channel.table = &channel_table;
    stream->world = world;
    stream->client = client;
    stream->incarnation = client->incarnation;
    stream->connection = client->connection;
    stream->kind = kind;
    stream->session = kvs_session_take(session);
    stream->references = 1;
    stream->outbox_end = &stream->outbox;
    return stream;
}

static void run_close(kvs_task *task, uint64_t now_ns)
{
    request *last = (request *)task;
    sim_stream *stream = last->stream;
    kvs_session_close_channel(stream->session, &stream->channel, now_ns);
    while (stream->outbox != NULL) {
        reply *next = stream->outbox->next;
        free_reply(stream->outbox);
        stream->outbox = next;
    }
    stream->outbox_end = &stream->outbox;
    unref_stream(&stream->channel);
    free(last);
}

/* The server has noticed. */
static void run_break(sim *world, void *context, uint64_t number)
{
    sim_stream *stream = context;
    request *last = calloc(1, sizeof(*last));
    (void)number;
    KVS_CHECK(last != NULL);
    last->task.run = run_close;
    last->stream = stream;
    kvs_session_post(stream->session, &last->task, world->now_ns);
}

void sim_stream_break(sim_stream *stream)
{
    if (!stream->broken) {
        stream->broken = true;
        sim_after(stream->world, sim_delay(stream->world), run_break, stream, 0);
    }
}

/* ------------------------------------------------------------------ requests on their way up */

static void free_push(push *message)
{
    kvs_spans_free(&message->spans);
    message->world->frames_live--;
    free(message);
}

/* The engine has read all that it wants: the bytes go. */
static void consumed(kvs_frame *frame, uint64_t now_ns)
{
    (void)now_ns;
    free_push((push *)frame);
}

/* Every second read of a row_sparse key, snapshots too, is of its rows: all of them, from the last
 * to the first. */
static void ask_rows(const sim_plan *plan, const sim_pull_message *from, uint8_t *ids,
                     kvs_pull_key *key)
{
    if (!sim_is_sparse(plan, from->key) || from->sequence % 2 == 0) {
        return;
    }
    key->row_ids = ids;
    for (uint32_t row = sim_plan_key_elements(plan, from->key); row-- > 0;) {
        key->row_ids_bytes += kvs_varint_pack(row, ids + key->row_ids_bytes);
    }
}

static void run_request(kvs_task *task, uint64_t now_ns)
{
    request *message = (request *)task;
    sim_stream *stream = message->stream;
    if (stream->channel.closed) {
        if (message->push != NULL) {
            free_push(message->push);
        }
    } else if (message->is_push) {
        push *in = message->push;
        kvs_session_push(stream->session, &stream->channel, &in->frame, in->headers, in->count,
                         &in->payload, stream->kind == SIM_PUSHPULL, now_ns);
    } else {
        kvs_pull_key keys[SIM_KEYS_MAX];
        static uint8_t ids[SIM_KEYS_MAX][SIM_PARTS_MAX * SIM_ELEMENTS_MAX * KVS_VARINT_BYTES_MAX];
        for (size_t i = 0; i < message->count; i++) {
            const sim_pull_message *from = &message->pulls[i];
            const char *name = sim_key_name(from->key);
            keys[i] = (kvs_pull_key){.key = name,
                                     .key_bytes = (uint32_t)strlen(name),
                                     .sequence = from->sequence,
                                     .after = from->after,
                                     .priority = from->priority,
                                     .min_version = {.epoch = 1, .count = from->min_version},
                                     .snapshot = from->snapshot};
            ask_rows(&stream->world->plan, from, ids[i], &keys[i]);
        }
        kvs_session_pull(stream->session, &stream->channel, keys, message->count, now_ns);
    }
    unref_stream(&stream->channel);
    free(message);
}

/* At the server, if the stream still stands. */
static void run_arrival(sim *world, void *context, uint64_t number)
{
    request *message = context;
    sim_stream *stream = message->stream;
    (void)number;
    if (stream->broken) {
        if (message->push != NULL) {
            free_push(message->push);
        }
        unref_stream(&stream->channel);
        free(message);
        return;
    }
    kvs_session_post(stream->session, &message->task, world->now_ns);
}

static void send_up(sim_stream *stream, request *message)
{
    sim *world = stream->world;
    uint64_t at_ns = world->now_ns + sim_delay(world);
    stream->up_ns = at_ns > stream->up_ns ? at_ns : stream->up_ns;
    message->task.run = run_request;
    message->stream = stream;
    take_stream(&stream->channel);
    sim_at(world, stream->up_ns, run_arrival, message, 0);
}

static kvs_part_header header_of(const sim_plan *plan, const sim_part_message *part)
{
    const char *name = sim_key_name(part->key);
    uint32_t elements = sim_plan_elements(plan, part->key, part->part);
    return (kvs_part_header){.key = name,
                             .key_bytes = (uint32_t)strlen(name),
                             .dtype = KVS_F32,
                             .element_offset = (uint64_t)part->part * plan->part_elements,
                             .element_count = elements,
                             .sequence = part->sequence,
                             .after = part->after,
                             .priority = part->priority,
                             .payload_bytes = elements * sizeof(float)};
}

/* The payload of one part to `bytes`: all of it, or rows with their ids. */
static void write_part(const sim_plan *plan, const sim_part_message *part, uint32_t rank,
                       kvs_part_header *header, uint8_t *ids, uint8_t *bytes)
{
    if (!sim_is_sparse(plan, part->key)) {
        sim_value value;
        sim_pushed(plan, part->key, part->part, rank, part->number, &value);
        memcpy(bytes, value.of, header->payload_bytes);
        return;
    }
    sim_rows rows;
    sim_pushed_rows(plan, part->key, part->part, rank, part->number, &rows);
    header->storage = KVS_ROW_SPARSE;
    header->payload_bytes = rows.count * sizeof(float);
    header->row_ids = ids;
    for (uint32_t i = 0; i < rows.count; i++) {
        header->row_ids_bytes +=
            kvs_varint_pack(header->element_offset + rows.row[i], ids + header->row_ids_bytes);
    }
    memcpy(bytes, rows.of, header->payload_bytes);
}

void sim_stream_push(sim_stream *stream, uint32_t rank, const sim_part_message *parts, size_t count)
{
    sim *world = stream->world;
    request *message = calloc(1, sizeof(*message));
    push *out = calloc(1, sizeof(*out));
    static uint8_t bytes[SIM_KEYS_MAX * SIM_PARTS_MAX * sizeof(sim_rows)];
    size_t used = 0;
    KVS_CHECK(message != NULL);
    KVS_CHECK(out != NULL);
    KVS_CHECK(count <= SIM_KEYS_MAX * SIM_PARTS_MAX);
    for (size_t i = 0; i < count; i++) {
        out->headers[i] = header_of(&world->plan, &parts[i]);
        write_part(&world->plan, &parts[i], rank, &out->headers[i], out->ids[i], bytes + used);
        used += out->headers[i].payload_bytes;
    }
    out->world = world;
    out->frame.consumed = consumed;
    out->count = count;
    out->spans = kvs_spans_cut(bytes, used, 4, &world->seed);
    out->payload = (kvs_payload){
        .spans = out->spans.spans, .count = (uint32_t)out->spans.count, .bytes = used};
    message->is_push = true;
    message->push = out;
    world->frames_live++;
    world->counts->frames++;
    send_up(stream, message);
}

void sim_stream_pull(sim_stream *stream, const sim_pull_message *keys, size_t count)
{
    request *message = calloc(1, sizeof(*message));
    KVS_CHECK(message != NULL);
    KVS_CHECK(count <= SIM_KEYS_MAX);
    memcpy(message->pulls, keys, count * sizeof(keys[0]));
    message->count = count;
    send_up(stream, message);
}

sim_stream *sim_streams_make(void)
{
    return calloc(SIM_STREAMS_MAX, sizeof(sim_stream));
}

void sim_streams_check(sim *world)
{
    for (uint32_t i = 0; i < world->stream_count && !world->failed; i++) {
        sim_stream *stream = &world->streams[i];
        if (stream->references != 0 || stream->outbox != NULL) {
            sim_fail(world, "leak: a channel is still held %u times", stream->references);
        }
        kvs_session_unref(stream->session);
    }
}
