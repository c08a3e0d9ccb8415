/* Steers the stand-in for the CUDA runtime from a test.
 *
 * The environment sets the same at start: CUDASIM_SEED=n, CUDASIM_FAIL=cudaMalloc:3 (the third
 * call fails) or cudaMalloc:3-5 (and the two after it), CUDASIM_NODEV=1 (no device).
 *
 * Threads: one at a time, while no other thread is inside the runtime.
 * Memory: nothing is handed out.
 * Errors: none; whatever cannot be right on a real card ends the process with "cudasim: ...".
 */
#ifndef KVS_TESTS_CUDASIM_CONTROL_H
#define KVS_TESTS_CUDASIM_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As in a fresh process: one device, no error, nothing counted, nothing dropped or failing. Seed 0
 * runs all work at once, in the order of the calls; any other draws an order that the real runtime
 * would be free to choose, mostly late. Needs all streams destroyed and all memory freed. */
void cudasim_reset(uint64_t seed);

/* The number of devices from now on. */
void cudasim_set_devices(int count);

/* The n-th call of that name from now on fails: an allocation says that memory is out, any other
 * call breaks the device for good. NULL: none. */
void cudasim_fail(const char *call, unsigned nth);

/* Plants a fault: calls of that name do nothing and say that all went well. NULL: none. */
void cudasim_drop(const char *call);

/* Plants a fault: stream number `waiter` no longer waits for events recorded by stream number
 * `recorder`. Streams are numbered from 0 in the order in which they were created. */
void cudasim_drop_wait(int waiter, int recorder);

/* How often a runtime function was called since the last reset. */
unsigned cudasim_calls(const char *call);

/* `seen` gets device memory right before it is freed. NULL: nobody. */
void cudasim_watch_free(void (*seen)(const unsigned char *data, size_t bytes));

/* Device and pinned bytes that are allocated now. */
size_t cudasim_bytes(void);

#ifdef __cplusplus
}
#endif

#endif
