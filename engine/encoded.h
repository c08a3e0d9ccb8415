/* Values for a puller who wants them in fewer bytes: encoded on the host, once a turn has computed.
 *
 * An encoding of a whole part stays with the part until its next version: whoever pulls that in the
 * same codec is given the same bytes. Rows are encoded for each pull.
 *
 * Threads: the holder of the part's shard.
 * Memory: encodings come from the shard's pool. What is kept goes with the part's next version.
 * Errors: KVS_NO_MEMORY, KVS_OVER_BUDGET change nothing.
 */
#ifndef KVS_ENGINE_ENCODED_H
#define KVS_ENGINE_ENCODED_H

#include "engine/shard.h"

/* What is sent to whoever wishes for `wanted`: values of other dtypes than f32 as they are. */
kvs_codec kvs_encoded_codec(const kvs_key *key, kvs_codec wanted);

/* Of a part, or of `rows` rows of it, in a codec of values. */
size_t kvs_encoded_bytes(const kvs_part *part, kvs_codec codec, bool of_rows, uint32_t rows);

/* Room for an encoding of so many bytes, which the host can write after the sync. */
kvs_status kvs_encoded_take(kvs_shard *shard, size_t bytes, kvs_buffer **out) KVS_MUST_CHECK;
/* After the sync: *value, whose reference goes, becomes its encoding. */
void kvs_encoded_write(const kvs_part *part, kvs_codec codec, bool of_rows, uint32_t rows,
                       kvs_buffer *encoded, kvs_buffer **value);

/* The whole part goes with the op's answer, as its value_codec. */
kvs_status kvs_encoded_capture(kvs_shard *shard, kvs_part *part, kvs_op *op) KVS_MUST_CHECK;
/* After the sync: encodes what the op has captured, or lets go of it if the op has failed. */
void kvs_encoded_finish(kvs_op *op);

/* The part has another version. */
void kvs_encoded_forget(kvs_shard *shard, kvs_part *part);

#endif
