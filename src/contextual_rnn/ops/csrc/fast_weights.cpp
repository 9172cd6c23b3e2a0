// The fast-weights recurrence in attention form, forward and backward, for one instruction set.
//
// Compiled once for every instruction set, with VARIANT as the suffix of the exported names. Nothing of the standard
// library is called from here: the linker would keep one variant's copy of an inline function for all.
//
//   B, T, H, S, R   samples, steps, units, inner steps (reads a step), rank of a low-rank A(0)
//   C               steps of a chunk; within one, A at its start is read beside a sum over what was written in it
//   L               samples in a vector register; a block of L samples is worked on together
//   z               W h(t-1) + inputs(t); a bracket is z plus what a read adds
//   q(t, s)         query of read s in step t; q(t, 0) = relu(z) is the preliminary state
//   m(t)            the vector written in step t: q(t, 0) under wenke2019, h(t) under ba2016
//   c(t, s, i)      score of m(i) for q(t, s), before its discount; d... is a gradient
//
// Tensors of the caller are sample-major and contiguous. Inside, everything is unit-major with the L samples of a
// block innermost, so that no sum ever crosses a register: sums over units are sums of registers. Only the gradient of
// W is summed over samples, in the caller's layout.

#include <cstdint>
#include <cstring>
#include <utility>

#define NAME_(name, variant) name##_##variant
#define NAME(name, variant) NAME_(name, variant)

// All of eight bytes, in the order of `cpu.py`.
extern "C" struct FastWeightsProblem {
    int64_t batch, steps, width, inner_steps, rank, chunk, threads;
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
    void *grad_inputs, *grad_weight, *grad_h0, *grad_a0, *grad_left, *grad_right, *grad_gain, *grad_shift;
    void *grad_discounts, *grad_retained;  // any may be absent, but for grad_inputs
};

namespace {

#if defined(__AVX512F__)
constexpr int bytes = 64, sums = 12, tile = 4, panel_rows = 6, panel_columns = 4;
#elif defined(__AVX__)
constexpr int bytes = 32, sums = 10, tile = 3, panel_rows = 5, panel_columns = 2;
#else
constexpr int bytes = 16, sums = 8, tile = 3, panel_rows = 4, panel_columns = 2;
#endif

#define INLINE __attribute__((always_inline))

template <int n>
struct Count {
    static constexpr int value = n;
    constexpr operator int() const { return n; }
};

// body(0) .. body(n - 1), written out: a loop that the compiler unrolls late leaves its registers in memory.
template <typename Body, int... k>
inline INLINE void each(std::integer_sequence<int, k...>, const Body& body) {
    (body(Count<k>()), ...);
}
template <int n, typename Body>
inline INLINE void each(const Body& body) {
    each(std::make_integer_sequence<int, n>(), body);
}

template <int most, typename Body>
inline INLINE void with_count(int64_t count, int64_t at, const Body& body) {
    if constexpr (most == 1)
        body(Count<1>(), at);
    else if (count == most)
        body(Count<most>(), at);
    else
        with_count<most - 1>(count, at, body);
}

// Covers 0 .. n with blocks of about equal size, at most `most`, known to the compiler; body(Count, start).
template <int most, typename Body>
inline INLINE void in_blocks(int64_t n, const Body& body) {
    int64_t blocks = (n + most - 1) / most;
    for (int64_t at = 0; blocks; --blocks) {
        const int64_t count = (n - at + blocks - 1) / blocks;
        with_count<most>(count, at, body);
        at += count;
    }
}

// Hands out memory; counts it where there is none.
struct Arena {
    uintptr_t base;
    int64_t used = 0;

    explicit Arena(const void* memory) : base(reinterpret_cast<uintptr_t>(memory)) {}
    template <typename T>
    T* take(int64_t size) {
        const int64_t from = used;
        used += (size * static_cast<int64_t>(sizeof(T)) + bytes - 1) / bytes * bytes;
        return reinterpret_cast<T*>(base + from);
    }
};

template <typename T>
struct Kernel {
    static constexpr int64_t L = bytes / sizeof(T);
    static constexpr int64_t lanes = 64 / sizeof(T);  // what is saved is laid out for any instruction set
    typedef T vec __attribute__((vector_size(bytes), aligned(alignof(T))));

