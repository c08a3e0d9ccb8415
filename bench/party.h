/* A process that works on command: a worker, or one end of a stream.
 *
 * Each has its own memory and threads, as in real use, and is forked before anything of gRPC has
 * started. The one who started it sends orders and gets one answer to each.
 *
 * Threads: one. Memory: start allocates nothing that outlives stop.
 * Errors: false, with a sentence in the answer or on stderr.
 */
#ifndef KVS_BENCH_PARTY_H
#define KVS_BENCH_PARTY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum kvs_bench_verb {
    KVS_BENCH_PUSH, /* the tensor, `repeats` times */
    KVS_BENCH_PULL,
    KVS_BENCH_PUSHPULL,
    KVS_BENCH_PUSH_COPIED,  /* as push, of memory that may change once the call has returned */
    KVS_BENCH_SMALL_LIST,   /* all small keys in one call */
    KVS_BENCH_SMALL_QUEUED, /* a call for each small key, one wait */
    KVS_BENCH_SMALL_ALONE   /* a call and a wait for each small key */
} kvs_bench_verb;

/* What is measured with. */
typedef struct kvs_bench_sizes {
    uint64_t tensor_bytes;
    uint64_t message_bytes; /* of the bare stream */
    uint32_t small_keys;
    uint64_t small_bytes;   /* of each */
    uint32_t repeats;       /* of the tensor, in one measurement */
    uint32_t small_repeats; /* of all small keys */
    uint32_t alone_operations;
} kvs_bench_sizes;

typedef struct kvs_bench_order {
    kvs_bench_verb verb;
    kvs_bench_sizes sizes;
} kvs_bench_order;

typedef struct kvs_bench_answer {
    bool good;
    double start, end; /* seconds of the monotonic clock, one for all processes */
    double cpu;        /* seconds of this process between them */
    uint64_t bytes;    /* of tensors, each counted once */
    uint64_t operations;
    double median_us; /* of one operation, where each was waited for; else 0 */
    char error[256];
} kvs_bench_answer;

/* Carries out orders in the process. `context` is what open gave. */
typedef struct kvs_bench_role {
    void *(*open)(const void *argument, char *error, uint32_t error_bytes); /* NULL: failed */
    void (*run)(void *context, const kvs_bench_order *order, kvs_bench_answer *answer);
    void (*close)(void *context);
} kvs_bench_role;

typedef struct kvs_bench_party {
    pid_t process;
    int socket;
} kvs_bench_party;

/* Returns at once; `open` runs in the process, and its success is the first answer. */
bool kvs_bench_party_start(const kvs_bench_role *role, const void *argument, kvs_bench_party *out);
bool kvs_bench_party_ready(kvs_bench_party *party);
bool kvs_bench_party_order(kvs_bench_party *party, const kvs_bench_order *order);
bool kvs_bench_party_answer(kvs_bench_party *party, kvs_bench_answer *out);
void kvs_bench_party_stop(kvs_bench_party *party);

double kvs_bench_clock(void);
/* Seconds of processor time that a process has used; 0 is this one. */
double kvs_bench_cpu(pid_t process);

#endif
