/* "127.0.0.1:9400", "[::1]:0", "localhost:9401": an address to listen at.
 *
 * Threads: any. Errors: KVS_INVALID_FIELD names the text; KVS_IO_ERROR what the system says.
 */
#ifndef KVS_SERVICE_ADDRESS_H
#define KVS_SERVICE_ADDRESS_H

#include "base/status.h"

#include <stddef.h>
#include <sys/socket.h>

/* Room for any address as text. */
#define KVS_ADDRESS_BYTES 80u

typedef struct kvs_address {
    struct sockaddr_storage socket;
    socklen_t socket_bytes;
} kvs_address;

/* Numbers and the name localhost; nothing is asked of a name server. */
kvs_status kvs_address_parse(const char *text, kvs_address *out,
                             kvs_problem *problem) KVS_MUST_CHECK;

/* Can only this machine reach it? */
bool kvs_address_is_loopback(const kvs_address *address);

/* Binds and listens: *fd, and in `text` the address with its real port. */
kvs_status kvs_address_listen(const kvs_address *address, int *fd, char text[KVS_ADDRESS_BYTES],
                              kvs_problem *problem) KVS_MUST_CHECK;

#endif
