// One layer and direction, backward: every segment from the step that it ends with to its first. See gated.cpp.

#pragma once

#include "sequences.h"

namespace {

template <typename T, typename Cell>
struct Backward : Sequences<T, Cell> {
    typedef Sequences<T, Cell> Base;
    using typename Base::Live;
    using typename Base::Queue;
    using typename Base::vec;
    using Base::c_stride, Base::columns, Base::first_h, Base::H, Base::I, Base::L, Base::N, Base::O, Base::p;
    using Base::copy, Base::given, Base::h_stride, Base::multiply, Base::pack, Base::packed_size, Base::x_stride;
    using Base::projects, Base::result, Base::threads, Base::z_stride, Base::at, Base::put;
    using Base::add_outer, Base::saved_stride, Base::turn;

    const int64_t x_depth = Cell::x_columns * H, h_depth = Cell::h_columns * H;

    explicit Backward(const GatedProblem& problem) : Base(problem) {}

    // For all threads.
    struct Shared {
        T *to_h, *to_x, *weight_hr, *zeros;
        int64_t *order, *count;
    };
    // Sums over the steps of all segments: gradients of weights and biases. Columns are those of the cell's sums, as
    // these are many and fill vectors.
    struct Sums {
        T *weight_ih, *weight_hh, *bias, *weight_hr;
        int64_t size;
    };
    // For one thread. For each segment that runs: the gradients of h, of h before it is projected, and of c; those of
    // its inputs. For each step whose share of the gradients of the weights is yet to be added: the gradients of the
    // sums and what the weights were multiplied with; for the projection the gradients of h and h before it.
    struct Work {
        Live* live;
        T *dh, *dm, *dc, *dx, *c0;
        T *dz, *x, *h, *dp, *m;
        Sums sums;
        Fetch::Piece* pieces;
    };

    Shared place_shared(Arena& arena) const {
        Shared shared;
        shared.to_h = arena.take<T>(packed_size(h_depth, O));
        shared.to_x = arena.take<T>(p.grad_inputs ? packed_size(x_depth, I) : 0);
        shared.weight_hr = arena.take<T>(projects ? packed_size(O, H) : 0);
        shared.zeros = arena.take<T>(larger(larger(h_stride, x_stride), c_stride));
        shared.order = arena.take<int64_t>(N);
        shared.count = arena.take<int64_t>(p.steps + 2);
        return shared;
    }

    Work place_work(Arena& arena) const {
        Work w;
        w.live = arena.take<Live>(most_live);
        w.dh = arena.take<T>(most_live * h_stride);
        w.dm = arena.take<T>(projects ? most_live * c_stride : 0);
        w.dc = arena.take<T>(Cell::has_c ? most_live * c_stride : 0);
        w.dx = arena.take<T>(p.grad_inputs ? most_live * x_stride : 0);
        w.c0 = arena.take<T>(c_stride);
        w.dz = arena.take<T>(most_collected * z_stride);
        w.x = arena.take<T>(most_collected * x_stride);
        w.h = arena.take<T>(most_collected * h_stride);
        w.dp = arena.take<T>(projects ? most_collected * h_stride : 0);
        w.m = arena.take<T>(projects ? most_collected * c_stride : 0);
        w.sums = place_sums(arena);
        w.pieces = arena.take<Fetch::Piece>(most_fetched);
        return w;
    }

    Sums place_sums(Arena& arena) const {
        Sums sums;
        const int64_t before = arena.used;
        sums.weight_ih = arena.take<T>(I * z_stride);
        sums.weight_hh = arena.take<T>(O * z_stride);
        sums.bias = arena.take<T>(z_stride);
        sums.weight_hr = arena.take<T>(projects ? O * c_stride : 0);
        sums.size = (arena.used - before) / static_cast<int64_t>(sizeof(T));
        return sums;
    }

    void prepare(const Shared& shared) const {
        const int64_t from = first_h * H;
        pack(shared.to_h, h_depth, O, [&](int64_t k) { return this->hh_row(from + k); });
        if (p.grad_inputs) pack(shared.to_x, x_depth, I, [&](int64_t k) { return this->ih_row(k); });
        if (projects) pack(shared.weight_hr, O, H, [&](int64_t k) { return given(p.weight_hr) + k * H; });
        std::memset(shared.zeros, 0, larger(larger(h_stride, x_stride), c_stride) * sizeof(T));
        this->sort(shared.order, shared.count);
    }

