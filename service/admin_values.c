/* Values as files: read at a cut, written whole or not at all. */
#include "service/admin_methods.h"

#include "base/clock.h"
#include "service/npy.h"
#include "service/value_form.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An upload's buffer starts with this and doubles. */
#define UPLOAD_BYTES_FIRST (64 * KVS_KIB)

/* ------------------------------------------------------------------ tags */

void kvs_etag_print(kvs_version version, char out[KVS_ETAG_BYTES])
{
    (void)snprintf(out, KVS_ETAG_BYTES, "\"%" PRIu64 "-%" PRIu64 "\"", version.epoch,
                   version.count);
}

bool kvs_etag_parse(const char *text, kvs_version *out)
{
    char printed[KVS_ETAG_BYTES];
    kvs_version version;
    size_t bytes = strlen(text);
    bool quoted = bytes >= 2 && text[0] == '"' && text[bytes - 1] == '"';
    const char *plain = quoted ? text + 1 : text;
    if (sscanf(plain, "%" SCNu64 "-%" SCNu64, &version.epoch, &version.count) != 2) {
        return false;
    }
    kvs_etag_print(version, printed);
    size_t plain_bytes = quoted ? bytes - 2 : bytes;
    if (strlen(printed) != plain_bytes + 2 || strncmp(printed + 1, plain, plain_bytes) != 0) {
        return false;
    }
    *out = version;
    return true;
}

/* ------------------------------------------------------------------ reading */

struct kvs_admin_value {
    kvs_admin_value_info info;
    kvs_store *store; /* a reference: the snapshot's names lie there */
    kvs_snapshot snapshot;
    kvs_states *states; /* instead of a snapshot, or NULL */
    uint64_t part_bytes;
    size_t head_bytes;
    uint8_t *head;
};

typedef struct read_wait {
    kvs_wait wait;
    kvs_snapshot snapshot;
    char key[KVS_KEY_BYTES_MAX + 1];
} read_wait;

static void release_read(kvs_wait *wait)
{
    kvs_snapshot_deinit(&((read_wait *)wait)->snapshot);
}

/* Moves the key's snapshot at a cut to *out. */
static kvs_status read_key(kvs_admin *admin, kvs_store *store, const char *key, kvs_snapshot *out,
                           kvs_problem *problem)
{
    kvs_wait *wait = NULL;
    uint64_t now_ns = kvs_clock_now_ns();
    KVS_TRY(kvs_wait_open(admin, store, sizeof(read_wait), now_ns + KVS_CUT_DEADLINE_NS, &wait,
                          problem));
    read_wait *mine = (read_wait *)wait;
    (void)snprintf(mine->key, sizeof mine->key, "%s", key);
    wait->release = release_read;
    kvs_store_read(store, mine->key, strlen(mine->key), &mine->snapshot, kvs_wait_begin(wait),
                   now_ns);
    kvs_status status = kvs_wait_for(wait, problem);
    if (status == KVS_OK) {
        *out = mine->snapshot;
        memset(&mine->snapshot, 0, sizeof mine->snapshot);
    }
    kvs_wait_close(wait);
    return status;
}

kvs_status kvs_admin_find_store(kvs_admin *admin, const char *name, kvs_store **out,
                                kvs_problem *problem)
{
    if (kvs_waits_stopping(&admin->waits)) {
        return kvs_problem_set(problem, KVS_STOPPING, "the admin plane is closed");
    }
    return kvs_store_find(admin->options.engine, name, strlen(name), out, problem);
}

kvs_status kvs_admin_get_value(kvs_admin *admin, const char *store, const char *key,
                               kvs_value_format format, kvs_admin_value **out, kvs_problem *problem)
{
    kvs_admin_value *value = calloc(1, sizeof *value);
    if (value == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the reply");
    }
    kvs_status status = kvs_admin_find_store(admin, store, &value->store, problem);
    if (status == KVS_OK && strlen(key) > KVS_KEY_BYTES_MAX) {
        status = kvs_problem_set(problem, KVS_INVALID_FIELD, "a key has at most %u bytes",
                                 KVS_KEY_BYTES_MAX);
    }
    if (status == KVS_OK) {
        status = read_key(admin, value->store, key, &value->snapshot, problem);
    }
    if (status == KVS_OK) {
        status = kvs_value_form_print(format, &value->snapshot.info, &value->head,
                                      &value->head_bytes, problem);
    }
    if (status != KVS_OK) {
        kvs_admin_value_close(value);
        return status;
    }
    const kvs_key_info *info = &value->snapshot.info;
    size_t element_bytes = kvs_dtype_bytes(info->dtype);
    value->part_bytes = info->part_elements * element_bytes;
    value->info.total_bytes = value->head_bytes + info->elements * element_bytes;
    value->info.content_type = kvs_value_format_media_type(format);
    value->info.version = info->version;
    kvs_etag_print(info->version, value->info.etag);
    value->info.dtype = info->dtype;
    value->info.shape = info->shape;
    *out = value;
    return KVS_OK;
}

