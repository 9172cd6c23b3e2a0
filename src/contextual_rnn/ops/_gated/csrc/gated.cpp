// nn.RNN, nn.LSTM and nn.GRU over segments, one layer and direction, forward and backward.
//
//   B, T, I, H, O   rows, steps, units of the input, of the cell, of the output: O is H but under a projection
//   N               segments, each a sequence with an initial state of its own
//   z               sums of products, W_ih x + W_hh h + b, of which a cell has `columns` for each unit
//   d...            a gradient
//
// Each thread runs some segments side by side, one row of a small matrix each, a step of all at a time. Units are in
// the lanes of the registers, so that rows are as the caller has them, any number of rows takes the time of so many,
// and a row whose segment ends takes the next segment with its own initial state. The time is that of the real steps.
// What a step saves goes to the place of the step, whichever row it ran in. On the way back the same segments run from
// their last step; what the gradients of the weights are sums of is collected and added up in larger products.
//
// What the library offers. Compiled once for every instruction set and type of element: the names that are exported
// end with ELEMENT_NAME, float32 or float64, and VARIANT.

#include "backward.h"
#include "forward.h"
#include "stream.h"

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

const GatedProblem& layer(const GatedStream& stream, int64_t number) {
    return static_cast<const GatedProblem*>(stream.layers)[number];
}

// All layers for the rows of one task. `input` has rows of the first one's; `anew`, where it is given, says which begin
// anew.
void step_rows(const GatedStream& stream, const void* input, const uint8_t* anew, int64_t task, int64_t thread) {
    const int64_t first = task * most_live, n = smaller(most_live, stream.batch - first);
    for (int64_t number = 0; number < stream.count; ++number) {
        const GatedProblem& p = layer(stream, number);
        with_pass<Step>(p, [&](const auto& pass) {
            pass.run(static_cast<const ELEMENT*>(input), anew, first, n, thread);
        });
        input = p.output;
    }
    const int64_t size = layer(stream, stream.count - 1).output_size;
    std::memcpy(static_cast<ELEMENT*>(stream.output) + first * size, static_cast<const ELEMENT*>(input) + first * size,
                n * size * sizeof(ELEMENT));
}

}  // namespace

extern "C" {

// Bytes of scratch memory, of which the problem that is asked about has none yet.
int64_t EXPORTED(scratch)(const GatedProblem* p, int64_t backwards) {
    int64_t size = 0;
    const auto ask = [&](const auto& pass) { size = scratch_size(pass, pass.threads); };
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

// Packs the weights of a stream's layers.
void EXPORTED(prepare_stream)(const GatedStream* stream) {
    for (int64_t number = 0; number < stream->count; ++number)
        with_pass<Step>(layer(*stream, number), [](const auto& pass) { pass.prepare(); });
}

void EXPORTED(step_stream)(const GatedStream* stream, const void* input, const void* anew) {
    const int64_t tasks = (stream->batch + most_live - 1) / most_live;
    parallel(tasks, stream->threads, [&](int64_t task, int64_t thread) {
        step_rows(*stream, input, static_cast<const uint8_t*>(anew), task, thread);
    });
}
}
