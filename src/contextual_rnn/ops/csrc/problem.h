// What a caller fills in for the fast-weights recurrence.

#pragma once

#include <cstdint>

// All of eight bytes, in the order of `cpu.py`.
extern "C" struct FastWeightsProblem {
    int64_t batch, steps, width, inner_steps, rank, chunk, threads;
    int64_t write_before_read;  // wenke2019
    int64_t layer_norm;
    int64_t a0_stride;  // elements from one sample's A(0) to the next; 0 where all share one
    int64_t keep;       // keep activations for the backward pass
    double eps;
    const void *inputs, *weight, *h0, *a0, *left, *right, *gain, *shift;
    const void *discounts, *retained;  // rate decay^age and decay^count
    const int64_t* lengths;
    void *output, *written, *saved, *scratch;
    const void *grad_output, *grad_written;
    // Of these any but grad_inputs may be absent.
    void *grad_inputs, *grad_weight, *grad_h0, *grad_a0, *grad_left, *grad_right, *grad_gain, *grad_shift;
    void *grad_discounts, *grad_retained;
    // Where input_size is not 0, inputs(t) = projection features(t) + bias, and neither inputs nor their gradient are
    // the caller's. bias may be absent.
    int64_t input_size;
    const void *features, *projection, *bias;
    void *grad_features, *grad_projection, *grad_bias;
};

// Of threads.cpp: run(context, task, thread) for every task, on at most so many threads.
extern "C" void fast_weights_parallel(int64_t tasks, int64_t threads, void (*run)(const void*, int64_t, int64_t),
                                      const void* context);

// A linear layer from an embedding to one part of the initial state, and its gradients; may be absent.
extern "C" struct FastWeightsHead {
    const void *weight, *bias;
    void *grad_weight, *grad_bias;
};

// All of eight bytes, in the order of `cpu.py`.
extern "C" struct FastWeightsClassification {
    FastWeightsProblem recurrence;  // without inputs, output, what is saved, and their gradients
    int64_t vocabulary, input_size, hidden, classes, initial_states;
    const int64_t *tokens, *targets;
    const int64_t* states;  // which of the initial states each sample starts from; may be absent
    const void *embedding, *weight_ih, *bias, *hidden_weight, *hidden_bias, *readout_weight, *readout_bias;
    void* loss;
    void *grad_embedding, *grad_weight_ih, *grad_bias;
    void *grad_hidden_weight, *grad_hidden_bias, *grad_readout_weight, *grad_readout_bias;
    // Of h0, a0, left and right. What has one is not given, and its gradient not asked for; `states` are then tokens,
    // each sample's first where they are absent.
    FastWeightsHead heads[4];
};
