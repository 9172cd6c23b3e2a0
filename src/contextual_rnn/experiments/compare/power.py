"""How often the verdict is right on planted tables: python -m contextual_rnn.experiments.compare.power OUT.json."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy
import tyro

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.compare.answer import answer_of
from contextual_rnn.experiments.compare.compare import plan_of_table, table_files
from contextual_rnn.experiments.compare.planted import COLUMNS, DECAY, Truth, planted_table
from contextual_rnn.experiments.compare.runs import RUNS, tested_arms
from contextual_rnn.experiments.panels import Split
from contextual_rnn.experiments.runs.train import train
from contextual_rnn.experiments.stats.verdict import Errors, Gain, Verdict, gain_over
from contextual_rnn.experiments.training.threads import threads

CASES: tuple[tuple[Truth, float], ...] = (
    ("nothing", 0.5), ("context", 0.5), ("past", 0.5), ("context", 0.2), ("past", 0.2)
)  # fmt: skip
ARMS = ("zero", "free", "context", "window")
# Of the curve, which needs no training: a state that finds 90 % of the start, and networks that differ by so much.
FOUND, NETWORKS_DIFFER, TABLES = 0.9, 0.05, 200
CURVE_SERIES, CURVE_SHARES = (10, 20, 40, 80, 160), (0.0, 0.1, 0.2, 0.35, 0.5, 0.7)


@dataclass(frozen=True)
class Power:
    """Train and judge on tables whose truth is known, and write how often each verdict is given."""

    out: tyro.conf.Positional[Path]
    """A JSON file; simulations that it has are not run again."""
    simulations: int = 20
    """Tables of each truth and size."""
    series: tuple[int, ...] = (100, 400)
    """Series of a table; a fifth of them are the test set."""
    length: int = 20
    """Steps of a series after its start."""
    seeds: int = 3
    """Trained networks of each arm."""
    units: int = 8
    """Size of the LSTM."""
    steps: int = 300
    """Training steps of a run."""
    workers: int = 1
    """Processes."""

    def run(self) -> None:
        content: dict[str, Any] = json.loads(self.out.read_text()) if self.out.exists() else {"verdicts": {}}
        content["settings"] = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("out", "workers")}
        verdicts: dict[str, list[Any]] = content["verdicts"]
        left = [  # the sizes and truths of one seed before the next, so that all have as many when it is stopped
            (key, truth, share, count, seed)
            for seed in range(self.simulations)
            for count in self.series
            for truth, share in CASES
            if len(verdicts.setdefault(key := f"{truth} {share} {count}", [])) <= seed
        ]
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            for (key, *_), verdict in zip(left, pool.map(self._case, left), strict=True):
                verdicts[key].append(verdict)
                write_whole(self.out, json.dumps(content, indent=1) + "\n")
        content["curve"] = {
            f"{share} {count}": share_that_helps(share, count, self.length, self.seeds)
            for share in CURVE_SHARES
            for count in CURVE_SERIES
        }
        write_whole(self.out, json.dumps(content, indent=1) + "\n")
        for key, each in verdicts.items():
            print(key, dict(Counter(verdict for verdict, _, _ in each)))

    def _case(self, case: tuple[str, Truth, float, int, int]) -> tuple[Verdict, str, float]:
        """The verdict on one table, the arm that it is about, and the gain in shares of zero's error."""
        _, truth, share, series, seed = case
        with threads(1), tempfile.TemporaryDirectory() as folder:
            table = planted_table(truth, share, series=series, steps=self.length, seed=seed)
            plan = plan_of_table(
                table_files(table, COLUMNS, Path(folder)), COLUMNS, Split(seed=seed), None, seeds=self.seeds,
                units=(self.units,), learning_rates=(1e-2,), steps=self.steps, arms=ARMS,
            )  # fmt: skip
            final = plan.final(plan.chosen([]))
            for name, config in final.items():
                train(config, Path(folder) / RUNS / name, checkpoint_seconds=1e9)
            answer = answer_of(plan, tested_arms(plan, list(final), Path(folder) / RUNS))
        return answer.verdict, answer.best, answer.gain.share.estimate


def share_that_helps(share: float, series: int, steps: int, seeds: int) -> float:
    """How often the verdict is "helps" on `TABLES` simulated tables of errors of so many test series.

    The zero state misses all of h(0), another state a tenth of it; both networks have errors of their own.
    """
    rng = numpy.random.default_rng(0)

    def gain() -> Gain:
        start = rng.standard_normal((series, 1)) * (share / (1 - share)) ** 0.5 * DECAY ** numpy.arange(steps)
        noise = rng.standard_normal((series, steps))
        own = NETWORKS_DIFFER * rng.standard_normal((2, seeds, series, 1))
        zero = Errors((start + noise + own[0]) ** 2, range(series))
        other = Errors(((1 - FOUND) * start + noise + own[1]) ** 2, range(series))
        return gain_over(zero, other, len(ARMS) - 1)

    return sum(gain().verdict() == "helps" for _ in range(TABLES)) / TABLES


if __name__ == "__main__":
    tyro.cli(Power).run()
