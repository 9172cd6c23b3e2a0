"""The program of the Triton kernel, and what its derivative in `backward.py` shares; `launch.py` launches both.

Triton compiles the functions of modules that import it, so these are imported at the first launch. One program,
which is one block of threads, takes BLOCK_B samples through all their steps. In the names used here

  units        the hidden units, padded to a power of two, BLOCK_H; whatever is beyond WIDTH stays zero
  read         of the fast weights, S of them a step; its query q(t, s), q(t, 0) = relu(z) the preliminary state
  memory m(t)  the vector written in step t: q(t, 0) if EARLY (wenke2019), h(t) otherwise (ba2016)
  bracket      z plus what a read adds; ACC is the type that everything is summed in
  live         the samples whose sequence has not ended before step t; of others all that is read is zero

Vectors and tiles live in registers, spread over the threads. A thread sees what another has stored only after
`tl.debug_barrier()`, which therefore stands between every store and the loads that depend on it.
"""

# Triton gives the parameters of its programs their types.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false

# Constants in capitals, as Triton's own programs have them; its compiler wants plain branches, and leaves out those
# that a constant rules out, which type checkers cannot know.
# ruff: noqa: N803, N806
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
def lengths_of(lengths, samples, batch, steps):
    """How many steps each sample of this program takes, (BLOCK_B,): none where there is no such sample."""
    present = samples < batch
    if lengths is not None:
        length = tl.minimum(tl.load(lengths + samples, mask=present, other=0), steps).to(tl.int32)
    else:
        length = tl.where(present, steps, 0)
    return length


@triton.jit
def tile_of(matrix, k, units, TRANSPOSED: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr):
    """Rows k and columns `units` of the matrix (H, H), or of its transpose."""
    ROW: tl.constexpr = 1 if TRANSPOSED else WIDTH
    COLUMN: tl.constexpr = WIDTH if TRANSPOSED else 1
    inside = (k[:, None] < WIDTH) & (units[None, :] < WIDTH)
    return load(matrix + k[:, None] * ROW + units[None, :] * COLUMN, inside, ACC)


@triton.jit
def hold(
    matrix,
    TRANSPOSED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_H: tl.constexpr,
    RESIDENT: tl.constexpr,
    ACC: tl.constexpr,
):
    """The matrix (H, H) or its transpose in registers for all steps, where it fits."""
    if RESIDENT:
        units = tl.arange(0, BLOCK_H)
        held = tile_of(matrix, units, units, TRANSPOSED, WIDTH, ACC)
    else:
        held = tl.zeros((1, 1), ACC)
    return held


