// The fast-weights recurrence in attention form, forward and backward, for one instruction set.
//
//   B, T, H, S, R   samples, steps, units, inner steps (reads a step), rank of a low-rank A(0)
//   I               units of the features that are projected here to the inputs; 0 where the inputs are given
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
//
// A sequence of one chunk keeps what it computed for the way back, and reads A(0) in the form in which it came. One of
// several keeps A at the start of every eighth chunk alone: on the way back those of the chunks between are built
// again, each chunk is run again, and the gradient of A is carried from chunk to chunk as A was.

#pragma once

#include "registers.h"

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
    // Of these any but grad_inputs may be absent.
    void *grad_inputs, *grad_weight, *grad_h0, *grad_a0, *grad_left, *grad_right, *grad_gain, *grad_shift;
    void *grad_discounts, *grad_retained;
    // Where input_size is not 0, inputs(t) = projection features(t) + bias, and neither inputs nor their gradient are
    // the caller's. bias may be absent.
    int64_t input_size;
    const void *features, *projection, *bias;
    void *grad_features, *grad_projection, *grad_bias;
};

// Of threads.cpp: run(context, task, thread) for every task, on at most so many threads.
extern "C" void fast_weights_parallel(int64_t tasks, int64_t threads, void (*run)(const void*, int64_t, int64_t),
                                      const void* context);

namespace {

constexpr int64_t every = 8;  // chunks from one A that is kept to the next
constexpr int64_t most_groups = 64;
constexpr int64_t panel_steps = 16;  // steps that go into the gradient of W at once: their states stay in cache

template <typename T>
struct Kernel : Registers<T> {
    using Base = Registers<T>;
    using typename Base::vec;
    using Base::H, Base::L, Base::all, Base::sum, Base::relu, Base::relu_gradient, Base::load, Base::store;
    using Base::multiply, Base::dots, Base::combine, Base::combine_two, Base::add, Base::outer, Base::times, Base::pack, Base::parts;
    using Base::in_parts, Base::total, Base::load_rows, Base::sum_of_outer;
    static constexpr int64_t lanes = 64 / sizeof(T);  // what is saved has room for the blocks of any instruction set

    const FastWeightsProblem& p;
    // Where they are given, the inputs are rows of a table, one a token, and h0 and A(0) are tables of initial states.
    const int64_t *tokens = nullptr, *states = nullptr;
    const T* table = nullptr;
    // Where there are such, rows W h(0), one for each of the initial states, are added to the inputs of the first step:
    // h(0) is in nothing else. Their gradient is that of these inputs, and it is up to the caller.
    const T* starts = nullptr;
    int64_t blocks_of_group = 1;
    const int64_t B, T_, S, I, C, chunks;
    const bool early, chunked;
    const int64_t R;  // 0 where A(0) is part of the carried A

    explicit Kernel(const FastWeightsProblem& problem)
        : Base{problem.width}, p(problem), B(p.batch), T_(p.steps), S(p.inner_steps), I(p.input_size),
          C(smaller(p.chunk, p.steps)),
          chunks((T_ + C - 1) / C), early(p.write_before_read), chunked(chunks > 1), R(chunked ? 0 : p.rank) {}

    int64_t blocks() const { return (B + L - 1) / L; }
    int64_t threads(int64_t tasks) const { return larger(1, smaller(p.threads, tasks)); }

    // The A(0) of a single chunk: of every sample's own, turned into the block's layout, or one, read like W.
    bool own_matrix() const { return !chunked && p.a0 && p.a0_stride; }
    bool shared_matrix() const { return !chunked && p.a0 && !p.a0_stride; }
    bool starts_with_matrix() const { return p.a0 || p.rank; }

    static const T* given(const void* tensor) { return static_cast<const T*>(tensor); }

    // ---- memory ----

    // What a block of samples went through in a chunk.
    struct Activations {
        vec *hs, *queries, *normed, *deviations, *scores, *low_scores, *left, *right;
        const vec* matrix;  // A at the start of the chunk, unless zero, shared or of low rank
    };

