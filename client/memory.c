/* Memory for values that callers ask for: kv_alloc and kv_dealloc. */
#include "client/store.h"

#include <kvstore/kvstore.h>
#include <stdlib.h>

#define ALIGN_BYTES ((size_t)64)

/* Before the bytes that are given out. */
typedef union head {
    struct {
        kvs_shared *shared; /* a reference; NULL: of this process alone */
        size_t bytes;       /* with the head */
    } of;
    uint8_t room[64];
} head;
_Static_assert(sizeof(head) == ALIGN_BYTES, "what follows is aligned, too");

kv_status kv_alloc(kv_store *kv, uint64_t bytes, void **out)
{
    kvs_problem problem = {.status = KVS_OK};
    kvs_shared *shared = kv->table->shared != NULL ? kv->table->shared(kv) : NULL;
    head *made = NULL;
    bool is_shared = false;
    *out = NULL;
    if (bytes <= SIZE_MAX / 2) {
        size_t all = ((size_t)bytes + 2 * ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
        made = (head *)(void *)kvs_shared_alloc(shared, all);
        is_shared = made != NULL;
        made = is_shared ? made : aligned_alloc(ALIGN_BYTES, all);
        if (made != NULL) {
            made->of.shared = is_shared ? kvs_shared_take(shared) : NULL;
            made->of.bytes = all;
            *out = made + 1;
        }
    }
    kvs_status status = made != NULL
                            ? KVS_OK
                            : kvs_problem_set(&problem, KVS_NO_MEMORY, "%llu bytes for values",
                                              (unsigned long long)bytes);
    return kvs_client_finish(kv, status, &problem);
}

void kv_dealloc(void *memory)
{
    if (memory == NULL) {
        return;
    }
    head *made = (head *)memory - 1;
    kvs_shared *shared = made->of.shared;
    if (shared == NULL) {
        free(made);
        return;
    }
    kvs_shared_free(shared, (uint8_t *)made, made->of.bytes);
    kvs_shared_unref(shared);
}
