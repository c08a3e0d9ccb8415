#include "base/clock.h"
#include "client/local_state.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the channel */

static void channel_ack(kvs_channel *channel, uint64_t first, uint64_t last, bool duplicate)
{
    (void)duplicate;
    ((kvs_local_channel *)channel)->answered += last - first + 1;
}

static void channel_refuse(kvs_channel *channel, uint64_t sequence, const char *key,
                           size_t key_bytes, const kvs_problem *problem)
{
    (void)sequence;
    (void)key;
    (void)key_bytes;
    kvs_local_channel *self = (kvs_local_channel *)channel;
    self->answered++;
    self->unused = self->unused || problem->status == KVS_OVER_CREDIT ||
                   problem->status == KVS_SEQ_GAP || problem->status == KVS_TOO_MANY;
    if (self->status == KVS_OK) {
        self->status = problem->status;
        self->problem = *problem;
    }
}

static void channel_credit(kvs_channel *channel, uint64_t bytes)
{
    (void)channel;
    (void)bytes;
}

/* Why the part does not fit the outs, or KVS_OK. */
static kvs_status check_part(const kvs_group *group, const kvs_part_header *header,
                             kvs_problem *problem)
{
    uint64_t elements = kvs_array_elements(group->outs[0]);
    if (header->dtype != (kvs_dtype)group->outs[0]->dtype) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %.*s holds %s, its out is %s",
                               (int)group->name_bytes, group->name, kvs_dtype_name(header->dtype),
                               kvs_dtype_name((kvs_dtype)group->outs[0]->dtype));
    }
    if (header->element_offset > elements ||
        header->element_count > elements - header->element_offset) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %.*s is larger than its out",
                               (int)group->name_bytes, group->name);
    }
    return KVS_OK;
}

/* The same of rows, and where they go. */
static kvs_status check_rows(const kvs_local_channel *self, const kvs_part_header *header,
                             uint64_t *element_offset, uint64_t *elements, kvs_problem *problem)
{
    const kvs_row_list *list = self->rows;
    uint64_t first = 0;
    uint64_t rows = 0;
    KVS_TRY(kvs_row_list_find(list, header, &first, &rows, problem));
    *element_offset = first * list->row_elements;
    *elements = rows * list->row_elements;
    if (header->dtype != (kvs_dtype)self->group->outs[0]->dtype ||
        header->payload_bytes != *elements * kvs_dtype_bytes(header->dtype)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR,
                               "key %.*s has rows of another dtype or length than its out",
                               (int)self->group->name_bytes, self->group->name);
    }
    return KVS_OK;
}

static void channel_value(kvs_channel *channel, const kvs_value_part *part)
{
    kvs_local_channel *self = (kvs_local_channel *)channel;
    const kvs_part_header *header = &part->header;
    uint64_t offset = header->element_offset;
    uint64_t elements = header->element_count;
    if (self->status == KVS_OK) {
        self->status = self->rows != NULL
                           ? check_rows(self, header, &offset, &elements, &self->problem)
                           : check_part(self->group, header, &self->problem);
    }
    if (self->status == KVS_OK) {
        size_t size = kvs_dtype_bytes(header->dtype);
        if (elements > 0) {
            memcpy(self->out + (size_t)offset * size, part->data, (size_t)elements * size);
        }
        self->elements += elements;
    }
    self->sent_bytes += header->payload_bytes;
    kvs_buffer_unref(part->buffer);
}

static void channel_nothing(kvs_channel *channel)
{
    (void)channel;
}

static void channel_flush(kvs_channel *channel, uint64_t now_ns)
{
    (void)channel;
    (void)now_ns;
}

static const kvs_channel_table channel_table = {
    .ack = channel_ack,
    .refuse = channel_refuse,
    .credit = channel_credit,
    .value = channel_value,
    .flush = channel_flush,
    .take = channel_nothing,
    .unref = channel_nothing,
};

void kvs_local_channel_init(kvs_local *local)
{
    local->channel.channel.table = &channel_table;
}

/* What the engine has said of the request. A sequence that it had no memory for is given up: all
 * that comes later would wait for it. */
