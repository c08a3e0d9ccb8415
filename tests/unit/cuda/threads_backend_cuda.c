/* The stand-in for a card: ThreadSanitizer watches kernels and streams beside the engine's threads,
 * and takes its time for each CUDA thread. */
#include "tests/unit/engine/threads_backend.h"

#include "cuda/backend_cuda.h"

#if defined(__SANITIZE_THREAD__)
#define ROUNDS 4
#else
#define ROUNDS 50
#endif

const threads_backend threads_on = {.open = kvs_backend_cuda_open, .rounds = ROUNDS};
