/* The kernels of the rules, and the tables of work that they read: tiles, words and bits as those
 * of cuda/move_kernel.cuh.
 */
#ifndef KVS_CUDA_UPDATE_KERNEL_CUH
#define KVS_CUDA_UPDATE_KERNEL_CUH

#include "cuda/words.cuh"
#include "engine/rules.h"

/* A loop that stays one. */
#if defined(__CUDACC__)
#define KVS_CUDA_ROLLED _Pragma("unroll 1")
#else
#define KVS_CUDA_ROLLED
#endif

/* The arithmetic type of a rule and what engine/rules.h calls its own for it. */
template <typename Real> struct kvs_cuda_arithmetic;
template <> struct kvs_cuda_arithmetic<float> {
    typedef kvs_numbers_f32 numbers;
};
template <> struct kvs_cuda_arithmetic<double> {
    typedef kvs_numbers_f64 numbers;
};

/* target := rule(weight, accumulator + last, or whichever of the two is there). */
template <typename Real> struct kvs_cuda_update {
    typename kvs_cuda_arithmetic<Real>::numbers numbers;
    const Real *weight;
    Real *target;
    Real *state[KVS_RULE_STATES_MAX];
    const Real *accumulator;
    const Real *last;
    uint64_t bytes;
    uint64_t first_tile;
    uint64_t element; /* the first one's place in its key */
};

/* One rule on one row, whose pointers are read once. Step: a row of KVS_RULES, as a type. */
template <typename Real, typename Step> struct kvs_cuda_update_body {
    typedef kvs_cuda_word<Real> word_type;

    typename kvs_cuda_arithmetic<Real>::numbers numbers;
    const Real *weight;
    Real *target;
    Real *const *state;
    const Real *sum;  /* the accumulator, or what there is instead */
    const Real *more; /* what is added to it, or null */
    uint64_t first;   /* the place of element 0 in its key */

    __device__ explicit kvs_cuda_update_body(const kvs_cuda_update<Real> *row)
        : numbers(row->numbers), weight(row->weight), target(row->target), state(row->state),
          sum(row->accumulator != nullptr ? row->accumulator : row->last),
          more(row->accumulator != nullptr ? row->last : nullptr), first(row->element)
    {
    }

    /* One element after the other, for rules that would not fit the registers side by side. */
    __device__ void narrow_word(uint64_t i) const
    {
        const unsigned lanes = sizeof(word_type) / sizeof(Real);
        KVS_CUDA_ROLLED
        for (unsigned lane = 0; lane < lanes; lane++) {
            element(i * lanes + lane);
        }
    }

    __device__ void word(uint64_t i) const
    {
        const unsigned lanes = sizeof(word_type) / sizeof(Real);
        if (Step::narrow) {
            narrow_word(i);
            return;
        }
        word_type w = kvs_cuda_load<Real>(weight, i);
        word_type g = kvs_cuda_load<Real>(sum, i);
        word_type states[KVS_RULE_STATES_MAX];
        if (more != nullptr) {
            const word_type last = kvs_cuda_load<Real>(more, i);
            for (unsigned lane = 0; lane < lanes; lane++) {
                g.at[lane] = g.at[lane] + last.at[lane];
            }
        }
        for (int j = 0; j < Step::states; j++) {
            states[j] = kvs_cuda_load<Real>(state[j], i);
        }
        for (unsigned lane = 0; lane < lanes; lane++) {
            Real s[KVS_RULE_STATES_MAX];
            for (int j = 0; j < Step::states; j++) {
                s[j] = states[j].at[lane];
            }
            w.at[lane] = Step::step(&numbers, w.at[lane], g.at[lane], s, first + i * lanes + lane);
            for (int j = 0; j < Step::states; j++) {
                states[j].at[lane] = s[j];
            }
        }
        kvs_cuda_store(target, i, w);
        for (int j = 0; j < Step::states; j++) {
            kvs_cuda_store(state[j], i, states[j]);
        }
    }

    __device__ void element(uint64_t i) const
    {
        const Real g = more != nullptr ? sum[i] + more[i] : sum[i];
        Real s[KVS_RULE_STATES_MAX];
        for (int j = 0; j < Step::states; j++) {
            s[j] = state[j][i];
        }
        target[i] = Step::step(&numbers, weight[i], g, s, first + i);
        for (int j = 0; j < Step::states; j++) {
            state[j][i] = s[j];
        }
    }
};

#define KVS_CUDA_STEP(real, kind, name, rule_step, rule_states)                                    \
    struct kvs_cuda_##rule_step##_##kind {                                                         \
        static const int states = rule_states;                                                     \
        static const bool narrow = KVS_RULE_##name == KVS_RULE_SGLD;                               \
        static __device__ __forceinline__ real step(const kvs_numbers_##kind *n, real w, real g,   \
                                                    real *state, uint64_t element)                 \
        {                                                                                          \
            return kvs_step_##rule_step##_##kind(n, w, g, state, element);                         \
        }                                                                                          \
    };
#define KVS_CUDA_STEPS(name, step, states)                                                         \
    KVS_CUDA_STEP(float, f32, name, step, states)                                                  \
    KVS_CUDA_STEP(double, f64, name, step, states)
KVS_RULES(KVS_CUDA_STEPS)
#undef KVS_CUDA_STEPS
#undef KVS_CUDA_STEP

/* One rule: a row each, in one pass over weight, states and gradient (sgd 12, momentum 20, adam 28
 * bytes an f32 element, 4 more where an accumulator and a last contribution meet). A kernel for
 * each rule, so that none pays for the registers of another; three blocks of f32 fit a
 * multiprocessor, two of f64. */
template <typename Real, typename Step>
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS, sizeof(Real) == 4 ? 3 : 2)
    kvs_cuda_update_kernel(const kvs_cuda_update<Real> *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_update<Real> *row = kvs_cuda_find_row(rows, count, tile);
        const kvs_cuda_range range = kvs_cuda_tile_range(row, tile);
        kvs_cuda_each<Real>(range, kvs_cuda_update_body<Real, Step>(row));
    }
}

#endif
