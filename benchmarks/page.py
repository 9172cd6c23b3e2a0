"""docs/speed.md: what results/benchmarks/ holds, by code.

python -m benchmarks.page    after a run of the benchmarks
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contextual_rnn.experiments.report.pages import replace_block
from contextual_rnn.experiments.stats.tables import Table, markdown

PAGE = Path("docs", "speed.md")
PLOTTED = "benchmarks.json"
HEADER = ("measured", "figure", "target", "holds")
# What is measured, in which file below results/benchmarks/, and under which key of it.
PARTS: dict[str, tuple[str, str | None]] = {
    "Fast weights": (PLOTTED, None),
    "Fast weights on a GPU": ("gpu.json", None),
    "What a contextual state adds to an LSTM": ("overhead.json", None),
    "Sequences of different lengths": ("ragged.json", None),
    "The same on a processor with AVX2 alone": ("avx2/ragged.json", None),
    "Streaming": ("streaming.json", None),
    "Sweeps": ("sweeps.json", "sweep"),
    "Stacks of seeds": ("sweeps.json", "stack"),
    "Ten thousand runs": ("sweeps.json", "skip"),
    "Checkpoints": ("sweeps.json", "checkpoint"),
    "Tables of sequences": ("tables.json", None),
}
PLOTS = {"training_step.svg": "A whole training step against T, H and B", "recurrence.svg": "The recurrence alone"}


def block(results: Path) -> str:
    """A table for each part that was measured: every figure with its target, held or not, and the machine."""
    return "\n\n".join(_parts(results / "benchmarks"))


def _parts(folder: Path) -> Iterator[str]:
    for title, (file, key) in PARTS.items():
        report = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        report = report.get(key) if key else report
        if not report:
            continue
        yield f"## {title}\n\n{_machine(report)}"
        yield markdown(Table("", HEADER, [_row(figure) for figure in report["figures"]]))
        if file == PLOTTED:
            yield from (f"![{text}](../results/benchmarks/{name})" for name, text in PLOTS.items())


def _machine(report: dict[str, Any]) -> str:
    machine = report["machine"]
    device = f"an {machine['gpu']} beside " if "gpu" in machine else ""
    return (
        f"`{report['command']}` on {device}{machine['cores']} cores of an {machine['processor']} "
        f"({machine['torch instruction set']}), torch {machine['versions']['torch']}."
    )


def _row(figure: dict[str, Any]) -> list[str]:
    value = "not measured" if figure["value"] is None else f"{figure['value']:.4g}"
    holds = "" if figure["holds"] is None else "yes" if figure["holds"] else "**no**"
    note = f" ({figure['note']})" if figure["note"] else ""
    target = "" if figure["target"] is None else f"{figure['bound']} {figure['target']:g}"
    return [f"{figure['name']}{note}", value, target, holds]


if __name__ == "__main__":
    replace_block(PAGE, block(Path("results")))
