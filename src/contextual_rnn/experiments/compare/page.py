"""The tables of docs/compare.md, by code: python -m contextual_rnn.experiments.compare.page, after new results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.compare.answer import percent
from contextual_rnn.experiments.compare.power import CASES, CURVE_SERIES, CURVE_SHARES
from contextual_rnn.experiments.compare.report import share_of
from contextual_rnn.experiments.runs.json_file import read_json
from contextual_rnn.experiments.stats.intervals import Interval
from contextual_rnn.experiments.stats.tables import Table, fill, markdown
from contextual_rnn.experiments.stats.verdict import Verdict

PAGE, RESULTS = Path("docs", "compare.md"), Path("results", "compare")
REAL = ("countries", "vowels", "colors")


def tables_of(results: Path) -> dict[str, Table]:
    """The tables of the page by the names of their marks."""
    power = read_json(results / "planted.json")
    return {"counts": _counts(power), "curve": _curve(power), "real": _real(results)}


def filled(page: str, tables: Mapping[str, Table]) -> str:
    """The page with each table between its two marks. Raises ValueError where it does not have them."""
    for name, table in tables.items():
        page = fill(page, f"<!-- {name} -->", f"<!-- /{name} -->", f"\n{markdown(table)}\n")
    return page


def _counts(power: dict[str, Any]) -> Table:
    (series,) = power["settings"]["series"]
    verdicts, rows = get_args(Verdict), []
    for truth, share in CASES:
        given = Counter(verdict for verdict, *_ in power["verdicts"][f"{truth} {share} {series}"])
        counts = [str(given[verdict]) for verdict in verdicts]
        rows.append([truth, percent(share), str(given.total()), *counts])
    return Table("", ["start depends on", "share of the first step", "tables", *verdicts], rows)


def _curve(power: dict[str, Any]) -> Table:
    shares = ["nothing" if not share else percent(share) for share in CURVE_SHARES]
    rows = [
        [str(series), *[f"{power['curve'][f'{share} {series}']:.2f}" for share in CURVE_SHARES]]
        for series in CURVE_SERIES
    ]
    return Table("", ["test series", *shares], rows)


def _real(results: Path) -> Table:
    rows = []
    for name in REAL:
        answer = read_json(results / f"{name}.json")
        best = answer["arms"][answer["best"]]
        rows.append([
            f"`{name}`", answer["verdict"], f"`{answer['best']}`", share_of(Interval(**answer["gain"]["share"])),
            share_of(Interval(**answer["over"]["every_step"])), "-" if not answer["steps"] else str(answer["steps"]),
            str(len(best["seconds"])), str(answer["series"]),
        ])  # fmt: skip
    header = ["data", "verdict", "best state", "gain over `zero`", "gain over `every_step`", "steps", "seeds"]
    return Table("", [*header, "test series"], rows)


if __name__ == "__main__":
    write_whole(PAGE, filled(PAGE.read_text("utf-8"), tables_of(RESULTS)))
