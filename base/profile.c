#include "base/profile.h"

#include "base/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const stage_names[KVS_STAGES] = {"receive", "decode",  "door",
                                                    "shard",   "backend", "ack"};

/* `ticket` is the span's number + 1, 0 while it is written. It is stored last with release and read
 * first and last: a place that was overwritten meanwhile shows two tickets. */
typedef struct span {
    _Atomic uint64_t ticket;
    _Atomic uint64_t begun_ns;
    _Atomic uint64_t took_ns;
    _Atomic uint64_t bytes;
    _Atomic uint64_t rank_parts; /* rank in the upper half */
    _Atomic uint64_t stage_thread;
} span;

struct kvs_profile_ring {
    _Atomic uint64_t next; /* number of the next span */
    _Atomic uint64_t from; /* what came before was forgotten */
    size_t mask;
    span spans[];
};

kvs_status kvs_profile_open(size_t spans, kvs_profile **out)
{
    KVS_CHECK(spans > 0 && (spans & (spans - 1)) == 0);
    kvs_profile *profile = calloc(1, sizeof *profile);
    if (profile == NULL) {
        return KVS_NO_MEMORY;
    }
    profile->ring = calloc(1, sizeof *profile->ring + spans * sizeof(span));
    if (profile->ring == NULL) {
        free(profile);
        return KVS_NO_MEMORY;
    }
    profile->ring->mask = spans - 1;
    *out = profile;
    return KVS_OK;
}

void kvs_profile_close(kvs_profile *profile)
{
    if (profile != NULL) {
        free(profile->ring);
        free(profile);
    }
}

void kvs_profile_switch(kvs_profile *profile, bool on)
{
    atomic_store_explicit(&profile->on, on, memory_order_relaxed);
}

void kvs_profile_clear(kvs_profile *profile)
{
    kvs_profile_ring *ring = profile->ring;
    atomic_store_explicit(&ring->from, atomic_load_explicit(&ring->next, memory_order_relaxed),
                          memory_order_relaxed);
}

void kvs_profile_span(kvs_profile *profile, kvs_stage stage, uint64_t begun_ns, uint64_t ended_ns,
                      uint32_t rank, uint32_t parts, uint64_t bytes)
{
    static _Thread_local uint32_t thread;
    kvs_profile_ring *ring = profile->ring;
    uint64_t number = atomic_fetch_add_explicit(&ring->next, 1, memory_order_relaxed);
    span *to = &ring->spans[number & ring->mask];
    if (thread == 0) {
        thread = (uint32_t)gettid();
    }
    /* Acquire: what follows is not written before it. */
    (void)atomic_exchange_explicit(&to->ticket, 0, memory_order_acq_rel);
    atomic_store_explicit(&to->begun_ns, begun_ns, memory_order_relaxed);
    atomic_store_explicit(&to->took_ns, ended_ns > begun_ns ? ended_ns - begun_ns : 0,
                          memory_order_relaxed);
    atomic_store_explicit(&to->bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&to->rank_parts, (uint64_t)rank << 32 | parts, memory_order_relaxed);
    atomic_store_explicit(&to->stage_thread, (uint64_t)stage << 32 | thread, memory_order_relaxed);
    atomic_store_explicit(&to->ticket, number + 1, memory_order_release);
}

void kvs_profile_record(kvs_profile *profile, kvs_stage stage, uint64_t begun_ns, uint32_t rank,
                        uint32_t parts, uint64_t bytes)
{
    kvs_profile_span(profile, stage, begun_ns, kvs_clock_now_ns(), rank, parts, bytes);
}

/* ------------------------------------------------------------------ printing */

/* Chrome's times are in microseconds. */
static void print_us(FILE *to, const char *name, uint64_t ns)
{
    (void)fprintf(to, "\"%s\": %" PRIu64 ".%03u", name, ns / 1000, (unsigned)(ns % 1000));
}

static bool print_span(span *from, uint64_t number, FILE *to, bool first)
{
    uint64_t ticket = atomic_load_explicit(&from->ticket, memory_order_acquire);
    /* Acquire: the second look at the ticket comes after them. */
    uint64_t begun_ns = atomic_load_explicit(&from->begun_ns, memory_order_acquire);
    uint64_t took_ns = atomic_load_explicit(&from->took_ns, memory_order_acquire);
    uint64_t bytes = atomic_load_explicit(&from->bytes, memory_order_acquire);
    uint64_t rank_parts = atomic_load_explicit(&from->rank_parts, memory_order_acquire);
    uint64_t stage_thread = atomic_load_explicit(&from->stage_thread, memory_order_acquire);
    if (ticket != number + 1 ||
        atomic_load_explicit(&from->ticket, memory_order_relaxed) != ticket ||
        stage_thread >> 32 >= KVS_STAGES) {
        return false;
    }
    uint32_t rank = (uint32_t)(rank_parts >> 32);
    (void)fprintf(to, "%s\n{\"name\": \"%s\", \"cat\": \"push\", \"ph\": \"X\", ", first ? "" : ",",
                  stage_names[stage_thread >> 32]);
    print_us(to, "ts", begun_ns);
    (void)fputs(", ", to);
    print_us(to, "dur", took_ns);
    (void)fprintf(to, ", \"pid\": %ld, \"tid\": %" PRIu32 ", \"args\": {", (long)getpid(),
                  (uint32_t)stage_thread);
    if (rank != KVS_PROFILE_NO_RANK) {
        (void)fprintf(to, "\"rank\": %" PRIu32 ", ", rank);
    }
    (void)fprintf(to, "\"parts\": %" PRIu32 ", \"bytes\": %" PRIu64 "}}", (uint32_t)rank_parts,
                  bytes);
    return true;
}

size_t kvs_profile_print(kvs_profile *profile, FILE *to)
{
    kvs_profile_ring *ring = profile->ring;
    uint64_t end = atomic_load_explicit(&ring->next, memory_order_relaxed);
    uint64_t begin = atomic_load_explicit(&ring->from, memory_order_relaxed);
    if (end - begin > ring->mask + 1) {
        begin = end - (ring->mask + 1);
    }
    size_t count = 0;
    (void)fputs("{\"displayTimeUnit\": \"ms\", \"traceEvents\": [", to);
    for (uint64_t number = begin; number < end; number++) {
        if (print_span(&ring->spans[number & ring->mask], number, to, count == 0)) {
            count++;
        }
    }
    (void)fputs("\n]}\n", to);
    return count;
}
