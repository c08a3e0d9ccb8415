#include "service/regions.h"

#include "api/kvstored.pb-c.h"
#include "base/log.h"
#include "base/region.h"
#include "service/listener_address.h"
#include "service/pb_call.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 256u
#define REGIONS_PER_CONNECTION 64u
/* A request names a store and a session. */
#define MESSAGE_BYTES_MAX 1024u
#define PAGE_BYTES 4096u
#define EXHAUSTED_PAUSE_US 20000

struct kvs_region {
    kvs_regions *regions;
    kvs_region *next; /* in the list; under its mutex */
    uint64_t number;
    kvs_region_map map;
    uint8_t session[KVS_SESSION_ID_BYTES];
    int connection; /* whose it is */
    _Atomic uint32_t references;
    atomic_bool gone;
};

struct kvs_regions {
    kvs_regions_options options;
    char *path;
    int listening_fd, stop_fd;
    pthread_t thread;
    bool running;
    int connections[CONNECTIONS_MAX]; /* the thread's; -1: free */
    pthread_mutex_t mutex;            /* of the list and the numbers */
    kvs_region *list;
    uint64_t next_number;
    uint64_t count;
    _Atomic uint64_t bytes; /* mapped, also by regions that are gone */
};

/* ------------------------------------------------------------------ one region */

uint64_t kvs_region_number(const kvs_region *region)
{
    return region->number;
}

bool kvs_region_gone(const kvs_region *region)
{
    return atomic_load_explicit(&region->gone, memory_order_acquire);
}

const uint8_t *kvs_region_at(const kvs_region *region, uint64_t offset, uint64_t bytes)
{
    uint64_t all = region->map.bytes;
    return offset <= all && bytes <= all - offset ? region->map.data + offset : NULL;
}

kvs_region *kvs_region_take(kvs_region *region)
{
    atomic_fetch_add_explicit(&region->references, 1, memory_order_relaxed);
    return region;
}

