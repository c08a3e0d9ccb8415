/* The contract of a backend on the CUDA backend: linked once with the stand-in, whose seed comes
 * from the environment, and once with the real runtime, where it needs a card. */
#include "tests/contract/backend_contract.h"

#include "cuda/backend_cuda.h"

#include <stdio.h>

int main(void)
{
    kvs_backend *backend = NULL;
    kvs_problem problem = {0};
    kvs_contract_row row = {
        .name = "cuda",
        .open = kvs_backend_cuda_open,
        .dtypes = 1u << KVS_F32 | 1u << KVS_F64 | 1u << KVS_F16 | 1u << KVS_BF16 | 1u << KVS_U8 |
                  1u << KVS_I8 | 1u << KVS_I32 | 1u << KVS_I64,
        .cases = 100,
    };
    kvs_status status = kvs_backend_cuda_open(&backend, &problem);
    if (status == KVS_UNAVAILABLE) {
        (void)printf("skipped: %s\n", problem.detail);
        return 77;
    }
    if (status != KVS_OK) {
        (void)printf("the backend does not open: %s\n", problem.detail);
        return 1;
    }
    backend->table->close(backend);
    return kvs_contract_main(&row);
}
