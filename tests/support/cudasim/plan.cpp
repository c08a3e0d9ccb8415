#include "plan.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cudasim
{

plan::plan()
{
    const char *seed = getenv("CUDASIM_SEED");
    const char *failing = getenv("CUDASIM_FAIL");
    reset(seed != nullptr ? strtoull(seed, nullptr, 10) : 1);
    const char *colon = failing != nullptr ? strchr(failing, ':') : nullptr;
    if (colon != nullptr) {
        std::string call(failing, static_cast<size_t>(colon - failing));
        char *end = nullptr;
        unsigned nth = static_cast<unsigned>(strtoul(colon + 1, &end, 10));
        fail(call.c_str(), nth,
             *end == '-' ? static_cast<unsigned>(strtoul(end + 1, nullptr, 10)) : 0);
    }
    if (getenv("CUDASIM_NODEV") != nullptr) {
        devices = 0;
    }
}

void plan::reset(uint64_t seed)
{
    state_ = seed;
    late_ = seed == 0 ? lateness::at_once
                      : (seed % 3 == 0 ? lateness::sometimes : lateness::last_moment);
    calls_.clear();
    failing_.clear();
    dropped_.clear();
    dropped_wait_ = {-1, -1};
    devices = 1;
}

/* SplitMix64 (Steele, Lea and Flood 2014): one addition and a mixing function a number. */
unsigned plan::draw(size_t bound)
{
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    mixed ^= mixed >> 31;
    return bound == 0 ? 0 : static_cast<unsigned>((mixed >> 11) % bound);
}

bool plan::count(const char *call)
{
    unsigned calls = ++calls_[call];
    return failing_ == call && calls >= failing_nth_ && calls <= failing_last_;
}

unsigned plan::calls(const char *call) const
{
    auto found = calls_.find(call);
    return found == calls_.end() ? 0 : found->second;
}

void plan::fail(const char *call, unsigned nth, unsigned last)
{
    failing_ = call != nullptr ? call : "";
    failing_nth_ = call != nullptr ? calls(call) + nth : 0;
    failing_last_ = failing_nth_ + (last > nth ? last - nth : 0);
}

bool plan::wait_dropped(int waiter, int recorder) const
{
    return dropped_wait_ == std::make_pair(waiter, recorder);
}

plan &the_plan()
{
    static plan only;
    return only;
}

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)fputs("cudasim: ", stderr);
    (void)vfprintf(stderr, format, arguments);
    (void)fputc('\n', stderr);
    va_end(arguments);
    abort();
}

} // namespace cudasim
