#include "api/kvstored.pb-c.h"
#include "base/clock.h"
#include "client/dist_state.h"
#include "client/row_list.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FRAME_PARTS 256u

/* One Init call on the calling thread. */
typedef struct init_call {
    kvs_dist *dist;
    kvs_groups *groups;
    kvs_row_list *lists; /* of each group, if they are of rows; else NULL */
    kvs_block **blocks;  /* and the rows themselves; NULL: they are all, as the caller has them */
    kvs_peer_call *call; /* NULL once it has ended */
    bool sending;
    kvs_problem problem;
    uint8_t *reply;
    size_t reply_bytes;
    kvs_block *borrowed; /* counts who reads the caller's values */
    uint8_t session[KVS_SESSION_BYTES];
    uint64_t epoch;
    uint64_t membership;
    bool with_values; /* rank 0 */
    size_t group;     /* next to be sent, and where in it */
    uint64_t offset;
    kvs_head head;
    kvs_part_header headers[FRAME_PARTS];
    kvs_piece pieces[FRAME_PARTS];
    uint8_t shapes[FRAME_PARTS][KVS_DIMENSIONS_MAX * 10];
} init_call;

/* ------------------------------------------------------------------ events */

static void init_received(void *context, const kvs_span *spans, size_t count)
{
    init_call *init = context;
    kvs_payload payload = {.spans = spans, .count = (uint32_t)count};
    for (size_t i = 0; i < count; i++) {
        payload.bytes += spans[i].bytes;
    }
    free(init->reply);
    init->reply = malloc(payload.bytes + 1);
    init->reply_bytes = payload.bytes;
    if (init->reply != NULL) {
        kvs_payload_gather(&payload, init->reply);
    }
}

static void init_sent(void *context)
{
    init_call *init = context;
    kvs_dist_lock(init->dist);
    init->sending = false;
    (void)pthread_cond_broadcast(&init->dist->changed);
    kvs_dist_unlock(init->dist);
}

static void init_ended(void *context, const kvs_problem *problem)
{
    init_call *init = context;
    kvs_dist_lock(init->dist);
    init->problem = *problem;
    init->call = NULL;
    (void)pthread_cond_broadcast(&init->dist->changed);
    kvs_dist_unlock(init->dist);
}

static const kvs_peer_events init_events = {
    .received = init_received,
    .sent = init_sent,
    .ended = init_ended,
};

/* ------------------------------------------------------------------ frames */

/* What the next part has in common whatever the storage. */
static kvs_part_header start_header(init_call *init, size_t at)
{
    const kvs_group *group = &init->groups->list[init->group];
    const kv_array *value = group->values[0];
    kvs_shape shape;
    kvs_array_shape(value, &shape);
    return (kvs_part_header){
        .key = group->name,
        .key_bytes = group->name_bytes,
        .dtype = (kvs_dtype)value->dtype,
        .has_shape = true,
        .shape = init->shapes[at],
        .shape_bytes = kvs_shape_pack(&shape, init->shapes[at]),
        .element_offset = init->offset,
    };
}

/* Fills the header of the next part; where its payload lies. */
static const uint8_t *find_part(init_call *init, kvs_part_header *header)
{
    const kv_array *value = init->groups->list[init->group].values[0];
    size_t size = kvs_dtype_bytes(header->dtype);
    if (init->lists != NULL) {
        const kvs_row_list *list = &init->lists[init->group];
        const kvs_block *block = init->blocks[init->group];
        const kvs_row_argument *argument = value->data;
        uint64_t part = init->offset / list->part_elements;
        kvs_row_list_fill_header(list, part, size, header);
        return (const uint8_t *)(block != NULL ? block->data : argument->rows->data) +
               kvs_row_list_offset(list, part, size);
    }
    uint64_t left = kvs_array_elements(value) - init->offset;
    uint64_t most = init->dist->limits.part_elements;
    header->element_count = left < most ? left : most;
    header->payload_bytes = header->element_count * size;
    return (const uint8_t *)value->data + init->offset * size;
}

