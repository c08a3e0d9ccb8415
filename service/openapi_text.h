/* openapi.yaml as it was at the build, byte for byte. The build writes openapi_text.c.
 *
 * Threads: any; constant.
 */
#ifndef KVS_SERVICE_OPENAPI_TEXT_H
#define KVS_SERVICE_OPENAPI_TEXT_H

#include <stddef.h>

extern const char kvs_openapi[];
extern const size_t kvs_openapi_bytes;

#endif
