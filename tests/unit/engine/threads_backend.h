/* On which backend the threads of threads_test.c work: each program links one.
 *
 * Threads: as engine/backend.h says.
 */
#ifndef KVS_TESTS_UNIT_ENGINE_THREADS_BACKEND_H
#define KVS_TESTS_UNIT_ENGINE_THREADS_BACKEND_H

#include "engine/backend.h"

typedef struct threads_backend {
    kvs_status (*open)(kvs_backend **out, kvs_problem *problem);
    uint64_t rounds; /* of each worker: as many as do not take too long there */
} threads_backend;

extern const threads_backend threads_on;

#endif
