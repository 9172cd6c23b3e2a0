"""The program of the Triton kernel's derivative, in the terms of `triton_forward.py`; every sum is of one sample."""

# ruff: noqa: N803, SIM108
# pyright: reportArgumentType=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl

from contextual_rnn.ops.triton_forward import hold, load, multiply, relu_gradient


@triton.jit(do_not_specialize=["steps"])
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
    grad_gain,  # (B, H), each sample's part, or None
    grad_shift,  # (B, H), likewise
    grad_discounts,  # (B, T) zeros, likewise
    grad_retained,  # (B, T + 1) zeros, likewise
    steps,
    S: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    EARLY: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    SHARED_A0: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    ACC: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    units = tl.arange(0, BLOCK_H)
    rows = tl.arange(0, BLOCK_T)
    inside = units < WIDTH
    output += sample * steps * WIDTH
    queries += sample * steps * S * WIDTH
    grad_written += sample * steps * WIDTH
    grad_inputs += sample * steps * WIDTH
    if EARLY:
        grad_output += sample * steps * WIDTH
    if LAYER_NORM:
        normed += sample * steps * S * WIDTH
        deviations += sample * steps * S
    if RANK > 0:
        left += sample * RANK * WIDTH
        right += sample * RANK * WIDTH
    if grad_brackets is not None:
        grad_brackets += sample * steps * S * WIDTH
    if grad_discounts is not None:
        grad_discounts += sample * steps
    if grad_retained is not None:
        grad_retained += sample * (steps + 1)
    if lengths is not None:
        length = tl.load(lengths + sample).to(tl.int32)
    else:
        length = steps

    held_weight = hold(weight, WIDTH, BLOCK_H, RESIDENT, ACC)
    if a0 is not None:
        if not SHARED_A0:
            a0 += sample * WIDTH * WIDTH
        held_a0 = hold(a0, WIDTH, BLOCK_H, RESIDENT, ACC)
    d_gain = tl.zeros((BLOCK_H,), ACC)
    d_shift = tl.zeros((BLOCK_H,), ACC)
    d_h = tl.zeros((BLOCK_H,), ACC)
    for steps_left in range(length):
        t = length - 1 - steps_left
        count = t
        if EARLY:
            count = t + 1
            d_h += load(grad_output + t * WIDTH + units, inside, ACC)
        else:
            d_h += load(grad_written + t * WIDTH + units, inside, ACC)
        scale = tl.load(retained + count).to(ACC)
        d_z = tl.zeros((BLOCK_H,), ACC)
        d_scale = tl.zeros((BLOCK_H,), ACC)
        for reads_left in range(S):
            s = S - 1 - reads_left
            q = load(queries + (t * S + s) * WIDTH + units, inside, ACC)
            if s == S - 1:
                result = load(output + t * WIDTH + units, inside, ACC)
            else:
                result = load(queries + (t * S + s + 1) * WIDTH + units, inside, ACC)
            g = relu_gradient(d_h, result)
            if LAYER_NORM:
                bracket = load(normed + (t * S + s) * WIDTH + units, inside, ACC)
                deviation = tl.load(deviations + t * S + s).to(ACC)
                d_gain += g * bracket
                d_shift += g
                if gain is not None:
                    g *= load(gain + units, inside, ACC)
                mean = tl.sum(g, 0) / WIDTH
                along = tl.sum(g * bracket, 0) / WIDTH
                g = tl.where(inside, (g - mean - bracket * along) * deviation, 0.0)
            d_z += g
            if grad_brackets is not None:
                grad_bracket = grad_brackets + (t * S + s) * WIDTH
                tl.store(grad_bracket + units, g, mask=inside)
                tl.debug_barrier()
            total = tl.zeros((BLOCK_T, BLOCK_H), ACC)
            for first in range(0, count, BLOCK_T):
                i = first + rows
                seen = (i[:, None] < count) & inside[None, :]
                at = i[:, None] * WIDTH + units[None, :]
                if EARLY:
                    memory = load(queries + i[:, None] * (S * WIDTH) + units[None, :], seen, ACC)
                else:
                    memory = load(output + at, seen, ACC)
                age = count - 1 - i
                discount = load(discounts + age, i < count, ACC)
                score = tl.sum(memory * q[None, :], 1)
                d_discounted = tl.sum(memory * g[None, :], 1)
                if grad_discounts is not None:
                    sofar = load(grad_discounts + age, i < count, ACC)
                    tl.store(grad_discounts + age, sofar + score * d_discounted, mask=i < count)
                score *= discount
                d_score = d_discounted * discount
                total += d_score[:, None] * memory
                d_memory = load(grad_written + at, seen, ACC)
                d_memory += score[:, None] * g[None, :] + d_score[:, None] * q[None, :]
                tl.store(grad_written + at, d_memory, mask=seen)
            d_h = tl.sum(total, 0)
            if RANK > 0:
                total = tl.zeros((BLOCK_T, BLOCK_H), ACC)
                for first in range(0, RANK, BLOCK_T):
                    i = first + rows
                    seen = (i[:, None] < RANK) & inside[None, :]
                    to = load(left + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    of = load(right + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    total += tl.sum(to * g[None, :], 1)[:, None] * of
                d_read = tl.sum(total, 0)
                d_scale += d_read * q
                d_h += scale * d_read
            if a0 is not None:
                d_read = multiply(held_a0, a0, g, grad_bracket, True, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
                d_scale += d_read * q
                d_h += scale * d_read
            tl.debug_barrier()
        if EARLY:
            d_h += load(grad_written + t * WIDTH + units, inside, ACC)
        d_z += relu_gradient(d_h, load(queries + t * S * WIDTH + units, inside, ACC))
        tl.store(grad_inputs + t * WIDTH + units, d_z, mask=inside)
        if grad_retained is not None:
            tl.store(grad_retained + count, tl.sum(d_scale, 0))
        tl.debug_barrier()
        d_h = multiply(held_weight, weight, d_z, grad_inputs + t * WIDTH, True, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
    tl.store(grad_h0 + sample * WIDTH + units, d_h, mask=inside)
    if grad_gain is not None:
        tl.store(grad_gain + sample * WIDTH + units, d_gain, mask=inside)
    if grad_shift is not None:
        tl.store(grad_shift + sample * WIDTH + units, d_shift, mask=inside)
