"""Layers and directions of nn.RNN, nn.LSTM and nn.GRU over segments, by the kernel or by the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from contextual_rnn.ops._gated import cpu, reference
from contextual_rnn.ops._gated.kernel import Given, Settings
from contextual_rnn.ops._gated.operation import OPERATION, check_tensors
from contextual_rnn.ops.native.autograd import is_eager, run_as_operator, run_eagerly

# One layer and direction: outputs (B, T, O) and final states (1, B, O), c beside h.
Layer = Callable[[Given, Settings], tuple[Tensor, Tensor]]


def _native(given: Given, settings: Settings) -> tuple[Tensor, Tensor]:
    check_tensors(given, settings)
    if is_eager(given):
        output, final = run_eagerly(OPERATION, given, settings, True)
    else:
        from contextual_rnn.ops._gated.operators import OPERATOR

        output, final = run_as_operator(OPERATION, OPERATOR, given, settings, True)
    assert final is not None
    return output, final


BACKENDS: dict[str, Layer] = {"native": _native, "reference": reference.layer}
availability = cpu.availability
supports = cpu.supports


class Stack(NamedTuple):
    """A network's weights and what it does between its layers.

    `weights` has weight_ih, weight_hh, then bias_ih and bias_hh or none, then weight_hr of a projection, for each
    direction of each layer. `mode` is that of nn.RNNBase. `between` is applied to the output of every layer but the
    last.
    """

    mode: str
    weights: Sequence[Sequence[Tensor]]
    directions: int = 1
    between: Callable[[Tensor], Tensor] | None = None

    def run(
        self, inputs: Tensor, h0: Tensor, c0: Tensor | None, table: Tensor, backend: str
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs (B, T, D O), and h and c after the last segment of each row, (K, B, O) and (K, B, H).

        inputs (B, T, I); h0 (K, N, O) and, for an LSTM alone, c0 (K, N, H) have a row for each segment of `table`, as
        `Given` has it, and K = layers D of D directions. All are as nn.LSTM takes them but for that.
        """
        layer, finals = BACKENDS[backend], []
        parts = list(zip(self.weights, _layers(h0), _layers(h0 if c0 is None else c0), strict=True))
        for first in range(0, len(parts), self.directions):
            if first and self.between is not None:
                inputs = self.between(inputs)
            outputs = []
            for direction, (weights, h, c) in enumerate(parts[first : first + self.directions]):
                given = given_of(weights, inputs, h, None if c0 is None else c, table)
                output, final = layer(given, Settings.of(self.mode, direction == 1))
                outputs.append(output)
                finals.append(final)
            inputs = _side_by_side(outputs)
        final = torch.cat(finals) if len(finals) > 1 else finals[0]
        if c0 is None:
            return inputs, final, None
        h, c = final.split_with_sizes((h0.shape[2], c0.shape[2]), 2)
        return inputs, h.clone(), c.clone()  # each has memory of its own


def _layers(states: Tensor) -> Sequence[Tensor]:
    """The states (K, N, H) of each layer, (1, N, H)."""
    return states.split(1) if states.shape[0] > 1 else (states,)


def _side_by_side(outputs: list[Tensor]) -> Tensor:
    """Outputs of the directions as one, laid out in memory as they are."""
    if len(outputs) == 1:
        return outputs[0]
    if outputs[0].stride(0) < outputs[0].stride(1):
        return torch.cat([output.transpose(0, 1) for output in outputs], 2).transpose(0, 1)
    return torch.cat(outputs, 2)


def given_of(weights: Sequence[Tensor], inputs: Tensor, h: Tensor, c: Tensor | None, table: Tensor) -> Given:
    """What the kernel takes, of the weights of a layer as `Stack` has them."""
    weight_ih, weight_hh, *others = weights
    bias_ih, bias_hh = others[:2] if len(others) >= 2 else (None, None)
    weight_hr = others[-1] if len(others) % 2 else None
    return Given(inputs, weight_ih, weight_hh, h, c, bias_ih, bias_hh, weight_hr, table)
