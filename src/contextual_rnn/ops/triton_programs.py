"""The programs of the Triton kernel, forward and backward; `triton.py` launches them and says what it keeps.

Triton compiles what stands in a module's functions, so they have one of their own, imported at the first launch.
One program, which is one block of threads, takes one sample through all its steps. In the names used here

  units        the hidden units, padded to a power of two, BLOCK_H; whatever is beyond WIDTH is kept zero
  read         of the fast weights, S of them a step; its query q(t, s), q(t, 0) = relu(z) the preliminary state
  memory m(t)  the vector written in step t: q(t, 0) if EARLY (wenke2019), h(t) otherwise (ba2016)
  bracket      z plus what a read adds; ACC is the type that everything is summed in

Vectors and tiles live in registers, spread over the threads. A thread sees what another has stored only after
`tl.debug_barrier()`, which therefore stands between every store and the loads that depend on it.
"""

# Constants in capitals, as Triton's own programs have them; its compiler wants plain branches, and leaves out those
# that a constant rules out, which type checkers cannot know.
# ruff: noqa: N803, N806, SIM108
# pyright: reportArgumentType=false, reportAssignmentType=false, reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load(at, mask, ACC: tl.constexpr):
    return tl.load(at, mask=mask, other=0.0).to(ACC)


@triton.jit
def _relu(x):
    return tl.where(x < 0, 0.0, x)  # a maximum would turn NaN into 0


@triton.jit
def _relu_gradient(grad, result):
    return tl.where(result <= 0, 0.0, grad)


@triton.jit
def _hold(matrix, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, RESIDENT: tl.constexpr, ACC: tl.constexpr):
    """The matrix (H, H) in registers for all steps, where it fits."""
    if RESIDENT:
        units = tl.arange(0, BLOCK_H)
        inside = (units[:, None] < WIDTH) & (units[None, :] < WIDTH)
        held = _load(matrix + units[:, None] * WIDTH + units[None, :], inside, ACC)
    else:
        held = tl.zeros((1, 1), ACC)
    return held


@triton.jit
def _multiply(
    held,
    matrix,
    vector,
    vector_at,
    TRANSPOSED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    ACC: tl.constexpr,
):
    """The matrix or its transpose times a vector, (H,): both in registers, or else both from memory, in tiles."""
    if RESIDENT:
        if TRANSPOSED:
            product = tl.sum(held * vector[:, None], 0)
        else:
            product = tl.sum(held * vector[None, :], 1)
    else:
        ROW: tl.constexpr = 1 if TRANSPOSED else WIDTH
        COLUMN: tl.constexpr = WIDTH if TRANSPOSED else 1
        units = tl.arange(0, BLOCK_H)
        total = tl.zeros((BLOCK_H, BLOCK_K), ACC)
        for first in range(0, WIDTH, BLOCK_K):
            columns = first + tl.arange(0, BLOCK_K)
            inside = (units[:, None] < WIDTH) & (columns[None, :] < WIDTH)
            tile = _load(matrix + units[:, None] * ROW + columns[None, :] * COLUMN, inside, ACC)
            total += tile * _load(vector_at + columns, columns < WIDTH, ACC)[None, :]
        product = tl.sum(total, 1)
    return product


