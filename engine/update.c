#include "engine/update.h"

#include "engine/shard.h"
#include "engine/store.h"

/* With multi_precision a part of f16 or bf16 has a master, which begins as its value. */
static kvs_status prepare_master(kvs_shard *shard, kvs_part *part)
{
    kvs_dtype dtype = part->key->dtype;
    bool wanted = part->binding != NULL && (dtype == KVS_F16 || dtype == KVS_BF16) &&
                  kvs_optimizer_multi_precision(part->binding->optimizer);
    if (wanted == (part->master != NULL)) {
        return KVS_OK;
    }
    kvs_batch_touch(&shard->batch, part); /* what is about to write the value does so first */
    if (!wanted) {
        kvs_batch_release(&shard->batch, part->master);
        part->master = NULL;
        return KVS_OK;
    }
    KVS_TRY(kvs_pool_take(shard->pool, kvs_part_state_bytes(part), &part->master));
    kvs_batch_widen(&shard->batch, part);
    return KVS_OK;
}

kvs_status kvs_update_prepare(kvs_shard *shard, kvs_part *part, bool accumulates)
{
    KVS_TRY(prepare_master(shard, part));
    uint32_t states = part->binding == NULL ? 0 : kvs_optimizer_states(part->binding->optimizer);
    for (uint32_t i = 0; i < states; i++) {
        if (part->states[i] == NULL) {
            size_t bytes = kvs_part_states_bytes(part, part->binding->optimizer);
            KVS_TRY(kvs_pool_take(shard->pool, bytes, &part->states[i]));
            kvs_batch_zero(&shard->batch, part->states[i]);
        }
    }
    if (accumulates && part->accumulator == NULL) {
        KVS_TRY(kvs_pool_take(shard->pool, kvs_part_bytes(part), &part->accumulator));
    }
    return KVS_OK;
}

/* A buffer that somebody reads (a state: a save) stays as it is: the update goes on with a copy. */
static kvs_status own(kvs_shard *shard, kvs_part *part, kvs_buffer **buffer, size_t bytes)
{
    kvs_buffer *old = *buffer;
    if (old == NULL || kvs_buffer_own(old)) {
        return KVS_OK;
    }
    KVS_TRY(kvs_pool_take(shard->pool, bytes, buffer));
    kvs_batch_copy_buffer(&shard->batch, part, *buffer, old, bytes);
    kvs_batch_release(&shard->batch, old);
    return KVS_OK;
}

static kvs_status own_states(kvs_shard *shard, kvs_part *part)
{
    for (int i = 0; i < KVS_RULE_STATES_MAX && part->states[i] != NULL; i++) {
        size_t bytes = kvs_part_states_bytes(part, part->binding->optimizer);
        KVS_TRY(own(shard, part, &part->states[i], bytes));
    }
    return own(shard, part, &part->master, kvs_part_state_bytes(part));
}

kvs_status kvs_update_own(kvs_shard *shard, kvs_part *part)
{
    KVS_TRY(own_states(shard, part));
    return own(shard, part, &part->value, kvs_part_bytes(part));
}

kvs_status kvs_update_take_states(kvs_shard *shard, kvs_part *part)
{
    KVS_TRY(kvs_update_prepare(shard, part, false));
    return own_states(shard, part);
}

kvs_status kvs_update_apply(kvs_shard *shard, kvs_part *part, const kvs_buffer *accumulator,
                            const kvs_source *last)
{
    kvs_buffer *target = part->value;
    KVS_TRY(own_states(shard, part));
    if (!kvs_buffer_own(target)) {
        KVS_TRY(kvs_pool_take(shard->pool, kvs_part_bytes(part), &target));
    }
    part->updates++;
    kvs_batch_apply(&shard->batch, part, target, accumulator, last);
    if (target != part->value) {
        kvs_batch_release(&shard->batch, part->value);
        part->value = target;
    }
    return KVS_OK;
}

void kvs_update_replace(kvs_shard *shard, kvs_part *part)
{
    kvs_buffer *old = part->value;
    part->value = part->accumulator;
    part->accumulator = NULL;
    if (kvs_buffer_own(old)) {
        part->accumulator = old;
    } else {
        kvs_batch_release(&shard->batch, old);
    }
}
