// The kernels through their C interface against plain loops, without Python and PyTorch: for processors that there is no
// machine of, such as an emulated Arm. See KERNEL_TEST in CMakeLists.txt.
//
// The loops compute in dual numbers, which carry the derivative along one direction. For each tensor in turn a random
// direction is drawn; the derivative of a random loss along it must be the product of the kernel's gradient with it.

#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "_fast_weights/csrc/problem.h"
#include "_gated/csrc/problem.h"

extern "C" const char* contextual_rnn_instruction_set();

#define DECLARE(recurrence, Problem, element, variant)                                            \
    int64_t recurrence##_scratch_##element##_##variant(const Problem*, int64_t);                  \
    void recurrence##_forward_##element##_##variant(const Problem*, void*);                       \
    void recurrence##_backward_##element##_##variant(const Problem*, void*);
#define DECLARE_VARIANT(variant)                                                                  \
    DECLARE(fast_weights, FastWeightsProblem, float32, variant)                                   \
    DECLARE(fast_weights, FastWeightsProblem, float64, variant)                                   \
    DECLARE(gated, GatedProblem, float32, variant)                                                \
    DECLARE(gated, GatedProblem, float64, variant)                                                \
    int64_t fast_weights_saved_float32_##variant(const FastWeightsProblem*);                      \
    int64_t fast_weights_saved_float64_##variant(const FastWeightsProblem*);
extern "C" {
DECLARE_VARIANT(baseline)
#if defined(HAVE_X86_VARIANTS)
DECLARE_VARIANT(avx2)
DECLARE_VARIANT(avx512)
#endif
}

namespace {

template <typename Problem>
struct Kernel {
    int64_t (*scratch)(const Problem*, int64_t);
    void (*forward)(const Problem*, void*);
    void (*backward)(const Problem*, void*);

    void run(const Problem& problem, bool backwards) const {
        std::vector<char> memory(scratch(&problem, backwards) + 64);
        void* const aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
        (backwards ? backward : forward)(&problem, aligned);
    }
};

// ---- dual numbers ----

struct Dual {
    double v = 0, d = 0;
};
Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.v * b.d + a.d * b.v}; }
Dual operator/(Dual a, Dual b) { return {a.v / b.v, (a.d - a.v / b.v * b.d) / b.v}; }
Dual& operator+=(Dual& a, Dual b) { return a = a + b; }
Dual relu(Dual x) { return x.v > 0 ? x : Dual{}; }
Dual root(Dual x) { return {std::sqrt(x.v), x.d / (2 * std::sqrt(x.v))}; }
Dual tanh(Dual x) { return {std::tanh(x.v), x.d * (1 - std::tanh(x.v) * std::tanh(x.v))}; }
Dual sigmoid(Dual x) { return Dual{0.5} + Dual{0.5} * tanh(Dual{0.5} * x); }

typedef std::vector<Dual> Duals;

// ---- tensors of a problem ----

std::mt19937 generator;

template <typename E>
struct Tensor {
    std::vector<E> values, grad;
    Duals duals;

    explicit Tensor(int64_t size, double scale = 1) : values(size), grad(size, std::numeric_limits<E>::quiet_NaN()), duals(size) {
        std::normal_distribution<double> normal(0, scale);
        for (int64_t i = 0; i < size; ++i) duals[i].v = values[i] = static_cast<E>(normal(generator));
    }
    E* data() { return values.empty() ? nullptr : values.data(); }
    E* gradient() { return values.empty() ? nullptr : grad.data(); }
};

template <typename E>
Dual product(const Duals& a, const Tensor<E>& b) {
    Dual sum;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * Dual{b.values[i]};
    return sum;
}

int failures = 0;

void expect(bool holds, const std::string& what, double apart, double most) {
    if (holds) return;
    ++failures;
    std::printf("%s: apart by %.2g, expected at most %.2g\n", what.c_str(), apart, most);
}

// A few hundred roundings of the largest entry, as in test_cpu_kernel.py.
template <typename E>
constexpr double tolerance = 500 * std::numeric_limits<E>::epsilon();

