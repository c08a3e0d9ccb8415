/* What every fuzz target is: one function on bytes, called by libFuzzer or by replay.c.
 *
 * The first byte of a wire input is the seed of where the message is cut, the rest the message.
 */
#ifndef KVS_TESTS_FUZZ_FUZZ_H
#define KVS_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

#endif
