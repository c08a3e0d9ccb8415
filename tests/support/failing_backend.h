/* The CPU backend, whose n-th call is the last that succeeds: a device that is lost.
 *
 * Threads: one; there is one device. Memory: closed by backend->table->close, as any other.
 */
#ifndef KVS_TESTS_SUPPORT_FAILING_BACKEND_H
#define KVS_TESTS_SUPPORT_FAILING_BACKEND_H

#include "engine/backend.h"

/* Fails nothing before failing_backend_lose. */
kvs_backend *failing_backend_open(void);

/* `calls` more calls that compute or wait succeed, all later ones are KVS_DEVICE_LOST. */
void failing_backend_lose(uint64_t calls);

#endif
