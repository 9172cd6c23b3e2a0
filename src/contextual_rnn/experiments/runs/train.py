"""Train one run into its folder."""

from __future__ import annotations

import functools
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contextual_rnn._whole_file import TEMPORARY, remove_leftovers, write_whole
from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import CHECKPOINT_SECONDS, Config, config_to_dict, entry_of, identity
from contextual_rnn.experiments.config.options import at_least
from contextual_rnn.experiments.interrupts import Interrupted
from contextual_rnn.experiments.runs import checkpoint
from contextual_rnn.experiments.runs.folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    RESULT,
    WEIGHTS,
    Run,
    command,
    finished,
    folder_of,
    read_run,
    versions,
    write_json,
)
from contextual_rnn.experiments.runs.store import FILES, Place, Store, give_back
from contextual_rnn.experiments.runs.trainer import Training, device_of
from contextual_rnn.experiments.runs.weights import weights_bytes
from contextual_rnn.experiments.training.data_parallel import ALONE, Group
from contextual_rnn.experiments.training.threads import threads

# Called after every step, and when a run continues, with the steps done, the total steps, and the last metrics.
Progress = Callable[[int, int, dict[str, float]], None]


class NonFiniteLossError(ArithmeticError):
    """A run ended because the loss of a step, or a validation metric, was not a finite number."""


def train(
    config: Config,
    folder: Path,
    *,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    progress: Progress | None = None,
    group: Group = ALONE,
    saved: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] = interrupts.requested,
) -> Run:
    """Train `config` into `folder` and return the run.

    A finished run of the same configuration is only read. An unfinished one continues from its checkpoint, written
    every `checkpoint_seconds` (0: after every step) or less often where that would cost over 1 % of the time, to the
    weights that it would have had undisturbed, byte for byte, on a processor of the same kind. A run that diverges has
    finished too; its result says where under "diverged", and the folder keeps the weights after the last good epoch.
    In the first process of a `group` it trains with the others, each of which calls `follow`; the sums of a batch then
    come in another order, and bytes are equal for the same number of processes. `saved` is called when there is a new
    checkpoint. Where `interrupted` returns True between two steps, a checkpoint is written and Interrupted raised, a
    KeyboardInterrupt; by default it does so once the command line has received Ctrl-C or SIGTERM.

    Raises ValueError where the folder holds another run or other files, or a checkpoint that is damaged or another
    run's; OSError where the folder cannot be written. Both name the file and leave it as it is. Raises ValueError for
    what is no configuration of a task, and TypeError for what is no path.
    """
    entry_of(config)
    folder = folder_of(folder)
    at_least("checkpoint_seconds", checkpoint_seconds, 0)
    if finished(config, folder):
        group.broadcast()
        return read_run(folder)
    device_of(config, group)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG).is_file():
        write_json(folder / CONFIG, config_to_dict(config))
    with threads(config.threads):
        _train(config, folder, checkpoint_seconds, progress, group, saved, interrupted)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    remove_leftovers(folder)
    return read_run(folder)


def follow(config: Config, group: Group, interrupted: Callable[[], bool] = interrupts.requested) -> None:
    """Train along with the first process of `group`, which calls `train`; reads and writes nothing.

    Where `interrupted` returns True in one process of the group, all of them raise Interrupted after the same step.
    """
    if (begun := group.broadcast()) is None:
        return
    with threads(config.threads):
        training, (step, tensors) = Training(config, group, interrupted), begun
        if step:
            training.restore(tensors)
        per_epoch = training.batches.per_epoch
        for k in range(step, config.epochs * per_epoch):
            if training.interrupted():
                raise Interrupted
            if not math.isfinite(training.step(k)) or ((k + 1) % per_epoch == 0 and not group.broadcast()):
                return


