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
/* NOLINTEND(bugprone-macro-parentheses) */

/* ------------------------------------------------------------------ the table */

#define ROW_F32(name, step, states) [KVS_RULE_##name] = apply_##step##_f32,
#define ROW_F64(name, step, states) [KVS_RULE_##name] = apply_##step##_f64,

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
};