kvs_admin_value *kvs_admin_states_value(kvs_states *states)
{
    kvs_admin_value *value = calloc(1, sizeof *value);
    if (value != NULL) {
        value->states = states;
        value->info.total_bytes = kvs_states_bytes(states);
        value->info.content_type = KVS_STATES_MEDIA_TYPE;
        (void)snprintf(value->info.etag, sizeof value->info.etag, "\"states-%016" PRIx64 "\"",
                       kvs_states_hash(states));
    }
    return value;
}

const kvs_admin_value_info *kvs_admin_value_describe(const kvs_admin_value *value)
{
    return &value->info;
}

kvs_span kvs_admin_value_span(const kvs_admin_value *value, uint64_t offset)
{
    if (value->states != NULL) {
        return kvs_states_span(value->states, offset);
    }
    kvs_span span = {.data = value->head + offset, .bytes = value->head_bytes - (size_t)offset};
    if (offset >= value->head_bytes) {
        uint64_t at = offset - value->head_bytes;
        uint64_t left = value->info.total_bytes - offset;
        uint64_t in_part = at % value->part_bytes;
        uint64_t of_part = value->part_bytes - in_part;
        span.data = value->snapshot.data[at / value->part_bytes] + in_part;
        span.bytes = (size_t)(of_part < left ? of_part : left);
    }
    return span;
}

void kvs_admin_value_close(kvs_admin_value *value)
{
    if (value != NULL) {
        kvs_states_close(value->states);
        kvs_snapshot_deinit(&value->snapshot);
        kvs_store_unref(value->store);
        free(value->head);
        free(value);
    }
}

/* ------------------------------------------------------------------ writing */

struct kvs_admin_upload {
    kvs_admin *admin;
    kvs_store *store; /* a reference */
    char key[KVS_KEY_BYTES_MAX + 1];
    kvs_value_format format;
    bool has_match, match_any, create_only;
    kvs_version match;
    /* Known once the head has been read; of raw bytes from the start. */
    bool form_known;
    size_t head_bytes;
    kvs_dtype dtype;
    kvs_shape shape;
    uint64_t bytes_max; /* head included; exact once the form is known */
    uint64_t bytes;
    uint64_t room;
    uint8_t *data;
};

/* The key as it is now; false in *exists when there is none. */
static kvs_status look_up(kvs_admin_upload *upload, bool *exists, kvs_key_info *info,
                          kvs_problem *problem)
{
    kvs_status status =
        kvs_key_describe(upload->store, upload->key, strlen(upload->key), info, problem);
    *exists = status == KVS_OK;
    return status == KVS_KEY_NOT_FOUND ? KVS_OK : status;
}

/* The bytes that the form asks for. */
static kvs_status fix_form(kvs_admin_upload *upload, kvs_problem *problem)
{
    uint64_t elements;
    if (!kvs_shape_elements(&upload->shape, &elements)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the shape has too many elements");
    }
    uint64_t bytes = upload->head_bytes + elements * kvs_dtype_bytes(upload->dtype);
    if (bytes > upload->admin->options.upload_bytes_max) {
        return kvs_problem_set(problem, KVS_TOO_LARGE,
                               "a value of %" PRIu64 " bytes; the limit is %" PRIu64, bytes,
                               upload->admin->options.upload_bytes_max);
    }
    upload->bytes_max = bytes;
    upload->form_known = true;
    return KVS_OK;
}

