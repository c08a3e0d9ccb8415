#include "engine/tally.h"

#include "engine/key.h"

#include <stdlib.h>

void kvs_tally_deinit(kvs_tally *tally)
{
    for (uint64_t i = 0; i < tally->room; i++) {
        free(tally->counts[i]);
    }
    free(tally->counts);
    free(tally->keys);
    *tally = (kvs_tally){NULL, NULL, 0};
}

static kvs_status reserve(kvs_tally *tally, uint64_t order)
{
    if (order < tally->room) {
        return KVS_OK;
    }
    uint64_t room = 2 * order + 16;
    uint32_t **counts = realloc(tally->counts, room * sizeof *counts);
    if (counts == NULL) {
        return KVS_NO_MEMORY;
    }
    tally->counts = counts;
    kvs_key **keys = realloc(tally->keys, room * sizeof *keys);
    if (keys == NULL) {
        return KVS_NO_MEMORY;
    }
    tally->keys = keys;
    for (uint64_t i = tally->room; i < room; i++) {
        counts[i] = NULL;
        keys[i] = NULL;
    }
    tally->room = room;
    return KVS_OK;
}

kvs_status kvs_tally_add(kvs_tally *tally, kvs_part *part)
{
    kvs_key *key = part->key;
    if (key->part_count == 1) {
        return KVS_OK;
    }
    KVS_TRY(reserve(tally, key->order));
    if (tally->counts[key->order] == NULL) {
        tally->counts[key->order] = calloc(key->part_count, sizeof(uint32_t));
        tally->keys[key->order] = key;
        if (tally->counts[key->order] == NULL) {
            return KVS_NO_MEMORY;
        }
    }
    tally->counts[key->order][part->index]++; /* only differences count: it may wrap */
    return KVS_OK;
}

void kvs_tally_remove(kvs_tally *tally, kvs_part *part)
{
    uint64_t order = part->key->order;
    if (part->key->part_count > 1 && order < tally->room && tally->counts[order] != NULL) {
        tally->counts[order][part->index]--;
    }
}

kvs_part *kvs_tally_take_torn(kvs_tally *tally, uint64_t *count)
{
    for (uint64_t i = 0; i < tally->room; i++) {
        uint32_t *counts = tally->counts[i];
        for (uint64_t p = 1; counts != NULL && p < tally->keys[i]->part_count; p++) {
            int32_t ahead = (int32_t)(counts[p] - counts[0]);
            if (ahead != 0) {
                uint64_t behind = ahead > 0 ? 0 : p;
                *count = (uint64_t)(ahead > 0 ? ahead : -(int64_t)ahead);
                counts[behind] += (uint32_t)*count;
                return &tally->keys[i]->parts[behind];
            }
        }
    }
    return NULL;
}
