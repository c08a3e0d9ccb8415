/* The threads of one block, each a fiber, run in an order that the seed draws.
 *
 * A thread runs until it waits for others: at __syncthreads or in a warp operation. What a card
 * would answer with a hang or with garbage ends the process here: a barrier that some threads have
 * left, a warp operation whose mask names lanes that are not there, a deadlock. Blocks run one
 * after another, but to ThreadSanitizer they are not ordered.
 *
 * Threads: the one that is inside the runtime.
 */
#ifndef KVS_TESTS_CUDASIM_BLOCK_HPP
#define KVS_TESTS_CUDASIM_BLOCK_HPP

#include "cuda_runtime.h"
#include "fiber.hpp"
#include "stream.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace cudasim
{

const unsigned WARP_LANES = 32;

/* Where the lanes of one mask meet to show each other a value. */
struct rendezvous {
    unsigned mask = 0;
    unsigned arrived = 0;
    unsigned generation = 0;
    uint64_t value[WARP_LANES];
    uint64_t shown[WARP_LANES];
    char sync[2]; /* for TSan: one for even, one for odd generations */
};

struct warp {
    static const unsigned MASKS_MAX = 8; /* different masks in one kernel and warp */
    unsigned left = 0;                   /* lanes that have ended, or never were */
    rendezvous meetings[MASKS_MAX];
};

class block
{
  public:
    /* `number` counts the blocks of the launch. */
    block(const cudaLaunchConfig_t &config, const kernel_call &call, dim3 at, size_t number);

    void run();
    void join(); /* what the threads did happens before what follows */

    /* From within a thread of the block. */
    void barrier();
    void exchange(unsigned mask, uint64_t value, uint64_t shown[WARP_LANES]);
    void *shared()
    {
        return shared_.get();
    }
    unsigned lane() const
    {
        return running_ % WARP_LANES;
    }

    static block *current;

  private:
    enum class state { ready, at_barrier, in_warp, ended };
    struct thread {
        block *owner = nullptr;
        state now = state::ready;
        std::unique_ptr<fiber> on;
    };

    static void enter(void *thread);
    void resume(unsigned number);
    void shuffle();
    unsigned count(state wanted) const;
    rendezvous &meeting(unsigned mask);

    dim3 size_;
    dim3 at_;
    size_t first_thread_; /* of the block, counted over the launch */
    stream &on_;
    const kernel_call &call_;
    std::unique_ptr<unsigned char[]> shared_;
    std::vector<thread> threads_;
    std::vector<unsigned> order_;
    std::vector<warp> warps_;
    unsigned running_ = 0;
    unsigned barriers_ = 0;
    char begin_sync_ = 0;
    char barrier_sync_[2];
    char end_sync_ = 0;
};

} // namespace cudasim

#endif
