/* What a run is told to do: the seed's choices, and the faults.
 *
 * Threads: the one that is inside the runtime.
 */
#ifndef KVS_TESTS_CUDASIM_PLAN_HPP
#define KVS_TESTS_CUDASIM_PLAN_HPP

#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace cudasim
{

enum class lateness { at_once, sometimes, last_moment };

class plan
{
  public:
    plan(); /* from the environment */

    void reset(uint64_t seed);

    /* A number below `bound` (0 when that is 0); the same every time for the same seed. */
    unsigned draw(size_t bound);
    lateness late() const
    {
        return late_;
    }

    /* Counts a call by its name; true when this one is to fail. */
    bool count(const char *call);
    bool dropped(const char *call) const
    {
        return dropped_ == call;
    }
    bool wait_dropped(int waiter, int recorder) const;
    unsigned calls(const char *call) const;

    void fail(const char *call, unsigned nth, unsigned last = 0); /* 0: that one alone */
    void drop(const char *call)
    {
        dropped_ = call != nullptr ? call : "";
    }
    void drop_wait(int waiter, int recorder)
    {
        dropped_wait_ = {waiter, recorder};
    }

    int devices = 1;

  private:
    uint64_t state_ = 0;
    lateness late_ = lateness::at_once;
    std::map<std::string, unsigned> calls_;
    std::string failing_;
    unsigned failing_nth_ = 0;
    unsigned failing_last_ = 0;
    std::string dropped_;
    std::pair<int, int> dropped_wait_ = {-1, -1};
};

plan &the_plan();

/* What no card would bear: says what it is and ends the process. */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace cudasim

#endif
