#include "engine/binding.h"

#include "engine/key.h"
#include "engine/norms.h"

#include <stdatomic.h>
#include <stdlib.h>

kvs_binding *kvs_binding_make(kvs_optimizer *optimizer, kvs_key *key)
{
    kvs_measure measures[KVS_MEASURES_MAX];
    kvs_binding *binding = calloc(1, sizeof *binding);
    if (binding == NULL) {
        return NULL;
    }
    atomic_init(&binding->references, 1);
    binding->optimizer = kvs_optimizer_take(optimizer);
    binding->multipliers = kvs_optimizer_multipliers(optimizer, key->name, key->name_bytes);
    /* Parts never cut rows of a row_sparse value: its numbers a row need nothing measured. */
    if (key->storage == KVS_ROW_SPARSE && kvs_optimizer_by_row(optimizer)) {
        binding->multipliers.plain = true;
    }
    if (kvs_optimizer_measures(optimizer, binding->multipliers, measures) > 0) {
        binding->norms = kvs_norms_make(binding, key);
        if (binding->norms == NULL) {
            kvs_binding_unref(binding);
            return NULL;
        }
    }
    return binding;
}

kvs_binding *kvs_binding_take(kvs_binding *binding)
{
    if (binding != NULL) {
        atomic_fetch_add_explicit(&binding->references, 1, memory_order_relaxed);
    }
    return binding;
}

void kvs_binding_unref(kvs_binding *binding)
{
    if (binding != NULL &&
        atomic_fetch_sub_explicit(&binding->references, 1, memory_order_acq_rel) == 1) {
        kvs_optimizer_unref(binding->optimizer);
        kvs_norms_free(binding->norms);
        free(binding);
    }
}
