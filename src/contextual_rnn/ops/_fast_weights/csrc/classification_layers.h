// The linear layers of a classifier that read embeddings: the table of inputs and the initial states, with their
// gradients. See classification.h.

#pragma once

namespace {

template <typename T>
inline void Classifier<T>::make_table_and_states(const Packed& packed) {
    for (int64_t first = 0; first < V; first += L)
        Base::load(packed.embedding + first / L * D, given(c.embedding) + first * D, smaller(L, V - first), D, D);
    for_some_rows(packed, [&](const Task& task) {
        const Layer& layer = packed.layers[task.layer];
        vec* const room = room_of(packed, task.thread);
        for (int64_t first = 0; first < layer.rows; first += L) {
            for (int64_t j = 0; j < task.n; ++j) room[j] = all(layer.bias ? layer.bias[task.at + j] : 0);
            Base::multiply_unpacked(room, layer.weight + task.at * D, packed.embedding + first / L * D, task.n, D);
            store(layer.results + first * layer.size + task.at, room, smaller(L, layer.rows - first), layer.size, task.n);
        }
    });
    Base::table = packed.layers[of_table].results;
    for (int part = 0; part < 4; ++part)
        if (headed(part)) *initial(part) = packed.layers[of_h0 + part].results;
    if (!headed(0)) return;
    times_states(packed.starts, packed.recurrence.weight, packed.layers[of_h0].results, packed);
    starts = packed.starts;
}

// to = matrix x for the rows x of all initial states.
template <typename T>
inline void Classifier<T>::times_states(T* to, const T* matrix, const T* from, const Packed& packed) const {
    vec *const x = packed.room, *const y = packed.room + H;
    for (int64_t first = 0; first < c.initial_states; first += L) {
        const int64_t n = smaller(L, c.initial_states - first);
        Base::load(x, from + first * H, n, H, H);
        multiply(y, nullptr, 1, matrix, x, H, H);
        store(to + first * H, y, n, H, H);
    }
}

// to = the sum over n rows of x y^T, those of x `stride` apart; where `adds`, to += that.
template <typename T>
inline void Classifier<T>::product(T* to, bool adds, int64_t height, int64_t width, int64_t n, const T* x,
                                   int64_t stride, const T* y) {
    sum_of_outer(to, adds, height, width, 1, n, {x, stride}, {y, width});
}

// The gradients of all layers' weights and biases and that of the embedding, from those of their results.
template <typename T>
inline void Classifier<T>::differentiate_layers(const Totals* totals, const Packed& packed) const {
    if (headed(0)) {
        T* const h0 = packed.layers[of_h0].results;
        Base::add_up(packed.d_starts, c.initial_states * H, [&](int64_t g) INLINE { return totals[g].d_results[of_h0]; });
        product(static_cast<T*>(p.grad_weight), true, H, H, c.initial_states, packed.d_starts, H, h0);
        times_states(h0, packed.recurrence.back_weight, packed.d_starts, packed);
    }
    for_some_rows(packed, [&](const Task& task) { differentiate_rows(task, totals, packed); });
    for (int64_t k = 1; k < packed.share_count; ++k) {
        const T* from = packed.shares[k].d_embedding;
        T* const to = static_cast<T*>(c.grad_embedding);
        for (int64_t i = 0, size = packed.shares[k].rows * D; i < size; ++i) to[i] += from[i];
    }
}

template <typename T>
inline void Classifier<T>::differentiate_rows(const Task& task, const Totals* totals, const Packed& packed) const {
    const Layer& layer = packed.layers[task.layer];
    const int64_t at = task.at, n = task.n;
    T* const d_results = layer.results + at;
    for (int64_t row = 0; task.layer != of_h0 && row < layer.rows; ++row)
        Base::add_up(d_results + row * layer.size, n,
                     [&](int64_t g) INLINE { return totals[g].d_results[task.layer] + row * layer.size + at; });
    if (layer.grad_bias) {
        std::memset(layer.grad_bias + at, 0, n * sizeof(T));
        for (int64_t row = 0; row < layer.rows; ++row)
            for (int64_t j = 0; j < n; ++j) layer.grad_bias[at + j] += d_results[row * layer.size + j];
    }
    product(layer.grad_weight + at * D, false, n, D, layer.rows, d_results, layer.size, given(c.embedding));
    vec* const room = room_of(packed, task.thread);
    for (int64_t first = 0; first < layer.rows; first += L) {
        const int64_t rows = smaller(L, layer.rows - first);
        Base::load(room, d_results + first * layer.size, rows, layer.size, n);
        product(task.share.d_embedding + first * D, !task.begins, rows, D, n, reinterpret_cast<const T*>(room), L,
                layer.weight + at * D);
    }
}

}  // namespace
