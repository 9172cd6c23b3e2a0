"""The fast-weights recurrence as attention over what was written: the same numbers, A never stored.

With n vectors m(1..n) written so far, A applied to a query q is

    A q = decay^n A(0) q + rate * sum_i decay^(n-i) m(i) (m(i) . q)

The backward pass is written by hand: autograd would record a dozen nodes a read and, for an A(0) of every
sample's own, one outer product a step where a single batched product at the end does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contextual_rnn._shapes import Float, Int
from contextual_rnn._torch_internals import each_of_a_batch
from contextual_rnn.ops._fast_weights.options import FastWeightsOptions, LowRank, decay_tables
from contextual_rnn.ops.native.once import differentiable_once

_layer_norm = torch.ops.aten.native_layer_norm
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward
_relu_backward = torch.ops.aten.threshold_backward


def attention(
    inputs: Float[Tensor, "B T H"],
    weight_hh: Float[Tensor, "H H"],
    h0: Float[Tensor, "B H"],
    a0: Float[Tensor, "B H H"] | LowRank | None,
    norm_weight: Float[Tensor, " H"] | None,
    norm_bias: Float[Tensor, " H"] | None,
    lengths: Int[Tensor, " B"] | None,
    options: FastWeightsOptions,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H H"] | None]:
    """Step through time attending to the written vectors; O(B T (T + H) H) time, O(B T H) memory to go back.

    Differentiable once; the reference differentiates any number of times.
    """
    left, right = a0 if isinstance(a0, LowRank) else (None, None)
    dense = a0 if isinstance(a0, Tensor) else None
    beyond = None if lengths is None else torch.arange(inputs.shape[1], device=inputs.device) >= lengths[:, None]
    tables = decay_tables(options, inputs.shape[1], inputs)
    output, written = _Recurrence.apply(
        inputs, weight_hh, h0, dense, left, right, norm_weight, norm_bias, *tables, beyond, options
    )
    if not options.return_fast_weights:
        return output, None
    return output, final_fast_weights(output if written is None else written, a0, lengths, tables)


class _Recurrence(torch.autograd.Function):
    """The outputs h(t) and the written vectors m(t), each (B, T, H); under ba2016 the two are one and m is None.

    Every batched product is a row times a matrix: torch is several times slower at a matrix times a column.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        dense: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        discounts: Tensor,
        retained: Tensor,
        beyond: Tensor | None,
        options: FastWeightsOptions,
    ) -> tuple[Tensor, Tensor | None]:
        steps, width = inputs.shape[1:]
        initial = _InitialFastWeights(dense, left, right)
        by_writing = discounts.flip(0)  # the tail of length n serves a read of n writes
        written = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        outputs, queries, scores, norms = [], [], [], []
        weight_t = weight_hh.t()

        h = h0
        for t, projected in enumerate(inputs.unbind(1)):
            z = torch.addmm(projected, h, weight_t)
            h = _held(torch.relu(z), beyond, t)
            if options.timing == "wenke2019":
                written[:, t] = h
            count = _writes_before_read(t, options)
            seen, discount = written[:, :count], by_writing[steps - count :]
            for _ in range(options.inner_steps):
                queries.append(h)
                bracket = z
                if count:
                    scores.append(torch.bmm(h[:, None], seen.mT))
                    bracket = torch.baddbmm(bracket[:, None], scores[-1] * discount, seen)[:, 0]
                if initial.present:
                    bracket = initial.add_read(bracket, h * retained[count])
                if options.layer_norm:
                    normed, mean, deviation = _layer_norm(bracket, [width], norm_weight, norm_bias, options.eps)
                    norms += (bracket, mean, deviation)
                    bracket = normed
                h = torch.relu(bracket)
            h = _held(h, beyond, t)
            if options.timing == "ba2016":
                written[:, t] = h
            outputs.append(h)
        lagged = options.timing == "ba2016"
        output = written if lagged else torch.stack(outputs, dim=1)

        ctx.options = options
        ctx.counts = (len(queries), len(scores))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            inputs, weight_hh, h0, dense, left, right, norm_weight, norm_bias, discounts, retained, beyond,
            output, written, *queries, *scores, *norms,
        )  # fmt: skip
        return output, None if lagged else written

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_output: Tensor | None, grad_written: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors  # torch.utils.checkpoint gives them once

        def differentiate(*grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
            with torch.no_grad():
                grads = _backward(ctx, tensors, *grad_outputs)
            return differentiable_once(grads, tensors[:10], grad_outputs)

        return (*each_of_a_batch(differentiate, (grad_output, grad_written)), None, None)


def _backward(
    ctx: Any, tensors: Sequence[Any], grad_output: Tensor | None, grad_written: Tensor | None
) -> tuple[Tensor | None, ...]:
    options = ctx.options
    given, (beyond, output, written, *saved) = tensors[:10], tensors[10:]
    _, weight_hh, h0, dense, left, right, norm_weight, norm_bias, discounts, retained = given
    reads, scored = ctx.counts
    queries, scores, norms = saved[:reads], saved[reads : reads + scored], saved[reads + scored :]
    steps, width = output.shape[1:]
    initial = _InitialFastWeights(dense, left, right)
    by_writing = discounts.flip(0)
    grad_by_writing, grad_retained = torch.zeros_like(discounts), torch.zeros_like(retained)

    # Gradients of what was written gather here as reads are undone; under ba2016 the outputs are what was written.
    from_outside = grad_output if options.timing == "ba2016" else grad_written
    grad_written = torch.zeros_like(written) if from_outside is None else from_outside.clone()
    grad_normed: list[Any] = [None] * reads
    grad_brackets: list[Any] = [None] * reads
    grad_z: list[Any] = [None] * steps
    grad_h = torch.zeros_like(h0)
    for t in reversed(range(steps)):
        if options.timing == "ba2016":
            grad_h = grad_h + grad_written[:, t]
        elif grad_output is not None:
            grad_h = grad_h + grad_output[:, t]
        grad_h = _held(grad_h, beyond, t)
        count = _writes_before_read(t, options)
        seen, grad_seen, discount = written[:, :count], grad_written[:, :count], by_writing[steps - count :]
        grad_sum = None
        for s in reversed(range(options.inner_steps)):
            read = t * options.inner_steps + s
            result = output[:, t] if s == options.inner_steps - 1 else queries[read + 1]
            grad = _relu_backward(grad_h, result, 0)
            if options.layer_norm:
                grad_normed[read] = grad
                bracket, mean, deviation = norms[3 * read : 3 * read + 3]
                grad, _, _ = _layer_norm_backward(
                    grad, bracket, [width], mean, deviation, norm_weight, norm_bias, [True, False, False]
                )
            grad_brackets[read] = grad
            grad_sum = grad if grad_sum is None else grad_sum + grad
            grad_h = initial.read_transposed(grad) if initial.present else torch.zeros_like(grad)
            if initial.present and ctx.needs_input_grad[9]:
                grad_retained[count] += (grad_h * queries[read]).sum()
            grad_h *= retained[count]
            if count:
                score = scores[read - (reads - scored)]
                grad_score = torch.bmm(grad[:, None], seen.mT)
                if ctx.needs_input_grad[8]:
                    grad_by_writing[steps - count :] += (score * grad_score).sum((0, 1))
                grad_score *= discount
                grad_h = torch.baddbmm(grad_h[:, None], grad_score, seen)[:, 0]
                grad_seen.addcmul_((score * discount).mT, grad[:, None])
                grad_seen.addcmul_(grad_score.mT, queries[read][:, None])
        if options.timing == "wenke2019":
            grad_h = grad_h + grad_written[:, t]
        grad_z[t] = _relu_backward(grad_h, queries[t * options.inner_steps], 0) + grad_sum
        grad_h = grad_z[t] @ weight_hh

    grad_inputs = torch.stack(grad_z, dim=1)
    previous = torch.cat([h0[:, None], output[:, :-1]], dim=1)
    grad_weight = grad_inputs.reshape(-1, width).t() @ previous.reshape(-1, width)
    grad_norm: tuple[Tensor | None, ...] = (None, None)
    if norm_weight is not None or norm_bias is not None:
        grad_norm = _layer_norm_backward(
            torch.stack(grad_normed), torch.stack(norms[::3]), [width],
            torch.stack(norms[1::3]), torch.stack(norms[2::3]), norm_weight, norm_bias,
            [False, norm_weight is not None, norm_bias is not None],
        )[1:]  # fmt: skip
    grad_initial: tuple[Tensor | None, ...] = (None, None, None)
    if initial.present:
        early = _writes_before_read(0, options)
        scale = retained[early : early + steps].repeat_interleave(options.inner_steps)
        grad_initial = initial.backward(torch.stack(queries, 1), torch.stack(grad_brackets, 1) * scale[:, None])
    return grad_inputs, grad_weight, grad_h, *grad_initial, *grad_norm, grad_by_writing.flip(0), grad_retained


class _InitialFastWeights:
    """A(0) as given: one matrix a sample (B, H, H), low rank (B, r, H) twice, or absent."""

    def __init__(self, dense: Tensor | None, left: Tensor | None, right: Tensor | None):
        self.dense, self.left, self.right = dense, left, right
        self.present = dense is not None or left is not None
        # One matrix tiled over the batch without copies (a free or constant state) is read as one.
        tiled = dense is not None and dense.stride(0) == 0 and len(dense) > 0
        self.matrix = dense[0] if dense is not None and tiled else None

    def add_read(self, bracket: Tensor, query: Tensor) -> Tensor:
        """bracket + A(0) query."""
        if self.left is not None and self.right is not None:
            scores = torch.bmm(query[:, None], self.right.mT)
            return torch.baddbmm(bracket[:, None], scores, self.left)[:, 0]
        if self.matrix is not None:
            return torch.addmm(bracket, query, self.matrix.t())
        if self.dense is not None:
            return torch.baddbmm(bracket[:, None], query[:, None], self.dense.mT)[:, 0]
        return bracket

    def read_transposed(self, grad: Tensor) -> Tensor:
        """A(0)^T grad."""
        if self.left is not None and self.right is not None:
            return torch.bmm(torch.bmm(grad[:, None], self.left.mT), self.right)[:, 0]
        if self.matrix is not None:
            return grad @ self.matrix
        if self.dense is not None:
            return torch.bmm(grad[:, None], self.dense)[:, 0]
        return torch.zeros_like(grad)

    def backward(self, queries: Tensor, grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of A(0), left and right from all N reads at once; queries and scaled grads are (B, N, H)."""
        if self.left is not None and self.right is not None:
            grad_left = torch.bmm(torch.bmm(self.right, queries.mT), grads)
            grad_right = torch.bmm(torch.bmm(self.left, grads.mT), queries)
            return None, grad_left, grad_right
        return torch.bmm(grads.mT, queries), None, None


def _held(h: Tensor, beyond: Tensor | None, t: int) -> Tensor:
    """h, zero in the rows whose sequence has ended before step t: what stands there must not matter or overflow."""
    return h if beyond is None else h.masked_fill(beyond[:, t, None], 0)


def _writes_before_read(t: int, options: FastWeightsOptions) -> int:
    return t + 1 if options.timing == "wenke2019" else t


def final_fast_weights(
    written: Tensor,
    a0: Tensor | LowRank | None,
    lengths: Tensor | None,
    tables: tuple[Tensor, Tensor],
    start: Tensor | None = None,
) -> Tensor:
    """A after each sequence's last step from what was written, (B, H, H); sequences begin at step `start`, or at 0."""
    discounts, retained = tables
    steps = written.shape[1]
    if lengths is None:
        weights, left = discounts.flip(0), retained[steps]
    else:
        end, step = lengths if start is None else start + lengths, torch.arange(steps, device=written.device)
        ages = end[:, None] - 1 - step
        seen = ages >= 0
        if start is not None:
            seen &= step >= start[:, None]
            written = torch.where(seen[..., None], written, 0.0)  # others in the row may have ended in NaN
        weights = torch.where(seen, discounts[torch.where(seen, ages, 0)], 0.0)
        left = retained[lengths][:, None, None]
    final = torch.bmm((written * weights[..., None]).mT, written)
    if a0 is None:
        return final
    return final + left * (a0.dense() if isinstance(a0, LowRank) else a0)
