"""The command `contextual-rnn compare`."""

from __future__ import annotations

import json as jsons
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from contextual_rnn.experiments import interrupts
from contextual_rnn.experiments.config import PanelConfig, tasks
from contextual_rnn.experiments.config.panel import LEARNING_RATES, SEEDS, SMALLEST_GAIN, STEPS, UNITS

if TYPE_CHECKING:
    from contextual_rnn.experiments.compare.plan import Plan
    from contextual_rnn.experiments.panels import PanelData
    from contextual_rnn.experiments.runs.store import Place

COLUMNS = ("target", "series", "time", "inputs", "context", "window", "group", "kinds")
OF_TABLES = (*COLUMNS, "split", "length", "network", "units", "learning_rates", "steps")


@dataclass(frozen=True)
class Compare:
    """Does a better initial state help on your data? Trains a network from several initial states, and answers.

    For example: contextual-rnn compare flows.parquet --series basin --time day --target discharge --inputs rain
    temperature --context soil area --window 30. The answer is the last three lines, and the first ones of report.html;
    the model to use is in the folder winner. Killed or interrupted, the same command goes on.
    """

    table: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[TABLE]")] = None
    """A table in long format: a CSV or Parquet file, or a folder of parts. Or the name of a task (retrieval, decay), or
    of data that ship inside a package: colors (in what is installed), countries (plotly), vowels (aeon)."""
    target: str | None = None
    """Column to predict: a number or class for each step or each series, or a text in each row."""
    series: str | None = None
    """Column that names the series of a row; by default all rows are one."""
    time: str | None = None
    """Column that orders the rows of a series; by default they are in order."""
    inputs: tuple[str, ...] = ()
    """Columns that the network sees at each step. The target among them is its value at the step before."""
    context: tuple[str, ...] = ()
    """Columns that are constant over a series."""
    window: int = 0
    """Steps before each start that a state may read."""
    group: str | None = None
    """Column of what series have in common, for the split by group and the gain by group."""
    kinds: tuple[str, ...] = ()
    """What columns are, where that is not recognised: zone=category tags=set:; text=bytes."""
    split: Literal["series", "time", "group"] = "series"
    """What is independent of the training data: test series, the last steps of each series, or test groups."""
    length: int | None = None
    """Cut series into examples of so many steps; by default an example is a whole series."""
    seeds: int = SEEDS
    """Trained networks of each arm."""
    arms: tuple[str, ...] = ()
    """Arms beside zero; by default all that the table has columns for."""
    network: str = "lstm"
    """lstm, gru, rnn, fast_weights, or FILE.py:NAME, a function (input_size, units) that returns a network."""
    units: tuple[int, ...] = UNITS
    """Sizes that are tried for every arm."""
    learning_rates: tuple[float, ...] = LEARNING_RATES
    """Step sizes of Adam that are tried for every arm."""
    steps: int = STEPS
    """Training steps of each run, as whole epochs, which have ten steps or more."""
    smallest_gain: float = SMALLEST_GAIN
    """A share of the zero state's error: an interval below it means that a better state does not help."""
    out: str = "runs/compare"
    """Folder of the comparison or its URL; finished runs in it are kept. One with a report of something else is
    refused."""
    workers: int | None = None
    """Processes on this machine; by default one a core."""
    scheduler: str | None = None
    """Train on the workers of a Dask scheduler, such as tcp://host:8786, that share the folder and the table."""
    demo: bool = False
    """Compare on real data that are installed with an extra; nothing else is needed."""
    dry_run: bool = False
    """Say what was understood of the table, and how long training will take."""
    json: bool = False
    """Print the answer as JSON."""

    def run(self) -> None:
        from contextual_rnn.experiments.compare.compare import check_options, run
        from contextual_rnn.experiments.compare.report import REPORT
        from contextual_rnn.experiments.progress import Bar
        from contextual_rnn.experiments.runs import store
        from contextual_rnn.experiments.sweeps.workers import dask_workers, local_workers
        from contextual_rnn.experiments.training.threads import cores

        folder = store.out_folder(self.out)
        smallest_gain, workers = check_options(folder, self.smallest_gain, self.workers)
        plan = self._plan(folder)
        count = workers or max(1, cores() // plan.base.threads)
        if self.dry_run:
            _dry_run(plan, count)
            return
        executor = dask_workers(self.scheduler) if self.scheduler else local_workers(count)
        with Bar(unit="run") as bar:

            def watch(stage: str, progress: Any) -> None:
                interrupts.describe_runs(progress.done, progress.total)
                bar.total = progress.total
                bar.set_description_str(stage, refresh=False)
                bar.update(len(progress.outcomes) - bar.n)

            answer = run(plan, folder, executor, smallest_gain=smallest_gain, watch=watch)
        if self.json:
            print(jsons.dumps(answer.as_dict()))
            return
        for warning in answer.warnings:
            print(f"warning: {warning}")
        print(f"report: {store.below(folder, REPORT)}")
        print("\n".join(answer.sentences()))

    def _plan(self, folder: Place) -> Plan:
        from contextual_rnn.experiments.compare.compare import plan_of_table, plan_of_task, table_files
        from contextual_rnn.experiments.panels import Columns, Split
        from contextual_rnn.experiments.panels.examples import DEMO, EXAMPLES, example_table

        table: Any = self.table
        if self.demo == (table is not None):
            raise ValueError(f"table: expected a table, the name of a task, or --demo, got {table or 'none'}")
        if table in tasks():
            self._check_absent(OF_TABLES, f"the task {table}, which has options of its own")
            return plan_of_task(tasks()[table].config(), self.seeds, self.arms)
        example = DEMO if self.demo else str(table)
        if example in EXAMPLES and not Path(example).exists():
            self._check_absent(COLUMNS, f"the data {example}, whose columns are known")
            table, columns = example_table(example)
        elif self.target is None:
            raise ValueError("target: expected the column to predict, got none")
        else:
            columns = Columns(
                self.target, self.series, self.time, self.inputs, self.context, self.window, self.group,
                _kinds(self.kinds),
            )  # fmt: skip
        return plan_of_table(
            table_files(table, columns, folder), columns, Split(self.split), self.length, seeds=self.seeds,
            arms=self.arms, network=self.network, units=self.units, learning_rates=self.learning_rates,
            steps=self.steps,
        )  # fmt: skip

    def _check_absent(self, names: tuple[str, ...], beside: str) -> None:
        """Raises ValueError for one of these options that was given, where it would change nothing."""
        for option in fields(self):
            if option.name in names and (value := getattr(self, option.name)) != option.default:
                raise ValueError(f"{option.name}: expected none beside {beside}, got {value!r}")


def _kinds(words: tuple[str, ...]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for word in words:
        name, equals, kind = word.partition("=")
        if not (name and equals and kind):
            raise ValueError(f"kinds: expected COLUMN=KIND, got {word!r}")
        if name in kinds:
            raise ValueError(f"kinds: expected every column once, got {name} as {kinds[name]} and {kind}")
        kinds[name] = kind
    return kinds


def _dry_run(plan: Plan, count: int) -> None:
    from contextual_rnn.experiments.compare.compare import steps_of
    from contextual_rnn.experiments.compare.report import understood
    from contextual_rnn.experiments.sweeps.estimate import estimated_seconds, in_words

    length = f"{plan.base.epochs} epochs"
    if isinstance(plan.base, PanelConfig):
        length = f"{steps_of(plan.base)} steps"
        print(understood(plan))
    search = plan.search()
    final = plan.final({arm: {name: values[-1] for name, values in plan.grid.items()} for arm in plan.arms})
    configs = [*search.values(), *(config for name, config in final.items() if name not in search)]
    seconds = sum(estimated_seconds(configs)) / count
    print(f"arms: {', '.join(plan.arms)}")
    print(
        f"{len(configs)} runs ({len(search)} of the search) of {length}: "
        f"about {in_words(seconds)} with {count} side by side"
    )


@dataclass(frozen=True)
class Predict:
    """Predict a table's target by the model in a folder that `compare` wrote; the target itself may be missing."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """The folder winner of a comparison."""
    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """A table with the columns of the comparison."""
    out: Path = Path("predictions.parquet")
    """Where to write: a .parquet or .csv file."""
    network: str | None = None
    """FILE.py:NAME of a network of your own, as it was given to `compare`. The file is run."""

    def run(self) -> None:
        from contextual_rnn.experiments.compare.winner import Predictor, write_table
        from contextual_rnn.experiments.panels.understood import rows_in_words
        from contextual_rnn.experiments.runs.store import out_file

        out_file(self.out, (".parquet", ".pq", ".csv"))
        predictor = Predictor.from_pretrained(self.folder, self.network)
        data = predictor.read(self.table)
        predictions = predictor.predict_data(data)
        write_table(predictions, self.out)
        for warning in data.summary["warnings"]:
            print(f"warning: {warning}")
        print(f"table: {rows_in_words(data.summary['rows'])}")
        print(f"predictions: {self.out}: {predictions.num_rows} rows{_without(data, predictions.num_rows)}")


def _without(data: PanelData, predicted: int) -> str:
    """How many of the rows that are used have no prediction."""
    window, rest = data.panel.columns.window, data.summary["rows"]["used"] - predicted
    return (
        f"; the other {rest} are in the window before a start" if data.target.per == "step" and window and rest else ""
    )
