// Products of matrices whose rows are the states, inputs or gradients of the sequences that run side by side.
//
// Units are in the lanes of the registers: a row is as the caller has it, and however many rows there are, a product
// takes the time of those. A packed matrix is cut into panels of up to `most_across` vectors of columns, in each of
// which the rows follow each other.

#pragma once

#include "registers.h"

namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int most_across = 3;
constexpr int tile_rows(int across) { return across == 3 ? 8 : across == 2 ? 12 : 16; }
#else
constexpr int most_across = 2;
constexpr int tile_rows(int across) { return across == 2 ? 6 : 8; }
#endif

template <typename T>
struct Products {
    static constexpr int64_t L = Registers<T>::L;
    typedef typename Registers<T>::vec vec;

    static const T* given(const void* tensor) { return static_cast<const T*>(tensor); }
    static T* result(void* tensor) { return static_cast<T*>(tensor); }
    static void copy(T* to, const T* from, int64_t size) { std::memcpy(to, from, size * sizeof(T)); }

    static int64_t vectors(int64_t columns) { return (columns + L - 1) / L; }
    static int64_t packed_size(int64_t depth, int64_t columns) { return depth * vectors(columns) * L; }

    // From one row to the next: room for a vector that begins with the last element, and an odd number of vectors, so
    // that one column of many rows does not fall into the same few sets of the cache.
    static int64_t stride(int64_t columns) { return ((columns + 2 * L - 2) / L | 1) * L; }

    static inline INLINE vec at(const T* from) { return *reinterpret_cast<const vec*>(from); }
    static inline INLINE void put(T* to, vec x) { *reinterpret_cast<vec*>(to) = x; }

    // Packs the matrix whose row k is row(k).
    template <typename Row>
    static void pack(T* to, int64_t depth, int64_t columns, const Row& row) {
        in_blocks(most_across, vectors(columns), [&](int64_t across, int64_t v) {
            T* panel = to + v * L * depth;
            const int64_t width = smaller(across * L, columns - v * L);
            for (int64_t k = 0; k < depth; ++k, panel += across * L) {
                std::memcpy(panel, row(k) + v * L, width * sizeof(T));
                std::memset(panel + width, 0, (across * L - width) * sizeof(T));
            }
        });
    }

    // Packs `rows` rows, from `first` on, of the matrix whose column c has them at column(c). `temporary` has room for so
    // many vectors.
    template <typename Column>
    static void pack_turned(T* to, int64_t depth, int64_t columns, int64_t first, int64_t rows, const Column& column,
                            vec* temporary) {
        in_blocks(most_across, vectors(columns), [&](int64_t across, int64_t v) {
            for (int64_t part = 0; part < across; ++part) {
                const int64_t from = (v + part) * L;
                const T* places[L];
                for (int64_t l = 0; l < L; ++l) places[l] = column(smaller(from + l, columns - 1));
                Registers<T>::load(temporary, places, smaller(L, columns - from), rows);
                T* panel = to + v * L * depth + first * across * L + part * L;
                for (int64_t k = 0; k < rows; ++k) put(panel + k * across * L, temporary[k]);
            }
        });
    }

    // to = from + a packed, for so many rows of `a`. Rows of `from` are `from_stride` apart, 0 where all are the same.
    static NOINLINE void multiply(T* to, int64_t to_stride, const T* from, int64_t from_stride, int64_t rows,
                                  const T* a, int64_t a_stride, const T* packed, int64_t depth, int64_t columns,
                                  Fetch& fetch) {
        in_blocks<most_across>(vectors(columns), [&](auto across_, int64_t v) {
            constexpr int across = decltype(across_)::value;
            in_blocks<tile_rows(across)>(rows, [&](auto down_, int64_t r) {
                constexpr int down = decltype(down_)::value;
                multiply_tile<down, across>(to + r * to_stride + v * L, to_stride, from + r * from_stride + v * L,
                                            from_stride, a + r * a_stride, a_stride, packed + v * L * depth, depth,
                                            fetch);
            });
        });
    }

    template <int down, int across>
    static void multiply_tile(T* to, int64_t to_stride, const T* from, int64_t from_stride, const T* a,
                              int64_t a_stride, const T* panel, int64_t depth, Fetch& fetch) {
        vec sum[down][across];
        each<down>([&](auto r) INLINE {
            each<across>([&](auto c) INLINE { sum[r][c] = at(from + r * from_stride + c * L); });
        });
        fetch.during(depth, [&](int64_t k) INLINE {
            vec w[across];
            each<across>([&](auto c) INLINE { w[c] = at(panel + (k * across + c) * L); });
            each<down>([&](auto r) INLINE {
                const T x = a[r * a_stride + k];
                each<across>([&](auto c) INLINE { sum[r][c] += x * w[c]; });
            });
        });
        each<down>([&](auto r) INLINE {
            each<across>([&](auto c) INLINE { put(to + r * to_stride + c * L, sum[r][c]); });
        });
    }

    // to += the sum over n of a b^T, rows of `height` and `width`. What is beyond the last column of b must be there.
    static NOINLINE void add_outer(T* to, int64_t to_stride, int64_t height, int64_t width, int64_t n, const T* a,
                                   int64_t a_stride, const T* b, int64_t b_stride) {
        in_blocks<most_across>(vectors(width), [&](auto across_, int64_t v) {
            constexpr int across = decltype(across_)::value;
            in_blocks<tile_rows(across)>(height, [&](auto down_, int64_t j) {
                constexpr int down = decltype(down_)::value;
                outer_tile<down, across>(to + j * to_stride + v * L, to_stride, n, a + j, a_stride, b + v * L, b_stride);
            });
        });
    }

    template <int down, int across>
    static void outer_tile(T* to, int64_t to_stride, int64_t n, const T* a, int64_t a_stride, const T* b,
                           int64_t b_stride) {
        vec sum[down][across] = {};
        for (int64_t k = 0; k < n; ++k, a += a_stride, b += b_stride) {
            vec w[across];
            each<across>([&](auto c) INLINE { w[c] = at(b + c * L); });
            each<down>([&](auto r) INLINE {
                const T x = a[r];
                each<across>([&](auto c) INLINE { sum[r][c] += x * w[c]; });
            });
        }
        each<down>([&](auto r) INLINE {
            each<across>([&](auto c) INLINE {
                T* place = to + r * to_stride + c * L;
                put(place, at(place) + sum[r][c]);
            });
        });
    }

    // `height` columns, whose rows are `from_stride` apart, as rows of `width`.
    static NOINLINE void turn(T* to, const T* from, int64_t from_stride, int64_t height, int64_t width) {
        for (int64_t j = 0; j < height; j += L)
            for (int64_t k = 0; k < width; k += L) {
                vec tile[L];
                const int64_t rows = smaller(L, height - j), across = smaller(L, width - k);
                each<L>([&](auto i) INLINE { tile[i] = i < across ? at(from + (k + i) * from_stride + j) : vec{}; });
                Registers<T>::transpose(tile);
                if (rows == L && across == L)
                    each<L>([&](auto i) INLINE { put(to + (j + i) * width + k, tile[i]); });
                else
                    for (int64_t i = 0; i < rows; ++i)
                        std::memcpy(to + (j + i) * width + k, tile + i, across * sizeof(T));
            }
    }
};

}  // namespace
