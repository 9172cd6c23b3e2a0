// A network with fast weights over tokens, and a readout of its last h: loss and every gradient in one pass.
//
//   V, D, Q, K   tokens, width of their embedding, hidden units of the readout, classes
//
//   inputs = C embedding(token) + b, once a token
//   initial states = given, or G embedding + c, once for each of the first tokens, as then is W h(0)
//   hidden = relu(W1 h(T) + b1), logits = W2 hidden + b2, loss = - the mean over samples of log softmax(logits)[target]
//
// A block goes forward, through the readout and back before the next one begins: what it went through stays in cache.

#pragma once

#include "recurrence.h"

namespace {

inline double logarithm(double x) { return __builtin_log(x); }

template <typename T>
struct Classifier : Kernel<T> {
    using Base = Kernel<T>;
    using typename Base::vec, typename Base::Shared, typename Base::Sums, typename Base::Work, typename Base::Block;
    using typename Base::Activations;
    using Base::H, Base::L, Base::T_, Base::B, Base::p, Base::given, Base::pack, Base::all, Base::relu;
    using Base::relu_gradient, Base::multiply, Base::store, Base::sum_of_outer, Base::groups, Base::threads, Base::blocks;
    using Base::tokens, Base::starts;

    FastWeightsClassification& c;  // the caller's copy, in which what heads make takes its place
    const int64_t V, D, Q, K;

    explicit Classifier(FastWeightsClassification& problem)
        : Base(problem.recurrence), c(problem), V(c.vocabulary), D(c.embedding_size), Q(c.hidden), K(c.classes) {
        Base::tokens = c.tokens;
        Base::states = c.states;
        for (int part = 0; part < 4; ++part)
            if (headed(part)) *initial(part) = this;  // there will be one
        // To clear and add up a group's sums is work too, for gradients of all states as much as of that many samples.
        Base::blocks_of_group = with_heads() ? larger(2, c.initial_states / L) : 2;
    }

    bool headed(int part) const { return c.heads[part].weight; }
    const void** initial(int part) const {
        FastWeightsProblem& r = c.recurrence;
        const void** const parts_[] = {&r.h0, &r.a0, &r.left, &r.right};
        return parts_[part];
    }
    int64_t size_of(int part) const {
        const int64_t sizes[] = {H, H * H, p.rank * H, p.rank * H};
        return sizes[part];
    }

    // A linear layer of the embeddings of the first tokens: what goes into the table, or a part of the initial states.
    // Absent where its size is 0. On the way back its results are their gradients.
    struct Layer {
        const T *weight, *bias;
        T *grad_weight, *grad_bias, *results;
        int64_t rows, size;
    };
    static constexpr int layers = 5, of_table = 0, of_h0 = 1;  // the table's, h(0)'s, then those of A(0)

    // Tasks that add to one sum of the gradient of the embedding, in order on one thread: how many there are does not
    // depend on the number of threads, nor do the sums. The first is the gradient itself.
    struct Share {
        int64_t begin, end, rows;
        T* d_embedding;
    };
    static constexpr int64_t most_shares = 8;

    struct Packed {
        Shared recurrence;
        T *hidden, *back_hidden, *readout, *back_readout;
        T *starts, *d_starts;
        int64_t* states;
        vec *embedding, *room;  // what layers read, and what a thread makes of some of their rows
        Layer layers[Classifier::layers];
        Share shares[most_shares];
        int64_t share_count;
    };

    // Sums over samples, of a group of blocks.
    struct Totals {
        Sums recurrence;
        T *d_hidden_weight, *d_readout_weight, *d_results[layers];  // those of h(0) are of W h(0)
        vec *d_hidden_bias, *d_readout_bias, *loss;
        int64_t size;  // bytes of all, from the first on
    };

    struct Room {
        Work recurrence;
        T *output, *grad_inputs, *left, *right, *d_states[4];
        vec *hidden, *d_hidden, *logits;
    };

    struct Places {
        Packed packed;
        Totals totals[most_groups];
        uintptr_t rooms;
        int64_t room_size;
    };

