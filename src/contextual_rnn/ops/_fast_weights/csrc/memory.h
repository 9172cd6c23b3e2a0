// The fast-weights recurrence: sizes, what stands where in memory, and a block of samples. See recurrence.h.

#pragma once

#include "problem.h"
#include "registers.h"
#include "threads.h"

namespace {

constexpr int64_t every = 8;  // chunks from one A that is kept to the next
constexpr int64_t most_groups = 64;
constexpr int64_t most_fetched = 64;  // pieces of memory that a step may fetch into the cache
constexpr int64_t panel_steps = 16;  // steps that go into the gradient of W at once: their states stay in cache

template <typename T>
struct Kernel : Registers<T> {
    using Base = Registers<T>;
    using typename Base::vec;
    using Base::H, Base::L, Base::all, Base::sum, Base::relu, Base::relu_gradient, Base::load, Base::store;
    using Base::multiply, Base::dots, Base::combine, Base::combine_two, Base::add, Base::outer, Base::times, Base::pack, Base::parts;
    using Base::in_parts, Base::total, Base::sum_of_outer;
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
        int64_t steps;      // that there is room for, and scores of a read
    };

    Activations place_activations(Arena& arena, int64_t steps) const {
        Activations a;
        a.steps = steps;
        a.hs = arena.take<vec>((keeps_hidden() ? steps + 1 : 3) * H);
        a.queries = arena.take<vec>(steps * S * H);
        a.normed = arena.take<vec>(p.layer_norm ? steps * S * H : 0);
        a.deviations = arena.take<vec>(steps * S);
        a.scores = arena.take<vec>(steps * S * steps);
        a.low_scores = arena.take<vec>(steps * S * R);
        a.left = arena.take<vec>(R * H);
        a.right = arena.take<vec>(R * H);
        a.matrix = nullptr;
        return a;
    }

    // Vectors that a block of so many steps keeps for the backward pass.
    int64_t saved_of_block(int64_t steps) const {
        if (chunked) return ((steps + C - 1) / C + every - 1) / every * H * H;
        Arena size(nullptr);
        place_activations(size, steps);
        return size.used / static_cast<int64_t>(sizeof(vec));
    }

