// A batch cut into segments: the table of segments that recurrences run over.

#include "layout.h"

// flags (batch, steps), bytes: rows begin anew before a step where one is not 0. first and lengths (batch): the steps that
// a row has; without first they begin at 0, without lengths a row has all steps.
#define CUT(FIELD)                                                                                                 \
    FIELD(integer, batch) FIELD(integer, steps) FIELD(input, flags) FIELD(indices, first) FIELD(indices, lengths)

extern "C" struct Cut {
    CUT(DECLARE_FIELD)
};

namespace {

// body(row, first step, number of steps, whether it is the row's last) for each segment, row by row and in time. A row
// without a step has one, of no step.
template <typename Body>
void each_segment(const Cut& cut, const Body& body) {
    for (int64_t row = 0; row < cut.batch; ++row) {
        const uint8_t* const flags = static_cast<const uint8_t*>(cut.flags) + row * cut.steps;
        int64_t start = cut.first ? cut.first[row] : 0;
        const int64_t stop = cut.lengths ? start + cut.lengths[row] : cut.steps;
        for (int64_t step = start + 1; step < stop && step < cut.steps; ++step)
            if (flags[step]) {
                body(row, start, step - start, 0);
                start = step;
            }
        body(row, start, stop - start, 1);
    }
}

}  // namespace

extern "C" {

uint64_t contextual_rnn_cut_layout() { return hash_of_layout(CUT(DESCRIBE_FIELD)); }

int64_t contextual_rnn_count_segments(const Cut* cut) {
    int64_t count = 0;
    each_segment(*cut, [&](int64_t, int64_t, int64_t, int64_t) { ++count; });
    return count;
}

// Fills a table (4, count).
void contextual_rnn_cut(const Cut* cut, int64_t count, int64_t* table) {
    each_segment(*cut, [&](int64_t row, int64_t start, int64_t length, int64_t last) {
        table[0] = row, table[count] = start, table[2 * count] = length, table[3 * count] = last;
        ++table;
    });
}
}
