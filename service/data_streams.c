#include "service/door.h"

#include "api/codec.h"
#include "base/clock.h"
#include "service/region_payload.h"
#include "service/replies.h"

#include <stdlib.h>
#include <string.h>

/* Frames of a stream that are received or in the engine: one is worked on, one arrives, and one
 * may wait for a lower rank without stopping the others. */
#define FRAME_SLOTS 3u
#define KEYS_AT_ONCE 64u

typedef enum stream_kind { STREAM_PUSH, STREAM_PULL, STREAM_PUSHPULL } stream_kind;

typedef struct kvs_data_stream kvs_data_stream;

/* A message on its way through the engine; one a receive slot. */
typedef struct kvs_work {
    kvs_frame frame; /* first: the engine gives it back by it */
    kvs_task task;
    kvs_data_stream *stream;
    kvs_message *message;
    kvs_codec_scratch scratch;
    kvs_region_payload shared; /* of a frame in a region */
    union {
        kvs_frame_view frame;
        kvs_pull_view pull;
    } view;
    bool held; /* done, but not released yet: the peer does not read its answers */
} kvs_work;

/* A stream. Up to the line its polling thread's, below it the session holder's. */
struct kvs_data_stream {
    kvs_channel channel; /* first: the engine answers by it */
    kvs_subscriber subscriber;
    kvs_call *call;
    stream_kind kind;
    kvs_store *store; /* references; set before the first post */
    kvs_session *session;
    kvs_store_info store_info;
    uint8_t session_id[KVS_SESSION_ID_BYTES];
    uint64_t epoch;
    kvs_region *region; /* a reference: the last that a frame named */
    kvs_work works[KVS_CALL_SLOTS_MAX];
    kvs_task ended_task, closed_task, stop_task;
    atomic_bool stop_posted;

    /* Shared: the polling thread adds, the holder takes. One task whatever the number of sends. */
    kvs_task sent_task;
    atomic_bool sent_posted;
    _Atomic uint64_t sent_bytes;

    kvs_replies replies;
    kvs_task check_task;
    bool check_posted;
    uint32_t engine_references;
    uint32_t working;    /* messages in the engine */
    uint64_t open_parts; /* pushed, and neither acked nor refused */
    bool ended, closed;
};

static kvs_data_stream *stream_of(kvs_channel *channel)
{
    return (kvs_data_stream *)(void *)channel;
}

static void fail(kvs_data_stream *stream, kvs_status status, const char *detail)
{
    kvs_problem problem;
    (void)kvs_problem_set(&problem, status, "%s", detail);
    kvs_call_finish(stream->call, &problem);
}

/* ------------------------------------------------------------------ the holder's side */

/* Posts a task of the stream, which stays alive until the task has run. */
static void post(kvs_data_stream *stream, kvs_task *task, uint64_t now_ns)
{
    (void)kvs_call_take(stream->call);
    kvs_session_post(stream->session, task, now_ns);
}

static void release_held(kvs_data_stream *stream)
{
    for (uint32_t i = 0; i < KVS_CALL_SLOTS_MAX; i++) {
        kvs_work *work = &stream->works[i];
        if (work->held) {
            work->held = false;
            kvs_message_release(stream->call, work->message);
        }
    }
}

/* A pull keeps its slot until all its parts are asked for: so a peer that does not read cannot ask
 * for more and more. */
static bool may_take_more(kvs_data_stream *stream)
{
    return stream->closed ||
           (stream->channel.pulls_first == NULL && !kvs_replies_full(&stream->replies));
}

/* Nothing is under way. Whatever the engine still has to say, it keeps a reference for; one more
 * it may keep for the stream that pushed last. */
static bool idle(const kvs_data_stream *stream)
{
    bool silent = stream->engine_references == 0 ||
                  (stream->engine_references == 1 && stream->open_parts == 0);
    return silent && stream->working == 0 && stream->channel.pulls_first == NULL &&
           kvs_replies_empty(&stream->replies);
}

/* What a turn of the holder ends with. */
static void settle(kvs_data_stream *stream)
{
    if (!stream->closed) {
        kvs_replies_pump(&stream->replies);
        if (stream->replies.failed) {
            fail(stream, KVS_NO_MEMORY, "no memory for an answer");
        }
    }
    if (may_take_more(stream)) {
        release_held(stream);
    }
    if (stream->ended && idle(stream)) {
        kvs_call_finish(stream->call, NULL);
    }
}

static void work_done(kvs_data_stream *stream, kvs_work *work)
{
    stream->working--;
    work->held = true;
    if (may_take_more(stream)) {
        work->held = false;
        kvs_message_release(stream->call, work->message);
    }
}

