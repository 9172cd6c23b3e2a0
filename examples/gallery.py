"""What the README and the gallery say of the examples, made of results/*.json; a test compares.

    python examples/gallery.py      # print it, to be pasted

A page of the gallery has a table of what was measured, one line a variant, the README one figure of each example.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAINTED = {
    "recognised": ".1%",
    "recognised, shuffled labels": ".1%",
    "diversity / real": ".2f",
    "nats per pixel": ".4f",
}
# results/NAME.json: the page it belongs to, and how to print the measures that the table has.
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "digits-pixel": ("digits", PAINTED),
    "digits-row": ("digits", PAINTED),
    "missing_label": (
        "missing_label",
        {
            "recognised": ".1%",
            "diversity / real": ".2f",
            "kinds of digit": ".1f",
            "share of nines": ".1%",
            "nats per pixel, known digits": ".3f",
            "nats per pixel, nines": ".3f",
        },
    ),
    "dates": (
        "dates",
        {
            "exact match, all": ".2%",
            "exact match, several meanings": ".2%",
            "exact match, all, beam": ".2%",
            "processor seconds to train": ".0f",
        },
    ),
}
# What the README says of results/NAME.json: a sentence with one figure of it.
HEADLINES = {
    "digits-pixel": ("{} recognised as the label asked for, pixel by pixel", "normal", "recognised", ".1%"),
    "digits-row": ("{} row by row", "normal", "recognised", ".1%"),
    "missing_label": ("{} recognised with a label", "label, guidance 1", "recognised", ".1%"),
    "dates": ("{} exact with attention", "contextual encoder, attention", "exact match, all", ".2%"),
}


def figures_of(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / f"{name}.json").read_text())["figures"]


def shown(figure: dict[str, Any], style: str) -> str:
    """The mean over seeds and its 95 % interval."""
    low, high = figure["interval"]
    return f"{figure['mean']:{style}} ({low:{style}} to {high:{style}})"


def table(name: str) -> str:
    """Markdown, a line a variant."""
    _, measures = TABLES[name]
    lines = [["", *measures], ["---"] * (1 + len(measures))]
    for variant, found in figures_of(name).items():
        if "mean" not in found:
            cells = (shown(found[measure], style) if measure in found else "" for measure, style in measures.items())
            lines.append([variant, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def headline(name: str) -> str:
    sentence, variant, measure, style = HEADLINES[name]
    return sentence.format(shown(figures_of(name)[variant][measure], style))


if __name__ == "__main__":
    for name in TABLES:
        print(f"{name}: {headline(name)}\n\n{table(name)}\n")
