"""Sequences of a table as a task: its data from the table, and the errors of every arm."""

from __future__ import annotations

import functools
import json
import math
import threading
from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from contextual_rnn.diagnostics import Diagnosis, diagnose
from contextual_rnn.experiments.config import CONTROLS, PanelConfig
from contextual_rnn.experiments.panels import Batch, Columns, Examples, PanelData, Split, prepare, read_panel
from contextual_rnn.experiments.tasks.networks import own_files
from contextual_rnn.experiments.tasks.panel_model import PanelModel
from contextual_rnn.experiments.training.seeding import generator_for
from contextual_rnn.experiments.training.task import Task, Tested

LEAST_STEPS = 10  # of an epoch
EVALUATED, PADDED = 1024, 4_000_000  # examples at once, and their steps, padding included
MOST_VALIDATED = 16_384  # examples of the validation set that every epoch looks at
DRAWS = 16  # of a random state, for evaluation
DIAGNOSED, DIAGNOSED_STEPS = 500, 500_000  # examples of a diagnosis, and their steps, padding included
WHOLE = 4_000_000  # numbers of examples that are kept as batches; those of more are made anew each time

_READING = threading.Lock()


def panel_text(table: list[str], columns: Columns, split: Split, length: int | None) -> str:
    """The option `panel` of a run: where its table is and what was asked of it, as JSON."""
    options = {"table": table, "columns": columns.to_dict(), "split": vars(split), "length": length}
    return json.dumps(options, sort_keys=True)


def data_of(config: PanelConfig) -> PanelData:
    """The data of a run. Raises ValueError where `panel` is not what `panel_text` writes."""
    with _READING:  # runs side by side in one process read it once
        return _read(config.panel, config.data)


