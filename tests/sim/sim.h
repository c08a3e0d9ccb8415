/* The seeded simulation: the real engine, with the order of its turns, its clock and its network
 * decided by one number.
 *
 * world.c   time, events, the order in which shards and sessions get their turns
 * plan.c    what a seed means: store, workers, faults
 * model.c   what is pushed, and what must come of it: single-threaded, a few lines
 * server.c  the service's part: streams, frames, replies
 * life.c    the engine and its store: opened, initialised, closed; what must have come back
 * worker.c  a worker's program; fate.c what happens to it
 * client.c  its protocol: window, credit, replay; answers.c what it makes of answers
 * admin.c   reads at cuts, assignments and rules under load
 * states.c  saves and loads of optimizer states under load
 * history.c what cuts of the whole store did, and at which versions
 * oracle.c  every answer against the model
 * backend_cpu.c, backend_cuda.c  what the engine computes on: a program has one of them
 *
 * Threads: one. The same seed gives the same run, to the last event.
 */
#ifndef KVS_TESTS_SIM_SIM_H
#define KVS_TESTS_SIM_SIM_H

#include "engine/backend.h"
#include "engine/engine.h"
#include "tests/unit/api/spans.h"

#define SIM_WORKERS_MAX 5u
#define SIM_KEYS_MAX 4u
#define SIM_PARTS_MAX 3u
#define SIM_ELEMENTS_MAX 32u
#define SIM_STREAMS_MAX 4096u
#define SIM_MS ((uint64_t)1000000)

typedef struct sim sim;

/* ------------------------------------------------------------------ plan.c */

#define SIM_STATES_ALONE 1u
#define SIM_STATES_AND_VALUES 2u

typedef struct sim_plan {
    kvs_kind kind;
    kvs_policy policy;
    uint32_t workers;
    uint32_t keys;
    uint32_t parts[SIM_KEYS_MAX];
    uint32_t elements[SIM_KEYS_MAX]; /* of the last part */
    uint32_t part_elements;
    uint32_t sparse; /* a bit a key: row_sparse, with rows of one element */
    uint32_t shards;
    uint32_t rounds; /* that each worker wants of every key */
    uint64_t inflight_parts;
    uint64_t credit_bytes;
    uint64_t lease_ns;
    uint64_t round_deadline_ns;
    uint64_t limit_ns; /* by then all must be over */
    uint64_t delay_ns; /* of a message, at most */
    bool optimizer;    /* false: the sum replaces the value */
    uint32_t norms;    /* bits: the rule needs norms, the one that it changes to does */
    uint32_t states;   /* the rule has states, which are saved and loaded: SIM_STATES_*; 0: not */
    bool lazy;         /* of a row_sparse key, the rule with states updates what was pushed */
    bool late_optimizer;
    bool chaos; /* workers die, stall and leave; else only streams break */
    bool ahead; /* workers push rounds that are not due yet */
    bool barriers, assigns, rule_changes, snapshots, reads, inits;
    bool deletes;                          /* the store, in the middle of it all */
    unsigned break_in, repeat_in, hold_in; /* one in so many; 0: never */
    unsigned starve_in;    /* one in so many requests for memory is refused; 0: none */
    uint64_t memory_bytes; /* bound of the engine; 0: none */
    unsigned turn_first;   /* of 100 steps, how many give a turn while an event is due */
} sim_plan;

void sim_plan_make(kvs_seed *seed, sim_plan *out);
void sim_plan_print(const sim_plan *plan);
uint32_t sim_plan_elements(const sim_plan *plan, uint32_t key, uint32_t part);
uint32_t sim_plan_key_elements(const sim_plan *plan, uint32_t key);
uint32_t sim_plan_key_of(const sim_plan *plan, const char *name, size_t bytes);
/* "k0": the name of a key. */
const char *sim_key_name(uint32_t key);

/* ------------------------------------------------------------------ world.c */

typedef void sim_function(sim *world, void *context, uint64_t number);

typedef struct sim_event {
    uint64_t at_ns;
    uint64_t order; /* among those of one moment */
    sim_function *run;
    void *context;
    uint64_t number;
} sim_event;

