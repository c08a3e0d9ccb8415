/* The kernels of the rules, and the tables of work that they read: tiles, words and bits as those
 * of cuda/move_kernel.cuh.
 */
#ifndef KVS_CUDA_UPDATE_KERNEL_CUH
#define KVS_CUDA_UPDATE_KERNEL_CUH

#include "cuda/map.cuh"
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

/* target := rule(weight, accumulator + last, or whichever of the two is there).
 *
 * With a map the states, the weight and the target are where it says; the accumulator has the
 * mapped rows alone, or is not there: a gradient of zero. `compact`: the weight and the target have
 * the mapped rows alone, too. */
template <typename Real> struct kvs_cuda_update {
    typename kvs_cuda_arithmetic<Real>::numbers numbers;
    const Real *weight;
    Real *target;
    Real *state[KVS_RULE_STATES_MAX];
    const Real *accumulator;
    const Real *last;
    uint64_t bytes;
    uint64_t first_tile;
    uint64_t element; /* the place of element 0 of the states in its key */
    kvs_cuda_map map;
    bool compact;
    bool words; /* with a map: words do not straddle rows */
};

/* Where the elements of a row are: one after the other, or as its map says. */
struct kvs_cuda_dense {
    static const bool mapped = false;
    template <typename Real> __device__ explicit kvs_cuda_dense(const kvs_cuda_update<Real> *row)
    {
        (void)row;
    }
    __device__ uint64_t state(uint64_t i, unsigned lanes) const
    {
        (void)lanes;
        return i;
    }
    __device__ uint64_t weight(uint64_t i, uint64_t at) const
    {
        (void)at;
        return i;
    }
};

struct kvs_cuda_sparse {
    static const bool mapped = true;
    kvs_cuda_map map;
    bool compact;

    template <typename Real>
    __device__ explicit kvs_cuda_sparse(const kvs_cuda_update<Real> *row)
        : map(row->map), compact(row->compact)
    {
    }
    __device__ uint64_t state(uint64_t i, unsigned lanes) const
    {
        return kvs_cuda_place(map, i, lanes);
    }
    __device__ uint64_t weight(uint64_t i, uint64_t at) const
    {
        return compact ? i : at;
    }
};

/* One rule on one row, whose pointers are read once. Step: a row of KVS_RULES, as a type. */
template <typename Real, typename Step, typename Places> struct kvs_cuda_update_body {
    typedef kvs_cuda_word<Real> word_type;

    typename kvs_cuda_arithmetic<Real>::numbers numbers;
    const Real *weight;
    Real *target;
    Real *const *state;
    const Real *sum;  /* the accumulator, or what there is instead */
    const Real *more; /* what is added to it, or null */
    uint64_t first;   /* the place of element 0 in its key */
    Places places;

    __device__ explicit kvs_cuda_update_body(const kvs_cuda_update<Real> *row)
        : numbers(row->numbers), weight(row->weight), target(row->target), state(row->state),
          sum(row->accumulator != nullptr ? row->accumulator : row->last),
          more(row->accumulator != nullptr ? row->last : nullptr), first(row->element), places(row)
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

    __device__ word_type gradient(uint64_t i) const
    {
        word_type g = {};
        if (Places::mapped && sum == nullptr) {
            return g;
        }
        g = kvs_cuda_load<Real>(sum, i);
        if (!Places::mapped && more != nullptr) {
            const word_type last = kvs_cuda_load<Real>(more, i);
            for (unsigned lane = 0; lane < sizeof(word_type) / sizeof(Real); lane++) {
                g.at[lane] = g.at[lane] + last.at[lane];
            }
        }
        return g;
    }

    __device__ void word(uint64_t i) const
    {
        const unsigned lanes = sizeof(word_type) / sizeof(Real);
        if (Step::narrow) {
            narrow_word(i);
            return;
        }
        const uint64_t at = places.state(i, lanes);
        word_type w = kvs_cuda_load<Real>(weight, places.weight(i, at));
        const word_type g = gradient(i);
        word_type states[KVS_RULE_STATES_MAX];
        for (int j = 0; j < Step::states; j++) {
            states[j] = kvs_cuda_load<Real>(state[j], at);
        }
        for (unsigned lane = 0; lane < lanes; lane++) {
            Real s[KVS_RULE_STATES_MAX];
            for (int j = 0; j < Step::states; j++) {
                s[j] = states[j].at[lane];
            }
            w.at[lane] = Step::step(&numbers, w.at[lane], g.at[lane], s, first + at * lanes + lane);
            for (int j = 0; j < Step::states; j++) {
                states[j].at[lane] = s[j];
            }
        }
        kvs_cuda_store(target, places.weight(i, at), w);
        for (int j = 0; j < Step::states; j++) {
            kvs_cuda_store(state[j], at, states[j]);
        }
    }

    __device__ void element(uint64_t i) const
    {
        const uint64_t at = places.state(i, 1);
        const uint64_t of = places.weight(i, at);
        Real g = Places::mapped && sum == nullptr ? Real(0) : sum[i];
        Real s[KVS_RULE_STATES_MAX];
        if (!Places::mapped && more != nullptr) {
            g = g + more[i];
        }
        for (int j = 0; j < Step::states; j++) {
            s[j] = state[j][at];
        }
        target[of] = Step::step(&numbers, weight[of], g, s, first + at);
        for (int j = 0; j < Step::states; j++) {
            state[j][at] = s[j];
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
 * each rule, and one more for its rows with a map, so that none pays for the registers of another;
 * three blocks of f32 fit a multiprocessor, two of f64. */
template <typename Real, typename Step, typename Places>
__global__ void __launch_bounds__(KVS_CUDA_BLOCK_THREADS, sizeof(Real) == 4 ? 3 : 2)
    kvs_cuda_update_kernel(const kvs_cuda_update<Real> *rows, uint32_t count, uint64_t tiles)
{
    for (uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const kvs_cuda_update<Real> *row = kvs_cuda_find_row(rows, count, tile);
        const kvs_cuda_range range = kvs_cuda_tile_range(row, tile);
        const kvs_cuda_update_body<Real, Step, Places> body(row);
        if constexpr (Places::mapped) {
            if (!row->words) {
                kvs_cuda_each_element<Real>(range, body);
                continue;
            }
        }
        kvs_cuda_each<Real>(range, body);
    }
}

#endif
