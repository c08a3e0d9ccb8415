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

kvs_status kvs_encoded_take(kvs_shard *shard, size_t bytes, kvs_buffer **out)
{
    kvs_buffer *taken = NULL;
    KVS_TRY(kvs_pool_take(shard->pool, bytes, &taken));
    /* A device's buffer has no host memory before. */
    kvs_status status = kvs_batch_download(&shard->batch, taken);
    if (status != KVS_OK) {
        kvs_batch_release(&shard->batch, taken);
        return status;
    }
    *out = taken;
    return KVS_OK;
}

void kvs_encoded_write(const kvs_part *part, kvs_codec codec, bool of_rows, uint32_t rows,
                       kvs_buffer *encoded, kvs_buffer **value)
{
    uint64_t elements;
    uint64_t runs = runs_of(part, of_rows, rows, &elements);
    kvs_codec_write_value(codec, (const float *)(*value)->memory.host, runs, elements,
                          (uint8_t *)encoded->memory.host);
    kvs_buffer_unref(*value);
    *value = encoded;
}

kvs_status kvs_encoded_capture(kvs_shard *shard, kvs_part *part, kvs_op *op)
{
    uint64_t version = atomic_load_explicit(&part->version, memory_order_relaxed);
    if (part->encoded != NULL && part->encoded_codec == op->value_codec &&
        part->encoded_version == version) {
        op->value =
            kvs_buffer_take(part->encoded); /* written at the end of this turn at the latest,
                                               for an op that is answered before this one */
        return KVS_OK;
    }
    KVS_TRY(
        kvs_encoded_take(shard, kvs_encoded_bytes(part, op->value_codec, false, 0), &op->encoded));
    kvs_status status = kvs_batch_download(&shard->batch, part->value);
    if (status != KVS_OK) {
        kvs_batch_release(&shard->batch, op->encoded);
        op->encoded = NULL;
        return status;
    }
    op->value = kvs_buffer_take(part->value);
    kvs_encoded_forget(shard, part);
    part->encoded = kvs_buffer_take(op->encoded);
    part->encoded_codec = op->value_codec;
    part->encoded_version = version;
    return KVS_OK;
}

void kvs_encoded_finish(kvs_op *op)
{
    if (op->encoded == NULL) {
        return;
    }
    if (op->status == KVS_OK && op->value != NULL) {
        kvs_encoded_write(op->part, op->value_codec, op->of_rows, op->row_count, op->encoded,
                          &op->value);
    } else {
        kvs_buffer_unref(op->encoded);
    }
    op->encoded = NULL;
}

void kvs_encoded_forget(kvs_shard *shard, kvs_part *part)
{
    kvs_batch_release(&shard->batch, part->encoded);
    part->encoded = NULL;
}