/* Raw bytes have the form that the sender names, or else that of the key. */
static kvs_status fix_raw_form(kvs_admin_upload *upload, const kvs_admin_put *put,
                               kvs_problem *problem)
{
    kvs_key_info info;
    bool exists;
    KVS_TRY(look_up(upload, &exists, &info, problem));
    if (!exists && (put->dtype == KVS_DTYPE_NONE || !put->has_shape)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the key is new: name its dtype and shape (dtype=f32&shape=2,3)");
    }
    upload->dtype = put->dtype != KVS_DTYPE_NONE ? put->dtype : info.dtype;
    upload->shape = put->has_shape ? put->shape : info.shape;
    return fix_form(upload, problem);
}

static kvs_status check_put(kvs_admin_upload *upload, const kvs_admin_put *put,
                            uint64_t bytes_expected, kvs_problem *problem)
{
    size_t key_bytes = strlen(put->key);
    if (key_bytes == 0 || key_bytes > KVS_KEY_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "a key has 1 to %u bytes",
                               KVS_KEY_BYTES_MAX);
    }
    memcpy(upload->key, put->key, key_bytes + 1);
    KVS_TRY(kvs_admin_find_store(upload->admin, put->store, &upload->store, problem));
    if (put->if_match != NULL && put->if_match[0] != '\0') {
        upload->has_match = true;
        upload->match_any = strcmp(put->if_match, "*") == 0;
        if (!upload->match_any && !kvs_etag_parse(put->if_match, &upload->match)) {
            return kvs_problem_set(problem, KVS_ETAG_MISMATCH, "no version has the tag %.60s",
                                   put->if_match);
        }
    }
    upload->create_only = put->create_only;
    upload->format = put->format;
    upload->bytes_max = upload->admin->options.upload_bytes_max;
    if (put->format == KVS_VALUE_RAW) {
        KVS_TRY(fix_raw_form(upload, put, problem));
    } else {
        /* For bytes that turn out to have no head. */
        upload->dtype = put->dtype;
        upload->shape = put->shape;
    }
    if (bytes_expected != UINT64_MAX && bytes_expected > upload->bytes_max) {
        return kvs_problem_set(problem, KVS_TOO_LARGE,
                               "%" PRIu64 " bytes announced; this value takes %" PRIu64,
                               bytes_expected, upload->bytes_max);
    }
    return KVS_OK;
}

kvs_status kvs_admin_upload_open(kvs_admin *admin, const kvs_admin_put *put,
                                 uint64_t bytes_expected, kvs_admin_upload **out,
                                 kvs_problem *problem)
{
    kvs_admin_upload *upload = calloc(1, sizeof *upload);
    if (upload == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the upload");
    }
    upload->admin = admin;
    kvs_status status = check_put(upload, put, bytes_expected, problem);
    if (status != KVS_OK) {
        kvs_admin_upload_close(upload);
        return status;
    }
    *out = upload;
    return KVS_OK;
}

/* Room for `bytes` in all, charged to what all uploads may hold together. */
static kvs_status make_room(kvs_admin_upload *upload, uint64_t bytes, kvs_problem *problem)
{
    kvs_admin *admin = upload->admin;
    uint64_t room = upload->room == 0 ? UPLOAD_BYTES_FIRST : upload->room;
    while (room < bytes) {
        room *= 2;
    }
    room = room < upload->bytes_max ? room : upload->bytes_max;
    uint64_t more = room - upload->room;
    uint64_t before = atomic_fetch_add_explicit(&admin->upload_bytes, more, memory_order_relaxed);
    if (before + more > admin->options.upload_bytes_max) {
        (void)atomic_fetch_sub_explicit(&admin->upload_bytes, more, memory_order_relaxed);
        return kvs_problem_set(problem, KVS_OVER_BUDGET, "other uploads hold %" PRIu64 " bytes",
                               before);
    }
    uint8_t *data = realloc(upload->data, room);
    if (data == NULL) {
        (void)atomic_fetch_sub_explicit(&admin->upload_bytes, more, memory_order_relaxed);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for %" PRIu64 " bytes", room);
    }
    upload->data = data;
    upload->room = room;
    return KVS_OK;
}