/* How often something happened, so that a run that shows nothing is seen. */
typedef struct sim_counts {
    uint64_t turns, events, pushes, pulls, acks, duplicates, refused_rounds, refused_credit;
    uint64_t refused_memory, refused_fenced, refused_rule, refused_deleted, breaks, resumes, deaths,
        stalls, leaves;
    uint64_t repeats, snapshots, cuts, assigns, mismatches, rules, barriers, out_of_order, frames;
    uint64_t saves, loads, refused_loads, histories;
    uint64_t versions, exact_versions;
} sim_counts;

typedef struct sim_client sim_client;
typedef struct sim_stream sim_stream;
typedef struct sim_oracle sim_oracle;
typedef struct sim_cut sim_cut;
typedef struct sim_admin sim_admin;

struct sim {
    kvs_scheduler scheduler; /* first */
    uint64_t number;         /* the seed */
    kvs_seed seed;
    sim_plan plan;
    uint64_t now_ns, limit_ns;
    sim_event *events; /* a heap */
    size_t event_count, event_room;
    uint64_t event_order;
    kvs_right **ready;
    size_t ready_count, ready_room;
    uint64_t trace; /* a hash of all that happened */

    kvs_backend *inner;
    kvs_backend backend;
    uint64_t memory_live, frames_live, waiters_live;
    uint32_t assigned, rule; /* how many assignments; which rule: 1 or 2; with states, to 4 */
    bool other_norms;        /* a late rule has been set once more, with other numbers */
    bool somebody_gone;
    kvs_engine *engine;
    kvs_store *store;
    bool deleted;

    sim_stream *streams;
    uint32_t stream_count;
    sim_client *clients;    /* SIM_WORKERS_MAX */
    kvs_session **sessions; /* every one that ever was: a reference each */
    size_t session_count, session_room;
    sim_oracle *oracle;
    sim_cut *cuts; /* of plans with states: in order */
    size_t cut_count, cut_room;
    sim_admin *admin;    /* of states.c */
    bool open;           /* the store and its keys are there */
    bool closing;        /* nothing new begins */
    uint32_t last_reads; /* at rest, of each key */
    bool failed;
    bool verbose;
    char reason[512];
    sim_counts *counts;
};

/* Runs one seed. False: the reason is printed. Adds to `counts`. The hash of the run to `trace`. */
bool sim_run(uint64_t number, bool verbose, sim_counts *counts, uint64_t *trace, char *reason,
             size_t reason_bytes);

