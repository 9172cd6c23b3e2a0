// Which of the compiled variants this processor runs best.

#include <cstdlib>
#include <cstring>

// The environment variable CONTEXTUAL_RNN_INSTRUCTION_SET may name a lesser one.
extern "C" const char* contextual_rnn_instruction_set() {
    const char* named = std::getenv("CONTEXTUAL_RNN_INSTRUCTION_SET");
    const auto wanted = [named](const char* name) { return !named || !*named || !std::strcmp(named, name); };
#if defined(HAVE_X86_VARIANTS)
    __builtin_cpu_init();
    if (wanted("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return "avx512";
    if (wanted("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "baseline";
}
