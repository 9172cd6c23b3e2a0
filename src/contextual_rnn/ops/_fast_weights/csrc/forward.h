// The fast-weights recurrence, forward. See recurrence.h.

#pragma once

#include "places.h"

namespace {

// Steps `start` .. `start + n`, whose h before the first is in place; `output` is absent where it was made before.
template <typename T>
void Kernel<T>::forward_chunk(const Activations& a, int64_t start, int64_t n, T* output, const Block& block,
                                     const Shared& shared, const Work& w) const {
    for (int64_t t = 0; t < n; ++t) {
        const T *discounts = given(p.discounts), scale = given(p.retained)[writes(t)];
        const int64_t count = writes(t);
        const vec* h = !t && from_zero(a, start) ? nullptr : hidden(a, t);
        Fetch fetch = needed(a, start, t, n, output, block, w);
        preliminary(w.z, query(a, t, 0), h, start + t, block, shared, w, fetch);
        for (int64_t s = 0; s < S; ++s) {
            const int64_t read = t * S + s;
            const vec *q = query(a, t, s), *from = w.z;
            if (count) {
                vec* scores = a.scores + read * a.steps;
                dots(scores, count, memories(a), memory_stride(), q);
                for (int64_t i = 0; i < count; ++i) w.weights[i] = scores[i] * discounts[count - 1 - i];
                combine(w.bracket, from, count, w.weights, memories(a), memory_stride());
                from = w.bracket;
            }
            if (R) {
                vec* scores = a.low_scores + read * R;
                dots(scores, R, a.right, H, q);
                for (int64_t k = 0; k < R; ++k) w.weights[k] = scores[k] * scale;
                combine(w.bracket, from, R, w.weights, a.left, H);
                from = w.bracket;
            }
            if (a.matrix) {
                dots(w.weights, H, a.matrix, H, q);
                for (int64_t j = 0; j < H; ++j) w.bracket[j] = from[j] + scale * w.weights[j];
                from = w.bracket;
            } else if (shared_matrix()) {
                multiply(w.bracket, from, scale, shared.a0, q);
                from = w.bracket;
            }
            vec* to = result(a, t, s);
            if (p.layer_norm)
                normalise(to, from, a.normed + read * H, a.deviations + read);
            else
                for (int64_t j = 0; j < H; ++j) to[j] = relu(from[j]);
        }
        hold(hidden(a, t + 1), start + t, block);
        if (output) store_step(output, hidden(a, t + 1), block, start + t);
    }
}

// Where the results of step t of a chunk go, and what the next one reads and writes.
template <typename T>
inline Fetch Kernel<T>::needed(const Activations& a, int64_t start, int64_t t, int64_t n, const T* output,
                               const Block& block, const Work& w) const {
    Fetch fetch(w.pieces);
    fetch_rows(fetch, output, H, start + t, block);
    if (t + 1 == n) return fetch;
    fetch_rows(fetch, block.inputs, I ? I : H, start + t + 1, block);
    fetch.add(query(a, t + 1, 0), S * H);
    fetch_activations(fetch, a, t + 1);
    return fetch;
}

// Step t of the block in a tensor that begins with the block's first sample, and may be absent.
template <typename T>
inline void Kernel<T>::fetch_rows(Fetch& fetch, const T* from, int64_t size, int64_t t, const Block& block) const {
    for (int64_t l = 0; from && l < block.samples; ++l) fetch.add(from + (l * T_ + t) * size, size);
}

template <typename T>
inline void Kernel<T>::fetch_activations(Fetch& fetch, const Activations& a, int64_t t) const {
    if (keeps_hidden()) fetch.add(hidden(a, t + 1), H);
    if (p.layer_norm) fetch.add(a.normed + t * S * H, S * H);
    fetch.add(a.scores + t * S * a.steps, S * writes(t));
}

// z and q(t, 0), from h(t-1), absent where it is zero.
template <typename T>
inline void Kernel<T>::preliminary(vec* z, vec* q, const vec* h, int64_t t, const Block& block, const Shared& shared,
                                   const Work& w, Fetch& fetch) const {
    load_inputs(z, block, t, shared, w, fetch);
    if (h) multiply(z, z, 1, shared.weight, h, H, H, fetch);
    for (int64_t j = 0; j < H; ++j) q[j] = relu(z[j]);
    hold(q, t, block);
}

template <typename T>
inline void Kernel<T>::normalise(vec* to, const vec* bracket, vec* kept, vec* deviation) const {
    vec sums[parts] = {}, squares[parts] = {};
    in_parts([&](auto part, int64_t j) INLINE { sums[part] += bracket[j]; });
    const vec centre = total(sums) / static_cast<T>(H);
    in_parts([&](auto part, int64_t j) INLINE {
        const vec difference = bracket[j] - centre;
        squares[part] += difference * difference;
    });
    const vec spread = total(squares) / static_cast<T>(H) + static_cast<T>(p.eps);
    T inverse[L];
    for (int64_t l = 0; l < L; ++l)
        inverse[l] = 1 / (sizeof(T) == 4 ? __builtin_sqrtf(static_cast<float>(spread[l])) : static_cast<T>(__builtin_sqrt(spread[l])));
    const vec scale = *reinterpret_cast<const vec*>(inverse);
    *deviation = scale;
    const T *gain = given(p.gain), *shift = given(p.shift);
    for (int64_t j = 0; j < H; ++j) to[j] = relu(scaled(kept[j] = (bracket[j] - centre) * scale, gain, shift, j));
}

template <typename T>
inline void Kernel<T>::store_written(const Activations& a, int64_t start, int64_t n, const Block& block) const {
    for (int64_t t = 0; block.written && t < n; ++t)
        store_step(block.written, memories(a) + t * memory_stride(), block, start + t);
}

template <typename T>
inline void Kernel<T>::forward_block(int64_t index, const Places& places, const Work& w) const {
    Block block = block_at(index);
    collect(block, w, false);
    Activations a = w.activations;
    if (!chunked && p.keep) {
        Arena arena(places.saved[index]);
        a = place_activations(arena, block.steps);
    }
    if (chunked) {
        load_previous(a.hs, block, 0);
        forward_chunks(block, places.saved[index], a, places.shared, w);
    } else
        forward_whole(a, block, places.shared, w);
    if (p.places) {
        put_back(p.output, block.output, H, block);
        return put_back(p.written, block.written, H, block);
    }
    clear_rest(block.output, H, block);
    clear_rest(block.written, H, block);
}

// A sequence of one chunk.
template <typename T>
void Kernel<T>::forward_whole(Activations& a, const Block& block, const Shared& shared, const Work& w) const {
    load_previous(a.hs, block, 0);
    for (int64_t k = 0; k < R; ++k) load_factors(a.left + k * H, a.right + k * H, block, k);
    set_matrix(a, block, w);
    forward_chunk(a, 0, block.steps, block.output, block, shared, w);
    store_written(a, 0, block.steps, block);
}

template <typename T>
inline void Kernel<T>::set_matrix(Activations& a, const Block& block, const Work& w) const {
    if (!own_matrix()) return;
    load_initial(w.own, p.a0, p.a0_stride, H * H, block);
    a.matrix = w.own;
}

template <typename T>
inline void Kernel<T>::forward_chunks(const Block& block, vec* saved, Activations& a, const Shared& shared,
                                      const Work& w) const {
    vec *now = w.matrices[0], *next = w.matrices[1];
    if (starts_with_matrix()) build_a0(now, block, w);
    const int64_t count = chunks_of(block);
    for (int64_t c = 0; c < count; ++c) {
        const int64_t start = c * C, n = smaller(C, block.steps - start);
        a.matrix = c || starts_with_matrix() ? now : nullptr;
        if (p.keep && c % every == 0 && a.matrix)
            std::memcpy(saved + c / every * H * H, now, H * H * sizeof(vec));
        forward_chunk(a, start, n, block.output, block, shared, w);
        store_written(a, start, n, block);
        if (c + 1 == count) break;
        write_chunk(next, a.matrix, memories(a), memory_stride(), w);
        std::memcpy(a.hs, hidden(a, C), H * sizeof(vec));
        vec* const last = now;
        now = next;
        next = last;
    }
}

// A after a whole chunk, from A at its start and what was written in it.
template <typename T>
inline void Kernel<T>::write_chunk(vec* to, const vec* from, const vec* written, int64_t stride, const Work& w) const {
    for (int64_t i = 0; i < C; ++i)
        for (int64_t j = 0; j < H; ++j) w.scaled[i * H + j] = written[i * stride + j] * given(p.discounts)[C - 1 - i];
    outer(to, from, given(p.retained)[C], C, w.scaled, written, stride);
}

template <typename T>
inline void Kernel<T>::load_factors(vec* left, vec* right, const Block& block, int64_t k) const {
    load_initial(left, given(p.left) + k * H, p.rank * H, H, block);
    load_initial(right, given(p.right) + k * H, p.rank * H, H, block);
}

// A(0) in full, whatever its form.
template <typename T>
inline void Kernel<T>::build_a0(vec* to, const Block& block, const Work& w) const {
    if (p.a0) load_initial(to, p.a0, p.a0_stride, H * H, block);
    for (int64_t k = 0; k < p.rank; ++k) {
        load_factors(w.bracket, w.weights, block, k);
        outer(to, k ? to : nullptr, 1, 1, w.bracket, w.weights, H);
    }
}

template <typename T>
inline void Kernel<T>::forward() const {
    Arena arena(p.scratch);
    const Places places = place(arena, false);
    pack_shared(places.shared);
    find_saved(places);
    clear_gaps(p.output, H);
    clear_gaps(p.written, H);
    parallel(blocks(), threads(blocks()), [&](int64_t block, int64_t thread) {
        forward_block(block, places, work_of(places, thread, false));
    });
}

}  // namespace
