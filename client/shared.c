#include "client/shared.h"

#include "api/kvstored.pb-c.h"
#include "base/region.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define SESSION_BYTES 16u
#define ALIGN_BYTES ((size_t)64)
/* Asked for at once: the server makes a few large ones rather than many small. */
#define ARENA_BYTES ((size_t)64 << 20)
#define ARENAS_MAX 256u
#define MESSAGE_BYTES_MAX 1024u
#define ANSWER_SECONDS 5

/* A region that the server has given, used from its beginning on. */
typedef struct arena {
    kvs_region_map map;
    size_t used;
    size_t given;    /* pieces that are out */
    uint64_t number; /* 0: the server knows it no more */
} arena;

/* A region of the server's, mapped to be read. */
typedef struct source {
    kvs_region_map map;
    uint64_t number;
    int fd;
} source;

/* Given back to an arena that the server knows, to be given out again as it is. */
typedef struct chunk {
    uint8_t *data;
    size_t bytes;
} chunk;

struct kvs_shared {
    _Atomic uint32_t references;
    pthread_mutex_t mutex;
    struct sockaddr_un address;
    char *store;
    int socket; /* -1: not connected */
    bool has_session;
    bool refused; /* this session's server says nothing */
    bool full;    /* it gives no more */
    uint8_t session[SESSION_BYTES];
    uint64_t epoch;
    arena arenas[ARENAS_MAX];
    size_t count;
    chunk *chunks;
    size_t chunk_count, chunk_room;
    source *sources; /* the polling thread's */
    size_t source_count;
};

kvs_shared *kvs_shared_open(const char *address, const char *store)
{
    static const char scheme[] = "unix:";
    static const char suffix[] = ".shm";
    if (strncmp(address, scheme, sizeof scheme - 1) != 0) {
        return NULL;
    }
    const char *path = address + sizeof scheme - 1;
    kvs_shared *shared = calloc(1, sizeof *shared);
    if (shared == NULL || strlen(path) + sizeof suffix > sizeof shared->address.sun_path) {
        free(shared);
        return NULL;
    }
    shared->store = strdup(store);
    if (shared->store == NULL) {
        free(shared);
        return NULL;
    }
    shared->address.sun_family = AF_UNIX;
    (void)strcpy(shared->address.sun_path, path);
    (void)strcat(shared->address.sun_path, suffix);
    shared->socket = -1;
    atomic_init(&shared->references, 1);
    (void)pthread_mutex_init(&shared->mutex, NULL);
    return shared;
}

/* Those that the server knows no more, once nothing of them is out: they would keep their pages. */
static void drop_arenas(kvs_shared *shared)
{
    for (size_t i = shared->count; i-- > 0;) {
        if (shared->arenas[i].number == 0 && shared->arenas[i].given == 0) {
            kvs_region_unmap(&shared->arenas[i].map);
            shared->arenas[i] = shared->arenas[--shared->count];
        }
    }
}

static void hang_up(kvs_shared *shared)
{
    if (shared->socket >= 0) {
        (void)close(shared->socket);
        shared->socket = -1;
    }
    for (size_t i = 0; i < shared->count; i++) {
        shared->arenas[i].number = 0;
    }
    shared->chunk_count = 0;
    drop_arenas(shared);
    for (size_t i = 0; i < shared->source_count; i++) {
        kvs_region_unmap(&shared->sources[i].map);
        (void)close(shared->sources[i].fd);
    }
    free(shared->sources);
    shared->sources = NULL;
    shared->source_count = 0;
}

kvs_shared *kvs_shared_take(kvs_shared *shared)
{
    if (shared != NULL) {
        atomic_fetch_add_explicit(&shared->references, 1, memory_order_relaxed);
    }
    return shared;
}

