#include "engine/binding.h"

#include <stdatomic.h>
#include <stdlib.h>

kvs_binding *kvs_binding_make(kvs_optimizer *optimizer, const char *key, size_t key_bytes)
{
    kvs_binding *binding = calloc(1, sizeof *binding);
    if (binding != NULL) {
        atomic_init(&binding->references, 1);
        binding->optimizer = kvs_optimizer_take(optimizer);
        binding->multipliers = kvs_optimizer_multipliers(optimizer, key, key_bytes);
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
        free(binding);
    }
}