void kvs_region_unref(kvs_region *region)
{
    if (region == NULL ||
        atomic_fetch_sub_explicit(&region->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    atomic_fetch_sub_explicit(&region->regions->bytes, region->map.bytes, memory_order_relaxed);
    kvs_region_unmap(&region->map);
    free(region);
}

kvs_status kvs_regions_find(kvs_regions *regions, uint64_t number,
                            const uint8_t session[KVS_SESSION_ID_BYTES], kvs_region **out,
                            kvs_problem *problem)
{
    kvs_region *found = NULL;
    (void)pthread_mutex_lock(&regions->mutex);
    for (kvs_region *at = regions->list; at != NULL && found == NULL; at = at->next) {
        bool is = at->number == number && memcmp(at->session, session, sizeof at->session) == 0;
        found = is ? kvs_region_take(at) : NULL;
    }
    (void)pthread_mutex_unlock(&regions->mutex);
    if (found == NULL) {
        return kvs_problem_set(problem, KVS_UNAVAILABLE, "the session has no region %llu",
                               (unsigned long long)number);
    }
    *out = found;
    return KVS_OK;
}

/* Those of a connection, or the one of that number: no frame may name them any more. */
static uint32_t drop_regions(kvs_regions *regions, int connection, uint64_t number)
{
    kvs_region *dropped = NULL;
    uint32_t count = 0;
    (void)pthread_mutex_lock(&regions->mutex);
    for (kvs_region **at = &regions->list; *at != NULL;) {
        kvs_region *region = *at;
        if (region->connection != connection || (number != 0 && region->number != number)) {
            at = &region->next;
            continue;
        }
        *at = region->next;
        region->next = dropped;
        dropped = region;
        regions->count--;
        count++;
    }
    (void)pthread_mutex_unlock(&regions->mutex);
    while (dropped != NULL) {
        kvs_region *next = dropped->next;
        atomic_store_explicit(&dropped->gone, true, memory_order_release);
        kvs_region_unref(dropped);
        dropped = next;
    }
    return count;
}

static uint32_t count_of(kvs_regions *regions, int connection)
{
    uint32_t count = 0;
    (void)pthread_mutex_lock(&regions->mutex);
    for (const kvs_region *at = regions->list; at != NULL; at = at->next) {
        count += at->connection == connection ? 1 : 0;
    }
    (void)pthread_mutex_unlock(&regions->mutex);
    return count;
}

/* Takes the bytes from what all regions may have together. Any thread. */
static bool charge(kvs_regions *regions, uint64_t bytes)
{
    uint64_t used = atomic_load_explicit(&regions->bytes, memory_order_relaxed);
    do {
        if (bytes > regions->options.bytes_max || used > regions->options.bytes_max - bytes) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&regions->bytes, &used, used + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

bool kvs_regions_hold(kvs_regions *regions, uint64_t bytes)
{
    return charge(regions, bytes);
}

void kvs_regions_unhold(kvs_regions *regions, uint64_t bytes)
{
    atomic_fetch_sub_explicit(&regions->bytes, bytes, memory_order_relaxed);
}

static kvs_status make_region(kvs_regions *regions, int connection, const uint8_t *session,
                              uint64_t bytes, kvs_region **out, int *fd, kvs_problem *problem)
{
    if (count_of(regions, connection) >= REGIONS_PER_CONNECTION) {
        return kvs_problem_set(problem, KVS_TOO_MANY, "a connection has at most %u regions",
                               REGIONS_PER_CONNECTION);
    }
    if (bytes == 0 || !charge(regions, bytes)) {
        return kvs_problem_set(problem, KVS_OVER_BUDGET,
                               "%llu bytes are not within --shm-max-bytes",
                               (unsigned long long)bytes);
    }
    kvs_region *region = calloc(1, sizeof *region);
    kvs_status status = region == NULL
                            ? KVS_NO_MEMORY
                            : kvs_region_make((size_t)bytes, KVS_REGION_PEER, &region->map, fd);
    if (status != KVS_OK) {
        free(region);
        atomic_fetch_sub_explicit(&regions->bytes, bytes, memory_order_relaxed);
        return kvs_problem_set(problem, status, "no memory for a region");
    }
    region->regions = regions;
    region->connection = connection;
    memcpy(region->session, session, sizeof region->session);
    atomic_init(&region->references, 1);
    (void)pthread_mutex_lock(&regions->mutex);
    region->number = ++regions->next_number;
    region->next = regions->list;
    regions->list = region;
    regions->count++;
    (void)pthread_mutex_unlock(&regions->mutex);
    *out = region;
    return KVS_OK;
}

/* ------------------------------------------------------------------ the socket */

typedef Kvstored__V1__RegionRequest request;
typedef Kvstored__V1__RegionReply reply;

/* False: the peer is not there, or does not take its answers. */
static bool answer(int connection, const reply *from, int fd)
{
    uint8_t bytes[MESSAGE_BYTES_MAX];
    if (kvstored__v1__region_reply__get_packed_size(from) > sizeof bytes) {
        return false;
    }
    size_t used = kvstored__v1__region_reply__pack(from, bytes);
    return kvs_region_send(connection, bytes, used, fd);
}

/* With the descriptor, which is closed here. */
static bool send_region(int connection, const reply *from, int fd)
{
    bool sent = answer(connection, from, fd);
    (void)close(fd);
    return sent;
}

static bool refuse(int connection, const kvs_problem *problem)
{
    const kvs_status_row *row = kvs_status_find(problem->status);
    Kvstored__V1__Problem told = KVSTORED__V1__PROBLEM__INIT;
    reply out = KVSTORED__V1__REGION_REPLY__INIT;
    told.reason = (char *)row->reason; /* read by the packer alone */
    told.detail = (char *)problem->detail;
    told.code = row->grpc_code;
    out.problem = &told;
    return answer(connection, &out, -1);
}

static kvs_status check_session(const kvs_regions *regions, const request *in, kvs_problem *problem)
{
    kvs_session *session = NULL;
    KVS_TRY(kvs_door_find(regions->options.door, in->store, strlen(in->store), in->session.data,
                          in->session.len, in->epoch, NULL, &session, problem));
    kvs_session_unref(session);
    return KVS_OK;
}

static bool serve(kvs_regions *regions, int connection, const request *in)
{
    kvs_problem problem = {.status = KVS_OK};
    reply out = KVSTORED__V1__REGION_REPLY__INIT;
    kvs_region *region = NULL;
    int fd = -1;
    if (check_session(regions, in, &problem) != KVS_OK) {
        return refuse(connection, &problem);
    }
    if (in->release != 0) {
        if (drop_regions(regions, connection, in->release) == 0) {
            (void)kvs_problem_set(&problem, KVS_INVALID_FIELD, "the connection has no region %llu",
                                  (unsigned long long)in->release);
            return refuse(connection, &problem);
        }
        return answer(connection, &out, -1);
    }
    if (in->map != 0) {
        size_t mapped;
        fd = regions->options.arena == NULL
                 ? -1
                 : kvs_arena_descriptor(regions->options.arena, in->map, &mapped);
        if (fd < 0) {
            (void)kvs_problem_set(&problem, KVS_INVALID_FIELD, "no region %llu has values",
                                  (unsigned long long)in->map);
            return refuse(connection, &problem);
        }
        out.region = in->map;
        out.bytes = mapped;
        return send_region(connection, &out, fd);
    }
    uint64_t bytes = in->bytes > UINT64_MAX - PAGE_BYTES
                         ? in->bytes
                         : (in->bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    if (make_region(regions, connection, in->session.data, bytes, &region, &fd, &problem) !=
        KVS_OK) {
        return refuse(connection, &problem);
    }
    out.region = region->number;
    out.bytes = bytes;
    return send_region(connection, &out, fd);
}

/* One message. False: the connection is to be closed. */
static bool look(kvs_regions *regions, int connection)
{
    uint8_t bytes[MESSAGE_BYTES_MAX];
    int fd = -1;
    ptrdiff_t count = kvs_region_receive(connection, bytes, sizeof bytes, &fd);
    if (fd >= 0) {
        (void)close(fd); /* nobody's memory but our own is shared */
    }
    if (count <= 0) {
        return count < 0 && (errno == EAGAIN || errno == EINTR);
    }
    request *in = kvstored__v1__region_request__unpack(NULL, (size_t)count, bytes);
    if (in == NULL) {
        return false;
    }
    bool goes_on = serve(regions, connection, in);
    kvstored__v1__region_request__free_unpacked(in, NULL);
    return goes_on;
}

/* A process of this server's user, or root's. */
static bool welcome(int connection)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void accept_one(kvs_regions *regions)
{
    int fd = accept4(regions->listening_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    uint32_t place = 0;
    if (fd < 0) {
        if (errno != EAGAIN) { /* no descriptor is left, and the peer waits on */
            (void)usleep(EXHAUSTED_PAUSE_US);
        }
        return;
    }
    while (place < CONNECTIONS_MAX && regions->connections[place] >= 0) {
        place++;
    }
    if (place == CONNECTIONS_MAX || !welcome(fd)) {
        kvs_log(KVS_LOG_WARN, "region_peer_refused", "reason=%s",
                place == CONNECTIONS_MAX ? "too_many" : "another_user");
        (void)close(fd);
        return;
    }
    regions->connections[place] = fd;
}

static void hang_up(kvs_regions *regions, uint32_t place)
{
    int fd = regions->connections[place];
    (void)drop_regions(regions, fd, 0);
    regions->connections[place] = -1;
    (void)close(fd);
}

static void *serve_loop(void *argument)
{
    kvs_regions *regions = argument;
    struct pollfd polled[CONNECTIONS_MAX + 2];
    uint32_t places[CONNECTIONS_MAX + 2];
    for (;;) {
        nfds_t count = 0;
        polled[count++] = (struct pollfd){.fd = regions->stop_fd, .events = POLLIN};
        polled[count++] = (struct pollfd){.fd = regions->listening_fd, .events = POLLIN};
        for (uint32_t i = 0; i < CONNECTIONS_MAX; i++) {
            if (regions->connections[i] >= 0) {
                places[count] = i;
                polled[count++] = (struct pollfd){.fd = regions->connections[i], .events = POLLIN};
            }
        }
        if (poll(polled, count, -1) < 0) {
            continue;
        }
        if (polled[0].revents != 0) {
            return NULL;
        }
        for (nfds_t i = 2; i < count; i++) {
            if (polled[i].revents != 0 && !look(regions, polled[i].fd)) {
                hang_up(regions, places[i]);
            }
        }
        if (polled[1].revents != 0) {
            accept_one(regions);
        }
    }
}

/* ------------------------------------------------------------------ open and close */

static kvs_status start(kvs_regions *regions, kvs_problem *problem)
{
    size_t bytes = strlen(regions->options.unix_path) + sizeof ".shm";
    regions->path = malloc(bytes);
    if (regions->path == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for regions");
    }
    (void)strcpy(regions->path, regions->options.unix_path);
    (void)strcat(regions->path, ".shm");
    kvs_status status =
        kvs_listen_unix(regions->path, SOCK_SEQPACKET, &regions->listening_fd, problem);
    if (status != KVS_OK) {
        free(regions->path); /* the file is not ours */
        regions->path = NULL;
        return status;
    }
    regions->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (regions->stop_fd < 0 || pthread_create(&regions->thread, NULL, serve_loop, regions) != 0) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "cannot start to share memory");
    }
    regions->running = true;
    (void)pthread_setname_np(regions->thread, "kvs-regions");
    return KVS_OK;
}

kvs_status kvs_regions_open(const kvs_regions_options *options, kvs_regions **out,
                            kvs_problem *problem)
{
    kvs_regions *regions = calloc(1, sizeof *regions);
    if (regions == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for regions");
    }
    regions->options = *options;
    regions->listening_fd = regions->stop_fd = -1;
    for (uint32_t i = 0; i < CONNECTIONS_MAX; i++) {
        regions->connections[i] = -1;
    }
    (void)pthread_mutex_init(&regions->mutex, NULL);
    kvs_status status = start(regions, problem);
    if (status != KVS_OK) {
        kvs_regions_close(regions);
        kvs_regions_free(regions);
        return status;
    }
    *out = regions;
    return KVS_OK;
}

void kvs_regions_close(kvs_regions *regions)
{
    if (regions == NULL) {
        return;
    }
    if (regions->running) {
        uint64_t one = 1;
        ssize_t written = write(regions->stop_fd, &one, sizeof one);
        (void)written; /* an empty eventfd always takes it */
        (void)pthread_join(regions->thread, NULL);
        regions->running = false;
    }
    for (uint32_t i = 0; i < CONNECTIONS_MAX; i++) {
        if (regions->connections[i] >= 0) {
            hang_up(regions, i);
        }
    }
    if (regions->path != NULL) {
        (void)unlink(regions->path);
    }
    if (regions->listening_fd >= 0) {
        (void)close(regions->listening_fd);
    }
    if (regions->stop_fd >= 0) {
        (void)close(regions->stop_fd);
    }
    regions->listening_fd = regions->stop_fd = -1;
    free(regions->path);
    regions->path = NULL;
}

void kvs_regions_free(kvs_regions *regions)
{
    if (regions != NULL) {
        (void)pthread_mutex_destroy(&regions->mutex);
        free(regions);
    }
}

void kvs_regions_count(kvs_regions *regions, kvs_regions_statistics *out)
{
    (void)pthread_mutex_lock(&regions->mutex);
    out->regions = regions->count;
    (void)pthread_mutex_unlock(&regions->mutex);
    out->bytes = atomic_load_explicit(&regions->bytes, memory_order_relaxed);
}