template <typename E>
void compare(const std::string& what, const std::vector<E>& found, const Duals& expected) {
    double apart = 0, largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        largest = std::fmax(largest, std::fabs(expected[i].v));
        const double each = std::fabs(found[i] - expected[i].v);
        apart = each <= apart ? apart : each;  // NaN stays
    }
    expect(apart <= tolerance<E> * largest, what, apart, tolerance<E> * largest);
}

// `loss` runs the plain loops over the duals of all tensors.
template <typename E>
void compare_gradients(const std::string& what, const std::vector<std::pair<std::string, Tensor<E>*>>& tensors,
                       const std::function<Dual()>& loss) {
    std::normal_distribution<double> normal;
    for (const auto& [name, tensor] : tensors) {
        double product = 0, size = 0;
        for (size_t i = 0; i < tensor->values.size(); ++i) {
            const double direction = tensor->duals[i].d = normal(generator);
            product += direction * tensor->grad[i];
            size += std::fabs(direction * tensor->grad[i]);
        }
        const double apart = std::fabs(product - loss().d);
        for (Dual& each : tensor->duals) each.d = 0;
        expect(apart <= tolerance<E> * size, what + ", gradient of " + name, apart, tolerance<E> * size);
    }
}

// ---- fast weights ----

struct FastWeights {
    int64_t B = 19, T = 5, H = 11, S = 2, R = 0, chunk = 5;
    bool early = true, norm = true, dense = false;
    int64_t I = 0;
};