void kvs_shared_unref(kvs_shared *shared)
{
    if (shared == NULL ||
        atomic_fetch_sub_explicit(&shared->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    for (size_t i = 0; i < shared->count; i++) {
        kvs_region_unmap(&shared->arenas[i].map);
    }
    (void)pthread_mutex_destroy(&shared->mutex);
    free(shared->chunks);
    free(shared->store);
    free(shared);
}

void kvs_shared_close(kvs_shared *shared)
{
    if (shared == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&shared->mutex);
    hang_up(shared);
    shared->refused = true;
    (void)pthread_mutex_unlock(&shared->mutex);
    kvs_shared_unref(shared);
}

/* Has the other side closed it? It says nothing unasked. */
static bool is_closed(int socket)
{
    struct pollfd polled = {.fd = socket, .events = POLLIN | POLLRDHUP};
    return poll(&polled, 1, 0) != 0;
}

void kvs_shared_begin(kvs_shared *shared, const uint8_t *session, size_t session_bytes,
                      uint64_t epoch)
{
    if (shared == NULL || session_bytes != SESSION_BYTES) {
        return;
    }
    (void)pthread_mutex_lock(&shared->mutex);
    bool same = shared->has_session && shared->epoch == epoch &&
                memcmp(shared->session, session, SESSION_BYTES) == 0;
    if (!same || (shared->socket >= 0 && is_closed(shared->socket))) {
        hang_up(shared);
        shared->refused = shared->full = false;
    }
    shared->has_session = true;
    shared->epoch = epoch;
    memcpy(shared->session, session, SESSION_BYTES);
    (void)pthread_mutex_unlock(&shared->mutex);
}

/* ------------------------------------------------------------------ asking the server */

static bool connect_to(kvs_shared *shared)
{
    struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (made < 0) {
        return false;
    }
    (void)setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    (void)setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(made, (const struct sockaddr *)&shared->address, sizeof shared->address) != 0) {
        (void)close(made);
        return false;
    }
    shared->socket = made;
    return true;
}

/* What came of a question. */
typedef enum answer { NO_ANSWER, REFUSED, GIVEN } answer;

static bool ask(kvs_shared *shared, size_t bytes, uint64_t map)
{
    uint8_t message[MESSAGE_BYTES_MAX];
    Kvstored__V1__RegionRequest request = KVSTORED__V1__REGION_REQUEST__INIT;
    request.store = shared->store;
    request.session.data = shared->session;
    request.session.len = SESSION_BYTES;
    request.epoch = shared->epoch;
    request.bytes = bytes;
    request.map = map;
    if (kvstored__v1__region_request__get_packed_size(&request) > sizeof message) {
        return false;
    }
    size_t used = kvstored__v1__region_request__pack(&request, message);
    return kvs_region_send(shared->socket, message, used, -1);
}

/* Maps what has come; *fd is the caller's then. */
static answer take_answer(kvs_shared *shared, kvs_region_writer writer, source *out)
{
    uint8_t message[MESSAGE_BYTES_MAX];
    int fd = -1;
    answer taken = NO_ANSWER;
    ptrdiff_t count = kvs_region_receive(shared->socket, message, sizeof message, &fd);
    Kvstored__V1__RegionReply *reply = NULL;
    if (count > 0) {
        reply = kvstored__v1__region_reply__unpack(NULL, (size_t)count, message);
    }
    if (reply != NULL && reply->problem != NULL) {
        taken = REFUSED;
    } else if (reply != NULL && fd >= 0 && reply->region != 0 &&
               kvs_region_attach(fd, (size_t)reply->bytes, writer, &out->map) == KVS_OK) {
        out->number = reply->region;
        out->fd = fd;
        taken = GIVEN;
    }
    if (reply != NULL) {
        kvstored__v1__region_reply__free_unpacked(reply, NULL);
    }
    if (fd >= 0 && taken != GIVEN) {
        (void)close(fd);
    }
    return taken;
}

/* Asks for a region of so many bytes, or for that of the server's. After no answer nothing more is
 * asked of this session's server. */
static answer ask_for(kvs_shared *shared, size_t bytes, uint64_t map, source *out)
{
    answer taken = NO_ANSWER;
    if (!shared->has_session || shared->refused) {
        return REFUSED;
    }
    if (shared->socket >= 0 || connect_to(shared)) {
        taken = ask(shared, bytes, map)
                    ? take_answer(shared, map != 0 ? KVS_REGION_MAKER : KVS_REGION_PEER, out)
                    : NO_ANSWER;
    }
    if (taken == NO_ANSWER) {
        hang_up(shared);
        shared->refused = true;
    }
    return taken;
}

static arena *add_arena(kvs_shared *shared, size_t bytes)
{
    source made;
    if (shared->full || shared->count == ARENAS_MAX || ask_for(shared, bytes, 0, &made) != GIVEN) {
        return NULL;
    }
    (void)close(made.fd);
    arena *next = &shared->arenas[shared->count++];
    *next = (arena){.map = made.map, .number = made.number};
    return next;
}

/* ------------------------------------------------------------------ values of the server's */

static source *find_source(kvs_shared *shared, uint64_t number)
{
    for (size_t i = 0; i < shared->source_count; i++) {
        if (shared->sources[i].number == number) {
            return &shared->sources[i];
        }
    }
    source *sources = realloc(shared->sources, (shared->source_count + 1) * sizeof *sources);
    if (sources == NULL) {
        return NULL;
    }
    shared->sources = sources;
    source *next = &sources[shared->source_count];
    if (ask_for(shared, 0, number, next) != GIVEN) {
        return NULL;
    }
    shared->source_count++;
    return next;
}

const uint8_t *kvs_shared_read(kvs_shared *shared, uint64_t region, uint64_t offset, uint64_t bytes)
{
    const uint8_t *found = NULL;
    if (shared == NULL) {
        return NULL;
    }
    (void)pthread_mutex_lock(&shared->mutex);
    const source *in = find_source(shared, region);
    if (in != NULL && offset <= in->map.bytes && bytes <= in->map.bytes - offset) {
        found = in->map.data + offset;
    }
    (void)pthread_mutex_unlock(&shared->mutex);
    return found;
}

bool kvs_shared_map(kvs_shared *shared, uint64_t region, uint64_t offset, uint64_t bytes, void *at)
{
    bool mapped = false;
    if (shared == NULL) {
        return false;
    }
    (void)pthread_mutex_lock(&shared->mutex);
    const source *in = find_source(shared, region);
    if (in != NULL && offset <= in->map.bytes && bytes <= in->map.bytes - offset) {
        mapped = mmap(at, (size_t)bytes, PROT_READ, MAP_SHARED | MAP_FIXED, in->fd,
                      (off_t)offset) != MAP_FAILED;
    }
    (void)pthread_mutex_unlock(&shared->mutex);
    return mapped;
}

bool kvs_shared_works(kvs_shared *shared)
{
    if (shared == NULL) {
        return false;
    }
    (void)pthread_mutex_lock(&shared->mutex);
    bool works = shared->has_session && !shared->refused;
    if (works && shared->socket < 0 && !connect_to(shared)) {
        shared->refused = true;
        works = false;
    }
    (void)pthread_mutex_unlock(&shared->mutex);
    return works;
}

/* ------------------------------------------------------------------ giving it out */

/* NULL: it lies in none. */
static arena *arena_of(kvs_shared *shared, const uint8_t *at, uint64_t bytes)
{
    uintptr_t place = (uintptr_t)at;
    for (size_t i = 0; i < shared->count; i++) {
        arena *one = &shared->arenas[i];
        uintptr_t begin = (uintptr_t)one->map.data;
        if (place >= begin && place - begin <= one->map.bytes &&
            bytes <= one->map.bytes - (place - begin)) {
            return one;
        }
    }
    return NULL;
}

/* One that was given back, and is not much too large. */
static uint8_t *take_chunk(kvs_shared *shared, size_t bytes)
{
    size_t best = shared->chunk_count;
    for (size_t i = 0; i < shared->chunk_count; i++) {
        size_t has = shared->chunks[i].bytes;
        if (has >= bytes && has - bytes <= bytes / 4 &&
            (best == shared->chunk_count || has < shared->chunks[best].bytes)) {
            best = i;
        }
    }
    if (best == shared->chunk_count) {
        return NULL;
    }
    uint8_t *data = shared->chunks[best].data;
    shared->chunks[best] = shared->chunks[--shared->chunk_count];
    arena_of(shared, data, bytes)->given++;
    return data;
}

static uint8_t *take_fresh(kvs_shared *shared, size_t bytes)
{
    arena *from = NULL;
    for (size_t i = shared->count; i-- > 0 && from == NULL;) {
        arena *one = &shared->arenas[i];
        from = one->number != 0 && bytes <= one->map.bytes - one->used ? one : NULL;
    }
    if (from == NULL && bytes < ARENA_BYTES) {
        from = add_arena(shared, ARENA_BYTES);
    }
    if (from == NULL) {
        from = add_arena(shared, bytes);
    }
    if (from == NULL) {
        shared->full = true; /* not asked again and again */
        return NULL;
    }
    from->used += bytes;
    from->given++;
    return from->map.data + from->used - bytes;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

uint8_t *kvs_shared_alloc(kvs_shared *shared, size_t bytes)
{
    if (shared == NULL || bytes > SIZE_MAX / 2) {
        return NULL;
    }
    (void)pthread_mutex_lock(&shared->mutex);
    uint8_t *out = take_chunk(shared, aligned(bytes));
    if (out == NULL) {
        out = take_fresh(shared, aligned(bytes));
    }
    (void)pthread_mutex_unlock(&shared->mutex);
    return out;
}

static void keep_chunk(kvs_shared *shared, uint8_t *memory, size_t bytes)
{
    if (shared->chunk_count == shared->chunk_room) {
        size_t room = shared->chunk_room == 0 ? 16 : 2 * shared->chunk_room;
        chunk *chunks = realloc(shared->chunks, room * sizeof *chunks);
        if (chunks == NULL) {
            return; /* it is lost until the session's end */
        }
        shared->chunks = chunks;
        shared->chunk_room = room;
    }
    shared->chunks[shared->chunk_count++] = (chunk){memory, bytes};
}

void kvs_shared_free(kvs_shared *shared, uint8_t *memory, size_t bytes)
{
    (void)pthread_mutex_lock(&shared->mutex);
    arena *from = arena_of(shared, memory, bytes);
    from->given--;
    if (from->number != 0) {
        keep_chunk(shared, memory, aligned(bytes));
    } else {
        drop_arenas(shared);
    }
    (void)pthread_mutex_unlock(&shared->mutex);
}

bool kvs_shared_find(kvs_shared *shared, const uint8_t *at, uint64_t bytes, uint64_t *region,
                     uint64_t *offset)
{
    if (shared == NULL) {
        return false;
    }
    (void)pthread_mutex_lock(&shared->mutex);
    const arena *one = arena_of(shared, at, bytes);
    bool known = one != NULL && one->number != 0;
    if (known) {
        *region = one->number;
        *offset = (uint64_t)(at - one->map.data);
    }
    (void)pthread_mutex_unlock(&shared->mutex);
    return known;
}
