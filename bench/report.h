/* What was measured, as a table for people or as JSON for scripts; the machine beside it.
 *
 * Threads: one.
 */
#ifndef KVS_BENCH_REPORT_H
#define KVS_BENCH_REPORT_H

#include "bench/measure.h"

void kvs_bench_print(const kvs_bench_plan *plan, const kvs_bench_results *results);
void kvs_bench_print_json(const kvs_bench_plan *plan, const kvs_bench_results *results);

/* True when every number that must be above 0 is. */
bool kvs_bench_plausible(const kvs_bench_plan *plan, const kvs_bench_results *results);

#endif
