// Vectors of units, each a register of L samples, and what recurrences do with them, for one instruction set.
//
// Nothing of the standard library is called from here: the linker would keep one instruction set's copy of an inline
// function for all.

#pragma once

#include "fetch.h"

namespace {

// Rows of a tile of sums that is so many vectors wide.
constexpr int panel_rows(int across) { return panel / across < sums ? panel / across : sums; }

template <typename T>
struct Registers {
    static constexpr int64_t L = bytes / sizeof(T);
    typedef T vec __attribute__((vector_size(bytes), aligned(alignof(T))));

    const int64_t H;

    // exp(x) for x of at most 0, to two units in the last place of a float; exp(-87) below -87. With n ln 2 + r = x, it is
    // 2^n times the Taylor series of exp(r), whose ninth term is beyond a float where |r| <= ln(2) / 2.
    static vec exponential(vec x) {
        if constexpr (sizeof(T) == 4) {
            typedef int32_t bits __attribute__((vector_size(bytes)));
            x = x < -87 ? all(-87) : x;
            const vec shifted = x * static_cast<T>(1.4426950408889634) + static_cast<T>(12582912);  // 1.5 2^23: rounds
            const vec n = shifted - static_cast<T>(12582912);
            // ln 2 in two parts, the first of few enough bits for n times it to be exact.
            const vec r = x - n * static_cast<T>(0.693145751953125) - n * static_cast<T>(1.42860682030941723e-6);
            vec series = all(static_cast<T>(1. / 5040));
            for (int k : {720, 120, 24, 6, 2, 1, 1}) series = series * r + static_cast<T>(1. / k);
            return series * reinterpret_cast<vec>((__builtin_convertvector(n, bits) + 127) << 23);
        } else {
            for (int64_t l = 0; l < L; ++l) x[l] = __builtin_exp(x[l]);
            return x;
        }
    }

    static vec relu(vec x) { return x < 0 ? vec{} : x; }
    static vec relu_gradient(vec grad, vec result) { return result <= 0 ? vec{} : grad; }
    static vec all(T x) { return vec{} + x; }

    static T sum(vec x) {
        T total = 0;
        for (int64_t l = 0; l < L; ++l) total += x[l];
        return total;
    }

    template <int64_t half, int... l>
    static inline INLINE void exchange(vec& a, vec& b, std::integer_sequence<int, l...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
        const vec low = __builtin_shufflevector(a, b, (l & half ? L + l - half : l)...);
        b = __builtin_shufflevector(a, b, (l & half ? L + l : l + half)...);
        a = low;
#else
        for (int64_t k = 0; k < L; ++k)
            if (!(k & half)) { const T x = a[k + half]; a[k + half] = b[k]; b[k] = x; }
#endif
    }

    template <int64_t half = L / 2>
    static inline INLINE void transpose(vec* rows) {
        each<L>([&](auto k) INLINE {
            if constexpr (!(k.value & half))
                exchange<half>(rows[k], rows[k + half], std::make_integer_sequence<int, L>());
        });
        if constexpr (half > 1) transpose<half / 2>(rows);
    }

    // Rows of `width` elements, that of sample l at rows[l], to and from the block's layout, in square tiles; the last
    // tile goes over columns of the one before it once more.
    static NOINLINE void load(vec* to, const T* const* rows, int64_t samples, int64_t width) {
        if (width < L) {
            for (int64_t k = 0; k < width; ++k)
                for (int64_t l = 0; l < L; ++l) to[k][l] = l < samples ? rows[l][k] : 0;
            return;
        }
        for (int64_t at = 0; at < width; at += L) {
            const int64_t j = at + L <= width ? at : width - L;
            vec tile[L];
            each<L>([&](auto l) INLINE {
                tile[l] = l < samples ? *reinterpret_cast<const vec*>(rows[l] + j) : vec{};
            });
            transpose(tile);
            each<L>([&](auto l) INLINE { to[j + l] = tile[l]; });
        }
    }

    static void load(vec* to, const T* from, int64_t samples, int64_t stride, int64_t width) {
        const T* rows[L];
        for (int64_t l = 0; l < samples; ++l) rows[l] = from + l * stride;
        load(to, rows, samples, width);
    }

    static NOINLINE void store(T* to, const vec* from, int64_t samples, int64_t stride, int64_t width) {
        if (width < L) {
            for (int64_t k = 0; k < width; ++k)
                for (int64_t l = 0; l < samples; ++l) to[l * stride + k] = from[k][l];
            return;
        }
        for (int64_t at = 0; at < width; at += L) {
            const int64_t j = at + L <= width ? at : width - L;
            vec rows[L];
            each<L>([&](auto l) INLINE { rows[l] = from[j + l]; });
            transpose(rows);
            each<L>([&](auto l) INLINE {
                if (l < samples) *reinterpret_cast<vec*>(to + j + l * stride) = rows[l];
            });
        }
    }

