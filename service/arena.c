#include "service/arena.h"

#include "base/region.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES ((size_t)4096)
/* Address space of a region; its pages come as they are given out. */
#define REGION_BYTES ((size_t)256 << 20)
#define NUMBER_BIT ((uint64_t)1 << 63)

typedef struct region {
    kvs_region_map map;
    size_t used;
    int fd;
} region;

/* Given back, wiped. */
typedef struct chunk {
    size_t region;
    size_t offset;
    size_t bytes;
} chunk;

struct kvs_arena {
    pthread_mutex_t mutex;
    region *regions;
    size_t count;
    chunk *chunks;
    size_t chunk_count, chunk_room;
};

kvs_status kvs_arena_open(kvs_arena **out)
{
    kvs_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL) {
        return KVS_NO_MEMORY;
    }
    (void)pthread_mutex_init(&arena->mutex, NULL);
    *out = arena;
    return KVS_OK;
}

void kvs_arena_close(kvs_arena *arena)
{
    if (arena == NULL) {
        return;
    }
    for (size_t i = 0; i < arena->count; i++) {
        kvs_region_unmap(&arena->regions[i].map);
        (void)close(arena->regions[i].fd);
    }
    (void)pthread_mutex_destroy(&arena->mutex);
    free(arena->regions);
    free(arena->chunks);
    free(arena);
}

static size_t whole_pages(size_t bytes)
{
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static bool add_region(kvs_arena *arena, size_t bytes)
{
    region made = {.fd = -1};
    region *regions = realloc(arena->regions, (arena->count + 1) * sizeof *regions);
    if (regions == NULL) {
        return false;
    }
    arena->regions = regions;
    size_t size = bytes > REGION_BYTES ? bytes : REGION_BYTES;
    if (kvs_region_make(size, KVS_REGION_MAKER, &made.map, &made.fd) != KVS_OK) {
        return false;
    }
    arena->regions[arena->count++] = made;
    return true;
}

/* The place of so many bytes, in a chunk of that very size or behind what is used. */
static bool find_place(kvs_arena *arena, size_t bytes, chunk *out)
{
    for (size_t i = arena->chunk_count; i-- > 0;) {
        if (arena->chunks[i].bytes == bytes) {
            *out = arena->chunks[i];
            arena->chunks[i] = arena->chunks[--arena->chunk_count];
            return true;
        }
    }
    for (size_t i = 0; i < 2; i++) {
        region *last = arena->count > 0 ? &arena->regions[arena->count - 1] : NULL;
        if (last != NULL && bytes <= last->map.bytes - last->used) {
            *out = (chunk){arena->count - 1, last->used, bytes};
            last->used += bytes;
            return true;
        }
        if (i == 0 && !add_region(arena, bytes)) {
            return false;
        }
    }
    return false;
}

static void keep_chunk(kvs_arena *arena, const chunk *from)
{
    if (arena->chunk_count == arena->chunk_room) {
        size_t room = arena->chunk_room == 0 ? 64 : 2 * arena->chunk_room;
        chunk *chunks = realloc(arena->chunks, room * sizeof *chunks);
        if (chunks == NULL) {
            return; /* it is lost until the end */
        }
        arena->chunks = chunks;
        arena->chunk_room = room;
    }
    arena->chunks[arena->chunk_count++] = *from;
}

void *kvs_arena_alloc(void *context, size_t bytes, uint64_t *number, uint64_t *region_offset)
{
    kvs_arena *arena = context;
    chunk place;
    uint8_t *data = NULL;
    if (bytes == 0 || bytes > SIZE_MAX / 2) {
        return NULL;
    }
    (void)pthread_mutex_lock(&arena->mutex);
    if (find_place(arena, whole_pages(bytes), &place)) {
        const region *in = &arena->regions[place.region];
        /* A page that is not there when it is touched would be a SIGBUS. */
        if (fallocate(in->fd, 0, (off_t)place.offset, (off_t)place.bytes) == 0) {
            data = in->map.data + place.offset;
            *number = NUMBER_BIT | (place.region + 1);
            *region_offset = place.offset;
        } else {
            keep_chunk(arena, &place);
        }
    }
    (void)pthread_mutex_unlock(&arena->mutex);
    if (data != NULL) { /* maps the pages, so that no push pays for it */
        (void)madvise(data, whole_pages(bytes), MADV_POPULATE_WRITE);
    }
    return data;
}

/* The seal that keeps others from writing forbids holes, too: the pages stay. */
void kvs_arena_free(void *context, void *data, size_t bytes)
{
    kvs_arena *arena = context;
    chunk place = {.bytes = whole_pages(bytes)};
    explicit_bzero(data, bytes);
    (void)pthread_mutex_lock(&arena->mutex);
    for (size_t i = 0; i < arena->count; i++) {
        uintptr_t begin = (uintptr_t)arena->regions[i].map.data;
        if ((uintptr_t)data >= begin && (uintptr_t)data - begin < arena->regions[i].map.bytes) {
            place.region = i;
            place.offset = (size_t)((uintptr_t)data - begin);
        }
    }
    keep_chunk(arena, &place);
    (void)pthread_mutex_unlock(&arena->mutex);
}

int kvs_arena_descriptor(kvs_arena *arena, uint64_t number, size_t *bytes)
{
    int fd = -1;
    uint64_t place = (number & ~NUMBER_BIT) - 1;
    (void)pthread_mutex_lock(&arena->mutex);
    if ((number & NUMBER_BIT) != 0 && place < arena->count) {
        *bytes = arena->regions[place].map.bytes;
        fd = fcntl(arena->regions[place].fd, F_DUPFD_CLOEXEC, 0);
    }
    (void)pthread_mutex_unlock(&arena->mutex);
    return fd;
}
