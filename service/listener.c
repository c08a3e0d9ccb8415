#include "service/listener.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "service/listener_address.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define PREFACE_BYTES (sizeof(PREFACE) - 1)
/* The same as the core's own bound on handshakes. */
#define PREFACE_WAIT_NS (5 * KVS_SECOND)
#define SWEEP_NS KVS_SECOND
/* When all places are taken, a flood of peers must not buy a sweep each. */
#define SWEEP_AGAIN_NS (20 * KVS_MS)
/* Accepts in one go: those that wait for their preface must get their turn too. */
#define ACCEPTS_AT_ONCE 64
#define EVENTS_AT_ONCE 64
#define EXHAUSTED_PAUSE_US 20000

/* A connection: waiting for its preface, or with the core, of which only fd and inode are known:
 * once that descriptor names another file, the connection is gone. */
typedef struct kvs_connection {
    struct in6_addr peer; /* IPv4 mapped; zero for Unix */
    ino_t inode;
    int fd; /* -1: free */
    bool waiting;
    bool counted_by_ip;
    uint64_t deadline_ns;
} kvs_connection;

struct kvs_listener {
    kvs_listener_options options;
    char address[KVS_ADDRESS_BYTES];
    char *unix_path;
    uint16_t port;
    int tcp_fd, unix_fd, reserve_fd, epoll_fd, stop_fd;
    pthread_t thread;
    bool running;
    kvs_connection *connections;
    uint64_t next_sweep_ns;
    uint32_t waiting;
    _Atomic uint64_t open, accepted, refused, silent;
};

/* What epoll says of, beside connections (their index). */
enum { EVENT_TCP = -1, EVENT_UNIX = -2, EVENT_STOP = -3 };

