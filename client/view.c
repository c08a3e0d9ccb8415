#include "client/view.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES ((size_t)4096)

kv_view *kvs_view_make(void)
{
    return calloc(1, sizeof(kv_view));
}

kvs_status kvs_view_shape(kv_view *view, kvs_dtype dtype, const kvs_shape *shape,
                          kvs_problem *problem)
{
    if (kvs_dtype_bytes(dtype) == 0 || !kvs_shape_elements(shape, &view->elements)) {
        return kvs_problem_set(problem, KVS_INVALID_TENSOR, "the value has no known form");
    }
    view->dtype = dtype;
    view->shape = *shape;
    view->bytes = (size_t)view->elements * kvs_dtype_bytes(dtype);
    view->room = (view->bytes / PAGE_BYTES + 1) * PAGE_BYTES;
    void *data = mmap(NULL, view->room, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no room for a view of %zu bytes",
                               view->bytes);
    }
    view->data = data;
    return KVS_OK;
}

/* Where the part begins; false: it is none of the value's. */
static bool place(const kv_view *view, uint64_t element_offset, uint64_t bytes, size_t *offset)
{
    if (view->data == NULL || element_offset > view->elements) {
        return false;
    }
    *offset = (size_t)element_offset * kvs_dtype_bytes(view->dtype);
    return bytes <= view->bytes - *offset;
}

static kvs_status misplaced(kvs_problem *problem)
{
    return kvs_problem_set(problem, KVS_INVALID_TENSOR, "a part lies outside its value");
}

kvs_status kvs_view_copy(kv_view *view, uint64_t element_offset, const kvs_payload *payload,
                         kvs_problem *problem)
{
    size_t offset;
    if (!place(view, element_offset, payload->bytes, &offset)) {
        return misplaced(problem);
    }
    kvs_payload_gather(payload, view->data + offset);
    view->received += payload->bytes / kvs_dtype_bytes(view->dtype);
    return KVS_OK;
}

kvs_status kvs_view_map(kv_view *view, kvs_shared *shared, uint64_t region, uint64_t region_offset,
                        uint64_t element_offset, uint64_t bytes, kvs_problem *problem)
{
    size_t offset;
    if (!place(view, element_offset, bytes, &offset)) {
        return misplaced(problem);
    }
    /* Its pages hold nothing of another part. */
    bool own = offset % PAGE_BYTES == 0 && region_offset % PAGE_BYTES == 0 &&
               (bytes % PAGE_BYTES == 0 || offset + bytes == view->bytes);
    if (own && kvs_shared_map(shared, region, region_offset, bytes, view->data + offset)) {
        view->mapped += bytes;
        view->received += bytes / kvs_dtype_bytes(view->dtype);
        return KVS_OK;
    }
    kvs_span span = {kvs_shared_read(shared, region, region_offset, bytes), (size_t)bytes};
    if (span.data == NULL) {
        return kvs_problem_set(problem, KVS_UNAVAILABLE, "a value's region cannot be mapped");
    }
    kvs_payload payload = {.spans = &span, .count = 1, .bytes = (size_t)bytes};
    return kvs_view_copy(view, element_offset, &payload, problem);
}

void kvs_view_seal(kv_view *view)
{
    (void)mprotect(view->data, view->room, PROT_READ);
}

/* ------------------------------------------------------------------ public */

void kv_view_get(const kv_view *view, kv_array *out)
{
    *out = (kv_array){.data = view->data,
                      .dtype = (kv_dtype)view->dtype,
                      .rank = view->shape.rank,
                      .shape = view->shape.size};
}

void kv_view_free(kv_view *view)
{
    if (view == NULL) {
        return;
    }
    if (view->call != NULL) {
        kvs_peer_cancel(view->call);
    }
    while (view->call != NULL) {
        kvs_peer_poll(view->peer, kvs_clock_now_ns() + 100 * KVS_MS);
    }
    kvs_peer_close(view->peer);
    if (view->data != NULL) {
        (void)munmap(view->data, view->room);
    }
    free(view);
}

uint64_t kv_view_mapped(const kv_view *view)
{
    return view->mapped;
}
