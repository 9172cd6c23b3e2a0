"""The console command `contextual-rnn`."""

from __future__ import annotations

import dataclasses
import json
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.cli.info import information
from contextual_rnn.experiments.cli.sweep import Sweep
from contextual_rnn.experiments.config import Config, DecayConfig, RetrievalConfig, task_name
from contextual_rnn.experiments.report import figures
from contextual_rnn.experiments.report.from_weights import CALIBRATION, DIAGNOSTICS, PLAYGROUND
from contextual_rnn.experiments.report.html import REPORT, SUMMARY, write_report
from contextual_rnn.experiments.reproduce import Preset, reproduce
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.folder import CONFIG, METRICS, RESULT, Run, read_run, read_runs
from contextual_rnn.experiments.runs.store import Place
from contextual_rnn.experiments.runs.summary import PARQUET, table, write_parquet
from contextual_rnn.experiments.runs.train import CHECKPOINT_SECONDS, NonFiniteLossError, follow, train_at
from contextual_rnn.experiments.studies.trajectories import sample_trajectories, to_csv
from contextual_rnn.experiments.tasks.decay import linear_cosine_decay
from contextual_rnn.experiments.training.data_parallel import Group, started_by_torchrun


@dataclass(frozen=True)
class TrainRetrieval:
    """Associative retrieval with fast weights: c9k8j3f1??k -> 8."""

    config: Annotated[RetrievalConfig, tyro.conf.arg(name="")]
    out: str | None = None
    """Folder of the run or its URL; by default runs/retrieval-STATE-seedSEED. One that holds another run is refused."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Seconds between checkpoints, from which the same command goes on after a kill."""


@dataclass(frozen=True)
class TrainDecay:
    """Linear cosine decay with an LSTM: sequences from an initial value and a period."""

    config: Annotated[DecayConfig, tyro.conf.arg(name="")]
    out: str | None = None
    """Folder of the run or its URL; by default runs/decay-STATE-seedSEED. One that holds another run is refused."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Seconds between checkpoints, from which the same command goes on after a kill."""


