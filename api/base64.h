/* Bytes as text: base64 of RFC 4648, both alphabets read, the first one written.
 *
 * Threads: any; pure.
 */
#ifndef KVS_API_BASE64_H
#define KVS_API_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Room for the text of so many bytes; no zero at the end. */
#define KVS_BASE64_BYTES(bytes) (((bytes) + 2) / 3 * 4 + 1)

/* The length of the text. */
size_t kvs_base64_encode(const uint8_t *bytes, size_t count, char *out);

/* `out` has room for length / 4 * 3 + 3 bytes. Padding may be left out. False for anything that is
 * not base64, bits that stand for nothing included. */
bool kvs_base64_decode(const char *text, size_t length, uint8_t *out, size_t *out_bytes);

#endif
