#include "base/clock.h"
#include "client/dist_state.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where sums and copies begin: what the CPU backend asks for. */
#define ALIGN_BYTES ((size_t)64)
/* A wait that is over asks the server who is missing only if it was no mere look. */
#define ASK_FROM_MS 500

/* ------------------------------------------------------------------ the end of a request */

static void unlink_request(kvs_request *request)
{
    kvs_request_list *list = request->list;
    if (list == NULL) {
        return;
    }
    if (request->previous != NULL) {
        request->previous->next = request->next;
    } else {
        list->first = request->next;
    }
    if (request->next != NULL) {
        request->next->previous = request->previous;
    } else {
        list->last = request->previous;
    }
    request->list = NULL;
}

static void link_request(kvs_request_list *list, kvs_request *request)
{
    request->list = list;
    request->next = NULL;
    request->previous = list->last;
    if (list->last != NULL) {
        list->last->next = request;
    } else {
        list->first = request;
    }
    list->last = request;
}

static void free_request(kvs_request *request)
{
    unlink_request(request);
    for (size_t i = 0; i < request->item_count; i++) {
        kvs_block_unref(request->items[i].block);
        kvs_item_free_rows(&request->items[i]);
    }
    kvs_block_unref(request->borrowed);
    free(request->items);
    free((void *)request->outs);
    free(request);
}

static void free_if_over(kvs_request *request)
{
    if (request->handle.done && !request->kept && request->live_items == 0) {
        free_request(request);
    }
}

/* All items are finished. Done, once the caller's memory is not read any more. */
static void complete(kvs_request *request)
{
    kvs_dist *dist = request->dist;
    bool shared = request->borrowed != NULL && kvs_block_shared(request->borrowed);
    if (shared != request->draining) {
        request->draining = shared;
        dist->draining = shared ? dist->draining + 1 : dist->draining - 1;
    }
    if (shared) {
        return;
    }
    unlink_request(request);
    link_request(&dist->over, request);
    request->handle.done = true;
    if (!request->kept && dist->failure.status == KVS_OK) {
        dist->failure = request->handle.problem;
    }
    (void)pthread_cond_broadcast(&dist->changed);
    free_if_over(request);
}

void kvs_request_blame(kvs_request *request, const kvs_problem *problem)
{
    if (request->handle.problem.status == KVS_OK) {
        request->handle.problem = *problem;
    }
}

/* The value of a push that was applied before the way broke is asked for by a pull. */
static bool pull_instead(kvs_item *item)
{
    kvs_request *request = item->request;
    if (item->flow != KVS_FLOW_PUSHPULL || item->dropped || item->received == item->elements ||
        request->handle.problem.status != KVS_OK) {
        return false;
    }
    item->flow = KVS_FLOW_PULL;
    item->parts = 1;
    item->parts_sent = 0;
    item->received = 0;
    return kvs_item_queue(request->dist, item) == KVS_OK;
}

static void check_received(kvs_item *item)
{
    kvs_problem problem = {0};
    if (item->flow != KVS_FLOW_PUSH && item->received != item->elements) {
        (void)kvs_problem_set(&problem, KVS_INVALID_TENSOR, "key %s is smaller than its out",
                              item->key->name);
        kvs_request_blame(item->request, &problem);
    }
}

void kvs_item_finish(kvs_item *item)
{
    kvs_request *request = item->request;
    if (pull_instead(item)) {
        return;
    }
    if (!item->finished) {
        item->finished = true;
        check_received(item);
        request->open_items--;
    }
    kvs_block_unref(item->block);
    item->block = NULL;
    request->live_items--;
    if (request->handle.done) {
        free_if_over(request);
    } else if (request->open_items == 0) {
        complete(request);
    }
}

/* What is in the window may be sent again after the caller has its memory back. */
static void keep_bytes(kvs_item *item)
{
    kvs_dist *dist = item->request->dist;
    size_t bytes = (size_t)item->elements * item->element_bytes;
    uint64_t region;
    uint64_t offset;
    if (item->block == NULL || !item->block->borrowed) {
        return;
    }
    /* The server may still read it where it lies: the request is over once it does not. */
    if (kvs_shared_find(dist->shared, item->data, bytes, &region, &offset)) {
        return;
    }
    kvs_block *copy = kvs_block_make(&dist->pool, bytes);
    if (copy == NULL) {
        dist->abandon = true;
        return;
    }
    memcpy(copy->data, item->data, bytes);
    item->data = copy->data;
    kvs_block_unref(item->block);
    item->block = copy;
}

