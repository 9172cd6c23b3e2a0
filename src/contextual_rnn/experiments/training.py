"""Train one run into its folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

import contextual_rnn
from contextual_rnn.experiments import results
from contextual_rnn.experiments.associative_retrieval import RetrievalTask
from contextual_rnn.experiments.batches import Batches, generator_for
from contextual_rnn.experiments.config import Config
from contextual_rnn.experiments.flat_adam import FlatAdam
from contextual_rnn.experiments.linear_cosine_decay import DecayTask
from contextual_rnn.experiments.results import Run, config_to_dict, task_name, write_json
from contextual_rnn.experiments.task import Task

TASKS: dict[str, Callable[[Any], Task]] = {"retrieval": RetrievalTask, "decay": DecayTask}

# Called after every step with the number of steps done, of all steps, and the last metrics.
Progress = Callable[[int, int, dict[str, float]], None]


class NonFiniteLossError(ArithmeticError):
    """The loss of a step, or a validation metric, was not a finite number."""


def train(config: Config, folder: Path, *, progress: Progress | None = None) -> Run:
    """Train `config` into `folder` and return the run; a finished run of the same configuration is only read.

    An unfinished run of the same configuration starts again from the beginning. Raises ValueError where the folder
    holds another run or other files, NonFiniteLossError where training diverges: the message names the step, and the
    folder keeps the weights after the last good epoch.
    """
    folder = Path(folder)
    if _finished(config, folder):
        return results.read_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / results.CONFIG, config_to_dict(config))
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        _train(config, folder, progress)
    finally:
        torch.set_num_threads(threads)
    return results.read_run(folder)


class Training:
    """A run in memory: its task, the order of its batches, and its optimizer."""

    def __init__(self, config: Config):
        self.config = config
        self.task = build_task(config)
        self.batches = Batches(config.seed, self.task.training, config.batch_size)
        self.optimizer = FlatAdam(self.task.model, config.learning_rate, self.task.clip_norm)

    def step(self, k: int) -> float:
        """Train on batch k and return its loss; a loss that is not finite changes nothing."""
        generator = generator_for("states", self.config.seed, k)
        loss = self.task.differentiate(self.batches[k], generator, self.optimizer)
        if math.isfinite(loss):
            self.optimizer.step()
        return loss


def build_task(config: Config) -> Task:
    """Data and freshly initialised model, a pure function of the configuration; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for("weights", config.seed).initial_seed())
        return TASKS[task_name(config)](config)


def load_model(run: Run) -> nn.Module:
    """The trained model of a run, in evaluation mode; raises ValueError where it has no weights, or not those."""
    weights = run.folder / results.WEIGHTS
    if not weights.is_file():
        raise ValueError(f"run: expected trained weights, got none in {run.folder}")
    model = build_task(run.config).model
    try:
        model.load_state_dict(safetensors.torch.load_file(weights))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"run: expected the weights of its configuration in {weights}, got others: {error}") from error
    return model.eval()


def _finished(config: Config, folder: Path) -> bool:
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / results.CONFIG).is_file():
        raise ValueError(f"folder: expected a new, empty or matching run folder, got other files in {folder}")
    found, wanted = json.loads((folder / results.CONFIG).read_text()), config_to_dict(config)
    if found != wanted:
        differ = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        raise ValueError(
            f"folder: expected a run of this configuration, got one that differs in {', '.join(differ)}: {folder}"
        )
    return (folder / results.RESULT).is_file()


def _train(config: Config, folder: Path, progress: Progress | None) -> None:
    started = time.perf_counter()
    training = Training(config)
    task, model, per_epoch = training.task, training.task.model, training.batches.per_epoch
    total = config.epochs * per_epoch
    log = _TensorBoard(folder)
    with open(folder / results.METRICS, "w") as lines:

        def record(epoch: int, step: int, train_metrics: dict[str, float]) -> dict[str, float]:
            final = epoch == config.epochs
            metrics = {"epoch": epoch, "step": step, **train_metrics, **task.evaluate(final)}
            if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
                raise _diverged(f"{', '.join(bad)} after step {step}", epoch, folder)
            _save_weights(model, config, folder)
            metrics["seconds"] = round(time.perf_counter() - started, 3)
            lines.write(json.dumps(metrics) + "\n")
            lines.flush()
            log.write(metrics)
            return metrics

        metrics, step = record(0, 0, {}), 0
        for epoch in range(1, config.epochs + 1):
            losses = 0.0
            for _ in range(per_epoch):
                value = training.step(step)
                step += 1
                if not math.isfinite(value):
                    raise _diverged(f"loss of step {step}", epoch, folder)
                losses += value
                if progress is not None:
                    progress(step, total, metrics)
            metrics = record(epoch, step, {"train_loss": losses / per_epoch})
            if progress is not None:
                progress(step, total, metrics)
    log.close()
    result = {
        "final": {name: value for name, value in metrics.items() if name != "seconds"},
        "seconds": round(time.perf_counter() - started, 3),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "command": command(config, folder),
        "versions": {
            "contextual_rnn": contextual_rnn.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    write_json(folder / results.RESULT, result)


def command(config: Config, folder: Path) -> str:
    """The command line that trains `config` into `folder`; options at their default are left out."""
    words = ["contextual-rnn", "train", task_name(config)]
    for field in dataclasses.fields(config):
        value, option = getattr(config, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        words += (
            [f"--{option}" if value else f"--no-{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
        )
    return shlex.join([*words, "--out", str(folder)])


def _diverged(what: str, epoch: int, folder: Path) -> NonFiniteLossError:
    kept = f"{folder / results.WEIGHTS} keeps the weights of epoch {epoch - 1}" if epoch else "no weights were kept"
    return NonFiniteLossError(f"{what} is not finite; {kept}")


def _save_weights(model: nn.Module, config: Config, folder: Path) -> None:
    metadata = {"config": json.dumps(config_to_dict(config), sort_keys=True)}
    beside = folder / (results.WEIGHTS + ".writing")
    beside.write_bytes(safetensors.torch.save(model.state_dict(), metadata))
    os.replace(beside, folder / results.WEIGHTS)


class _TensorBoard:
    """Metrics for TensorBoard, where it is installed."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, metrics: dict[str, float]) -> None:
        if self.writer is not None:
            for name in metrics.keys() - {"epoch", "step"}:
                self.writer.add_scalar(name, metrics[name], int(metrics["step"]))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
