"""Examples of a panel as tensors, for training, validation and test."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contextual_rnn.experiments.panels.arrow import Array
from contextual_rnn.experiments.panels.encoding import Encoding
from contextual_rnn.experiments.panels.panel import Panel
from contextual_rnn.experiments.panels.split import Examples
from contextual_rnn.experiments.panels.understood import understood
from contextual_rnn.experiments.panels.values import Category, Column, Quantity
from contextual_rnn.layers.context_net import Feature


@dataclass(frozen=True)
class Target:
    """What is predicted: a quantity (scaled) or a category (an index into `classes`), a value a step or a series."""

    name: str
    kind: str
    per: str
    classes: tuple[Any, ...]


@dataclass(frozen=True)
class Batch:
    """Examples as tensors: `inputs` (B, T, F), padded with zeros after `lengths` (B,).

    `target` and `observed` are (B, T), or (B,) for a value a series: scaled quantities in float32, or classes in int64,
    and whether they are known. `context` is what a `ContextNet` takes, or None. `window` (B, W, G) shows the W steps
    before the start, or is None. `series` (B,) are codes.
    """

    inputs: Tensor
    lengths: Tensor
    target: Tensor
    observed: Tensor
    context: dict[str, Tensor] | None
    window: Tensor | None
    series: Tensor


@dataclass(frozen=True)
class PanelData:
    """A panel cut into examples, with the coding of its columns.

    `inputs` names the numbers a network sees at each step, `window` those of each step of a window; `context` is the
    features of a `ContextNet`. `summary` is that of the panel, with what was left out here.
    """

    panel: Panel
    encoding: Encoding
    train: Examples
    validation: Examples
    test: Examples
    summary: dict[str, Any]

    @property
    def target(self) -> Target:
        coding = self.encoding.target
        return Target(self.panel.columns.target, coding.kind, self.encoding.target_per, coding.categories)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._coded_names(self.panel.columns.reads_itself) or ("constant 1",)

    @property
    def context(self) -> dict[str, Feature]:
        return self.encoding.features

    @property
    def window(self) -> tuple[str, ...]:
        return self._coded_names(self.encoding.target_per == "step") if self.panel.columns.window else ()

    def _coded_names(self, with_target: bool) -> tuple[str, ...]:
        """Of the numbers of a step; with those of the target before, where the step shows it."""
        coded = list(self.encoding.inputs.items())
        if with_target:
            coded.append((f"{self.panel.columns.target} before", self.encoding.target_before))
        return tuple(part for name, coding in coded for part in coding.names(name))

    def batch(self, examples: Examples) -> Batch:
        """Tensors of examples, as long as the longest of them. Raises TypeError for others, such as indices."""
        place, inside = _places(examples)
        rows = np.where(inside, place, -1)
        window, size = None, self.panel.columns.window
        if size:
            window = self._window(examples.first[:, None] + np.arange(-size, 0))
        context = {
            key: torch.from_numpy(np.ascontiguousarray(values))
            for name, coding in self.encoding.context.items()
            for key, values in coding.feature_values(name, self._columns[name].take(examples.sequence)).items()
        }
        target, observed = self._target(rows if self.encoding.target_per == "step" else examples.sequence)
        return Batch(
            inputs=self._inputs(rows, inside),
            lengths=torch.from_numpy(examples.length.astype(np.int64)),
            target=target,
            observed=observed,
            context=context or None,
            window=window,
            series=torch.from_numpy(examples.series.astype(np.int64)),
        )

    def describe(self) -> str:
        """What was understood of the table, as text."""
        columns, encoding = self.panel.columns, self.encoding
        return understood(columns, self.summary, self.inputs, self.window, encoding.length)

    def unscale(self, values: Tensor) -> Tensor:
        """Predictions of a quantity in the target's own unit, in float64; of a category unchanged."""
        coding = self.encoding.target
        return values.double() * coding.std + coding.mean if coding.kind == "quantity" else values

    def unscale_spread(self, values: Tensor) -> Tensor:
        """Standard deviations or absolute errors of a quantity in the target's own unit."""
        return values.double() * self.encoding.target.std if self.encoding.target.kind == "quantity" else values

    def table_rows(self, examples: Examples) -> Array:
        """The row of the table of each step, (N, T), from 0; -1 for steps that fill a gap, and after an end."""
        (place, inside), rows = _places(examples), self.panel.steps.rows
        return np.where(inside, rows[np.minimum(place, len(rows) - 1)], -1)

    @functools.cached_property
    def _columns(self) -> dict[str, Column]:
        """Every column, coded once: a batch has few rows, and a table may have many categories."""
        panel, encoding, target = self.panel, self.encoding, self.panel.columns.target
        codings = {**encoding.inputs, **encoding.context, target: encoding.target}
        columns = {**panel.inputs, **panel.context, target: panel.target}
        return {name: coding.coded(columns[name]) for name, coding in codings.items()}

    def _inputs(self, rows: Array, inside: Array) -> Tensor:
        parts = self._coded(rows)
        if self.panel.columns.reads_itself:
            before, first, offsets = np.where(inside, rows - 1, -1), rows[:, :1], self.panel.steps.offsets
            before[:, :1][offsets[np.searchsorted(offsets, first)] == first] = -1  # of another piece
            parts += self._past_target(before)
        if not parts:
            parts = [np.ones((*rows.shape, 1), np.float32)]
        return torch.from_numpy(np.concatenate(parts, -1) * inside[..., None])

    def _window(self, rows: Array) -> Tensor:
        past = self._past_target(rows) if self.encoding.target_per == "step" else []
        return torch.from_numpy(np.concatenate([*self._coded(rows), *past], -1))

    def _coded(self, rows: Array) -> list[Array]:
        flat = rows.reshape(-1)
        return [
            coding.numbers(self._columns[name].take(flat)).reshape(*rows.shape, coding.width)
            for name, coding in self.encoding.inputs.items()
        ]

    def _past_target(self, rows: Array) -> list[Array]:
        coding = self.encoding.target_before
        numbers = coding.numbers(self._columns[self.panel.columns.target].take(rows.reshape(-1)))
        return [numbers.reshape(*rows.shape, coding.width)]

    def _target(self, rows: Array) -> tuple[Tensor, Tensor]:
        column, coding = self._columns[self.panel.columns.target].take(rows.reshape(-1)), self.encoding.target
        observed = ~column.missing
        if isinstance(column, Quantity):
            values = np.where(observed, coding.scaled(column), 0).astype(np.float32)
        else:
            assert isinstance(column, Category)
            observed &= column.codes < len(coding.categories)
            values = np.where(observed, column.codes, 0).astype(np.int64)
        return torch.from_numpy(values.reshape(rows.shape)), torch.from_numpy(observed.reshape(rows.shape))


def _places(examples: Examples) -> tuple[Array, Array]:
    """Steps of the panel, (N, T), from the first of each example on, and which of them are in the example."""
    if not isinstance(examples, Examples):
        raise TypeError(f"examples: expected Examples, such as data.train[:64], got {type(examples).__name__}")
    steps = np.arange(examples.length.max(initial=0))
    return examples.first[:, None] + steps, steps < examples.length[:, None]