    // to = from + scale matrix x, the matrix packed and the same for all samples; `from` may be `to`, or absent.
    void multiply(vec* to, const vec* from, T scale, const T* matrix, const vec* x) const {
        multiply(to, from, scale, matrix, x, H, H);
    }
    static void multiply(vec* to, const vec* from, T scale, const T* matrix, const vec* x, int64_t height,
                         int64_t width) {
        Fetch none;
        multiply(to, from, scale, matrix, x, height, width, none);
    }
    static NOINLINE void multiply(vec* to, const vec* from, T scale, const T* matrix, const vec* x, int64_t height,
                                  int64_t width, Fetch& fetch) {
        in_blocks<sums>(height, [&](auto count, int64_t j) {
            constexpr int rows = decltype(count)::value;
            vec sum[rows] = {};
            const T* w = matrix + j * width;
            fetch.during(width, [&](int64_t i) INLINE {
                each<rows>([&](auto k) INLINE { sum[k] += w[k] * x[i]; });
                w += rows;
            });
            each<rows>([&](auto k) INLINE { to[j + k] = from ? from[j + k] + scale * sum[k] : scale * sum[k]; });
        });
    }

    // to[i] = rows[i] . x for n rows of H, `stride` apart.
    NOINLINE void dots(vec* to, int64_t n, const vec* rows, int64_t stride, const vec* x) const {
        in_blocks<8>(n, [&](auto count, int64_t i) {
            constexpr int block = decltype(count)::value, parts = block < 2 ? 4 : block < 4 ? 2 : 1;
            vec sum[block][parts] = {};
            const vec* row = rows + i * stride;
            int64_t j = 0;
            for (; j + parts <= H; j += parts)
                each<parts>([&](auto part) INLINE {
                    const vec value = x[j + part];
                    each<block>([&](auto k) INLINE { sum[k][part] += row[k * stride + j + part] * value; });
                });
            if constexpr (parts > 1)
                for (; j < H; ++j) each<block>([&](auto k) INLINE { sum[k][0] += row[k * stride + j] * x[j]; });
            each<block>([&](auto k) INLINE {
                vec total = sum[k][0];
                each<parts - 1>([&](auto part) INLINE { total += sum[k][part + 1]; });
                to[i + k] = total;
            });
        });
    }

    // to = from + the sum of n rows of H, `stride` apart, each times its coefficient; `from` may be `to`, or absent.
    NOINLINE void combine(vec* to, const vec* from, int64_t n, const vec* coefficients, const vec* rows,
                          int64_t stride) const {
        in_blocks<sums>(H, [&](auto count, int64_t j) {
            constexpr int block = decltype(count)::value;
            vec sum[block] = {};
            if (from) each<block>([&](auto k) INLINE { sum[k] = from[j + k]; });
            const vec* row = rows + j;
            for (int64_t i = 0; i < n; ++i, row += stride) {
                const vec value = coefficients[i];
                each<block>([&](auto k) INLINE { sum[k] += value * row[k]; });
            }
            each<block>([&](auto k) INLINE { to[j + k] = sum[k]; });
        });
    }

    // to += from, and two such sums over n rows, whose coefficients are `step` apart.
    NOINLINE void combine_two(vec* to, const vec* from, int64_t n, const vec* first, const vec* rows, const vec* second,
                              const vec* more, int64_t step) const {
        in_blocks<sums>(H, [&](auto count, int64_t j) {
            constexpr int block = decltype(count)::value;
            vec sum[block];
            each<block>([&](auto k) INLINE { sum[k] = to[j + k] + from[j + k]; });
            const vec *row = rows + j, *other = more + j, *a = first, *b = second;
            for (int64_t i = 0; i < n; ++i, row += H, other += H, a += step, b += step) {
                const vec one = *a, two = *b;
                each<block>([&](auto k) INLINE { sum[k] += one * row[k]; });
                each<block>([&](auto k) INLINE { sum[k] += two * other[k]; });
            }
            each<block>([&](auto k) INLINE { to[j + k] = sum[k]; });
        });
    }

    void add(vec* to, const vec* from, T scale = 1) const {
        for (int64_t j = 0; j < H; ++j) to[j] += scale * from[j];
    }

