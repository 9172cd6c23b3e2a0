// The fast-weights recurrence in attention form, forward and backward, for one instruction set.
//
// Compiled once for every instruction set, with VARIANT as the suffix of the exported names.
//
//   B, T, H, S, R   samples, steps, units, inner steps (reads a step), rank of a low-rank A(0)
//   L               samples in a vector register; a block of L samples is worked on together
//   z               W h(t-1) + inputs(t); a bracket is z plus what a read adds
//   q(t, s)         query of read s in step t; q(t, 0) = relu(z) is the preliminary state
//   m(t)            the vector written in step t: q(t, 0) under wenke2019, h(t) under ba2016
//   c(t, s, i)      score of m(i) for q(t, s), before its discount; d... is a gradient
//
// Tensors of the caller are sample-major and contiguous. Inside, everything is unit-major with the L samples of a
// block innermost, so that no sum ever crosses a register: sums over units are sums of registers.

#include <cmath>
#include <cstdint>
#include <cstring>

#define NAME_(name, variant) name##_##variant
#define NAME(name, variant) NAME_(name, variant)

extern "C" struct FastWeightsProblem {
    int64_t batch, steps, width, inner_steps, rank;
    int64_t write_before_read;  // wenke2019
    int64_t layer_norm;
    int64_t a0_stride;  // elements from one sample's A(0) to the next; 0 where all share one
    int64_t keep;       // keep activations for the backward pass
    double eps;
    const void *inputs, *weight, *h0, *a0, *left, *right, *gain, *shift;
    const void *discounts, *retained;  // rate decay^age and decay^count
    const int64_t* lengths;
    void *output, *written, *saved, *scratch;
    const void *grad_output, *grad_written;
    void *grad_inputs, *grad_h0, *grad_a0, *grad_left, *grad_right, *grad_gain, *grad_shift;
    void *grad_discounts, *grad_retained;  // absent unless wanted
};

namespace {

template <typename T>
struct Kernel {
    static constexpr int64_t L = 64 / sizeof(T);
    typedef T vec __attribute__((vector_size(64), aligned(alignof(T))));

    const FastWeightsProblem& p;
    const int64_t B, T_, H, S, R;
    const bool early;
    vec lengths;

    explicit Kernel(const FastWeightsProblem& problem)
        : p(problem), B(p.batch), T_(p.steps), H(p.width), S(p.inner_steps), R(p.rank), early(p.write_before_read) {}

    // What a block keeps for its backward pass, in registers of L samples.
    int64_t saved_size() const {
        return (T_ + 1) * H + T_ * S * H * (p.layer_norm ? 2 : 1) + T_ * S + T_ * S * T_ + R * H * 2 + T_ * S * R +
               (own_matrix() ? H * H : 0);
    }
    int64_t scratch_size() const {
        return T_ * H + 6 * H + 2 * R * H + (p.a0 ? T_ * S * H + H * H : 0) + 2 * (H * H / L + 1);
    }

    // An A(0) of every sample's own is turned into the block's layout; one that all share is read like W.
    bool own_matrix() const { return p.a0 && p.a0_stride; }

    vec *hs, *queries, *normed, *deviations, *scores, *left, *right, *low_scores, *matrices;

    void place(int64_t block) {
        vec* at = static_cast<vec*>(p.saved) + (p.keep ? block * saved_size() : 0);
        auto take = [&at](int64_t size) { vec* from = at; at += size; return from; };
        hs = take((T_ + 1) * H);
        queries = take(T_ * S * H);
        normed = take(p.layer_norm ? T_ * S * H : 0);
        deviations = take(T_ * S);
        scores = take(T_ * S * T_);
        left = take(R * H);
        right = take(R * H);
        low_scores = take(T_ * S * R);
        matrices = take(own_matrix() ? H * H : 0);
    }

    vec* query(int64_t t, int64_t s) const { return queries + (t * S + s) * H; }
    const vec* memory(int64_t t) const { return early ? query(t, 0) : hs + (t + 1) * H; }
    vec* result(int64_t t, int64_t s) const { return s == S - 1 ? hs + (t + 1) * H : query(t, s + 1); }
    int64_t writes(int64_t t) const { return early ? t + 1 : t; }