static void add(_Atomic uint64_t *counter, uint64_t value)
{
    atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

static void close_connection(kvs_listener *listener, kvs_connection *connection)
{
    (void)close(connection->fd);
    connection->fd = -1;
    if (connection->waiting) {
        connection->waiting = false;
        listener->waiting--;
    }
    atomic_fetch_sub_explicit(&listener->open, 1, memory_order_relaxed);
}

/* Finds connections that the core has closed, and those that have said nothing for too long. */
static void sweep(kvs_listener *listener, uint64_t now_ns)
{
    listener->next_sweep_ns = now_ns + SWEEP_NS;
    for (uint32_t i = 0; i < listener->options.connections_max; i++) {
        kvs_connection *connection = &listener->connections[i];
        if (connection->fd < 0) {
            continue;
        }
        if (connection->waiting) {
            if (now_ns >= connection->deadline_ns) {
                add(&listener->silent, 1);
                close_connection(listener, connection);
            }
            continue;
        }
        struct stat status;
        if (fstat(connection->fd, &status) != 0 || status.st_ino != connection->inode) {
            connection->fd = -1; /* not ours to close */
            atomic_fetch_sub_explicit(&listener->open, 1, memory_order_relaxed);
        }
    }
}

/* ------------------------------------------------------------------ accepting */

static struct in6_addr peer_of(const struct sockaddr_storage *address)
{
    struct in6_addr peer = {0};
    if (address->ss_family == AF_INET6) {
        peer = ((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    } else if (address->ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;
        peer.s6_addr[10] = 0xff;
        peer.s6_addr[11] = 0xff;
        memcpy(&peer.s6_addr[12], &four->sin_addr, 4);
    }
    return peer;
}

/* A free place, or NULL when a bound is reached. */
static kvs_connection *find_place(kvs_listener *listener, const struct in6_addr *peer, bool by_ip)
{
    kvs_connection *place = NULL;
    uint32_t same = 0;
    for (uint32_t i = 0; i < listener->options.connections_max; i++) {
        kvs_connection *connection = &listener->connections[i];
        if (connection->fd < 0) {
            place = place == NULL ? connection : place;
        } else if (connection->counted_by_ip &&
                   memcmp(&connection->peer, peer, sizeof(*peer)) == 0) {
            same++;
        }
    }
    bool over = by_ip && listener->options.connections_per_ip_max != 0 &&
                same >= listener->options.connections_per_ip_max;
    return over ? NULL : place;
}

/* Closes with a reset: the peer knows at once, and nothing lingers here. */
static void refuse(kvs_listener *listener, int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    (void)close(fd);
    add(&listener->refused, 1);
}

static void welcome(kvs_listener *listener, int fd, const struct sockaddr_storage *address,
                    uint64_t now_ns)
{
    bool tcp = address->ss_family == AF_INET || address->ss_family == AF_INET6;
    struct in6_addr peer = peer_of(address);
    kvs_connection *place = find_place(listener, &peer, tcp);
    if (place == NULL && now_ns >= listener->next_sweep_ns - SWEEP_NS + SWEEP_AGAIN_NS) {
        sweep(listener, now_ns);
        place = find_place(listener, &peer, tcp);
    }
    if (place == NULL) {
        refuse(listener, fd);
        return;
    }
    if (tcp) {
        int on = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    if (listener->options.transform != NULL) {
        fd = listener->options.transform(listener->options.context, fd);
        if (fd < 0) {
            add(&listener->refused, 1);
            return;
        }
    }
    struct stat status;
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET,
                                .data.u64 = (uint64_t)(place - listener->connections)};
    if (fstat(fd, &status) != 0 || epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        refuse(listener, fd);
        return;
    }
    *place = (kvs_connection){.peer = peer,
                              .inode = status.st_ino,
                              .fd = fd,
                              .waiting = true,
                              .counted_by_ip = tcp,
                              .deadline_ns = now_ns + PREFACE_WAIT_NS};
    listener->waiting++;
    add(&listener->open, 1);
    add(&listener->accepted, 1);
}

/* No descriptor is left: gives up the reserve to take one connection out of the queue and refuse
 * it, so that peers are not left hanging and the loop does not spin. */
static void refuse_for_want_of_fd(kvs_listener *listener, int listening_fd)
{
    if (listener->reserve_fd >= 0) {
        (void)close(listener->reserve_fd);
        int fd = accept4(listening_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            refuse(listener, fd);
        }
    }
    listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (listener->reserve_fd < 0) { /* somebody else took it: wait for better times */
        (void)usleep(EXHAUSTED_PAUSE_US);
    }
}

static void accept_some(kvs_listener *listener, int listening_fd, uint64_t now_ns)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        struct sockaddr_storage address = {.ss_family = AF_UNIX};
        socklen_t bytes = sizeof(address);
        int fd = accept4(listening_fd, (struct sockaddr *)&address, &bytes,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            welcome(listener, fd, &address, now_ns);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            refuse_for_want_of_fd(listener, listening_fd);
        }
        return; /* EAGAIN, or a peer that has gone again */
    }
}

/* ------------------------------------------------------------------ the preface */

static void look_at_preface(kvs_listener *listener, kvs_connection *connection, uint32_t events)
{
    char bytes[PREFACE_BYTES];
    ssize_t count = recv(connection->fd, bytes, sizeof(bytes), MSG_PEEK);
    if (count < 0 && (errno == EAGAIN || errno == EINTR) && (events & EPOLLERR) == 0) {
        return;
    }
    bool fits = count > 0 && memcmp(bytes, PREFACE, (size_t)count) == 0;
    if (!fits || ((size_t)count < PREFACE_BYTES && (events & EPOLLRDHUP) != 0)) {
        add(&listener->silent, 1);
        close_connection(listener, connection);
        return;
    }
    if ((size_t)count < PREFACE_BYTES) {
        return; /* the rest makes another edge */
    }
    (void)epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    connection->waiting = false;
    listener->waiting--;
    listener->options.adopt(listener->options.context, connection->fd);
}

static void *accept_loop(void *argument)
{
    kvs_listener *listener = argument;
    struct epoll_event events[EVENTS_AT_ONCE];
    for (;;) {
        int count = epoll_wait(listener->epoll_fd, events, EVENTS_AT_ONCE, 500);
        uint64_t now_ns = kvs_clock_now_ns();
        for (int i = 0; i < count; i++) {
            int64_t what = (int64_t)events[i].data.u64;
            if (what == EVENT_STOP) {
                return NULL;
            }
            if (what == EVENT_TCP || what == EVENT_UNIX) {
                accept_some(listener, what == EVENT_TCP ? listener->tcp_fd : listener->unix_fd,
                            now_ns);
            } else if (listener->connections[what].waiting) {
                look_at_preface(listener, &listener->connections[what], events[i].events);
            }
        }
        if (now_ns >= listener->next_sweep_ns) {
            sweep(listener, now_ns);
        }
    }
}

/* ------------------------------------------------------------------ open and close */

static bool watch(kvs_listener *listener, int fd, int64_t what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)what};
    return fd < 0 || epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static kvs_status open_sockets(kvs_listener *listener, kvs_problem *problem)
{
    const kvs_listener_options *options = &listener->options;
    if (options->address != NULL && options->address[0] != '\0') {
        KVS_TRY(kvs_listen_tcp(options->address, options->tcp_congestion, &listener->tcp_fd,
                               listener->address, &listener->port, problem));
    }
    if (options->unix_path != NULL && options->unix_path[0] != '\0') {
        KVS_TRY(kvs_listen_unix(options->unix_path, SOCK_STREAM, &listener->unix_fd, problem));
        listener->unix_path = strdup(options->unix_path);
    }
    return KVS_OK;
}

