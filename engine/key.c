#include "engine/key.h"

#include "base/check.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* One allocation: the open-addressed slots and the keys in order of insertion. Older tables stay
 * until the end, for readers that still look into them. */
struct kvs_key_slots {
    struct kvs_key_slots *older;
    size_t mask;      /* slots - 1 */
    size_t order_max; /* half as many as slots */
    kvs_key *_Atomic *order;
    kvs_key *_Atomic slot[];
};

uint32_t kvs_shard_of(const char *key, size_t key_bytes, uint64_t part, uint32_t shards)
{
    uint8_t bytes[KVS_KEY_BYTES_MAX + 8];
    KVS_CHECK(key_bytes <= KVS_KEY_BYTES_MAX);
    memcpy(bytes, key, key_bytes);
    for (int i = 0; i < 8; i++) {
        bytes[key_bytes + (size_t)i] = (uint8_t)(part >> (8 * i));
    }
    return (uint32_t)(XXH64(bytes, key_bytes + 8, 0) % shards);
}

uint64_t kvs_key_hash(const char *name, size_t name_bytes)
{
    return XXH64(name, name_bytes, 0);
}

/* Of one row: the elements of all dimensions but the first. */
static uint64_t row_elements_of(const kvs_shape *shape)
{
    uint64_t elements = 1;
    for (uint32_t i = 1; i < shape->rank; i++) {
        elements *= shape->size[i];
    }
    return elements;
}

kvs_status kvs_key_make(const char *name, uint32_t name_bytes, kvs_dtype dtype, kvs_storage storage,
                        const kvs_shape *shape, uint64_t part_elements, uint32_t num_workers,
                        kvs_key **out)
{
    uint64_t elements = 0;
    KVS_CHECK(kvs_shape_elements(shape, &elements));
    kvs_key *key = calloc(1, sizeof *key + name_bytes + 1);
    if (key == NULL) {
        return KVS_NO_MEMORY;
    }
    memcpy(key->name, name, name_bytes);
    key->name_bytes = name_bytes;
    key->hash = kvs_key_hash(name, name_bytes);
    key->dtype = dtype;
    key->shape = *shape;
    key->packed_shape_bytes = kvs_shape_pack(shape, key->packed_shape);
    key->elements = elements;
    key->storage = storage;
    if (storage == KVS_ROW_SPARSE) {
        uint64_t row = row_elements_of(shape);
        key->row_elements = row;
        part_elements = row > part_elements ? row : part_elements / row * row;
    }
    key->part_elements = part_elements;
    /* A value without elements has one part without elements: it has versions all the same. */
    key->part_count = elements == 0 ? 1 : (elements + part_elements - 1) / part_elements;
    size_t words = ((size_t)num_workers + 63) / 64;
    key->parts = calloc(key->part_count, sizeof *key->parts);
    key->arrived = calloc(key->part_count * words, sizeof *key->arrived);
    key->num_workers = num_workers;
    if (key->parts == NULL || key->arrived == NULL) {
        kvs_key_free(key);
        return KVS_NO_MEMORY;
    }
    for (uint64_t i = 0; i < key->part_count; i++) {
        kvs_part *part = &key->parts[i];
        uint64_t left = elements - i * part_elements;
        part->key = key;
        part->index = i;
        part->elements = left < part_elements ? left : part_elements;
        part->round.arrived = key->arrived + i * words;
    }
    *out = key;
    return KVS_OK;
}

kvs_status kvs_key_count_turns(kvs_key *key)
{
    if (key->part_count == 1 || key->num_workers == 1) {
        return KVS_OK;
    }
    key->turns = calloc(key->part_count * key->num_workers, sizeof *key->turns);
    if (key->turns == NULL) {
        return KVS_NO_MEMORY;
    }
    for (uint64_t i = 0; i < key->part_count; i++) {
        key->parts[i].turns = key->turns + i * key->num_workers;
    }
    return KVS_OK;
}

void kvs_key_free(kvs_key *key)
{
    if (key == NULL) {
        return;
    }
    for (uint64_t i = 0; key->parts != NULL && i < key->part_count; i++) {
        kvs_part *part = &key->parts[i];
        kvs_buffer_unref(part->value);
        kvs_buffer_unref(part->encoded);
        kvs_buffer_unref(part->accumulator);
        kvs_buffer_unref(part->master);
        kvs_binding_unref(part->binding);
        kvs_budget_free(part->row_set.list);
        for (int s = 0; s < KVS_RULE_STATES_MAX; s++) {
            kvs_buffer_unref(part->states[s]);
        }
    }
    free(key->parts);
    free(key->arrived);
    free(key->turns);
    free(key);
}

kvs_key *kvs_key_table_find(kvs_key_table *table, const char *name, size_t name_bytes)
{
    /* Acquire: the slots, and below the key, are seen as they were published. */
    struct kvs_key_slots *slots = atomic_load_explicit(&table->slots, memory_order_acquire);
    if (slots == NULL) {
        return NULL;
    }
    uint64_t hash = kvs_key_hash(name, name_bytes);
    for (size_t i = hash & slots->mask;; i = (i + 1) & slots->mask) {
        kvs_key *key = atomic_load_explicit(&slots->slot[i], memory_order_acquire);
        if (key == NULL) {
            return NULL;
        }
        if (key->hash == hash && key->name_bytes == name_bytes &&
            memcmp(key->name, name, name_bytes) == 0) {
            return key;
        }
    }
}

