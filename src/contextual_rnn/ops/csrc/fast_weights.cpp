// The fast-weights recurrence in attention form, forward and backward, for one instruction set.
//
// Compiled once for every instruction set, with VARIANT as the suffix of the exported names.
//
//   B, T, H, S, R   samples, steps, units, inner steps (reads a step), rank of a low-rank A(0)
//   L               samples in a vector register; a block of L samples is worked on together
//   z               W h(t-1) + inputs(t); a bracket is z plus what a read adds
//   q(t, s)         query of read s in step t; q(t, 0) = relu(z) is the preliminary state
//   m(t)            the vector written in step t: q(t, 0) under wenke2019, h(t) under ba2016
//   c(t, s, i)      discounted score of m(i) for q(t, s); d... is a gradient
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
    double decay, rate, eps;
    const void *inputs, *weight, *h0, *a0, *left, *right, *gain, *shift;
    const int64_t* lengths;
    void *output, *written, *saved, *scratch;
    const void *grad_output, *grad_written;
    void *grad_inputs, *grad_h0, *grad_a0, *grad_left, *grad_right, *grad_gain, *grad_shift;
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
        return (T_ + 1) * H + T_ * S * H * (p.layer_norm ? 2 : 1) + T_ * S + T_ * S * T_ + R * H * 2 + T_ * S * R;
    }
    int64_t scratch_size() const {
        return T_ * H + 3 * H + 2 * R * H + 2 * H + T_ * S * H + (H * H + 2 * T_ * S * H + 2 * H) / L + 4;
    }

    vec *hs, *queries, *normed, *deviations, *scores, *left, *right, *low_scores;

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
    }

    vec* query(int64_t t, int64_t s) const { return queries + (t * S + s) * H; }
    const vec* memory(int64_t t) const { return early ? query(t, 0) : hs + (t + 1) * H; }
    vec* result(int64_t t, int64_t s) const { return s == S - 1 ? hs + (t + 1) * H : query(t, s + 1); }
    int64_t writes(int64_t t) const { return early ? t + 1 : t; }

    // Rows of `width` elements, one a sample and `stride` apart, to and from the block's layout.
    static void load(vec* to, const T* from, int64_t samples, int64_t stride, int64_t width) {
        for (int64_t j = 0; j < width; ++j) {
            vec value = {};
            for (int64_t l = 0; l < samples; ++l) value[l] = from[l * stride + j];
            to[j] = value;
        }
    }
    static void store(T* to, const vec* from, int64_t samples, int64_t stride, int64_t width) {
        const T* values = reinterpret_cast<const T*>(from);
        for (int64_t l = 0; l < samples; ++l)
            for (int64_t j = 0; j < width; ++j) to[l * stride + j] = values[j * L + l];
    }

    static vec relu(vec x) { return x < 0 ? vec{} : x; }
    static vec relu_gradient(vec grad, vec result) { return result <= 0 ? vec{} : grad; }

    void hold(vec* h, int64_t t) const {
        if (!p.lengths) return;
        const vec now = vec{} + static_cast<T>(t);
        for (int64_t j = 0; j < H; ++j) h[j] = now < lengths ? h[j] : vec{};
    }

    // to += matrix from, the matrix row-major and the same for all samples.
    void multiply_add(vec* to, const T* matrix, const vec* from) const {
        constexpr int64_t rows = 8;
        int64_t j = 0;
        for (; j + rows <= H; j += rows) {
            vec sum[rows];
            for (int64_t k = 0; k < rows; ++k) sum[k] = to[j + k];
            const T* row = matrix + j * H;
            for (int64_t i = 0; i < H; ++i)
                for (int64_t k = 0; k < rows; ++k) sum[k] += row[k * H + i] * from[i];
            for (int64_t k = 0; k < rows; ++k) to[j + k] = sum[k];
        }
        for (; j < H; ++j) {
            vec sum = to[j];
            for (int64_t i = 0; i < H; ++i) sum += matrix[j * H + i] * from[i];
            to[j] = sum;
        }
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

    // One sample of a block as a row, for an A(0) that every sample has of its own.
    void row_of(T* row, const vec* block, int64_t l) const {
        const T* values = reinterpret_cast<const T*>(block);
        for (int64_t j = 0; j < H; ++j) row[j] = values[j * L + l];
    }

    void add_dense_read(vec* bracket, const vec* q, T scale, int64_t first, int64_t samples, T* row) const {
        T* values = reinterpret_cast<T*>(bracket);
        for (int64_t l = 0; l < samples; ++l) {
            const T* a = static_cast<const T*>(p.a0) + (first + l) * p.a0_stride;
            row_of(row, q, l);
            for (int64_t j = 0; j < H; ++j) {
                T sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < H; ++i) sum += a[j * H + i] * row[i];
                values[j * L + l] += scale * sum;
            }
        }
    }

    void add_dense_read_transposed(vec* to, const vec* g, T scale, int64_t first, int64_t samples, T* row) const {
        const T* grads = reinterpret_cast<const T*>(g);
        T* values = reinterpret_cast<T*>(to);
        for (int64_t l = 0; l < samples; ++l) {
            const T* a = static_cast<const T*>(p.a0) + (first + l) * p.a0_stride;
            std::memset(row, 0, H * sizeof(T));
            for (int64_t j = 0; j < H; ++j) {
                const T weight = scale * grads[j * L + l];
#pragma omp simd
                for (int64_t i = 0; i < H; ++i) row[i] += weight * a[j * H + i];
            }
            for (int64_t i = 0; i < H; ++i) values[i * L + l] += row[i];
        }
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
        vec* z = static_cast<vec*>(p.scratch);
        vec* bracket = z + H;
        T* row = reinterpret_cast<T*>(bracket + H);
        for (int64_t block = 0, first, samples; block * L < B; ++block) {
            start(block, first, samples);
            load(hs, static_cast<const T*>(p.h0) + first * H, samples, H, H);
            for (int64_t k = 0; k < R; ++k) {
                load(left + k * H, static_cast<const T*>(p.left) + (first * R + k) * H, samples, R * H, H);
                load(right + k * H, static_cast<const T*>(p.right) + (first * R + k) * H, samples, R * H, H);
            }
            for (int64_t t = 0; t < T_; ++t) {
                load(z, inputs + (first * T_ + t) * H, samples, T_ * H, H);
                multiply_add(z, static_cast<const T*>(p.weight), hs + t * H);
                for (int64_t j = 0; j < H; ++j) query(t, 0)[j] = relu(z[j]);
                hold(query(t, 0), t);
                const T scale = static_cast<T>(std::pow(p.decay, static_cast<double>(writes(t))));
                for (int64_t s = 0; s < S; ++s) {
                    const vec* q = query(t, s);
                    std::memcpy(bracket, z, H * sizeof(vec));
                    T discount = static_cast<T>(p.rate);
                    for (int64_t i = writes(t) - 1; i >= 0; --i, discount *= static_cast<T>(p.decay)) {
                        const vec score = scores[(t * S + s) * T_ + i] = dot(memory(i), q) * discount;
                        add(bracket, score, memory(i));
                    }
                    for (int64_t k = 0; k < R; ++k) {
                        const vec score = low_scores[(t * S + s) * R + k] = dot(right + k * H, q) * scale;
                        add(bracket, score, left + k * H);
                    }
                    if (p.a0) add_dense_read(bracket, q, scale, first, samples, row);
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
        const T* weight = static_cast<const T*>(p.weight);
        vec* at = static_cast<vec*>(p.scratch);
        auto take = [&at](int64_t size) { vec* from = at; at += size; return from; };
        vec *d_memory = take(T_ * H), *d_h = take(H), *d_z = take(H), *g = take(H);
        vec *d_left = take(R * H), *d_right = take(R * H), *d_gain = take(H), *d_shift = take(H);
        vec* d_brackets = take(T_ * S * H);
        T* transposed = reinterpret_cast<T*>(at);
        T *rows = transposed + H * H, *row = rows + 2 * T_ * S * H;
        for (int64_t j = 0; j < H; ++j)
            for (int64_t i = 0; i < H; ++i) transposed[i * H + j] = weight[j * H + i];
        std::memset(d_gain, 0, 2 * H * sizeof(vec));

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
                const T scale = static_cast<T>(std::pow(p.decay, static_cast<double>(writes(t))));
                std::memset(d_z, 0, H * sizeof(vec));
                for (int64_t s = S - 1; s >= 0; --s) {
                    const vec *q = query(t, s), *h = result(t, s);
                    for (int64_t j = 0; j < H; ++j) g[j] = relu_gradient(d_h[j], h[j]);
                    if (p.layer_norm) normalise_backward(g, normed + (t * S + s) * H, deviations[t * S + s], d_gain, d_shift);
                    for (int64_t j = 0; j < H; ++j) d_z[j] += g[j];
                    std::memset(d_h, 0, H * sizeof(vec));
                    T discount = static_cast<T>(p.rate);
                    for (int64_t i = writes(t) - 1; i >= 0; --i, discount *= static_cast<T>(p.decay)) {
                        const vec *m = memory(i), score = scores[(t * S + s) * T_ + i], d_score = dot(m, g) * discount;
                        vec* d_m = d_memory + i * H;
                        for (int64_t j = 0; j < H; ++j) {
                            d_h[j] += d_score * m[j];
                            d_m[j] += score * g[j] + d_score * q[j];
                        }
                    }
                    for (int64_t k = 0; k < R; ++k) {
                        const vec d_score = dot(left + k * H, g) * scale;
                        add(d_h, d_score, right + k * H);
                        add(d_left + k * H, low_scores[(t * S + s) * R + k], g);
                        add(d_right + k * H, d_score, q);
                    }
                    if (p.a0) {
                        add_dense_read_transposed(d_h, g, scale, first, samples, row);
                        for (int64_t j = 0; j < H; ++j) d_brackets[(t * S + s) * H + j] = g[j] * scale;
                    }
                }
                if (early) add(d_h, vec{} + T(1), d_memory + t * H);
                for (int64_t j = 0; j < H; ++j) d_z[j] += relu_gradient(d_h[j], query(t, 0)[j]);
                store(static_cast<T*>(p.grad_inputs) + (first * T_ + t) * H, d_z, samples, T_ * H, H);
                std::memset(d_h, 0, H * sizeof(vec));
                multiply_add(d_h, transposed, d_z);
            }
            store(static_cast<T*>(p.grad_h0) + first * H, d_h, samples, H, H);
            for (int64_t k = 0; k < R; ++k) {
                store(static_cast<T*>(p.grad_left) + (first * R + k) * H, d_left + k * H, samples, R * H, H);
                store(static_cast<T*>(p.grad_right) + (first * R + k) * H, d_right + k * H, samples, R * H, H);
            }
            if (p.a0)
                for (int64_t l = 0; l < samples; ++l) dense_gradient(d_brackets, first, l, rows);
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

    // dA(0) of one sample, sum over reads of (scaled) g q^T.
    void dense_gradient(const vec* d_brackets, int64_t first, int64_t l, T* rows) const {
        const int64_t reads = T_ * S;
        T *g = rows, *q = rows + reads * H, *to = static_cast<T*>(p.grad_a0) + (first + l) * H * H;
        for (int64_t r = 0; r < reads; ++r) {
            row_of(g + r * H, d_brackets + r * H, l);
            row_of(q + r * H, queries + r * H, l);
        }
        for (int64_t j = 0; j < H; ++j) {
            T* row = to + j * H;
            std::memset(row, 0, H * sizeof(T));
            for (int64_t r = 0; r < reads; ++r) {
                const T weight = g[r * H + j];
#pragma omp simd
                for (int64_t i = 0; i < H; ++i) row[i] += weight * q[r * H + i];
            }
        }
    }

    void sum_lanes(T* to, const vec* from) const {
        if (!to) return;
        for (int64_t j = 0; j < H; ++j) {
            T sum = 0;
            for (int64_t l = 0; l < L; ++l) sum += from[j][l];
            to[j] = sum;
        }
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
