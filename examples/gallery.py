"""Fills what the README and the gallery say of the examples with the figures of results/*.json; a test compares.

    python examples/gallery.py

Filled is what stands between a mark and its end: <!-- table: NAME --> has what was measured, one line a variant,
<!-- said: NAME --> one figure; as long as there is no results/NAME.json the first says so and the second is empty.
"""

import json
import re
from pathlib import Path
from typing import Any

from contextual_rnn._whole_file import write_whole
from contextual_rnn.experiments.stats.tables import Table, fill, markdown

ROOT = Path(__file__).parents[1]
PAINTED = {
    "recognised": ".1%",
    "recognised, shuffled labels": ".1%",
    "diversity / real": ".2f",
    "diversity / real, h(0) at its mean": ".2f",
    "nats per pixel": ".4f",
    "nats per pixel, one draw": ".4f",
}
# The measures that the table of results/NAME.json has, and how they are printed.
TABLES = {
    "digits-pixel": PAINTED,
    "digits-row": PAINTED,
    "missing_label": {
        "recognised": ".1%",
        "diversity / real": ".2f",
        "kinds of digit": ".1f",
        "share of nines": ".1%",
        "nats per pixel, known digits": ".3f",
        "nats per pixel, nines": ".3f",
    },
    "dates": {
        "exact match, all": ".2%",
        "exact match, several meanings": ".2%",
        "exact match, all, beam": ".2%",
        "processor seconds to train": ".0f",
    },
    "glimpses": {"labels": ".1%", "whole images": ".1%", "pixels off at first": ".1f"},
    "colors": {
        "nats a letter": ".3f",
        "less those of no covariates": ".3f",
        "nats a letter, words left open": ".3f",
        "nats a letter, another row's covariates": ".3f",
        "last word right": ".0%",
    },
    "oscillator": {"first 20 steps": ".3f", "overall": ".3f", "first 20 steps / zero's": ".3f"},
    "state_tuning": {"bytes": ",", "accuracy": ".1%"},
    "lfads": {
        "R2 of rates": ".3f",
        "bits per spike": ".3f",
        "R2 of Lorenz state": ".3f",
        "R2 of rates, above the zero state's": ".3f",
    },
    "latent_ode": {
        "inside": ".3f",
        "inside, 8 times as dense": ".3f",
        "forward": ".3f",
        "backward": ".3f",
        "forward, beyond training": ".3f",
        "backward, beyond training": ".3f",
        "forward / latent ODE's": ".2f",
        "backward / latent ODE's": ".2f",
    },
    "strokes": {
        "recognised": ".1%",
        "recognised, temperature 0.5": ".1%",
        "diversity / real": ".2f",
        "diversity / real, temperature 0.5": ".2f",
        "midway, one of the two": ".1%",
        "nats a step": ".3f",
    },
    "language_styles": {
        "numbers": ",",
        "bits": ".3f",
        "gain": ".3f",
        "gain, bytes 1-16": ".3f",
        "gain, bytes 96-127": ".3f",
    },
    "voice": {
        "numbers": ",",
        "accuracy, 1st frame": ".3f",
        "accuracy, to 0.5 s": ".3f",
        "accuracy, 2 to 3 s": ".3f",
        "AUC, 1st frame": ".3f",
        "AUC, to 0.5 s": ".3f",
        "AUC, 2 to 3 s": ".3f",
        "late speech, noise before it": ".3f",
        "AUC, 1st frame, below the free state": ".3f",
        "accuracy, to 0.5 s, below the free state": ".3f",
    },
    "masked_cartpole": {
        "return in training": ".0f",
        "return in training, above zeros": "+.1f",
        "return after it": ".0f",
        "return after it, above zeros": "+.1f",
    },
    "fertility": {
        "error": ".3f",
        "saved of the error: zeros": "+.1%",
        "saved of the error: region at every step": "+.1%",
    },
    "noise": {
        "error, 20 steps": ".3f",
        "error, 200 steps": ".3f",
        "wasserstein": ".4f",
        "wasserstein, less that of none": ".4f",
    },
}
NOT_RUN = "not run at its full setting yet"
# What the README says of results/NAME.json: a sentence with one figure of it.
SAID = {
    "digits-pixel": ("{} recognised, pixel by pixel", "normal", "recognised", ".1%"),
    "digits-row": ("{} recognised, row by row", "normal", "recognised", ".1%"),
    "missing_label": ("{} recognised with a label", "label, guidance 1", "recognised", ".1%"),
    "dates": ("{} exact with attention", "contextual encoder, attention", "exact match, all", ".2%"),
    "glimpses": ("{} of the labels right", "coarse view sets the state", "labels", ".1%"),
    "colors": ("{} nats a letter from the state", "state", "less those of no covariates", ".3f"),
    "oscillator": ("{} times the zero state's first error", "window of 20", "first 20 steps / zero's", ".3f"),
    "lfads": ("R^2 of {} of the rates of held-out trials", "LFADS", "R2 of rates", ".3f"),
    "latent_ode": ("off by {} after the samples", "latent ODE", "forward", ".3f"),
    "strokes": ("{} recognised at temperature 0.5", "normal", "recognised, temperature 0.5", ".1%"),
    "state_tuning": ("{} of characters, in a kilobyte", "French (seen): free state", "accuracy", ".1%"),
    "voice": ("{} of first frames right, from the first spectrum", "contextual state", "accuracy, 1st frame", ".1%"),
    "language_styles": ("{} bits a byte in a style never read", "lists of files: free state, 64", "gain", ".3f"),
    "masked_cartpole": (
        "{} of return in training from a learned start",
        "learned",
        "return in training, above zeros",
        "+.1f",
    ),
    "fertility": (
        "{} of the error saved by the region",
        "2 years: state from the region",
        "saved of the error: zeros",
        "+.1%",
    ),
    "noise": (
        "{} in distribution from proportional noise",
        "proportional 0.1",
        "wasserstein, less that of none",
        ".4f",
    ),
}