    // Rows of `width` elements, one a sample and `stride` apart, to and from the block's layout; in tiles of columns,
    // which stay in the first-level cache while every sample passes over them.
    static constexpr int64_t tile = 16;
    static void load(vec* to, const T* from, int64_t samples, int64_t stride, int64_t width) {
        T* values = reinterpret_cast<T*>(to);
        if (samples < L) std::memset(values, 0, width * sizeof(vec));
        for (int64_t j = 0; j < width; j += tile)
            for (int64_t l = 0; l < samples; ++l)
                for (int64_t k = j; k < width && k < j + tile; ++k) values[k * L + l] = from[l * stride + k];
    }
    static void store(T* to, const vec* from, int64_t samples, int64_t stride, int64_t width) {
        const T* values = reinterpret_cast<const T*>(from);
        for (int64_t j = 0; j < width; j += tile)
            for (int64_t l = 0; l < samples; ++l)
                for (int64_t k = j; k < width && k < j + tile; ++k) to[l * stride + k] = values[k * L + l];
    }

    static vec relu(vec x) { return x < 0 ? vec{} : x; }
    static vec relu_gradient(vec grad, vec result) { return result <= 0 ? vec{} : grad; }

    void hold(vec* h, int64_t t) const {
        if (!p.lengths) return;
        const vec now = vec{} + static_cast<T>(t);
        for (int64_t j = 0; j < H; ++j) h[j] = now < lengths ? h[j] : vec{};
    }

    // to += scale matrix from, the matrix row-major and the same for all samples.
    void multiply_add(vec* to, T scale, const T* matrix, const vec* from) const {
        int64_t j = 0;
        for (; j + 8 <= H; j += 8) multiply_rows<8>(to + j, scale, matrix + j * H, from);
        for (; j < H; ++j) multiply_rows<1>(to + j, scale, matrix + j * H, from);
    }

    template <int rows>
    void multiply_rows(vec* to, T scale, const T* matrix, const vec* from) const {
        vec sum[rows] = {};
        for (int64_t i = 0; i < H; ++i)
            for (int k = 0; k < rows; ++k) sum[k] += matrix[k * H + i] * from[i];
        for (int k = 0; k < rows; ++k) to[k] += scale * sum[k];
    }

    // The same with a matrix of every sample's own, in the block's layout, and with its transpose.
    void multiply_own(vec* to, T scale, const vec* from) const {
        int64_t j = 0;
        for (; j + 4 <= H; j += 4) multiply_own_rows<4>(to + j, scale, matrices + j * H, from);
        for (; j < H; ++j) multiply_own_rows<1>(to + j, scale, matrices + j * H, from);
    }

    template <int rows>
    void multiply_own_rows(vec* to, T scale, const vec* matrix, const vec* from) const {
        vec sum[rows] = {};
        for (int64_t i = 0; i < H; ++i)
            for (int k = 0; k < rows; ++k) sum[k] += matrix[k * H + i] * from[i];
        for (int k = 0; k < rows; ++k) to[k] += scale * sum[k];
    }

    void multiply_own_transposed(vec* to, T scale, const vec* from) const {
        int64_t i = 0;
        for (; i + 8 <= H; i += 8) multiply_own_columns<8>(to + i, scale, matrices + i, from);
        for (; i < H; ++i) multiply_own_columns<1>(to + i, scale, matrices + i, from);
    }

    template <int columns>
    void multiply_own_columns(vec* to, T scale, const vec* matrix, const vec* from) const {
        vec sum[columns] = {};
        for (int64_t j = 0; j < H; ++j)
            for (int k = 0; k < columns; ++k) sum[k] += matrix[j * H + k] * from[j];
        for (int k = 0; k < columns; ++k) to[k] += scale * sum[k];
    }