static bool start(kvs_listener *listener)
{
    listener->connections =
        calloc(listener->options.connections_max, sizeof(*listener->connections));
    listener->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listener->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (listener->connections == NULL || listener->epoll_fd < 0 || listener->stop_fd < 0 ||
        listener->reserve_fd < 0) {
        return false;
    }
    for (uint32_t i = 0; i < listener->options.connections_max; i++) {
        listener->connections[i].fd = -1;
    }
    if (!watch(listener, listener->tcp_fd, EVENT_TCP) ||
        !watch(listener, listener->unix_fd, EVENT_UNIX) ||
        !watch(listener, listener->stop_fd, EVENT_STOP) ||
        pthread_create(&listener->thread, NULL, accept_loop, listener) != 0) {
        return false;
    }
    listener->running = true;
    (void)pthread_setname_np(listener->thread, "kvs-accept");
    return true;
}

kvs_status kvs_listener_open(const kvs_listener_options *options, kvs_listener **out,
                             kvs_problem *problem)
{
    kvs_listener *listener = calloc(1, sizeof(*listener));
    if (listener == NULL) {
        return kvs_problem_set(problem, KVS_NO_MEMORY, "no memory for a listener");
    }
    listener->options = *options;
    listener->tcp_fd = listener->unix_fd = listener->reserve_fd = -1;
    listener->epoll_fd = listener->stop_fd = -1;
    kvs_status status = open_sockets(listener, problem);
    if (status == KVS_OK && !start(listener)) {
        status = kvs_problem_set(problem, KVS_IO_ERROR, "cannot start to accept");
    }
    if (status != KVS_OK) {
        kvs_listener_close(listener);
        return status;
    }
    *out = listener;
    return KVS_OK;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        (void)close(fd);
    }
}

void kvs_listener_close(kvs_listener *listener)
{
    if (listener == NULL) {
        return;
    }
    if (listener->running) {
        uint64_t one = 1;
        ssize_t written = write(listener->stop_fd, &one, sizeof(one));
        (void)written; /* an empty eventfd always takes it */
        (void)pthread_join(listener->thread, NULL);
        for (uint32_t i = 0; i < listener->options.connections_max; i++) {
            if (listener->connections[i].fd >= 0 && listener->connections[i].waiting) {
                close_connection(listener, &listener->connections[i]);
            }
        }
    }
    if (listener->unix_path != NULL) {
        (void)unlink(listener->unix_path);
    }
    close_fd(listener->tcp_fd);
    close_fd(listener->unix_fd);
    close_fd(listener->reserve_fd);
    close_fd(listener->epoll_fd);
    close_fd(listener->stop_fd);
    free(listener->unix_path);
    free(listener->connections);
    free(listener);
}

const char *kvs_listener_address(const kvs_listener *listener)
{
    return listener->address;
}

const char *kvs_listener_unix_path(const kvs_listener *listener)
{
    return listener->unix_path != NULL ? listener->unix_path : "";
}

uint16_t kvs_listener_port(const kvs_listener *listener)
{
    return listener->port;
}

void kvs_listener_count(const kvs_listener *listener, kvs_listener_statistics *out)
{
    out->open = atomic_load_explicit(&listener->open, memory_order_relaxed);
    out->accepted = atomic_load_explicit(&listener->accepted, memory_order_relaxed);
    out->refused = atomic_load_explicit(&listener->refused, memory_order_relaxed);
    out->silent = atomic_load_explicit(&listener->silent, memory_order_relaxed);
}
