#include "engine/backend_cpu.h"

#include "tests/sim/sim.h"

kvs_status sim_backend_open(uint64_t seed, kvs_backend **out, kvs_problem *problem)
{
    (void)seed; /* the CPU does everything at once */
    return kvs_backend_cpu_open("baseline", out, problem);
}
