// A step of the layers of nn.RNN, nn.LSTM and nn.GRU, or of one of their cells, whose state stays in memory. See gated.cpp.

#pragma once

#include "forward.h"

namespace {

// One layer. The weights are packed once, by `prepare`, into the scratch memory of its problem.
template <typename T, typename Cell>
struct Step : Forward<T, Cell> {
    typedef Forward<T, Cell> Base;
    using Base::c_stride, Base::copy, Base::given, Base::H, Base::I, Base::O, Base::p, Base::projects, Base::result;
    using Base::u_stride;

    explicit Step(const GatedProblem& problem) : Base(problem) {}

    void prepare() const {
        Arena arena(p.scratch);
        this->pack_weights(this->place_shared(arena));
    }

    // n rows from `first` on, at most most_live. `input` has rows of I; `anew`, where it is given, says which rows begin
    // from h0 and c0.
    void run(const T* input, const uint8_t* anew, int64_t first, int64_t n, int64_t thread) const {
        Arena arena(p.scratch);
        const auto shared = this->place_shared(arena);
        const auto w = work_of(*this, arena, thread);
        T *const h = result(p.output) + first * O, *const c = result(p.final_state) + first * H;
        for (int64_t s = 0; s < n; ++s) {
            const bool begins = anew && anew[first + s];
            T* const u = w.u + s * u_stride;
            copy(u, begins ? given(p.h0) + (first + s) * O : h + s * O, O);
            copy(u + O, input + (first + s) * I, I);
            if (Cell::has_c) copy(w.c + s * c_stride, begins ? given(p.c0) + (first + s) * H : c + s * H, H);
        }
        Fetch none;
        this->add_products(n, shared, w, none);
        for (int64_t s = 0; s < n; ++s) this->units(s, w);
        if (projects) this->project(n, shared, w, none);
        for (int64_t s = 0; s < n; ++s) {
            copy(h + s * O, w.u + s * u_stride, O);
            if (Cell::has_c) copy(c + s * H, w.c + s * c_stride, H);
        }
    }
};

}  // namespace
