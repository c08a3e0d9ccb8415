/* What a data stream is to tell its peer, gathered over a turn into few messages.
 *
 * Acks and credit add up while an earlier message is still on its way; values fill frames, whose
 * payload is borrowed from the version's own bytes, or that name the place where a peer on this
 * machine reads them: such a version is held until the peer releases it. Order of a pump: credit,
 * values, acks, so that a value is always seen before its ack.
 *
 * Threads: the holder of the stream's session. Memory: owns the buffers of values that wait.
 * Errors: without memory `failed` is set; the stream is then to be finished.
 */
#ifndef KVS_SERVICE_REPLIES_H
#define KVS_SERVICE_REPLIES_H

#include "api/codec.h"
#include "engine/engine.h"
#include "service/regions.h"
#include "service/rpc.h"

typedef struct kvs_replies {
    kvs_call *call;
    uint64_t credit_bytes;
    kvs_ack_range *acks;
    size_t ack_count, ack_max;
    kvs_value_part *values;
    size_t value_count, value_max;
    kvs_part_header *headers; /* of the frame that is being written */
    size_t header_max;
    kvs_head head, small;
    bool shares;            /* values may be answered by their place */
    struct kvs_hold *holds; /* what the peer reads where it lies, by number */
    size_t hold_count, hold_max;
    uint64_t last_hold;
    bool failed;
} kvs_replies;

void kvs_replies_deinit(kvs_replies *replies);

void kvs_replies_ack(kvs_replies *replies, uint64_t first, uint64_t last, bool duplicate);
void kvs_replies_refuse(kvs_replies *replies, uint64_t sequence, const char *key, size_t key_bytes,
                        const kvs_problem *problem);
void kvs_replies_credit(kvs_replies *replies, uint64_t bytes);
void kvs_replies_value(kvs_replies *replies, const kvs_value_part *part);

/* Sends all that waits, unless two messages are still under way: then more may gather. */
void kvs_replies_pump(kvs_replies *replies);

/* From here on values may be answered by their place, or not; and the peer needs holds up to that
 * number no more. */
void kvs_replies_share(kvs_replies *replies, bool shares, uint64_t release);

/* Nothing waits here (though perhaps in the call). */
bool kvs_replies_empty(const kvs_replies *replies);

/* The peer reads so slowly that nothing more should be taken from it for now. */
bool kvs_replies_full(const kvs_replies *replies);

/* The stream is gone: lets go of what waits. */
void kvs_replies_drop(kvs_replies *replies);

#endif
