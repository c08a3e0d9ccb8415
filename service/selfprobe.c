#include "service/selfprobe.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "service/listener_address.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_DEFAULT_NS (5 * KVS_SECOND)
#define PATIENCE_DEFAULT_NS (3 * KVS_SECOND)
/* Of so many doubts in a row the door is dead: three times silent, or slow for two minutes. */
#define DOUBTS_MAX 18u
#define DOUBTS_SILENT 6u
#define DOUBTS_SLOW 1u

/* The preface and an empty SETTINGS; a call of Health.Check with these headers on stream 1
 * (RFC 7541: static table, literals without indexing); an empty message that ends the stream. */
static const char request[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                              "\0\0\0\x04\0\0\0\0\0"
                              "\0\0\x4b\x01\x04\0\0\0\x01"
                              "\x83\x86"
                              "\x04\x1c/grpc.health.v1.Health/Check"
                              "\x01\x09localhost"
                              "\x0f\x10\x10"
                              "application/grpc"
                              "\x00\x02te\x08trailers"
                              "\0\0\x05\0\x01\0\0\0\x01"
                              "\0\0\0\0\0";
#define HEADERS_AT (24 + 9 + 9)
#define HEADERS_BYTES (sizeof(request) - 1 - HEADERS_AT - 9 - 5)
_Static_assert(HEADERS_BYTES == 0x4b, "the length of the HEADERS frame");

#define FRAME_HEAD_BYTES 9u
#define FRAME_DATA 0u

typedef enum verdict { ALIVE, SLOW, SILENT, UNKNOWN } verdict;

struct kvs_selfprobe {
    kvs_selfprobe_options options;
    char *address;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool closing;
    atomic_bool healthy;
    _Atomic uint64_t failures;
};

static bool wait_for(int fd, short events, uint64_t end_ns)
{
    uint64_t now_ns = kvs_clock_now_ns();
    if (now_ns >= end_ns) {
        return false;
    }
    struct pollfd ready = {.fd = fd, .events = events};
    return poll(&ready, 1, (int)((end_ns - now_ns) / KVS_MS) + 1) > 0;
}

static bool write_all(int fd, uint64_t end_ns)
{
    size_t sent = 0;
    while (sent < sizeof(request) - 1) {
        ssize_t count = send(fd, request + sent, sizeof(request) - 1 - sent, MSG_NOSIGNAL);
        if (count > 0) {
            sent += (size_t)count;
        } else if (errno != EAGAIN || !wait_for(fd, POLLOUT, end_ns)) {
            return false;
        }
    }
    return true;
}

static bool read_all(int fd, uint8_t *out, size_t bytes, uint64_t end_ns)
{
    size_t got = 0;
    while (got < bytes) {
        ssize_t count = recv(fd, out + got, bytes - got, 0);
        if (count > 0) {
            got += (size_t)count;
        } else if (count == 0 || errno != EAGAIN || !wait_for(fd, POLLIN, end_ns)) {
            return false;
        }
    }
    return true;
}

/* Reads frames until one brings data for the call: whatever state it tells, somebody answered. */
static bool answered(int fd, uint64_t end_ns)
{
    uint8_t head[FRAME_HEAD_BYTES];
    while (read_all(fd, head, sizeof(head), end_ns)) {
        size_t bytes = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
        if (head[3] == FRAME_DATA && head[8] == 1 && bytes >= 5) {
            return true;
        }
        while (bytes > 0) {
            uint8_t rest[256];
            size_t some = bytes < sizeof(rest) ? bytes : sizeof(rest);
            if (!read_all(fd, rest, some, end_ns)) {
                return false;
            }
            bytes -= some;
        }
    }
    return false;
}

static uint64_t count_served(const kvs_selfprobe *probe)
{
    return probe->options.served == NULL ? 0 : probe->options.served(probe->options.context);
}

/* `served`: as it was at the probe before. */
static verdict probe_once(const kvs_selfprobe *probe, uint64_t served)
{
    kvs_listener_statistics before;
    kvs_listener_statistics after;
    kvs_listener_count(probe->options.listener, &before);
    uint64_t end_ns = kvs_clock_now_ns() + probe->options.patience_ns;
    int fd = kvs_connect_to(probe->address);
    if (fd < 0) {
        return errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ? UNKNOWN
                                                                                         : SILENT;
    }
    bool alive = wait_for(fd, POLLOUT, end_ns) && write_all(fd, end_ns) && answered(fd, end_ns);
    (void)close(fd);
    kvs_listener_count(probe->options.listener, &after);
    if (alive) {
        return ALIVE;
    }
    if (after.refused != before.refused) {
        return UNKNOWN;
    }
    return after.accepted != before.accepted && count_served(probe) != served ? SLOW : SILENT;
}

/* False: it is closing. */
static bool pause_between(kvs_selfprobe *probe)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t nanoseconds = (uint64_t)until.tv_nsec + probe->options.interval_ns;
    until.tv_sec += (time_t)(nanoseconds / KVS_SECOND);
    until.tv_nsec = (long)(nanoseconds % KVS_SECOND);
    pthread_mutex_lock(&probe->lock);
    while (!probe->closing &&
           pthread_cond_timedwait(&probe->wake, &probe->lock, &until) != ETIMEDOUT) {
    }
    bool closing = probe->closing;
    pthread_mutex_unlock(&probe->lock);
    return !closing;
}