static void run_check(kvs_task *task, uint64_t now_ns)
{
    (void)now_ns;
    kvs_data_stream *stream =
        (kvs_data_stream *)(void *)((char *)task - offsetof(kvs_data_stream, check_task));
    stream->check_posted = false;
    settle(stream);
    kvs_call_unref(stream->call);
}

static void post_check(kvs_data_stream *stream)
{
    if (!stream->check_posted) {
        stream->check_posted = true;
        post(stream, &stream->check_task, kvs_clock_now_ns());
    }
}

static void run_sent(kvs_task *task, uint64_t now_ns)
{
    kvs_data_stream *stream =
        (kvs_data_stream *)(void *)((char *)task - offsetof(kvs_data_stream, sent_task));
    /* Acquire pairs with the poster's release: bytes added before a skipped post are seen here. */
    atomic_exchange_explicit(&stream->sent_posted, false, memory_order_acq_rel);
    uint64_t bytes = atomic_exchange_explicit(&stream->sent_bytes, 0, memory_order_acq_rel);
    if (!stream->closed) {
        if (bytes > 0) {
            kvs_session_sent(stream->session, &stream->channel, bytes, now_ns);
        }
        settle(stream);
    }
    kvs_call_unref(stream->call);
}

static void run_ended(kvs_task *task, uint64_t now_ns)
{
    (void)now_ns;
    kvs_data_stream *stream =
        (kvs_data_stream *)(void *)((char *)task - offsetof(kvs_data_stream, ended_task));
    stream->ended = true;
    settle(stream);
    kvs_call_unref(stream->call);
}

/* The server stops: a stream that has nothing under way is ended, so that its peer turns
 * elsewhere. */
static void run_stop(kvs_task *task, uint64_t now_ns)
{
    (void)now_ns;
    kvs_data_stream *stream =
        (kvs_data_stream *)(void *)((char *)task - offsetof(kvs_data_stream, stop_task));
    atomic_store_explicit(&stream->stop_posted, false, memory_order_release);
    if (!stream->closed && idle(stream)) {
        fail(stream, KVS_STOPPING, "the server is stopping");
    }
    kvs_call_unref(stream->call);
}

static void run_closed(kvs_task *task, uint64_t now_ns)
{
    kvs_data_stream *stream =
        (kvs_data_stream *)(void *)((char *)task - offsetof(kvs_data_stream, closed_task));
    stream->closed = true;
    kvs_session_close_channel(stream->session, &stream->channel, now_ns);
    kvs_replies_drop(&stream->replies);
    release_held(stream);
    kvs_call_unref(stream->call);
}

/* ------------------------------------------------------------------ the channel */

static void answered(kvs_data_stream *stream, uint64_t parts)
{
    stream->open_parts -= parts < stream->open_parts ? parts : stream->open_parts;
}

static void channel_ack(kvs_channel *channel, uint64_t first, uint64_t last, bool duplicate)
{
    kvs_data_stream *stream = stream_of(channel);
    answered(stream, last - first + 1);
    kvs_replies_ack(&stream->replies, first, last, duplicate);
}

static void channel_refuse(kvs_channel *channel, uint64_t sequence, const char *key,
                           size_t key_bytes, const kvs_problem *problem)
{
    kvs_data_stream *stream = stream_of(channel);
    answered(stream, 1);
    kvs_replies_refuse(&stream->replies, sequence, key, key_bytes, problem);
}

static void channel_credit(kvs_channel *channel, uint64_t bytes)
{
    kvs_replies_credit(&stream_of(channel)->replies, bytes);
}

static void channel_value(kvs_channel *channel, const kvs_value_part *part)
{
    kvs_replies_value(&stream_of(channel)->replies, part);
}

static void channel_flush(kvs_channel *channel, uint64_t now_ns)
{
    (void)now_ns;
    settle(stream_of(channel));
}

static void channel_take(kvs_channel *channel)
{
    kvs_data_stream *stream = stream_of(channel);
    stream->engine_references++;
    (void)kvs_call_take(stream->call);
}

static void channel_unref(kvs_channel *channel)
{
    kvs_data_stream *stream = stream_of(channel);
    stream->engine_references--;
    if (stream->engine_references <= 1 && stream->ended && !stream->closed) {
        post_check(stream); /* the engine is in the middle of its turn: look afterwards */
    }
    kvs_call_unref(stream->call);
}

static const kvs_channel_table channel_table = {
    .ack = channel_ack,
    .refuse = channel_refuse,
    .credit = channel_credit,
    .value = channel_value,
    .flush = channel_flush,
    .take = channel_take,
    .unref = channel_unref,
};

