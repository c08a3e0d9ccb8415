#include "tests/support/failing_backend.h"

#include "base/check.h"
#include "engine/backend_cpu.h"

static const kvs_backend_table *inner;
static kvs_backend_table outer;
static uint64_t calls_left;

static bool lost(void)
{
    if (calls_left == 0) {
        return true;
    }
    calls_left--;
    return false;
}

static kvs_status fail_zero(kvs_stream *stream, kvs_memory *const *targets, size_t count)
{
    return lost() ? KVS_DEVICE_LOST : inner->zero(stream, targets, count);
}

static kvs_status fail_copy(kvs_stream *stream, const kvs_copy_item *items, size_t count)
{
    return lost() ? KVS_DEVICE_LOST : inner->copy(stream, items, count);
}

static kvs_status fail_accumulate(kvs_stream *stream, const kvs_accumulate_item *items,
                                  size_t count)
{
    return lost() ? KVS_DEVICE_LOST : inner->accumulate(stream, items, count);
}

static kvs_status fail_apply(kvs_stream *stream, const kvs_apply_item *items, size_t count)
{
    return lost() ? KVS_DEVICE_LOST : inner->apply(stream, items, count);
}

static kvs_status fail_encode(kvs_stream *stream, const kvs_encode_item *items, size_t count)
{
    return lost() ? KVS_DEVICE_LOST : inner->encode(stream, items, count);
}

static kvs_status fail_download(kvs_stream *stream, kvs_memory *const *memories, size_t count)
{
    return lost() ? KVS_DEVICE_LOST : inner->download(stream, memories, count);
}

static kvs_status fail_sync(kvs_stream *stream)
{
    return lost() ? KVS_DEVICE_LOST : inner->sync(stream);
}

kvs_backend *failing_backend_open(void)
{
    kvs_backend *backend = NULL;
    KVS_CHECK(kvs_backend_cpu_open(NULL, &backend, NULL) == KVS_OK);
    inner = backend->table;
    outer = *inner;
    outer.zero = fail_zero;
    outer.copy = fail_copy;
    outer.accumulate = fail_accumulate;
    outer.apply = fail_apply;
    outer.encode = fail_encode;
    outer.download = fail_download;
    outer.sync = fail_sync;
    backend->table = &outer;
    calls_left = UINT64_MAX;
    return backend;
}

void failing_backend_lose(uint64_t calls)
{
    calls_left = calls;
}
