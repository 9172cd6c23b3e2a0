// What the library offers. Compiled once for every instruction set and type of element: the names that are exported
// end with ELEMENT_NAME, float32 or float64, and VARIANT.

#include "classification.h"
#include "recurrence.h"
#include "stream.h"

#define NAME_(name, element, variant) fast_weights_##name##_##element##_##variant
#define NAME(name, element, variant) NAME_(name, element, variant)
#define EXPORTED(name) NAME(name, ELEMENT_NAME, VARIANT)

extern "C" {

// Bytes of scratch memory, of which the problem that is asked about has none yet.
int64_t EXPORTED(scratch)(const FastWeightsProblem* p, int64_t backwards) {
    Arena arena(nullptr);
    Kernel<ELEMENT>(*p).place(arena, backwards);
    return arena.used;
}

int64_t EXPORTED(saved)(const FastWeightsProblem* p) { return Kernel<ELEMENT>(*p).saved_size(); }

void EXPORTED(forward)(const FastWeightsProblem* p, void* scratch) {
    FastWeightsProblem problem = *p;
    problem.scratch = scratch;
    Kernel<ELEMENT>(problem).forward();
}

void EXPORTED(backward)(const FastWeightsProblem* p, void* scratch) {
    FastWeightsProblem problem = *p;
    problem.scratch = scratch;
    Kernel<ELEMENT>(problem).backward();
}

int64_t EXPORTED(classification_scratch)(const FastWeightsClassification* p) {
    Arena arena(nullptr);
    FastWeightsClassification problem = *p;
    Classifier<ELEMENT>(problem).place(arena);
    return arena.used;
}

int64_t EXPORTED(classification)(const FastWeightsClassification* p, void* scratch) {
    FastWeightsClassification problem = *p;
    problem.recurrence.scratch = scratch;
    return Classifier<ELEMENT>(problem).run();
}

int64_t EXPORTED(stream_scratch)(const FastWeightsStream* p) {
    return scratch_size(Stream<ELEMENT>(*p), larger(1, p->threads));
}

void EXPORTED(prepare_stream)(const FastWeightsStream* p) { Stream<ELEMENT>(*p).prepare(); }

void EXPORTED(step_stream)(const FastWeightsStream* p, const void* input, const void* anew) {
    const Stream<ELEMENT> stream(*p);
    const int64_t tasks = (p->batch + rows_of_a_task - 1) / rows_of_a_task;
    parallel(tasks, p->threads, [&](int64_t task, int64_t thread) {
        stream.run(static_cast<const ELEMENT*>(input), static_cast<const uint8_t*>(anew), task, thread);
    });
}
}
