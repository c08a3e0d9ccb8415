/* Optimizer states as a file: saved at one cut of the whole store, loaded whole or not at all.
 *
 * The file is a safetensors file (base/safetensors.h). A key k has the tensor k::step, how many
 * updates its optimizer has made (i64: a scalar, or one number a part where they differ), and
 * k::NAME for each state array of the rule, of the value's shape; with values also k itself.
 * docs/PROTOCOL.md has the names. Equal states give equal bytes.
 *
 * Threads: any, one at a time for one object.
 * Memory: a file borrows the bytes of the buffers that it captured until close. A load fills
 *   buffers as the file comes; nothing else of it is kept.
 * Errors: as said; a load that was refused has changed nothing.
 */
#ifndef KVS_ENGINE_STATES_H
#define KVS_ENGINE_STATES_H

#include "engine/engine.h"

/* ------------------------------------------------------------------ saving */

typedef struct kvs_capture kvs_capture;

/* Sets *out (the caller's, until done) to what all keys hold at a cut. KVS_OPTIMIZER_NOT_SET,
 * KVS_DEADLINE, KVS_NO_MEMORY */
void kvs_store_capture(kvs_store *store, bool values, kvs_capture **out, kvs_waiter *waiter,
                       uint64_t now_ns);
void kvs_capture_close(kvs_capture *capture); /* accepts NULL */

/* The file of a capture, which is taken if this succeeds. `dump_optimizer` writes the optimizer
 * into it as well. KVS_INVALID_FIELD when the name of a key reads like a state of another, or is
 * the format's own; KVS_TOO_LARGE: there are more tensors than a load reads; KVS_OVER_BUDGET. */
typedef struct kvs_states kvs_states;
kvs_status kvs_states_open(kvs_capture *capture, bool dump_optimizer, kvs_states **out,
                           kvs_problem *problem) KVS_MUST_CHECK;
uint64_t kvs_states_bytes(const kvs_states *states);
/* The bytes that lie together from `offset` (below kvs_states_bytes) on: at least one. */
kvs_span kvs_states_span(const kvs_states *states, uint64_t offset);
/* A hash of the whole file: each span's xxh64 is the next one's seed. */
uint64_t kvs_states_hash(const kvs_states *states);
void kvs_states_close(kvs_states *states); /* accepts NULL */

/* ------------------------------------------------------------------ loading */

typedef struct kvs_states_load kvs_states_load;
kvs_status kvs_states_load_open(kvs_store *store, kvs_states_load **out,
                                kvs_problem *problem) KVS_MUST_CHECK;
/* The file, piece by piece. KVS_STATES_MISMATCH as soon as its header has come: the problem says
 * how many misfits there are and names as many as it has room for. Others: KVS_INVALID_FRAME,
 * KVS_TOO_LARGE, KVS_OPTIMIZER_NOT_SET, KVS_OVER_BUDGET. After a failure only close. */
kvs_status kvs_states_load_append(kvs_states_load *load, const void *data, size_t bytes,
                                  kvs_problem *problem) KVS_MUST_CHECK;
/* All has come: takes effect at a cut of every key. A file that holds an optimizer sets it. */
void kvs_states_load_commit(kvs_states_load *load, kvs_waiter *waiter, uint64_t now_ns);

/* Which tensor does not fit and why, of the first KVS_STATES_MISFITS_MAX. */
#define KVS_STATES_MISFITS_MAX 100u
typedef struct kvs_states_misfit {
    char *tensor;
    char why[120];
} kvs_states_misfit;
size_t kvs_states_load_misfits(const kvs_states_load *load, const kvs_states_misfit **out);

typedef struct kvs_states_load_info {
    uint64_t bytes;      /* that have come */
    uint64_t file_bytes; /* 0 before the header has come */
    uint64_t tensors;
    bool sets_optimizer;
} kvs_states_load_info;
void kvs_states_load_describe(const kvs_states_load *load, kvs_states_load_info *out);
void kvs_states_load_close(kvs_states_load *load); /* accepts NULL; not while a commit waits */

#endif
