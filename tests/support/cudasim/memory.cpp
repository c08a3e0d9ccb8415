#include "memory.hpp"

#include "plan.hpp"
#include "sanitizer.hpp"

#include <cstdlib>
#include <cstring>

namespace cudasim
{

namespace
{

const size_t ALIGNMENT = 256; /* what cudaMalloc promises */
const size_t GUARD_BYTES = 256;
const uintptr_t GRANULE = 8;              /* what AddressSanitizer poisons at once */
const size_t BYTES_MAX = size_t{2} << 30; /* of one allocation: the card's memory */
const int FRESH = 0xff;
const unsigned char GUARD = 0xa5;

size_t whole(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + GUARD_BYTES;
}

} // namespace

void *memory::alloc(size_t bytes)
{
    if (bytes > BYTES_MAX) {
        return nullptr;
    }
    auto *data = static_cast<unsigned char *>(aligned_alloc(ALIGNMENT, whole(bytes)));
    if (data == nullptr) {
        return nullptr;
    }
    memset(data, FRESH, bytes);
    memset(data + bytes, GUARD, whole(bytes) - bytes);
    blocks_[reinterpret_cast<uintptr_t>(data)] = bytes;
    if (kind_ == kind::device) {
        ASAN_POISON_MEMORY_REGION(data, whole(bytes));
    } else {
        ASAN_POISON_MEMORY_REGION(data + bytes, whole(bytes) - bytes);
    }
    return data;
}

bool memory::free(void *data)
{
    auto found = blocks_.find(reinterpret_cast<uintptr_t>(data));
    if (found == blocks_.end()) {
        return false;
    }
    ASAN_UNPOISON_MEMORY_REGION(data, whole(found->second));
    if (seen != nullptr) {
        seen(static_cast<const unsigned char *>(data), found->second);
    }
    /* A sanitizer's free keeps the bytes; whoever reads on must not find them right. */
    memset(data, FRESH, found->second);
    blocks_.erase(found);
    ::free(data);
    return true;
}

bool memory::holds(const void *data, size_t bytes) const
{
    auto address = reinterpret_cast<uintptr_t>(data);
    auto after = blocks_.upper_bound(address);
    if (after == blocks_.begin()) {
        return false;
    }
    --after;
    size_t offset = address - after->first;
    return offset <= after->second && bytes <= after->second - offset;
}

size_t memory::bytes() const
{
    size_t sum = 0;
    for (const auto &block : blocks_) {
        sum += block.second;
    }
    return sum;
}

void memory::open()
{
    for (const auto &block : blocks_) {
        ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void *>(block.first), block.second);
    }
}

void memory::close()
{
    check("after a piece of work");
    for (const auto &block : blocks_) {
        ASAN_POISON_MEMORY_REGION(reinterpret_cast<void *>(block.first), whole(block.second));
    }
}

/* In whole granules of AddressSanitizer, which blocks are made of. */
void memory::open(const void *data, size_t bytes)
{
    if (holds(data, bytes)) {
        const auto begin = reinterpret_cast<uintptr_t>(data) / GRANULE * GRANULE;
        ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void *>(begin),
                                    reinterpret_cast<uintptr_t>(data) + bytes - begin);
    }
}

void memory::close(const void *data, size_t bytes)
{
    if (holds(data, bytes)) {
        const auto begin = reinterpret_cast<uintptr_t>(data) / GRANULE * GRANULE;
        const auto end =
            (reinterpret_cast<uintptr_t>(data) + bytes + GRANULE - 1) / GRANULE * GRANULE;
        ASAN_POISON_MEMORY_REGION(reinterpret_cast<void *>(begin), end - begin);
    }
}

void memory::check(const char *when) const
{
#ifdef CUDASIM_ASAN
    (void)when; /* the guard is poisoned: a write there is reported where it happens */
#else
    for (const auto &block : blocks_) {
        const auto *guard = reinterpret_cast<const unsigned char *>(block.first) + block.second;
        for (size_t i = 0; i < GUARD_BYTES; i++) {
            if (guard[i] != GUARD) {
                die("device memory was written %zu bytes past its end (%zu), %s", i + 1,
                    block.second, when);
            }
        }
    }
#endif
}

memory &device_memory()
{
    static memory only(kind::device);
    return only;
}

memory &pinned_memory()
{
    static memory only(kind::pinned);
    return only;
}

} // namespace cudasim