void kvs_request_fail(kvs_request *request, const kvs_problem *problem)
{
    kvs_dist *dist = request->dist;
    kvs_request_blame(request, problem);
    for (size_t i = 0; i < request->item_count; i++) {
        kvs_item *item = &request->items[i];
        if (item->finished) {
            continue;
        }
        item->dropped = true;
        item->finished = true;
        request->open_items--;
        if (item->parts_sent < item->parts) {
            kvs_item_unqueue(dist, item);
        }
        if (item->unanswered > 0) {
            keep_bytes(item);
        } else {
            kvs_block_unref(item->block);
            item->block = NULL;
            request->live_items--;
        }
    }
    complete(request);
}

/* What is known of why an answer is late. */
static void describe_wait(const kvs_dist *dist, const kvs_request *request, kvs_problem *out)
{
    const char *name = "";
    for (size_t i = 0; request != NULL && i < request->item_count; i++) {
        if (!request->items[i].finished) {
            name = request->items[i].key->name;
            break;
        }
    }
    if (dist->phase != KVS_DIST_UP) {
        (void)kvs_problem_set(out, KVS_DEADLINE, "key %s: the server cannot be reached: %s", name,
                              dist->problem.detail);
    } else if (dist->live_workers < dist->base.num_workers) {
        (void)kvs_problem_set(out, KVS_DEADLINE,
                              "key %s is not answered; %" PRIu32 " of %" PRIu32 " workers are live",
                              name, dist->live_workers, dist->base.num_workers);
    } else {
        (void)kvs_problem_set(out, KVS_DEADLINE, "key %s is not answered", name);
    }
}

void kvs_dist_check_requests(kvs_dist *dist, uint64_t now_ns)
{
    kvs_request *next = NULL;
    for (kvs_request *request = dist->open.first; request != NULL; request = next) {
        next = request->next;
        if (request->draining) {
            complete(request);
        } else if (now_ns >= request->deadline_ns) {
            kvs_problem problem = {0};
            describe_wait(dist, request, &problem);
            kvs_request_fail(request, &problem);
        } else if (dist->draining == 0) {
            return; /* the others are younger */
        }
    }
}

static bool is_sent_push(const kvs_item *item)
{
    return !item->finished && item->flow != KVS_FLOW_PULL && item->parts_sent > 0;
}

bool kvs_dist_has_pushes(const kvs_dist *dist)
{
    for (const kvs_request *request = dist->open.first; request != NULL; request = request->next) {
        for (size_t i = 0; i < request->item_count; i++) {
            if (is_sent_push(&request->items[i])) {
                return true;
            }
        }
    }
    return false;
}

void kvs_dist_free_requests(kvs_dist *dist)
{
    while (dist->open.first != NULL) {
        free_request(dist->open.first);
    }
    while (dist->over.first != NULL) {
        free_request(dist->over.first);
    }
}

/* ------------------------------------------------------------------ making a request */

static kvs_request *make_request(kvs_dist *dist, const kvs_transfer *transfer)
{
    size_t items = transfer->sparse ? kvs_dist_count_row_items(transfer) : transfer->groups->count;
    size_t outs = transfer->sparse ? items : 0;
    for (size_t i = 0; !transfer->sparse && i < transfer->groups->count; i++) {
        outs += transfer->groups->list[i].out_count;
    }
    kvs_request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        return NULL;
    }
    request->dist = dist;
    request->priority = transfer->priority;
    request->item_count = items;
    request->open_items = request->item_count;
    request->live_items = request->item_count;
    request->items = calloc(request->item_count + 1, sizeof *request->items);
    request->outs = (void **)calloc(outs + 1, sizeof(void *));
    if (request->items == NULL || request->outs == NULL) {
        free_request(request);
        return NULL;
    }
    return request;
}

static kvs_flow flow_of(const kvs_transfer *transfer)
{
    if (!transfer->push) {
        return KVS_FLOW_PULL;
    }
    return transfer->pull ? KVS_FLOW_PUSHPULL : KVS_FLOW_PUSH;
}

static void set_shape(kvs_item *item, const kv_array *array)
{
    kvs_shape shape;
    uint8_t packed[KVS_DIMENSIONS_MAX * 10];
    kvs_array_shape(array, &shape);
    uint32_t bytes = kvs_shape_pack(&shape, packed);
    if (bytes <= sizeof item->shape) {
        memcpy(item->shape, packed, bytes);
        item->shape_bytes = bytes;
        item->has_shape = true;
    }
}

