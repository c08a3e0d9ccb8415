/* The second half of an exchange: the operation runs, its outcome becomes the reply.
 *
 * Threads, memory, errors: as service/exchange.h says.
 */
#ifndef KVS_SERVICE_EXCHANGE_RUN_H
#define KVS_SERVICE_EXCHANGE_RUN_H

#include "service/exchange.h"

/* Begins a PUT of a value, from the request's parameters and these headers (NULL: absent). */
kvs_status kvs_exchange_open_upload(kvs_exchange *exchange, const char *content_type,
                                    const char *if_match, const char *if_none_match,
                                    uint64_t bytes_expected) KVS_MUST_CHECK;

/* Opens the load that a PUT of states will fill. */
kvs_status kvs_exchange_open_load(kvs_exchange *exchange, const char *content_type) KVS_MUST_CHECK;

#endif