@functools.lru_cache(maxsize=1)
def _read(panel: str, data: str) -> PanelData:
    try:
        options = json.loads(panel)
        table, length = options["table"], options["length"]
        columns, split = Columns(**options["columns"]), Split(**options["split"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"panel: expected what contextual-rnn compare writes, got {panel!r}: {error}") from error
    return prepare(read_panel(table, columns), split, length)


class Kept(nn.Module):
    """A model, and its weights after the epoch that was best on the validation set, as checkpoints have them."""

    best: Tensor
    best_error: Tensor
    best_epoch: Tensor
    epoch: Tensor

    def __init__(self, model: PanelModel):
        super().__init__()
        self.model = model
        parameters = nn.utils.parameters_to_vector(model.parameters()).detach()
        device = parameters.device
        self.register_buffer("best", parameters.clone())
        self.register_buffer("best_error", torch.tensor(math.inf, dtype=torch.float64, device=device))
        self.register_buffer("best_epoch", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("epoch", torch.tensor(-1, dtype=torch.int64, device=device))

    def record(self, error: float) -> None:
        """Keep the weights where no epoch had a smaller error."""
        self.epoch += 1
        if error < self.best_error:
            self.best_error.fill_(error)
            self.best_epoch.copy_(self.epoch)
            self.best.copy_(nn.utils.parameters_to_vector(self.model.parameters()))

    def restore(self) -> None:
        """Give the model the best weights."""
        parameters = list(self.model.parameters())
        for parameter, values in zip(parameters, self.best.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(values.view_as(parameter))


class PanelTask(Task[Kept]):
    """Mean squared error of the scaled target, or cross entropy, over the steps whose target is known.

    A distribution of states is trained on `samples` draws: quantities on (x1 - y)(x2 - y), which is the squared error
    of their mean without bias, and the CRPS of the draws; classes on the mean of the draws' probabilities.
    """

    def __init__(self, config: PanelConfig):
        self._config, self._data = config, data_of(config)
        self.model, self.clip_norm = Kept(PanelModel(config, self._data.encoding)), config.clip_norm
        self.draws_globally = bool(own_files(config.network))
        train = self._data.train
        self._whole = self._data.batch(train) if self._numbers(train) <= WHOLE else None
        self._validated = parts_of(evenly(self._data.validation, MOST_VALIDATED), config.state)
        fits = sum(map(self._numbers, self._validated)) <= WHOLE
        self._validation_batches = list(map(self._data.batch, self._validated)) if fits else None
        passes = passes_of(len(train), config.batch_size)
        self.training = (torch.arange(len(train), device="cpu").repeat(passes),)
        self.validation = (torch.arange(len(self._data.validation), device="cpu"),)

    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator, rows: slice | None = None) -> Tensor:
        index = batch[0][rows or slice(None)]
        if self._whole is None:
            examples = self._data.batch(self._data.train[index.numpy()])
        else:
            examples = _taken(self._whole, index)
        if self._config.state != "normal":
            return _mean(self._errors(self.model.model(examples), examples), examples.observed)
        count = self._config.samples
        draws = self.model.model(examples, generator, count).unflatten(0, (-1, count))
        if self._data.target.kind == "category":
            return _mean(_cross_entropy(_mean_probability(draws), examples.target), examples.observed)
        missed = draws - examples.target[:, None]
        pair = missed[:, :-1].mul(missed[:, 1:]).mean(1)
        return _mean(pair + crps(draws, examples.target), examples.observed)

    @torch.no_grad()
    def evaluate(self, final: bool) -> dict[str, float]:
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device="cpu")
        for batch in self._validation_batches or map(self._data.batch, self._validated):
            errors = self._errors(predicted(self.model.model, batch)[0], batch)
            sums += torch.stack([errors[batch.observed].double().sum(), batch.observed.sum().double()])
        error = float(sums[0] / sums[1])
        self.model.record(error)
        if final:
            self.model.restore()
            error = self.model.best_error.item()
        self.model.train()
        return {"validation_error": error, "best_epoch": self.model.best_epoch.item()}

    @torch.no_grad()
    def test(self) -> Tested:
        self.model.eval()
        data, test = self._data, self._data.test
        steps = int(test.length.max()) if self._data.target.per == "step" else 1
        parts: dict[str, list[Tensor]] = {}
        for examples in parts_of(test, self._config.state):
            batch = data.batch(examples)
            prediction, draws = predicted(self.model.model, batch)
            scores = {"errors": self._errors(prediction.double(), batch)}
            if data.target.kind == "quantity":
                ranked = crps(draws, batch.target) if draws is not None else (prediction - batch.target).abs()
                values = data.unscale(prediction), data.unscale(batch.target), data.unscale_spread(ranked)
                scores |= dict(zip(("prediction", "target", "crps"), values, strict=True))
                if draws is not None:
                    scores["draws_below"] = draws_below(draws, batch.target)
            for name, values in scores.items():
                known = values.masked_fill(~batch.observed, math.nan).reshape(len(values), -1)
                parts.setdefault(name, []).append(functional.pad(known, (0, steps - known.shape[1]), value=math.nan))
        scores = {name: torch.cat(values) for name, values in parts.items()}
        series = [str(data.panel.series_names[code]) for code in test.series]
        groups = [str(data.panel.group_names[code]) for code in test.group] if data.panel.columns.group else None
        by_group = json.loads(self._config.panel)["split"]["by"] not in ("series", "time")
        return Tested(scores.pop("errors"), groups if groups is not None and by_group else series, groups, scores)

    def diagnose(self) -> Diagnosis | None:
        if self._config.state in CONTROLS:
            return None
        validation = self._data.validation
        most = min(DIAGNOSED, max(2, DIAGNOSED_STEPS // int(validation.length.max())))
        batch = self._data.batch(evenly(validation, most))
        if len(batch.lengths) < 2:  # states of one sequence cannot be compared
            return None
        lengths = batch.lengths if bool((batch.lengths != batch.inputs.shape[1]).any()) else None
        rnn, hidden = self.model.model.rnn, list[Tensor]()

        def losses() -> tuple[Tensor, Tensor]:
            hidden.clear()
            errors = self._errors(self.model.model(batch), batch).masked_fill(~batch.observed, 0.0)
            return errors, hidden[0]

        # A hook of the network itself would keep its native kernel from running.
        handle = rnn.register_forward_hook(lambda module, args, output: hidden.append(output[0]))
        try:
            if bool((batch.series == batch.series[0]).all()):  # the test is one of independent series
                return diagnose(self.model.model, losses, lengths=lengths, permutations=0)
            return diagnose(self.model.model, losses, lengths=lengths, groups=batch.series)
        finally:
            handle.remove()

    def _numbers(self, examples: Examples) -> int:
        return len(examples) * int(examples.length.max()) * (len(self._data.inputs) + 2)

    def _errors(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Of every target, known or not."""
        if self._data.target.kind == "category":
            return _cross_entropy(prediction, batch.target)
        return (prediction - batch.target).square()


def passes_of(examples: int, batch_size: int) -> int:
    """How often an epoch passes the training set, so that it has `LEAST_STEPS` steps."""
    return math.ceil(LEAST_STEPS * batch_size / examples)


def predicted(model: PanelModel, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The prediction of a model, and the draws (B, S, ...) that it is the mean of where the state is random."""
    if model.arm != "normal":
        return model(batch), None
    draws = model(batch, generator_for("evaluation"), DRAWS).unflatten(0, (-1, DRAWS))
    return (_mean_probability(draws) if model.sizes.classes else draws.mean(1)), draws


def crps(draws: Tensor, target: Tensor) -> Tensor:
    """Continuous ranked probability score of draws (B, S, ...) at `target` (B, ...), without bias.

    mean |x_i - y| - sum |x_i - x_j| / (2 S (S - 1))      (Gneiting and Raftery 2007; Ferro 2014)
    """
    count = draws.shape[1]
    ordered = draws.sort(1).values
    # sum |x_i - x_j| = 2 sum weight_i x_(i)
    weights = 2 * torch.arange(count, dtype=draws.dtype, device=draws.device) - (count - 1)
    spread = torch.tensordot(ordered.movedim(1, -1), weights, 1) / (count * (count - 1))
    return (draws - target[:, None]).abs().mean(1) - spread


def draws_below(draws: Tensor, target: Tensor) -> Tensor:
    """How many of the draws (B, S, ...) are below `target` (B, ...); one that equals it counts half."""
    return ((draws < target[:, None]).to(draws.dtype) + (draws <= target[:, None]).to(draws.dtype)).sum(1) / 2


def _cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(scores.movedim(-1, 1), target, reduction="none")


def _mean_probability(draws: Tensor) -> Tensor:
    """Scores of the mean of the draws' probabilities."""
    return draws.log_softmax(-1).logsumexp(1)


def _mean(errors: Tensor, observed: Tensor) -> Tensor:
    return (errors * observed).sum() / observed.sum().clamp(min=1)


def evenly(examples: Examples, most: int) -> Examples:
    """At most so many of the examples, from the first to the last."""
    count = len(examples)
    return examples if count <= most else examples[numpy.linspace(0, count - 1, most).astype(int)]


def parts_of(examples: Examples, arm: str) -> list[Examples]:
    """The examples in parts of at most `EVALUATED`, each of at most `PADDED` steps with padding and an arm's draws."""
    most = PADDED // DRAWS if arm == "normal" else PADDED
    parts = [examples[start : start + EVALUATED] for start in range(0, len(examples), EVALUATED)]
    return [part for whole in parts for part in _halved(whole, most)]


def _halved(part: Examples, most: int) -> list[Examples]:
    half = len(part) // 2
    if not half or len(part) * int(part.length.max()) <= most:
        return [part]
    return [*_halved(part[:half], most), *_halved(part[half:], most)]


def _taken(batch: Batch, index: Tensor) -> Batch:
    values: dict[str, Any] = {name: v[index] for name, v in vars(batch).items() if isinstance(v, Tensor)}
    if batch.context is not None:
        values["context"] = {name: value[index] for name, value in batch.context.items()}
    return replace(batch, **values)
