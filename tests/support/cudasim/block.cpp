#include "block.hpp"

#include "plan.hpp"

#include <cstdio>
#include <cstring>
#include <utility>

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cudasim
{

namespace
{

const unsigned char FRESH = 0xff; /* shared memory starts as NaN */

/* Fibers of threads that have ended, for those that start. */
std::vector<std::unique_ptr<fiber>> &idle_fibers()
{
    static std::vector<std::unique_ptr<fiber>> only;
    return only;
}

} // namespace

block *block::current = nullptr;

block::block(const cudaLaunchConfig_t &config, const kernel_call &call, dim3 at, size_t number)
    : size_(config.blockDim), at_(at), first_thread_(number * size_.x * size_.y * size_.z),
      on_(*config.stream), call_(call), shared_(new unsigned char[config.dynamicSmemBytes]),
      threads_(static_cast<size_t>(size_.x) * size_.y * size_.z),
      warps_((threads_.size() + WARP_LANES - 1) / WARP_LANES)
{
    memset(shared_.get(), FRESH, config.dynamicSmemBytes);
    for (unsigned i = 0; i < threads_.size(); i++) {
        threads_[i].owner = this;
        order_.push_back(i);
    }
    unsigned rest = static_cast<unsigned>(threads_.size() % WARP_LANES);
    if (rest != 0) {
        warps_.back().left = ~0u << rest;
    }
}

void block::enter(void *opaque)
{
    auto *self = static_cast<thread *>(opaque);
    tsan_acquire(&self->owner->begin_sync_);
    self->owner->call_.run();
    tsan_release(&self->owner->end_sync_);
}

void block::resume(unsigned number)
{
    thread &next = threads_[number];
    if (next.on == nullptr) {
        tsan_fiber *as = on_.identity(first_thread_ + number);
        if (tsan_on()) {
            char name[64];
            (void)snprintf(name, sizeof name, "block %u thread %u", at_.x, number);
            as->name(name);
        }
        if (idle_fibers().empty()) {
            idle_fibers().push_back(std::make_unique<fiber>());
        }
        next.on = std::move(idle_fibers().back());
        idle_fibers().pop_back();
        next.on->start(&block::enter, &next, as);
    }
    running_ = number;
    threadIdx = {number % size_.x, number / size_.x % size_.y, number / (size_.x * size_.y)};
    if (next.on->resume()) {
        next.now = state::ended;
        warps_[number / WARP_LANES].left |= 1u << number % WARP_LANES;
        idle_fibers().push_back(std::move(next.on));
    }
}

void block::shuffle()
{
    for (size_t i = order_.size(); i > 1; i--) {
        std::swap(order_[i - 1], order_[the_plan().draw(i)]);
    }
}

unsigned block::count(state wanted) const
{
    unsigned found = 0;
    for (const thread &one : threads_) {
        found += one.now == wanted ? 1 : 0;
    }
    return found;
}

void block::run()
{
    current = this;
    tsan_release(&begin_sync_);
    blockIdx = {at_.x, at_.y, at_.z};
    blockDim = size_;
    for (;;) {
        bool ran = false;
        shuffle();
        for (unsigned number : order_) {
            if (threads_[number].now == state::ready) {
                ran = true;
                resume(number);
            }
        }
        unsigned ended = count(state::ended);
        unsigned waiting = count(state::at_barrier);
        if (ended == threads_.size()) {
            break;
        }
        if (waiting > 0 && waiting + ended == threads_.size()) {
            if (ended > 0) {
                die("%u threads wait at __syncthreads, %u have left", waiting, ended);
            }
            barriers_++;
            for (thread &one : threads_) {
                one.now = state::ready;
            }
        } else if (!ran) {
            die("deadlock: %u threads at __syncthreads, %u in a warp operation, %u have left",
                waiting, count(state::in_warp), ended);
        }
    }
    current = nullptr;
}

void block::join()
{
    tsan_acquire(&end_sync_);
}

void block::barrier()
{
    thread &self = threads_[running_];
    char *sync = &barrier_sync_[barriers_ % 2];
    tsan_release(sync);
    self.now = state::at_barrier;
    self.on->yield();
    tsan_acquire(sync);
}

rendezvous &block::meeting(unsigned mask)
{
    for (rendezvous &one : warps_[running_ / WARP_LANES].meetings) {
        if (one.mask == mask || one.mask == 0) {
            one.mask = mask;
            return one;
        }
    }
    die("more than %u different warp masks", warp::MASKS_MAX);
}

void block::exchange(unsigned mask, uint64_t value, uint64_t shown[WARP_LANES])
{
    unsigned self = running_;
    unsigned bit = 1u << self % WARP_LANES;
    const warp &own = warps_[self / WARP_LANES];
    if ((mask & bit) == 0) {
        die("thread %u is not in its own warp mask %08x", self, mask);
    }
    rendezvous &with = meeting(mask);
    unsigned generation = with.generation;
    char *sync = &with.sync[generation % 2];
    tsan_release(sync);
    with.value[self % WARP_LANES] = value;
    with.arrived |= bit;
    if (with.arrived == mask) {
        memcpy(with.shown, with.value, sizeof with.shown);
        with.arrived = 0;
        with.generation++;
        for (unsigned i = 0; i < WARP_LANES; i++) {
            if ((mask >> i & 1) != 0 && (self & ~(WARP_LANES - 1)) + i < threads_.size()) {
                threads_[(self & ~(WARP_LANES - 1)) + i].now = state::ready;
            }
        }
    }
    while (with.generation == generation) {
        if ((own.left & mask) != 0) {
            die("thread %u: warp mask %08x names lanes that are not there (%08x)", self, mask,
                own.left & mask);
        }
        threads_[self].now = state::in_warp;
        threads_[self].on->yield();
    }
    tsan_acquire(sync);
    memcpy(shown, with.shown, sizeof with.shown);
}

void barrier()
{
    if (block::current == nullptr) {
        die("__syncthreads outside a kernel");
    }
    block::current->barrier();
}

unsigned warp_exchange(unsigned mask, uint64_t value, uint64_t shown[WARP_LANES])
{
    if (block::current == nullptr) {
        die("a warp operation outside a kernel");
    }
    block::current->exchange(mask, value, shown);
    return block::current->lane();
}

void *dynamic_shared()
{
    if (block::current == nullptr) {
        die("shared memory outside a kernel");
    }
    return block::current->shared();
}

} // namespace cudasim