MARK, END = re.compile(r"(<!-- (table|said): ([\w-]+) -->)"), "<!-- / -->"


def figures_of(name: str) -> dict[str, Any]:
    """What was measured by variant, or for several tasks by "task: variant"."""
    found: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text())["figures"]
    flat: dict[str, Any] = {}
    for variant, figures in found.items():
        of_a_task = not any("mean" in each for each in (figures, *figures.values()) if isinstance(each, dict))
        flat |= {f"{variant}: {way}": each for way, each in figures.items()} if of_a_task else {variant: figures}
    return flat


def shown(figure: dict[str, Any] | float, style: str) -> str:
    """The mean over seeds and its 95 % interval, or what is the same for all of them."""
    if not isinstance(figure, dict):
        return f"{figure:{style}}"
    low, high = figure["interval"]
    return f"{figure['mean']:{style}} ({low:{style}} to {high:{style}})"


def table(name: str) -> str:
    """Markdown, a line a variant; below it figures that are of no variant, and how many seeds they are of."""
    measures, single, seeds = TABLES[name], [], set()
    lines = []
    for variant, found in figures_of(name).items():
        if "mean" in found:
            single.append(f"- {variant}: {shown(found, '.4f')}")
        else:
            seeds |= {len(figure["seeds"]) for figure in found.values() if isinstance(figure, dict)}
            cells = (shown(found[measure], style) if measure in found else "" for measure, style in measures.items())
            lines.append([variant, *cells])
    rows = markdown(Table("", ["", *measures], lines))
    return "\n".join([rows, "", *single, f"- seeds: {', '.join(map(str, sorted(seeds)))}", ""])


def said(name: str) -> str:
    sentence, variant, measure, style = SAID[name]
    return sentence.format(shown(figures_of(name)[variant][measure], style))


def filled(text: str) -> str:
    for start, kind, name in MARK.findall(text):
        if not (ROOT / "results" / f"{name}.json").exists():
            content = f"\n{NOT_RUN.capitalize()}.\n" if kind == "table" else f" {NOT_RUN} "
        else:
            content = f"\n{table(name)}" if kind == "table" else f" {said(name)} "
        text = fill(text, start, END, content)
    return text


if __name__ == "__main__":
    for path in (ROOT / "README.md", *(ROOT / "docs" / "gallery").glob("*.md")):
        write_whole(path, filled(path.read_text()))