    void run() const {
        Arena arena(p.scratch);
        const Shared shared = place_shared(arena);
        prepare(shared);
        this->clear_gaps(p.grad_inputs, I);
        parallel(threads, threads, [&](int64_t share, int64_t) { run_share(share, shared, work_of(*this, arena, share)); });
        const Sums sums = work_of(*this, arena, 0).sums;
        for (int64_t share = 1; share < threads; ++share) {
            const T* others = work_of(*this, arena, share).sums.weight_ih;
            for (int64_t i = 0; i < sums.size; ++i) sums.weight_ih[i] += others[i];
        }
        write_sums(sums);
    }

    void write_sums(const Sums& sums) const {
        for (int64_t q = 0; q < Cell::x_columns; ++q) {
            const int64_t gate = Cell::ih_gate(q) * H;
            if (p.grad_weight_ih) turn(result(p.grad_weight_ih) + gate * I, sums.weight_ih + q * H, z_stride, H, I);
            if (p.grad_bias_ih) copy(result(p.grad_bias_ih) + gate, sums.bias + q * H, H);
        }
        for (int64_t q = first_h; q < columns; ++q) {
            const int64_t gate = Cell::hh_gate(q) * H;
            if (p.grad_weight_hh)
                turn(result(p.grad_weight_hh) + gate * O, sums.weight_hh + (q - first_h) * H, z_stride, H, O);
            if (p.grad_bias_hh) copy(result(p.grad_bias_hh) + gate, sums.bias + q * H, H);
        }
        for (int64_t j = 0; p.grad_weight_hr && j < O; ++j)
            copy(result(p.grad_weight_hr) + j * H, sums.weight_hr + j * c_stride, H);
    }

    void run_share(int64_t share, const Shared& shared, const Work& w) const {
        Queue queue = {shared.order, share};
        const int64_t step = p.reverse ? 1 : -1;
        std::memset(w.sums.weight_ih, 0, w.sums.size * sizeof(T));
        for (int64_t n = 0, collected = 0;;) {
            n = fill(n, queue, step, w);
            if (!n || collected + n > most_collected) {
                collect(collected, w);
                collected = 0;
            }
            if (!n) return;
            Fetch fetch = needed(n, step, w);
            for (int64_t s = 0; s < n; ++s) load(s, collected + s, step, w);
            if (projects)
                multiply(w.dm, c_stride, shared.zeros, 0, n, w.dh, h_stride, shared.weight_hr, O, H, fetch);
            for (int64_t s = 0; s < n; ++s) units(s, collected + s, step, w);
            const T* const dz = w.dz + collected * z_stride;
            multiply(w.dh, h_stride, Cell::carries ? w.dh : shared.zeros, Cell::carries ? h_stride : 0, n,
                     dz + first_h * H, z_stride, shared.to_h, h_depth, O, fetch);
            if (p.grad_inputs) {
                multiply(w.dx, x_stride, shared.zeros, 0, n, dz, z_stride, shared.to_x, x_depth, I, fetch);
                for (int64_t s = 0; s < n; ++s) {
                    const Live& live = w.live[s];
                    copy(result(p.grad_inputs) + (live.row * p.steps + live.step) * I, w.dx + s * x_stride, I);
                }
            }
            collected += n;
            n = this->advance(n, step, {w.live, w.dh, h_stride, w.dc}, [&](int64_t s) { finish(s, w); });
        }
    }

    int64_t fill(int64_t n, Queue& queue, int64_t step, const Work& w) const {
        while (n < most_live) {
            const int64_t segment = this->take(queue);
            if (segment < 0) break;
            const Live live = this->begin(segment, step);
            T *const dh = w.dh + n * h_stride, *const dc = w.dc + n * c_stride;
            if (p.grad_final_state && this->is_last(segment)) {
                const T* const from = given(p.grad_final_state) + this->final_row(live.row);
                copy(dh, from, O);
                if (Cell::has_c) copy(dc, from + O, H);
            } else {
                std::memset(dh, 0, O * sizeof(T));
                if (Cell::has_c) std::memset(dc, 0, H * sizeof(T));
            }
            w.live[n] = live;
            if (live.left)
                ++n;
            else
                finish(n, w);
        }
        return n;
    }

    const T* grad_output(int64_t row, int64_t step) const {
        return given(p.grad_output) + row * p.grad_output_row + step * p.grad_output_step;
    }

