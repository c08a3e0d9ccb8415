#include "engine/heap_cpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* One cache line, and one vector of AVX-512. */
#define ALIGNMENT ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)
/* From here on memory comes from mmap, aligned to a huge page. Under AddressSanitizer never: it
 * could not see an overrun there. */
#if defined(__SANITIZE_ADDRESS__)
#define MAPPED_BYTES_MIN SIZE_MAX
#else
#define MAPPED_BYTES_MIN HUGE_PAGE
#endif

/* From here on memory comes from a heap, if there is one: whole pages. */
#define HEAP_BYTES_MIN ((size_t)64 << 10)

/* Anonymous pages, aligned for huge ones and touched, so that no push pays for a page fault. */
static void *map_memory(size_t bytes)
{
    size_t length = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    if (length < bytes || length + HUGE_PAGE < length) {
        return NULL;
    }
    uint8_t *start =
        mmap(NULL, length + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        return NULL;
    }
    size_t before = (HUGE_PAGE - ((uintptr_t)start & (HUGE_PAGE - 1))) & (HUGE_PAGE - 1);
    if (before > 0) {
        (void)munmap(start, before);
    }
    if (before < HUGE_PAGE) {
        (void)munmap(start + before + length, HUGE_PAGE - before);
    }
    uint8_t *data = start + before;
    (void)madvise(data, length, MADV_HUGEPAGE); /* a wish: without it the pages are small */
    memset(data, 0, length);
    return data;
}

kvs_status kvs_heap_cpu_alloc(const kvs_cpu_heap *heap, size_t bytes, kvs_memory *out)
{
    kvs_memory made = {.bytes = bytes};
    void *data = NULL;
    if (heap != NULL && bytes >= HEAP_BYTES_MIN) {
        data = heap->alloc(heap->context, bytes, &made.region, &made.region_offset);
    }
    if (data != NULL) {
        made.data = made.host = data;
        *out = made;
        return KVS_OK;
    }
    if (bytes >= MAPPED_BYTES_MIN) {
        data = map_memory(bytes);
    } else if (bytes <= SIZE_MAX - ALIGNMENT) {
        size_t room = bytes == 0 ? ALIGNMENT : (bytes + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
        data = aligned_alloc(ALIGNMENT, room);
    }
    if (data == NULL) {
        return KVS_NO_MEMORY;
    }
    *out = (kvs_memory){.data = data, .host = data, .bytes = bytes};
    return KVS_OK;
}

void kvs_heap_cpu_free(const kvs_cpu_heap *heap, kvs_memory *memory)
{
    if (memory->data == NULL) {
        return;
    }
    if (memory->region != 0) {
        heap->free(heap->context, memory->data, memory->bytes);
    } else if (memory->bytes >= MAPPED_BYTES_MIN) {
        /* The kernel wipes pages before anyone sees them again. */
        size_t length = (memory->bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        (void)munmap(memory->data, length);
    } else {
        explicit_bzero(memory->data, memory->bytes);
        free(memory->data);
    }
    *memory = (kvs_memory){0};
}
