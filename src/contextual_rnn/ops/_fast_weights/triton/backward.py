"""The program of the Triton kernel's derivative, in the terms of `forward.py`; every sum is of one program."""

# Triton gives the parameters of its programs their types.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false

# ruff: noqa: N803, SIM108
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl

from contextual_rnn.ops._fast_weights.triton.forward import hold, lengths_of, load, multiply, relu_gradient


@triton.jit(do_not_specialize=["batch", "steps"])
def backward(
    weight,
    a0,
    left,
    right,
    gain,
    shift,
    discounts,
    retained,
    lengths,
    output,
    queries,
    normed,
    deviations,
    grad_output,  # (B, T, H); unless EARLY part of grad_written, and None here
    grad_written,  # (B, T, H): of the memories; what reads add to it gathers here. ACC, as all below but grad_inputs
    grad_inputs,  # (B, T, H)
    grad_h0,  # (B, H)
    grad_brackets,  # (B, T, S, H) where there is an A(0), or None
    grad_gain,  # (P, H), the part of each of P programs, or None
    grad_shift,  # (P, H), likewise
    grad_discounts,  # (B, T) zeros, each sample's part, or None
    grad_retained,  # (B, T + 1) zeros, likewise
    batch,
    steps,
    S: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    EARLY: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    SHARED_A0: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    samples = program * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.arange(0, BLOCK_H)
    rows = tl.arange(0, BLOCK_T)
    sequence = samples * steps * WIDTH
    length = lengths_of(lengths, samples, batch, steps)
    longest = tl.max(length, 0)
    held_weight = hold(weight, False, WIDTH, BLOCK_H, RESIDENT, ACC)
    if a0 is not None:
        if not SHARED_A0:
            a0 += program * WIDTH * WIDTH
        held_a0 = hold(a0, False, WIDTH, BLOCK_H, RESIDENT, ACC)
    d_gain = tl.zeros((BLOCK_B, BLOCK_H), ACC)
    d_shift = tl.zeros((BLOCK_B, BLOCK_H), ACC)
    d_h = tl.zeros((BLOCK_B, BLOCK_H), ACC)
    for steps_left in range(longest):
        t = longest - 1 - steps_left
        live = t < length
        inside = live[:, None] & (units < WIDTH)[None, :]
        now = sequence + t * WIDTH
        at = now[:, None] + units[None, :]
        count = t
        if EARLY:
            count = t + 1
            d_h += load(grad_output + at, inside, ACC)
        else:
            d_h += load(grad_written + at, inside, ACC)
        scale = tl.load(retained + count).to(ACC)
        d_z = tl.zeros((BLOCK_B, BLOCK_H), ACC)
        d_scale = tl.zeros((BLOCK_B, BLOCK_H), ACC)
        for reads_left in range(S):
            s = S - 1 - reads_left
            read = (samples * steps + t) * S + s
            read_at = (read * WIDTH)[:, None] + units[None, :]
            q = load(queries + read_at, inside, ACC)
            if s == S - 1:
                result = load(output + at, inside, ACC)
            else:
                result = load(queries + read_at + WIDTH, inside, ACC)
            g = relu_gradient(d_h, result)
            if LAYER_NORM:
                bracket = load(normed + read_at, inside, ACC)
                deviation = load(deviations + read, live, ACC)
                d_gain += g * bracket
                d_shift += g
                if gain is not None:
                    g *= load(gain + units, units < WIDTH, ACC)[None, :]
                mean = tl.sum(g, 1) / WIDTH
                along = tl.sum(g * bracket, 1) / WIDTH
                g = tl.where(inside, (g - mean[:, None] - bracket * along[:, None]) * deviation[:, None], 0.0)
            d_z += g
            if grad_brackets is not None:
                tl.store(grad_brackets + read_at, g, mask=inside)
                tl.debug_barrier()
            total = tl.zeros((BLOCK_B, BLOCK_T, BLOCK_H), ACC)
            for first in range(0, count, BLOCK_T):
                i = first + rows
                seen = inside[:, None, :] & (i < count)[None, :, None]
                memory_at = sequence[:, None, None] + (i * WIDTH)[None, :, None] + units
                if EARLY:
                    query_at = (samples * steps * (S * WIDTH))[:, None, None] + (i * (S * WIDTH))[None, :, None] + units
                    memory = load(queries + query_at, seen, ACC)
                else:
                    memory = load(output + memory_at, seen, ACC)
                age = count - 1 - i
                discount = load(discounts + age, i < count, ACC)[None, :]
                score = tl.sum(memory * q[:, None, :], 2)
                d_discounted = tl.sum(memory * g[:, None, :], 2)
                if grad_discounts is not None:
                    sum_at = grad_discounts + (samples * steps)[:, None] + age[None, :]
                    known = live[:, None] & (i < count)[None, :]
                    tl.store(sum_at, load(sum_at, known, ACC) + score * d_discounted, mask=known)
                score *= discount
                d_score = d_discounted * discount
                total += d_score[:, :, None] * memory
                d_memory = load(grad_written + memory_at, seen, ACC)
                d_memory += score[:, :, None] * g[:, None, :] + d_score[:, :, None] * q[:, None, :]
                tl.store(grad_written + memory_at, d_memory, mask=seen)
            d_h = tl.sum(total, 1)
            if RANK > 0:
                total = tl.zeros((BLOCK_B, BLOCK_T, BLOCK_H), ACC)
                for first in range(0, RANK, BLOCK_T):
                    i = first + rows
                    seen = inside[:, None, :] & (i < RANK)[None, :, None]
                    factor = (samples * RANK * WIDTH)[:, None, None] + (i * WIDTH)[None, :, None] + units
                    of = load(right + factor, seen, ACC)
                    to = load(left + factor, seen, ACC)
                    total += tl.sum(to * g[:, None, :], 2)[:, :, None] * of
                d_read = tl.sum(total, 1)
                d_scale += d_read * q
                d_h += scale * d_read
            if a0 is not None:
                d_read = multiply(
                    held_a0, a0, g, grad_brackets + read * WIDTH, live,
                    False, WIDTH, BLOCK_B, BLOCK_H, BLOCK_K, RESIDENT, PRECISION, ACC,
                )  # fmt: skip
                d_scale += d_read * q
                d_h += scale * d_read
            tl.debug_barrier()
        if EARLY:
            d_h += load(grad_written + at, inside, ACC)
        first_query = ((samples * steps + t) * S * WIDTH)[:, None] + units[None, :]
        d_z += relu_gradient(d_h, load(queries + first_query, inside, ACC))
        tl.store(grad_inputs + at, d_z, mask=inside)
        if grad_retained is not None:
            tl.store(grad_retained + samples * (steps + 1) + count, tl.sum(d_scale, 1), mask=live)
        tl.debug_barrier()
        d_h = multiply(
            held_weight, weight, d_z, grad_inputs + now, live,
            False, WIDTH, BLOCK_B, BLOCK_H, BLOCK_K, RESIDENT, PRECISION, ACC,
        )  # fmt: skip
    present = (samples < batch)[:, None] & (units < WIDTH)[None, :]
    tl.store(grad_h0 + (samples * WIDTH)[:, None] + units[None, :], d_h, mask=present)
    part = program * WIDTH + units
    if grad_gain is not None:
        tl.store(grad_gain + part, tl.sum(d_gain, 0), mask=units < WIDTH)
    if grad_shift is not None:
        tl.store(grad_shift + part, tl.sum(d_shift, 0), mask=units < WIDTH)
