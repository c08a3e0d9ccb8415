/* An allocator whose n-th call fails: for tests of what is true after there was no memory.
 *
 * A test that uses it links with FAILING_ALLOC_OPTIONS of its CMakeLists.txt (--wrap), so that the
 * calls of the library under test come here; those within shared libraries do not.
 *
 * Threads: one.
 */
#ifndef KVS_TESTS_SUPPORT_FAILING_ALLOC_H
#define KVS_TESTS_SUPPORT_FAILING_ALLOC_H

#include <stdbool.h>
#include <stdint.h>

/* From now on the n-th allocation (the first is 1) fails; `and_all_after`: and every later one. */
void failing_alloc_begin(uint64_t n, bool and_all_after);

/* Allocations succeed again. True when one has failed. */
bool failing_alloc_end(void);

#endif
