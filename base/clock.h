/* The time that leases, rounds and deadlines are measured in: CLOCK_MONOTONIC, nanoseconds.
 *
 * The engine never reads it: every tick takes `now_ns` as an argument. (A profile does, where a
 * server has given it one: base/profile.h.)
 */
#ifndef KVS_BASE_CLOCK_H
#define KVS_BASE_CLOCK_H

#include <stdint.h>

uint64_t kvs_clock_now_ns(void);

#endif
