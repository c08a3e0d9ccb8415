/* A key: a named tensor, cut into parts; and the table in which keys are found.
 *
 * Threads: find by any, with no lock: keys never move or go before the store does, and a table
 *   that has become too small is left to its readers until then. Insert under the store's mutex.
 * Memory: the table owns its keys, a key its parts.
 */
#ifndef KVS_ENGINE_KEY_H
#define KVS_ENGINE_KEY_H

#include "engine/part.h"

struct kvs_key {
    uint64_t hash;
    uint64_t order; /* how many keys of the store came before it */
    kvs_dtype dtype;
    kvs_storage storage;
    kvs_shape shape;
    uint64_t elements;
    uint64_t row_elements; /* row_sparse; 0: dense */
    uint64_t part_elements;
    uint64_t part_count;
    kvs_part *parts;
    uint64_t *arrived; /* the bits of all parts' rounds */
    uint64_t *turns;   /* what part->turns of all of them are; NULL: not counted */
    uint32_t num_workers;
    uint8_t packed_shape[KVS_DIMENSIONS_MAX * 10];
    uint32_t packed_shape_bytes;
    uint32_t name_bytes;
    char name[]; /* terminated as well */
};

typedef struct kvs_key_table {
    struct kvs_key_slots *_Atomic slots;
    _Atomic uint64_t count;
} kvs_key_table;

/* A key with empty parts: no shard, value or binding yet. The shape is known to be within bounds,
 * and of a row_sparse one to have rows with elements. Its parts are of whole rows, of as many as
 * fit in `part_elements`, and of one at least. KVS_NO_MEMORY */
kvs_status kvs_key_make(const char *name, uint32_t name_bytes, kvs_dtype dtype, kvs_storage storage,
                        const kvs_shape *shape, uint64_t part_elements, uint32_t num_workers,
                        kvs_key **out) KVS_MUST_CHECK;
/* Of an asynchronous store: how many pushes of each rank each part has had, should it matter: there
 * are several of both. KVS_NO_MEMORY */
kvs_status kvs_key_count_turns(kvs_key *key) KVS_MUST_CHECK;
void kvs_key_free(kvs_key *key); /* gives the parts' buffers back; accepts NULL */

uint64_t kvs_key_hash(const char *name, size_t name_bytes);

/* NULL: not there. */
kvs_key *kvs_key_table_find(kvs_key_table *table, const char *name, size_t name_bytes);
/* Makes room for `more` keys: the only part of an insert that can fail. Mutex. */
kvs_status kvs_key_table_reserve(kvs_key_table *table, size_t more) KVS_MUST_CHECK;
void kvs_key_table_insert(kvs_key_table *table, kvs_key *key); /* mutex; after reserve */
void kvs_key_table_deinit(kvs_key_table *table);               /* frees the keys */

/* The i-th key that was inserted, i < count. Any thread. */
kvs_key *kvs_key_table_at(kvs_key_table *table, size_t index);

size_t kvs_part_bytes(const kvs_part *part);
/* Of a state or a master: f32 for f16 and bf16, else the key's dtype. */
size_t kvs_part_state_bytes(const kvs_part *part);
bool kvs_part_is_sparse(const kvs_part *part);
/* A row is what the value's first dimension counts; that of a scalar has one element. */
uint64_t kvs_key_row_elements(const kvs_key *key);
/* The rows that part `index` of the key has elements of, the first and the last perhaps not whole.
 */
typedef struct kvs_row_range {
    uint64_t first;
    uint64_t count;
    uint64_t begun; /* elements of the first that lie in parts before */
} kvs_row_range;
kvs_row_range kvs_key_rows_of(const kvs_key *key, uint64_t index);
/* Of an array of the states: of the rule's one number a row, or as long as the value. */
size_t kvs_part_states_bytes(const kvs_part *part, const kvs_optimizer *optimizer);
/* Of a row_sparse value. */
size_t kvs_part_row_bytes(const kvs_part *part);
uint32_t kvs_part_rows(const kvs_part *part);
/* The lowest version of its parts at this moment. */
uint64_t kvs_key_version(const kvs_key *key);

#endif