    // to = scale from + the sum over n of x y^T, rows of H each, those of y `stride` apart; `from` may be absent.
    void outer(vec* to, const vec* from, T scale, int64_t n, const vec* x, const vec* y, int64_t stride) const {
        outer(to, from, scale, n, x, H, H, y, stride);
    }
    // Likewise of the first `height` elements of rows of x, which are x_stride apart.
    NOINLINE void outer(vec* to, const vec* from, T scale, int64_t n, const vec* x, int64_t height, int64_t x_stride,
                        const vec* y, int64_t stride) const {
        in_blocks<tile>(height, [&](auto rows_, int64_t j) {
            constexpr int rows = decltype(rows_)::value;
            in_blocks<tile>(H, [&](auto columns_, int64_t i) {
                constexpr int columns = decltype(columns_)::value;
                vec sum[rows][columns] = {};
                if (from)
                    each<rows>([&](auto k) INLINE {
                        each<columns>([&](auto c) INLINE { sum[k][c] = scale * from[(j + k) * H + i + c]; });
                    });
                const vec *a = x + j, *b = y + i;
                for (int64_t r = 0; r < n; ++r, a += x_stride, b += stride)
                    each<rows>([&](auto k) INLINE {
                        each<columns>([&](auto c) INLINE { sum[k][c] += a[k] * b[c]; });
                    });
                each<rows>([&](auto k) INLINE {
                    each<columns>([&](auto c) INLINE { to[(j + k) * H + i + c] = sum[k][c]; });
                });
            });
        });
    }

    // to = matrix x for n vectors at once, those of x `stride` apart.
    NOINLINE void times(vec* to, int64_t n, const vec* matrix, const vec* x, int64_t stride) const {
        in_blocks<tile>(H, [&](auto rows_, int64_t j) {
            constexpr int rows = decltype(rows_)::value;
            in_blocks<tile>(n, [&](auto columns_, int64_t r) {
                constexpr int columns = decltype(columns_)::value;
                vec sum[rows][columns] = {};
                const vec *a = matrix + j * H, *b = x + r * stride;
                for (int64_t i = 0; i < H; ++i, ++a, ++b)
                    each<rows>([&](auto k) INLINE {
                        each<columns>([&](auto c) INLINE { sum[k][c] += a[k * H] * b[c * stride]; });
                    });
                each<rows>([&](auto k) INLINE {
                    each<columns>([&](auto c) INLINE { to[(r + c) * H + j + k] = sum[k][c]; });
                });
            });
        });
    }

    // body(part, j) for all units; sums of several parts do not wait for each other.
    static constexpr int parts = 4;
    template <typename Body>
    inline INLINE void in_parts(const Body& body) const {
        int64_t j = 0;
        for (; j + parts <= H; j += parts) each<parts>([&](auto part) INLINE { body(part, j + part); });
        for (; j < H; ++j) body(Count<0>(), j);
    }
    static vec total(const vec* sums) { return (sums[0] + sums[1]) + (sums[2] + sums[3]); }

    // to += matrix x, the matrix as the caller lays it out.
    static NOINLINE void multiply_unpacked(vec* to, const T* matrix, const vec* x, int64_t height, int64_t width) {
        in_blocks<sums>(height, [&](auto count, int64_t j) {
            constexpr int rows = decltype(count)::value;
            vec sum[rows] = {};
            const T* w = matrix + j * width;
            for (int64_t i = 0; i < width; ++i, ++w) each<rows>([&](auto k) INLINE { sum[k] += w[k * width] * x[i]; });
            each<rows>([&](auto k) INLINE { to[j + k] += sum[k]; });
        });
    }

    // A matrix in the order in which `multiply` reads it; `height` and `width` are those of the result.
    void pack(T* to, const T* matrix, bool transposed) const { pack(to, matrix, transposed, H, H); }
    static NOINLINE void pack(T* to, const T* matrix, bool transposed, int64_t height, int64_t width) {
        const int64_t along = transposed ? height : 1, across = transposed ? 1 : width;
        in_blocks<sums>(height, [&](auto count, int64_t j) {
            constexpr int rows = decltype(count)::value;
            for (int64_t i = 0; i < width; ++i) {
                T* place = to + j * width + i * rows;
                const T* from = matrix + j * across + i * along;
                if (transposed)
                    std::memcpy(place, from, rows * sizeof(T));
                else
                    for (int k = 0; k < rows; ++k) place[k] = from[k * across];
            }
        });
    }

    // Rows of the caller's in runs: `step` apart, `run` from one run to the next. Those that runs begin with may lie
    // elsewhere, one after the other or as they are named.
    struct Rows {
        const T* from;
        int64_t step, run = 0;
        const T* begin = nullptr;
        const int64_t* named = nullptr;

