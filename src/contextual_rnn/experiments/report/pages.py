"""The sentences and tables on results in README.md and docs/evidence.md, written between two marks.

python -m contextual_rnn.experiments.report.pages    from results/, into README.md and docs/
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.report.figures import to_svg
from contextual_rnn.experiments.report.from_weights import Trained
from contextual_rnn.experiments.report.publish import retrieval_table
from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.runs.published import read_results
from contextual_rnn.experiments.studies.ba2016_table_1 import table_1
from contextual_rnn.experiments.studies.catalogue import ASIDE, CONTROLS, INGREDIENTS, MAP, TABLE_1, runs_of, study
from contextual_rnn.experiments.studies.findings import findings
from contextual_rnn.experiments.studies.findings_in_short import in_short
from contextual_rnn.experiments.studies.gain_map import map_figure, map_table
from contextual_rnn.experiments.studies.start_ablations import control_table, ingredient_table

BEGIN, END = "<!-- from results/ by make pages -->", "<!-- end -->"
FIGURE = Path("docs", "figures", "when-it-helps.svg")
ASKED = {
    "authors": "the paper's scale under the authors' start",
    "sound": "the paper's scale under a sound start",
    "choices": "the paper's scale with h alone or the timing of Ba et al.",
    "map": "the map",
    "ingredients": "the ingredients of the authors' start",
    "controls": "the controls",
    "table 1": "table 1 of Ba et al.",
    "decay": "decay at the paper's scale",
}


def readme_block(results: Path) -> str:
    """The README's figure, its five lines and table of accuracies."""
    runs = read_results(results)
    lines = "\n".join(f"- {line}" for line in in_short(runs))
    missing = _missing(findings(runs, Trained.read(results).calibration))
    pictured = [run for run in runs if study(run) not in ASIDE]
    parts = [*_figure(runs, "docs/figures"), lines, missing, retrieval_table(pictured)]
    return "\n\n".join(filter(None, parts))


def docs_block(results: Path) -> str:
    """All findings and tables, for docs/evidence.md."""
    runs = read_results(results)
    short, mapped = runs_of(runs, MAP, INGREDIENTS, CONTROLS), runs_of(runs, MAP)
    tables = [ingredient_table(short), control_table(short), table_1(runs_of(runs, TABLE_1))]
    tables += [map_table(mapped)] if mapped else []
    sentences = findings(runs, Trained.read(results).calibration)
    lines = "\n".join(f"- {text}" for text in sentences.values())
    parts = [lines, _missing(sentences), *_figure(runs, "figures"), *(markdown(table) for table in tables if table)]
    return "\n\n".join(filter(None, parts))


def _missing(sentences: dict[str, str]) -> str:
    missing = [text for name, text in ASKED.items() if name not in sentences]
    return f"Without a finding yet, for want of trained seeds: {', '.join(missing)}." if missing else ""


def markdown(table: dict[str, Any]) -> str:
    """A table of the report in Markdown."""
    rows = [table["header"], ["---"] * len(table["header"]), *table["rows"]]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"**{table['title']}**\n\n{lines}"


def figure_svg(results: Path) -> str:
    """The map as a file of its own, on white: readable on a dark page too."""
    figure = map_figure(runs_of(read_results(results), MAP))
    return to_svg(figure, transparent=False)


def write_pages(root: Path) -> None:
    """Update the blocks of README.md and docs/evidence.md, and the figure, from `root`/results.

    Raises ValueError where a page has no marks.
    """
    results = root / "results"
    if runs_of(read_results(results), MAP):
        (root / FIGURE).parent.mkdir(parents=True, exist_ok=True)
        write_whole(root / FIGURE, figure_svg(results))
    replace_block(root / "README.md", readme_block(results))
    replace_block(root / "docs" / "evidence.md", docs_block(results))


def _figure(runs: list[Run], folder: str) -> list[str]:
    text = "When does it help? Gain in final accuracy over a zero state"
    return [f"![{text}]({folder}/{FIGURE.name})"] if runs_of(runs, MAP) else []


def replace_block(path: Path, block: str) -> None:
    """Put `block` between the marks of the page at `path`. Raises ValueError where it has none."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"root: expected {BEGIN} and {END} in {path}, got a page without")
    write_whole(path, f"{before}{BEGIN}\n{block}\n{END}{after}")


if __name__ == "__main__":
    write_pages(Path())
