/* Barriers: every rank enters, then all go on. Counted by distinct ranks, ended by a deadline, with
 * the missing named, or by the loss of a rank; under KVS_POLICY_SHRINK a rank that is gone is not
 * waited for. */
#include "engine/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct arrival {
    struct arrival *next;
    kvs_waiter *waiter;
    kvs_barrier_result *result;
    uint32_t rank;
    uint64_t deadline_ns;
} arrival;

typedef struct kvs_barrier {
    struct kvs_barrier *next;
    uint64_t generation;
    uint32_t arrived;
    arrival *arrivals;
    uint64_t *ranks; /* a bit each */
    char name[KVS_NAME_BYTES_MAX + 1];
} kvs_barrier;

/* Mutex. The barrier of that name, made if need be; NULL: no memory. */
static kvs_barrier *get(kvs_store *store, const char *name)
{
    size_t words = (store->num_workers + 63) / 64;
    kvs_barrier *barrier = store->barriers;
    while (barrier != NULL && strcmp(barrier->name, name) != 0) {
        barrier = barrier->next;
    }
    if (barrier == NULL) {
        barrier = calloc(1, sizeof *barrier + words * sizeof(uint64_t));
        if (barrier == NULL) {
            return NULL;
        }
        barrier->ranks = (uint64_t *)(barrier + 1);
        (void)snprintf(barrier->name, sizeof barrier->name, "%s", name);
        barrier->next = store->barriers;
        store->barriers = barrier;
    }
    return barrier;
}

/* Mutex. Takes everybody out; the next arrival starts anew. A barrier with a name of its own is
 * forgotten once nobody waits: its names come from clients. */
static arrival *empty(kvs_store *store, kvs_barrier *barrier)
{
    arrival *all = barrier->arrivals;
    barrier->arrivals = NULL;
    barrier->arrived = 0;
    memset(barrier->ranks, 0, (store->num_workers + 63) / 64 * sizeof(uint64_t));
    if (barrier->name[0] != '\0') {
        kvs_barrier **at = &store->barriers;
        while (*at != barrier) {
            at = &(*at)->next;
        }
        *at = barrier->next;
        free(barrier);
    }
    return all;
}

static void tell(arrival *all, uint64_t now_ns, kvs_status status, const char *detail)
{
    while (all != NULL) {
        arrival *next = all->next;
        kvs_waiter_finish(all->waiter, now_ns, status, "%s", detail);
        free(all);
        all = next;
    }
}

/* Mutex. Is the rank waited for, and not there? */
static bool missing(const kvs_store *store, const kvs_barrier *barrier, uint32_t rank)
{
    const kvs_member *member = &store->members[rank];
    bool gone = member->state != NULL && member->session == NULL;
    return (barrier->ranks[rank / 64] >> (rank % 64) & 1) == 0 &&
           !(gone && store->policy == KVS_POLICY_SHRINK);
}

static bool complete(const kvs_store *store, const kvs_barrier *barrier)
{
    uint32_t rank = 0;
    while (rank < store->num_workers && !missing(store, barrier, rank)) {
        rank++;
    }
    return barrier->arrived > 0 && rank == store->num_workers;
}

static void name_missing(const kvs_store *store, const kvs_barrier *barrier, char *out,
                         size_t bytes)
{
    size_t used = (size_t)snprintf(out, bytes, "missing ranks:");
    for (uint32_t rank = 0; rank < store->num_workers && used + 16 < bytes; rank++) {
        if (missing(store, barrier, rank)) {
            used += (size_t)snprintf(out + used, bytes - used, " %u", rank);
        }
    }
}

