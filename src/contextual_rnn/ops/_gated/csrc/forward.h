// One layer and direction, forward. See gated.cpp.

#pragma once

#include "sequences.h"

namespace {

template <typename T, typename Cell>
struct Forward : Sequences<T, Cell> {
    typedef Sequences<T, Cell> Base;
    using typename Base::Live;
    using typename Base::Queue;
    using typename Base::vec;
    using Base::c_stride, Base::columns, Base::first_h, Base::H, Base::I, Base::L, Base::N, Base::O, Base::p;
    using Base::copy, Base::given, Base::h_stride, Base::multiply, Base::pack_turned, Base::packed_size;
    using Base::projects, Base::result, Base::saved_stride, Base::stride, Base::threads, Base::z_stride, Base::at;
    using Base::put;

    // Columns of sums that read the same part of [h x]: from which to before which, and from and before which element.
    struct Part {
        int64_t from, to, first, last;
    };
    static constexpr int parts = columns == 4 && first_h ? 3 : 1;
    Part part[parts];
    const int64_t u_stride = stride(O + I);

    explicit Forward(const GatedProblem& problem) : Base(problem) {
        if constexpr (parts == 1)
            part[0] = {0, columns * H, 0, O + I};
        else {
            part[0] = {0, H, O, O + I};
            part[1] = {H, 3 * H, 0, O + I};
            part[2] = {3 * H, 4 * H, 0, O};
        }
    }

    // For all threads.
    struct Shared {
        T *weights[parts], *bias, *weight_hr, *zeros;
        int64_t *order, *count;
        vec* temporary;
    };
    // For one: [h x] and sums for each of those that run, the next h before it is projected and then, c.
    struct Work {
        Live* live;
        T *u, *z, *m, *projected, *c;
        Fetch::Piece* pieces;
    };

    Shared place_shared(Arena& arena) const {
        Shared shared;
        for (int k = 0; k < parts; ++k)
            shared.weights[k] = arena.take<T>(packed_size(part[k].last - part[k].first, part[k].to - part[k].from));
        shared.bias = arena.take<T>(z_stride);
        shared.weight_hr = arena.take<T>(projects ? packed_size(H, O) : 0);
        shared.zeros = arena.take<T>(projects ? h_stride : 0);
        shared.order = arena.take<int64_t>(N);
        shared.count = arena.take<int64_t>(p.steps + 2);
        shared.temporary = arena.take<vec>(larger(larger(I, O), H));
        return shared;
    }

    Work place_work(Arena& arena) const {
        Work w;
        w.live = arena.take<Live>(most_live);
        w.u = arena.take<T>(most_live * u_stride);
        w.z = arena.take<T>(most_live * z_stride);
        w.m = arena.take<T>(projects ? most_live * c_stride : 0);
        w.projected = arena.take<T>(projects ? most_live * h_stride : 0);
        w.c = arena.take<T>(Cell::has_c ? most_live * c_stride : 0);
        w.pieces = arena.take<Fetch::Piece>(most_fetched);
        return w;
    }

    void pack_weights(const Shared& shared) const {
        for (int k = 0; k < parts; ++k) {
            const auto [from, to, first, last] = part[k];
            T* const packed = shared.weights[k];
            const auto pack_rows = [&](int64_t at, int64_t rows, const auto& row) {
                pack_turned(packed, last - first, to - from, at, rows, [&, from = from](int64_t c) { return row(from + c); },
                            shared.temporary);
            };
            if (first == 0) pack_rows(0, O, [&](int64_t column) { return this->hh_row(column); });
            if (last > O) pack_rows(O - first, I, [&](int64_t column) { return this->ih_row(column); });
        }
        this->sum_biases(shared.bias);
        if (projects) {
            pack_turned(shared.weight_hr, H, O, 0, H, [&](int64_t c) { return given(p.weight_hr) + c * H; },
                        shared.temporary);
            std::memset(shared.zeros, 0, h_stride * sizeof(T));
        }
    }

    void run() const {
        Arena arena(p.scratch);
        const Shared shared = place_shared(arena);
        pack_weights(shared);
        this->sort(shared.order, shared.count);
        this->clear_gaps(p.output, O);
        parallel(threads, threads, [&](int64_t share, int64_t) { run_share(share, shared, work_of(*this, arena, share)); });
    }

