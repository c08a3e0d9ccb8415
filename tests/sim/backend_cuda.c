#include "cuda/backend_cuda.h"

#include "tests/sim/sim.h"
#include "tests/support/cudasim/control.h"

kvs_status sim_backend_open(uint64_t seed, kvs_backend **out, kvs_problem *problem)
{
    cudasim_reset(seed); /* and that the run before has given back all memory */
    return kvs_backend_cuda_open(out, problem);
}