    const FastWeightsProblem& p;
    const int64_t B, T_, H, S, R;
    const bool early;

    explicit Kernel(const FastWeightsProblem& problem)
        : p(problem), B(p.batch), T_(p.steps), H(p.width), S(p.inner_steps), R(p.rank), early(p.write_before_read) {}

    int64_t blocks() const { return (B + L - 1) / L; }

    // An A(0) of every sample's own is turned into the block's layout; one that all share is read like W.
    bool own_matrix() const { return p.a0 && p.a0_stride; }
    bool shared_matrix() const { return p.a0 && !p.a0_stride; }

    // What a block of samples went through.
    struct Activations {
        vec *hs, *queries, *normed, *deviations, *scores, *low_scores, *left, *right, *matrix;
    };

    Activations place_activations(Arena& arena) const {
        Activations a;
        a.hs = arena.take<vec>((T_ + 1) * H);
        a.queries = arena.take<vec>(T_ * S * H);
        a.normed = arena.take<vec>(p.layer_norm ? T_ * S * H : 0);
        a.deviations = arena.take<vec>(T_ * S);
        a.scores = arena.take<vec>(T_ * S * T_);
        a.low_scores = arena.take<vec>(T_ * S * R);
        a.left = arena.take<vec>(R * H);
        a.right = arena.take<vec>(R * H);
        a.matrix = arena.take<vec>(own_matrix() ? H * H : 0);
        return a;
    }

    // Elements that all blocks keep for the backward pass, `saved_size` of cpu.py. Smaller registers leave gaps.
    int64_t saved_size() const {
        int64_t block = (T_ + 1) * H + T_ * S * H * (p.layer_norm ? 2 : 1) + T_ * S + T_ * S * T_ + T_ * S * R +
                        R * H * 2 + (own_matrix() ? H * H : 0);
        return (B + lanes - 1) / lanes * block * lanes;
    }

    Activations activations_of(int64_t block, void* unkept) const {
        Arena size(nullptr);
        place_activations(size);
        char* memory = p.keep ? static_cast<char*>(p.saved) + block * size.used : static_cast<char*>(unkept);
        Arena arena(memory);
        return place_activations(arena);
    }

    // The caller's matrices, in the order in which `multiply` reads them.
    struct Shared {
        T *weight, *a0;
    };

    Shared place_shared(Arena& arena) const {
        Shared shared;
        shared.weight = arena.take<T>(H * H);
        shared.a0 = arena.take<T>(shared_matrix() ? H * H : 0);
        return shared;
    }

    void pack_shared(const Shared& shared, bool transposed) const {
        pack(shared.weight, static_cast<const T*>(p.weight), transposed);
        if (shared_matrix()) pack(shared.a0, static_cast<const T*>(p.a0), transposed);
    }

    void pack(T* to, const T* matrix, bool transposed) const {
        const int64_t along = transposed ? H : 1, across = transposed ? 1 : H;
        in_blocks<sums>(H, [&](auto count, int64_t j) {
            constexpr int rows = decltype(count)::value;
            for (int64_t i = 0; i < H; ++i)
                for (int k = 0; k < rows; ++k) to[j * H + i * rows + k] = matrix[(j + k) * across + i * along];
        });
    }

    // ---- registers of L samples ----

    static vec relu(vec x) { return x < 0 ? vec{} : x; }
    static vec relu_gradient(vec grad, vec result) { return result <= 0 ? vec{} : grad; }
    static vec all(T x) { return vec{} + x; }

    static T sum(vec x) {
        T total = 0;
        for (int64_t l = 0; l < L; ++l) total += x[l];
        return total;
    }

    template <int64_t half, int... l>
    static inline INLINE void exchange(vec& a, vec& b, std::integer_sequence<int, l...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
        const vec low = __builtin_shufflevector(a, b, (l & half ? L + l - half : l)...);
        b = __builtin_shufflevector(a, b, (l & half ? L + l : l + half)...);
        a = low;
#else
        for (int64_t k = 0; k < L; ++k)
            if (!(k & half)) { const T x = a[k + half]; a[k + half] = b[k]; b[k] = x; }
#endif
    }

    template <int64_t half = L / 2>
    static inline INLINE void transpose(vec* rows) {
        each<L>([&](auto k) INLINE {
            if constexpr (!(k.value & half))
                exchange<half>(rows[k], rows[k + half], std::make_integer_sequence<int, L>());
        });
        if constexpr (half > 1) transpose<half / 2>(rows);
    }