/* True when the value goes out of the caller's memory as it lies. */
static bool is_borrowed(const kvs_group *group, const kvs_transfer *transfer)
{
    if (!transfer->borrow || group->value_count != 1) {
        return false;
    }
    /* What comes back would change what may have to be sent again. */
    for (size_t i = 0; i < group->out_count; i++) {
        if (kvs_array_overlaps(group->values[0], group->outs[i])) {
            return false;
        }
    }
    return true;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

/* The bytes that the call's values take when they are copied or summed. */
static size_t copied_bytes(const kvs_transfer *transfer)
{
    size_t bytes = 0;
    for (size_t i = 0; i < transfer->groups->count; i++) {
        const kvs_group *group = &transfer->groups->list[i];
        if (!is_borrowed(group, transfer)) {
            bytes += aligned(kvs_array_bytes(group->values[0]));
        }
    }
    return bytes;
}

/* Points the items to their values: the caller's, or copies and sums in one block. */
static kvs_status take_values(kvs_request *request, const kvs_transfer *transfer,
                              kvs_problem *problem)
{
    kvs_dist *dist = request->dist;
    if (dist->compression.on) {
        return kvs_dist_encode_values(request, transfer->groups, problem);
    }
    kvs_block *copies = kvs_block_make(&dist->pool, copied_bytes(transfer));
    request->borrowed = transfer->borrow ? kvs_block_borrow(&dist->pool) : NULL;
    kvs_status status = KVS_OK;
    if (copies == NULL || (transfer->borrow && request->borrowed == NULL)) {
        status = kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the values");
    }
    size_t used = 0;
    for (size_t i = 0; i < request->item_count && status == KVS_OK; i++) {
        const kvs_group *group = &transfer->groups->list[i];
        kvs_item *item = &request->items[i];
        if (is_borrowed(group, transfer)) {
            item->data = group->values[0]->data;
            item->block = kvs_block_take(request->borrowed);
        } else {
            item->data = copies->data + used;
            item->block = kvs_block_take(copies);
            status = kvs_sum_group(&dist->sum, group, copies->data + used, problem);
            used += aligned(kvs_array_bytes(group->values[0]));
        }
    }
    kvs_block_unref(copies);
    return status;
}

void kvs_item_fill(kvs_item *item, kvs_request *request, const kvs_group *group,
                   const kv_array *array, kvs_flow flow)
{
    item->request = request;
    item->group = group;
    item->flow = flow;
    item->dtype = (kvs_dtype)array->dtype;
    item->element_bytes = (uint32_t)kvs_dtype_bytes(item->dtype);
    item->pull_codec = request->dist->compression.pull;
    item->elements = kvs_array_elements(array);
    set_shape(item, array);
}

static void fill_items(kvs_request *request, const kvs_transfer *transfer)
{
    void **outs = request->outs;
    for (size_t i = 0; i < request->item_count; i++) {
        const kvs_group *group = &transfer->groups->list[i];
        const kv_array *array = group->value_count > 0 ? group->values[0] : group->outs[0];
        kvs_item *item = &request->items[i];
        kvs_item_fill(item, request, group, array, flow_of(transfer));
        item->outs = outs;
        item->out_count = group->out_count;
        for (size_t j = 0; j < group->out_count; j++) {
            *outs++ = group->outs[j]->data;
        }
    }
}

/* ------------------------------------------------------------------ queueing it */

/* What depends on what the client knows of the keys. */
static kvs_status name_items(kvs_request *request)
{
    kvs_dist *dist = request->dist;
    for (size_t i = 0; i < request->item_count; i++) {
        kvs_item *item = &request->items[i];
        item->key =
            kvs_client_keys_find_or_add(&dist->keys, item->group->name, item->group->name_bytes);
        if (item->key == NULL) {
            return KVS_NO_MEMORY;
        }
        if (item->ends == NULL && item->part_elements == 0) { /* else it is in parts already */
            item->part_elements = item->key->part_elements != 0 ? item->key->part_elements
                                                                : dist->limits.part_elements;
        }
        item->parts = 1;
        if (item->flow != KVS_FLOW_PULL && item->elements > 0) {
            item->parts = (item->elements + item->part_elements - 1) / item->part_elements;
            dist->statistics.parts_pushed += item->parts;
        }
    }
    return KVS_OK;
}

static kvs_status queue_items(kvs_request *request)
{
    for (size_t i = 0; i < request->item_count; i++) {
        if (kvs_item_queue(request->dist, &request->items[i]) != KVS_OK) {
            while (i > 0) {
                kvs_item_unqueue(request->dist, &request->items[--i]);
            }
            return KVS_NO_MEMORY;
        }
    }
    return KVS_OK;
}

static kvs_status submit(kvs_request *request, kvs_problem *problem)
{
    kvs_dist *dist = request->dist;
    if (dist->closing) {
        return kvs_problem_set(problem, KVS_STOPPING, "the store is being closed");
    }
    if (name_items(request) != KVS_OK || queue_items(request) != KVS_OK) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the request");
    }
    request->number = dist->next_number++;
    request->deadline_ns = kvs_clock_now_ns() + dist->request_timeout_ns;
    link_request(&dist->open, request);
    kvs_dist_connect(dist);
    kvs_dist_pump(dist);
    return KVS_OK;
}