static kvs_status outcome(kvs_local *self, kvs_problem *problem)
{
    const kvs_local_channel *channel = &self->channel;
    if (channel->unused) {
        kvs_register request = {.type = "",
                                .worker = "local",
                                .resume = self->session_id,
                                .epoch = KVS_LOCAL_EPOCH,
                                .lowest_unacknowledged = self->next_sequence};
        kvs_session *session = NULL;
        kvs_session_info info;
        KVS_TRY(kvs_session_register(self->store, &request, kvs_clock_now_ns(), &session, &info,
                                     problem));
        kvs_session_unref(session);
    }
    if (channel->status == KVS_OVER_CREDIT) { /* it never has two requests under way */
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a part");
    }
    if (channel->status != KVS_OK) {
        *problem = channel->problem;
    }
    return channel->status;
}

/* ------------------------------------------------------------------ pushing */

/* A push of a key: all of its parts, in one frame, which the engine takes whole or not at all. */
typedef struct push_frame {
    kvs_frame frame; /* first: its task is posted */
    kvs_local *self;
    size_t count;
    kvs_span span;
    kvs_payload payload;
    bool consumed;
} push_frame;

static void frame_consumed(kvs_frame *frame, uint64_t now_ns)
{
    (void)now_ns;
    ((push_frame *)frame)->consumed = true;
}

static void run_push(kvs_task *task, uint64_t now_ns)
{
    push_frame *push = (push_frame *)task;
    kvs_local *self = push->self;
    kvs_session_push(self->session, &self->channel.channel, &push->frame, self->headers,
                     push->count, &push->payload, false, now_ns);
}

/* Gives the frame to the engine and waits until it has answered. */
static kvs_status push_parts(kvs_local *self, push_frame *push, kvs_problem *problem)
{
    kvs_local_channel *channel = &self->channel;
    channel->answered = 0;
    channel->unused = false;
    channel->status = KVS_OK;
    push->consumed = false;
    push->frame.task.run = run_push;
    push->frame.session = self->session;
    push->frame.consumed = frame_consumed;
    push->frame.whole = true;
    kvs_session_post(self->session, &push->frame.task, kvs_clock_now_ns());
    while (channel->answered < push->count || !push->consumed) {
        kvs_local_move_on(self);
    }
    self->statistics.parts_pushed += push->count;
    return outcome(self, problem);
}

static kvs_status find_key(kvs_local *self, const kvs_group *group, kvs_client_key **key,
                           kvs_key_info *info, kvs_problem *problem)
{
    KVS_TRY(kvs_key_describe(self->store, group->name, group->name_bytes, info, problem));
    *key = kvs_client_keys_find_or_add(&self->keys, group->name, group->name_bytes);
    return *key == NULL ? kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a key") : KVS_OK;
}

static kvs_status reserve_headers(kvs_local *self, size_t count, kvs_problem *problem)
{
    if (count <= self->header_room) {
        return KVS_OK;
    }
    kvs_part_header *headers = realloc(self->headers, count * sizeof *headers);
    if (headers == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a push");
    }
    self->headers = headers;
    self->header_room = count;
    return KVS_OK;
}

