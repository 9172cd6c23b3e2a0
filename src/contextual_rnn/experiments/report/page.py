"""A page that answers first: sentences, two figures, contents, then everything else in folds. One self-contained file.

The macros of a template are its folds; parts.html.jinja has figures, tables and definitions for them:

    {% import "parts.html.jinja" as parts %}
    {% macro costs() %}{{ parts.listing(report.costs) }}{% endmacro %}
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from contextual_rnn.experiments.report import figures

HERE = "contextual_rnn.experiments.report"


class Drawing(NamedTuple):
    """A picture with its caption, a line, and the settings of what it shows, which are folded.

    `label` says what it shows to those who do not see it; by default the caption does.
    """

    svg: Markup | None
    caption: str
    settings: str = ""
    label: str = ""

    @property
    def labelled(self) -> Markup:
        """The picture with its alternative text."""
        opening = Markup('<svg role="img" aria-label="{}"').format(self.label or self.caption)
        return opening + (self.svg or Markup()).removeprefix("<svg")


class Fold(NamedTuple):
    """A section of the page, closed at first; `name` is its place in a link."""

    name: str
    title: str
    body: Markup


def inline(figure: Figure, name: str) -> Markup:
    """The figure as an element of the page, its ids made unique in the page by `name`."""
    _, tag, rest = figures.to_svg(figure, name).partition("<svg")
    return Markup(tag + rest)


def macros(template: str, *, package: str = HERE, **data: Any) -> Any:
    """The macros of `template`, a file of `package`, as functions, filled with `data`."""
    return _environment(package).get_template(template).make_module(data)


def folds_of(template: str, titles: Mapping[str, str], *, package: str = HERE, **data: Any) -> list[Fold]:
    """The macros of `template` that `titles` names, as folds; empty ones are left out."""
    module = macros(template, package=package, **data)
    bodies = {name: Markup(getattr(module, name)().strip()) for name in titles}
    return [Fold(name, titles[name], body) for name, body in bodies.items() if body]


def page(title: str, subject: str, answer: Sequence[str], pictures: Sequence[Drawing], folds: Sequence[Fold]) -> str:
    """The page as HTML: what it is about in a line, the sentences of the answer, figures side by side, and the folds.

    On a phone the figures stack. Nothing is loaded from anywhere.
    """
    base = _environment(HERE).get_template("base.html.jinja")
    return base.render(title=title, subject=subject, answer=answer, pictures=pictures, folds=folds)


@functools.cache  # with its templates, which take longer to compile than to fill
def _environment(package: str) -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in dict.fromkeys((package, HERE))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
