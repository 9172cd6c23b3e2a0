"""The network of a comparison: one recurrent network, one readout, and the initial state of an arm or its control."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextNet, ContextState, ContextualRNN, FastWeightsRNN, FreeState, NormalState
from contextual_rnn.experiments.config import PanelConfig
from contextual_rnn.experiments.config.files import load_name
from contextual_rnn.experiments.panels import Batch, Encoding
from contextual_rnn.layers.features import Feature
from contextual_rnn.states import InitialState

SCALE = 0.1  # where sigma of the normal state starts
NATIVE = (nn.RNN, nn.LSTM, nn.GRU)


def _torch_network(kind: type[nn.RNNBase], input_size: int, units: int) -> nn.Module:
    return kind(input_size, units, batch_first=True)


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "lstm": functools.partial(_torch_network, nn.LSTM),
    "gru": functools.partial(_torch_network, nn.GRU),
    "rnn": functools.partial(_torch_network, nn.RNN),
    "fast_weights": lambda input_size, units: FastWeightsRNN(input_size, units, batch_first=True),
}


class Sizes:
    """How wide the tensors of a batch are, as an encoding says."""

    def __init__(self, encoding: Encoding):
        past_target = replace(encoding.target, missing=True).width if encoding.target_per == "step" else 0
        self.coded = sum(coding.width for coding in encoding.inputs.values())
        self.target_before = past_target if encoding.columns.reads_itself else 0
        self.inputs = self.coded + self.target_before or 1
        self.steps = encoding.columns.window
        self.window = (self.coded + past_target) * self.steps
        self.context: dict[str, Feature] = {}
        for name, coding in encoding.context.items():
            self.context |= coding.features(name)
        self.classes = len(encoding.target.categories) if encoding.target.kind == "category" else 0


class Past(nn.Module):
    """Features of what is known before the start: of the context, of the window of the past, or of both.

        concat(ContextNet(context), ReLU(W window + b))
    """

    def __init__(self, sizes: Sizes, features: int, *, context: bool, window: bool):
        super().__init__()
        self.context = ContextNet(sizes.context, features) if context else None
        self.window = nn.Linear(sizes.window, features) if window else None
        self.features = features * (context + window)

    def forward(self, known: Mapping[str, Any]) -> Tensor:
        """`known` has "context", what the context network takes, and "window", (B, W, G)."""
        parts = []
        if self.context is not None:
            parts.append(self.context(known["context"]))
        if self.window is not None:
            parts.append(torch.relu(self.window(known["window"].flatten(1))))
        return torch.cat(parts, 1)


class PanelModel(nn.Module):
    """Predictions of a target from inputs, with the initial state that `config.state` names; see `PanelConfig`.

    Predictions are (B, T), or (B, T, classes) for a target of classes; without T for a target of one value a series.
    """

    def __init__(self, config: PanelConfig, encoding: Encoding):
        super().__init__()
        sizes, arm = Sizes(encoding), config.state
        self.arm, self.per_step, self.classes = arm, encoding.target_per == "step", sizes.classes
        self.target_before = sizes.target_before
        context = bool(sizes.context) and arm in ("context", "context_window", "normal", "every_step")
        window = bool(sizes.steps) and arm in ("window", "context_window", "normal", "every_step")
        if arm == "every_step" and context:
            window = False
        past = Past(sizes, config.features, context=context, window=window) if context or window else None
        self.every_step = past if arm == "every_step" else None
        width = sizes.inputs + (self.every_step.features if self.every_step is not None else 0)
        network = NETWORKS.get(config.network) or load_name(config.network)
        recurrent = network(width, config.units)
        if getattr(recurrent, "batch_first", None) is not True:
            raise ValueError(f"network: expected one with batch_first=True from {config.network}, got {recurrent}")
        backend = "native" if type(recurrent) in NATIVE and native_serves(recurrent) else "auto"
        self.rnn = ContextualRNN(recurrent, _initial_state(arm, recurrent, past), backend)
        self.readout = nn.LazyLinear(max(sizes.classes, 1))
        with torch.no_grad():
            self.readout(self.rnn(torch.zeros(1, 1, width), self._any_state(recurrent))[0])

    @staticmethod
    def _any_state(recurrent: nn.Module) -> Any:
        return ConstantState(recurrent)(batch_size=1)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None, num_samples: int | None = None
    ) -> Tensor:
        """Predictions of `batch`; with `num_samples` row b * num_samples + s is that of draw s of the initial state."""
        inputs, lengths, known = batch.inputs, batch.lengths, None
        if self.every_step is not None:
            features = self.every_step({"context": batch.context, "window": batch.window})
            inputs = torch.cat([inputs, features[:, None].expand(-1, inputs.shape[1], -1)], 2)
        elif self.rnn.initial_state.reads_context:
            known = {name: getattr(batch, name) for name in ("context", "window") if getattr(batch, name) is not None}
        before = self._burn_in(batch) if self.arm == "burn_in" else None
        if before is not None:
            inputs, lengths = torch.cat([before, inputs], 1), lengths + before.shape[1]
        ragged = bool((lengths != inputs.shape[1]).any())
        output, _ = self.rnn(
            inputs, context=known, lengths=lengths if ragged else None, generator=generator, num_samples=num_samples
        )
        if before is not None:
            output = output[:, before.shape[1] :]
        if not self.per_step:
            last = batch.lengths if num_samples is None else batch.lengths.repeat_interleave(num_samples)
            output = output[torch.arange(len(output)), last - 1]
        prediction = self.readout(output)
        return prediction if self.classes else prediction[..., 0]

    def _burn_in(self, batch: Batch) -> Tensor:
        """The inputs of the window's steps: of its first step the target before is not known."""
        assert batch.window is not None
        inputs, target = batch.window.tensor_split([batch.window.shape[2] - self._past_width(batch)], 2)
        if self.target_before:
            unknown = torch.zeros_like(target[:, :1])
            unknown[..., -1] = 1  # the place of a missing target
            inputs = torch.cat([inputs, torch.cat([unknown, target[:, :-1]], 1)], 2)
        return inputs if inputs.shape[2] else inputs.new_ones(*inputs.shape[:2], 1)

    def _past_width(self, batch: Batch) -> int:
        assert batch.window is not None
        return batch.window.shape[2] - (batch.inputs.shape[2] - self.target_before if self._has_inputs else 0)


def native_serves(recurrent: nn.Module) -> bool:
    """Whether the native kernel of sequences can train this network here."""
    from contextual_rnn.ops._gated.cpu import available

    return available()


def _initial_state(arm: str, recurrent: nn.Module, past: Past | None) -> InitialState:
    if arm in ("zero", "burn_in", "every_step"):
        return ConstantState(recurrent)
    if arm == "free":
        return FreeState(recurrent)
    if past is None:
        return NormalState(recurrent, FreeState(recurrent), SCALE)
    options: dict[str, Any] = {"features": past.features, "zero_init": True}
    return NormalState(recurrent, past, SCALE, **options) if arm == "normal" else ContextState(recurrent, past, **options)