/* Reads the head as soon as it is there. */
static kvs_status learn_form(kvs_admin_upload *upload, kvs_problem *problem)
{
    kvs_value_form form;
    bool complete;
    KVS_TRY(kvs_value_form_read(upload->format, upload->key, upload->data, (size_t)upload->bytes,
                                &complete, &form, problem));
    if (!complete) {
        return KVS_OK;
    }
    upload->head_bytes = form.head_bytes;
    upload->dtype = form.dtype;
    upload->shape = form.shape;
    KVS_TRY(fix_form(upload, problem));
    if (upload->bytes > upload->bytes_max) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "the head promises %" PRIu64 " bytes; more have come",
                               upload->bytes_max - upload->head_bytes);
    }
    return KVS_OK;
}

kvs_status kvs_admin_upload_append(kvs_admin_upload *upload, const void *data, size_t bytes,
                                   kvs_problem *problem)
{
    if (bytes == 0) {
        return KVS_OK;
    }
    if (bytes > upload->bytes_max - upload->bytes) {
        return kvs_problem_set(problem, KVS_TOO_LARGE, "this value takes %" PRIu64 " bytes",
                               upload->bytes_max);
    }
    if (upload->bytes + bytes > upload->room) {
        KVS_TRY(make_room(upload, upload->bytes + bytes, problem));
    }
    memcpy(upload->data + upload->bytes, data, bytes);
    upload->bytes += bytes;
    if (upload->form_known) {
        return KVS_OK;
    }
    if (upload->format == KVS_VALUE_DEFAULT &&
        !kvs_npy_begins(upload->data, (size_t)upload->bytes)) {
        kvs_admin_put put = {
            .dtype = upload->dtype,
            .has_shape = upload->dtype != KVS_DTYPE_NONE,
            .shape = upload->shape,
        };
        upload->format = KVS_VALUE_RAW;
        KVS_TRY(fix_raw_form(upload, &put, problem));
        if (upload->bytes > upload->bytes_max) {
            return kvs_problem_set(problem, KVS_TOO_LARGE, "this value takes %" PRIu64 " bytes",
                                   upload->bytes_max);
        }
        return KVS_OK;
    }
    return learn_form(upload, problem);
}

/* ------------------------------------------------------------------ writing: the engine's part */

/* The key does not exist: an init with all parts. *existed: somebody was faster. */
typedef struct init_wait {
    kvs_wait wait;
    kvs_init *init;
} init_wait;

static void release_init(kvs_wait *wait)
{
    kvs_init_close(((init_wait *)wait)->init);
}

static kvs_status add_parts(kvs_init *init, const kvs_admin_upload *upload, kvs_problem *problem)
{
    uint8_t shape[KVS_DIMENSIONS_MAX * 10];
    size_t element_bytes = kvs_dtype_bytes(upload->dtype);
    uint64_t elements = (upload->bytes_max - upload->head_bytes) / element_bytes;
    uint64_t offset = 0;
    kvs_part_header header = {
        .key = upload->key,
        .key_bytes = (uint32_t)strlen(upload->key),
        .dtype = upload->dtype,
        .has_shape = true,
        .shape_bytes = kvs_shape_pack(&upload->shape, shape),
        .shape = shape,
    };
    do {
        uint64_t left = elements - offset;
        header.element_offset = offset;
        header.element_count = left < KVS_PART_ELEMENTS ? left : KVS_PART_ELEMENTS;
        header.payload_bytes = header.element_count * element_bytes;
        /* An empty value has no bytes, and the buffer may then be none. */
        kvs_span span = {.data = upload->data, .bytes = (size_t)header.payload_bytes};
        if (span.bytes > 0) {
            span.data += upload->head_bytes + offset * element_bytes;
        }
        kvs_payload payload = {.spans = &span, .count = 1, .skip = 0, .bytes = span.bytes};
        KVS_TRY(kvs_init_part(init, &header, &payload, problem));
        offset += header.element_count;
    } while (offset < elements);
    return KVS_OK;
}

static kvs_status init_key(kvs_admin_upload *upload, bool *existed, kvs_problem *problem)
{
    kvs_wait *wait = NULL;
    const kvs_init_key *keys;
    uint64_t now_ns = kvs_clock_now_ns();
    KVS_TRY(kvs_wait_open(upload->admin, upload->store, sizeof(init_wait),
                          now_ns + KVS_CUT_DEADLINE_NS, &wait, problem));
    init_wait *mine = (init_wait *)wait;
    wait->release = release_init;
    kvs_status status = kvs_init_open(upload->store, NULL, &mine->init, problem);
    if (status == KVS_OK) {
        status = add_parts(mine->init, upload, problem);
    }
    if (status == KVS_OK) {
        kvs_init_commit(mine->init, kvs_wait_begin(wait), now_ns);
        status = kvs_wait_for(wait, problem);
    }
    if (status == KVS_OK) {
        *existed = kvs_init_keys(mine->init, &keys) > 0 && keys[0].existed;
    }
    kvs_wait_close(wait);
    return status;
}