static void *probe_loop(void *argument)
{
    static const uint32_t doubts_of[] = {[SLOW] = DOUBTS_SLOW, [SILENT] = DOUBTS_SILENT};
    kvs_selfprobe *probe = argument;
    uint64_t served = count_served(probe);
    uint32_t doubts = 0;
    bool told = false;
    do {
        verdict found = probe_once(probe, served);
        served = count_served(probe);
        if (found == UNKNOWN) {
            continue;
        }
        atomic_store_explicit(&probe->healthy, found == ALIVE, memory_order_relaxed);
        doubts = found == ALIVE ? 0 : doubts + doubts_of[found];
        if (found != ALIVE) {
            atomic_fetch_add_explicit(&probe->failures, 1, memory_order_relaxed);
            kvs_log(KVS_LOG_WARN, "selfprobe_failed", "slow=%d doubts=%u of=%u", found == SLOW,
                    doubts, DOUBTS_MAX);
        }
        if (doubts >= DOUBTS_MAX && !told) {
            told = true;
            kvs_log(KVS_LOG_ERROR, "listener_dead", "address=%s", probe->address);
            probe->options.dead(probe->options.context);
        }
    } while (pause_between(probe));
    return NULL;
}

kvs_status kvs_selfprobe_open(const kvs_selfprobe_options *options, kvs_selfprobe **out)
{
    kvs_selfprobe *probe = calloc(1, sizeof(*probe));
    char *address = strdup(options->address);
    if (probe == NULL || address == NULL) {
        free(probe);
        free(address);
        return KVS_NO_MEMORY;
    }
    probe->options = *options;
    if (options->interval_ns == 0) {
        probe->options.interval_ns = INTERVAL_DEFAULT_NS;
    }
    if (options->patience_ns == 0) {
        probe->options.patience_ns = PATIENCE_DEFAULT_NS;
    }
    probe->address = address;
    pthread_mutex_init(&probe->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&probe->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    if (pthread_create(&probe->thread, NULL, probe_loop, probe) != 0) {
        pthread_cond_destroy(&probe->wake);
        pthread_mutex_destroy(&probe->lock);
        free(address);
        free(probe);
        return KVS_NO_MEMORY;
    }
    (void)pthread_setname_np(probe->thread, "kvs-probe");
    *out = probe;
    return KVS_OK;
}

void kvs_selfprobe_close(kvs_selfprobe *probe)
{
    if (probe == NULL) {
        return;
    }
    pthread_mutex_lock(&probe->lock);
    probe->closing = true;
    pthread_cond_signal(&probe->wake);
    pthread_mutex_unlock(&probe->lock);
    (void)pthread_join(probe->thread, NULL);
    pthread_cond_destroy(&probe->wake);
    pthread_mutex_destroy(&probe->lock);
    free(probe->address);
    free(probe);
}

bool kvs_selfprobe_healthy(const kvs_selfprobe *probe)
{
    return atomic_load_explicit(&probe->healthy, memory_order_relaxed);
}

uint64_t kvs_selfprobe_failures(const kvs_selfprobe *probe)
{
    return atomic_load_explicit(&probe->failures, memory_order_relaxed);
}