def _train(
    config: Config,
    folder: Path,
    checkpoint_seconds: float,
    progress: Progress | None,
    group: Group,
    saved: Callable[[], None],
    interrupted: Callable[[], bool],
) -> None:
    started = time.monotonic()
    training, run_identity = Training(config, group, interrupted), identity(config)
    task, per_epoch = training.task, training.batches.per_epoch
    total = config.epochs * per_epoch
    path = folder / CHECKPOINT
    begun = checkpoint.load(path, run_identity) if path.is_file() else checkpoint.Checkpoint(0, 0.0, [], 0.0, {})
    if begun.step:
        try:
            training.restore(begun.tensors)
        except ValueError as error:
            raise ValueError(f"checkpoint: expected the tensors of this run in {path}, got others: {error}") from error
    lines, losses = begun.metrics, begun.losses
    files: dict[str, bytes] = {}

    def by_another() -> bool:
        """Whether another worker, which took this one for dead, has finished the run."""
        return (folder / RESULT).is_file()

    def seconds() -> float:
        return round(begun.seconds + time.monotonic() - started, 3)

    def record(step: int, train_metrics: dict[str, float]) -> str | None:
        """Write the line of an epoch, or return the names of its metrics that are not finite."""
        epoch, final = step // per_epoch, step == total
        metrics = {"epoch": epoch, "step": step, **train_metrics, **training.evaluate(final)}
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            return f"{', '.join(bad)} after step {step}"
        lines.append({**metrics, "seconds": seconds()})
        files[WEIGHTS] = weights_bytes(task.model, config)
        files[METRICS] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if final or not by_another():
            for name, data in files.items():
                write_whole(folder / name, data, durable=final)
        return None

    def save(step: int) -> None:
        here = checkpoint.Checkpoint(step, losses, lines, seconds(), training.tensors())
        checkpoint.save(path, here, run_identity)
        saved()

    bad = None if lines else record(0, {})
    written_over = by_another()  # perhaps while it was finished: then this one goes on, to the same files
    group.broadcast((begun.step, begun.tensors) if bad is None else None)
    timer = checkpoint.Timer(checkpoint_seconds)
    if begun.step and progress is not None:
        progress(begun.step, total, lines[-1])
    for step in range(begun.step + 1, total + 1):
        if bad is not None:
            break
        if training.interrupted():
            if step - 1 > begun.step:
                save(step - 1)
            raise Interrupted
        losses += (value := training.step(step - 1))
        if not math.isfinite(value):
            bad = f"loss of step {step}"
            break
        if progress is not None:
            progress(step, total, lines[-1])
        if step % per_epoch == 0:
            if by_another() and not written_over:
                group.broadcast(False)
                return
            bad, losses = record(step, {"train_loss": losses / per_epoch}), 0.0
            written_over = by_another()
            group.broadcast(bad is None)
            if progress is not None:
                progress(step, total, lines[-1])
        if timer.due() and bad is None:
            before = time.monotonic()
            save(step)
            timer.written(time.monotonic() - before)
    if not by_another():
        write_json(folder / RESULT, _result(config, folder, lines, seconds(), training, bad))
    for name, data in files.items():  # another worker may have written in between, taking this one for dead
        if (folder / name).read_bytes() != data:
            write_whole(folder / name, data)


def _result(
    config: Config, folder: Path, lines: list[dict[str, float]], seconds: float, training: Training, bad: str | None
) -> dict[str, Any]:
    last, size = lines[-1] if lines else {}, training.group.size
    weights = f"{WEIGHTS} keeps the weights of epoch {last['epoch']}" if last else "no weights were kept"
    return {
        "final": {
            name: last[name] for name in last if name != "seconds" and (bad is None or name in ("epoch", "step"))
        },
        **({} if bad is None else {"diverged": f"{bad} is not finite; {weights}"}),
        "seconds": seconds,
        **({} if size == 1 else {"processes": size}),
        "parameters": sum(parameter.numel() for parameter in training.task.model.parameters()),
        "command": command(config, folder),
        "versions": versions(),
    }


def train_at(
    config: Config,
    place: Place,
    *,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    progress: Progress | None = None,
    group: Group = ALONE,
    interrupted: Callable[[], bool] = interrupts.requested,
) -> Run:
    """`train` into a folder or, with a copy of it meanwhile, into a store.

    Raises what `train` does, with the URL named, and ValueError where the store holds other files there.
    """
    run_in = functools.partial(
        train, config, checkpoint_seconds=checkpoint_seconds, progress=progress, group=group, interrupted=interrupted
    )
    if isinstance(place, Path):
        return run_in(place)
    store = Store(place)
    names = [name for name in store.names() if not name.endswith(TEMPORARY)]
    if names and CONFIG not in names:
        raise ValueError(f"folder: expected a new, empty or matching run folder, got other files in {place}")
    with tempfile.TemporaryDirectory(prefix="contextual-rnn-") as scratch:
        folder = Path(scratch) / place.rpartition("/")[2]
        folder.mkdir()
        store.fetch([name for name in FILES if name in names], folder)

        def put() -> None:
            give_back(folder, FILES, place)

        try:
            run = run_in(folder, saved=put)
            if RESULT not in names:
                assert run.result is not None
                run.result["command"] = command(config, place)
                write_json(folder / RESULT, run.result)
                put()
        except (ValueError, OSError) as error:
            kind = ValueError if isinstance(error, ValueError) else OSError
            raise kind(f"{place}, of which {folder} was a copy: {error}") from error
    store.remove(CHECKPOINT)
    return run
