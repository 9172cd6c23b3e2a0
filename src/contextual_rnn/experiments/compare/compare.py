"""A comparison from beginning to end: a table or a task in, a folder with the answer out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import torch

from contextual_rnn._entries import entries_of
from contextual_rnn._numbers import SHARE, check_number, check_size, listed, shortened
from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.compare.answer import Answer, answer_of
from contextual_rnn.experiments.compare.plan import Plan
from contextual_rnn.experiments.compare.runs import RUNS, Watch, test_of, tested_arms, train_all
from contextual_rnn.experiments.compare.winner import CONFIG, WEIGHTS, Predictor, write_table
from contextual_rnn.experiments.config import BASELINE, CONTROLS, Config, PanelConfig, arms_for
from contextual_rnn.experiments.config.panel import LEARNING_RATES, SEEDS, SMALLEST_GAIN, STEPS, UNITS
from contextual_rnn.experiments.panels import Columns, Split
from contextual_rnn.experiments.panels.source import open_table, paths_of
from contextual_rnn.experiments.panels.split import split_of
from contextual_rnn.experiments.runs import store
from contextual_rnn.experiments.runs.store import Place, Store
from contextual_rnn.experiments.runs.weights import load_task
from contextual_rnn.experiments.sweeps.sweep import SWEEP
from contextual_rnn.experiments.sweeps.workers import local_workers
from contextual_rnn.experiments.tasks.networks import own_files
from contextual_rnn.experiments.tasks.panel import data_of, panel_text, passes_of
from contextual_rnn.experiments.tasks.panel_model import PanelModel
from contextual_rnn.experiments.tasks.registry import build_task
from contextual_rnn.experiments.training.threads import cores

WINNER, TABLE = "winner", "table.parquet"
SMALL_BATCH, LARGE_BATCH = 64, 256  # sequences in a step; the large one for training sets of at least 100 of them


def compare(
    table: Any,
    target: str,
    *,
    series: str | None = None,
    time: str | None = None,
    inputs: Sequence[str] = (),
    context: Sequence[str] = (),
    window: int = 0,
    group: str | None = None,
    kinds: Mapping[str, str] | None = None,
    split: Split | None = None,
    length: int | None = None,
    seeds: int = SEEDS,
    arms: Sequence[str] | None = None,
    network: str = "lstm",
    units: Sequence[int] = UNITS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    steps: int = STEPS,
    smallest_gain: float = SMALLEST_GAIN,
    out: Path | str = "runs/compare",
    workers: int | None = None,
) -> Answer:
    """Does a better initial state help on the sequences of a table? Trains the arms and returns the answer.

        answer = compare("flows.parquet", "discharge", series="basin", time="day", inputs=["rain"], context=["area"])
        print("\\n".join(answer.sentences()))

    `table` is a CSV or Parquet file, several, a folder of parts, or a data frame; `Columns` and `Split` explain the
    columns, `PanelConfig` the arms and networks. Every arm gets the same search over `units` and `learning_rates` and
    `steps` steps of training, then `seeds` seeds of its best choice. `out`, a folder or its URL, gets the runs,
    answer.json, report.html, and the model to use in the folder winner; the same call goes on where it was stopped.

    Raises ValueError or TypeError for a table or columns that are refused, for bad options, and where `out` has a
    report, an answer or a model that no comparison has written.
    """
    seen, known = cast("tuple[str, ...]", inputs), cast("tuple[str, ...]", context)  # `Columns` makes them tuples
    columns = Columns(target, series, time, seen, known, window, group, {} if kinds is None else kinds)
    split = split_of(split)
    if not isinstance(out, str | Path):
        raise TypeError(f"out: expected a folder or its URL, got {shortened(out)}")
    folder = out if isinstance(out, Path) else store.place_of(out)
    smallest_gain, workers = check_options(folder, smallest_gain, workers)
    plan = plan_of_table(
        table_files(table, columns, folder), columns, split, length, seeds=seeds, arms=arms,
        network=network, units=units, learning_rates=learning_rates, steps=steps,
    )  # fmt: skip
    return run(plan, folder, local_workers(workers or cores()), smallest_gain=smallest_gain)


def check_options(folder: Place, smallest_gain: float, workers: int | None) -> tuple[float, int | None]:
    """The options that are used after training alone, checked before it; ValueError for what `folder` would lose."""
    from contextual_rnn.experiments.compare.report import REPORT
    from contextual_rnn.experiments.report.html import ANSWER

    place = Store(folder)
    written = [name for name in (ANSWER, REPORT, f"{WINNER}/{CONFIG}", f"{WINNER}/{WEIGHTS}") if place.exists(name)]
    if written and not place.exists(f"{RUNS}/{SWEEP}"):
        raise ValueError(
            f"out: expected a new folder or one of a comparison, got {listed(written)} of something else in {folder}"
        )
    workers = None if workers is None else check_size("workers", workers)
    return check_number("smallest_gain", smallest_gain, *SHARE), workers


def plan_of_table(
    files: Sequence[str],
    columns: Columns,
    split: Split,
    length: int | None,
    *,
    seeds: int,
    arms: Sequence[str] | None = None,
    network: str = "lstm",
    units: Sequence[int] = UNITS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    steps: int = STEPS,
) -> Plan:
    """The comparison of a table's arms; by default all that it has columns for. Reads the table."""
    check_size("steps", steps)
    possible = arms_for(bool(columns.context), bool(columns.window))
    arms = [] if arms is None else _values_of("arms", arms)
    if unknown := [arm for arm in arms if arm not in possible]:
        received = ", ".join(map(str, unknown))
        raise ValueError(f"arms: expected some of {', '.join(possible)} for these columns, got {received}")
    grid = {
        "units": _values_of("units", units, least=1),
        "learning_rate": _values_of("learning_rates", learning_rates, 1),
    }
    config = PanelConfig(panel=panel_text(list(files), columns, split, length), network=network)
    config = dataclasses.replace(config, data=_hash([*files, *own_files(config.network)]))
    data = data_of(config)
    examples = len(data.train)
    if own_files(network):  # one that cannot be made is refused before anything is trained
        with torch.random.fork_rng(devices=[]):
            PanelModel(dataclasses.replace(config, units=grid["units"][0]), data.encoding)
    batch = LARGE_BATCH if examples >= 100 * LARGE_BATCH else min(SMALL_BATCH, examples)
    config = dataclasses.replace(config, batch_size=batch, epochs=1)
    config = dataclasses.replace(config, epochs=max(1, round(steps / steps_of(config))))
    chosen = tuple(dict.fromkeys((BASELINE, *(arms or possible))))
    return Plan(config, chosen, grid, seeds, tuple(arm for arm in CONTROLS if arm in chosen))


