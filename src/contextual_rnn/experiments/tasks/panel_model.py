"""The network of a comparison: one recurrent network, one readout, and the initial state of an arm or its control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from contextual_rnn import ConstantState, ContextNet, ContextState, ContextualRNN, FreeState, NormalState
from contextual_rnn.experiments.config import CONTROLS, PanelConfig
from contextual_rnn.experiments.panels import Batch, Encoding
from contextual_rnn.experiments.tasks.networks import make_network
from contextual_rnn.ops._gated.cpu import supports
from contextual_rnn.states import InitialState

SCALE = 0.1  # where sigma of the normal state starts


class Sizes:
    """How wide the tensors of a batch are, as an encoding says."""

    def __init__(self, encoding: Encoding):
        past_target = encoding.target_before.width if encoding.target_per == "step" else 0
        self.coded = sum(coding.width for coding in encoding.inputs.values())
        self.target_before = past_target if encoding.columns.reads_itself else 0
        self.inputs = self.coded + self.target_before or 1
        self.window_steps = encoding.columns.window
        self.window = (self.coded + past_target) * self.window_steps
        self.context = encoding.features
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
        self.arm, self.sizes, self.per_step = arm, sizes, encoding.target_per == "step"
        context = bool(sizes.context) and arm in ("context", "context_window", "normal", "every_step")
        window = bool(sizes.window_steps) and arm in ("window", "context_window", "normal", "every_step")
        if arm == "every_step" and context:
            window = False
        features = config.features * (context + window)
        width = sizes.inputs + (features if arm == "every_step" else 0)
        recurrent = make_network(config.network, width, config.units)
        # In this order the arms of one seed begin with the same network and readout.
        output, _ = recurrent(torch.zeros(1, 1, width, device="cpu"), ConstantState(recurrent)(batch_size=1))
        self.readout = nn.Linear(output.shape[-1], max(sizes.classes, 1))
        past = Past(sizes, config.features, context=context, window=window) if features else None
        native = type(recurrent) in (nn.RNN, nn.LSTM, nn.GRU) and supports(output)
        self.rnn = ContextualRNN(recurrent, _initial_state(arm, recurrent, past), "native" if native else "auto")
        self.every_step = past if arm == "every_step" else None

    def forward(self, batch: Batch, generator: torch.Generator | None = None, num_samples: int | None = None) -> Tensor:
        """Predictions of `batch`; with `num_samples` row b * num_samples + s is that of draw s of the initial state."""
        inputs, lengths, known = batch.inputs, batch.lengths, None
        if self.every_step is not None:
            features = self.every_step({"context": batch.context, "window": batch.window})
            inputs = torch.cat([inputs, features[:, None].expand(-1, inputs.shape[1], -1)], 2)
        elif self.rnn.initial_state.reads_context:
            known = {"context": batch.context, "window": batch.window}
        if self.arm == "burn_in":
            inputs, lengths = torch.cat([self._before(batch), inputs], 1), lengths + self.sizes.window_steps
        ragged = bool((lengths != inputs.shape[1]).any())
        output, _ = self.rnn(
            inputs, context=known, lengths=lengths if ragged else None, generator=generator, num_samples=num_samples
        )
        if self.arm == "burn_in":
            output = output[:, self.sizes.window_steps :]
        if not self.per_step:
            last = batch.lengths if num_samples is None else batch.lengths.repeat_interleave(num_samples)
            output = output[torch.arange(len(output), device=output.device), last - 1]
        prediction = self.readout(output)
        return prediction if self.sizes.classes else prediction[..., 0]

    def _before(self, batch: Batch) -> Tensor:
        """The inputs of the window's steps; of the first of them the target before is not known."""
        assert batch.window is not None
        inputs, target = batch.window.tensor_split([self.sizes.coded], 2)
        if self.sizes.target_before:
            unknown = torch.zeros_like(target[:, :1])
            unknown[..., -1] = 1  # the place of a missing target
            inputs = torch.cat([inputs, torch.cat([unknown, target[:, :-1]], 1)], 2)
        return inputs if inputs.shape[2] else inputs.new_ones(*inputs.shape[:2], 1)


def _initial_state(arm: str, recurrent: nn.Module, past: Past | None) -> InitialState:
    if arm in CONTROLS:
        return ConstantState(recurrent)
    if arm == "free":
        return FreeState(recurrent)
    if past is None:
        return NormalState(recurrent, FreeState(recurrent), SCALE)
    options: dict[str, Any] = {"features": past.features, "zero_init": True}
    return (
        NormalState(recurrent, past, SCALE, **options) if arm == "normal" else ContextState(recurrent, past, **options)
    )
