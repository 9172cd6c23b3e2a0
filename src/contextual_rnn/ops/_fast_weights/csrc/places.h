// Where blocks keep what they save, and sequences that stand anywhere in the caller's tensors: a block then works on rows
// of its own. See recurrence.h.

#pragma once

#include "memory.h"

namespace {

// What blocks save stands close together, as short ones save less.
template <typename T>
inline void Kernel<T>::find_saved(const Places& places) const {
    vec* at = static_cast<vec*>(p.saved);
    for (int64_t block = 0; p.keep && block < blocks(); ++block) {
        places.saved[block] = at;
        at += saved_of_block(block_at(block).steps);
    }
}

// Has a block read and write rows of its own, and fills those that it reads.
template <typename T>
inline void Kernel<T>::collect(Block& block, const Work& w, bool backwards) const {
    if (!p.places) return;
    block.inputs = gather(w.inputs, p.features, I, block);
    block.output = w.output;
    if (p.written) block.written = w.written;
    if (!backwards) return;
    gather(w.output, p.output, H, block);
    if (p.grad_features) block.grad_features = w.grad_features;
    if (p.grad_output) block.grad_output = gather(w.grad_output, p.grad_output, H, block);
    if (p.grad_written) block.grad_written = gather(w.grad_written, p.grad_written, H, block);
}

// The rows of a block, zero after the end of a sequence.
template <typename T>
inline const T* Kernel<T>::gather(T* to, const void* from, int64_t size, const Block& block) const {
    for (int64_t l = 0; l < block.samples; ++l) {
        T* const row = to + l * T_ * size;
        const int64_t n = p.lengths[block.first + l];
        std::memcpy(row, given(from) + p.places[block.first + l] * size, n * size * sizeof(T));
        std::memset(row + n * size, 0, (block.steps - n) * size * sizeof(T));
    }
    return to;
}

// The rows of a block into those of the caller, which may want none.
template <typename T>
inline void Kernel<T>::put_back(void* to, const T* from, int64_t size, const Block& block) const {
    for (int64_t l = 0; to && l < block.samples; ++l, from += T_ * size)
        std::memcpy(at(to, p.places[block.first + l] * size), from, p.lengths[block.first + l] * size * sizeof(T));
}

// Zero where no sequence stands, in a result of `size` elements a row.
template <typename T>
inline void Kernel<T>::clear_gaps(void* to, int64_t size) const {
    if (!p.places || !to) return;
    int64_t gaps = p.rows;
    for (int64_t i = 0; i < B; ++i) gaps -= p.lengths[i];
    if (gaps) std::memset(to, 0, p.rows * size * sizeof(T));
}

}  // namespace