template <typename E>
void test_fast_weights(const Kernel<FastWeightsProblem>& kernel, int64_t (*saved_size)(const FastWeightsProblem*),
                       const FastWeights& f, const std::string& what) {
    const int64_t B = f.B, T = f.T, H = f.H, S = f.S, R = f.R, I = f.I;
    const bool early = f.early, norm = f.norm, dense = f.dense;
    // Without layer norm what is written grows with the cube of what is read.
    const double decay = 0.9, rate = norm ? 0.4 : 0.02, eps = 0.1, scale = norm ? 1 : 0.3;
    Tensor<E> inputs(I ? 0 : B * T * H, scale), weight(H * H, 0.3), h0(B * H, scale), a0(dense ? B * H * H : 0, 0.3);
    Tensor<E> left(B * R * H, 0.5), right(B * R * H, 0.5), gain(norm ? H : 0), shift(norm ? H : 0);
    Tensor<E> features(B * T * I, scale), projection(H * I, 0.3), bias(I ? H : 0, scale), cotangent(B * T * H);
    Tensor<E> discounts(T), retained(T + 1);
    for (int64_t age = 0; age < T; ++age) discounts.values[age] = static_cast<E>(rate * std::pow(decay, age));
    for (int64_t count = 0; count <= T; ++count) retained.values[count] = static_cast<E>(std::pow(decay, count));
    std::vector<int64_t> lengths(B);
    for (int64_t b = 0; b < B; ++b) lengths[b] = b % (T + 1);

    std::vector<E> output(B * T * H);
    FastWeightsProblem p = {};
    p.batch = B, p.steps = T, p.width = H, p.inner_steps = S, p.rank = R, p.chunk = f.chunk, p.threads = 1;
    p.write_before_read = early, p.layer_norm = norm, p.a0_stride = H * H, p.keep = 1, p.eps = eps, p.input_size = I;
    p.inputs = inputs.data(), p.weight = weight.data(), p.h0 = h0.data(), p.a0 = a0.data(), p.left = left.data();
    p.right = right.data(), p.gain = gain.data(), p.shift = shift.data(), p.discounts = discounts.data();
    p.retained = retained.data(), p.lengths = lengths.data(), p.output = output.data(), p.features = features.data();
    p.projection = projection.data(), p.bias = bias.data();
    std::vector<E> saved(saved_size(&p) + 64);
    p.saved = saved.data() + (64 - reinterpret_cast<uintptr_t>(saved.data()) % 64) % 64 / sizeof(E);
    kernel.run(p, false);
    p.grad_output = cotangent.data(), p.grad_inputs = inputs.gradient(), p.grad_weight = weight.gradient();
    p.grad_h0 = h0.gradient(), p.grad_a0 = a0.gradient(), p.grad_left = left.gradient();
    p.grad_right = right.gradient(), p.grad_gain = gain.gradient(), p.grad_shift = shift.gradient();
    p.grad_features = features.gradient(), p.grad_projection = projection.gradient(), p.grad_bias = bias.gradient();
    kernel.run(p, true);

    Duals outputs;
    const auto loss = [&] {
        outputs.assign(B * T * H, {});
        for (int64_t b = 0; b < B; ++b) {
            Duals a(H * H), h(h0.duals.begin() + b * H, h0.duals.begin() + (b + 1) * H), z(H), q(H), bracket(H);
            for (int64_t i = 0; i < H; ++i)
                for (int64_t j = 0; j < H; ++j) {
                    if (dense) a[i * H + j] = a0.duals[(b * H + i) * H + j];
                    for (int64_t r = 0; r < R; ++r)
                        a[i * H + j] += left.duals[(b * R + r) * H + i] * right.duals[(b * R + r) * H + j];
                }
            const auto write = [&](const Duals& m) {
                for (int64_t i = 0; i < H; ++i)
                    for (int64_t j = 0; j < H; ++j) a[i * H + j] = Dual{decay} * a[i * H + j] + Dual{rate} * m[i] * m[j];
            };
            for (int64_t t = 0; t < lengths[b]; ++t) {
                for (int64_t i = 0; i < H; ++i) {
                    z[i] = I ? bias.duals[i] : inputs.duals[(b * T + t) * H + i];
                    for (int64_t j = 0; j < I; ++j) z[i] += projection.duals[i * I + j] * features.duals[(b * T + t) * I + j];
                    for (int64_t j = 0; j < H; ++j) z[i] += weight.duals[i * H + j] * h[j];
                    q[i] = relu(z[i]);
                }
                if (early) write(q);
                for (int64_t s = 0; s < S; ++s) {
                    Dual mean, variance;
                    for (int64_t i = 0; i < H; ++i) {
                        bracket[i] = z[i];
                        for (int64_t j = 0; j < H; ++j) bracket[i] += a[i * H + j] * q[j];
                        mean += bracket[i] / Dual{double(H)};
                    }
                    for (const Dual& each : bracket) variance += (each - mean) * (each - mean) / Dual{double(H)};
                    for (int64_t i = 0; i < H; ++i)
                        q[i] = relu(norm ? (bracket[i] - mean) / root(variance + Dual{eps}) * gain.duals[i] + shift.duals[i]
                                         : bracket[i]);
                }
                h = q;
                if (!early) write(h);
                for (int64_t i = 0; i < H; ++i) outputs[(b * T + t) * H + i] = h[i];
            }
        }
        return product(outputs, cotangent);
    };
    loss();
    compare(what + ", output", output, outputs);
    compare_gradients<E>(what, {{"inputs", &inputs}, {"weight", &weight}, {"h0", &h0}, {"a0", &a0}, {"left", &left},
                                {"right", &right}, {"gain", &gain}, {"shift", &shift}, {"features", &features},
                                {"projection", &projection}, {"bias", &bias}}, loss);
}

// ---- nn.LSTM, nn.GRU, nn.RNN ----

struct Gated {
    int64_t cell = lstm_cell, H = 19, O = 19;
    bool reverse = false;
    int64_t B = 5, T = 7, I = 3;
};

