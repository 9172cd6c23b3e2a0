"""The command `contextual-rnn train`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import CHECKPOINT_SECONDS, Config, entry_of, task_name

if TYPE_CHECKING:
    from contextual_rnn.experiments.runs.folder import Run
    from contextual_rnn.experiments.runs.store import Place
    from contextual_rnn.experiments.training.data_parallel import Group

TaskConfig = TypeVar("TaskConfig", bound=Config)
Options = TypeVar("Options")


@dataclass(frozen=True)
class TrainOptions(Generic[TaskConfig]):
    """The options of a task, and where it is trained."""

    config: Annotated[TaskConfig, tyro.conf.arg(name="")]
    out: str | None = None
    """Folder of the run or its URL; by default runs/TASK-STATE-seedSEED. One that holds another run is refused."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Seconds between checkpoints, from which the same command goes on after a kill."""


@dataclass(frozen=True)
class Train(Generic[Options]):
    """Train one model and write its configuration, metrics, weights and result into a folder.

    Started by torchrun, its processes share every batch.
    """

    task: Annotated[Options, tyro.conf.arg(name="")]

    def run(self) -> None:
        from contextual_rnn.experiments.runs import store
        from contextual_rnn.experiments.runs.train import NonFiniteLossError, follow
        from contextual_rnn.experiments.training.data_parallel import started_by_torchrun

        options: Any = self.task
        config: Config = options.config
        folder = store.out_folder(options.out or f"runs/{task_name(config)}-{config.state}-seed{config.seed}")
        interrupts.describe("before the first step")
        with interrupts.deferred(), started_by_torchrun() as group:
            if group.rank:
                follow(config, group)
                return
            run = _train_with_bar(config, folder, options.checkpoint_seconds, group)
        assert run.result is not None
        if "diverged" in run.result:
            raise NonFiniteLossError(f"{folder}: {run.result['diverged']}")
        print(json.dumps(run.result["final"]))
        print(f"run: {folder}")


def _train_with_bar(config: Config, folder: Place, checkpoint_seconds: float, group: Group) -> Run:
    from contextual_rnn.experiments.progress import Bar
    from contextual_rnn.experiments.runs.train import train_at

    entry = entry_of(config)
    with Bar(unit="step", desc=f"{entry.name} {config.state}") as bar:

        def progress(step: int, total: int, metrics: dict[str, float]) -> None:
            bar.total = total
            bar.update(step - bar.n)
            labelled = {each.label: metrics[each.name] for each in entry.metrics if each.name in metrics}
            bar.set_postfix({"epoch": int(metrics["epoch"]), **labelled}, refresh=False)
            interrupts.describe(f"at step {step} of {total}")

        return train_at(config, folder, checkpoint_seconds=checkpoint_seconds, progress=progress, group=group)