    // Rows of `width` elements, one a sample and `stride` apart, to and from the block's layout, in square tiles; the
    // last tile goes over columns of the one before it once more.
    static void load(vec* to, const T* from, int64_t samples, int64_t stride, int64_t width) {
        if (width < L) {
            for (int64_t k = 0; k < width; ++k)
                for (int64_t l = 0; l < L; ++l) to[k][l] = l < samples ? from[l * stride + k] : 0;
            return;
        }
        for (int64_t at = 0; at < width; at += L) {
            const int64_t j = at + L <= width ? at : width - L;
            vec rows[L];
            each<L>([&](auto l) INLINE {
                rows[l] = l < samples ? *reinterpret_cast<const vec*>(from + l * stride + j) : vec{};
            });
            transpose(rows);
            each<L>([&](auto l) INLINE { to[j + l] = rows[l]; });
        }
    }

    static void store(T* to, const vec* from, int64_t samples, int64_t stride, int64_t width) {
        if (width < L) {
            for (int64_t k = 0; k < width; ++k)
                for (int64_t l = 0; l < samples; ++l) to[l * stride + k] = from[k][l];
            return;
        }
        for (int64_t at = 0; at < width; at += L) {
            const int64_t j = at + L <= width ? at : width - L;
            store_tile(to + j, from + j, samples, stride);
        }
    }

    static inline INLINE void store_tile(T* to, const vec* from, int64_t samples,
                                                                 int64_t stride) {
        vec rows[L];
        each<L>([&](auto l) INLINE { rows[l] = from[l]; });
        transpose(rows);
        each<L>([&](auto l) INLINE {
            if (l < samples) *reinterpret_cast<vec*>(to + l * stride) = rows[l];
        });
    }

    // to = from + scale matrix x, the matrix packed and the same for all samples; `from` may be `to`.
    void multiply(vec* to, const vec* from, T scale, const T* matrix, const vec* x) const {
        in_blocks<sums>(H, [&](auto count, int64_t j) {
            constexpr int rows = decltype(count)::value;
            vec sum[rows] = {};
            const T* w = matrix + j * H;
            for (int64_t i = 0; i < H; ++i, w += rows) each<rows>([&](auto k) INLINE { sum[k] += w[k] * x[i]; });
            each<rows>([&](auto k) INLINE { to[j + k] = from[j + k] + scale * sum[k]; });
        });
    }

    // to[i] = rows[i] . x for n rows of H, `stride` apart.
    void dots(vec* to, int64_t n, const vec* rows, int64_t stride, const vec* x) const {
        in_blocks<8>(n, [&](auto count, int64_t i) {
            constexpr int block = decltype(count)::value, parts = block < 2 ? 4 : block < 4 ? 2 : 1;
            vec sum[block][parts] = {};
            const vec* row = rows + i * stride;
            int64_t j = 0;
            for (; j + parts <= H; j += parts)
                each<parts>([&](auto part) INLINE {
                    const vec value = x[j + part];
                    each<block>([&](auto k) INLINE { sum[k][part] += row[k * stride + j + part] * value; });
                });
            if constexpr (parts > 1)
                for (; j < H; ++j) each<block>([&](auto k) INLINE { sum[k][0] += row[k * stride + j] * x[j]; });
            each<block>([&](auto k) INLINE {
                vec total = sum[k][0];
                each<parts - 1>([&](auto part) INLINE { total += sum[k][part + 1]; });
                to[i + k] = total;
            });
        });
    }

    // to = from + the sum of n rows of H, `stride` apart, each times its coefficient; `from` may be `to`, or absent.
    void combine(vec* to, const vec* from, int64_t n, const vec* coefficients, int64_t step, const vec* rows,
                 int64_t stride) const {
        in_blocks<sums>(H, [&](auto count, int64_t j) {
            constexpr int block = decltype(count)::value;
            vec sum[block] = {};
            if (from) each<block>([&](auto k) INLINE { sum[k] = from[j + k]; });
            const vec *row = rows + j, *coefficient = coefficients;
            for (int64_t i = 0; i < n; ++i, row += stride, coefficient += step) {
                const vec value = *coefficient;
                each<block>([&](auto k) INLINE { sum[k] += value * row[k]; });
            }
            each<block>([&](auto k) INLINE { to[j + k] = sum[k]; });
        });
    }