template <typename E>
void test_gated(const Kernel<GatedProblem>& kernel, const Gated& g, const std::string& what) {
    const int64_t cell = g.cell, H = g.H, O = g.O, B = g.B, T = g.T, I = g.I;
    const bool reverse = g.reverse;
    const bool lstm = cell == lstm_cell, projects = O != H;
    const int64_t gates = lstm ? 4 : cell == gru_cell ? 3 : 1, lanes = 64 / sizeof(E);
    // Rows of 0 to T - 1 steps, cut after the second.
    std::vector<int64_t> row, first, count, last;
    for (int64_t b = 0; b < B; ++b)
        for (int64_t length = b * (T - 1) / (B - 1), at = 0, n; at < length || !at; at += n ? n : 1) {
            n = at ? length - at : length < 2 ? length : 2;
            row.push_back(b), first.push_back(at), count.push_back(n), last.push_back(at + n >= length);
            if (last.back()) break;
        }
    const int64_t N = row.size(), final_size = O + (lstm ? H : 0);
    std::vector<int64_t> table;
    for (const auto* part : {&row, &first, &count, &last}) table.insert(table.end(), part->begin(), part->end());

    Tensor<E> inputs(B * T * I), weight_ih(gates * H * I, 0.5), weight_hh(gates * H * O, 0.3), bias_ih(gates * H, 0.5);
    Tensor<E> bias_hh(gates * H, 0.5), weight_hr(projects ? O * H : 0, 0.3), h0(N * O), c0(lstm ? N * H : 0);
    Tensor<E> cotangent(B * T * O), final_cotangent(B * final_size);
    const E unset = std::numeric_limits<E>::quiet_NaN();  // where no segment is zeros must be written
    std::vector<E> output(B * T * O, unset), final_state(B * final_size), saved(B * T * 5 * (H + lanes));
    GatedProblem p = {};
    p.cell = cell, p.batch = B, p.steps = T, p.input_size = I, p.width = H, p.output_size = O, p.segments = N;
    p.threads = 1, p.reverse = reverse, p.keep = 1, p.inputs_row = T * I, p.inputs_step = I, p.output_row = T * O;
    p.output_step = O, p.grad_output_row = T * O, p.grad_output_step = O, p.inputs = inputs.data();
    p.weight_ih = weight_ih.data(), p.weight_hh = weight_hh.data(), p.bias_ih = bias_ih.data();
    p.bias_hh = bias_hh.data(), p.weight_hr = weight_hr.data(), p.h0 = h0.data(), p.c0 = c0.data();
    p.table = table.data(), p.output = output.data(), p.final_state = final_state.data(), p.saved = saved.data();
    kernel.run(p, false);
    p.grad_output = cotangent.data(), p.grad_final_state = final_cotangent.data(), p.grad_inputs = inputs.gradient();
    p.grad_weight_ih = weight_ih.gradient(), p.grad_weight_hh = weight_hh.gradient();
    p.grad_bias_ih = bias_ih.gradient(), p.grad_bias_hh = bias_hh.gradient(), p.grad_weight_hr = weight_hr.gradient();
    p.grad_h0 = h0.gradient(), p.grad_c0 = c0.gradient();
    kernel.run(p, true);

    Duals outputs, finals;
    const auto loss = [&] {
        outputs.assign(B * T * O, {}), finals.assign(B * final_size, {});
        for (int64_t k = 0; k < N; ++k) {
            Duals h(h0.duals.begin() + k * O, h0.duals.begin() + (k + 1) * O), c(H), x(gates * H), m(gates * H), next(H);
            for (int64_t i = 0; lstm && i < H; ++i) c[i] = c0.duals[k * H + i];
            for (int64_t n = 0; n < count[k]; ++n) {
                const int64_t at = row[k] * T + first[k] + (reverse ? count[k] - 1 - n : n);
                for (int64_t i = 0; i < gates * H; ++i) {
                    x[i] = bias_ih.duals[i], m[i] = bias_hh.duals[i];
                    for (int64_t j = 0; j < I; ++j) x[i] += weight_ih.duals[i * I + j] * inputs.duals[at * I + j];
                    for (int64_t j = 0; j < O; ++j) m[i] += weight_hh.duals[i * O + j] * h[j];
                }
                const auto sum = [&](int64_t gate, int64_t i) { return x[gate * H + i] + m[gate * H + i]; };
                for (int64_t i = 0; i < H; ++i)
                    if (lstm) {
                        c[i] = sigmoid(sum(1, i)) * c[i] + sigmoid(sum(0, i)) * tanh(sum(2, i));
                        next[i] = sigmoid(sum(3, i)) * tanh(c[i]);
                    } else if (cell == gru_cell) {
                        const Dual r = sigmoid(sum(0, i)), u = sigmoid(sum(1, i));
                        const Dual candidate = tanh(x[2 * H + i] + r * m[2 * H + i]);
                        next[i] = candidate + u * (h[i] - candidate);
                    } else
                        next[i] = cell == tanh_cell ? tanh(sum(0, i)) : relu(sum(0, i));
                for (int64_t i = 0; i < O; ++i) {
                    if (!projects) h[i] = next[i];
                    if (projects) h[i] = {};
                    for (int64_t j = 0; projects && j < H; ++j) h[i] += weight_hr.duals[i * H + j] * next[j];
                    outputs[at * O + i] = h[i];
                }
            }
            for (int64_t i = 0; last[k] && i < final_size; ++i) finals[row[k] * final_size + i] = i < O ? h[i] : c[i - O];
        }
        return product(outputs, cotangent) + product(finals, final_cotangent);
    };
    loss();
    compare(what + ", output", output, outputs);
    compare(what + ", final state", final_state, finals);
    compare_gradients<E>(what, {{"inputs", &inputs}, {"weight_ih", &weight_ih}, {"weight_hh", &weight_hh},
                                {"bias_ih", &bias_ih}, {"bias_hh", &bias_hh}, {"weight_hr", &weight_hr}, {"h0", &h0},
                                {"c0", &c0}}, loss);
}

