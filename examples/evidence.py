"""What the examples share: one thread, a mean over seeds with its interval, the style of pictures, and their files."""

import io
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from matplotlib.figure import Figure
from scipy import stats

from contextual_rnn._pictures import FAINT as FAINT
from contextual_rnn._pictures import GRID as GRID
from contextual_rnn._pictures import INK as INK
from contextual_rnn._pictures import PALETTE as PALETTE
from contextual_rnn._pictures import styled as styled
from contextual_rnn._whole_file import write_whole

torch.set_num_threads(1)  # the networks are small: with two threads the noise example took four times as long


def over_seeds(seeds: Sequence[float] | torch.Tensor) -> dict[str, object]:
    """The values, their mean, and Student's 95 % interval of it (none for a single seed).

    Not the percentile bootstrap: of five normal values its interval of 95 % holds the mean in 83 %.
    """
    values = [float(value) for value in seeds]
    mean = float(numpy.mean(values))
    summary: dict[str, object] = {"mean": mean, "seeds": values}
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
        summary["interval"] = [mean - half, mean + half]
    return summary


def write(path: Path, options: Mapping[str, object], figures: Mapping[str, object], started: float) -> None:
    """Write the figures as JSON, with the exact command, the options it stands for, versions and time.

    `started` is what time.perf_counter said then. Processor time is given too: on a busy machine it is what counts.
    """
    evidence = {
        "command": " ".join(["python", *sys.argv]),
        "options": {name: value for name, value in options.items() if name != "out"},
        "figures": figures,
        "seconds": {"wall": round(time.perf_counter() - started, 1), "processor": round(sum(os.times()[:4]), 1)},
        "versions": {name: version(name) for name in ("contextual-rnn", "torch")}
        | {"python": platform.python_version()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(evidence, indent=1) + "\n")
    for name, figure in figures.items():
        print(name, json.dumps(figure), sep="\t")


def write_picture(path: Path, figure: Figure, **options: Any) -> None:
    """Write `figure` in the format that the name of `path` ends in."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, picture.getvalue())