    void add(vec* to, const vec* from, T scale = 1) const {
        for (int64_t j = 0; j < H; ++j) to[j] += scale * from[j];
    }

    // to = the sum over n of x y^T, rows of H each.
    void outer(vec* to, int64_t n, const vec* x, const vec* y) const {
        in_blocks<tile>(H, [&](auto rows_, int64_t j) {
            constexpr int rows = decltype(rows_)::value;
            in_blocks<tile>(H, [&](auto columns_, int64_t i) {
                constexpr int columns = decltype(columns_)::value;
                vec sum[rows][columns] = {};
                const vec *a = x + j, *b = y + i;
                for (int64_t r = 0; r < n; ++r, a += H, b += H)
                    each<rows>([&](auto k) INLINE {
                        each<columns>([&](auto c) INLINE { sum[k][c] += a[k] * b[c]; });
                    });
                each<rows>([&](auto k) INLINE {
                    each<columns>([&](auto c) INLINE { to[(j + k) * H + i + c] = sum[k][c]; });
                });
            });
        });
    }

    // ---- one block of samples ----

    struct Block {
        int64_t first, samples;
        vec lengths;
    };

    Block block_at(int64_t block) const {
        Block b;
        b.first = block * L;
        b.samples = B - b.first < L ? B - b.first : L;
        b.lengths = vec{};
        if (p.lengths)
            for (int64_t l = 0; l < b.samples; ++l) b.lengths[l] = static_cast<T>(p.lengths[b.first + l]);
        return b;
    }

    vec* query(const Activations& a, int64_t t, int64_t s) const { return a.queries + (t * S + s) * H; }
    vec* result(const Activations& a, int64_t t, int64_t s) const {
        return s == S - 1 ? a.hs + (t + 1) * H : query(a, t, s + 1);
    }
    const vec* memories(const Activations& a) const { return early ? a.queries : a.hs + H; }
    int64_t memory_stride() const { return early ? S * H : H; }
    int64_t writes(int64_t t) const { return early ? t + 1 : t; }

    // Zero where a sequence has ended: what stands there must not matter or overflow.
    void hold(vec* h, int64_t t, const Block& block) const {
        if (!p.lengths) return;
        const vec now = all(static_cast<T>(t));
        for (int64_t j = 0; j < H; ++j) h[j] = now < block.lengths ? h[j] : vec{};
    }

    const T* given(const void* tensor) const { return static_cast<const T*>(tensor); }

    // body(part, j) for all units; sums of several parts do not wait for each other.
    static constexpr int parts = 4;
    template <typename Body>
    inline INLINE void in_parts(const Body& body) const {
        int64_t j = 0;
        for (; j + parts <= H; j += parts) each<parts>([&](auto part) INLINE { body(part, j + part); });
        for (; j < H; ++j) body(Count<0>(), j);
    }
    static vec total(const vec* sums) { return (sums[0] + sums[1]) + (sums[2] + sums[3]); }

    void normalise(vec* to, const vec* bracket, vec* kept, vec* deviation) const {
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
        for (int64_t j = 0; j < H; ++j) {
            vec value = kept[j] = (bracket[j] - centre) * scale;
            if (gain) value *= gain[j];
            if (shift) value += shift[j];
            to[j] = relu(value);
        }
    }

    // In place, for what `gradient` was before relu; adds to the gradients of gain and shift.
    void normalise_backward(vec* g, const vec* normed, vec deviation, vec* d_gain, vec* d_shift) const {
        const T* gain = given(p.gain);
        vec sums[parts] = {}, products[parts] = {};
        in_parts([&](auto part, int64_t j) INLINE {
            vec value = g[j];
            const vec product = value * normed[j];
            d_gain[j] += product;
            d_shift[j] += value;
            if (gain) g[j] = value *= gain[j];
            sums[part] += value;
            products[part] += value * normed[j];
        });
        const vec mean = total(sums) / static_cast<T>(H), product = total(products) / static_cast<T>(H);
        for (int64_t j = 0; j < H; ++j) g[j] = (g[j] - mean - normed[j] * product) * deviation;
    }

