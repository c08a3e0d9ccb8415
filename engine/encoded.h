/* Values for a puller who wants them in fewer bytes: encoded where they are computed, so that no
 * more than the encoding leaves a device.
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

/* One reference to what holds the encoding of `count` rows of the part, in `rows`, after the sync,
 * with room for so many bytes behind it. */
kvs_status kvs_encoded_take_rows(kvs_shard *shard, kvs_part *part, kvs_codec codec,
                                 kvs_buffer *rows, uint32_t count, size_t more,
                                 kvs_buffer **out) KVS_MUST_CHECK;
/* The same of the part's value, made once for its version. */
kvs_status kvs_encoded_take(kvs_shard *shard, kvs_part *part, kvs_codec codec,
                            kvs_buffer **out) KVS_MUST_CHECK;

/* The part has another version. */
void kvs_encoded_forget(kvs_shard *shard, kvs_part *part);

#endif
