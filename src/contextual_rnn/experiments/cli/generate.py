"""The command `contextual-rnn generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

MOST_TRAJECTORIES = 100_000  # of a picture, which takes 2 GB and a minute


@dataclass(frozen=True)
class Generate:
    """Generate trajectories from a trained decay run, as a picture (SVG) and as numbers (CSV)."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run."""
    initial: float = 3.0
    """Initial value x(0); the model was trained on 2 to 4."""
    period: tuple[float, ...] = (2.0, 3.0)
    """Periods T, one or several; the model was trained on 0.5 to 4.5."""
    samples: int = 10
    """Trajectories for each period; 100,000 in all at most."""
    mean: bool = False
    """Start every trajectory at the mean state instead of a draw."""
    seed: int = 0
    """Seeds the draws."""
    out: Path | None = None
    """Where to write, without ending; by default trajectories in the folder of the run."""

    def run(self) -> None:
        import torch

        from contextual_rnn._numbers import check_size
        from contextual_rnn._whole_file import write_whole
        from contextual_rnn.experiments.report import figures
        from contextual_rnn.experiments.report.data import Fans
        from contextual_rnn.experiments.runs.folder import read_run
        from contextual_rnn.experiments.runs.store import out_folder
        from contextual_rnn.experiments.studies.trajectories import sample_trajectories, to_csv
        from contextual_rnn.experiments.tasks.decay import linear_cosine_decay

        check_size("samples", self.samples)
        if self.samples * len(self.period) > MOST_TRAJECTORIES:
            received = f"{self.samples:,} for each of {len(self.period)}"
            raise ValueError(f"samples: expected at most {MOST_TRAJECTORIES:,} of all periods, got {received}")
        out = self.out or self.folder / "trajectories"
        out_folder(out.parent)
        run = read_run(self.folder)
        paths = sample_trajectories(
            run, initial=self.initial, periods=self.period, num_samples=self.samples, seed=self.seed, mean=self.mean
        )
        period = torch.tensor(self.period, device="cpu")
        truths = linear_cosine_decay(torch.full_like(period, self.initial), period)
        by_period, true = (dict(zip(self.period, curves, strict=True)) for curves in (paths, truths))
        figure = figures.trajectory_fans(Fans(self.initial, by_period, true))
        out.parent.mkdir(parents=True, exist_ok=True)
        for ending, text in (("svg", figures.to_svg(figure)), ("csv", to_csv(paths, self.period))):
            write_whole(path := Path(f"{out}.{ending}"), text)
            print(path)
