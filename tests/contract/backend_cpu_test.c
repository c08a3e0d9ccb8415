/* The contract on the CPU backend; the argument names the vector width. */
#include "tests/contract/backend_contract.h"

#include "engine/backend_cpu.h"

#include <stdio.h>
#include <string.h>

static const char *width;

static kvs_status open_cpu(kvs_backend **out, kvs_problem *problem)
{
    return kvs_backend_cpu_open(width, out, problem);
}

static bool machine_runs(const char *name)
{
#if defined(__x86_64__)
    if (strcmp(name, "avx2") == 0) {
        return __builtin_cpu_supports("avx2") != 0;
    }
    if (strcmp(name, "avx512") == 0) {
        return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
               __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    }
#endif
    return strcmp(name, "baseline") == 0;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: %s baseline|avx2|avx512\n", argv[0]);
        return 2;
    }
    width = argv[1];
    if (!machine_runs(width)) {
        (void)printf("skipped: this machine does not run %s\n", width);
        return 77;
    }
    kvs_contract_row row = {
        .name = width,
        .open = open_cpu,
        .dtypes = 1u << KVS_F32 | 1u << KVS_F64 | 1u << KVS_F16 | 1u << KVS_BF16 | 1u << KVS_U8 |
                  1u << KVS_I8 | 1u << KVS_I32 | 1u << KVS_I64,
    };
    return kvs_contract_main(&row);
}
