/* Where the time of pushes goes: spans of the stages of their way, in a ring that keeps the newest.
 *
 *     uint64_t begun_ns = kvs_profile_begin(profile);
 *     ...
 *     kvs_profile_end(profile, KVS_STAGE_DOOR, begun_ns, rank, parts, bytes);
 *
 * Off, a stage costs one load and one branch; no clock is read. A NULL profile is always off.
 *
 * Threads: any. Each span is written to a place of its own; a place that is overwritten while it
 *   is printed is left out. Memory: of the ring at open; touched only once it is on.
 */
#ifndef KVS_BASE_PROFILE_H
#define KVS_BASE_PROFILE_H

#include "base/clock.h"
#include "base/status.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

/* As docs/ARCHITECTURE.md walks them. Stages lie in each other: what finds everything idle is one
 * call stack. */
typedef enum kvs_stage {
    KVS_STAGE_RECEIVE, /* from the core's event to its method */
    KVS_STAGE_DECODE,
    KVS_STAGE_DOOR,    /* the session's turn with a frame */
    KVS_STAGE_SHARD,   /* a turn of a shard */
    KVS_STAGE_BACKEND, /* what it launches and waits for */
    KVS_STAGE_ACK,     /* credit, values and acks on their way out */
    KVS_STAGES
} kvs_stage;

typedef struct kvs_profile_ring kvs_profile_ring;

typedef struct kvs_profile {
    _Atomic bool on;
    kvs_profile_ring *ring;
} kvs_profile;

/* For the last `spans` spans: a power of two. */
kvs_status kvs_profile_open(size_t spans, kvs_profile **out) KVS_MUST_CHECK;
void kvs_profile_close(kvs_profile *profile); /* after its last user; accepts NULL */

void kvs_profile_switch(kvs_profile *profile, bool on);
/* Forgets what was recorded. */
void kvs_profile_clear(kvs_profile *profile);

/* The time, or 0: it is off. */
static inline uint64_t kvs_profile_begin(kvs_profile *profile)
{
    return profile != NULL && atomic_load_explicit(&profile->on, memory_order_relaxed)
               ? kvs_clock_now_ns()
               : 0;
}

/* Records a span from begun_ns until ended_ns; until now. */
void kvs_profile_span(kvs_profile *profile, kvs_stage stage, uint64_t begun_ns, uint64_t ended_ns,
                      uint32_t rank, uint32_t parts, uint64_t bytes);
void kvs_profile_record(kvs_profile *profile, kvs_stage stage, uint64_t begun_ns, uint32_t rank,
                        uint32_t parts, uint64_t bytes);
static inline void kvs_profile_end(kvs_profile *profile, kvs_stage stage, uint64_t begun_ns,
                                   uint32_t rank, uint32_t parts, uint64_t bytes)
{
    if (begun_ns != 0) {
        kvs_profile_record(profile, stage, begun_ns, rank, parts, bytes);
    }
}

/* A span that belongs to no single rank. */
#define KVS_PROFILE_NO_RANK UINT32_MAX

/* Writes the ring in the JSON form of Chrome's trace events, oldest first; how many spans. An error
 * stays in the FILE. */
size_t kvs_profile_print(kvs_profile *profile, FILE *to);

#endif
