// The fast-weights recurrence, backward. See recurrence.h.

#pragma once

#include "places.h"

namespace {

// g = the gradient of a bracket, from that of relu's result; adds to the gradients of gain and shift.
template <typename T>
inline void Kernel<T>::normalise_backward(vec* g, const vec* d_result, const vec* normed, vec deviation, vec* d_gain,
                                          vec* d_shift) const {
    const T *gain = given(p.gain), *shift = given(p.shift);
    vec sums[parts] = {}, products[parts] = {};
    in_parts([&](auto part, int64_t j) INLINE {
        vec value = relu_gradient(d_result[j], scaled(normed[j], gain, shift, j));
        d_gain[j] += value * normed[j];
        d_shift[j] += value;
        if (gain) value *= gain[j];
        g[j] = value;
        sums[part] += value;
        products[part] += value * normed[j];
    });
    const vec mean = total(sums) / static_cast<T>(H), product = total(products) / static_cast<T>(H);
    for (int64_t j = 0; j < H; ++j) g[j] = (g[j] - mean - normed[j] * product) * deviation;
}

template <typename T>
inline void Kernel<T>::backward_block(int64_t index, const Places& places, const Work& w, const Sums& sums) const {
    Block block = block_at(index);
    if (I) block.grad_inputs = w.grad_inputs;
    collect(block, w, true);
    std::memset(w.d_h, 0, H * sizeof(vec));
    if (chunked)
        backward_chunks(block, places.saved[index], places.shared, w, sums);
    else {
        Arena arena(places.saved[index]);
        Activations a = place_activations(arena, block.steps);
        set_matrix(a, block, w);
        backward_whole(a, block, places.shared, w, sums);
    }
    store_state_gradients(block, w);
    if (p.places) return put_back(p.grad_features, block.grad_features, I, block);
    clear_rest(I ? nullptr : block.grad_inputs, H, block);
    clear_rest(block.grad_features, I, block);
}

// A sequence of one chunk; d_h is that of the last h but for its own output.
template <typename T>
void Kernel<T>::backward_whole(const Activations& a, const Block& block, const Shared& shared, const Work& w,
                                      const Sums& sums) const {
    load_d_memory(0, block.steps, block, w);
    backward_chunk(a, 0, block.steps, block, shared, w, sums);
    low_rank_gradients(a, block, w);
    if (!block.grad_a0) return;
    scale_d_brackets(w.d_brackets, block.steps, w);
    outer(w.d_matrix, nullptr, 1, block.steps * S, w.d_brackets, a.queries, H);
}

template <typename T>
void Kernel<T>::store_state_gradients(const Block& block, const Work& w) const {
    if (block.grad_a0) store(block.grad_a0, w.d_matrix, block.samples, H * H, H * H);
    if (block.grad_h0) store(block.grad_h0, w.d_h, block.samples, H, H);
}

// Under ba2016 the outputs are what was written, so their gradients are gathered in one place.
template <typename T>
inline void Kernel<T>::load_d_memory(int64_t start, int64_t n, const Block& block, const Work& w) const {
    const T* from = early ? block.grad_written : block.grad_output;
    if (!from) std::memset(w.d_memory, 0, n * H * sizeof(vec));
    for (int64_t t = 0; from && t < n; ++t) load_step(w.d_memory + t * H, from, block, start + t);
}

// Back through a chunk; d_h is that of h after it, then of h before it.
template <typename T>
void Kernel<T>::backward_chunk(const Activations& a, int64_t start, int64_t n, const Block& block,
                                      const Shared& shared, const Work& w, const Sums& sums) const {
    for (int64_t t = n - 1; t >= 0; --t) {
        const int64_t first = t / tile * tile, end = smaller(n, first + tile);
        if (t + 1 == end) pull_together(a, first, end, n, w);
        if (!early)
            pull(a, t, t + 1, end, w);
        else if (block.grad_output) {
            load_step(w.d_read, block.grad_output, block, start + t);
            add(w.d_h, w.d_read);
        }
        hold(w.d_h, start + t, block);
        for (int64_t s = S - 1; s >= 0; --s) read_backward(a, t, s, shared, w, sums);
        if (early) pull(a, t, t, end, w);
        for (int64_t j = 0; j < H; ++j) w.d_z[j] += relu_gradient(w.d_h[j], query(a, t, 0)[j]);
        store_step(block.grad_inputs, w.d_z, block, start + t);
        if (I) add(sums.d_bias, w.d_z);
        Fetch fetch = needed_back(a, start, t, block, w);
        if (block.grad_features) {
            multiply(w.features, nullptr, 1, shared.back_projection, w.d_z, I, H, fetch);
            store(block.grad_features + (start + t) * I, w.features, block.samples, T_ * I, I);
        }
        if (start + t || block.grad_h0) multiply(w.d_h, nullptr, 1, shared.back_weight, w.d_z, H, H, fetch);
    }
    for (int64_t t = 0; t < n; t += panel_steps) {
        const int64_t steps = smaller(panel_steps, n - t), skipped = !t && from_zero(a, start);
        if (p.grad_weight) weight_gradient(sums.d_weight, block, start + t + skipped, steps - skipped);
        if (p.grad_projection) projection_gradient(sums.d_projection, block, start + t, steps);
    }
}

// What the step before, the next on the way back, reads and writes.
template <typename T>
inline Fetch Kernel<T>::needed_back(const Activations& a, int64_t start, int64_t t, const Block& block,
                                    const Work& w) const {
    Fetch fetch(w.pieces);
    if (!t) return fetch;
    fetch_rows(fetch, block.grad_inputs, H, start + t - 1, block);
    if (early) fetch_rows(fetch, block.grad_output, H, start + t - 1, block);
    fetch_rows(fetch, block.grad_features, I, start + t - 1, block);
    fetch_activations(fetch, a, t - 1);
    return fetch;
}

// Adds to d_memory of steps from `first` to before `end` the gradients of the reads of the steps that follow: a read's
// vectors are then loaded once for all of them.
template <typename T>
inline void Kernel<T>::pull_together(const Activations& a, int64_t first, int64_t end, int64_t n, const Work& w) const {
    const int64_t read = end * S, reads = n * S - read;
    vec* const to = w.d_memory + first * H;
    if (!reads) return;
    outer(to, to, 1, reads, w.discounted + read * C + first, end - first, C, w.d_brackets + read * H, H);
    outer(to, to, 1, reads, w.d_scores + read * C + first, end - first, C, a.queries + read * H, H);
}

// Adds to d_h, which is that of m(i) as well, d_memory of m(i), and the gradients of the reads of steps from `first` to
// before `end`.
template <typename T>
inline void Kernel<T>::pull(const Activations& a, int64_t i, int64_t first, int64_t end, const Work& w) const {
    const int64_t read = first * S, reads = end * S - read;
    combine_two(w.d_h, w.d_memory + i * H, reads, w.discounted + read * C + i, w.d_brackets + read * H,
                w.d_scores + read * C + i, a.queries + read * H, C);
}

// d_h is that of the read's result, then of its query.
template <typename T>
inline void Kernel<T>::read_backward(const Activations& a, int64_t t, int64_t s, const Shared& shared, const Work& w,
                                     const Sums& sums) const {
    const int64_t read = t * S + s, count = writes(t);
    const T *discounts = given(p.discounts), scale = given(p.retained)[count];
    const vec *q = query(a, t, s), *scores = a.scores + read * a.steps;
    vec *g = w.d_brackets + read * H, *discounted = w.discounted + read * C, *d_scores = w.d_scores + read * C;
    if (p.layer_norm)
        normalise_backward(g, w.d_h, a.normed + read * H, a.deviations[read], sums.d_gain, sums.d_shift);
    else
        for (int64_t j = 0; j < H; ++j) g[j] = relu_gradient(w.d_h[j], result(a, t, s)[j]);
    if (s == S - 1)
        std::memcpy(w.d_z, g, H * sizeof(vec));
    else
        add(w.d_z, g);
    dots(w.raw, count, memories(a), memory_stride(), g);
    for (int64_t i = 0; i < count; ++i) {
        const T discount = discounts[count - 1 - i];
        discounted[i] = scores[i] * discount;
        d_scores[i] = w.raw[i] * discount;
        if (p.grad_discounts) sums.d_discounts[count - 1 - i] += scores[i] * w.raw[i];
    }
    combine(w.d_h, nullptr, count, d_scores, memories(a), memory_stride());
    if (R) {
        dots(w.raw, R, a.left, H, g);
        for (int64_t k = 0; k < R; ++k) {
            const vec score = a.low_scores[read * R + k];
            w.low_discounted[read * R + k] = score * scale;
            w.d_low_scores[read * R + k] = w.raw[k] * scale;
            if (p.grad_retained) sums.d_retained[count] += score * w.raw[k];
        }
        combine(w.d_h, w.d_h, R, w.d_low_scores + read * R, a.right, H);
    }
    if (a.matrix || shared_matrix()) {
        if (a.matrix)
            combine(w.d_read, nullptr, H, g, a.matrix, H);
        else
            multiply(w.d_read, nullptr, 1, shared.back_a0, g);
        add(w.d_h, w.d_read, scale);
        if (p.grad_retained) sums.d_retained[count] += dot(w.d_read, q, H);
    }
}

template <typename T>
inline auto Kernel<T>::dot(const vec* a, const vec* b, int64_t n) -> vec {
    vec sums[parts] = {};
    int64_t j = 0;
    for (; j + parts <= n; j += parts) each<parts>([&](auto part) INLINE { sums[part] += a[j + part] * b[j + part]; });
    for (; j < n; ++j) sums[0] += a[j] * b[j];
    return total(sums);
}

template <typename T>
inline void Kernel<T>::low_rank_gradients(const Activations& a, const Block& block, const Work& w) const {
    const auto store_sums = [&](T* to, const vec* coefficients, const vec* rows) {
        if (!to || !R) return;
        outer(w.d_low, nullptr, 1, block.steps * S, coefficients, R, R, rows, H);
        for (int64_t k = 0; k < R; ++k) store_factor(to, w.d_low + k * H, block, k);
    };
    store_sums(block.grad_left, w.low_discounted, w.d_brackets);
    store_sums(block.grad_right, w.d_low_scores, a.queries);
}

template <typename T>
inline void Kernel<T>::store_factor(T* to, const vec* from, const Block& block, int64_t k) const {
    store(to + k * H, from, block.samples, p.rank * H, H);
}

// The gradient of each bracket times what is left of A at the start of the chunk when it is read.
template <typename T>
inline void Kernel<T>::scale_d_brackets(vec* to, int64_t n, const Work& w) const {
    for (int64_t t = 0; t < n; ++t)
        for (int64_t j = 0; j < S * H; ++j)
            to[t * S * H + j] = w.d_brackets[t * S * H + j] * given(p.retained)[writes(t)];
}

template <typename T>
inline void Kernel<T>::backward_chunks(const Block& block, const vec* saved, const Shared& shared, const Work& w,
                                       const Sums& sums) const {
    bool later = false;  // whether d_matrix holds the gradient of A after the chunk
    const int64_t last = chunks_of(block) - 1;
    for (int64_t c = last; c >= 0; --c) {
        const int64_t start = c * C, n = smaller(C, block.steps - start), group = c / every * every;
        if (c == last || c == group + every - 1) build_matrices(saved, group, c, block, shared, w);
        Activations a = w.activations;
        a.matrix = c == group ? first_matrix(saved, c) : w.matrices[c - group];
        load_previous(a.hs, block, start);
        forward_chunk(a, start, n, nullptr, block, shared, w);
        load_d_memory(start, n, block, w);
        if (later) write_chunk_backward(a, w, sums);
        backward_chunk(a, start, n, block, shared, w, sums);
        if (!a.matrix) break;
        scale_d_brackets(w.scaled, n, w);
        outer(w.d_matrix, later ? w.d_matrix : nullptr, given(p.retained)[n], n * S, w.scaled, a.queries, H);
        later = true;
    }
    for (int64_t k = 0; k < p.rank; ++k) {
        load_factors(w.bracket, w.weights, block, k);
        if (block.grad_left) {
            dots(w.d_low, H, w.d_matrix, H, w.weights);
            store_factor(block.grad_left, w.d_low, block, k);
        }
        if (block.grad_right) {
            combine(w.d_low, nullptr, H, w.bracket, w.d_matrix, H);
            store_factor(block.grad_right, w.d_low, block, k);
        }
    }
}

// A at the start of the first chunk of a group, as it was kept.
template <typename T>
inline auto Kernel<T>::first_matrix(const vec* saved, int64_t c) const -> const vec* {
    return c || starts_with_matrix() ? saved + c / every * H * H : nullptr;
}

// A at the start of the chunks after `from`, up to `to`, once more.
template <typename T>
inline void Kernel<T>::build_matrices(const vec* saved, int64_t from, int64_t to, const Block& block,
                                      const Shared& shared, const Work& w) const {
    const vec* before = first_matrix(saved, from);
    Fetch none;
    for (int64_t c = from; c < to; ++c) {
        vec *written = w.activations.queries, *next = w.matrices[c + 1 - from];
        for (int64_t t = 0; t < C; ++t)
            if (early) {
                load_previous(w.bracket, block, c * C + t);
                preliminary(w.z, written + t * H, w.bracket, c * C + t, block, shared, w, none);
            } else
                load_step(written + t * H, block.output, block, c * C + t);
        write_chunk(next, before, written, H, w);
        before = next;
    }
}

// Back through what a whole chunk wrote into A.
template <typename T>
inline void Kernel<T>::write_chunk_backward(const Activations& a, const Work& w, const Sums& sums) const {
    const T* discounts = given(p.discounts);
    for (int64_t j = 0; j < H; ++j)
        for (int64_t i = 0; i < H; ++i) w.symmetric[j * H + i] = w.d_matrix[j * H + i] + w.d_matrix[i * H + j];
    times(w.scaled, C, w.symmetric, memories(a), memory_stride());
    for (int64_t i = 0; i < C; ++i) {
        add(w.d_memory + i * H, w.scaled + i * H, discounts[C - 1 - i]);
        if (p.grad_discounts)
            sums.d_discounts[C - 1 - i] += static_cast<T>(0.5) * dot(memories(a) + i * memory_stride(), w.scaled + i * H, H);
    }
    if (p.grad_retained && a.matrix) sums.d_retained[C] += dot(a.matrix, w.d_matrix, H * H);
}

// d_weight += the sum over samples and steps of d_z h(t-1)^T, in the caller's layout.
template <typename T>
inline void Kernel<T>::weight_gradient(T* to, const Block& block, int64_t start, int64_t n) const {
    typename Base::Rows previous = {block.output + (start - 1) * H, H, T_ * H};
    if (!start) {
        previous.begin = given(p.h0) + (states ? 0 : block.first * H);
        previous.named = states ? states + block.first : nullptr;
    }
    sum_of_outer(to, true, H, H, block.samples, n, {block.grad_inputs + start * H, H, T_ * H}, previous);
}

// Likewise d_projection, the sum of d_z features^T.
template <typename T>
inline void Kernel<T>::projection_gradient(T* to, const Block& block, int64_t start, int64_t n) const {
    sum_of_outer(to, true, H, I, block.samples, n, {block.grad_inputs + start * H, H, T_ * H},
                 {block.inputs + start * I, I, T_ * I});
}

// The sum of the matrices of all groups, of `size` elements.
template <typename T>
template <typename Matrix>
inline void Kernel<T>::add_up(void* to, int64_t size, const Matrix& matrix) const {
    T* const sum = static_cast<T*>(to);
    for (int64_t i = 0; to && size < L && i < size; ++i) {
        sum[i] = 0;
        for (int64_t g = 0; g < groups(); ++g) sum[i] += matrix(g)[i];
    }
    for (int64_t i = 0; to && size >= L && i < size; i += L) {
        const int64_t at = smaller(i, size - L);  // the last vector goes over some of the one before it once more
        vec total = {};
        for (int64_t g = 0; g < groups(); ++g) total += *reinterpret_cast<const vec*>(matrix(g) + at);
        *reinterpret_cast<vec*>(sum + at) = total;
    }
}

// Likewise of vectors, over samples too; of `size` elements those from `used` on are zero.
template <typename T>
template <typename Vector>
inline void Kernel<T>::add_up_vectors(void* to, int64_t used, int64_t size, const Vector& vector) const {
    for (int64_t j = 0; to && j < size; ++j) {
        vec total = {};
        for (int64_t g = 0; j < used && g < groups(); ++g) total += vector(g)[j];
        static_cast<T*>(to)[j] = sum(total);
    }
}

template <typename T>
inline void Kernel<T>::finish(const Sums* sums) const {
    add_up(p.grad_weight, H * H, [&](int64_t g) INLINE { return sums[g].d_weight; });
    const auto vectors = [&](void* to, int64_t used, int64_t size, vec* Sums::*field) {
        add_up_vectors(to, used, size, [&](int64_t g) INLINE { return sums[g].*field; });
    };
    vectors(p.grad_gain, H, H, &Sums::d_gain);
    vectors(p.grad_shift, H, H, &Sums::d_shift);
    vectors(p.grad_discounts, C, T_, &Sums::d_discounts);
    vectors(p.grad_retained, C + 1, T_ + 1, &Sums::d_retained);
    add_up(p.grad_projection, H * I, [&](int64_t g) INLINE { return sums[g].d_projection; });
    vectors(p.grad_bias, H, H, &Sums::d_bias);
}

template <typename T>
inline void Kernel<T>::backward() const {
    Arena arena(p.scratch);
    const Places places = place(arena, true);
    pack_shared(places.shared);
    find_saved(places);
    clear_gaps(p.grad_features, I);
    parallel(groups(), threads(groups()), [&](int64_t group, int64_t thread) {
        const Sums& sums = places.sums[group];
        std::memset(sums.d_weight, 0, sums.size);
        for (int64_t block = blocks() * group / groups(); block < blocks() * (group + 1) / groups(); ++block)
            backward_block(block, places, work_of(places, thread, true), sums);
    });
    finish(places.sums);
}

}  // namespace
