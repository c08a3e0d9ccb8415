/* Device and pinned memory.
 *
 * Device memory is aligned to 256 bytes, starts as 0xff (NaN for floats), ends in a guard that is
 * checked after every piece of work, and under AddressSanitizer is poisoned while no kernel or
 * copy runs, so that host code which touches it is reported at its line.
 *
 * Threads: the one that is inside the runtime.
 */
#ifndef KVS_TESTS_CUDASIM_MEMORY_HPP
#define KVS_TESTS_CUDASIM_MEMORY_HPP

#include <cstddef>
#include <cstdint>
#include <map>

namespace cudasim
{

enum class kind { device, pinned };

class memory
{
  public:
    explicit memory(kind of) : kind_(of)
    {
    }

    void *alloc(size_t bytes);
    bool free(void *data); /* false: no such allocation */
    bool holds(const void *data, size_t bytes) const;
    size_t bytes() const;

    void open();                        /* before a kernel, which may touch all of it */
    void close();                       /* after it: poisons again, and checks the guards */
    /* The same for bytes that are held, or are no memory of this kind. */
    void open(const void *data, size_t bytes);
    void close(const void *data, size_t bytes);
    void check(const char *when) const; /* that no guard was written */

    void (*seen)(const unsigned char *data, size_t bytes) = nullptr; /* before memory is freed */

  private:
    kind kind_;
    std::map<uintptr_t, size_t> blocks_; /* address to bytes */
};

memory &device_memory();
memory &pinned_memory();

/* The device, or only some bytes of it, may be touched during its life. */
class device_access
{
  public:
    device_access()
    {
        device_memory().open();
    }
    device_access(const void *data, size_t bytes) : all_(false), data_(data), bytes_(bytes)
    {
        device_memory().open(data, bytes);
    }
    device_access(const device_access &) = delete;
    device_access &operator=(const device_access &) = delete;
    ~device_access()
    {
        if (all_) {
            device_memory().close();
        } else {
            device_memory().close(data_, bytes_);
        }
    }

  private:
    bool all_ = true;
    const void *data_ = nullptr;
    size_t bytes_ = 0;
};

} // namespace cudasim

#endif
