#include "api/wire.h"

/* Numbers of kvstored.proto. */
enum {
    PULL_STORE = 1,
    PULL_SESSION = 2,
    PULL_EPOCH = 3,
    PULL_MEMBERSHIP = 4,
    PULL_KEYS = 5,
    PULL_PREFIX = 6,
    PULL_ALL = 7,
    PULL_SNAPSHOT = 8,
    PULL_CODEC = 9,
    PULL_SNAPSHOT_NAME = 10,
    PULL_SHARED = 11,
    PULL_RELEASE = 12
};

enum {
    KEY_KEY = 1,
    KEY_SEQUENCE = 2,
    KEY_AFTER = 3,
    KEY_PRIORITY = 4,
    KEY_MIN_VERSION = 5,
    KEY_SINCE = 6,
    KEY_ROW_IDS = 7
};

/* False: no field of a PullKey. */
static bool read_key_field(kvs_wire *wire, const kvs_wire_field *field, kvs_pull_key_view *key,
                           kvs_wire_list *row_ids)
{
    switch (field->number) {
    case KEY_KEY:
        key->key = (const char *)wire->at;
        key->key_bytes = (uint32_t)field->bytes;
        kvs_wire_skip(wire, field->bytes);
        return field->type == KVS_WIRE_BYTES;
    case KEY_SEQUENCE:
        key->sequence = field->value;
        return field->type == KVS_WIRE_VARINT;
    case KEY_AFTER:
        key->after = field->value;
        return field->type == KVS_WIRE_VARINT;
    case KEY_PRIORITY:
        key->priority = (int32_t)(uint32_t)field->value;
        return field->type == KVS_WIRE_VARINT;
    case KEY_MIN_VERSION:
        return field->type == KVS_WIRE_BYTES &&
               kvs_wire_version(wire, field->bytes, &key->min_version);
    case KEY_SINCE:
        key->has_since = true;
        return field->type == KVS_WIRE_BYTES && kvs_wire_version(wire, field->bytes, &key->since);
    case KEY_ROW_IDS:
        return kvs_wire_list_add(row_ids, wire, field) == KVS_WIRE_FIELD;
    default:
        kvs_wire_skip(wire, field->bytes);
        return true;
    }
}

static kvs_status read_key(kvs_wire *pull, size_t bytes, kvs_wire_arena *arena,
                           kvs_pull_key_view *out, kvs_problem *problem)
{
    const uint8_t *start;
    KVS_TRY(kvs_wire_take(pull, bytes, arena, &start));
    kvs_wire message;
    kvs_wire_init_flat(&message, start, bytes);
    kvs_wire wire = message;
    kvs_pull_key_view key = {.key = ""};
    kvs_wire_list row_ids = {0};
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(&wire, &field)) == KVS_WIRE_FIELD) {
        if (!read_key_field(&wire, &field, &key, &row_ids)) {
            return kvs_wire_bad(problem, "PullKey");
        }
    }
    if (step != KVS_WIRE_END) {
        return kvs_wire_bad(problem, "PullKey");
    }
    KVS_TRY(kvs_wire_list_end(&row_ids, message, KEY_ROW_IDS, arena));
    key.row_ids = row_ids.bytes;
    key.row_ids_bytes = row_ids.count;
    *out = key;
    return KVS_OK;
}

static kvs_status add_key(kvs_wire *wire, size_t bytes, kvs_wire_arena *arena, size_t *count,
                          kvs_problem *problem)
{
    if (*count == KVS_FRAME_PARTS_MAX) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a request names at most %u keys",
                               KVS_FRAME_PARTS_MAX);
    }
    KVS_TRY(kvs_wire_room(arena->scratch, *count + 1, sizeof(kvs_pull_key_view)));
    kvs_pull_key_view *keys = (kvs_pull_key_view *)(void *)arena->scratch->parts;
    KVS_TRY(read_key(wire, bytes, arena, &keys[*count], problem));
    (*count)++;
    return KVS_OK;
}

