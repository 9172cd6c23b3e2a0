// The arithmetic of the cells, for one vector of units: what a step does to sums of products, and its derivative.
//
// A cell has `columns` sums of products for every unit: the first `x_columns` have a share of the input, the last
// `h_columns` one of the state before. Where those are all, a unit's sum is W_ih x + b_ih + W_hh h + b_hh. Column q has
// the weights of gate ih_gate(q) and hh_gate(q), in the order that torch has in its matrices.
//
//   forward(z, h, c, saved)   z: the sums, h: the state before; c: the other state, which becomes the next;
//                             saved: `saved` vectors for the way back; returns the next h
//   backward(saved, h, c, dh, dc, dz)
//                             h, c: the states before; dh: the gradient of the next h; dc: that of the next c, which
//                             becomes that of c; dz: the gradients of the sums; returns the share of the gradient of h
//                             that does not go through a product

#pragma once

#include "activations.h"

namespace {

template <typename T>
struct LstmCell {
    typedef Activations<T> A;
    typedef typename A::vec vec;
    static constexpr int columns = 4, x_columns = 4, h_columns = 4, saved = 5;
    static constexpr bool has_c = true, carries = false;
    static constexpr int ih_gate(int q) { return q; }
    static constexpr int hh_gate(int q) { return q; }

    static inline INLINE vec forward(const vec* z, vec, vec& c, vec* saved) {
        const vec i = A::sigmoid(z[0]), f = A::sigmoid(z[1]), g = A::tanh(z[2]), o = A::sigmoid(z[3]);
        c = f * c + i * g;
        saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
        return o * A::tanh(c);
    }

    static inline INLINE vec backward(const vec* saved, vec, vec c, vec dh, vec& dc, vec* dz) {
        const vec i = saved[0], f = saved[1], g = saved[2], o = saved[3], t = A::tanh(saved[4]);
        const vec d = dc + dh * o * (1 - t * t);
        dz[0] = d * g * i * (1 - i);
        dz[1] = d * c * f * (1 - f);
        dz[2] = d * i * (1 - g * g);
        dz[3] = dh * t * o * (1 - o);
        dc = d * f;
        return vec{};
    }

    // h before its projection.
    static inline INLINE vec unprojected(const vec* saved) { return saved[3] * A::tanh(saved[4]); }
};

// The candidate n has its share of the input in the first column, that of the state, which r scales, in the last.
template <typename T>
struct GruCell {
    typedef Activations<T> A;
    typedef typename A::vec vec;
    static constexpr int columns = 4, x_columns = 3, h_columns = 3, saved = 4;
    static constexpr bool has_c = false, carries = true;
    static constexpr int ih_gate(int q) { return (q + 2) % 3; }
    static constexpr int hh_gate(int q) { return q - 1; }

    static inline INLINE vec forward(const vec* z, vec h, vec&, vec* saved) {
        const vec r = A::sigmoid(z[1]), u = A::sigmoid(z[2]), n = A::tanh(z[0] + r * z[3]);
        saved[0] = r, saved[1] = u, saved[2] = n, saved[3] = z[3];
        return n + u * (h - n);
    }

    static inline INLINE vec backward(const vec* saved, vec h, vec, vec dh, vec&, vec* dz) {
        const vec r = saved[0], u = saved[1], n = saved[2];
        dz[0] = dh * (1 - u) * (1 - n * n);
        dz[1] = dz[0] * saved[3] * r * (1 - r);
        dz[2] = dh * (h - n) * u * (1 - u);
        dz[3] = dz[0] * r;
        return dh * u;
    }
};

template <typename T, bool relu>
struct PlainCell {
    typedef Activations<T> A;
    typedef typename A::vec vec;
    static constexpr int columns = 1, x_columns = 1, h_columns = 1, saved = 1;
    static constexpr bool has_c = false, carries = false;
    static constexpr int ih_gate(int q) { return q; }
    static constexpr int hh_gate(int q) { return q; }

    static inline INLINE vec forward(const vec* z, vec, vec&, vec* saved) {
        return saved[0] = relu ? Registers<T>::relu(z[0]) : A::tanh(z[0]);
    }

    static inline INLINE vec backward(const vec* saved, vec, vec, vec dh, vec&, vec* dz) {
        dz[0] = relu ? Registers<T>::relu_gradient(dh, saved[0]) : dh * (1 - saved[0] * saved[0]);
        return vec{};
    }
};

}  // namespace
