/* A kvstored of a test's own, on free ports of 127.0.0.1.
 *
 * Threads: one. Memory: open gives one, closed by close.
 * Errors: a server that does not come up stops the test, with the server's own words on stderr.
 */
#ifndef KVS_TESTS_E2E_CLIENT_SERVER_H
#define KVS_TESTS_E2E_CLIENT_SERVER_H

#include <stdint.h>

typedef struct kvs_test_server kvs_test_server;

/* `program`: the kvstored. `arguments`: further ones, ended by NULL; may be NULL. */
kvs_test_server *kvs_test_server_open(const char *program, const char *const *arguments);
/* Kills it with SIGKILL, then waits for it. */
void kvs_test_server_kill(kvs_test_server *server);
/* Starts it again on the same ports, after a kill. */
void kvs_test_server_restart(kvs_test_server *server);
/* SIGTERM; its exit code (128 and more: a signal). */
int kvs_test_server_close(kvs_test_server *server);

const char *kvs_test_server_address(const kvs_test_server *server);
uint16_t kvs_test_server_port(const kvs_test_server *server);

#endif