/* ------------------------------------------------------------------ messages */

static void push_consumed(kvs_frame *frame, uint64_t now_ns)
{
    (void)now_ns;
    kvs_work *work = (kvs_work *)(void *)frame;
    kvs_data_stream *stream = work->stream;
    kvs_region_payload_end(&work->shared);
    work_done(stream, work);
    if (stream->ended && !stream->closed) {
        post_check(stream);
    }
    kvs_call_unref(stream->call);
}

static void run_push(kvs_task *task, uint64_t now_ns)
{
    kvs_work *work = (kvs_work *)(void *)((char *)task - offsetof(kvs_work, task));
    kvs_data_stream *stream = work->stream;
    const kvs_frame_view *view = &work->view.frame;
    stream->working++;
    if (stream->closed || view->part_count == 0) {
        if (kvs_session_heartbeat(stream->session, now_ns) != KVS_OK) {
            fail(stream, KVS_FENCED, "the session has ended");
        }
        push_consumed(&work->frame, now_ns);
        return;
    }
    stream->open_parts += view->covered_parts;
    /* Frame and stream may be gone afterwards. */
    kvs_profile *profile = ((kvs_door *)kvs_call_context(stream->call))->profile;
    uint64_t begun_ns = kvs_profile_begin(profile);
    uint32_t parts = (uint32_t)view->part_count;
    uint64_t bytes = view->payload.bytes;
    uint32_t rank = kvs_session_rank(stream->session);
    kvs_session_push(stream->session, &stream->channel, &work->frame, view->parts, view->part_count,
                     &view->payload, stream->kind == STREAM_PUSHPULL, now_ns);
    kvs_profile_end(profile, KVS_STAGE_DOOR, begun_ns, rank, parts, bytes);
}

static void pull_named(kvs_data_stream *stream, const kvs_pull_view *view, uint64_t now_ns)
{
    kvs_pull_key keys[KEYS_AT_ONCE];
    size_t count = 0;
    for (size_t i = 0; i < view->key_count; i++) {
        const kvs_pull_key_view *from = &view->keys[i];
        keys[count++] = (kvs_pull_key){.key = from->key,
                                       .key_bytes = from->key_bytes,
                                       .sequence = from->sequence,
                                       .after = from->after,
                                       .priority = from->priority,
                                       .min_version = from->min_version,
                                       .snapshot = view->snapshot,
                                       .row_ids_bytes = from->row_ids_bytes,
                                       .row_ids = from->row_ids,
                                       .codec = view->codec};
        if (count == KEYS_AT_ONCE || i + 1 == view->key_count) {
            kvs_session_pull(stream->session, &stream->channel, keys, count, now_ns);
            count = 0;
        }
    }
}

static void pull_listed(kvs_data_stream *stream, const kvs_pull_view *view, uint64_t now_ns)
{
    char prefix[KVS_KEY_BYTES_MAX + 1];
    char after[KVS_KEY_BYTES_MAX + 1] = "";
    memcpy(prefix, view->prefix != NULL ? view->prefix : "", view->prefix_bytes);
    prefix[view->prefix_bytes] = '\0';
    kvs_key_info infos[KEYS_AT_ONCE];
    kvs_pull_key keys[KEYS_AT_ONCE];
    size_t count;
    do {
        count = kvs_key_list(stream->store, prefix, after, KEYS_AT_ONCE, infos);
        for (size_t i = 0; i < count; i++) {
            keys[i] = (kvs_pull_key){.key = infos[i].name,
                                     .key_bytes = infos[i].name_bytes,
                                     .snapshot = view->snapshot,
                                     .codec = view->codec};
        }
        if (count > 0) {
            kvs_session_pull(stream->session, &stream->channel, keys, count, now_ns);
            memcpy(after, infos[count - 1].name, infos[count - 1].name_bytes);
            after[infos[count - 1].name_bytes] = '\0';
        }
    } while (count == KEYS_AT_ONCE);
}

static void run_pull(kvs_task *task, uint64_t now_ns)
{
    kvs_work *work = (kvs_work *)(void *)((char *)task - offsetof(kvs_work, task));
    kvs_data_stream *stream = work->stream;
    const kvs_pull_view *view = &work->view.pull;
    stream->working++;
    if (!stream->closed) {
        kvs_replies_share(&stream->replies, view->shared, view->release);
        if (view->all || view->prefix_bytes > 0) {
            pull_listed(stream, view, now_ns);
        } else {
            pull_named(stream, view, now_ns);
        }
    }
    work_done(stream, work);
    settle(stream);
    kvs_call_unref(stream->call);
}