@triton.jit(do_not_specialize=["steps"])
def forward(
    inputs,  # (B, T, H), as all tensors contiguous
    weight,  # (H, H)
    h0,  # (B, H)
    a0,  # (B, H, H), or (1, H, H) if shared, or None
    left,  # (B, r, H) or None
    right,
    gain,  # (H,) or None
    shift,
    discounts,  # (T,), rate * decay^age
    retained,  # (T + 1,), decay^count
    lengths,  # (B,) or None
    output,  # (B, T, H)
    written,  # (B, T, H): the output itself unless EARLY
    queries,  # (B, T, S, H) if KEEP; (B, S, H) where products read them from memory; else None
    normed,  # (B, T, S, H), brackets before gain and shift; None unless KEEP and LAYER_NORM
    deviations,  # (B, T, S), one over the standard deviation of a bracket, as normed
    steps,
    S: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    EARLY: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    SHARED_A0: tl.constexpr,
    KEEP: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    ACC: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)  # with 32 bits offsets of samples would overflow
    units = tl.arange(0, BLOCK_H)
    rows = tl.arange(0, BLOCK_T)
    inside = units < WIDTH
    inputs += sample * steps * WIDTH
    output += sample * steps * WIDTH
    written += sample * steps * WIDTH
    if queries is not None:
        queries += sample * (steps if KEEP else 1) * S * WIDTH
    if normed is not None:
        normed += sample * steps * S * WIDTH
        deviations += sample * steps * S
    if RANK > 0:
        left += sample * RANK * WIDTH
        right += sample * RANK * WIDTH
    if lengths is not None:
        length = tl.load(lengths + sample).to(tl.int32)
    else:
        length = steps

    held_weight = _hold(weight, WIDTH, BLOCK_H, RESIDENT, ACC)
    if a0 is not None:
        if not SHARED_A0:
            a0 += sample * WIDTH * WIDTH
        held_a0 = _hold(a0, WIDTH, BLOCK_H, RESIDENT, ACC)
    previous = h0 + sample * WIDTH
    h = _load(previous + units, inside, ACC)
    for t in range(length):
        z = _load(inputs + t * WIDTH + units, inside, ACC)
        z += _multiply(held_weight, weight, h, previous, False, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
        h = _relu(z)
        count = t
        if EARLY:
            count = t + 1
            tl.store(written + t * WIDTH + units, h, mask=inside)
        scale = tl.load(retained + count).to(ACC)
        for s in range(S):
            if queries is not None:
                query = queries + ((t if KEEP else 0) * S + s) * WIDTH
                tl.store(query + units, h, mask=inside)
            tl.debug_barrier()
            # Summed over rows once, after the loop: a sum over rows has to cross warps.
            total = tl.zeros((BLOCK_T, BLOCK_H), ACC)
            for first in range(0, count, BLOCK_T):
                i = first + rows
                seen = (i[:, None] < count) & inside[None, :]
                memory = _load(written + i[:, None] * WIDTH + units[None, :], seen, ACC)
                discount = _load(discounts + (count - 1 - i), i < count, ACC)
                total += (tl.sum(memory * h[None, :], 1) * discount)[:, None] * memory
            if RANK > 0:
                for first in range(0, RANK, BLOCK_T):
                    i = first + rows
                    seen = (i[:, None] < RANK) & inside[None, :]
                    to = _load(left + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    of = _load(right + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    total += (tl.sum(of * h[None, :], 1) * scale)[:, None] * to
            bracket = z + tl.sum(total, 0)
            if a0 is not None:
                query_at = h0 if RESIDENT else query
                bracket += scale * _multiply(held_a0, a0, h, query_at, False, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
            if LAYER_NORM:
                centred = tl.where(inside, bracket - tl.sum(bracket, 0) / WIDTH, 0.0)
                deviation = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / WIDTH + EPS)
                bracket = centred * deviation
                if KEEP:
                    tl.store(normed + (t * S + s) * WIDTH + units, bracket, mask=inside)
                    tl.store(deviations + t * S + s, deviation)
                if gain is not None:
                    bracket *= _load(gain + units, inside, ACC)
                if shift is not None:
                    bracket += _load(shift + units, inside, ACC)
            h = _relu(bracket)
        previous = output + t * WIDTH
        tl.store(previous + units, h, mask=inside)
        tl.debug_barrier()


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

    held_weight = _hold(weight, WIDTH, BLOCK_H, RESIDENT, ACC)
    if a0 is not None:
        if not SHARED_A0:
            a0 += sample * WIDTH * WIDTH
        held_a0 = _hold(a0, WIDTH, BLOCK_H, RESIDENT, ACC)
    d_gain = tl.zeros((BLOCK_H,), ACC)
    d_shift = tl.zeros((BLOCK_H,), ACC)
    d_h = tl.zeros((BLOCK_H,), ACC)
    for steps_left in range(length):
        t = length - 1 - steps_left
        count = t
        if EARLY:
            count = t + 1
            d_h += _load(grad_output + t * WIDTH + units, inside, ACC)
        else:
            d_h += _load(grad_written + t * WIDTH + units, inside, ACC)
        scale = tl.load(retained + count).to(ACC)
        d_z = tl.zeros((BLOCK_H,), ACC)
        d_scale = tl.zeros((BLOCK_H,), ACC)
        for reads_left in range(S):
            s = S - 1 - reads_left
            q = _load(queries + (t * S + s) * WIDTH + units, inside, ACC)
            if s == S - 1:
                result = _load(output + t * WIDTH + units, inside, ACC)
            else:
                result = _load(queries + (t * S + s + 1) * WIDTH + units, inside, ACC)
            g = _relu_gradient(d_h, result)
            if LAYER_NORM:
                bracket = _load(normed + (t * S + s) * WIDTH + units, inside, ACC)
                deviation = tl.load(deviations + t * S + s).to(ACC)
                d_gain += g * bracket
                d_shift += g
                if gain is not None:
                    g *= _load(gain + units, inside, ACC)
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
                    memory = _load(queries + i[:, None] * (S * WIDTH) + units[None, :], seen, ACC)
                else:
                    memory = _load(output + at, seen, ACC)
                age = count - 1 - i
                discount = _load(discounts + age, i < count, ACC)
                score = tl.sum(memory * q[None, :], 1)
                d_discounted = tl.sum(memory * g[None, :], 1)
                if grad_discounts is not None:
                    sofar = _load(grad_discounts + age, i < count, ACC)
                    tl.store(grad_discounts + age, sofar + score * d_discounted, mask=i < count)
                score *= discount
                d_score = d_discounted * discount
                total += d_score[:, None] * memory
                d_memory = _load(grad_written + at, seen, ACC)
                d_memory += score[:, None] * g[None, :] + d_score[:, None] * q[None, :]
                tl.store(grad_written + at, d_memory, mask=seen)
            d_h = tl.sum(total, 0)
            if RANK > 0:
                total = tl.zeros((BLOCK_T, BLOCK_H), ACC)
                for first in range(0, RANK, BLOCK_T):
                    i = first + rows
                    seen = (i[:, None] < RANK) & inside[None, :]
                    to = _load(left + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    of = _load(right + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    total += tl.sum(to * g[None, :], 1)[:, None] * of
                d_read = tl.sum(total, 0)
                d_scale += d_read * q
                d_h += scale * d_read
            if a0 is not None:
                d_read = _multiply(held_a0, a0, g, grad_bracket, True, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
                d_scale += d_read * q
                d_h += scale * d_read
            tl.debug_barrier()
        if EARLY:
            d_h += _load(grad_written + t * WIDTH + units, inside, ACC)
        d_z += _relu_gradient(d_h, _load(queries + t * S * WIDTH + units, inside, ACC))
        tl.store(grad_inputs + t * WIDTH + units, d_z, mask=inside)
        if grad_retained is not None:
            tl.store(grad_retained + count, tl.sum(d_scale, 0))
        tl.debug_barrier()
        d_h = _multiply(held_weight, weight, d_z, grad_inputs + t * WIDTH, True, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
    tl.store(grad_h0 + sample * WIDTH + units, d_h, mask=inside)
    if grad_gain is not None:
        tl.store(grad_gain + sample * WIDTH + units, d_gain, mask=inside)
    if grad_shift is not None:
        tl.store(grad_shift + sample * WIDTH + units, d_shift, mask=inside)