    Activations place_activations(Arena& arena) const {
        Activations a;
        a.hs = arena.take<vec>((keeps_hidden() ? C + 1 : 3) * H);
        a.queries = arena.take<vec>(C * S * H);
        a.normed = arena.take<vec>(p.layer_norm ? C * S * H : 0);
        a.deviations = arena.take<vec>(C * S);
        a.scores = arena.take<vec>(C * S * C);
        a.low_scores = arena.take<vec>(C * S * R);
        a.left = arena.take<vec>(R * H);
        a.right = arena.take<vec>(R * H);
        a.matrix = nullptr;
        return a;
    }

    // Vectors that a block keeps for the backward pass.
    int64_t saved_of_block() const {
        if (chunked) return (chunks + every - 1) / every * H * H;
        Arena size(nullptr);
        place_activations(size);
        return size.used / static_cast<int64_t>(sizeof(vec));
    }

    // Elements of all blocks, `saved_size` of cpu.py. Smaller registers leave a gap at the end.
    int64_t saved_size() const { return (B + lanes - 1) / lanes * saved_of_block() * lanes; }

    vec* saved_at(int64_t block) const { return static_cast<vec*>(p.saved) + block * saved_of_block(); }

    // The caller's matrices, packed, the same for all threads.
    struct Shared {
        T *weight, *back_weight, *a0, *back_a0, *projection, *back_projection;
    };

    Shared place_shared(Arena& arena, bool backwards) const {
        Shared shared = {};
        if (!backwards || chunked) shared.weight = arena.take<T>(H * H);
        if (backwards) shared.back_weight = arena.take<T>(H * H);
        if (shared_matrix()) (backwards ? shared.back_a0 : shared.a0) = arena.take<T>(H * H);
        if (I && (!backwards || chunked)) shared.projection = arena.take<T>(H * I);
        if (p.grad_features && backwards) shared.back_projection = arena.take<T>(H * I);
        return shared;
    }

    void pack_shared(const Shared& shared) const {
        if (shared.weight) pack(shared.weight, given(p.weight), false);
        if (shared.back_weight) pack(shared.back_weight, given(p.weight), true);
        if (shared.a0) pack(shared.a0, given(p.a0), false);
        if (shared.back_a0) pack(shared.back_a0, given(p.a0), true);
        if (shared.projection) pack(shared.projection, given(p.projection), false, H, I);
        if (shared.back_projection) pack(shared.back_projection, given(p.projection), true, I, H);
    }

    // Sums over samples. Groups of blocks have their own, added up in order at the end: the result does not depend on
    // which thread took which group.
    struct Sums {
        T* d_weight;
        vec *d_gain, *d_shift, *d_discounts, *d_retained;
        T* d_projection;
        vec* d_bias;
    };

    int64_t groups() const { return smaller((blocks() + blocks_of_group - 1) / blocks_of_group, most_groups); }

    Sums place_sums(Arena& arena) const {
        Sums sums;
        sums.d_weight = arena.take<T>(H * H);
        sums.d_gain = arena.take<vec>(H);
        sums.d_shift = arena.take<vec>(H);
        sums.d_discounts = arena.take<vec>(C);
        sums.d_retained = arena.take<vec>(C + 1);
        sums.d_projection = arena.take<T>(H * I);
        sums.d_bias = arena.take<vec>(I ? H : 0);
        return sums;
    }

    void clear(const Sums& sums) const {
        std::memset(sums.d_weight, 0, H * H * sizeof(T));
        std::memset(sums.d_gain, 0, H * sizeof(vec));
        std::memset(sums.d_shift, 0, H * sizeof(vec));
        std::memset(sums.d_discounts, 0, C * sizeof(vec));
        std::memset(sums.d_retained, 0, (C + 1) * sizeof(vec));
        if (!I) return;
        std::memset(sums.d_projection, 0, H * I * sizeof(T));
        std::memset(sums.d_bias, 0, H * sizeof(vec));
    }

    // What a thread works in.
    struct Work {
        vec *z, *bracket, *weights;
        Activations activations;
        vec *own, *matrices[every], *scaled;
        vec *d_brackets, *d_memory, *discounted, *d_scores, *low_discounted, *d_low_scores;
        vec *d_h, *d_z, *d_read, *raw, *d_low, *d_matrix, *symmetric, *features;
        T* grad_inputs;
    };