/* A call of no keys is done at once. */
static void finish_empty(kvs_request *request)
{
    kvs_dist *dist = request->dist;
    request->handle.done = true;
    if (!request->kept) {
        free_request(request);
        return;
    }
    kvs_dist_lock(dist);
    link_request(&dist->over, request);
    kvs_dist_unlock(dist);
}

kvs_status kvs_dist_transfer(kv_store *kv, const kvs_transfer *transfer, kv_handle **handle,
                             kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    kvs_request *request = make_request(dist, transfer);
    if (request == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the request");
    }
    request->kept = handle != NULL;
    if (handle != NULL) {
        *handle = &request->handle;
    }
    kvs_status status = KVS_OK;
    if (transfer->sparse) {
        status = kvs_dist_fill_rows(request, transfer, problem);
    } else {
        fill_items(request, transfer);
        status = transfer->push ? take_values(request, transfer, problem) : KVS_OK;
    }
    if (status == KVS_OK && request->item_count == 0) {
        finish_empty(request);
        return KVS_OK;
    }
    if (status == KVS_OK) {
        /* From here on the I/O thread ends and, without a handle, frees it. */
        kvs_dist_lock(dist);
        status = submit(request, problem);
        kvs_dist_unlock(dist);
    }
    if (status != KVS_OK) {
        free_request(request);
        if (handle != NULL) {
            *handle = NULL;
        }
    }
    return status;
}

/* ------------------------------------------------------------------ waiting */

/* Without the mutex. */
static kvs_status finish_wait(kvs_dist *dist, kvs_status status, uint64_t timeout_ms,
                              kvs_problem *problem)
{
    if (status == KVS_DEADLINE && timeout_ms >= ASK_FROM_MS) {
        kvs_dist_name_round(dist, problem);
    }
    return status;
}

kvs_status kvs_dist_wait_handle(kv_store *kv, kv_handle *handle, uint64_t timeout_ms,
                                kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    kvs_request *request = (kvs_request *)handle;
    uint64_t until = kvs_dist_until(timeout_ms);
    kvs_dist_lock(dist);
    while (!handle->done) {
        if (!kvs_dist_wait(dist, until) && !handle->done) {
            describe_wait(dist, request, problem);
            kvs_dist_unlock(dist);
            return finish_wait(dist, KVS_DEADLINE, timeout_ms, problem);
        }
    }
    kvs_status status = handle->problem.status;
    *problem = handle->problem;
    if (status != KVS_DEADLINE || timeout_ms == KV_FOREVER) {
        request->kept = false;
        free_if_over(request);
    } /* else the caller cannot tell it from the end of its own patience */
    kvs_dist_unlock(dist);
    return finish_wait(dist, status, timeout_ms, problem);
}

bool kvs_dist_is_done(kv_store *kv, const kv_handle *handle)
{
    kvs_dist *dist = (kvs_dist *)kv;
    kvs_dist_lock(dist);
    bool done = handle->done;
    kvs_dist_unlock(dist);
    return done;
}

static bool is_open_before(const kvs_dist *dist, uint64_t number)
{
    return dist->open.first != NULL && dist->open.first->number < number;
}

kvs_status kvs_dist_wait_all(kv_store *kv, uint64_t timeout_ms, kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    uint64_t until = kvs_dist_until(timeout_ms);
    kvs_dist_lock(dist);
    uint64_t end = dist->next_number;
    while (is_open_before(dist, end)) {
        if (!kvs_dist_wait(dist, until) && is_open_before(dist, end)) {
            describe_wait(dist, dist->open.first, problem);
            kvs_dist_unlock(dist);
            return finish_wait(dist, KVS_DEADLINE, timeout_ms, problem);
        }
    }
    kvs_status status = dist->failure.status;
    *problem = dist->failure;
    dist->failure = (kvs_problem){0};
    kvs_dist_unlock(dist);
    return finish_wait(dist, status, timeout_ms, problem);
}
