/* The tensors that a store's states are, with their names: the one place that knows both.
 *
 * Threads: any. Memory: a list owns its names; shapes are borrowed from the store's keys.
 */
#ifndef KVS_ENGINE_STATE_TENSORS_H
#define KVS_ENGINE_STATE_TENSORS_H

#include "base/safetensors.h"
#include "engine/capture.h"

/* What a tensor holds of its key: the tag's low byte. */
#define KVS_TENSOR_STEP 0u
#define KVS_TENSOR_VALUE 1u
#define KVS_TENSOR_MASTER 2u
#define KVS_TENSOR_STATE 3u /* and up: of each state */

typedef struct kvs_state_tensors {
    kvs_safetensor *list; /* by name; the tag is the key's place * 256 + what it holds */
    size_t count;
    char *names;
} kvs_state_tensors;

/* Those of a capture: values among them if it has them. A step is a scalar unless the capture has
 * parts of a key that differ. */
kvs_status kvs_state_tensors_make(const kvs_capture *capture,
                                  kvs_state_tensors *out) KVS_MUST_CHECK;
void kvs_state_tensors_deinit(kvs_state_tensors *tensors);

/* Where a byte of a tensor is. */
typedef struct kvs_state_place {
    uint64_t index; /* of the part, in its key */
    kvs_captured_part *part;
    uint64_t offset; /* in the part's buffer; of its step */
    uint64_t left;   /* so many bytes of the tensor, this one included, lie there */
} kvs_state_place;
/* Of byte `at`, one that the tensor has. Of a number of a row that several parts have elements of,
 * the place in the first of them. */
kvs_state_place kvs_state_tensors_place(const kvs_capture *capture, const kvs_safetensor *tensor,
                                        uint64_t at);
/* Its place in the captured part: the value's, master's or a state's buffer. Not for steps. */
kvs_buffer **kvs_state_tensors_buffer(kvs_captured_part *part, const kvs_safetensor *tensor);
kvs_key *kvs_state_tensors_key(const kvs_capture *capture, const kvs_safetensor *tensor);

#endif