    Places place(Arena& arena) const {
        Places places;
        const Shared forward = Base::place_shared(arena, false);
        Packed& packed = places.packed;
        packed.recurrence = Base::place_shared(arena, true);
        packed.recurrence.weight = forward.weight;
        packed.recurrence.a0 = forward.a0;
        packed.embedding = arena.take<vec>((V + L - 1) / L * D);
        packed.room = arena.take<vec>(threads(most_shares) * room_size());
        packed.layers[of_table] = {given(c.weight_ih), given(c.bias_ih), static_cast<T*>(c.grad_weight_ih),
                                   static_cast<T*>(c.grad_bias_ih), nullptr, V, H};
        for (int part = 0; part < 4; ++part) {
            const FastWeightsHead& head = c.heads[part];
            packed.layers[of_h0 + part] = {given(head.weight), given(head.bias), static_cast<T*>(head.grad_weight),
                                       static_cast<T*>(head.grad_bias), nullptr, c.initial_states,
                                       headed(part) ? size_of(part) : 0};
        }
        for (Layer& layer : packed.layers) layer.results = arena.take<T>(layer.rows * layer.size);
        packed.starts = arena.take<T>(headed(0) ? c.initial_states * H : 0);
        packed.d_starts = arena.take<T>(headed(0) ? c.initial_states * H : 0);
        place_shares(packed, arena);
        packed.states = arena.take<int64_t>(with_heads() && !c.states ? B : 0);
        packed.hidden = arena.take<T>(Q * H);
        packed.back_hidden = arena.take<T>(Q * H);
        packed.readout = arena.take<T>(K * Q);
        packed.back_readout = arena.take<T>(K * Q);
        for (int64_t g = 0; g < groups(); ++g) {
            Totals& totals = places.totals[g];
            const int64_t before = arena.used;
            totals.recurrence = Base::place_sums(arena);
            totals.d_hidden_weight = arena.take<T>(Q * H);
            totals.d_readout_weight = arena.take<T>(K * Q);
            totals.d_hidden_bias = arena.take<vec>(Q);
            totals.d_readout_bias = arena.take<vec>(K);
            for (int k = 0; k < layers; ++k)
                totals.d_results[k] = arena.take<T>(packed.layers[k].rows * packed.layers[k].size);
            totals.loss = arena.take<vec>(1);
            totals.size = arena.used - before;
        }
        Arena size(nullptr);
        place_room(size);
        places.room_size = (size.used + 63) / 64 * 64;
        places.rooms = reinterpret_cast<uintptr_t>(arena.take<char>(threads(groups()) * places.room_size));
        return places;
    }

    bool with_heads() const { return headed(0) || headed(1) || headed(2) || headed(3); }

    Room place_room(Arena& arena) const {
        Room room;
        room.recurrence = Base::place_work(arena, true);
        room.output = arena.take<T>(L * T_ * H);
        room.grad_inputs = arena.take<T>(L * T_ * H);
        room.left = arena.take<T>(L * larger(Q, K));
        room.right = arena.take<T>(L * larger(Q, H));
        for (int part = 1; part < 4; ++part) room.d_states[part] = arena.take<T>(headed(part) ? L * size_of(part) : 0);
        room.hidden = arena.take<vec>(Q);
        room.d_hidden = arena.take<vec>(Q);
        room.logits = arena.take<vec>(K);
        return room;
    }

    // At most so many rows of a layer's weight, one group after the other, so that all results are made of them while
    // they are in cache.
    static constexpr int64_t some_rows = 60;

    static int64_t tasks_of(const Layer& layer) { return (layer.size + some_rows - 1) / some_rows; }

    void place_shares(Packed& packed, Arena& arena) const {
        int64_t tasks = 0;
        for (const Layer& layer : packed.layers) tasks += tasks_of(layer);
        packed.share_count = with_heads() ? smaller(most_shares, tasks) : 1;
        for (int64_t k = 0; k < packed.share_count; ++k) {
            Share& share = packed.shares[k];
            share.begin = tasks * k / packed.share_count;
            share.end = tasks * (k + 1) / packed.share_count;
            share.rows = share.begin < tasks_of(packed.layers[of_table]) ? V : c.initial_states;
            share.d_embedding = k ? arena.take<T>(share.rows * D) : static_cast<T*>(c.grad_embedding);
        }
    }

    // Some rows of the weight of layer number `layer`.
    struct Task {
        int64_t layer, at, n, thread;
        const Share& share;
        bool begins;  // the share
    };

