#include "base/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

/* An oracle that knows no bits: the nearest number of a format, ties to even, in double. */
static double nearest(double value, int fraction_bits, int exponent_min, double largest)
{
    if (value == 0 || isnan(value) || isinf(value)) {
        return value;
    }
    int exponent;
    (void)frexp(value, &exponent); /* |value| = [0.5, 1) 2^exponent */
    exponent = exponent - 1 < exponent_min ? exponent_min : exponent - 1;
    double unit = ldexp(1, exponent - fraction_bits);
    double rounded = nearbyint(value / unit) * unit;
    return fabs(rounded) > largest ? copysign(INFINITY, value) : rounded;
}

static double nearest_f16(double value)
{
    return nearest(value, 10, -14, 65504);
}

static double nearest_bf16(double value)
{
    return nearest(value, 7, -126, ldexp(255, 120));
}

static bool same(double a, double b)
{
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static void every_f16_comes_back_as_it_was(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        float wide = kvs_f16_to_f32((uint16_t)bits);
        bool nan = (bits & 0x7fff) > 0x7c00;
        assert_true(isnan(wide) == nan);
        assert_int_equal(kvs_f32_to_f16(wide), nan ? bits | 0x0200 : bits);
    }
}

static void f16_means_what_ieee_754_says(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        int exponent = (int)(bits >> 10);
        double fraction = (double)(bits & 0x3ff) / 1024;
        double value = exponent == 0 ? ldexp(fraction, -14) : ldexp(1 + fraction, exponent - 15);
        assert_true((double)kvs_f16_to_f32((uint16_t)bits) == value);
        assert_true((double)kvs_f16_to_f32((uint16_t)(bits | 0x8000)) == -value);
    }
    assert_true(isinf(kvs_f16_to_f32(0x7c00)) && kvs_f16_to_f32(0xfc00) < 0);
}

static void every_bf16_comes_back_as_it_was(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        bool nan = (bits & 0x7fff) > 0x7f80;
        assert_int_equal(kvs_f32_to_bf16(kvs_bf16_to_f32((uint16_t)bits)),
                         nan ? bits | 0x0040 : bits);
    }
}

/* All upper halves of f32, each with what decides a rounding below it. */
static void f32_is_rounded_to_the_nearest_with_ties_to_even(void **state)
{
    static const uint32_t lower[] = {0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000,
                                     0x3001, 0x7fff, 0x8000, 0x8001, 0xefff, 0xf000, 0xffff};
    (void)state;
    for (uint32_t upper = 0; upper <= 0xffff; upper++) {
        for (size_t i = 0; i < sizeof lower / sizeof lower[0]; i++) {
            float value = kvs_f32_of_bits(upper << 16 | lower[i]);
            assert_true(same(kvs_f16_to_f32(kvs_f32_to_f16(value)), nearest_f16(value)));
            assert_true(same(kvs_bf16_to_f32(kvs_f32_to_bf16(value)), nearest_bf16(value)));
        }
    }
}

/* Halfway between neighbours, and one f32 beside it. */
static void halfway_between_two_f16_goes_to_the_even_one(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7bff; bits++) {
        float below = kvs_f16_to_f32((uint16_t)bits);
        float above = kvs_f16_to_f32((uint16_t)(bits + 1));
        float middle = below + (above - below) / 2;
        assert_int_equal(kvs_f32_to_f16(middle), bits + (bits & 1));
        assert_int_equal(kvs_f32_to_f16(nextafterf(middle, 0)), bits);
        assert_int_equal(kvs_f32_to_f16(nextafterf(middle, INFINITY)), bits + 1);
    }
    assert_int_equal(kvs_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(kvs_f32_to_f16(65520), 0x7c00);
}

static void a_nan_never_becomes_an_infinity(void **state)
{
    (void)state;
    for (int bit = 0; bit < 23; bit++) {
        float nan = kvs_f32_of_bits(0x7f800000u | 1u << bit);
        assert_true(isnan(kvs_f16_to_f32(kvs_f32_to_f16(nan))));
        assert_true(isnan(kvs_bf16_to_f32(kvs_f32_to_bf16(nan))));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_comes_back_as_it_was),
        cmocka_unit_test(f16_means_what_ieee_754_says),
        cmocka_unit_test(every_bf16_comes_back_as_it_was),
        cmocka_unit_test(f32_is_rounded_to_the_nearest_with_ties_to_even),
        cmocka_unit_test(halfway_between_two_f16_goes_to_the_even_one),
        cmocka_unit_test(a_nan_never_becomes_an_infinity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