/* `list` is NULL for a dense value; else `data` holds its rows. */
static kvs_status push_whole(kvs_local *self, const kvs_group *group, const kvs_row_list *list,
                             const uint8_t *data, kvs_problem *problem)
{
    kvs_client_key *key;
    kvs_key_info info;
    KVS_TRY(find_key(self, group, &key, &info, problem));
    uint64_t elements = kvs_array_elements(group->values[0]);
    uint64_t part_elements = list != NULL ? list->part_elements : info.part_elements;
    uint64_t parts = elements == 0 ? 1 : (elements - 1) / part_elements + 1;
    KVS_TRY(reserve_headers(self, (size_t)parts, problem));
    kvs_shape shape;
    uint8_t packed[KVS_DIMENSIONS_MAX * 10];
    kvs_array_shape(group->values[0], &shape);
    kvs_part_header header = {
        .key = group->name,
        .key_bytes = group->name_bytes,
        .dtype = (kvs_dtype)group->values[0]->dtype,
        .has_shape = true,
        .shape = packed,
        .shape_bytes = kvs_shape_pack(&shape, packed),
        .after = key->last_sequence,
    };
    size_t size = kvs_dtype_bytes(header.dtype);
    push_frame push = {.self = self, .count = (size_t)parts, .span = {data, 0}};
    for (uint64_t i = 0; i < parts; i++) {
        uint64_t left = elements - i * part_elements;
        header.element_offset = i * part_elements;
        header.element_count = left < part_elements ? left : part_elements;
        header.payload_bytes = header.element_count * size;
        if (list != NULL) {
            kvs_row_list_fill_header(list, i, size, &header);
        }
        header.sequence = self->next_sequence++;
        push.span.bytes += (size_t)header.payload_bytes;
        self->headers[i] = header;
    }
    push.payload = (kvs_payload){.spans = &push.span, .count = 1, .bytes = push.span.bytes};
    key->last_sequence = self->next_sequence - 1;
    return push_parts(self, &push, problem);
}

/* ------------------------------------------------------------------ pulling */

typedef struct pull_task {
    kvs_task task;
    kvs_local *self;
    kvs_pull_key key;
    bool asked;
    bool ran;
} pull_task;

static void run_pull(kvs_task *task, uint64_t now_ns)
{
    pull_task *pull = (pull_task *)task;
    kvs_local *self = pull->self;
    kvs_channel *channel = &self->channel.channel;
    pull->ran = true;
    if (!pull->asked) {
        pull->asked = true;
        kvs_session_pull(self->session, channel, &pull->key, 1, now_ns);
        return;
    }
    uint64_t bytes = self->channel.sent_bytes;
    self->channel.sent_bytes = 0;
    kvs_session_sent(self->session, channel, bytes, now_ns);
}

static void copy_outs(const kvs_group *group)
{
    size_t bytes = kvs_array_bytes(group->outs[0]);
    for (size_t i = 1; i < group->out_count && bytes > 0; i++) {
        if (group->outs[i]->data != group->outs[0]->data) {
            memcpy(group->outs[i]->data, group->outs[0]->data, bytes);
        }
    }
}

/* Of all, or of the rows of `list`, to `out`, which takes `elements`. */
static kvs_status pull_to(kvs_local *self, const kvs_group *group, const kvs_row_list *list,
                          void *out, uint64_t elements, kvs_problem *problem)
{
    kvs_client_key *key;
    kvs_key_info info;
    KVS_TRY(find_key(self, group, &key, &info, problem));
    kvs_local_channel *channel = &self->channel;
    channel->answered = 0;
    channel->unused = false;
    channel->status = KVS_OK;
    channel->sent_bytes = 0;
    channel->group = group;
    channel->rows = list;
    channel->out = out;
    channel->elements = 0;
    pull_task pull = {
        .self = self,
        .key = {.key = group->name,
                .key_bytes = group->name_bytes,
                .sequence = self->next_sequence++,
                .after = key->last_sequence},
    };
    if (list != NULL) {
        pull.key.row_ids = list->packed;
        pull.key.row_ids_bytes = (uint32_t)list->packed_starts[1];
    }
    key->last_sequence = pull.key.sequence;
    pull.task.run = run_pull;
    while (channel->answered == 0 || channel->sent_bytes > 0) {
        pull.ran = false;
        kvs_session_post(self->session, &pull.task, kvs_clock_now_ns());
        if (!pull.ran || (channel->answered == 0 && channel->sent_bytes == 0)) {
            kvs_local_move_on(self);
        }
    }
    self->statistics.parts_pulled += info.parts;
    KVS_TRY(outcome(self, problem));
    if (channel->elements != elements) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "key %.*s is smaller than its out",
                               (int)group->name_bytes, group->name);
    }
    return KVS_OK;
}

static kvs_status pull_whole(kvs_local *self, const kvs_group *group, kvs_problem *problem)
{
    KVS_TRY(pull_to(self, group, NULL, group->outs[0]->data, kvs_array_elements(group->outs[0]),
                    problem));
    copy_outs(group);
    return KVS_OK;
}

