/* The descriptors of kvstored.proto, and of health and reflection, as a FileDescriptorSet: what
 * server reflection serves. Generated at build time.
 *
 * Threads: any; constant bytes.
 */
#ifndef KVS_API_DESCRIPTORS_H
#define KVS_API_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t kvs_descriptors[];
extern const size_t kvs_descriptors_bytes;

#endif