    struct ForwardScratch {
        vec *z, *bracket, *weights;
        void* unkept;
    };

    ForwardScratch place_forward(Arena& arena) const {
        ForwardScratch f;
        f.z = arena.take<vec>(H);
        f.bracket = arena.take<vec>(H);
        f.weights = arena.take<vec>((T_ > R ? T_ : R) > H ? (T_ > R ? T_ : R) : H);
        Arena size(nullptr);
        place_activations(size);
        f.unkept = arena.take<char>(p.keep ? 0 : size.used);
        return f;
    }

    void forward_block(int64_t index, const Shared& shared, const ForwardScratch& f) const {
        const Block block = block_at(index);
        const Activations a = activations_of(index, f.unkept);
        const int64_t first = block.first, samples = block.samples;
        load(a.hs, given(p.h0) + first * H, samples, H, H);
        for (int64_t k = 0; k < R; ++k) {
            load(a.left + k * H, given(p.left) + (first * R + k) * H, samples, R * H, H);
            load(a.right + k * H, given(p.right) + (first * R + k) * H, samples, R * H, H);
        }
        if (own_matrix()) load(a.matrix, given(p.a0) + first * p.a0_stride, samples, p.a0_stride, H * H);
        for (int64_t t = 0; t < T_; ++t) forward_step(a, t, block, shared, f);
    }

    void forward_step(const Activations& a, int64_t t, const Block& block, const Shared& shared,
                      const ForwardScratch& f) const {
        const T *discounts = given(p.discounts), scale = given(p.retained)[writes(t)];
        const int64_t at = (block.first * T_ + t) * H, count = writes(t);
        load(f.z, given(p.inputs) + at, block.samples, T_ * H, H);
        multiply(f.z, f.z, 1, shared.weight, a.hs + t * H);
        for (int64_t j = 0; j < H; ++j) query(a, t, 0)[j] = relu(f.z[j]);
        hold(query(a, t, 0), t, block);
        for (int64_t s = 0; s < S; ++s) {
            const int64_t read = t * S + s;
            const vec *q = query(a, t, s), *from = f.z;
            if (count) {
                vec* scores = a.scores + read * T_;
                dots(scores, count, memories(a), memory_stride(), q);
                for (int64_t i = 0; i < count; ++i) f.weights[i] = scores[i] * discounts[count - 1 - i];
                combine(f.bracket, from, count, f.weights, 1, memories(a), memory_stride());
                from = f.bracket;
            }
            if (R) {
                vec* scores = a.low_scores + read * R;
                dots(scores, R, a.right, H, q);
                for (int64_t k = 0; k < R; ++k) f.weights[k] = scores[k] * scale;
                combine(f.bracket, from, R, f.weights, 1, a.left, H);
                from = f.bracket;
            }
            if (own_matrix()) {
                dots(f.weights, H, a.matrix, H, q);
                for (int64_t j = 0; j < H; ++j) f.bracket[j] = from[j] + scale * f.weights[j];
                from = f.bracket;
            } else if (shared_matrix()) {
                multiply(f.bracket, from, scale, shared.a0, q);
                from = f.bracket;
            }
            vec* to = result(a, t, s);
            if (p.layer_norm)
                normalise(to, from, a.normed + read * H, a.deviations + read);
            else
                for (int64_t j = 0; j < H; ++j) to[j] = relu(from[j]);
        }
        hold(a.hs + (t + 1) * H, t, block);
        store(static_cast<T*>(p.output) + at, a.hs + (t + 1) * H, block.samples, T_ * H, H);
        if (p.written) store(static_cast<T*>(p.written) + at, memories(a) + t * memory_stride(), block.samples, T_ * H, H);
    }

    struct BackwardScratch {
        vec *d_brackets, *d_memory, *weights, *d_scores, *low_weights, *d_low_scores;
        vec *d_h, *d_z, *d_read, *raw, *d_low, *d_matrix;
        T* previous;
    };

