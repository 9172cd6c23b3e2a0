// sigmoid and tanh of vectors, without branches.
//
// Against the exact value: sigmoid within 4 units in the last place where x > -87 (doubles: -708), and below 2e-38
// (4e-308) beyond; tanh within 4 units everywhere. NaN gives NaN, infinities the limits.

#pragma once

#include "registers.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

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
    // A sum with this is rounded to an integer, which with the bias of an exponent is in its last bits.
    static constexpr T rounding = static_cast<T>(single ? 12582912. + 127 : 6755399441055744. + 1023);
    static constexpr T largest = static_cast<T>(single ? 87 : 708), saturated = static_cast<T>(single ? 20 : 40);
    // The first terms left out are beyond a T where |r| <= ln(2) / 2.
    static constexpr int terms = single ? 7 : 13;

    static inline INLINE vec all(T x) { return vec{} + x; }

    // e^(sign x) = power e^r, |r| <= ln(2) / 2.
    struct Exponential {
        vec power, r;

        inline INLINE Exponential(vec x, T sign) {
            const vec shifted = x * (sign * static_cast<T>(1.4426950408889634)) + rounding, n = shifted - rounding;
            // ln 2 in two parts, the first of few enough bits for n times it to be exact.
            r = sign * x - n * static_cast<T>(single ? 0.693145751953125 : 6.93147180369123816490e-01) -
                n * static_cast<T>(single ? 1.42860682030941723e-6 : 1.90821492927058770002e-10);
            power = reinterpret_cast<vec>(reinterpret_cast<bits>(shifted) << mantissa);
        }

        // (e^r - 1) / r
        inline INLINE vec series() const {
            vec sum = all(static_cast<T>(inverse_factorial(terms)));
            each<terms - 1>([&](auto k) INLINE {
                sum = sum * r + static_cast<T>(inverse_factorial(terms - 1 - k));
            });
            return sum;
        }
    };

    // x, or the bound where it is beyond; NaN where x is.
    static inline INLINE vec within(T bound, vec x) {
#if defined(__AVX512F__)
        if constexpr (single) return _mm512_max_ps(all(-bound), _mm512_min_ps(all(bound), x));
        else return _mm512_max_pd(all(-bound), _mm512_min_pd(all(bound), x));
#elif defined(__AVX__)
        if constexpr (single) return _mm256_max_ps(all(-bound), _mm256_min_ps(all(bound), x));
        else return _mm256_max_pd(all(-bound), _mm256_min_pd(all(bound), x));
#elif defined(__SSE2__)
        if constexpr (single) return _mm_max_ps(all(-bound), _mm_min_ps(all(bound), x));
        else return _mm_max_pd(all(-bound), _mm_min_pd(all(bound), x));
#else
        x = all(bound) < x ? all(bound) : x;
        return all(-bound) > x ? all(-bound) : x;
#endif
    }

    static inline INLINE vec sigmoid(vec x) {
        const Exponential e(within(largest, x), -1);
        return 1 / (e.power * (e.series() * e.r + 1) + 1);
    }

    static inline INLINE vec tanh(vec x) {
        const Exponential e(within(saturated, x + x), 1);
        const vec less_one = e.power * (e.series() * e.r) + (e.power - 1);
        return less_one / (less_one + 2);
    }
};

}  // namespace
