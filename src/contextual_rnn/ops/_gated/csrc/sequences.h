// Sequences end to end: which of them run side by side, and what stands where in memory. See gated.cpp.

#pragma once

#include "cells.h"
#include "problem.h"
#include "products.h"
#include "threads.h"

namespace {

constexpr int64_t most_live = 24;  // rows that run side by side on a thread: whole tiles of any size
constexpr int64_t most_collected = 96;  // rows that go into the gradients of the weights at once
constexpr int64_t most_fetched = 4 * most_live;  // pieces of memory that a step may fetch into the cache

template <typename T, typename Cell>
struct Sequences : Products<T> {
    typedef Products<T> Base;
    using Base::copy, Base::given, Base::L, Base::result, Base::stride, Base::vectors;
    static constexpr int columns = Cell::columns;

    const GatedProblem& p;
    const int64_t I, H, O, N, threads;
    const bool projects;
    // From one row to the next, of inputs, of states, of h before it is projected, of sums, of what is saved.
    const int64_t x_stride, h_stride, c_stride, z_stride, saved_stride;

    explicit Sequences(const GatedProblem& problem)
        : p(problem), I(p.input_size), H(p.width), O(p.output_size), N(p.segments),
          threads(larger(1, smaller(p.threads, N))), projects(p.weight_hr), x_stride(stride(I)), h_stride(stride(O)),
          c_stride(stride(H)), z_stride(stride(columns * H)), saved_stride(vectors(H) * Cell::saved * L) {}

    // Elements of what is saved, `saved_size` of cpu.py, where a vector is the largest of all instruction sets.
    T* saved(int64_t row, int64_t step) const { return result(p.saved) + (row * p.steps + step) * saved_stride; }

    // ---- the order of segments ----

    int64_t length(int64_t segment) const { return p.table[2 * N + segment]; }

    // Segments by length, the longest first, and of one length in their order: those that run last are the shortest,
    // so that all that run side by side end at about the same time. `count` has room for steps + 2.
    void sort(int64_t* order, int64_t* count) const {
        for (int64_t n = 0; n < p.steps + 2; ++n) count[n] = 0;
        for (int64_t i = 0; i < N; ++i) ++count[p.steps - length(i) + 1];
        for (int64_t n = 1; n < p.steps + 2; ++n) count[n] += count[n - 1];
        for (int64_t i = 0; i < N; ++i) order[count[p.steps - length(i)]++] = i;
    }

    // A segment that runs: the step that it is at, how many are left, that one included.
    struct Live {
        int64_t segment, row, step, left;
    };

    // Those of one thread: of each `threads` that follow each other one, in turns from both ends.
    struct Queue {
        const int64_t* order;
        int64_t share, round = 0;
    };

    // The next segment of a thread, -1 where there is none.
    int64_t take(Queue& queue) const {
        const int64_t of_round = queue.round % 2 ? threads - 1 - queue.share : queue.share;
        const int64_t place = queue.round++ * threads + of_round;
        return place < N ? queue.order[place] : -1;
    }

    // Segment in the order in which it runs, or backwards; `step` is 1 or -1.
    Live begin(int64_t segment, int64_t step) const {
        const int64_t start = p.table[N + segment], n = length(segment);
        return {segment, p.table[segment], step > 0 ? start : start + n - 1, n};
    }
    bool is_last(int64_t segment) const { return p.table[3 * N + segment]; }

    // Segments that run, and what each has of h and c, or their gradients: rows of O, `stride` apart, and of H.
    struct Running {
        Live* live;
        T* h;
        int64_t stride;
        T* c;
    };

    // To the next step of each, and those that have none finish and give their places to the last ones; returns how
    // many are left.
    template <typename Finish>
    int64_t advance(int64_t n, int64_t step, const Running& running, const Finish& finish) const {
        const auto [live, h, stride, c] = running;
        for (int64_t s = n; s-- > 0;) {
            live[s].step += step;
            if (--live[s].left) continue;
            finish(s);
            if (s == --n) continue;
            live[s] = live[n];
            copy(h + s * stride, h + n * stride, O);
            if (Cell::has_c) copy(c + s * c_stride, c + n * c_stride, H);
        }
        return n;
    }

    // A row of final_state or its gradient, and of it what is c.
    int64_t final_row(int64_t row) const { return row * (O + (Cell::has_c ? H : 0)); }

    const T* input(int64_t row, int64_t step) const { return given(p.inputs) + row * p.inputs_row + step * p.inputs_step; }
    T* output(int64_t row, int64_t step) const {
        return result(p.output) + row * p.output_row + step * p.output_step;
    }

    // Where no segment is, a result of `width` units a step is zero.
    void clear_gaps(void* to, int64_t width) const {
        int64_t gaps = p.batch * p.steps;
        for (int64_t i = 0; i < N; ++i) gaps -= length(i);
        if (to && gaps) std::memset(to, 0, p.batch * p.steps * width * sizeof(T));
    }

    // ---- the units of a cell ----

    // body(start, place of what it saves) for each vector of units, the last first: of a vector that is not full the
    // lanes beyond may then be written too, into places that are written once more.
    template <typename Body>
    inline INLINE void each_vector(const Body& body) const {
        for (int64_t v = vectors(H); v-- > 0;) body(v * L, v * L * Cell::saved);
    }

    // ---- the weights ----

    const T* ih_row(int64_t column) const {
        return given(p.weight_ih) + (Cell::ih_gate(column / H) * H + column % H) * I;
    }
    const T* hh_row(int64_t column) const {
        return given(p.weight_hh) + (Cell::hh_gate(column / H) * H + column % H) * O;
    }
    static constexpr int first_h = columns - Cell::h_columns;

    void sum_biases(T* to) const {
        for (int64_t j = 0; j < columns * H; ++j) {
            const int64_t q = j / H, unit = j % H;
            to[j] = 0;
            if (p.bias_ih && q < Cell::x_columns) to[j] += given(p.bias_ih)[Cell::ih_gate(q) * H + unit];
            if (p.bias_hh && q >= first_h) to[j] += given(p.bias_hh)[Cell::hh_gate(q) * H + unit];
        }
    }
};

}  // namespace
