/* An optimizer as it meets a key: the rule and this key's multipliers.
 *
 * Threads: any; immutable but for the count. Memory: make gives one reference.
 */
#ifndef KVS_ENGINE_BINDING_H
#define KVS_ENGINE_BINDING_H

#include "engine/optimizer.h"

typedef struct kvs_key kvs_key;
typedef struct kvs_norms kvs_norms;

typedef struct kvs_binding {
    _Atomic uint32_t references;
    kvs_optimizer *optimizer;
    kvs_multipliers multipliers;
    kvs_norms *norms; /* NULL: the rule needs none. Not immutable: see norms.h */
} kvs_binding;

/* Takes its own reference to the optimizer. NULL: no memory. */
kvs_binding *kvs_binding_make(kvs_optimizer *optimizer, kvs_key *key);
kvs_binding *kvs_binding_take(kvs_binding *binding); /* accepts NULL */
void kvs_binding_unref(kvs_binding *binding);        /* accepts NULL */

#endif
