/* An engine with workers whose answers are written down: for tests of the engine with no network.
 *
 * Threads: one. Everything runs inside the call that causes it.
 */
#ifndef KVS_TESTS_SUPPORT_ENGINE_FIXTURE_H
#define KVS_TESTS_SUPPORT_ENGINE_FIXTURE_H

#include "engine/engine.h"

#define FIXTURE_ANSWERS 4096
#define FIXTURE_FRAME_PARTS 80 /* that one push or pull has at most */

typedef struct fixture_answer {
    uint64_t sequence;
    kvs_status status;
    bool duplicate;
    char detail[256];
} fixture_answer;

/* One worker: a session with one channel. */
typedef struct fixture_worker {
    kvs_channel channel; /* first */
    struct fixture *fixture;
    kvs_session *session;
    kvs_session_info info;
    uint64_t sequence;
    fixture_answer answers[FIXTURE_ANSWERS];
    size_t answer_count;
    uint64_t ack_ranges;
    uint64_t credit_back;
    float value[1 << 16];    /* what pulls have brought, by element of the last key */
    uint64_t values;         /* parts */
    uint64_t rows;           /* of parts that came by rows */
    kvs_version version;     /* of the last part */
    uint64_t value_sequence; /* of the last part */
    bool counts_only;        /* value stays as it is, rows counts elements */
    bool whole;              /* its pushes are: kvs_frame.whole */
    bool slow;               /* values do not leave until fixture_sent */
    uint64_t unsent;         /* bytes of values that have not left */
    uint64_t bytes_pushed;   /* that this channel has sent */
    uint64_t bytes_pulled;   /* that have come to it */
    const uint8_t *data;     /* where the last part that came lay */
    uint64_t decoded_elements;
    uint64_t flushes;
    int references;
} fixture_worker;

typedef struct fixture {
    kvs_backend *backend;
    kvs_engine *engine;
    kvs_store *store;
    uint64_t now_ns;
    uint64_t part_elements;
    fixture_worker *workers[16];
    size_t worker_count;
    uint64_t frames_made, frames_done;
    kvs_scheduler scheduler; /* of a manual fixture */
    kvs_right *ready[256];
    size_t ready_count;
} fixture;

typedef struct fixture_options {
    const char *type;
    uint32_t num_workers;
    kvs_policy policy;
    uint64_t part_elements;
    uint64_t credit_bytes;
    uint64_t inflight_parts;
    uint64_t memory_bytes_max;
    uint32_t shards;
    bool manual;          /* nothing runs until fixture_run or fixture_run_all says so */
    kvs_backend *backend; /* NULL: a CPU backend of its own, closed with the fixture */
} fixture_options;

void fixture_open(fixture *f, const fixture_options *options);
void fixture_close(fixture *f);

/* Registers any rank (-1) or that one; fails the test when it is refused. */
fixture_worker *fixture_join(fixture *f, int64_t rank);

/* Another channel of a worker's session. */
fixture_worker *fixture_join_again(fixture_worker *worker);

void fixture_init(fixture *f, const char *key, const float *values, uint64_t elements);
void fixture_init_shape(fixture *f, const char *key, const float *values, const kvs_shape *shape);
/* A key "h" of two elements of bf16. */
void fixture_init_halves(fixture *f, const uint16_t *values);
void fixture_optimizer(fixture *f, const char *json);

/* Pushes all parts of a key in one frame; the sequence of the first. */
uint64_t fixture_push(fixture_worker *worker, const char *key, const float *values,
                      uint64_t elements, uint64_t after, bool want_values);
/* The same with sequences of the test's choice: to repeat or to leave gaps. */
void fixture_push_at(fixture_worker *worker, const char *key, const float *values,
                     uint64_t elements, uint64_t sequence, uint64_t after, bool want_values);
/* Only the parts from element `from` on, in the same way. */
void fixture_push_tail(fixture_worker *worker, const char *key, const float *values,
                       uint64_t elements, uint64_t from, uint64_t sequence, uint64_t after);
/* Parts with headers of the test's own; the payload is `bytes` of `data`. */
void fixture_push_parts(fixture_worker *worker, const kvs_part_header *headers, size_t count,
                        const void *data, size_t bytes, bool want_values);
uint64_t fixture_pull(fixture_worker *worker, const char *key, uint64_t after);
void fixture_pull_keys(fixture_worker *worker, const kvs_pull_key *keys, size_t count);
/* The reader has taken `bytes` of the values that a slow worker holds back. */
void fixture_sent(fixture_worker *worker, uint64_t bytes);
void fixture_close_channel(fixture_worker *worker);
void fixture_resume(fixture_worker *worker, uint64_t lowest_unacknowledged);

/* A control call that is waited for. */
typedef struct fixture_wait {
    kvs_waiter waiter; /* first */
    int calls;
    kvs_problem problem;
} fixture_wait;
/* Ready to be given to a call: its `done` counts and keeps the problem. */
void fixture_wait_begin(fixture_wait *wait, uint64_t deadline_ns);

/* A manual fixture: a turn of one right; of all, in the order in which they became ready. */
void fixture_run(fixture *f, kvs_right *right);
void fixture_run_all(fixture *f);

/* The answer to a sequence, or NULL while there is none. */
const fixture_answer *fixture_answer_of(const fixture_worker *worker, uint64_t sequence);

/* Its status; KVS_STATUS_COUNT while there is none. */
kvs_status fixture_status(const fixture_worker *worker, uint64_t sequence);

void fixture_tick(fixture *f, uint64_t by_ns);

#endif
