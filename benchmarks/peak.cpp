// Multiply-adds a second that the CPU can do at most: chains of them in registers, of the widest vectors, none waiting
// for another. 12 chains cover the latency of two units of 4 to 5 cycles and leave AVX2 its 16 registers.
#include <cstdint>

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));

template <int chains>
static float run(int64_t rounds, float start) {
  Vector sum[chains];
  // Not constants: the compiler must not see where the sums converge to.
  const Vector factor = Vector{} + 0.5f * start, summand = Vector{} + start;
  for (int c = 0; c < chains; ++c) sum[c] = Vector{} + float(c) * start;
  for (int64_t i = 0; i < rounds; ++i)
    for (int c = 0; c < chains; ++c) sum[c] = sum[c] * factor + summand;
  Vector total{};
  for (int c = 0; c < chains; ++c) total += sum[c];
  float result = 0;
  for (int l = 0; l < lanes; ++l) result += total[l];
  return result;
}

extern "C" {
int peak_lanes() { return lanes; }
// 12 * lanes * rounds multiply-adds.
float peak_independent(int64_t rounds, float start) { return run<12>(rounds, start); }
// rounds multiply-adds, each waiting for the last: rounds * latency cycles.
float peak_chain(int64_t rounds, float start) { return run<1>(rounds, start); }
}
