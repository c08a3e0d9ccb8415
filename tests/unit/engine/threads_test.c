/* Rights, pools and sessions with real threads: exact under TSan, since no gRPC is linked. What a
 * server does but for its doors, on the CPU and on the stand-in for a card. */
#include "base/check.h"
#include "base/log.h"
#include "engine/engine.h"
#include "tests/unit/engine/threads_backend.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WORKERS 4
#define KEYS 3
#define ELEMENTS 11
#define PART 4
#define PARTS ((ELEMENTS + PART - 1) / PART)

/* ------------------------------------------------------------------ a right alone */

typedef struct counted {
    kvs_task task;
    kvs_right *right;
    int *sum; /* not atomic: the right is what protects it */
} counted;

static void add_one(kvs_task *task, uint64_t now_ns)
{
    (void)now_ns;
    ++*((counted *)task)->sum;
}

static void *post_many(void *argument)
{
    counted *tasks = argument;
    for (int i = 0; i < 1000; i++) {
        kvs_right_post(tasks[i].right, &tasks[i].task, 0);
    }
    return NULL;
}

static void tasks_of_one_right_run_one_at_a_time(void **state)
{
    kvs_right right;
    int sum = 0;
    pthread_t threads[WORKERS];
    counted *tasks = calloc(WORKERS * 1000, sizeof *tasks);
    (void)state;
    assert_non_null(tasks);
    kvs_right_init(&right, NULL, NULL);
    for (int i = 0; i < WORKERS * 1000; i++) {
        tasks[i] = (counted){.task.run = add_one, .right = &right, .sum = &sum};
    }
    for (int t = 0; t < WORKERS; t++) {
        assert_int_equal(pthread_create(&threads[t], NULL, post_many, tasks + t * 1000), 0);
    }
    for (int t = 0; t < WORKERS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
    }
    assert_int_equal(sum, WORKERS * 1000);
    free(tasks);
}

/* ------------------------------------------------------------------ a store */

typedef struct worker {
    kvs_channel channel; /* first */
    kvs_store *store;
    kvs_session *session;
    bool rounds; /* of a synchronous store */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t answered; /* sequences acked */
    uint64_t refused;
    uint64_t values;
    float last[KEYS][ELEMENTS];
    uint64_t sequence;
    uint64_t after[KEYS];
} worker;