    // Elements of all blocks, were they of all steps, `saved_size` of cpu.py. What short ones leave is never touched.
    int64_t saved_size() const { return (B + lanes - 1) / lanes * saved_of_block(T_) * lanes; }

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
        int64_t size;  // bytes of all, from the first on
    };

    int64_t groups() const { return smaller((blocks() + blocks_of_group - 1) / blocks_of_group, most_groups); }

    Sums place_sums(Arena& arena) const {
        Sums sums;
        const int64_t before = arena.used;
        sums.d_weight = arena.take<T>(H * H);
        sums.d_gain = arena.take<vec>(H);
        sums.d_shift = arena.take<vec>(H);
        sums.d_discounts = arena.take<vec>(C);
        sums.d_retained = arena.take<vec>(C + 1);
        sums.d_projection = arena.take<T>(H * I);
        sums.d_bias = arena.take<vec>(I ? H : 0);
        sums.size = arena.used - before;
        return sums;
    }

    // What a thread works in.
    struct Work {
        vec *z, *bracket, *weights;
        Activations activations;
        vec *own, *matrices[every], *scaled;
        vec *d_brackets, *d_memory, *discounted, *d_scores, *low_discounted, *d_low_scores;
        vec *d_h, *d_z, *d_read, *raw, *d_low, *d_matrix, *symmetric, *features;
        // Of a block, where places say where its are.
        T *inputs, *output, *written, *grad_inputs, *grad_output, *grad_written, *grad_features;
        Fetch::Piece* pieces;
    };

    Work place_work(Arena& arena, bool backwards) const {
        Work w = {};
        w.z = arena.take<vec>(H);
        w.bracket = arena.take<vec>(H);
        w.weights = arena.take<vec>(larger(H, larger(C, R)));
        w.features = arena.take<vec>(I);
        w.pieces = arena.take<Fetch::Piece>(most_fetched);
        const int64_t steps = p.places ? L * T_ : 0;
        w.inputs = arena.take<T>(steps * I);
        w.output = arena.take<T>(steps * H);
        w.written = arena.take<T>(p.written ? steps * H : 0);
        if (chunked || !p.keep) w.activations = place_activations(arena, C);
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
        w.grad_output = arena.take<T>(p.grad_output ? steps * H : 0);
        w.grad_written = arena.take<T>(p.grad_written ? steps * H : 0);
        w.grad_features = arena.take<T>(p.grad_features ? steps * I : 0);
        return w;
    }

    struct Places {
        Shared shared;
        Sums sums[most_groups];
        vec** saved;  // of each block
        uintptr_t work;
        int64_t work_size;
    };

    Places place(Arena& arena, bool backwards) const {
        Places places;
        places.shared = place_shared(arena, backwards);
        const int64_t tasks = backwards ? groups() : blocks();
        for (int64_t g = 0; backwards && g < tasks; ++g) places.sums[g] = place_sums(arena);
        places.saved = arena.take<vec*>(blocks());
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
        int64_t steps;  // of its longest sequence, and 1 at least; those after them are zero in every result
        vec lengths;
        // Of its first sample, as those that follow; inputs are features where there are such.
        const T *inputs, *grad_output, *grad_written;
        T *output, *written, *grad_inputs, *grad_h0, *grad_a0, *grad_left, *grad_right, *grad_features;
    };

    static T* at(void* tensor, int64_t element) { return tensor ? static_cast<T*>(tensor) + element : nullptr; }
    static const T* at(const void* tensor, int64_t element) { return tensor ? given(tensor) + element : nullptr; }

    Block block_at(int64_t block) const {
        Block b;
        b.first = block * L;
        b.samples = smaller(B - b.first, L);
        b.inputs = I ? at(p.features, b.first * T_ * I) : at(p.inputs, b.first * T_ * H);
        b.grad_output = at(p.grad_output, b.first * T_ * H);
        b.grad_written = at(p.grad_written, b.first * T_ * H);
        b.output = at(p.output, b.first * T_ * H);
        b.written = at(p.written, b.first * T_ * H);
        b.grad_inputs = at(p.grad_inputs, b.first * T_ * H);
        b.grad_h0 = at(p.grad_h0, b.first * H);
        b.grad_a0 = at(p.grad_a0, b.first * H * H);
        b.grad_left = at(p.grad_left, b.first * p.rank * H);
        b.grad_right = at(p.grad_right, b.first * p.rank * H);
        b.grad_features = at(p.grad_features, b.first * T_ * I);
        b.lengths = vec{};
        b.steps = p.lengths ? 1 : T_;
        for (int64_t l = 0; p.lengths && l < b.samples; ++l) {
            b.lengths[l] = static_cast<T>(p.lengths[b.first + l]);
            b.steps = larger(b.steps, smaller(T_, p.lengths[b.first + l]));
        }
        return b;
    }
    int64_t chunks_of(const Block& block) const { return (block.steps + C - 1) / C; }

    // Zero after the steps of a block, in a tensor that begins with the block's first sample.
    void clear_rest(T* to, int64_t size, const Block& block) const {
        for (int64_t l = 0; to && l < block.samples; ++l)
            std::memset(to + (l * T_ + block.steps) * size, 0, (T_ - block.steps) * size * sizeof(T));
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

    // Step t of the block in a tensor that begins with the block's first sample.
    void load_step(vec* to, const T* from, const Block& block, int64_t t) const {
        load(to, from + t * H, block.samples, T_ * H, H);
    }
    void store_step(T* to, const vec* from, const Block& block, int64_t t) const {
        store(to + t * H, from, block.samples, T_ * H, H);
    }
    void load_inputs(vec* to, const Block& block, int64_t t, const Shared& shared, const Work& w, Fetch& fetch) const {
        if (I) {
            load(w.features, block.inputs + t * I, block.samples, T_ * I, I);
            for (int64_t j = 0; j < H; ++j) to[j] = p.bias ? all(given(p.bias)[j]) : vec{};
            return multiply(to, to, 1, shared.projection, w.features, H, I, fetch);
        }
        if (!tokens) return load_step(to, block.inputs, block, t);
        const int64_t* token = tokens + block.first * T_ + t;
        const T* rows[L];
        for (int64_t l = 0; l < block.samples; ++l) rows[l] = table + token[l * T_] * H;
        load(to, rows, block.samples, H);
        if (t || !starts) return;
        load_initial(w.bracket, starts, H, H, block);
        add(to, w.bracket);
    }
    // Of a sample's own row in a tensor of initial states, or the one that it names.
    void load_initial(vec* to, const void* from, int64_t stride, int64_t width, const Block& block) const {
        if (!states) return load(to, given(from) + block.first * stride, block.samples, stride, width);
        const int64_t* row = states + block.first;
        const T* rows[L];
        for (int64_t l = 0; l < block.samples; ++l) rows[l] = given(from) + row[l] * stride;
        load(to, rows, block.samples, width);
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

    static inline INLINE vec scaled(vec normed, const T* gain, const T* shift, int64_t j) {
        if (gain) normed *= gain[j];
        return shift ? normed + shift[j] : normed;
    }

    // ---- places.h ----

    void find_saved(const Places& places) const;
    void collect(Block& block, const Work& w, bool backwards) const;
    const T* gather(T* to, const void* from, int64_t size, const Block& block) const;
    void put_back(void* to, const T* from, int64_t size, const Block& block) const;
    void clear_gaps(void* to, int64_t size) const;

    // ---- forward.h ----

    NOINLINE void forward_chunk(const Activations& a, int64_t start, int64_t n, T* output, const Block& block,
                                const Shared& shared, const Work& w) const;
    Fetch needed(const Activations& a, int64_t start, int64_t t, int64_t n, const T* output, const Block& block,
                 const Work& w) const;
    void fetch_rows(Fetch& fetch, const T* from, int64_t size, int64_t t, const Block& block) const;
    void fetch_activations(Fetch& fetch, const Activations& a, int64_t t) const;
    void preliminary(vec* z, vec* q, const vec* h, int64_t t, const Block& block, const Shared& shared, const Work& w,
                     Fetch& fetch) const;
    void normalise(vec* to, const vec* bracket, vec* kept, vec* deviation) const;
    void store_written(const Activations& a, int64_t start, int64_t n, const Block& block) const;
    void forward_block(int64_t index, const Places& places, const Work& w) const;
    NOINLINE void forward_whole(Activations& a, const Block& block, const Shared& shared, const Work& w) const;
    void set_matrix(Activations& a, const Block& block, const Work& w) const;
    void forward_chunks(const Block& block, vec* saved, Activations& a, const Shared& shared, const Work& w) const;
    void write_chunk(vec* to, const vec* from, const vec* written, int64_t stride, const Work& w) const;
    void load_factors(vec* left, vec* right, const Block& block, int64_t k) const;
    void build_a0(vec* to, const Block& block, const Work& w) const;
    void forward() const;

    // ---- backward.h ----

    void normalise_backward(vec* g, const vec* d_result, const vec* normed, vec deviation, vec* d_gain,
                            vec* d_shift) const;
    void backward_block(int64_t index, const Places& places, const Work& w, const Sums& sums) const;
    NOINLINE void backward_whole(const Activations& a, const Block& block, const Shared& shared, const Work& w,
                                 const Sums& sums) const;
    NOINLINE void store_state_gradients(const Block& block, const Work& w) const;
    void load_d_memory(int64_t start, int64_t n, const Block& block, const Work& w) const;
    NOINLINE void backward_chunk(const Activations& a, int64_t start, int64_t n, const Block& block,
                                 const Shared& shared, const Work& w, const Sums& sums) const;
    Fetch needed_back(const Activations& a, int64_t start, int64_t t, const Block& block, const Work& w) const;
    void pull_together(const Activations& a, int64_t first, int64_t end, int64_t n, const Work& w) const;
    void pull(const Activations& a, int64_t i, int64_t first, int64_t end, const Work& w) const;
    void read_backward(const Activations& a, int64_t t, int64_t s, const Shared& shared, const Work& w,
                       const Sums& sums) const;
    static vec dot(const vec* a, const vec* b, int64_t n);
    void low_rank_gradients(const Activations& a, const Block& block, const Work& w) const;
    void store_factor(T* to, const vec* from, const Block& block, int64_t k) const;
    void scale_d_brackets(vec* to, int64_t n, const Work& w) const;
    void backward_chunks(const Block& block, const vec* saved, const Shared& shared, const Work& w,
                         const Sums& sums) const;
    const vec* first_matrix(const vec* saved, int64_t c) const;
    void build_matrices(const vec* saved, int64_t from, int64_t to, const Block& block, const Shared& shared,
                        const Work& w) const;
    void write_chunk_backward(const Activations& a, const Work& w, const Sums& sums) const;
    void weight_gradient(T* to, const Block& block, int64_t start, int64_t n) const;
    void projection_gradient(T* to, const Block& block, int64_t start, int64_t n) const;
    template <typename Matrix> void add_up(void* to, int64_t size, const Matrix& matrix) const;
    template <typename Vector> void add_up_vectors(void* to, int64_t used, int64_t size, const Vector& vector) const;
    void finish(const Sums* sums) const;
    void backward() const;
};

}  // namespace
