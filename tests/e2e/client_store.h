/* Stores for tests of the C client: at a server of the test's own, or embedded.
 *
 * Threads: one. Memory: what is opened is closed by the counterpart. Errors: the test fails, with
 * the client's words.
 */
#ifndef KVS_TESTS_E2E_CLIENT_STORE_H
#define KVS_TESTS_E2E_CLIENT_STORE_H

#include "kvstore/kvstore.h"
#include "tests/e2e/client_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static inline void ok(kv_store *kv, kv_status status)
{
    if (status != 0) {
        fail_msg("%s: %s", kv_status_reason(status), kv_last_error(kv));
    }
}

/* `server` may be NULL for a type without "dist". */
static inline kv_store *open_store(const kvs_test_server *server, const char *type)
{
    kv_store *kv;
    char error[256];
    const char *address = strstr(type, "dist") != NULL ? kvs_test_server_address(server) : NULL;
    if (kv_create(type, address, NULL, &kv, error, sizeof error) != 0) {
        fail_msg("%s", error);
    }
    return kv;
}

/* A store, and the server that it has for itself unless it is embedded. */
typedef struct fixture {
    kvs_test_server *server;
    kv_store *kv;
} store_fixture;

/* `arguments` as for kvs_test_server_open. */
static inline int open_fixture(store_fixture *f, const char *program, const char *type,
                               const char *const *arguments)
{
    bool dist = strstr(type, "dist") != NULL;
    f->server = dist ? kvs_test_server_open(program, arguments) : NULL;
    f->kv = open_store(f->server, type);
    return 0;
}

static inline int close_fixture(void **state)
{
    store_fixture *f = *state;
    int failed = kv_close(f->kv);
    if (f->server != NULL) {
        failed |= kvs_test_server_close(f->server);
    }
    return failed;
}

#endif