template <typename E>
void test(const std::string& what, const Kernel<FastWeightsProblem>& fast_weights,
          int64_t (*saved_size)(const FastWeightsProblem*), const Kernel<GatedProblem>& gated) {
    const int before = failures;
    for (const bool early : {true, false})
        for (const bool norm : {true, false})
            for (const int64_t chunk : {2, 5})
                for (const int64_t kind : {0, 1, 2, 3}) {
                    FastWeights f;
                    f.early = early, f.norm = norm, f.chunk = chunk;
                    f.dense = kind == 1, f.R = kind == 2 ? 2 : 0, f.I = kind == 3 ? 7 : 0;
                    const std::string name = what + ", fast weights, early " + std::to_string(early) + ", norm " +
                                             std::to_string(norm) + ", chunk " + std::to_string(chunk) + ", kind " +
                                             std::to_string(kind);
                    test_fast_weights<E>(fast_weights, saved_size, f, name);
                }
    for (const int64_t cell : {lstm_cell, gru_cell, tanh_cell, relu_cell})
        for (const bool reverse : {false, true})
            for (const int64_t output : {19, 5}) {
                if (output != 19 && cell != lstm_cell) continue;
                const std::string name = what + ", cell " + std::to_string(cell) + ", reverse " +
                                         std::to_string(reverse) + ", output " + std::to_string(output);
                test_gated<E>(gated, {cell, 19, output, reverse}, name);
            }
    std::printf("%s: %s\n", what.c_str(), failures == before ? "agrees with plain loops" : "DIFFERS");
}

#define RECURRENCE(recurrence, element, variant)                                                  \
    { recurrence##_scratch_##element##_##variant, recurrence##_forward_##element##_##variant,     \
      recurrence##_backward_##element##_##variant }
#define TEST(type, element, variant)                                                              \
    test<type>(#variant ", " #element, RECURRENCE(fast_weights, element, variant),                \
               fast_weights_saved_##element##_##variant, RECURRENCE(gated, element, variant));
#define TEST_VARIANT(variant) TEST(float, float32, variant) TEST(double, float64, variant)

}  // namespace

int main() {
    const std::string best = contextual_rnn_instruction_set();
    TEST_VARIANT(baseline)
#if defined(HAVE_X86_VARIANTS)
    if (best != "baseline") { TEST_VARIANT(avx2) }
    if (best == "avx512") { TEST_VARIANT(avx512) }
#endif
    std::printf("%d failures; the library would use %s\n", failures, best.c_str());
    return failures > 0;
}
