// What a caller fills in for nn.RNN, nn.LSTM and nn.GRU, one layer and direction. The fields are those of `layouts.py`.

#pragma once

#include "layout.h"

// Values of `cell`.
enum : int64_t { lstm_cell, gru_cell, tanh_cell, relu_cell };

// inputs (batch, steps, input_size), output and its gradient (batch, steps, output_size): the last axis is contiguous,
// the others have the strides that are given, in elements. What else there is is contiguous. Weights and biases are
// those of torch; biases, weight_hr, c0 and any gradient may be absent.
//
// A segment is a sequence of its own: some steps of a row, with an initial state of its own in h0 and c0. `table`
// (4, segments) has row, first step, number of steps, and whether it is the last of its row. The state after that one
// goes to final_state (batch, output_size, with width more columns for c). With `reverse` segments run from their last
// step to their first. Where no segment is, output and grad_inputs are zero; both fill their memory.
#define GATED_PROBLEM(FIELD)                                                                                        \
    FIELD(integer, cell) FIELD(integer, batch) FIELD(integer, steps) FIELD(integer, input_size)                     \
    FIELD(integer, width) FIELD(integer, output_size) FIELD(integer, segments) FIELD(integer, threads)              \
    FIELD(integer, reverse) FIELD(integer, keep)                                                                    \
    FIELD(integer, inputs_row) FIELD(integer, inputs_step) FIELD(integer, output_row) FIELD(integer, output_step)   \
    FIELD(integer, grad_output_row) FIELD(integer, grad_output_step)                                                \
    FIELD(input, inputs) FIELD(input, weight_ih) FIELD(input, weight_hh) FIELD(input, bias_ih)                      \
    FIELD(input, bias_hh) FIELD(input, weight_hr) FIELD(input, h0) FIELD(input, c0)                                 \
    FIELD(indices, table) FIELD(result, output) FIELD(result, final_state) FIELD(result, saved)                     \
    FIELD(result, scratch) FIELD(input, grad_output) FIELD(input, grad_final_state)                                 \
    FIELD(result, grad_inputs) FIELD(result, grad_weight_ih) FIELD(result, grad_weight_hh)                          \
    FIELD(result, grad_bias_ih) FIELD(result, grad_bias_hh) FIELD(result, grad_weight_hr)                           \
    FIELD(result, grad_h0) FIELD(result, grad_c0)

extern "C" struct GatedProblem {
    GATED_PROBLEM(DECLARE_FIELD)
};

// Layers that run one step a call. `layers` are their problems, in which `output` is h (batch, output_size) and
// `final_state` c (batch, width), read and replaced by each step; h0 and c0 have the state that each row begins anew
// from, and `scratch` the weights as `prepare` left them. `output` receives h of the last layer too.
#define GATED_STREAM(FIELD) \
    FIELD(integer, count) FIELD(integer, batch) FIELD(integer, threads) FIELD(input, layers) FIELD(result, output)

extern "C" struct GatedStream {
    GATED_STREAM(DECLARE_FIELD)
};
