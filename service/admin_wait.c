#include "service/admin_wait.h"

#include "base/check.h"
#include "base/clock.h"
#include "service/admin_methods.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

/* The engine ends an operation at its deadline at the latest, at the next tick after it. Only when
 * nobody ticks any more does a caller give up by itself. */
#define GRACE_NS (5 * KVS_SECOND)
/* How often a caller is asked whether it is still there. */
#define LOOK_NS (200 * KVS_MS)

kvs_status kvs_waits_init(kvs_waits *waits)
{
    pthread_condattr_t attributes;
    waits->stopping = false;
    waits->first = NULL;
    if (pthread_condattr_init(&attributes) != 0) {
        return KVS_NO_MEMORY;
    }
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int error = pthread_cond_init(&waits->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    if (error != 0) {
        return KVS_NO_MEMORY;
    }
    if (pthread_mutex_init(&waits->mutex, NULL) != 0) {
        (void)pthread_cond_destroy(&waits->changed);
        return KVS_NO_MEMORY;
    }
    return KVS_OK;
}

void kvs_waits_deinit(kvs_waits *waits)
{
    KVS_CHECK(waits->first == NULL);
    (void)pthread_cond_destroy(&waits->changed);
    (void)pthread_mutex_destroy(&waits->mutex);
}

void kvs_waits_stop(kvs_waits *waits)
{
    (void)pthread_mutex_lock(&waits->mutex);
    waits->stopping = true;
    (void)pthread_cond_broadcast(&waits->changed);
    (void)pthread_mutex_unlock(&waits->mutex);
}

bool kvs_waits_stopping(kvs_waits *waits)
{
    (void)pthread_mutex_lock(&waits->mutex);
    bool stopping = waits->stopping;
    (void)pthread_mutex_unlock(&waits->mutex);
    return stopping;
}

kvs_store *kvs_waits_left(kvs_waits *waits)
{
    (void)pthread_mutex_lock(&waits->mutex);
    kvs_store *store = waits->first != NULL ? kvs_store_take(waits->first->store) : NULL;
    (void)pthread_mutex_unlock(&waits->mutex);
    return store;
}

/* Lets go of one hold. The last one frees the wait, outside of the mutex. */
static void let_go(kvs_wait *wait)
{
    kvs_waits *waits = &wait->admin->waits;
    (void)pthread_mutex_lock(&waits->mutex);
    bool last = --wait->holders == 0;
    if (last) {
        if (wait->previous != NULL) {
            wait->previous->next = wait->next;
        } else {
            waits->first = wait->next;
        }
        if (wait->next != NULL) {
            wait->next->previous = wait->previous;
        }
    }
    (void)pthread_mutex_unlock(&waits->mutex);
    if (last) {
        if (wait->release != NULL) {
            wait->release(wait);
        }
        kvs_store_unref(wait->store);
        free(wait);
    }
}

/* The engine's answer, from whichever thread holds something at that moment. */
static void answered(kvs_waiter *waiter, const kvs_problem *problem)
{
    kvs_wait *wait = (kvs_wait *)waiter;
    kvs_waits *waits = &wait->admin->waits;
    (void)pthread_mutex_lock(&waits->mutex);
    if (problem != NULL) {
        wait->problem = *problem;
    }
    wait->ended = true;
    (void)pthread_cond_broadcast(&waits->changed);
    (void)pthread_mutex_unlock(&waits->mutex);
    let_go(wait);
}

kvs_status kvs_wait_open(kvs_admin *admin, kvs_store *store, size_t bytes, uint64_t deadline_ns,
                         kvs_wait **out, kvs_problem *problem)
{
    KVS_CHECK(bytes >= sizeof(kvs_wait));
    kvs_waits *waits = &admin->waits;
    kvs_wait *wait = calloc(1, bytes);
    if (wait == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for the operation");
    }
    wait->waiter.deadline_ns = deadline_ns;
    wait->waiter.done = answered;
    wait->admin = admin;
    wait->store = kvs_store_take(store);
    wait->holders = 1;
    (void)pthread_mutex_lock(&waits->mutex);
    wait->next = waits->first;
    if (wait->next != NULL) {
        wait->next->previous = wait;
    }
    waits->first = wait;
    (void)pthread_mutex_unlock(&waits->mutex);
    *out = wait;
    return KVS_OK;
}

kvs_waiter *kvs_wait_begin(kvs_wait *wait)
{
    kvs_waits *waits = &wait->admin->waits;
    (void)pthread_mutex_lock(&waits->mutex);
    wait->holders++;
    (void)pthread_mutex_unlock(&waits->mutex);
    return &wait->waiter;
}

/* Mutex. Waits until it has ended, all shall, or `until_ns`. */
static void sleep_until(kvs_wait *wait, uint64_t until_ns)
{
    kvs_waits *waits = &wait->admin->waits;
    struct timespec until = {
        .tv_sec = (time_t)(until_ns / KVS_SECOND),
        .tv_nsec = (long)(until_ns % KVS_SECOND),
    };
    int error = 0;
    while (!wait->ended && !waits->stopping && error != ETIMEDOUT) {
        error = pthread_cond_timedwait(&waits->changed, &waits->mutex, &until);
    }
}

kvs_status kvs_wait_for_caller(kvs_wait *wait, const kvs_caller *caller, kvs_problem *problem)
{
    kvs_waits *waits = &wait->admin->waits;
    uint64_t end_ns = wait->waiter.deadline_ns + GRACE_NS;
    bool gone = false;
    kvs_status status;
    (void)pthread_mutex_lock(&waits->mutex);
    for (uint64_t now_ns = kvs_clock_now_ns();
         !wait->ended && !waits->stopping && !gone && now_ns < end_ns;
         now_ns = kvs_clock_now_ns()) {
        bool asks = caller != NULL && caller->gone != NULL;
        uint64_t look_ns = now_ns + LOOK_NS;
        sleep_until(wait, asks && look_ns < end_ns ? look_ns : end_ns);
        if (asks && !wait->ended) {
            (void)pthread_mutex_unlock(&waits->mutex);
            gone = caller->gone(caller->context);
            (void)pthread_mutex_lock(&waits->mutex);
        }
    }
    if (wait->ended) {
        status = wait->problem.status;
        if (status != KVS_OK && problem != NULL) {
            *problem = wait->problem;
        }
    } else if (waits->stopping) {
        status = kvs_problem_set(problem, KVS_STOPPING, "the operation was given up");
    } else if (gone) {
        status = kvs_problem_set(problem, KVS_CANCELLED, "nobody waits for the operation");
    } else {
        status = kvs_problem_set(problem, KVS_DEADLINE, "the operation has not ended in time");
    }
    (void)pthread_mutex_unlock(&waits->mutex);
    return status;
}

kvs_status kvs_wait_for(kvs_wait *wait, kvs_problem *problem)
{
    return kvs_wait_for_caller(wait, NULL, problem);
}

void kvs_wait_close(kvs_wait *wait)
{
    if (wait != NULL) {
        let_go(wait);
    }
}