    // What the next step reads of the caller's, and of what is saved also what the one after that does, as c before it.
    Fetch needed(int64_t n, int64_t step, const Work& w) const {
        Fetch fetch(w.pieces);
        for (int64_t s = 0; s < n; ++s) {
            const auto [segment, row, now, left] = w.live[s];
            const int64_t next = now + step, before = next + step;
            if (left < 2) continue;
            fetch.add(this->input(row, next), I);
            if (p.grad_output) fetch.add(grad_output(row, next), O);
            if (left < 3) continue;
            fetch.add(this->output(row, before), O);
            fetch.add(this->saved(row, before), saved_stride);
        }
        return fetch;
    }

    // The gradient of an output joins that of the state, and what the weights were multiplied with is collected.
    void load(int64_t s, int64_t place, int64_t step, const Work& w) const {
        const Live& live = w.live[s];
        T* const dh = w.dh + s * h_stride;
        if (p.grad_output) {
            const T* const from = grad_output(live.row, live.step);
            for (int64_t j = 0; j < O; ++j) dh[j] += from[j];
        }
        copy(w.x + place * x_stride, this->input(live.row, live.step), I);
        const T* before = live.left == 1 ? given(p.h0) + live.segment * O : this->output(live.row, live.step + step);
        copy(w.h + place * h_stride, before, O);
        if (projects) copy(w.dp + place * h_stride, dh, O);
    }

    void units(int64_t s, int64_t collected, int64_t step, const Work& w) const {
        const Live& live = w.live[s];
        const T *const saved = this->saved(live.row, live.step), *const h = w.h + collected * h_stride, *c_before = nullptr;
        T *const dh = (projects ? w.dm + s * c_stride : w.dh + s * h_stride), *const dz = w.dz + collected * z_stride;
        T *const dc = w.dc + s * c_stride, *const m = w.m + collected * c_stride;
        const bool before_is_saved = live.left > 1;
        if (Cell::has_c && before_is_saved)
            c_before = this->saved(live.row, live.step + step) + (Cell::saved - 1) * L;
        else if (Cell::has_c) {
            copy(w.c0, given(p.c0) + live.segment * H, H);
            c_before = w.c0;
        }
        this->each_vector([&](int64_t v, int64_t place) INLINE {
            vec keep[Cell::saved], sums[columns], d_state = {}, c = {};
            each<Cell::saved>([&](auto q) INLINE { keep[q] = at(saved + place + q * L); });
            if (Cell::has_c) c = at(before_is_saved ? c_before + place : c_before + v), d_state = at(dc + v);
            const vec before = Cell::carries ? at(h + v) : vec{};
            const vec carried = Cell::backward(keep, before, c, at(dh + v), d_state, sums);
            each<columns>([&](auto q) INLINE { put(dz + q * H + v, sums[q]); });
            if (Cell::has_c) put(dc + v, d_state);
            if (Cell::carries) put(dh + v, carried);
            if constexpr (Cell::has_c)  // an LSTM, which alone may project
                if (projects) put(m + v, Cell::unprojected(keep));
        });
    }

    // Adds what was collected to the gradients of weights and biases.
    void collect(int64_t n, const Work& w) const {
        if (!n) return;
        if (p.grad_weight_hh)
            add_outer(w.sums.weight_hh, z_stride, O, h_depth, n, w.h, h_stride, w.dz + first_h * H, z_stride);
        if (p.grad_weight_ih) add_outer(w.sums.weight_ih, z_stride, I, x_depth, n, w.x, x_stride, w.dz, z_stride);
        if (p.grad_weight_hr) add_outer(w.sums.weight_hr, c_stride, O, H, n, w.dp, h_stride, w.m, c_stride);
        for (int64_t j = 0; (p.grad_bias_ih || p.grad_bias_hh) && j < columns * H; j += L) {
            vec sum[4] = {};
            int64_t k = 0;
            for (; k + 4 <= n; k += 4)
                each<4>([&](auto part) INLINE { sum[part] += at(w.dz + (k + part) * z_stride + j); });
            for (; k < n; ++k) sum[0] += at(w.dz + k * z_stride + j);
            put(w.sums.bias + j, at(w.sums.bias + j) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
        }
    }

    void finish(int64_t s, const Work& w) const {
        const int64_t segment = w.live[s].segment;
        if (p.grad_h0) copy(result(p.grad_h0) + segment * O, w.dh + s * h_stride, O);
        if (p.grad_c0) copy(result(p.grad_c0) + segment * H, w.dc + s * c_stride, H);
    }
};

}  // namespace