    BackwardScratch place_backward(Arena& arena) const {
        BackwardScratch f;
        f.d_brackets = arena.take<vec>(T_ * S * H);
        f.d_memory = arena.take<vec>(T_ * H);
        f.weights = arena.take<vec>(T_ * S * T_);
        f.d_scores = arena.take<vec>(T_ * S * T_);
        f.low_weights = arena.take<vec>(T_ * S * R);
        f.d_low_scores = arena.take<vec>(T_ * S * R);
        f.d_h = arena.take<vec>(H);
        f.d_z = arena.take<vec>(H);
        f.d_read = arena.take<vec>(H);
        f.raw = arena.take<vec>(T_ > R ? T_ : R);
        f.d_low = arena.take<vec>(H);
        f.d_matrix = arena.take<vec>(p.a0 ? H * H : 0);
        f.previous = arena.take<T>(L * T_ * padded());
        return f;
    }

    // Sums over samples. Groups of blocks have their own, added up in order at the end: the result does not depend on
    // which thread took which group.
    struct Sums {
        T* d_weight;
        vec *d_gain, *d_shift, *d_discounts, *d_retained;
    };
    static constexpr int64_t most_groups = 64;

    int64_t groups() const { return blocks() < most_groups ? blocks() : most_groups; }
    int64_t padded() const { return (H + L - 1) / L * L; }

    Sums place_sums(Arena& arena) const {
        Sums sums;
        sums.d_weight = arena.take<T>(H * padded());
        sums.d_gain = arena.take<vec>(H);
        sums.d_shift = arena.take<vec>(H);
        sums.d_discounts = arena.take<vec>(T_);
        sums.d_retained = arena.take<vec>(T_ + 1);
        return sums;
    }

    void clear(const Sums& sums) const {
        std::memset(sums.d_weight, 0, H * padded() * sizeof(T));
        std::memset(sums.d_gain, 0, H * sizeof(vec));
        std::memset(sums.d_shift, 0, H * sizeof(vec));
        std::memset(sums.d_discounts, 0, T_ * sizeof(vec));
        std::memset(sums.d_retained, 0, (T_ + 1) * sizeof(vec));
    }

    void backward_block(int64_t index, const Shared& shared, const BackwardScratch& f, const Sums& sums) const {
        const Block block = block_at(index);
        const Activations a = activations_of(index, nullptr);
        const int64_t first = block.first, samples = block.samples;
        // Under ba2016 the outputs are what was written, so their gradients are gathered in one place.
        if (const T* outer = given(early ? p.grad_written : p.grad_output))
            for (int64_t t = 0; t < T_; ++t) load(f.d_memory + t * H, outer + (first * T_ + t) * H, samples, T_ * H, H);
        else
            std::memset(f.d_memory, 0, T_ * H * sizeof(vec));
        std::memset(f.d_h, 0, H * sizeof(vec));
        for (int64_t t = T_ - 1; t >= 0; --t) backward_step(a, t, block, shared, f, sums);
        if (p.grad_h0) store(static_cast<T*>(p.grad_h0) + first * H, f.d_h, samples, H, H);
        if (p.grad_weight) weight_gradient(sums.d_weight, block, f.previous);
        for (int64_t k = 0; k < R; ++k) {
            T *left = static_cast<T*>(p.grad_left), *right = static_cast<T*>(p.grad_right);
            if (left) {
                combine(f.d_low, nullptr, T_ * S, f.low_weights + k, R, f.d_brackets, H);
                store(left + (first * R + k) * H, f.d_low, samples, R * H, H);
            }
            if (right) {
                combine(f.d_low, nullptr, T_ * S, f.d_low_scores + k, R, a.queries, H);
                store(right + (first * R + k) * H, f.d_low, samples, R * H, H);
            }
        }
        if (p.grad_a0) {
            for (int64_t t = 0; t < T_; ++t)
                for (int64_t j = 0; j < S * H; ++j) f.d_brackets[t * S * H + j] *= given(p.retained)[writes(t)];
            outer(f.d_matrix, T_ * S, f.d_brackets, a.queries);
            store(static_cast<T*>(p.grad_a0) + first * H * H, f.d_matrix, samples, H * H, H * H);
        }
    }

    // Adds to d_memory(i) what reads from `first` on give back.
    void pull(const Activations& a, int64_t i, int64_t first, const BackwardScratch& f) const {
        const int64_t read = first * S, reads = T_ * S - read;
        vec* to = f.d_memory + i * H;
        combine(to, to, reads, f.weights + read * T_ + i, T_, f.d_brackets + read * H, H);
        combine(to, to, reads, f.d_scores + read * T_ + i, T_, a.queries + read * H, H);
    }

