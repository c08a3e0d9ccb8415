/* The pages that the server has of itself: health, metrics, a first page, its contract.
 *
 * Threads: any. Memory: the text is by malloc, the caller frees it. NULL when there is no memory.
 */
#ifndef KVS_SERVICE_PAGES_H
#define KVS_SERVICE_PAGES_H

#include "service/exchange.h"

/* "ok", or with `verbose` a line for each check. *good says whether all are. */
char *kvs_page_livez(bool verbose, size_t *bytes);
char *kvs_page_readyz(const kvs_rest_world *world, bool verbose, bool *good, size_t *bytes);
/* Prometheus text, version 0.0.4. */
char *kvs_page_metrics(const kvs_rest_world *world, size_t *bytes);
char *kvs_page_index(const kvs_rest_world *world, size_t *bytes);
/* openapi.yaml as it was at the build. */
char *kvs_page_openapi(size_t *bytes);

#endif
