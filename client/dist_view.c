/* Views of a server's values. Each has a connection of its own, driven by the caller's thread,
 * whose one stream stays open while the view does: that is how the server knows what is held. */
#include "base/clock.h"
#include "client/dist_state.h"
#include "client/view.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define METHOD "/kvstored.v1.KVStore/Pull"

/* The asking for one. */
typedef struct asking {
    kvs_dist *dist;
    kv_view *view;
    kvs_codec_scratch scratch;
    kvs_head head;
    bool sending;
    bool done;
    kvs_problem problem;
} asking;

/* A view and, while it is made, who asks for it. */
typedef struct held {
    kv_view view; /* first */
    asking *asking;
} held;

static void fail(asking *self, const kvs_problem *problem)
{
    if (self->problem.status == KVS_OK) {
        self->problem = *problem;
    }
    self->done = true;
}

static kvs_status take_part(asking *self, const kvs_frame_view *frame,
                            const kvs_part_header *header, size_t offset, kvs_problem *problem)
{
    kv_view *view = self->view;
    kvs_shape shape;
    if (view->data == NULL) {
        if (!header->has_shape || !kvs_part_header_shape(header, &shape)) {
            return kvs_problem_set(problem, KVS_INTERNAL, "a value came without its shape");
        }
        KVS_TRY(kvs_view_shape(view, header->dtype, &shape, problem));
        view->version = header->version;
    }
    if (header->codec != KVS_CODEC_NONE || header->dtype != view->dtype) {
        return kvs_problem_set(problem, KVS_INTERNAL, "a value came in another form");
    }
    if (frame->region != 0 && header->payload_bytes > 0) {
        return kvs_view_map(view, self->dist->shared, frame->region, header->region_offset,
                            header->element_offset, header->payload_bytes, problem);
    }
    kvs_payload payload = kvs_payload_slice(&frame->payload, offset, (size_t)header->payload_bytes);
    return kvs_view_copy(view, header->element_offset, &payload, problem);
}

static void take_frame(asking *self, const kvs_frame_view *frame)
{
    kvs_problem problem;
    size_t offset = 0;
    for (size_t i = 0; i < frame->part_count && !self->done; i++) {
        if (take_part(self, frame, &frame->parts[i], offset, &problem) != KVS_OK) {
            fail(self, &problem);
        }
        offset += (size_t)frame->parts[i].payload_bytes;
    }
    self->done =
        self->done || (self->view->data != NULL && self->view->received == self->view->elements);
}

static void received(void *context, const kvs_span *spans, size_t count)
{
    asking *self = ((held *)context)->asking;
    kvs_reply_view reply = {0};
    kvs_problem problem = {.status = KVS_OK};
    if (self == NULL || self->done) {
        return;
    }
    if (kvs_reply_decode(spans, count, &self->scratch, &reply, &problem) != KVS_OK) {
        fail(self, &problem);
    } else if (reply.kind == KVS_REPLY_FRAME) {
        take_frame(self, &reply.frame);
    } else if (reply.kind == KVS_REPLY_REFUSAL) {
        char reason[64] = "";
        size_t bytes = reply.refusal.reason_bytes < sizeof reason ? reply.refusal.reason_bytes
                                                                  : sizeof reason - 1;
        memcpy(reason, reply.refusal.reason, bytes);
        (void)kvs_problem_set(&problem, kvs_status_parse(reason), "%.*s",
                              (int)reply.refusal.detail_bytes, reply.refusal.detail);
        fail(self, &problem);
    }
}

static void sent(void *context)
{
    asking *self = ((held *)context)->asking;
    if (self != NULL) {
        self->sending = false;
    }
}

static void ended(void *context, const kvs_problem *problem)
{
    held *self = context;
    self->view.call = NULL;
    if (self->asking != NULL) {
        kvs_problem told = *problem;
        if (told.status == KVS_OK) {
            (void)kvs_problem_set(&told, KVS_UNAVAILABLE, "the server has ended the stream");
        }
        fail(self->asking, &told);
    }
}

static const kvs_peer_events events = {received, sent, ended};

static kvs_status send_request(asking *self, const char *name, size_t name_bytes,
                               kvs_problem *problem)
{
    kvs_dist *dist = self->dist;
    uint8_t session[KVS_SESSION_BYTES];
    kvs_pull_key_view key = {.key = name, .key_bytes = (uint32_t)name_bytes};
    kvs_pull_view pull = {.store = dist->store,
                          .store_bytes = (uint32_t)strlen(dist->store),
                          .session = session,
                          .session_bytes = sizeof session,
                          .snapshot = true,
                          .shared = kvs_shared_works(dist->shared),
                          .keys = &key,
                          .key_count = 1};
    kvs_dist_lock(dist);
    memcpy(session, dist->session, sizeof session);
    pull.epoch = dist->epoch;
    pull.membership = dist->membership;
    kvs_dist_unlock(dist);
    if (kvs_pull_encode(&self->head, &pull) != KVS_OK) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a request");
    }
    self->sending = true;
    kvs_peer_send(self->view->call, self->head.bytes, self->head.used, NULL, 0, false);
    return KVS_OK;
}

static kvs_status ask(asking *self, const char *name, size_t name_bytes, kvs_problem *problem)
{
    kv_view *view = self->view;
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* as dist.c does: threads take none */
    kvs_status status = kvs_peer_open(self->dist->address, &view->peer);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status == KVS_OK) {
        view->call = kvs_peer_start(view->peer, KVS_LANE_BULK, METHOD, 0, &events, view);
        status = view->call != NULL ? KVS_OK : KVS_NO_MEMORY;
    }
    if (status != KVS_OK) {
        return kvs_problem_set(problem, status, "no memory for a call");
    }
    KVS_TRY(send_request(self, name, name_bytes, problem));
    uint64_t until_ns = kvs_clock_now_ns() + self->dist->request_timeout_ns;
    while (!self->done || self->sending) {
        kvs_peer_poll(view->peer, kvs_clock_now_ns() + 100 * KVS_MS);
        if (!self->done && kvs_clock_now_ns() > until_ns) {
            (void)kvs_problem_set(problem, KVS_DEADLINE, "the server is silent");
            fail(self, problem);
        }
        if (view->call == NULL) {
            break;
        }
    }
    *problem = self->problem;
    return self->problem.status;
}

kvs_status kvs_dist_view(kv_store *kv, const char *name, size_t name_bytes, kv_view **out,
                         kvs_problem *problem)
{
    kvs_dist *dist = (kvs_dist *)kv;
    held *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a view");
    }
    asking self = {.dist = dist, .view = &made->view};
    made->asking = &self;
    kvs_dist_lock(dist);
    kvs_status status =
        kvs_dist_wait_up(dist, kvs_clock_now_ns() + dist->connect_timeout_ns, problem);
    kvs_dist_unlock(dist);
    if (status == KVS_OK) {
        status = ask(&self, name, name_bytes, problem);
    }
    made->asking = NULL;
    kvs_head_deinit(&self.head);
    kvs_codec_scratch_deinit(&self.scratch);
    if (status != KVS_OK) {
        kv_view_free(&made->view);
        return status;
    }
    kvs_view_seal(&made->view);
    *out = &made->view;
    return KVS_OK;
}
