#include "tests/e2e/client_proxy.h"

#include "base/check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAIRS_MAX 64
#define CHUNK_BYTES 65536

typedef struct carried_pair {
    int client; /* -1: free */
    int server;
} carried_pair;

struct kvs_test_proxy {
    pthread_t thread;
    uint16_t port;
    int listener;
    char address[64];
    carried_pair pairs[PAIRS_MAX];
    atomic_bool stop, lose_replies, lose_requests, refuse;
    _Atomic unsigned cuts_wanted, cuts_done;
    char chunk[CHUNK_BYTES];
};

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Ends it by a reset. */
static void reset(int socket)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(socket, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    (void)close(socket);
}

static void drop(carried_pair *pair)
{
    reset(pair->client);
    reset(pair->server);
    pair->client = -1;
}

static void accept_one(kvs_test_proxy *proxy)
{
    int client = accept4(proxy->listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0) {
        return;
    }
    struct sockaddr_in target = loopback(proxy->port);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    KVS_CHECK(server >= 0);
    if (atomic_load(&proxy->refuse) ||
        connect(server, (const struct sockaddr *)&target, sizeof target) != 0) {
        reset(client);
        reset(server);
        return;
    }
    for (int i = 0; i < PAIRS_MAX; i++) {
        if (proxy->pairs[i].client < 0) {
            proxy->pairs[i] = (carried_pair){client, server};
            return;
        }
    }
    KVS_CHECK(!"more connections than a test needs");
}

/* Carries what there is; false: the connection is over. */
static bool carry(kvs_test_proxy *proxy, int from, int to, bool lose)
{
    ssize_t count = recv(from, proxy->chunk, sizeof proxy->chunk, 0);
    if (count <= 0) {
        return false;
    }
    for (ssize_t done = 0; !lose && done < count;) {
        ssize_t sent = send(to, proxy->chunk + done, (size_t)(count - done), MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        done += sent;
    }
    return true;
}

static void carry_all(kvs_test_proxy *proxy)
{
    struct pollfd polls[2 * PAIRS_MAX + 1] = {{.fd = proxy->listener, .events = POLLIN}};
    for (int i = 0; i < PAIRS_MAX; i++) {
        const carried_pair *pair = &proxy->pairs[i];
        bool open = pair->client >= 0;
        polls[1 + 2 * i] = (struct pollfd){.fd = open ? pair->client : -1, .events = POLLIN};
        polls[2 + 2 * i] = (struct pollfd){.fd = open ? pair->server : -1, .events = POLLIN};
    }
    if (poll(polls, 2 * PAIRS_MAX + 1, 10) <= 0) {
        return;
    }
    for (int i = 0; i < PAIRS_MAX; i++) {
        carried_pair *pair = &proxy->pairs[i];
        bool replies = atomic_load(&proxy->lose_replies);
        bool requests = atomic_load(&proxy->lose_requests);
        if (pair->client >= 0 && polls[1 + 2 * i].revents != 0 &&
            !carry(proxy, pair->client, pair->server, requests)) {
            drop(pair);
        }
        if (pair->client >= 0 && polls[2 + 2 * i].revents != 0 &&
            !carry(proxy, pair->server, pair->client, replies)) {
            drop(pair);
        }
    }
    if (polls[0].revents != 0) {
        accept_one(proxy);
    }
}

static void cut_all(kvs_test_proxy *proxy)
{
    for (int i = 0; i < PAIRS_MAX; i++) {
        if (proxy->pairs[i].client >= 0) {
            drop(&proxy->pairs[i]);
        }
    }
}

static void *run_proxy(void *context)
{
    kvs_test_proxy *proxy = context;
    while (!atomic_load(&proxy->stop)) {
        unsigned wanted = atomic_load(&proxy->cuts_wanted);
        if (wanted != atomic_load(&proxy->cuts_done)) {
            cut_all(proxy);
            atomic_store(&proxy->cuts_done, wanted);
        }
        carry_all(proxy);
    }
    cut_all(proxy);
    return NULL;
}

kvs_test_proxy *kvs_test_proxy_open(uint16_t port)
{
    kvs_test_proxy *proxy = calloc(1, sizeof *proxy);
    KVS_CHECK(proxy != NULL);
    struct sockaddr_in own = loopback(0);
    socklen_t bytes = sizeof own;
    proxy->port = port;
    for (int i = 0; i < PAIRS_MAX; i++) {
        proxy->pairs[i].client = -1;
    }
    proxy->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    KVS_CHECK(proxy->listener >= 0);
    KVS_CHECK(bind(proxy->listener, (const struct sockaddr *)&own, sizeof own) == 0);
    KVS_CHECK(listen(proxy->listener, 64) == 0);
    KVS_CHECK(getsockname(proxy->listener, (struct sockaddr *)&own, &bytes) == 0);
    (void)snprintf(proxy->address, sizeof proxy->address, "127.0.0.1:%u", ntohs(own.sin_port));
    KVS_CHECK(pthread_create(&proxy->thread, NULL, run_proxy, proxy) == 0);
    return proxy;
}

void kvs_test_proxy_close(kvs_test_proxy *proxy)
{
    atomic_store(&proxy->stop, true);
    (void)pthread_join(proxy->thread, NULL);
    (void)close(proxy->listener);
    free(proxy);
}

const char *kvs_test_proxy_address(const kvs_test_proxy *proxy)
{
    return proxy->address;
}

void kvs_test_proxy_cut(kvs_test_proxy *proxy)
{
    unsigned wanted = atomic_fetch_add(&proxy->cuts_wanted, 1) + 1;
    while (atomic_load(&proxy->cuts_done) != wanted) {
        (void)usleep(1000);
    }
}

void kvs_test_proxy_lose_replies(kvs_test_proxy *proxy, bool lose)
{
    atomic_store(&proxy->lose_replies, lose);
}

void kvs_test_proxy_lose_requests(kvs_test_proxy *proxy, bool lose)
{
    atomic_store(&proxy->lose_requests, lose);
}

void kvs_test_proxy_refuse(kvs_test_proxy *proxy, bool refuse)
{
    atomic_store(&proxy->refuse, refuse);
}