/* The next part of the values, as header and piece number `at`; whether it fits beside `bytes`. */
static bool next_part(init_call *init, size_t at, uint64_t bytes)
{
    uint64_t elements = kvs_array_elements(init->groups->list[init->group].values[0]);
    kvs_part_header header = start_header(init, at);
    const uint8_t *data = find_part(init, &header);
    if (!init->with_values) {
        header.payload_bytes = 0;
        header.row_ids_bytes = 0;
    }
    uint64_t payload = header.payload_bytes;
    if (at > 0 && bytes + payload + header.row_ids_bytes > init->dist->limits.frame_payload_bytes) {
        return false;
    }
    init->headers[at] = header;
    init->pieces[at] = (kvs_piece){
        .data = payload > 0 ? data : NULL,
        .bytes = (size_t)payload,
        .release = kvs_block_release,
        .context = kvs_block_take(init->borrowed),
    };
    init->offset += header.element_count;
    if (init->offset == elements || !init->with_values) {
        init->group++;
        init->offset = 0;
    }
    return true;
}

/* Sends one frame. Holds the mutex. */
static kvs_status send_frame(init_call *init)
{
    size_t count = 0;
    uint64_t bytes = 0;
    uint64_t id_bytes = 0;
    while (init->group < init->groups->count && count < FRAME_PARTS &&
           next_part(init, count, bytes + id_bytes)) {
        id_bytes += init->headers[count].row_ids_bytes;
        bytes += init->headers[count++].payload_bytes;
    }
    const kvs_dist *dist = init->dist;
    kvs_frame_view view = {
        .store = dist->store,
        .store_bytes = (uint32_t)strlen(dist->store),
        .session = init->session,
        .session_bytes = KVS_SESSION_BYTES,
        .epoch = init->epoch,
        .membership = init->membership,
        .parts = init->headers,
        .part_count = count,
    };
    kvs_status status = kvs_frame_encode(&init->head, &view, bytes);
    if (status != KVS_OK) {
        for (size_t i = 0; i < count; i++) {
            kvs_block_unref(init->pieces[i].context);
        }
        return status;
    }
    init->sending = true;
    kvs_peer_send(init->call, init->head.bytes, init->head.used, init->pieces, count, false);
    return KVS_OK;
}

/* Holds the mutex. */
static void send_all(init_call *init)
{
    while (init->call != NULL && init->group < init->groups->count) {
        if (init->sending) {
            (void)kvs_dist_wait(init->dist, UINT64_MAX);
        } else if (send_frame(init) != KVS_OK) {
            kvs_peer_cancel(init->call);
            break;
        }
    }
    while (init->call != NULL && init->sending) {
        (void)kvs_dist_wait(init->dist, UINT64_MAX);
    }
    if (init->call != NULL) {
        kvs_peer_end_sends(init->call);
    }
    while (init->call != NULL) {
        (void)kvs_dist_wait(init->dist, UINT64_MAX);
    }
}

/* ------------------------------------------------------------------ the reply */

/* Holds the mutex. */
static kvs_status take_reply(init_call *init, kvs_problem *problem)
{
    kvs_dist *dist = init->dist;
    Kvstored__V1__InitReply *reply = NULL;
    if (init->reply != NULL) {
        reply = kvstored__v1__init_reply__unpack(NULL, init->reply_bytes, init->reply);
    }
    if (reply == NULL) {
        return kvs_problem_set(problem, KVS_INTERNAL, "the reply to Init cannot be read");
    }
    for (size_t i = 0; i < reply->n_keys; i++) {
        const Kvstored__V1__InitKey *told = reply->keys[i];
        kvs_client_key *key =
            kvs_client_keys_find_or_add(&dist->keys, told->key, strlen(told->key));
        if (key != NULL) {
            key->part_elements = told->part_elements;
        }
    }
    kvs_dist_set_limits(dist, reply->limits);
    kvstored__v1__init_reply__free_unpacked(reply, NULL);
    return KVS_OK;
}

/* ------------------------------------------------------------------ one attempt */