    void run_share(int64_t share, const Shared& shared, const Work& w) const {
        Queue queue = {shared.order, share};
        const int64_t step = p.reverse ? -1 : 1;
        for (int64_t n = 0;;) {
            n = fill(n, queue, step, w);
            if (!n) return;
            for (int64_t s = 0; s < n; ++s) {
                const Live& live = w.live[s];
                copy(w.u + s * u_stride + O, this->input(live.row, live.step), I);
            }
            Fetch fetch = needed(n, step, w);
            add_products(n, shared, w, fetch);
            for (int64_t s = 0; s < n; ++s) units(s, w);
            if (projects) project(n, shared, w, fetch);
            for (int64_t s = 0; s < n; ++s) {
                const Live& live = w.live[s];
                copy(this->output(live.row, live.step), w.u + s * u_stride, O);
            }
            n = this->advance(n, step, {w.live, w.u, u_stride, w.c}, [&](int64_t s) { finish(s, w); });
        }
    }

    // Takes segments until no more can run; returns how many do.
    int64_t fill(int64_t n, Queue& queue, int64_t step, const Work& w) const {
        while (n < most_live) {
            const int64_t segment = this->take(queue);
            if (segment < 0) break;
            copy(w.u + n * u_stride, given(p.h0) + segment * O, O);
            if (Cell::has_c) copy(w.c + n * c_stride, given(p.c0) + segment * H, H);
            w.live[n] = this->begin(segment, step);
            if (w.live[n].left)
                ++n;
            else
                finish(n, w);
        }
        return n;
    }

    // Where the results of this step go, and the inputs of the next one.
    Fetch needed(int64_t n, int64_t step, const Work& w) const {
        Fetch fetch(w.pieces);
        for (int64_t s = 0; s < n; ++s) {
            const Live& live = w.live[s];
            if (p.keep) fetch.add(this->saved(live.row, live.step), saved_stride);
            fetch.add(this->output(live.row, live.step), O);
            if (live.left > 1) fetch.add(this->input(live.row, live.step + step), I);
        }
        return fetch;
    }

    void add_products(int64_t n, const Shared& shared, const Work& w, Fetch& fetch) const {
        for (int k = 0; k < parts; ++k)
            multiply(w.z + part[k].from, z_stride, shared.bias + part[k].from, 0, n, w.u + part[k].first, u_stride,
                     shared.weights[k], part[k].last - part[k].first, part[k].to - part[k].from, fetch);
    }

    void units(int64_t s, const Work& w) const {
        const Live& live = w.live[s];
        T* const u = w.u + s * u_stride;
        const T* const z = w.z + s * z_stride;
        T* const c = Cell::has_c ? w.c + s * c_stride : nullptr;
        T* const next = projects ? w.m + s * c_stride : u;
        T* const saved = p.keep ? this->saved(live.row, live.step) : nullptr;
        this->each_vector([&](int64_t v, int64_t place) INLINE {
            vec sums[columns], keep[Cell::saved], state = {};
            each<columns>([&](auto q) INLINE { sums[q] = at(z + q * H + v); });
            if (Cell::has_c) state = at(c + v);
            put(next + v, Cell::forward(sums, Cell::carries ? at(u + v) : vec{}, state, keep));
            if (Cell::has_c) put(c + v, state);
            if (saved) each<Cell::saved>([&](auto q) INLINE { put(saved + place + q * L, keep[q]); });
        });
    }

    void project(int64_t n, const Shared& shared, const Work& w, Fetch& fetch) const {
        multiply(w.projected, h_stride, shared.zeros, 0, n, w.m, c_stride, shared.weight_hr, H, O, fetch);
        for (int64_t s = 0; s < n; ++s) copy(w.u + s * u_stride, w.projected + s * h_stride, O);
    }

    void finish(int64_t s, const Work& w) const {
        const Live& live = w.live[s];
        if (!this->is_last(live.segment)) return;
        T* const to = result(p.final_state) + this->final_row(live.row);
        copy(to, w.u + s * u_stride, O);
        if (Cell::has_c) copy(to + O, w.c + s * c_stride, H);
    }
};

}  // namespace
