/* What a server has counted of its store "default": GET /v1/stores/default/statistics.
 *
 * Errors: false, with a sentence on stderr.
 */
#ifndef DILOCO_STATISTICS_H
#define DILOCO_STATISTICS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct diloco_statistics {
    uint64_t bytes_pushed; /* payload: the numbers, without headers */
    uint64_t bytes_pulled;
    uint64_t rounds_closed; /* of parts */
} diloco_statistics;

/* `address` is that of REST, "127.0.0.1:43210". */
bool diloco_statistics_read(const char *address, diloco_statistics *out);

#endif