/* ------------------------------------------------------------------ the polling thread's side */

/* The first message binds the stream to its session; later ones may name no other. */
static kvs_status bind(kvs_data_stream *stream, const char *store, size_t store_bytes,
                       const uint8_t *session, size_t session_bytes, uint64_t epoch,
                       kvs_problem *problem)
{
    if (stream->session == NULL) {
        KVS_TRY(kvs_door_find(kvs_call_context(stream->call), store, store_bytes, session,
                              session_bytes, epoch, &stream->store, &stream->session, problem));
        kvs_store_describe(stream->store, &stream->store_info);
        memcpy(stream->session_id, session, session_bytes);
        stream->epoch = epoch;
        kvs_door_subscribe(kvs_call_context(stream->call), &stream->subscriber);
        return KVS_OK;
    }
    const char *name = stream->store_info.name;
    if (store_bytes > 0 && (store_bytes != strlen(name) || memcmp(store, name, store_bytes) != 0)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "the stream is bound to store \"%s\"",
                               name);
    }
    if (session_bytes > 0 && (session_bytes != sizeof(stream->session_id) ||
                              memcmp(session, stream->session_id, session_bytes) != 0)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "the stream is bound to another session");
    }
    if (epoch != 0 && epoch != stream->epoch) {
        return kvs_problem_set(problem, KVS_FENCED, "epoch %llu is over",
                               (unsigned long long)epoch);
    }
    return KVS_OK;
}

static kvs_status open_frame(kvs_data_stream *stream, kvs_work *work, kvs_problem *problem)
{
    kvs_frame_view *view = &work->view.frame;
    const kvs_message *message = work->message;
    KVS_TRY(kvs_frame_decode(message->spans, message->span_count, &work->scratch, view, problem));
    KVS_TRY(bind(stream, view->store, view->store_bytes, view->session, view->session_bytes,
                 view->epoch, problem));
    if (view->durable || view->has_crc32c) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED, "%s are not built yet",
                               view->durable ? "durable acks" : "checksums");
    }
    if (view->has_shard_parts) {
        return kvs_problem_set(problem, KVS_UNIMPLEMENTED,
                               "shard_parts is not used: empty_parts of a header stands for parts "
                               "without rows");
    }
    return kvs_region_payload_begin(&work->shared, kvs_call_context(stream->call),
                                    stream->session_id, &stream->region, view, problem);
}

static kvs_status open_pull(kvs_data_stream *stream, kvs_work *work, kvs_problem *problem)
{
    kvs_pull_view *view = &work->view.pull;
    const kvs_message *message = work->message;
    KVS_TRY(kvs_pull_decode(message->spans, message->span_count, &work->scratch, view, problem));
    KVS_TRY(bind(stream, view->store, view->store_bytes, view->session, view->session_bytes,
                 view->epoch, problem));
    if (view->prefix_bytes > KVS_KEY_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "a prefix has at most %u bytes",
                               KVS_KEY_BYTES_MAX);
    }
    if ((view->all || view->prefix_bytes > 0) && view->key_count > 0) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "keys, prefix and all exclude each other");
    }
    const char *missing = view->has_snapshot_name ? "snapshot_name" : NULL;
    for (size_t i = 0; i < view->key_count && missing == NULL; i++) {
        missing = view->keys[i].has_since ? "since" : NULL;
    }
    return missing == NULL
               ? KVS_OK
               : kvs_problem_set(problem, KVS_UNIMPLEMENTED, "%s is not built yet", missing);
}

/* On the ticking thread. */
static void data_look(kvs_subscriber *subscriber, uint64_t now_ns)
{
    kvs_data_stream *stream =
        (kvs_data_stream *)(void *)((char *)subscriber - offsetof(kvs_data_stream, subscriber));
    kvs_door *door = kvs_call_context(stream->call);
    if (atomic_load_explicit(&door->stopping, memory_order_acquire) &&
        !atomic_exchange_explicit(&stream->stop_posted, true, memory_order_acq_rel)) {
        post(stream, &stream->stop_task, now_ns);
    }
}

/* A push frame that has just been decoded: the core gave it at `now_ns`. */
static void record_arrival(kvs_profile *profile, const kvs_work *work, uint64_t begun_ns,
                           uint64_t now_ns)
{
    uint32_t parts = (uint32_t)work->view.frame.part_count;
    uint32_t rank = kvs_session_rank(work->stream->session);
    kvs_profile_span(profile, KVS_STAGE_RECEIVE, now_ns, begun_ns, rank, parts,
                     work->message->bytes);
    kvs_profile_record(profile, KVS_STAGE_DECODE, begun_ns, rank, parts, work->message->bytes);
}

