/* Who is in a store: registration, ranks, leases. The truth is under the store's mutex; shards
 * are told of each change by a visit and keep what they need of it themselves. */
#include "base/check.h"
#include "base/log.h"
#include "engine/session.h"
#include "engine/store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void run_set_rank(kvs_visit *visit, kvs_shard *shard, uint64_t now_ns)
{
    kvs_shard_set_rank(shard, visit->rank, visit->state, visit->change, now_ns);
}

/* Mutex. The visit that tells the shards; the change is made whether or not there is memory for
 * it: then the ranks' next change tells them. */
static kvs_visit *change_rank(kvs_store *store, uint32_t rank, kvs_rank_state state)
{
    uint64_t change = atomic_fetch_add_explicit(&store->membership, 1, memory_order_relaxed) + 1;
    kvs_visit *visit = kvs_visit_make(store, run_set_rank, NULL, NULL);
    if (visit != NULL) {
        visit->rank = rank;
        visit->state = state;
        visit->change = change;
    }
    kvs_store_changed(store);
    return visit;
}

/* Mutex. Ends a rank's session (if it has one) and puts the news to the front of `visits`. False:
 * no memory, nothing has changed. */
static bool end_member(kvs_store *store, uint32_t rank, const char *state, kvs_visit **visits)
{
    kvs_member *member = &store->members[rank];
    kvs_visit *visit = change_rank(store, rank, KVS_RANK_GONE);
    if (visit == NULL) {
        return false;
    }
    if (member->session != NULL) {
        atomic_store_explicit(&member->session->ended, true, memory_order_release);
        visit->ended = member->session; /* its reference */
        member->session = NULL;
    }
    member->state = state;
    visit->next = *visits;
    *visits = visit;
    return true;
}

/* Not under the mutex. */
static void post_all(kvs_store *store, kvs_visit *visits, uint64_t now_ns)
{
    while (visits != NULL) {
        kvs_visit *next = visits->next;
        uint32_t rank = visits->rank;
        kvs_visit_post(visits, now_ns);
        kvs_cut_leave(store, rank, now_ns);
        kvs_barriers_break(store, rank, now_ns);
        visits = next;
    }
}

/* ------------------------------------------------------------------ registration */

/* Mutex. The rank for a newcomer, or num_workers when there is none. */
static uint32_t free_rank(const kvs_store *store)
{
    for (int pass = 0; pass < 2; pass++) { /* first those that nobody has had */
        for (uint32_t rank = 0; rank < store->num_workers; rank++) {
            const kvs_member *member = &store->members[rank];
            if (member->session == NULL && (pass == 1 || member->state == NULL)) {
                return rank;
            }
        }
    }
    return store->num_workers;
}

static kvs_status judge(kvs_store *store, const kvs_register *request, kvs_problem *problem)
{
    if (request->type[0] != '\0') {
        kvs_kind kind = kvs_kind_of(request->type);
        if (kind != store->kind) {
            return kvs_problem_set(problem, KVS_STORE_TYPE_MISMATCH,
                                   "the store is %s, the client asked for %.64s", store->type,
                                   request->type);
        }
    }
    if (request->rank >= (int64_t)store->num_workers) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "/rank: %" PRId64 " is not below num_workers %u", request->rank,
                               store->num_workers);
    }
    if (strlen(request->worker) > KVS_NAME_BYTES_MAX) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "/name: up to %u bytes",
                               KVS_NAME_BYTES_MAX);
    }
    return KVS_OK;
}

/* Mutex. */
static kvs_status choose_rank(kvs_store *store, const kvs_register *request, uint32_t *out,
                              kvs_problem *problem)
{
    if (request->rank < 0) {
        *out = free_rank(store);
        if (*out == store->num_workers) {
            return kvs_problem_set(problem, KVS_STORE_FULL, "all %u ranks have live workers",
                                   store->num_workers);
        }
        return KVS_OK;
    }
    *out = (uint32_t)request->rank;
    if (store->members[*out].session != NULL) {
        return kvs_problem_set(problem, KVS_RANK_TAKEN, "rank %u belongs to \"%s\"", *out,
                               store->members[*out].name);
    }
    return KVS_OK;
}

