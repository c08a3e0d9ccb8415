/* A right to touch something, and the inbox of those who do not hold it, in one word.
 *
 * Whoever posts to an idle right takes it by one compare-and-swap and runs its tasks until the
 * inbox is empty; otherwise the task is left in the inbox and the holder runs it. So a shard or a
 * session needs no thread of its own and no lock.
 *
 * Threads: post from any. Tasks run one at a time, in the order in which they were posted.
 * Memory: a task is the poster's; it may be freed or posted again from within its own run.
 * Ordering: what happened before a post happens before the task's run (release on the push,
 *   acquire on the take), and one run happens before the next.
 */
#ifndef KVS_ENGINE_RIGHT_H
#define KVS_ENGINE_RIGHT_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct kvs_task {
    struct kvs_task *next;
    void (*run)(struct kvs_task *task, uint64_t now_ns);
} kvs_task;

typedef struct kvs_right kvs_right;

/* Instead of taking an idle right at once, hand it to whoever decides the order (the seeded
 * simulation), who calls kvs_right_run later. NULL in a server. */
typedef struct kvs_scheduler {
    void (*ready)(struct kvs_scheduler *scheduler, kvs_right *right);
} kvs_scheduler;

struct kvs_right {
    _Atomic(kvs_task *) inbox; /* NULL: idle; &kvs_right_held: held, empty; else newest first */
    _Atomic uint64_t now_ns;   /* the latest of its posts: a turn may outlast its first task's */
    kvs_scheduler *scheduler;
    void (*idle)(kvs_right *right, uint64_t now_ns); /* before letting go: the end of a turn */
};

void kvs_right_init(kvs_right *right, void (*idle)(kvs_right *right, uint64_t now_ns),
                    kvs_scheduler *scheduler);

void kvs_right_post(kvs_right *right, kvs_task *task, uint64_t now_ns);

/* Tasks linked by next from the oldest on, posted as one turn's work. */
typedef struct kvs_task_list {
    kvs_task *first;
    kvs_task *last;
} kvs_task_list;
void kvs_task_list_append(kvs_task_list *list, kvs_task *task);
void kvs_right_post_list(kvs_right *right, kvs_task_list *list, uint64_t now_ns);

/* For a scheduler: runs what the inbox of a ready right holds, and lets go. */
void kvs_right_run(kvs_right *right, uint64_t now_ns);

#endif
