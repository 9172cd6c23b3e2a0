// What the library offers. Compiled once for every instruction set, with VARIANT as the suffix of the exported names.

#include "classification.h"
#include "recurrence.h"

#define NAME_(name, variant) name##_##variant
#define NAME(name, variant) NAME_(name, variant)

namespace {

FastWeightsProblem with_scratch(const FastWeightsProblem* problem, void* scratch) {
    FastWeightsProblem copy = *problem;
    copy.scratch = scratch;
    return copy;
}

// Bytes of scratch memory, of which the problem that is asked about has none yet.
template <typename T>
int64_t scratch(const FastWeightsProblem* problem, bool backwards) {
    Arena arena(nullptr);
    Kernel<T>(*problem).place(arena, backwards);
    return arena.used;
}

template <typename T>
int64_t classification_scratch(const FastWeightsClassification* problem) {
    Arena arena(nullptr);
    FastWeightsClassification copy = *problem;
    Classifier<T>(copy).place(arena);
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
    extern "C" void NAME(fast_weights_forward_##suffix, VARIANT)(const FastWeightsProblem* p, void* scratch) {  \
        const FastWeightsProblem problem = with_scratch(p, scratch);                                            \
        Kernel<type>(problem).forward();                                                                        \
    }                                                                                                           \
    extern "C" void NAME(fast_weights_backward_##suffix, VARIANT)(const FastWeightsProblem* p, void* scratch) { \
        const FastWeightsProblem problem = with_scratch(p, scratch);                                            \
        Kernel<type>(problem).backward();                                                                       \
    }                                                                                                           \
    extern "C" int64_t NAME(fast_weights_classification_scratch_##suffix, VARIANT)(const FastWeightsClassification* p) { \
        return classification_scratch<type>(p);                                                                 \
    }                                                                                                           \
    extern "C" int64_t NAME(fast_weights_classification_##suffix, VARIANT)(const FastWeightsClassification* p,  \
                                                                           void* scratch) {                     \
        FastWeightsClassification copy = *p;                                                                    \
        copy.recurrence.scratch = scratch;                                                                      \
        return Classifier<type>(copy).run();                                                                    \
    }

EXPORT(float, float32)
EXPORT(double, float64)

// Bytes of what callers fill in: one that was written for another build is told by these.
extern "C" int64_t NAME(fast_weights_problem_size, VARIANT)() { return sizeof(FastWeightsProblem); }
extern "C" int64_t NAME(fast_weights_classification_size, VARIANT)() { return sizeof(FastWeightsClassification); }