/* Mutex. */
static kvs_status join(kvs_store *store, const kvs_register *request, uint64_t now_ns,
                       kvs_session **out, kvs_visit **visit, kvs_problem *problem)
{
    uint32_t rank = 0;
    kvs_session *session = NULL;
    KVS_TRY(choose_rank(store, request, &rank, problem));
    kvs_status status = kvs_session_make(store, rank, now_ns, &session);
    if (status == KVS_OK) {
        *visit = change_rank(store, rank, KVS_RANK_LIVE);
        status = *visit == NULL ? KVS_NO_MEMORY : KVS_OK;
    }
    if (status != KVS_OK) {
        kvs_session_unref(session);
        return kvs_problem_set(problem, status, "no session was made");
    }
    /* The rank's last session may have been late; this one is not. */
    atomic_fetch_and_explicit(&store->late_ranks[rank / 64], ~((uint64_t)1 << (rank % 64)),
                              memory_order_relaxed);
    kvs_member *member = &store->members[rank];
    member->state = "live";
    member->session = session;
    memcpy(member->id, session->id, sizeof member->id);
    (void)kvs_log_text(member->name, sizeof member->name, request->worker, strlen(request->worker));
    *out = kvs_session_take(session);
    return KVS_OK;
}

/* Mutex. The session of that id, for one more reference. */
static kvs_status find(kvs_store *store, const uint8_t *id, size_t id_bytes, uint64_t epoch,
                       kvs_session **out, kvs_problem *problem)
{
    for (uint32_t rank = 0; id_bytes == KVS_SESSION_ID_BYTES && rank < store->num_workers; rank++) {
        kvs_member *member = &store->members[rank];
        if (member->state == NULL || memcmp(member->id, id, id_bytes) != 0) {
            continue;
        }
        if (member->session == NULL) {
            return kvs_problem_set(problem, KVS_FENCED, "the session of rank %u has ended (%s)",
                                   rank, member->state);
        }
        if (epoch != store->engine->epoch) {
            return kvs_problem_set(problem, KVS_FENCED, "the epoch is %" PRIu64 ", not %" PRIu64,
                                   store->engine->epoch, epoch);
        }
        *out = kvs_session_take(member->session);
        return KVS_OK;
    }
    if (epoch != 0 && epoch != store->engine->epoch) {
        return kvs_problem_set(problem, KVS_FENCED, "the epoch is %" PRIu64 ", not %" PRIu64,
                               store->engine->epoch, epoch);
    }
    return kvs_problem_set(problem, KVS_NOT_REGISTERED, "no session of the store has this id");
}

kvs_status kvs_session_register(kvs_store *store, const kvs_register *request, uint64_t now_ns,
                                kvs_session **out, kvs_session_info *info, kvs_problem *problem)
{
    kvs_visit *visit = NULL;
    kvs_session *session = NULL;
    KVS_TRY(judge(store, request, problem));
    pthread_mutex_lock(&store->mutex);
    kvs_status status;
    if (atomic_load_explicit(&store->deleted, memory_order_acquire)) {
        status = kvs_problem_set(problem, KVS_STORE_DELETED, "\"%s\" is gone", store->name);
    } else if (request->resume != NULL) {
        status =
            find(store, request->resume, KVS_SESSION_ID_BYTES, request->epoch, &session, problem);
    } else {
        status = join(store, request, now_ns, &session, &visit, problem);
    }
    pthread_mutex_unlock(&store->mutex);
    if (status != KVS_OK) {
        return status;
    }
    if (visit != NULL) {
        kvs_visit_post(visit, now_ns); /* before any push of this session can be on its way */
    } else {
        (void)!kvs_session_heartbeat(session, now_ns);
        if (request->lowest_unacknowledged > 0) {
            kvs_session_post_resume(session, request->lowest_unacknowledged, now_ns);
        }
    }
    memcpy(info->id, session->id, sizeof info->id);
    info->rank = session->rank;
    info->epoch = store->engine->epoch;
    info->next_sequence = atomic_load_explicit(&session->next_sequence, memory_order_relaxed);
    info->resumed = request->resume != NULL;
    *out = session;
    return KVS_OK;
}

kvs_status kvs_session_find(kvs_store *store, const uint8_t *id, size_t id_bytes, uint64_t epoch,
                            kvs_session **out, kvs_problem *problem)
{
    pthread_mutex_lock(&store->mutex);
    kvs_status status = find(store, id, id_bytes, epoch, out, problem);
    pthread_mutex_unlock(&store->mutex);
    return status;
}

