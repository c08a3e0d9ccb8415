/* A stack of its own on which a CUDA thread runs until it has to wait.
 *
 * Threads: the one that is inside the runtime; fibers do not know on which that is.
 * Memory: the stack lives as long as the object and is used again by the next start.
 */
#ifndef KVS_TESTS_CUDASIM_FIBER_HPP
#define KVS_TESTS_CUDASIM_FIBER_HPP

#include "sanitizer.hpp"

#include <cstddef>
#include <memory>
#include <ucontext.h>

namespace cudasim
{

class fiber
{
  public:
    fiber();

    /* Makes it ready to run `body(context)`, to ThreadSanitizer as `as`, which is borrowed. */
    void start(void (*body)(void *), void *context, tsan_fiber *as);

    /* Runs it until it yields or ends. True: it has ended. */
    bool resume();

    /* Back to who resumed. From within the fiber only. */
    void yield();

  private:
    static void enter(unsigned high, unsigned low);
    void run();
    void leave(bool for_good);

    std::unique_ptr<char[]> stack_;
    ucontext_t here_;
    ucontext_t resumer_;
    void (*body_)(void *) = nullptr;
    void *context_ = nullptr;
    bool ended_ = true;
    tsan_fiber *tsan_ = nullptr;
    /* For AddressSanitizer, which must know on which stack the program is. */
    void *fake_here_ = nullptr;
    void *fake_resumer_ = nullptr;
    const void *resumer_stack_ = nullptr;
    size_t resumer_stack_bytes_ = 0;
};

} // namespace cudasim

#endif
