"""The program of the Triton kernel, and what its derivative in `triton_backward.py` shares; `triton.py` launches both.

Triton compiles the functions of modules that import it, so these are imported at the first launch. One program,
which is one block of threads, takes one sample through all its steps. In the names used here

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
def load(at, mask, ACC: tl.constexpr):
    return tl.load(at, mask=mask, other=0.0).to(ACC)


@triton.jit
def relu(x):
    return tl.where(x < 0, 0.0, x)  # a maximum would turn NaN into 0


@triton.jit
def relu_gradient(grad, result):
    return tl.where(result <= 0, 0.0, grad)


@triton.jit
def hold(matrix, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, RESIDENT: tl.constexpr, ACC: tl.constexpr):
    """The matrix (H, H) in registers for all steps, where it fits."""
    if RESIDENT:
        units = tl.arange(0, BLOCK_H)
        inside = (units[:, None] < WIDTH) & (units[None, :] < WIDTH)
        held = load(matrix + units[:, None] * WIDTH + units[None, :], inside, ACC)
    else:
        held = tl.zeros((1, 1), ACC)
    return held


@triton.jit
def multiply(
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
            tile = load(matrix + units[:, None] * ROW + columns[None, :] * COLUMN, inside, ACC)
            total += tile * load(vector_at + columns, columns < WIDTH, ACC)[None, :]
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

    held_weight = hold(weight, WIDTH, BLOCK_H, RESIDENT, ACC)
    if a0 is not None:
        if not SHARED_A0:
            a0 += sample * WIDTH * WIDTH
        held_a0 = hold(a0, WIDTH, BLOCK_H, RESIDENT, ACC)
    previous = h0 + sample * WIDTH
    h = load(previous + units, inside, ACC)
    for t in range(length):
        z = load(inputs + t * WIDTH + units, inside, ACC)
        z += multiply(held_weight, weight, h, previous, False, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
        h = relu(z)
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
                memory = load(written + i[:, None] * WIDTH + units[None, :], seen, ACC)
                discount = load(discounts + (count - 1 - i), i < count, ACC)
                total += (tl.sum(memory * h[None, :], 1) * discount)[:, None] * memory
            if RANK > 0:
                for first in range(0, RANK, BLOCK_T):
                    i = first + rows
                    seen = (i[:, None] < RANK) & inside[None, :]
                    to = load(left + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    of = load(right + i[:, None] * WIDTH + units[None, :], seen, ACC)
                    total += (tl.sum(of * h[None, :], 1) * scale)[:, None] * to
            bracket = z + tl.sum(total, 0)
            if a0 is not None:
                query_at = h0 if RESIDENT else query
                bracket += scale * multiply(held_a0, a0, h, query_at, False, WIDTH, BLOCK_H, BLOCK_K, RESIDENT, ACC)
            if LAYER_NORM:
                centred = tl.where(inside, bracket - tl.sum(bracket, 0) / WIDTH, 0.0)
                deviation = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / WIDTH + EPS)
                bracket = centred * deviation
                if KEEP:
                    tl.store(normed + (t * S + s) * WIDTH + units, bracket, mask=inside)
                    tl.store(deviations + t * S + s, deviation)
                if gain is not None:
                    bracket *= load(gain + units, inside, ACC)
                if shift is not None:
                    bracket += load(shift + units, inside, ACC)
            h = relu(bracket)
        previous = output + t * WIDTH
        tl.store(previous + units, h, mask=inside)
        tl.debug_barrier()