/* ------------------------------------------------------------------ ends */

void kvs_session_leave(kvs_session *session, uint64_t now_ns)
{
    kvs_store *store = session->store;
    kvs_visit *visits = NULL;
    pthread_mutex_lock(&store->mutex);
    if (store->members[session->rank].session == session) {
        (void)end_member(store, session->rank, "left", &visits);
    }
    pthread_mutex_unlock(&store->mutex);
    post_all(store, visits, now_ns);
}

/* Mutex. */
static bool lease_over(const kvs_store *store, const kvs_session *session, uint64_t now_ns)
{
    uint64_t seen = atomic_load_explicit(&session->last_seen_ns, memory_order_relaxed);
    return now_ns > seen && now_ns - seen > store->lease_ns;
}

void kvs_members_tick(kvs_store *store, uint64_t now_ns)
{
    kvs_visit *visits = NULL;
    pthread_mutex_lock(&store->mutex);
    for (uint32_t rank = 0; rank < store->num_workers; rank++) {
        kvs_member *member = &store->members[rank];
        uint64_t bit = (uint64_t)1 << (rank % 64);
        _Atomic uint64_t *late = &store->late_ranks[rank / 64];
        if ((atomic_load_explicit(late, memory_order_relaxed) & bit) != 0) {
            if (member->session == NULL && member->state != NULL) {
                /* It has gone meanwhile. */
                atomic_fetch_and_explicit(late, ~bit, memory_order_relaxed);
            } else if (end_member(store, rank, "out", &visits)) {
                atomic_fetch_and_explicit(late, ~bit, memory_order_relaxed);
                kvs_log(KVS_LOG_WARN, "rank_left_out", "store=%s rank=%u", store->name, rank);
            }
        } else if (member->session != NULL && lease_over(store, member->session, now_ns) &&
                   end_member(store, rank, "lost", &visits)) {
            atomic_fetch_add_explicit(&store->leases_lost, 1, memory_order_relaxed);
            kvs_log(KVS_LOG_WARN, "lease_lost", "store=%s rank=%u worker=\"%s\"", store->name, rank,
                    member->name);
        }
    }
    pthread_mutex_unlock(&store->mutex);
    post_all(store, visits, now_ns);
}

void kvs_members_close(kvs_store *store, uint64_t now_ns)
{
    for (uint32_t rank = 0; rank < store->num_workers; rank++) {
        pthread_mutex_lock(&store->mutex);
        kvs_session *session = store->members[rank].session;
        store->members[rank].session = NULL;
        if (session != NULL) {
            store->members[rank].state = "left";
            atomic_store_explicit(&session->ended, true, memory_order_release);
        }
        kvs_store_changed(store);
        pthread_mutex_unlock(&store->mutex);
        if (session != NULL) {
            kvs_session_post_end(session, now_ns);
            kvs_session_unref(session);
        }
    }
}

size_t kvs_worker_list(kvs_store *store, uint64_t now_ns, size_t max, kvs_worker_info *out)
{
    size_t count = 0;
    pthread_mutex_lock(&store->mutex);
    for (uint32_t rank = 0; rank < store->num_workers && count < max; rank++) {
        const kvs_member *member = &store->members[rank];
        const kvs_session *session = member->session;
        if (member->state == NULL) {
            continue;
        }
        kvs_worker_info *info = &out[count++];
        *info = (kvs_worker_info){.rank = rank, .state = member->state};
        memcpy(info->name, member->name, sizeof info->name);
        memcpy(info->id, member->id, sizeof info->id);
        if (session != NULL) {
            uint64_t seen = atomic_load_explicit(&session->last_seen_ns, memory_order_relaxed);
            info->idle_ns = now_ns > seen ? now_ns - seen : 0;
            info->parts_pushed = atomic_load_explicit(&session->parts_pushed, memory_order_relaxed);
            info->bytes_pushed = atomic_load_explicit(&session->bytes_pushed, memory_order_relaxed);
            info->inflight_parts =
                atomic_load_explicit(&session->inflight_parts, memory_order_relaxed);
            info->inflight_bytes =
                atomic_load_explicit(&session->inflight_bytes, memory_order_relaxed);
        }
    }
    pthread_mutex_unlock(&store->mutex);
    return count;
}
