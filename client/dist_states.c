/* States as files, over a connection of their own that the caller's thread drives: it writes and
 * reads the file no faster than its disk, and nothing else waits behind it. */
#include "api/kvstored.pb-c.h"
#include "base/clock.h"
#include "client/dist_state.h"
#include "client/state_file.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

typedef struct stream {
    kvs_dist *dist;
    kvs_peer *peer;
    kvs_peer_call *call;
    kvs_state_file file;
    uint64_t done; /* bytes of the file */
    uint64_t total;
    uint64_t moved_ns; /* when something last went on */
    bool sending;
    bool ended;
    bool started;        /* load: the first chunk has left */
    uint8_t *chunk;      /* load: what is read */
    kvs_problem problem; /* of the call */
    kvs_problem local;   /* of the file; goes over the call's */
} stream;

static void fail_local(stream *self, const kvs_problem *problem)
{
    self->local = *problem;
    if (self->call != NULL) {
        kvs_peer_cancel(self->call);
    }
}

static void take_chunk(stream *self, const uint8_t *message, size_t bytes)
{
    kvs_problem problem;
    Kvstored__V1__DataChunk *chunk = kvstored__v1__data_chunk__unpack(NULL, bytes, message);
    if (chunk == NULL) {
        (void)kvs_problem_set(&problem, KVS_INTERNAL, "a chunk cannot be read");
        fail_local(self, &problem);
        return;
    }
    if (chunk->total_bytes != 0) {
        self->total = chunk->total_bytes;
    }
    if (kvs_state_file_write(&self->file, chunk->data.data, chunk->data.len, &problem) != KVS_OK) {
        fail_local(self, &problem);
    }
    self->done += chunk->data.len;
    kvstored__v1__data_chunk__free_unpacked(chunk, NULL);
    kvs_client_progress(&self->dist->base, self->done, self->total);
}

static void save_received(void *context, const kvs_span *spans, size_t count)
{
    stream *self = context;
    kvs_payload payload = {.spans = spans, .count = (uint32_t)count};
    for (size_t i = 0; i < count; i++) {
        payload.bytes += spans[i].bytes;
    }
    self->moved_ns = kvs_clock_now_ns();
    if (self->local.status != KVS_OK) {
        return;
    }
    uint8_t *message = malloc(payload.bytes + 1);
    if (message == NULL) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_NO_MEMORY, "no memory for a chunk");
        fail_local(self, &problem);
        return;
    }
    kvs_payload_gather(&payload, message);
    take_chunk(self, message, payload.bytes);
    free(message);
}

static void load_received(void *context, const kvs_span *spans, size_t count)
{
    (void)spans; /* that there is an answer is the answer */
    (void)count;
    ((stream *)context)->moved_ns = kvs_clock_now_ns();
}

static void sent(void *context)
{
    stream *self = context;
    self->sending = false;
    self->moved_ns = kvs_clock_now_ns();
}

static void ended(void *context, const kvs_problem *problem)
{
    stream *self = context;
    self->problem = *problem;
    self->ended = true;
    self->call = NULL;
}

static const kvs_peer_events save_events = {save_received, sent, ended};
static const kvs_peer_events load_events = {load_received, sent, ended};

/* ------------------------------------------------------------------ the call */

static kvs_status begin(stream *self, const char *method, const kvs_peer_events *events,
                        kvs_problem *problem)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* as dist.c does: threads take none */
    kvs_status status = kvs_peer_open(self->dist->address, &self->peer);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status == KVS_OK) {
        self->call = kvs_peer_start(self->peer, KVS_LANE_BULK, method, 0, events, self);
        status = self->call != NULL ? KVS_OK : KVS_NO_MEMORY;
    }
    self->moved_ns = kvs_clock_now_ns();
    return status == KVS_OK ? KVS_OK : kvs_problem_set(problem, status, "no memory for a call");
}

/* Until something has happened, or for a moment. */
static void wait(stream *self)
{
    uint64_t now_ns = kvs_clock_now_ns();
    kvs_peer_poll(self->peer, now_ns + 100 * KVS_MS);
    if (!self->ended && self->local.status == KVS_OK &&
        kvs_clock_now_ns() > self->moved_ns + self->dist->request_timeout_ns) {
        kvs_problem problem;
        (void)kvs_problem_set(&problem, KVS_DEADLINE, "the server is silent");
        fail_local(self, &problem);
    }
}

