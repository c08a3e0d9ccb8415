/* The target of an HTTP request as it came: path segments and query, percent-decoded on the way.
 *
 * A key may hold slashes, as %2F; so a target is split before it is decoded.
 *
 * Threads: any; pure functions.
 */
#ifndef KVS_SERVICE_TARGET_H
#define KVS_SERVICE_TARGET_H

#include <stdbool.h>
#include <stddef.h>

/* Room for the longest decoded piece, a key or a page token, with the zero. */
#define KVS_TARGET_PIECE_BYTES 512u

/* Decodes `bytes` of `text`. False: a broken escape, a NUL, or no room; `plus` reads '+' as a
 * blank, as forms and queries write it. `out` is terminated. */
bool kvs_target_decode(const char *text, size_t bytes, bool plus, char *out, size_t out_bytes);

/* One name and value of a query. */
typedef struct kvs_query_pair {
    char name[64];
    char value[KVS_TARGET_PIECE_BYTES];
} kvs_query_pair;

/* Takes the next pair off *query (text behind the '?', or NULL). False at the end, and then
 * *broken says whether something could not be read. A name without '=' has the value "". */
bool kvs_query_next(const char **query, kvs_query_pair *out, bool *broken);

#endif