    Work place_work(Arena& arena, bool backwards) const {
        Work w = {};
        w.z = arena.take<vec>(H);
        w.bracket = arena.take<vec>(H);
        w.weights = arena.take<vec>(larger(H, larger(C, R)));
        w.features = arena.take<vec>(I);
        if (chunked || !p.keep) w.activations = place_activations(arena);
        w.own = arena.take<vec>(own_matrix() ? H * H : 0);
        if (chunked) {
            for (int64_t k = 0; k < (backwards ? smaller(every, chunks) : 2); ++k) w.matrices[k] = arena.take<vec>(H * H);
            w.scaled = arena.take<vec>(C * S * H);
        }
        if (!backwards) return w;
        w.d_brackets = arena.take<vec>(C * S * H);
        w.d_memory = arena.take<vec>(C * H);
        w.discounted = arena.take<vec>(C * S * C);
        w.d_scores = arena.take<vec>(C * S * C);
        w.low_discounted = arena.take<vec>(C * S * R);
        w.d_low_scores = arena.take<vec>(C * S * R);
        w.d_h = arena.take<vec>(H);
        w.d_z = arena.take<vec>(H);
        w.d_read = arena.take<vec>(H);
        w.raw = arena.take<vec>(larger(C, R));
        w.d_low = arena.take<vec>(larger(1, R) * H);
        w.d_matrix = arena.take<vec>(chunked || p.a0 ? H * H : 0);
        w.symmetric = arena.take<vec>(chunked ? H * H : 0);
        w.grad_inputs = arena.take<T>(I ? L * T_ * H : 0);
        return w;
    }

    struct Places {
        Shared shared;
        Sums sums[most_groups];
        uintptr_t work;
        int64_t work_size;
    };

    Places place(Arena& arena, bool backwards) const {
        Places places;
        places.shared = place_shared(arena, backwards);
        const int64_t tasks = backwards ? groups() : blocks();
        for (int64_t g = 0; backwards && g < tasks; ++g) places.sums[g] = place_sums(arena);
        Arena size(nullptr);
        place_work(size, backwards);
        places.work_size = (size.used + 63) / 64 * 64;
        places.work = reinterpret_cast<uintptr_t>(arena.take<char>(threads(tasks) * places.work_size));
        return places;
    }

    Work work_of(const Places& places, int64_t thread, bool backwards) const {
        Arena arena(reinterpret_cast<void*>(places.work + thread * places.work_size));
        return place_work(arena, backwards);
    }

    // ---- a block of samples ----

    struct Block {
        int64_t first, samples;
        vec lengths;
        T *output, *grad_inputs, *grad_h0, *grad_a0, *grad_left, *grad_right, *grad_features;  // of its first sample
    };

    static T* at(void* tensor, int64_t element) { return tensor ? static_cast<T*>(tensor) + element : nullptr; }

    Block block_at(int64_t block) const {
        Block b;
        b.first = block * L;
        b.samples = smaller(B - b.first, L);
        b.output = at(p.output, b.first * T_ * H);
        b.grad_inputs = at(p.grad_inputs, b.first * T_ * H);
        b.grad_h0 = at(p.grad_h0, b.first * H);
        b.grad_a0 = at(p.grad_a0, b.first * H * H);
        b.grad_left = at(p.grad_left, b.first * p.rank * H);
        b.grad_right = at(p.grad_right, b.first * p.rank * H);
        b.grad_features = at(p.grad_features, b.first * T_ * I);
        b.lengths = vec{};
        if (p.lengths)
            for (int64_t l = 0; l < b.samples; ++l) b.lengths[l] = static_cast<T>(p.lengths[b.first + l]);
        return b;
    }

    // Whether all h(t) of a chunk are kept. Those that were not written into A are not needed again but for their signs,
    // which layer norm tells; what is written less often stays in the nearest cache.
    bool keeps_hidden() const { return !early || !p.layer_norm; }
    vec* hidden(const Activations& a, int64_t t) const { return a.hs + (keeps_hidden() || !t ? t : 2 - t % 2) * H; }
    vec* query(const Activations& a, int64_t t, int64_t s) const { return a.queries + (t * S + s) * H; }
    vec* result(const Activations& a, int64_t t, int64_t s) const {
        return s == S - 1 ? hidden(a, t + 1) : query(a, t, s + 1);
    }
    const vec* memories(const Activations& a) const { return early ? a.queries : a.hs + H; }
    int64_t memory_stride() const { return early ? S * H : H; }
    int64_t writes(int64_t t) const { return early ? t + 1 : t; }

