/* The optimizer as data: whatever is read has a canonical text that reads as its equal. */
#include "tests/fuzz/fuzz.h"

#include "base/check.h"
#include "engine/optimizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    kvs_optimizer *optimizer = NULL;
    kvs_optimizer *again = NULL;
    kvs_problem problem;
    if (kvs_optimizer_parse((const char *)bytes, count, &optimizer, &problem) != KVS_OK) {
        return 0;
    }
    const char *json = kvs_optimizer_json(optimizer);
    KVS_CHECK(kvs_optimizer_parse(json, strlen(json), &again, &problem) == KVS_OK);
    KVS_CHECK(kvs_optimizer_equal(optimizer, again));
    kvs_optimizer_unref(optimizer);
    kvs_optimizer_unref(again);
    return 0;
}
