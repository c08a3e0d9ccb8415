/* Streams and events: queues of work that runs late, in an order that the seed draws.
 *
 * To ThreadSanitizer a stream is a thread that is ordered after a call that queued work, before a
 * call that waited for it, and through events; nothing else.
 *
 * Threads: the one that is inside the runtime, whichever queued the work.
 * Memory: an event that is destroyed lives until no queue names it.
 */
#ifndef KVS_TESTS_CUDASIM_STREAM_HPP
#define KVS_TESTS_CUDASIM_STREAM_HPP

#include "sanitizer.hpp"

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace cudasim
{

/* A copy, a memset or a kernel. */
class work
{
  public:
    virtual ~work() = default;
    virtual void run() = 0;
};

struct event {
    uint64_t recorded = 0; /* how often a record was queued */
    uint64_t reached = 0;  /* which of them was the last to run */
    int recorder = -1;     /* the number of the stream of the last record */
    char sync = 0;
};

class stream
{
  public:
    explicit stream(int number);
    stream(const stream &) = delete;
    stream &operator=(const stream &) = delete;
    ~stream();

    int device = 0; /* of the thread that made it */

    void queue_work(std::unique_ptr<work> what);
    void queue_record(const std::shared_ptr<event> &what);
    void queue_wait(const std::shared_ptr<event> &what);

    bool empty() const
    {
        return queue_.empty();
    }
    bool can_step() const;
    void step();    /* runs the work at the head */
    void joined();  /* the caller has waited until the queue was empty */
    void abandon(); /* drops what is queued: the device is gone */
    int number() const
    {
        return number_;
    }

    /* What a CUDA thread is to TSan. One for each thread of a launch; the next launch has the same
     * ones, which orders no more than the stream does. (Making them anew takes far longer.) */
    tsan_fiber *identity(size_t thread);

  private:
    enum class what { run, record, wait };
    struct operation {
        what kind;
        std::unique_ptr<work> task;
        std::shared_ptr<event> mark;
        uint64_t turn;
    };

    void queue(operation next);

    int number_;
    std::deque<operation> queue_;
    tsan_fiber tsan_;
    std::deque<tsan_fiber> identities_;
    char sync_ = 0;
};

/* All streams of the device. */
class stream_set
{
  public:
    stream *create();
    void destroy(stream *which); /* after its queue is empty */
    bool has(const stream *which) const;
    void reset();

    void drain(stream *which);
    void drain(const event &until, uint64_t turn);
    void poke(); /* after a call: some work may run now, as the seed has it */
    bool none() const
    {
        return all_.empty();
    }

  private:
    bool step_any();

    std::vector<std::unique_ptr<stream>> all_;
    int created_ = 0;
};

stream_set &the_streams();

} // namespace cudasim

#endif