    // Step t of the block in a caller's tensor, which begins with the block's first sample or the batch's.
    void load_step(vec* to, const T* from, const Block& block, int64_t t) const {
        load(to, from + t * H, block.samples, T_ * H, H);
    }
    void load_step(vec* to, const void* from, const Block& block, int64_t t) const {
        load_step(to, given(from) + block.first * T_ * H, block, t);
    }
    void store_step(T* to, const vec* from, const Block& block, int64_t t) const {
        store(to + t * H, from, block.samples, T_ * H, H);
    }
    void load_inputs(vec* to, const Block& block, int64_t t, const Shared& shared, const Work& w) const {
        if (I) {
            load(w.features, given(p.features) + (block.first * T_ + t) * I, block.samples, T_ * I, I);
            for (int64_t j = 0; j < H; ++j) to[j] = p.bias ? all(given(p.bias)[j]) : vec{};
            return multiply(to, to, 1, shared.projection, w.features, H, I);
        }
        if (!tokens) return load_step(to, p.inputs, block, t);
        const int64_t* token = tokens + block.first * T_ + t;
        load_rows(to, [&](int64_t l) INLINE { return table + token[l * T_] * H; }, block.samples, H);
        if (t || !starts) return;
        load_initial(w.bracket, starts, H, H, block);
        add(to, w.bracket);
    }
    // Of a sample's own row in a tensor of initial states, or the one that it names.
    void load_initial(vec* to, const void* from, int64_t stride, int64_t width, const Block& block) const {
        if (!states) return load(to, given(from) + block.first * stride, block.samples, stride, width);
        const int64_t* row = states + block.first;
        load_rows(to, [&](int64_t l) INLINE { return given(from) + row[l] * stride; }, block.samples, width);
    }
    // h before step t, from what the caller was given.
    void load_previous(vec* to, const Block& block, int64_t t) const {
        if (t)
            load_step(to, block.output, block, t - 1);
        else if (starts)
            std::memset(to, 0, H * sizeof(vec));
        else
            load_initial(to, p.h0, H, H, block);
    }

    // Whether h(0) is zero and step `start` the first, so that W h(0) is not worked out, nor its gradients.
    bool from_zero(const Activations& a, int64_t start) const {
        vec other = {};
        for (int64_t j = 0; !start && j < H; ++j) other = a.hs[j] != 0 ? all(1) : other;
        return !start && sum(other) == 0;
    }

    // Zero where a sequence has ended: what stands there must not matter or overflow.
    void hold(vec* h, int64_t t, const Block& block) const {
        if (!p.lengths) return;
        const vec now = all(static_cast<T>(t));
        for (int64_t j = 0; j < H; ++j) h[j] = now < block.lengths ? h[j] : vec{};
    }

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
        for (int64_t j = 0; j < H; ++j) to[j] = relu(scaled(kept[j] = (bracket[j] - centre) * scale, gain, shift, j));
    }

    static inline INLINE vec scaled(vec normed, const T* gain, const T* shift, int64_t j) {
        if (gain) normed *= gain[j];
        return shift ? normed + shift[j] : normed;
    }

    // ---- forward ----

