"""A small comparison that several tests look at, and an executor without processes."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

from tests.experiments.test_sweep import Serial

from contextual_rnn.experiments.compare.compare import plan_of_table, run, table_files
from contextual_rnn.experiments.compare.planted import COLUMNS, planted_table
from contextual_rnn.experiments.panels import Split

SEEDS = 2
ARMS = ("zero", "burn_in", "free", "context", "normal", "every_step")


def small_plan(folder, *, truth="context", share=0.9, series=40, columns=COLUMNS, table=None, **options):
    """A plan of small networks and few steps; options as of `plan_of_table`."""
    table = planted_table(truth, share, series=series, steps=8, seed=0) if table is None else table
    known = {"seeds": SEEDS, "units": (4,), "learning_rates": (0.02,), "steps": 40, **options}
    split = known.pop("split", Split())
    return plan_of_table(table_files(table, columns, folder), columns, split, known.pop("length", None), **known)


@functools.cache
def small_comparison():
    """The folder of a comparison of most arms, with a search, and its plan and answer; read it only."""
    folder = Path(tempfile.mkdtemp(prefix="contextual-rnn-test-"))
    split = Split(fractions=(0.4, 0.2, 0.4))
    plan = small_plan(folder, series=60, share=0.95, split=split, arms=ARMS, learning_rates=(0.003, 0.03), steps=80)
    return folder, plan, run(plan, folder, serial())


def serial():
    return contextlib.nullcontext(Serial())