typedef struct assign_wait {
    kvs_wait wait;
    kvs_version version;
} assign_wait;

static kvs_status assign(kvs_admin_upload *upload, kvs_version *version, kvs_problem *problem)
{
    kvs_wait *wait = NULL;
    uint64_t now_ns = kvs_clock_now_ns();
    KVS_TRY(kvs_wait_open(upload->admin, upload->store, sizeof(assign_wait),
                          now_ns + KVS_CUT_DEADLINE_NS, &wait, problem));
    assign_wait *mine = (assign_wait *)wait;
    bool match = upload->has_match && !upload->match_any;
    const uint8_t *data = upload->data != NULL ? upload->data + upload->head_bytes : NULL;
    kvs_store_assign(upload->store, upload->key, strlen(upload->key), upload->dtype, &upload->shape,
                     data, (size_t)(upload->bytes - upload->head_bytes),
                     match ? &upload->match : NULL, &mine->version, kvs_wait_begin(wait), now_ns);
    kvs_status status = kvs_wait_for(wait, problem);
    if (status == KVS_OK) {
        *version = mine->version;
    }
    kvs_wait_close(wait);
    return status;
}

/* What came is judged as a whole. */
static kvs_status check_whole(kvs_admin_upload *upload, kvs_problem *problem)
{
    if (!upload->form_known && upload->bytes == 0 && upload->format == KVS_VALUE_DEFAULT) {
        kvs_admin_put put = {
            .dtype = upload->dtype,
            .has_shape = upload->dtype != KVS_DTYPE_NONE,
            .shape = upload->shape,
        };
        KVS_TRY(fix_raw_form(upload, &put, problem));
    }
    if (!upload->form_known) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the file ends within its head");
    }
    if (upload->bytes != upload->bytes_max) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "%" PRIu64 " bytes of values; %s of this shape takes %" PRIu64,
                               upload->bytes - upload->head_bytes, kvs_dtype_name(upload->dtype),
                               upload->bytes_max - upload->head_bytes);
    }
    return KVS_OK;
}

kvs_status kvs_admin_upload_finish(kvs_admin_upload *upload, json_t **reply, bool *created,
                                   kvs_problem *problem)
{
    kvs_key_info info;
    kvs_version version;
    bool exists;
    bool is_new = false;
    KVS_TRY(check_whole(upload, problem));
    KVS_TRY(look_up(upload, &exists, &info, problem));
    if (exists && upload->create_only) {
        return kvs_problem_set(problem, KVS_ETAG_MISMATCH, "the key is there already");
    }
    if (!exists && upload->has_match) {
        return kvs_problem_set(problem, KVS_ETAG_MISMATCH, "there is no such key");
    }
    if (!exists) {
        bool existed = false;
        KVS_TRY(init_key(upload, &existed, problem));
        is_new = !existed;
    }
    if (!is_new && upload->create_only) {
        return kvs_problem_set(problem, KVS_ETAG_MISMATCH, "somebody else has created the key");
    }
    if (!is_new) {
        KVS_TRY(assign(upload, &version, problem));
    }
    KVS_TRY(kvs_key_describe(upload->store, upload->key, strlen(upload->key), &info, problem));
    if (!is_new) {
        info.version = version; /* its own, not one that came after it */
    }
    KVS_TRY(kvs_admin_reply(kvs_admin_key_json(&info), reply, problem));
    if (created != NULL) {
        *created = is_new;
    }
    return KVS_OK;
}

void kvs_admin_upload_close(kvs_admin_upload *upload)
{
    if (upload != NULL) {
        (void)atomic_fetch_sub_explicit(&upload->admin->upload_bytes, upload->room,
                                        memory_order_relaxed);
        free(upload->data);
        kvs_store_unref(upload->store);
        free(upload);
    }
}
