#include "engine/encoded.h"

#include "engine/codec.h"
#include "engine/key.h"

kvs_codec kvs_encoded_codec(const kvs_key *key, kvs_codec wanted)
{
    return key->dtype == KVS_F32 && kvs_codec_of_values(wanted) ? wanted : KVS_CODEC_NONE;
}

/* Runs of the encoding, and the elements of each. */
static uint64_t runs_of(const kvs_part *part, bool of_rows, uint32_t rows, uint64_t *elements)
{
    *elements = of_rows ? part->key->row_elements : part->elements;
    return of_rows ? rows : 1;
}

size_t kvs_encoded_bytes(const kvs_part *part, kvs_codec codec, bool of_rows, uint32_t rows)
{
    uint64_t elements;
    uint64_t runs = runs_of(part, of_rows, rows, &elements);
    return (size_t)kvs_codec_value_bytes(codec, runs, elements);
}

static kvs_status encode(kvs_shard *shard, kvs_part *part, kvs_buffer *source,
                         const kvs_encode_item *how, size_t more, kvs_buffer **out)
{
    size_t bytes = (size_t)kvs_codec_value_bytes(how->codec, how->runs, how->elements);
    kvs_buffer *encoded = NULL;
    KVS_TRY(kvs_pool_take(shard->pool, bytes + more, &encoded));
    kvs_batch_encode(&shard->batch, part, encoded, source, how);
    kvs_status status = kvs_batch_download(&shard->batch, encoded);
    if (status != KVS_OK) {
        kvs_batch_release(&shard->batch, encoded);
        return status;
    }
    *out = encoded;
    return KVS_OK;
}

kvs_status kvs_encoded_take_rows(kvs_shard *shard, kvs_part *part, kvs_codec codec,
                                 kvs_buffer *rows, uint32_t count, size_t more, kvs_buffer **out)
{
    kvs_encode_item how = {.codec = codec};
    how.runs = runs_of(part, true, count, &how.elements);
    return encode(shard, part, rows, &how, more, out);
}

kvs_status kvs_encoded_take(kvs_shard *shard, kvs_part *part, kvs_codec codec, kvs_buffer **out)
{
    uint64_t version = atomic_load_explicit(&part->version, memory_order_relaxed);
    if (part->encoded == NULL || part->encoded_codec != codec || part->encoded_version != version) {
        kvs_encode_item how = {.codec = codec};
        kvs_buffer *encoded = NULL;
        how.runs = runs_of(part, false, 0, &how.elements);
        KVS_TRY(encode(shard, part, part->value, &how, 0, &encoded));
        kvs_encoded_forget(shard, part);
        part->encoded = encoded;
        part->encoded_codec = codec;
        part->encoded_version = version;
    }
    *out = kvs_buffer_take(part->encoded); /* perhaps not written before the end of this turn */
    return KVS_OK;
}

void kvs_encoded_forget(kvs_shard *shard, kvs_part *part)
{
    kvs_batch_release(&shard->batch, part->encoded);
    part->encoded = NULL;
}
