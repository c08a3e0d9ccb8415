/* Header values that choose: Accept, ETag lists, byte ranges, Host.
 *
 * Threads: any; pure functions.
 */
#ifndef KVS_SERVICE_ACCEPT_H
#define KVS_SERVICE_ACCEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Does an Accept header (NULL: none) admit the media type? Ranges count, q=0 forbids; the most
 * precise entry wins. */
bool kvs_accept_admits(const char *accept, const char *media_type);

/* Does an Accept header name the media type itself, not by a range? */
bool kvs_accept_names(const char *accept, const char *media_type);

/* Is a Content-Type of that media type, whatever its parameters? */
bool kvs_media_type_is(const char *content_type, const char *media_type);

/* Does a list of ETags (If-None-Match) hold `etag`, or "*"? Compared weakly: W/ does not count. */
bool kvs_etag_list_holds(const char *list, const char *etag);

/* What a Range header asks of `total` bytes. */
typedef enum kvs_range {
    KVS_RANGE_WHOLE, /* none, several, or another unit: all of it */
    KVS_RANGE_PART,
    KVS_RANGE_NONE /* not satisfiable */
} kvs_range;
kvs_range kvs_range_parse(const char *range, uint64_t total, uint64_t *first, uint64_t *bytes);

/* Is a Host header the name of this server? Addresses are, localhost is, and each name of the
 * comma-separated `names`. A page of another origin can reach us under a name of its own only. */
bool kvs_host_is_ours(const char *host, const char *names);

#endif
