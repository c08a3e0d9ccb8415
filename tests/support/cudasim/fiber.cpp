#include "fiber.hpp"

#include "plan.hpp"

#include <cstdint>

namespace cudasim
{

namespace
{

const size_t STACK_BYTES = 128 * 1024;
/* The frames of a fiber that has ended lie here and stay poisoned if nobody clears them. */
const size_t FIRST_FRAMES_BYTES = 4 * 1024;

} // namespace

fiber::fiber() : stack_(new char[STACK_BYTES]), here_(), resumer_()
{
}

void fiber::start(void (*body)(void *), void *context, tsan_fiber *as)
{
    body_ = body;
    context_ = context;
    ended_ = false;
    fake_here_ = nullptr;
    ASAN_UNPOISON_MEMORY_REGION(stack_.get() + STACK_BYTES - FIRST_FRAMES_BYTES,
                                FIRST_FRAMES_BYTES);
    if (getcontext(&here_) != 0) {
        die("getcontext failed");
    }
    here_.uc_stack.ss_sp = stack_.get();
    here_.uc_stack.ss_size = STACK_BYTES;
    here_.uc_link = nullptr;
    auto self = reinterpret_cast<uintptr_t>(this);
    /* makecontext passes ints only: a pointer goes in two halves. */
    makecontext(&here_, reinterpret_cast<void (*)()>(&fiber::enter), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
    tsan_ = as;
}

void fiber::enter(unsigned high, unsigned low)
{
    reinterpret_cast<fiber *>(static_cast<uintptr_t>(high) << 32 | low)->run();
}

void fiber::run()
{
#ifdef CUDASIM_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &resumer_stack_, &resumer_stack_bytes_);
#endif
    body_(context_);
    ended_ = true;
    leave(true);
}

void fiber::leave(bool for_good)
{
#ifdef CUDASIM_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_here_, resumer_stack_,
                                   resumer_stack_bytes_);
#else
    (void)for_good;
#endif
    tsan_->leave();
    (void)swapcontext(&here_, &resumer_);
#ifdef CUDASIM_ASAN
    __sanitizer_finish_switch_fiber(fake_here_, &resumer_stack_, &resumer_stack_bytes_);
#endif
}

void fiber::yield()
{
    leave(false);
}

bool fiber::resume()
{
#ifdef CUDASIM_ASAN
    __sanitizer_start_switch_fiber(&fake_resumer_, stack_.get(), STACK_BYTES);
#endif
    tsan_->enter();
    (void)swapcontext(&resumer_, &here_);
#ifdef CUDASIM_ASAN
    __sanitizer_finish_switch_fiber(fake_resumer_, nullptr, nullptr);
#endif
    return ended_;
}

} // namespace cudasim
