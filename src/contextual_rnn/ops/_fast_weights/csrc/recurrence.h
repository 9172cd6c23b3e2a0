// The fast-weights recurrence in attention form, forward and backward, for one instruction set.
//
//   B, T, H, S, R   samples, steps, units, inner steps (reads a step), rank of a low-rank A(0)
//   I               units of the features that are projected here to the inputs; 0 where the inputs are given
//   C               steps of a chunk; within one, A at its start is read beside a sum over what was written in it
//   L               samples in a vector register; a block of L samples is worked on together
//   z               W h(t-1) + inputs(t); a bracket is z plus what a read adds
//   q(t, s)         query of read s in step t; q(t, 0) = relu(z) is the preliminary state
//   m(t)            the vector written in step t: q(t, 0) under wenke2019, h(t) under ba2016
//   c(t, s, i)      score of m(i) for q(t, s), before its discount; d... is a gradient
//
// Tensors of the caller are sample-major and contiguous. Inside, everything is unit-major with the L samples of a
// block innermost, so that no sum ever crosses a register: sums over units are sums of registers. Only the gradient of
// W is summed over samples, in the caller's layout.
//
// A sequence of one chunk keeps what it computed for the way back, and reads A(0) in the form in which it came. One of
// several keeps A at the start of every eighth chunk alone: on the way back those of the chunks between are built
// again, each chunk is run again, and the gradient of A is carried from chunk to chunk as A was.

#pragma once

#include "backward.h"
#include "forward.h"