/* Mutex. KVS_OK: entered; *all is everybody if that was the last. */
static kvs_status enter(kvs_store *store, uint32_t rank, const char *name, arrival *entry,
                        uint64_t now_ns, arrival **all)
{
    kvs_barrier *barrier = get(store, name);
    if (barrier == NULL) {
        return KVS_NO_MEMORY;
    }
    if ((barrier->ranks[rank / 64] >> (rank % 64) & 1) != 0) {
        return KVS_INVALID_FIELD;
    }
    uint64_t latest = now_ns + store->barrier_deadline_ns;
    entry->rank = rank;
    entry->deadline_ns = entry->waiter->deadline_ns != 0 && entry->waiter->deadline_ns < latest
                             ? entry->waiter->deadline_ns
                             : latest;
    *entry->result =
        (kvs_barrier_result){.generation = barrier->generation, .arrival_index = barrier->arrived};
    entry->next = barrier->arrivals;
    barrier->arrivals = entry;
    barrier->ranks[rank / 64] |= (uint64_t)1 << (rank % 64);
    barrier->arrived++;
    if (complete(store, barrier)) {
        barrier->generation++;
        *all = empty(store, barrier);
    }
    return KVS_OK;
}

void kvs_barrier_enter(kvs_store *store, uint32_t rank, const char *name,
                       kvs_barrier_result *result, kvs_waiter *waiter, uint64_t now_ns)
{
    arrival *all = NULL;
    if (store->kind == KVS_LOCAL) {
        *result = (kvs_barrier_result){0};
        kvs_waiter_finish(waiter, now_ns, KVS_OK, "%s", "");
        return;
    }
    if (rank >= store->num_workers || (name[0] != '\0' && !kvs_name_valid(name, strlen(name)))) {
        kvs_waiter_finish(waiter, now_ns, KVS_INVALID_FIELD, "%s",
                          rank >= store->num_workers ? "/rank is not below num_workers"
                                                     : "/name is not a name");
        return;
    }
    arrival *entry = calloc(1, sizeof *entry);
    kvs_status status = KVS_NO_MEMORY;
    if (entry != NULL) {
        entry->waiter = waiter;
        entry->result = result;
        pthread_mutex_lock(&store->mutex);
        status = atomic_load_explicit(&store->deleted, memory_order_acquire)
                     ? KVS_STORE_DELETED
                     : enter(store, rank, name, entry, now_ns, &all);
        pthread_mutex_unlock(&store->mutex);
    }
    if (status != KVS_OK) {
        free(entry);
        kvs_waiter_finish(waiter, now_ns, status, "%s",
                          status == KVS_INVALID_FIELD ? "/rank has entered this barrier already"
                                                      : "");
    }
    tell(all, now_ns, KVS_OK, "");
}

/* Mutex. Takes one arrival out of its barrier, which may then be gone. */
static arrival *take_out(kvs_store *store, kvs_barrier *barrier, arrival **at)
{
    arrival *out = *at;
    *at = out->next;
    out->next = NULL;
    barrier->ranks[out->rank / 64] &= ~((uint64_t)1 << (out->rank % 64));
    if (--barrier->arrived == 0) {
        (void)empty(store, barrier);
    }
    return out;
}

/* The arrival of that waiter, or without one of that rank, taken out of any barrier; or NULL. */
static arrival *withdraw(kvs_store *store, const kvs_waiter *waiter, uint32_t rank)
{
    arrival *found = NULL;
    pthread_mutex_lock(&store->mutex);
    for (kvs_barrier *barrier = store->barriers; barrier != NULL && found == NULL;) {
        kvs_barrier *next = barrier->next;
        arrival **at = &barrier->arrivals;
        while (*at != NULL && (waiter != NULL ? (*at)->waiter != waiter : (*at)->rank != rank)) {
            at = &(*at)->next;
        }
        if (*at != NULL) {
            found = take_out(store, barrier, at);
        }
        barrier = next;
    }
    pthread_mutex_unlock(&store->mutex);
    return found;
}

void kvs_barrier_leave(kvs_store *store, const kvs_waiter *waiter, uint64_t now_ns)
{
    tell(withdraw(store, waiter, 0), now_ns, KVS_CANCELLED, "");
}

/* Mutex. The server stops, and a rank that is missing has no session. */
static bool stuck(const kvs_store *store, const kvs_barrier *barrier)
{
    if (!atomic_load_explicit(&store->engine->draining, memory_order_relaxed)) {
        return false;
    }
    uint32_t rank = 0;
    while (rank < store->num_workers &&
           (store->members[rank].session != NULL || !missing(store, barrier, rank))) {
        rank++;
    }
    return rank < store->num_workers;
}