        inline INLINE const T* at(int64_t of, int64_t row) const {
            if (begin && !row) return begin + (named ? named[of] : of) * step;
            return from + of * run + row * step;
        }
        Rows after(int64_t columns) const { return {from + columns, step, run, begin ? begin + columns : begin, named}; }
    };

    // to = the sum of x y^T over `runs` runs of n rows each; where `adds`, to += that. All as the caller lays it out, so
    // that the last columns of `to` do not fill a vector: they are summed with vectors along the height where that
    // takes fewer of them, else in a vector that goes over columns before them once more.
    static void sum_of_outer(T* to, bool adds, int64_t height, int64_t width, int64_t runs, int64_t n, const Rows& x,
                             const Rows& y) {
        const int64_t whole = width / L, left = width % L, along = (height + L - 1) / L;
        const bool turned = left && height >= L && (!whole || left * along < height);
        const int64_t vectors = width < L ? 0 : turned ? whole : (width + L - 1) / L;
        tiles({to, width, false, adds}, height, width, vectors, runs, n, x, y);
        if (turned) return tiles({to + whole * L, width, true, adds}, left, height, along, runs, n, y.after(whole * L), x);
        for (int64_t j = 0; width < L && j < height; ++j)
            for (int64_t i = 0; i < width; ++i) {
                T sum = adds ? to[j * width + i] : 0;
                for (int64_t run = 0; run < runs; ++run)
                    for (int64_t r = 0; r < n; ++r) sum += x.at(run, r)[j] * y.at(run, r)[i];
                to[j * width + i] = sum;
            }
    }

    // Where sums of L columns go: rows of `width`, or turned. Of the last, the first `again` lanes are others' too.
    struct Place {
        T* to;
        int64_t width;
        bool turned, adds;

        template <int down, int across>
        inline INLINE void write(int64_t j, const int64_t* column, int64_t again, const vec (&sums)[down * across]) const {
            if (turned) {
                vec kept[down * across];
                each<down * across>([&](auto k) INLINE { kept[k] = sums[k]; });
                return write_turned(j, down, across, column, again, kept);
            }
            each<down>([&](auto k) INLINE {
                each<across>([&](auto c) INLINE {
                    vec& place = *reinterpret_cast<vec*>(to + (j + k) * width + column[c]);
                    vec sum = sums[k * across + c];
                    if (adds) sum = place + (c + 1 == across && again ? from_lane(again, sum) : sum);
                    place = sum;
                });
            });
        }

        NOINLINE void write_turned(int64_t j, int64_t down, int64_t across, const int64_t* column, int64_t again,
                                   const vec* sums) const {
            for (int64_t k = 0; k < down * across; ++k) {
                const int64_t c = k % across;
                T* place = to + column[c] * width + j + k / across;
                for (int64_t l = c + 1 == across ? again : 0; l < L; ++l)
                    place[l * width] = (adds ? place[l * width] : 0) + sums[k][l];
            }
        }
    };

    // x from lane `first` on, zero before.
    static NOINLINE vec from_lane(int64_t first, const vec& x) {
        vec after = {};
        for (int64_t l = first; l < L; ++l) after[l] = x[l];
        return after;
    }

    // The sums of x y^T, in tiles that stay in registers, for the first `vectors` of those that cover the width; the
    // last of all of them ends with it.
    static NOINLINE void tiles(const Place& place, int64_t height, int64_t width, int64_t vectors, int64_t runs,
                               int64_t n, const Rows& x, const Rows& y) {
        in_blocks<panel_columns>(vectors, [&](auto columns_, int64_t i) {
            constexpr int across = decltype(columns_)::value;
            int64_t column[across];
            each<across>([&](auto c) INLINE { column[c] = smaller((i + c) * L, width - L); });
            in_blocks<panel_rows(across)>(height, [&](auto rows_, int64_t j) {
                constexpr int down = decltype(rows_)::value;
                vec sum[down * across] = {};
                for (int64_t run = 0; run < runs; ++run) {
                    const T *a = x.at(run, 0) + j, *b = y.at(run, 0), *next_a = x.at(run, 1) + j, *next_b = y.at(run, 1);
                    for (int64_t r = 0; r < n; ++r) {
                        vec values[across];
                        each<across>([&](auto c) INLINE { values[c] = *reinterpret_cast<const vec*>(b + column[c]); });
                        each<down>([&](auto k) INLINE {
                            const T factor = a[k];
                            each<across>([&](auto c) INLINE { sum[k * across + c] += factor * values[c]; });
                        });
                        a = next_a, b = next_b, next_a += x.step, next_b += y.step;
                    }
                }
                place.template write<down, across>(j, column, (i + across) * L - column[across - 1] - L, sum);
            });
        });
    }
};

}  // namespace