static void end(stream *self)
{
    if (self->call != NULL) {
        kvs_peer_cancel(self->call);
    }
    while (self->peer != NULL && self->call != NULL) {
        kvs_peer_poll(self->peer, kvs_clock_now_ns() + 100 * KVS_MS);
    }
    kvs_peer_close(self->peer);
    kvs_state_file_close(&self->file);
    free(self->chunk);
}

static kvs_status outcome(const stream *self, kvs_problem *problem)
{
    *problem = self->local.status != KVS_OK ? self->local : self->problem;
    return problem->status;
}

/* ------------------------------------------------------------------ save */

static kvs_status send_request(stream *self, bool dump_optimizer, kvs_problem *problem)
{
    Kvstored__V1__SaveOptimizerStatesRequest request =
        KVSTORED__V1__SAVE_OPTIMIZER_STATES_REQUEST__INIT;
    uint8_t packed[2 * KVS_NAME_BYTES_MAX];
    request.store = self->dist->store;
    request.dump_optimizer = dump_optimizer;
    if (kvstored__v1__save_optimizer_states_request__get_packed_size(&request) > sizeof packed) {
        return kvs_problem_set(problem, KVS_STORE_NOT_FOUND, "no store has so long a name");
    }
    size_t bytes = kvstored__v1__save_optimizer_states_request__pack(&request, packed);
    self->sending = true;
    kvs_peer_send(self->call, packed, bytes, NULL, 0, true);
    return KVS_OK;
}

kvs_status kvs_dist_save_states(kv_store *kv, const char *path, bool dump_optimizer,
                                kvs_problem *problem)
{
    stream self = {.dist = (kvs_dist *)kv, .file.fd = -1};
    KVS_TRY(kvs_state_file_create(path, &self.file, problem));
    kvs_status status =
        begin(&self, "/kvstored.v1.Admin/SaveOptimizerStates", &save_events, problem);
    if (status == KVS_OK) {
        status = send_request(&self, dump_optimizer, problem);
    }
    while (status == KVS_OK && !self.ended) {
        wait(&self);
    }
    if (status == KVS_OK) {
        status = outcome(&self, problem);
    }
    if (status == KVS_OK && self.done != self.total) {
        status = kvs_problem_set(problem, KVS_INTERNAL, "the server's file ended early");
    }
    if (status == KVS_OK) {
        status = kvs_state_file_commit(&self.file, problem);
    }
    end(&self);
    return status;
}

/* ------------------------------------------------------------------ load */

/* Reads the next chunk and sends it. */
static kvs_status send_chunk(stream *self, kvs_problem *problem)
{
    Kvstored__V1__DataChunk chunk = KVSTORED__V1__DATA_CHUNK__INIT;
    uint64_t left = self->total - self->done;
    size_t bytes = left < KVS_STATE_FILE_CHUNK ? (size_t)left : KVS_STATE_FILE_CHUNK;
    KVS_TRY(kvs_state_file_read(&self->file, self->chunk, bytes, problem));
    if (!self->started) {
        chunk.store = self->dist->store;
    }
    chunk.data.data = self->chunk;
    chunk.data.len = bytes;
    size_t packed_bytes = kvstored__v1__data_chunk__get_packed_size(&chunk);
    uint8_t *packed = malloc(packed_bytes + 1);
    if (packed == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a chunk");
    }
    (void)kvstored__v1__data_chunk__pack(&chunk, packed);
    self->started = true;
    self->done += bytes;
    self->sending = true;
    kvs_peer_send(self->call, packed, packed_bytes, NULL, 0, self->done == self->total);
    free(packed);
    kvs_client_progress(&self->dist->base, self->done, self->total);
    return KVS_OK;
}

kvs_status kvs_dist_load_states(kv_store *kv, const char *path, kvs_problem *problem)
{
    stream self = {.dist = (kvs_dist *)kv, .file.fd = -1};
    KVS_TRY(kvs_state_file_open(path, &self.file, problem));
    self.total = self.file.bytes;
    self.chunk = malloc(KVS_STATE_FILE_CHUNK);
    kvs_status status =
        self.chunk != NULL
            ? begin(&self, "/kvstored.v1.Admin/LoadOptimizerStates", &load_events, problem)
            : kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a chunk");
    while (status == KVS_OK && !self.ended) {
        if (!self.sending && (!self.started || self.done < self.total)) {
            status = send_chunk(&self, problem);
        }
        if (status == KVS_OK) {
            wait(&self);
        }
    }
    if (status == KVS_OK) {
        status = outcome(&self, problem);
    }
    end(&self);
    return status;
}