    template <typename Body>
    void for_some_rows(const Packed& packed, const Body& body) const {
        parallel(packed.share_count, threads(packed.share_count), [&](int64_t k, int64_t thread) {
            const Share& share = packed.shares[k];
            for (int64_t task = share.begin; task < share.end; ++task) {
                int64_t own = task, layer = 0;
                for (; own >= tasks_of(packed.layers[layer]); ++layer) own -= tasks_of(packed.layers[layer]);
                const int64_t size = packed.layers[layer].size, all = tasks_of(packed.layers[layer]), at = size * own / all;
                body(Task{layer, at, size * (own + 1) / all - at, thread, share, task == share.begin});
            }
        });
    }

    // Vectors that a thread works in.
    int64_t room_size() const { return larger(some_rows, 2 * H); }

    vec* room_of(const Packed& packed, int64_t thread) const { return packed.room + thread * room_size(); }

    // ---- classification_layers.h ----

    void make_table_and_states(const Packed& packed);
    void times_states(T* to, const T* matrix, const T* from, const Packed& packed) const;
    static void product(T* to, bool adds, int64_t height, int64_t width, int64_t n, const T* x, int64_t stride,
                        const T* y);
    void differentiate_layers(const Totals* totals, const Packed& packed) const;
    void differentiate_rows(const Task& task, const Totals* totals, const Packed& packed) const;

    void pack_all(const Packed& packed) const {
        Base::pack_shared(packed.recurrence);
        pack(packed.hidden, given(c.hidden_weight), false, Q, H);
        pack(packed.back_hidden, given(c.hidden_weight), true, H, Q);
        pack(packed.readout, given(c.readout_weight), false, K, Q);
        pack(packed.back_readout, given(c.readout_weight), true, Q, K);
    }

    void run_block(int64_t index, const Packed& packed, const Room& room, const Totals& totals) const {
        const Work& w = room.recurrence;
        Block block = Base::block_at(index);
        block.output = room.output;
        block.grad_inputs = room.grad_inputs;
        T** const grads[] = {&block.grad_h0, &block.grad_a0, &block.grad_left, &block.grad_right};
        for (int part = 1; part < 4; ++part)
            if (headed(part)) *grads[part] = room.d_states[part];
        Activations a = w.activations;
        Base::forward_whole(a, block, packed.recurrence, w);
        readout(w.d_h, Base::hidden(a, T_), block, packed, room, totals);
        Base::backward_whole(a, block, packed.recurrence, w, totals.recurrence);
        Base::store_state_gradients(block, w);
        const int64_t* token = tokens + block.first * T_;
        const T* from = room.grad_inputs;
        for (int64_t i = 0; i < block.samples * T_; ++i, from += H) {
            T* to = totals.d_results[of_table] + token[i] * H;
            for (int64_t j = 0; j < H; ++j) to[j] += from[j];
        }
        for (int part = 0; part < 4; ++part)
            for (int64_t l = 0, size = size_of(part); headed(part) && l < block.samples; ++l) {
                const T* from = part ? room.d_states[part] + l * size : room.grad_inputs + l * T_ * H;
                T* to = totals.d_results[of_h0 + part] + Base::states[block.first + l] * size;
                for (int64_t j = 0; j < size; ++j) to[j] += from[j];
            }
    }

    // Adds to loss and gradients of the readout; d_h is the gradient of h.
    void readout(vec* d_h, const vec* h, const Block& block, const Packed& packed, const Room& room,
                 const Totals& totals) const {
        vec *hidden = room.hidden, *d_hidden = room.d_hidden, *logits = room.logits;
        for (int64_t q = 0; q < Q; ++q) hidden[q] = all(given(c.hidden_bias)[q]);
        multiply(hidden, hidden, 1, packed.hidden, h, Q, H);
        for (int64_t q = 0; q < Q; ++q) hidden[q] = relu(hidden[q]);
        for (int64_t k = 0; k < K; ++k) logits[k] = all(given(c.readout_bias)[k]);
        multiply(logits, logits, 1, packed.readout, hidden, K, Q);
        cross_entropy(logits, block, totals);
        for (int64_t k = 0; k < K; ++k) totals.d_readout_bias[k] += logits[k];
        weight_gradient(totals.d_readout_weight, logits, K, hidden, Q, block, room);

        multiply(d_hidden, nullptr, 1, packed.back_readout, logits, Q, K);
        for (int64_t q = 0; q < Q; ++q) {
            d_hidden[q] = relu_gradient(d_hidden[q], hidden[q]);
            totals.d_hidden_bias[q] += d_hidden[q];
        }
        weight_gradient(totals.d_hidden_weight, d_hidden, Q, h, H, block, room);
        multiply(d_h, nullptr, 1, packed.back_hidden, d_hidden, H, Q);
    }