/* ------------------------------------------------------------------ the updater */

static kvs_status assign(kvs_local *self, const kvs_group *group, const kv_array *value,
                         kvs_problem *problem)
{
    kvs_shape shape;
    kvs_local_waiter waiter;
    kvs_local_waiter_init(&waiter);
    kvs_array_shape(value, &shape);
    kvs_store_assign(self->store, group->name, group->name_bytes, (kvs_dtype)value->dtype, &shape,
                     value->data, kvs_array_bytes(value), NULL, NULL, &waiter.waiter,
                     kvs_clock_now_ns());
    return kvs_local_wait(self, &waiter, problem);
}

static kvs_status update(kvs_local *self, const kvs_group *group, const uint8_t *input,
                         kvs_problem *problem)
{
    kvs_key_info info;
    KVS_TRY(kvs_key_describe(self->store, group->name, group->name_bytes, &info, problem));
    kvs_block *block =
        kvs_block_make(&self->pool, (size_t)info.elements * kvs_dtype_bytes(info.dtype));
    if (block == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the updater");
    }
    kv_array stored = {block->data, (kv_dtype)info.dtype, info.shape.rank, info.shape.size};
    kv_array summed = *group->values[0];
    summed.data = (void *)input;
    const kv_array *outs[] = {&stored};
    kvs_group read = *group;
    read.outs = outs;
    read.out_count = 1;
    kvs_status status = KVS_OK;
    if (kvs_array_elements(&summed) != info.elements || summed.dtype != stored.dtype) {
        status = kvs_problem_set(problem, KVS_INVALID_TENSOR,
                                 "key %.*s has another size or dtype than what is pushed",
                                 (int)group->name_bytes, group->name);
    } else {
        status = pull_whole(self, &read, problem);
    }
    if (status == KVS_OK) {
        self->updater(group->key, &summed, &stored, self->updater_context);
        status = assign(self, group, &stored, problem);
    }
    kvs_block_unref(block);
    return status;
}

static kvs_status push_group(kvs_local *self, const kvs_group *group, kvs_problem *problem)
{
    kvs_block *block = NULL;
    const uint8_t *data = group->values[0]->data;
    kvs_status status = KVS_OK;
    bool compressed = self->compression.on;
    if (compressed) {
        kvs_key_info info; /* a key that is not there shall change no residual */
        KVS_TRY(kvs_key_describe(self->store, group->name, group->name_bytes, &info, problem));
    }
    if (group->value_count > 1 || compressed) {
        block = kvs_block_make(&self->pool, kvs_array_bytes(group->values[0]));
        if (block == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a sum");
        }
        status = compressed ? kvs_compression_sum(&self->compression, &self->pool, group,
                                                  (float *)(void *)block->data, problem)
                            : kvs_sum_group(&self->sum, group, block->data, problem);
        data = block->data;
    }
    if (status == KVS_OK) {
        status = self->updater != NULL ? update(self, group, data, problem)
                                       : push_whole(self, group, NULL, data, problem);
    }
    kvs_block_unref(block);
    return status;
}

/* ------------------------------------------------------------------ rows */

kvs_status kvs_local_take_rows(kvs_local *local, const kvs_group *group, kvs_row_list *list,
                               kvs_block **block, const uint8_t **data, kvs_problem *problem)
{
    KVS_TRY(kvs_row_list_of_values(list, group, problem));
    size_t size = kvs_dtype_bytes((kvs_dtype)group->values[0]->dtype);
    kvs_status status = kvs_row_list_cut(list, KVS_PART_ELEMENTS);
    *block = NULL;
    if (status == KVS_OK && list->whole) {
        *data = ((const kvs_row_argument *)group->values[0]->data)->rows->data;
        return KVS_OK;
    }
    *block = kvs_block_make(&local->pool, (size_t)(list->count * list->row_elements) * size);
    if (status != KVS_OK || *block == NULL) {
        status = kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the rows");
    } else {
        *data = (*block)->data;
        status = kvs_row_list_sum(list, &local->sum, group, (*block)->data, problem);
    }
    if (status != KVS_OK) {
        kvs_row_list_deinit(list);
        kvs_block_unref(*block);
    }
    return status;
}