def steps_of(config: PanelConfig) -> int:
    """Training steps of a run."""
    examples = len(data_of(config).train)
    return config.epochs * math.ceil(passes_of(examples, config.batch_size) * examples / config.batch_size)


def plan_of_task(config: Config, seeds: int, arms: Sequence[str] | None = None) -> Plan:
    """The comparison of a task's states, such as those of the paper's two, without a search.

    Raises ValueError where the task does not name its states and `arms` does not either, and what `test_of` does: the
    test of a model without training shows before all training whether there will be one.
    """
    known = get_args(get_type_hints(type(config))["state"])
    if not (arms or known):
        raise ValueError(f"arms: expected the states to compare, as {type(config).__name__} does not list them")
    plan = Plan(config, tuple(dict.fromkeys((BASELINE, *(arms or known)))), {}, seeds)
    untrained = dataclasses.replace(config, state=BASELINE)
    test_of(build_task(untrained), untrained)
    return plan


def run(
    plan: Plan,
    folder: Place,
    workers: AbstractContextManager[Executor],
    *,
    smallest_gain: float = SMALLEST_GAIN,
    watch: Watch = lambda stage, progress: None,
) -> Answer:
    """Train what is left to train, and write the answer, the report and the model to use into `folder`."""
    from contextual_rnn.experiments.compare.report import REPORT, render
    from contextual_rnn.experiments.report.html import ANSWER

    with workers as executor:
        names = train_all(plan, folder, executor, watch)
    with store.readable(folder) as copy:
        answer = answer_of(plan, tested_arms(plan, names, copy / RUNS), smallest_gain)
        write_whole(copy / ANSWER, json.dumps(answer.as_dict(), indent=1) + "\n")
        files = [ANSWER, *_write_winner(answer, copy)]
        write_whole(copy / REPORT, render(plan, answer, folder))
        store.give_back(copy, [*files, REPORT], folder)
    return answer


def _write_winner(answer: Answer, folder: Path) -> list[str]:
    """The model to use, where it is one of a table; the names of its files."""
    run = answer.arms[answer.use].best_run
    if not isinstance(run.config, PanelConfig):
        return []
    predictor = Predictor(load_task(run).model.model, run.config, data_of(run.config).encoding)
    predictor.save_pretrained(folder / WINNER)
    return [f"{WINNER}/{path.name}" for path in (folder / WINNER).iterdir()]


def table_files(table: Any, columns: Columns, folder: Place) -> list[str]:
    """Absolute paths of a table's files; one in memory is first written to table.parquet in `folder`."""
    if (paths := paths_of(table)) is not None:
        return [str(path.absolute()) for path in paths]
    if not isinstance(folder, Path):
        raise ValueError(f"table: expected a file that all workers can read, got a {type(table).__name__}")
    import pyarrow

    source = open_table(table, columns.names)
    names = [name for name in columns.names if name in source.types]
    arrays = {name: pyarrow.chunked_array(list(source.read(name)), source.types[name]) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.table(arrays), folder / TABLE)
    return [str((folder / TABLE).absolute())]


def _values_of(name: str, values: Any, least: int = 0) -> tuple[Any, ...]:
    """The values of an argument that is a list of at least so many, each once."""
    entries = entries_of(name, values, "a list of values")
    if len(entries) < least:
        raise ValueError(f"{name}: expected at least one value, got none")
    if any(value in entries[:place] for place, value in enumerate(entries)):
        raise ValueError(f"{name}: expected every value once, got {listed(entries)}")
    return tuple(entries)


def _hash(files: Sequence[str]) -> str:
    """Of all bytes of the files, also of those in folders."""
    digest = hashlib.blake2b(digest_size=8)
    for name in files:
        path = Path(name)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with open(file, "rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
    return digest.hexdigest()
