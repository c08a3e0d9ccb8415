#include "service/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG 128

/* Splits "host:port" or "[host]:port". */
static bool split(const char *text, char *host, size_t host_bytes, unsigned *port)
{
    const char *colon = strrchr(text, ':');
    const char *start = text;
    char *end;
    if (colon == NULL || colon[1] < '0' || colon[1] > '9') {
        return false;
    }
    size_t bytes = (size_t)(colon - text);
    if (text[0] == '[') {
        if (bytes < 2 || colon[-1] != ']') {
            return false;
        }
        start++;
        bytes -= 2;
    } else if (memchr(text, ':', bytes) != NULL) {
        return false; /* a bare IPv6 address: where does its port begin? */
    }
    unsigned long number = strtoul(colon + 1, &end, 10);
    if (*end != '\0' || number > 65535 || bytes == 0 || bytes >= host_bytes) {
        return false;
    }
    memcpy(host, start, bytes);
    host[bytes] = '\0';
    *port = (unsigned)number;
    return true;
}

kvs_status kvs_address_parse(const char *text, kvs_address *out, kvs_problem *problem)
{
    char host[64];
    unsigned port;
    kvs_address address;
    memset(&address, 0, sizeof address);
    struct sockaddr_in *four = (struct sockaddr_in *)&address.socket;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&address.socket;
    if (!split(text, host, sizeof host, &port)) {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "\"%.60s\" is no address like 127.0.0.1:9400 or [::1]:9400", text);
    }
    const char *number = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    if (inet_pton(AF_INET, number, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        address.socket_bytes = sizeof *four;
    } else if (inet_pton(AF_INET6, number, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        address.socket_bytes = sizeof *six;
    } else {
        return kvs_problem_set(problem, KVS_INVALID_FIELD,
                               "\"%.60s\" is no IP address, nor localhost", host);
    }
    *out = address;
    return KVS_OK;
}

bool kvs_address_is_loopback(const kvs_address *address)
{
    if (address->socket.ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&address->socket;
        return ntohl(four->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address->socket;
    return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

static void print(const kvs_address *address, char text[KVS_ADDRESS_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "";
    if (address->socket.ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&address->socket;
        (void)inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
        (void)snprintf(text, KVS_ADDRESS_BYTES, "%s:%u", host, ntohs(four->sin_port));
    } else {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address->socket;
        (void)inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
        (void)snprintf(text, KVS_ADDRESS_BYTES, "[%s]:%u", host, ntohs(six->sin6_port));
    }
}

kvs_status kvs_address_listen(const kvs_address *address, int *fd, char text[KVS_ADDRESS_BYTES],
                              kvs_problem *problem)
{
    const int on = 1;
    kvs_address bound = *address;
    print(address, text);
    int listener = socket(address->socket.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) {
        return kvs_problem_set(problem, KVS_IO_ERROR, "no socket: %s", strerror(errno));
    }
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(listener, (const struct sockaddr *)&address->socket, address->socket_bytes) != 0 ||
        listen(listener, BACKLOG) != 0 ||
        getsockname(listener, (struct sockaddr *)&bound.socket, &bound.socket_bytes) != 0) {
        int error = errno;
        (void)close(listener);
        return kvs_problem_set(problem, KVS_IO_ERROR, "cannot listen at %s: %s", text,
                               strerror(error));
    }
    print(&bound, text);
    *fd = listener;
    return KVS_OK;
}