static kvs_status take_text(kvs_wire *wire, size_t bytes, kvs_wire_arena *arena, const char **out,
                            uint32_t *out_bytes)
{
    const uint8_t *text;
    KVS_TRY(kvs_wire_take(wire, bytes, arena, &text));
    *out = (const char *)text;
    *out_bytes = (uint32_t)bytes;
    return KVS_OK;
}

/* A field that has a length. */
static kvs_status read_bytes(kvs_wire *wire, const kvs_wire_field *field, kvs_wire_arena *arena,
                             kvs_pull_view *out, kvs_problem *problem)
{
    switch (field->number) {
    case PULL_STORE:
        return take_text(wire, field->bytes, arena, &out->store, &out->store_bytes);
    case PULL_SESSION:
        KVS_TRY(kvs_wire_take(wire, field->bytes, arena, &out->session));
        out->session_bytes = (uint32_t)field->bytes;
        return KVS_OK;
    case PULL_KEYS:
        return add_key(wire, field->bytes, arena, &out->key_count, problem);
    case PULL_PREFIX:
        return take_text(wire, field->bytes, arena, &out->prefix, &out->prefix_bytes);
    default:
        out->has_snapshot_name = field->bytes > 0;
        kvs_wire_skip(wire, field->bytes);
        return KVS_OK;
    }
}

static void read_number(const kvs_wire_field *field, kvs_pull_view *out)
{
    switch (field->number) {
    case PULL_EPOCH:
        out->epoch = field->value;
        break;
    case PULL_MEMBERSHIP:
        out->membership = field->value;
        break;
    case PULL_ALL:
        out->all = field->value != 0;
        break;
    case PULL_SNAPSHOT:
        out->snapshot = field->value != 0;
        break;
    case PULL_SHARED:
        out->shared = field->value != 0;
        break;
    case PULL_RELEASE:
        out->release = field->value;
        break;
    default:
        out->codec = (kvs_codec)(uint32_t)field->value;
        break;
    }
}

static kvs_status read_field(kvs_wire *wire, const kvs_wire_field *field, kvs_wire_arena *arena,
                             kvs_pull_view *out, kvs_problem *problem)
{
    switch (field->number) {
    case PULL_EPOCH:
    case PULL_MEMBERSHIP:
    case PULL_ALL:
    case PULL_SNAPSHOT:
    case PULL_CODEC:
    case PULL_SHARED:
    case PULL_RELEASE:
        if (field->type != KVS_WIRE_VARINT) {
            return kvs_wire_bad(problem, "PullRequest");
        }
        read_number(field, out);
        return KVS_OK;
    case PULL_STORE:
    case PULL_SESSION:
    case PULL_KEYS:
    case PULL_PREFIX:
    case PULL_SNAPSHOT_NAME:
        if (field->type != KVS_WIRE_BYTES) {
            return kvs_wire_bad(problem, "PullRequest");
        }
        return read_bytes(wire, field, arena, out, problem);
    default:
        kvs_wire_skip(wire, field->bytes);
        return KVS_OK;
    }
}

static kvs_status read_pull(kvs_wire *wire, kvs_codec_scratch *scratch, kvs_pull_view *out,
                            kvs_problem *problem)
{
    kvs_wire_arena arena;
    kvs_wire_arena_init(&arena, scratch, wire);
    kvs_pull_view pull = {0};
    kvs_wire_field field;
    kvs_wire_step step;
    while ((step = kvs_wire_next(wire, &field)) == KVS_WIRE_FIELD) {
        KVS_TRY(read_field(wire, &field, &arena, &pull, problem));
    }
    if (step != KVS_WIRE_END) {
        return kvs_wire_bad(problem, "PullRequest");
    }
    pull.keys = (kvs_pull_key_view *)(void *)scratch->parts;
    *out = pull;
    return KVS_OK;
}

kvs_status kvs_pull_decode(const kvs_span *spans, size_t span_count, kvs_codec_scratch *scratch,
                           kvs_pull_view *out, kvs_problem *problem)
{
    kvs_wire wire;
    if (kvs_wire_init(&wire, spans, span_count) != KVS_OK) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "a message has at most %llu bytes",
                               (unsigned long long)KVS_MESSAGE_BYTES_MAX);
    }
    kvs_status status = read_pull(&wire, scratch, out, problem);
    return status == KVS_NO_MEMORY ? kvs_problem_set(problem, status, "to read a request") : status;
}

