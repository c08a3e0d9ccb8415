#include "engine/kernels_cpu.h"

#include "base/half.h"

/* The build says which table this object is: KVS_KERNELS=avx2 and so on. */
#ifndef KVS_KERNELS
#define KVS_KERNELS baseline
#endif
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define QUOTE_(a) #a
#define QUOTE(a) QUOTE_(a)

/* No iteration reads what another one writes: pointers are either equal or far apart. Without
 * saying so, a weight that is its own target would take the scalar loop. */
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed" /* a sanitizer may keep the scalar loop */
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

/* Elements as they lie in received bytes: at any address, of no declared type. */
#define ANYWHERE __attribute__((aligned(1), may_alias))
typedef float f32_anywhere ANYWHERE;
typedef double f64_anywhere ANYWHERE;
typedef uint8_t u8_anywhere ANYWHERE;
typedef uint16_t u16_anywhere ANYWHERE;
typedef uint32_t u32_anywhere ANYWHERE;
typedef uint64_t u64_anywhere ANYWHERE;

/* ------------------------------------------------------------------ sums */

/* Integers are added as unsigned ones, which wrap.
 * NOLINTBEGIN(bugprone-macro-parentheses): types cannot be in parentheses. */
#define DEFINE_ADD(name, type, anywhere)                                                           \
    static void add_##name(void *target, const void *source, size_t elements)                      \
    {                                                                                              \
        type *to = target;                                                                         \
        const anywhere *from = source;                                                             \
        INDEPENDENT                                                                                \
        for (size_t i = 0; i < elements; i++) {                                                    \
            to[i] = (type)(to[i] + from[i]);                                                       \
        }                                                                                          \
    }

DEFINE_ADD(f32, float, f32_anywhere)
DEFINE_ADD(f64, double, f64_anywhere)
DEFINE_ADD(8, uint8_t, u8_anywhere)
DEFINE_ADD(32, uint32_t, u32_anywhere)
DEFINE_ADD(64, uint64_t, u64_anywhere)

