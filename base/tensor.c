#include "base/tensor.h"

#include "base/check.h"

#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[KVS_DTYPE_COUNT] = {
    [KVS_DTYPE_NONE] = {"none", 0}, [KVS_F32] = {"f32", 4},   [KVS_F64] = {"f64", 8},
    [KVS_F16] = {"f16", 2},         [KVS_BF16] = {"bf16", 2}, [KVS_U8] = {"u8", 1},
    [KVS_I8] = {"i8", 1},           [KVS_I32] = {"i32", 4},   [KVS_I64] = {"i64", 8},
};

size_t kvs_dtype_bytes(kvs_dtype dtype)
{
    return (unsigned)dtype < KVS_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}

bool kvs_dtype_floating(kvs_dtype dtype)
{
    return dtype == KVS_F32 || dtype == KVS_F64 || dtype == KVS_F16 || dtype == KVS_BF16;
}

const char *kvs_dtype_name(kvs_dtype dtype)
{
    return (unsigned)dtype < KVS_DTYPE_COUNT ? dtypes[dtype].name : dtypes[0].name;
}

kvs_dtype kvs_dtype_parse(const char *name)
{
    for (int i = 1; i < KVS_DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            return (kvs_dtype)i;
        }
    }
    return KVS_DTYPE_NONE;
}

bool kvs_shape_elements(const kvs_shape *shape, uint64_t *elements)
{
    uint64_t product = 1;
    bool empty = false;
    for (uint32_t i = 0; i < shape->rank; i++) {
        if (shape->size[i] == 0) {
            empty = true;
        } else if (__builtin_mul_overflow(product, shape->size[i], &product) ||
                   product > KVS_ELEMENTS_MAX) {
            return false;
        }
    }
    *elements = empty ? 0 : product;
    return true;
}

bool kvs_shape_equal(const kvs_shape *a, const kvs_shape *b)
{
    return a->rank == b->rank && memcmp(a->size, b->size, a->rank * sizeof a->size[0]) == 0;
}

kvs_payload kvs_payload_slice(const kvs_payload *payload, size_t offset, size_t bytes)
{
    kvs_payload part = *payload;
    KVS_CHECK(offset <= payload->bytes);
    KVS_CHECK(bytes <= payload->bytes - offset);
    part.bytes = bytes;
    part.skip += offset;
    while (part.count > 1 && part.skip >= part.spans->bytes) {
        part.skip -= part.spans->bytes;
        part.spans++;
        part.count--;
    }
    return part;
}

void kvs_payload_gather(const kvs_payload *payload, void *out)
{
    uint8_t *to = out;
    size_t left = payload->bytes;
    size_t skip = payload->skip;
    for (uint32_t i = 0; left > 0; i++) {
        KVS_CHECK(i < payload->count);
        size_t here = payload->spans[i].bytes - skip;
        here = here < left ? here : left;
        if (here > 0) {
            memcpy(to, payload->spans[i].data + skip, here);
        }
        to += here;
        left -= here;
        skip = 0;
    }
}

void kvs_payload_runs(const kvs_payload *payload, size_t element_bytes, kvs_run_function *run,
                      void *context)
{
    uint8_t carry[8];
    size_t carried = 0;
    size_t element = 0;
    size_t left = payload->bytes;
    size_t skip = payload->skip;
    KVS_CHECK(element_bytes > 0 && element_bytes <= sizeof carry);
    for (uint32_t i = 0; left > 0; i++) {
        KVS_CHECK(i < payload->count);
        const uint8_t *data = payload->spans[i].data + skip;
        size_t here = payload->spans[i].bytes - skip;
        here = here < left ? here : left;
        left -= here;
        skip = 0;
        if (carried > 0 && here > 0) {
            size_t missing = element_bytes - carried;
            missing = missing < here ? missing : here;
            memcpy(carry + carried, data, missing);
            carried += missing;
            data += missing;
            here -= missing;
            if (carried < element_bytes) {
                continue;
            }
            run(context, element++, carry, 1);
            carried = 0;
        }
        size_t whole = here / element_bytes;
        if (whole > 0) {
            run(context, element, data, whole);
            element += whole;
            data += whole * element_bytes;
            here -= whole * element_bytes;
        }
        if (here > 0) { /* less than one element */
            memcpy(carry, data, here);
            carried = here;
        }
    }
}
