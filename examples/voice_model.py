"""silero-vad for the voice example, and what is added to it: states, biases, rank-one updates, offsets."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from voice_data import FRAME, TRAINED

from contextual_rnn import ConstantState, ContextState, FreeState, given_context

BINS = 129  # of a spectrum


class Detector(nn.Module):
    """silero-vad 6 at 16 kHz, frozen: its own layers up to the LSTM, the LSTM as an nn.LSTM, and its readout."""

    def __init__(self):
        super().__init__()
        package = importlib.util.find_spec("silero_vad")  # importing it would need torchaudio
        if package is None or package.origin is None:
            raise ModuleNotFoundError("expected the package silero-vad: pip install --no-deps silero-vad")
        network = torch.jit.load(Path(package.origin).parent / "data" / "silero_vad.jit")._model.eval()
        self.stft, self.encoder = network.stft, network.encoder
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.lstm.load_state_dict({f"{name}_l0": tensor for name, tensor in network.decoder.rnn.state_dict().items()})
        weights = network.decoder.decoder.state_dict()
        self.readout = nn.Linear(128, 1)
        self.readout.load_state_dict({"weight": weights["2.weight"][..., 0], "bias": weights["2.bias"]})
        self.requires_grad_(False)

    @torch.no_grad()
    def front_end(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """What the LSTM reads (B, frames, 128) of waves (B, samples), and the first frame's log spectrum (B, BINS)."""
        frames = functional.pad(waves, (64, 0)).unfold(1, FRAME + 64, FRAME)  # each with the 64 samples before it
        magnitudes = self.stft(frames.flatten(0, 1))
        features = self.encoder(magnitudes).squeeze(-1).unflatten(0, frames.shape[:2])
        return features, magnitudes.unflatten(0, frames.shape[:2])[:, 0].mean(-1).add(1e-4).log()

    def forward(self, features: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Logits of speech (B, frames)."""
        return self.readout(self.lstm(features, hx)[0].relu()).squeeze(-1)


def encoder() -> nn.Sequential:
    """Of a log spectrum, whatever its loudness."""
    return nn.Sequential(nn.LayerNorm(BINS), nn.Linear(BINS, 8), nn.Tanh())


class Offsets(nn.Module):
    """Numbers for the logits of the first frames, computed from the first spectrum as a contextual state is."""

    def __init__(self, frames: int):
        super().__init__()
        self.encoder, self.head = encoder(), nn.Linear(8, frames)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, spectrum: Tensor, frames: int) -> Tensor:
        offsets = self.head(self.encoder(spectrum))
        return functional.pad(offsets, (0, frames - offsets.shape[1]))


class Bias(nn.Module):
    """Another bias of the detector, at first its own."""

    def __init__(self, detector: Detector, name: str):
        super().__init__()
        self.name, self.value = name, nn.Parameter(detector.get_parameter(name).clone())

    def forward(self) -> dict[str, Tensor]:
        return {self.name: self.value}


class RankOne(nn.Module):
    """W + b a^T for matrices of the detector, or only for some rows of them; b starts at zero."""

    def __init__(self, detector: Detector, names: list[str], rows: slice = slice(None)):
        super().__init__()
        self.names, self.rows = names, rows
        self.frozen = [detector.get_parameter(name) for name in names]
        self.a = nn.ParameterList(torch.randn(weight.shape[1]) / weight.shape[1] ** 0.5 for weight in self.frozen)
        self.b = nn.ParameterList(torch.zeros(len(weight[rows])) for weight in self.frozen)

    def forward(self) -> dict[str, Tensor]:
        weights = {}
        for name, frozen, a, b in zip(self.names, self.frozen, self.a, self.b, strict=True):
            weights[name] = frozen.clone()
            weights[name][self.rows] += torch.outer(b, a)
        return weights


def methods(detector: Detector, after_noise: tuple[Tensor, ...]) -> dict[str, tuple[nn.Module, float]]:
    """What is added to the detector, and the rate of learning, 0 for none; rates were tried with another seed, 50."""
    lstm = detector.lstm
    candidate = slice(256, 384)  # rows of the LSTM's matrices
    return {
        "nothing": (ConstantState(lstm), 0.0),
        "output bias": (Bias(detector, "readout.bias"), 0.1),
        "output offsets from the spectrum": (Offsets(TRAINED), 0.03),
        "LSTM bias": (Bias(detector, "lstm.bias_ih_l0"), 0.1),
        "LoRA, candidate gate": (RankOne(detector, ["lstm.weight_ih_l0"], candidate), 0.1),
        "LoRA, both matrices": (RankOne(detector, ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]), 0.01),
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
