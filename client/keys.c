#include "client/keys.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* The key's slot, or the free one where it belongs. Needs a free slot. */
static kvs_client_key **slot_of(kvs_client_key **slots, size_t slot_count, const char *name,
                                size_t name_bytes)
{
    size_t mask = slot_count - 1;
    size_t i = XXH64(name, name_bytes, 0) & mask;
    while (slots[i] != NULL &&
           (slots[i]->name_bytes != name_bytes || memcmp(slots[i]->name, name, name_bytes) != 0)) {
        i = (i + 1) & mask;
    }
    return &slots[i];
}

kvs_client_key *kvs_client_keys_find(kvs_client_keys *keys, const char *name, size_t name_bytes)
{
    if (keys->slot_count == 0) {
        return NULL;
    }
    return *slot_of(keys->slots, keys->slot_count, name, name_bytes);
}

static int grow(kvs_client_keys *keys)
{
    size_t slot_count = keys->slot_count == 0 ? 64 : 2 * keys->slot_count;
    kvs_client_key **slots = calloc(slot_count, sizeof(kvs_client_key *));
    if (slots == NULL) {
        return 0;
    }
    for (size_t i = 0; i < keys->slot_count; i++) {
        kvs_client_key *key = keys->slots[i];
        if (key != NULL) {
            *slot_of(slots, slot_count, key->name, key->name_bytes) = key;
        }
    }
    free(keys->slots);
    keys->slots = slots;
    keys->slot_count = slot_count;
    return 1;
}

kvs_client_key *kvs_client_keys_find_or_add(kvs_client_keys *keys, const char *name,
                                            size_t name_bytes)
{
    if (2 * (keys->count + 1) > keys->slot_count && !grow(keys)) {
        return NULL;
    }
    kvs_client_key **slot = slot_of(keys->slots, keys->slot_count, name, name_bytes);
    if (*slot == NULL) {
        kvs_client_key *key = calloc(1, sizeof *key + name_bytes + 1);
        if (key == NULL) {
            return NULL;
        }
        memcpy(key->name, name, name_bytes);
        key->name_bytes = (uint32_t)name_bytes;
        *slot = key;
        keys->count++;
    }
    return *slot;
}

void kvs_client_keys_each(kvs_client_keys *keys, void (*visit)(kvs_client_key *key))
{
    for (size_t i = 0; i < keys->slot_count; i++) {
        if (keys->slots[i] != NULL) {
            visit(keys->slots[i]);
        }
    }
}

void kvs_client_keys_deinit(kvs_client_keys *keys)
{
    for (size_t i = 0; i < keys->slot_count; i++) {
        free(keys->slots[i]);
    }
    free(keys->slots);
    *keys = (kvs_client_keys){0};
}
