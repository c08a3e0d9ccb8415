#include "tests/unit/engine/threads_backend.h"

#include "engine/backend_cpu.h"

static kvs_status open_backend(kvs_backend **out, kvs_problem *problem)
{
    return kvs_backend_cpu_open(NULL, out, problem);
}

const threads_backend threads_on = {.open = open_backend, .rounds = 200};
