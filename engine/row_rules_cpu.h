/* Rules with a number a row (kvs_rule_row_states), for the CPU backend.
 *
 * Threads and memory: as engine/backend.h says of an apply call.
 */
#ifndef KVS_ENGINE_ROW_RULES_CPU_H
#define KVS_ENGINE_ROW_RULES_CPU_H

#include "engine/backend.h"
#include "engine/kernels_cpu.h"
#include "engine/rows_cpu.h"

/* Row after row: the sum of its squares, its number, and by `apply` its elements. */
void kvs_row_rules_cpu_apply(const kvs_cpu_kernels *kernels, const kvs_apply_item *item,
                             kvs_rows_cpu_function *apply);

#endif
