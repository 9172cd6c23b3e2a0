// What the library offers. Compiled once for every instruction set and type of element: the names that are exported
// end with ELEMENT_NAME, float32 or float64, and VARIANT.

#include "backward.h"
#include "forward.h"

#define NAME_(name, element, variant) gated_##name##_##element##_##variant
#define NAME(name, element, variant) NAME_(name, element, variant)
#define EXPORTED(name) NAME(name, ELEMENT_NAME, VARIANT)

namespace {

// task(Forward or Backward of the problem's cell).
template <template <typename, typename> class Pass, typename Task>
void with_pass(const GatedProblem& p, const Task& task) {
    if (p.cell == lstm_cell)
        task(Pass<ELEMENT, LstmCell<ELEMENT>>(p));
    else if (p.cell == gru_cell)
        task(Pass<ELEMENT, GruCell<ELEMENT>>(p));
    else if (p.cell == tanh_cell)
        task(Pass<ELEMENT, PlainCell<ELEMENT, false>>(p));
    else
        task(Pass<ELEMENT, PlainCell<ELEMENT, true>>(p));
}

}  // namespace

extern "C" {

// Bytes of scratch memory, of which the problem that is asked about has none yet.
int64_t EXPORTED(scratch)(const GatedProblem* p, int64_t backwards) {
    int64_t size = 0;
    const auto ask = [&](const auto& pass) { size = pass.scratch_size(); };
    backwards ? with_pass<Backward>(*p, ask) : with_pass<Forward>(*p, ask);
    return size;
}

void EXPORTED(forward)(const GatedProblem* p, void* scratch) {
    GatedProblem problem = *p;
    problem.scratch = scratch;
    with_pass<Forward>(problem, [](const auto& pass) { pass.run(); });
}

void EXPORTED(backward)(const GatedProblem* p, void* scratch) {
    GatedProblem problem = *p;
    problem.scratch = scratch;
    with_pass<Backward>(problem, [](const auto& pass) { pass.run(); });
}
}
