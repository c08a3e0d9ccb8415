/* What the machine can do with no server in it: copies, sums, a socket.
 *
 * Each gives one measurement; the caller repeats them. False with a sentence on stderr.
 */
#ifndef KVS_BENCH_LIMITS_H
#define KVS_BENCH_LIMITS_H

#include "bench/party.h"

/* Bytes of the tensor a second. */
bool kvs_bench_memcpy(const kvs_bench_sizes *sizes, double *out);
bool kvs_bench_sum(const kvs_bench_sizes *sizes, double *out);
bool kvs_bench_copy_and_sum(const kvs_bench_sizes *sizes,
                            double *out); /* the whole tensor, twice */

/* One process writes message_bytes at a time to a loopback TCP connection, this one receives and
 * adds them to a tensor. `cpu` receives the seconds of sender and receiver. */
bool kvs_bench_tcp(const kvs_bench_sizes *sizes, double *out, double cpu[2]);

/* Room for tensors: huge pages where there are any, touched. NULL: no memory. */
float *kvs_bench_tensor(uint64_t bytes, float value);
void kvs_bench_tensor_free(float *tensor, uint64_t bytes);

#endif
