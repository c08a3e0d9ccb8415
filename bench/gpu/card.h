/* What a card and its link can do with none of our kernels: the floor under every time.
 *
 * Threads: one. Errors: false, with a sentence on stderr.
 */
#ifndef KVS_BENCH_GPU_CARD_H
#define KVS_BENCH_GPU_CARD_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvs_gpu_card {
    char name[256];
    int major, minor; /* compute capability */
    int multiprocessors;
    /* Bytes a second, the best of the repeats. A copy counts what it reads and what it writes;
     * the link counts what goes over it. */
    double copy;
    double up, down;           /* from and to pinned memory */
    double up_both, down_both; /* both at once */
} kvs_gpu_card;

/* Copies `bytes` so many times each way on device 0. */
bool kvs_gpu_card_measure(size_t bytes, unsigned repeats, kvs_gpu_card *out);

#ifdef __cplusplus
}
#endif

#endif