    void backward_step(const Activations& a, int64_t t, const Block& block, const Shared& shared,
                       const BackwardScratch& f, const Sums& sums) const {
        const T *discounts = given(p.discounts), scale = given(p.retained)[writes(t)];
        const int64_t at = (block.first * T_ + t) * H, count = writes(t);
        if (!early) {
            pull(a, t, t + 1, f);
            add(f.d_h, f.d_memory + t * H);
        } else if (const T* outer = given(p.grad_output)) {
            load(f.d_read, outer + at, block.samples, T_ * H, H);
            add(f.d_h, f.d_read);
        }
        hold(f.d_h, t, block);
        for (int64_t s = S - 1; s >= 0; --s) {
            const int64_t read = t * S + s;
            const vec *q = query(a, t, s), *h = result(a, t, s);
            vec *g = f.d_brackets + read * H, *weights = f.weights + read * T_, *d_scores = f.d_scores + read * T_;
            for (int64_t j = 0; j < H; ++j) g[j] = relu_gradient(f.d_h[j], h[j]);
            if (p.layer_norm) normalise_backward(g, a.normed + read * H, a.deviations[read], sums.d_gain, sums.d_shift);
            if (s == S - 1)
                std::memcpy(f.d_z, g, H * sizeof(vec));
            else
                add(f.d_z, g);
            dots(f.raw, count, memories(a), memory_stride(), g);
            for (int64_t i = 0; i < count; ++i) {
                const vec score = a.scores[read * T_ + i];
                const T discount = discounts[count - 1 - i];
                weights[i] = score * discount;
                d_scores[i] = f.raw[i] * discount;
                if (p.grad_discounts) sums.d_discounts[count - 1 - i] += score * f.raw[i];
            }
            combine(f.d_h, nullptr, count, d_scores, 1, memories(a), memory_stride());
            if (R) {
                dots(f.raw, R, a.left, H, g);
                for (int64_t k = 0; k < R; ++k) {
                    const vec score = a.low_scores[read * R + k];
                    f.low_weights[read * R + k] = score * scale;
                    f.d_low_scores[read * R + k] = f.raw[k] * scale;
                    if (p.grad_retained) sums.d_retained[count] += score * f.raw[k];
                }
                combine(f.d_h, f.d_h, R, f.d_low_scores + read * R, 1, a.right, H);
            }
            if (p.a0) {
                if (own_matrix())
                    combine(f.d_read, nullptr, H, g, 1, a.matrix, H);
                else {
                    std::memset(f.d_read, 0, H * sizeof(vec));
                    multiply(f.d_read, f.d_read, 1, shared.a0, g);
                }
                add(f.d_h, f.d_read, scale);
                if (p.grad_retained) {
                    vec product;
                    dots(&product, 1, f.d_read, H, q);
                    sums.d_retained[count] += product;
                }
            }
        }
        if (early) {
            pull(a, t, t, f);
            add(f.d_h, f.d_memory + t * H);
        }
        for (int64_t j = 0; j < H; ++j) f.d_z[j] += relu_gradient(f.d_h[j], query(a, t, 0)[j]);
        store(static_cast<T*>(p.grad_inputs) + at, f.d_z, block.samples, T_ * H, H);
        std::memset(f.d_h, 0, H * sizeof(vec));
        multiply(f.d_h, f.d_h, 1, shared.weight, f.d_z);
    }

    // d_weight += the sum over samples and steps of d_z h(t-1)^T, in the caller's layout; columns are padded.
    void weight_gradient(T* to, const Block& block, T* previous) const {
        const int64_t columns = padded(), rows = block.samples * T_;
        const T* d_z = static_cast<const T*>(p.grad_inputs) + block.first * T_ * H;
        for (int64_t l = 0; l < block.samples; ++l)
            for (int64_t t = 0; t < T_; ++t) {
                const T* h = t ? static_cast<const T*>(p.output) + ((block.first + l) * T_ + t - 1) * H
                               : given(p.h0) + (block.first + l) * H;
                T* row = previous + (l * T_ + t) * columns;
                std::memcpy(row, h, H * sizeof(T));
                for (int64_t i = H; i < columns; ++i) row[i] = 0;
            }
        in_blocks<panel_columns>(columns / L, [&](auto columns_, int64_t i) {
            constexpr int across = decltype(columns_)::value;
            in_blocks<panel_rows>(H, [&](auto rows_, int64_t j) {
                constexpr int down = decltype(rows_)::value;
                vec sum[down][across] = {};
                const T *x = d_z + j, *y = previous + i * L;
                for (int64_t r = 0; r < rows; ++r, x += H, y += columns)
                    each<down>([&](auto k) INLINE {
                        each<across>([&](auto c) INLINE { sum[k][c] += x[k] * reinterpret_cast<const vec*>(y)[c]; });
                    });
                each<down>([&](auto k) INLINE {
                    each<across>([&](auto c) INLINE {
                        *reinterpret_cast<vec*>(to + (j + k) * columns + (i + c) * L) += sum[k][c];
                    });
                });
            });
        });
    }

