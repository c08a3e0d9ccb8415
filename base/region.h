/* A region: memory that two processes of one machine map, made by one and handed to the other.
 *
 * It is a memfd whose size is sealed, so that neither side can take it away under the other. What
 * steers a program never lies in it: the other side may change it at any moment.
 *
 * Threads: any. Memory: a mapping owns its bytes, and whoever made it the descriptor.
 * Errors: KVS_NO_MEMORY (no room for it, or no descriptor), KVS_INVALID_FIELD (a descriptor that is
 *   no sealed region of that size).
 */
#ifndef KVS_BASE_REGION_H
#define KVS_BASE_REGION_H

#include "base/status.h"

#include <stddef.h>

typedef struct kvs_region_map {
    uint8_t *data; /* NULL: not mapped */
    size_t bytes;
} kvs_region_map;

/* Which side writes: the other one may read alone. */
typedef enum kvs_region_writer { KVS_REGION_MAKER, KVS_REGION_PEER } kvs_region_writer;

/* Makes one of zeros and maps it; *fd is the caller's to send and close. What the peer writes has
 * its pages from the start, and is mapped to be read. What the maker writes nobody else can map to
 * write; its pages are the maker's to get (fallocate) before it touches them. */
kvs_status kvs_region_make(size_t bytes, kvs_region_writer writer, kvs_region_map *out,
                           int *fd) KVS_MUST_CHECK;
/* Maps one that has come. `fd` stays the caller's. */
kvs_status kvs_region_attach(int fd, size_t bytes, kvs_region_writer writer,
                             kvs_region_map *out) KVS_MUST_CHECK;
void kvs_region_unmap(kvs_region_map *map); /* accepts one that is not mapped */

/* One message, and with it a descriptor (-1: none), over a socket of AF_UNIX. False: it did not
 * leave; it never blocks longer than the socket says. */
bool kvs_region_send(int socket, const void *message, size_t bytes, int fd);
/* The bytes of a message, 0 at the end, -1 with errno. *fd: the descriptor that came, the caller's,
 * or -1. A message longer than `room` is an error. */
ptrdiff_t kvs_region_receive(int socket, void *message, size_t room, int *fd);

#endif