    // Steps `start` .. `start + n`, whose h before the first is in place; `output` is absent where it was made before.
    void forward_chunk(const Activations& a, int64_t start, int64_t n, T* output, const Block& block,
                       const Shared& shared, const Work& w) const {
        for (int64_t t = 0; t < n; ++t) {
            const T *discounts = given(p.discounts), scale = given(p.retained)[writes(t)];
            const int64_t count = writes(t);
            const vec* h = !t && from_zero(a, start) ? nullptr : hidden(a, t);
            preliminary(w.z, query(a, t, 0), h, start + t, block, shared, w);
            for (int64_t s = 0; s < S; ++s) {
                const int64_t read = t * S + s;
                const vec *q = query(a, t, s), *from = w.z;
                if (count) {
                    vec* scores = a.scores + read * C;
                    dots(scores, count, memories(a), memory_stride(), q);
                    for (int64_t i = 0; i < count; ++i) w.weights[i] = scores[i] * discounts[count - 1 - i];
                    combine(w.bracket, from, count, w.weights, 1, memories(a), memory_stride());
                    from = w.bracket;
                }
                if (R) {
                    vec* scores = a.low_scores + read * R;
                    dots(scores, R, a.right, H, q);
                    for (int64_t k = 0; k < R; ++k) w.weights[k] = scores[k] * scale;
                    combine(w.bracket, from, R, w.weights, 1, a.left, H);
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

    // z and q(t, 0), from h(t-1), absent where it is zero.
    void preliminary(vec* z, vec* q, const vec* h, int64_t t, const Block& block, const Shared& shared,
                     const Work& w) const {
        load_inputs(z, block, t, shared, w);
        if (h) multiply(z, z, 1, shared.weight, h);
        for (int64_t j = 0; j < H; ++j) q[j] = relu(z[j]);
        hold(q, t, block);
    }

    void store_written(const Activations& a, int64_t start, int64_t n, const Block& block) const {
        for (int64_t t = 0; p.written && t < n; ++t)
            store_step(at(p.written, block.first * T_ * H), memories(a) + t * memory_stride(), block, start + t);
    }

    void forward_block(int64_t index, const Shared& shared, const Work& w) const {
        const Block block = block_at(index);
        Activations a = w.activations;
        if (!chunked && p.keep) {
            Arena arena(saved_at(index));
            a = place_activations(arena);
        }
        if (chunked) {
            load_previous(a.hs, block, 0);
            forward_chunks(index, block, a, shared, w);
        } else
            forward_whole(a, block, shared, w);
    }

    // A sequence of one chunk.
    void forward_whole(Activations& a, const Block& block, const Shared& shared, const Work& w) const {
        load_previous(a.hs, block, 0);
        for (int64_t k = 0; k < R; ++k) load_factors(a.left + k * H, a.right + k * H, block, k);
        set_matrix(a, block, w);
        forward_chunk(a, 0, T_, block.output, block, shared, w);
        store_written(a, 0, T_, block);
    }

    void set_matrix(Activations& a, const Block& block, const Work& w) const {
        if (!own_matrix()) return;
        load_a0(w.own, block);
        a.matrix = w.own;
    }

    void forward_chunks(int64_t index, const Block& block, Activations& a, const Shared& shared, const Work& w) const {
        vec *now = w.matrices[0], *next = w.matrices[1];
        if (starts_with_matrix()) build_a0(now, block, w);
        for (int64_t c = 0; c < chunks; ++c) {
            const int64_t start = c * C, n = smaller(C, T_ - start);
            a.matrix = c || starts_with_matrix() ? now : nullptr;
            if (p.keep && c % every == 0 && a.matrix)
                std::memcpy(saved_at(index) + c / every * H * H, now, H * H * sizeof(vec));
            forward_chunk(a, start, n, block.output, block, shared, w);
            store_written(a, start, n, block);
            if (c + 1 == chunks) break;
            write_chunk(next, a.matrix, memories(a), memory_stride(), w);
            std::memcpy(a.hs, hidden(a, C), H * sizeof(vec));
            vec* const last = now;
            now = next;
            next = last;
        }
    }

    // A after a whole chunk, from A at its start and what was written in it.
    void write_chunk(vec* to, const vec* from, const vec* written, int64_t stride, const Work& w) const {
        for (int64_t i = 0; i < C; ++i)
            for (int64_t j = 0; j < H; ++j) w.scaled[i * H + j] = written[i * stride + j] * given(p.discounts)[C - 1 - i];
        outer(to, from, given(p.retained)[C], C, w.scaled, written, stride);
    }

    void load_factors(vec* left, vec* right, const Block& block, int64_t k) const {
        load_initial(left, given(p.left) + k * H, p.rank * H, H, block);
        load_initial(right, given(p.right) + k * H, p.rank * H, H, block);
    }

    void load_a0(vec* to, const Block& block) const {
        load_initial(to, p.a0, p.a0_stride, H * H, block);
    }

    // A(0) in full, whatever its form.
    void build_a0(vec* to, const Block& block, const Work& w) const {
        if (p.a0) load_a0(to, block);
        for (int64_t k = 0; k < p.rank; ++k) {
            load_factors(w.bracket, w.weights, block, k);
            outer(to, k ? to : nullptr, 1, 1, w.bracket, w.weights, H);
        }
    }

    // ---- backward ----

    // g = the gradient of a bracket, from that of relu's result; adds to the gradients of gain and shift.
    void normalise_backward(vec* g, const vec* d_result, const vec* normed, vec deviation, vec* d_gain,
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

    void backward_block(int64_t index, const Shared& shared, const Work& w, const Sums& sums) const {
        Block block = block_at(index);
        if (I) block.grad_inputs = w.grad_inputs;
        std::memset(w.d_h, 0, H * sizeof(vec));
        if (chunked)
            backward_chunks(index, block, shared, w, sums);
        else {
            Arena arena(saved_at(index));
            Activations a = place_activations(arena);
            set_matrix(a, block, w);
            backward_whole(a, block, shared, w, sums);
        }
        store_state_gradients(block, w);
    }

    // A sequence of one chunk; d_h is that of the last h but for its own output.
    void backward_whole(const Activations& a, const Block& block, const Shared& shared, const Work& w,
                        const Sums& sums) const {
        load_d_memory(0, T_, block, w);
        backward_chunk(a, 0, T_, block, shared, w, sums);
        low_rank_gradients(a, block, w);
        if (!block.grad_a0) return;
        scale_d_brackets(w.d_brackets, T_, w);
        outer(w.d_matrix, nullptr, 1, T_ * S, w.d_brackets, a.queries, H);
    }

    void store_state_gradients(const Block& block, const Work& w) const {
        if (block.grad_a0) store(block.grad_a0, w.d_matrix, block.samples, H * H, H * H);
        if (block.grad_h0) store(block.grad_h0, w.d_h, block.samples, H, H);
    }

    // Under ba2016 the outputs are what was written, so their gradients are gathered in one place.
    const void* grad_memory() const { return early ? p.grad_written : p.grad_output; }
    bool has_d_memory() const { return chunked || grad_memory(); }

    void load_d_memory(int64_t start, int64_t n, const Block& block, const Work& w) const {
        const void* from = grad_memory();
        if (!from && chunked) std::memset(w.d_memory, 0, n * H * sizeof(vec));
        for (int64_t t = 0; from && t < n; ++t) load_step(w.d_memory + t * H, from, block, start + t);
    }

    // Back through a chunk; d_h is that of h after it, then of h before it.
    void backward_chunk(const Activations& a, int64_t start, int64_t n, const Block& block, const Shared& shared,
                        const Work& w, const Sums& sums) const {
        for (int64_t t = n - 1; t >= 0; --t) {
            if (!early)
                pull(a, t, t + 1, n, w);
            else if (p.grad_output) {
                load_step(w.d_read, p.grad_output, block, start + t);
                add(w.d_h, w.d_read);
            }
            hold(w.d_h, start + t, block);
            for (int64_t s = S - 1; s >= 0; --s) read_backward(a, t, s, shared, w, sums);
            if (early) pull(a, t, t, n, w);
            for (int64_t j = 0; j < H; ++j) w.d_z[j] += relu_gradient(w.d_h[j], query(a, t, 0)[j]);
            store_step(block.grad_inputs, w.d_z, block, start + t);
            if (I) features_gradient(block, start + t, shared, w, sums);
            if (start + t || block.grad_h0) multiply(w.d_h, nullptr, 1, shared.back_weight, w.d_z);
        }
        for (int64_t t = 0; t < n; t += panel_steps) {
            const int64_t steps = smaller(panel_steps, n - t), skipped = !t && from_zero(a, start);
            if (p.grad_weight) weight_gradient(sums.d_weight, block, start + t + skipped, steps - skipped);
            if (p.grad_projection) projection_gradient(sums.d_projection, block, start + t, steps);
        }
    }

    void features_gradient(const Block& block, int64_t t, const Shared& shared, const Work& w, const Sums& sums) const {
        add(sums.d_bias, w.d_z);
        if (!block.grad_features) return;
        multiply(w.features, nullptr, 1, shared.back_projection, w.d_z, I, H);
        store(block.grad_features + t * I, w.features, block.samples, T_ * I, I);
    }

    // Adds to d_h, which is that of m(i) as well, what came for m(i) and what reads of steps from `first` on give back.
    void pull(const Activations& a, int64_t i, int64_t first, int64_t n, const Work& w) const {
        const int64_t read = first * S, reads = n * S - read;
        combine_two(w.d_h, has_d_memory() ? w.d_memory + i * H : nullptr, reads, w.discounted + read * C + i,
                    w.d_brackets + read * H, w.d_scores + read * C + i, a.queries + read * H, C);
    }

    // d_h is that of the read's result, then of its query.
    void read_backward(const Activations& a, int64_t t, int64_t s, const Shared& shared, const Work& w,
                       const Sums& sums) const {
        const int64_t read = t * S + s, count = writes(t);
        const T *discounts = given(p.discounts), scale = given(p.retained)[count];
        const vec *q = query(a, t, s), *scores = a.scores + read * C;
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
        combine(w.d_h, nullptr, count, d_scores, 1, memories(a), memory_stride());
        if (R) {
            dots(w.raw, R, a.left, H, g);
            for (int64_t k = 0; k < R; ++k) {
                const vec score = a.low_scores[read * R + k];
                w.low_discounted[read * R + k] = score * scale;
                w.d_low_scores[read * R + k] = w.raw[k] * scale;
                if (p.grad_retained) sums.d_retained[count] += score * w.raw[k];
            }
            combine(w.d_h, w.d_h, R, w.d_low_scores + read * R, 1, a.right, H);
        }
        if (a.matrix || shared_matrix()) {
            if (a.matrix)
                combine(w.d_read, nullptr, H, g, 1, a.matrix, H);
            else
                multiply(w.d_read, nullptr, 1, shared.back_a0, g);
            add(w.d_h, w.d_read, scale);
            if (p.grad_retained) sums.d_retained[count] += dot(w.d_read, q, H);
        }
    }

    static vec dot(const vec* a, const vec* b, int64_t n) {
        vec sums[parts] = {};
        int64_t j = 0;
        for (; j + parts <= n; j += parts) each<parts>([&](auto part) INLINE { sums[part] += a[j + part] * b[j + part]; });
        for (; j < n; ++j) sums[0] += a[j] * b[j];
        return total(sums);
    }

    void low_rank_gradients(const Activations& a, const Block& block, const Work& w) const {
        const auto store_sums = [&](T* to, const vec* coefficients, const vec* rows) {
            if (!to || !R) return;
            outer(w.d_low, nullptr, 1, T_ * S, coefficients, R, rows, H);
            for (int64_t k = 0; k < R; ++k) store_factor(to, w.d_low + k * H, block, k);
        };
        store_sums(block.grad_left, w.low_discounted, w.d_brackets);
        store_sums(block.grad_right, w.d_low_scores, a.queries);
    }

    void store_factor(T* to, const vec* from, const Block& block, int64_t k) const {
        store(to + k * H, from, block.samples, p.rank * H, H);
    }

    // The gradient of each bracket times what is left of A at the start of the chunk when it is read.
    void scale_d_brackets(vec* to, int64_t n, const Work& w) const {
        for (int64_t t = 0; t < n; ++t)
            for (int64_t j = 0; j < S * H; ++j)
                to[t * S * H + j] = w.d_brackets[t * S * H + j] * given(p.retained)[writes(t)];
    }

    void backward_chunks(int64_t index, const Block& block, const Shared& shared, const Work& w,
                         const Sums& sums) const {
        bool later = false;  // whether d_matrix holds the gradient of A after the chunk
        for (int64_t c = chunks - 1; c >= 0; --c) {
            const int64_t start = c * C, n = smaller(C, T_ - start), group = c / every * every;
            if (c == chunks - 1 || c == group + every - 1) build_matrices(index, group, c, block, shared, w);
            Activations a = w.activations;
            a.matrix = c == group ? first_matrix(index, c) : w.matrices[c - group];
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
                combine(w.d_low, nullptr, H, w.bracket, 1, w.d_matrix, H);
                store_factor(block.grad_right, w.d_low, block, k);
            }
        }
    }

    // A at the start of the first chunk of a group, as it was kept.
    const vec* first_matrix(int64_t index, int64_t c) const {
        return c || starts_with_matrix() ? saved_at(index) + c / every * H * H : nullptr;
    }

    // A at the start of the chunks after `from`, up to `to`, once more.
    void build_matrices(int64_t index, int64_t from, int64_t to, const Block& block, const Shared& shared,
                        const Work& w) const {
        const vec* before = first_matrix(index, from);
        for (int64_t c = from; c < to; ++c) {
            vec *written = w.activations.queries, *next = w.matrices[c + 1 - from];
            for (int64_t t = 0; t < C; ++t)
                if (early) {
                    load_previous(w.bracket, block, c * C + t);
                    preliminary(w.z, written + t * H, w.bracket, c * C + t, block, shared, w);
                } else
                    load_step(written + t * H, block.output, block, c * C + t);
            write_chunk(next, before, written, H, w);
            before = next;
        }
    }

    // Back through what a whole chunk wrote into A.
    void write_chunk_backward(const Activations& a, const Work& w, const Sums& sums) const {
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
    void weight_gradient(T* to, const Block& block, int64_t start, int64_t n) const {
        typename Base::Rows previous = {block.output + (start - 1) * H, H, T_ * H};
        if (!start) {
            previous.begin = given(p.h0) + (states ? 0 : block.first * H);
            previous.named = states ? states + block.first : nullptr;
        }
        sum_of_outer(to, true, H, H, block.samples, n, {block.grad_inputs + start * H, H, T_ * H}, previous);
    }

    // Likewise d_projection, the sum of d_z features^T.
    void projection_gradient(T* to, const Block& block, int64_t start, int64_t n) const {
        sum_of_outer(to, true, H, I, block.samples, n, {block.grad_inputs + start * H, H, T_ * H},
                     {given(p.features) + (block.first * T_ + start) * I, I, T_ * I});
    }

    // The sum of the matrices of all groups, of `size` elements.
    template <typename Matrix>
    void add_up(void* to, int64_t size, const Matrix& matrix) const {
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
    template <typename Vector>
    void add_up_vectors(void* to, int64_t used, int64_t size, const Vector& vector) const {
        for (int64_t j = 0; to && j < size; ++j) {
            vec total = {};
            for (int64_t g = 0; j < used && g < groups(); ++g) total += vector(g)[j];
            static_cast<T*>(to)[j] = sum(total);
        }
    }

    void finish(const Sums* sums) const {
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

    // ---- all blocks ----

    struct Call {
        const Kernel& kernel;
        const Places& places;
    };

    void forward() const {
        Arena arena(p.scratch);
        const Places places = place(arena, false);
        pack_shared(places.shared);
        const Call call = {*this, places};
        fast_weights_parallel(
            blocks(), threads(blocks()),
            [](const void* context, int64_t block, int64_t thread) {
                const auto& [kernel, places] = *static_cast<const Call*>(context);
                kernel.forward_block(block, places.shared, kernel.work_of(places, thread, false));
            },
            &call);
    }

    void backward() const {
        Arena arena(p.scratch);
        const Places places = place(arena, true);
        pack_shared(places.shared);
        const Call call = {*this, places};
        fast_weights_parallel(
            groups(), threads(groups()),
            [](const void* context, int64_t group, int64_t thread) {
                const auto& [kernel, places] = *static_cast<const Call*>(context);
                const int64_t blocks = kernel.blocks(), groups = kernel.groups();
                kernel.clear(places.sums[group]);
                for (int64_t block = blocks * group / groups; block < blocks * (group + 1) / groups; ++block)
                    kernel.backward_block(block, places.shared, kernel.work_of(places, thread, true), places.sums[group]);
            },
            &call);
        finish(places.sums);
    }
};

}  // namespace
