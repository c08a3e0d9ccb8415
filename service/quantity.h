/* Durations and sizes as people write them: 500ms, 60s, 10m, 2h; 4096, 32MiB, 4GiB.
 *
 * Threads: any; pure functions.
 */
#ifndef KVS_SERVICE_QUANTITY_H
#define KVS_SERVICE_QUANTITY_H

#include <stdbool.h>
#include <stdint.h>

/* A bare number is seconds. Fractions are fine: 0.5s. */
bool kvs_duration_parse(const char *text, uint64_t *out_ns);

/* A bare number is bytes. */
bool kvs_size_parse(const char *text, uint64_t *out_bytes);

/* Decimal digits, at most `max`. */
bool kvs_count_parse(const char *text, uint64_t max, uint64_t *out);

#endif
