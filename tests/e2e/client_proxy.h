/* A TCP proxy in the test's own process, that can lose what it carries and cut its connections.
 *
 * Threads: the functions from the test's thread; one thread of its own carries the bytes.
 * Memory: open gives one, closed by close. Errors: a socket that cannot be had stops the test.
 */
#ifndef KVS_TESTS_E2E_CLIENT_PROXY_H
#define KVS_TESTS_E2E_CLIENT_PROXY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct kvs_test_proxy kvs_test_proxy;

/* Carries connections to 127.0.0.1:port. */
kvs_test_proxy *kvs_test_proxy_open(uint16_t port);
void kvs_test_proxy_close(kvs_test_proxy *proxy);

/* "127.0.0.1:port" of the proxy itself. */
const char *kvs_test_proxy_address(const kvs_test_proxy *proxy);

/* Ends every connection by a reset, at once; what is under way is lost. */
void kvs_test_proxy_cut(kvs_test_proxy *proxy);
/* While set, what the server sends is thrown away: requests arrive, answers do not. */
void kvs_test_proxy_lose_replies(kvs_test_proxy *proxy, bool lose);
/* While set, what clients send is thrown away. */
void kvs_test_proxy_lose_requests(kvs_test_proxy *proxy, bool lose);
/* While set, connections are ended as they come. */
void kvs_test_proxy_refuse(kvs_test_proxy *proxy, bool refuse);

#endif
