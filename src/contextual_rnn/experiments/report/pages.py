"""Finished sweeps into results/, and results/ into README.md and docs/evidence.md, between two marks.

python -m contextual_rnn.experiments.report.pages    from runs/, where there is one, and results/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config.retrieval import STARTS
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.report.figures import map_figure, to_svg
from contextual_rnn.experiments.report.from_weights import Trained, trained
from contextual_rnn.experiments.runs.folder import Run, read_runs, run_folders
from contextual_rnn.experiments.runs.published import publish, read_results
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.stats.tables import fill, markdown
from contextual_rnn.experiments.stats.wording import interval, minus, spread
from contextual_rnn.experiments.studies import catalogue
from contextual_rnn.experiments.studies.calibration import calibration, calibration_table
from contextual_rnn.experiments.studies.catalogue import ASIDE, AUTHORS, CALIBRATED, DECAY, study
from contextual_rnn.experiments.studies.evidence import evidence_of, facts_of
from contextual_rnn.experiments.studies.start_ablations import accuracy_table
from contextual_rnn.experiments.sweeps.sweep import SWEEP

PROSE = "findings.md.jinja"  # in results/
BEGIN, END = "<!-- from results/ by make pages -->", "<!-- end -->"
FIGURE = Path("docs", "figures", "when-it-helps.svg")
# The findings, and what each is about, for those that are still without one.
ASKED = {
    "authors": "the paper's scale under the authors' start",
    "sound": "the paper's scale under a sound start",
    "choices": "the paper's scale with h alone or the timing of Ba et al.",
    "map": "the map",
    "ingredients": "the ingredients of the authors' start",
    "controls": "the controls",
    "table_1": "table 1 of Ba et al.",
    "decay": "decay at the paper's scale",
    "calibration": "",
}


def publish_all(folder: Path, results: Path) -> list[Path]:
    """Publish every sweep directly below `folder` with finished runs, and what a report computes from their weights.

    The runs of `reproduce` lie deeper and are not published. Calibration comes from the sweep decay-calibration,
    diagnostics and playground from the paper's own settings. Returns the files of runs. Raises ValueError, which names
    the file, for a damaged run.
    """
    written: list[Path] = []
    paper: list[Run] = []
    for sweep in sorted(path.parent for path in folder.glob(f"*/{SWEEP}")):
        runs = read_runs(sweep) if run_folders(sweep) else []
        runs = [run for run in runs if run.result is not None and run.folder.parent == sweep]
        if not runs:
            continue
        if sweep.name == CALIBRATED:
            Trained(calibration(groups_of(runs)), [], None).write(results)
            continue
        publish(runs, results / f"{sweep.name}.json")
        written.append(results / f"{sweep.name}.json")
        paper += runs if sweep.name in (AUTHORS, DECAY) else []
    groups = groups_of(paper)
    sampled = [group for group in groups if group.entry.trajectories]
    dataclasses.replace(trained(sampled, groups), calibration=[]).write(results)
    return written


class Pages(NamedTuple):
    """What is written: by page the text between its marks, and the map as SVG, where a run of it is published."""

    blocks: dict[str, str]
    figure: str | None


def findings(prose: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """The findings by name that the facts allow: the macros of `prose`, with the numbers filled in."""
    environment = Environment(
        loader=FileSystemLoader(prose.parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., str]] = {
        "said": interval,
        "spread": spread,
        "points": lambda gain: minus(f"{100 * gain:+.2f}"),
        "ends": lambda texts: " to ".join(dict.fromkeys((texts[0], texts[-1]))),
    }
    environment.filters.update(filters)
    context = {"facts": facts, "starts": STARTS, "studies": catalogue}
    module = environment.get_template(prose.name).make_module(context)
    texts = {name: " ".join(getattr(module, name)().split()) for name in ASKED}
    return {name: text for name, text in texts.items() if text}


def pages_of(results: Path, prose: Path | None = None) -> Pages:
    """The README's sentences, the tables of the explanations, all of docs/evidence.md that is a result, and the map."""
    runs, calibrated = read_results(results), Trained.read(results).calibration
    texts = findings(prose or results / PROSE, facts_of(runs, calibrated))
    evidence = evidence_of(runs)
    missing = [text for name, text in ASKED.items() if text and name not in texts]
    wanted = f"Without a finding yet, for want of trained seeds: {', '.join(missing)}." if missing else ""
    accuracies = accuracy_table([run for run in runs if study(run) not in ASIDE])
    tables = [table for table in (*evidence.explanations, evidence.table_1, evidence.map_table) if table]
    picture = "![When does it help? Gain in final accuracy over a zero state]({})" if evidence.gains else ""
    parts = {
        "README.md": [
            "\n".join(f"- {sentence}" for sentence in answer(runs)),
            picture.format(FIGURE.as_posix()),
        ],
        "docs/explanations/when-it-helps.md": [
            picture.format(f"../figures/{FIGURE.name}"),
            markdown(accuracies) if accuracies else "",
        ],
        "docs/explanations/spread.md": [markdown(calibration_table(calibrated)) if calibrated else ""],
        "docs/evidence.md": [
            "\n".join(f"- {text}" for name in ASKED if (text := texts.get(name))),
            wanted,
            picture.format(f"figures/{FIGURE.name}"),
            *(f"**{table.title}**\n\n{markdown(table)}" for table in tables),
        ],
    }
    # On white: readable on a dark page too.
    figure = to_svg(map_figure(evidence.gains), transparent=False) if evidence.gains else None
    return Pages({page: "\n\n".join(filter(None, each)) for page, each in parts.items()}, figure)


def write_pages(root: Path) -> None:
    """Update the blocks of README.md and docs/evidence.md, and the figure, from `root`/results.

    Raises ValueError where a page has no marks.
    """
    blocks, figure = pages_of(root / "results")
    if figure:
        (root / FIGURE).parent.mkdir(parents=True, exist_ok=True)
        write_whole(root / FIGURE, figure)
    for page, block in blocks.items():
        replace_block(root / page, block)


def replace_block(path: Path, block: str) -> None:
    """Put `block` between the marks of the page at `path`. Raises ValueError, which names it, where it has none."""
    try:
        write_whole(path, fill(path.read_text("utf-8"), BEGIN, END, f"\n{block}\n"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


if __name__ == "__main__":
    print(*publish_all(Path("runs"), Path("results")), sep="\n")
    write_pages(Path())