static void ack(kvs_channel *channel, uint64_t first, uint64_t last, bool duplicate)
{
    worker *w = (worker *)channel;
    (void)duplicate;
    pthread_mutex_lock(&w->mutex);
    w->answered += last - first + 1;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

static void refuse(kvs_channel *channel, uint64_t sequence, const char *key, size_t key_bytes,
                   const kvs_problem *problem)
{
    worker *w = (worker *)channel;
    (void)sequence;
    (void)key;
    (void)key_bytes;
    (void)problem;
    pthread_mutex_lock(&w->mutex);
    w->refused++;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

static void credit(kvs_channel *channel, uint64_t bytes)
{
    (void)channel;
    (void)bytes;
}

static void value(kvs_channel *channel, const kvs_value_part *part)
{
    worker *w = (worker *)channel;
    int key = part->header.key[0] - 'a';
    memcpy(&w->last[key][part->header.element_offset], part->data, part->header.payload_bytes);
    kvs_buffer_unref(part->buffer);
    channel->ahead_bytes -= part->header.payload_bytes < channel->ahead_bytes
                                ? part->header.payload_bytes
                                : channel->ahead_bytes;
    w->values++;
}

static void flush(kvs_channel *channel, uint64_t now_ns)
{
    (void)channel;
    (void)now_ns;
}

static void keep(kvs_channel *channel)
{
    (void)channel; /* outlives the engine */
}

static const kvs_channel_table table = {ack, refuse, credit, value, flush, keep, keep};

typedef struct step {
    kvs_task task;
    worker *w;
    kvs_frame frame;
    kvs_part_header headers[KEYS * PARTS];
    kvs_span span;
    float bytes[KEYS * ELEMENTS];
    kvs_pull_key pulls[KEYS];
    bool done;
} step;

static void consumed(kvs_frame *frame, uint64_t now_ns)
{
    step *s = (step *)((char *)frame - offsetof(step, frame));
    (void)now_ns;
    pthread_mutex_lock(&s->w->mutex);
    s->done = true;
    pthread_cond_signal(&s->w->changed);
    pthread_mutex_unlock(&s->w->mutex);
}

static void run_step(kvs_task *task, uint64_t now_ns)
{
    step *s = (step *)task;
    kvs_payload payload = {.spans = &s->span, .count = 1, .bytes = s->span.bytes};
    kvs_session_push(s->w->session, &s->w->channel, &s->frame, s->headers, KEYS * PARTS, &payload,
                     false, now_ns);
    kvs_session_pull(s->w->session, &s->w->channel, s->pulls, KEYS, now_ns);
}

static const char *const names[KEYS] = {"a", "b", "c"};

static void fill(step *s, worker *w)
{
    size_t n = 0;
    for (int k = 0; k < KEYS; k++) {
        for (uint64_t at = 0; at < ELEMENTS; at += PART) {
            uint64_t count = ELEMENTS - at < PART ? ELEMENTS - at : PART;
            s->headers[n++] = (kvs_part_header){.key = names[k],
                                                .key_bytes = 1,
                                                .dtype = KVS_F32,
                                                .element_offset = at,
                                                .element_count = count,
                                                .sequence = w->sequence++,
                                                .after = w->after[k],
                                                .payload_bytes = count * sizeof(float)};
        }
        w->after[k] = w->sequence - 1;
    }
    for (int i = 0; i < KEYS * ELEMENTS; i++) {
        s->bytes[i] = 1.0f;
    }
    s->span = (kvs_span){.data = (const uint8_t *)s->bytes, .bytes = sizeof s->bytes};
    s->frame.consumed = consumed;
    for (int k = 0; k < KEYS; k++) {
        s->pulls[k] = (kvs_pull_key){
            .key = names[k], .key_bytes = 1, .sequence = w->sequence++, .after = w->after[k]};
        w->after[k] = s->pulls[k].sequence;
    }
}

static void *work(void *argument)
{
    worker *w = argument;
    for (uint64_t round = 1; round <= threads_on.rounds; round++) {
        step *s = calloc(1, sizeof *s);
        KVS_CHECK(s != NULL);
        s->task.run = run_step;
        s->w = w;
        fill(s, w);
        kvs_session_post(w->session, &s->task, (uint64_t)round);
        pthread_mutex_lock(&w->mutex);
        while (!s->done || w->answered < w->sequence - 1) {
            pthread_cond_wait(&w->changed, &w->mutex);
        }
        pthread_mutex_unlock(&w->mutex);
        for (int i = 0; i < KEYS * ELEMENTS; i++) {
            /* w += what is pushed: a worker sees its own round, and in a synchronous store all of
             * it and no other, for nobody can be ahead. */
            float last = w->last[i / ELEMENTS][i % ELEMENTS];
            KVS_CHECK(w->rounds ? last == (float)(WORKERS * round) : last >= (float)round);
        }
        free(s);
    }
    return NULL;
}

typedef struct ended {
    kvs_waiter waiter;
    kvs_status status;
} ended;

static void told(kvs_waiter *waiter, const kvs_problem *problem)
{
    ((ended *)waiter)->status = problem->status;
}

static void init_keys(kvs_store *store)
{
    static const float zeros[ELEMENTS];
    kvs_problem problem;
    kvs_init *init = NULL;
    const uint8_t shape[1] = {ELEMENTS};
    KVS_CHECK(kvs_init_open(store, NULL, &init, &problem) == KVS_OK);
    for (int k = 0; k < KEYS; k++) {
        for (uint64_t at = 0; at < ELEMENTS; at += PART) {
            uint64_t count = ELEMENTS - at < PART ? ELEMENTS - at : PART;
            kvs_span span = {.data = (const uint8_t *)zeros, .bytes = count * sizeof(float)};
            kvs_payload payload = {.spans = &span, .count = 1, .bytes = span.bytes};
            kvs_part_header header = {.key = names[k],
                                      .key_bytes = 1,
                                      .dtype = KVS_F32,
                                      .has_shape = true,
                                      .shape = shape,
                                      .shape_bytes = 1,
                                      .element_offset = at,
                                      .element_count = count,
                                      .payload_bytes = span.bytes};
            KVS_CHECK(kvs_init_part(init, &header, &payload, &problem) == KVS_OK);
        }
    }
    ended end = {.waiter.done = told, .status = KVS_INTERNAL};
    kvs_init_commit(init, &end.waiter, 1);
    KVS_CHECK(end.status == KVS_OK);
    kvs_init_close(init);
}

static void set_rule(kvs_store *store, const char *text)
{
    kvs_problem problem;
    kvs_optimizer *optimizer = NULL;
    ended end = {.waiter.done = told, .status = KVS_INTERNAL};
    KVS_CHECK(kvs_optimizer_parse(text, strlen(text), &optimizer, &problem) == KVS_OK);
    kvs_store_set_optimizer(store, optimizer, &end.waiter, 1);
    kvs_optimizer_unref(optimizer);
    KVS_CHECK(end.status == KVS_OK);
}

static void run_workers(const char *type, const char *rule)
{
    kvs_problem problem;
    kvs_backend *backend = NULL;
    kvs_engine *engine = NULL;
    kvs_store *store = NULL;
    static worker workers[WORKERS];
    pthread_t threads[WORKERS];
    memset(workers, 0, sizeof workers);
    kvs_log_set_quiet(1);
    assert_int_equal(threads_on.open(&backend, &problem), KVS_OK);
    kvs_engine_options options = {
        .backend = backend, .shards = 3, .epoch = 1, .part_elements = PART};
    assert_int_equal(kvs_engine_open(&options, &engine), KVS_OK);
    kvs_store_options store_options = {.name = "", .type = type, .num_workers = WORKERS};
    assert_int_equal(kvs_store_create(engine, &store_options, &store, &problem), KVS_OK);
    init_keys(store);
    set_rule(store, rule);
    for (int i = 0; i < WORKERS; i++) {
        kvs_register request = {.type = type, .worker = "", .rank = -1};
        kvs_session_info info;
        workers[i].channel.table = &table;
        workers[i].sequence = 1;
        workers[i].rounds = strcmp(type, "dist_sync") == 0;
        pthread_mutex_init(&workers[i].mutex, NULL);
        pthread_cond_init(&workers[i].changed, NULL);
        assert_int_equal(
            kvs_session_register(store, &request, 1, &workers[i].session, &info, &problem), KVS_OK);
    }
    for (int i = 0; i < WORKERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 50; i++) {
        kvs_engine_tick(engine, (uint64_t)i);
    }
    for (int i = 0; i < WORKERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(workers[i].refused, 0);
        assert_int_equal(workers[i].values, threads_on.rounds * KEYS * PARTS);
    }
    for (int i = 0; i < WORKERS; i++) {
        kvs_session_unref(workers[i].session);
    }
    kvs_store_unref(store);
    kvs_engine_close(engine);
    backend->table->close(backend);
}

#define TEST "{\"name\": \"test\""
/* It never takes effect, but for the way that a rule with norms goes. */
#define CLIP ", \"clip_norm\": 1e30"

static void workers_on_threads_of_their_own_see_every_round(void **state)
{
    (void)state;
    run_workers("dist_sync", TEST "}");
}

static void so_they_do_by_a_rule_with_norms(void **state)
{
    (void)state;
    run_workers("dist_sync", TEST CLIP "}");
}

static void and_where_each_push_is_an_update(void **state)
{
    (void)state;
    run_workers("dist_async", TEST "}");
    run_workers("dist_async", TEST CLIP "}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_of_one_right_run_one_at_a_time),
        cmocka_unit_test(workers_on_threads_of_their_own_see_every_round),
        cmocka_unit_test(so_they_do_by_a_rule_with_norms),
        cmocka_unit_test(and_where_each_push_is_an_update),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
