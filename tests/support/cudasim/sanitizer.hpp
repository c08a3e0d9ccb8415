/* What the stand-in tells AddressSanitizer and ThreadSanitizer.
 *
 * To TSan every CUDA thread and every stream is a fiber of its own, ordered only where CUDA orders
 * them. The stand-in itself is compiled without -fsanitize=thread and keeps out of its sight by
 * `tsan_ignore`; the functions of TSan are weak, so one build serves all.
 */
#ifndef KVS_TESTS_CUDASIM_SANITIZER_HPP
#define KVS_TESTS_CUDASIM_SANITIZER_HPP

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define CUDASIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDASIM_ASAN 1
#endif
#endif

#ifdef CUDASIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

extern "C" {
__attribute__((weak)) void *__tsan_get_current_fiber(void);
__attribute__((weak)) void *__tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void *fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void *fiber, unsigned flags);
__attribute__((weak)) void __tsan_set_fiber_name(void *fiber, const char *name);
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);
__attribute__((weak)) void __tsan_read_range(void *address, unsigned long bytes);
__attribute__((weak)) void __tsan_write_range(void *address, unsigned long bytes);
__attribute__((weak)) void __tsan_ignore_thread_begin(void);
__attribute__((weak)) void __tsan_ignore_thread_end(void);
}

namespace cudasim
{

inline bool tsan_on()
{
    return __tsan_create_fiber != nullptr;
}

/* Whatever was released at `address` before happens before what follows. */
inline void tsan_acquire(void *address)
{
    if (tsan_on()) {
        __tsan_acquire(address);
    }
}

inline void tsan_release(void *address)
{
    if (tsan_on()) {
        __tsan_release(address);
    }
}

/* Reads and writes of the current thread or fiber go unseen, until `tsan_watch`. */
inline void tsan_ignore()
{
    if (tsan_on()) {
        __tsan_ignore_thread_begin();
    }
}

inline void tsan_watch()
{
    if (tsan_on()) {
        __tsan_ignore_thread_end();
    }
}

inline void tsan_read(const void *address, size_t bytes)
{
    if (tsan_on()) {
        __tsan_read_range(const_cast<void *>(address), bytes);
    }
}

inline void tsan_write(void *address, size_t bytes)
{
    if (tsan_on()) {
        __tsan_write_range(address, bytes);
    }
}

/* A thread of control in TSan's eyes. What its maker did before happens before it, and what it did
 * before happens before what it does later, whoever uses it. */
class tsan_fiber
{
  public:
    tsan_fiber() = default;
    tsan_fiber(const tsan_fiber &) = delete;
    tsan_fiber &operator=(const tsan_fiber &) = delete;
    ~tsan_fiber()
    {
        if (handle_ != nullptr) {
            __tsan_destroy_fiber(handle_);
        }
    }

    void create()
    {
        if (tsan_on() && handle_ == nullptr) {
            handle_ = __tsan_create_fiber(0);
        }
    }

    void name(const char *text)
    {
        if (tsan_on()) {
            __tsan_set_fiber_name(handle_, text);
        }
    }

    /* Goes on as this fiber, without ordering anything. */
    void enter()
    {
        if (tsan_on()) {
            from_ = __tsan_get_current_fiber();
            __tsan_switch_to_fiber(handle_, 1);
        }
    }

    /* Goes back to who entered. */
    void leave()
    {
        if (tsan_on()) {
            __tsan_switch_to_fiber(from_, 1);
        }
    }

  private:
    void *handle_ = nullptr;
    void *from_ = nullptr;
};

} // namespace cudasim

#endif
