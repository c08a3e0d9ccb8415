/* What a client knows of the keys it has named: the place of each in the order of requests.
 *
 * Threads: under the store's lock. Memory: keys stay put until deinit.
 * Errors: find_or_add gives NULL when there is no memory.
 */
#ifndef KVS_CLIENT_KEYS_H
#define KVS_CLIENT_KEYS_H

#include <stddef.h>
#include <stdint.h>

typedef struct kvs_client_key {
    uint64_t last_sequence; /* the highest given to this key: the next request's `after` */
    uint64_t part_elements; /* 0: not told yet */
    struct kvs_item *first; /* dist: what waits to be sent, in order */
    struct kvs_item *last;
    uint64_t pushes; /* dist: of which all that will be sent has been */
    float *residual; /* of a compression: what it has left out */
    uint64_t residual_elements;
    uint32_t name_bytes;
    char name[];
} kvs_client_key;

typedef struct kvs_client_keys {
    kvs_client_key **slots;
    size_t slot_count; /* a power of two, or 0 */
    size_t count;
} kvs_client_keys;

kvs_client_key *kvs_client_keys_find(kvs_client_keys *keys, const char *name, size_t name_bytes);
kvs_client_key *kvs_client_keys_find_or_add(kvs_client_keys *keys, const char *name,
                                            size_t name_bytes);
/* Calls for each key. */
void kvs_client_keys_each(kvs_client_keys *keys, void (*visit)(kvs_client_key *key));
void kvs_client_keys_deinit(kvs_client_keys *keys);

#endif
