#include "engine/right.h"

#include "base/check.h"

#include <stddef.h>

/* Marks a held right with an empty inbox. Never run. */
static kvs_task held;

void kvs_right_init(kvs_right *right, void (*idle)(kvs_right *right, uint64_t now_ns),
                    kvs_scheduler *scheduler)
{
    atomic_init(&right->inbox, NULL);
    atomic_init(&right->now_ns, 0);
    right->idle = idle;
    right->scheduler = scheduler;
}

/* Runs the newest-first list `tasks` (ended by `held` or NULL) oldest first. */
static void run_list(kvs_task *tasks, uint64_t now_ns)
{
    kvs_task *oldest = NULL;
    while (tasks != NULL && tasks != &held) {
        kvs_task *next = tasks->next;
        tasks->next = oldest;
        oldest = tasks;
        tasks = next;
    }
    while (oldest != NULL) {
        kvs_task *next = oldest->next;
        oldest->run(oldest, now_ns);
        oldest = next;
    }
}

/* Empties the inbox, ends the turn and lets go, unless more has come meanwhile. */
static void drain(kvs_right *right, uint64_t now_ns)
{
    for (;;) {
        /* Acquire: the posters' writes to their tasks are seen. */
        kvs_task *tasks = atomic_exchange_explicit(&right->inbox, &held, memory_order_acq_rel);
        /* Under load a holder may not get away for long: its own time would grow old. */
        uint64_t latest = atomic_load_explicit(&right->now_ns, memory_order_relaxed);
        now_ns = latest > now_ns ? latest : now_ns;
        if (tasks != &held) {
            run_list(tasks, now_ns);
            continue;
        }
        if (right->idle != NULL) {
            right->idle(right, now_ns);
        }
        kvs_task *expected = &held;
        /* Release: the next holder sees all that this one did. */
        if (atomic_compare_exchange_strong_explicit(&right->inbox, &expected, NULL,
                                                    memory_order_release, memory_order_relaxed)) {
            return;
        }
    }
}

/* Pushes newest..oldest, which are linked by next, in front of the inbox. */
static void post(kvs_right *right, kvs_task *newest, kvs_task *oldest, uint64_t now_ns)
{
    /* Two posters may leave the earlier time of two: by as much as they race, and no more. */
    if (atomic_load_explicit(&right->now_ns, memory_order_relaxed) < now_ns) {
        atomic_store_explicit(&right->now_ns, now_ns, memory_order_relaxed);
    }
    kvs_task *head = atomic_load_explicit(&right->inbox, memory_order_relaxed);
    do {
        oldest->next = head;
        /* Release publishes the tasks; acquire takes the right over from its last holder. */
    } while (!atomic_compare_exchange_weak_explicit(&right->inbox, &head, newest,
                                                    memory_order_acq_rel, memory_order_relaxed));
    if (head != NULL) {
        return; /* held: the holder will see it before it lets go */
    }
    if (right->scheduler != NULL) {
        right->scheduler->ready(right->scheduler, right);
        return;
    }
    drain(right, now_ns);
}

void kvs_right_post(kvs_right *right, kvs_task *task, uint64_t now_ns)
{
    post(right, task, task, now_ns);
}

void kvs_task_list_append(kvs_task_list *list, kvs_task *task)
{
    task->next = NULL;
    if (list->first == NULL) {
        list->first = task;
    } else {
        list->last->next = task;
    }
    list->last = task;
}

void kvs_right_post_list(kvs_right *right, kvs_task_list *list, uint64_t now_ns)
{
    kvs_task *oldest = list->first;
    kvs_task *newest = NULL;
    for (kvs_task *task = oldest; task != NULL;) {
        kvs_task *next = task->next;
        task->next = newest;
        newest = task;
        task = next;
    }
    list->first = list->last = NULL;
    if (newest != NULL) {
        post(right, newest, oldest, now_ns);
    }
}

void kvs_right_run(kvs_right *right, uint64_t now_ns)
{
    KVS_CHECK(atomic_load_explicit(&right->inbox, memory_order_relaxed) != NULL);
    drain(right, now_ns);
}
