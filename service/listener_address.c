#include "service/listener_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 512

/* "host:port" or "[host]:port" in two. */
static bool split(const char *address, char host[KVS_ADDRESS_BYTES], char port[8])
{
    const char *colon = strrchr(address, ':');
    if (colon == NULL || colon == address || strlen(colon + 1) == 0 || strlen(colon + 1) > 5 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1)) {
        return false;
    }
    size_t bytes = (size_t)(colon - address);
    if (address[0] == '[') {
        if (bytes < 3 || address[bytes - 1] != ']') {
            return false;
        }
        address++;
        bytes -= 2;
    } else if (memchr(address, ':', bytes) != NULL) {
        return false; /* an IPv6 address without brackets */
    }
    if (bytes >= KVS_ADDRESS_BYTES) {
        return false;
    }
    memcpy(host, address, bytes);
    host[bytes] = '\0';
    (void)snprintf(port, 8, "%s", colon + 1);
    return true;
}

static kvs_status io_problem(kvs_problem *problem, const char *what, const char *where)
{
    char text[96];
    const char *reason = strerror_r(errno, text, sizeof(text));
    return kvs_problem_set(problem, KVS_IO_ERROR, "cannot %s %s: %s", what, where, reason);
}

static int listen_at(const struct addrinfo *info, const char *congestion)
{
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    int on = 1;
    /* Without SO_REUSEPORT: two servers that share a port unknowingly would each get half. */
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (info->ai_family == AF_INET6) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    bool done = true;
    if (congestion != NULL && congestion[0] != '\0') { /* accepted sockets inherit it */
        done = setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion,
                          (socklen_t)strlen(congestion)) == 0;
    }
    if (!done || bind(fd, info->ai_addr, info->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int error = errno;
        (void)close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static void print_address(int fd, char text[KVS_ADDRESS_BYTES], uint16_t *port)
{
    struct sockaddr_storage address = {0};
    socklen_t bytes = sizeof(address);
    char host[INET6_ADDRSTRLEN] = "";
    *port = 0;
    if (getsockname(fd, (struct sockaddr *)&address, &bytes) == 0 &&
        address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)&address;
        (void)inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof(host));
        *port = ntohs(six->sin6_port);
        (void)snprintf(text, KVS_ADDRESS_BYTES, "[%s]:%u", host, (unsigned)*port);
        return;
    }
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)&address;
    (void)inet_ntop(AF_INET, &four->sin_addr, host, sizeof(host));
    *port = ntohs(four->sin_port);
    (void)snprintf(text, KVS_ADDRESS_BYTES, "%s:%u", host, (unsigned)*port);
}

kvs_status kvs_listen_tcp(const char *address, const char *congestion, int *out,
                          char text[KVS_ADDRESS_BYTES], uint16_t *port, kvs_problem *problem)
{
    char host[KVS_ADDRESS_BYTES];
    char service[8];
    if (!split(address, host, service)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "\"%s\" is no address: give host:port or [host]:port", address);
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int error = getaddrinfo(host, service, &hints, &list);
    if (error != 0) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD, "\"%s\": %s", address,
                               gai_strerror(error));
    }
    int fd = -1;
    for (const struct addrinfo *info = list; info != NULL && fd < 0; info = info->ai_next) {
        fd = listen_at(info, congestion);
    }
    freeaddrinfo(list);
    if (fd < 0) {
        return io_problem(problem, "listen at", address);
    }
    print_address(fd, text, port);
    *out = fd;
    return KVS_OK;
}

/* True when the file is a socket that nobody answers at. */
static bool stale(const struct sockaddr_un *address)
{
    struct stat status;
    if (lstat(address->sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) {
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return false;
    }
    bool dead = connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 &&
                errno == ECONNREFUSED;
    (void)close(fd);
    return dead;
}

kvs_status kvs_listen_unix(const char *path, int type, int *out, kvs_problem *problem)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "the path of a Unix socket has at most %zu bytes",
                               sizeof(address.sun_path) - 1);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return io_problem(problem, "make a socket for", path);
    }
    int bound = bind(fd, (const struct sockaddr *)&address, sizeof(address));
    if (bound != 0 && errno == EADDRINUSE && stale(&address)) {
        (void)unlink(path);
        bound = bind(fd, (const struct sockaddr *)&address, sizeof(address));
    }
    if (bound != 0 || listen(fd, BACKLOG) != 0) {
        kvs_status status = io_problem(problem, "listen at", path);
        (void)close(fd);
        return status;
    }
    *out = fd;
    return KVS_OK;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        int error = errno;
        (void)close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int kvs_connect_to(const char *address)
{
    char host[KVS_ADDRESS_BYTES];
    char service[8];
    if (address[0] == '/') {
        return connect_unix(address);
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    if (!split(address, host, service) || getaddrinfo(host, service, &hints, &list) != 0) {
        errno = EINVAL;
        return -1;
    }
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) != 0 && errno != EINPROGRESS) {
        int error = errno;
        (void)close(fd);
        errno = error;
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}