/* An updater sees whole arrays: rows that are not pushed are zero. */
static kvs_status update_rows(kvs_local *self, const kvs_group *group, const kvs_row_list *list,
                              const uint8_t *rows, kvs_problem *problem)
{
    size_t bytes = kvs_array_bytes(group->values[0]);
    size_t row_bytes =
        (size_t)list->row_elements * kvs_dtype_bytes((kvs_dtype)group->values[0]->dtype);
    kvs_block *whole = kvs_block_make(&self->pool, bytes);
    if (whole == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the updater");
    }
    memset(whole->data, 0, bytes);
    for (uint64_t i = 0; i < list->count; i++) {
        uint64_t row = list->whole ? i : list->ids[i];
        memcpy(whole->data + (size_t)row * row_bytes, rows + (size_t)i * row_bytes, row_bytes);
    }
    kvs_status status = update(self, group, whole->data, problem);
    kvs_block_unref(whole);
    return status;
}

static kvs_status push_rows(kvs_local *self, const kvs_group *group, kvs_problem *problem)
{
    kvs_row_list list;
    kvs_block *block = NULL;
    const uint8_t *data = NULL;
    KVS_TRY(kvs_local_take_rows(self, group, &list, &block, &data, problem));
    kvs_status status = self->updater != NULL ? update_rows(self, group, &list, data, problem)
                                              : push_whole(self, group, &list, data, problem);
    kvs_block_unref(block);
    kvs_row_list_deinit(&list);
    return status;
}

static kvs_status pull_rows(kvs_local *self, const kvs_group *group, const kv_array *array,
                            kvs_problem *problem)
{
    const kvs_row_argument *argument = array->data;
    kvs_row_list list;
    KVS_TRY(kvs_row_list_of_ids(&list, group, array, argument->wanted, problem));
    kvs_status status = kvs_row_list_describe(&list, group, argument->rows, problem);
    if (status == KVS_OK && list.count > 0) {
        status = kvs_row_list_pack(&list, 0, list.count);
        status = status != KVS_OK ? kvs_problem_set(problem, status, "no memory for the rows")
                                  : pull_to(self, group, &list, argument->rows->data,
                                            list.count * list.row_elements, problem);
    }
    kvs_row_list_deinit(&list);
    return status;
}

/* The push or the pull of one group. */
static kvs_status transfer_rows(kvs_local *self, const kvs_transfer *transfer,
                                const kvs_group *group, kvs_problem *problem)
{
    if (transfer->push) {
        return push_rows(self, group, problem);
    }
    for (size_t i = 0; i < group->out_count; i++) {
        KVS_TRY(pull_rows(self, group, group->outs[i], problem));
    }
    return KVS_OK;
}

/* ------------------------------------------------------------------ all keys of a call */

static kvs_status transfer_group(kvs_local *self, const kvs_transfer *transfer,
                                 const kvs_group *group, kvs_problem *problem)
{
    if (transfer->sparse) {
        return transfer_rows(self, transfer, group, problem);
    }
    if (transfer->push) {
        KVS_TRY(push_group(self, group, problem));
    }
    return transfer->pull ? pull_whole(self, group, problem) : KVS_OK;
}

kvs_status kvs_local_transfer(kv_store *kv, const kvs_transfer *transfer, kv_handle **handle,
                              kvs_problem *problem)
{
    kvs_local *self = (kvs_local *)kv;
    kv_handle *made = NULL;
    if (handle != NULL) {
        made = calloc(1, sizeof *made);
        if (made == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a handle");
        }
        made->done = true;
    }
    kvs_status status = KVS_OK;
    for (size_t i = 0; i < transfer->groups->count && status == KVS_OK; i++) {
        status = transfer_group(self, transfer, &transfer->groups->list[i], problem);
    }
    if (status != KVS_OK) {
        free(made);
    } else if (handle != NULL) {
        *handle = made;
    }
    return status;
}
