"""Finished sweeps into results/, and results/ into docs/evidence.md and, between two marks, into other pages.

python -m contextual_rnn.experiments.report.pages    from runs/, where there is one, and results/
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.config.retrieval import STARTS
from contextual_rnn.experiments.report.answer import answer
from contextual_rnn.experiments.report.figures import map_figure, to_svg
from contextual_rnn.experiments.report.from_weights import Trained, trained
from contextual_rnn.experiments.runs.folder import Run, read_runs, run_folders
from contextual_rnn.experiments.runs.json_file import parse, read_text
from contextual_rnn.experiments.runs.published import publish, read_results
from contextual_rnn.experiments.stats.groups import groups_of
from contextual_rnn.experiments.stats.tables import Table, fill, markdown
from contextual_rnn.experiments.stats.wording import interval
from contextual_rnn.experiments.studies import catalogue
from contextual_rnn.experiments.studies.calibration import calibration, calibration_table
from contextual_rnn.experiments.studies.catalogue import ASIDE, AUTHORS, CALIBRATED, DECAY, TOGETHER, study
from contextual_rnn.experiments.studies.ensembles import ensembles, ensembles_table
from contextual_rnn.experiments.studies.evidence import evidence_of, facts_of
from contextual_rnn.experiments.studies.start_ablations import accuracy_table
from contextual_rnn.experiments.sweeps.sweep import SWEEP

ARTICLE, ENSEMBLES = "evidence.md.jinja", "ensembles.json"  # in results/
BEGIN, END = "<!-- from results/ by make pages -->", "<!-- end -->"
EVIDENCE = Path("docs", "evidence.md")
FIGURE = Path("docs", "figures", "when-it-helps.svg")
PICTURE = "![When does it help? Gain in final accuracy over a zero state]"


def publish_all(folder: Path, results: Path) -> list[Path]:
    """Publish every sweep directly below `folder` with finished runs, and what a report computes from their weights.

    The runs of `reproduce` lie deeper and are not published. Calibration comes from the sweep decay-calibration, the
    bands of several networks from decay-ensembles, diagnostics and playground from the paper's own settings. Returns
    the files of runs. Raises ValueError, which names the file, for a damaged run.
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
        if sweep.name == TOGETHER:
            write_whole(results / ENSEMBLES, json.dumps(ensembles(groups_of(runs)), indent=1) + "\n")
            continue
        publish(runs, results / f"{sweep.name}.json")
        written.append(results / f"{sweep.name}.json")
        paper += runs if sweep.name in (AUTHORS, DECAY) else []
    groups = groups_of(paper)
    sampled = [group for group in groups if group.entry.trajectories]
    dataclasses.replace(trained(sampled, groups), calibration=[]).write(results)
    return written


class Pages(NamedTuple):
    """What is written: the text between the marks of each page, docs/evidence.md, and the map where it was run."""

    blocks: dict[str, str]
    article: str
    figure: str | None


def article(template: Path, runs: Sequence[Run], calibrated: Sequence[Mapping[str, Any]]) -> str:
    """docs/evidence.md: `template` with the numbers, verdicts and tables of `runs` and the rows of `calibration`."""
    environment = Environment(
        loader=FileSystemLoader(template.parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., str]] = {"said": interval, "markdown": markdown}
    environment.filters.update(filters)
    evidence = evidence_of(runs)
    tables = [_accuracies(runs), *evidence.explanations, evidence.table_1, evidence.map_table]
    tables += [calibration_table(calibrated)] if calibrated else []
    text = environment.get_template(template.name).render(
        facts=facts_of(runs, calibrated),
        answer=answer(runs),
        tables=[table for table in tables if table],
        starts=STARTS,
        studies=catalogue,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _accuracies(runs: Sequence[Run]) -> Table | None:
    return accuracy_table([run for run in runs if study(run) not in ASIDE])


def pages_of(results: Path) -> Pages:
    """The README's sentences, the tables of the explanations, docs/evidence.md, and the map."""
    runs, calibrated = read_results(results), Trained.read(results).calibration
    path = results / ENSEMBLES
    together = parse(read_text(path), path) if path.exists() else []
    gains, accuracies = evidence_of(runs).gains, _accuracies(runs)
    parts = {
        "README.md": [
            "\n".join(f"- {sentence}" for sentence in answer(runs)),
            f"{PICTURE}({FIGURE.as_posix()})" if gains else "",
        ],
        "docs/explanations/when-it-helps.md": [
            f"{PICTURE}(../figures/{FIGURE.name})" if gains else "",
            markdown(accuracies) if accuracies else "",
        ],
        "docs/explanations/spread.md": [
            markdown(calibration_table(calibrated)) if calibrated else "",
            markdown(ensembles_table(together)) if together else "",
        ],
    }
    blocks = {page: "\n\n".join(filter(None, each)) for page, each in parts.items()}
    # On white: readable on a dark page too.
    figure = to_svg(map_figure(gains), transparent=False) if gains else None
    return Pages(blocks, article(results / ARTICLE, runs, calibrated), figure)


def write_pages(root: Path) -> None:
    """Update the blocks of the pages, docs/evidence.md and the figure, from `root`/results.

    Raises ValueError where a page has no marks.
    """
    blocks, evidence, figure = pages_of(root / "results")
    if figure:
        (root / FIGURE).parent.mkdir(parents=True, exist_ok=True)
        write_whole(root / FIGURE, figure)
    write_whole(root / EVIDENCE, evidence)
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