static void put(struct kvs_key_slots *slots, size_t order, kvs_key *key)
{
    size_t i = key->hash & slots->mask;
    while (atomic_load_explicit(&slots->slot[i], memory_order_relaxed) != NULL) {
        i = (i + 1) & slots->mask;
    }
    atomic_store_explicit(&slots->order[order], key, memory_order_release);
    atomic_store_explicit(&slots->slot[i], key, memory_order_release);
}

kvs_status kvs_key_table_reserve(kvs_key_table *table, size_t more)
{
    struct kvs_key_slots *old = atomic_load_explicit(&table->slots, memory_order_relaxed);
    size_t count = atomic_load_explicit(&table->count, memory_order_relaxed);
    if (old != NULL && count + more <= old->order_max) {
        return KVS_OK;
    }
    size_t size = old == NULL ? 64 : 2 * (old->mask + 1);
    while (size / 2 < count + more) {
        size *= 2;
    }
    struct kvs_key_slots *slots =
        calloc(1, sizeof *slots + (size + size / 2) * sizeof slots->slot[0]);
    if (slots == NULL) {
        return KVS_NO_MEMORY;
    }
    slots->older = old;
    slots->mask = size - 1;
    slots->order_max = size / 2;
    slots->order = slots->slot + size;
    for (size_t i = 0; i < count; i++) {
        put(slots, i, atomic_load_explicit(&old->order[i], memory_order_relaxed));
    }
    atomic_store_explicit(&table->slots, slots, memory_order_release);
    return KVS_OK;
}

void kvs_key_table_insert(kvs_key_table *table, kvs_key *key)
{
    struct kvs_key_slots *slots = atomic_load_explicit(&table->slots, memory_order_relaxed);
    size_t count = atomic_load_explicit(&table->count, memory_order_relaxed);
    KVS_CHECK(slots != NULL);
    KVS_CHECK(count < slots->order_max);
    key->order = count;
    put(slots, count, key);
    /* Release: whoever sees the count finds the key. */
    atomic_store_explicit(&table->count, count + 1, memory_order_release);
}

kvs_key *kvs_key_table_at(kvs_key_table *table, size_t index)
{
    struct kvs_key_slots *slots = atomic_load_explicit(&table->slots, memory_order_acquire);
    return atomic_load_explicit(&slots->order[index], memory_order_acquire);
}

void kvs_key_table_deinit(kvs_key_table *table)
{
    struct kvs_key_slots *slots = atomic_load_explicit(&table->slots, memory_order_relaxed);
    size_t count = atomic_load_explicit(&table->count, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        kvs_key_free(atomic_load_explicit(&slots->order[i], memory_order_relaxed));
    }
    while (slots != NULL) {
        struct kvs_key_slots *older = slots->older;
        free(slots);
        slots = older;
    }
}

size_t kvs_part_bytes(const kvs_part *part)
{
    return (size_t)part->elements * kvs_dtype_bytes(part->key->dtype);
}

size_t kvs_part_state_bytes(const kvs_part *part)
{
    kvs_dtype dtype = part->key->dtype;
    bool half = dtype == KVS_F16 || dtype == KVS_BF16;
    return (size_t)part->elements * kvs_dtype_bytes(half ? KVS_F32 : dtype);
}

uint64_t kvs_key_row_elements(const kvs_key *key)
{
    uint64_t rows = key->shape.rank == 0 ? 1 : key->shape.size[0];
    return rows == 0 || key->elements == 0 ? 1 : key->elements / rows;
}

kvs_row_range kvs_key_rows_of(const kvs_key *key, uint64_t index)
{
    uint64_t row = kvs_key_row_elements(key);
    uint64_t begin = index * key->part_elements;
    uint64_t end = begin + key->parts[index].elements;
    uint64_t first = begin / row;
    return (kvs_row_range){first, (end + row - 1) / row - first, begin % row};
}

size_t kvs_part_states_bytes(const kvs_part *part, const kvs_optimizer *optimizer)
{
    size_t bytes = kvs_part_state_bytes(part);
    if (!kvs_optimizer_by_row(optimizer) || part->elements == 0) {
        return bytes;
    }
    uint64_t rows = kvs_key_rows_of(part->key, part->index).count;
    return (size_t)rows * (bytes / (size_t)part->elements);
}

size_t kvs_part_row_bytes(const kvs_part *part)
{
    return (size_t)part->key->row_elements * kvs_dtype_bytes(part->key->dtype);
}

bool kvs_part_is_sparse(const kvs_part *part)
{
    return part->key->storage == KVS_ROW_SPARSE;
}

uint32_t kvs_part_rows(const kvs_part *part)
{
    return (uint32_t)(part->elements / part->key->row_elements);
}

uint64_t kvs_key_version(const kvs_key *key)
{
    uint64_t lowest = UINT64_MAX;
    for (uint64_t i = 0; i < key->part_count; i++) {
        uint64_t count = atomic_load_explicit(&key->parts[i].version, memory_order_relaxed);
        lowest = count < lowest ? count : lowest;
    }
    return lowest;
}