    void finish(const Sums* sums) const {
        T *weight = static_cast<T*>(p.grad_weight), *gain = static_cast<T*>(p.grad_gain);
        T *shift = static_cast<T*>(p.grad_shift), *discounts = static_cast<T*>(p.grad_discounts);
        T* retained = static_cast<T*>(p.grad_retained);
        for (int64_t j = 0; weight && j < H; ++j)
            for (int64_t i = 0; i < H; ++i) {
                T total = 0;
                for (int64_t g = 0; g < groups(); ++g) total += sums[g].d_weight[j * padded() + i];
                weight[j * H + i] = total;
            }
        const auto total = [&](T* to, int64_t size, vec* Sums::*field) {
            for (int64_t j = 0; to && j < size; ++j) {
                vec all = {};
                for (int64_t g = 0; g < groups(); ++g) all += (sums[g].*field)[j];
                to[j] = sum(all);
            }
        };
        total(gain, H, &Sums::d_gain);
        total(shift, H, &Sums::d_shift);
        total(discounts, T_, &Sums::d_discounts);
        total(retained, T_ + 1, &Sums::d_retained);
    }

    // ---- all blocks ----

    struct Places {
        Shared shared;
        ForwardScratch forward;
        BackwardScratch backward;
        Sums sums[most_groups];
    };

    Places place(Arena& arena, bool backwards) const {
        Places places;
        places.shared = place_shared(arena);
        if (backwards) {
            places.backward = place_backward(arena);
            for (int64_t g = 0; g < groups(); ++g) places.sums[g] = place_sums(arena);
        } else
            places.forward = place_forward(arena);
        return places;
    }

    void forward() const {
        Arena arena(p.scratch);
        const Places places = place(arena, false);
        pack_shared(places.shared, false);
        for (int64_t block = 0; block < blocks(); ++block) forward_block(block, places.shared, places.forward);
    }

    void backward() const {
        Arena arena(p.scratch);
        const Places places = place(arena, true);
        pack_shared(places.shared, true);
        for (int64_t g = 0; g < groups(); ++g) {
            clear(places.sums[g]);
            for (int64_t block = blocks() * g / groups(); block < blocks() * (g + 1) / groups(); ++block)
                backward_block(block, places.shared, places.backward, places.sums[g]);
        }
        finish(places.sums);
    }
};

// Bytes of scratch memory.
template <typename T>
int64_t scratch(const FastWeightsProblem* problem, bool backwards) {
    Arena arena(nullptr);
    Kernel<T>(*problem).place(arena, backwards);
    return arena.used;
}

}  // namespace

#define EXPORT(type, suffix)                                                                                    \
    extern "C" int64_t NAME(fast_weights_scratch_##suffix, VARIANT)(const FastWeightsProblem* p, int64_t backwards) { \
        return scratch<type>(p, backwards);                                                                     \
    }                                                                                                           \
    extern "C" int64_t NAME(fast_weights_saved_##suffix, VARIANT)(const FastWeightsProblem* p) {                \
        return Kernel<type>(*p).saved_size();                                                                   \
    }                                                                                                           \
    extern "C" void NAME(fast_weights_forward_##suffix, VARIANT)(const FastWeightsProblem* p) {                 \
        Kernel<type>(*p).forward();                                                                             \
    }                                                                                                           \
    extern "C" void NAME(fast_weights_backward_##suffix, VARIANT)(const FastWeightsProblem* p) {                \
        Kernel<type>(*p).backward();                                                                            \
    }

EXPORT(float, float32)
EXPORT(double, float64)
