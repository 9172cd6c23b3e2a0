// A step of the recurrence with A stored, for a state (h, A) that stays in memory from one step to the next.

#pragma once

#include "problem.h"
#include "products.h"
#include "threads.h"

namespace {

constexpr int64_t rows_of_a_task = 24;

template <typename T>
struct Stream : Products<T> {
    typedef Products<T> Base;
    using typename Base::vec;
    using Base::at, Base::copy, Base::given, Base::L, Base::multiply, Base::pack_turned, Base::packed_size, Base::put;
    using Base::result, Base::stride, Base::vectors;
    typedef Registers<T> R;

    const FastWeightsStream& p;
    const int64_t H, I, left, u_stride, z_stride;

    explicit Stream(const FastWeightsStream& stream)
        : p(stream), H(p.width), I(p.input_size), left(H % L), u_stride(stride(H + I)), z_stride(stride(H)) {}

    // For all threads: [W C] packed, and vectors of units, zero beyond the last.
    struct Shared {
        T *weights, *bias, *gain, *shift;
        vec* temporary;
    };
    // For one: [h x] and z of each row, what the inner steps have of h, and the bracket.
    struct Work {
        T *u, *z, *h, *bracket;
    };

    Shared place_shared(Arena& arena) const {
        Shared shared;
        shared.weights = arena.take<T>(packed_size(H + I, H));
        shared.bias = arena.take<T>(z_stride);
        shared.gain = arena.take<T>(z_stride);
        shared.shift = arena.take<T>(z_stride);
        shared.temporary = arena.take<vec>(larger(H, I));
        return shared;
    }

    Work place_work(Arena& arena) const {
        Work w;
        w.u = arena.take<T>(rows_of_a_task * u_stride);
        w.z = arena.take<T>(rows_of_a_task * z_stride);
        w.h = arena.take<T>(z_stride);
        w.bracket = arena.take<T>(z_stride);
        return w;
    }

    void prepare() const {
        Arena arena(p.scratch);
        const Shared shared = place_shared(arena);
        pack_turned(shared.weights, H + I, H, 0, H, [&](int64_t unit) { return given(p.weight) + unit * H; },
                    shared.temporary);
        pack_turned(shared.weights, H + I, H, H, I, [&](int64_t unit) { return given(p.projection) + unit * I; },
                    shared.temporary);
        for (int64_t j = 0; j < z_stride; ++j) {
            const bool real = j < H;
            shared.bias[j] = real && p.bias ? given(p.bias)[j] : 0;
            shared.gain[j] = real && p.gain ? given(p.gain)[j] : 1;
            shared.shift[j] = real && p.shift ? given(p.shift)[j] : 0;
        }
    }

    // One step of the rows of a task. `input` has rows of I; `anew`, where it is given, says which rows begin anew.
    void run(const T* input, const uint8_t* anew, int64_t task, int64_t thread) const {
        Arena arena(p.scratch);
        const Shared shared = place_shared(arena);
        const Work w = work_of(*this, arena, thread);
        const int64_t first = task * rows_of_a_task, n = smaller(rows_of_a_task, p.batch - first);
        for (int64_t s = 0; s < n; ++s) {
            const int64_t row = first + s;
            const bool begins = anew && anew[row];
            copy(w.u + s * u_stride, (begins ? given(p.h0) : result(p.h)) + row * H, H);
            copy(w.u + s * u_stride + H, input + row * I, I);
            if (begins) copy(result(p.a) + row * H * H, given(p.a0) + row * H * H, H * H);
        }
        Fetch none;
        multiply(w.z, z_stride, shared.bias, 0, n, w.u, u_stride, shared.weights, H + I, H, none);
        for (int64_t s = 0; s < n; ++s) {
            const int64_t row = first + s;
            recur(result(p.a) + row * H * H, w.z + s * z_stride, shared, w);
            copy(result(p.h) + row * H, w.h, H);
            copy(result(p.output) + row * H, w.h, H);
        }
    }

    // The inner steps of one row.
    void recur(T* a, const T* z, const Shared& shared, const Work& w) const {
        activate(w.h, z);
        if (p.write_before_read) write(a, w.h);
        for (int64_t step = 0; step < p.inner_steps; ++step) {
            read(w.bracket, z, a, w.h);
            if (p.layer_norm) normalise(w.bracket, shared);
            activate(w.h, w.bracket);
        }
        if (!p.write_before_read) write(a, w.h);
    }

    void activate(T* to, const T* from) const {
        for (int64_t v = 0; v < vectors(H) * L; v += L) put(to + v, R::relu(at(from + v)));
    }

    // A <- decay A + rate h h^T. The last vector of a row goes over columns before it once more.
    void write(T* a, const T* h) const {
        const T decay = static_cast<T>(p.decay), rate = static_cast<T>(p.rate);
        for (int64_t j = 0; j < H; ++j, a += H) {
            const T scale = rate * h[j];
            if (H < L) {
                for (int64_t i = 0; i < H; ++i) a[i] = decay * a[i] + scale * h[i];
                continue;
            }
            const vec last = decay * at(a + H - L) + scale * at(h + H - L);
            for (int64_t i = 0; i + L <= H; i += L) put(a + i, decay * at(a + i) + scale * at(h + i));
            if (left) put(a + H - L, last);
        }
    }

    // to = z + A h, L units at a time: their sums are turned so that each is in a lane.
    void read(T* to, const T* z, const T* a, const T* h) const {
        if (H < L) {
            for (int64_t j = 0; j < H; ++j) {
                to[j] = z[j];
                for (int64_t i = 0; i < H; ++i) to[j] += a[j * H + i] * h[i];
            }
            return;
        }
        vec last = at(h + H - L);  // without what the vectors before it have
        for (int64_t l = 0; l < L - left; ++l) last[l] = 0;
        for (int64_t j = 0; j < H; j += L) {
            const T* rows[L];
            for (int64_t l = 0; l < L; ++l) rows[l] = a + smaller(j + l, H - 1) * H;
            vec sum[L] = {};
            for (int64_t i = 0; i + L <= H; i += L) {
                const vec x = at(h + i);
                each<L>([&](auto l) INLINE { sum[l] += at(rows[l] + i) * x; });
            }
            if (left) each<L>([&](auto l) INLINE { sum[l] += at(rows[l] + H - L) * last; });
            R::transpose(sum);
            each<L - 1>([&](auto l) INLINE { sum[0] += sum[l + 1]; });
            put(to + j, at(z + j) + sum[0]);
        }
    }

    template <typename Term>
    T total(const T* x, const Term& term) const {
        vec sums = {};
        int64_t j = 0;
        for (; j + L <= H; j += L) sums += term(at(x + j));
        T sum = R::sum(sums);
        for (; j < H; ++j) sum += term(x[j]);
        return sum;
    }

    void normalise(T* x, const Shared& shared) const {
        const T mean = total(x, [](auto value) { return value; }) / H;
        const T variance = total(x, [&](auto value) { return (value - mean) * (value - mean); }) / H;
        const T scale = static_cast<T>(1 / __builtin_sqrt(variance + p.eps));
        for (int64_t v = 0; v < vectors(H) * L; v += L)
            put(x + v, (at(x + v) - mean) * scale * at(shared.gain + v) + at(shared.shift + v));
    }
};

}  // namespace
