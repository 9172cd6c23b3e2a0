// What a caller fills in for the fast-weights recurrence. The fields are those of `layouts.py`, in its order.

#pragma once

#include "layout.h"

// write_before_read is the timing of wenke2019. a0_stride is the number of elements from one sample's A(0) to the next,
// 0 where all share one. With `keep`, activations are kept for the backward pass. discounts and retained are
// rate decay^age and decay^count. Any gradient may be absent, but grad_inputs.
//
// Where input_size is not 0, inputs(t) = projection features(t) + bias, and neither inputs nor their gradient are the
// caller's. bias may be absent.
//
// Where there are places, sequence i stands in features and output from row places[i] on, of `rows` in all. Those of no
// sequence are zero in the results. There are features and lengths then.
#define FAST_WEIGHTS_PROBLEM(FIELD)                                                                                \
    FIELD(integer, batch) FIELD(integer, steps) FIELD(integer, width) FIELD(integer, inner_steps)                  \
    FIELD(integer, rank) FIELD(integer, chunk) FIELD(integer, threads) FIELD(integer, write_before_read)           \
    FIELD(integer, layer_norm) FIELD(integer, a0_stride) FIELD(integer, keep) FIELD(real, eps)                     \
    FIELD(input, inputs) FIELD(input, weight) FIELD(input, h0) FIELD(input, a0) FIELD(input, left)                 \
    FIELD(input, right) FIELD(input, gain) FIELD(input, shift) FIELD(input, discounts) FIELD(input, retained)      \
    FIELD(indices, lengths) FIELD(indices, places) FIELD(integer, rows)                                           \
    FIELD(result, output) FIELD(result, written) FIELD(result, saved) FIELD(result, scratch)                       \
    FIELD(input, grad_output) FIELD(input, grad_written)                                                           \
    FIELD(result, grad_inputs) FIELD(result, grad_weight) FIELD(result, grad_h0) FIELD(result, grad_a0)            \
    FIELD(result, grad_left) FIELD(result, grad_right) FIELD(result, grad_gain) FIELD(result, grad_shift)          \
    FIELD(result, grad_discounts) FIELD(result, grad_retained)                                                     \
    FIELD(integer, input_size) FIELD(input, features) FIELD(input, projection) FIELD(input, bias)                  \
    FIELD(result, grad_features) FIELD(result, grad_projection) FIELD(result, grad_bias)

extern "C" struct FastWeightsProblem {
    FAST_WEIGHTS_PROBLEM(DECLARE_FIELD)
};

// A linear layer from an embedding to one part of the initial state, and its gradients; may be absent.
#define FAST_WEIGHTS_HEAD(FIELD, part)                         \
    FIELD(input, part##weight) FIELD(input, part##bias)        \
    FIELD(result, part##grad_weight) FIELD(result, part##grad_bias)

extern "C" struct FastWeightsHead {
    FAST_WEIGHTS_HEAD(DECLARE_FIELD, )
};

// `states` says which of the initial states each sample starts from; may be absent.
#define FAST_WEIGHTS_CLASSIFICATION(FIELD)                                                                          \
    FIELD(integer, vocabulary) FIELD(integer, embedding_size) FIELD(integer, hidden) FIELD(integer, classes)        \
    FIELD(integer, initial_states) FIELD(indices, tokens) FIELD(indices, targets) FIELD(indices, states)            \
    FIELD(input, embedding) FIELD(input, weight_ih) FIELD(input, bias_ih) FIELD(input, hidden_weight)               \
    FIELD(input, hidden_bias) FIELD(input, readout_weight) FIELD(input, readout_bias) FIELD(result, loss)           \
    FIELD(result, grad_embedding) FIELD(result, grad_weight_ih) FIELD(result, grad_bias_ih)                         \
    FIELD(result, grad_hidden_weight) FIELD(result, grad_hidden_bias) FIELD(result, grad_readout_weight)            \
    FIELD(result, grad_readout_bias)

extern "C" struct FastWeightsClassification {
    FastWeightsProblem recurrence;  // without inputs, output, what is saved, and their gradients
    FAST_WEIGHTS_CLASSIFICATION(DECLARE_FIELD)
    // Of h0, a0, left and right. What has one is not given, and its gradient not asked for; `states` are then tokens,
    // each sample's first where they are absent.
    FastWeightsHead heads[4];
};

// One step a call. h (batch, width) and a (batch, width, width) are read and replaced by each step; h0 and a0 have the
// state that each row begins anew from, `scratch` what `prepare` left there, and `output` receives h too.
#define FAST_WEIGHTS_STREAM(FIELD)                                                                                 \
    FIELD(integer, batch) FIELD(integer, width) FIELD(integer, input_size) FIELD(integer, inner_steps)             \
    FIELD(integer, threads) FIELD(integer, write_before_read) FIELD(integer, layer_norm)                           \
    FIELD(real, eps) FIELD(real, decay) FIELD(real, rate)                                                          \
    FIELD(input, projection) FIELD(input, bias) FIELD(input, weight) FIELD(input, gain) FIELD(input, shift)        \
    FIELD(input, h0) FIELD(input, a0) FIELD(result, h) FIELD(result, a) FIELD(result, output)                      \
    FIELD(result, scratch)

extern "C" struct FastWeightsStream {
    FAST_WEIGHTS_STREAM(DECLARE_FIELD)
};