    vec dot(const vec* a, const vec* b) const {
        vec sum[4] = {};
        int64_t j = 0;
        for (; j + 4 <= H; j += 4)
            for (int64_t k = 0; k < 4; ++k) sum[k] += a[j + k] * b[j + k];
        for (; j < H; ++j) sum[0] += a[j] * b[j];
        return (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }

    void add(vec* to, vec scale, const vec* from) const {
        for (int64_t j = 0; j < H; ++j) to[j] += scale * from[j];
    }

    void normalise(vec* to, const vec* bracket, vec* kept, vec* deviation) const {
        vec mean = {}, variance = {};
        for (int64_t j = 0; j < H; ++j) mean += bracket[j];
        mean /= static_cast<T>(H);
        for (int64_t j = 0; j < H; ++j) variance += (bracket[j] - mean) * (bracket[j] - mean);
        variance = variance / static_cast<T>(H) + static_cast<T>(p.eps);
        vec inverse;
        for (int64_t l = 0; l < L; ++l) inverse[l] = 1 / std::sqrt(variance[l]);
        *deviation = inverse;
        const T *gain = static_cast<const T*>(p.gain), *shift = static_cast<const T*>(p.shift);
        for (int64_t j = 0; j < H; ++j) {
            vec value = kept[j] = (bracket[j] - mean) * inverse;
            if (gain) value *= gain[j];
            if (shift) value += shift[j];
            to[j] = relu(value);
        }
    }

    void start(int64_t block, int64_t& first, int64_t& samples) {
        first = block * L;
        samples = B - first < L ? B - first : L;
        place(block);
        if (p.lengths)
            for (int64_t l = 0; l < L; ++l) lengths[l] = l < samples ? static_cast<T>(p.lengths[first + l]) : T(0);
    }

    void forward() {
        const T* inputs = static_cast<const T*>(p.inputs);
        const T *discounts = static_cast<const T*>(p.discounts), *retained = static_cast<const T*>(p.retained);
        vec* z = static_cast<vec*>(p.scratch);
        vec* bracket = z + H;
        for (int64_t block = 0, first, samples; block * L < B; ++block) {
            start(block, first, samples);
            load(hs, static_cast<const T*>(p.h0) + first * H, samples, H, H);
            for (int64_t k = 0; k < R; ++k) {
                load(left + k * H, static_cast<const T*>(p.left) + (first * R + k) * H, samples, R * H, H);
                load(right + k * H, static_cast<const T*>(p.right) + (first * R + k) * H, samples, R * H, H);
            }
            const T* a0 = static_cast<const T*>(p.a0);
            if (own_matrix()) load(matrices, a0 + first * p.a0_stride, samples, p.a0_stride, H * H);
            for (int64_t t = 0; t < T_; ++t) {
                load(z, inputs + (first * T_ + t) * H, samples, T_ * H, H);
                multiply_add(z, 1, static_cast<const T*>(p.weight), hs + t * H);
                for (int64_t j = 0; j < H; ++j) query(t, 0)[j] = relu(z[j]);
                hold(query(t, 0), t);
                const T scale = retained[writes(t)];
                for (int64_t s = 0; s < S; ++s) {
                    const vec* q = query(t, s);
                    std::memcpy(bracket, z, H * sizeof(vec));
                    for (int64_t i = writes(t) - 1; i >= 0; --i) {
                        const vec score = scores[(t * S + s) * T_ + i] = dot(memory(i), q);
                        add(bracket, score * discounts[writes(t) - 1 - i], memory(i));
                    }
                    for (int64_t k = 0; k < R; ++k) {
                        const vec score = low_scores[(t * S + s) * R + k] = dot(right + k * H, q);
                        add(bracket, score * scale, left + k * H);
                    }
                    if (own_matrix())
                        multiply_own(bracket, scale, q);
                    else if (a0)
                        multiply_add(bracket, scale, a0, q);
                    vec* to = result(t, s);
                    if (p.layer_norm)
                        normalise(to, bracket, normed + (t * S + s) * H, deviations + t * S + s);
                    else
                        for (int64_t j = 0; j < H; ++j) to[j] = relu(bracket[j]);
                }
                hold(hs + (t + 1) * H, t);
                store(static_cast<T*>(p.output) + (first * T_ + t) * H, hs + (t + 1) * H, samples, T_ * H, H);
                if (p.written)
                    store(static_cast<T*>(p.written) + (first * T_ + t) * H, memory(t), samples, T_ * H, H);
            }
        }
    }

    void backward() {
        vec* at = static_cast<vec*>(p.scratch);
        auto take = [&at](int64_t size) { vec* from = at; at += size; return from; };
        vec *d_memory = take(T_ * H), *d_h = take(H), *d_z = take(H), *g = take(H), *d_read = take(H);
        vec *d_left = take(R * H), *d_right = take(R * H), *d_gain = take(H), *d_shift = take(H);
        vec *d_brackets = take(p.a0 ? T_ * S * H : 0), *d_matrices = take(p.a0 ? H * H : 0);
        T *weight_t = reinterpret_cast<T*>(take(H * H / L + 1)), *a0_t = reinterpret_cast<T*>(at);
        transpose(weight_t, static_cast<const T*>(p.weight));
        if (p.a0 && !own_matrix()) transpose(a0_t, static_cast<const T*>(p.a0));
        std::memset(d_gain, 0, 2 * H * sizeof(vec));
        const T *discounts = static_cast<const T*>(p.discounts), *retained = static_cast<const T*>(p.retained);
        T *grad_discounts = static_cast<T*>(p.grad_discounts), *grad_retained = static_cast<T*>(p.grad_retained);

        // Under ba2016 the outputs are what was written, so their gradients are gathered in one place.
        const T* outer = static_cast<const T*>(early ? p.grad_written : p.grad_output);
        const T* output_grads = early ? static_cast<const T*>(p.grad_output) : nullptr;
        for (int64_t block = 0, first, samples; block * L < B; ++block) {
            start(block, first, samples);
            if (outer)
                for (int64_t t = 0; t < T_; ++t)
                    load(d_memory + t * H, outer + (first * T_ + t) * H, samples, T_ * H, H);
            else
                std::memset(d_memory, 0, T_ * H * sizeof(vec));
            std::memset(d_h, 0, H * sizeof(vec));
            std::memset(d_left, 0, 2 * R * H * sizeof(vec));
            for (int64_t t = T_ - 1; t >= 0; --t) {
                if (!early)
                    add(d_h, vec{} + T(1), d_memory + t * H);
                else if (output_grads) {
                    load(g, output_grads + (first * T_ + t) * H, samples, T_ * H, H);
                    add(d_h, vec{} + T(1), g);
                }
                hold(d_h, t);
                const T scale = retained[writes(t)];
                std::memset(d_z, 0, H * sizeof(vec));
                for (int64_t s = S - 1; s >= 0; --s) {
                    const vec *q = query(t, s), *h = result(t, s);
                    for (int64_t j = 0; j < H; ++j) g[j] = relu_gradient(d_h[j], h[j]);
                    if (p.layer_norm) normalise_backward(g, normed + (t * S + s) * H, deviations[t * S + s], d_gain, d_shift);
                    for (int64_t j = 0; j < H; ++j) d_z[j] += g[j];
                    std::memset(d_h, 0, H * sizeof(vec));
                    for (int64_t i = writes(t) - 1; i >= 0; --i) {
                        const int64_t age = writes(t) - 1 - i;
                        const vec *m = memory(i), raw = scores[(t * S + s) * T_ + i], d_discounted = dot(m, g);
                        const vec score = raw * discounts[age], d_score = d_discounted * discounts[age];
                        if (grad_discounts) grad_discounts[age] += sum(raw * d_discounted);
                        vec* d_m = d_memory + i * H;
                        for (int64_t j = 0; j < H; ++j) {
                            d_h[j] += d_score * m[j];
                            d_m[j] += score * g[j] + d_score * q[j];
                        }
                    }
                    for (int64_t k = 0; k < R; ++k) {
                        const vec raw = low_scores[(t * S + s) * R + k], d_scaled = dot(left + k * H, g);
                        const vec d_score = d_scaled * scale;
                        if (grad_retained) grad_retained[writes(t)] += sum(raw * d_scaled);
                        add(d_h, d_score, right + k * H);
                        add(d_left + k * H, raw * scale, g);
                        add(d_right + k * H, d_score, q);
                    }
                    if (p.a0) {
                        std::memset(d_read, 0, H * sizeof(vec));
                        if (own_matrix())
                            multiply_own_transposed(d_read, 1, g);
                        else
                            multiply_add(d_read, 1, a0_t, g);
                        add(d_h, vec{} + scale, d_read);
                        if (grad_retained) grad_retained[writes(t)] += sum(dot(d_read, q));
                        for (int64_t j = 0; j < H; ++j) d_brackets[(t * S + s) * H + j] = g[j] * scale;
                    }
                }
                if (early) add(d_h, vec{} + T(1), d_memory + t * H);
                for (int64_t j = 0; j < H; ++j) d_z[j] += relu_gradient(d_h[j], query(t, 0)[j]);
                store(static_cast<T*>(p.grad_inputs) + (first * T_ + t) * H, d_z, samples, T_ * H, H);
                std::memset(d_h, 0, H * sizeof(vec));
                multiply_add(d_h, 1, weight_t, d_z);
            }
            store(static_cast<T*>(p.grad_h0) + first * H, d_h, samples, H, H);
            for (int64_t k = 0; k < R; ++k) {
                store(static_cast<T*>(p.grad_left) + (first * R + k) * H, d_left + k * H, samples, R * H, H);
                store(static_cast<T*>(p.grad_right) + (first * R + k) * H, d_right + k * H, samples, R * H, H);
            }
            if (p.a0) {
                int64_t j = 0;
                for (; j + 4 <= H; j += 4) matrix_gradient<4>(d_matrices, d_brackets, j);
                for (; j < H; ++j) matrix_gradient<1>(d_matrices, d_brackets, j);
                store(static_cast<T*>(p.grad_a0) + first * H * H, d_matrices, samples, H * H, H * H);
            }
        }
        sum_lanes(static_cast<T*>(p.grad_gain), d_gain);
        sum_lanes(static_cast<T*>(p.grad_shift), d_shift);
    }

    void normalise_backward(vec* g, const vec* normed, vec deviation, vec* d_gain, vec* d_shift) const {
        const T* gain = static_cast<const T*>(p.gain);
        vec mean = {}, product = {};
        for (int64_t j = 0; j < H; ++j) {
            d_gain[j] += g[j] * normed[j];
            d_shift[j] += g[j];
            if (gain) g[j] *= gain[j];
            mean += g[j];
            product += g[j] * normed[j];
        }
        mean /= static_cast<T>(H);
        product /= static_cast<T>(H);
        for (int64_t j = 0; j < H; ++j) g[j] = (g[j] - mean - normed[j] * product) * deviation;
    }

    // Rows of dA(0): the sum over reads of (scaled) g q^T.
    template <int rows>
    void matrix_gradient(vec* to, const vec* d_brackets, int64_t j) const {
        int64_t i = 0;
        for (; i + 4 <= H; i += 4) matrix_gradient_tile<rows, 4>(to, d_brackets, j, i);
        for (; i < H; ++i) matrix_gradient_tile<rows, 1>(to, d_brackets, j, i);
    }

    template <int rows, int columns>
    void matrix_gradient_tile(vec* to, const vec* d_brackets, int64_t j, int64_t i) const {
        vec sum[rows][columns] = {};
        for (int64_t r = 0; r < T_ * S; ++r)
            for (int k = 0; k < rows; ++k)
                for (int c = 0; c < columns; ++c) sum[k][c] += d_brackets[r * H + j + k] * queries[r * H + i + c];
        for (int k = 0; k < rows; ++k)
            for (int c = 0; c < columns; ++c) to[(j + k) * H + i + c] = sum[k][c];
    }

    void transpose(T* to, const T* from) const {
        for (int64_t j = 0; j < H; ++j)
            for (int64_t i = 0; i < H; ++i) to[i * H + j] = from[j * H + i];
    }

    static T sum(vec x) {
        T total = 0;
        for (int64_t l = 0; l < L; ++l) total += x[l];
        return total;
    }

    void sum_lanes(T* to, const vec* from) const {
        if (!to) return;
        for (int64_t j = 0; j < H; ++j) to[j] = sum(from[j]);
    }
};

}  // namespace

// Sizes in bytes: what all blocks keep (one block's where nothing is kept), and scratch.
template <typename T>
static void sizes(const FastWeightsProblem* problem, int64_t* saved, int64_t* scratch) {
    const Kernel<T> kernel(*problem);
    const int64_t blocks = problem->keep ? (problem->batch + Kernel<T>::L - 1) / Kernel<T>::L : 1;
    *saved = blocks * kernel.saved_size() * 64;
    *scratch = kernel.scratch_size() * 64;
}

#define EXPORT(type, suffix)                                                                                      \
    extern "C" void NAME(fast_weights_sizes_##suffix, VARIANT)(const FastWeightsProblem* p, int64_t* a, int64_t* b) { \
        sizes<type>(p, a, b);                                                                                     \
    }                                                                                                             \
    extern "C" void NAME(fast_weights_forward_##suffix, VARIANT)(const FastWeightsProblem* p) {                   \
        Kernel<type>(*p).forward();                                                                               \
    }                                                                                                             \
    extern "C" void NAME(fast_weights_backward_##suffix, VARIANT)(const FastWeightsProblem* p) {                  \
        Kernel<type>(*p).backward();                                                                              \
    }

EXPORT(float, float32)
EXPORT(double, float64)
