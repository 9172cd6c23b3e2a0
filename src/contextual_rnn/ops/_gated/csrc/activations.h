// sigmoid and tanh of vectors, without branches.
//
// Against the exact value: sigmoid within 4 units in the last place where x > -87 (doubles: -708), and below 2e-38
// (4e-308) beyond; tanh within 4 units everywhere. NaN gives NaN, infinities the limits.

#pragma once

#include "registers.h"

namespace {

constexpr double inverse_factorial(int n) { return n < 2 ? 1 : inverse_factorial(n - 1) / n; }

template <typename T>
struct Activations {
    static constexpr int64_t L = Registers<T>::L;
    typedef typename Registers<T>::vec vec;
    typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type integer;
    typedef integer bits __attribute__((vector_size(bytes)));

    static constexpr bool single = sizeof(T) == 4;
    static constexpr int mantissa = single ? 23 : 52;
    static constexpr integer one = static_cast<integer>(single ? 127 : 1023) << mantissa;
    // Added to a number and subtracted again it rounds it, and the last bits of the sum are the integer.
    static constexpr T rounding = static_cast<T>(single ? 12582912. : 6755399441055744.);
    static constexpr T smallest = static_cast<T>(single ? -87 : -708), saturated = static_cast<T>(single ? 20 : 40);
    // The first terms left out are beyond a T where |r| <= ln(2) / 2.
    static constexpr int terms = single ? 7 : 13;

    static inline INLINE vec all(T x) { return vec{} + x; }

    // e^x = power (1 + rest).
    struct Exponential {
        vec power, rest;
    };

    static inline INLINE Exponential exponential(vec x) {
        const vec shifted = x * static_cast<T>(1.4426950408889634) + rounding, n = shifted - rounding;
        // ln 2 in two parts, the first of few enough bits for n times it to be exact.
        const vec r = x - n * static_cast<T>(single ? 0.693145751953125 : 6.93147180369123816490e-01) -
                      n * static_cast<T>(single ? 1.42860682030941723e-6 : 1.90821492927058770002e-10);
        vec series = all(static_cast<T>(inverse_factorial(terms)));
        each<terms - 1>([&](auto k) INLINE {
            series = series * r + static_cast<T>(inverse_factorial(terms - 1 - k));
        });
        return {reinterpret_cast<vec>((reinterpret_cast<bits>(shifted) << mantissa) + one), series * r};
    }

    // Of the two the second where x is NaN.
    static inline INLINE vec least(T bound, vec x) { return all(bound) < x ? all(bound) : x; }
    static inline INLINE vec most(T bound, vec x) { return all(bound) > x ? all(bound) : x; }

    static inline INLINE vec sigmoid(vec x) {
        const Exponential e = exponential(most(smallest, least(-smallest, -x)));
        return 1 / (e.power * e.rest + e.power + 1);
    }

    static inline INLINE vec tanh(vec x) {
        const Exponential e = exponential(most(-saturated, least(saturated, x + x)));
        const vec less_one = e.power * e.rest + (e.power - 1);
        return less_one / (less_one + 2);
    }
};

}  // namespace
