#include "stream.hpp"

#include "plan.hpp"

#include <algorithm>
#include <utility>

namespace cudasim
{

stream::stream(int number) : number_(number)
{
    tsan_.create();
    tsan_.name("stream");
    tsan_.enter();
    tsan_ignore(); /* the stand-in's own work; copies and kernels are watched where they run */
    tsan_.leave();
}

stream::~stream()
{
    tsan_.enter();
    tsan_watch();
    tsan_.leave();
}

tsan_fiber *stream::identity(size_t thread)
{
    while (identities_.size() <= thread) {
        identities_.emplace_back();
        identities_.back().create();
    }
    return &identities_[thread];
}

void stream::queue(operation next)
{
    tsan_release(&sync_);
    queue_.push_back(std::move(next));
}

void stream::queue_work(std::unique_ptr<work> task)
{
    queue({what::run, std::move(task), nullptr, 0});
}

void stream::queue_record(const std::shared_ptr<event> &mark)
{
    mark->recorder = number_;
    queue({what::record, nullptr, mark, ++mark->recorded});
}

void stream::queue_wait(const std::shared_ptr<event> &mark)
{
    queue({what::wait, nullptr, mark, mark->recorded});
}

bool stream::can_step() const
{
    if (queue_.empty()) {
        return false;
    }
    const operation &head = queue_.front();
    return head.kind != what::wait || head.mark->reached >= head.turn;
}

void stream::step()
{
    operation head = std::move(queue_.front());
    queue_.pop_front();
    tsan_.enter();
    tsan_acquire(&sync_);
    switch (head.kind) {
    case what::record:
        tsan_release(&head.mark->sync);
        head.mark->reached = std::max(head.mark->reached, head.turn);
        break;
    case what::wait:
        if (head.turn > 0) {
            tsan_acquire(&head.mark->sync);
        }
        break;
    case what::run:
        head.task->run();
        break;
    }
    head.task.reset();
    tsan_release(&sync_);
    tsan_.leave();
}

void stream::joined()
{
    tsan_acquire(&sync_);
}

void stream::abandon()
{
    queue_.clear();
}

stream *stream_set::create()
{
    all_.push_back(std::make_unique<stream>(created_++));
    return all_.back().get();
}

bool stream_set::has(const stream *which) const
{
    return std::any_of(all_.begin(), all_.end(),
                       [which](const auto &one) { return one.get() == which; });
}

void stream_set::destroy(stream *which)
{
    all_.erase(std::find_if(all_.begin(), all_.end(),
                            [which](const auto &one) { return one.get() == which; }));
}

void stream_set::reset()
{
    if (!none()) {
        die("reset while %zu streams exist", all_.size());
    }
    created_ = 0;
}

bool stream_set::step_any()
{
    std::vector<stream *> ready;
    for (const auto &one : all_) {
        if (one->can_step()) {
            ready.push_back(one.get());
        }
    }
    if (ready.empty()) {
        return false;
    }
    ready[the_plan().draw(ready.size())]->step();
    return true;
}

void stream_set::drain(stream *which)
{
    while (!which->empty()) {
        if (!step_any()) {
            die("streams are deadlocked: a wait for an event that nothing records");
        }
    }
    which->joined();
}

void stream_set::drain(const event &until, uint64_t turn)
{
    while (until.reached < turn) {
        if (!step_any()) {
            die("an event was waited for that nothing records");
        }
    }
}

void stream_set::poke()
{
    switch (the_plan().late()) {
    case lateness::at_once:
        while (step_any()) {
        }
        break;
    case lateness::sometimes:
        while (the_plan().draw(3) == 0 && step_any()) {
        }
        break;
    case lateness::last_moment:
        break;
    }
}

stream_set &the_streams()
{
    static stream_set only;
    return only;
}

} // namespace cudasim