@triton.jit
def multiply(
    held,
    matrix,
    vectors,
    vectors_at,
    live,
    TRANSPOSED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """Vectors (BLOCK_B, H) times the matrix or its transpose: both in registers, or else both from memory, in tiles.

    Of many vectors on the units for products of matrices, with PRECISION; of few as sums, without.
    """
    if RESIDENT:
        if PRECISION is not None:
            product = tl.dot(vectors, held, input_precision=PRECISION, out_dtype=ACC)
        else:
            product = tl.sum(vectors[:, :, None] * held[None, :, :], 1)
    else:
        units = tl.arange(0, BLOCK_H)
        if PRECISION is not None:
            product = tl.zeros((BLOCK_B, BLOCK_H), ACC)
        else:
            total = tl.zeros((BLOCK_B, BLOCK_K, BLOCK_H), ACC)
        for first in range(0, WIDTH, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            tile = tile_of(matrix, k, units, TRANSPOSED, WIDTH, ACC)
            some = load(vectors_at[:, None] + k[None, :], live[:, None] & (k[None, :] < WIDTH), ACC)
            if PRECISION is not None:
                product = tl.dot(some, tile, product, input_precision=PRECISION, out_dtype=ACC)
            else:
                total += some[:, :, None] * tile[None, :, :]
        if PRECISION is None:
            product = tl.sum(total, 1)
    return product


@triton.jit(do_not_specialize=["batch", "steps"])
def forward(
    inputs,  # (B, T, H), as all tensors contiguous
    weight,  # (H, H)
    h0,  # (B, H)
    a0,  # (B, H, H), then BLOCK_B is 1, or (1, H, H) if shared, or None
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
    batch,
    steps,
    S: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    EARLY: tl.constexpr,
    LAYER_NORM: tl.constexpr,
    SHARED_A0: tl.constexpr,
    KEEP: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    # With 32 bits offsets of samples would overflow.
    samples = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.arange(0, BLOCK_H)
    rows = tl.arange(0, BLOCK_T)
    sequence = samples * steps * WIDTH
    saved_queries = samples * (steps if KEEP else 1) * S * WIDTH
    length = lengths_of(lengths, samples, batch, steps)
    held_weight = hold(weight, True, WIDTH, BLOCK_H, RESIDENT, ACC)
    if a0 is not None:
        if not SHARED_A0:
            a0 += tl.program_id(0).to(tl.int64) * WIDTH * WIDTH
        held_a0 = hold(a0, True, WIDTH, BLOCK_H, RESIDENT, ACC)
    previous = h0 + samples * WIDTH
    h = load(previous[:, None] + units[None, :], (samples < batch)[:, None] & (units < WIDTH)[None, :], ACC)
    for t in range(tl.max(length, 0)):
        live = t < length
        inside = live[:, None] & (units < WIDTH)[None, :]
        at = (sequence + t * WIDTH)[:, None] + units[None, :]
        z = load(inputs + at, inside, ACC)
        z += multiply(
            held_weight, weight, h, previous, live, True, WIDTH, BLOCK_B, BLOCK_H, BLOCK_K, RESIDENT, PRECISION, ACC
        )
        h = relu(z)
        count = t
        if EARLY:
            count = t + 1
            tl.store(written + at, h, mask=inside)
        scale = tl.load(retained + count).to(ACC)
        for s in range(S):
            if queries is not None:
                query = queries + saved_queries + ((t if KEEP else 0) * S + s) * WIDTH
                tl.store(query[:, None] + units[None, :], h, mask=inside)
            tl.debug_barrier()
            # Summed over rows once, after the loop: a sum over rows has to cross warps.
            total = tl.zeros((BLOCK_B, BLOCK_T, BLOCK_H), ACC)
            for first in range(0, count, BLOCK_T):
                i = first + rows
                seen = inside[:, None, :] & (i < count)[None, :, None]
                memory = load(written + sequence[:, None, None] + (i * WIDTH)[None, :, None] + units, seen, ACC)
                discount = load(discounts + (count - 1 - i), i < count, ACC)
                total += (tl.sum(memory * h[:, None, :], 2) * discount[None, :])[:, :, None] * memory
            if RANK > 0:
                for first in range(0, RANK, BLOCK_T):
                    i = first + rows
                    seen = inside[:, None, :] & (i < RANK)[None, :, None]
                    factor = (samples * RANK * WIDTH)[:, None, None] + (i * WIDTH)[None, :, None] + units
                    of = load(right + factor, seen, ACC)
                    to = load(left + factor, seen, ACC)
                    total += (tl.sum(of * h[:, None, :], 2) * scale)[:, :, None] * to
            bracket = z + tl.sum(total, 1)
            if a0 is not None:
                query_at = previous if RESIDENT else query
                bracket += scale * multiply(
                    held_a0, a0, h, query_at, live, True, WIDTH, BLOCK_B, BLOCK_H, BLOCK_K, RESIDENT, PRECISION, ACC
                )
            if LAYER_NORM:
                centred = tl.where(inside, bracket - (tl.sum(bracket, 1) / WIDTH)[:, None], 0.0)
                deviation = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / WIDTH + EPS)
                bracket = centred * deviation[:, None]
                if KEEP:
                    norm = (samples * steps + t) * S + s
                    tl.store(normed + (norm * WIDTH)[:, None] + units[None, :], bracket, mask=inside)
                    tl.store(deviations + norm, deviation, mask=live)
                if gain is not None:
                    bracket *= load(gain + units, units < WIDTH, ACC)[None, :]
                if shift is not None:
                    bracket += load(shift + units, units < WIDTH, ACC)[None, :]
            h = relu(bracket)
        previous = output + sequence + t * WIDTH
        tl.store(output + at, h, mask=inside)
        tl.debug_barrier()
