/* A right with one thread: order, turns, time, and the scheduler's part. Threads: threads_test. */
#include "engine/right.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

typedef struct noted {
    kvs_task task;
    kvs_right *right;
    struct noted *posts; /* by its run; may be NULL */
    uint64_t posts_at;
    int number;
} noted;

static int order[16];
static uint64_t times[16];
static int runs, idles;
static kvs_task *posted_by_idle;

static void run(kvs_task *task, uint64_t now_ns)
{
    noted *n = (noted *)task;
    times[runs] = now_ns;
    order[runs++] = n->number;
    if (n->posts != NULL) {
        kvs_right_post(n->right, &n->posts->task, n->posts_at);
        assert_int_equal(order[runs - 1], n->number); /* not within our own run */
    }
}

static void idle(kvs_right *right, uint64_t now_ns)
{
    (void)now_ns;
    idles++;
    if (posted_by_idle != NULL) {
        kvs_task *task = posted_by_idle;
        posted_by_idle = NULL;
        kvs_right_post(right, task, 0);
    }
}

static int begin(void **state)
{
    (void)state;
    runs = idles = 0;
    posted_by_idle = NULL;
    return 0;
}

static void whoever_posts_to_an_idle_right_runs_the_task(void **state)
{
    kvs_right right;
    (void)state;
    kvs_right_init(&right, idle, NULL);
    noted a = {.task.run = run, .right = &right, .number = 1};
    kvs_right_post(&right, &a.task, 10);
    assert_int_equal(runs, 1);
    assert_int_equal(idles, 1);
    kvs_right_post(&right, &a.task, 11); /* a task may be used again */
    assert_int_equal(runs, 2);
    assert_int_equal(times[1], 11);
}

static void a_task_posted_by_a_task_runs_after_it_and_before_the_turn_ends(void **state)
{
    kvs_right right;
    (void)state;
    kvs_right_init(&right, idle, NULL);
    noted b = {.task.run = run, .right = &right, .number = 2};
    noted a = {.task.run = run, .right = &right, .number = 1, .posts = &b};
    kvs_right_post(&right, &a.task, 10);
    assert_int_equal(runs, 2);
    assert_int_equal(order[1], 2);
    assert_int_equal(idles, 1);
}

static void a_task_posted_by_the_end_of_a_turn_makes_another_turn(void **state)
{
    kvs_right right;
    (void)state;
    kvs_right_init(&right, idle, NULL);
    noted b = {.task.run = run, .right = &right, .number = 2};
    noted a = {.task.run = run, .right = &right, .number = 1};
    posted_by_idle = &b.task;
    kvs_right_post(&right, &a.task, 10);
    assert_int_equal(runs, 2);
    assert_int_equal(idles, 2);
}

static void a_list_runs_in_its_order(void **state)
{
    kvs_right right;
    kvs_task_list list = {NULL, NULL};
    noted n[5];
    (void)state;
    kvs_right_init(&right, NULL, NULL);
    for (int i = 0; i < 5; i++) {
        n[i] = (noted){.task.run = run, .right = &right, .number = i};
        kvs_task_list_append(&list, &n[i].task);
    }
    kvs_right_post_list(&right, &list, 1);
    assert_null(list.first);
    assert_int_equal(runs, 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(order[i], i);
    }
    kvs_right_post_list(&right, &list, 1); /* an empty one is nothing */
    assert_int_equal(runs, 5);
}

static void a_task_never_runs_before_the_time_of_its_post(void **state)
{
    kvs_right right;
    (void)state;
    kvs_right_init(&right, NULL, NULL);
    noted c = {.task.run = run, .right = &right, .number = 3};
    noted b = {.task.run = run, .right = &right, .number = 2, .posts = &c, .posts_at = 20};
    noted a = {.task.run = run, .right = &right, .number = 1, .posts = &b, .posts_at = 50};
    kvs_right_post(&right, &a.task, 10);
    assert_int_equal(times[0], 10);
    assert_int_equal(times[1], 50); /* the holder's own time has grown old */
    assert_int_equal(times[2], 50); /* and does not go back */
}

typedef struct noting_scheduler {
    kvs_scheduler scheduler;
    kvs_right *ready;
    int count;
} noting_scheduler;

static void ready(kvs_scheduler *scheduler, kvs_right *right)
{
    ((noting_scheduler *)scheduler)->ready = right;
    ((noting_scheduler *)scheduler)->count++;
}

static void a_scheduler_is_told_once_and_decides_when(void **state)
{
    noting_scheduler scheduler = {.scheduler.ready = ready};
    kvs_right right;
    (void)state;
    kvs_right_init(&right, idle, &scheduler.scheduler);
    noted a = {.task.run = run, .right = &right, .number = 1};
    noted b = {.task.run = run, .right = &right, .number = 2};
    kvs_right_post(&right, &a.task, 10);
    kvs_right_post(&right, &b.task, 11);
    assert_int_equal(runs, 0);
    assert_int_equal(scheduler.count, 1);
    assert_ptr_equal(scheduler.ready, &right);
    kvs_right_run(&right, 30);
    assert_int_equal(runs, 2);
    assert_int_equal(order[0], 1);
    assert_int_equal(times[1], 30);
    kvs_right_post(&right, &a.task, 31);
    assert_int_equal(scheduler.count, 2);
    kvs_right_run(&right, 31);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(whoever_posts_to_an_idle_right_runs_the_task, begin),
        cmocka_unit_test_setup(a_task_posted_by_a_task_runs_after_it_and_before_the_turn_ends,
                               begin),
        cmocka_unit_test_setup(a_task_posted_by_the_end_of_a_turn_makes_another_turn, begin),
        cmocka_unit_test_setup(a_list_runs_in_its_order, begin),
        cmocka_unit_test_setup(a_task_never_runs_before_the_time_of_its_post, begin),
        cmocka_unit_test_setup(a_scheduler_is_told_once_and_decides_when, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