static void data_received(kvs_call *call, kvs_message *message, uint64_t now_ns)
{
    kvs_data_stream *stream = kvs_call_state(call);
    kvs_work *work = &stream->works[message->slot];
    work->stream = stream;
    work->message = message;
    kvs_problem problem;
    kvs_profile *profile = ((kvs_door *)kvs_call_context(call))->profile;
    uint64_t begun_ns = stream->kind == STREAM_PULL ? 0 : kvs_profile_begin(profile);
    kvs_status status = stream->kind == STREAM_PULL ? open_pull(stream, work, &problem)
                                                    : open_frame(stream, work, &problem);
    if (status != KVS_OK) {
        kvs_call_finish(call, &problem);
        kvs_message_release(call, message);
        return;
    }
    if (begun_ns != 0) {
        record_arrival(profile, work, begun_ns, now_ns);
    }
    work->frame.consumed = push_consumed;
    work->frame.session = stream->session;
    work->frame.value_codec =
        stream->kind == STREAM_PUSHPULL ? work->view.frame.value_codec : KVS_CODEC_NONE;
    work->task.run = stream->kind == STREAM_PULL ? run_pull : run_push;
    post(stream, &work->task, now_ns);
}

static void data_sent(kvs_call *call, uint64_t cookie, uint64_t now_ns)
{
    kvs_data_stream *stream = kvs_call_state(call);
    if (stream->session == NULL) {
        return;
    }
    atomic_fetch_add_explicit(&stream->sent_bytes, cookie, memory_order_release);
    if (!atomic_exchange_explicit(&stream->sent_posted, true, memory_order_acq_rel)) {
        post(stream, &stream->sent_task, now_ns);
    }
}

static void data_ended(kvs_call *call, uint64_t now_ns)
{
    kvs_data_stream *stream = kvs_call_state(call);
    if (stream->session == NULL) {
        kvs_call_finish(call, NULL);
    } else {
        post(stream, &stream->ended_task, now_ns);
    }
}

static void data_closed(kvs_call *call, uint64_t now_ns)
{
    kvs_data_stream *stream = kvs_call_state(call);
    if (stream->session != NULL) {
        kvs_door_unsubscribe(kvs_call_context(call), &stream->subscriber);
        post(stream, &stream->closed_task, now_ns);
    }
}

static void data_deinit(kvs_call *call)
{
    kvs_data_stream *stream = kvs_call_state(call);
    for (uint32_t i = 0; i < KVS_CALL_SLOTS_MAX; i++) {
        kvs_codec_scratch_deinit(&stream->works[i].scratch);
        kvs_region_payload_deinit(&stream->works[i].shared);
    }
    kvs_region_unref(stream->region);
    kvs_replies_deinit(&stream->replies);
    kvs_session_unref(stream->session);
    kvs_store_unref(stream->store);
}

static void data_opened(kvs_call *call, stream_kind kind)
{
    kvs_data_stream *stream = kvs_call_state(call);
    stream->channel.table = &channel_table;
    stream->call = call;
    stream->kind = kind;
    stream->replies.call = call;
    stream->sent_task.run = run_sent;
    stream->ended_task.run = run_ended;
    stream->closed_task.run = run_closed;
    stream->check_task.run = run_check;
    stream->stop_task.run = run_stop;
    stream->subscriber.call = call;
    stream->subscriber.look = data_look;
}

static void push_opened(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    data_opened(call, STREAM_PUSH);
}

static void pull_opened(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    data_opened(call, STREAM_PULL);
}

static void pushpull_opened(kvs_call *call, uint64_t now_ns)
{
    (void)now_ns;
    data_opened(call, STREAM_PUSHPULL);
}

#define DATA_METHOD(name, function)                                                                \
    {                                                                                              \
        .path = "/kvstored.v1.KVStore/" name, .slots = FRAME_SLOTS, .streaming = true,             \
        .state_bytes = sizeof(kvs_data_stream), .opened = (function), .received = data_received,   \
        .ended = data_ended, .sent = data_sent, .closed = data_closed, .deinit = data_deinit,      \
    }

static const kvs_method push_method = DATA_METHOD("Push", push_opened);
static const kvs_method pull_method = DATA_METHOD("Pull", pull_opened);
static const kvs_method pushpull_method = DATA_METHOD("PushPull", pushpull_opened);

const kvs_method *const kvs_data_methods[] = {&push_method, &pull_method, &pushpull_method, NULL};