    // Turns logits into their gradients.
    void cross_entropy(vec* logits, const Block& block, const Totals& totals) const {
        vec highest = logits[0], total = {}, chosen = {};
        for (int64_t k = 1; k < K; ++k) highest = logits[k] > highest ? logits[k] : highest;
        for (int64_t k = 0; k < K; ++k) logits[k] -= highest;
        for (int64_t l = 0; l < block.samples; ++l) chosen[l] = logits[c.targets[block.first + l]][l];
        for (int64_t k = 0; k < K; ++k) logits[k] = Base::exponential(logits[k]);
        for (int64_t k = 0; k < K; ++k) total += logits[k];
        vec share = {};
        for (int64_t l = 0; l < block.samples; ++l) {
            share[l] = 1 / (total[l] * static_cast<T>(B));
            (*totals.loss)[l] += (static_cast<T>(logarithm(total[l])) - chosen[l]) / static_cast<T>(B);
        }
        for (int64_t k = 0; k < K; ++k) logits[k] *= share;
        for (int64_t l = 0; l < block.samples; ++l) logits[c.targets[block.first + l]][l] -= 1 / static_cast<T>(B);
    }

    // to += the sum over samples of x y^T.
    void weight_gradient(T* to, const vec* x, int64_t height, const vec* y, int64_t width, const Block& block,
                         const Room& room) const {
        store(room.left, x, block.samples, height, height);
        store(room.right, y, block.samples, width, width);
        product(to, true, height, width, block.samples, room.left, height, room.right);
    }

    void finish(const Totals* totals, const Packed& packed) const {
        Sums sums[most_groups];
        for (int64_t g = 0; g < groups(); ++g) sums[g] = totals[g].recurrence;
        Base::finish(sums);
        const auto matrices = [&](void* to, int64_t size, T* Totals::*field) {
            Base::add_up(to, size, [&](int64_t g) INLINE { return totals[g].*field; });
        };
        differentiate_layers(totals, packed);
        matrices(c.grad_hidden_weight, Q * H, &Totals::d_hidden_weight);
        matrices(c.grad_readout_weight, K * Q, &Totals::d_readout_weight);
        const auto vectors = [&](void* to, int64_t size, vec* Totals::*field) {
            Base::add_up_vectors(to, size, size, [&](int64_t g) INLINE { return totals[g].*field; });
        };
        vectors(c.grad_hidden_bias, Q, &Totals::d_hidden_bias);
        vectors(c.grad_readout_bias, K, &Totals::d_readout_bias);
        vectors(c.loss, 1, &Totals::loss);
    }

    // What is out of range, if anything: 1 a token, 2 a target, 3 an initial state.
    int64_t check() const {
        const auto within = [](const int64_t* from, int64_t n, int64_t end) {
            bool good = true;
            for (int64_t i = 0; i < n; ++i) good &= from[i] >= 0 && from[i] < end;
            return good;
        };
        if (!within(c.tokens, B * T_, V)) return 1;
        if (!within(c.targets, B, K)) return 2;
        return Base::states && !within(Base::states, B, c.initial_states) ? 3 : 0;
    }

    int64_t run() {
        Arena arena(p.scratch);
        const Places places = place(arena);
        if (with_heads() && !c.states) {
            for (int64_t i = 0; i < B; ++i) places.packed.states[i] = tokens[i * T_];
            Base::states = places.packed.states;
        }
        if (const int64_t wrong = check()) return wrong;
        pack_all(places.packed);
        make_table_and_states(places.packed);
        parallel(groups(), threads(groups()), [&](int64_t group, int64_t thread) {
            const Totals& totals = places.totals[group];
            std::memset(totals.recurrence.d_weight, 0, totals.size);
            Arena arena(reinterpret_cast<void*>(places.rooms + thread * places.room_size));
            const Room room = place_room(arena);
            for (int64_t block = blocks() * group / groups(); block < blocks() * (group + 1) / groups(); ++block)
                run_block(block, places.packed, room, totals);
        });
        finish(places.totals, places.packed);
        return 0;
    }
};

}  // namespace

#include "classification_layers.h"