void sim_at(sim *world, uint64_t at_ns, sim_function *run, void *context, uint64_t number);
void sim_after(sim *world, uint64_t delay_ns, sim_function *run, void *context, uint64_t number);
/* Until the world has failed, or nothing is to happen (closing), or `done` says so. */
void sim_loop(sim *world, bool (*done)(sim *world));
uint64_t sim_below(sim *world, uint64_t below);
bool sim_chance(sim *world, unsigned in); /* 0: never */
uint64_t sim_delay(sim *world);
void sim_trace(sim *world, uint64_t word);
/* Keeps the first reason: "rank order: ...". */
void sim_fail(sim *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_say(sim *world, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ------------------------------------------------------------------ model.c */

/* Where things are in a part's elements; the rest stay zero. */
typedef struct sim_layout {
    uint32_t count;  /* + rank: pushes of this rank that are in the value */
    uint32_t number; /* + rank: the sum of their numbers */
    uint32_t order;  /* three: terms whose sum depends on its order */
    uint32_t tag;    /* which part this is */
    uint32_t assign; /* the number of the assignment that it comes from */
    uint32_t used;
} sim_layout;
sim_layout sim_layout_of(const sim_plan *plan);

typedef struct sim_value {
    float of[SIM_ELEMENTS_MAX];
} sim_value;

void sim_initial(const sim_plan *plan, uint32_t key, uint32_t part, sim_value *out);
void sim_assigned(const sim_plan *plan, uint32_t key, uint32_t part, uint64_t id, sim_value *out);
/* What a rank pushes as the number-th time. */
void sim_pushed(const sim_plan *plan, uint32_t key, uint32_t part, uint32_t rank, uint64_t number,
                sim_value *out);
/* The same as rows of one element that are not zero, for a row_sparse key: in some order, one of
 * them in two halves. How many. */
#define SIM_ROWS_MAX (SIM_ELEMENTS_MAX + 1u)
typedef struct sim_rows {
    uint32_t count;
    uint32_t row[SIM_ROWS_MAX]; /* of the part */
    float of[SIM_ROWS_MAX];
} sim_rows;
void sim_pushed_rows(const sim_plan *plan, uint32_t key, uint32_t part, uint32_t rank,
                     uint64_t number, sim_rows *out);
bool sim_is_sparse(const sim_plan *plan, uint32_t key);
/* One round: value := rule(value, sum in rank order). numbers[rank] 0: the rank is not in it. */
void sim_round(const sim_plan *plan, uint32_t key, uint32_t part, const uint64_t *numbers,
               float rate, sim_value *value);
/* How many pushes of a rank are in the value, and the sum of their numbers. */
double sim_count_of(const sim_plan *plan, const sim_value *value, uint32_t rank);
double sim_numbers_of(const sim_plan *plan, const sim_value *value, uint32_t rank);

/* ------------------------------------------------------------------ life.c */

bool sim_life_open(sim *world);
/* The backend of the program, which has its own choices drawn from the seed. */
kvs_status sim_backend_open(uint64_t seed, kvs_backend **out, kvs_problem *problem) KVS_MUST_CHECK;
/* Before the workers go: nothing may be held for anybody. */
void sim_life_check_rest(sim *world);
void sim_life_close(sim *world); /* checks that everything has come back */
/* Gives the parts of all keys to an init, in any order. */
kvs_status sim_life_init_parts(sim *world, kvs_init *init, bool giver, kvs_problem *problem);
kvs_optimizer *sim_life_rule(sim *world, int rate);
/* Keeps a session until the end. */
void sim_life_keep(sim *world, kvs_session *session);

/* A waiter that is counted. `told` is called with it and may be NULL. */
typedef struct sim_waiter {
    kvs_waiter waiter; /* first */
    sim *world;
    void (*told)(struct sim_waiter *waiter, const kvs_problem *problem);
    void *context;
    uint64_t number;
    size_t cut; /* its place in the history */
    kvs_init *init;
    kvs_barrier_result barrier;
    kvs_snapshot snapshot;
    kvs_version version;
    kvs_version match;
    uint32_t key;
    kvs_rounds rounds;
    kvs_round_info infos[8];
} sim_waiter;
sim_waiter *sim_waiter_make(sim *world,
                            void (*told)(sim_waiter *waiter, const kvs_problem *problem),
                            void *context, uint64_t number);

/* ------------------------------------------------------------------ server.c */

typedef enum sim_stream_kind { SIM_PUSH, SIM_PUSH_TOO, SIM_PUSHPULL, SIM_PULL } sim_stream_kind;
#define SIM_STREAM_KINDS 4u

typedef struct sim_part_message {
    uint32_t key, part;
    uint64_t sequence, after, number;
    int32_t priority;
} sim_part_message;

typedef struct sim_pull_message {
    uint32_t key;
    uint64_t sequence, after, min_version;
    int32_t priority;
    bool snapshot;
} sim_pull_message;

/* After a turn: nothing may wait to be sent. */
void sim_server_check_turn(sim *world);
sim_stream *sim_stream_open(sim *world, sim_client *client, kvs_session *session,
                            sim_stream_kind kind);
/* Both ends: what is under way is lost. */
void sim_stream_break(sim_stream *stream);
void sim_stream_push(sim_stream *stream, uint32_t rank, const sim_part_message *parts,
                     size_t count);
void sim_stream_pull(sim_stream *stream, const sim_pull_message *keys, size_t count);
/* Room for SIM_STREAMS_MAX, side by side: the engine sorts by their addresses. */
sim_stream *sim_streams_make(void);
/* Every channel must have been let go of. */
void sim_streams_check(sim *world);

/* ------------------------------------------------------------------ client.c and worker.c */

typedef enum sim_op_kind { SIM_OP_PUSH, SIM_OP_PUSHPULL, SIM_OP_PULL } sim_op_kind;
typedef enum sim_op_state { SIM_QUEUED, SIM_SENT, SIM_OK, SIM_REFUSED } sim_op_state;

typedef struct sim_op {
    sim_op_kind kind;
    sim_op_state state;
    kvs_status status;
    uint32_t key, part;
    uint64_t number; /* of a push */
    int32_t priority;
    uint64_t sequence, after, min_version;
    uint64_t not_before_ns, sent_ns;
    bool snapshot;
    bool resent;              /* after a break: may be answered as a duplicate */
    uint32_t copies, answers; /* on this connection */
    uint32_t seen;            /* a bit a part: values that came */
    uint64_t versions[SIM_PARTS_MAX];
    double counts[SIM_PARTS_MAX]; /* own pushes that the values show */
    uint64_t own[SIM_PARTS_MAX];  /* own pushes of each part before it */
} sim_op;

typedef enum sim_life { SIM_AWAY, SIM_JOINING, SIM_RUNNING, SIM_FINISHED } sim_life;
typedef enum sim_step_kind {
    SIM_STEP_PUSH,
    SIM_STEP_PULL,
    SIM_STEP_SYNC,
    SIM_STEP_NAP,
    SIM_STEP_BARRIER
} sim_step_kind;
typedef struct sim_step {
    sim_step_kind kind;
    uint32_t key;
} sim_step;
#define SIM_STEPS_MAX 32u

struct sim_client {
    sim *world;
    uint32_t rank;
    sim_life life;
    uint64_t incarnation; /* grows with every death: older events mean nothing */
    uint64_t connection;  /* grows with every break */
    bool connected, stalled, resumed, wants_break;
    kvs_session *session;
    kvs_session_info info;
    sim_stream *streams[SIM_STREAM_KINDS];
    uint64_t window, credit_limit, credit_used;
    sim_op *ops; /* of this session: sequence 1 first */
    size_t op_count, op_room;
    uint64_t low;                                  /* the lowest that is not answered */
    uint64_t last[SIM_KEYS_MAX];                   /* sequence given to the key */
    uint64_t numbers[SIM_KEYS_MAX][SIM_PARTS_MAX]; /* pushes, over all incarnations */
    uint64_t own[SIM_KEYS_MAX][SIM_PARTS_MAX];     /* pushes of this session */
    uint64_t seen[SIM_KEYS_MAX][SIM_PARTS_MAX];    /* chaos: own pushes in values */
    sim_step steps[SIM_STEPS_MAX];
    uint32_t step, step_count, round;
    uint64_t sync_ns;  /* since when it waits */
    uint64_t barriers; /* entered */
    uint64_t polls;    /* plain reads on their way, in parts */
    bool in_barrier, pumping, napping, refused;
    bool snapshots; /* in this round */
};

void sim_clients_open(sim *world);
void sim_clients_close(sim *world);
bool sim_clients_finished(sim *world);
/* Says of what is not answered which is the first: why nothing goes on. */
void sim_clients_explain(sim *world, char *out, size_t bytes);

/* client.c: the protocol */
sim_op *sim_client_add(sim_client *client, sim_op_kind kind, uint32_t key, uint32_t part,
                       uint64_t after);
void sim_client_poll(sim_client *client); /* a plain read of every key */
void sim_client_transmit(sim_client *client);
void sim_client_connect(sim_client *client, kvs_session *session);
void sim_client_disconnect(sim_client *client);
void sim_client_forget(sim_client *client); /* the session is over: what is open stays unknown */
uint64_t sim_client_open_ops(const sim_client *client);
/* Called as the streams' messages arrive. */
void sim_client_acked(sim_client *client, uint64_t first, uint64_t last, bool duplicate);
void sim_client_refused(sim_client *client, uint64_t sequence, const kvs_problem *problem);
void sim_client_credited(sim_client *client, uint64_t bytes);
void sim_client_got(sim_client *client, uint64_t sequence, uint32_t key, uint32_t part,
                    uint64_t version, const sim_value *value);

/* worker.c: what it does, and what happens to it */
void sim_worker_pump(sim_client *client);
void sim_worker_refused(sim_client *client, const sim_op *op, kvs_status status);
void sim_worker_lost_session(sim_client *client, kvs_status status);
/* fate.c: joins after a while. */
void sim_worker_join(sim_client *client, uint64_t delay_ns);

/* ------------------------------------------------------------------ admin.c */

void sim_admin_open(sim *world);
/* Reads every key once at a cut: the last word. */
void sim_admin_read_all(sim *world);
void sim_admin_set_rule(sim *world, uint32_t rule);
/* What a control call may end with while workers die or the store goes. */
bool sim_admin_may_fail(const sim *world, kvs_status status);

/* ------------------------------------------------------------------ states.c */

void sim_states_open(sim *world);
/* At rest: one more save. */
void sim_states_save_last(sim *world);
void sim_states_close(sim *world);

/* ------------------------------------------------------------------ history.c */

typedef struct sim_part_states {
    uint64_t updates;
    sim_value momentum, value;
} sim_part_states;

/* What a file of states holds. */
typedef struct sim_states {
    uint32_t keys; /* all of the plan, or none: it was saved before they came */
    bool values;
    float tag; /* in the momentum of every part, where an assignment has its number */
    sim_part_states of[SIM_KEYS_MAX][SIM_PARTS_MAX];
} sim_states;

typedef enum sim_cut_kind { SIM_CUT_SAVE, SIM_CUT_LOAD, SIM_CUT_RULE, SIM_CUT_ASSIGN } sim_cut_kind;

struct sim_cut {
    sim_cut_kind kind;
    bool happened;                                    /* or is to */
    uint32_t rule;                                    /* rule: which; load: which it brings, or 0 */
    uint32_t key;                                     /* assign */
    uint64_t id;                                      /* assign */
    sim_states *states;                               /* save and load: its own */
    uint64_t least[SIM_KEYS_MAX], most[SIM_KEYS_MAX]; /* versions between which it acts */
};

/* The next cut, as it is asked for: its place. What is in it is the caller's to fill in. */
size_t sim_history_add(sim *world, sim_cut_kind kind);
/* It has acted in all parts. */
void sim_history_over(sim *world, size_t index);
void sim_history_check(sim *world);
void sim_history_free(sim *world);
/* Rules from 1 on: 2 is 1 with other numbers, 3 another, and 4 one of norms of values, in plans in
 * which the order of pushes is known. How many there are; the JSON of one. */
uint32_t sim_states_rules(const sim_plan *plan);
void sim_states_rule(const sim_plan *plan, uint32_t rule, char *out, size_t bytes);
/* Does the one keep the states of the other? */
bool sim_states_same_rule(uint32_t a, uint32_t b);

/* ------------------------------------------------------------------ oracle.c */

bool sim_oracle_open(sim *world);
void sim_oracle_free(sim *world);
void sim_oracle_value(sim *world, uint32_t key, uint32_t part, uint64_t version,
                      const sim_value *value);
void sim_oracle_assign(sim *world, uint32_t key, uint64_t version, uint64_t id);
void sim_oracle_pushed(sim *world, uint32_t rank, uint32_t key, uint32_t part, uint64_t number);
void sim_oracle_push_ended(sim *world, uint32_t rank, uint32_t key, uint32_t part, uint64_t number,
                           kvs_status status);
/* The answer to a pull, or to a pushpull, is complete. */
void sim_oracle_answered(sim *world, const sim_client *client, const sim_op *op);
/* A round was refused: may it be? */
void sim_oracle_round_failed(sim *world, const kvs_problem *problem);
/* A value that was seen, or NULL; the highest version of those. */
const sim_value *sim_oracle_seen(const sim *world, uint32_t key, uint32_t part, uint64_t version);
uint64_t sim_oracle_newest(const sim *world, uint32_t key, uint32_t part);
/* The end: everything that was seen, in order of versions, against the model. */
void sim_oracle_check(sim *world);

#endif