/* ------------------------------------------------------------------ on the way out */

static uint64_t signed_number(int32_t value)
{
    return (uint64_t)(int64_t)value;
}

static bool has_min_version(const kvs_pull_key_view *key)
{
    return key->min_version.epoch != 0 || key->min_version.count != 0;
}

static size_t key_size(const kvs_pull_key_view *key)
{
    return kvs_wire_text_size(key->key_bytes) + kvs_wire_number_size(key->sequence) +
           kvs_wire_number_size(key->after) + kvs_wire_number_size(signed_number(key->priority)) +
           (has_min_version(key) ? kvs_wire_version_size(key->min_version) : 0) +
           (key->has_since ? kvs_wire_version_size(key->since) : 0) +
           kvs_wire_text_size(key->row_ids_bytes);
}

static void put_key(kvs_head *head, const kvs_pull_key_view *key)
{
    kvs_wire_put_tag(head, PULL_KEYS, KVS_WIRE_BYTES);
    kvs_wire_put_varint(head, key_size(key));
    kvs_wire_put_text(head, KEY_KEY, key->key, key->key_bytes);
    kvs_wire_put_number(head, KEY_SEQUENCE, key->sequence);
    kvs_wire_put_number(head, KEY_AFTER, key->after);
    kvs_wire_put_number(head, KEY_PRIORITY, signed_number(key->priority));
    if (has_min_version(key)) {
        kvs_wire_put_version(head, KEY_MIN_VERSION, key->min_version);
    }
    if (key->has_since) {
        kvs_wire_put_version(head, KEY_SINCE, key->since);
    }
    kvs_wire_put_text(head, KEY_ROW_IDS, key->row_ids, key->row_ids_bytes);
}

static size_t pull_size(const kvs_pull_view *view)
{
    size_t size = kvs_wire_text_size(view->store_bytes) + kvs_wire_text_size(view->session_bytes) +
                  kvs_wire_number_size(view->epoch) + kvs_wire_number_size(view->membership) +
                  kvs_wire_text_size(view->prefix_bytes) + (view->all ? 2u : 0u) +
                  (view->snapshot ? 2u : 0u) + kvs_wire_number_size((uint64_t)view->codec) +
                  (view->shared ? 2u : 0u) + kvs_wire_number_size(view->release);
    for (size_t i = 0; i < view->key_count; i++) {
        size_t key = key_size(&view->keys[i]);
        size += 1 + kvs_wire_varint_bytes(key) + key;
    }
    return size;
}

kvs_status kvs_pull_encode(kvs_head *head, const kvs_pull_view *view)
{
    if (view->has_snapshot_name) {
        return KVS_UNIMPLEMENTED;
    }
    size_t size = pull_size(view);
    if (view->key_count > KVS_FRAME_PARTS_MAX || size > KVS_MESSAGE_BYTES_MAX) {
        return KVS_TOO_LARGE;
    }
    head->used = 0;
    KVS_TRY(kvs_wire_reserve(head, size));
    kvs_wire_put_text(head, PULL_STORE, view->store, view->store_bytes);
    kvs_wire_put_text(head, PULL_SESSION, view->session, view->session_bytes);
    kvs_wire_put_number(head, PULL_EPOCH, view->epoch);
    kvs_wire_put_number(head, PULL_MEMBERSHIP, view->membership);
    for (size_t i = 0; i < view->key_count; i++) {
        put_key(head, &view->keys[i]);
    }
    kvs_wire_put_text(head, PULL_PREFIX, view->prefix, view->prefix_bytes);
    kvs_wire_put_number(head, PULL_ALL, view->all ? 1 : 0);
    kvs_wire_put_number(head, PULL_SNAPSHOT, view->snapshot ? 1 : 0);
    kvs_wire_put_number(head, PULL_CODEC, (uint64_t)view->codec);
    kvs_wire_put_number(head, PULL_SHARED, view->shared ? 1 : 0);
    kvs_wire_put_number(head, PULL_RELEASE, view->release);
    return KVS_OK;
}
