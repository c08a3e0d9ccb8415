/* Sums of squares over a part, by the CPU: what backend_cpu.c's measure does with an item.
 *
 * Threads: any; no state. Memory: borrows the item during the call. Errors: none.
 */
#ifndef KVS_ENGINE_MEASURE_CPU_H
#define KVS_ENGINE_MEASURE_CPU_H

#include "engine/backend.h"
#include "engine/kernels_cpu.h"

void kvs_measure_cpu(const kvs_cpu_kernels *kernels, const kvs_measure_item *item);

#endif
