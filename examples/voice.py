"""A published voice detector, better from its first moment: silero-vad frozen, and 256 numbers to start its LSTM from.

The detector begins with zeros, and what it says of the first moments is poor: it has to hear something first. Its state
is learned instead, as it is or as a function of the first frame's spectrum, with speech and noise that begin suddenly or
not. Beside them: what a threshold does (an output bias), what adaptation to the data does (a bias of the LSTM, low-rank
updates of its weights), the same spectrum without a state, a start without training (the mean state after a second of
noise), and what can be reached at all: the detector that has heard the second before.

Accuracy is balanced, the mean over speech and noise of the share of frames that are right; AUC is what no threshold
changes: the share of pairs, one frame of speech and one of noise at the same time, in which the speech scores higher.
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
from torch.func import functional_call
from torch.nn import functional
from tqdm import trange
from voice_data import FRAME, HEARD, MISSED, PAUSE, RATE, clips, judge
from voice_model import Bias, Detector, Offsets, RankOne, encoder

from contextual_rnn import ContextState, FreeState, InitialState, attach, given_context, remove_initial_state

TRAINED = 32  # frames of a clip in training, about a second
DRAWN = ("nothing", "output bias", "LoRA, 1280 numbers", "free state", "contextual state", "heard before")
GREY = ("nothing", "heard before")


@dataclass(frozen=True)
class Options:
    seeds: int = 5
    """Each with speech, noise and batches of its own."""
    updates: int = 100
    clips: int = 400  # to train on, and as many in the test
    utterances: int = 32  # that they are cut from
    out: Path = Path("results")
    quick: bool = False
    """A small setting that ends in seconds."""


def methods(detector: Detector, after_noise: tuple[Tensor, ...]) -> dict[str, tuple[nn.Module | None, float]]:
    """What is added to the detector, and the rate of learning; rates were tried with another seed, 50."""
    lstm = detector.lstm
    return {
        "nothing": (None, 0.0),
        "output bias": (Bias(detector, "readout.bias"), 0.1),
        "output offsets from the spectrum": (Offsets(TRAINED), 0.03),
        "LSTM bias": (Bias(detector, "lstm.bias_ih_l0"), 0.03),
        "LoRA, 256 numbers": (RankOne(detector, ["lstm.weight_hh_l0"], slice(256, 384)), 0.03),
        "LoRA, 1280 numbers": (RankOne(detector, ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]), 0.01),
        "mean state after noise": (FreeState(lstm, value=after_noise), 0.0),
        "free state, from that mean": (FreeState(lstm, value=after_noise), 0.3),
        "free state, rate 0.01": (FreeState(lstm), 0.01),
        "free state, rate 0.1": (FreeState(lstm), 0.1),
        "free state": (FreeState(lstm), 0.3),
        "free state, rate 1": (FreeState(lstm), 1.0),
        "contextual state": (ContextState(lstm, encoder(), zero_init=True), 0.03),
    }


def run(detector: Detector, extra: nn.Module | None, features: Tensor, spectrum: Tensor) -> Tensor:
    """Logits of speech (B, frames), with what is added to the detector; a state is attached to it by then."""
    if isinstance(extra, Bias | RankOne):
        return functional_call(detector, extra(), (features,))
    if isinstance(extra, Offsets):
        return detector(features) + extra(spectrum, features.shape[1])
    with given_context(spectrum):
        return detector(features)


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


def measure(seed: int, options: Options) -> dict[str, tuple[dict[str, float], numpy.ndarray]]:
    """Measures and curves of every method."""
    torch.manual_seed(seed)
    detector, start, results = Detector(), MISSED * FRAME, {}
    known, test = (clips(options.clips, options.utterances, seed, test) for test in (False, True))
    data = (*detector.front_end(known.waves[:, start:][:, : TRAINED * FRAME]), known.labels[:, :TRAINED])
    features, spectrum = detector.front_end(test.waves[:, start:])
    silent = torch.tensor([kind != "cut" for kind in known.kinds])
    with torch.no_grad():
        _, after_noise = detector.lstm(detector.front_end(known.waves[silent, :start])[0])
        _, before = detector.lstm(detector.front_end(test.waves[:, :start])[0])
        results["heard before"] = judge(detector(features, hx=before), test)
    for name, (extra, rate) in methods(detector, tuple(leaf.mean(1) for leaf in after_noise)).items():
        if isinstance(extra, InitialState):
            attach(detector.lstm, extra)
        if extra is not None and rate:
            train(detector, extra, rate, data, options.updates)
        with torch.no_grad():
            measures, drawn = judge(run(detector, extra, features, spectrum), test)
        numbers = sum(parameter.numel() for parameter in extra.parameters()) if extra else 0
        results[name] = {"numbers": numbers, **measures}, drawn
        if isinstance(extra, InitialState):
            remove_initial_state(detector)
    return results


@styled()
def draw(drawn: dict[str, numpy.ndarray]) -> Figure:
    figure = Figure(figsize=(10, 3.6))
    for number, axes in enumerate(figure.subplots(1, 2)):
        for name in DRAWN:
            style = {"color": FAINT, "linestyle": "--" if name == "nothing" else ":"} if name in GREY else {}
            axes.plot((1 + numpy.arange(HEARD)) * FRAME / RATE, drawn[name][number], label=name, **style)
        axes.set(xscale="log", xlabel="seconds since the detector began", title=("balanced accuracy", "AUC")[number])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, seeds=2, updates=3, clips=24, utterances=4)
    started, found = time.perf_counter(), []
    for seed in range(options.seeds):
        found.append(measure(seed, options))
        figures = {}
        for name, (measures, _) in found[0].items():
            over = {what: over_seeds([each[name][0][what] for each in found]) for what in measures if what != "numbers"}
            figures[name] = {"numbers": measures.get("numbers", 0), **over}
        for less in ("output bias", "LoRA, 256 numbers"):  # paired by seed
            for what in ("accuracy, 1st frame", "AUC, 1st frame", "accuracy, to 0.5 s", "AUC, to 0.5 s"):
                gains = [each["free state"][0][what] - each[less][0][what] for each in found]
                figures[f"{what}: free state less {less}"] = over_seeds(gains)
        write(options.out / "voice.json", asdict(options), figures, started)  # after every seed: it takes a while
    write_picture(options.out / "voice.png", draw({n: numpy.mean([e[n][1] for e in found], 0) for n in DRAWN}))


if __name__ == "__main__":
    main(tyro.cli(Options))