void kvs_barriers_tick(kvs_store *store, uint64_t now_ns)
{
    for (;;) {
        arrival *late = NULL;
        kvs_status status = KVS_DEADLINE;
        char detail[200];
        pthread_mutex_lock(&store->mutex);
        for (kvs_barrier *barrier = store->barriers; barrier != NULL && late == NULL;
             barrier = barrier->next) {
            arrival **at = &barrier->arrivals;
            status = stuck(store, barrier) ? KVS_STOPPING : KVS_DEADLINE;
            while (*at != NULL && status == KVS_DEADLINE && (*at)->deadline_ns > now_ns) {
                at = &(*at)->next;
            }
            if (*at == NULL) {
                continue;
            }
            name_missing(store, barrier, detail, sizeof detail);
            late = take_out(store, barrier, at);
            break; /* the barrier may be gone */
        }
        pthread_mutex_unlock(&store->mutex);
        if (late == NULL) {
            return;
        }
        tell(late, now_ns, status, detail);
    }
}

static void end_all(kvs_store *store, uint64_t now_ns, kvs_status status, const char *detail)
{
    for (;;) {
        arrival *all = NULL;
        pthread_mutex_lock(&store->mutex);
        kvs_barrier *barrier = store->barriers;
        while (barrier != NULL && barrier->arrivals == NULL) {
            barrier = barrier->next;
        }
        if (barrier != NULL) {
            all = empty(store, barrier);
        }
        pthread_mutex_unlock(&store->mutex);
        if (all == NULL) {
            return;
        }
        tell(all, now_ns, status, detail);
    }
}

/* Ends the barriers that waited for nobody but a rank that is gone. */
static void let_go(kvs_store *store, uint64_t now_ns)
{
    for (;;) {
        arrival *all = NULL;
        pthread_mutex_lock(&store->mutex);
        kvs_barrier *barrier = store->barriers;
        while (barrier != NULL && !complete(store, barrier)) {
            barrier = barrier->next;
        }
        if (barrier != NULL) {
            barrier->generation++;
            all = empty(store, barrier);
        }
        pthread_mutex_unlock(&store->mutex);
        if (all == NULL) {
            return;
        }
        tell(all, now_ns, KVS_OK, "");
    }
}

void kvs_barriers_break(kvs_store *store, uint32_t rank, uint64_t now_ns)
{
    char detail[64];
    (void)snprintf(detail, sizeof detail, "rank %u is gone", rank);
    if (store->policy == KVS_POLICY_SHRINK) {
        for (arrival *own; (own = withdraw(store, NULL, rank)) != NULL;) {
            tell(own, now_ns, KVS_FENCED, detail); /* its next session may enter again */
        }
        let_go(store, now_ns);
        return;
    }
    end_all(store, now_ns, KVS_BARRIER_BROKEN, detail);
}

void kvs_barriers_close(kvs_store *store, uint64_t now_ns)
{
    end_all(store, now_ns, KVS_STORE_DELETED, "");
    pthread_mutex_lock(&store->mutex);
    while (store->barriers != NULL) {
        kvs_barrier *next = store->barriers->next;
        free(store->barriers);
        store->barriers = next;
    }
    pthread_mutex_unlock(&store->mutex);
}

size_t kvs_barrier_list(kvs_store *store, size_t max, kvs_barrier_info *out)
{
    size_t count = 0;
    pthread_mutex_lock(&store->mutex);
    for (const kvs_barrier *barrier = store->barriers; barrier != NULL && count < max;
         barrier = barrier->next) {
        if (barrier->arrivals == NULL) {
            continue;
        }
        kvs_barrier_info *info = &out[count++];
        memset(info, 0, sizeof *info);
        memcpy(info->name, barrier->name, sizeof info->name);
        info->generation = barrier->generation;
        info->arrived = barrier->arrived;
        for (uint32_t rank = 0; rank < store->num_workers; rank++) {
            if (missing(store, barrier, rank)) {
                if (info->missing_count < 64) {
                    info->missing[info->missing_count] = rank;
                }
                info->missing_count++;
            }
        }
    }
    pthread_mutex_unlock(&store->mutex);
    return count;
}