static kvs_status attempt(init_call *init, uint64_t until_ns, kvs_problem *problem)
{
    kvs_dist *dist = init->dist;
    KVS_TRY(kvs_dist_wait_up(dist, until_ns, problem));
    memcpy(init->session, dist->session, KVS_SESSION_BYTES);
    init->epoch = dist->epoch;
    init->membership = dist->membership;
    init->with_values = dist->base.rank == 0;
    init->group = 0;
    init->offset = 0;
    init->sending = false;
    init->call = kvs_peer_start(dist->peer, KVS_LANE_BULK, "/kvstored.v1.KVStore/Init", until_ns,
                                &init_events, init);
    if (init->call == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a call");
    }
    send_all(init);
    if (init->problem.status != KVS_OK) {
        *problem = init->problem;
        return problem->status;
    }
    return take_reply(init, problem);
}

/* ------------------------------------------------------------------ rows */

/* Collects the rows of all groups. Of a value with all its rows nothing is copied. */
static kvs_status collect_rows(init_call *init, kvs_problem *problem)
{
    kvs_dist *dist = init->dist;
    size_t count = init->groups->count;
    kvs_dist_lock(dist);
    uint64_t part_elements = dist->limits.part_elements;
    kvs_dist_unlock(dist);
    init->lists = calloc(count + 1, sizeof *init->lists);
    init->blocks = (kvs_block **)calloc(count + 1, sizeof(kvs_block *));
    if (init->lists == NULL || init->blocks == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the rows");
    }
    for (size_t i = 0; i < count; i++) {
        const kvs_group *group = &init->groups->list[i];
        kvs_row_list *list = &init->lists[i];
        KVS_TRY(kvs_row_list_of_values(list, group, problem));
        KVS_TRY(kvs_row_list_cut(list, part_elements));
        if (list->whole) {
            continue;
        }
        size_t size = kvs_dtype_bytes((kvs_dtype)group->values[0]->dtype);
        init->blocks[i] =
            kvs_block_make(&dist->pool, (size_t)(list->count * list->row_elements) * size);
        if (init->blocks[i] == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the rows");
        }
        (void)pthread_mutex_lock(&dist->base.order); /* whose the sums are */
        kvs_status status =
            kvs_row_list_sum(list, &dist->sum, group, init->blocks[i]->data, problem);
        (void)pthread_mutex_unlock(&dist->base.order);
        KVS_TRY(status);
    }
    return KVS_OK;
}

static void forget_rows(init_call *init)
{
    for (size_t i = 0; init->lists != NULL && i < init->groups->count; i++) {
        kvs_row_list_deinit(&init->lists[i]);
    }
    for (size_t i = 0; init->blocks != NULL && i < init->groups->count; i++) {
        kvs_block_unref(init->blocks[i]);
    }
    free(init->lists);
    free((void *)init->blocks);
}

/* ------------------------------------------------------------------ all attempts */

/* An equal init of what exists is no error, so it may be made again. */
static kvs_status attempt_all(init_call *init, kvs_problem *problem)
{
    kvs_dist *dist = init->dist;
    uint64_t until = kvs_clock_now_ns() + dist->request_timeout_ns;
    kvs_status status;
    kvs_dist_lock(dist);
    for (;;) {
        status = attempt(init, until, problem);
        bool again = status == KVS_UNAVAILABLE || status == KVS_STOPPING || status == KVS_CANCELLED;
        if (!again || kvs_clock_now_ns() >= until) {
            break;
        }
        (void)kvs_dist_wait(dist, kvs_clock_now_ns() + 50 * KVS_MS);
    }
    kvs_dist_unlock(dist);
    return status;
}

kvs_status kvs_dist_init(kv_store *kv, kvs_groups *groups, bool sparse, kvs_problem *problem)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    kvs_dist *dist = (kvs_dist *)kv;
    init_call *init = calloc(1, sizeof *init);
    kvs_block *borrowed = kvs_block_borrow(&dist->pool);
    if (init == NULL || borrowed == NULL) {
        free(init);
        kvs_block_unref(borrowed);
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a call");
    }
    init->dist = dist;
    init->groups = groups;
    init->borrowed = borrowed;
    kvs_status status = sparse ? collect_rows(init, problem) : KVS_OK;
    if (status == KVS_OK) {
        status = attempt_all(init, problem);
    }
    while (kvs_block_shared(borrowed)) {
        (void)nanosleep(&moment, NULL); /* the core lets go soon after the call's end */
    }
    kvs_block_unref(borrowed);
    forget_rows(init);
    kvs_head_deinit(&init->head);
    free(init->reply);
    free(init);
    return status;
}