@dataclass(frozen=True)
class Train:
    """Train one model and write its configuration, metrics, weights and result into a folder.

    Started by torchrun, its processes share every batch.
    """

    task: Annotated[
        Annotated[TrainRetrieval, tyro.conf.subcommand("retrieval")]
        | Annotated[TrainDecay, tyro.conf.subcommand("decay")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        config = self.task.config
        folder = store.place_of(self.task.out or f"runs/{task_name(config)}-{config.state}-seed{config.seed}")
        interrupts.describe("before the first step")
        with interrupts.deferred(), started_by_torchrun() as group:
            if group.rank:
                follow(config, group)
                return
            run = _train_with_bar(config, folder, self.task.checkpoint_seconds, group)
        assert run.result is not None
        if "diverged" in run.result:
            raise NonFiniteLossError(f"{folder}: {run.result['diverged']}")
        print(json.dumps(run.result["final"]))
        print(f"run: {folder}")


@dataclass(frozen=True)
class Reproduce:
    """Train the paper's two experiments for all its states, then write the report."""

    preset: Preset = "quick"
    """quick: minutes. paper: the paper's own sizes and epochs, about ten on two idle cores."""
    out: Path | None = None
    """Folder of the runs; by default runs/reproduce-PRESET. Finished runs in it are kept and not trained again."""
    workers: int | None = None
    """Runs that train side by side; by default one a core."""
    open: bool = False
    """Open the report in a browser."""

    def run(self) -> None:
        report = reproduce(self.preset, self.out or Path("runs") / f"reproduce-{self.preset}", workers=self.workers)
        print(f"report: {report.resolve()}")
        if self.open:
            webbrowser.open(report.resolve().as_uri())


class LeftOut:
    """Says on standard error, when a command ends, which damaged files were left out, and how many."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}
        self._folder, self._place = "", ""

    def copy_of(self, place: Place, folder: Path) -> None:
        """Errors that name `folder` are about `place`, of which it is a copy."""
        self._folder, self._place = str(folder), str(place)

    def __call__(self, error: Exception) -> None:
        text = str(error)
        self._messages[text.replace(self._folder, self._place) if self._folder else text] = None

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for text in self._messages:
            print(f"contextual-rnn: left out: {text}", file=sys.stderr)
        if self._messages:
            print(f"contextual-rnn: left out: {len(self._messages)} in all", file=sys.stderr)


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML report of every run below a folder, or of published results such as results/."""

    folder: tyro.conf.Positional[str]
    """Folder with runs or with published results, or its URL."""

    def run(self) -> None:
        place, left_out = store.place_of(self.folder), LeftOut()
        with left_out, store.readable(place, refused=left_out) as folder:
            left_out.copy_of(place, folder)
            report = write_report(folder, left_out)
            store.give_back(folder, [REPORT, SUMMARY, CALIBRATION, DIAGNOSTICS, PLAYGROUND], place)
        print(f"report: {report.resolve() if isinstance(place, Path) else store.below(place, REPORT)}")


@dataclass(frozen=True)
class Results:
    """Print medians over seeds of every finished run below a folder, and write Parquet, a row a run."""

    folder: tyro.conf.Positional[str]
    """Folder with runs, or its URL; more may be written there meanwhile."""
    out: Path | None = None
    """Where to write; by default results.parquet in the folder."""

    def run(self) -> None:
        place, left_out = store.place_of(self.folder), LeftOut()
        with left_out, store.readable(place, (CONFIG, METRICS, RESULT), left_out) as folder:
            left_out.copy_of(place, folder)
            runs = read_runs(folder, left_out)
            print(table(runs))
            if isinstance(place, str):
                runs = [dataclasses.replace(run, folder=run.folder.relative_to(folder)) for run in runs]
            write_parquet(runs, self.out or folder / PARQUET)
            if self.out is None:
                store.give_back(folder, [PARQUET], place)
        print(f"results: {self.out or store.below(place, PARQUET)}")


@dataclass(frozen=True)
class Generate:
    """Generate trajectories from a trained decay run, as a picture (SVG) and as numbers (CSV)."""

    folder: tyro.conf.Positional[Path]
    """Folder of the run."""
    initial: float = 3.0
    """Initial value x(0); the model was trained on 2 to 4."""
    period: tuple[float, ...] = (2.0, 3.0)
    """Periods T, one or several; the model was trained on 0.5 to 4.5."""
    samples: int = 10
    """Trajectories for each period."""
    mean: bool = False
    """Start every trajectory at the mean state instead of a draw."""
    seed: int = 0
    """Seeds the draws."""
    out: Path | None = None
    """Where to write, without ending; by default trajectories in the folder of the run."""

    def run(self) -> None:
        import torch

        run = read_run(self.folder)
        paths = sample_trajectories(
            run, initial=self.initial, periods=self.period, num_samples=self.samples, seed=self.seed, mean=self.mean
        )
        period = torch.tensor(self.period, device="cpu")
        truths = linear_cosine_decay(torch.full_like(period, self.initial), period)
        by_period = dict(zip(self.period, paths, strict=True))
        figure = figures.trajectory_fans(by_period, dict(zip(self.period, truths, strict=True)), self.initial)
        out = self.out or self.folder / "trajectories"
        out.parent.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (out.with_suffix(".svg"), figures.to_svg(figure)),
            (out.with_suffix(".csv"), to_csv(paths, self.period)),
        ):
            write_whole(path, text)
            print(path)


@dataclass(frozen=True)
class Info:
    """Show versions, devices and which backends are available."""

    def run(self) -> None:
        found = information()
        width = max(map(len, found))
        for name, value in found.items():
            print(f"{name:{width}}  {value}")


Command = (
    Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Results, tyro.conf.subcommand("results")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


DESCRIPTION = "Recurrent networks that start from something better than zeros: train, reproduce, generate."
REFUSALS = (ValueError, TypeError, NonFiniteLossError, RuntimeError, OSError, ImportError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    1 with one line on standard error where a command is refused; 130 with one line after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with interrupts.raising():
            command = tyro.cli(
                Command,  # pyright: ignore[reportArgumentType]
                prog="contextual-rnn",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
            )
            interrupts.describe("before it was done")
            return command.run() or 0
    except (KeyboardInterrupt, *REFUSALS) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.requested():  # an error after a signal follows from it
            interrupts.print_line()
            return interrupts.status()
        print(f"contextual-rnn: {error}", file=sys.stderr)
        return 1


def _train_with_bar(config: Config, folder: Place, checkpoint_seconds: float, group: Group) -> Run:
    with tqdm(unit="step", desc=f"{task_name(config)} {config.state}", disable=None) as bar:

        def progress(step: int, total: int, metrics: dict[str, float]) -> None:
            bar.total = total
            bar.update(step - bar.n)
            shown = {name.removeprefix("validation_"): value for name, value in metrics.items() if "validation" in name}
            bar.set_postfix({"epoch": int(metrics["epoch"]), **shown}, refresh=False)
            interrupts.describe(f"at step {step} of {total}")

        return train_at(config, folder, checkpoint_seconds=checkpoint_seconds, progress=progress, group=group)