/* Each sum of f16 or bf16 is one addition in f32, rounded once. */
#define DEFINE_HALF(name)                                                                          \
    static void add_##name(void *target, const void *source, size_t elements)                      \
    {                                                                                              \
        uint16_t *to = target;                                                                     \
        const u16_anywhere *from = source;                                                         \
        INDEPENDENT                                                                                \
        for (size_t i = 0; i < elements; i++) {                                                    \
            to[i] = kvs_f32_to_##name(kvs_##name##_to_f32(to[i]) + kvs_##name##_to_f32(from[i]));  \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void widen_##name(void *target, const void *source, size_t elements)                    \
    {                                                                                              \
        float *to = target;                                                                        \
        const u16_anywhere *from = source;                                                         \
        INDEPENDENT                                                                                \
        for (size_t i = 0; i < elements; i++) {                                                    \
            to[i] = kvs_##name##_to_f32(from[i]);                                                  \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void narrow_##name(void *target, const void *source, size_t elements)                   \
    {                                                                                              \
        uint16_t *to = target;                                                                     \
        const f32_anywhere *from = source;                                                         \
        INDEPENDENT                                                                                \
        for (size_t i = 0; i < elements; i++) {                                                    \
            to[i] = kvs_f32_to_##name(from[i]);                                                    \
        }                                                                                          \
    }

DEFINE_HALF(f16)
DEFINE_HALF(bf16)

/* ------------------------------------------------------------------ rules */

/* One element, then a pass over a run for each way in which the gradient comes. The state loads
 * and stores of a rule without states are constant-folded away. */
#define DEFINE_APPLY(real, kind, step, states)                                                     \
    static inline void step##_##kind(const kvs_numbers_##kind *numbers, const kvs_cpu_run *run,    \
                                     size_t i, real gradient)                                      \
    {                                                                                              \
        real state[KVS_RULE_STATES_MAX];                                                           \
        for (int j = 0; j < (states); j++) {                                                       \
            state[j] = ((const real *)run->state[j])[i];                                           \
        }                                                                                          \
        real weight = ((const real *)run->weight)[i];                                              \
        ((real *)run->target)[i] =                                                                 \
            kvs_step_##step##_##kind(numbers, weight, gradient, state, run->element + i);          \
        for (int j = 0; j < (states); j++) {                                                       \
            ((real *)run->state[j])[i] = state[j];                                                 \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void apply_##step##_##kind(const kvs_cpu_run *given)                                    \
    {                                                                                              \
        /* Copies: what is written through target cannot change them. */                           \
        const kvs_cpu_run run = *given;                                                            \
        const kvs_numbers_##kind numbers = kvs_round_##kind(run.scalars);                          \
        const real *accumulator = run.accumulator;                                                 \
        const kind##_anywhere *last = run.last;                                                    \
        if (last == NULL) {                                                                        \
            INDEPENDENT                                                                            \
            for (size_t i = 0; i < run.elements; i++) {                                            \
                step##_##kind(&numbers, &run, i, accumulator[i]);                                  \
            }                                                                                      \
        } else if (accumulator == NULL) {                                                          \
            INDEPENDENT                                                                            \
            for (size_t i = 0; i < run.elements; i++) {                                            \
                step##_##kind(&numbers, &run, i, last[i]);                                         \
            }                                                                                      \
        } else {                                                                                   \
            INDEPENDENT                                                                            \
            for (size_t i = 0; i < run.elements; i++) {                                            \
                step##_##kind(&numbers, &run, i, accumulator[i] + last[i]);                        \
            }                                                                                      \
        }                                                                                          \
    }

#define DEFINE_APPLY_F32(name, step, states) DEFINE_APPLY(float, f32, step, states)
#define DEFINE_APPLY_F64(name, step, states) DEFINE_APPLY(double, f64, step, states)
KVS_RULES(DEFINE_APPLY_F32)
KVS_RULES(DEFINE_APPLY_F64)

/* ------------------------------------------------------------------ measures */

/* Terms at a time, so that they stay in the nearest cache; whole rounds of lanes. */
#define TERMS ((size_t)256)

/* What a measure does not read is folded away, as above: it may be NULL. */
#define DEFINE_MEASURE(real, kind, terms, sums, weighs, states)                                    \
    static inline void terms_##terms##_##kind(const kvs_numbers_##kind *numbers,                   \
                                              const kvs_cpu_run *run, size_t first, size_t count,  \
                                              real out[][TERMS])                                   \
    {                                                                                              \
        INDEPENDENT                                                                                \
        for (size_t i = 0; i < count; i++) {                                                       \
            real state[KVS_RULE_STATES_MAX] = {0};                                                 \
            real term[KVS_MEASURE_SUMS_MAX];                                                       \
            for (int j = 0; j < (states); j++) {                                                   \
                state[j] = ((const real *)run->state[j])[first + i];                               \
            }                                                                                      \
            real weight = (weighs) ? ((const real *)run->weight)[first + i] : 0;                   \
            kvs_terms_##terms##_##kind(numbers, weight,                                            \
                                       ((const real *)run->accumulator)[first + i], state, term);  \
            for (int k = 0; k < (sums); k++) {                                                     \
                out[k][i] = term[k];                                                               \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static void measure_##terms##_##kind(const kvs_cpu_run *given, kvs_cpu_lanes *lanes)           \
    {                                                                                              \
        const kvs_cpu_run run = *given;                                                            \
        const kvs_numbers_##kind numbers = kvs_round_##kind(run.scalars);                          \
        real buffer[sums][TERMS];                                                                  \
        for (size_t first = 0; first < run.elements; first += TERMS) {                             \
            size_t left = run.elements - first;                                                    \
            size_t count = left < TERMS ? left : TERMS;                                            \
            terms_##terms##_##kind(&numbers, &run, first, count, buffer);                          \
            for (int k = 0; k < (sums); k++) {                                                     \
                add_squares_##kind(buffer[k], count, lanes->of[k]);                                \
            }                                                                                      \
        }                                                                                          \
    }

#define DEFINE_SQUARES(real, kind)                                                                 \
    static inline void add_squares_##kind(const real *terms, size_t count, double *lanes)          \
    {                                                                                              \
        double sum[KVS_MEASURE_LANES];                                                             \
        size_t whole = count / KVS_MEASURE_LANES * KVS_MEASURE_LANES;                              \
        for (size_t l = 0; l < KVS_MEASURE_LANES; l++) {                                           \
            sum[l] = lanes[l];                                                                     \
        }                                                                                          \
        for (size_t i = 0; i < whole; i += KVS_MEASURE_LANES) {                                    \
            for (size_t l = 0; l < KVS_MEASURE_LANES; l++) {                                       \
                sum[l] += (double)terms[i + l] * (double)terms[i + l];                             \
            }                                                                                      \
        }                                                                                          \
        for (size_t i = whole; i < count; i++) {                                                   \
            sum[i - whole] += (double)terms[i] * (double)terms[i];                                 \
        }                                                                                          \
        for (size_t l = 0; l < KVS_MEASURE_LANES; l++) {                                           \
            lanes[l] = sum[l];                                                                     \
        }                                                                                          \
    }

DEFINE_SQUARES(float, f32)
DEFINE_SQUARES(double, f64)
#define DEFINE_MEASURE_F32(name, terms, sums, weight, states)                                      \
    DEFINE_MEASURE(float, f32, terms, sums, weight, states)
#define DEFINE_MEASURE_F64(name, terms, sums, weight, states)                                      \
    DEFINE_MEASURE(double, f64, terms, sums, weight, states)
KVS_MEASURES(DEFINE_MEASURE_F32)
KVS_MEASURES(DEFINE_MEASURE_F64)
/* NOLINTEND(bugprone-macro-parentheses) */

/* ------------------------------------------------------------------ the table */

#define ROW_F32(name, step, states) [KVS_RULE_##name] = apply_##step##_f32,
#define ROW_F64(name, step, states) [KVS_RULE_##name] = apply_##step##_f64,
#define MEASURE_F32(name, terms, sums, weight, states) [KVS_MEASURE_##name] = measure_##terms##_f32,
#define MEASURE_F64(name, terms, sums, weight, states) [KVS_MEASURE_##name] = measure_##terms##_f64,

const kvs_cpu_kernels PASTE(kvs_cpu_kernels_, KVS_KERNELS) = {
    .name = QUOTE(KVS_KERNELS),
    .add =
        {
            [KVS_F32] = add_f32,
            [KVS_F64] = add_f64,
            [KVS_F16] = add_f16,
            [KVS_BF16] = add_bf16,
            [KVS_U8] = add_8,
            [KVS_I8] = add_8,
            [KVS_I32] = add_32,
            [KVS_I64] = add_64,
        },
    .widen = {[KVS_F16] = widen_f16, [KVS_BF16] = widen_bf16},
    .narrow = {[KVS_F16] = narrow_f16, [KVS_BF16] = narrow_bf16},
    .apply_f32 = {KVS_RULES(ROW_F32)},
    .apply_f64 = {KVS_RULES(ROW_F64)},
    .measure_f32 = {KVS_MEASURES(MEASURE_F32)},
    .measure_f64 = {KVS_MEASURES(MEASURE_F64)},
};
