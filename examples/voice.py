"""A published voice detector, better from its first moment: silero-vad frozen, and 256 numbers to start its LSTM from.

The detector begins with zeros and judges the first moments poorly: it has to run for a while. Its state is learned
instead, as it is or as a function of the first frame's spectrum. Speech is there at once or begins later. Beside the
states: a threshold (an output bias), the same spectrum without a state (output offsets), adaptation to the data (a bias
of the LSTM, rank-one updates of its weights), a start without training (the mean state after a second of noise), and
the detector that has run for the second before (warmed up), which shows what can be reached.

Accuracy is balanced: the share of frames that are right, as the mean over speech and noise. AUC does not depend on a
threshold: of all pairs of a frame of speech and one of noise at the same time, the share in which speech scores higher.
Languages, voices and kinds of noise of the test are not in training.

    pip install --no-deps silero-vad        # its other dependencies are not needed
    apt-get install espeak-ng
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
import torch
import tyro
from evidence import FAINT, over_seeds, styled, write, write_picture
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange
from voice_data import AFTER, BEFORE, FRAME, PAUSE, RATE, TRAINED, clips, judge
from voice_model import Detector, methods, run

from contextual_rnn import InitialState, attach, remove_initial_state

COMPARED = ("accuracy, 1st frame", "AUC, 1st frame", "accuracy, to 0.5 s")
DRAWN = {
    "nothing": {"color": FAINT, "linestyle": "--"},
    "output bias": {},
    "LSTM bias": {},
    "free state": {},
    "contextual state": {},
    "warmed up": {"color": FAINT, "linestyle": ":"},
}


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    """Each with speech, noise and batches of its own."""
    updates: int = 200
    clips: int = 400  # to train on, and as many in the test
    utterances: int = 32  # that they are cut from
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


def train(detector: Detector, extra: nn.Module, rate: float, data: tuple[Tensor, ...], updates: int) -> None:
    """Train `extra` on features (N, T, 128), spectra of first frames (N, 129) and labels (N, T)."""
    batches = torch.Generator().manual_seed(0)  # the same for every method
    optimizer = torch.optim.Adam(extra.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, updates)
    for _ in trange(updates, desc=type(extra).__name__, leave=False):
        rows = torch.randint(len(data[0]), (32,), generator=batches)
        features, spectrum, labels = (part[rows] for part in data)
        logits, scored = run(detector, extra, features, spectrum), labels != PAUSE
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits[scored], labels[scored].float()).backward()
        optimizer.step()
        schedule.step()


def measure(seed: int, options: Options) -> tuple[dict[str, dict[str, float]], dict[str, numpy.ndarray], list[float]]:
    """Measures and curves of every method, and the mean sizes of h and c after a second."""
    torch.manual_seed(seed)
    detector, start = Detector(), BEFORE * FRAME
    known, test = (clips(options.clips, options.utterances, seed, test) for test in (False, True))
    data = (*detector.front_end(known.waves[:, start:][:, : TRAINED * FRAME]), known.labels[:, :TRAINED])
    features, spectrum = detector.front_end(test.waves[:, start:])
    without_speech = torch.tensor([kind != "cut" for kind in known.kinds])
    with torch.no_grad():
        _, after_noise = detector.lstm(detector.front_end(known.waves[without_speech, :start])[0])
        _, before = detector.lstm(detector.front_end(test.waves[:, :start])[0])
        judged = {"warmed up": judge(detector(features, before), test)}
    numbers = {"warmed up": 0}
    for name, (extra, rate) in methods(detector, tuple(leaf.mean(1) for leaf in after_noise)).items():
        if isinstance(extra, InitialState):
            attach(detector.lstm, extra)
        if rate:
            train(detector, extra, rate, data, options.updates)
        with torch.no_grad():
            judged[name] = judge(run(detector, extra, features, spectrum), test)
        numbers[name] = sum(parameter.numel() for parameter in extra.parameters())
        if isinstance(extra, InitialState):
            remove_initial_state(detector)
    free, _ = judged["free state"]
    measures = {name: {"numbers": numbers[name], **scores} for name, (scores, _) in judged.items()}
    for name in set(judged) - {"free state"}:
        measures[name] |= {f"{what}, below the free state": free[what] - measures[name][what] for what in COMPARED}
    return measures, {name: curve for name, (_, curve) in judged.items()}, [float(s.abs().mean()) for s in before]


@styled()
def draw(drawn: dict[str, numpy.ndarray]) -> Figure:
    """`drawn` has balanced accuracy and AUC at each frame (2, AFTER)."""
    figure = Figure(figsize=(10, 3.6))
    for number, axes in enumerate(figure.subplots(1, 2)):
        for name, style in DRAWN.items():
            axes.plot((1 + numpy.arange(AFTER)) * FRAME / RATE, drawn[name][number], label=name, **style)
        axes.set(xscale="log", xlabel="seconds since the detector began", title=("balanced accuracy", "AUC")[number])
        axes.set_xticks([0.03, 0.1, 0.3, 1, 3], ["0.03", "0.1", "0.3", "1", "3"])
        axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=3, clips=24, utterances=4)
    started, of_seeds = time.perf_counter(), []
    for seed in range(options.seeds):
        of_seeds.append(measure(seed, options))
        measured, curves, sizes = zip(*of_seeds, strict=True)
        figures: dict = {
            name: {
                what: value if what == "numbers" else over_seeds([each[name][what] for each in measured])
                for what, value in measures.items()
            }
            for name, measures in measured[0].items()
        }
        for name, values in zip("hc", zip(*sizes, strict=True), strict=True):
            figures[f"mean size of {name} after a second"] = over_seeds(values)
        write(options.out / "voice.json", asdict(options), figures, started)  # after every seed: it takes a while
    write_picture(options.out / "voice.png", draw({n: numpy.mean([each[n] for each in curves], 0) for n in DRAWN}))


if __name__ == "__main__":
    main(tyro.cli(Options))
