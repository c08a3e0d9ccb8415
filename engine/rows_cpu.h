/* Items of rows on the CPU: gathered, added to, and taken apart for rules.
 *
 * Threads: any. Memory: borrows its arguments during the call.
 * Errors: none; an item that does not fit its memory is the caller's fault and stops the process.
 */
#ifndef KVS_ENGINE_ROWS_CPU_H
#define KVS_ENGINE_ROWS_CPU_H

#include "engine/backend.h"
#include "engine/kernels_cpu.h"

/* Row i of target := the row of source.memory that the list names. */
void kvs_rows_cpu_gather(const kvs_copy_item *item);

/* Each row of source is added to the row of target that the list names, or copied there. */
void kvs_rows_cpu_add(const kvs_cpu_kernels *kernels, const kvs_accumulate_item *item);

/* Calls for each run of rows that lie one after another, with a dense item of its own. */
typedef void kvs_rows_cpu_function(const kvs_cpu_kernels *kernels, const kvs_apply_item *piece);
void kvs_rows_cpu_apply(const kvs_cpu_kernels *kernels, const kvs_apply_item *item,
                        kvs_rows_cpu_function *apply);

#endif
