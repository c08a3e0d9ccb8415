#include "client/dist_state.h"

/* The parts into which the key is cut, as far as it is known. */
static uint64_t part_elements_of(kvs_dist *dist, const kvs_group *group)
{
    kvs_dist_lock(dist);
    const kvs_client_key *key = kvs_client_keys_find(&dist->keys, group->name, group->name_bytes);
    uint64_t elements =
        key != NULL && key->part_elements != 0 ? key->part_elements : dist->limits.part_elements;
    kvs_dist_unlock(dist);
    return elements;
}

/* Device values are added first: the worker has one residual a key. */
static kvs_status encode_item(kvs_dist *dist, const kvs_group *group, kvs_item *item,
                              kvs_problem *problem)
{
    const float *values = group->values[0]->data;
    kvs_block *sum = NULL;
    kvs_encoded encoded = {0};
    kvs_status status = KVS_OK;
    if (group->value_count > 1) {
        sum = kvs_block_make(&dist->pool, kvs_array_bytes(group->values[0]));
        if (sum == NULL) {
            return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a sum");
        }
        status = kvs_sum_group(&dist->sum, group, sum->data, problem);
        values = (const float *)(const void *)sum->data;
    }
    item->part_elements = part_elements_of(dist, group);
    if (status == KVS_OK) {
        status = kvs_compression_write(&dist->compression, &dist->pool, group, 0, values,
                                       item->part_elements, &encoded, problem);
    }
    kvs_block_unref(sum);
    item->block = encoded.block;
    item->data = encoded.data;
    item->ends = encoded.ends;
    item->codec = dist->compression.encoding.codec;
    item->threshold = item->codec == KVS_CODEC_2BIT ? dist->compression.encoding.threshold : 0;
    return status;
}

kvs_status kvs_dist_encode_values(kvs_request *request, const kvs_groups *groups,
                                  kvs_problem *problem)
{
    for (size_t i = 0; i < request->item_count; i++) {
        KVS_TRY(encode_item(request->dist, &groups->list[i], &request->items[i], problem));
    }
    return KVS_OK;
}
