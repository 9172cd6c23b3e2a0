"""What was found, in three sentences: the page begins with them, and commands end with them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from contextual_rnn.experiments.runs.folder import Run
from contextual_rnn.experiments.stats.wording import interval, minus, spread, words
from contextual_rnn.experiments.studies.answer import Finding, findings_of

TEMPLATE = "answer.txt.jinja"


def answer(runs: Sequence[Run]) -> list[str]:
    """Three sentences on any set of runs: what the states gained, and how sure that is; none of no runs."""
    return sentences(findings_of(runs))


def sentences(findings: Sequence[Finding]) -> list[str]:
    """The sentences of answer.txt.jinja, a line each, filled with `findings`."""
    lines = _template().render(findings=findings).split("\n\n")
    return [sentence for line in lines if (sentence := " ".join(line.split()))]


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("contextual_rnn.experiments.report", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {"number": _number, "words": words, "said": interval, "spread": spread}
    environment.filters.update(filters)
    return environment.get_template(TEMPLATE, globals={"never": math.inf})


def _number(value: float, share: bool = False) -> str:
    """As "99.12%", "46.5", "0.0307"."""
    if math.isinf(value):
        return "never"
    return minus(f"{value:.2%}" if share else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}")
